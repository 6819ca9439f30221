"""What a trained network is compared with: the fixed threshold that nuclear medicine has long delineated tumors by."""

import numpy as np
from numpy.typing import NDArray

from mmpl.case import Grid, Image
from mmpl.geometry import Interpolation, box_slices, covering_box, crop_grid, resample

SHARE_OF_SUVMAX = 0.41
"""The European guideline's (Boellaard et al., 2015)."""


def threshold_mask(pet: Image, ct_grid: Grid, roi: Grid, share: float = SHARE_OF_SUVMAX) -> NDArray[np.bool_]:
    """Mark the voxels (z, y, x) of the CT's grid, inside the patch, at or above a share of the patch's SUVmax."""
    start, size = covering_box(ct_grid, roi)
    mask = np.zeros(ct_grid.shape_zyx, bool)
    suv = resample(pet, crop_grid(ct_grid, start, size), Interpolation.LINEAR, 0.0)
    mask[box_slices(start, size)] = suv >= share * suv.max()
    return mask
