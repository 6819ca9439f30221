"""DICOM RT doses: what is read, where it lies, and what is refused or left out."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dicom_files import SECRETS, change_file, write_dose
from pydicom import Dataset, dcmread

from mmpl.case import Grid, Image, InvalidInputError, SeriesIdentity
from mmpl.dicom.dose import read_any_dose
from mmpl.dicom.study import PatientImages, find_study, read_study
from mmpl.dose import DOSE_LEFT_OUT, IN_CENTIGRAY
from mmpl.schema import default_schema

GRID = Grid((12, 10, 8), (10.0, 12.0, 15.0), (-60.0, -55.0, -70.5))
DOWN = (1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, -1.0)
"""Rows to the left, columns to the front, and so planes to the feet."""


def planned(grid: Grid = GRID) -> Image:
    return Image(np.random.default_rng(4).uniform(0, 70, grid.shape_zyx).astype(np.float32), grid)


@pytest.fixture(scope="module")
def of_ct(written: Path) -> Dataset:
    return dcmread(next((written / "ct").iterdir()))


@pytest.fixture
def write(tmp_path: Path, of_ct: Dataset) -> Callable[..., Path]:
    return lambda dose=None, absolute=False, **values: write_dose(
        tmp_path / "rd" / "dose.dcm", dose or planned(), of_ct, absolute, **values
    )


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("direction", [GRID.direction, DOWN])
def test_a_dose_comes_back_by_either_way_of_writing_its_planes(
    write: Callable[..., Path], absolute: bool, direction: tuple[float, ...]
) -> None:
    dose = planned(replace(GRID, direction=direction))
    read = read_any_dose(write(dose, absolute))
    assert read.grid == dose.grid
    np.testing.assert_allclose(read.voxels, dose.voxels, atol=1e-4)


@pytest.mark.parametrize("absolute", [False, True])
def test_planes_in_falling_order_are_turned(write: Callable[..., Path], absolute: bool) -> None:
    dose = planned()
    top = GRID.origin_xyz[2] + 7 * 15.0
    offsets = np.arange(8) * -15.0 + (top if absolute else 0)
    path = write(Image(dose.voxels[::-1], GRID), GridFrameOffsetVector=offsets.tolist())
    change_file(path, ImagePositionPatient=[*GRID.origin_xyz[:2], top])
    read = read_any_dose(path)
    assert read.grid == GRID
    np.testing.assert_allclose(read.voxels, dose.voxels, atol=1e-4)


def test_a_slanting_dose_lies_along_its_normal(write: Callable[..., Path]) -> None:
    sagittal = replace(GRID, direction=(0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0))
    assert read_any_dose(write(planned(sagittal))).grid == sagittal


def test_sixteen_bits_and_sums_of_plans_are_read_too(write: Callable[..., Path]) -> None:
    stored = np.random.default_rng(5).integers(0, 2**16, GRID.shape_zyx).astype("<u2")
    small = {"BitsAllocated": 16, "BitsStored": 16, "HighBit": 15, "PixelData": stored.tobytes()}
    path = write(DoseGridScaling="0.001", DoseSummationType="MULTI_PLAN", **small)
    np.testing.assert_allclose(read_any_dose(path).voxels, stored * 0.001, rtol=1e-6)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"DoseUnits": "RELATIVE"}, "not in Gy"),
        ({"DoseUnits": None}, "not in Gy"),
        ({"DoseType": "EFFECTIVE"}, "no physical dose"),
        ({"DoseSummationType": "BEAM"}, "0 RT doses of a whole plan, and 1 of parts of one: one is needed"),
        ({"DoseSummationType": "FRACTION"}, "0 RT doses of a whole plan"),
        ({"DoseGridScaling": None}, "no DoseGridScaling above 0"),
        ({"DoseGridScaling": "0"}, "no DoseGridScaling above 0"),
        ({"GridFrameOffsetVector": None}, "where its planes lie"),
        ({"GridFrameOffsetVector": [0.0]}, "where its planes lie"),
        ({"GridFrameOffsetVector": [5.0, 20, 35, 50, 65, 80, 95, 110]}, "neither at 0 nor at its position's z"),
        ({"GridFrameOffsetVector": [0.0, 15, 30, 45, 60, 75, 90, 110]}, "15.00 to 20.00 mm apart, not evenly"),
        ({"GridFrameOffsetVector": [0.0, 15, 30, 30, 45, 60, 75, 90]}, "0.00 to 15.00 mm apart"),
        ({"GridFrameOffsetVector": [0.0, 15, 30]}, "other planes or pixels than its header says"),
        ({"ImagePositionPatient": None}, "does not say where it lies"),
        ({"ImageOrientationPatient": [1.0, 0, 0, 0.5, 0.5, 0]}, "not at right angles"),
        ({"PixelData": b"\0" * 100}, "damaged or cut short"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.481.5", "Modality": "RTPLAN"}, "no RT dose"),
    ],
)
def test_what_is_no_dose_of_a_plan_is_refused_by_its_file(
    write: Callable[..., Path], values: dict[str, object], said: str
) -> None:
    path = write(**values)
    with pytest.raises(InvalidInputError, match=said) as refused:
        read_any_dose(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert not any(secret in str(refused.value) for secret in SECRETS)


def test_a_dose_of_another_frame_of_reference_is_refused(write: Callable[..., Path], of_ct: Dataset) -> None:
    path = write(FrameOfReferenceUID="1.2.3")
    assert read_any_dose(path).grid == GRID
    ct = SeriesIdentity(of_ct.SeriesInstanceUID, of_ct.FrameOfReferenceUID)
    with pytest.raises(InvalidInputError, match="another frame of reference than the CT"):
        read_any_dose(path, ct)
    assert read_any_dose(write(), ct).grid == GRID


def test_a_folder_with_one_is_read_as_one(write: Callable[..., Path], of_ct: Dataset) -> None:
    path = write()
    write_dose(path.parent / "beam.dcm", planned(), of_ct, DoseSummationType="BEAM")
    assert read_any_dose(path.parent).grid == GRID
    write_dose(path.parent / "boost.dcm", planned(), of_ct)
    with pytest.raises(InvalidInputError, match="2 RT doses of a whole plan, and 1 of parts of one: one is needed"):
        read_any_dose(path.parent)


# in a study


def read(folder: Path) -> PatientImages:
    return read_study(find_study(folder))


def test_a_study_brings_its_dose(study: Path, of_ct: Dataset) -> None:
    before = read(study)
    assert before.dose is None
    assert before.dose_flags == ()
    write_dose(study / "rd" / "plan.dcm", planned(), of_ct)
    write_dose(study / "rd" / "beam.dcm", planned(), of_ct, DoseSummationType="BEAM")
    images = read(study)
    assert images.dose is not None
    np.testing.assert_allclose(images.dose.voxels, planned().voxels, atol=1e-4)
    np.testing.assert_array_equal(images.ct.voxels, before.ct.voxels)
    case = images.to_case("somebody", default_schema().read({}))
    assert case.dose is images.dose
    assert case.flags == before.to_case("somebody", default_schema().read({})).flags


def test_a_studys_dose_in_centigray_is_flagged(study: Path, of_ct: Dataset) -> None:
    write_dose(study / "plan.dcm", Image(planned().voxels * 100, GRID), of_ct)
    images = read(study)
    assert images.dose_flags == (IN_CENTIGRAY,)
    assert images.dose is not None
    assert images.dose.voxels.max() < 71
    assert IN_CENTIGRAY in images.to_case("somebody", default_schema().read({})).flags


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"FrameOfReferenceUID": "1.2.3"}, "it was planned on another CT"),
        ({"DoseUnits": "RELATIVE"}, "not in Gy"),
        ({"DoseSummationType": "BEAM"}, "0 RT doses of a whole plan"),
        ({"PatientID": "another"}, "of another patient"),
        ({"PixelData": b"\0" * 10}, "damaged or cut short"),
        ({"ImagePositionPatient": [5000.0, 0.0, 0.0]}, "does not lie where the CT lies"),
    ],
)
def test_a_study_whose_dose_cannot_be_used_is_read_without_and_says_so(
    study: Path, of_ct: Dataset, caplog: pytest.LogCaptureFixture, values: dict[str, object], said: str
) -> None:
    write_dose(study / "rd" / "plan.dcm", planned(), of_ct, **values)
    with caplog.at_level(logging.WARNING):
        case = read(study).to_case("somebody", default_schema().read({}))
    assert case.dose is None
    (flag,) = (flag for flag in case.flags if flag.startswith(DOSE_LEFT_OUT))
    assert said in flag
    assert str(study) not in flag
    (line,) = (record.getMessage() for record in caplog.records if "planned dose not used" in record.getMessage())
    assert said in line
    assert str(study / "rd") in line
    assert not any(secret in flag + line for secret in SECRETS)
