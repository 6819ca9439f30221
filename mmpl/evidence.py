"""What forests and Cox models see of patients, made here for training and inference alike: columns of named numbers.

A column is always read by its name, so that a model answers from the feature it was fitted on or not at all.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmpl.names import LESIONS

Floats = NDArray[np.float64]

DEEP_SCORE = "deep_score"
"""Column: logit of the HPV head, standardized by its network's out-of-fold scores."""
EXPECTED_DAYS_SCORE = "expected_days_score"
"""Column: expected days without recurrence, standardized likewise; higher is better."""
HPV_PROBABILITY = "hpv_probability"
"""Column: the same model's forest probability, or a known status as 0 or 1."""
ABSENT = tuple(f"{label.name.lower()}_absent" for label in LESIONS)
"""Columns of radiomics: 1 where a patient has no lesion of that class, 0 elsewhere."""
DOSE_KNOWN = "dose_known"
"""Column of the dose (`mmpl.dose`): 1 where a lesion's planned dose was measured, 0 elsewhere. No model reads it: that
a plan is not at hand is no risk factor."""
SCORE_LIMIT_SD = 4.0
"""Bound of a network's standardized score: what a network says of an odd image must not decide an answer by itself."""


@dataclass(frozen=True)
class Scale:
    """Mean and SD of one model's out-of-fold scores; other models' scores may lie elsewhere."""

    mean: float
    sd: float

    @classmethod
    def of(cls, scores: ArrayLike, smallest_sd: float) -> Self:
        """Measure out-of-fold scores (n,).

        Args:
            smallest_sd: Floor of the SD, so that a model that says the same of everyone is not blown up to say much.
        """
        values = np.asarray(scores, dtype=float)
        return cls(float(values.mean()), max(float(values.std()), smallest_sd))

    def standardize(self, score: float) -> float:
        """Turn a score into a standard score; its direction stays."""
        return (score - self.mean) / self.sd


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """Named columns of n patients.

    Attributes:
        names: Names of the columns, each once.
        values: Values, (n, columns); NaN where a value is missing.
    """

    names: tuple[str, ...]
    values: Floats
    _positions: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.shape[1] != len(self.names):
            raise ValueError(f"{len(self.names)} names for a table of shape {self.values.shape}")
        object.__setattr__(self, "_positions", {name: position for position, name in enumerate(self.names)})
        if len(self._positions) != len(self.names):
            twice = sorted(name for name, count in Counter(self.names).items() if count > 1)
            raise ValueError(f"a column is named twice: {', '.join(twice[:3])}")

    def __len__(self) -> int:
        return len(self.values)

    @classmethod
    def of(cls, **columns: ArrayLike) -> Self:
        """Make a table of columns (n,) by name."""
        return cls(tuple(columns), np.column_stack([np.asarray(column, dtype=float) for column in columns.values()]))

    @classmethod
    def empty(cls, patients: int) -> Self:
        """Make a table of so many patients without a column."""
        return cls((), np.empty((patients, 0)))

    @classmethod
    def join(cls, *tables: "FeatureTable") -> Self:
        """Put tables of the same patients side by side."""
        return cls(
            tuple(name for table in tables for name in table.names), np.hstack([table.values for table in tables])
        )

    def without(self, name: str) -> Self:
        """Leave a column out, where there is one of that name."""
        kept = tuple(each for each in self.names if each != name)
        return self if kept == self.names else type(self)(kept, self.read(kept))

    def read(self, names: Sequence[str]) -> Floats:
        """Read columns by name, in the order asked for: (n, len(names)).

        Raises:
            ValueError: There is no such column; the message names it.
        """
        absent = [name for name in names if name not in self._positions]
        if absent:
            raise ValueError(f"the evidence has no {', '.join(absent[:3])}{' ...' if len(absent) > 3 else ''}")
        return self.values[:, [self._positions[name] for name in names]]


@dataclass(frozen=True, eq=False)
class Evidence:
    """The evidence that a forest or a Cox model sees of n patients.

    Attributes:
        scores: Scores of the networks, or of an earlier stage, named by `hpv_evidence` and `survival_evidence`; finite.
        radiomics: Features, named by `mmpl.radiomics.feature_names`, and by `mmpl.dose.dose_names` of the planned dose;
            NaN for an absent lesion, and where there is no dose.
        clinical: The encoded clinical record; finite.
    """

    scores: FeatureTable
    radiomics: FeatureTable
    clinical: FeatureTable

    def __post_init__(self) -> None:
        lengths = (len(self.scores), len(self.radiomics), len(self.clinical))
        if len(set(lengths)) != 1:
            raise ValueError(f"the evidence is not one row a patient: {lengths} of scores, radiomics, clinical record")
        _ = self.table  # no name twice
        for what in (self.scores, self.clinical):
            if not np.isfinite(what.values).all():
                raise ValueError(f"the evidence has a value that is not finite among {', '.join(what.names)}")

    def __len__(self) -> int:
        return len(self.scores)

    @cached_property
    def table(self) -> FeatureTable:
        """All columns side by side: scores, radiomics, clinical record."""
        return FeatureTable.join(self.scores, self.radiomics, self.clinical)


def hpv_evidence(deep_score: ArrayLike | None, radiomics: FeatureTable, clinical: FeatureTable) -> Evidence:
    """Make what stage 2's forest sees of n patients.

    Args:
        deep_score: (n,) logits of the HPV head, standardized by their network's `Scale`; bounded here. None for an
            ensemble without networks.
        radiomics: Features of the one mask a patient: out of fold in training, the ensemble's at inference.
        clinical: Clinical record, encoded by the same model's encoder.
    """
    scores = dict[str, ArrayLike]()
    if deep_score is not None:
        scores[DEEP_SCORE] = _bounded(deep_score, radiomics)
    return Evidence(_table(scores, len(clinical)), radiomics, clinical)


def survival_evidence(
    expected_days_score: ArrayLike | None,
    hpv_probability: ArrayLike | None,
    radiomics: FeatureTable,
    clinical: FeatureTable,
    dose: FeatureTable | None = None,
) -> Evidence:
    """Make what stage 3's Cox model sees of n patients.

    Args:
        expected_days_score: (n,) expected days without recurrence, standardized by their network's `Scale`; bounded
            here. None for an ensemble without networks.
        hpv_probability: (n,) the same model's forest probability, or a known status as 0 or 1; None for an ensemble
            without stage 2.
        radiomics: Features, as in `hpv_evidence`.
        clinical: Clinical record, as in `hpv_evidence`.
        dose: Columns of the planned dose, which stand beside the radiomics; None where no model reads any.
    """
    scores = dict[str, ArrayLike]()
    if expected_days_score is not None:
        scores[EXPECTED_DAYS_SCORE] = _bounded(expected_days_score, radiomics)
    if hpv_probability is not None:
        scores[HPV_PROBABILITY] = hpv_probability
    measured = FeatureTable.join(radiomics, dose) if dose else radiomics
    return Evidence(_table(scores, len(clinical)), measured, clinical)


def _table(columns: Mapping[str, ArrayLike], patients: int) -> FeatureTable:
    return FeatureTable.of(**columns) if columns else FeatureTable.empty(patients)


def _bounded(scores: ArrayLike, radiomics: FeatureTable) -> Floats:
    """Clip networks' standardized scores; where no lesion was found there is none, and the training mean stands in.

    Radiomics without the columns of `ABSENT` say of no patient that nothing was found.
    """
    found = ~(radiomics.read(ABSENT) == 1).all(axis=1) if set(ABSENT) <= set(radiomics.names) else True
    return np.where(found, np.clip(np.asarray(scores, dtype=float), -SCORE_LIMIT_SD, SCORE_LIMIT_SD), 0.0)
