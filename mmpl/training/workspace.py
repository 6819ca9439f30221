"""Where a training run keeps each thing, and which cohort and profile it belongs to."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from mmpl.case import Case, Patient
from mmpl.files import write_whole
from mmpl.labels import Stage
from mmpl.profile import Profile, change_profile, differences, load_profile
from mmpl.segmentation import Thresholds
from mmpl.training.boxed import Boxed
from mmpl.training.patches import PatchStore
from mmpl.training.splits import FOLDS, Member, Scheme, Splits, read_splits, write_splits

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
RUN_FILE = "run.json"
SPLITS_FILE = "splits.json"
LAST_TABLE = {Stage.SEGMENTATION: "lesion_centers", Stage.HPV: "hpv", Stage.SURVIVAL: "survival"}
"""What each stage's program writes once it is finished with every model."""
DEFAULT_PROFILE = "demo"


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

        try:
            _, patients, seed, *share = cohort.split(":")
            numbers = int(patients), int(seed), float(share[0]) if share else None
        except ValueError as error:
            raise ValueError(f"{cohort}: a synthetic cohort is {PHANTOM}PATIENTS:SEED[:HPV_POSITIVE]") from error
        return MemoryCohort.draw(*numbers[:2], hpv_positive=numbers[2])
    from mmpl.io.cohort import read_cohort

    return read_cohort(Path(cohort))


@dataclass(frozen=True)
class RunSettings:
    """What a training run is, fixed when it starts and written into its folder; no later step reads a YAML.

    Attributes:
        cohort: An absolute path, or `phantom:PATIENTS:SEED`.
        folds: Patient-level ones.
        center_out: Whether whole centers are held out, too.
    """

    cohort: str
    profile: Profile
    folds: int = FOLDS
    center_out: bool = True

    def to_dict(self) -> dict[str, object]:
        """Make what JSON can hold."""
        return {**vars(self), "profile": self.profile.to_dict()}

    @classmethod
    def read(cls, path: Path) -> "RunSettings":
        """Read what a run's folder holds.

        Raises:
            ValueError: There is no run, or it is of another version.
        """
        if not path.is_file():
            raise ValueError(f"{path}: no such file; start with python -m train.prepare")
        try:
            content = json.loads(path.read_text())
            return cls(**{**content, "profile": Profile.from_dict(content["profile"])})
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: not a run that this version can go on with ({error})") from error

    @classmethod
    def make(
        cls,
        run: Path,
        cohort: str,
        profile: str | None = None,
        changes: Sequence[str] = (),
        folds: int | None = None,
        center_out: bool | None = None,
    ) -> "RunSettings":
        """RunSettings a run, or check what was asked for against the run that is there; nothing is written.

        Args:
            run: The run's folder.
            cohort: A folder, or `phantom:PATIENTS:SEED`.
            profile: A name or a file; None for the run's own, or the default.
            changes: Of the profile, as `load_profile` takes them.
            folds: None for the run's own, or the default.
            center_out: None likewise.

        Raises:
            ValueError: The profile or a change cannot be used, or the run that is there is another.
        """
        path = run / RUN_FILE
        known = cls.read(path) if path.is_file() else None
        if profile or not known:
            chosen = load_profile(profile or DEFAULT_PROFILE, changes)
        else:
            chosen = change_profile(known.profile, changes)
        begun = known or cls(cohort, chosen)
        asked = cls(
            cohort if is_phantom(cohort) else os.path.abspath(cohort),
            chosen,
            begun.folds if folds is None else folds,
            begun.center_out if center_out is None else center_out,
        )
        if known and (other := differences(known.to_dict(), asked.to_dict())):
            raise ValueError(f"{path} belongs to another run: {'; '.join(other)}")
        return asked


@dataclass(frozen=True)
class Workspace:
    """A training run's folder.

    Attributes:
        variant: An ablation of the run, on the same patches and folds: its networks and what they predict lie apart.
    """

    folder: Path
    settings: RunSettings
    variant: str | None = None

    @classmethod
    def open(cls, folder: Path) -> "Workspace":
        """Go on with a run that `train.prepare` started.

        Raises:
            ValueError: There is none, or it is of another version.
        """
        return cls(folder, RunSettings.read(folder / RUN_FILE))

    def begin(self, splits: Splits) -> None:
        """Write down what the run is, and its folds."""
        _write_json(self.folder / RUN_FILE, self.settings.to_dict())
        write_splits(splits, self.splits_file)

    @property
    def begun(self) -> bool:
        """Whether that was done."""
        return (self.folder / RUN_FILE).is_file() and self.splits_file.is_file()

    @property
    def cohort(self) -> str:
        """An absolute path, or `phantom:PATIENTS:SEED`."""
        return self.settings.cohort

    @property
    def profile(self) -> Profile:
        """Every setting."""
        return self.settings.profile

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

    def choose(self, only: Sequence[str] | None) -> tuple[Member, ...]:
        """Give models by name, or all where none is named.

        Raises:
            ValueError: There is no such model.
        """
        members = self.splits.members
        names = [member.name for member in members]
        if unknown := [name for name in only or () if name not in names]:
            raise ValueError(f"no model {', '.join(unknown)}; there are {', '.join(names)}")
        return tuple(member for member in members if not only or member.name in only)

    def missing(self, stage: Stage) -> str | None:
        """Say which models' networks of a stage, or their out-of-fold masks, are still to come, and from where."""
        names = [member.name for member in self.splits.members if not self._has(member, stage)]
        if not names:
            return None
        return (
            f"{stage} of {', '.join(names)} is still missing, and what needs every model waits for it; "
            f"python -m train.{stage} {self.folder} goes on"
        )

    def require(self, stage: Stage) -> None:
        """Refuse to go on where a stage is not finished.

        Raises:
            ValueError: It is not; one line says what is missing, and how it is made.
        """
        name = LAST_TABLE[stage]
        if not self.has_json(name):
            table = self.folder / f"{name}.json"
            raise ValueError(self.missing(stage) or f"{table}: no such file; python -m train.{stage} {self.folder}")

    def require_radiomics(self) -> None:
        """Refuse to go on where a patient is not measured.

        Raises:
            ValueError: Some are not; one line says how many, and how they are.
        """
        absent = sum(not self.features_file(patient.patient_id).is_file() for patient in self.patients)
        if absent:
            raise ValueError(f"radiomics of {absent} patients are missing; python -m train.radiomics {self.folder}")

    def _has(self, member: Member, stage: Stage) -> bool:
        predicted = self.splits.inside(member, self.patients) if stage is Stage.SEGMENTATION else []
        return self.network_file(member, stage).is_file() and all(
            self.probability_file(member.scheme, patient.patient_id).is_file() for patient in predicted
        )

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
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_whole(path) as partial:
        partial.write_text(json.dumps(content, indent=1))
