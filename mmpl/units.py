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
LEAST_RANGE_HU = 300.0
"""Between air and soft tissue there are a thousand; an image with less than this was scaled, or is no CT."""

_OFFSET = 1024
_AIR_HU, _SOFT_HU = (-1100, -900), (-150, 200)
_SOME, _MUCH = 0.01, 0.05
"""Shares of the voxels: air is there, and soft tissue; a shift wants more of it."""
_BODY_ALONE = 0.2
"""Share that soft tissue has, or what was set to zero round it, in a CT without any air."""
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
    if not _share(some, _AIR_HU) >= _SOME <= _share(some, _SOFT_HU):
        if _share(some, _AIR_HU, _OFFSET) >= _SOME and _share(some, _SOFT_HU, _OFFSET) >= _MUCH:
            voxels = voxels.astype(np.int32 if voxels.dtype.kind in "iu" else voxels.dtype) - _OFFSET
            flags.append(SHIFTED)
        elif low < _AIR_HU[1] or _share(some, _SOFT_HU) < _BODY_ALONE:
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


def _share(voxels: NDArray, between: tuple[int, int], offset: int = 0) -> float:
    """Give the share of voxels between two values, both moved up by the offset."""
    low, high = between
    return float(np.mean((voxels >= low + offset) & (voxels <= high + offset)))


def is_suv(pet: NDArray) -> bool:
    """Tell whether a PET's numbers can be SUV; a PET without any signal can."""
    positive = pet > 0
    count = int(np.count_nonzero(positive))
    can = count == 0 or float(pet.sum(where=positive, dtype=np.float64)) / count <= MOST_MEAN_SUV
    return can and bool(pet.min() >= LOWEST_SUV)
