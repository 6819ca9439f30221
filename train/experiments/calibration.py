"""How well a finished run's ensemble is calibrated, each patient by what was fitted on others.

Forests, Cox models and networks are out of fold already; calibration is fitted on their mean scores, so the patients
are dealt once more: each part is calibrated by the rest.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from sklearn.model_selection import KFold, StratifiedKFold

from mmpl.cohort_scores import RESAMPLES, YEARS_SCORED, Results, differences, intervals, score
from mmpl.names import DAYS_PER_YEAR
from mmpl.training.calibration import LEAST_CASES, calibrate_hpv, calibrate_survival
from mmpl.training.forest import choose_threshold
from mmpl.training.hpv import with_status
from mmpl.training.outcome_network import mean_over_schemes
from mmpl.training.records import HpvRecord, SurvivalRecord
from mmpl.training.survival import times_and_events, with_rfs
from mmpl.training.workspace import Workspace
from train.experiments.results import make_results, with_interval

PARTS = 10
BY_THRESHOLD, BY_RATIO = "threshold chosen for balanced accuracy", "likelihood ratio of 1"


def calibrated_hpv(workspace: Workspace) -> dict[str, Results]:
    """Calibrate the ensemble's HPV score part by part, and decide by either rule.

    Returns:
        Results of the patients whose status is known, by rule of decision.
    """
    patients = with_status(workspace.patients)
    values = mean_over_schemes(workspace.read(HpvRecord).probability, patients)
    status = np.array([bool(p.outcome.hpv_positive) for p in patients])
    calibrated = np.full(len(patients), np.nan)
    decisions = {rule: np.full(len(patients), np.nan) for rule in (BY_THRESHOLD, BY_RATIO)}
    parts = StratifiedKFold(PARTS, shuffle=True, random_state=workspace.profile.training.seed)
    for others, part in parts.split(values[:, None], status):
        fitted = calibrate_hpv(values[others], status[others])
        calibrated[part] = fitted.probability(values[part])
        decisions[BY_THRESHOLD][part] = values[part] >= choose_threshold(values[others], status[others])
        decisions[BY_RATIO][part] = fitted.log_likelihood_ratio(values[part]) > 0
    plain = make_results(patients)
    return {
        rule: replace(plain, hpv_probability=values, hpv_calibrated=calibrated, hpv_decision=decision)
        for rule, decision in decisions.items()
    }


def calibrated_survival(workspace: Workspace) -> Results:
    """Calibrate the ensemble's risk part by part, on the patients whose time and event are known."""
    patients = with_rfs(workspace.patients)
    risk = mean_over_schemes(workspace.read(SurvivalRecord).risk, patients)
    days, relapse = times_and_events(patients)
    seed = workspace.profile.training.seed
    parts = [
        (part, calibrate_survival(risk[others], days[others], relapse[others], seed, resamples=1))
        for others, part in KFold(PARTS, shuffle=True, random_state=seed).split(risk)
    ]
    grid = np.linspace(0, min(fitted.days[-1] for _, fitted in parts), len(parts[0][1].days))
    curve, years = np.empty((len(risk), len(grid))), np.full((len(risk), len(YEARS_SCORED)), np.nan)
    for part, fitted in parts:
        for patient in part:
            answer = fitted.curve([risk[patient]])
            curve[patient] = np.interp(grid, answer.days, answer.probability)
    for column, year in enumerate(YEARS_SCORED):
        if (day := year * DAYS_PER_YEAR) <= grid[-1]:
            years[:, column] = [np.interp(day, grid, row) for row in curve]
    curves = {"curve_days": np.tile(grid, (len(risk), 1)), "curve": curve, "no_recurrence": years}
    return replace(make_results(patients), risk=risk, **curves)


def calibration_tables(workspace: Workspace) -> list[str]:
    """Write both as lines of Markdown, with 95% bootstrap intervals; nothing where there are too few to calibrate."""
    lines = list[str]()
    status = [p.outcome.hpv_positive for p in with_status(workspace.patients)]
    if workspace.has(HpvRecord) and min(status.count(True), status.count(False)) >= LEAST_CASES:
        by_rule = calibrated_hpv(workspace)
        names = ["hpv_auc", *(name for name in score(by_rule[BY_RATIO]).by_name if name.startswith(_OF_HPV))]
        lines += ["### HPV probability", "", *_table(by_rule[BY_RATIO], names), ""]
        accuracy = "hpv_balanced_accuracy"
        lines += ["| decided by | balanced accuracy |", "|---|---|"]
        lines += [f"| {rule} | {_measured(results, [accuracy])[accuracy]} |" for rule, results in by_rule.items()]
        less = differences(by_rule[BY_RATIO], by_rule[BY_THRESHOLD])[accuracy]
        lines += [f"| {BY_RATIO} less {BY_THRESHOLD} | {with_interval(less.value, less.interval, '+')} |", ""]
    if workspace.has(SurvivalRecord) and times_and_events(with_rfs(workspace.patients))[1].sum() >= LEAST_CASES:
        results = calibrated_survival(workspace)
        names = ["c_index", *(name for name in score(results).by_name if name.startswith(_OF_SURVIVAL))]
        lines += ["### Survival", "", *_table(results, names), ""]
    return lines


_OF_HPV = ("hpv_brier", "hpv_calibration")
_OF_SURVIVAL = ("relapse_", "integrated_", "d_calibration")


def _table(results: Results, names: Sequence[str]) -> list[str]:
    measured = _measured(results, names)
    return ["| measure | value |", "|---|---|", *(f"| {name} | {text} |" for name, text in measured.items())]


def _measured(results: Results, names: Sequence[str]) -> dict[str, str]:
    scores, bounds = score(results).by_name, intervals(results, RESAMPLES)
    return {name: with_interval(scores[name], bounds[name]) for name in names}
