"""CT that is not in HU, PET that is not in SUV: told by their values, put right where that is certain, else said."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mmpl.case import Case, Image, InvalidInputError

LOWEST_HU = -1024
"""Air. Scanners fill the corners of the field with -2000 or -3024; interpolation would ring beside such a step."""
UNWRAPPED = "CT was stored as unsigned 16 bits: negative HU restored"
SHIFTED = "CT was 1024 too high, as it is where its intercept is left out: HU restored"
NOT_HU = "CT may not be in HU: no air, or no soft tissue, where they should be"
NOT_SUV = "PET is not in SUV: PET radiomics left out"
MOST_MEAN_SUV = 100.0
"""A PET whose voxels above zero average more than this is in Bq/ml: in SUV a body averages about 1, in Bq/ml some
thousands. In kBq/ml it averages some tens at most, which SUV may, too: that cannot be told."""
LOWEST_SUV = -10.0
"""No reconstruction leaves less; what has it is no PET."""
LEAST_PEAK_SUV = 0.5
"""No patient's PET stays below it everywhere."""
_SCALED_TO = (1.0, 255.0)
"""Highest values of images that were scaled, the latter to whole numbers."""
LEAST_RANGE_HU = 300.0
"""Between air and soft tissue there are a thousand; an image with less than this was scaled, or is no CT."""

_OFFSET = 1024
_AIR_HU, _SOFT_HU, _FAT_HU, _BODY_HU, _BONE_HU = (-1100, -900), (-150, 200), (-150, -30), (-150, 800), (500, 3071)
_NEGATED_AIR_HU = (900, 1100)
_AIR_PEAK_HU, _SOFT_PEAK_HU = (-1010, -985), (30, 80)
"""Where most voxels of air and of soft tissue lie, near -1000 and 50. In a CT of air 0 and water 1000 that is taken for
one without its intercept, they lie 24 lower."""
_SOME, _MUCH, _MOST = 0.01, 0.05, 0.9
"""Shares of the voxels: a tissue is there; a shift wants more of soft tissue; a body alone is little else than body."""
_LOOKED_AT = 1_000_000  # voxels


def check_units(case: Case) -> Case:
    """Bring CT to HU where storage changed it and it can be told how, and tell a PET that is not in SUV.

    Raises:
        InvalidInputError: The CT's values span too little for HU.
    """
    voxels, flags = _unwrapped(case.ct.voxels), list(case.flags)
    if voxels is not case.ct.voxels:
        flags.append(UNWRAPPED)
    low, high = float(voxels.min()), float(voxels.max())
    if high - low < LEAST_RANGE_HU:
        raise InvalidInputError(f"the CT is not in HU: its values go from {low:g} to {high:g}")
    some = voxels.ravel()[:: voxels.size // _LOOKED_AT | 1]  # odd, so that it takes no column of voxels alone
    if not _has_air(some) and not _is_body_alone(some):
        if _is_shifted(some):
            voxels = voxels.astype(np.int32 if voxels.dtype.kind in "iu" else voxels.dtype) - _OFFSET
            flags.append(SHIFTED)
        else:
            flags.append(NOT_HU)
    if voxels.min() < LOWEST_HU:
        voxels = np.maximum(voxels, np.asarray(LOWEST_HU, voxels.dtype))
    in_suv = case.pet_is_suv and is_suv(case.pet.voxels)
    if not in_suv:
        flags.append(f"{NOT_SUV} ({case.suv.why_none})" if case.suv and case.suv.why_none else NOT_SUV)
    return replace(case, ct=Image(voxels, case.ct.grid), pet_is_suv=in_suv, flags=tuple(flags))


def _unwrapped(voxels: NDArray) -> NDArray:
    """Restore the sign of 16 bits that were read as unsigned, whatever type they were stored as since."""
    top = voxels.max()
    if voxels.min() < 0 or not np.iinfo(np.int16).max < top <= np.iinfo(np.uint16).max:
        return voxels
    if voxels.dtype == np.uint16:
        return voxels.view(np.int16)
    signed = voxels.astype(np.int32 if voxels.dtype.kind in "iu" else voxels.dtype)
    signed[signed > np.iinfo(np.int16).max] -= 1 << 16
    return signed


def _has_air(hu: NDArray) -> bool:
    """Tell whether there are air, more than a negated CT has bone there, and soft tissue."""
    return _share(hu, _AIR_HU) >= max(_SOME, _share(hu, _NEGATED_AIR_HU)) and _share(hu, _SOFT_HU) >= _SOME


def _is_body_alone(hu: NDArray) -> bool:
    """Tell whether there is a body without air, perhaps with zeros round it: soft tissue, fat and bone."""
    body = hu[hu != 0]
    tissues = min(_share(body, _FAT_HU), _share(body, _BONE_HU)) > 0 and _share(body, _BODY_HU) >= _MOST
    return tissues and _lies_in(_SOFT_PEAK_HU, _peak(body, -20, 150))


def _is_shifted(stored: NDArray) -> bool:
    """Tell whether air and soft tissue are where they belong once the offset is taken off; zeros may be a fill."""
    hu = stored[stored > 0] - float(_OFFSET)
    peaks = _lies_in(_AIR_PEAK_HU, _peak(hu, -1024, -800)) and _lies_in(_SOFT_PEAK_HU, _peak(hu, -20, 150))
    return peaks and _share(hu, _AIR_HU) >= _SOME and _share(hu, _SOFT_HU) >= _MUCH


def _share(voxels: NDArray, between: tuple[int, int]) -> float:
    """Give the share of voxels between two values."""
    low, high = between
    return float(np.mean((voxels >= low) & (voxels <= high))) if voxels.size else 0.0


def _peak(voxels: NDArray, low: int, high: int) -> int:
    """Give the value, between two, about which most voxels lie."""
    counts = np.histogram(voxels, high - low, (low, high))[0]
    return low + int(np.argmax(np.convolve(counts, np.hanning(15), "same")))


def _lies_in(between: tuple[int, int], value: int) -> bool:
    low, high = between
    return low <= value <= high


def is_suv(pet: NDArray) -> bool:
    """Tell whether a PET's numbers can be SUV; a PET without any signal can."""
    if pet.min() < LOWEST_SUV:
        return False
    positive, high = pet > 0, pet.max()
    count = int(np.count_nonzero(positive))
    if count == 0:
        return True
    mean = float(pet.sum(where=positive, dtype=np.float64)) / count
    scaled = high == _SCALED_TO[0] or (high == _SCALED_TO[1] and bool((pet == np.rint(pet)).all()))
    return mean <= MOST_MEAN_SUV and bool(high >= LEAST_PEAK_SUV) and not scaled
