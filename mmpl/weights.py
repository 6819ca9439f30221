"""What inference loads: the ensemble's folder, its manifest, and how it is written, found, verified and read.

Nothing here can execute code: networks are safetensors, forests are skops files that may hold one named type, tables
are JSON. Every file's SHA-256 stands in `manifest.json`, and loading checks them all before anything is read.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from mmpl import __version__
from mmpl.clinical import ClinicalEncoder
from mmpl.labels import Stage
from mmpl.network import StageNetwork, build_network
from mmpl.profile import Profile
from mmpl.segmentation import Thresholds
from mmpl.survival import CoxModel, RiskScale, TimeIntervals

if TYPE_CHECKING:
    from mmpl.hpv import HpvModel

MANIFEST = "manifest.json"
FORMAT = 3
"""Of the weights: another number where older ones would be read without error and answer wrongly, as 1 would, whose
forests and Cox models were fitted to CT radiomics of whole masks, and 2, which names a profile that may since have
changed."""
VARIABLE = "MMPL_WEIGHTS"
PLATFORM_FOLDER = Path("/opt/ml/model")
SHIPPED_FOLDER = Path(__file__).resolve().parent.parent / "weights"

NETWORK_FILE = {stage: f"{stage}.safetensors" for stage in Stage}
FOREST_FILE = "forest.skops"
TABLES_FILE = "tables.json"


_SMALLEST_SD = 1e-6  # of the scores of a network that says the same of everyone


class WeightsError(ValueError):
    """Weights that are missing, damaged or of another format; the message names the file."""


@dataclass(frozen=True)
class Scale:
    """Mean and SD of one network's out-of-fold scores; other networks' scores may lie elsewhere."""

    mean: float
    sd: float

    @classmethod
    def of(cls, scores: NDArray[np.float64]) -> "Scale":
        """Measure out-of-fold scores (n,)."""
        return cls(float(scores.mean()), max(float(scores.std()), _SMALLEST_SD))

    def standardize(self, value: float) -> float:
        """Turn a deep score into a standard score."""
        return (value - self.mean) / self.sd


@dataclass(frozen=True)
class MemberTables:
    """What is fitted on one model's training patients, beside its networks and its forest.

    Attributes:
        encoder: Of the clinical record.
        hpv_scale: Of the stage 2 logit.
        days_scale: Of stage 3's expected time.
        intervals: Of stage 3's discrete time.
        cox: The final survival model.
        risk_scale: Out-of-fold mean and SD of its log partial hazard.
    """

    encoder: ClinicalEncoder
    hpv_scale: Scale
    days_scale: Scale
    intervals: TimeIntervals
    cox: CoxModel
    risk_scale: RiskScale

    def to_dict(self) -> dict[str, Any]:
        """Make what JSON can hold."""
        return {
            "encoder": self.encoder.to_dict(),
            "hpv_scale": asdict(self.hpv_scale),
            "days_scale": asdict(self.days_scale),
            "intervals_days": list(self.intervals.edges_days),
            "cox": self.cox.to_dict(),
            "risk_scale": asdict(self.risk_scale),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "MemberTables":
        """Read what `to_dict` made."""
        return cls(
            encoder=ClinicalEncoder.from_dict(content["encoder"]),
            hpv_scale=Scale(**content["hpv_scale"]),
            days_scale=Scale(**content["days_scale"]),
            intervals=TimeIntervals(tuple(content["intervals_days"])),
            cox=CoxModel.from_dict(content["cox"]),
            risk_scale=RiskScale(**content["risk_scale"]),
        )


@dataclass(frozen=True)
class Member:
    """One model of the ensemble; networks are read when asked for, so that one at a time is held.

    Attributes:
        kept: Networks that are kept instead, for a program that answers many cases.
    """

    name: str
    folder: Path
    profile: Profile
    kept: dict[Stage, StageNetwork] = field(default_factory=dict, repr=False, compare=False)

    def network(self, stage: Stage) -> StageNetwork:
        """Give the network of a stage."""
        return self.kept.get(stage) or read_network(self.folder / NETWORK_FILE[stage], self.profile, stage)

    def keep(self) -> None:
        """Read all that this model consists of, now."""
        self.kept.update({stage: self.network(stage) for stage in Stage})
        _ = self.forest, self.tables

    @cached_property
    def forest(self) -> "HpvModel":
        """Read the forest."""
        from mmpl.hpv import HpvModel

        return HpvModel.load(self.folder / FOREST_FILE)

    @cached_property
    def tables(self) -> MemberTables:
        """Read the tables."""
        return MemberTables.from_dict(json.loads((self.folder / TABLES_FILE).read_text()))


@dataclass(frozen=True)
class Ensemble:
    """A verified folder of weights.

    Attributes:
        profile: What the models were made with, and answer with, as the manifest holds it.
        members: The models, in the order of the manifest.
        thresholds: Of the mask probabilities.
        hpv_threshold: Of the mean HPV probability; at or above is positive.
        training: What the training program wrote about itself.
    """

    folder: Path
    profile: Profile
    members: tuple[Member, ...]
    thresholds: Thresholds
    hpv_threshold: float
    code_version: str
    training: Mapping[str, Any]

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

    def networks(self, stage: Stage, device: torch.device) -> Iterator[StageNetwork]:
        """Give the networks of a stage one after the other."""
        for member in self.members:
            yield member.network(stage).to(device)


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
        folder: Where the manifest lies.
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
        for name, expected in manifest["files"].items():
            _verify(folder / name, expected)
        members = tuple(Member(name, folder / name, profile) for name in manifest["members"])
        for member in members:
            for file in (*NETWORK_FILE.values(), FOREST_FILE, TABLES_FILE):
                if f"{member.name}/{file}" not in manifest["files"]:
                    raise WeightsError(f"{member.folder / file}: not in the manifest")
            if keep_networks:
                member.keep()
        return Ensemble(
            folder=folder,
            profile=profile,
            members=members,
            thresholds=Thresholds(**manifest["mask_thresholds"]),
            hpv_threshold=float(manifest["hpv_threshold"]),
            code_version=manifest["code_version"],
            training=manifest["training"],
        )
    except WeightsError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise WeightsError(f"{path}: not a manifest this version can read ({error!r})") from error


def write_manifest(
    folder: Path,
    profile: Profile,
    members: list[str],
    thresholds: Thresholds,
    hpv_threshold: float,
    training: Mapping[str, Any],
) -> None:
    """Seal a folder: name the members, and the SHA-256 of each of their files."""
    files = [f"{name}/{file}" for name in members for file in (*NETWORK_FILE.values(), FOREST_FILE, TABLES_FILE)]
    manifest = {
        "format": FORMAT,
        "code_version": __version__,
        "profile": profile.to_dict(),
        "members": members,
        "mask_thresholds": asdict(thresholds),
        "hpv_threshold": hpv_threshold,
        "training": dict(training),
        "files": {name: digest(folder / name) for name in files},
    }
    partial = folder / f"{MANIFEST}.partial"
    partial.write_text(json.dumps(manifest, indent=1) + "\n")
    partial.replace(folder / MANIFEST)


def _verify(path: Path, expected: str) -> None:
    if not path.is_file():
        raise WeightsError(f"{path}: no such file, and the manifest names it")
    if digest(path) != expected:
        raise WeightsError(f"{path}: its SHA-256 is not the manifest's; the file was changed or is damaged")


def digest(path: Path) -> str:
    """Give the SHA-256 of a file, as the manifest holds it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
