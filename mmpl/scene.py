"""What the page's viewer draws: CT, PET and lesions of a patient as 8 bits on one cube around the lesions.

A cube of 144 voxels a side (some 1.5 mm) is 12 MB of four volumes and 2 to 4 MB in the page, whatever the scan. The
viewer is ours, of a few lines on a plain canvas (`resources/report/viewer.js`): it needs no WebGL and no dependency,
where NiiVue would be 1.5 MB of a page by itself.
"""

import base64
import gzip
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmpl.case import Case, Grid, Image
from mmpl.geometry import Interpolation, extent_mm, mm_to_index, resample
from mmpl.lesions import Lesion, components, places_mm
from mmpl.names import LESIONS
from mmpl.picture import CT_OUTSIDE_HU, CT_WINDOW_HU, PetScale
from mmpl.segmentation import Segmentation

SIDE_VOXELS = 144
CONTOUR_FROM = 0.5
"""Share of a voxel from which the viewer draws a lesion."""
LEAST_SIDE_MM, MARGIN_MM = 200.0, 40.0
"""Side of the cube, and what there is around the lesions at least."""


@dataclass(frozen=True)
class Scene:
    """The volumes of the viewer.

    Attributes:
        grid: The cube; x runs to the patient's left, y to the back, z to the head.
        volumes: (4, z, y, x) uint8: CT from black to white of its window, PET from 0 to `pet.top`, and the share of
            each voxel that is GTVp, and GTVn.
        pet: Scale of the PET.
    """

    grid: Grid
    volumes: NDArray[np.uint8]
    pet: PetScale

    def packed(self) -> str:
        """Give the volumes, one after the other, as gzip in base64."""
        return base64.b64encode(gzip.compress(self.volumes.tobytes(), compresslevel=6, mtime=0)).decode("ascii")

    def voxel_of(self, lesion: Lesion) -> list[int]:
        """Find the voxel x, y, z of a lesion's centroid."""
        index = np.rint(mm_to_index(self.grid, np.array(lesion.center_mm))).astype(int)
        return np.clip(index, 0, SIDE_VOXELS - 1).tolist()


def make_scene(case: Case, segmentation: Segmentation) -> Scene:
    """Sample a case and its mask on the cube around the lesions or, where there is none, about the patch's middle."""
    mask, pet = segmentation.mask, PetScale.of(case)
    grid = _cube(mask, segmentation.roi or mask.grid)
    low, high = CT_WINDOW_HU
    ct = (resample(case.ct, grid, Interpolation.LINEAR, CT_OUTSIDE_HU) - low) / (high - low)
    suv = resample(case.pet, grid, Interpolation.LINEAR, 0.0) / pet.top
    classes = {
        label: resample(Image((mask.voxels == label).astype(np.uint8), mask.grid), grid, Interpolation.LINEAR, 0.0)
        for label in LESIONS
    }
    for label, lesion in components(mask):
        x, y, z = _nearest(grid, lesion)
        if classes[label][z, y, x].max() <= CONTOUR_FROM:  # too thin to be drawn
            classes[label][z, y, x] = 1
    volumes = np.stack([np.rint(255 * np.clip(each, 0, 1)).astype(np.uint8) for each in (ct, suv, *classes.values())])
    return Scene(grid, volumes, pet)


def _nearest(grid: Grid, lesion: Image) -> NDArray[np.intp]:
    """Find the voxels of a grid, (3, n) x, y, z, that are nearest to those of a lesion."""
    return np.clip(np.rint(mm_to_index(grid, places_mm(lesion))).astype(int), 0, SIDE_VOXELS - 1).T


def _cube(mask: Image, roi: Grid) -> Grid:
    lower, upper = extent_mm(roi)
    side = LEAST_SIDE_MM
    if lesions := [extent_mm(lesion.grid) for _, lesion in components(mask)]:
        lower, upper = np.min([a for a, _ in lesions], axis=0), np.max([b for _, b in lesions], axis=0)
        side = max(side, float((upper - lower).max()) + 2 * MARGIN_MM)
    step = side / SIDE_VOXELS
    x, y, z = ((lower + upper) / 2 - (side - step) / 2).tolist()
    return Grid((SIDE_VOXELS,) * 3, (step,) * 3, (x, y, z))
