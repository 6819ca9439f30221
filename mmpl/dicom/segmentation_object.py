"""DICOM segmentations: a label map as coded segments, written by highdicom, and the way back, whoever wrote them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mmpl.case import Grid, Image, InvalidInputError, SeriesIdentity
from mmpl.dicom.ct_series import CtSeries
from mmpl.dicom.headers import quiet
from mmpl.dicom.lesions import ABNORMAL, LESION_OF, Named, Term, match_lesions
from mmpl.dicom.objects import (
    MANUFACTURER,
    MODEL,
    RESEARCH_ONLY,
    SERIAL_NUMBER,
    SERIES_NUMBER,
    VERSION,
    copy_identity,
    one_line_of,
    reading,
    set_times,
    without_identity,
)
from mmpl.dicom.series import MOST_APART_MM
from mmpl.geometry import lay_part_on
from mmpl.names import LESIONS, Label

if TYPE_CHECKING:
    from highdicom.seg import SegmentDescription
    from highdicom.sr import CodedConcept
    from pydicom import Dataset

SEGMENTATION_STORAGE = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
"""SOP classes: segmentation, and label map segmentation."""

_NEOPLASM = "108369006"
"""SNOMED's code of a neoplasm that may be either lesion."""


def make_segmentation(mask: Image, series: CtSeries, by_person: bool = False) -> "Dataset":
    """Make a DICOM segmentation of a label map, with a binary segment for each class, be it empty.

    Args:
        mask: Label map on the grid of the series.
        series: The CT.
        by_person: Whether a person drew or corrected the mask.

    Raises:
        InvalidInputError: The mask does not lie on the series' grid.
    """
    from highdicom import UID
    from highdicom.seg import Segmentation, SegmentationTypeValues

    labels = series.labels(mask)
    with quiet():
        made = Segmentation(
            source_images=[_header(each, series.grid) for each in series.slices],
            pixel_array=labels,
            segmentation_type=SegmentationTypeValues.BINARY,
            segment_descriptions=[_description(label, by_person) for label in LESIONS],
            series_instance_uid=UID(),
            series_number=SERIES_NUMBER,
            sop_instance_uid=UID(),
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=MODEL,
            software_versions=VERSION,
            device_serial_number=SERIAL_NUMBER,
            content_label="GTV",
            content_description=RESEARCH_ONLY,
            series_description=f"GTVp, GTVn ({RESEARCH_ONLY})",
            omit_empty_frames=bool(labels.any()),
        )
        copy_identity(series.slices[0], made)
        set_times(made, series.slices[0])
    return made


def _header(slice_: "Dataset", grid: Grid) -> "Dataset":
    """Take what highdicom places a slice by."""
    header = without_identity(
        slice_,
        "SOPClassUID",
        "SOPInstanceUID",
        "SeriesInstanceUID",
        "StudyInstanceUID",
        "FrameOfReferenceUID",
        "PositionReferenceIndicator",
        "Modality",
        "Rows",
        "Columns",
        "PixelSpacing",
        "ImageOrientationPatient",
        "ImagePositionPatient",
    )
    header.SliceThickness = header.SpacingBetweenSlices = round(grid.spacing_xyz[2], 6)
    return header


def _description(label: Label, by_person: bool) -> "SegmentDescription":
    from highdicom import UID, AlgorithmIdentificationSequence
    from highdicom.color import CIELabColor
    from highdicom.seg import SegmentAlgorithmTypeValues, SegmentDescription
    from pydicom.sr.codedict import codes

    lesion = LESION_OF[label]
    algorithm = AlgorithmIdentificationSequence(MODEL, codes.DCM.ArtificialIntelligence, VERSION)
    kinds = SegmentAlgorithmTypeValues
    return SegmentDescription(
        segment_number=int(label),
        segment_label=lesion.name,
        segmented_property_category=coded(ABNORMAL),
        segmented_property_type=coded(lesion.morphology),
        algorithm_type=kinds.MANUAL if by_person else kinds.AUTOMATIC,
        algorithm_identification=None if by_person else algorithm,
        tracking_uid=UID(),
        tracking_id=lesion.name,
        anatomic_regions=[coded(lesion.site)],
        display_color=CIELabColor.from_rgb(*lesion.color),
    )


def coded(term: Term) -> "CodedConcept":
    """Give a term as highdicom takes it."""
    from highdicom.sr import CodedConcept

    return CodedConcept(term.value, term.scheme, term.meaning)


def lay_segmentation_on(content: "Dataset", grid: Grid, series: SeriesIdentity | None = None) -> Image:
    """Read a DICOM segmentation as a label map on the grid of its CT; where two lesions overlap, the tumor comes first.

    Frames may lie in any order and need not be there; planes may have their axes reversed or permuted.

    Args:
        content: The object, pixels included.
        grid: The CT's grid.
        series: The CT series, where it is known.

    Raises:
        InvalidInputError: It is of another CT, has other segments, or cannot be read.
    """
    with reading("DICOM segmentation"):
        if series:
            referred = {str(each.get("SeriesInstanceUID")) for each in content.get("ReferencedSeriesSequence") or []}
            series.check(referred, {str(content.FrameOfReferenceUID)} if "FrameOfReferenceUID" in content else ())
        segments = [(int(each.SegmentNumber), _named(each)) for each in content.SegmentSequence]
        found = match_lesions([named for _, named in segments], "segments")
        label_of = {number: label for (number, _), label in zip(segments, found, strict=True) if label is not None}
        labels = np.zeros(grid.shape_zyx, np.uint8)
        for index, frame in enumerate(_frames(content)):
            part = _frame_grid(content, index, frame.shape)
            numbered = frame if content.SegmentationType == "LABELMAP" else frame * _segment_of(content, index)
            for number, label in label_of.items():
                drawn = numbered == number
                if drawn.any():
                    box, laid = lay_part_on(Image(drawn[None], part), grid, MOST_APART_MM)
                    labels[box][laid & (labels[box] != Label.GTVP)] = label
        return Image(labels, grid)


def _named(segment: "Dataset") -> Named:
    codes = tuple(str(each.get("CodeValue")) for each in segment.get("SegmentedPropertyTypeCodeSequence") or [])
    return Named(one_line_of(segment.get("SegmentLabel")), codes, is_gtv=_NEOPLASM in codes)


def _frames(content: "Dataset") -> NDArray:
    """Give the frames (frames, rows, columns), of 0 and 1 or of segments' numbers; fractions count from one half on.

    Raises:
        InvalidInputError: They cannot be decoded.
    """
    try:
        with quiet():
            pixels = content.pixel_array
    except Exception as error:  # each decoder has its own
        raise InvalidInputError(f"its pixels cannot be read ({type(error).__name__})") from error
    frames = pixels.reshape(-1, int(content.Rows), int(content.Columns))
    if content.SegmentationType == "FRACTIONAL":
        frames = 2 * frames.astype(np.uint16) >= int(content.MaximumFractionalValue)
    return frames.astype(np.uint16)


def _group(content: "Dataset", frame: int, name: str) -> "Dataset | None":
    """Find a functional group's only item, the frame's own or that of all frames; None where there is none."""
    for groups in (content.PerFrameFunctionalGroupsSequence[frame], *content.SharedFunctionalGroupsSequence):
        if found := groups.get(f"{name}Sequence"):
            return found[0]
    return None


def _segment_of(content: "Dataset", frame: int) -> int:
    """Give the number of the one segment that a frame is of."""
    segment = _group(content, frame, "SegmentIdentification")
    if segment is None:
        raise InvalidInputError(f"its frame {frame + 1} is of no segment")
    return int(segment.ReferencedSegmentNumber)


def _frame_grid(content: "Dataset", frame: int, shape: tuple[int, ...]) -> Grid:
    """Give the grid of one frame, a voxel thick."""
    place, turn, measures = (
        _group(content, frame, name) for name in ("PlanePosition", "PlaneOrientation", "PixelMeasures")
    )
    if place is None or turn is None or measures is None:
        raise InvalidInputError(f"its frame {frame + 1} has no place in space")
    return _plane_grid(place.ImagePositionPatient, turn.ImageOrientationPatient, measures.PixelSpacing, shape)


def _plane_grid(
    position: Sequence[float], orientation: Sequence[float], spacing: Sequence[float], shape: Sequence[int]
) -> Grid:
    """Make the grid of one plane, a voxel of 1 mm thick.

    Args:
        position: ImagePositionPatient, of the first pixel's center.
        orientation: ImageOrientationPatient, the directions of a row and of a column.
        spacing: PixelSpacing, between rows and between columns.
        shape: Rows and columns.
    """
    row, column = np.reshape([float(value) for value in orientation], (2, 3))
    between_rows, between_columns = (float(value) for value in spacing)
    x, y, z = (float(value) for value in position)
    rows, columns = (int(value) for value in shape)
    direction = np.column_stack([row, column, np.cross(row, column)])
    return Grid((columns, rows, 1), (between_columns, between_rows, 1.0), (x, y, z), tuple(direction.ravel().tolist()))
