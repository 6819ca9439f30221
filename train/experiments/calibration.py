"""How well a finished run's ensemble is calibrated, and what its sets leave open, as lines of Markdown.

Each part of the patients is calibrated by the rest (`mmpl.training.results`).
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress

import numpy as np

from mmpl import reliability
from mmpl.cohort_scores import (
    RESAMPLES,
    Results,
    by_center,
    by_group,
    decision_curves,
    differences,
    intervals,
    score,
    score_groups,
)
from mmpl.names import DAYS_PER_YEAR
from mmpl.training.calibration import NotCalibratedError
from mmpl.training.records import HpvRecord, SurvivalRecord
from mmpl.training.results import BY_RATIO, BY_THRESHOLD, calibrated_hpv, calibrated_survival
from mmpl.training.workspace import Workspace
from train.experiments.results import with_interval


def calibration_tables(workspace: Workspace) -> list[str]:
    """Write both as lines of Markdown, with 95% bootstrap intervals; nothing of scores that cannot be calibrated."""
    lines = list[str]()
    if workspace.has(HpvRecord):
        with suppress(NotCalibratedError):
            lines += _hpv_tables(calibrated_hpv(workspace))
    if workspace.has(SurvivalRecord):
        with suppress(NotCalibratedError):
            lines += _survival_tables(calibrated_survival(workspace))
    return lines


def _hpv_tables(by_rule: Mapping[str, Results]) -> list[str]:
    names = ["hpv_auc", *(name for name in score(by_rule[BY_RATIO]).by_name if name.startswith(_OF_HPV))]
    accuracy = "hpv_balanced_accuracy"
    less = differences(by_rule[BY_RATIO], by_rule[BY_THRESHOLD])[accuracy]
    return [
        *("### HPV probability", "", *_table(by_rule[BY_RATIO], names), ""),
        *("| decided by | balanced accuracy |", "|---|---|"),
        *(f"| {rule} | {_measured(results, [accuracy])[accuracy]} |" for rule, results in by_rule.items()),
        *(f"| {BY_RATIO} less {BY_THRESHOLD} | {with_interval(less.value, less.interval, '+')} |", ""),
        *_decisions(by_rule[BY_THRESHOLD]),
        *_groups(by_rule[BY_THRESHOLD], "hpv_calibration_intercept", "few_of_one_status"),
    ]


def _survival_tables(results: Results) -> list[str]:
    names = ["c_index", *(name for name in score(results).by_name if name.startswith(_OF_SURVIVAL))]
    return [
        *("### Survival", "", *_table(results, names), ""),
        *("| years | mean probability of no recurrence | Kaplan-Meier |", "|---|---|---|"),
        *(f"| {year} | {mean:.3f} | {followed:.3f} |" for year, mean, followed in against_kaplan_meier(results)),
        *("", *_decisions(results), *_groups(results, _INTERCEPT, "few_relapses")),
    ]


def against_kaplan_meier(results: Results) -> list[tuple[int, float, float]]:
    """Compare, year by year, the mean of the patients' curves with Kaplan-Meier's estimate of the same patients."""
    assert results.curve is not None
    assert results.curve_days is not None
    followed = reliability.kaplan_meier(results.days, results.relapse == 1)
    days, mean = results.curve_days[0], results.curve.mean(axis=0)
    years = range(1, int(days[-1] / DAYS_PER_YEAR) + 1)
    return [(y, float(np.interp(y * DAYS_PER_YEAR, days, mean)), float(followed(y * DAYS_PER_YEAR))) for y in years]


def _decisions(results: Results) -> list[str]:
    """Write the decision curves as lines of Markdown."""
    lines = ["| acting on | from | net benefit | acting on all | gain over all or nobody |", "|---|---|---|---|---|"]
    for name, points in decision_curves(results, RESAMPLES // 5).items():
        for point in points:
            gain = with_interval(point.gain, point.gain_interval, "+")
            values = f"{point.threshold:.2f} | {point.net_benefit:.3f} | {point.acting_on_all:.3f}"
            lines.append(f"| {name} | {values} | {gain} |")
    return [*lines, ""]


def _groups(results: Results, metric: str, few: str) -> list[str]:
    """Write one metric of each group that has it as lines of Markdown; of those that are too few, said so."""
    lines = [f"| group | patients | {metric} |", "|---|---|---|"]
    for name, group in score_groups({**by_group(results), **by_center(results)}, RESAMPLES // 5).items():
        value = group.scores.by_name.get(metric, np.nan)
        if np.isnan(value):
            continue
        text = with_interval(value, group.intervals[metric])
        lines.append(f"| {name} | {group.counts.patients} | {text}{' (few)' * getattr(group, few)} |")
    return [*lines, ""]


_INTERCEPT = "relapse_2_years_calibration_intercept"
_OF_HPV = ("hpv_brier", "hpv_calibration", "hpv_set")
_OF_SURVIVAL = ("relapse_", "integrated_", "d_calibration")


def _table(results: Results, names: Sequence[str]) -> list[str]:
    measured = _measured(results, names)
    return ["| measure | value |", "|---|---|", *(f"| {name} | {text} |" for name, text in measured.items())]


def _measured(results: Results, names: Sequence[str]) -> dict[str, str]:
    scores, bounds = score(results).by_name, intervals(results, RESAMPLES)
    return {name: with_interval(scores[name], bounds[name]) for name in names}
