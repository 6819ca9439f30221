"""One rule for masks beside images: each voxel in its place, each label known, in training and in scoring alike."""

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from cohorts import CT_GRID, ROW, mask_on, write_images, write_table

from mmpl.case import Grid, Image, InvalidInputError
from mmpl.evaluate import evaluate
from mmpl.geometry import crop_grid, lay_on, lay_part_on, to_sitk
from mmpl.io.cohort import read_cohort
from mmpl.io.images import from_sitk, grid_of, write_image
from mmpl.io.masks import as_labels, read_mask

OBLIQUE = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0)
ORDERS = list(itertools.permutations(range(3)))
FLIPS = list(itertools.product([False, True], repeat=3))


def rearrange(image: Image, order: tuple[int, ...], flip: tuple[bool, ...]) -> Image:
    """Store the same voxels in the same places, but in another order of axes and other ways along them."""
    return from_sitk(sitk.Flip(sitk.PermuteAxes(to_sitk(image), order), flip, False))


@pytest.mark.parametrize("direction", [CT_GRID.direction, OBLIQUE])
def test_any_order_of_the_axes_comes_back_exactly(direction: tuple[float, ...]) -> None:
    grid = Grid(CT_GRID.size_xyz, (0.9, 1.1, 3.27), CT_GRID.origin_xyz, direction)
    image = Image(np.arange(np.prod(grid.size_xyz)).reshape(grid.shape_zyx).astype(np.int32), grid)
    for order, flip in itertools.product(ORDERS, FLIPS):
        other = rearrange(image, order, flip)
        found = lay_on(other, grid)
        assert found.grid == grid
        np.testing.assert_array_equal(found.voxels, image.voxels)
        assert lay_on(image, other.grid).grid == other.grid
        np.testing.assert_array_equal(lay_on(image, other.grid).voxels, other.voxels)


def test_a_cube_whose_axes_cannot_be_told_by_size(tmp_path: Path) -> None:
    grid = Grid((4, 4, 4), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    image = Image(np.arange(64).reshape(4, 4, 4), grid)
    other = rearrange(image, (2, 0, 1), (True, False, False))
    assert other.grid.size_xyz == grid.size_xyz
    np.testing.assert_array_equal(lay_on(other, grid).voxels, image.voxels)


@pytest.mark.parametrize(
    "grid",
    [
        Grid((6, 5, 4), (1.0, 1.0, 1.0), (0.02, 0.0, 0.0)),
        Grid((6, 5, 4), (1.01, 1.0, 1.0), (0.0, 0.0, 0.0)),
        Grid((6, 5, 4), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), OBLIQUE),
        Grid((5, 6, 4), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)),
        Grid((6, 5, 5), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)),
        Grid((6, 5, 4), (-1.0, 1.0, 1.0), (0.0, 0.0, 0.0)),
    ],
)
def test_anything_else_is_refused(grid: Grid) -> None:
    image = Image(np.zeros((4, 5, 6), np.uint8), Grid((6, 5, 4), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)))
    with pytest.raises(InvalidInputError, match="the mask"):
        lay_on(Image(np.zeros(grid.shape_zyx, np.uint8), grid), image.grid)


@pytest.mark.parametrize("direction", [CT_GRID.direction, OBLIQUE])
def test_a_part_is_laid_in_its_place(direction: tuple[float, ...]) -> None:
    grid = Grid(CT_GRID.size_xyz, (0.9, 1.1, 3.27), CT_GRID.origin_xyz, direction)
    whole = np.arange(np.prod(grid.size_xyz)).reshape(grid.shape_zyx).astype(np.int32)
    part = Image(whole[1:3, 2:4, 1:5], crop_grid(grid, (1, 2, 1), (4, 2, 2)))
    for order, flip in itertools.product(ORDERS, FLIPS):
        place, voxels = lay_part_on(rearrange(part, order, flip), grid)
        np.testing.assert_array_equal(voxels, whole[place])


@pytest.mark.parametrize("start", [(-1, 0, 0), (0, 0, -1), (3, 0, 0), (0, 4, 0)])
def test_a_part_that_reaches_outside_is_refused(start: tuple[int, int, int]) -> None:
    part = Image(np.zeros((2, 2, 4), np.uint8), crop_grid(CT_GRID, start, (4, 2, 2)))
    with pytest.raises(InvalidInputError, match="the mask reaches outside the image"):
        lay_part_on(part, CT_GRID)


@pytest.mark.parametrize("factor", [1.0, 0.9999, 1.0002])
def test_floats_that_are_whole_labels_are_labels(factor: float) -> None:
    labels = np.array([[[0, 1, 2, 1]]], np.uint8)
    found = as_labels((labels * factor).astype(np.float32))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, labels)


@pytest.mark.parametrize("odd", [3, 127, 254, -1, 0.5, 0.99, 1.0e9])
def test_any_other_label_is_named(odd: float) -> None:
    with pytest.raises(InvalidInputError, match=rf"the mask has labels \[{odd:.10g}"):
        as_labels(np.array([[[0, 1, 2, odd]]]))


@pytest.fixture
def scored(tmp_path: Path) -> tuple[Path, Path]:
    """Perfect predictions of one patient, and the cohort."""
    cohort, out = write_table(tmp_path / "cohort", ROW), tmp_path / "out"
    write_images(cohort, "CHUM-001", mask=mask_on(CT_GRID))
    out.mkdir()
    shutil.copy(cohort / "CHUM-001/CHUM-001.nii.gz", out)
    (out / "predictions.csv").write_text("PatientID,risk_score,hpv_probability,hpv_status\nCHUM-001,0,0.5,1\n")
    return out, cohort


def both(scored: tuple[Path, Path]) -> tuple[Path, Path]:
    out, cohort = scored
    return out / "CHUM-001.nii.gz", cohort / "CHUM-001/CHUM-001.nii.gz"


@pytest.mark.parametrize("which", [0, 1])
def test_a_mask_in_ras_is_read_and_scored_in_its_place(scored: tuple[Path, Path], which: int) -> None:
    """The reference's or the prediction's axes run the other way; in space nothing moved."""
    path = both(scored)[which]
    turned = sitk.DICOMOrient(sitk.ReadImage(str(path)), "RAS")
    assert grid_of(turned).direction != CT_GRID.direction
    sitk.WriteImage(turned, str(path), True)
    out, cohort = scored
    assert evaluate(out, cohort).scores.gtvp_dice_mean == 1.0
    reference = read_cohort(cohort).read_case("CHUM-001").reference
    assert reference is not None
    np.testing.assert_array_equal(reference.voxels, mask_on(CT_GRID).voxels)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("factor", [127, 0.5])
def test_unknown_labels_are_scored_by_nobody(scored: tuple[Path, Path], which: int, factor: float) -> None:
    path = both(scored)[which]
    write_image(path, Image((mask_on(CT_GRID).voxels * factor).astype(np.float32), CT_GRID))
    with pytest.raises(InvalidInputError, match=rf"^{path}: the mask has labels"):
        evaluate(*scored)


@pytest.mark.parametrize("which", [0, 1])
def test_labels_that_a_program_scaled_are_scored(scored: tuple[Path, Path], which: int) -> None:
    path = both(scored)[which]
    write_image(path, Image((mask_on(CT_GRID).voxels * 0.9999).astype(np.float32), CT_GRID))
    assert evaluate(*scored).scores.gtvp_dice_mean == 1.0


def test_a_mask_elsewhere_is_named(scored: tuple[Path, Path]) -> None:
    path, _ = both(scored)
    x, y, z = CT_GRID.origin_xyz
    with pytest.raises(InvalidInputError, match=rf"^{path}: the mask does not lie where the image lies"):
        read_mask(path, Grid(CT_GRID.size_xyz, CT_GRID.spacing_xyz, (x, y, z + 1)))
