"""Stage 1 at inference: sliding window, ensemble probability, and the way back to the CT's own grid."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mmpl.case import Grid, Image
from mmpl.geometry import (
    Index,
    Interpolation,
    box_slices,
    covering_box,
    crop_grid,
    index_to_mm,
    mm_to_index,
    place_box,
    resample,
)
from mmpl.labels import LESIONS, Label
from mmpl.preprocess import PreparedCase
from mmpl.profile import InferenceSettings

NO_LESION = "no lesion found"
LOW_AGREEMENT = "low ensemble agreement"
_LOW_AGREEMENT_BELOW = 0.5


@dataclass(frozen=True)
class Thresholds:
    """Above which probability a voxel belongs to a class."""

    gtvp: float
    gtvn: float

    def of(self, label: Label) -> float:
        """The threshold of a lesion class."""
        return self.gtvp if label is Label.GTVP else self.gtvn


@dataclass(frozen=True)
class Segmentation:
    """Stage 1's answer.

    Attributes:
        mask: Label map, uint8, on the CT's own grid.
        agreement: Mean Dice, all lesions together, of each model's mask with the ensemble's; 1 where all are empty.
    """

    mask: Image
    agreement: float
    flags: tuple[str, ...]

    def volume_ml(self, label: Label) -> float:
        """Volume of a class, ml."""
        return int(np.count_nonzero(self.mask.voxels == label)) * self.mask.grid.voxel_ml


def segment(
    prepared: PreparedCase,
    networks: Iterable[nn.Module],
    thresholds: Thresholds,
    settings: InferenceSettings,
    device: torch.device,
) -> Segmentation:
    """Average the probabilities of the models, held one at a time, and bring the labels to the CT's grid."""
    total: NDArray[np.float32] = np.zeros_like(prepared.images)
    foregrounds = []
    for network in networks:
        probability = predict_probability(prepared.images, network, settings, device)
        total += probability
        foregrounds.append(compose(probability, thresholds) > 0)
    mean: NDArray[np.float32] = total / np.float32(len(foregrounds))
    agreement = _mean_dice(foregrounds, compose(mean, thresholds) > 0)
    mask = restore(mean, prepared.roi, prepared.ct_grid, thresholds, settings.minimum_component_voxels)
    flags = (NO_LESION,) if not mask.voxels.any() else ()
    if agreement < _LOW_AGREEMENT_BELOW:
        flags = (*flags, LOW_AGREEMENT)
    return Segmentation(mask, agreement, flags)


def predict_probability(
    images: NDArray[np.float32], network: nn.Module, settings: InferenceSettings, device: torch.device
) -> NDArray[np.float32]:
    """Run one network over the patch in overlapping windows; probabilities (2, z, y, x), averaged over overlaps."""
    from monai.inferers import SlidingWindowInferer

    inferer = SlidingWindowInferer(
        roi_size=settings.window_xyz[::-1],
        sw_batch_size=settings.window_batch,
        overlap=settings.overlap,
        mode="constant",
        padding_mode="replicate",
    )

    def probability(window: Tensor) -> Tensor:
        return torch.sigmoid(network(window).float())

    with torch.inference_mode():
        return inferer(torch.from_numpy(images)[None].to(device), probability)[0].cpu().numpy()


def compose(probability: NDArray[np.float32], thresholds: Thresholds) -> NDArray[np.uint8]:
    """Make a label map (z, y, x) of probabilities (2, z, y, x); where both classes exceed, the tumor comes first."""
    mask = np.zeros(probability.shape[1:], np.uint8)
    for channel, label in reversed(list(enumerate(LESIONS))):
        mask[probability[channel] >= thresholds.of(label)] = label
    return mask


def restore(
    probability: NDArray[np.float32], roi: Grid, ct_grid: Grid, thresholds: Thresholds, minimum_component_voxels: int
) -> Image:
    """Bring probabilities (2, z, y, x) back to the CT's grid, then compose and clean the labels there.

    Probability travels, not labels: labels resampled twice by nearest neighbor lose 1% Dice on the truth itself at
    1 mm and 7 to 16% at 3 mm. It is the inverse of `mmpl.preprocess.prepare_labels`.
    """
    start, size = covering_box(ct_grid, roi)
    mask = np.zeros(ct_grid.shape_zyx, np.uint8)
    if min(size) > 0:
        box = crop_grid(ct_grid, start, size)
        fine = np.stack([resample(Image(channel, roi), box, Interpolation.LINEAR, 0.0) for channel in probability])
        mask[box_slices(start, size)] = clean(compose(fine, thresholds), minimum_component_voxels)
    return Image(mask, ct_grid)


def clean(mask: NDArray[np.uint8], minimum_component_voxels: int) -> NDArray[np.uint8]:
    """Fill each class's holes, where the other class is not, then drop components under a number of voxels."""
    import cc3d
    from scipy import ndimage

    result = mask.copy()
    for label in LESIONS:
        for box in ndimage.find_objects((mask == label).astype(np.uint8)):
            filled = ndimage.binary_fill_holes(mask[box] == label)
            result[box][filled & (result[box] == Label.BACKGROUND)] = label
        kept = cc3d.dust(result == label, threshold=minimum_component_voxels, connectivity=26)
        result[(result == label) & ~kept.astype(bool)] = Label.BACKGROUND
    return result


def lesion_center(mask: Image, roi: Grid) -> NDArray[np.float64]:
    """Find the middle of the lesions' bounding box, continuous voxels (x, y, z) of the patch; its center if none."""
    voxels = np.argwhere(mask.voxels > 0)[:, ::-1]
    if len(voxels) == 0:
        return (np.array(roi.size_xyz) - 1) / 2
    corners = np.array(np.meshgrid(*zip(voxels.min(axis=0), voxels.max(axis=0), strict=True), indexing="ij"))
    index = mm_to_index(roi, index_to_mm(mask.grid, corners.reshape(3, -1).T))
    return (index.min(axis=0) + index.max(axis=0)) / 2


def crop_around(images: NDArray, center_xyz: NDArray[np.floating], size_xyz: Index) -> NDArray:
    """Cut a crop (channels, z, y, x) of a patch around a center, moved to stay inside it."""
    z, y, x = images.shape[1:]
    return images[(slice(None), *box_slices(place_box(center_xyz, (x, y, z), size_xyz), size_xyz))]


def predict_logits(crop: NDArray[np.float32], network: nn.Module, device: torch.device) -> NDArray[np.float64]:
    """Run a stage 2 or 3 network on one crop (2, z, y, x): its logits."""
    with torch.inference_mode():
        return network(torch.from_numpy(np.ascontiguousarray(crop))[None].to(device))[0].double().cpu().numpy()


def _mean_dice(masks: list[NDArray[np.bool_]], reference: NDArray[np.bool_]) -> float:
    scores = []
    for mask in masks:
        total = np.count_nonzero(mask) + np.count_nonzero(reference)
        scores.append(2 * np.count_nonzero(mask & reference) / total if total else 1.0)
    return float(np.mean(scores))
