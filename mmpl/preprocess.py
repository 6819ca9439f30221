"""The way from a case to the region of interest the networks see; the one path for training and inference.

The definition is "resample CT and PET to an isotropic common grid, localize the head on PET, crop": the common grid
spans the intersection of the two images; its cranial quarter is z-scored, and the centroid of the largest component
above the threshold is the patch's center. What is done gives the same patch, but never holds the whole common grid:
only the cranial slab of PET, then the patch of both. A profile for scans without a head takes the grid's middle.
The way back is `mmpl.segmentation.restore`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmpl.case import Case, Grid, Image
from mmpl.geometry import Interpolation, common_grid, crop_grid, place_box, resample
from mmpl.names import LESIONS
from mmpl.profile import PreprocessSettings

AIR_HU = -1024.0
HEAD_NOT_FOUND = "head not found"
NO_PET_SIGNAL = "PET without signal"
FIELD_OF_VIEW_CUT = "field of view much smaller than the region of interest"
SHORT = 0.7
"""A common grid below this share of the patch's size, along any axis, is flagged: that much is padding."""
_ROUNDING = 1e-5
"""A deviation below this share of the mean is what interpolation leaves of a constant image."""


@dataclass(frozen=True)
class PreparedCase:
    """The region of interest of one case.

    Attributes:
        images: CT and PET as the networks see them, float32 (2, z, y, x): CT scaled to [-1, 1], PET z-scored.
        labels: GTVp and GTVn as fractions of a voxel, float32 (2, z, y, x), where there is a reference mask.
        roi: Grid of the patch.
        ct_grid: Grid of the CT, on which the answer has to lie.
        flags: Findings that the reader of the answer should know.
    """

    patient_id: str
    images: NDArray[np.float32]
    labels: NDArray[np.float32] | None
    roi: Grid
    ct_grid: Grid
    flags: tuple[str, ...]


def prepare(case: Case, settings: PreprocessSettings) -> PreparedCase:
    """Localize the head of a case and bring both images, and the reference mask, to the patch.

    Raises:
        InvalidInputError: CT and PET do not overlap.
    """
    common = common_grid(case.ct.grid, case.pet.grid, settings.spacing_mm)
    middle = (np.array(common.size_xyz) - 1) / 2
    center, located = locate_head(case.pet, common, settings) if settings.localize == "head" else (middle, ())
    flags = (*case.flags, *located)
    start = place_box(center, common.size_xyz, settings.roi_size_xyz)
    roi = crop_grid(common, start, settings.roi_size_xyz)
    if any(n < wanted * SHORT for n, wanted in zip(common.size_xyz, settings.roi_size_xyz, strict=True)):
        flags = (*flags, FIELD_OF_VIEW_CUT)

    low, high = settings.ct_range_hu
    ct = _resample_inside(case.ct, roi, common, AIR_HU).clip(low, high)
    ct = 2 * (ct - low) / (high - low) - 1
    pet = _resample_inside(case.pet, roi, common, 0.0)
    body = pet[pet > settings.pet_floor_suv]
    if body.size and body.std() > _ROUNDING * body.mean():
        pet = (pet - body.mean()) / body.std()
    else:
        pet, flags = np.zeros_like(pet), (*flags, NO_PET_SIGNAL)
    return PreparedCase(
        patient_id=case.patient_id,
        images=np.stack([ct, pet]),
        labels=None if case.reference is None else prepare_labels(case.reference, roi, settings),
        roi=roi,
        ct_grid=case.ct.grid,
        flags=flags,
    )


def prepare_labels(mask: Image, roi: Grid, settings: PreprocessSettings) -> NDArray[np.float32]:
    """Bring a label map to the patch, one channel a lesion class: float32 (2, z, y, x)."""
    interpolation = Interpolation(settings.label_interpolation)
    return np.stack(
        [
            resample(Image((mask.voxels == label).astype(np.uint8), mask.grid), roi, interpolation, 0.0)
            for label in LESIONS
        ]
    )


def locate_head(pet: Image, common: Grid, settings: PreprocessSettings) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Find the center of the hottest cranial body, continuous voxel indices (x, y, z) of the common grid, and flags."""
    import cc3d

    x, y, z = common.size_xyz
    share = int(np.ceil(z * settings.cranial_fraction))
    depth = max(1, min(share, int(settings.cranial_limit_mm / settings.spacing_mm)))
    slab = crop_grid(common, (0, 0, z - depth), (x, y, depth))
    suv = resample(pet, slab, Interpolation.BSPLINE, 0.0)
    mean, deviation = suv.mean(dtype=np.float64), suv.std(dtype=np.float64)
    hot = suv > mean + settings.pet_z_threshold * deviation
    if deviation <= _ROUNDING * abs(mean) or not hot.any():
        return np.array([(x - 1) / 2, (y - 1) / 2, z - depth + (depth - 1) / 2]), (HEAD_NOT_FOUND,)
    largest = cc3d.largest_k(hot, k=1, connectivity=26)
    zyx = cc3d.statistics(largest.astype(np.uint8))["centroids"][1]
    return np.array([zyx[2], zyx[1], zyx[0] + z - depth]), ()


def _resample_inside(image: Image, roi: Grid, common: Grid, fill: float) -> NDArray[np.float32]:
    """Resample to the part of the patch that lies on the common grid; the padding takes the fill value."""
    offset = np.rint((np.asarray(roi.origin_xyz) - common.origin_xyz) / common.spacing_xyz).astype(int)
    first = np.maximum(-offset, 0)
    last = np.minimum(common.size_xyz - offset, roi.size_xyz)
    inner = crop_grid(roi, tuple(first.tolist()), tuple((last - first).tolist()))
    result = np.full(roi.shape_zyx, fill, np.float32)
    box = tuple(slice(a, b) for a, b in zip(first[::-1], last[::-1], strict=True))
    result[box] = resample(image, inner, Interpolation.BSPLINE, fill)
    return result
