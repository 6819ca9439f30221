"""Grids in patient space (LPS, mm) and interpolation between them; pure functions.

Where both grids are axis-aligned every interpolation here is separable: one small matrix an axis, applied to the part
of the source that the target needs. That is far faster than resampling whole images (`benchmarks/`) and agrees with
SimpleITK's `sitkBSpline` to 3e-4 HU. Elsewhere SimpleITK does it.
"""

from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mmpl.case import Grid, Image, InvalidInputError

if TYPE_CHECKING:
    import SimpleITK as sitk

Index = tuple[int, int, int]

SAME_PLACE_MM = 0.01
"""What headers lose in float32 at the far corner of a whole-body scan, ten times over."""

LEAST_OVERLAP_MM = 10.0
"""CT and PET that share less than this along any axis are refused."""

_ALIGNED_WITHIN_MM = 0.01
_SPLINE_MARGIN = 12  # samples around a crop; the cubic prefilter has decayed to 1e-7 there
_ROWS = 64  # of a matrix at a time; fewer cost more calls, more use more of the samples
_NEGLIGIBLE = 1e-8  # a weight below is left out: less than float32 keeps
_EDGE_TOLERANCE = 1e-6  # voxels; a center on the very edge of an image counts as inside


class Interpolation(StrEnum):
    """The way a value between voxel centers is found; BSPLINE is cubic and passes through the samples."""

    BSPLINE = "bspline"
    LINEAR = "linear"
    NEAREST = "nearest"


def index_to_mm(grid: Grid, index_xyz: NDArray) -> NDArray[np.float64]:
    """Map continuous voxel indices (..., 3) to positions in mm; the inverse of `mm_to_index`."""
    direction = np.reshape(grid.direction, (3, 3))
    return np.asarray(grid.origin_xyz) + (np.asarray(index_xyz) * grid.spacing_xyz) @ direction.T


def mm_to_index(grid: Grid, position_xyz: NDArray) -> NDArray[np.float64]:
    """Map positions in mm (..., 3) to continuous voxel indices; the inverse of `index_to_mm`."""
    direction = np.reshape(grid.direction, (3, 3))
    return (np.asarray(position_xyz) - grid.origin_xyz) @ np.linalg.inv(direction).T / grid.spacing_xyz


def holds(grid: Grid, position_xyz: NDArray) -> NDArray[np.bool_]:
    """Tell which positions in mm (..., 3) lie in a grid, voxel edge to voxel edge."""
    index = mm_to_index(grid, position_xyz)
    reach = np.array(grid.size_xyz) / 2 + _EDGE_TOLERANCE
    return np.all(np.abs(index - (np.array(grid.size_xyz) - 1) / 2) <= reach, axis=-1)


def extent_mm(grid: Grid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bound a grid in patient space, voxel edge to voxel edge: lower and upper corner, mm."""
    corners = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in grid.size_xyz], indexing="ij")).reshape(3, -1).T
    positions = index_to_mm(grid, corners)
    return positions.min(axis=0), positions.max(axis=0)


def grid_between(lower_mm: NDArray, upper_mm: NDArray, spacing_mm: float) -> Grid:
    """Make the isotropic axis-aligned grid that fills a box, first voxel's edge at its lower corner."""
    size = np.floor((np.asarray(upper_mm) - lower_mm) / spacing_mm + 1e-3).astype(int)
    x, y, z = (float(v) for v in np.asarray(lower_mm) + spacing_mm / 2)
    return Grid(_index(size), (spacing_mm, spacing_mm, spacing_mm), (x, y, z))


def common_grid(ct: Grid, pet: Grid, spacing_mm: float) -> Grid:
    """Make the axis-aligned isotropic grid over the intersection of two images; +z is cranial.

    Raises:
        InvalidInputError: The two images do not overlap.
    """
    lower_ct, upper_ct = extent_mm(ct)
    lower_pet, upper_pet = extent_mm(pet)
    grid = grid_between(np.maximum(lower_ct, lower_pet), np.minimum(upper_ct, upper_pet), spacing_mm)
    if min(grid.size_xyz) < 1:
        raise InvalidInputError(
            "CT and PET do not overlap: "
            f"the CT spans {_box(lower_ct, upper_ct)} mm, the PET {_box(lower_pet, upper_pet)} mm"
        )
    return grid


def check_overlap(ct: Grid, pet: Grid) -> None:
    """Refuse a CT and a PET that show too little of the same.

    Raises:
        InvalidInputError: They share less than `LEAST_OVERLAP_MM` along an axis.
    """
    common_grid(ct, pet, LEAST_OVERLAP_MM)  # which then has no room for one voxel


def lay_on(image: Image, grid: Grid, within_mm: float = SAME_PLACE_MM) -> Image:
    """Give an image on a grid that it covers voxel by voxel; axes that are reversed or permuted are put in its order.

    Args:
        image: The image.
        grid: The grid.
        within_mm: How far apart a voxel may be from itself.

    Raises:
        InvalidInputError: Some voxel of one is not where a voxel of the other is.
    """
    origin, ends = (mm_to_index(grid, index_to_mm(image.grid, at)) for at in (np.zeros(3), np.eye(3)))
    steps = ends - origin  # of the image's axes, in voxels of the grid
    along = np.abs(steps).argmax(axis=1)  # the grid's axis that each of the image's axes runs along
    size = np.asarray(image.grid.size_xyz)
    if sorted(along) != [0, 1, 2]:
        raise InvalidInputError("the mask does not lie where the image lies (its axes run aslant)")
    if tuple(size[np.argsort(along)]) != tuple(grid.size_xyz):
        raise InvalidInputError(f"the mask has {image.grid.size_xyz} voxels (x, y, z), and the image {grid.size_xyz}")
    backwards = steps[range(3), along] < 0
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in grid.size_xyz], indexing="ij")).reshape(3, -1).T
    expected = np.where(backwards, size - 1 - corners[:, along], corners[:, along])
    apart = np.linalg.norm(index_to_mm(image.grid, expected) - index_to_mm(grid, corners), axis=1).max()
    if not apart <= within_mm:
        raise InvalidInputError(f"the mask does not lie where the image lies ({apart:.3g} mm apart)")
    voxels_xyz = image.voxels.T[tuple(slice(None, None, -1 if back else 1) for back in backwards)]
    return Image(np.ascontiguousarray(voxels_xyz.transpose(np.argsort(along)).T), grid)


def lay_part_on(
    image: Image, grid: Grid, within_mm: float = SAME_PLACE_MM
) -> tuple[tuple[slice, slice, slice], NDArray]:
    """Give an image of a part of a grid in the grid's order of axes, as `lay_on` does.

    Returns:
        The part, as slices of an array on the grid, and the voxels there.

    Raises:
        InvalidInputError: It reaches outside the grid, or some voxel is not where one of the grid's is.
    """
    ends = [(0, n - 1) for n in image.grid.size_xyz]
    corners = np.array(np.meshgrid(*ends, indexing="ij")).reshape(3, -1).T
    index = np.rint(mm_to_index(grid, index_to_mm(image.grid, corners))).astype(int)
    start, last = index.min(axis=0), index.max(axis=0)
    if (start < 0).any() or (last >= grid.size_xyz).any():
        raise InvalidInputError("the mask reaches outside the image")
    size = _index(last - start + 1)
    laid = lay_on(image, crop_grid(grid, _index(start), size), within_mm)
    return box_slices(_index(start), size), laid.voxels


def crop_grid(grid: Grid, start_xyz: Index, size_xyz: Index) -> Grid:
    """Take a box of a grid, or one that reaches beyond it; `start_xyz` may be negative."""
    x, y, z = (float(v) for v in index_to_mm(grid, np.asarray(start_xyz)))
    return replace(grid, size_xyz=size_xyz, origin_xyz=(x, y, z))


def covering_box(grid: Grid, other: Grid) -> tuple[Index, Index]:
    """Find the smallest box of `grid` (start, size; x, y, z) that holds all its voxel centers inside `other`."""
    lower, upper = extent_mm(other)
    corners = np.array(np.meshgrid(*zip(lower, upper, strict=True), indexing="ij")).reshape(3, -1).T
    index = mm_to_index(grid, corners)
    start = np.clip(np.ceil(index.min(axis=0)), 0, grid.size_xyz).astype(int)
    stop = np.clip(np.floor(index.max(axis=0)) + 1, start, grid.size_xyz).astype(int)
    return _index(start), _index(stop - start)


def place_box(center_xyz: NDArray, grid_size_xyz: Index, box_size_xyz: Index) -> Index:
    """Find where a box starts: centered, shifted to stay inside the grid where it fits, else overlapping it evenly."""
    start = []
    for center, count, size in zip(center_xyz, grid_size_xyz, box_size_xyz, strict=True):
        if count < size:
            start.append(-((size - count) // 2))
        else:
            first = int(np.floor(center - (size - 1) / 2 + 0.5))
            start.append(min(max(first, 0), count - size))
    return start[0], start[1], start[2]


def box_slices(start_xyz: Index, size_xyz: Index) -> tuple[slice, slice, slice]:
    """Turn a box (x, y, z) into slices of an array (z, y, x)."""
    x, y, z = (slice(a, a + n) for a, n in zip(start_xyz, size_xyz, strict=True))
    return z, y, x


def is_axis_aligned(grid: Grid) -> bool:
    """Tell whether index axes run along patient axes, to within 0.01 mm over the whole grid."""
    direction = np.reshape(grid.direction, (3, 3))
    extent = np.multiply(grid.size_xyz, grid.spacing_xyz).max()
    return bool(np.abs(direction - np.round(direction)).max() * extent < _ALIGNED_WITHIN_MM)


def resample(image: Image, grid: Grid, interpolation: Interpolation, fill: float) -> NDArray[np.float32]:
    """Interpolate an image at another grid's voxel centers.

    Args:
        image: The source, on any grid.
        grid: Grid at whose voxel centers the source is sampled.
        interpolation: Way to find values between the source's voxel centers.
        fill: The value outside the source's voxel edges.

    Returns:
        Values (z, y, x) on `grid`.
    """
    if is_axis_aligned(image.grid) and is_axis_aligned(grid):
        return _resample_separably(image, grid, interpolation, fill)
    return _resample_with_sitk(image, grid, interpolation, fill)


class _Axes(NamedTuple):
    """The axes of an axis-aligned grid in patient space, each in x, y, z order of the patient."""

    index_axis: Index  # which index axis runs along this patient axis
    sign: Index  # -1 where it runs downwards
    first_mm: tuple[float, float, float]  # lowest voxel center
    spacing_mm: tuple[float, float, float]
    size: Index


def _axes(grid: Grid) -> _Axes:
    direction = np.round(np.reshape(grid.direction, (3, 3))).astype(int)
    index_axis = np.abs(direction).argmax(axis=1)
    sign = direction[np.arange(3), index_axis]
    size, spacing = np.take(grid.size_xyz, index_axis), np.take(grid.spacing_xyz, index_axis)
    first = np.asarray(grid.origin_xyz) - np.where(sign < 0, (size - 1) * spacing, 0.0)
    return _Axes(_index(index_axis), _index(sign), tuple(first), tuple(spacing), _index(size))


def _to_patient(voxels: NDArray, axes: _Axes) -> NDArray:
    """View an array so that it runs along +z, +y, +x of the patient; the inverse of `_from_patient`."""
    turned = voxels.transpose([2 - axes.index_axis[p] for p in (2, 1, 0)])
    return turned[tuple(slice(None, None, axes.sign[p]) for p in (2, 1, 0))]


def _from_patient(voxels: NDArray, axes: _Axes) -> NDArray:
    flipped = voxels[tuple(slice(None, None, axes.sign[p]) for p in (2, 1, 0))]
    return flipped.transpose(np.argsort([2 - axes.index_axis[p] for p in (2, 1, 0)]))


def _resample_separably(image: Image, grid: Grid, interpolation: Interpolation, fill: float) -> NDArray[np.float32]:
    source, target = _axes(image.grid), _axes(grid)
    result = np.full(target.size[::-1], fill, dtype=np.float32)
    matrices, source_box, target_box = [], [], []
    for p in (2, 1, 0):
        centers = target.first_mm[p] + np.arange(target.size[p]) * target.spacing_mm[p]
        position = (centers - source.first_mm[p]) / source.spacing_mm[p]
        count = source.size[p]
        inside = np.flatnonzero((position >= -0.5 - _EDGE_TOLERANCE) & (position <= count - 0.5 + _EDGE_TOLERANCE))
        if inside.size == 0:
            return _from_patient(result, target)
        position = position[inside]
        start = max(0, int(np.floor(position[0])) - _SPLINE_MARGIN)
        stop = min(count, int(np.ceil(position[-1])) + _SPLINE_MARGIN + 1)
        matrices.append(_weights(position - start, stop - start, interpolation))
        source_box.append(slice(start, stop))
        target_box.append(slice(inside[0], inside[-1] + 1))
    values = _to_patient(image.voxels, source)[tuple(source_box)]
    for axis in sorted(range(3), key=lambda a: matrices[a].shape[0] / matrices[a].shape[1]):
        values = _apply(matrices[axis], values, axis)
    result[tuple(target_box)] = values
    return _from_patient(result, target)


def _apply(matrix: NDArray[np.float32], values: NDArray, axis: int) -> NDArray[np.float32]:
    """Multiply along one axis of a volume (z, y, x), some rows at a time: they need a short stretch of the samples."""
    result = np.empty([len(matrix) if a == axis else count for a, count in enumerate(values.shape)], np.float32)
    for first in range(0, len(matrix), _ROWS):
        done = (slice(None),) * axis + (slice(first, first + _ROWS),)
        rows = matrix[done[axis]]
        used = np.flatnonzero(np.abs(rows).max(axis=0) > _NEGLIGIBLE)
        stretch = slice(used[0], used[-1] + 1)
        rows, samples = rows[:, stretch], values[(*done[:axis], stretch)].astype(np.float32, copy=False)
        if axis == 0:
            result[done] = np.tensordot(rows, samples, 1)
        elif axis == 1:
            np.matmul(rows, samples, out=result[done])
        else:
            result[done] = np.tensordot(samples, rows, (2, 1))
    return result


def _weights(position: NDArray[np.floating], count: int, interpolation: Interpolation) -> NDArray[np.float32]:
    """Make the matrix (positions, samples) that interpolates `count` samples; mirrored at the ends, as in SimpleITK."""
    rows = np.arange(len(position))[:, None]
    weights = np.zeros((len(position), count))
    if interpolation is Interpolation.NEAREST:
        weights[rows[:, 0], np.clip(np.floor(position + 0.5).astype(int), 0, count - 1)] = 1.0
        return weights.astype(np.float32)
    if interpolation is Interpolation.LINEAR:
        position = np.clip(position, 0, count - 1)
        base = np.minimum(np.floor(position).astype(int), max(count - 2, 0))
        fraction = position - base
        np.add.at(weights, (rows[:, 0], base), 1 - fraction)
        np.add.at(weights, (rows[:, 0], np.minimum(base + 1, count - 1)), fraction)
        return weights.astype(np.float32)
    if count == 1:
        return np.ones((len(position), 1), np.float32)
    base = np.floor(position).astype(int)
    t = (position - base)[:, None]
    cubic = np.hstack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]) / 6
    taps = base[:, None] + np.arange(-1, 3)
    period = 2 * (count - 1)
    taps = np.abs((taps + count - 1) % period - (count - 1))
    np.add.at(weights, (rows, taps), cubic)
    prefilter = ndimage.spline_filter1d(np.eye(count), order=3, axis=0, mode="mirror")
    return (weights @ prefilter).astype(np.float32)


def to_sitk(image: Image) -> "sitk.Image":
    """Copy an image into SimpleITK's own type."""
    import SimpleITK as sitk

    result = sitk.GetImageFromArray(image.voxels)
    result.SetSpacing(image.grid.spacing_xyz)
    result.SetOrigin(image.grid.origin_xyz)
    result.SetDirection(image.grid.direction)
    return result


def _resample_with_sitk(image: Image, grid: Grid, interpolation: Interpolation, fill: float) -> NDArray[np.float32]:
    import SimpleITK as sitk

    method = {
        Interpolation.BSPLINE: sitk.sitkBSpline,
        Interpolation.LINEAR: sitk.sitkLinear,
        Interpolation.NEAREST: sitk.sitkNearestNeighbor,
    }[interpolation]
    source = to_sitk(Image(image.voxels.astype(np.float32), _without_tiny_cosines(image.grid)))
    resampled = sitk.Resample(
        source,
        grid.size_xyz,
        sitk.Transform(),
        method,
        grid.origin_xyz,
        grid.spacing_xyz,
        _without_tiny_cosines(grid).direction,
        fill,
        sitk.sitkFloat32,
    )
    return sitk.GetArrayFromImage(resampled)


def _without_tiny_cosines(grid: Grid) -> Grid:
    """Drop what rounding left of zeros in a direction: ITK inverts a matrix with denormal numbers wrongly, silently."""
    return replace(grid, direction=tuple(0.0 if abs(cosine) < 1e-12 else cosine for cosine in grid.direction))


def _index(values: NDArray) -> Index:
    x, y, z = (int(v) for v in values)
    return x, y, z


def _box(lower: NDArray, upper: NDArray) -> str:
    return " x ".join(f"{a:.0f}..{b:.0f}" for a, b in zip(lower, upper, strict=True))
