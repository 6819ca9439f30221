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
from mmpl.geometry import Index, box_slices, place_box
from mmpl.preprocess import PreparedCase
from mmpl.segmentation import crop_around

HALF = 127
"""A label byte above this is more lesion than not."""


@dataclass(frozen=True)
class PatchStore:
    """A folder of prepared cases: images as float16, labels as bytes of 1/255."""

    folder: Path

    def has(self, patient_id: str) -> bool:
        """Whether a patient is complete; its description is written last."""
        return (self.folder / f"{patient_id}.json").is_file()

    def save(self, prepared: PreparedCase) -> None:
        """Add a patient."""
        self.folder.mkdir(parents=True, exist_ok=True)
        stem = self.folder / prepared.patient_id
        np.save(f"{stem}.images.npy", prepared.images.astype(np.float16))
        if prepared.labels is not None:
            np.save(f"{stem}.labels.npy", np.rint(prepared.labels.clip(0, 1) * 255).astype(np.uint8))
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


def _grid(fields: dict) -> Grid:
    return Grid(**{name: tuple(values) for name, values in fields.items()})


@dataclass(frozen=True)
class Batch:
    """Images (batch, 2, z, y, x) and what the loss compares with, on the CPU."""

    images: Tensor
    targets: tuple[Tensor, ...]


DrawBatch = Callable[[int], Batch]
"""Makes the batch of a step; the same step always gives the same batch."""


def draw_segmentation_crops(
    store: PatchStore, patients: Sequence[str], crop_xyz: Index, batch: int, lesion_fraction: float, seed: int
) -> DrawBatch:
    """Draw crops for stage 1, a share of them around a voxel of a lesion class picked evenly among those present."""

    def draw(step: int) -> Batch:
        rng = np.random.default_rng([seed, step])
        images, labels = [], []
        for patient_id in rng.choice(patients, batch):
            truth = store.labels(patient_id)
            assert truth is not None
            z, y, x = truth.shape[1:]
            center = rng.integers(0, (x, y, z))
            present = [c for c in range(len(truth)) if truth[c].max() > HALF]
            if present and rng.random() < lesion_fraction:
                voxels = np.argwhere(truth[rng.choice(present)] > HALF)
                reach = [n // 4 for n in crop_xyz]
                center = voxels[rng.integers(len(voxels))][::-1] + rng.integers(
                    np.negative(reach), reach, endpoint=True
                )
            box = (slice(None), *box_slices(place_box(center, (x, y, z), crop_xyz), crop_xyz))
            crop, crop_labels = augment(store.images(patient_id)[box], truth[box] / np.float32(255), rng)
            images.append(crop)
            labels.append(crop_labels)
        return Batch(torch.from_numpy(np.stack(images)), (torch.from_numpy(np.stack(labels)),))

    return draw


def draw_lesion_crops(
    store: PatchStore,
    patients: Sequence[str],
    centers_xyz: Mapping[str, NDArray],
    targets: Mapping[str, Sequence[NDArray]],
    crop_xyz: Index,
    jitter_voxels: float,
    batch: int,
    seed: int,
) -> DrawBatch:
    """Draw crops around each patient's lesions, jittered, for stages 2 and 3.

    Args:
        store: The cache.
        patients: Training patients.
        centers_xyz: Where a patient's lesions lie, voxels of the patch.
        targets: What the loss compares with, per patient.
        crop_xyz: Size of a crop, voxels.
        jitter_voxels: Largest displacement along an axis.
        batch: Patients in a batch.
        seed: Of this model and stage.
    """

    def draw(step: int) -> Batch:
        rng = np.random.default_rng([seed, step])
        chosen = [str(patient_id) for patient_id in rng.choice(patients, batch, replace=len(patients) < batch)]
        images = []
        for patient_id in chosen:
            center = centers_xyz[patient_id] + rng.uniform(-jitter_voxels, jitter_voxels, 3)
            images.append(augment(crop_around(store.images(patient_id), center, crop_xyz), None, rng)[0])
        columns = zip(*(targets[patient_id] for patient_id in chosen), strict=True)
        return Batch(
            torch.from_numpy(np.stack(images)),
            tuple(torch.from_numpy(np.stack(column).astype(np.float32)) for column in columns),
        )

    return draw


def augment(
    images: NDArray, labels: NDArray | None, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Flip left-right half of the time; scale and shift each image's intensities and add noise, a few percent."""
    crop = images.astype(np.float32)
    if rng.random() < 0.5:
        crop = crop[..., ::-1]
        labels = None if labels is None else labels[..., ::-1]
    gain, offset = rng.uniform(0.9, 1.1, (2, 1, 1, 1)), rng.uniform(-0.05, 0.05, (2, 1, 1, 1))
    crop = crop * gain + offset + rng.standard_normal(crop.shape, np.float32) * rng.uniform(0, 0.05)
    truth = np.zeros_like(crop[:0]) if labels is None else np.ascontiguousarray(labels, np.float32)
    return crop.astype(np.float32), truth
