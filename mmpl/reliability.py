"""How far probabilities can be taken at their word: calibration, Brier scores, and the net benefit of acting on them.

A patient censored before a day leaves it open whether there was a recurrence by then. `known_by` weights the others by
the inverse probability of being followed so long (IPCW; Graf, 1999), after which a day's probabilities are scored as
those of any yes or no. Where a measure is undefined it is NaN.
"""

import math
import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats
from scipy.special import expit, logit

from mmpl.names import AT_RISK_AT_END

Floats = NDArray[np.float64]
_LEAST_PROBABILITY = 1e-6  # whose log odds are taken in the place of those of 0
_WIDEST = 50.0  # log odds; where an intercept must lie further out, all have one outcome
_BINS = 10


def brier(probability: ArrayLike, happened: ArrayLike, weight: ArrayLike = 1.0) -> float:
    """Compute the mean squared difference between probabilities and outcomes; lower is better, NaN of no patient.

    Args:
        probability: (n,) predicted probabilities.
        happened: (n,) whether it happened.
        weight: (n,) weights, as those of `known_by`.
    """
    values, truth, weights = _aligned(probability, happened, weight)
    return float(np.average((values - truth) ** 2, weights=weights)) if weights.sum() else math.nan


def brier_skill(probability: ArrayLike, happened: ArrayLike, weight: ArrayLike = 1.0) -> float:
    """Compute the share of the Brier score of always saying the patients' own share that is saved.

    Returns:
        At most 1, 0 for no better than the share, NaN where all have one outcome.
    """
    values, truth, weights = _aligned(probability, happened, weight)
    if _one_outcome(truth, weights):
        return math.nan
    share = np.average(truth, weights=weights)
    return 1 - brier(values, truth, weights) / brier(np.full_like(values, share), truth, weights)


def calibration_intercept(probability: ArrayLike, happened: ArrayLike, weight: ArrayLike = 1.0) -> float:
    """Find what must be added to the log odds for the mean probability to be the share in which it happened.

    Returns:
        0 is right, above 0 says that probabilities are too low on the whole; NaN where all have one outcome.
    """
    values, truth, weights = _aligned(probability, happened, weight)
    if _one_outcome(truth, weights):
        return math.nan
    odds = _log_odds(values)
    return float(
        optimize.brentq(lambda shift: np.sum(weights * (truth - expit(odds + shift))), -_WIDEST, _WIDEST, xtol=1e-6)
    )


def calibration_slope(probability: ArrayLike, happened: ArrayLike, weight: ArrayLike = 1.0) -> float:
    """Find the slope of a logistic regression of the outcomes on the log odds (Cox, 1958).

    Returns:
        1 is right; below 1 says that probabilities are too extreme. NaN where all have one outcome or one probability.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    values, truth, weights = _aligned(probability, happened, weight)
    odds = _log_odds(values)
    if _one_outcome(truth, weights) or np.ptp(odds[weights > 0]) == 0:
        return math.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of probabilities that divide the outcomes
        fitted = LogisticRegression(C=np.inf).fit(odds[:, None], truth == 1, sample_weight=weights)
    return float(fitted.coef_[0, 0])


def auc(score: ArrayLike, happened: ArrayLike, weight: ArrayLike = 1.0) -> float:
    """Compute the weighted area under the ROC curve; with `known_by` that of a day (Uno, 2007). NaN of one outcome."""
    from sklearn.metrics import roc_auc_score

    values, truth, weights = _aligned(score, happened, weight)
    if _one_outcome(truth, weights):
        return math.nan
    return float(roc_auc_score(truth == 1, values, sample_weight=weights))


def net_benefit(probability: ArrayLike, happened: ArrayLike, threshold: float, weight: ArrayLike = 1.0) -> float:
    """Compute the net benefit of acting where a probability reaches a threshold (Vickers, 2006).

    Args:
        probability: (n,) predicted probabilities.
        happened: (n,) whether it happened.
        threshold: Probability from which one would act; it says how many in vain one accepts for one rightly.
        weight: (n,) weights, as those of `known_by`.

    Returns:
        Share of the patients acted on rightly, less the weighed share in vain; 0 is acting on nobody. NaN of none.
    """
    values, truth, weights = _aligned(probability, happened, weight)
    if not weights.sum():
        return math.nan
    acted = values >= threshold
    gain = np.where(truth == 1, 1.0, -threshold / (1 - threshold))
    return float(np.average(acted * gain, weights=weights))


def known_by(day: float, days: ArrayLike, relapse: ArrayLike) -> tuple[NDArray[np.bool_], Floats]:
    """Tell who had a relapse by a day, and weight each patient by the inverse probability of its being known.

    Args:
        day: The day.
        days: (n,) days to the relapse or to the end of follow-up.
        relapse: (n,) whether the relapse was seen.

    Returns:
        (n,) relapsed by that day; (n,) weights with a sum of n: 0 of who was censored before. All are 0 where fewer
        than a tenth are followed beyond that day.
    """
    times, seen = np.asarray(days, float), np.asarray(relapse, bool)
    happened = seen & (times <= day)
    if not len(times) or (times > day).mean() < AT_RISK_AT_END:
        return happened, np.zeros(len(times))
    # of a relapse and a censoring on one day the relapse comes first
    followed = _kaplan_meier(np.where(seen, np.nextafter(times, 0), times), ~seen)
    weights = np.zeros(len(times))
    weights[happened] = 1 / followed(np.nextafter(times[happened], 0))
    weights[times > day] = 1 / followed(np.array([day]))
    return happened, weights


def integrated_brier(
    curve_days: ArrayLike, no_recurrence: ArrayLike, days: ArrayLike, relapse: ArrayLike
) -> tuple[float, float]:
    """Average the Brier score over the days of survival curves, and compare with the patients' Kaplan-Meier.

    Args:
        curve_days: (T,) rising days.
        no_recurrence: (n, T) predicted probability of no recurrence by each.
        days: (n,) days to the relapse or to the end of follow-up.
        relapse: (n,) whether the relapse was seen.

    Returns:
        The mean score up to the last of those days beyond which a tenth of the patients is followed, and its skill: 0
        is no better than Kaplan-Meier's curve for everybody. NaN where there are no two such days, or no relapse.
    """
    times, seen = np.asarray(days, float), np.asarray(relapse, bool)
    curves, grid = np.asarray(no_recurrence, float), np.asarray(curve_days, float)
    known = [known_by(day, times, seen) for day in grid]
    used = [position for position, (_, weights) in enumerate(known) if weights.any()]
    if len(used) < 2 or not seen.any():
        return math.nan, math.nan
    everybody = _kaplan_meier(times, seen)(grid)
    ours = [brier(1 - curves[:, at], *known[at]) for at in used]
    theirs = [brier(np.full(len(times), 1 - everybody[at]), *known[at]) for at in used]
    score, plain = (float(np.trapezoid(each, grid[used]) / np.ptp(grid[used])) for each in (ours, theirs))
    return score, 1 - score / plain if plain else math.nan


def d_calibration(
    curve_days: ArrayLike, no_recurrence: ArrayLike, days: ArrayLike, relapse: ArrayLike, bins: int = _BINS
) -> float:
    """Test whether patients relapse as evenly over the quantiles of their own curves as they should (Haider, 2020).

    Args:
        curve_days: (T,) rising days; who is followed longer counts as censored on the last.
        no_recurrence: (n, T) predicted probability of no recurrence by each.
        days: (n,) days to the relapse or to the end of follow-up.
        relapse: (n,) whether the relapse was seen.
        bins: Number of quantiles.

    Returns:
        The p of a chi-squared test; small says that the curves are not calibrated. It is seldom small where many are
        censored. NaN of no patient.
    """
    times, grid = np.asarray(days, float), np.asarray(curve_days, float)
    if not len(times):
        return math.nan
    seen = np.asarray(relapse, bool) & (times <= grid[-1])
    curves = np.asarray(no_recurrence, float)
    left = np.array([np.interp(time, grid, curve) for time, curve in zip(times, curves, strict=True)])
    edges = np.linspace(0, 1, bins + 1)
    expected = np.zeros(bins)
    for probability, relapsed in zip(left, seen, strict=True):
        if relapsed:
            expected[min(int(probability * bins), bins - 1)] += 1
        else:  # anywhere below, evenly
            within = np.clip(probability - edges[:-1], 0, 1 / bins)
            expected += within / probability if probability else np.eye(bins)[0]
    return float(stats.chisquare(expected).pvalue)


def _kaplan_meier(days: Floats, event: NDArray[np.bool_]) -> Callable[[ArrayLike], Floats]:
    """Make a function of the share without an event after each of some days."""
    curve = stats.ecdf(stats.CensoredData.right_censored(days, ~event)).sf
    return lambda when: np.asarray(curve.evaluate(when))


def _aligned(probability: ArrayLike, happened: ArrayLike, weight: ArrayLike) -> tuple[Floats, Floats, Floats]:
    values, truth = np.asarray(probability, float), np.asarray(happened, float)
    return values, truth, np.broadcast_to(np.asarray(weight, float), values.shape)


def _one_outcome(truth: Floats, weights: Floats) -> bool:
    return len(np.unique(truth[weights > 0])) < 2


def _log_odds(probability: Floats) -> Floats:
    return logit(np.clip(probability, _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY))
