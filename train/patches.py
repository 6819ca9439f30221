"""The cache of prepared cases that training reads, memory-mapped, and the crops that are taken from it."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmpl.case import Grid
from mmpl.geometry import place_box
from mmpl.preprocess import PreparedCase
from mmpl.profile import AugmentationSettings, OutcomeTraining, SegmentationTraining
from train.augment import Warp, upload, vary_intensities, warped_crop

HALF = 127
"""A label byte above this is more lesion than not."""


@dataclass(frozen=True)
class PatchStore:
    """A folder of prepared cases: images as float16, labels as bytes of 1/255."""

    folder: Path

    def has(self, patient_id: str) -> bool:
        """Whether a patient is complete; its description is written last."""
        return (self.folder / f"{patient_id}.json").is_file()

    def save(self, prepared: PreparedCase, reference: NDArray[np.uint8] | None = None) -> None:
        """Add a patient, with its label map on the CT's own grid where there is one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        stem = self.folder / prepared.patient_id
        np.save(f"{stem}.images.npy", prepared.images.astype(np.float16))
        if prepared.labels is not None:
            labels = np.rint(prepared.labels.clip(0, 1) * 255).astype(np.uint8)
            np.save(f"{stem}.labels.npy", labels)
            np.savez(f"{stem}.lesions.npz", *(np.flatnonzero(channel > HALF).astype(np.int32) for channel in labels))
        if reference is not None:
            np.savez_compressed(f"{stem}.reference.npz", labels=reference)
        description = {"roi": asdict(prepared.roi), "ct_grid": asdict(prepared.ct_grid), "flags": prepared.flags}
        partial = Path(f"{stem}.json.partial")
        partial.write_text(json.dumps(description))
        partial.replace(f"{stem}.json")

    def load(self, patient_id: str) -> PreparedCase:
        """Read a whole patient back."""
        stem = self.folder / patient_id
        description = json.loads(Path(f"{stem}.json").read_text())
        labels = self.labels(patient_id)
        return PreparedCase(
            patient_id=patient_id,
            images=self.images(patient_id).astype(np.float32),
            labels=None if labels is None else labels.astype(np.float32) / np.float32(255),
            roi=_grid(description["roi"]),
            ct_grid=_grid(description["ct_grid"]),
            flags=tuple(description["flags"]),
        )

    def images(self, patient_id: str) -> NDArray[np.float16]:
        """Map CT and PET (2, z, y, x)."""
        return np.load(self.folder / f"{patient_id}.images.npy", mmap_mode="r")

    def labels(self, patient_id: str) -> NDArray[np.uint8] | None:
        """Map the reference mask (2, z, y, x), 255 = all lesion; None where the patient has none."""
        path = self.folder / f"{patient_id}.labels.npy"
        return np.load(path, mmap_mode="r") if path.is_file() else None

    def lesion_voxels(self, patient_id: str) -> list[NDArray[np.int32]]:
        """Read where each class lies in `labels`, flat indices in rising order, so that no step has to search."""
        with np.load(self.folder / f"{patient_id}.lesions.npz") as file:
            return list(file.values())

    def reference(self, patient_id: str) -> NDArray[np.uint8] | None:
        """Read the reference mask as it was drawn, a label map on the CT's grid; None where the patient has none."""
        path = self.folder / f"{patient_id}.reference.npz"
        return np.load(path)["labels"] if path.is_file() else None


def _grid(fields: dict) -> Grid:
    return Grid(**{name: tuple(values) for name, values in fields.items()})


@dataclass(frozen=True)
class Batch:
    """Images (batch, 2, z, y, x) and what the loss compares with, on one device."""

    images: Tensor
    targets: tuple[Tensor, ...]

    def split(self, size: int) -> list["Batch"]:
        """Cut it into batches of at most this size."""
        pieces = zip(self.images.split(size), *(target.split(size) for target in self.targets), strict=True)
        return [Batch(images, tuple(targets)) for images, *targets in pieces]


DrawBatch = Callable[[int, torch.device], Batch]
"""Makes the batch of a step on a device; the same step always gives the same batch there."""


@dataclass(frozen=True)
class SegmentationCrops:
    """Crops for stage 1, a share of them around a voxel of a lesion class picked evenly among those present.

    Attributes:
        store: The cache.
        patients: Training patients, all with labels.
        settings: Of the stage.
        augmentation: Of all stages.
        spacing_mm: Of the patches.
        seed: Of this model and stage.
    """

    store: PatchStore
    patients: Sequence[str]
    settings: SegmentationTraining
    augmentation: AugmentationSettings
    spacing_mm: float
    seed: int

    def __call__(self, step: int, device: torch.device) -> Batch:
        """Draw the batch of a step."""
        rng = np.random.default_rng([self.seed, step])
        crops = [self._draw(str(name), rng, device) for name in rng.choice(self.patients, self.settings.batch)]
        images, labels = zip(*crops, strict=True)
        return Batch(torch.stack(images), (torch.stack(labels),))

    def _draw(self, patient_id: str, rng: np.random.Generator, device: torch.device) -> tuple[Tensor, Tensor]:
        size, truth = self.settings.crop_xyz, self.store.labels(patient_id)
        assert truth is not None
        z, y, x = truth.shape[1:]
        center = rng.integers(0, (x, y, z))
        lesions = [voxels for voxels in self.store.lesion_voxels(patient_id) if len(voxels)]
        if lesions and rng.random() < self.settings.lesion_fraction:
            voxels = lesions[rng.integers(len(lesions))]
            reach = [n // 4 for n in size]
            voxel = np.unravel_index(voxels[rng.integers(len(voxels))], (z, y, x))
            center = np.array(voxel[::-1]) + rng.integers(np.negative(reach), reach, endpoint=True)
        start = place_box(center, (x, y, z), size)
        warp = Warp.draw(self.augmentation, self.spacing_mm, rng)
        images = self.store.images(patient_id)
        crop, labels = warped_crop(images, truth, start[::-1], size[::-1], warp, device)
        return vary_intensities(crop, self.augmentation, rng), labels


@dataclass(frozen=True)
class LesionCrops:
    """Crops around each patient's lesions, jittered, for stages 2 and 3.

    Attributes:
        store: The cache.
        groups: Training patients; a batch draws from each group as often, whatever the groups' sizes.
        centers_xyz: Where a patient's lesions lie, voxels of the patch.
        targets: What the loss compares with, per patient.
        settings: Of the stage.
        augmentation: Of all stages.
        spacing_mm: Of the patches.
        seed: Of this model and stage.
    """

    store: PatchStore
    groups: Sequence[Sequence[str]]
    centers_xyz: Mapping[str, NDArray]
    targets: Mapping[str, Sequence[NDArray]]
    settings: OutcomeTraining
    augmentation: AugmentationSettings
    spacing_mm: float
    seed: int

    def __call__(self, step: int, device: torch.device) -> Batch:
        """Draw the batch of a step."""
        rng = np.random.default_rng([self.seed, step])
        turns = np.arange(step * self.settings.batch, (step + 1) * self.settings.batch) % len(self.groups)
        chosen: list[str] = []
        for turn, group in enumerate(self.groups):
            count = int((turns == turn).sum())
            chosen += map(str, rng.choice(group, count, replace=len(group) < count))
        images = torch.stack([self._draw(patient_id, rng, device) for patient_id in chosen])
        columns = zip(*(self.targets[patient_id] for patient_id in chosen), strict=True)
        stacked = (upload(np.stack(column).astype(np.float32), device) for column in columns)
        return Batch(images, tuple(stacked))

    def _draw(self, patient_id: str, rng: np.random.Generator, device: torch.device) -> Tensor:
        size, images = self.settings.crop_xyz, self.store.images(patient_id)
        limit = self.settings.jitter_mm / self.spacing_mm
        center = self.centers_xyz[patient_id] + rng.uniform(-limit, limit, 3)
        z, y, x = images.shape[1:]
        start = place_box(center, (x, y, z), size)
        warp = Warp.draw(self.augmentation, self.spacing_mm, rng)
        return vary_intensities(
            warped_crop(images, None, start[::-1], size[::-1], warp, device)[0], self.augmentation, rng
        )
