"""Grids, and the separable interpolation against SimpleITK's."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from real import REAL_DATA
from scipy.spatial.transform import Rotation

from mmpl.case import Grid, Image, InvalidInputError
from mmpl.geometry import (
    Interpolation,
    common_grid,
    covering_box,
    crop_grid,
    extent_mm,
    index_to_mm,
    is_axis_aligned,
    mm_to_index,
    place_box,
    resample,
)
from mmpl.geometry import _resample_with_sitk as resample_with_sitk

STUDIES = REAL_DATA / "sts"

GRID = Grid((23, 19, 17), (1.1, 0.9, 2.5), (-12.0, 40.0, -300.0))
SIGNED_PERMUTATIONS = [
    tuple(float(sign[row] * (column == order[row])) for row in range(3) for column in range(3))
    for order in itertools.permutations(range(3))
    for sign in itertools.product((1, -1), repeat=3)
]
assert len(SIGNED_PERMUTATIONS) == 48


def smooth_image(grid: Grid, seed: int = 0) -> Image:
    rng = np.random.default_rng(seed)
    return Image(rng.normal(0, 100, grid.shape_zyx).astype(np.float32), grid)


@pytest.mark.parametrize("direction", SIGNED_PERMUTATIONS[::3])
@pytest.mark.parametrize("interpolation", list(Interpolation))
def test_every_axis_order_agrees_with_simpleitk(direction: tuple[float, ...], interpolation: Interpolation) -> None:
    image = smooth_image(replace(GRID, direction=direction))
    lower, upper = extent_mm(image.grid)
    turned = direction[3:] + direction[:3]
    size, spacing = (14, 13, 60), (1.3, 1.7, 0.8)  # its long axis reaches beyond the source
    middle = np.reshape(turned, (3, 3)) @ ((np.array(size) - 1) * spacing / 2)
    target = Grid(size, spacing, tuple((lower + upper) / 2 - middle + (0.37, -1.21, 0.83)), turned)
    ours, theirs = resample(image, target, interpolation, -7.0), resample_with_sitk(image, target, interpolation, -7.0)
    assert np.abs(ours - theirs).max() < 2e-3
    assert 1000 < (ours != -7).sum() < ours.size


def test_cropping_the_source_costs_no_accuracy() -> None:
    image = smooth_image(Grid((90, 90, 60), (1.0, 1.0, 3.0), (0.0, 0.0, 0.0)))
    target = Grid((20, 20, 20), (1.0, 1.0, 1.0), (40.3, 31.7, 80.2))
    difference = resample(image, target, Interpolation.BSPLINE, 0.0) - resample_with_sitk(
        image, target, Interpolation.BSPLINE, 0.0
    )
    assert np.abs(difference).max() < 1e-3


def test_oblique_grids_go_to_simpleitk() -> None:
    turn = np.deg2rad(10)
    oblique = (np.cos(turn), -np.sin(turn), 0, np.sin(turn), np.cos(turn), 0, 0, 0, 1)
    image = smooth_image(replace(GRID, direction=oblique))
    assert not is_axis_aligned(image.grid)
    same = resample(image, image.grid, Interpolation.BSPLINE, 0.0)
    assert np.abs(same - image.voxels).max() < 1e-2


def test_nearly_aligned_directions_count_as_aligned() -> None:
    assert is_axis_aligned(replace(GRID, direction=(1, 1e-6, 0, -1e-6, 1, 0, 0, 0, 1)))
    assert not is_axis_aligned(replace(GRID, direction=(1, 1e-2, 0, -1e-2, 1, 0, 0, 0, 1)))


def test_mm_and_index_are_inverse() -> None:
    grid = replace(GRID, direction=SIGNED_PERMUTATIONS[29])
    index = np.random.default_rng(0).uniform(-5, 30, (10, 3))
    np.testing.assert_allclose(mm_to_index(grid, index_to_mm(grid, index)), index, atol=1e-9)


def test_common_grid_spans_the_intersection_edge_to_edge() -> None:
    ct = Grid((100, 100, 50), (1.0, 1.0, 3.0), (0.5, 0.5, 1.5))  # 0..100, 0..100, 0..150
    pet = Grid((30, 30, 40), (4.0, 4.0, 4.0), (12.0, -8.0, 42.0))  # 10..130, -10..110, 40..200
    grid = common_grid(ct, pet, 1.0)
    assert grid.size_xyz == (90, 100, 110)
    np.testing.assert_allclose(grid.origin_xyz, (10.5, 0.5, 40.5))
    assert common_grid(ct, pet, 3.0).size_xyz == (30, 33, 36)


def test_no_overlap_is_an_error_that_says_where_both_lie() -> None:
    far = replace(GRID, origin_xyz=(1000.0, 40.0, -300.0))
    with pytest.raises(InvalidInputError, match=r"do not overlap: the CT spans -13\.\.13 .* the PET 999\.\.1025"):
        common_grid(GRID, far, 1.0)


@pytest.mark.parametrize("direction", SIGNED_PERMUTATIONS[::5])
def test_covering_box_holds_exactly_the_centers_inside(direction: tuple[float, ...]) -> None:
    grid = replace(GRID, direction=direction)
    lower, upper = extent_mm(grid)
    middle = (lower + upper) / 2
    other = Grid((6, 5, 4), (1.0, 1.0, 2.0), tuple(middle - 2.17))
    start, size = covering_box(grid, other)
    index = np.stack(np.meshgrid(*map(np.arange, grid.size_xyz), indexing="ij"), axis=-1)
    low, high = extent_mm(other)
    position = index_to_mm(grid, index)
    inside = np.argwhere(((position >= low - 1e-9) & (position <= high + 1e-9)).all(axis=-1))
    np.testing.assert_array_equal(inside.min(axis=0), start)
    np.testing.assert_array_equal(inside.max(axis=0) + 1, np.add(start, size))


def test_crop_grid_may_reach_beyond() -> None:
    grid = crop_grid(replace(GRID, direction=(0, 1, 0, 1, 0, 0, 0, 0, 1)), (-2, 3, 0), (4, 5, 6))
    assert grid.size_xyz == (4, 5, 6)
    np.testing.assert_allclose(grid.origin_xyz, (-12 + 3 * 0.9, 40 - 2 * 1.1, -300))


def test_a_box_is_centered_then_shifted_then_padded() -> None:
    assert place_box(np.array([50.0, 2.0, 97.0]), (100, 100, 100), (10, 10, 10)) == (46, 0, 90)
    assert place_box(np.array([50.0, 4.5, 3.0]), (100, 10, 6), (11, 10, 11)) == (45, 0, -2)


@pytest.mark.skipif(not STUDIES.is_dir(), reason="no real studies at hand (CONTRIBUTING.md)")
@pytest.mark.parametrize("name", ["CT_image", "PET_image"])
def test_a_real_study_agrees_with_simpleitk(name: str) -> None:
    from mmpl.io.images import read_image

    image = read_image(STUDIES / "STS_004" / f"{name}.nii.gz")
    other = read_image(STUDIES / "STS_004" / ("PET_image.nii.gz" if name == "CT_image" else "CT_image.nii.gz"))
    grid = common_grid(image.grid, other.grid, 1.0)
    ours = resample(image, grid, Interpolation.BSPLINE, 0.0)
    theirs = resample_with_sitk(image, grid, Interpolation.BSPLINE, 0.0)
    assert np.abs(ours - theirs).max() < (0.01 if name == "CT_image" else 1e-4)


def test_a_denormal_cosine_is_a_zero() -> None:
    """ITK's inverse of a direction with a denormal number is wrong: the image came back empty."""
    turn = np.deg2rad(1.0)
    plain = (1.0, 0.0, 0.0, 0.0, np.cos(turn), -np.sin(turn), 0.0, np.sin(turn), np.cos(turn))
    denormal = (1.0, -2.2e-313, 0.0, 2.2e-313, *plain[4:])
    target = Grid((10, 10, 10), (1.0, 1.0, 2.0), (-8.0, 44.0, -290.0))
    ours, expected = (
        resample(smooth_image(replace(GRID, direction=direction)), target, Interpolation.BSPLINE, -7.0)
        for direction in (denormal, plain)
    )
    assert (expected != -7.0).all()
    np.testing.assert_array_equal(ours, expected)


def test_a_small_turn_is_a_turn() -> None:
    """Of 0.3 degrees, which is a millimeter and more over a scan."""
    grid = Grid((60, 50, 40), (2.0, 2.0, 3.0), (-60.0, -50.0, -60.0))
    x, y, z = np.moveaxis(index_to_mm(grid, np.indices(grid.shape_zyx)[::-1].transpose(1, 2, 3, 0)), -1, 0)
    turn = Rotation.from_euler("z", 0.3, degrees=True).as_matrix()
    turned = Grid((20, 20, 20), (2.0, 2.0, 3.0), (-20.0, -20.0, -20.0), tuple(turn.ravel().tolist()))
    found = resample(Image((x + 2 * y + 3 * z).astype(np.float32), grid), turned, Interpolation.LINEAR, 0.0)
    assert found[-1, -1, -1] == pytest.approx(index_to_mm(turned, np.array([19, 19, 19])) @ [1, 2, 3], abs=0.02)
