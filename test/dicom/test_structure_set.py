"""RT structure sets: contours where the voxels are, in any orientation, and other people's contours back."""

import copy
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from by_winding import rasterize
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from small_series import NAME, ORIENTATIONS, PATIENT_ID, lesions_on, make_series, order_slices

from mmpl.case import Image, InvalidInputError
from mmpl.dicom.ct_series import CtSeries
from mmpl.dicom.objects import RESEARCH_ONLY, write_object
from mmpl.dicom.segmentation_object import make_segmentation
from mmpl.dicom.structure_set import lay_structure_set_on, make_structure_set
from mmpl.geometry import index_to_mm
from mmpl.names import Label


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_out_and_back(tmp_path: Path, orientation: str) -> None:
    slices = make_series(orientation)
    series = order_slices(slices)
    mask = lesions_on(series.grid)
    path = tmp_path / "rtstruct.dcm"
    write_object(path, make_structure_set(mask, series))
    content = dcmread(path)
    found = lay_structure_set_on(content, series.grid, series.identity)
    np.testing.assert_array_equal(found.voxels, mask.voxels)
    for name, label in (("GTVp", Label.GTVP), ("GTVn", Label.GTVN)):
        drawn = rasterize(content, slices, name)
        for slice_, labels in zip(series.slices, mask.voxels, strict=True):
            expected = labels == label
            np.testing.assert_array_equal(drawn.get(str(slice_.SOPInstanceUID), np.zeros_like(expected)), expected)


def test_rows_and_columns_may_be_unlike_far_apart() -> None:
    slices = make_series("oblique", (0.8, 1.3, 3.0))
    series = order_slices(slices)
    mask = lesions_on(series.grid)
    drawn = rasterize(make_structure_set(mask, series), slices, "GTVp")
    for slice_, labels in zip(series.slices, mask.voxels, strict=True):
        found = drawn.get(str(slice_.SOPInstanceUID))
        np.testing.assert_array_equal(labels == Label.GTVP, False if found is None else found)


def test_an_empty_mask_comes_back_empty(tmp_path: Path) -> None:
    series = order_slices(make_series())
    empty = Image(np.zeros(series.grid.shape_zyx, np.uint8), series.grid)
    write_object(tmp_path / "rtstruct.dcm", make_structure_set(empty, series))
    content = dcmread(tmp_path / "rtstruct.dcm")
    assert [each.ROIName for each in content.StructureSetROISequence] == ["GTVp", "GTVn"]
    assert not lay_structure_set_on(content, series.grid).voxels.any()


def test_what_it_says_of_itself() -> None:
    series = order_slices(make_series())
    made = make_structure_set(lesions_on(series.grid), series)
    assert (made.PatientID, made.PatientName) == (PATIENT_ID, NAME)
    assert made.StructureSetDescription == RESEARCH_ONLY
    assert RESEARCH_ONLY in made.SeriesDescription
    frame = made.ReferencedFrameOfReferenceSequence[0]
    assert frame.FrameOfReferenceUID == series.identity.frame_of_reference_uid
    referred = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    assert referred.SeriesInstanceUID == series.identity.series_uid
    named = [each.ReferencedSOPInstanceUID for each in referred.ContourImageSequence]
    assert named == [each.SOPInstanceUID for each in series.slices]
    assert made.StructureSetROISequence[0].ROIGenerationAlgorithm == "AUTOMATIC"
    corrected = make_structure_set(lesions_on(series.grid), series, by_person=True)
    assert corrected.StructureSetROISequence[0].ROIGenerationAlgorithm == "MANUAL"


def test_a_contour_of_more_than_64_kilobytes_is_written(tmp_path: Path) -> None:
    """A comb with teeth on its teeth has thousands of corners."""
    series = order_slices(make_series(spacing=(0.5, 0.5, 20.0)))
    labels = np.zeros(series.grid.shape_zyx, np.uint8)
    labels[1, ::3, 2:] = labels[1, 1::3, 3::2] = labels[1, :, 1] = Label.GTVP
    made = make_structure_set(Image(labels, series.grid), series)
    (contour,) = made.ROIContourSequence[0].ContourSequence
    assert len("\\".join(map(str, contour.ContourData))) > 65535
    write_object(tmp_path / "rtstruct.dcm", made)
    found = lay_structure_set_on(dcmread(tmp_path / "rtstruct.dcm"), series.grid)
    np.testing.assert_array_equal(found.voxels, labels)


def draw(series: CtSeries, index: int, corners: list[tuple[float, float]]) -> Dataset:
    """Draw a contour as another program might, with two decimals and no reference to a slice."""
    contour = Dataset()
    contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", len(corners)
    points = index_to_mm(series.grid, np.array([(*corner, index) for corner in corners], float))
    contour.ContourData = [f"{value:.2f}" for value in points.ravel()]
    return contour


def test_contours_through_centers_and_holes_as_contours_of_their_own() -> None:
    series = order_slices(make_series())
    made = make_structure_set(lesions_on(series.grid), series)
    outer, inner = [(10, 12), (30, 12), (30, 40), (10, 40)], [(14, 16), (20, 16), (20, 22), (14, 22)]
    made.ROIContourSequence[0].ContourSequence = [draw(series, 4, outer), draw(series, 4, inner)]
    made.ROIContourSequence[1].ContourSequence = [draw(series, 4, [(25, 38), (33, 38), (33, 44), (25, 44)])]
    expected = np.zeros(series.grid.shape_zyx, np.uint8)
    expected[4, 38:45, 25:34] = Label.GTVN
    expected[4, 12:41, 10:31] = Label.GTVP
    expected[4, 17:22, 15:20] = 0
    np.testing.assert_array_equal(lay_structure_set_on(made, series.grid).voxels, expected)


def read_drawn(contours: list[list[tuple[float, float]]], *types: str) -> NDArray[np.uint8]:
    """Read what is drawn of the primary on one slice: that slice."""
    series = order_slices(make_series())
    made = make_structure_set(lesions_on(series.grid), series)
    drawn = [draw(series, 4, corners) for corners in contours]
    for contour, kind in zip(drawn, types, strict=False):
        contour.ContourGeometricType = kind
    made.ROIContourSequence[0].ContourSequence = drawn
    del made.ROIContourSequence[1].ContourSequence
    return lay_structure_set_on(made, series.grid).voxels[4]


WHOLE = [(9.5, 11.5), (29.5, 11.5), (29.5, 39.5), (9.5, 39.5)]
ASIDE = [(20.5, 20.5), (40.5, 20.5), (40.5, 30.5), (20.5, 30.5)]
NEXT_TO_IT = [(29.5, 11.5), (34.5, 11.5), (34.5, 39.5), (29.5, 39.5)]


@pytest.mark.parametrize("again", [WHOLE, WHOLE[::-1], [*WHOLE[2:], *WHOLE[:2]]])
def test_a_contour_that_was_drawn_twice_counts_once(again: list[tuple[float, float]]) -> None:
    np.testing.assert_array_equal(read_drawn([WHOLE, again]), read_drawn([WHOLE]))
    assert read_drawn([WHOLE]).sum() == 20 * 28


@pytest.mark.parametrize("other", [ASIDE, NEXT_TO_IT])
def test_contours_that_overlap_or_touch_add_up(other: list[tuple[float, float]]) -> None:
    np.testing.assert_array_equal(read_drawn([WHOLE, other]), read_drawn([WHOLE]) | read_drawn([other]))


@pytest.mark.parametrize("types", [("CLOSEDPLANAR_XOR",) * 2, ("CLOSEDPLANAR_XOR", "CLOSED_PLANAR")])
def test_where_a_file_says_so_an_overlap_is_a_hole(types: tuple[str, str]) -> None:
    np.testing.assert_array_equal(read_drawn([WHOLE, ASIDE], *types), read_drawn([WHOLE]) ^ read_drawn([ASIDE]))


def moved(by: float) -> Callable[[Dataset], None]:
    """Move every contour up the patient."""

    def change(content: Dataset) -> None:
        for contour in content.ROIContourSequence[0].ContourSequence:
            points = np.reshape(np.array(contour.ContourData, float), (-1, 3)) + np.array([0, 0, by])
            contour.ContourData = [f"{value:.2f}" for value in points.ravel()]

    return change


def renamed(*names: str) -> Callable[[Dataset], None]:
    def change(content: Dataset) -> None:
        for region, seen, name in zip(
            content.StructureSetROISequence, content.RTROIObservationsSequence, names, strict=True
        ):
            region.ROIName, seen.RTROIInterpretedType = name, "ORGAN"
            del seen.RTROIIdentificationCodeSequence

    return change


def of_another_series(content: Dataset) -> None:
    frame = content.ReferencedFrameOfReferenceSequence[0]
    frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.3"


def with_open_contour(content: Dataset) -> None:
    content.ROIContourSequence[0].ContourSequence[0].ContourGeometricType = "OPEN_PLANAR"


def with_half_a_point(content: Dataset) -> None:
    del content.ROIContourSequence[0].ContourSequence[0].ContourData[-1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (renamed("Parotid_L", "Cord"), "no ROIs named GTVp or GTVn; there are Parotid_L, Cord"),
        (moved(1.2), "ROI 'GTVp': a contour does not lie on a slice of this CT"),
        (moved(300.0), "ROI 'GTVp': a contour reaches outside this CT"),
        (of_another_series, "it belongs to another CT .it refers to another series"),
        (with_open_contour, "ROI 'GTVp': a contour is not closed"),
        (with_half_a_point, "ROI 'GTVp': a contour has \\d+ coordinates, not three a point"),
        (lambda content: delattr(content, "ROIContourSequence"), "not a whole RT structure set"),
    ],
)
def test_what_cannot_be_used_is_said(change: Callable[[Dataset], None], message: str) -> None:
    series = order_slices(make_series())
    made = make_structure_set(lesions_on(series.grid), series)
    change(made)
    with pytest.raises(InvalidInputError, match=message):
        lay_structure_set_on(made, series.grid, series.identity)


def keep_each(step: int, content: Dataset) -> None:
    """Keep the contours of every second or third slice, and of the last."""
    region = content.ROIContourSequence[0]
    places = sorted({float(contour.ContourData[2]) for contour in region.ContourSequence})
    region.ContourSequence = [
        each for each in region.ContourSequence if float(each.ContourData[2]) in {*places[::step], places[-1]}
    ]


def test_contours_on_every_other_slice_are_no_lesion() -> None:
    """Half of it would be missing."""
    series = order_slices(make_series(spacing=(1.0, 1.0, 1.0)))
    mask = np.zeros(series.grid.shape_zyx, np.uint8)
    mask[2:12, 3:9, 3:9] = Label.GTVP
    made = make_structure_set(Image(mask, series.grid), series)
    assert lay_structure_set_on(made, series.grid, series.identity).voxels.any()
    for step in (2, 3):
        left_out = copy.deepcopy(made)
        keep_each(step, left_out)
        with pytest.raises(InvalidInputError, match="ROI 'GTVp': slices between those with contours are left out"):
            lay_structure_set_on(left_out, series.grid, series.identity)


def test_lesions_of_one_slice_each_are_no_gaps() -> None:
    series = order_slices(make_series(spacing=(1.0, 1.0, 1.0)))
    mask = np.zeros(series.grid.shape_zyx, np.uint8)
    for at in range(4):
        mask[1 + 3 * at, 3 * at : 3 * at + 2, 3 * at : 3 * at + 2] = Label.GTVP
    made = make_structure_set(Image(mask, series.grid), series)
    np.testing.assert_array_equal(lay_structure_set_on(made, series.grid, series.identity).voxels, mask)


@pytest.mark.parametrize("make", [make_structure_set, make_segmentation])
def test_the_times_of_an_object_are_those_of_the_offset_that_it_repeats(make: Callable[..., Dataset]) -> None:
    slices = make_series()
    for each in slices:
        each.TimezoneOffsetFromUTC = "+0930"
    series = order_slices(slices)
    made = make(lesions_on(series.grid), series)
    kind = "Content" if "ContentTime" in made else "StructureSet"
    moments = [f"{made[f'{kind}Date'].value}{made[f'{kind}Time'].value}"]
    moments += [each.ContributionDateTime for each in made.get("ContributingEquipmentSequence") or ()]
    for moment in moments:
        written = datetime.strptime(f"{moment}"[:14] + "+0930", "%Y%m%d%H%M%S%z")
        assert abs(datetime.now(UTC) - written) < timedelta(minutes=5)
    for each in slices:
        each.TimezoneOffsetFromUTC = "+9930"
    assert make(lesions_on(series.grid), series)


def test_an_odd_weight_costs_no_object() -> None:
    slices = make_series()
    for each in slices:
        each[0x00101030] = RawDataElement(Tag(0x00101030), "DS", 4, b"72,5", 0, False, True)  # as it is read
    made = make_structure_set(lesions_on(order_slices(slices).grid), order_slices(slices))
    assert "PatientWeight" not in made


def test_a_ct_of_another_frame_of_reference() -> None:
    series = order_slices(make_series())
    made = make_structure_set(lesions_on(series.grid), series)
    with pytest.raises(InvalidInputError, match="its frame of reference is another"):
        lay_structure_set_on(made, series.grid, replace(series.identity, frame_of_reference_uid="1.2.3"))


def test_organs_beside_the_lesions_are_left_aside() -> None:
    series = order_slices(make_series())
    mask = lesions_on(series.grid)
    made = make_structure_set(mask, series)
    renamed("Parotid_L", "GTV-N 1")(made)
    found = lay_structure_set_on(made, series.grid).voxels
    np.testing.assert_array_equal(found, np.where(mask.voxels == Label.GTVN, Label.GTVN, 0))
