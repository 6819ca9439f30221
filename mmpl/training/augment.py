"""Augmentation, where the network trains: one warp a crop, then each image's intensities, noise and rarely its loss.

Arrays, steps and shifts run (z, y, x) throughout.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.nn import functional

from mmpl.profile import AugmentationSettings
from mmpl.training.boxed import Boxed, Size


@dataclass(frozen=True)
class Warp:
    """The places of a patch that the voxels of a crop come from.

    Attributes:
        matrix: Map (3, 3) of a step in the crop to one in the patch: rotation, scale and perhaps a left-right flip.
        pet_shift: (3,) voxels by which the PET is displaced against CT and labels, as if the patient had moved.
    """

    matrix: NDArray[np.float64]
    pet_shift: NDArray[np.float64]

    @classmethod
    def draw(cls, settings: AugmentationSettings, spacing_mm: float, rng: np.random.Generator) -> "Warp":
        """Draw one, for a patch of this spacing."""
        angles = rng.uniform(-settings.rotation_degrees, settings.rotation_degrees, 3)
        scale = rng.uniform(1 - settings.scale, 1 + settings.scale)
        mirror = np.diag([1.0, 1.0, -1.0 if rng.random() < settings.flip else 1.0])
        matrix = scale * Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ mirror
        limit = settings.misalignment_mm / spacing_mm
        return cls(matrix, rng.uniform(-limit, limit, 3))


def warped_crop(
    images: NDArray, labels: Boxed | None, start: Size, size: Size, warp: Warp, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Sample a crop of a patch through a warp about the crop's middle, linearly; only the voxels needed are read.

    Beyond the patch its border is repeated.

    Args:
        images: CT and PET of the patch, (2, z, y, x).
        labels: Bytes of 1/255 on the same voxels, where there are any.
        start: First voxel of the crop.
        size: Size of the crop.
        warp: The places that its voxels come from.
        device: Device that does it.

    Returns:
        float32 on the device: images (2, *size), and labels in [0, 1] (2, *size), or (0, *size) without any.
    """
    count = np.array(images.shape[1:])
    middle = start + (np.array(size) - 1) / 2
    reach = np.abs(warp.matrix) @ ((np.array(size) - 1) / 2) + np.abs(warp.pet_shift)
    low = np.clip(np.floor(middle - reach).astype(int), 0, count - 1)
    high = np.clip(np.ceil(middle + reach).astype(int) + 1, low + 1, count)
    box = (slice(None), *(slice(a, b) for a, b in zip(low, high, strict=True)))

    def send(read: NDArray) -> Tensor:
        return upload(np.ascontiguousarray(read), device).float()

    steps = torch.meshgrid(*(torch.arange(n, device=device) - (n - 1) / 2 for n in size), indexing="ij")
    matrix, first, shift = (
        torch.tensor(values, dtype=torch.float32, device=device)
        for values in (warp.matrix, middle - low, warp.pet_shift)
    )
    places = torch.stack(steps, dim=-1) @ matrix.T + first
    ct_and_pet = send(images[box])
    crop = torch.cat([_interpolate(ct_and_pet[:1], places), _interpolate(ct_and_pet[1:], places + shift)])
    if labels is None:
        return crop, crop[:0]
    return crop, _interpolate(send(labels.crop(low, high)) / 255, places).clamp(0, 1)


def upload(values: NDArray, device: torch.device) -> Tensor:
    """Copy an array to a device: to a GPU from pinned memory, so that the copy runs beside the step under way."""
    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def vary_intensities(crop: Tensor, settings: AugmentationSettings, rng: np.random.Generator) -> Tensor:
    """Scale and shift CT and PET (2, z, y, x) each by itself, add noise, and rarely blank one of the two."""
    gain = 1 + rng.uniform(-settings.gain, settings.gain, 2)
    offset = rng.uniform(-settings.offset, settings.offset, 2)
    if rng.random() < settings.modality_dropout:
        lost = rng.integers(2)
        gain[lost] = offset[lost] = 0
    generator = torch.Generator(crop.device).manual_seed(int(rng.integers(2**62)))
    noise = torch.randn(crop.shape, generator=generator, device=crop.device) * rng.uniform(0, settings.noise)
    factors, shifts = torch.from_numpy(np.stack([gain, offset])).float().to(crop.device).view(2, 2, 1, 1, 1)
    return crop * factors + shifts + noise


def _interpolate(volume: Tensor, places: Tensor) -> Tensor:
    """Sample (channels, z, y, x) at places (..., 3), voxels."""
    last = torch.tensor(volume.shape[1:], device=volume.device).sub(1).clamp_min(1)
    normalized = (places * (2 / last) - 1).flip(-1)[None]
    return functional.grid_sample(volume[None], normalized, padding_mode="border", align_corners=True)[0]
