"""Polygons round masks: exact on the way back, by any rule of filling, and no wider than the mask."""

from random import Random

import numpy as np
import pytest
from by_winding import turns
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import ndimage

from mmpl.dicom.contours import Polygon, _loops, combine, fill, outline

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


def box(x0: float, y0: float, x1: float, y1: float) -> Polygon:
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], float)


def rings(count: int) -> list[Polygon]:
    """Draw squares round one another, from the outermost, a voxel between them."""
    return [box(at + 0.5, at + 0.5, 24.5 - at, 24.5 - at) for at in range(0, 2 * count, 2)]


PLANE = (26, 26)


@settings(max_examples=300, deadline=None)
@given(masks, st.randoms(use_true_random=False))
def test_islands_and_holes_drawn_as_contours_of_their_own(mask: NDArray[np.bool_], chance: Random) -> None:
    """In any order, from any corner, either way round, and some of them twice."""
    islands, count = ndimage.label(mask)
    loops = [np.array(loop) - 0.5 for number in range(1, count + 1) for loop in _loops(islands == number)]
    drawn = [*loops, *chance.sample(loops, len(loops) // 2)]
    turned = [np.roll(loop, chance.randrange(len(loop)), axis=0)[:: chance.choice((1, -1))] for loop in drawn]
    chance.shuffle(turned)
    np.testing.assert_array_equal(combine(turned, mask.shape), mask)


@settings(max_examples=100, deadline=None)
@given(masks)
def test_our_own_polygons_come_back_from_other_people_s_rule(mask: NDArray[np.bool_]) -> None:
    np.testing.assert_array_equal(combine(outline(mask), mask.shape), mask)


@pytest.mark.parametrize("count", range(1, 6))
@pytest.mark.parametrize("off", [0.0, 0.5])
def test_contours_in_one_another_are_holes_and_islands_by_turns(count: int, off: float) -> None:
    drawn = [ring + off for ring in rings(count)]
    np.testing.assert_array_equal(combine(drawn[::-1], PLANE), fill(drawn, PLANE))
    np.testing.assert_array_equal(combine([*drawn, *drawn[::-1]], PLANE), fill(drawn, PLANE))


corners = st.integers(0, 12)
boxes = st.builds(lambda x, y, w, h: box(x, y, x + w + 1, y + h + 1), corners, corners, corners, corners)


@settings(max_examples=200, deadline=None)
@given(st.lists(boxes, min_size=1, max_size=6), st.sampled_from([0.0, 0.25, 0.5]))
def test_contours_of_which_none_lies_in_another_add_up(drawn: list[Polygon], off: float) -> None:
    def lies_in(one: Polygon, other: Polygon) -> bool:
        return bool((one.min(0) >= other.min(0)).all() and (one.max(0) <= other.max(0)).all())

    outer = [each for each in drawn if not any(lies_in(each, other) for other in drawn if other is not each)]
    moved = [each + off for each in outer]
    expected = np.any([fill([each], PLANE) for each in moved] or [np.zeros(PLANE)], axis=0)
    np.testing.assert_array_equal(combine(moved, PLANE), expected)


def test_a_hole_in_two_that_overlap_is_a_hole_of_both_and_one_in_one_alone_of_that_one() -> None:
    left, right = box(0.5, 0.5, 12.5, 12.5), box(6.5, 0.5, 20.5, 12.5)
    both, across, in_left = box(8.5, 3.5, 10.5, 5.5), box(10.5, 6.5, 15.5, 8.5), box(2.5, 3.5, 4.5, 5.5)
    found = combine([both, across, left, in_left, right], PLANE)
    expected = fill([left], PLANE) | fill([right], PLANE)
    expected[4:6, 9:11] = expected[4:6, 3:5] = False
    expected[7:9, 13:16] = False  # what the left one covers stays
    np.testing.assert_array_equal(found, expected)


def test_a_hole_that_was_drawn_again_a_little_off_stays_one() -> None:
    outer, hole = box(0.5, 0.5, 20.5, 20.5), box(5.5, 5.5, 10.5, 10.5)
    np.testing.assert_array_equal(
        combine([outer, hole, hole + 1], PLANE), fill([outer], PLANE) & ~(fill([hole], PLANE) | fill([hole + 1], PLANE))
    )


def test_a_hole_that_reaches_a_little_beyond_stays_one() -> None:
    outer, hole = box(0.5, 0.5, 20.5, 20.5), box(5.5, 5.5, 10.5, 20.7)
    np.testing.assert_array_equal(combine([outer, hole], PLANE), fill([outer], PLANE) & ~fill([hole], PLANE))


def test_a_contour_drawn_again_a_little_off_is_no_hole() -> None:
    drawn = box(0.5, 0.5, 20.5, 20.5)
    expected = fill([drawn], PLANE) | fill([drawn + 0.3], PLANE)
    np.testing.assert_array_equal(combine([drawn, drawn + 0.3], PLANE), expected)


@pytest.mark.parametrize("beyond", [0.3, 0.45])
def test_what_reaches_beyond_by_less_than_a_voxel_is_no_hole(beyond: float) -> None:
    outer, added = box(0.5, 0.5, 10.3, 20.5), box(8.8, 5.5, 10.3 + beyond, 9.5)
    np.testing.assert_array_equal(combine([outer, added], PLANE), fill([outer], PLANE) | fill([added], PLANE))


def test_points_and_lines_of_which_one_is_in_another_contour_take_nothing_away() -> None:
    point, line = np.array([(3.0, 3.0)]), np.array([(20.0, 3.0), (20.0, 9.0)])
    expected = fill([box(0.5, 0.5, 10.5, 10.5)], PLANE)
    expected[3:10, 20] = True
    np.testing.assert_array_equal(combine([box(0.5, 0.5, 10.5, 10.5), point, line], PLANE), expected)
    assert combine([point, line], PLANE).sum() == 8
    assert not combine([], PLANE).any()
