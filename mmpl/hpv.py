"""Stage 2: deep score, radiomics and clinical record -> probability that the tumor is HPV positive.

Of the imbalanced-learn pipeline that training fits (`mmpl.training.forest`; paper, section 2.4) the forest's leaves are
kept and the numbers that prepare its columns, so that inference needs neither imbalanced-learn nor scikit-learn, nor
the columns left out.
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self
from zipfile import BadZipFile

import numpy as np

from mmpl.calibration import HpvCalibration, HpvSet
from mmpl.case import InvalidInputError
from mmpl.evidence import Evidence, Floats
from mmpl.explanation import Explanation, Share
from mmpl.files import write_whole
from mmpl.forest import Forest


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
        forest: Gives the probability that the tumor is HPV positive.
        choice: The hyper-parameters, and the balanced accuracy they were chosen for; None where there was one choice.
    """

    names: tuple[str, ...]
    fills: Floats
    means: Floats
    scales: Floats
    forest: Forest
    choice: Mapping[str, float | None] = field(default_factory=dict)

    def probability(self, evidence: Evidence) -> Floats:
        """Return (n,) probabilities that the tumor is HPV positive.

        Raises:
            ValueError: The evidence lacks a column of the forest; the message names it.
        """
        return self.forest.probability(self._prepare(evidence))

    def explain(self, evidence: Evidence) -> Share:
        """Split the one patient's probability into what each column adds; raises as `probability` does."""
        added = self.forest.shapley(self._prepare(evidence)[0]).tolist()
        return Share(self.forest.expected, dict(zip(self.names, added, strict=True)))

    def _prepare(self, evidence: Evidence) -> Floats:
        columns = evidence.table.read(self.names)
        return (np.where(np.isfinite(columns), columns, self.fills) - self.means) / self.scales

    def save(self, path: Path) -> None:
        """Write an archive of arrays, which hold data and no code; the same forest makes the same bytes."""
        arrays: dict[str, Any] = {
            "names": np.array(self.names, np.str_),
            "choice": np.array(json.dumps(dict(self.choice))),
            "fills": self.fills,
            "means": self.means,
            "scales": self.scales,
            **vars(self.forest),
        }
        with write_whole(path) as partial, partial.open("wb") as file:
            np.savez_compressed(file, **arrays)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            InvalidInputError: The file is not one of those.
        """
        try:
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                forest = Forest(**{part.name: file[part.name] for part in fields(Forest)})
                names, choice = tuple(map(str, file["names"])), json.loads(str(file["choice"]))
                prepared = file["fills"], file["means"], file["scales"]
                if any(each.shape != (len(names),) for each in prepared) or forest.columns.max() >= len(names):
                    raise ValueError("tables of different sizes")
                return cls(names, *prepared, forest, choice)
        except (BadZipFile, zlib.error, OSError, EOFError, KeyError, TypeError, ValueError) as error:
            raise InvalidInputError(f"{path}: not an HPV forest ({error})") from error


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
