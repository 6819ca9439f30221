"""Score a folder of predictions against a cohort by the official metrics, and print what was found.

Which patients each metric counts:
- masks: every patient with a reference mask; a missing prediction is an empty mask.
- `gtvp_hd95_median_mm` (surface distance, not official): those of them with a GTVp in both masks.
- `c_index`: every patient with a released time and event; a missing risk is half right in each of its pairs.
- HPV: every patient with a released status; a missing decision is wrong, a missing probability half right.
- `c_index_uncensored` and `oracle_c_index_uncensored` (synthetic cohorts only): every patient, against the true time to
  recurrence, whether or not it was released.
- `oracle_hpv_auc` and `oracle_hpv_balanced_accuracy`: the patients of the HPV metrics.
"""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from mmpl import metrics
from mmpl.case import Grid, InvalidInputError, Patient
from mmpl.io.cohort import Cohort, read_cohort
from mmpl.io.images import read_image
from mmpl.labels import Column, Label

PREDICTIONS_FILE = "predictions.csv"
TRUTH_FILE = "truth.csv"

_GRID_TOLERANCE_MM = 1e-3


@dataclass(frozen=True)
class Counts:
    """How many patients, and what was missing.

    Attributes:
        patients: Patients of the cohort.
        with_mask: Patients with a reference mask.
        with_rfs: Patients with a released time and event.
        events: Released relapses among those.
        hpv_positive: Released HPV-positive patients.
        hpv_negative: Released HPV-negative patients.
        missing_predictions: Patients without a row in the predictions.
        missing_masks: Patients with a reference mask but no predicted one.
        missing_risks: Patients with time and event but no predicted risk.
        missing_hpv: Patients with HPV status but no predicted one.
    """

    patients: int
    with_mask: int
    with_rfs: int
    events: int
    hpv_positive: int
    hpv_negative: int
    missing_predictions: int
    missing_masks: int
    missing_risks: int
    missing_hpv: int


@dataclass(frozen=True)
class OracleScores:
    """What a synthetic cohort's hidden truth adds: the true times, and the best that any method could do."""

    c_index_uncensored: float
    oracle_c_index_uncensored: float
    oracle_hpv_balanced_accuracy: float
    oracle_hpv_auc: float


@dataclass(frozen=True)
class Evaluation:
    """The official metrics of one set of predictions; NaN where one is undefined.

    Attributes:
        gtvp_hd95_median_mm: Not official: over patients with a GTVp in both masks, lower is better.
        oracle: Only where the cohort has its hidden truth.
    """

    gtvp_dice_mean: float
    gtvp_hd95_median_mm: float
    gtvn_dice_aggregated: float
    gtvn_f1_aggregated: float
    c_index: float
    hpv_balanced_accuracy: float
    hpv_auc: float
    counts: Counts
    oracle: OracleScores | None = None

    @property
    def scores(self) -> dict[str, float]:
        """Every metric by name; NaN where undefined."""
        scores = asdict(self)
        del scores["counts"]
        return scores | (scores.pop("oracle") or {})

    def to_json(self) -> str:
        """Write metrics and counts as JSON; null where a metric is undefined."""
        scores = {name: None if math.isnan(value) else value for name, value in self.scores.items()}
        return json.dumps(scores | {"counts": asdict(self.counts)}, indent=2) + "\n"


@dataclass(frozen=True)
class MaskScores:
    """One patient's mask against its reference; `predicted` is False where there was none."""

    predicted: bool
    gtvp_dice: float
    gtvp_hd95_mm: float
    gtvn_overlap: metrics.Overlap
    gtvn_lesions: metrics.LesionCounts


@dataclass(frozen=True)
class Answer:
    """One row of the predictions; NaN where blank.

    Attributes:
        risk_score: Higher means earlier recurrence.
        hpv_probability: Of being HPV-positive.
        hpv_positive: The decision, 1 or 0.
    """

    risk_score: float = math.nan
    hpv_probability: float = math.nan
    hpv_positive: float = math.nan


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
    "gtvp_hd95_median_mm": "no patient has a GTVp in both masks",
    "gtvn_dice_aggregated": "no GTVn in any mask",
    "gtvn_f1_aggregated": "no GTVn in any mask",
    **dict.fromkeys(("c_index", "c_index_uncensored", "oracle_c_index_uncensored"), "no comparable pair of patients"),
    **dict.fromkeys(("hpv_balanced_accuracy", "oracle_hpv_balanced_accuracy"), "only one HPV class is known"),
    **dict.fromkeys(("hpv_auc", "oracle_hpv_auc"), "only one HPV class is known"),
}


def evaluate(predictions: Path, cohort: Path) -> Evaluation:
    """Score predictions against a cohort's released outcomes and, where it has them, against its hidden truth.

    Args:
        predictions: Folder with `predictions.csv` and one `<PatientID>.nii.gz` a patient.
        cohort: Folder in the released layout.

    Raises:
        InvalidInputError: A file cannot be read, or a mask is not on its reference's grid.
    """
    released = read_cohort(cohort)
    patients = released.patients
    answers = _read_answers(predictions / PREDICTIONS_FILE)
    masks = _score_masks(predictions, released)
    measured = [mask.gtvp_hd95_mm for mask in masks if not math.isnan(mask.gtvp_hd95_mm)]
    rfs, hpv = [p for p in patients if p.outcome.has_rfs], _with_hpv(patients)
    relapse, positive = [bool(p.outcome.relapse) for p in rfs], [bool(p.outcome.hpv_positive) for p in hpv]
    risks, decisions = _line_up(rfs, answers, "risk_score"), _line_up(hpv, answers, "hpv_positive")
    truth = cohort / TRUTH_FILE
    return Evaluation(
        gtvp_dice_mean=float(np.mean([mask.gtvp_dice for mask in masks])) if masks else math.nan,
        gtvp_hd95_median_mm=float(np.median(measured)) if measured else math.nan,
        gtvn_dice_aggregated=metrics.aggregated_dice(mask.gtvn_overlap for mask in masks),
        gtvn_f1_aggregated=metrics.aggregated_f1(mask.gtvn_lesions for mask in masks),
        c_index=metrics.c_index(risks, np.array([p.outcome.rfs_days for p in rfs], float), relapse),
        hpv_balanced_accuracy=metrics.balanced_accuracy(decisions, positive),
        hpv_auc=metrics.roc_auc(_line_up(hpv, answers, "hpv_probability"), positive),
        counts=Counts(
            patients=len(patients),
            with_mask=len(masks),
            with_rfs=len(rfs),
            events=sum(relapse),
            hpv_positive=sum(positive),
            hpv_negative=len(positive) - sum(positive),
            missing_predictions=sum(p.patient_id not in answers for p in patients),
            missing_masks=sum(not mask.predicted for mask in masks),
            missing_risks=int(np.isnan(risks).sum()),
            missing_hpv=int(np.isnan(decisions).sum()),
        ),
        oracle=_score_oracle(_read_truth(truth), patients, answers, truth) if truth.is_file() else None,
    )


def print_table(evaluation: Evaluation, console: Console | None = None) -> None:
    """Print every metric, why one is undefined, and the counts behind them."""
    table = Table(title="Metrics", title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in evaluation.scores.items():
        undefined = math.isnan(value)
        table.add_row(name, f"undefined: {_UNDEFINED[name]}" if undefined else f"{value:.3f}")
    counts = Table(title="Patients", title_justify="left")
    counts.add_column("count")
    counts.add_column("value", justify="right")
    for name, number in asdict(evaluation.counts).items():
        counts.add_row(name, str(number), style="yellow" if name.startswith("missing") and number else None)
    console = console or Console()
    console.print(table)
    console.print(counts)


def _score_masks(predictions: Path, cohort: Cohort) -> list[MaskScores]:
    """Score the mask of every patient with a reference, a missing one as empty."""
    scores = []
    console = Console(stderr=True)
    for patient in track(
        cohort.patients, "scoring masks", console=console, transient=True, disable=not console.is_terminal
    ):
        reference_path = cohort.mask_path(patient.patient_id)
        if reference_path is None:
            continue
        reference, path = read_image(reference_path), predictions / f"{patient.patient_id}.nii.gz"
        found = _read_mask_on(path, reference.grid) if path.is_file() else np.zeros_like(reference.voxels)
        true_tumor, tumor = reference.voxels == Label.GTVP, found == Label.GTVP
        true_nodes, nodes = reference.voxels == Label.GTVN, found == Label.GTVN
        scores.append(
            MaskScores(
                predicted=path.is_file(),
                gtvp_dice=metrics.dice(true_tumor, tumor),
                gtvp_hd95_mm=metrics.hausdorff95_mm(true_tumor, tumor, reference.grid.spacing_xyz[::-1]),
                gtvn_overlap=metrics.count_overlap(true_nodes, nodes),
                gtvn_lesions=metrics.lesion_counts(true_nodes, nodes),
            )
        )
    return scores


def _read_mask_on(path: Path, grid: Grid) -> NDArray:
    """Read a mask, which must lie on this grid but for rounding in its header."""
    mask = read_image(path)
    same = mask.grid.size_xyz == grid.size_xyz and all(
        np.allclose(a, b, rtol=0, atol=_GRID_TOLERANCE_MM)
        for a, b in (
            (mask.grid.spacing_xyz, grid.spacing_xyz),
            (mask.grid.origin_xyz, grid.origin_xyz),
            (mask.grid.direction, grid.direction),
        )
    )
    if not same:
        raise InvalidInputError(f"{path}: the mask is on another grid than its reference: {mask.grid} against {grid}")
    return mask.voxels


def _score_oracle(
    truths: Mapping[str, Truth], patients: Sequence[Patient], answers: Mapping[str, Answer], source: Path
) -> OracleScores:
    """Compare with the true times, and the oracle with the truth on the patients of each metric."""
    absent = [p.patient_id for p in patients if p.patient_id not in truths]
    if absent:
        raise InvalidInputError(f"{source}: no row for {', '.join(absent[:5])}{' ...' if len(absent) > 5 else ''}")
    truth = [truths[p.patient_id] for p in patients]
    days, relapsed = [t.relapse_days for t in truth], np.ones(len(truth), bool)
    hpv = _with_hpv(patients)
    ratio = np.array([truths[p.patient_id].hpv_log_likelihood_ratio for p in hpv])
    positive = [bool(p.outcome.hpv_positive) for p in hpv]
    return OracleScores(
        c_index_uncensored=metrics.c_index(_line_up(patients, answers, "risk_score"), days, relapsed),
        oracle_c_index_uncensored=metrics.c_index([t.log_hazard for t in truth], days, relapsed),
        oracle_hpv_balanced_accuracy=metrics.balanced_accuracy(ratio > 0, positive),
        oracle_hpv_auc=metrics.roc_auc(ratio, positive),
    )


def _read_answers(path: Path) -> dict[str, Answer]:
    return {
        name: Answer(
            risk_score=_number(path, name, row, "risk_score"),
            hpv_probability=_number(path, name, row, "hpv_probability"),
            hpv_positive=_decision(path, name, row, "hpv_status"),
        )
        for name, row in _read_rows(path, ("risk_score", "hpv_probability", "hpv_status")).items()
    }


def _read_truth(path: Path) -> dict[str, Truth]:
    columns = tuple(field.name for field in fields(Truth))
    return {
        name: Truth(**{column: _number(path, name, row, column) for column in columns})
        for name, row in _read_rows(path, columns).items()
    }


def _read_rows(path: Path, columns: Sequence[str]) -> dict[str, dict[str, str]]:
    """Read a table with a row a patient; other columns than these are left alone."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidInputError(f"{path}: not a readable table ({error})") from error
    needed = (Column.PATIENT_ID.value, *columns)
    missing = [column for column in needed if column not in (reader.fieldnames or ())]
    if missing:
        raise InvalidInputError(f"{path}: no column {', '.join(missing)}")
    by_patient: dict[str, dict[str, str]] = {}
    for row in rows:
        name = row[Column.PATIENT_ID.value]
        if name in by_patient:
            raise InvalidInputError(f"{path}: patient {name} is there twice")
        by_patient[name] = row
    return by_patient


def _number(path: Path, patient_id: str, row: Mapping[str, str], column: str) -> float:
    """Read one cell; NaN where blank."""
    text = (row[column] or "").strip()
    try:
        return float(text) if text else math.nan
    except ValueError:
        raise InvalidInputError(f"{path}: {column} of {patient_id} is {text!r}, not a number") from None


def _decision(path: Path, patient_id: str, row: Mapping[str, str], column: str) -> float:
    """Read a yes or no, as 1 or 0; NaN where blank."""
    text = (row[column] or "").strip().lower()
    words = {"": math.nan, "nan": math.nan, "true": 1.0, "1": 1.0, "1.0": 1.0, "false": 0.0, "0": 0.0, "0.0": 0.0}
    if text not in words:
        raise InvalidInputError(f"{path}: {column} of {patient_id} is {text!r}, neither 0 nor 1")
    return words[text]


def _with_hpv(patients: Sequence[Patient]) -> list[Patient]:
    """Keep the patients with a released HPV status."""
    return [p for p in patients if p.outcome.hpv_positive is not None]


def _line_up(patients: Sequence[Patient], answers: Mapping[str, Answer], name: str) -> NDArray[np.float64]:
    """Line one kind of answer up with the patients; NaN where missing."""
    return np.array([getattr(answers.get(p.patient_id, Answer()), name) for p in patients], dtype=float)
