"""Stage 1's inference: windows, the ensemble's mean, labels, and the way back to the CT's own grid."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.special import expit
from small_gpu import CUDA, FakeGpu, Memory, OnGpu
from torch import Tensor, nn

from mmpl import segmentation
from mmpl.case import Grid, Image
from mmpl.geometry import index_to_mm
from mmpl.names import Label, Stage
from mmpl.network import build_network
from mmpl.preprocess import PreparedCase, prepare_labels
from mmpl.processor import NO_KERNELS, ON_CPU, PRECISION, Processor
from mmpl.profile import InferenceSettings, load_profile
from mmpl.segmentation import (
    LOW_AGREEMENT,
    NO_LESION,
    NO_OVERLAP,
    Budget,
    Segmentation,
    SlidingWindow,
    Thresholds,
    clean,
    compose,
    crop_around,
    lesion_center,
    predict_logits,
    predict_probability,
    restore,
    restore_map,
    segment,
)

CPU = torch.device("cpu")
HALVES = Thresholds(0.5, 0.5)
PATCH = Grid((40, 44, 48), (3.0, 3.0, 3.0), (-60.2, -66.7, 10.4))
MICRO = load_profile("micro")


def windows(size_xyz: tuple[int, int, int], overlap: float = 0.5) -> InferenceSettings:
    return MICRO.inference.model_copy(update={"window_xyz": size_xyz, "overlap": overlap})


def positions_of(grid: Grid) -> NDArray[np.float64]:
    """Every voxel center (z, y, x, 3), mm."""
    return index_to_mm(grid, np.moveaxis(np.indices(grid.shape_zyx), 0, -1)[..., ::-1])


def dice(one: NDArray, other: NDArray) -> float:
    return 2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other))


class TestCompose:
    def test_the_tumor_comes_first(self) -> None:
        probability = np.array([[0.7, 0.7, 0.2, 0.2], [0.9, 0.1, 0.9, 0.1]], np.float32).reshape(2, 1, 1, 4)
        mask = compose(probability, HALVES)
        assert mask.dtype == np.uint8
        assert mask.ravel().tolist() == [Label.GTVP, Label.GTVP, Label.GTVN, Label.BACKGROUND]

    def test_each_class_has_its_own_threshold(self) -> None:
        probability = np.full((2, 1, 1, 1), 0.5, np.float32)
        assert compose(probability, Thresholds(0.6, 0.4)).item() == Label.GTVN
        assert compose(probability, Thresholds(0.6, 0.6)).item() == Label.BACKGROUND
        assert compose(probability, Thresholds(0.5, 0.4)).item() == Label.GTVP


class TestClean:
    def test_small_components_go(self) -> None:
        mask = np.zeros((20, 20, 20), np.uint8)
        mask[1:6, 1:6, 1:3] = Label.GTVP  # 50 voxels
        mask[10:15, 10:15, 10:12] = Label.GTVP
        mask[14, 14, 11] = Label.BACKGROUND  # 49 voxels
        mask[1:6, 10:15, 1:3] = Label.GTVN
        mask[10:15, 1:6, 1:3] = Label.GTVN
        mask[10, 1, 1] = Label.BACKGROUND
        kept = clean(mask, 50)
        assert [(kept == label).sum() for label in (Label.GTVP, Label.GTVN)] == [50, 50]
        assert (kept[1:6, 1:6, 1:3] == Label.GTVP).all()
        assert (kept[1:6, 10:15, 1:3] == Label.GTVN).all()

    def test_classes_do_not_lend_each_other_voxels(self) -> None:
        mask = np.zeros((10, 10, 10), np.uint8)
        mask[2:7, 2:7, 2:4] = Label.GTVP
        mask[2:7, 2:7, 4] = Label.GTVN  # 25 voxels that touch 50 of the other class
        kept = clean(mask, 50)
        assert (kept == Label.GTVP).sum() == 50
        assert not (kept == Label.GTVN).any()

    def test_corners_connect(self) -> None:
        mask = np.zeros((10, 10, 10), np.uint8)
        mask[1:4, 1:4, 1:4] = mask[4:7, 4:7, 4:7] = Label.GTVP  # 27 voxels each
        assert (clean(mask, 50) == mask).all()
        assert not clean(mask, 55).any()

    def test_holes_are_filled_before_voxels_are_counted(self) -> None:
        mask = np.zeros((9, 9, 9), np.uint8)
        mask[2:7, 2:7, 2:7] = Label.GTVN
        mask[3:6, 3:6, 3:6] = Label.BACKGROUND  # 98 voxels around 27
        filled = clean(mask, 125)
        assert (filled[2:7, 2:7, 2:7] == Label.GTVN).all()
        assert filled.astype(bool).sum() == 125

    def test_a_dent_is_no_hole(self) -> None:
        mask = np.zeros((9, 9, 9), np.uint8)
        mask[2:7, 2:7, 2:7] = Label.GTVP
        mask[4:7, 4, 4] = Label.BACKGROUND
        assert (clean(mask, 50) == mask).all()

    @pytest.mark.parametrize(("outer", "inner"), [(Label.GTVP, Label.GTVN), (Label.GTVN, Label.GTVP)])
    def test_the_other_class_in_a_hole_stays(self, outer: Label, inner: Label) -> None:
        mask = np.zeros((12, 12, 12), np.uint8)
        mask[1:11, 1:11, 1:11] = outer
        mask[3:9, 3:9, 3:9] = Label.BACKGROUND
        mask[4:8, 4:8, 4:8] = inner
        filled = clean(mask, 50)
        assert (filled[4:8, 4:8, 4:8] == inner).all()
        assert (filled == inner).sum() == 64
        assert (filled == outer).sum() == 1000 - 64

    @pytest.mark.parametrize(("outer", "inner"), [(Label.GTVP, Label.GTVN), (Label.GTVN, Label.GTVP)])
    def test_what_is_too_small_inside_the_other_class_becomes_that_class(self, outer: Label, inner: Label) -> None:
        mask = np.zeros((12, 12, 12), np.uint8)
        mask[1:11, 1:11, 1:11] = outer
        mask[4:7, 4:7, 4:7] = inner  # 27 voxels
        mask[7, 4:7, 4:7] = Label.BACKGROUND
        cleaned = clean(mask, 50)
        assert (cleaned == outer).sum() == 1000
        assert not (cleaned == inner).any()

    def test_what_is_too_small_beside_the_other_class_is_not_kept_by_it(self) -> None:
        mask = np.zeros((12, 12, 12), np.uint8)
        mask[1:6, 1:6, 1:6] = Label.GTVP
        mask[6:8, 1:6, 1:6] = Label.GTVN  # 50 voxels, less the next
        mask[7, 5, 5] = Label.BACKGROUND
        cleaned = clean(mask, 50)
        assert (cleaned == Label.GTVP).sum() == 125
        assert not (cleaned == Label.GTVN).any()

    def test_leaves_its_input_alone(self) -> None:
        mask = np.zeros((9, 9, 9), np.uint8)
        mask[2:4, 2:4, 2:4] = Label.GTVP
        clean(mask, 50)
        assert mask.sum() == 8

    def test_an_empty_mask_stays_empty(self) -> None:
        assert not clean(np.zeros((4, 5, 6), np.uint8), 50).any()


def oblique(degrees_z: float, degrees_y: float) -> tuple[float, ...]:
    a, b = np.deg2rad([degrees_z, degrees_y])
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    return tuple((about_z @ about_y).ravel().tolist())


CT_GRIDS = {
    "plain": Grid((90, 96, 60), (1.5, 1.5, 3.0), (-70.1, -75.3, -5.0)),
    "flipped": Grid((90, 96, 60), (1.5, 1.5, 3.0), (65.2, 70.9, 170.0), (-1, 0, 0, 0, -1, 0, 0, 0, -1)),
    "turned": Grid((96, 60, 90), (1.5, 3.0, 1.5), (65.2, -72.0, -5.0), (0, 0, -1, 1, 0, 0, 0, 1, 0)),
    "thick": Grid((130, 130, 30), (1.0, 1.0, 6.0), (-66.0, -60.0, -5.0)),
    "oblique": Grid((100, 100, 60), (1.5, 1.5, 3.0), (-50.0, -85.0, -5.0), oblique(11, -8)),
    "small": Grid((30, 70, 30), (1.5, 1.5, 3.0), (-41.0, -45.0, 30.0)),
}
LESIONS_MM = {Label.GTVP: ((-22.0, 10.0, 60.0), 16.0), Label.GTVN: ((20.0, -25.0, 110.0), 12.0)}


def balls(positions: NDArray[np.float64]) -> NDArray[np.float32]:
    """A probability of each class that falls from 1 to 0 over 8 mm, linearly, and is one half on the ball."""
    maps = [np.clip(0.5 + (r - np.linalg.norm(positions - c, axis=-1)) / 8, 0, 1) for c, r in LESIONS_MM.values()]
    return np.stack(maps).astype(np.float32)


class TestRestore:
    @pytest.mark.parametrize("name", CT_GRIDS)
    def test_lesions_come_back_where_they_are(self, name: str) -> None:
        grid = CT_GRIDS[name]
        positions = positions_of(grid)
        mask = restore(balls(positions_of(PATCH)), PATCH, grid, HALVES, 50)
        assert mask.grid == grid
        assert mask.voxels.dtype == np.uint8
        found = 0
        for label, truth in zip(LESIONS_MM, balls(positions) >= 0.5, strict=True):
            if not truth.any():
                assert not (mask.voxels == label).any()
                continue
            found += 1
            assert dice(mask.voxels == label, truth) > 0.97
            ours, theirs = (positions[where].mean(axis=0) for where in (mask.voxels == label, truth))
            np.testing.assert_allclose(ours, theirs, atol=0.2)
        assert found == (1 if name == "small" else 2)

    def test_a_lesion_at_the_patchs_edge_reaches_its_last_voxel_edge(self) -> None:
        probability = np.zeros((2, *PATCH.shape_zyx), np.float32)
        probability[0, 0:10, 10:20, 30:40] = 1
        grid = Grid((60, 60, 60), (1.0, 1.0, 1.0), (10.0, -60.0, 0.0))
        mask = restore(probability, PATCH, grid, HALVES, 50).voxels > 0
        lower = index_to_mm(PATCH, np.array([29.5, 9.5, -0.5]))
        inside = ((positions_of(grid) >= lower) & (positions_of(grid) < lower + 30)).all(axis=-1)
        z, y, x = np.argwhere(inside).mean(axis=0).astype(int)  # through the middle: interpolation rounds the edges
        for line in (np.s_[:, y, x], np.s_[z, :, x], np.s_[z, y, :]):
            np.testing.assert_array_equal(mask[line], inside[line])

    def test_nothing_is_found_outside_the_patch(self) -> None:
        everywhere = np.ones((2, *PATCH.shape_zyx), np.float32)
        apart = replace(CT_GRIDS["plain"], origin_xyz=(500.0, 0.0, 0.0))
        mask = restore(everywhere, PATCH, apart, HALVES, 50)
        assert mask.grid == apart
        assert not mask.voxels.any()
        grid = CT_GRIDS["plain"]
        positions = positions_of(grid)
        lower = np.array(PATCH.origin_xyz) - 1.5
        inside = ((positions >= lower) & (positions <= lower + np.multiply(PATCH.size_xyz, 3))).all(axis=-1)
        np.testing.assert_array_equal(restore(everywhere, PATCH, grid, HALVES, 50).voxels, inside * Label.GTVP)

    def test_cleans_on_the_cts_grid(self) -> None:
        probability = np.zeros((2, *PATCH.shape_zyx), np.float32)
        probability[0, 20:22, 20:22, 20:22] = 1  # 216 mm3: 32 voxels of the plain grid
        assert not restore(probability, PATCH, CT_GRIDS["plain"], HALVES, 50).voxels.any()
        assert restore(probability, PATCH, CT_GRIDS["plain"], HALVES, 20).voxels.any()


def uneven_blob(grid: Grid, center_mm: tuple[float, float, float], ml: float, seed: int) -> NDArray[np.bool_]:
    """An ellipsoid with a bumpy surface."""
    rng = np.random.default_rng(seed)
    axes = np.exp(rng.normal(0, 0.15, 3))
    axes *= (ml * 1000 * 3 / 4 / np.pi / axes.prod()) ** (1 / 3)
    bumps = gaussian_filter(rng.normal(size=grid.shape_zyx), (2, 6, 6))
    return np.linalg.norm((positions_of(grid) - center_mm) / axes, axis=-1) < 1 + 0.12 * bumps / bumps.std()


class TestRoundTrip:
    """The truth, prepared as a training label and restored as a prediction; lesions above 2 ml."""

    CT = Grid((70, 72, 26), (1.0, 1.0, 3.0), (-35.0, -36.0, -37.5))

    @pytest.mark.parametrize("ml", [2.8, 5.0, 15.0])
    @pytest.mark.parametrize(("name", "least"), [("demo", 0.90), ("paper", 0.97)])
    def test_keeps_the_truth(self, name: str, least: float, ml: float) -> None:
        settings = load_profile(name).preprocess
        rng = np.random.default_rng(int(ml * 10))
        scores = []
        for seed in range(4):
            mask = uneven_blob(self.CT, tuple(rng.uniform(-6, 6, 3)), ml, seed).astype(np.uint8)
            assert mask.sum() * self.CT.voxel_ml > 2
            count = int(80 / settings.spacing_mm)
            step = (settings.spacing_mm,) * 3
            roi = Grid((count, count, count), step, tuple((rng.uniform(-1, 1, 3) - 40).tolist()))
            back = restore(prepare_labels(Image(mask, self.CT), roi, settings), roi, self.CT, HALVES, 50)
            scores.append(dice(back.voxels > 0, mask > 0))
        assert min(scores) >= least


class Constant(nn.Module):
    """Gives the next of a list of logits at each call, everywhere."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = list(logits)

    def forward(self, images: Tensor) -> Tensor:
        return torch.full_like(images, self.logits.pop(0))


class Steep(nn.Module):
    """Says yes to each class where its image is above a level."""

    def __init__(self, level: float) -> None:
        super().__init__()
        self.level = level

    def forward(self, images: Tensor) -> Tensor:
        return 40 * (images - self.level)


class TestSlidingWindow:
    def test_one_window_is_a_plain_forward_pass(self) -> None:
        torch.manual_seed(0)
        network = build_network(MICRO, Stage.SEGMENTATION).eval()
        images = np.random.default_rng(0).normal(size=(2, 8, 12, 16)).astype(np.float32)
        probability = predict_probability(images, network, windows((16, 12, 8)), Processor(CPU))
        with torch.no_grad():
            expected = torch.sigmoid(network(torch.from_numpy(images)[None]))[0].numpy()
        np.testing.assert_allclose(probability, expected, atol=1e-6)
        assert probability.dtype == np.float32

    def test_probabilities_are_averaged_over_the_overlap(self) -> None:
        images = np.zeros((2, 8, 8, 12), np.float32)
        probability = predict_probability(images, Constant(-1.0, 2.0), windows((8, 8, 8)), Processor(CPU))
        one, two = expit(-1.0), expit(2.0)
        expected = np.repeat([one, (one + two) / 2, two], 4)
        np.testing.assert_allclose(probability, np.broadcast_to(expected, probability.shape), atol=1e-6)

    def test_many_windows_agree_with_one_where_the_network_is_local(self) -> None:
        images = np.random.default_rng(0).normal(size=(2, 11, 13, 17)).astype(np.float32)
        probability = predict_probability(images, Steep(0.3), windows((8, 8, 8), overlap=0.25), Processor(CPU))
        np.testing.assert_allclose(probability, expit(40 * (images - 0.3)), atol=1e-5)

    @pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.9])
    @pytest.mark.parametrize("size_xyz", [(8, 8, 8), (17, 8, 10), (17, 13, 11), (5, 13, 4)])
    @pytest.mark.parametrize("batch", [1, 3])
    def test_it_is_that_of_monai(self, size_xyz: tuple[int, int, int], overlap: float, batch: int) -> None:
        """A network that tells where in its window a voxel lies, so that every window counts."""
        from monai.inferers import SlidingWindowInferer

        class Ramp(nn.Module):
            def forward(self, images: Tensor) -> Tensor:
                return images + torch.linspace(-1, 1, images[0, 0].numel()).reshape(images.shape[2:])

        images = np.random.default_rng(0).normal(size=(2, 11, 13, 17)).astype(np.float32)
        settings = windows(size_xyz, overlap).model_copy(update={"window_batch": batch})
        ours = SlidingWindow(settings, Processor(CPU))
        oracle = SlidingWindowInferer(size_xyz[::-1], batch, overlap, mode="constant")
        expected = oracle(torch.from_numpy(images)[None], lambda patches: torch.sigmoid(Ramp()(patches)))[0].numpy()
        np.testing.assert_array_equal(ours.predict(images, Ramp()), expected)


CT_GRID = Grid((60, 60, 50), (2.0, 2.0, 3.0), (-55.0, -60.0, 15.0))


@pytest.fixture
def prepared() -> PreparedCase:
    """A patch whose two images are the probability maps of the two balls."""
    return PreparedCase("balls", balls(positions_of(PATCH)), None, PATCH, CT_GRID, ())


class TestSegment:
    SETTINGS = windows(PATCH.size_xyz)

    def test_means_probabilities_over_the_models(self, prepared: PreparedCase) -> None:
        logits = [-3.0, 1.5, 2.5]
        mean = np.mean([expit(logit) for logit in logits])
        for threshold, found in ((mean - 1e-4, True), (mean + 1e-4, False)):
            networks = (Constant(logit) for logit in logits)
            result = segment(prepared, networks, Thresholds(threshold, 1.1), self.SETTINGS, Processor(CPU))
            assert result.mask.voxels.any() == found

    def test_finds_the_balls_on_the_cts_grid(self, prepared: PreparedCase) -> None:
        result = segment(prepared, [Steep(0.5), Steep(0.5)], HALVES, self.SETTINGS, Processor(CPU))
        assert result.mask.grid == CT_GRID
        truth = balls(positions_of(CT_GRID)) >= 0.5
        for label, where in zip(LESIONS_MM, truth, strict=True):
            assert dice(result.mask.voxels == label, where) > 0.95
            assert result.volume_ml(label) == pytest.approx(4 / 3 * np.pi * LESIONS_MM[label][1] ** 3 / 1000, rel=0.05)
        assert result.agreement == 1.0
        assert result.flags == ()

    def test_agreement_is_the_models_mean_dice_with_the_ensemble(self, prepared: PreparedCase) -> None:
        levels = [0.2, 0.5, 0.8]
        masks = [(prepared.images >= level).any(axis=0) for level in levels]
        mean = np.mean([expit(40 * (prepared.images - level)) for level in levels], axis=0)
        expected = np.mean([dice(mask, (mean >= 0.5).any(axis=0)) for mask in masks])
        result = segment(prepared, map(Steep, levels), HALVES, self.SETTINGS, Processor(CPU))
        assert result.agreement == pytest.approx(expected, abs=2e-3)
        assert 0.5 < result.agreement < 0.9
        assert result.flags == ()

    def test_disagreement_is_the_larger_sd_of_the_models_two_probabilities(self, prepared: PreparedCase) -> None:
        levels = [0.2, 0.5, 0.8]
        plain = segment(prepared, map(Steep, levels), HALVES, self.SETTINGS, Processor(CPU))
        result = segment(prepared, map(Steep, levels), HALVES, self.SETTINGS, Processor(CPU), disagreement=True)
        assert plain.disagreement is None
        np.testing.assert_array_equal(result.mask.voxels, plain.mask.voxels)
        assert result.disagreement.grid == CT_GRID
        assert result.disagreement.voxels.dtype == np.float32
        on_patch = np.std([expit(40 * (prepared.images - level)) for level in levels], axis=0).max(axis=0)
        expected = restore_map(on_patch.astype(np.float32), PATCH, CT_GRID).voxels
        np.testing.assert_allclose(result.disagreement.voxels, expected, atol=1e-5)
        assert result.disagreement.voxels.max() > 0.4
        alike = segment(prepared, [Steep(0.5)] * 3, HALVES, self.SETTINGS, Processor(CPU), disagreement=True)
        assert alike.disagreement.voxels.max() < 1e-6
        alone = segment(prepared, [Steep(0.5)], HALVES, self.SETTINGS, Processor(CPU), disagreement=True)
        assert alone.disagreement is None

    def test_low_agreement_is_flagged(self, prepared: PreparedCase) -> None:
        low = Thresholds(0.2, 0.2)
        result = segment(
            prepared, [Steep(0.5), *(Constant(-9.0) for _ in range(3))], low, self.SETTINGS, Processor(CPU)
        )
        assert result.flags == (LOW_AGREEMENT,)
        assert result.agreement == pytest.approx(0.25, abs=0.02)

    def test_no_lesion_is_flagged_and_agreed_on(self, prepared: PreparedCase) -> None:
        result = segment(prepared, [Constant(-9.0), Constant(-9.0)], HALVES, self.SETTINGS, Processor(CPU))
        assert result.flags == (NO_LESION,)
        assert result.agreement == 1.0
        assert result.mask.grid == CT_GRID
        assert not result.mask.voxels.any()


class Clock:
    """A second for every window."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def __deepcopy__(self, _: dict) -> "Clock":
        return self  # there is one time, however often a network is copied


class Slow(Steep):
    """Moves a clock on."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(0.5)
        self.clock = clock

    def forward(self, x: Tensor) -> Tensor:
        self.clock.now += len(x)
        return super().forward(x)


class TestGivingWay:
    """Where time or memory ends, less is done in a declared order, and said."""

    SETTINGS = MICRO.inference.model_copy(update={"window_xyz": (16, 16, 16), "overlap": 0.5, "window_batch": 4})

    @pytest.fixture(autouse=True)
    def one_at_a_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Processor, "at_once", 1)

    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> Clock:
        clock = Clock()
        monkeypatch.setattr(segmentation, "time", clock)
        return clock

    def spend(self, prepared: PreparedCase, clock: Clock, seconds: float) -> Segmentation:
        budget = Budget(clock.now + seconds, 4)
        return segment(prepared, [Slow(clock) for _ in range(4)], HALVES, self.SETTINGS, Processor(CPU), budget)

    def test_with_time_enough_nothing_is_given_up(self, prepared: PreparedCase, clock: Clock) -> None:
        plain = segment(prepared, [Slow(clock) for _ in range(4)], HALVES, self.SETTINGS, Processor(CPU))
        found = self.spend(prepared, clock, clock.now)
        assert (found.models, found.flags) == (4, plain.flags)
        np.testing.assert_array_equal(found.mask.voxels, plain.mask.voxels)

    @pytest.mark.parametrize(
        ("seconds", "models", "overlap"),
        [
            (400, 4, True),
            (399, 4, False),
            (181, 4, False),
            (180, 3, False),
            (127, 2, False),
            (126, 1, True),
            (1, 1, True),
        ],
    )
    def test_first_the_overlap_goes_then_models(
        self, prepared: PreparedCase, clock: Clock, seconds: float, models: int, overlap: bool
    ) -> None:
        """A pass is 4 x 5 x 5 windows with overlap, and 3 x 3 x 3 without; the first is always made."""
        found = self.spend(prepared, clock, seconds)
        assert found.models == models
        assert (NO_OVERLAP not in found.flags) == overlap
        assert (f"time budget: {models} of 4 models" in found.flags) == (models < 4)
        assert clock.now <= max(seconds, 100)

    @pytest.mark.parametrize("at_once", [2, 3, 8])
    @pytest.mark.parametrize(
        ("seconds", "models", "overlap"),
        [(400, 4, True), (399, 4, False), (181, 4, False), (180, 3, False), (153, 2, False), (126, 1, True)],
    )
    def test_networks_that_run_at_once_give_up_no_sooner_and_no_later(
        self,
        prepared: PreparedCase,
        clock: Clock,
        monkeypatch: pytest.MonkeyPatch,
        at_once: int,
        seconds: float,
        models: int,
        overlap: bool,
    ) -> None:
        """On a clock that every network moves on; the first is alone, and a group begins where all of it fits."""
        monkeypatch.setattr(Processor, "at_once", at_once)
        found = self.spend(prepared, clock, seconds)
        assert (found.models, NO_OVERLAP not in found.flags) == (models, overlap)
        assert clock.now <= seconds

    def test_what_a_pass_takes_beside_its_windows_counts(self, prepared: PreparedCase, clock: Clock) -> None:
        def read() -> Iterator[Slow]:
            for _ in range(4):
                clock.now += 20
                yield Slow(clock)

        for seconds, models in ((260, 3), (261, 4)):  # 120 s with overlap, and 47 s without
            clock.now = 0.0
            found = segment(prepared, read(), HALVES, self.SETTINGS, Processor(CPU), Budget(clock.now + seconds, 4))
            assert found.models == models
            assert clock.now <= seconds

    def test_one_window_has_no_overlap_to_give_up(self, prepared: PreparedCase, clock: Clock) -> None:
        whole = self.SETTINGS.model_copy(update={"window_xyz": PATCH.size_xyz})
        networks = [Slow(clock) for _ in range(4)]
        found = segment(prepared, networks, HALVES, whole, Processor(CPU), Budget(clock.now + 2, 4))
        assert found.models == 2
        assert NO_OVERLAP not in found.flags

    def test_nothing_is_known_before_the_first_pass(self, clock: Clock) -> None:
        with pytest.raises(ValueError, match="before the first"):
            Budget(clock.now + 100, 4).allows(1, 27)

    def test_windows_are_counted_before_they_run(self, prepared: PreparedCase, clock: Clock) -> None:
        for overlap in (0.5, 0.3, 0.0):
            began = clock.now
            settings = self.SETTINGS.model_copy(update={"overlap": overlap})
            count = SlidingWindow(settings, Processor(CPU)).count(prepared.images.shape[1:])
            predict_probability(prepared.images, Slow(clock), settings, Processor(CPU))
            assert count == clock.now - began

    @pytest.mark.slow
    def test_half_precision_finds_the_same(self, prepared: PreparedCase, monkeypatch: pytest.MonkeyPatch) -> None:
        torch.manual_seed(0)
        network = build_network(MICRO, Stage.SEGMENTATION).eval()
        network.head.project.weight.data *= 30
        single = predict_probability(prepared.images, network, self.SETTINGS, Processor(CPU))
        monkeypatch.setitem(PRECISION, "cpu", torch.float16)
        half = predict_probability(prepared.images, network, self.SETTINGS, Processor(CPU))
        assert half.dtype == np.float32
        assert np.ptp(single) > 0.2
        assert 0 < np.abs(half - single).max() < 0.02

    @pytest.mark.slow
    def test_what_overflows_in_half_precision_is_done_in_single(
        self, prepared: PreparedCase, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        torch.manual_seed(0)
        network = build_network(MICRO, Stage.SEGMENTATION).eval()
        next(network.parameters()).data *= 3e5  # the norm behind it takes that back
        network.half().float()  # as the weights of a file are
        plain = segment(prepared, [network] * 2, HALVES, self.SETTINGS, Processor(CPU))
        monkeypatch.setitem(PRECISION, "cpu", torch.float16)
        processor = Processor(CPU)
        found = segment(prepared, [network] * 2, HALVES, self.SETTINGS, processor)
        assert processor.notes == ("half precision overflowed: segmented in single precision",)
        assert found.agreement == plain.agreement
        np.testing.assert_array_equal(found.mask.voxels, plain.mask.voxels)


class TestOutOfGpuMemory:
    """Less is done at once, then the CPU takes over and stays; each is said, and the answer is the same."""

    SETTINGS = TestGivingWay.SETTINGS
    HALF, ONE = (f"out of GPU memory: {n} windows at a time" for n in (2, 1))

    @pytest.fixture(autouse=True)
    def gpu(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.setitem(PRECISION, "cuda", torch.float32)
        with FakeGpu():
            yield

    def memory(self, monkeypatch: pytest.MonkeyPatch, windows: int) -> Memory:
        memory = Memory(windows)
        monkeypatch.setattr(torch.cuda, "empty_cache", memory.free)
        return memory

    @pytest.mark.parametrize(
        ("fits", "failing", "notes"), [(4, [], ()), (2, [4], (HALF,)), (0, [4, 2, 1], (HALF, ONE, ON_CPU))]
    )
    def test_windows_become_fewer_then_the_cpu_takes_over(
        self,
        prepared: PreparedCase,
        monkeypatch: pytest.MonkeyPatch,
        fits: int,
        failing: list[int],
        notes: tuple[str, ...],
    ) -> None:
        memory, processor = self.memory(monkeypatch, fits), Processor(CUDA)
        found = segment(prepared, [OnGpu(Steep(0.5), memory) for _ in "12"], HALVES, self.SETTINGS, processor)
        assert [count for where, count in memory.tried if where == "cuda" and count > fits] == failing
        assert processor.notes == notes
        assert processor.device == (CUDA if fits else CPU)
        expected = segment(prepared, [Steep(0.5)] * 2, HALVES, self.SETTINGS, Processor(CPU))
        np.testing.assert_array_equal(found.mask.voxels, expected.mask.voxels)

    @pytest.mark.parametrize(
        "said", ["CUDA error: out of memory", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"]
    )
    def test_other_words_for_it_are_understood(
        self, prepared: PreparedCase, monkeypatch: pytest.MonkeyPatch, said: str
    ) -> None:
        memory, processor = self.memory(monkeypatch, 0), Processor(CUDA)
        memory.error = RuntimeError(said)
        segment(prepared, [OnGpu(Steep(0.5), memory)], HALVES, self.SETTINGS, processor)
        assert processor.notes == (self.HALF, self.ONE, ON_CPU)

    def test_a_gpu_that_pytorch_was_not_built_for_is_left_at_once(
        self, prepared: PreparedCase, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        memory, processor = self.memory(monkeypatch, 0), Processor(CUDA)
        memory.error = RuntimeError("CUDA error: no kernel image is available for execution on the device")
        segment(prepared, [OnGpu(Steep(0.5), memory)], HALVES, self.SETTINGS, processor)
        assert processor.notes == (NO_KERNELS,)
        assert [where for where, _ in memory.tried].count("cuda") == 1

    @pytest.mark.parametrize(("gives_up", "on_gpu", "models"), [(False, False, 4), (False, True, 1), (True, False, 2)])
    def test_a_limit_of_the_cpu_is_kept_once_the_gpu_is_given_up(
        self,
        prepared: PreparedCase,
        monkeypatch: pytest.MonkeyPatch,
        gives_up: bool,
        on_gpu: bool,
        models: int,
    ) -> None:
        """A limit of one pass and a half."""
        settings = self.SETTINGS.model_copy(update={"overlap": 0.0})
        memory, processor, clock = self.memory(monkeypatch, 0), Processor(CUDA), Clock()
        monkeypatch.setattr(segmentation, "time", clock)
        slow = [Slow(clock) for _ in range(4)]
        networks = [slow[0], OnGpu(slow[1], memory), *slow[2:]] if gives_up else slow
        segment(prepared, [Slow(clock)], HALVES, settings, Processor(CPU))
        found = segment(prepared, networks, HALVES, settings, processor, Budget(2.5 * clock.now, 4, on_gpu))
        assert found.models == models
        assert processor.device == (CPU if gives_up else CUDA)

    def test_another_failure_is_none_of_memory(self, prepared: PreparedCase, monkeypatch: pytest.MonkeyPatch) -> None:
        memory = self.memory(monkeypatch, 0)
        memory.error = RuntimeError("expected scalar type Half but found Float")
        with pytest.raises(RuntimeError, match="expected scalar type"):
            segment(prepared, [OnGpu(Steep(0.5), memory)], HALVES, self.SETTINGS, Processor(CUDA))

    def test_a_crop_is_done_on_the_cpu_and_all_that_follows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        torch.manual_seed(0)
        network = build_network(MICRO, Stage.SURVIVAL).eval()
        crop = np.random.default_rng(0).normal(size=(2, 16, 16, 16)).astype(np.float32)
        memory, processor = self.memory(monkeypatch, 0), Processor(CUDA)
        logits = [predict_logits(crop, OnGpu(network, memory), processor) for _ in range(2)]
        assert memory.tried == [("cuda", 1), ("cpu", 1), ("cpu", 1)]
        assert processor.notes == (ON_CPU,)
        expected = predict_logits(crop, network, Processor(CPU))
        np.testing.assert_array_equal(logits, [expected, expected])

    def test_what_stage_1_gave_up_stays_given_up(self, prepared: PreparedCase, monkeypatch: pytest.MonkeyPatch) -> None:
        memory, processor = self.memory(monkeypatch, 0), Processor(CUDA)
        segment(prepared, [OnGpu(Steep(0.5), memory)], HALVES, self.SETTINGS, processor)
        memory.tried.clear()
        predict_logits(prepared.images, OnGpu(Constant(1.0), memory), processor)
        assert memory.tried == [("cpu", 1)]

    def test_memory_is_freed_once_nothing_holds_it(
        self, prepared: PreparedCase, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        memory, processor = self.memory(monkeypatch, 0), Processor(CUDA)
        segment(prepared, [OnGpu(Steep(0.5), memory)], HALVES, self.SETTINGS, processor)
        predict_logits(prepared.images, OnGpu(Constant(1.0), memory), Processor(CUDA))
        assert memory.alive_when_freed == [False] * 4

    def test_without_a_gpu_there_is_nothing_to_give_up(
        self, prepared: PreparedCase, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        memory = self.memory(monkeypatch, 0)

        def fail(where: str, images: Tensor) -> None:
            raise torch.OutOfMemoryError("out of memory")

        monkeypatch.setattr(memory, "take", fail)
        with pytest.raises(torch.OutOfMemoryError):
            predict_logits(prepared.images, OnGpu(Constant(1.0), memory), Processor(CPU))
        assert not memory.alive_when_freed


class TestLesionCrop:
    @pytest.mark.parametrize("name", ["plain", "flipped", "turned", "oblique"])
    def test_center_is_the_middle_of_all_lesions(self, name: str) -> None:
        grid = CT_GRIDS[name]
        truth = balls(positions_of(grid)) >= 0.5
        mask = Image((truth[0] * Label.GTVP + truth[1] * Label.GTVN).astype(np.uint8), grid)
        reach = np.array([[np.subtract(c, r), np.add(c, r)] for c, r in LESIONS_MM.values()]).reshape(-1, 3)
        middle = (reach.min(axis=0) + reach.max(axis=0)) / 2
        expected = (middle - PATCH.origin_xyz) / 3
        np.testing.assert_allclose(lesion_center(mask, PATCH), expected, atol=1.0 if name != "oblique" else 2.0)

    def test_no_lesion_means_the_patchs_center(self) -> None:
        empty = Image(np.zeros(CT_GRID.shape_zyx, np.uint8), CT_GRID)
        np.testing.assert_array_equal(lesion_center(empty, PATCH), (19.5, 21.5, 23.5))

    def test_crop_is_centered_and_stays_inside(self) -> None:
        z, y, x = np.indices((10, 12, 14))
        images = np.stack([x + 100 * y + 10_000 * z] * 2)
        assert crop_around(images, np.array([7.0, 6.0, 5.0]), (3, 3, 3))[0, 1, 1, 1] == 7 + 600 + 50_000
        corner = crop_around(images, np.array([13.9, 0.0, 4.5]), (4, 6, 2))
        assert corner.shape == (2, 2, 6, 4)
        assert corner[0, 0, 0, 0] == 10 + 0 + 40_000

    def test_logits_are_those_of_the_network(self) -> None:
        torch.manual_seed(0)
        network = build_network(MICRO, Stage.SURVIVAL).eval()
        crop = np.random.default_rng(0).normal(size=(2, 16, 16, 32)).astype(np.float32)[..., ::2]
        logits = predict_logits(crop, network, Processor(CPU))
        assert logits.dtype == np.float64
        with torch.no_grad():
            expected = network(torch.from_numpy(crop.copy())[None])[0].numpy()
        np.testing.assert_allclose(logits, expected, atol=1e-6)
