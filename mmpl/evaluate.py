"""Score a folder of predictions against a cohort by the official metrics, and print what was found."""

import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from mmpl.case import InvalidInputError, Outcome, Patient
from mmpl.cohort_scores import (
    MASK_COLUMNS,
    RESAMPLES,
    SET_NUMBERS,
    STAGES,
    YEARS_SCORED,
    Confusion,
    Counts,
    DecisionPoint,
    Difference,
    Group,
    Interval,
    Results,
    Scores,
    by_center,
    by_group,
    confusion_tables,
    count_patients,
    decision_curves,
    differences,
    intervals,
    score,
    score_groups,
    score_mask,
)
from mmpl.errors import some_of
from mmpl.io.challenge import Edition, Form, read_edition
from mmpl.io.cohort import Cohort, read_cohort, read_table_alone
from mmpl.io.images import read_grid
from mmpl.io.masks import read_mask
from mmpl.io.tables import read_table, require
from mmpl.names import DIFFERING, NO_RECURRENCE, PREDICTIONS_FILE, STAGE_COLUMNS, Column, Task, stage_name
from mmpl.report import read_curve
from mmpl.schema import ClinicalSchema

log = logging.getLogger(__name__)

_PIPED_WIDTH = 120  # columns, where no terminal says how many it has
TRUTH_FILE = "truth.csv"


@dataclass(frozen=True)
class Evaluation:
    """Scores, counts and intervals of one set of predictions.

    Attributes:
        intervals: 95% bootstrap intervals of the scores, by metric.
        centers: Scores, counts and intervals of each center's patients.
        groups: Those of the patients of one sex, age, volume and so on.
        decisions: Decision curve of each calibrated probability.
        against: Differences where two sets were compared, the first less the second, by metric.
        confusion: Confusion table of each kind of stage.
        edition: Name of the edition whose own score is among the scores; blank where none is.
    """

    scores: Scores
    counts: Counts
    intervals: Mapping[str, Interval]
    centers: Mapping[str, Group]
    groups: Mapping[str, Group] = field(default_factory=dict)
    decisions: Mapping[str, Sequence[DecisionPoint]] = field(default_factory=dict)
    against: Mapping[str, Difference] = field(default_factory=dict)
    confusion: Mapping[str, Confusion] = field(default_factory=dict)
    edition: str = ""

    @property
    def every_group(self) -> dict[str, Group]:
        """The groups and, called "center X", the centers."""
        return {**self.groups, **{f"center {name}": group for name, group in self.centers.items()}}

    def to_json(self) -> str:
        """Write metrics, intervals and counts as JSON; null where a metric is undefined."""
        content: dict[str, Any] = {
            **self.scores.by_name,
            "counts": asdict(self.counts),
            "intervals": self.intervals,
            "centers": {name: _describe_group(group) for name, group in self.centers.items()},
            "groups": {name: _describe_group(group) for name, group in self.groups.items()},
            "decision_curves": {name: [point._asdict() for point in points] for name, points in self.decisions.items()},
        }
        if self.confusion:
            content["confusion"] = self.confusion
        if self.edition:
            content["edition"] = self.edition
        if self.against:
            content["against"] = {
                name: {"difference": difference.value, "interval": difference.interval}
                for name, difference in self.against.items()
            }
        return json.dumps(_without_nan(content), indent=2) + "\n"


@dataclass(frozen=True)
class Prediction:
    """One row of the predictions; NaN where blank.

    Attributes:
        risk_score: Predicted risk; higher means earlier recurrence.
        recurrence_free_days: Predicted days without recurrence.
        hpv_probability: Predicted probability of being HPV-positive.
        hpv_decision: Predicted HPV status, 1 for positive, 0 for negative.
        hpv_calibrated: Calibrated probability of being HPV-positive.
        hpv_set: Conformal set, 1 positive, 0 negative, 0.5 undecided.
        no_recurrence: Calibrated probability of no recurrence after each of YEARS_SCORED.
        volume_ml: Predicted volume of GTVp and GTVn together.
        t_stage, n_stage: Predicted stages.
    """

    risk_score: float = math.nan
    recurrence_free_days: float = math.nan
    hpv_probability: float = math.nan
    hpv_decision: float = math.nan
    hpv_calibrated: float = math.nan
    hpv_set: float = math.nan
    no_recurrence: tuple[float, ...] = (math.nan,) * len(YEARS_SCORED)
    volume_ml: float = math.nan
    t_stage: float = math.nan
    n_stage: float = math.nan


@dataclass(frozen=True)
class Truth:
    """One row of a synthetic cohort's hidden truth.

    Attributes:
        relapse_days: True time to relapse, never censored.
        log_hazard: The oracle's risk, higher means earlier recurrence.
        hpv_log_likelihood_ratio: The oracle's HPV score, positive means HPV-positive.
    """

    relapse_days: float
    log_hazard: float
    hpv_log_likelihood_ratio: float


_UNDEFINED = {
    "gtvp_dice_mean": "no reference mask",
    "gtvp_dice_aggregated": "no GTVp in any mask",
    "gtvp_hd95_median_mm": "no patient has a GTVp in both masks",
    "gtvn_dice_mean": "no reference mask",
    "gtvn_dice_aggregated": "no GTVn in any mask",
    "gtvn_f1_aggregated": "no GTVn in any mask",
    **dict.fromkeys(("t_balanced_accuracy", "n_balanced_accuracy"), "no such stage is known"),
    "edition_score": "a part of it is",
    **dict.fromkeys(("c_index", "c_index_uncensored", "oracle_c_index_uncensored"), "no comparable pair of patients"),
    **dict.fromkeys(("hpv_balanced_accuracy", "hpv_balanced_accuracy_at_half"), "only one HPV class is known"),
    **dict.fromkeys(("hpv_auc", "oracle_hpv_auc", "oracle_hpv_balanced_accuracy"), "only one HPV class is known"),
}


def _why_undefined(metric: str) -> str:
    """Say what it lacks where a metric is undefined."""
    if metric.endswith("_calibration_slope"):
        return "one outcome alone, or probabilities that are all alike or part the outcomes"
    if metric.startswith("hpv_set_"):
        return _UNDEFINED.get(metric, "no such patient has a set")
    if metric.startswith("hpv_"):
        return _UNDEFINED.get(metric, "only one HPV class is known")
    return _UNDEFINED.get(metric, "no such probability, too few followed so long or no relapse by then")


def evaluate(
    predictions: Path,
    cohort: Path,
    against: Path | None = None,
    resamples: int = RESAMPLES,
    where: Mapping[str, str] | None = None,
    edition: Edition | None = None,
) -> Evaluation:
    """Score predictions against a cohort's released outcomes and, where it has them, against its hidden truth.

    Args:
        predictions: Folder with `predictions.csv` and one `<PatientID>.nii.gz` a patient.
        cohort: Folder in the released layout, or a table that stands for itself.
        against: Another folder of predictions, to be compared patient by patient.
        resamples: Number of bootstrap resamples.
        where: Cell that the rows to be scored have, by column, of a table that stands for itself.
        edition: Edition of the challenge, which may have a score of its own; by default that of `MMPL_EDITION`.

    Raises:
        InvalidInputError: A file cannot be read, or a mask is not on its reference's grid.
    """
    edition = edition or read_edition()
    ours = collect(predictions, cohort, where, edition)
    return assess(ours, resamples, collect(against, cohort, where, edition) if against else None, edition)


def assess(
    results: Results, resamples: int = RESAMPLES, against: Results | None = None, edition: Edition | None = None
) -> Evaluation:
    """Score answers that stand beside their outcomes, and compare them with others of the same patients."""
    shares = edition.score if edition else {}
    return Evaluation(
        score(results, shares),
        count_patients(results),
        intervals(results, resamples, shares=shares),
        score_groups(by_center(results), resamples // 5),
        score_groups(by_group(results), resamples // 5),
        decision_curves(results, resamples // 5),
        differences(results, against, resamples, shares=shares) if against else {},
        confusion_tables(results),
        edition.name if edition and shares else "",
    )


def collect(
    predictions: Path, cohort: Path, where: Mapping[str, str] | None = None, edition: Edition | None = None
) -> Results:
    """Line predictions up with a cohort's patients, in the order of its table.

    Stages are among the results where the edition asks for them or some patient has an answer. Where it asks for days
    without recurrence, and there are some, they rank the patients.

    Raises:
        InvalidInputError: A file cannot be read, or a mask is not on its reference's grid.
    """
    if where and cohort.is_dir():
        raise InvalidInputError(f"{cohort}: rows are chosen of a table alone, and this is a folder")
    released = read_table_alone(cohort, where) if cohort.is_file() else read_cohort(cohort, images=False)
    patients, answers = released.patients, _read_answers(predictions / PREDICTIONS_FILE)
    strangers = sorted(answers.keys() - {p.patient_id for p in patients})
    if strangers and len(strangers) == len(answers):
        path = predictions / PREDICTIONS_FILE
        raise InvalidInputError(f"{path}: none of its patients ({strangers[0]}, ...) is in {released.table}")
    for remark in (*released.remarks, *([f"no patient {some_of(strangers)}: not scored"] if strangers else ())):
        log.warning("%s: %s", released.table, remark)
    answered = [answers.get(p.patient_id, Prediction()) for p in patients]
    rfs = [p.outcome if p.outcome.has_rfs else Outcome() for p in patients]
    return Results(
        center=np.array([p.center_id for p in patients], str),
        **_score_masks(predictions, released, all_patients=not where),
        answered=np.array([p.patient_id in answers for p in patients]),
        risk=_line_up_risk(answered, edition),
        days=_column(outcome.rfs_days for outcome in rfs),
        relapse=_column(outcome.relapse for outcome in rfs),
        hpv_probability=np.array([answer.hpv_probability for answer in answered]),
        hpv_decision=np.array([answer.hpv_decision for answer in answered]),
        hpv_positive=_column(p.outcome.hpv_positive for p in patients),
        **_line_up_truth(released.folder / TRUTH_FILE, [p.patient_id for p in patients]),
        **_line_up_calibrated(predictions, [p.patient_id for p in patients], answered),
        **_line_up_stages(patients, answered, edition),
        **describe_patients(patients, released.schema),
        volume_ml=np.array([answer.volume_ml for answer in answered]),
    )


def describe_patients(patients: Sequence[Patient], schema: ClinicalSchema) -> dict[str, Any]:
    """Give the columns of `Results` that the clinical record tells; NaN where its schema has no such field."""
    male = {schema.code_of("Gender", word): number for word, number in (("female", 0.0), ("male", 1.0))}
    sex, age = ([p.clinical.values.get(name) for p in patients] for name in ("Gender", "Age"))
    return {
        "male": _column(None if code is None else male.get(str(code)) for code in sex),
        "age": _column(years if isinstance(years, float) else None for years in age),
        "fields_missing": _column(sum(value is None for value in p.clinical.values.values()) for p in patients),
    }


def _column(values: Iterable[float | None]) -> NDArray[np.float64]:
    return np.array([math.nan if value is None else value for value in values], float)


def print_table(evaluation: Evaluation, console: Console | None = None) -> None:
    """Print every metric with its interval, why one is undefined, the counts behind them, and each center's."""
    table = Table(title="Metrics", title_justify="left")
    table.add_column("metric", overflow="fold")
    for heading in ("value", "95% interval", *(["difference, 95% interval"] if evaluation.against else [])):
        table.add_column(heading, justify="right", overflow="fold")
    for name, value in evaluation.scores.by_name.items():
        cells = [f"undefined: {_why_undefined(name)}" if math.isnan(value) else f"{value:.3f}"]
        cells.append(_range(evaluation.intervals[name]))
        if difference := evaluation.against.get(name):
            cells.append(f"{difference.value:+.3f}, {_range(difference.interval)}")
        table.add_row(name, *cells)
    counts = Table(title="Patients", title_justify="left")
    counts.add_column("count")
    counts.add_column("value", justify="right")
    for name, number in asdict(evaluation.counts).items():
        counts.add_row(name, str(number), style="yellow" if name.startswith("missing") and number else None)
    centers = Table(title="Centers", title_justify="left")
    for heading in ("center", "patients", "GTVp Dice", "GTVn Dice", "GTVn F1", "C-index", "HPV bal. acc.", "HPV AUC"):
        centers.add_column(heading, justify="left" if heading == "center" else "right", overflow="fold")
    for name, center in evaluation.centers.items():
        scores = center.scores
        shown = (
            scores.gtvp_dice_mean,
            scores.gtvn_dice_aggregated,
            scores.gtvn_f1_aggregated,
            scores.c_index,
            scores.hpv_balanced_accuracy,
            scores.hpv_auc,
        )
        values = ["undefined" if math.isnan(value) else f"{value:.3f}" for value in shown]
        centers.add_row(name, str(center.counts.patients), *values)
    if console is None:
        console = Console()
        if not console.is_terminal:
            console.width = _PIPED_WIDTH
    for each in (table, counts, centers, _tabulate_groups(evaluation.every_group)):
        console.print(each)
    for name, confusion in evaluation.confusion.items():
        console.print(_tabulate_confusion(name, confusion))
    if evaluation.decisions:
        console.print(_tabulate_decisions(evaluation.decisions))


def _describe_group(group: Group) -> dict[str, Any]:
    return group.scores.by_name | {"counts": asdict(group.counts), "intervals": group.intervals}


def _tabulate_groups(groups: Mapping[str, Group]) -> Table:
    """Lay out what was found of each group; yellow where its figures say little."""
    table = Table(title="Groups, with 95% intervals; yellow: too few to say much", title_justify="left")
    shown = {"c_index": "C-index", "hpv_auc": "HPV AUC", "hpv_calibration_intercept": "HPV calibration intercept"}
    shown["relapse_2_years_calibration_intercept"] = "2-year calibration intercept"
    shown = {name: heading for name, heading in shown.items() if any(name in g.scores.by_name for g in groups.values())}
    table.add_column("group", overflow="fold")
    for heading in ("patients", "relapses", "HPV + / -", *shown.values()):
        table.add_column(heading, justify="right", overflow="fold")
    for name, group in groups.items():
        counts, values = group.counts, group.scores.by_name
        cells = []
        for metric in shown:
            value, bounds = values.get(metric, math.nan), group.intervals.get(metric)
            few = group.few_relapses if metric.startswith(("c_index", "relapse")) else group.few_of_one_status
            text = "undefined" if math.isnan(value) or bounds is None else f"{value:.2f} ({_range(bounds, 2)})"
            cells.append(f"[yellow]{text}[/yellow]" if few else text)
        table.add_row(
            name, str(counts.patients), str(counts.events), f"{counts.hpv_positive} / {counts.hpv_negative}", *cells
        )
    return table


def _tabulate_confusion(name: str, confusion: Confusion) -> Table:
    """Lay out a confusion table: patients, a true stage a row, an answered one a column."""
    table = Table(title=f"Confusion, {name}", title_justify="left")
    table.add_column("true")
    for heading in next(iter(confusion.values())):
        table.add_column(heading, justify="right")
    for row, cells in confusion.items():
        table.add_row(row, *map(str, cells.values()))
    return table


def _tabulate_decisions(curves: Mapping[str, Sequence[DecisionPoint]]) -> Table:
    """Lay out the decision curves: what acting on a probability gains over acting on all or on nobody."""
    table = Table(title="Decision curves: net benefit of acting from a probability on", title_justify="left")
    table.add_column("acting on", overflow="fold")
    for heading in ("from", "net benefit", "acting on all", "gain over all or nobody, 95% interval"):
        table.add_column(heading, justify="right", overflow="fold")
    for name, points in curves.items():
        for point in points:
            values = [
                "undefined" if math.isnan(value) else f"{value:.3f}"
                for value in (point.net_benefit, point.acting_on_all)
            ]
            gain = "" if math.isnan(point.gain) else f"{point.gain:+.3f} ({_range(point.gain_interval)})"
            table.add_row(name, f"{point.threshold:.2f}", *values, gain)
    return table


def _range(interval: Interval, places: int = 3) -> str:
    return "" if math.isnan(interval.low) else f"{interval.low:.{places}f} to {interval.high:.{places}f}"


def _without_nan(content: Any) -> Any:
    """Replace every NaN by None, for JSON."""
    if isinstance(content, Mapping):
        return {name: _without_nan(value) for name, value in content.items()}
    if isinstance(content, tuple | list):
        return [_without_nan(value) for value in content]
    return None if isinstance(content, float) and math.isnan(content) else content


def _score_masks(predictions: Path, cohort: Cohort, all_patients: bool) -> dict[str, Any]:
    """Score the mask of every patient with a reference, a missing one as empty; columns of `Results`.

    Raises:
        InvalidInputError: A mask cannot be read, or there are references and masks, and none of these is of a patient.
    """
    if all_patients:
        _name_strange_masks(predictions, cohort)
    rows = []
    console = Console(stderr=True)
    for patient in track(
        cohort.patients, "scoring masks", console=console, transient=True, disable=not console.is_terminal
    ):
        reference_path, path = cohort.mask_path(patient.patient_id), predictions / f"{patient.patient_id}.nii.gz"
        if reference_path is None:
            rows.append((*[math.nan] * len(MASK_COLUMNS), path.is_file()))
            continue
        reference = read_mask(reference_path, read_grid(reference_path))
        found = read_mask(path, reference.grid).voxels if path.is_file() else np.zeros_like(reference.voxels)
        rows.append((*score_mask(reference.voxels, found, reference.grid.spacing_xyz), path.is_file()))
    table = np.array(rows, float).reshape(-1, len(MASK_COLUMNS) + 1)
    return dict(zip(MASK_COLUMNS, table[:, :-1].T, strict=True)) | {"mask_predicted": table[:, -1] == 1}


def _name_strange_masks(predictions: Path, cohort: Cohort) -> None:
    """Log which masks are of no patient, where patients have references.

    Raises:
        InvalidInputError: All are.
    """
    names = {patient.patient_id for patient in cohort.patients}
    masks = sorted(path.name for path in predictions.glob("[!.]*.nii.gz") if not path.name.endswith(DIFFERING))
    strange = [name for name in masks if name.removesuffix(".nii.gz") not in names]
    if not strange or not any(map(cohort.has_mask, names)):
        return
    if strange == masks:
        raise InvalidInputError(f"{predictions}: none of its masks ({masks[0]}, ...) is of a patient in {cohort.table}")
    log.warning("%s: masks of no patient: %s: not scored", predictions, some_of(strange))


def _line_up_truth(path: Path, patients: Sequence[str]) -> dict[str, Any]:
    """Read the hidden truth of a synthetic cohort as columns of `Results`; none where there is no such file."""
    if not path.is_file():
        return {}
    truths = _read_truth(path)
    absent = [name for name in patients if name not in truths]
    if absent:
        raise InvalidInputError(f"{path}: no row for {some_of(absent)}")
    truth = [truths[name] for name in patients]
    return {
        "true_days": np.array([t.relapse_days for t in truth]),
        "log_hazard": np.array([t.log_hazard for t in truth]),
        "hpv_log_likelihood_ratio": np.array([t.hpv_log_likelihood_ratio for t in truth]),
    }


def _line_up_calibrated(folder: Path, patients: Sequence[str], answered: Sequence[Prediction]) -> dict[str, Any]:
    """Give the calibrated probabilities as columns of `Results`, those of the curves from the reports beside the table.

    Columns of which no patient has a value are left out.
    """
    columns = {
        "hpv_calibrated": np.array([answer.hpv_calibrated for answer in answered]),
        "hpv_set": np.array([answer.hpv_set for answer in answered]),
        "no_recurrence": np.array([answer.no_recurrence for answer in answered]).reshape(-1, len(YEARS_SCORED)),
    }
    curves = [read_curve(folder / f"{name}.json") for name in patients]
    if known := [curve for curve in curves if curve]:
        days = known[0][0]
        if any(curve[0] != days for curve in known):
            raise InvalidInputError(f"{folder}: its reports' curves have different days, as of different weights")
        absent = [math.nan] * len(days)
        columns["curve_days"] = np.tile(days, (len(patients), 1))
        columns["curve"] = np.array([curve[1] if curve else absent for curve in curves])
    return {name: column for name, column in columns.items() if not np.isnan(column).all()}


def _line_up_risk(answered: Sequence[Prediction], edition: Edition | None) -> NDArray[np.float64]:
    """Give what ranks the patients, higher for an earlier recurrence: minus the days, or the risk."""
    days = np.array([answer.recurrence_free_days for answer in answered])
    asked = edition and edition.answers.get(Task.SURVIVAL)
    if asked and asked.form is Form.DAYS and not np.isnan(days).all():
        return -days
    return np.array([answer.risk_score for answer in answered])


def _line_up_stages(
    patients: Sequence[Patient], answered: Sequence[Prediction], edition: Edition | None
) -> dict[str, Any]:
    """Give answered and released stages as columns of `Results`; none where nobody asks for them nor answers them."""
    columns = {
        "t_stage": np.array([answer.t_stage for answer in answered]),
        "n_stage": np.array([answer.n_stage for answer in answered]),
    }
    asked = edition is not None and not edition.answers.keys().isdisjoint(STAGES)
    if not asked and all(np.isnan(column).all() for column in columns.values()):
        return {}
    for task, released in (
        (Task.T_STAGE, [p.outcome.t_stage for p in patients]),
        (Task.N_STAGE, [p.outcome.n_stage for p in patients]),
    ):
        told_apart = [stage if stage in STAGES[task] else None for stage in released]
        columns[f"true_{STAGE_COLUMNS[task]}"] = _column(told_apart)
    return columns


def _read_answers(path: Path) -> dict[str, Prediction]:
    required = ("risk_score", "hpv_probability", "hpv_status")
    years = tuple(NO_RECURRENCE.format(each) for each in YEARS_SCORED)
    optional = (
        "recurrence_free_days",
        "hpv_calibrated",
        "hpv_set",
        *years,
        "gtvp_ml",
        "gtvn_ml",
        *STAGE_COLUMNS.values(),
    )
    return {
        name: Prediction(
            risk_score=_number(path, name, row, "risk_score"),
            recurrence_free_days=_number(path, name, row, "recurrence_free_days"),
            hpv_probability=_number(path, name, row, "hpv_probability"),
            hpv_decision=_word(path, name, row, "hpv_status", _DECISIONS),
            hpv_calibrated=_share(path, name, row, "hpv_calibrated"),
            hpv_set=_word(path, name, row, "hpv_set", SET_NUMBERS),
            no_recurrence=tuple(_share(path, name, row, column) for column in years),
            volume_ml=_number(path, name, row, "gtvp_ml") + _number(path, name, row, "gtvn_ml"),
            t_stage=_word(path, name, row, "t_stage", _STAGE_NUMBERS[Task.T_STAGE]),
            n_stage=_word(path, name, row, "n_stage", _STAGE_NUMBERS[Task.N_STAGE]),
        )
        for name, row in _read_rows(path, required, optional).items()
    }


def _read_truth(path: Path) -> dict[str, Truth]:
    columns = tuple(field.name for field in fields(Truth))
    return {
        name: Truth(**{column: _number(path, name, row, column) for column in columns})
        for name, row in _read_rows(path, columns).items()
    }


def _read_rows(path: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> dict[str, dict[str, str]]:
    """Read a table with a row a patient; other columns than these are left alone."""
    names = {name.casefold(): name for name in (Column.PATIENT_ID.value, *columns, *optional)}
    table = read_table(path, lambda name: names.get(name.casefold()))
    require(table, columns)
    return {row[Column.PATIENT_ID]: row for _, row in table.rows}


def _number(path: Path, patient_id: str, row: Mapping[str, str], column: str) -> float:
    """Read one cell; NaN where blank."""
    text = (row.get(column) or "").strip()
    try:
        return float(text) if text else math.nan
    except ValueError:
        raise InvalidInputError(f"{path}: {column} of {patient_id} is {text!r}, not a number") from None


def _share(path: Path, patient_id: str, row: Mapping[str, str], column: str) -> float:
    """Read a probability; NaN where blank or where there is no such column."""
    value = _number(path, patient_id, row, column)
    if not (math.isnan(value) or 0 <= value <= 1):
        raise InvalidInputError(f"{path}: {column} of {patient_id} is {value:g}, not between 0 and 1")
    return value


_STAGE_NUMBERS = {
    task: {stage_name(task, stage).lower(): float(stage) for stage in stages} for task, stages in STAGES.items()
}
_DECISIONS = {"true": 1.0, "1": 1.0, "1.0": 1.0, "false": 0.0, "0": 0.0, "0.0": 0.0}


def _word(path: Path, patient_id: str, row: Mapping[str, str], column: str, words: Mapping[str, float]) -> float:
    """Read one of a few words as its number; NaN where blank or where there is no such column."""
    text = (row.get(column) or "").strip().lower()
    if text in ("", "nan"):
        return math.nan
    if text not in words:
        raise InvalidInputError(f"{path}: {column} of {patient_id} is {text!r}, not one of {', '.join(words)}")
    return words[text]
