"""RT structure sets: a label map as contours on the CT's slices, and the way back, whoever drew them."""

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mmpl.case import Grid, Image, InvalidInputError, SeriesIdentity
from mmpl.dicom.contours import Polygon, combine, fill, outline
from mmpl.dicom.ct_series import CtSeries
from mmpl.dicom.headers import quiet
from mmpl.dicom.lesions import LESION_OF, Named, Term, match_lesions
from mmpl.dicom.objects import (
    MANUFACTURER,
    MODEL,
    RESEARCH_ONLY,
    SERIES_NUMBER,
    VERSION,
    copy_identity,
    now_at,
    one_line_of,
    reading,
)
from mmpl.dicom.series import MOST_APART_MM
from mmpl.geometry import index_to_mm, mm_to_index
from mmpl.names import LESIONS, Label

if TYPE_CHECKING:
    from pydicom import Dataset

STRUCTURE_SET_STORAGE = "1.2.840.10008.5.1.4.1.1.481.3"
"""SOP class."""

_STUDY_MANAGEMENT = "1.2.840.10008.3.1.2.3.1"
"""Retired long since, but what a structure set calls the study's class."""
_EVEN_ODD = "CLOSEDPLANAR_XOR"
"""Contours of which an even number has nothing, whether one lies in another or not."""
_CLOSED = ("CLOSED_PLANAR", _EVEN_ODD, "POINT")
"""Contours that have voxels; a point is what programs make of a single one."""
_MOST_BEYOND = 1.0
"""Voxels that a contour may reach beyond the outermost centers: along the voxels' edges, or a little carelessly."""


def make_structure_set(mask: Image, series: CtSeries, by_person: bool = False) -> "Dataset":
    """Make an RT structure set of a label map, with an ROI for each class, be it empty.

    Contours lie on the CT's slices, along the outer edges of the voxels, whatever way the slices run; holes are joined
    to the contours round them (`mmpl.dicom.contours`).

    Args:
        mask: Label map on the grid of the series.
        series: The CT.
        by_person: Whether a person drew or corrected the mask.

    Raises:
        InvalidInputError: The mask does not lie on the series' grid.
    """
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ImplicitVRLittleEndian, generate_uid

    labels, now = series.labels(mask), now_at(series.slices[0])
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian  # explicit ones hold no contour of 64 kB
    made.SOPClassUID, made.SOPInstanceUID = STRUCTURE_SET_STORAGE, generate_uid()
    made.InstanceCreationDate = made.StructureSetDate = now.strftime("%Y%m%d")
    made.InstanceCreationTime = made.StructureSetTime = now.strftime("%H%M%S")
    with quiet():
        copy_identity(series.slices[0], made)
    made.Modality, made.SeriesInstanceUID, made.SeriesNumber = "RTSTRUCT", generate_uid(), SERIES_NUMBER + 1
    made.SeriesDescription = f"GTVp, GTVn ({RESEARCH_ONLY})"
    made.Manufacturer, made.ManufacturerModelName, made.SoftwareVersions = MANUFACTURER, MODEL, VERSION
    made.InstanceNumber, made.OperatorsName = 1, None
    with quiet():
        made.FrameOfReferenceUID = series.identity.frame_of_reference_uid
        made.PositionReferenceIndicator = series.slices[0].get("PositionReferenceIndicator")
        made.ReferencedFrameOfReferenceSequence = [_reference(series)]
    made.StructureSetLabel, made.StructureSetName, made.StructureSetDescription = "GTV", "GTVp, GTVn", RESEARCH_ONLY
    made.StructureSetROISequence = [_region(label, series, by_person) for label in LESIONS]
    with quiet():
        made.ROIContourSequence = [_contours(label, labels == label, series) for label in LESIONS]
    made.RTROIObservationsSequence = [_observation(label) for label in LESIONS]
    made.ApprovalStatus = "UNAPPROVED"
    return made


def _image(slice_: "Dataset") -> "Dataset":
    from pydicom import Dataset

    image = Dataset()
    image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = slice_.SOPClassUID, slice_.SOPInstanceUID
    return image


def _reference(series: CtSeries) -> "Dataset":
    """Refer to every slice of the series, below its study and frame of reference."""
    from pydicom import Dataset

    frame, study, slices = Dataset(), Dataset(), Dataset()
    slices.SeriesInstanceUID = series.identity.series_uid
    slices.ContourImageSequence = list(map(_image, series.slices))
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = _STUDY_MANAGEMENT, series.slices[0].StudyInstanceUID
    study.RTReferencedSeriesSequence = [slices]
    frame.FrameOfReferenceUID = series.identity.frame_of_reference_uid
    frame.RTReferencedStudySequence = [study]
    return frame


def _region(label: Label, series: CtSeries, by_person: bool) -> "Dataset":
    from pydicom import Dataset

    region = Dataset()
    region.ROINumber, region.ROIName, region.ROIDescription = int(label), LESION_OF[label].name, RESEARCH_ONLY
    region.ReferencedFrameOfReferenceUID = series.identity.frame_of_reference_uid
    region.ROIGenerationAlgorithm = "MANUAL" if by_person else "AUTOMATIC"
    return region


def _contours(label: Label, mask: NDArray[np.bool_], series: CtSeries) -> "Dataset":
    from pydicom import Dataset

    drawn, contours = Dataset(), list[Dataset]()
    drawn.ReferencedROINumber, drawn.ROIDisplayColor = int(label), list(LESION_OF[label].color)
    for index in np.flatnonzero(mask.any(axis=(1, 2))).tolist():
        for polygon in outline(mask[index]):
            points = index_to_mm(series.grid, np.column_stack([polygon, np.full(len(polygon), index)]))
            contour = Dataset()
            contour.ContourImageSequence = [_image(series.slices[index])]
            contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", len(points)
            contour.ContourNumber = len(contours) + 1
            contour.ContourData = [f"{value:.4f}" for value in points.ravel()]
            contours.append(contour)
    if contours:
        drawn.ContourSequence = contours
    return drawn


def _observation(label: Label) -> "Dataset":
    from pydicom import Dataset

    seen, lesion = Dataset(), LESION_OF[label]
    seen.ObservationNumber = seen.ReferencedROINumber = int(label)
    seen.ROIObservationLabel, seen.RTROIInterpretedType, seen.ROIInterpreter = lesion.name, "GTV", None
    seen.RTROIIdentificationCodeSequence = [_code(lesion.target)]
    return seen


def _code(term: Term) -> "Dataset":
    from pydicom import Dataset

    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = term.value, term.scheme, term.meaning
    return code


def lay_structure_set_on(content: "Dataset", grid: Grid, series: SeriesIdentity | None = None) -> Image:
    """Read an RT structure set as a label map on the grid of its CT; where lesions overlap, the tumor comes first.

    A voxel belongs to a lesion if its center lies inside the ROI's contours on its slice, or on one of them. A contour
    inside another is a hole, one inside that an island; else contours add up, and one that was drawn twice counts once.
    Of an ROI with contours of type CLOSEDPLANAR_XOR, what lies inside an even number of contours does not belong.

    Args:
        content: The object.
        grid: The CT's grid.
        series: The CT series, where it is known.

    Raises:
        InvalidInputError: It is of another CT, has other ROIs, or cannot be read.
    """
    with reading("RT structure set"):
        if series:
            frames = content.get("ReferencedFrameOfReferenceSequence") or []
            series.check(set(_referred_series(content)), {str(each.FrameOfReferenceUID) for each in frames})
        numbers, named = [int(each.ROINumber) for each in content.StructureSetROISequence], _named(content)
        label_of = dict(zip(numbers, match_lesions(named, "ROIs"), strict=True))
        labels = np.zeros(grid.shape_zyx, np.uint8)
        for region in content.ROIContourSequence:
            label = label_of.get(int(region.ReferencedROINumber))
            if label is None:
                continue
            try:
                planes = _planes(region, grid)
            except InvalidInputError as error:
                name = named[numbers.index(int(region.ReferencedROINumber))].name
                raise InvalidInputError(f"ROI {name!r}: {error}") from error
            types = {contour.ContourGeometricType for contour in region.get("ContourSequence") or []}
            filled = fill if _EVEN_ODD in types else combine
            for index, polygons in planes.items():
                plane = labels[index]
                plane[filled(polygons, plane.shape) & (plane != Label.GTVP)] = label
        return Image(labels, grid)


def _referred_series(content: "Dataset") -> Iterator[str]:
    for frame in content.get("ReferencedFrameOfReferenceSequence") or []:
        for study in frame.get("RTReferencedStudySequence") or []:
            for series in study.get("RTReferencedSeriesSequence") or []:
                yield str(series.SeriesInstanceUID)


def _named(content: "Dataset") -> list[Named]:
    """Give the ROIs as their file describes them, in its order."""
    seen = {int(each.ReferencedROINumber): each for each in content.get("RTROIObservationsSequence") or []}
    named = []
    for region in content.StructureSetROISequence:
        observation = seen.get(int(region.ROINumber), {})
        codes = tuple(str(each.get("CodeValue")) for each in observation.get("RTROIIdentificationCodeSequence") or [])
        is_gtv = observation.get("RTROIInterpretedType") == "GTV"
        named.append(Named(one_line_of(region.get("ROIName")), codes, is_gtv))
    return named


def _planes(region: "Dataset", grid: Grid) -> dict[int, list[Polygon]]:
    """Sort an ROI's contours by the slice that they lie on, in voxels.

    Raises:
        InvalidInputError: A contour lies between the slices, or runs across them, or reaches outside the image, or is
            open; or slices between those with contours are left out.
    """
    planes: dict[int, list[Polygon]] = defaultdict(list)
    columns, rows, slices = grid.size_xyz
    for contour in region.get("ContourSequence") or []:
        if contour.ContourGeometricType not in _CLOSED:
            raise InvalidInputError("a contour is not closed")
        points = np.array([float(value) for value in contour.ContourData], float)
        if not len(points) or len(points) % 3 or not np.isfinite(points).all():
            raise InvalidInputError(f"a contour has {len(points)} coordinates, not three a point")
        at = mm_to_index(grid, points.reshape(-1, 3))
        index = int(np.rint(at[0, 2]))
        if np.abs(at[:, 2] - index).max() * grid.spacing_xyz[2] > MOST_APART_MM:
            raise InvalidInputError("a contour does not lie on a slice of this CT")
        most = np.array([columns, rows]) - 1 + _MOST_BEYOND
        if not 0 <= index < slices or (at[:, :2] < -_MOST_BEYOND).any() or (at[:, :2] > most).any():
            raise InvalidInputError("a contour reaches outside this CT")
        planes[index].append(at[:, :2])
    steps = _steps(planes)
    if len(steps) > 1 and np.median(steps) > 1:
        raise InvalidInputError("slices between those with contours are left out: fill them in")
    return planes


def _steps(planes: dict[int, list[Polygon]]) -> list[int]:
    """Count the slices from each with contours to the next one, where those of the two lie above one another."""
    points = {index: np.vstack(polygons) for index, polygons in planes.items()}
    boxes = {index: (each.min(axis=0), each.max(axis=0)) for index, each in points.items()}
    steps = []
    for one, other in pairwise(sorted(boxes)):
        (low, high), (other_low, other_high) = boxes[one], boxes[other]
        if (low <= other_high).all() and (other_low <= high).all():
            steps.append(other - one)
    return steps
