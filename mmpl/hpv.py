"""Stage 2: deep score, radiomics and clinical record -> probability that the tumor is HPV positive.

Of the imbalanced-learn pipeline that training fits (`mmpl.training.forest`; paper, section 2.4) the forest is kept and
the numbers that prepare its columns, so that inference needs neither imbalanced-learn nor the columns left out.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Self
from zipfile import ZIP_DEFLATED, BadZipFile, ZipFile, ZipInfo

import numpy as np

from mmpl.calibration import HpvCalibration, HpvSet
from mmpl.case import InvalidInputError
from mmpl.evidence import Evidence, Floats
from mmpl.explanation import Explanation, Share
from mmpl.shapley import ForestPaths

if TYPE_CHECKING:
    from sklearn.ensemble import RandomForestClassifier

TRUSTED_TYPES = frozenset({"sklearn.tree._tree.Tree"})
"""All that a forest's file may ask to be trusted by name, beyond what skops itself knows to be data."""


@dataclass(frozen=True)
class HpvResult:
    """The ensemble's answer for one patient.

    Attributes:
        probability: Mean of the models' probabilities that the tumor is HPV positive.
        positive: Whether it reaches the ensemble's threshold.
        member_probabilities: Probability that each model gives.
        calibrated: The probability as shares of patients bear it out; None where the weights were not calibrated.
        prevalence: Share of HPV-positive patients that it is given for; None likewise.
        conformal_set: Status that the score leaves at 90%, or that it is undecided; None of weights without sets.
        explanation: What each finding adds to `probability`.
        known: Status that was given, on which the risk rests; all else is what the models, who are not told, predict.
    """

    probability: float
    positive: bool
    member_probabilities: tuple[float, ...]
    calibrated: float | None = None
    prevalence: float | None = None
    conformal_set: HpvSet | None = None
    explanation: Explanation | None = None
    known: bool | None = None


@dataclass(frozen=True)
class HpvModel:
    """A fitted forest and how its columns are prepared.

    Attributes:
        names: The forest's columns of `mmpl.evidence.Evidence`.
        fills, means, scales: Training median, mean and SD of each; the median stands in for a missing value.
        choice: The hyper-parameters, and the balanced accuracy they were chosen for; None where there was one choice.
    """

    names: tuple[str, ...]
    fills: Floats
    means: Floats
    scales: Floats
    forest: "RandomForestClassifier"
    choice: Mapping[str, float | None] = field(default_factory=dict)

    def probability(self, evidence: Evidence) -> Floats:
        """Return (n,) probabilities that the tumor is HPV positive.

        Raises:
            ValueError: The evidence lacks a column of the forest; the message names it.
        """
        return self.forest.predict_proba(self._prepare(evidence))[:, self._positive]

    def explain(self, evidence: Evidence) -> Share:
        """Split the one patient's probability into what each column adds; raises as `probability` does."""
        paths = self._paths
        added = paths.shapley(self._prepare(evidence)[0]).tolist()
        return Share(paths.expected, dict(zip(self.names, added, strict=True)))

    @property
    def _positive(self) -> int:
        return list(self.forest.classes_).index(True)

    @cached_property
    def _paths(self) -> ForestPaths:
        return ForestPaths.of(self.forest, self._positive)

    def _prepare(self, evidence: Evidence) -> Floats:
        columns = evidence.table.read(self.names)
        return (np.where(np.isfinite(columns), columns, self.fills) - self.means) / self.scales

    def save(self, path: Path) -> None:
        """Write a skops file, which holds data and no code."""
        import skops.io

        content = {field: getattr(self, field) for field in self.__dataclass_fields__}
        path.write_bytes(_reproducible(skops.io.dumps(content)))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            InvalidInputError: If the file is not one of those, or asks to trust any type but `TRUSTED_TYPES`.
        """
        import skops.io

        try:
            foreign = set(skops.io.get_untrusted_types(file=path)) - TRUSTED_TYPES
            if foreign:
                raise InvalidInputError(f"{path}: holds {', '.join(sorted(foreign))}, which is not trusted")
            return cls(**skops.io.load(path, trusted=sorted(TRUSTED_TYPES)))
        except (BadZipFile, KeyError, TypeError) as error:
            raise InvalidInputError(f"{path}: not an HPV forest ({error})") from error


def _reproducible(content: bytes) -> bytes:
    """Pack a skops file so that the same forest has the same bytes: no clock, and counts where it has addresses."""
    source = ZipFile(BytesIO(content))
    schema = source.read("schema.json").decode()
    addresses = dict.fromkeys(re.findall(r'"__id__": (\d+)', schema))
    order = {address: str(count) for count, address in enumerate(addresses)}
    packed = BytesIO()
    with ZipFile(packed, "w", ZIP_DEFLATED, compresslevel=9) as target:
        for name in source.namelist():
            address, dot, kind = name.partition(".")
            if address in order:
                target.writestr(ZipInfo(order[address] + dot + kind), source.read(name), ZIP_DEFLATED, 9)
        schema = re.sub(r'(?<="__id__": )\d+|(?<=")\d+(?=\.npy")', lambda found: order[found[0]], schema)
        target.writestr(ZipInfo("schema.json"), schema, ZIP_DEFLATED, 9)
    return packed.getvalue()


def ensemble(
    member_probabilities: Sequence[float],
    threshold: float,
    calibration: HpvCalibration | None = None,
    prevalence: float | None = None,
) -> HpvResult:
    """Average the models' probabilities of one patient, decide, and say how probable that is.

    Args:
        member_probabilities: Probability that each model gives.
        threshold: Threshold of their mean; at or above is positive, whatever the calibration says.
        calibration: What the mean means; None where it was not fitted.
        prevalence: Share of HPV-positive patients where the patient comes from; by default that of training.

    Raises:
        ValueError: The prevalence is not between 0 and 1.
    """
    probability = float(np.mean(member_probabilities))
    members = tuple(float(value) for value in member_probabilities)
    result = HpvResult(probability, probability >= threshold, members)
    if calibration is None:
        return result
    share = calibration.stated_or_own(prevalence)
    calibrated = float(calibration.probability(probability, share))
    left = calibration.sets.of(probability) if calibration.sets else None
    return replace(result, calibrated=calibrated, prevalence=share, conformal_set=left)
