"""A training run's folder: the place of each thing in it, and the cohort and profile that the run belongs to."""

import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
import typer
from numpy.typing import NDArray

from mmpl.case import Case, Patient
from mmpl.clinical import ClinicalEncoder
from mmpl.dose import dose_names
from mmpl.errors import some_of, step_command
from mmpl.evidence import DOSE_KNOWN, FeatureTable
from mmpl.files import read_json, write_json
from mmpl.names import NETWORK_STAGES, Stage
from mmpl.profile import MOST_SEED, Profile, change_profile, differences, load_profile
from mmpl.radiomics import feature_names
from mmpl.schema import ClinicalSchema
from mmpl.staging import GEOMETRY
from mmpl.training.boxed import Boxed
from mmpl.training.patches import PatchStore
from mmpl.training.records import CohortRecord, HpvRecord, Record, SegmentationRecord, StagingRecord, SurvivalRecord
from mmpl.training.splits import FOLDS, Member, Scheme, Splits
from mmpl.weights import ENCODER_FILE, networks_of

if TYPE_CHECKING:
    from mmpl.phantom.latent import LatentPatient


class Source(Protocol):
    """The source of patients: a folder in HECKTOR's layout, or the phantom's own memory."""

    @property
    def patients(self) -> Sequence[Patient]:
        """Every patient, with record and outcome."""
        ...

    def has_mask(self, patient_id: str) -> bool:
        """Tell whether a patient has a reference mask."""
        ...

    def read_case(self, patient_id: str) -> Case:
        """Read images, record and reference mask."""
        ...

    def fingerprint(self, patient_id: str) -> str:
        """Tell a patient's images, mask and row apart from what they were."""
        ...


PHANTOM = "phantom:"
PHANTOM_FORM = f"{PHANTOM}PATIENTS:SEED[:HPV_POSITIVE][:vVERSION][:dose[SHARE]]"
PHANTOM_NAME = re.compile(rf"{PHANTOM}(\d+):(\d+)(?::(\d+\.?\d*|\.\d+))?(?::v(\d+))?(?::(dose)(1|0?\.\d+)?)?", re.ASCII)
"""Name of a synthetic cohort: patients, seed, share of HPV-positive ones, version, dose of a share of the patients."""
RUN_FILE = "run.json"
SPLITS_FILE = "splits.json"
STAGE_RECORD: dict[Stage, type[Record]] = {
    Stage.SEGMENTATION: SegmentationRecord,
    Stage.HPV: HpvRecord,
    Stage.SURVIVAL: SurvivalRecord,
    Stage.STAGING: StagingRecord,
}
"""The record that each stage's program writes once it is finished with every model."""
AnyRecord = TypeVar("AnyRecord", bound=Record)
DEFAULT_PROFILE = "demo"


def is_phantom(cohort: str) -> bool:
    """Tell a cohort that is drawn in memory from a folder."""
    return cohort.startswith(PHANTOM)


def may_share_patients(cohort: str, other: str) -> bool:
    """Tell whether two cohorts, by name, can have patients in common: synthetic ones of one seed begin alike."""
    if is_phantom(cohort) and is_phantom(other):
        return cohort.split(":")[2] == other.split(":")[2]
    return Path(cohort).name == Path(other).name


def open_source(cohort: str, schema: ClinicalSchema) -> Source:
    """Open a cohort's folder, or make a synthetic cohort in memory, without any image library.

    Args:
        cohort: Folder, or `phantom:PATIENTS:SEED[:HPV_POSITIVE][:vVERSION][:dose[SHARE]]`, as `phantom:726:3:v2`; of
            version 1 where it names none, and without dose.
        schema: Schema of the clinical record.

    Raises:
        ValueError: There is no such synthetic cohort.
    """
    if is_phantom(cohort):
        from mmpl.phantom.cohort import MemoryCohort
        from mmpl.phantom.dose import SHARE
        from mmpl.phantom.planted import VERSIONS

        named = PHANTOM_NAME.fullmatch(cohort)
        if not named or int(named[4] or 1) not in VERSIONS or float(named[3] or 0) > 1:
            raise ValueError(f"{cohort}: a synthetic cohort is {PHANTOM_FORM}")
        return MemoryCohort.draw(
            int(named[1]),
            int(named[2]),
            hpv_positive=float(named[3]) if named[3] else None,
            schema=schema,
            version=int(named[4] or 1),
            dose_share=float(named[6] or SHARE) if named[5] else 0.0,
        )
    from mmpl.io.cohort import read_cohort

    return read_cohort(Path(cohort), schema, training=True)


def fingerprints(source: Source) -> dict[str, str]:
    """Take the fingerprint of every patient."""
    return {patient.patient_id: source.fingerprint(patient.patient_id) for patient in source.patients}


def refuse_changes(cohort: str, before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Refuse a cohort that is not what it was.

    Raises:
        ValueError: It is not; the message names the patients.
    """
    differences = {
        "added": [name for name in now if name not in before],
        "gone": [name for name in before if name not in now],
        "changed": [name for name in now if name in before and now[name] != before[name]],
    }
    said = [f"{what}: {some_of(names)}" for what, names in differences.items() if names]
    if said:
        raise ValueError(f"{cohort}: not as it was when this run began ({'; '.join(said)}); start another run")


@dataclass(frozen=True)
class RunSettings:
    """The settings of a training run, fixed when it starts and written into its folder; no later step reads a YAML.

    The stages' `micro_batch` alone may change, as another machine has other memory.

    Attributes:
        cohort: An absolute path, or `phantom:PATIENTS:SEED`.
        folds: Number of patient-level folds.
        center_out: Whether whole centers are held out, too.
        stages: Stages that are trained; those without any label in the cohort, or that were not wanted, are left out.
    """

    cohort: str
    profile: Profile
    folds: int = FOLDS
    center_out: bool = True
    stages: tuple[Stage, ...] = tuple(Stage)

    def to_dict(self) -> dict[str, object]:
        """Make what JSON can hold."""
        return {**vars(self), "profile": self.profile.to_dict()}

    def fixed(self) -> dict[str, object]:
        """Give what makes it this run: all but the number of crops in memory at once, with which the gradient stays."""
        profile = self.profile.to_dict()
        for stage in NETWORK_STAGES:
            del profile["training"][stage]["micro_batch"]
        return {**self.to_dict(), "profile": profile}

    @classmethod
    def read(cls, path: Path) -> "RunSettings":
        """Read what a run's folder holds.

        Raises:
            ValueError: There is no run, or it is of another version.
        """
        if not path.is_file():
            raise ValueError(f"{path}: no such file; start with {step_command('prepare')}")
        try:
            content = json.loads(path.read_text())
            stages = tuple(map(Stage, content["stages"]))
            return cls(**{**content, "profile": Profile.from_dict(content["profile"]), "stages": stages})
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: not a run that this version can go on with ({error})") from error

    @classmethod
    def make(
        cls,
        run: Path | None,
        cohort: str,
        profile: str | None = None,
        changes: Sequence[str] = (),
        folds: int | None = None,
        center_out: bool | None = None,
        without: Collection[Stage] | None = None,
    ) -> "RunSettings":
        """Make a run's settings, or check what was asked for against the run that is there; nothing is written.

        Args:
            run: The run's folder; None where there is none yet.
            cohort: A folder, or `phantom:PATIENTS:SEED`.
            profile: A name or a file; None for the run's own, or the default.
            changes: Changes of the profile, as `load_profile` takes them.
            folds: Number of patient-level folds; None for the run's own, or the default.
            center_out: Whether whole centers are held out, too; None likewise.
            without: Stages to leave out; None likewise.

        Raises:
            ValueError: The profile or a change cannot be used, or the run that is there is another.
        """
        if Stage.SEGMENTATION in (without or ()):
            raise ValueError(f"every other stage rests on {Stage.SEGMENTATION}, which cannot be left out")
        known = cls.read(run / RUN_FILE) if run and (run / RUN_FILE).is_file() else None
        if profile or not known:
            chosen = load_profile(profile or DEFAULT_PROFILE, changes)
        else:
            chosen = change_profile(known.profile, changes)
        begun = known or cls(cohort, chosen)
        asked = cls(
            cohort if is_phantom(cohort) else os.path.realpath(cohort),
            chosen,
            begun.folds if folds is None else folds,
            begun.center_out if center_out is None else center_out,
            begun.stages if without is None else tuple(stage for stage in begun.stages if stage not in without),
        )
        if run and known and (other := differences(known.fixed(), asked.fixed())):
            raise ValueError(f"{run / RUN_FILE} belongs to another run: {'; '.join(other)}")
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
        """Write down the folds, each model's clinical encoder and, last, what the run is."""
        self.keep_folds(splits)
        self.keep(CohortRecord(fingerprints=fingerprints(self.source)))
        self.keep_settings()

    def keep_settings(self) -> None:
        """Write down what the run is, where that is not written yet."""
        path = self.folder / RUN_FILE
        if not path.is_file() or RunSettings.read(path) != self.settings:
            write_json(path, self.settings.to_dict())

    def keep_folds(self, splits: Splits) -> None:
        """Write down the folds and each model's clinical encoder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.splits_file, splits)
        for member in splits.members:
            records = [patient.clinical for patient in splits.training(member, self.patients)]
            write_json(self.encoder_file(member), ClinicalEncoder.fit(records, self.profile.clinical))

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
        """The cohort, which must be what it was when the run began.

        Raises:
            ValueError: Patients were added, changed or taken away since; the message names them.
        """
        source = open_source(self.cohort, self.profile.clinical)
        if self.begun:
            refuse_changes(self.cohort, self.read(CohortRecord).fingerprints, fingerprints(source))
        return source

    @property
    def patients(self) -> Sequence[Patient]:
        """Every patient of the cohort."""
        return self.source.patients

    @property
    def image_hashes(self) -> dict[str, str]:
        """The patients that are prepared, by the hash of their CT."""
        names = [patient.patient_id for patient in self.patients if self.store.has(patient.patient_id)]
        return {self.store.describe(name).image_hash: name for name in names}

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
        return read_json(self.splits_file, Splits)

    @property
    def outputs(self) -> Path:
        """The folder of the networks, and of the probabilities they give."""
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

    @property
    def last_networks(self) -> Stage:
        """The last stage of the run that has networks."""
        return networks_of(self.settings.stages)[-1]

    def missing(self, stage: Stage) -> str | None:
        """Say which models' networks of a stage, or their out-of-fold masks, are still to come, and from where."""
        if stage not in NETWORK_STAGES:
            return None
        names = [member.name for member in self.splits.members if not self._has(member, stage)]
        if not names:
            return None
        return (
            f"{stage} of {', '.join(names)} is still missing, and what needs every model waits for it; "
            f"{step_command(stage)} {self.folder} goes on"
        )

    def trains(self, stage: Stage) -> bool:
        """Tell whether the run trains a stage, and say so where it does not."""
        if stage in self.settings.stages:
            return True
        typer.echo(f"{stage} is left out of this run")
        return False

    def require(self, stage: Stage) -> None:
        """Refuse to go on where a stage is not finished.

        Raises:
            ValueError: It is not; one line says what is missing, and how it is made.
        """
        if stage in self.settings.stages and not self.has(STAGE_RECORD[stage]):
            path = self.folder / STAGE_RECORD[stage].FILE
            raise ValueError(self.missing(stage) or f"{path}: no such file; {step_command(stage)} {self.folder}")

    def require_prepared(self) -> None:
        """Refuse to go on where a patient has no whole patch.

        Raises:
            ValueError: Some have none; one line says how many, and how they get one.
        """
        absent = sum(not self.store.has(patient.patient_id) for patient in self.patients)
        if absent:
            command = f"{step_command('prepare')} {self.cohort} {self.folder}"
            raise ValueError(f"patches of {absent} patients are missing or cut; {command}")

    def require_radiomics(self) -> None:
        """Refuse to go on where a patient is not measured.

        Raises:
            ValueError: Some are not; one line says how many, and how they are.
        """
        absent = sum(not self.is_measured(patient.patient_id) for patient in self.patients)
        if absent:
            raise ValueError(f"radiomics of {absent} patients are missing; {step_command('radiomics')} {self.folder}")

    def is_measured(self, patient_id: str) -> bool:
        """Tell whether all is there that a patient's out-of-fold mask is measured for."""
        files = [self.features_file(patient_id)]
        if Stage.STAGING in self.settings.stages:
            files.append(self.geometry_file(patient_id))
        return all(file.is_file() for file in files)

    def _has(self, member: Member, stage: Stage) -> bool:
        predicted = self.splits.held_out(member, self.patients) if stage is Stage.SEGMENTATION else []
        return self.network_file(member, stage).is_file() and all(
            self.probability_file(member.scheme, patient.patient_id).is_file() for patient in predicted
        )

    def stage_folder(self, member: Member, stage: Stage) -> Path:
        """The folder in which one network trains."""
        return self.outputs / "models" / member.name / stage

    def network_file(self, member: Member, stage: Stage) -> Path:
        """A finished network."""
        return self.stage_folder(member, stage) / "network.safetensors"

    def previous_network(self, member: Member, stage: Stage) -> Path:
        """The network whose backbone a stage starts from: that of the last stage before it that the run trains."""
        stages = self.settings.stages
        return self.network_file(member, stages[stages.index(stage) - 1])

    def member_file(self, member: Member, name: str) -> Path:
        """A file fitted for a model beside its networks: a forest, tables, by the name it has in the weights."""
        return self.folder / "models" / member.name / name

    def encoder_file(self, member: Member) -> Path:
        """A model's clinical encoder, fitted once, when the run began."""
        return self.member_file(member, ENCODER_FILE)

    def encode(self, member: Member, patients: Sequence[Patient]) -> FeatureTable:
        """Encode patients' clinical records as a model sees them."""
        encoder = read_json(self.encoder_file(member), ClinicalEncoder)
        return encoder.encode([patient.clinical for patient in patients])

    def probability_file(self, scheme: Scheme, patient_id: str) -> Path:
        """The file of a patient's out-of-fold mask probability."""
        return self.outputs / "out_of_fold" / scheme / f"{patient_id}.npz"

    def features_file(self, patient_id: str) -> Path:
        """A patient's radiomics on the out-of-fold mask."""
        return self.folder / "radiomics" / f"{patient_id}.npy"

    def geometry_file(self, patient_id: str) -> Path:
        """The geometry of a patient's lesions in the out-of-fold mask."""
        return self.folder / "geometry" / f"{patient_id}.npy"

    def dose_file(self, patient_id: str) -> Path:
        """The planned dose of a patient who has one, on the out-of-fold mask."""
        return self.folder / "dose" / f"{patient_id}.npy"

    def keep_probability(self, scheme: Scheme, patient_id: str, probability: NDArray[np.float32]) -> None:
        """Keep a patient's out-of-fold mask probability (2, z, y, x), to a 255th."""
        path = self.probability_file(scheme, patient_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        Boxed.of(np.rint(probability * 255).astype(np.uint8)).save(path)

    def probability(self, scheme: Scheme, patient_id: str) -> NDArray[np.float32]:
        """Read it back, float32 (2, z, y, x)."""
        return Boxed.load(self.probability_file(scheme, patient_id)).whole().astype(np.float32) / np.float32(255)

    def radiomics(self, patients: Sequence[Patient]) -> FeatureTable:
        """Read patients' radiomics, a row each."""
        names = feature_names(self.profile.radiomics)
        rows = [np.load(self.features_file(patient.patient_id)) for patient in patients]
        return FeatureTable(names, np.array(rows, dtype=float).reshape(len(patients), len(names)))

    def geometry(self, patients: Sequence[Patient]) -> FeatureTable:
        """Read the geometry of patients' lesions, a row each."""
        rows = [np.load(self.geometry_file(patient.patient_id)) for patient in patients]
        return FeatureTable(GEOMETRY, np.array(rows, dtype=float).reshape(len(patients), len(GEOMETRY)))

    def dose(self, patients: Sequence[Patient]) -> FeatureTable | None:
        """Read patients' planned doses, a row each; None where nobody in the cohort has one."""
        if not any(self.dose_file(p.patient_id).is_file() for p in self.patients):
            return None
        names = dose_names(self.profile.dose)
        rows = np.full((len(patients), len(names)), np.nan)
        rows[:, names.index(DOSE_KNOWN)] = 0
        for row, file in zip(rows, (self.dose_file(patient.patient_id) for patient in patients), strict=True):
            if file.is_file():
                row[:] = np.load(file)
        return FeatureTable(names, rows)

    def seed(self, member: Member, stage: Stage) -> int:
        """The seed of one network's training."""
        own = self.splits.members.index(member) * 10 + list(Stage).index(stage)
        return (self.profile.training.seed * 1000 + own) % MOST_SEED

    def keep(self, record: Record) -> None:
        """Keep what a step says, whole or not at all."""
        write_json(self.folder / record.FILE, record)

    def has(self, record: type[Record]) -> bool:
        """Whether a step has said it."""
        return (self.folder / record.FILE).is_file()

    def read(self, record: type[AnyRecord]) -> AnyRecord:
        """Read what a step said.

        Raises:
            ValueError: It has not, or in another version; the message names the file.
        """
        return read_json(self.folder / record.FILE, record)

    @cached_property
    def segmentation(self) -> SegmentationRecord:
        """The record of stage 1, on which the later stages' crops rest."""
        return self.read(SegmentationRecord)
