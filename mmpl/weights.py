"""What inference loads: the ensemble's folder, its manifest, and how it is written, found, verified and read.

Nothing here can execute code: networks are safetensors, forests archives of arrays, tables JSON. Every file's SHA-256
stands in `manifest.json`, and loading checks them all before anything is read.
"""

import hashlib
import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file
from torch import Tensor

from mmpl.calibration import Calibration
from mmpl.case import ClinicalRecord, InvalidInputError
from mmpl.clinical import ClinicalEncoder
from mmpl.dose import is_dose
from mmpl.evidence import Scale
from mmpl.files import Record, read_json, write_json
from mmpl.names import NETWORK_STAGES, STAGE_OF, STAGE_TASKS, Stage, Task
from mmpl.network import StageNetwork, build_network
from mmpl.profile import Profile
from mmpl.radiomics import is_radiomics
from mmpl.reference import Reference
from mmpl.segmentation import Thresholds
from mmpl.staging import StageScale, StagingTables
from mmpl.survival import CoxModel, TimeIntervals
from mmpl.version import __version__

if TYPE_CHECKING:
    from mmpl.hpv import HpvModel

MANIFEST = "manifest.json"
FORMAT = 3
"""Version of the folder's layout: another number where older ones would be read without error and answer wrongly, as 1
would, whose forests and Cox models were fitted to CT radiomics of whole masks, and 2, which names settings that may
since have changed, and features by their position."""
VARIABLE = "MMPL_WEIGHTS"
PLATFORM_FOLDER = Path("/opt/ml/model")
SHIPPED_FOLDER = Path(__file__).resolve().parent.parent / "weights"

NETWORK_FILE = {stage: f"{stage}.safetensors" for stage in NETWORK_STAGES}
FOREST_FILE = "forest.npz"
ENCODER_FILE = "encoder.json"
TABLES_FILE = {Stage.HPV: "hpv.json", Stage.SURVIVAL: "survival.json", Stage.STAGING: "staging.json"}
CALIBRATION_FILE = "calibration.json"
REFERENCE_FILE = "reference.json"
"""Beside the models' folders, both; weights without one are answered without what it says."""


class WeightsError(ValueError):
    """Weights that are missing, damaged or of another format; the message names the file."""


@dataclass(frozen=True)
class HpvTables:
    """The tables fitted on one model's training patients for stage 2, beside network and forest.

    Attributes:
        scale: Scale of the network's logit.
    """

    scale: Scale


@dataclass(frozen=True)
class SurvivalTables:
    """The tables fitted on one model's training patients for stage 3, beside the network if there is one.

    Attributes:
        intervals: Intervals of the network's discrete time; None without one.
        scale: Scale of its expected days; None likewise.
        cox: The final survival model.
        risk_scale: Scale of the Cox model's log partial hazard.
    """

    intervals: TimeIntervals | None
    scale: Scale | None
    cox: CoxModel
    risk_scale: Scale

    @property
    def of_network(self) -> tuple[TimeIntervals, Scale]:
        """Intervals and scale of the network, for an ensemble that has some."""
        assert self.intervals is not None
        assert self.scale is not None
        return self.intervals, self.scale


@dataclass(frozen=True)
class EnsembleMember:
    """One model of the ensemble; networks are read when asked for, so that those at work alone are held.

    Attributes:
        kept: Networks that are kept instead, for a program that answers many cases.
    """

    name: str
    folder: Path
    profile: Profile
    stages: tuple[Stage, ...]
    kept: dict[Stage, StageNetwork] = field(default_factory=dict, repr=False, compare=False)

    def network(self, stage: Stage) -> StageNetwork:
        """Give the network of a stage."""
        return self.kept.get(stage) or read_network(self.folder / NETWORK_FILE[stage], self.profile, stage)

    def keep(self) -> None:
        """Read all that this model consists of, now."""
        networks = networks_of(self.stages)
        self.kept.update({stage: self.network(stage) for stage in networks})
        if ENCODER_FILE in member_files(self.stages):
            _ = self.encoder, self.read_names  # which reads forest, Cox model and ordinal models
        if networks and Stage.HPV in self.stages:
            _ = self.hpv

    @cached_property
    def encoder(self) -> ClinicalEncoder:
        """Read the encoder of the clinical record."""
        return _read(self.folder / ENCODER_FILE, ClinicalEncoder)

    @cached_property
    def forest(self) -> "HpvModel":
        """Read the forest."""
        from mmpl.hpv import HpvModel

        try:
            return HpvModel.load(self.folder / FOREST_FILE)
        except InvalidInputError as error:
            raise WeightsError(str(error)) from error

    @cached_property
    def hpv(self) -> HpvTables:
        """Read the tables of stage 2."""
        return _read(self.folder / TABLES_FILE[Stage.HPV], HpvTables)

    @cached_property
    def survival(self) -> SurvivalTables:
        """Read the tables of stage 3."""
        return _read(self.folder / TABLES_FILE[Stage.SURVIVAL], SurvivalTables)

    @cached_property
    def staging(self) -> StagingTables:
        """Read the tables of stage 4."""
        return _read(self.folder / TABLES_FILE[Stage.STAGING], StagingTables)

    @cached_property
    def read_names(self) -> frozenset[str]:
        """Names of the columns that forest, Cox model and ordinal models read; none where there is none of them."""
        read: list[str] = []
        if Stage.HPV in self.stages:
            read += self.forest.names
        if Stage.SURVIVAL in self.stages:
            read += [covariate.name for covariate in self.survival.cox.covariates]
        if Stage.STAGING in self.stages:
            read += [name for task in STAGE_TASKS for name in self.staging.of(task).names]
        return frozenset(read)

    @property
    def radiomics_names(self) -> frozenset[str]:
        """Names of the radiomics among them."""
        return frozenset(filter(is_radiomics, self.read_names))

    @property
    def dose_names(self) -> frozenset[str]:
        """Names of the columns of the planned dose among them, which Cox models alone read."""
        read = [each.name for each in self.survival.cox.covariates] if Stage.SURVIVAL in self.stages else []
        return frozenset(filter(is_dose, read))

    def assumed_fields(self, record: ClinicalRecord) -> tuple[str, ...]:
        """Names of the clinical fields that this model reads and a record does not give, or not in a way it knows."""
        return tuple(
            term.field
            for term in self.encoder.terms
            if self.read_names & set(term.names) and term.is_assumed(record.values.get(term.field))
        )


@dataclass(frozen=True)
class Ensemble:
    """A verified folder of weights.

    Attributes:
        profile: Profile that the models were made with, and answer with, as the manifest holds it.
        members: The models, in the order of the manifest.
        stages: Stages that the models were trained for; without segmentation there is no network in any.
        thresholds: Thresholds of the mask probabilities; None without stage 1.
        hpv_threshold: Threshold of the mean HPV probability; at or above is positive. None without stage 2.
        training: Record that the training program wrote about itself.
        identity: SHA-256 of the manifest, which names every other file by its own.
        calibration: What the ensemble's scores mean.
        reference: The training patients, whom a patient is compared with.
        stage_scales: How the mean scores of T and N become stages; none without stage 4.
    """

    folder: Path
    profile: Profile
    members: tuple[EnsembleMember, ...]
    stages: tuple[Stage, ...]
    thresholds: Thresholds | None
    hpv_threshold: float | None
    code_version: str
    training: Mapping[str, Any]
    identity: str
    calibration: Calibration
    reference: Reference
    stage_scales: Mapping[Task, StageScale] = field(default_factory=dict)

    @property
    def of_tables(self) -> bool:
        """Whether the models were fitted to tables, and answer tables alone."""
        return not have_networks(self.stages)

    @property
    def tasks(self) -> frozenset[Task]:
        """The challenge's tasks that these models can answer."""
        return frozenset(task for task, stage in STAGE_OF.items() if stage in self.stages)

    @property
    def reads_dose(self) -> bool:
        """Whether any of the models reads the planned dose."""
        return any(member.dose_names for member in self.members)

    def only(self, names: Sequence[str]) -> "Ensemble":
        """Keep some models by name, or all where none is named; thresholds stay.

        Raises:
            WeightsError: There is no such model.
        """
        unknown = [name for name in names if name not in [member.name for member in self.members]]
        if unknown:
            known = ", ".join(member.name for member in self.members)
            raise WeightsError(f"{self.folder}: no model {', '.join(unknown)}; there are {known}")
        return replace(self, members=tuple(m for m in self.members if not names or m.name in names))


def have_networks(stages: Collection[Stage]) -> bool:
    """Tell whether a model of these stages has networks; every network starts from that of stage 1."""
    return Stage.SEGMENTATION in stages


def networks_of(stages: Collection[Stage]) -> tuple[Stage, ...]:
    """Give the stages among some that have a network; none of a model that was fitted to tables."""
    return tuple(stage for stage in NETWORK_STAGES if stage in stages) if have_networks(stages) else ()


def member_files(stages: Sequence[Stage]) -> tuple[str, ...]:
    """Name the files of a model that was trained for some stages."""
    files = [NETWORK_FILE[stage] for stage in networks_of(stages)]
    if Stage.HPV in stages:
        files += [FOREST_FILE, *[TABLES_FILE[Stage.HPV]] * have_networks(stages)]
    if Stage.SURVIVAL in stages:
        files.append(TABLES_FILE[Stage.SURVIVAL])
    if Stage.STAGING in stages:
        files.append(TABLES_FILE[Stage.STAGING])
    if set(stages) - {Stage.SEGMENTATION}:
        files.append(ENCODER_FILE)
    return tuple(files)


def read_network(path: Path, profile: Profile, stage: Stage) -> StageNetwork:
    """Read one network, in single precision, ready for inference.

    Raises:
        WeightsError: The file is not the network of this stage and profile.
    """
    network = build_network(profile, stage)
    try:
        network.load_state_dict(read_state(path), strict=True)
    except RuntimeError as error:
        raise WeightsError(f"{path}: not the {stage} network of profile {profile.name}") from error
    return network.eval().requires_grad_(False)


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file, in single precision.

    Raises:
        WeightsError: The file is missing or unreadable.
    """
    try:
        return {name: value.float() for name, value in load_file(path).items()}
    except Exception as error:  # safetensors raises types of its own, and OSError
        raise WeightsError(f"{path}: not a readable safetensors file ({error})") from error


def find_weights() -> Path:
    """Find the weights: `MMPL_WEIGHTS`, else the platform's folder if it holds a manifest, else the shipped ones."""
    chosen = os.environ.get(VARIABLE)
    if chosen:
        return Path(chosen)
    return PLATFORM_FOLDER if (PLATFORM_FOLDER / MANIFEST).is_file() else SHIPPED_FOLDER


def load_ensemble(folder: Path | None = None, keep_networks: bool = False) -> Ensemble:
    """Verify a folder of weights, by default the one `find_weights` finds, and open it.

    Args:
        folder: Folder of the manifest.
        keep_networks: Read every model now and keep it in memory.

    Raises:
        WeightsError: A file is missing, was changed, or belongs to another format; the message names it.
    """
    folder = folder or find_weights()
    path = folder / MANIFEST
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; weights are looked for in ${VARIABLE}, {PLATFORM_FOLDER}, weights/")
    try:
        manifest = json.loads(path.read_text())
        if manifest["format"] != FORMAT:
            raise WeightsError(f"{path}: format {manifest['format']}, and this version reads {FORMAT}")
        profile = Profile.from_dict(manifest["profile"])
        files = manifest["files"]
        for name, expected in files.items():
            _verify(folder / name, expected)
        stages = tuple(map(Stage, manifest["stages"]))
        if not stages:
            raise WeightsError(f"{path}: names no stage")
        members = tuple(EnsembleMember(name, folder / name, profile, stages) for name in manifest["members"])
        for member in members:
            for file in member_files(stages):
                if f"{member.name}/{file}" not in files:
                    raise WeightsError(f"{member.folder / file}: not in the manifest")
            if keep_networks:
                member.keep()
        return Ensemble(
            folder=folder,
            profile=profile,
            members=members,
            stages=stages,
            thresholds=Thresholds(**manifest["mask_thresholds"]) if have_networks(stages) else None,
            hpv_threshold=float(manifest["hpv_threshold"]) if Stage.HPV in stages else None,
            code_version=manifest["code_version"],
            training=manifest["training"],
            identity=digest(path),
            calibration=_read(folder / CALIBRATION_FILE, Calibration) if CALIBRATION_FILE in files else Calibration(),
            reference=_read(folder / REFERENCE_FILE, Reference) if REFERENCE_FILE in files else Reference(),
            stage_scales=(
                {task: StageScale.from_dict(manifest["stage_scales"][task]) for task in STAGE_TASKS}
                if Stage.STAGING in stages
                else {}
            ),
        )
    except WeightsError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise WeightsError(f"{path}: not a manifest this version can read ({error!r})") from error


def write_manifest(
    folder: Path,
    profile: Profile,
    members: Sequence[str],
    stages: Sequence[Stage],
    thresholds: Thresholds | None,
    hpv_threshold: float | None,
    training: Mapping[str, Any],
    calibration: Calibration | None = None,
    reference: Reference | None = None,
    stage_scales: Mapping[Task, StageScale] | None = None,
) -> None:
    """Seal a folder: name the members, and the SHA-256 of each of their files.

    Args:
        folder: Folder of the members' folders.
        profile: Profile that the members were made with.
        members: Names of the members.
        stages: Stages that the members were trained for.
        thresholds: Thresholds of the mask probabilities; None without stage 1.
        hpv_threshold: Threshold of the mean HPV probability; None without stage 2.
        training: Record that the training program gives of itself.
        calibration: What the ensemble's scores mean, which is written, too; None where it was not calibrated.
        reference: The training patients, whom a patient is compared with; likewise.
        stage_scales: How the mean scores of T and N become stages; None without stage 4.
    """
    files = [f"{name}/{file}" for name in members for file in member_files(stages)]
    for name, record, empty in (
        (CALIBRATION_FILE, calibration, Calibration()),
        (REFERENCE_FILE, reference, Reference()),
    ):
        if record is None or record == empty:
            (folder / name).unlink(missing_ok=True)  # of an ensemble that was here before
        else:
            write_json(folder / name, record)
            files.append(name)
    manifest = {
        "format": FORMAT,
        "code_version": __version__,
        "profile": profile.to_dict(),
        "stages": [stage.value for stage in stages],
        "members": list(members),
        "mask_thresholds": asdict(thresholds) if thresholds else None,
        "hpv_threshold": hpv_threshold,
        "training": dict(training),
        "files": {name: digest(folder / name) for name in files},
    }
    if stage_scales:
        manifest["stage_scales"] = {task.value: asdict(scale) for task, scale in stage_scales.items()}
    write_json(folder / MANIFEST, manifest)


def _read(path: Path, record: type[Record]) -> Record:
    try:
        return read_json(path, record)
    except ValueError as error:
        raise WeightsError(str(error)) from error


def _verify(path: Path, expected: str) -> None:
    if not path.is_file():
        raise WeightsError(f"{path}: no such file, and the manifest names it")
    if digest(path) != expected:
        raise WeightsError(f"{path}: its SHA-256 is not the manifest's; the file was changed or is damaged")


def digest(path: Path) -> str:
    """Give the SHA-256 of a file, as the manifest holds it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
