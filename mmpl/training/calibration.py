"""Calibration of an ensemble's scores, on the mean out-of-fold scores of patients whose outcome is known."""

import logging
import math
import warnings

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmpl.calibration import Calibration, HpvCalibration, HpvSet, HpvSets, SurvivalCalibration, log_odds
from mmpl.evidence import Floats
from mmpl.names import AT_RISK_AT_END, Stage
from mmpl.survival import checked_outcome, end_of_follow_up
from mmpl.training.hpv import with_status
from mmpl.training.outcome_network import by_scheme, mean_over_schemes
from mmpl.training.records import HpvRecord, SurvivalRecord
from mmpl.training.survival import RisksOfKnownStatus, times_and_events, with_rfs
from mmpl.training.workspace import Workspace

LEAST_CASES = 10
"""Fewer patients of either HPV status, or fewer relapses, say nothing of how well a score is calibrated."""

MISSED = 0.1
"""Share of the patients of either HPV status whose set of statuses may lack it."""
MOST_UNDECIDED = 0.5
"""Sets that leave more than this share of the patients undecided say too little to be given."""

RESAMPLES = 200
"""Bootstrap samples of the training patients, for the interval of a curve."""
POINTS = 61
"""Days of a curve."""


_LEAST_RESAMPLED = 3  # relapses in a bootstrap sample
_COX_PENALTY, _LOGISTIC_C = 1e-3, 100.0
"""lifelines' penalizer and sklearn's C. They keep the slope of a score that divides the patients finite; on 600
simulated patients they move others by 0.4% and 0.2% at most."""

log = logging.getLogger(__name__)


class NotCalibratedError(ValueError):
    """Why a run's scores cannot be calibrated."""


def calibrate(workspace: Workspace) -> Calibration:
    """Calibrate what a finished run's models say, as far as it can be; why not, where it cannot, is logged."""
    hpv, survival, known, stages = None, None, None, workspace.settings.stages
    if Stage.HPV in stages:
        try:
            hpv = calibrate_hpv_of(workspace)
            if hpv.sets is None:
                log.warning("no sets of HPV statuses: too few patients, or most of them would be undecided")
        except NotCalibratedError as why:
            log.warning("HPV probabilities are not calibrated: %s", why)
    if Stage.SURVIVAL in stages:
        try:
            survival = calibrate_survival_of(workspace)
        except NotCalibratedError as why:
            log.warning("risks are not calibrated: %s", why)
    if survival and Stage.HPV in stages:
        try:
            known = calibrate_survival_of(workspace, known_status=True)
        except NotCalibratedError as why:
            log.warning("risks that rest on a known HPV status have the calibration of the others: %s", why)
    return Calibration(hpv, survival, known)


def calibrate_hpv_of(workspace: Workspace) -> HpvCalibration:
    """Calibrate a run's HPV score on all patients whose status is known.

    Raises:
        NotCalibratedError: There are too few of one status, or the score is lower of positive patients.
    """
    known = with_status(workspace.patients)
    status = np.array([p.outcome.hpv_positive for p in known], bool)
    if min(status.sum(), (~status).sum()) < LEAST_CASES:
        raise NotCalibratedError(f"fewer than {LEAST_CASES} patients of one status")
    fitted = calibrate_hpv(mean_over_schemes(workspace.read(HpvRecord).probability, known), status)
    if fitted.slope <= 0:
        raise NotCalibratedError("out of fold they are no higher of positive patients than of negative ones")
    return fitted


def calibrate_survival_of(
    workspace: Workspace, resamples: int = RESAMPLES, known_status: bool = False
) -> SurvivalCalibration:
    """Calibrate a run's risk on all patients whose time and event are known.

    Args:
        workspace: A finished run.
        resamples: Number of bootstrap samples.
        known_status: Calibrate the risks that rest on known HPV statuses, on the patients who have one; otherwise those
            that rest on predicted ones.

    Raises:
        NotCalibratedError: There are too few relapses, or they come later where the risk is higher.
    """
    followed = with_rfs(with_status(workspace.patients) if known_status else workspace.patients)
    days, relapse = times_and_events(followed)
    if relapse.sum() < LEAST_CASES:
        raise NotCalibratedError(f"{relapse.sum()} relapses, and {LEAST_CASES} are needed")
    risks = workspace.read(SurvivalRecord).risk
    if known_status:
        members = workspace.splits.members
        risks = by_scheme(members, list(map(RisksOfKnownStatus(workspace), members)))
    risk = mean_over_schemes(risks, followed)
    end = end_of_follow_up(times_and_events(with_rfs(workspace.patients))[0])  # of either kind: so their days compare
    if np.mean(days >= end) < AT_RISK_AT_END / 2:
        raise NotCalibratedError("too few are followed as long as the others")
    fitted = calibrate_survival(risk, days, relapse, workspace.profile.training.seed, resamples, end)
    if not fitted.follows_risk:
        raise NotCalibratedError("out of fold, relapses come no sooner where they are higher")
    return fitted


def calibrate_hpv(score: ArrayLike, positive: ArrayLike) -> HpvCalibration:
    """Fit a logistic calibration, and sets of statuses where there are patients enough.

    Args:
        score: (n,) mean out-of-fold probabilities.
        positive: (n,) HPV status.

    Raises:
        ValueError: All have one status.
    """
    from sklearn.linear_model import LogisticRegression

    status = np.asarray(positive, dtype=bool)
    fitted = LogisticRegression(C=_LOGISTIC_C).fit(log_odds(score)[:, None], status)
    sets = conformal_sets(score, status)
    return HpvCalibration(float(fitted.intercept_[0]), float(fitted.coef_[0, 0]), float(status.mean()), sets)


def conformal_sets(score: ArrayLike, positive: ArrayLike) -> HpvSets | None:
    """Find the scores that are not among the tenth of each status which speaks most for the other one.

    Args:
        score: (n,) mean out-of-fold probabilities.
        positive: (n,) HPV status.

    Returns:
        The sets; None where a status has fewer than nine patients, or most of the patients would be undecided.
    """
    values, status = np.asarray(score, dtype=float), np.asarray(positive, dtype=bool)
    speaking_for_the_other = np.sort(values[status]), -np.sort(-values[~status])
    ranks = [math.floor(MISSED * (len(scores) + 1)) for scores in speaking_for_the_other]
    if min(ranks) < 1:
        return None
    bounds = [float(scores[rank - 1]) for scores, rank in zip(speaking_for_the_other, ranks, strict=True)]
    sets = HpvSets(positive_from=bounds[0], negative_to=bounds[1])
    undecided = np.mean([sets.of(value) is HpvSet.UNDECIDED for value in values])
    return None if undecided > MOST_UNDECIDED else sets


def calibrate_survival(
    risk: ArrayLike,
    rfs_days: ArrayLike,
    relapse: ArrayLike,
    seed: int,
    resamples: int = RESAMPLES,
    end_days: float | None = None,
) -> SurvivalCalibration:
    """Fit a Cox model with its baseline on the risk alone, on the patients and on bootstrap samples of them.

    Args:
        risk: (n,) mean out-of-fold risks; higher is worse.
        rfs_days: (n,) days to relapse or to the end of follow-up.
        relapse: (n,) whether the relapse was seen.
        seed: Random seed of the samples, each of which has as many patients.
        resamples: Number of samples, at least 1; without an interval to give, 1 is enough.
        end_days: Day at which the curve ends; by default where `AT_RISK_AT_END` of the patients are still followed.

    Raises:
        ValueError: Fewer than three relapses were seen.
    """
    risks = np.asarray(risk, dtype=float)
    days, seen = checked_outcome(rfs_days, relapse, minimum_events=_LEAST_RESAMPLED)
    grid = np.linspace(0, end_of_follow_up(days) if end_days is None else end_days, POINTS)
    slope, hazard = _fit(risks, days, seen, grid)
    slopes, hazards = list[float](), list[tuple[float, ...]]()
    rng = np.random.default_rng(seed)
    while len(slopes) < resamples:
        chosen = rng.integers(len(days), size=len(days))
        if seen[chosen].sum() < _LEAST_RESAMPLED:
            continue
        resampled_slope, resampled_hazard = _fit(risks[chosen], days[chosen], seen[chosen], grid)
        slopes.append(resampled_slope)
        hazards.append(tuple(resampled_hazard.tolist()))
    return SurvivalCalibration(
        tuple(grid.tolist()),
        slope,
        tuple(hazard.tolist()),
        tuple(slopes),
        tuple(hazards),
        tuple(np.quantile(risks, np.linspace(0, 1, 101)).tolist()),
    )


def _fit(risk: Floats, days: Floats, seen: NDArray[np.bool_], grid: Floats) -> tuple[float, Floats]:
    """Fit lifelines' Cox model on one column; its coefficient, and Breslow's cumulative hazard of risk 0 on a grid.

    Between relapses that hazard stays as it is; lifelines would draw lines, and begin above 0. A risk that is the same
    for all says nothing, and its hazard is Nelson and Aalen's.
    """
    import pandas as pd
    from lifelines import CoxPHFitter, NelsonAalenFitter
    from lifelines.exceptions import ConvergenceWarning

    if np.ptp(risk) == 0:
        same = NelsonAalenFitter(nelson_aalen_smoothing=False).fit(days, seen).cumulative_hazard_
        return 0.0, same.to_numpy()[np.searchsorted(same.index.to_numpy(), grid, side="right") - 1, 0]
    table = pd.DataFrame({"risk": risk, "days": days, "relapse": seen})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of a sample that one risk divides; its penalty holds it
        fitter = CoxPHFitter(penalizer=_COX_PENALTY).fit(table, "days", "relapse")
    slope, baseline = float(fitter.params_["risk"]), fitter.baseline_cumulative_hazard_
    steps = np.append(0.0, baseline.to_numpy()[:, 0] * np.exp(-slope * risk.mean()))  # lifelines' is of the mean risk
    return slope, steps[np.searchsorted(baseline.index.to_numpy(), grid, side="right")]
