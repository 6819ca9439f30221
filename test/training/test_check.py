"""The check of a cohort's folder before training: all that training would meet, in one go."""

import csv
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cohorts import CT_GRID, ROW, Row, mask_on, write_images, write_table

from mmpl.case import Image
from mmpl.io.images import write_image
from mmpl.names import NETWORK_STAGES, Column, Stage
from mmpl.profile import load_profile
from mmpl.schema import default_schema
from mmpl.training.check import check_cohort
from mmpl.training.parallel import Engine
from mmpl.training.splits import Scheme
from mmpl.training.workspace import RunSettings, Workspace

NAMES = [f"P{number:02d}" for number in range(12)]


def settings(folder: Path, folds: int = 2, **more: object) -> RunSettings:
    return RunSettings(str(folder), load_profile("micro"), folds, center_out=False, **more)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve patients with all that training needs."""
    folder = tmp_path_factory.mktemp("sound") / "cohort"
    write(folder, lambda row, _: row)
    for name in NAMES:
        write_images(folder, name, mask=mask_on(CT_GRID))
    return folder


def write(folder: Path, change: Callable[[Row, int], Row]) -> Path:
    status = {name: str(i // 2 % 2) for i, name in enumerate(NAMES)}
    rows = [ROW | {"PatientID": name, "HPV Status": status[name]} for name in NAMES]
    return write_table(folder, *(change(row, i) for i, row in enumerate(rows)))


@pytest.fixture
def cohort(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "cohort"))


def problems(folder: Path, **more: object) -> list[str]:
    with pytest.raises(ValueError, match=str(folder)) as caught:
        check_cohort(settings(folder, **more), Engine(1))  # type: ignore[arg-type]
    lines = str(caught.value).splitlines()
    return lines if len(lines) == 1 else [line.strip() for line in lines[1:]]


def test_a_sound_cohort_has_its_folds_dealt(cohort: Path) -> None:
    splits, stages = check_cohort(settings(cohort), Engine(1))
    assert stages == NETWORK_STAGES
    assert [member.name for member in splits.members] == ["patient-0", "patient-1"]


@pytest.mark.parametrize("kind", ["CT", "PT"])
def test_an_image_that_was_cut_is_found_before_training(cohort: Path, kind: str) -> None:
    path = cohort / "P03" / f"P03__{kind}.nii.gz"
    path.write_bytes(path.read_bytes()[:-20])
    (problem,) = problems(cohort)
    assert f"patient P03: {path}: the file is damaged" in problem


def test_images_that_do_not_meet_are_found(cohort: Path) -> None:
    apart = replace(CT_GRID, origin_xyz=(500.0, 0.0, 0.0))
    write_image(cohort / "P03/P03__PT.nii.gz", Image(np.ones(apart.shape_zyx, np.float32), apart))
    (problem,) = problems(cohort)
    assert "patient P03: CT and PET do not overlap" in problem


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda row, i: row | {"HPV Status": "1"}, "are of one kind"),
        (
            lambda row, i: row | {"Relapse": str(int(i < 2))},
            "relapses among the patients it trains on, and",
        ),
        (lambda row, i: row | {"Age": "61 years"}, "Age: 12 of 12 values are not understood and taken as missing ('61"),
    ],
)
def test_labels_that_would_stop_a_later_stage(cohort: Path, change: Callable[[Row, int], Row], problem: str) -> None:
    assert problem in problems(write(cohort, change))[0]


def test_a_few_values_that_are_not_understood_are_remarked(cohort: Path, caplog: pytest.LogCaptureFixture) -> None:
    check_cohort(settings(write(cohort, lambda row, i: row | ({"Age": "61Y"} if i == 5 else {}))), Engine(1))
    assert "Age: 1 of 12 values are not understood and taken as missing ('61Y', ...)" in caplog.text


def test_a_fold_of_one_stage_is_remarked_and_stages_all_alike_are_left_out(
    cohort: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(cohort, lambda row, i: row | {"T-stage": f"T{i % 3 + 1}", "N-stage": "N3" if i == 5 else "N1"})
    splits, stages = check_cohort(settings(cohort), Engine(1))
    assert stages == tuple(Stage)
    (remark,) = [record.getMessage() for record in caplog.records if "stage" in record.getMessage()]
    of = splits.fold_of[Scheme.PATIENT]["P05"]
    said = f"patient-{of}: all 6 patients of known n-stage it trains on are N1, which it will say of everybody"
    assert remark == f"{cohort / 'EHR.csv'}: {said}"
    write(cohort, lambda row, i: row | {"T-stage": f"T{i % 3 + 1}", "N-stage": "N1"})
    assert check_cohort(settings(cohort), Engine(1))[1] == NETWORK_STAGES


def test_no_mask_at_all(cohort: Path) -> None:
    for name in NAMES:
        (cohort / name / f"{name}.nii.gz").unlink()
    assert "none of the 6 patients it trains on has a reference mask" in problems(cohort)[0]


def test_images_folds_and_labels_are_told_together(cohort: Path) -> None:
    (cohort / "P03/P03__CT.nii.gz").write_bytes(b"")
    write(cohort, lambda row, i: row | {"HPV Status": "1"})
    found = problems(cohort)
    assert len(found) == 3
    assert "the file is empty" in found[0]
    assert "of one kind" in found[1]


def test_fewer_patients_than_folds(cohort: Path) -> None:
    assert "12 patients cannot be dealt to 13 folds" in problems(cohort, folds=13)[0]


def test_a_stage_that_is_not_wanted_needs_nothing(cohort: Path) -> None:
    write(cohort, lambda row, i: row | {"HPV Status": "1"})
    run = settings(cohort, stages=(Stage.SEGMENTATION, Stage.SURVIVAL))
    assert check_cohort(run, Engine(1))[1] == (Stage.SEGMENTATION, Stage.SURVIVAL)


def test_a_field_that_the_runs_own_schema_lacks_is_not_asked_for(tmp_path: Path) -> None:
    schema = default_schema()
    fewer = schema.model_validate({**schema.model_dump(), "fields": schema.model_dump()["fields"][1:]})
    with (tmp_path / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*Column, *fewer.names])
        writer.writerow(["A", "1", *[""] * (len(Column) - 2 + len(fewer.names))])
    missing = f"column {schema.names[0]!r} is missing"
    assert any(missing in problem for problem in problems(tmp_path))
    profile = load_profile("micro").model_copy(update={"clinical": fewer})
    with pytest.raises(ValueError, match="no CT image") as caught:
        check_cohort(RunSettings(str(tmp_path), profile), Engine(1))
    assert missing not in str(caught.value)


# a cohort that is not what it was when the run began


@pytest.fixture
def run(cohort: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    workspace = Workspace(folder, settings(cohort))
    workspace.begin(check_cohort(workspace.settings, Engine(1))[0])
    assert len(Workspace.open(folder).patients) == len(NAMES)
    return folder


def add(cohort: Path) -> None:
    shutil.copytree(cohort / "P01", cohort / "new")
    for path in (cohort / "new").iterdir():
        path.rename(path.with_name(path.name.replace("P01", "new")))
    table = cohort / "EHR.csv"
    table.write_text(table.read_text() + table.read_text().splitlines()[2].replace("P01", "new") + "\n")


def remove(cohort: Path) -> None:
    table = cohort / "EHR.csv"
    table.write_text("".join(line for line in table.read_text().splitlines(keepends=True) if "P02" not in line))


def change_row(cohort: Path) -> None:
    table = cohort / "EHR.csv"
    table.write_text(table.read_text().replace("P04,2,61", "P04,2,62"))


def change_image(cohort: Path) -> None:
    write_image(cohort / "P05/P05__PT.nii.gz", Image(np.ones(CT_GRID.shape_zyx, np.float32), CT_GRID))


def take_mask_away(cohort: Path) -> None:
    (cohort / "P06/P06.nii.gz").unlink()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (add, "added: new"),
        (remove, "gone: P02"),
        (change_row, "changed: P04"),
        (change_image, "changed: P05"),
        (take_mask_away, "changed: P06"),
    ],
)
def test_patients_that_changed_since_the_run_began_are_named(
    cohort: Path, run: Path, change: Callable[[Path], None], what: str
) -> None:
    change(cohort)
    with pytest.raises(ValueError, match=rf"not as it was when this run began \({what}\); start another run"):
        _ = Workspace.open(run).patients


@pytest.mark.parametrize("ending", ["/", "/.", "/../cohort"])
def test_the_same_folder_by_another_name_is_the_same_run(cohort: Path, run: Path, ending: str) -> None:
    link = cohort.with_name("link")
    link.symlink_to(cohort)
    for name in (f"{cohort}{ending}", str(link)):
        begun = RunSettings.make(run, name)
        assert begun.cohort == str(cohort.resolve())
