"""Preprocessing against its literal definition: resample everything, localize the head, crop."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from real import REAL_DATA

from mmpl import preprocess
from mmpl.case import Case, ClinicalRecord, Grid, Image, InvalidInputError
from mmpl.geometry import common_grid, index_to_mm, mm_to_index
from mmpl.io.images import read_image
from mmpl.phantom.latent import draw_patients
from mmpl.phantom.render import render
from mmpl.preprocess import (
    FIELD_OF_VIEW_CUT,
    HEAD_NOT_FOUND,
    NO_PET_SIGNAL,
    locate_head,
    prepare,
    prepare_labels,
)
from mmpl.profile import PreprocessSettings, load_profile
from oracles import PAPER, carry_out_literally

STUDIES = REAL_DATA / "sts"
SAMPLE = Path(__file__).parent / "input/images"
DEMO = load_profile("demo").preprocess
EDGE = 4
"""Voxels of the common grid that do not count as its interior."""


def compare(case: Case) -> tuple[float, float]:
    """Check the patch's place and return the largest CT (HU) and PET (share of its maximum) difference inside."""
    ours, literal = prepare(case, PAPER), carry_out_literally(case)
    assert ours.flags in ((), (FIELD_OF_VIEW_CUT,))
    centroid, _ = locate_head(case.pet, common_grid(case.ct.grid, case.pet.grid, 1.0), PAPER)
    np.testing.assert_allclose(centroid, literal.centroid_xyz, atol=0.01)  # also where the patch is shifted
    expected_origin = literal.grid.TransformContinuousIndexToPhysicalPoint(literal.start_xyz.astype(float).tolist())
    np.testing.assert_allclose(ours.roi.origin_xyz, expected_origin, atol=1e-3)
    assert ours.roi.size_xyz == PAPER.roi_size_xyz
    assert ours.roi.spacing_xyz == (1.0, 1.0, 1.0)
    assert ours.images.dtype == np.float32

    interior = np.zeros(literal.ct.shape, np.float32)
    interior[EDGE:-EDGE, EDGE:-EDGE, EDGE:-EDGE] = 1
    inside = literal.patch(interior, PAPER.roi_size_xyz, 0.0) > 0
    assert inside.sum() > 1e6
    ct = literal.patch(literal.ct, PAPER.roi_size_xyz, -1024.0).clip(-1024, 1024)
    pet = literal.patch(literal.pet, PAPER.roi_size_xyz, 0.0)
    body = pet[pet > 0.01].astype(np.float64)
    suv = ours.images[1] * body.std() + body.mean()
    hu = (ours.images[0] + 1) * 1024 - 1024
    return np.abs(hu - ct)[inside].max(), np.abs(suv - pet)[inside].max() / pet.max()


def keep_box(image: Image, center_mm: NDArray[np.float64], size_mm: tuple[float, float, float]) -> Image:
    """Cut an axis-aligned image to what lies around a point, so that the literal definition stays quick."""
    grid = image.grid
    direction = np.reshape(grid.direction, (3, 3))
    middle = (center_mm - grid.origin_xyz) @ direction / grid.spacing_xyz
    half = np.divide(size_mm, grid.spacing_xyz) / 2
    first = np.clip(np.rint(middle - half).astype(int), 0, None)
    last = np.minimum(np.rint(middle + half).astype(int), grid.size_xyz)
    box = tuple(slice(a, b) for a, b in zip(first[::-1], last[::-1], strict=True))
    origin = tuple(index_to_mm(grid, first).tolist())
    return Image(image.voxels[box].copy(), replace(grid, size_xyz=tuple((last - first).tolist()), origin_xyz=origin))


def shrink(case: Case, ct_mm: tuple[float, float, float], pet_mm: tuple[float, float, float]) -> Case:
    """Keep the upper part of both images."""
    size = np.array(case.ct.grid.size_xyz)
    middle = index_to_mm(case.ct.grid, (size - 1) / 2)
    top = middle[2] + size[2] * case.ct.grid.spacing_xyz[2] / 2
    ct_center, pet_center = (np.array([middle[0], middle[1], top - mm[2] / 2]) for mm in (ct_mm, pet_mm))
    return replace(
        case, ct=keep_box(case.ct, ct_center, ct_mm), pet=keep_box(case.pet, pet_center, pet_mm), reference=None
    )


@pytest.fixture(scope="module")
def flipped() -> Case:
    """A phantom of the center whose files run from left to right and from back to front."""
    patient = next(p for p in draw_patients(60, 3) if p.center == "USZ" and not p.long_scan)
    case = render(patient, with_reference=True)
    assert case.ct.grid.direction[0] == -1
    return case


@pytest.fixture(scope="module")
def exemplary() -> Case:
    """The shipped sample case, a phantom with identity directions."""
    ct, pet = (read_image(next((SAMPLE / kind).glob("*.mha"))) for kind in ("ct", "pet"))
    return Case("exemplary", ct, pet, ClinicalRecord())


def rotate(case: Case, degrees_z: float, degrees_x: float) -> Case:
    a, b = np.deg2rad([degrees_z, degrees_x])
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    turn = about_z @ about_x

    def turned(image: Image) -> Image:
        direction = turn @ np.reshape(image.grid.direction, (3, 3))
        origin = tuple((turn @ image.grid.origin_xyz).tolist())
        return Image(image.voxels, replace(image.grid, direction=tuple(direction.ravel().tolist()), origin_xyz=origin))

    return replace(case, ct=turned(case.ct), pet=turned(case.pet), reference=None)


class TestLiteralDefinition:
    """Same place to the voxel; CT within 0.5 HU, PET within 0.5% of its maximum."""

    @pytest.mark.slow
    def test_phantom(self, exemplary: Case) -> None:
        ct, pet = compare(shrink(exemplary, (230, 215, 200), (240, 220, 205)))
        assert ct < 0.5
        assert pet < 0.005

    @pytest.mark.slow
    def test_flipped_phantom(self, flipped: Case) -> None:
        ct, pet = compare(shrink(flipped, (205, 225, 315), (210, 210, 350)))
        assert ct < 0.5
        assert pet < 0.005

    @pytest.mark.slow
    def test_oblique_phantom(self, flipped: Case) -> None:
        ct, pet = compare(rotate(shrink(flipped, (170, 180, 150), (165, 190, 140)), 12.0, -7.0))
        assert ct < 0.5
        assert pet < 0.005

    @pytest.mark.skipif(not STUDIES.is_dir(), reason="no real studies at hand (CONTRIBUTING.md)")
    @pytest.mark.parametrize("study", ["STS_042", "STS_034"])
    def test_study(self, study: str) -> None:
        ct, pet = (read_image(STUDIES / study / f"{name}_image.nii.gz") for name in ("CT", "PET"))
        ct_difference, pet_difference = compare(Case(study, ct, pet, ClinicalRecord()))
        assert ct_difference < 0.5
        assert pet_difference < 0.005


def hot_spot(center_mm: tuple[float, float, float], size_xyz: tuple[int, int, int] = (50, 50, 60)) -> Case:
    """A case on 6 mm grids whose PET has one hot spot of 15 mm SD; the lower corner of both images lies at 0."""
    grid = Grid(size_xyz, (6.0, 6.0, 6.0), (3.0, 3.0, 3.0))
    z, y, x = (np.arange(n) * 6.0 + 3.0 for n in grid.shape_zyx)
    square = (x - center_mm[0]) ** 2 + (y[:, None] - center_mm[1]) ** 2 + (z[:, None, None] - center_mm[2]) ** 2
    pet = (10 * np.exp(-square / (2 * 15.0**2)) + 0.5).astype(np.float32)
    ct = np.random.default_rng(0).normal(40, 10, grid.shape_zyx).astype(np.int16)
    return Case("spot", Image(ct, grid), Image(pet, grid), ClinicalRecord())


def with_pet(case: Case, voxels: NDArray) -> Case:
    return replace(case, pet=Image(np.asarray(voxels, np.float32), case.pet.grid))


class TestPlace:
    """Where the patch lies."""

    def test_is_centered_on_the_hot_spot(self) -> None:
        roi = prepare(hot_spot((120.0, 170.0, 315.0)), replace_size(DEMO, (20, 20, 20))).roi
        np.testing.assert_allclose(np.array(roi.origin_xyz) - 1.5 + 30, (120.0, 170.0, 315.0), atol=1.51)

    def test_only_the_cranial_quarter_counts(self) -> None:
        case = hot_spot((90.0, 90.0, 330.0))
        below = hot_spot((210.0, 210.0, 60.0)).pet.voxels * 5
        both = with_pet(case, case.pet.voxels + below)
        assert prepare(both, DEMO).roi == prepare(case, DEMO).roi

    def test_the_cranial_slab_is_400_mm_at_most(self) -> None:
        case = hot_spot((90.0, 90.0, 1900.0), (30, 30, 340))  # a quarter of 2040 mm is 510 mm
        liver = hot_spot((90.0, 90.0, 1560.0), (30, 30, 340)).pet.voxels * 5  # its heat starts 440 mm from the top
        whole = with_pet(case, case.pet.voxels + liver)
        common = common_grid(case.ct.grid, case.pet.grid, DEMO.spacing_mm)
        center, flags = locate_head(whole.pet, common, DEMO)
        assert flags == ()
        np.testing.assert_allclose(index_to_mm(common, center), (90.0, 90.0, 1900.0), atol=1.0)
        deeper = DEMO.model_copy(update={"cranial_limit_mm": 600.0})
        assert index_to_mm(common, locate_head(whole.pet, common, deeper)[0])[2] < 1600

    def test_touching_corners_are_connected(self) -> None:
        settings = DEMO.model_copy(update={"spacing_mm": 6.0, "cranial_fraction": 1.0})
        case = hot_spot((0.0, 0.0, 0.0), (16, 16, 16))
        pet = np.zeros((16, 16, 16))
        pet[3:5, 3:5, 3:5] = pet[5:7, 5:7, 5:7] = 1.0  # 16 voxels that meet in a corner
        pet[11:13, 11:13, 11:14] = 1.0  # 12 voxels
        center, _ = locate_head(with_pet(case, pet).pet, case.ct.grid, settings)
        np.testing.assert_allclose(center, 4.5)

    def test_is_shifted_to_stay_inside_the_grid(self) -> None:
        case = hot_spot((20.0, 290.0, 350.0))
        roi = prepare(case, DEMO).roi
        np.testing.assert_allclose(roi.origin_xyz, (1.5, 300 - 56 * 3 + 1.5, 360 - 96 * 3 + 1.5))

    def test_does_not_depend_on_the_order_of_the_files_axes(self, flipped: Case) -> None:
        def turned(image: Image) -> Image:
            """Store the same image from top to bottom, with y before x."""
            x, y, z = image.grid.size_xyz
            direction = np.reshape(image.grid.direction, (3, 3))[:, [1, 0, 2]] * (1, 1, -1)
            sx, sy, sz = image.grid.spacing_xyz
            origin = tuple(index_to_mm(image.grid, np.array([0, 0, z - 1])).tolist())
            grid = Grid((y, x, z), (sy, sx, sz), origin, tuple(direction.ravel().tolist()))
            return Image(image.voxels[::-1].transpose(0, 2, 1), grid)

        ours, theirs = (
            prepare(case, DEMO)
            for case in (
                flipped,
                replace(flipped, ct=turned(flipped.ct), pet=turned(flipped.pet), reference=turned(flipped.reference)),
            )
        )
        np.testing.assert_allclose(ours.roi.origin_xyz, theirs.roi.origin_xyz, atol=1e-6)
        np.testing.assert_allclose(ours.images, theirs.images, atol=1e-4)
        np.testing.assert_allclose(ours.labels, theirs.labels, atol=1e-5)
        assert ours.labels.max() > 0.5


def replace_size(settings: PreprocessSettings, roi_size_xyz: tuple[int, int, int]) -> PreprocessSettings:
    return settings.model_copy(update={"roi_size_xyz": roi_size_xyz})


class TestOddImages:
    """What no head, no signal and small images come to."""

    def test_no_hot_voxel_falls_back_to_the_middle_of_the_slab(self) -> None:
        case = hot_spot((90.0, 90.0, 330.0), (60, 70, 80))  # 360 x 420 x 480 mm: 120 x 140 x 160 voxels
        prepared = prepare(case, DEMO.model_copy(update={"pet_z_threshold": 1e3}))
        assert prepared.flags == (HEAD_NOT_FOUND,)
        middle = np.array(prepared.roi.origin_xyz) - 1.5 + np.multiply(DEMO.roi_size_xyz, 1.5)
        np.testing.assert_allclose(middle[:2], (180.0, 210.0))
        assert prepared.roi.origin_xyz[2] == 480 - 96 * 3 + 1.5

    @pytest.mark.parametrize("suv", [0.0, 0.7, 3.3])
    def test_a_constant_pet_gives_zeros_and_says_so(self, suv: float) -> None:
        case = hot_spot((90.0, 90.0, 330.0))
        prepared = prepare(with_pet(case, np.full(case.pet.voxels.shape, suv)), DEMO)
        assert prepared.flags == (HEAD_NOT_FOUND, NO_PET_SIGNAL)
        assert not prepared.images[1].any()

    def test_padding_is_air_and_no_activity(self) -> None:
        case = hot_spot((60.0, 60.0, 150.0), (20, 20, 40))  # 120 x 120 x 240 mm under a patch of 168 x 168 x 288 mm
        prepared = prepare(case, DEMO)
        assert FIELD_OF_VIEW_CUT not in prepared.flags
        ct, pet = prepared.images
        outside = np.ones(ct.shape, bool)
        outside[8:-8, 8:-8, 8:-8] = False
        assert (ct[outside] == -1.0).all()
        assert (ct[~outside] > -0.5).all()
        assert (pet[outside] == pet[0, 0, 0]).all()
        body = pet[~outside].astype(np.float64)  # every voxel inside is above 0.01 SUV
        assert body.mean() == pytest.approx(0, abs=1e-4)
        assert body.std() == pytest.approx(1, abs=1e-4)
        suv_at_peak = (body.max() - pet[0, 0, 0]) / (body.min() - pet[0, 0, 0])  # zero SUV is the padding's value
        assert suv_at_peak == pytest.approx(10.5 / 0.5, rel=0.05)

    def test_a_small_field_of_view_is_flagged(self) -> None:
        assert prepare(hot_spot((60.0, 60.0, 100.0), (20, 20, 33)), DEMO).flags == (FIELD_OF_VIEW_CUT,)

    def test_ct_is_clipped_and_scaled(self) -> None:
        case = hot_spot((90.0, 90.0, 330.0))
        ct = np.full(case.ct.voxels.shape, 512, np.int16)
        ct[:, :, :25], ct[:, :25, 25:] = 3000, -3000
        values = prepare(replace(case, ct=Image(ct, case.ct.grid)), replace_size(DEMO, (100, 100, 120))).images[0]
        assert set(np.round(np.unique(values[:, [10, 10, 90], [90, 10, 90]]), 4)) == {-1.0, 0.5, 1.0}
        assert (values.min(), values.max()) == (-1.0, 1.0)

    def test_images_that_do_not_overlap_are_refused(self) -> None:
        case = hot_spot((90.0, 90.0, 330.0))
        away = replace(case.pet.grid, origin_xyz=(900.0, 3.0, 3.0))
        with pytest.raises(InvalidInputError, match="CT and PET do not overlap"):
            prepare(replace(case, pet=Image(case.pet.voxels, away)), DEMO)


class TestLabels:
    """The reference mask on the patch, one channel a class."""

    MASK_GRID = Grid((40, 40, 40), (2.0, 2.0, 2.0), (1.0, 1.0, 1.0))
    ROI = Grid((20, 20, 20), (3.0, 3.0, 3.0), (1.5, 1.5, 1.5))

    def mask(self) -> Image:
        voxels = np.zeros((40, 40, 40), np.uint8)
        voxels[10:20, 10:20, 10:20] = 1  # 20..40 mm along each axis
        voxels[24:30, 10:20, 10:20] = 2  # 48..60 mm in z
        return Image(voxels, self.MASK_GRID)

    def test_nearest_labels_are_whole(self) -> None:
        labels = prepare_labels(self.mask(), self.ROI, PAPER)
        assert set(np.unique(labels)) == {0.0, 1.0}
        # voxel centers at 1.5 + 3 i: those in 20..40 mm are 7 to 12, those in 48..60 mm 16 to 19
        expected = np.zeros((2, 20, 20, 20))
        expected[0, 7:13, 7:13, 7:13] = 1
        expected[1, 16:20, 7:13, 7:13] = 1
        np.testing.assert_array_equal(labels, expected)

    def test_linear_labels_are_fractions(self) -> None:
        labels = prepare_labels(self.mask(), self.ROI, DEMO)
        assert labels.dtype == np.float32
        coarse, fine = np.arange(20) * 3.0 + 1.5, np.arange(40) * 2.0 + 1.0
        profile, node = (np.interp(coarse, fine, (fine > a) & (fine < b)) for a, b in ((20, 40), (48, 60)))
        assert 0 < profile[13] < 1
        np.testing.assert_allclose(labels[0], profile[:, None, None] * profile[:, None] * profile, atol=1e-6)
        np.testing.assert_allclose(labels[1], node[:, None, None] * profile[:, None] * profile, atol=1e-6)

    def test_a_case_without_reference_has_none(self) -> None:
        assert prepare(hot_spot((90.0, 90.0, 330.0)), DEMO).labels is None

    def test_labels_lie_where_the_images_do(self) -> None:
        case = hot_spot((100.0, 200.0, 330.0))
        z, y, x = np.indices(case.ct.grid.shape_zyx) * 6.0 + 3.0
        ball = (x - 100) ** 2 + (y - 200) ** 2 + (z - 330) ** 2 < 25**2
        prepared = prepare(replace(case, reference=Image(ball.astype(np.uint8), case.ct.grid)), DEMO)
        assert prepared.labels is not None
        found = np.argwhere(prepared.labels[0] > 0.5).mean(axis=0)[::-1]
        np.testing.assert_allclose(found, mm_to_index(prepared.roi, np.array([100.0, 200.0, 330.0])), atol=0.6)
        peak = np.unravel_index(prepared.images[1].argmax(), prepared.images[1].shape)[::-1]
        np.testing.assert_allclose(found, peak, atol=1.5)


def test_never_holds_the_whole_common_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    resample = preprocess.resample

    def spy(image: Image, grid: Grid, *rest: object) -> NDArray[np.float32]:
        sizes.append(grid.size_xyz)
        return resample(image, grid, *rest)

    monkeypatch.setattr(preprocess, "resample", spy)
    case = hot_spot((180.0, 180.0, 900.0), (60, 60, 160))  # 120 x 120 x 320 voxels
    prepare(replace(case, reference=Image(np.zeros(case.ct.grid.shape_zyx, np.uint8), case.ct.grid)), DEMO)
    assert sizes == [(120, 120, 80)] + 4 * [DEMO.roi_size_xyz]
