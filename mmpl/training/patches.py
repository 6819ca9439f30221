"""The cache of prepared cases that training reads, and the crops that are taken from it."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from mmpl.case import Grid, Image
from mmpl.errors import step_command
from mmpl.files import write_json
from mmpl.geometry import place_box
from mmpl.preprocess import PreparedCase
from mmpl.profile import AugmentationSettings, OutcomeTraining, SegmentationTraining
from mmpl.training.augment import Warp, upload, vary_intensities, warped_crop
from mmpl.training.boxed import Boxed

HALF_LABEL = 127
"""A label byte above this is more lesion than not."""
IMAGES, LABELS, REFERENCE = "images.npy", "labels.npz", "reference.npz"
"""Ends of the names of a patient's files, which begin with the patient."""


@dataclass(frozen=True)
class Description:
    """The description of a prepared patient, kept beside the voxels.

    Attributes:
        roi: Grid of the patch.
        ct_grid: Grid of the CT, on which the answer has to lie.
        flags: Flags of the preparation.
        file_bytes: The length of each of the patient's files.
        image_hash: What tells the patient by the CT, whatever its name, format and orientation (`hash_of`).
    """

    roi: Grid
    ct_grid: Grid
    flags: tuple[str, ...]
    file_bytes: Mapping[str, int]
    image_hash: str

    @property
    def has_labels(self) -> bool:
        """Whether there is a reference mask."""
        return LABELS in self.file_bytes


_DESCRIPTION = TypeAdapter(Description)


def hash_of(ct: Image) -> str:
    """Give 16 digits of the SHA-256 of how often each whole HU comes in a CT: in any format and orientation."""
    lowest, highest = -(1 << 15), (1 << 15) - 1
    whole = np.rint(ct.voxels).clip(lowest, highest).astype(np.int32).ravel() - lowest
    counts = np.bincount(whole, minlength=highest - lowest + 1).astype("<i8")
    return hashlib.sha256(counts.data).hexdigest()[:16]


@dataclass(frozen=True)
class PatchStore:
    """A folder of prepared cases: images as float16 to be memory-mapped, labels as bytes of 1/255 in their box."""

    folder: Path

    def has(self, patient_id: str) -> bool:
        """Whether a patient is complete: described, which comes last, and each file as long as it is described.

        Raises:
            ValueError: The description cannot be read (`describe`).
        """
        if not self._path(patient_id, "json").is_file():
            return False
        paths = {self._path(patient_id, name): size for name, size in self.describe(patient_id).file_bytes.items()}
        return all(path.is_file() and path.stat().st_size == size for path, size in paths.items())

    def save(self, prepared: PreparedCase, image_hash: str, reference: NDArray[np.uint8] | None = None) -> None:
        """Add a patient, with the hash of its CT and its label map on the CT's own grid where there is one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        paths = {name: self._path(prepared.patient_id, name) for name in (IMAGES, LABELS, REFERENCE, "json")}
        for path in paths.values():
            path.unlink(missing_ok=True)
        images = np.ascontiguousarray(prepared.images, np.float16)
        np.save(paths[IMAGES], images)
        if prepared.labels is not None:
            Boxed.of(np.rint(prepared.labels.clip(0, 1) * 255).astype(np.uint8)).save(paths[LABELS])
        if reference is not None:
            np.savez_compressed(paths[REFERENCE], labels=reference)
        sizes = {name: path.stat().st_size for name, path in paths.items() if path.is_file()}
        description = Description(prepared.roi, prepared.ct_grid, prepared.flags, sizes, image_hash)
        write_json(paths["json"], description)

    def describe(self, patient_id: str) -> Description:
        """Read what is kept beside the voxels.

        Raises:
            ValueError: Another version of the program wrote it, or it is damaged.
        """
        path = self._path(patient_id, "json")
        try:
            return _DESCRIPTION.validate_json(path.read_bytes())
        except ValidationError:
            advice = f"remove {self.folder} and run {step_command('prepare')} again"
            raise ValueError(f"{path}: not as this version of the program writes it; {advice}") from None

    def load(self, patient_id: str) -> PreparedCase:
        """Read a whole patient back."""
        description, labels = self.describe(patient_id), self.labels(patient_id)
        return PreparedCase(
            patient_id=patient_id,
            images=self.images(patient_id).astype(np.float32),
            labels=None if labels is None else labels.whole().astype(np.float32) / np.float32(255),
            roi=description.roi,
            ct_grid=description.ct_grid,
            flags=description.flags,
        )

    def images(self, patient_id: str) -> NDArray[np.float16]:
        """Map CT and PET (2, z, y, x)."""
        return np.load(self._path(patient_id, IMAGES), mmap_mode="r")

    def labels(self, patient_id: str) -> Boxed | None:
        """Read the reference mask of the patch, 255 = all lesion; None where the patient has none."""
        return Boxed.load(self._path(patient_id, LABELS)) if self.describe(patient_id).has_labels else None

    def reference(self, patient_id: str) -> NDArray[np.uint8] | None:
        """Read the reference mask as it was drawn, a label map on the CT's grid; None where the patient has none."""
        if REFERENCE not in self.describe(patient_id).file_bytes:
            return None
        with np.load(self._path(patient_id, REFERENCE)) as file:
            return file["labels"]

    def _path(self, patient_id: str, name: str) -> Path:
        return self.folder / f"{patient_id}.{name}"


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
        settings: Settings of the stage.
        augmentation: Augmentation settings of all stages.
        spacing_mm: Voxel spacing of the patches, mm.
        seed: Random seed of this model and stage.
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
        z, y, x = truth.shape
        center = rng.integers(0, (x, y, z))
        lesions = [voxels for voxels in map(np.argwhere, truth.inside > HALF_LABEL) if len(voxels)]
        if lesions and rng.random() < self.settings.lesion_fraction:
            voxels = lesions[rng.integers(len(lesions))]
            reach = [n // 4 for n in size]
            voxel = voxels[rng.integers(len(voxels))] + truth.first
            center = voxel[::-1] + rng.integers(np.negative(reach), reach, endpoint=True)
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
        centers_xyz: Center of each patient's lesions, voxels (x, y, z) of the patch.
        targets: Values that the loss compares the logits with, by patient.
        settings: Settings of the stage.
        augmentation: Augmentation settings of all stages.
        spacing_mm: Voxel spacing of the patches, mm.
        seed: Random seed of this model and stage.
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
