"""The CT series that a mask lies on, as what is written refers to it: its slices in order, and the grid they make."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mmpl.case import Grid, Image, InvalidInputError, SeriesIdentity
from mmpl.dicom.headers import read_headers
from mmpl.dicom.series import MOST_APART_MM, Series, find_series, naming, stacked
from mmpl.dicom.study import check_one_patient
from mmpl.errors import some_of
from mmpl.geometry import lay_on
from mmpl.io.masks import as_labels
from mmpl.names import Modality

if TYPE_CHECKING:
    from pydicom import Dataset


@dataclass(frozen=True)
class CtSeries:
    """A CT series of single-frame slices.

    Attributes:
        slices: The slices' headers, along the grid's third axis.
        grid: The grid that they make, in LPS: rows run along its first axis, columns along its second, and the third
            is normal to both.
        identity: UIDs of the series and of its frame of reference.
        about: The series in a message.
    """

    slices: tuple["Dataset", ...]
    grid: Grid
    identity: SeriesIdentity
    about: str

    @classmethod
    def of(cls, series: Series) -> "CtSeries":
        """Order the slices of a series.

        Raises:
            InvalidInputError: They make no volume, or cannot be referred to.
        """
        slices, grid = stacked(series)
        with naming(series):
            if any(each.frame is not None for each in slices):
                raise InvalidInputError("an enhanced CT, to whose frames no DICOM form of an answer refers")
            for keyword in ("StudyInstanceUID", "SOPInstanceUID"):
                if not all(header.text(keyword) for header in series.headers):
                    raise InvalidInputError(f"a file without {keyword}, by which what is written would refer to it")
            frames = {header.text("FrameOfReferenceUID") for header in series.headers}
            if len(frames) > 1 or "" in frames:
                raise InvalidInputError("not one frame of reference, in which what is written would lie")
        header_of = {header.file: header.dataset for header in series.headers}
        return cls(tuple(header_of[each.file] for each in slices), grid, series.identity, series.about)

    def labels(self, mask: Image) -> NDArray[np.uint8]:
        """Lay a label map on the series: an array (slices, rows, columns).

        Raises:
            InvalidInputError: The mask does not lie on the series' grid, or has labels other than 0, 1 and 2.
        """
        return as_labels(lay_on(mask, self.grid, MOST_APART_MM).voxels)


def find_ct_series(
    place: Path, mask: Image, number: int | None = None, identity: SeriesIdentity | None = None
) -> CtSeries:
    """Find the CT series that a label map lies on, among the DICOM files of a place.

    Args:
        place: A folder, with those below it, or a zip archive.
        mask: The label map.
        number: SeriesNumber, where the mask lies on several, as on two reconstructions of one scan.
        identity: The series that the mask was made on, where it is known.

    Raises:
        InvalidInputError: There is none, or there are several, or of several patients.
    """
    series, _ = find_series(read_headers(place))
    candidates = [
        each for each in series if each.modality is Modality.CT and (number is None or each.number == str(number))
    ]
    if identity:
        candidates = [each for each in candidates if each.identity == identity]
        if not candidates:
            raise InvalidInputError(f"{place}: the CT series that was answered is not there; --ct-series names another")
    check_one_patient(place, candidates)
    if not candidates:
        raise InvalidInputError(f"{place}: no CT series" + ("" if number is None else f" of number {number}"))
    found, reasons = list[CtSeries](), list[str]()
    for each in candidates:
        try:
            ordered = CtSeries.of(each)
            ordered.labels(mask)
            found.append(ordered)
        except InvalidInputError as error:
            reasons.append(str(error))
    if not found:
        raise InvalidInputError(f"{place}: {reasons[0]}" if len(reasons) == 1 else f"{place}: the mask lies on no CT")
    if len(found) > 1:
        numbers = some_of(sorted(str(each.slices[0].get("SeriesNumber")) for each in found))
        raise InvalidInputError(f"{place}: the mask lies on {len(found)} CT series; name one of {numbers}")
    return found[0]
