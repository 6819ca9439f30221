"""DICOM segmentations: every voxel in its place on the way out and back, whatever the orientation."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from highdicom.seg import Segmentation
from pydicom import Dataset, dcmread
from small_series import BIRTH_DATE, NAME, ORIENTATIONS, PATIENT_ID, lesions_on, make_series, order_slices

from mmpl.case import Grid, Image, InvalidInputError
from mmpl.dicom.headers import quiet
from mmpl.dicom.objects import RESEARCH_ONLY, write_object
from mmpl.dicom.segmentation_object import lay_segmentation_on, make_segmentation
from mmpl.geometry import lay_on
from mmpl.names import Label


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_out_and_back(tmp_path: Path, orientation: str) -> None:
    series = order_slices(make_series(orientation))
    mask = lesions_on(series.grid)
    path = tmp_path / "seg.dcm"
    write_object(path, make_segmentation(mask, series))
    found = lay_segmentation_on(dcmread(path), series.grid, series.identity)
    np.testing.assert_array_equal(found.voxels, mask.voxels)


@pytest.mark.parametrize("kept", [[], [7], [3, 12]])
def test_few_slices(kept: list[int]) -> None:
    series = order_slices(make_series())
    voxels = lesions_on(series.grid).voxels.copy()
    voxels[[index for index in range(len(voxels)) if index not in kept]] = 0
    made = make_segmentation(Image(voxels, series.grid), series)
    np.testing.assert_array_equal(lay_segmentation_on(made, series.grid).voxels, voxels)


@pytest.mark.parametrize("kind", ["FRACTIONAL", "LABELMAP"])
def test_other_kinds_of_segmentation_are_read(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    other = {"segmentation_type": kind}
    monkeypatch.setattr("highdicom.seg.Segmentation", lambda **given: Segmentation(**given | other))
    series = order_slices(make_series("oblique"))
    mask = lesions_on(series.grid)
    made = make_segmentation(mask, series)
    assert made.SegmentationType == kind
    np.testing.assert_array_equal(lay_segmentation_on(made, series.grid, series.identity).voxels, mask.voxels)


def test_a_frame_of_no_segment_is_refused() -> None:
    series = order_slices(make_series())
    made = make_segmentation(lesions_on(series.grid), series)
    del made.PerFrameFunctionalGroupsSequence[2].SegmentIdentificationSequence
    with pytest.raises(InvalidInputError, match="its frame 3 is of no segment"):
        lay_segmentation_on(made, series.grid)


def test_a_mask_with_its_axes_in_another_order_is_written_in_its_place() -> None:
    series = order_slices(make_series("sagittal"))
    mask = lesions_on(series.grid)
    x, y, z = series.grid.size_xyz
    turned = Grid((z, x, y), (3.0, 1.0, 1.0), series.grid.origin_xyz, (1, 0, 0, 0, 1, 0, 0, 0, -1))
    found = lay_segmentation_on(make_segmentation(lay_on(mask, _mirrored(turned)), series), series.grid)
    np.testing.assert_array_equal(found.voxels, mask.voxels)


def _mirrored(grid: Grid) -> Grid:
    """Begin where a sagittal series ends: its normal runs to the patient's right."""
    x, y, z = grid.origin_xyz
    return replace(grid, origin_xyz=(x - 3.0 * (grid.size_xyz[0] - 1), y, z))


def test_what_it_says_of_itself() -> None:
    series = order_slices(make_series())
    made = make_segmentation(lesions_on(series.grid), series)
    assert (made.PatientID, made.PatientName, made.PatientBirthDate) == (PATIENT_ID, NAME, BIRTH_DATE)
    assert made.StudyInstanceUID == series.slices[0].StudyInstanceUID
    assert made.FrameOfReferenceUID == series.slices[0].FrameOfReferenceUID
    assert made.ContentDescription == RESEARCH_ONLY
    assert RESEARCH_ONLY in made.SeriesDescription
    first, second = made.SegmentSequence
    assert (first.SegmentLabel, second.SegmentLabel) == ("GTVp", "GTVn")
    assert [each.SegmentedPropertyTypeCodeSequence[0].CodeValue for each in (first, second)] == [
        "372087000",
        "14799000",
    ]
    assert first.SegmentAlgorithmType == "AUTOMATIC"
    corrected = make_segmentation(lesions_on(series.grid), series, by_person=True)
    assert corrected.SegmentSequence[0].SegmentAlgorithmType == "MANUAL"


def test_a_mask_elsewhere_is_refused() -> None:
    series = order_slices(make_series())
    x, y, z = series.grid.origin_xyz
    with pytest.raises(InvalidInputError, match="the mask does not lie where the image lies"):
        make_segmentation(lesions_on(replace(series.grid, origin_xyz=(x + 1, y, z))), series)


def rename(*names: str) -> Callable[[Dataset], None]:
    def change(content: Dataset) -> None:
        for segment, name in zip(content.SegmentSequence, names, strict=True):
            segment.SegmentLabel = name
            segment.SegmentedPropertyTypeCodeSequence[0].CodeValue = "85756007"  # tissue

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rename("Liver", "Spleen"), "no segments named GTVp or GTVn; there are Liver, Spleen"),
        (rename("GTV x", "GTVn"), "segments that may be GTVp or GTVn, but do not say which: GTV x"),
        (lambda content: setattr(content.SegmentSequence[0], "SegmentLabel", "GTVn"), "'GTVn' is GTVp by its code"),
        (lambda content: setattr(content, "FrameOfReferenceUID", "1.2.3"), "belongs to another CT .its frame"),
        (
            lambda content: setattr(content.ReferencedSeriesSequence[0], "SeriesInstanceUID", "1.2.3"),
            "belongs to another CT .it refers to another series",
        ),
        (lambda content: delattr(content, "PixelData"), "its pixels cannot be read"),
        (lambda content: delattr(content, "SegmentSequence"), "not a whole DICOM segmentation"),
        (lambda content: delattr(content, "PerFrameFunctionalGroupsSequence"), "not a whole DICOM segmentation"),
    ],
)
def test_what_cannot_be_used_is_said(change: Callable[[Dataset], None], message: str) -> None:
    series = order_slices(make_series())
    made = make_segmentation(lesions_on(series.grid), series)
    change(made)
    with pytest.raises(InvalidInputError, match=message):
        lay_segmentation_on(made, series.grid, series.identity)


def test_segments_by_name_alone() -> None:
    series = order_slices(make_series())
    mask = lesions_on(series.grid)
    made = make_segmentation(mask, series)
    rename("Node", "Tumour")(made)
    found = lay_segmentation_on(made, series.grid).voxels
    np.testing.assert_array_equal(found == Label.GTVN, mask.voxels == Label.GTVP)


def test_a_segmentation_of_a_shifted_ct_is_refused_by_its_place() -> None:
    series = order_slices(make_series())
    made = make_segmentation(lesions_on(series.grid), series)
    x, y, z = series.grid.origin_xyz
    with pytest.raises(InvalidInputError, match="mm apart"):
        lay_segmentation_on(made, replace(series.grid, origin_xyz=(x, y + 0.4, z)))


def test_a_number_may_be_written_in_two_ways() -> None:
    slices = make_series()
    slices[3].PixelSpacing, slices[5].ImageOrientationPatient = ["1.00", "1.0"], ["1.000001", "0", "0", "0", "1", "0"]
    assert order_slices(slices).grid.spacing_xyz == (1.0, 1.0, 3.0)


def without(keyword: str) -> Callable[[list[Dataset]], None]:
    return lambda slices: delattr(slices[4], keyword)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda slices: slices.__delitem__(slice(1, None)), "1 slice; a volume is needed"),
        (lambda slices: setattr(slices[2], "PixelSpacing", [1.1, 1.1]), "2.dcm has other pixels"),
        (without("FrameOfReferenceUID"), "not one frame of reference"),
        (without("ImagePositionPatient"), "4.dcm: no position"),
        (lambda slices: setattr(slices[2], "ImagePositionPatient", [0, 0, 0]), "slice 20 is missing"),
        (lambda slices: slices.append(slices[0]), "lie at one place"),
    ],
)
def test_what_makes_no_volume_is_refused(change: Callable[[list[Dataset]], None], message: str) -> None:
    slices = make_series()
    change(slices)
    with pytest.raises(InvalidInputError, match=message):
        order_slices(slices)


@pytest.mark.parametrize("missing", ["PatientSex", "AccessionNumber", "StudyDate", "PatientName"])
def test_headers_of_the_wild(missing: str) -> None:
    slices = make_series()
    with quiet():
        for each in slices:
            delattr(each, missing)
            each.PatientBirthDate = "1951"
        series = order_slices(slices)
        made = make_segmentation(lesions_on(series.grid), series)
        assert made[missing].is_empty
        assert made.PatientBirthDate == "1951"


def test_nothing_of_the_patient_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture
) -> None:
    """A name without a caret is one that highdicom doubts, in its log."""
    slices = make_series()
    with quiet():
        for each in slices:
            each.PatientName, each.PatientID = "JaneDoe", "4711 " * 20
    with caplog.at_level(logging.DEBUG):
        series = order_slices(slices)
        write_object(tmp_path / "seg.dcm", make_segmentation(lesions_on(series.grid), series))
    said = caplog.text + "".join(capfd.readouterr())
    assert "JaneDoe" not in said
    assert "4711" not in said
