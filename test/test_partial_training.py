"""Cohorts whose labels allow only some of the stages: trained from their folder, exported and answered."""

import csv
import json
from pathlib import Path

import pytest
from test_programs import shell

from mmpl.evaluate import evaluate
from mmpl.io.cohort import find_table
from mmpl.names import Column
from mmpl.phantom.cohort import write_cohort
from mmpl.predict import predict

SMALL = ("--profile", "micro", "--folds", "2", "--no-center-out")
FEW_STEPS = tuple(
    part for stage in ("segmentation", "hpv", "survival") for part in ("--set", f"training.{stage}.steps=2")
)
BLANK = {
    "masks alone": ((Column.HPV_STATUS, Column.RELAPSE, Column.RFS_DAYS), ["segmentation"]),
    "no HPV status": ((Column.HPV_STATUS,), ["segmentation", "survival"]),
    "no follow-up": ((Column.RFS_DAYS,), ["segmentation", "hpv"]),
}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("partial") / "cohort"
    write_cohort(16, 16, folder, hpv_positive=0.5)
    return folder


def copy_without(cohort: Path, columns: tuple[Column, ...], folder: Path) -> None:
    """Link a cohort's images into another folder, and blank some columns of its table."""
    folder.mkdir()
    for patient in cohort.iterdir():
        if patient.is_dir():
            (folder / patient.name).symlink_to(patient)
    rows = list(csv.DictReader(find_table(cohort).open()))
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(row | dict.fromkeys(columns, "") for row in rows)


@pytest.mark.parametrize("case", BLANK)
def test_what_the_labels_allow_is_trained_exported_and_answered(
    case: str, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns, stages = BLANK[case]
    ours, run, answers = (tmp_path / name for name in ("cohort", "run", "answers"))
    copy_without(cohort, columns, ours)
    ended = shell("ensemble", ours, run, *SMALL, *FEW_STEPS)
    assert ended.code == 0, ended.errors
    left_out = {"segmentation", "hpv", "survival"} - set(stages)
    assert all(f"{stage} is left out of this run" in ended.output for stage in left_out)
    assert json.loads((run / "weights/manifest.json").read_text())["stages"] == stages

    monkeypatch.setenv("MMPL_WEIGHTS", str(run / "weights"))
    assert predict(ours, answers, pictures=False) == {}
    rows = list(csv.DictReader((answers / "predictions.csv").open()))
    assert len(rows) == 16
    for row in rows:
        assert (row["risk_score"] != "") == ("survival" in stages)
        assert (row["hpv_probability"] != "") == (row["hpv_status"] != "") == ("hpv" in stages)
    assert evaluate(answers, ours, resamples=20).scores.gtvp_dice_mean >= 0


def test_labels_that_are_too_few_for_a_fold_are_told_before_anything_is_written(cohort: Path, tmp_path: Path) -> None:
    ours, run = tmp_path / "cohort", tmp_path / "run"
    copy_without(cohort, (), ours)
    rows = list(csv.DictReader((ours / "table.csv").open()))
    with (ours / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(row | {Column.HPV_STATUS: "1"} for row in rows)
    ended = shell("prepare", ours, run, *SMALL)
    assert ended.code == 1
    assert "patient-0: the 8 patients of known HPV status it trains on are of one kind" in ended.errors
    assert not run.exists()
    assert shell("prepare", ours, run, *SMALL, "--without", "hpv").code == 0
    assert "are of other settings" not in shell("prepare", ours, run, *SMALL).errors
