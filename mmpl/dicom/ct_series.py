"""The CT series that a mask lies on: its slices in order, and the grid they make."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmpl.case import Grid, Image, InvalidInputError, SeriesIdentity
from mmpl.dicom.headers import read_headers
from mmpl.dicom.objects import reading
from mmpl.errors import some_of
from mmpl.geometry import lay_on
from mmpl.io.masks import as_labels

if TYPE_CHECKING:
    from pydicom import Dataset

_CT_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
MOST_UNEVEN_MM = 0.1
"""What headers lose of a slice's place, where they have one decimal."""
_SAME_FOR_ALL = (
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "Rows",
    "Columns",
    "ImageOrientationPatient",
    "PixelSpacing",
)


@dataclass(frozen=True)
class CtSeries:
    """A CT series of single-frame slices; made by `order_slices`.

    Attributes:
        slices: The slices' headers, along the grid's third axis.
        grid: The grid that they make, in LPS: rows run along its first axis, columns along its second, and the third
            is normal to both.
    """

    slices: tuple["Dataset", ...]
    grid: Grid

    @property
    def identity(self) -> SeriesIdentity:
        """UIDs of the series and of its frame of reference."""
        first = self.slices[0]
        return SeriesIdentity(str(first.SeriesInstanceUID), str(first.FrameOfReferenceUID))

    def labels(self, mask: Image) -> NDArray[np.uint8]:
        """Lay a label map on the series: an array (slices, rows, columns).

        Raises:
            InvalidInputError: The mask does not lie on the series' grid, or has labels other than 0, 1 and 2.
        """
        return as_labels(lay_on(mask, self.grid, MOST_UNEVEN_MM).voxels)


def order_slices(slices: Sequence["Dataset"]) -> CtSeries:
    """Order the slices of one series along their normal.

    Args:
        slices: Headers of all its single-frame slices, in any order; pixels are not needed.

    Raises:
        InvalidInputError: They are fewer than two, differ in more than their place, or are not evenly stacked.
    """
    if len(slices) < 2:
        raise InvalidInputError(f"the CT series has {len(slices)} slices, and a volume is needed")
    with reading("CT series"):
        for keyword in _SAME_FOR_ALL:
            values = {_rounded(each.get(keyword)) for each in slices}
            if len(values) > 1 or values <= {None, ""}:
                raise InvalidInputError(f"the CT series' slices have {'other' if len(values) > 1 else 'no'} {keyword}")
        if any(each.get("ImagePositionPatient") is None or "NumberOfFrames" in each for each in slices):
            raise InvalidInputError("the CT series has a slice without a place, or with many frames")
        first = slices[0]
        plane = plane_grid(
            first.ImagePositionPatient, first.ImageOrientationPatient, first.PixelSpacing, (first.Rows, first.Columns)
        )
        places = np.array([[float(value) for value in each.ImagePositionPatient] for each in slices])
    normal = np.reshape(plane.direction, (3, 3))[:, 2]
    order = np.argsort(places @ normal)
    places = places[order]
    spacing_z = float((places[-1] - places[0]) @ normal) / (len(slices) - 1)
    even = places[0] + np.arange(len(slices))[:, None] * normal * spacing_z
    if not (spacing_z > 0 and np.linalg.norm(places - even, axis=1).max() <= MOST_UNEVEN_MM):
        raise InvalidInputError("the CT series' slices are not evenly stacked along their normal")
    columns, rows, _ = plane.size_xyz
    x, y, _ = plane.spacing_xyz
    grid = Grid((columns, rows, len(slices)), (x, y, spacing_z), tuple(places[0].tolist()), plane.direction)
    return CtSeries(tuple(slices[index] for index in order), grid)


def _rounded(value: Any) -> Any:
    """Give a header's value so that numbers are equal which differ in what is written of them alone."""
    if value is None or isinstance(value, str | int):
        return value
    return tuple(round(float(number), 4) for number in value)


def plane_grid(
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


def find_ct_series(place: Path, mask: Image, number: int | None = None) -> CtSeries:
    """Find the CT series that a label map lies on, among the DICOM files of a place.

    Args:
        place: A folder, with those below it, or a zip archive.
        mask: The label map.
        number: SeriesNumber, where the mask lies on several, as on two reconstructions of one scan.

    Raises:
        InvalidInputError: There is none, or there are several.
    """
    groups: dict[str, list[Dataset]] = defaultdict(list)
    for header in read_headers(place):
        if header.text("SOPClassUID") == _CT_STORAGE and number in (None, header.number("SeriesNumber")):
            groups[header.text("SeriesInstanceUID")].append(header.dataset)
    if not groups:
        raise InvalidInputError(f"{place}: no CT series" + ("" if number is None else f" of number {number}"))
    found, reasons = list[CtSeries](), list[str]()
    for slices in groups.values():
        try:
            series = order_slices(slices)
            series.labels(mask)
            found.append(series)
        except InvalidInputError as error:
            reasons.append(str(error))
    if not found:
        raise InvalidInputError(f"{place}: {reasons[0]}" if len(reasons) == 1 else f"{place}: the mask lies on no CT")
    if len(found) > 1:
        numbers = some_of(sorted(str(series.slices[0].get("SeriesNumber")) for series in found))
        raise InvalidInputError(f"{place}: the mask lies on {len(found)} CT series; name one of {numbers}")
    return found[0]
