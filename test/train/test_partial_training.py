"""Cohorts whose labels allow only some of the stages: trained from their folder, exported and answered."""

import csv
import json
from pathlib import Path

import pytest
from test_programs import shell

from mmpl.evaluate import evaluate
from mmpl.io.cohort import find_tables
from mmpl.names import Column
from mmpl.phantom.cohort import write_cohort
from mmpl.predict import predict

SMALL = ("--profile", "micro", "--folds", "2", "--no-center-out")
CHANGES = (
    *(f"training.{stage}.steps=2" for stage in ("segmentation", "hpv", "survival")),
    # untrained networks call half of a patient a lesion, which takes minutes to measure by every feature
    "radiomics.filters.log_sigmas_mm=[]",
    "radiomics.filters.wavelet=null",
    "radiomics.feature_classes=[shape]",
)
FEW_STEPS = tuple(part for change in CHANGES for part in ("--set", change))


def read_rows(table: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(table.read_text().splitlines()))


def copy_without(cohort: Path, columns: tuple[Column, ...], folder: Path, patients: int = 16) -> None:
    """Link the images of a cohort's first patients into another folder, and blank some columns of their table."""
    folder.mkdir()
    rows = read_rows(find_tables(cohort)[0])[:patients]
    for row in rows:
        (folder / row[Column.PATIENT_ID]).symlink_to(cohort / row[Column.PATIENT_ID])
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(row | dict.fromkeys(columns, "") for row in rows)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen patients, of whom either half has three relapses."""
    folder = tmp_path_factory.mktemp("partial") / "cohort"
    write_cohort(16, 16, folder, hpv_positive=0.5)
    return folder


@pytest.mark.parametrize(
    ("blank", "patients", "stages"),
    [
        ((Column.HPV_STATUS, Column.RELAPSE, Column.RFS_DAYS), 4, ["segmentation"]),
    ],
)
def test_what_the_labels_allow_is_trained_exported_and_answered(
    blank: tuple[Column, ...],
    patients: int,
    stages: list[str],
    cohort: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours, few, run, answers = (tmp_path / name for name in ("cohort", "few", "run", "answers"))
    copy_without(cohort, blank, ours, patients)
    ended = shell("ensemble", ours, run, *SMALL, *FEW_STEPS)
    assert ended.code == 0, ended.errors
    left_out = {"segmentation", "hpv", "survival"} - set(stages)
    assert all(f"{stage} is left out of this run" in ended.output for stage in left_out)
    assert json.loads((run / "weights/manifest.json").read_text())["stages"] == stages

    copy_without(cohort, (), few, 2)
    monkeypatch.setenv("MMPL_WEIGHTS", str(run / "weights"))
    assert predict(few, answers, pictures=False) == {}
    rows = read_rows(answers / "predictions.csv")
    assert len(rows) == 2
    for row in rows:
        assert (row["risk_score"] != "") == ("survival" in stages)
        assert row["hpv_probability"] == row["hpv_status"] == ""
    assert evaluate(answers, few, resamples=20).scores.gtvp_dice_mean >= 0
