"""What a run's models say of the patients that they never saw, lined up with what became of them."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmpl.case import Patient
from mmpl.cohort_scores import MASK_COLUMNS, SET_NUMBERS, YEARS_SCORED, Results
from mmpl.evaluate import describe_patients
from mmpl.names import DAYS_PER_YEAR, Stage
from mmpl.schema import ClinicalSchema
from mmpl.training.calibration import (
    NotCalibratedError,
    calibrate_hpv,
    calibrate_hpv_of,
    calibrate_survival,
    calibrate_survival_of,
)
from mmpl.training.forest import choose_threshold
from mmpl.training.hpv import with_status
from mmpl.training.outcome_network import mean_over_schemes
from mmpl.training.records import HpvRecord, SurvivalRecord
from mmpl.training.splits import Scheme
from mmpl.training.survival import times_and_events, with_rfs
from mmpl.training.workspace import Workspace

PARTS = 10
"""Parts that the patients are dealt into, each calibrated by the others: forests, Cox models and networks are out of
fold already, but a calibration is fitted on their mean scores."""
BY_THRESHOLD, BY_RATIO = "threshold midway between the statuses' mean scores", "likelihood ratio of 1"


def make_results(
    patients: Sequence[Patient],
    masks: Mapping[str, Sequence[float]] | None = None,
    risk: Mapping[str, float] | None = None,
    probability: Mapping[str, float] | None = None,
    decision: Mapping[str, float] | None = None,
    schema: ClinicalSchema | None = None,
) -> Results:
    """Line answers up with patients; what is left out is missing of all of them.

    By the schema of their records they are told apart by sex, age and blank fields.
    """

    def column(values: Mapping[str, float] | None) -> NDArray[np.float64]:
        return np.array([(values or {}).get(p.patient_id, np.nan) for p in patients], float)

    def known(values: Sequence[float | None]) -> NDArray[np.float64]:
        return np.array([np.nan if value is None else value for value in values], float)

    blank = [np.nan] * len(MASK_COLUMNS)
    table = np.array([(masks or {}).get(p.patient_id, blank) for p in patients], float).reshape(-1, len(blank))
    has_rfs = [p.outcome.has_rfs for p in patients]
    every = np.ones(len(patients), bool)
    by_column: dict[str, Any] = dict(zip(MASK_COLUMNS, table.T, strict=True))
    return Results(
        center=np.array([p.center_id for p in patients], str),
        **by_column,
        mask_predicted=every,
        answered=every,
        risk=column(risk),
        days=known([p.outcome.rfs_days if has else None for p, has in zip(patients, has_rfs, strict=True)]),
        relapse=known([p.outcome.relapse if has else None for p, has in zip(patients, has_rfs, strict=True)]),
        hpv_probability=column(probability),
        hpv_decision=column(decision),
        hpv_positive=known([p.outcome.hpv_positive for p in patients]),
        **(describe_patients(patients, schema) if schema else {}),
    )


def decide(workspace: Workspace, scheme: Scheme, score: Mapping[str, float]) -> dict[str, float]:
    """Call each patient HPV-positive or not by the threshold that the other folds' patients give.

    Args:
        workspace: The run.
        scheme: The scheme whose folds they are.
        score: Out-of-fold score of each patient; higher means more likely positive, on any scale.
    """
    fold_of = workspace.splits.fold_of[scheme]
    known = with_status(workspace.patients)
    decisions: dict[str, float] = {}
    for fold in sorted(set(fold_of.values())):
        others = [p for p in known if fold_of[p.patient_id] != fold]
        values = [score[p.patient_id] for p in others]
        threshold = choose_threshold(values, [bool(p.outcome.hpv_positive) for p in others])
        inside = [name for name, where in fold_of.items() if where == fold and name in score]
        decisions |= {name: float(score[name] >= threshold) for name in inside}
    return decisions


def calibrated_hpv(workspace: Workspace) -> dict[str, Results]:
    """Calibrate the ensemble's HPV score part by part, and decide by either rule.

    Returns:
        Results of the patients whose status is known, by rule of decision.

    Raises:
        NotCalibratedError: The score of all of them cannot be calibrated.
    """
    from sklearn.model_selection import StratifiedKFold

    calibrate_hpv_of(workspace)
    patients = with_status(workspace.patients)
    values = mean_over_schemes(workspace.read(HpvRecord).probability, patients)
    status = np.array([bool(p.outcome.hpv_positive) for p in patients])
    calibrated, sets = np.full(len(patients), np.nan), np.full(len(patients), np.nan)
    decisions = {rule: np.full(len(patients), np.nan) for rule in (BY_THRESHOLD, BY_RATIO)}
    parts = StratifiedKFold(PARTS, shuffle=True, random_state=workspace.profile.training.seed)
    for others, part in parts.split(values[:, None], status):
        fitted = calibrate_hpv(values[others], status[others])
        calibrated[part] = fitted.probability(values[part])
        if fitted.sets:
            sets[part] = [SET_NUMBERS[fitted.sets.of(value)] for value in values[part]]
        decisions[BY_THRESHOLD][part] = values[part] >= choose_threshold(values[others], status[others])
        decisions[BY_RATIO][part] = fitted.log_likelihood_ratio(values[part]) > 0
    if np.isnan(sets).any():
        sets[:] = np.nan  # the parts that have some are those that are easiest
    plain = make_results(patients, schema=workspace.profile.clinical)
    return {
        rule: replace(plain, hpv_probability=values, hpv_calibrated=calibrated, hpv_set=sets, hpv_decision=decision)
        for rule, decision in decisions.items()
    }


def calibrated_survival(workspace: Workspace) -> Results:
    """Calibrate the ensemble's risk part by part, on the patients whose time and event are known.

    Raises:
        NotCalibratedError: The risk of all of them cannot be calibrated.
    """
    from sklearn.model_selection import KFold

    calibrate_survival_of(workspace, resamples=1)
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
    return replace(make_results(patients, schema=workspace.profile.clinical), risk=risk, **curves)


def out_of_fold_results(workspace: Workspace) -> Results:
    """Put together what the models say of every patient they never saw, calibrated where it can be.

    Outcomes of a stage that the run has not are left out: nothing was said of them.
    """
    patients, stages = workspace.patients, workspace.settings.stages
    results = make_results(patients, schema=workspace.profile.clinical)
    unknown = np.full(len(patients), np.nan)
    if Stage.HPV not in stages:
        results = replace(results, hpv_positive=unknown)
    if Stage.SURVIVAL not in stages:
        results = replace(results, days=unknown, relapse=unknown)
    if Stage.HPV in stages:
        known = with_status(patients)
        probability = mean_over_schemes(workspace.read(HpvRecord).probability, known)
        by_name = {p.patient_id: float(value) for p, value in zip(known, probability, strict=True)}
        found = make_results(known, probability=by_name, decision=decide(workspace, Scheme.PATIENT, by_name))
        with suppress(NotCalibratedError):
            found = calibrated_hpv(workspace)[BY_THRESHOLD]
        results = _spread(
            results, found, ("hpv_probability", "hpv_decision", "hpv_calibrated", "hpv_set"), known, patients
        )
    if Stage.SURVIVAL in stages:
        known = with_rfs(patients)
        risk = mean_over_schemes(workspace.read(SurvivalRecord).risk, known)
        found = make_results(known, risk={p.patient_id: float(value) for p, value in zip(known, risk, strict=True)})
        with suppress(NotCalibratedError):
            found = calibrated_survival(workspace)
        results = _spread(results, found, ("risk", "no_recurrence", "curve_days", "curve"), known, patients)
    return results


def _spread(
    results: Results, found: Results, columns: Sequence[str], known: Sequence[Patient], patients: Sequence[Patient]
) -> Results:
    """Put columns of what was found of some patients among those of all; NaN of the others."""
    place = {patient.patient_id: at for at, patient in enumerate(patients)}
    at = [place[patient.patient_id] for patient in known]
    spread = {}
    for name in columns:
        values = getattr(found, name)
        if values is not None:
            spread[name] = np.full((len(patients), *values.shape[1:]), np.nan)
            spread[name][at] = values
    if found.curve_days is not None:
        spread["curve_days"] = np.tile(found.curve_days[0], (len(patients), 1))
    return replace(results, **spread)
