"""Answer every patient of a cohort: a mask and a picture each, and one table."""

import csv
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from rich.progress import Progress

from mmpl.case import InvalidInputError
from mmpl.evaluate import PREDICTIONS_FILE
from mmpl.io.cohort import read_cohort
from mmpl.io.images import write_image
from mmpl.labels import Column
from mmpl.memory import keep_freed_memory
from mmpl.picture import draw
from mmpl.pipeline import PatientResult, Pipeline
from mmpl.report import write_report
from mmpl.weights import load_ensemble

COLUMNS = (
    Column.PATIENT_ID.value,
    "risk_score",
    "hpv_probability",
    "hpv_status",
    "gtvp_ml",
    "gtvn_ml",
    "flags",
)

log = logging.getLogger(__name__)

Row = dict[str, str]


def predict(cohort: Path, out: Path, pictures: bool = True, models: Sequence[str] = ()) -> dict[str, str]:
    """Answer the patients of a cohort's folder that have no answer in `out` yet.

    Each patient's mask `<PatientID>.nii.gz`, picture `<PatientID>.png` and report `<PatientID>.json` are written before
    the row in `predictions.csv`, so a patient with a row is finished. The released outcomes are never looked at.

    Args:
        cohort: A folder in the released layout.
        out: Takes the answers.
        pictures: Whether to draw them.
        models: Which models of the ensemble answer, by name; by default all.

    Returns:
        What went wrong, by patient; such a patient has no row.
    """
    keep_freed_memory()
    patients = read_cohort(cohort)
    ensemble = load_ensemble().only(models)
    for member in ensemble.members:
        member.keep()
    pipeline = Pipeline(ensemble, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    out.mkdir(parents=True, exist_ok=True)
    table = out / PREDICTIONS_FILE
    rows = _read_rows(table)
    failures: dict[str, str] = {}
    with Progress() as progress:
        for patient in progress.track(patients.patients, description="predicting"):
            name = patient.patient_id
            if name in rows and (out / f"{name}.nii.gz").is_file():
                continue
            try:
                case = patients.read_case(name)
                result = pipeline(case)
            except InvalidInputError as error:
                failures[name] = str(error)
                continue
            except Exception as error:  # one patient must not stop the cohort; it is reported, and has no row
                log.debug("unforeseen", exc_info=True)
                failures[name] = f"{type(error).__name__}: {error}"
                continue
            write_image(out / f"{name}.nii.gz", result.segmentation.mask)
            if pictures:
                draw(case, result, out / f"{name}.png", ensemble.hpv_threshold)
            write_report(out / f"{name}.json", result, ensemble)
            rows[name] = _row(result)
            _write_rows(table, rows.values())
    return failures


def _row(result: PatientResult) -> Row:
    hpv, survival = result.complete
    values = (
        result.patient_id,
        f"{survival.risk_score:.6f}",
        f"{hpv.probability:.6f}",
        str(int(hpv.positive)),
        f"{result.gtvp_ml:.3f}",
        f"{result.gtvn_ml:.3f}",
        "; ".join(result.flags),
    )
    return dict(zip(COLUMNS, values, strict=True))


def _read_rows(table: Path) -> dict[str, Row]:
    if not table.is_file():
        return {}
    with table.open(newline="") as file:
        return {row[Column.PATIENT_ID.value]: row for row in csv.DictReader(file)}


def _write_rows(table: Path, rows: Iterable[Row]) -> None:
    partial = table.with_suffix(".partial")
    with partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    partial.replace(table)
