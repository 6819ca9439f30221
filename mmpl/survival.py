"""Stage 3: discrete-time survival, expected time, Cox integration and the ensemble's risk score (higher is worse).

The network gives K hazard logits a patient. From them come a survival curve and the expected days without recurrence;
a Cox model joins these with the HPV probability, radiomics and clinical indicators (paper, section 2.5). Fitting it
(`mmpl.training.cox`) needs lifelines and skglm; a fitted `CoxModel` is a short table of numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmpl.calibration import SurvivalCalibration, SurvivalCurve
from mmpl.evidence import Evidence, Floats, Scale
from mmpl.explanation import Explanation, Share
from mmpl.names import AT_RISK_AT_END


def checked_outcome(
    rfs_days: ArrayLike, relapse: ArrayLike, minimum_events: int = 0
) -> tuple[Floats, NDArray[np.bool_]]:
    """Return times and events as arrays (n,), or raise ValueError where a model cannot use them."""
    days, seen = np.asarray(rfs_days, dtype=float), np.asarray(relapse, dtype=bool)
    if days.ndim != 1 or days.shape != seen.shape:
        raise ValueError(f"times {days.shape} and relapses {seen.shape} are not one of each a patient")
    if not (np.isfinite(days) & (days >= 0)).all():
        raise ValueError("a recurrence-free survival is negative or not finite")
    if seen.sum() < minimum_events:
        raise ValueError(f"{seen.sum()} relapses among {len(days)} patients: at least {minimum_events} are needed")
    return days, seen


def end_of_follow_up(days: ArrayLike) -> float:
    """Give the day up to which `AT_RISK_AT_END` of some patients, (n,) days to relapse or censoring, are followed."""
    return float(np.quantile(np.asarray(days, dtype=float), 1 - AT_RISK_AT_END))


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

        The last edge is the day up to which `AT_RISK_AT_END` of the patients are followed; the inner ones are quantiles
        of the relapse times before it. Where ties or too few relapses make two of those equal, they are quantiles of
        {0, the distinct relapse times before the end, the end} instead, which are always distinct.

        Args:
            rfs_days: (n,) days to relapse or to the end of follow-up.
            relapse: (n,) whether the relapse was seen.
            count: Number of intervals, K.

        Raises:
            ValueError: If no relapse was seen, or a time is negative or not finite.
        """
        days, seen = checked_outcome(rfs_days, relapse, minimum_events=1)
        end = end_of_follow_up(days)
        parts, relapses = np.linspace(0, 1, count + 1), days[seen & (days <= end)]
        edges = np.quantile(relapses, parts) if len(relapses) else np.zeros(count + 1)
        edges[0], edges[-1] = 0, end
        if (np.diff(edges) <= 0).any():
            edges = np.quantile(np.unique([0, *relapses, end]), parts)
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

        A relapse in interval j: all earlier ones survived, j not. Censored: the intervals wholly survived, and of the
        one that the end of follow-up falls in the share that was survived, as the hazard is constant in an interval. A
        relapse after the last edge: all survived.

        Returns:
            survived: (n, K) share of each interval, 0 to 1; 0 in that of the relapse.
            event: (n, K) 1 in the interval of the relapse, 0 elsewhere. What is neither adds nothing to the loss.
        """
        days, seen = checked_outcome(rfs_days, relapse)
        edges = np.asarray(self.edges_days)
        days, seen = days[:, None], seen[:, None]
        survived = np.clip((days - edges[:-1]) / self.lengths_days, 0, 1)
        event = seen & (days <= edges[1:]) & ((days > edges[:-1]) | (np.arange(self.count) == 0))
        return np.where(event, 0, survived), event.astype(float)


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
        curve_days: (points,) days from 0 to the earliest of the last edges, so that no curve is extrapolated.
        curves: (models, points) probabilities of no relapse.
    """
    days = np.linspace(0, min(each.edges_days[-1] for each in intervals), points)
    logs = [np.log(np.maximum(np.append(1, curve), np.finfo(float).tiny)) for curve in survivals]
    curves = [np.interp(days, each.edges_days, curve) for each, curve in zip(intervals, logs, strict=True)]
    return days, np.exp(curves)


@dataclass(frozen=True)
class ScaledColumn:
    """The way one column of the evidence becomes a covariate.

    Attributes:
        name: The column of `mmpl.evidence.Evidence`.
        fill: Value that stands in for a missing one, the training median.
        mean: Value that is subtracted.
        scale: Divisor: the SD for radiomics, 1 elsewhere, so that a hazard ratio is per level or per unit.
        limit: Bound to which the covariate is clipped, plus and minus; None for no limit.
    """

    name: str
    fill: float
    mean: float
    scale: float
    limit: float | None

    def read(self, evidence: Evidence) -> Floats:
        """Return the (n,) covariate, imputed, scaled and clipped.

        Raises:
            ValueError: The evidence has no such column.
        """
        return self.scale_values(evidence.table.read([self.name])[:, 0])

    def scale_values(self, values: Floats) -> Floats:
        """Impute, scale and clip (n,) values of the column."""
        scaled = (np.where(np.isfinite(values), values, self.fill) - self.mean) / self.scale
        return scaled if self.limit is None else np.clip(scaled, -self.limit, self.limit)


@dataclass(frozen=True)
class Covariate(ScaledColumn):
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
        patients, events: Numbers of patients and relapses it was fitted on, by `mmpl.training.cox`.
    """

    covariates: tuple[Covariate, ...]
    patients: int
    events: int

    def log_partial_hazard(self, evidence: Evidence) -> Floats:
        """Return (n,) log partial hazards, higher is worse; 0 is a patient at the training means.

        Raises:
            ValueError: The evidence lacks a covariate's column; the message names it.
        """
        terms = list(self.terms(evidence).values())
        return np.sum(terms, axis=0) if terms else np.zeros(len(evidence))

    def terms(self, evidence: Evidence) -> dict[str, Floats]:
        """Return what each covariate adds to the log partial hazard, (n,) by its column; raises as that does."""
        return {covariate.name: covariate.coefficient * covariate.read(evidence) for covariate in self.covariates}

    def explain(self, evidence: Evidence, risk_scale: Scale) -> Share:
        """Split the one patient's standardized risk into what each covariate adds; raises as the hazard does."""
        terms = {name: float(term[0]) / risk_scale.sd for name, term in self.terms(evidence).items()}
        return Share(risk_scale.standardize(0.0), terms)


@dataclass(frozen=True)
class SurvivalResult:
    """The ensemble's answer for one patient.

    Attributes:
        risk_score: Mean of `member_risks`; higher is worse, 0 an average patient of the training cohort.
        member_risks: Each model's standardized log partial hazard.
        curve_days: (T,) days.
        member_curves: (models, T) each deep model's probability of no relapse by then.
        curve: Calibrated probability of no recurrence, which goes with the risk; None where the weights were not
            calibrated.
        percentile: Share of the training patients, 0 to 100, whose risk is lower; None likewise.
        training_curve: Probability of no recurrence of the training patients, on the days of `curve`; None likewise.
        explanation: What each finding adds to the risk.
        recurrence_free_days: Mean days without recurrence, of the curve up to the end of follow-up; fewer for a higher
            risk. None likewise, or where by the calibration a higher risk is no worse.
    """

    risk_score: float
    member_risks: tuple[float, ...]
    curve_days: Floats
    member_curves: Floats
    curve: SurvivalCurve | None = None
    percentile: float | None = None
    training_curve: Floats | None = None
    explanation: Explanation | None = None
    recurrence_free_days: float | None = None


def combine(
    log_partial_hazards: Sequence[float],
    scales: Sequence[Scale],
    curve_days: Floats,
    curves: Floats,
    calibration: SurvivalCalibration | None = None,
) -> SurvivalResult:
    """Join the models' log partial hazards for one patient, say what they mean, and carry `member_curves` along."""
    risks = tuple(scale.standardize(hazard) for hazard, scale in zip(log_partial_hazards, scales, strict=True))
    result = SurvivalResult(float(np.mean(risks)), risks, curve_days, curves)
    if calibration is None:
        return result
    curve = calibration.curve(risks)
    days = curve.restricted_mean_days if calibration.follows_risk else None
    percentile, training = calibration.percentile(result.risk_score), calibration.training_curve()
    return replace(result, curve=curve, percentile=percentile, training_curve=training, recurrence_free_days=days)
