"""Masks that lie beside images: the one rule for their labels and their grids, for references and predictions alike."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmpl.case import Grid, Image, InvalidInputError
from mmpl.geometry import lay_on
from mmpl.io.images import read_image
from mmpl.names import Label

_WHOLE_WITHIN = 1e-3
"""What a label may lose in a program that keeps masks as floats."""
_LABELS_SHOWN = 5


def read_mask(path: Path, grid: Grid) -> Image:
    """Read a mask and lay it on an image's own grid, which it covers voxel by voxel.

    Raises:
        InvalidInputError: It cannot be read, lies elsewhere, or has labels other than 0, 1 and 2; the message names it.
    """
    mask = read_image(path)
    try:
        return lay_on(Image(as_labels(mask.voxels), mask.grid), grid)
    except InvalidInputError as error:
        raise InvalidInputError(f"{path}: {error}") from error


def as_labels(voxels: NDArray) -> NDArray[np.uint8]:
    """Read voxels as labels; floats that are whole within a thousandth are.

    Raises:
        InvalidInputError: There are others than 0, 1 and 2.
    """
    if voxels.dtype.kind in "biu" and voxels.size and voxels.min() >= min(Label) and voxels.max() <= max(Label):
        return voxels.astype(np.uint8)  # labels have no gaps; what follows takes ten seconds of a whole body
    whole = np.rint(voxels)
    odd = ~np.isin(whole, list(Label)) | (np.abs(voxels - whole) > _WHOLE_WITHIN)
    if odd.any():
        found = sorted(set(np.unique(voxels[odd]).tolist()))[:_LABELS_SHOWN]
        raise InvalidInputError(f"the mask has labels {found}; only 0, 1 and 2 are known")
    return whole.astype(np.uint8)
