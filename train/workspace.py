"""Where a training run keeps each thing, and which cohort and profile it belongs to."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from mmpl.case import Case, Patient
from mmpl.labels import Stage
from mmpl.profile import Profile, load_profile
from mmpl.segmentation import Thresholds
from train.boxed import Boxed
from train.patches import PatchStore
from train.splits import Member, Scheme, Splits, read_splits

if TYPE_CHECKING:
    from mmpl.phantom.latent import LatentPatient


class Source(Protocol):
    """Where patients come from: a folder in HECKTOR's layout, or the phantom's own memory."""

    @property
    def patients(self) -> Sequence[Patient]:
        """Every patient, with record and outcome."""
        ...

    def read_case(self, patient_id: str) -> Case:
        """Read images, record and reference mask."""
        ...


PHANTOM = "phantom:"
SPLITS_FILE = "splits.json"


def is_phantom(cohort: str) -> bool:
    """Tell a cohort that is drawn in memory from a folder."""
    return cohort.startswith(PHANTOM)


def may_share_patients(cohort: str, other: str) -> bool:
    """Tell whether two cohorts, by name, can have patients in common: synthetic ones of one seed begin alike."""
    if is_phantom(cohort) and is_phantom(other):
        return cohort.split(":")[2] == other.split(":")[2]
    return Path(cohort).name == Path(other).name


def open_source(cohort: str) -> Source:
    """Open a cohort's folder, or make `phantom:PATIENTS:SEED[:HPV_POSITIVE]` in memory, without any image library."""
    if is_phantom(cohort):
        from mmpl.phantom.cohort import MemoryCohort

        _, patients, seed, *share = cohort.split(":")
        return MemoryCohort.draw(int(patients), int(seed), hpv_positive=float(share[0]) if share else None)
    from mmpl.io.cohort import read_cohort

    return read_cohort(Path(cohort))


@dataclass(frozen=True)
class Workspace:
    """A training run's folder.

    Attributes:
        variant: An ablation of the run, on the same patches and folds: its networks and what they predict lie apart.
    """

    folder: Path
    cohort: str
    profile: Profile
    variant: str | None = None

    @classmethod
    def create(cls, folder: Path, cohort: str, profile: str) -> "Workspace":
        """Start a run, or go on with one of the same cohort and profile.

        Raises:
            ValueError: The folder belongs to another cohort or profile.
        """
        wanted = {"cohort": cohort, "profile": profile}
        path = folder / "run.json"
        if not path.is_file():
            _write_json(path, wanted)
        elif json.loads(path.read_text()) != wanted:
            raise ValueError(f"{path} belongs to another run: {path.read_text()}")
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path) -> "Workspace":
        """Go on with a run that `train.prepare` started."""
        path = folder / "run.json"
        if not path.is_file():
            raise ValueError(f"{path}: no such file; start with python -m train.prepare")
        run = json.loads(path.read_text())
        return cls(folder, run["cohort"], load_profile(run["profile"]))

    @cached_property
    def source(self) -> Source:
        """The cohort."""
        return open_source(self.cohort)

    @property
    def patients(self) -> Sequence[Patient]:
        """Every patient of the cohort."""
        return self.source.patients

    @property
    def latent(self) -> "tuple[LatentPatient, ...]":
        """Everything about the patients of a synthetic cohort; training never asks for it.

        Raises:
            TypeError: The cohort is a folder.
        """
        from mmpl.phantom.cohort import MemoryCohort

        if not isinstance(self.source, MemoryCohort):
            raise TypeError(f"{self.cohort} is no synthetic cohort")
        return self.source.latent

    @property
    def store(self) -> PatchStore:
        """The cached patches."""
        return PatchStore(self.folder / "patches")

    @property
    def splits_file(self) -> Path:
        """The folds, written once."""
        return self.folder / SPLITS_FILE

    @cached_property
    def splits(self) -> Splits:
        """The folds."""
        return read_splits(self.splits_file)

    @property
    def outputs(self) -> Path:
        """Where networks, and the probabilities they give, lie."""
        return self.folder / "ablations" / self.variant if self.variant else self.folder

    def stage_folder(self, member: Member, stage: Stage) -> Path:
        """Where one network trains."""
        return self.outputs / "models" / member.name / stage

    def network_file(self, member: Member, stage: Stage) -> Path:
        """A finished network."""
        return self.stage_folder(member, stage) / "network.safetensors"

    def forest_file(self, member: Member) -> Path:
        """A finished forest."""
        return self.folder / "models" / member.name / "forest.skops"

    def tables_file(self, member: Member) -> Path:
        """A member's encoder, scales, intervals and Cox model."""
        return self.folder / "models" / member.name / "tables.json"

    def probability_file(self, scheme: Scheme, patient_id: str) -> Path:
        """Where a patient's out-of-fold mask probability lies."""
        return self.outputs / "out_of_fold" / scheme / f"{patient_id}.npz"

    def features_file(self, patient_id: str) -> Path:
        """A patient's radiomics on the out-of-fold mask."""
        return self.folder / "radiomics" / f"{patient_id}.npy"

    @property
    def mask_thresholds(self) -> Thresholds:
        """The class thresholds that stage 1 chose out of fold."""
        chosen = self.read_json("thresholds")
        return Thresholds(gtvp=chosen["gtvp"], gtvn=chosen["gtvn"])

    def keep_probability(self, scheme: Scheme, patient_id: str, probability: NDArray[np.float32]) -> None:
        """Keep a patient's out-of-fold mask probability (2, z, y, x), to a 255th."""
        path = self.probability_file(scheme, patient_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        Boxed.of(np.rint(probability * 255).astype(np.uint8)).save(path)

    def probability(self, scheme: Scheme, patient_id: str) -> NDArray[np.float32]:
        """Read it back, float32 (2, z, y, x)."""
        return Boxed.load(self.probability_file(scheme, patient_id)).whole().astype(np.float32) / np.float32(255)

    def radiomics(self, patient_id: str) -> NDArray[np.float64]:
        """A patient's radiomics."""
        return np.load(self.features_file(patient_id))

    @cached_property
    def lesion_centers(self) -> dict[str, NDArray[np.float64]]:
        """The middle of each patient's out-of-fold mask, voxels (x, y, z) of the patch."""
        return {name: np.array(center) for name, center in self.read_json("lesion_centers").items()}

    def seed(self, member: Member, stage: Stage) -> int:
        """The seed of one network's training."""
        return self.profile.training.seed * 1000 + self.splits.members.index(member) * 10 + list(Stage).index(stage)

    def write_json(self, name: str, content: Mapping) -> None:
        """Keep a small table, whole or not at all."""
        _write_json(self.folder / f"{name}.json", content)

    def has_json(self, name: str) -> bool:
        """Whether `write_json` kept such a table."""
        return (self.folder / f"{name}.json").is_file()

    def read_json(self, name: str) -> dict:
        """Read what `write_json` kept."""
        return json.loads((self.folder / f"{name}.json").read_text())


def _write_json(path: Path, content: Mapping) -> None:
    partial = path.with_suffix(".partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    partial.write_text(json.dumps(content, indent=1))
    partial.replace(path)
