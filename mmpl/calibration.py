"""What an ensemble's scores mean: the probability of HPV positivity, and of no recurrence by a day, with its interval.

Both, and the sets of HPV statuses, are fitted on the training patients' mean out-of-fold scores
(`mmpl.training.calibration`), two models a patient where an answer is the mean of ten: approximate for that reason.
None changes a decision or a ranking.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit

from mmpl.evidence import Floats

_LEAST_SCORE = 1e-3  # a mean probability of forests may be 0 or 1, whose log odds are infinite


def check_prevalence(share: float) -> float:
    """Give a share of HPV-positive patients back.

    Raises:
        ValueError: It is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise ValueError(f"an HPV prevalence of {share:g} is not between 0 and 1")
    return share


def log_odds(score: ArrayLike) -> Floats:
    """Give the log odds of mean probabilities of forests, bounded."""
    return logit(np.clip(np.asarray(score, dtype=float), _LEAST_SCORE, 1 - _LEAST_SCORE))


class HpvSet(StrEnum):
    """The HPV status that a score leaves, or that it leaves open."""

    POSITIVE = "positive"
    NEGATIVE = "negative"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class HpvSets:
    """The class-conditional conformal sets (Vovk, 2012): which HPV statuses a score leaves.

    For at least nine in ten patients of either status theirs is among those left, whatever the prevalence, as far as
    they are like those of training. Where both are left, the score does not tell; where neither is, it is one that few
    patients of either have: undecided, both.

    Attributes:
        positive_from: Score from which the status may be positive.
        negative_to: Score up to which it may be negative.
    """

    positive_from: float
    negative_to: float

    def of(self, score: float) -> HpvSet:
        """Give the status that a score leaves."""
        positive, negative = score >= self.positive_from, score <= self.negative_to
        if positive == negative:
            return HpvSet.UNDECIDED
        return HpvSet.POSITIVE if positive else HpvSet.NEGATIVE


@dataclass(frozen=True)
class HpvCalibration:
    """The logistic calibration of the ensemble's HPV score, its models' mean probability (Platt, 1999).

    Attributes:
        intercept, slope: The log odds of being HPV-positive are intercept + slope * log odds of the score.
        prevalence: Share of HPV-positive patients among those that it was fitted on.
        sets: Which scores leave which status; None where they would leave most patients undecided.
    """

    intercept: float
    slope: float
    prevalence: float
    sets: HpvSets | None = None

    def log_likelihood_ratio(self, score: ArrayLike) -> Floats:
        """Give what a score says for HPV-positive whatever the prevalence is; above 0 it speaks for it."""
        return self.intercept + self.slope * log_odds(score) - logit(self.prevalence)

    def probability(self, score: ArrayLike, prevalence: float | None = None) -> Floats:
        """Give the probability of being HPV-positive.

        Args:
            score: Mean probability of the models, any shape.
            prevalence: Share of HPV-positive patients where the patient comes from; by default that of training.

        Raises:
            ValueError: The prevalence is not between 0 and 1.
        """
        return expit(self.log_likelihood_ratio(score) + logit(self.stated_or_own(prevalence)))

    def stated_or_own(self, prevalence: float | None) -> float:
        """Give the prevalence that a probability is for: the one that is stated, else that of training.

        Raises:
            ValueError: The stated one is not between 0 and 1.
        """
        return self.prevalence if prevalence is None else check_prevalence(prevalence)


@dataclass(frozen=True)
class SurvivalCurve:
    """The probability of no recurrence by a day, of one patient.

    Attributes:
        days: (T,) days, from 0 to the last that the training patients' follow-up speaks of.
        probability: (T,) falling from 1.
        low, high: (T,) 95% interval.
    """

    days: Floats
    probability: Floats
    low: Floats
    high: Floats

    def at(self, day: float) -> tuple[float, float, float]:
        """Give probability, low and high end of its interval on a day.

        Raises:
            ValueError: The day is before 0 or beyond the follow-up.
        """
        if not 0 <= day <= self.days[-1]:
            raise ValueError(f"day {day:g} is not within the follow-up of {self.days[-1]:.0f} days")
        curves = self.probability, self.low, self.high
        probability, low, high = (float(np.interp(day, self.days, curve)) for curve in curves)
        return probability, low, high

    @property
    def median_days(self) -> float | None:
        """The day by which one half have a recurrence; None where the follow-up ends before."""
        if self.probability[-1] > 0.5:
            return None
        return float(np.interp(-0.5, -self.probability, self.days))

    @property
    def restricted_mean_days(self) -> float:
        """Mean days without recurrence, of the follow-up's."""
        return float(np.trapezoid(self.probability, self.days))


@dataclass(frozen=True)
class SurvivalCalibration:
    """A Cox model of recurrence on the ensemble's risk alone, and on resampled training patients for its interval.

    Attributes:
        days: T days, from 0 to where the follow-up of training ends.
        slope: Log hazard ratio of one unit of risk.
        cumulative_hazard: T cumulative hazards of a patient of risk 0, rising from 0.
        resampled_slopes: The slope of each of B bootstrap samples of the training patients.
        resampled_hazards: Their cumulative hazards, B of T.
        risk_quantiles: The 101 percentiles, 0 to 100, of the training patients' risks.
    """

    days: tuple[float, ...]
    slope: float
    cumulative_hazard: tuple[float, ...]
    resampled_slopes: tuple[float, ...]
    resampled_hazards: tuple[tuple[float, ...], ...]
    risk_quantiles: tuple[float, ...]

    def curve(self, member_risks: Sequence[float]) -> SurvivalCurve:
        """Make the curve of one patient.

        The interval holds what the training patients and the models leave open: each bootstrap sample of the former
        meets one of the latter.

        Args:
            member_risks: Standardized risk of each model; higher is worse.
        """
        risks = np.asarray(member_risks, dtype=float)
        drawn = np.random.default_rng(0).choice(risks, (len(self.resampled_slopes), len(risks))).mean(axis=1)
        hazards = np.exp(np.array(self.resampled_slopes) * drawn)[:, None] * np.array(self.resampled_hazards)
        probability = np.exp(-math.exp(self.slope * risks.mean()) * np.array(self.cumulative_hazard))
        low, high = np.quantile(np.exp(-hazards), [0.025, 0.975], axis=0)
        return SurvivalCurve(np.array(self.days), probability, low, high)

    @property
    def follows_risk(self) -> bool:
        """Whether a higher risk means fewer days without recurrence."""
        return self.slope > 0

    def training_curve(self) -> Floats:
        """Give the probability of no recurrence of the training patients, (T,): the mean of their own curves."""
        hazards = np.exp(self.slope * np.array(self.risk_quantiles))[:, None] * np.array(self.cumulative_hazard)
        return np.exp(-hazards).mean(axis=0)

    def percentile(self, risk: float) -> float:
        """Give the share of the training patients, 0 to 100, whose risk is lower."""
        return float(np.interp(risk, self.risk_quantiles, np.arange(101)))


@dataclass(frozen=True)
class Calibration:
    """What an ensemble's scores mean; None of a stage that it lacks, or of weights that were never calibrated.

    Attributes:
        survival_known: That of risks that rest on a known HPV status: Cox models that learn from known statuses answer
            them at another level than predicted ones.
        version: Version of this record; another number where an older one would be read without error and mislead.
    """

    hpv: HpvCalibration | None = None
    survival: SurvivalCalibration | None = None
    survival_known: SurvivalCalibration | None = None
    version: int = 1

    def of_risk(self, known_status: bool) -> SurvivalCalibration | None:
        """Give the calibration of risks that rest on a known HPV status, or on a predicted one or none.

        Where too few had a known status to calibrate by, it is that of the others.
        """
        return self.survival_known if known_status and self.survival_known else self.survival

    def __post_init__(self) -> None:
        if self.version != 1:
            raise ValueError(f"a calibration of version {self.version}, and this program reads 1")
