"""Masks of one plane as polygons along the voxels' outer edges, and polygons as masks; pure functions.

Points are (column, row) in voxels: centers are whole numbers, and edges lie half way between.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Polygon = NDArray[np.float64]
"""(n, 2) corners; the last is joined to the first."""

_ON_CENTER = 0.01
"""A point as near to a center as this, voxels, lies on it: files round to a hundredth of a millimeter."""

_ALL_BUT, _SMALLER = 0.95, 0.75
"""Share of a hole drawn carelessly that lies inside, and its largest share of what is round it."""
_FINER = 4
"""Cells a voxel has in a row or a column where it is told whether a polygon lies in another."""

_Corner = tuple[int, int]


def outline(mask: NDArray[np.bool_]) -> list[Polygon]:
    """Draw round the islands (voxels that share an edge) of a mask (rows, columns), a polygon each.

    A cut without width joins a hole to the polygon round it. So a polygon covers its own island alone, whether a reader
    fills it by the even-odd rule or by winding, and whether it adds a plane's polygons up or takes one from another.
    """
    islands, _ = ndimage.label(mask)
    polygons = []
    for number, box in enumerate(ndimage.find_objects(islands), 1):
        outer, *holes = _loops(islands[box] == number)
        for hole in holes:
            outer = _joined(outer, hole)
        first = np.array([box[1].start, box[0].start])
        polygons.append(_turning_points(outer) + first - 0.5)
    return polygons


def _loops(island: NDArray[np.bool_]) -> list[list[_Corner]]:
    """Follow an island's edges, itself on the right hand: the loop round it, then those of its holes from the left.

    A loop begins at its upper corner on the left. Where two voxels touch by a corner alone, it stays with its own.
    """
    padded = np.pad(island, 1).astype(np.int8)
    down, right = np.diff(padded, axis=0)[:, 1:-1], np.diff(padded, axis=1)[1:-1]
    edges = [
        *(((x, y), (x + 1, y)) for y, x in np.argwhere(down > 0).tolist()),  # upper edges
        *(((x + 1, y), (x, y)) for y, x in np.argwhere(down < 0).tolist()),  # lower
        *(((x, y + 1), (x, y)) for y, x in np.argwhere(right > 0).tolist()),  # left
        *(((x, y), (x, y + 1)) for y, x in np.argwhere(right < 0).tolist()),  # right
    ]
    ways: dict[_Corner, list[_Corner]] = {}
    for begin, end in edges:
        ways.setdefault(begin, []).append(end)
    loops = []
    while ways:
        at = start = min(ways)
        before, loop = at, list[_Corner]()
        while not loop or at != start:
            loop.append(at)
            to_the_right = at[0] - (at[1] - before[1]), at[1] + (at[0] - before[0])
            following = to_the_right if to_the_right in ways[at] else ways[at][0]
            ways[at].remove(following)
            if not ways[at]:
                del ways[at]
            before, at = at, following
        loops.append(loop)
    return loops


def _joined(outer: list[_Corner], hole: list[_Corner]) -> list[_Corner]:
    """Join a hole to the loops on its left, by a cut from its first corner straight to the next corner there."""
    column, row = hole[0]
    left = [index for index, (x, y) in enumerate(outer) if y == row and x < column]
    nearest = max(left, key=lambda index: outer[index])
    return [*outer[: nearest + 1], *hole, hole[0], *outer[nearest:]]


def _turning_points(loop: list[_Corner]) -> Polygon:
    corners = np.array(loop)
    ahead = np.sign(np.roll(corners, -1, axis=0) - corners)
    return corners[(ahead != np.roll(ahead, 1, axis=0)).any(axis=1)].astype(float)


def fill(polygons: Iterable[Polygon], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Fill polygons by the even-odd rule of all of them together: a mask (rows, columns).

    A voxel belongs if its center lies inside, or on a polygon: of a contour through centers, the voxels that it runs
    through are part. So a polygon in another is a hole, and what an even number of polygons share is one, too.
    """
    mask = np.zeros(shape, bool)
    snapped = [np.where(np.abs(p - np.rint(p)) <= _ON_CENTER, np.rint(p), p) for p in polygons]
    if not snapped:
        return mask
    begin = np.concatenate(snapped)
    end = np.concatenate([np.roll(polygon, -1, axis=0) for polygon in snapped])
    (x0, y0), (x1, y1) = begin.T, end.T
    first, last = max(0, int(np.ceil(y0.min()))), min(shape[0] - 1, int(np.floor(y0.max())))
    for row in range(first, last + 1):
        crossing = (y0 <= row) != (y1 <= row)
        share = (row - y0[crossing]) / (y1[crossing] - y0[crossing])
        crossed = np.sort(x0[crossing] + share * (x1[crossing] - x0[crossing]))
        along = (y0 == row) & (y1 == row)
        corners = x0[y0 == row]
        lower = np.concatenate([crossed[::2], np.minimum(x0[along], x1[along]), corners])
        upper = np.concatenate([crossed[1::2], np.maximum(x0[along], x1[along]), corners])
        for low, high in zip(np.ceil(lower - _ON_CENTER), np.floor(upper + _ON_CENTER), strict=True):
            mask[row, max(0, int(low)) : max(0, int(high) + 1)] = True
    return mask


def combine(polygons: Iterable[Polygon], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Fill polygons as people mean them: a mask (rows, columns).

    A polygon in another is a hole of it, one in a hole an island, and so on. Else polygons add up, whether they overlap
    in part, touch or lie apart, and one that was drawn twice counts once.
    """
    mask = np.zeros(shape, bool)
    drawn: dict[frozenset[int], Polygon] = {}
    for polygon in polygons:
        if area := _area(polygon, shape):
            drawn[area] = polygon
        else:  # a point, or a line
            mask |= fill([polygon], shape)
    is_hole: dict[frozenset[int], bool] = {}
    for area in sorted(drawn, key=len, reverse=True):
        around = [each for each in is_hole if _lies_in(area, each)]
        is_hole[area] = bool(around) and not is_hole[around[-1]]  # the smallest round it
    holes = [area for area in drawn if is_hole[area]]
    for area in drawn.keys() - holes:
        inside = fill([drawn[area]], shape)
        for hole in holes:
            if _lies_in(hole, area):
                inside &= fill([drawn[area], drawn[hole]], shape)
        mask |= inside
    return mask


def _lies_in(area: frozenset[int], other: frozenset[int]) -> bool:
    """Tell whether an area lies in another, or all but in it and is much smaller, as of a hole drawn carelessly."""
    careless = len(area) <= _SMALLER * len(other) and len(area & other) >= _ALL_BUT * len(area)
    return area < other or careless


def _area(polygon: Polygon, shape: tuple[int, int]) -> frozenset[int]:
    """Give the cells of a finer grid in a polygon; contours through centers or edges of voxels run between them."""
    rows, columns = shape
    finer = fill([_FINER * polygon + (_FINER - 1) / 2], (_FINER * rows, _FINER * columns))
    return frozenset(np.flatnonzero(finer).tolist())
