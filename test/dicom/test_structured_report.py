"""Structured reports: the numbers that were measured, under the segments that they are of."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from highdicom.sr import Comprehensive3DSR
from pydicom import Dataset, dcmread
from small_series import NAME, PATIENT_ID, lesions_on, make_series, order_slices

from mmpl.case import Grid, Image
from mmpl.dicom.ct_series import CtSeries
from mmpl.dicom.objects import RESEARCH_ONLY, write_object
from mmpl.dicom.segmentation_object import make_segmentation
from mmpl.dicom.structured_report import OUR_SCHEME, Outlook, make_report
from mmpl.geometry import index_to_mm
from mmpl.names import LESIONS, Label

OUTLOOK = Outlook(0.81, 0.93, True, -0.4, 31.0)


@pytest.fixture
def series() -> CtSeries:
    return order_slices(make_series())


@pytest.fixture
def pet(series: CtSeries) -> Image:
    """A PET that is as many SUV as a voxel lies millimeters to the left of the middle, on a grid of its own."""
    x, y, z = np.asarray(series.grid.origin_xyz) - 7.0
    grid = Grid((30, 30, 30), (3.0, 3.0, 3.0), (x, y, z))
    index = np.stack(np.indices(grid.shape_zyx)[::-1], -1)
    return Image(index_to_mm(grid, index)[..., 0].astype(np.float32), grid)


def read(tmp_path: Path, content: Dataset) -> Comprehensive3DSR:
    write_object(tmp_path / "report.dcm", content)
    return Comprehensive3DSR.from_dataset(dcmread(tmp_path / "report.dcm"))


def test_each_lesion_has_its_numbers_and_its_segment(tmp_path: Path, series: CtSeries, pet: Image) -> None:
    mask = lesions_on(series.grid)
    segmentation = make_segmentation(mask, series)
    report = read(tmp_path, make_report(mask, series, segmentation, OUTLOOK, pet))
    groups = report.content.get_volumetric_roi_measurement_groups()
    assert [group.tracking_identifier for group in groups] == ["GTVp", "GTVn"]
    for group, label in zip(groups, LESIONS, strict=True):
        values = {
            (m.name.meaning, m.derivation.meaning if m.derivation else None): m.value for m in group.get_measurements()
        }
        at = index_to_mm(series.grid, np.argwhere(mask.voxels == label)[:, ::-1])[:, 0]
        assert values == {
            ("Volume", None): pytest.approx(len(at) * 0.003, abs=1e-4),
            ("SUVbw", "Mean"): pytest.approx(at.mean(), abs=0.1),
            ("SUVbw", "Maximum"): pytest.approx(at.max(), abs=1.5),  # the PET's own voxels, of 3 mm
        }
        (referred,) = [item for item in group[0].ContentSequence if item.name.meaning == "Referenced Segment"]
        assert referred.referenced_sop_instance_uid == segmentation.SOPInstanceUID
        assert referred.referenced_segment_numbers == [int(label)]
        assert group.finding_type.meaning.startswith("Neoplasm, ")


def test_what_is_said_of_the_patient(tmp_path: Path, series: CtSeries) -> None:
    mask = lesions_on(series.grid)
    report = read(tmp_path, make_report(mask, series, make_segmentation(mask, series), OUTLOOK))
    (group,) = report.content.get_image_measurement_groups()
    values = {m.name.value: m.value for m in group.get_measurements()}
    assert values == {"hpv_score": 0.81, "hpv_probability": 0.93, "risk_score": -0.4, "risk_percentile": 31.0}
    said = {each.name.value: each.value.meaning for each in group.get_qualitative_evaluations()}
    assert said == {"hpv_status": "Positive", "intended_use": RESEARCH_ONLY}
    assert (report.PatientName, report.PatientID) == (NAME, PATIENT_ID)
    assert RESEARCH_ONLY in report.SeriesDescription
    assert report.CodingSchemeIdentificationSequence[0].CodingSchemeDesignator == OUR_SCHEME


def test_what_was_not_answered_is_not_there(tmp_path: Path, series: CtSeries) -> None:
    mask = lesions_on(series.grid)
    report = read(tmp_path, make_report(mask, series, make_segmentation(mask, series), Outlook()))
    (group,) = report.content.get_image_measurement_groups()
    assert group.get_measurements() == []
    assert [each.name.value for each in group.get_qualitative_evaluations()] == ["intended_use"]


def test_no_lesion_has_no_uptake(tmp_path: Path, series: CtSeries, pet: Image) -> None:
    mask = lesions_on(series.grid)
    primary = replace(mask, voxels=np.where(mask.voxels == Label.GTVP, mask.voxels, 0))
    report = read(tmp_path, make_report(primary, series, make_segmentation(primary, series), OUTLOOK, pet))
    none = report.content.get_volumetric_roi_measurement_groups()[1]
    assert [(m.name.meaning, m.value) for m in none.get_measurements()] == [("Volume", 0.0)]


@pytest.mark.parametrize("positive", [True, False])
def test_either_status_is_said_and_numbers_have_their_units(tmp_path: Path, positive: bool) -> None:
    series = order_slices(make_series())
    mask = lesions_on(series.grid)
    outlook = replace(OUTLOOK, hpv_positive=positive)
    report = read(tmp_path, make_report(mask, series, make_segmentation(mask, series), outlook))
    (group,) = report.content.get_image_measurement_groups()
    said = {each.name.value: each.value.meaning for each in group.get_qualitative_evaluations()}
    assert said["hpv_status"] == ("Positive" if positive else "Negative")
    units = {each.name.value: each.unit.value for each in group.get_measurements()}
    assert units == {"hpv_score": "1", "hpv_probability": "1", "risk_score": "1", "risk_percentile": "%"}
