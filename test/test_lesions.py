"""Lesions one by one, against phantoms worked by hand, pyradiomics' diameter and the IBSI's peak."""

import json
import math

import numpy as np
import pytest
from real import REAL_DATA

from mmpl.case import IDENTITY_DIRECTION, Case, ClinicalRecord, GivenMask, Grid, Image
from mmpl.geometry import index_to_mm, to_sitk
from mmpl.io.images import read_image
from mmpl.lesions import Lesion, Side, components, find_lesions, longest_diameter_mm, measure_uptake, side_of
from mmpl.names import Label
from mmpl.segmentation import GIVEN, LOW_AGREEMENT, MemberMasks, Segmentation

IBSI = REAL_DATA / "ibsi_digital_phantom"
OBLIQUE = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0)
TURNED = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)


def make_grid(spacing: float = 2.0, count: int = 100, direction: tuple[float, ...] = IDENTITY_DIRECTION) -> Grid:
    """A cube of voxels about the origin."""
    corner = index_to_mm(Grid((count,) * 3, (spacing,) * 3, (0.0,) * 3, direction), np.full(3, (count - 1) / 2))
    return Grid((count,) * 3, (spacing,) * 3, tuple((-corner).tolist()), direction)


def ball(grid: Grid, center_mm: tuple[float, float, float], radius_mm: float) -> np.ndarray:
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape_zyx), indexing="ij"), axis=-1)[..., ::-1]
    return np.linalg.norm(index_to_mm(grid, index) - center_mm, axis=-1) < radius_mm


def make_case(grid: Grid, pet: Image | None = None, in_suv: bool = True, middle_mm: float = 12.0) -> Case:
    """A round body whose midline is not that of the image."""
    ct = np.where(ball(grid, (middle_mm, 0.0, 0.0), 80.0), 40, -1000).astype(np.int16)
    pet = pet or Image(np.ones(grid.shape_zyx, np.float32), grid)
    return Case("phantom", Image(ct, grid), pet, ClinicalRecord(), pet_is_suv=in_suv)


def find(case: Case, mask: np.ndarray, members: MemberMasks | None = None) -> tuple[Lesion, ...]:
    image = Image(mask.astype(np.uint8), case.ct.grid)
    return find_lesions(case, image, members)


@pytest.mark.parametrize("direction", [IDENTITY_DIRECTION, TURNED, OBLIQUE], ids=["identity", "turned", "oblique"])
def test_each_lesion_is_measured_where_it_lies(direction: tuple[float, ...]) -> None:
    grid = make_grid(direction=direction)
    mask = np.zeros(grid.shape_zyx, np.uint8)
    mask[ball(grid, (12.0, -40.0, 0.0), 10.0)] = Label.GTVP
    mask[ball(grid, (50.0, 0.0, -20.0), 12.0)] = Label.GTVN
    mask[ball(grid, (-30.0, 0.0, 30.0), 6.0)] = Label.GTVN
    primary, large, small = find(make_case(grid), mask)
    assert [each.label for each in (primary, large, small)] == [Label.GTVP, Label.GTVN, Label.GTVN]
    assert [each.side for each in (primary, large, small)] == [Side.MIDLINE, Side.LEFT, Side.RIGHT]
    for lesion, center, radius in (
        (primary, (12, -40, 0), 10),
        (large, (50, 0, -20), 12),
        (small, (-30, 0, 30), 6),
    ):
        assert lesion.center_mm == pytest.approx(center, abs=0.5)
        assert lesion.volume_ml == pytest.approx(ball(grid, center, radius).sum() * 0.008)
        assert lesion.diameter_mm == pytest.approx(2 * radius, abs=2.0)
        assert lesion.found_by is None  # one model has nobody to agree with
    assert primary.from_primary_mm is None
    assert large.from_primary_mm == pytest.approx(math.dist((12, -40, 0), (50, 0, -20)) - 22, abs=2.5)


def test_a_corner_joins_and_classes_do_not() -> None:
    grid = make_grid(count=20)
    mask = np.zeros(grid.shape_zyx, np.uint8)
    mask[2:4, 2:4, 2:4] = mask[4:6, 4:6, 4:6] = Label.GTVN
    mask[6:8, 6:8, 6:8] = Label.GTVP
    mask[12:14, 2:4, 2:4] = Label.GTVN
    labels, lesions = zip(*components(Image(mask, grid)), strict=True)
    assert labels == (Label.GTVP, Label.GTVN, Label.GTVN)
    assert [np.count_nonzero(each.voxels) for each in lesions] == [8, 16, 8]
    assert lesions[2].grid.origin_xyz == pytest.approx(index_to_mm(grid, np.array([2, 2, 12])))
    assert components(Image(np.zeros_like(mask), grid)) == []


def test_the_diameter_of_one_voxel_and_of_a_row() -> None:
    grid = Grid((5, 1, 1), (2.0, 3.0, 4.0), (0.0, 0.0, 0.0))
    row = np.ones((1, 1, 5), bool)
    assert longest_diameter_mm(Image(row, grid)) == pytest.approx(10.0)  # from face to face
    assert longest_diameter_mm(Image(row[..., :1], Grid((1, 1, 1), (2.0, 3.0, 4.0), (0.0,) * 3))) == 4.0


def test_the_diameter_is_that_of_a_mesh() -> None:
    from radiomics.shape import RadiomicsShape

    grid = Grid((40, 40, 30), (1.5, 2.0, 3.0), (-30.0, -40.0, -45.0))
    inside = ball(grid, (0.0, 0.0, 0.0), 14.0) | ball(grid, (14.0, 10.0, 9.0), 8.0)
    image = to_sitk(Image(inside.astype(np.uint8), grid))
    wanted = RadiomicsShape(image, image).getMaximum3DDiameterFeatureValue()
    ((_, lesion),) = components(Image(inside.astype(np.uint8), grid))
    assert longest_diameter_mm(lesion) == pytest.approx(float(wanted), rel=1e-6)


def test_uptake_worked_by_hand() -> None:
    """Voxels of 4 mm: a sphere of 1 ml about one holds it, its 6 faces' and its 12 edges' neighbors, 19 in all.

    The lesion is a row of three, SUV 2, 8, 5; beside it SUV is 1. Of the sphere about the middle one 16 voxels have 1,
    about the others, which hold two of the row, 17.
    """
    grid = make_grid(4.0, 9)
    suv = np.ones(grid.shape_zyx, np.float32)
    suv[4, 4, 3:6] = 2, 8, 5
    mask = np.zeros(grid.shape_zyx, np.uint8)
    mask[4, 4, 3:6] = Label.GTVP
    (lesion,) = find(make_case(grid, Image(suv, grid)), mask)
    assert lesion.uptake is not None
    assert lesion.volume_ml == pytest.approx(3 * 0.064)
    assert (lesion.uptake.suv_max, lesion.uptake.suv_mean) == (8.0, 5.0)
    assert lesion.uptake.suv_peak == pytest.approx((2 + 8 + 5 + 16) / 19)
    assert lesion.uptake.tlg == pytest.approx(5 * 3 * 0.064)


def test_a_peak_at_the_images_edge_is_the_mean_of_what_is_there() -> None:
    grid = make_grid(4.0, 9)
    suv = np.zeros(grid.shape_zyx, np.float32)
    suv[0, 0, 0] = 7.0
    lesion = Image(np.ones((1, 1, 1), bool), Grid((1, 1, 1), (4.0,) * 3, grid.origin_xyz))
    uptake = measure_uptake(Image(suv, grid), lesion, 0.064)
    assert uptake is not None
    assert uptake.suv_peak == pytest.approx(7.0 / 7)  # itself, three faces', three edges' neighbors


def test_a_lesion_smaller_than_a_voxel_of_the_pet_has_that_voxels_uptake() -> None:
    """And one where the PET does not reach has none."""
    fine, coarse = make_grid(1.0, 60), make_grid(5.0, 8)
    suv = np.arange(8**3, dtype=np.float32).reshape(8, 8, 8)
    mask = np.zeros(fine.shape_zyx, np.uint8)
    mask[30, 30, 33] = Label.GTVN  # 3.5 mm from the origin: in the PET's voxel from 0 to 5, whose center is at 2.5
    mask[30, 30, 59] = Label.GTVP
    primary, node = find(make_case(fine, Image(suv, coarse)), mask)
    assert node.uptake is not None
    assert node.uptake.suv_max == node.uptake.suv_mean == suv[4, 4, 4]
    assert primary.uptake is None


def test_without_suv_there_is_no_uptake() -> None:
    grid = make_grid()
    (lesion,) = find(make_case(grid, in_suv=False), ball(grid, (0, 0, 0), 9.0))
    assert lesion.uptake is None


def test_models_find_what_half_of_which_they_have_in_its_class() -> None:
    """Five models: far more than it, half of it, less than half, another place, and all of it as the other class."""
    grid = make_grid(4.0, 40)
    mask = np.zeros(grid.shape_zyx, np.uint8)
    mask[20, 20, 20:30] = Label.GTVP
    masks = np.zeros((5, *grid.shape_zyx), np.uint8)
    masks[0, 20, 20, 15:35] = masks[1, 20, 20, 20:25] = masks[2, 20, 20, 20:24] = masks[3, 5, 5, 20:30] = Label.GTVP
    masks[4, 20, 20, 20:30] = Label.GTVN
    members = MemberMasks.cut(list(masks), mask > 0, grid)
    assert members is not None
    assert members.voxels.shape == (5, 1, 1, 10)
    (lesion,) = find(make_case(grid), mask, members)
    assert lesion.found_by == 0.4
    assert MemberMasks.cut(list(masks), mask > 7, grid) is None


def test_the_side_is_not_told_where_the_slice_does_not_show_it() -> None:
    case = make_case(make_grid(3.0, 60), middle_mm=0.0)
    assert side_of(case.ct, np.array([40.0, 0.0, 0.0])) is Side.LEFT
    assert side_of(case.ct, np.array([40.0, 0.0, 84.0])) is None  # above the body
    cut = Image(case.ct.voxels[:, :, :45], Grid((45, 60, 60), (3.0,) * 3, case.ct.grid.origin_xyz))
    assert side_of(cut, np.array([40.0, 0.0, 0.0])) is None  # its left is not in the field of view


@pytest.mark.parametrize("padded", [False, True])
def test_a_body_that_is_cut_has_no_midline_to_trust(padded: bool) -> None:
    """Cut at one side, or at both and not about the middle; padding does not hide it."""
    case = make_case(make_grid(3.0, 60), middle_mm=0.0)  # the body ends 80 mm to either side

    def show(start: int, stop: int) -> Image:
        if padded:
            kept = np.full_like(case.ct.voxels, -1000)
            kept[:, :, start:stop] = case.ct.voxels[:, :, start:stop]
            return Image(kept, case.ct.grid)
        grid = case.ct.grid
        origin = (grid.origin_xyz[0] + 3.0 * start, *grid.origin_xyz[1:])
        return Image(case.ct.voxels[:, :, start:stop], Grid((stop - start, 60, 60), (3.0,) * 3, origin))

    assert side_of(show(0, 42), np.array([-20.0, 0.0, 0.0])) is None  # to x = 37: half of it lies to the right of -20
    wide = make_case(make_grid(3.0, 50), middle_mm=10.0).ct  # from x = -70, which its field shows, to 90, of which 75
    assert side_of(wide, np.array([20.0, 0.0, 0.0])) is None
    both = show(8, 42)  # from x = -65 to 37
    assert side_of(both, np.array([-8.0, 0.0, 0.0])) is None  # it is to the left of their middle
    assert side_of(both, np.array([-60.0, 0.0, 0.0])) is Side.RIGHT
    assert side_of(both, np.array([35.0, 0.0, 0.0])) is Side.LEFT


def test_two_legs_have_no_midline_of_their_own() -> None:
    grid = make_grid(3.0, 80)
    right, left = ball(grid, (-60.0, 0.0, 0.0), 45.0), ball(grid, (60.0, 0.0, 0.0), 50.0)
    ct = Image(np.where(right | left, 40, -1000).astype(np.int16), grid)
    assert side_of(ct, np.array([-70.0, 0.0, 0.0])) is None  # of the larger alone it would be far to the right
    alone = Image(np.where(left, 40, -1000).astype(np.int16), grid)
    assert side_of(alone, np.array([80.0, 0.0, 0.0])) is Side.LEFT


def test_models_have_not_found_what_a_person_drew() -> None:
    grid = make_grid(2.0, 20)
    mask = np.zeros(grid.shape_zyx, np.uint8)
    mask[4:8, 4:8, 4:8] = Label.GTVP
    members = MemberMasks.cut([mask, mask], mask > 0, grid)
    ours = Segmentation(Image(mask, grid), 1.0, 2, (LOW_AGREEMENT,), member_masks=members)
    drawn = ours.with_mask(GivenMask(Image(np.roll(mask, 8), grid), "mine.mha"))
    (lesion,) = find_lesions(make_case(grid), drawn.mask, drawn.member_masks)
    assert (ours.agreed, drawn.agreed, lesion.found_by) == (True, False, None)
    assert drawn.flags == (GIVEN,)


@pytest.mark.skipif(not IBSI.is_dir(), reason="MMPL_TEST_DATA has no ibsi_digital_phantom")
def test_the_peak_is_that_of_the_ibsi() -> None:
    references = json.loads((IBSI / "reference_values.json").read_text())
    (wanted,) = (each for each in references if each["feature"] == "Global intensity peak")
    image, mask = read_image(IBSI / "image.nii.gz"), read_image(IBSI / "mask.nii.gz")
    uptake = measure_uptake(image, Image(mask.voxels > 0, mask.grid), 1.0)
    assert uptake is not None
    assert uptake.suv_peak == pytest.approx(wanted["value"], abs=wanted["tolerance"] or 0.05)


@pytest.mark.parametrize("mm", [4.9, 5.1])
def test_the_midline_reaches_5_mm_to_either_side(mm: float) -> None:
    case = make_case(make_grid(3.0, 60), middle_mm=0.0)
    assert (side_of(case.ct, np.array([mm, 0.0, 0.0])) is Side.MIDLINE) == (mm < 5)
