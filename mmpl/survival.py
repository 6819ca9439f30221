"""Stage 3: discrete-time survival, expected time, Cox integration and the ensemble's risk score (higher is worse).

The network gives K hazard logits a patient. From them come a survival curve and the expected days without recurrence;
a Cox model joins these with the HPV probability, radiomics and clinical indicators (paper, section 2.5). Fitting needs
lifelines and skglm; a fitted `CoxModel` is a short table of numbers, and applying it needs NumPy alone.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from mmpl.cox import (
    DUPLICATE_CORRELATION,
    RADIOMICS_LIMIT_SD,
    Floats,
    checked_outcome,
    fit_ridge,
    screen_clinical,
    select_radiomics,
)
from mmpl.selection import distinct

log = logging.getLogger(__name__)

MINIMUM_EVENTS = 3
"""Fewer relapses than this fit no Cox model."""
SMALLEST_SD = 0.05
"""Floor of the SD that standardizes a model's risk: a model that says nothing must not be blown up to say much."""


@dataclass(frozen=True)
class TimeIntervals:
    """The K consecutive intervals of discrete time, interval j being (edges[j], edges[j + 1]].

    Attributes:
        edges_days: K + 1 strictly increasing days; the first is 0.
    """

    edges_days: tuple[float, ...]

    def __post_init__(self) -> None:
        edges = np.asarray(self.edges_days, dtype=float)
        if len(edges) < 2 or edges[0] != 0 or not np.isfinite(edges).all() or (np.diff(edges) <= 0).any():
            raise ValueError(f"interval edges must start at 0 and increase strictly, got {self.edges_days}")

    @classmethod
    def cut(cls, rfs_days: ArrayLike, relapse: ArrayLike, count: int) -> Self:
        """Cut follow-up into `count` intervals with about as many relapses in each.

        The inner edges are quantiles of the relapse times, the last is the longest follow-up. Where ties or too few
        relapses make two of those equal, they are quantiles of {0, the distinct relapse times, the longest follow-up}
        instead, which are always distinct.

        Args:
            rfs_days: (n,) days to relapse or to the end of follow-up.
            relapse: (n,) whether the relapse was seen.
            count: K.

        Raises:
            ValueError: If no relapse was seen, or a time is negative or not finite.
        """
        days, seen = checked_outcome(rfs_days, relapse, minimum_events=1)
        parts = np.linspace(0, 1, count + 1)
        edges = np.quantile(days[seen], parts)
        edges[0], edges[-1] = 0, days.max()
        if (np.diff(edges) <= 0).any():
            edges = np.quantile(np.unique([0, *days[seen], days.max()]), parts)
        return cls(tuple(float(edge) for edge in edges))

    @property
    def count(self) -> int:
        """K."""
        return len(self.edges_days) - 1

    @property
    def lengths_days(self) -> Floats:
        """(K,) length of each interval."""
        return np.diff(self.edges_days)

    def targets(self, rfs_days: ArrayLike, relapse: ArrayLike) -> tuple[Floats, Floats]:
        """Say which intervals each patient is known to have survived, and in which one the relapse came.

        A relapse in interval j: all earlier ones survived, j not. Censored: the intervals wholly survived, and the one
        the end of follow-up falls in once past its midpoint. A relapse after the last edge: all survived.

        Returns:
            survived, event: (n, K) of 0 and 1 each; an interval that is neither adds nothing to the loss.
        """
        days, seen = checked_outcome(rfs_days, relapse)
        edges = np.asarray(self.edges_days)
        days, seen = days[:, None], seen[:, None]
        midpoints = (edges[:-1] + edges[1:]) / 2
        survived = np.where(seen, days > edges[1:], days > midpoints)
        event = seen & (days <= edges[1:]) & ((days > edges[:-1]) | (np.arange(self.count) == 0))
        return survived.astype(float), event.astype(float)


def survival_curve(hazard_logits: ArrayLike) -> Floats:
    """Turn hazard logits (..., K) into the probability of no relapse up to the end of each interval, (..., K)."""
    return np.exp(-np.cumsum(np.logaddexp(0, np.asarray(hazard_logits, dtype=float)), axis=-1))


def expected_days(survival: Floats, intervals: TimeIntervals) -> Floats:
    """Sum S_i dt_i (paper, section 2.5): days without relapse, higher is better; (..., K) -> (...)."""
    return survival @ intervals.lengths_days


def member_curves(
    survivals: Sequence[Floats], intervals: Sequence[TimeIntervals], points: int = 61
) -> tuple[Floats, Floats]:
    """Read the models' curves, each (K,) on its own intervals, at common days; the hazard is constant in an interval.

    Returns:
        curve_days: (points,) from 0 to the earliest of the last edges, so that no curve is extrapolated.
        curves: (models, points) probabilities of no relapse.
    """
    days = np.linspace(0, min(each.edges_days[-1] for each in intervals), points)
    logs = [np.log(np.maximum(np.append(1, curve), np.finfo(float).tiny)) for curve in survivals]
    curves = [np.interp(days, each.edges_days, curve) for each, curve in zip(intervals, logs, strict=True)]
    return days, np.exp(curves)


@dataclass(frozen=True)
class SurvivalEvidence:
    """What a Cox model sees of n patients.

    Attributes:
        expected_days_score: (n,) expected days, standardized by mean and SD of their network's out-of-fold scores.
        hpv_probability: (n,) the same model's forest probability, or a known status as 0 or 1.
        radiomics: (n, p) radiomics; NaN for an absent lesion.
        clinical: (n, q) encoded clinical record.
    """

    expected_days_score: Floats
    hpv_probability: Floats
    radiomics: Floats
    clinical: Floats

    def __post_init__(self) -> None:
        shapes = [getattr(self, name).shape for name in ("expected_days_score", "hpv_probability")]
        shapes += [self.radiomics.shape[:1], self.clinical.shape[:1]]
        if set(shapes) != {(len(self.clinical),)}:
            raise ValueError(f"the survival evidence is not of one number of patients: {shapes}")
        for name in ("expected_days_score", "hpv_probability", "clinical"):
            if not np.isfinite(getattr(self, name)).all():
                raise ValueError(f"the survival evidence's {name} is not finite")

    def column(self, block: str, index: int) -> Floats:
        """Return one (n,) column of the field named."""
        return getattr(self, block).reshape(len(self.clinical), -1)[:, index]

    def check_columns(self, radiomics: int, clinical: int) -> None:
        """Raise ValueError where the columns are not so many."""
        got = (self.radiomics.shape[1], self.clinical.shape[1])
        if got != (radiomics, clinical):
            raise ValueError(f"{got} radiomics and clinical columns, where {(radiomics, clinical)} are expected")


@dataclass(frozen=True)
class Column:
    """How to read one covariate of every patient.

    Attributes:
        name: What a table calls it.
        block: The field of `SurvivalEvidence` it comes from.
        index: Its column there; 0 for the two fields of one column.
        fill: What stands in for a missing value, the training median.
        mean: Subtracted.
        scale: Divided by: the SD for radiomics, 1 elsewhere, so that a hazard ratio is per level or per unit.
    """

    name: str
    block: str
    index: int
    fill: float
    mean: float
    scale: float

    def read(self, evidence: SurvivalEvidence) -> Floats:
        """Return the (n,) covariate, imputed and scaled."""
        values = evidence.column(self.block, self.index)
        values = (np.where(np.isfinite(values), values, self.fill) - self.mean) / self.scale
        return np.clip(values, -RADIOMICS_LIMIT_SD, RADIOMICS_LIMIT_SD) if self.block == "radiomics" else values


@dataclass(frozen=True)
class Covariate(Column):
    """One row of a Cox model: the column, its coefficient, and what a paper would print of it.

    Attributes:
        coefficient: Log hazard ratio; above 0 is worse.
        hazard_ratio_low, hazard_ratio_high: 95% confidence interval, optimistic after selection.
        p: Wald test, optimistic too.
        proportional_hazards_p: Test on Schoenfeld residuals against ranked times; small speaks against the model.
    """

    coefficient: float
    hazard_ratio: float
    hazard_ratio_low: float
    hazard_ratio_high: float
    p: float
    proportional_hazards_p: float


@dataclass(frozen=True)
class CoxModel:
    """Cox's proportional hazards on expected time, HPV probability, chosen radiomics and clinical columns.

    Attributes:
        covariates: The model's rows, which are also its table of results; none where nothing varied.
        radiomics_count, clinical_count: Columns the evidence must have.
        patients, events: What it was fitted on.
    """

    covariates: tuple[Covariate, ...]
    radiomics_count: int
    clinical_count: int
    patients: int
    events: int

    @classmethod
    def fit(
        cls,
        evidence: SurvivalEvidence,
        rfs_days: ArrayLike,
        relapse: ArrayLike,
        radiomics_names: Sequence[str],
        clinical_names: Sequence[str],
        screening_p: float,
        seed: int,
    ) -> Self:
        """Select covariates and fit, all on these patients alone.

        Expected time and HPV probability always enter; clinical columns with a univariate p below `screening_p`;
        radiomics that an L1-penalized Cox regression chooses among themselves. Of each one-hot (`Field=level`) the
        commonest level is the reference and left out; constant columns and near duplicates are dropped.

        Args:
            rfs_days: (n,) days to relapse or to the end of follow-up.
            relapse: (n,) whether the relapse was seen.
            radiomics_names: p names, for the table.
            clinical_names: q names; `Field=level` for the columns of a one-hot.
            screening_p: 0.05 in the paper.
            seed: Of the inner cross-validation's folds.

        Raises:
            ValueError: If there are fewer than `MINIMUM_EVENTS` relapses, or shapes or names do not fit.
        """
        days, seen = checked_outcome(rfs_days, relapse, MINIMUM_EVENTS)
        if len(days) != len(evidence.hpv_probability):
            raise ValueError(f"{len(days)} outcomes for {len(evidence.hpv_probability)} patients")
        evidence.check_columns(len(radiomics_names), len(clinical_names))
        columns = [_column(block, block, 0, evidence) for block in ("expected_days_score", "hpv_probability")]
        for index in screen_clinical(evidence.clinical, clinical_names, days, seen, screening_p):
            columns.append(_column(clinical_names[index], "clinical", index, evidence))
        for index in select_radiomics(evidence.radiomics, days, seen, seed):
            columns.append(_column(radiomics_names[index], "radiomics", index, evidence))
        values = np.column_stack([column.read(evidence) for column in columns])
        kept = distinct(values, DUPLICATE_CORRELATION)
        rows = fit_ridge(values[:, kept], days, seen)
        covariates = tuple(Covariate(**asdict(columns[i]), **row) for i, row in zip(kept, rows, strict=True))
        log.info("Cox model on %d patients, %d relapses: %s", len(days), seen.sum(), [c.name for c in covariates])
        return cls(covariates, len(radiomics_names), len(clinical_names), len(days), int(seen.sum()))

    def log_partial_hazard(self, evidence: SurvivalEvidence) -> Floats:
        """Return (n,) log partial hazards, higher is worse; 0 is a patient at the training means."""
        evidence.check_columns(self.radiomics_count, self.clinical_count)
        terms = [covariate.coefficient * covariate.read(evidence) for covariate in self.covariates]
        return np.sum(terms, axis=0) if terms else np.zeros(len(evidence.hpv_probability))

    def to_dict(self) -> dict[str, Any]:
        """Return the model as JSON can hold it; `covariates` is the table of hazard ratios."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read `to_dict`'s answer back."""
        return cls(**{**data, "covariates": tuple(Covariate(**row) for row in data["covariates"])})


@dataclass(frozen=True)
class RiskScale:
    """Mean and SD of one model's out-of-fold log partial hazards."""

    mean: float
    sd: float

    @classmethod
    def of(cls, log_partial_hazards: Floats) -> Self:
        """Measure out-of-fold log partial hazards (n,)."""
        return cls(float(log_partial_hazards.mean()), float(log_partial_hazards.std()))

    def standardize(self, log_partial_hazard: float) -> float:
        """Put a log partial hazard on the ensemble's common scale; higher stays worse."""
        return (log_partial_hazard - self.mean) / max(self.sd, SMALLEST_SD)


@dataclass(frozen=True)
class SurvivalResult:
    """The ensemble's answer for one patient.

    Attributes:
        risk_score: Mean of `member_risks`; higher is worse, 0 an average patient of the training cohort.
        member_risks: Each model's standardized log partial hazard.
        curve_days: (T,) days.
        member_curves: (models, T) each deep model's probability of no relapse by then.
    """

    risk_score: float
    member_risks: tuple[float, ...]
    curve_days: Floats
    member_curves: Floats

    @property
    def mean_curve(self) -> Floats:
        """(T,) mean over the models."""
        return self.member_curves.mean(0)


def combine(
    log_partial_hazards: Sequence[float], scales: Sequence[RiskScale], curve_days: Floats, curves: Floats
) -> SurvivalResult:
    """Join the models' log partial hazards for one patient, and carry their `member_curves` along."""
    risks = tuple(scale.standardize(hazard) for hazard, scale in zip(log_partial_hazards, scales, strict=True))
    return SurvivalResult(float(np.mean(risks)), risks, curve_days, curves)


def _column(name: str, block: str, index: int, evidence: SurvivalEvidence) -> Column:
    """Learn how to read one column: its median, its mean and, for radiomics, its SD."""
    values = evidence.column(block, index)
    fill = float(np.median(values[np.isfinite(values)]))
    filled = np.where(np.isfinite(values), values, fill)
    scale = float(filled.std()) if block == "radiomics" else 1.0
    return Column(name, block, int(index), fill, float(filled.mean()), scale)
