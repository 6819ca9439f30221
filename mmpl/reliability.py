"""How far probabilities can be taken at their word: calibration and Brier scores.

A patient censored before a day leaves it open whether there was a recurrence by then. `known_by` weights the others by
the inverse probability of being followed so long (IPCW; Graf, 1999), after which a day's probabilities are scored as
those of any yes or no. Where a measure is undefined it is NaN. A bootstrap asks for each of them thousands of times, so
the slope is a few lines here rather than scikit-learn's, which takes ten times as long on so few patients.
"""

import math
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
_NEWTON_STEPS, _NEWTON_DONE = 50, 1e-9


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
        1 is right; below 1 says that probabilities are too extreme. NaN where all have one outcome or one probability,
        and where probabilities divide the outcomes: whoever has it none below whoever has not, or none above. Every
        steeper slope fits better there.
    """
    values, truth, weights = _aligned(probability, happened, weight)
    used = weights > 0
    odds, truth, weights = _log_odds(values)[used], truth[used], weights[used]
    positive, negative = odds[truth == 1], odds[truth == 0]
    if _one_outcome(truth, weights) or positive.min() >= negative.max() or negative.min() >= positive.max():
        return math.nan
    columns = np.column_stack([np.ones_like(odds), (odds - odds.mean()) / odds.std()])

    def likelihood(parameters: Floats) -> float:
        line = columns @ parameters
        return float(weights @ (truth * line - np.logaddexp(0, line)))

    fitted = np.zeros(2)
    for _ in range(_NEWTON_STEPS):
        fit = expit(columns @ fitted)
        curvature = (columns.T * (weights * fit * (1 - fit))) @ columns
        step = np.linalg.lstsq(curvature, columns.T @ (weights * (truth - fit)), rcond=None)[0]
        reached = likelihood(fitted)
        while likelihood(fitted + step) < reached and np.abs(step).max() > _NEWTON_DONE:
            step /= 2  # a whole step from where the fit is nearly 0 or 1 goes too far
        fitted += step
        if np.abs(step).max() < _NEWTON_DONE:
            break
    return float(fitted[1] / odds.std())


def net_benefit(probability: ArrayLike, happened: ArrayLike, threshold: float, weight: ArrayLike = 1.0) -> float:
    """Compute the net benefit of acting where a probability reaches a threshold (Vickers, 2006).

    Returns:
        Share of patients rightly acted on, less that wrongly acted on times the odds of the threshold: 0 is acting on
        nobody, NaN of no patient.
    """
    values, truth, weights = _aligned(probability, happened, weight)
    if not weights.sum():
        return math.nan
    gain = np.where(truth == 1, 1.0, -threshold / (1 - threshold))
    return float(np.average(gain * (values >= threshold), weights=weights))


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
    happened, weights = _known_by([day], np.asarray(days, float), np.asarray(relapse, bool))
    return happened[:, 0], weights[:, 0]


def _known_by(grid: ArrayLike, days: Floats, relapse: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], Floats]:
    """Give what `known_by` gives of each of T days, (n, T) both."""
    asked, times = np.asarray(grid, float), days[:, None]
    happened, beyond = relapse[:, None] & (times <= asked), times > asked
    weights = np.zeros(happened.shape)
    if len(days):
        # of a relapse and a censoring on one day the relapse comes first
        followed = kaplan_meier(np.where(relapse, np.nextafter(days, 0), days), ~relapse)
        until_relapse = followed(np.nextafter(days, 0))[:, None]
        weights = np.divide(1, until_relapse, out=weights, where=happened)
        weights = np.divide(1, followed(asked), out=weights, where=beyond)
        weights[:, beyond.mean(axis=0) < AT_RISK_AT_END] = 0
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
    happened, weights = _known_by(grid, times, seen)
    used = weights.any(axis=0)
    if used.sum() < 2 or not seen.any():
        return math.nan, math.nan
    everybody = kaplan_meier(times, seen)(grid)
    happened, weights, asked = happened[:, used], weights[:, used], grid[used]

    def over_days(left: Floats) -> float:
        by_day = np.average((1 - left - happened) ** 2, axis=0, weights=weights)
        return float(np.trapezoid(by_day, asked) / np.ptp(asked))

    score, plain = over_days(curves[:, used]), over_days(np.broadcast_to(everybody[used], happened.shape))
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
    after, row = np.clip(np.searchsorted(grid, times), 1, len(grid) - 1), np.arange(len(times))
    share = np.clip((times - grid[after - 1]) / (grid[after] - grid[after - 1]), 0, 1)
    left = (1 - share) * curves[row, after - 1] + share * curves[row, after]
    edges = np.linspace(0, 1, bins + 1)
    whole, _ = np.histogram(left[seen], edges)
    censored = left[~seen, None]  # anywhere below, evenly
    shares = np.clip(censored - edges[:-1], 0, 1 / bins) / np.maximum(censored, np.finfo(float).tiny)
    shares[censored[:, 0] == 0, 0] = 1
    expected = whole + shares.sum(axis=0)
    return float(stats.chisquare(expected).pvalue)


def kaplan_meier(days: Floats, event: NDArray[np.bool_]) -> Callable[[ArrayLike], Floats]:
    """Make Kaplan and Meier's estimate: a function of the share without an event after each of some days."""
    curve = stats.ecdf(stats.CensoredData.right_censored(days, ~event)).sf
    return lambda when: np.asarray(curve.evaluate(when))


def _aligned(probability: ArrayLike, happened: ArrayLike, weight: ArrayLike) -> tuple[Floats, Floats, Floats]:
    values, truth = np.asarray(probability, float), np.asarray(happened, float)
    return values, truth, np.broadcast_to(np.asarray(weight, float), values.shape)


def _one_outcome(truth: Floats, weights: Floats) -> bool:
    return len(np.unique(truth[weights > 0])) < 2


def _log_odds(probability: Floats) -> Floats:
    return logit(np.clip(probability, _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY))
