"""Polygons round masks: exact on the way back, by any rule of filling, and no wider than the mask."""

import numpy as np
import pytest
from by_winding import turns
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import ndimage

from mmpl.dicom.contours import fill, outline

masks = arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9)))


@settings(max_examples=300, deadline=None)
@given(masks)
def test_any_mask_comes_back(mask: NDArray[np.bool_]) -> None:
    np.testing.assert_array_equal(fill(outline(mask), mask.shape), mask)


@settings(max_examples=300, deadline=None)
@given(masks)
def test_each_polygon_covers_its_own_island_by_winding_too(mask: NDArray[np.bool_]) -> None:
    """Every polygon turns once, the same way, round each voxel of its island, and round no other."""
    islands, count = ndimage.label(mask)
    polygons = outline(mask)
    assert len(polygons) == count
    centers = np.stack(np.indices(mask.shape)[::-1], -1)
    turned = [turns(polygon, centers) for polygon in polygons]
    np.testing.assert_array_equal(sum(turned, np.zeros(mask.shape, int)), mask)
    for number, once in enumerate(turned, 1):
        np.testing.assert_array_equal(once == 1, islands == number)


def test_holes_in_islands_in_holes() -> None:
    mask = np.ones((11, 11), bool)
    mask[1:10, 1:10] = False
    mask[2:9, 2:9] = True
    mask[3:8, 3:8] = False
    mask[5, 5] = True
    assert len(outline(mask)) == 3
    np.testing.assert_array_equal(fill(outline(mask), mask.shape), mask)


def test_straight_edges_have_no_points_between_their_ends() -> None:
    mask = np.zeros((6, 9), bool)
    mask[1:4, 2:8] = True
    (polygon,) = outline(mask)
    assert sorted(map(tuple, polygon.tolist())) == [(1.5, 0.5), (1.5, 3.5), (7.5, 0.5), (7.5, 3.5)]


def test_a_hole_that_touches_the_outside_by_a_corner_needs_no_cut() -> None:
    (polygon,) = outline(np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]], bool))
    assert len(polygon) == 10
    sides = [tuple(map(tuple, side)) for side in np.stack([polygon, np.roll(polygon, -1, axis=0)], 1).tolist()]
    assert not set(sides) & {(end, begin) for begin, end in sides}


SQUARE = np.array([(2, 1), (7, 1), (7, 6), (2, 6)], float)


@pytest.mark.parametrize("off", [0.0, 0.004, -0.004])
def test_a_contour_through_centers_has_the_voxels_it_runs_through(off: float) -> None:
    expected = np.zeros((9, 10), bool)
    expected[1:7, 2:8] = True
    np.testing.assert_array_equal(fill([SQUARE + off], (9, 10)), expected)
    np.testing.assert_array_equal(fill([SQUARE[::-1] + off], (9, 10)), expected)


def test_a_hole_through_centers() -> None:
    expected = np.zeros((9, 10), bool)
    expected[1:7, 2:8] = True
    expected[3:5, 4:6] = False
    hole = np.array([(3, 2), (6, 2), (6, 5), (3, 5)], float)
    np.testing.assert_array_equal(fill([SQUARE, hole], (9, 10)), expected)


DIAMOND = {(x, y) for x in range(9) for y in range(9) if abs(x - 3) + abs(y - 4) <= 2}


@pytest.mark.parametrize(
    ("points", "voxels"),
    [
        ([(3, 2)], {(3, 2)}),
        ([(3, 2), (6, 2)], {(3, 2), (4, 2), (5, 2), (6, 2)}),
        ([(3, 2), (5, 4)], {(3, 2), (4, 3), (5, 4)}),
        (
            [(3, 2), (5, 4), (3, 6), (1, 4)],
            {(x, y) for x in range(9) for y in range(9) if abs(x - 3) + abs(y - 4) <= 2},
        ),
        ([(2.4, 1.4), (2.6, 1.4), (2.6, 1.6), (2.4, 1.6)], set()),
    ],
)
def test_thin_contours_through_centers(points: list[tuple[float, float]], voxels: set[tuple[int, int]]) -> None:
    filled = fill([np.array(points, float)], (9, 9))
    assert {(x, y) for y, x in np.argwhere(filled).tolist()} == voxels


def test_a_smooth_contour_between_centers() -> None:
    angles = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    circle = np.column_stack([10.3 + 6.2 * np.cos(angles), 9.7 + 6.2 * np.sin(angles)])
    rows, columns = np.indices((20, 22))
    np.testing.assert_array_equal(fill([circle], (20, 22)), np.hypot(columns - 10.3, rows - 9.7) < 6.2)


def test_what_lies_beyond_the_image_is_cut_off() -> None:
    expected = np.zeros((4, 5), bool)
    expected[1:, 2:] = True
    np.testing.assert_array_equal(fill([SQUARE], (4, 5)), expected)
