"""A DICOM RT dose as an image in Gy: the dose of a whole plan, where the planning system put it (PS3.3 C.8.8.3)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmpl.case import Grid, Image, InvalidInputError, SeriesIdentity
from mmpl.dicom.headers import Header, is_zip, looks_like_dicom, read_dataset, read_headers
from mmpl.dicom.pixels import read_pixels
from mmpl.dicom.series import MOST_APART_MM, right_angled
from mmpl.io.images import read_image

DOSE_STORAGE = "1.2.840.10008.5.1.4.1.1.481.2"
WHOLE_PLANS = ("PLAN", "MULTI_PLAN")
"""Summation types of what a patient is to get; the others are doses of single fractions, beams or control points."""


def dose_objects(headers: Sequence[Header]) -> tuple[Header, ...]:
    """Keep the RT doses among headers."""
    return tuple(header for header in headers if header.text("SOPClassUID") == DOSE_STORAGE)


def of_whole_plan(doses: Sequence[Header]) -> Header:
    """Choose the one dose of a whole plan; parts are not summed, as no header says that all are there.

    Raises:
        InvalidInputError: There is none, or there are several.
    """
    whole = [dose for dose in doses if dose.text("DoseSummationType").upper() in WHOLE_PLANS]
    if len(whole) != 1:
        others = f", and {len(doses) - len(whole)} of parts of one" if len(doses) > len(whole) else ""
        raise InvalidInputError(f"{len(whole)} RT doses of a whole plan{others}: one is needed")
    return whole[0]


def read_dose(header: Header, ct: SeriesIdentity | None = None) -> Image:
    """Read an RT dose.

    Args:
        header: Its header.
        ct: Series of the CT that the dose must belong to; None where the CT is not DICOM and says nothing of it.

    Returns:
        Dose, Gy, float32; planes run along the normal, which is right-handed with rows and columns.

    Raises:
        InvalidInputError: It is no dose of a whole plan in Gy, or of another frame of reference, or damaged.
    """
    of_whole_plan([header])
    if ct and header.text("FrameOfReferenceUID") != ct.frame_of_reference_uid:
        raise InvalidInputError("the RT dose has another frame of reference than the CT: it was planned on another CT")
    if header.text("DoseUnits").upper() != "GY":
        raise InvalidInputError("the RT dose is not in Gy (DoseUnits is not GY; it may be relative)")
    if header.text("DoseType").upper() != "PHYSICAL":
        raise InvalidInputError("the RT dose is no physical dose (DoseType is not PHYSICAL)")
    scaling = header.number("DoseGridScaling")
    if scaling is None or scaling <= 0:
        raise InvalidInputError("the RT dose has no DoseGridScaling above 0")
    order, grid = _planes(header)
    stored = read_pixels(header.file)
    if stored.shape != grid.shape_zyx:
        raise InvalidInputError("the RT dose has other planes or pixels than its header says")
    return Image((stored[order] * scaling).astype(np.float32), grid)


def read_any_dose(path: Path, ct: SeriesIdentity | None = None) -> Image:
    """Read a dose that a person names: an image, an RT dose, or a folder or zip archive with one.

    Args:
        path: The file, folder or archive.
        ct: Series of the CT, as in `read_dose`.

    Raises:
        InvalidInputError: It cannot be used; the message names it.
    """
    try:
        if path.is_dir() or is_zip(path):
            return read_dose(of_whole_plan(dose_objects(read_headers(path))), ct)
        if path.is_file() and looks_like_dicom(path):
            objects = dose_objects([Header(path, read_dataset(path, pixels=False))])
            if not objects:
                raise InvalidInputError("no RT dose")
            return read_dose(objects[0], ct)
    except InvalidInputError as error:
        raise InvalidInputError(str(error) if str(path) in str(error) else f"{path}: {error}") from error
    return read_image(path)


def _planes(header: Header) -> tuple[list[int], Grid]:
    """Give the order of the frames along the normal, and their grid.

    GridFrameOffsetVector is written in two ways: from the first plane, beginning at 0, or as z in patient space,
    beginning with the first plane's, which only transverse planes have.
    """
    name = header.file.name
    position, axes = header.numbers("ImagePositionPatient", 3), header.numbers("ImageOrientationPatient", 6)
    spacing, offsets = header.numbers("PixelSpacing", 2), header.numbers("GridFrameOffsetVector")
    rows, columns = header.number("Rows"), header.number("Columns")
    if not (position and axes and spacing and rows and columns and min(spacing) > 0):
        raise InvalidInputError("the RT dose does not say where it lies, or how large its pixels are")
    if offsets is None or len(offsets) < 2:
        raise InvalidInputError("the RT dose does not say where its planes lie (GridFrameOffsetVector), or has but one")
    row, column = right_angled(name, axes)
    normal, along = np.cross(row, column), np.array(offsets)
    if offsets[0] != 0:
        if abs(offsets[0] - position[2]) > MOST_APART_MM or abs(normal[2]) < 1 - 1e-3:
            raise InvalidInputError("the RT dose's GridFrameOffsetVector begins neither at 0 nor at its position's z")
        along = (along - offsets[0]) * np.sign(normal[2])
    order = np.argsort(along)
    gaps = np.diff(along[order])
    if gaps.min() < MOST_APART_MM or gaps.max() - gaps.min() > 2 * MOST_APART_MM:
        raise InvalidInputError(f"the RT dose's planes lie {gaps.min():.2f} to {gaps.max():.2f} mm apart, not evenly")
    x, y, z = (np.array(position) + along[order[0]] * normal).tolist()
    direction = tuple(np.column_stack([row, column, normal]).ravel().tolist())
    size = int(columns), int(rows), len(offsets)
    return order.tolist(), Grid(size, (spacing[1], spacing[0], float(gaps.mean())), (x, y, z), direction)
