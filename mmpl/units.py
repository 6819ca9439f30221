"""CT that is not in HU, PET that is not in SUV: checked where it is certain, else flagged."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mmpl.case import Case, Image

LOWEST_HU = -1024
"""Air. Scanners fill the corners of the field with -2000 or -3024; interpolation would ring beside such a step."""
UNWRAPPED = "CT was stored as unsigned 16 bits: negative HU restored"
NOT_SUV = "PET is not in SUV: PET radiomics left out"
MOST_MEAN_SUV = 100.0
"""A PET whose voxels above zero average more than this is in Bq/ml: in SUV a body averages about 1, in Bq/ml some
thousands."""


def check_units(case: Case) -> Case:
    """Bring CT to HU where its storage hid the sign, cut what fills its corners, and tell a PET that is not in SUV."""
    voxels, flags = case.ct.voxels, list(case.flags)
    if voxels.dtype == np.uint16 and voxels.max() > np.iinfo(np.int16).max:
        voxels = voxels.view(np.int16)
        flags.append(UNWRAPPED)
    if voxels.min() < LOWEST_HU:
        voxels = np.maximum(voxels, np.asarray(LOWEST_HU, voxels.dtype))
    in_suv = is_suv(case.pet.voxels)
    if not in_suv:
        flags.append(NOT_SUV)
    return replace(case, ct=Image(voxels, case.ct.grid), pet_is_suv=in_suv, flags=tuple(flags))


def is_suv(pet: NDArray) -> bool:
    """Tell whether a PET's numbers can be SUV; a PET without any signal can."""
    positive = pet > 0
    count = int(np.count_nonzero(positive))
    return count == 0 or float(pet.sum(where=positive, dtype=np.float64)) / count <= MOST_MEAN_SUV
