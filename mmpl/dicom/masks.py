"""Masks that a person drew or corrected, in whatever form: an image, a DICOM segmentation or an RT structure set."""

from dataclasses import replace
from pathlib import Path

from mmpl.case import Case, GivenMask, Grid, Image, InvalidInputError, SeriesIdentity
from mmpl.dicom.headers import looks_like_dicom
from mmpl.dicom.objects import read_object, reading
from mmpl.dicom.segmentation_object import SEGMENTATION_STORAGE, lay_segmentation_on
from mmpl.dicom.structure_set import STRUCTURE_SET_STORAGE, lay_structure_set_on
from mmpl.io.images import IMAGE_SUFFIXES
from mmpl.io.masks import read_mask

MASK_SUFFIXES = (*IMAGE_SUFFIXES, ".nrrd", ".dcm")


def read_any_mask(path: Path, grid: Grid, series: SeriesIdentity | None = None) -> Image:
    """Read a mask as a label map on the grid of its CT.

    Args:
        path: An image with labels 0, 1 and 2, a DICOM segmentation or an RT structure set.
        grid: The CT's grid.
        series: The CT series, where it is known; by it an object of another CT is told even where the places agree.

    Raises:
        InvalidInputError: It cannot be read, is none of these, or is of another CT; the message names it.
    """
    if not (path.is_file() and looks_like_dicom(path)):
        return read_mask(path, grid)
    content = read_object(path)
    try:
        with reading("DICOM object"):
            kind = str(content.get("SOPClassUID"))
        if kind in SEGMENTATION_STORAGE:
            return lay_segmentation_on(content, grid, series)
        if kind == STRUCTURE_SET_STORAGE:
            return lay_structure_set_on(content, grid, series)
    except InvalidInputError as error:
        raise InvalidInputError(f"{path}: {error}") from error
    raise InvalidInputError(f"{path}: neither a DICOM segmentation nor an RT structure set")


def give_mask(case: Case, path: Path) -> Case:
    """Let a mask in a file take the place of the ensemble's in a case.

    Raises:
        InvalidInputError: It cannot be used, as in `read_any_mask`.
    """
    return replace(case, given_mask=GivenMask(read_any_mask(path, case.ct.grid, case.ct_series), path.name))
