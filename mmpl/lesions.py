"""Lesions one by one, as a reader counts them: size, uptake, place, and how many of the models find each.

A lesion is what touches by a face, an edge or a corner (26-connected) within one class of the final mask, as the
metrics count them. Its uptake is that of the PET's own voxels, none interpolated: those whose center lies in the lesion
or, where it is too small to hold one, those that its voxels lie in.
"""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mmpl.case import Case, Grid, Image
from mmpl.evidence import Floats
from mmpl.geometry import Interpolation, covering_box, crop_grid, extent_mm, index_to_mm, mm_to_index, resample
from mmpl.names import Label
from mmpl.segmentation import MemberMasks

PEAK_RADIUS_MM = (3 * 1000 / (4 * math.pi)) ** (1 / 3)
"""Radius of a sphere of 1 ml."""
FOUND_FROM = 0.5
"""A model finds a lesion if its own mask has at least this share of the lesion's voxels, in the lesion's class.

What else the model marks does not count against it: one that marks far more has found the lesion, too.
"""
MIDLINE_MM = 5.0
"""A lesion whose centroid is no further than this from the midline is on neither side."""
CUT_MIDLINE_MM = 40.0
"""How far from the middle of a body that is cut at both sides its midline may lie."""

_BODY_HU, _OUTSIDE_HU = -300.0, -1024.0
_SLICE_MM = 4.0  # spacing at which a slice is looked at for its midline
_LEAST_BODY_MM2 = 2000.0  # less is no neck
_FLAT = 0.55  # share of the body's height from which its edge is that of padding: a round one has about 0.3


class Side(StrEnum):
    """The patient's side, not the picture's."""

    LEFT = "left"
    RIGHT = "right"
    MIDLINE = "midline"


@dataclass(frozen=True)
class Uptake:
    """What the PET says of a lesion.

    Attributes:
        suv_max, suv_mean: Highest and mean SUV of its voxels.
        suv_peak: Highest mean SUV of a sphere of 1 ml that is centered on one of its voxels; the sphere may reach
            beyond the lesion (the global intensity peak of the Image Biomarker Standardisation Initiative, 0F91).
        tlg: Total lesion glycolysis: mean SUV times volume, ml.
    """

    suv_max: float
    suv_mean: float
    suv_peak: float
    tlg: float


@dataclass(frozen=True)
class Lesion:
    """One lesion of the final mask.

    Attributes:
        label: Its class.
        volume_ml: Volume, ml.
        diameter_mm: Longest diameter, in any direction, from surface to surface, mm.
        center_mm: Centroid in patient space (LPS: to the left, to the back, to the head), mm.
        side: Side of the body's midline at that level; None where the CT does not show it.
        from_primary_mm: Shortest distance to the largest primary, between voxel centers, mm; None of that one itself,
            and without a primary.
        uptake: What the PET says; None where it is not in SUV, or does not reach so far.
        found_by: Share of the models whose own mask has it, as this class (`FOUND_FROM`); None where one model alone
            answered, or a person drew it.
    """

    label: Label
    volume_ml: float
    diameter_mm: float
    center_mm: tuple[float, float, float]
    side: Side | None
    from_primary_mm: float | None
    uptake: Uptake | None
    found_by: float | None


def find_lesions(case: Case, mask: Image, member_masks: MemberMasks | None = None) -> tuple[Lesion, ...]:
    """Measure every lesion of a patient: primaries come before nodes, and of a class the largest first.

    Args:
        case: CT and PET.
        mask: Label map on the CT's grid.
        member_masks: Masks of the models; None where nothing is to be said of who finds each.
    """
    from scipy.spatial import cKDTree

    found = components(mask)
    primary = cKDTree(_surface_mm(found[0][1])) if found and found[0][0] is Label.GTVP else None
    lesions = []
    for number, (label, lesion) in enumerate(found):
        places = places_mm(lesion)
        center = places.mean(axis=0)
        volume_ml = len(places) * lesion.grid.voxel_ml
        x, y, z = center.tolist()
        lesions.append(
            Lesion(
                label,
                volume_ml,
                longest_diameter_mm(lesion),
                (x, y, z),
                side_of(case.ct, center),
                float(primary.query(_surface_mm(lesion))[0].min()) if primary and number else None,
                measure_uptake(case.pet, lesion, volume_ml) if case.pet_is_suv else None,
                _found_by(places, label, member_masks),
            )
        )
    return tuple(lesions)


def components(mask: Image) -> list[tuple[Label, Image]]:
    """Cut the lesions out of a label map, each a boolean image on its own box, in the order of `find_lesions`."""
    import cc3d

    levels = np.flatnonzero(mask.voxels.max(axis=(1, 2)))
    if not len(levels):
        return []
    slab = mask.voxels[levels[0] : levels[-1] + 1]
    seen_from_above = slab.max(axis=0)
    rows, columns = (np.flatnonzero(seen_from_above.any(axis=other)) for other in (1, 0))
    classes = slab[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    labels = cc3d.connected_components(classes, connectivity=26)  # of each class its own
    found = []
    for number, box in enumerate(cc3d.statistics(labels)["bounding_boxes"][1:], 1):
        inside = labels[box] == number
        z, y, x = (int(part[0]) + edge.start for part, edge in zip((levels, rows, columns), box, strict=True))
        lesion = Image(inside, crop_grid(mask.grid, (x, y, z), inside.shape[::-1]))
        found.append((Label(int(classes[box][inside][0])), lesion))
    return sorted(found, key=lambda each: (each[0], -np.count_nonzero(each[1].voxels)))


def cut_class(mask: Image, label: Label) -> Image | None:
    """Cut all lesions of a class out of a label map, as one boolean image on their box; None where there is none."""
    inside = mask.voxels == label
    if not inside.any():
        return None
    (box,) = ndimage.find_objects(inside.astype(np.uint8))
    z, y, x = (part.start for part in box)
    return Image(inside[box], crop_grid(mask.grid, (x, y, z), inside[box].shape[::-1]))


def longest_diameter_mm(lesion: Image) -> float:
    """Measure the longest distance between two points of a lesion's surface, mm.

    The surface passes half a voxel beyond the outermost voxel centers, along the axes, as that of a mesh does.
    """
    from scipy.spatial import ConvexHull
    from scipy.spatial.distance import pdist

    index = np.argwhere(_corners(lesion.voxels))[:, ::-1]
    faces = np.concatenate([index + half * axis for axis in np.eye(3) for half in (-0.5, 0.5)])
    points = index_to_mm(lesion.grid, faces)
    return float(pdist(points[ConvexHull(points).vertices]).max())


def measure_uptake(pet: Image, lesion: Image, volume_ml: float) -> Uptake | None:
    """Measure a lesion's uptake on a PET in SUV; None where the PET does not reach it."""
    index = _pet_voxels(pet.grid, lesion)
    if not len(index):
        return None
    suv = pet.voxels[tuple(index.T[::-1])].astype(np.float64)
    mean = float(suv.mean())
    return Uptake(float(suv.max()), mean, _peak(pet, index), mean * volume_ml)


def _pet_voxels(pet: Grid, lesion: Image) -> NDArray[np.intp]:
    """Index (n, 3; x, y, z) of the PET's voxels that belong to a lesion."""
    start, size = covering_box(pet, lesion.grid)
    if min(size) > 0:
        box = crop_grid(pet, start, size)
        inside = resample(Image(lesion.voxels.astype(np.uint8), lesion.grid), box, Interpolation.NEAREST, 0.0) > 0.5
        if inside.any():
            return np.argwhere(inside)[:, ::-1] + start
    nearest = np.unique(np.rint(mm_to_index(pet, places_mm(lesion))).astype(int), axis=0)
    return nearest[((nearest >= 0) & (nearest < pet.size_xyz)).all(axis=1)]


def _peak(pet: Image, centers: NDArray[np.intp]) -> float:
    """Give the highest mean of the PET's voxels in a sphere of 1 ml about one of some voxels (n, 3; x, y, z)."""
    reach = [math.floor(PEAK_RADIUS_MM / step) for step in pet.grid.spacing_xyz]
    offsets = np.stack(np.meshgrid(*[np.arange(-n, n + 1) for n in reach], indexing="ij"), axis=-1).reshape(-1, 3)
    offsets = offsets[np.linalg.norm(offsets * pet.grid.spacing_xyz, axis=1) <= PEAK_RADIUS_MM]
    highest = -math.inf
    for some in np.array_split(centers, 1 + len(centers) * len(offsets) // 2_000_000):  # memory
        index = some[:, None] + offsets
        inside = ((index >= 0) & (index < pet.grid.size_xyz)).all(axis=-1)
        x, y, z = np.moveaxis(np.where(inside[..., None], index, 0), -1, 0)
        sums = np.where(inside, pet.voxels[z, y, x], 0.0).sum(axis=1, dtype=np.float64)
        highest = max(highest, float((sums / inside.sum(axis=1)).max()))
    return highest


def side_of(ct: Image, place_mm: Floats) -> Side | None:
    """Tell the side of the midline that a place is on.

    The midline at that level is where half of the body's area in the axial slice lies to either side. None where the
    slice shows too little of a body, cuts it at one side alone, or shows two parts of it, as legs are; and near the
    middle of a body that is cut at both sides, as wide shoulders are.
    """
    body = _body_at(ct, float(place_mm[2]))
    if body is None or body.cut == 1:
        return None
    to_the_left = float(place_mm[0]) - body.midline_mm
    if abs(to_the_left) <= MIDLINE_MM and not body.cut:
        return Side.MIDLINE
    if abs(to_the_left) <= CUT_MIDLINE_MM and body.cut:
        return None
    return Side.LEFT if to_the_left > 0 else Side.RIGHT


class _Body(NamedTuple):
    """The body in an axial slice: where half of it lies to either side, and how many of its two sides are cut."""

    midline_mm: float
    cut: int


def _body_at(ct: Image, z_mm: float) -> _Body | None:
    lower, upper = extent_mm(ct.grid)
    columns, rows = (max(1, int((b - a) / _SLICE_MM)) for a, b in zip(lower[:2], upper[:2], strict=True))
    x, y = (lower[:2] + _SLICE_MM / 2).tolist()
    level = Grid((columns, rows, 1), (_SLICE_MM,) * 3, (x, y, z_mm))
    tissue = resample(ct, level, Interpolation.LINEAR, _OUTSIDE_HU)[0] > _BODY_HU
    labels, count = ndimage.label(ndimage.binary_opening(tissue))  # which parts the table from the body
    if not count:
        return None
    areas = np.bincount(labels.ravel())[1:]
    if np.sort(areas)[:-1].max(initial=0) >= areas.max() / 2:
        return None
    body = ndimage.binary_fill_holes(labels == areas.argmax() + 1)
    if body.sum() * _SLICE_MM**2 < _LEAST_BODY_MM2:
        return None
    inside = np.nonzero(body)[1]
    height = np.ptp(np.nonzero(body)[0]) + 1
    sides = inside.min(), inside.max()
    cut = sum(side in (0, columns - 1) or bool(body[:, side].sum() >= _FLAT * height) for side in sides)
    return _Body(x + _SLICE_MM * float(np.median(inside)), cut)


def _found_by(places_mm: Floats, label: Label, masks: MemberMasks | None) -> float | None:
    if masks is None or len(masks.voxels) < 2:
        return None
    return float((masks.shares(places_mm, label) >= FOUND_FROM).mean())


def places_mm(lesion: Image) -> Floats:
    """Give where the voxels of a lesion lie: (n, 3) x, y, z in mm."""
    return index_to_mm(lesion.grid, np.argwhere(lesion.voxels)[:, ::-1])


def _surface_mm(lesion: Image) -> Floats:
    return index_to_mm(lesion.grid, np.argwhere(_surface(lesion.voxels))[:, ::-1])


def _surface(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return inside & ~ndimage.binary_erosion(inside)


def _corners(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Find the voxels that lie between two others along no axis; all corners of the convex hull are among them."""
    lines = (np.ones(np.where(np.arange(3) == axis, 3, 1), bool) for axis in range(3))
    return inside & ~np.any([ndimage.binary_erosion(inside, line) for line in lines], axis=0)
