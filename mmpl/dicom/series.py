"""A series of CT or PET slices, single frames or enhanced multi-frame files, to one volume.

Slices are sorted by their position along the normal of their plane, never by name or number. What is no right-angled
and evenly spaced volume is refused: nothing is interpolated here.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mmpl.case import Grid, Image, InvalidInputError, SeriesIdentity, Vector
from mmpl.dicom.headers import Header, Stored
from mmpl.dicom.pixels import read_pixels
from mmpl.io.integrity import MOST_VOXELS
from mmpl.names import Modality

MOST_APART_MM = 0.1
"""How far a slice may lie from its place in the evenly spaced stack; headers round to a tenth of a millimeter."""
SAME_PLACE = 0.05
"""Share of the distance between slices below which two lie at one place."""
REAL_WORLD = "RealWorldValueMappingSequence"
"""Unit of an enhanced PET's values, and mostly their scale; of several, the first."""
LEFT_OUT = "localizer", "other object (secondary capture, segmentation, structure set, report)", "derived reformat"

SOP_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.2": Modality.CT,
    "1.2.840.10008.5.1.4.1.1.2.1": Modality.CT,  # enhanced
    "1.2.840.10008.5.1.4.1.1.2.2": Modality.CT,  # legacy converted enhanced
    "1.2.840.10008.5.1.4.1.1.128": Modality.PET,
    "1.2.840.10008.5.1.4.1.1.130": Modality.PET,
    "1.2.840.10008.5.1.4.1.1.128.1": Modality.PET,
}
"""Objects that hold CT and PET, and which of the two (PS3.4 B.5)."""
MULTI_FRAME_CT = {"1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2"}
"""Those among them that hold all slices of a CT, which can be read, but not referred to."""

_TABLE = "RealWorldValueLUTData"
_SHEAR = 1e-3  # cosine between two axes, or an axis' length beside 1: what headers lose
_REFORMATS = {"REFORMATTED", "MPR", "CSA MPR", "CPR", "MIP", "MINIP", "PROJECTION IMAGE"}


@dataclass(frozen=True)
class Slice:
    """One slice: where its pixels are, where it lies, and what its pixels are worth.

    Attributes:
        frame: Number of the frame in a multi-frame file, from 0; None of a file with one slice.
        position_xyz: Center of the first pixel, mm.
        row_xyz, column_xyz: Directions in which the column's and the row's number rises.
        spacing_xy: Distance of the centers of pixels along a row, and of rows, mm.
        slope, intercept: What brings stored values to the modality's.
    """

    file: Stored
    frame: int | None
    position_xyz: Vector
    row_xyz: Vector
    column_xyz: Vector
    spacing_xy: tuple[float, float]
    shape_yx: tuple[int, int]
    slope: float
    intercept: float

    @property
    def name(self) -> str:
        """File, and frame where there are several."""
        return self.file.name if self.frame is None else f"{self.file.name}, frame {self.frame + 1}"


@dataclass(frozen=True)
class Series:
    """The headers of a series' files, in the order of their names."""

    modality: Modality
    headers: tuple[Header, ...]

    @property
    def first(self) -> Header:
        """The header of one file; what a series' files have in common is there."""
        return self.headers[0]

    @property
    def number(self) -> str:
        """The series' number, which says which is meant; "?" where it has none."""
        number = self.first.number("SeriesNumber")
        return "?" if number is None else f"{number:.0f}"

    @property
    def identity(self) -> SeriesIdentity:
        """UIDs of the series and of its frame of reference."""
        return SeriesIdentity(self.first.text("SeriesInstanceUID"), self.first.text("FrameOfReferenceUID"))

    @cached_property
    def slices(self) -> tuple[Slice, ...]:
        """All slices, in the order of files and frames.

        Raises:
            InvalidInputError: A header does not say where its slice lies.
        """
        with naming(self):
            return tuple(found for header in self.headers for found in _slices(header))

    @cached_property
    def count(self) -> int:
        """Number of slices, wherever they lie."""
        return sum(max(1, len(header.items("PerFrameFunctionalGroupsSequence"))) for header in self.headers)

    @property
    def about(self) -> str:
        """Series in a message, by its number and its files' folder."""
        parent = getattr(self.first.file, "parent", "")
        return f"{parent}, {self.modality.upper()} series {self.number}"


def find_series(headers: Sequence[Header]) -> tuple[list[Series], Counter[str]]:
    """Part headers into series of CT and PET slices.

    Returns:
        The series, and how many files were left out for each of LEFT_OUT.

    Raises:
        InvalidInputError: A header does not say to which series it belongs.
    """
    groups: dict[tuple[Modality, str], list[Header]] = {}
    left_out = Counter[str]()
    for header in headers:
        modality = SOP_CLASSES.get(header.text("SOPClassUID"))
        kind = {word.upper() for word in header.words("ImageType")}
        localizer, object_, reformat = LEFT_OUT
        if modality is None:
            left_out[object_] += 1
        elif "LOCALIZER" in kind:
            left_out[localizer] += 1
        elif "DERIVED" in kind and kind & _REFORMATS:
            left_out[reformat] += 1
        elif not (series := header.text("SeriesInstanceUID")):
            raise InvalidInputError(f"{header.file}: its header is damaged or cut short")
        else:
            groups.setdefault((modality, series), []).append(header)
    return [Series(modality, tuple(group)) for (modality, _), group in groups.items()], left_out


def units_of(header: Header) -> str:
    """Give the unit of a PET's rescaled values in DICOM's terms, as BQML; blank where only a mapping has one."""
    converted = header.item("SharedFunctionalGroupsSequence", "UnassignedSharedConvertedAttributesSequence")
    return (header.text("Units") or converted.text("Units")).upper()


def read_series(series: Series) -> Image:
    """Read a series as one volume, in HU or in the unit that its header names.

    Returns:
        CT in whole HU where slopes and intercepts are whole, else float32; PET in float32. Slices run along the normal,
        which is right-handed with rows and columns.

    Raises:
        InvalidInputError: The slices do not make one evenly spaced, right-angled volume, or a file is damaged.
    """
    stack, grid = stacked(series)
    whole = series.modality is Modality.CT and all(
        each.slope.is_integer() and each.intercept.is_integer() for each in stack
    )
    in_file: dict[Stored, list[int]] = {}
    for index, each in enumerate(stack):
        in_file.setdefault(each.file, []).append(index)
    planes: dict[int, NDArray] = {}
    for file, indices in in_file.items():
        frames = read_pixels(file)
        planes |= {index: _rescaled(_frame(frames, stack[index]), stack[index], whole) for index in indices}
    return Image(np.stack([planes[index] for index in range(len(stack))]), grid)


def stacked(series: Series) -> tuple[list[Slice], Grid]:
    """Sort a series' slices, and give the grid of the volume that they make, from the headers alone.

    Raises:
        InvalidInputError: The slices do not make one evenly spaced, right-angled volume.
    """
    slices = list(series.slices)
    with naming(series):
        return _stacked(series, slices)


@contextmanager
def naming(series: Series) -> Iterator[None]:
    """Let what cannot be used of a series name it."""
    try:
        yield
    except InvalidInputError as error:
        raise InvalidInputError(f"{series.about}: {error}") from error


def _slices(header: Header) -> list[Slice]:
    rows, columns = header.number("Rows") or 0, header.number("Columns") or 0
    if min(rows, columns) < 1:
        raise InvalidInputError(f"{header.file.name}: no rows or columns")
    shape = int(rows), int(columns)
    frames = header.items("PerFrameFunctionalGroupsSequence")
    if not frames:
        if (header.number("NumberOfFrames") or 1) > 1:
            raise InvalidInputError(f"{header.file.name}: several frames without a place each")
        return [_slice(header, header, header, header, None, shape)]
    shared = header.item("SharedFunctionalGroupsSequence")

    def part(frame: Header, group: str) -> Header:
        return next((there.item(group) for there in (frame, shared) if there.items(group)), header)

    def values(frame: Header) -> Header:
        mapping = part(frame, REAL_WORLD)
        scaled = mapping is not header and any(mapping.words(name) for name in ("RealWorldValueSlope", _TABLE))
        return mapping if scaled and not units_of(header) else part(frame, "PixelValueTransformationSequence")

    return [
        _slice(
            part(frame, "PlanePositionSequence"),
            part(frame, "PlaneOrientationSequence"),
            part(frame, "PixelMeasuresSequence"),
            values(frame),
            number,
            shape,
        )
        for number, frame in enumerate(frames)
    ]


def _slice(
    place: Header, plane: Header, measures: Header, values: Header, frame: int | None, shape: tuple[int, int]
) -> Slice:
    name = place.file.name
    position, axes = place.numbers("ImagePositionPatient", 3), plane.numbers("ImageOrientationPatient", 6)
    spacing = measures.numbers("PixelSpacing", 2)
    if position is None or axes is None:
        raise InvalidInputError(f"{name}: no position or orientation in space")
    if spacing is None or min(spacing) <= 0:
        raise InvalidInputError(f"{name}: no distance between pixels")
    if values.items("ModalityLUTSequence") or values.words(_TABLE):
        raise InvalidInputError(f"{name}: a lookup table for its values, which is not read")
    prefix = "RealWorldValue" if values.words("RealWorldValueSlope") else "Rescale"
    slope, intercept = _rescale(values, f"{prefix}Slope", 1.0), _rescale(values, f"{prefix}Intercept", 0.0)
    if slope <= 0:
        raise InvalidInputError(f"{name}: {prefix}Slope is not above 0")
    row, column = right_angled(name, axes)
    y_mm, x_mm = spacing
    x, y, z = position
    return Slice(place.file, frame, (x, y, z), row, column, (x_mm, y_mm), shape, slope, intercept)


def _rescale(values: Header, keyword: str, without: float) -> float:
    if not values.words(keyword):
        return without
    number = values.number(keyword)
    if number is None:
        raise InvalidInputError(f"{values.file.name}: {keyword} is not a number")
    return number


def right_angled(name: str, axes: Sequence[float]) -> tuple[Vector, Vector]:
    """Give the directions of rows and columns, from ImageOrientationPatient's six numbers, at right angles to the bit.

    Raises:
        InvalidInputError: They are not at right angles; the message names the file.
    """
    row, column = np.reshape(axes, (2, 3))
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if max(abs(lengths[0] - 1), abs(lengths[1] - 1), abs(row @ column)) > _SHEAR:
        raise InvalidInputError(f"{name}: rows and columns are not at right angles")
    row = row / lengths[0]
    column = column - (column @ row) * row
    x, y = (tuple(map(float, axis)) for axis in (row, column / np.linalg.norm(column)))
    return x, y  # type: ignore[return-value]


def _stacked(series: Series, slices: list[Slice]) -> tuple[list[Slice], Grid]:
    if len(slices) < 2:
        raise InvalidInputError(f"{len(slices)} slice; a volume is needed")
    first = slices[0]
    for each in slices:
        if each.shape_yx != first.shape_yx or not np.allclose(each.spacing_xy, first.spacing_xy, rtol=1e-4):
            raise InvalidInputError(f"{each.name} has other pixels than {first.name}")
        if not np.allclose((each.row_xyz, each.column_xyz), (first.row_xyz, first.column_xyz), atol=_SHEAR):
            raise InvalidInputError(f"{each.name} lies at an angle to {first.name}")
    normal = np.cross(first.row_xyz, first.column_xyz)
    slices.sort(key=lambda each: float(normal @ each.position_xyz))
    positions = np.array([each.position_xyz for each in slices])
    step = _step_mm(slices, positions @ normal)
    _check_count(series, len(slices))
    line = (positions[-1] - positions[0]) / (len(slices) - 1)
    apart = np.linalg.norm(positions - (positions[0] + np.outer(np.arange(len(slices)), line)), axis=1)
    if apart.max() > MOST_APART_MM:
        where = int(apart.argmax())
        raise InvalidInputError(
            f"slice {where + 1} of {len(slices)} ({slices[where].name}) lies {apart[where]:.2f} mm off its place in an "
            "evenly spaced stack"
        )
    aside = line - (line @ normal) * normal
    if np.linalg.norm(aside) * (len(slices) - 1) > MOST_APART_MM and np.linalg.norm(aside) > _SHEAR * step:
        tilt = np.degrees(np.arctan2(np.linalg.norm(aside), line @ normal))
        raise InvalidInputError(f"the gantry was tilted by {tilt:.1f} degrees; resample it to a right-angled grid")
    (y, x), origin = slices[0].shape_yx, slices[0].position_xyz
    if x * y * len(slices) > MOST_VOXELS:  # which compressed files of a few kB may say
        raise InvalidInputError(f"{x} x {y} x {len(slices)} voxels, more than a scan has")
    direction = np.column_stack([first.row_xyz, first.column_xyz, normal])
    spacing = (*first.spacing_xy, float(line @ normal))
    return slices, Grid((x, y, len(slices)), spacing, origin, tuple(direction.ravel().tolist()))


def _step_mm(slices: Sequence[Slice], along: NDArray[np.float64]) -> float:
    """Find the distance between slices.

    Raises:
        InvalidInputError: Some lie at one place, one is missing, or the distances differ.
    """
    gaps = np.diff(along)
    step = float(np.median(gaps))
    doubled = np.flatnonzero(gaps < max(SAME_PLACE * step, 1e-3))
    if doubled.size:
        at, places = int(doubled[0]), len(slices) - doubled.size
        if places > 1 and len(slices) % places == 0:
            raise InvalidInputError(
                f"{len(slices) // places} slices at each of {places} places ({slices[0].name} and {slices[1].name} at "
                "one), as of several time points, gates or copies; keep those of one alone"
            )
        names = f"{slices[at].name} and {slices[at + 1].name}"
        more = f", and so do {doubled.size - 1} more" if doubled.size > 1 else ""
        raise InvalidInputError(f"slices {at + 1} and {at + 2} lie at one place ({names}){more}")
    ratios = gaps / step
    whole = np.rint(ratios)
    missing = np.flatnonzero((whole > 1) & (np.abs(ratios - whole) < 0.1))
    if missing.size and missing.size < len(gaps) / 2:
        at = int(missing[0])
        lost = int((whole[missing] - 1).sum())
        raise InvalidInputError(
            f"slice {at + 2} is missing, between {slices[at].name} and {slices[at + 1].name}"
            + (f"; {lost} are in all" if lost > 1 else "")
        )
    if gaps.max() - gaps.min() > 2 * MOST_APART_MM:
        raise InvalidInputError(f"slices lie {gaps.min():.2f} to {gaps.max():.2f} mm apart, not evenly")
    return step


def _check_count(series: Series, found: int) -> None:
    """Refuse a series that has fewer slices than its header counts (of a PET, for each of its time slots)."""
    keyword = "NumberOfSlices" if series.modality is Modality.PET else "ImagesInAcquisition"
    told = series.first.number(keyword)
    if told and found < told <= 10_000:
        raise InvalidInputError(f"{found} slices, where the header counts {told:.0f}: the series is not whole")


def _frame(frames: NDArray, each: Slice) -> NDArray:
    plane = frames if each.frame is None else frames[each.frame] if each.frame < len(frames) else frames[:0]
    if each.frame is not None and frames.ndim == 2:
        plane = frames  # a multi-frame file of one frame
    if plane.shape != each.shape_yx:
        raise InvalidInputError(f"{each.file}: its pixels are damaged or cut short")
    return plane


def _rescaled(plane: NDArray, each: Slice, whole: bool) -> NDArray:
    if not whole:
        return (plane * each.slope + each.intercept).astype(np.float32)
    values = plane.astype(np.int64) * int(each.slope) + int(each.intercept)
    fits = np.iinfo(np.int16)
    return values.astype(np.int16 if fits.min <= values.min() and values.max() <= fits.max else np.int32)
