"""A planned dose beside a case's images: read where it is asked for, and never what keeps a case from an answer."""

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cohorts import CT_GRID, ROW, write_images, write_table

from mmpl.case import Case, Grid, Image
from mmpl.dose import DOSE_LEFT_OUT, IN_CENTIGRAY
from mmpl.io.challenge import read_challenge_case
from mmpl.io.cohort import inspect_cohort, read_cohort
from mmpl.io.images import write_image

GRID = Grid((10, 10, 10), (20.0, 20.0, 20.0), (-95.0, -85.0, -80.0))


def planned(grid: Grid = GRID, highest: float = 70.0) -> Image:
    share = np.random.default_rng(0).uniform(0, 1, grid.shape_zyx)
    return Image((highest * share / share.max()).astype(np.float32), grid)


def elsewhere(image: Image) -> Image:
    return Image(np.roll(image.voxels, 16, axis=1), image.grid)


@pytest.fixture
def folder(write_input: Callable[..., Path]) -> Path:
    return write_input()


def give(folder: Path, dose: Image | bytes, planning_ct: Image | None = None, below: str = "images") -> None:
    for name, image in (("rt-dose", dose), ("ct-planning", planning_ct)):
        path = folder / below / name / "some-uuid.mha"
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(image, bytes):
            path.write_bytes(image)
        elif image is not None:
            write_image(path, image)


def left_out(case: Case) -> list[str]:
    assert case.dose is None
    return [flag for flag in case.flags if flag.startswith(DOSE_LEFT_OUT)]


def test_the_challenges_dose_is_read_where_it_is_asked_for(folder: Path, head: Case) -> None:
    without = read_challenge_case(folder, with_dose=True)
    assert (without.dose, without.flags) == (None, ())
    give(folder, planned(), head.ct)
    case = read_challenge_case(folder, with_dose=True)
    assert case.dose is not None
    np.testing.assert_array_equal(case.dose.voxels, planned().voxels)
    assert case.dose.grid == GRID
    assert case.flags == ()
    assert read_challenge_case(folder).dose is None


def test_an_empty_socket_is_none(folder: Path) -> None:
    (folder / "images" / "rt-dose").mkdir()
    assert read_challenge_case(folder, with_dose=True).flags == ()


def test_the_list_of_sockets_says_where_the_dose_lies(folder: Path) -> None:
    give(folder, planned(), below="elsewhere")
    listed = [{"socket": {"slug": "rt-dose", "relative_path": "elsewhere/rt-dose"}}]
    (folder / "inputs.json").write_text(json.dumps(listed))
    assert read_challenge_case(folder, with_dose=True).dose is not None


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda head: (b"no image", None), ""),
        (lambda head: (b"", None), "the file is empty"),
        (lambda head: (planned(highest=-1.0), None), "negative"),
        (lambda head: (planned(highest=np.nan), None), "NaN"),
        (lambda head: (planned(highest=120.0), None), "neither in Gy nor in cGy"),
        (lambda head: (planned(replace(GRID, origin_xyz=(900.0, 0.0, 0.0))), None), "does not lie where the CT lies"),
        (lambda head: (planned(), elsewhere(head.ct)), "the planning CT does not lie where the CT lies"),
        (lambda head: (planned(), b"no image"), ""),
    ],
)
def test_a_dose_that_cannot_be_used_is_left_out_and_its_file_named_in_the_log(
    folder: Path, head: Case, caplog: pytest.LogCaptureFixture, spoil: Callable[[Case], tuple], said: str
) -> None:
    give(folder, *spoil(head))
    with caplog.at_level(logging.WARNING):
        case = read_challenge_case(folder, with_dose=True)
    (flag,) = left_out(case)
    assert said in flag
    assert str(folder) not in flag
    (line,) = (record.getMessage() for record in caplog.records)
    assert line.startswith(f"note: {folder / 'images' / 'rt-dose' / 'some-uuid.mha'}: planned dose not used: ")
    np.testing.assert_array_equal(case.ct.voxels, head.ct.voxels)


def test_several_doses_are_none(folder: Path) -> None:
    give(folder, planned())
    write_image(folder / "images" / "rt-dose" / "another.mha", planned())
    (flag,) = left_out(read_challenge_case(folder, with_dose=True))
    assert "2 dose images" in flag
    assert "another" not in flag


def test_whatever_goes_wrong_with_a_dose_the_case_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError("out of memory")

    give(folder, planned())
    monkeypatch.setattr("mmpl.io.dose.give_dose", fail)
    assert len(left_out(read_challenge_case(folder, with_dose=True))) == 1


# cohorts

DOSE_GRID = Grid((4, 4, 4), (6.0, 6.0, 6.0), (-250.0, -101.0, 12.0))


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    folder = write_table(tmp_path / "cohort", ROW, ROW | {"PatientID": "CHUM-002"})
    for name in ("CHUM-001", "CHUM-002"):
        write_images(folder, name)
    return folder


@pytest.mark.parametrize("flat", [False, True])
def test_a_cohorts_doses_are_read_where_there_are_any(cohort: Path, flat: bool) -> None:
    before = read_cohort(cohort).fingerprint("CHUM-001"), read_cohort(cohort).fingerprint("CHUM-002")
    write_image((cohort if flat else cohort / "CHUM-001") / "CHUM-001__RTDOSE.nii.gz", planned(DOSE_GRID))
    read = read_cohort(cohort)
    first, second = read.read_case("CHUM-001"), read.read_case("CHUM-002")
    assert first.dose is not None
    np.testing.assert_allclose(first.dose.voxels, planned(DOSE_GRID).voxels)
    assert first.dose.grid.origin_xyz == pytest.approx(DOSE_GRID.origin_xyz)
    assert second.dose is None
    assert not any(flag.startswith(DOSE_LEFT_OUT) for flag in first.flags + second.flags)
    assert sorted(read.image_files("CHUM-001")) == ["ct", "dose", "pet"]
    assert read.fingerprint("CHUM-001") != before[0]
    assert read.fingerprint("CHUM-002") == before[1]


def test_a_cohorts_dose_in_centigray_is_flagged_and_one_planned_elsewhere_left_out(
    cohort: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_image(cohort / "CHUM-001" / "CHUM-001__RTDOSE.nii.gz", planned(DOSE_GRID, highest=7000.0))
    write_image(cohort / "CHUM-002" / "CHUM-002__RTDOSE.nii.gz", planned(DOSE_GRID))
    noise = np.random.default_rng(9).integers(-1000, 1000, CT_GRID.shape_zyx).astype(np.int16)
    write_image(cohort / "CHUM-002" / "CHUM-002__CTPlanning.nii.gz", Image(noise, CT_GRID))
    read = read_cohort(cohort)
    first = read.read_case("CHUM-001")
    assert IN_CENTIGRAY in first.flags
    assert first.dose is not None
    assert first.dose.voxels.max() == pytest.approx(70)
    with caplog.at_level(logging.WARNING):
        (flag,) = left_out(read.read_case("CHUM-002"))
    assert "the planning CT does not lie where the CT lies" in flag
    assert "CHUM-002__RTDOSE.nii.gz" in caplog.text


def test_a_dose_that_is_there_twice_is_a_problem_as_any_file_is(cohort: Path) -> None:
    for place in (cohort, cohort / "CHUM-001"):
        write_image(place / "CHUM-001__RTDOSE.nii.gz", planned(DOSE_GRID))
    _, problems = inspect_cohort(cohort)
    assert len(problems) == 1
    assert "one of the two is too many" in problems[0]
