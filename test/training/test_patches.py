"""The cache of patches, the crops taken from it, and the loop that trains on them."""

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from mmpl.case import Grid, Image
from mmpl.geometry import place_box
from mmpl.io.images import read_image, write_image
from mmpl.names import Stage
from mmpl.network import StageNetwork, build_network
from mmpl.preprocess import PreparedCase
from mmpl.profile import AugmentationSettings, OutcomeTraining, SegmentationTraining, load_profile
from mmpl.segmentation import UNTUNED
from mmpl.training import loop, patches
from mmpl.training.augment import Warp, _interpolate, vary_intensities, warped_crop
from mmpl.training.boxed import Boxed
from mmpl.training.loop import Job, average_decay, draw_ahead, learning_rate, train
from mmpl.training.outcome_network import training_center
from mmpl.training.patches import Batch, DrawBatch, LesionCrops, PatchStore, SegmentationCrops, hash_of
from mmpl.training.records import SegmentationRecord
from mmpl.training.workspace import RunSettings, Workspace

SHAPE = (10, 12, 14)
ROI = Grid((14, 12, 10), (3.0, 3.0, 3.0), (-1.5, 2.25, 1 / 3))
CT_GRID = Grid((30, 30, 20), (1.1, 1.1, 3.0), (-5.0, 2.0, 1.0), (-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0))
PLACES = np.arange(np.prod(SHAPE)).reshape(SHAPE)
"""A number for each voxel, below 2048, so that float16 holds it exactly."""


def make_case(patient_id: str, labels: NDArray | None, images: NDArray | None = None) -> PreparedCase:
    if images is None:
        images = np.stack([PLACES, PLACES])
    return PreparedCase(patient_id, images.astype(np.float32), labels, ROI, CT_GRID, ("a flag",))


def two_lesions() -> NDArray[np.float32]:
    """A large GTVp in one corner and one voxel of GTVn in the other."""
    labels = np.zeros((2, *SHAPE), np.float32)
    labels[0, :4, :5, :5] = 1.0
    labels[1, 9, 11, 13] = 0.8
    return labels


@pytest.fixture
def store(tmp_path: Path) -> PatchStore:
    store = PatchStore(tmp_path / "patches")
    for name in ("A", "B", "C"):
        store.save(make_case(name, two_lesions()), "0123")
    return store


class Killed(Exception):
    """Stands in for the end of the process."""


CPU = torch.device("cpu")
SPACING_MM = 3.0
STILL = AugmentationSettings(
    flip=0, rotation_degrees=0, scale=0, misalignment_mm=0, gain=0, offset=0, noise=0, modality_dropout=0
)
"""Leaves crops as they are."""
LIVELY = load_profile("demo").training.augmentation
PROFILE = load_profile("micro")


class TestStore:
    def test_gives_back_what_was_saved(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        case = make_case("A", rng.random((2, *SHAPE), np.float32), rng.normal(0, 5, (2, *SHAPE)))
        store = PatchStore(tmp_path / "new" / "patches")
        assert not store.has("A")
        store.save(case, "0123")
        assert store.has("A")
        back = store.load("A")
        assert replace(back, images=case.images, labels=case.labels) == case
        np.testing.assert_allclose(back.images, case.images, rtol=2**-11, atol=1e-7)
        np.testing.assert_allclose(back.labels, case.labels, atol=0.5 / 255 + 1e-6)
        assert back.images.dtype == back.labels.dtype == np.float32

    def test_whole_labels_come_back_exactly(self, tmp_path: Path) -> None:
        store = PatchStore(tmp_path)
        store.save(make_case("A", (two_lesions() > 0).astype(np.float32)), "0123")
        np.testing.assert_array_equal(store.load("A").labels, two_lesions() > 0)

    def test_a_patient_may_have_no_labels(self, tmp_path: Path) -> None:
        store = PatchStore(tmp_path)
        store.save(make_case("A", None), "0123")
        assert store.labels("A") is None
        assert store.load("A").labels is None

    def test_keeps_the_reference_mask_as_it_was_drawn(self, tmp_path: Path) -> None:
        store = PatchStore(tmp_path)
        drawn = np.random.default_rng(0).integers(0, 3, CT_GRID.shape_zyx).astype(np.uint8)
        store.save(make_case("A", two_lesions()), "0123", drawn)
        store.save(make_case("B", None), "0123")
        np.testing.assert_array_equal(store.reference("A"), drawn)
        assert store.reference("B") is None

    def test_a_patient_is_known_by_the_ct_in_any_format(self, tmp_path: Path) -> None:
        voxels = np.random.default_rng(0).integers(-1024, 3000, CT_GRID.shape_zyx).astype(np.int16)
        hashes = [hash_of(Image(voxels, CT_GRID)), hash_of(Image(voxels.astype(np.float32), CT_GRID))]
        for name in ("ct.mha", "ct.nii.gz", "ct.nrrd"):
            write_image(tmp_path / name, Image(voxels, CT_GRID))
            hashes.append(hash_of(read_image(tmp_path / name)))
        hashes.append(hash_of(Image(voxels[:, ::-1], CT_GRID)))  # as where an axis runs the other way
        voxels[0, 0, 0] += 1
        assert len(set(hashes)) == 1
        assert hash_of(Image(voxels, CT_GRID)) != hashes[0]

    def test_half_a_patient_does_not_count(self, store: PatchStore) -> None:
        (store.folder / "A.json").unlink()
        assert not store.has("A")
        assert store.has("B")

    @pytest.mark.parametrize("kind", ["images", "labels"])
    def test_a_patient_with_a_cut_or_a_lost_file_does_not_count(self, store: PatchStore, kind: str) -> None:
        """As an interrupted copy of the folder leaves it."""
        cut, lost = (next(store.folder.glob(f"{name}.{kind}.*")) for name in ("A", "B"))
        cut.write_bytes(cut.read_bytes()[:-1])
        lost.unlink()
        assert [store.has(name) for name in "ABC"] == [False, False, True]

    def test_killed_while_a_patient_is_written_again_it_does_not_count(
        self, store: PatchStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def save_half(path: Path, array: NDArray) -> None:
            raise Killed

        monkeypatch.setattr(patches.np, "save", save_half)
        with pytest.raises(Killed):
            store.save(make_case("A", None), "0123")
        assert not store.has("A")

    def test_a_patient_that_is_written_again_keeps_nothing_of_before(self, store: PatchStore) -> None:
        store.save(make_case("A", None), "0123")
        assert store.load("A").labels is None
        assert {path.name for path in store.folder.glob("A.*")} == {"A.images.npy", "A.json"}

    @pytest.mark.parametrize("length", [None, 0, 40])
    def test_what_another_version_wrote_is_refused_by_name(self, store: PatchStore, length: int | None) -> None:
        """As is a damaged description. Labels lay in a file of another name, and must not be taken for missing."""
        path = store.folder / "A.json"
        described = json.loads(path.read_text())
        del described["file_bytes"]  # was not there
        path.write_text(json.dumps(described)[:length])
        uses = (store.has, store.labels, store.load, store.reference)
        for use in uses:
            with pytest.raises(
                ValueError, match=r"A\.json: .* remove .*patches and run python -m train.prepare again$"
            ):
                use("A")

    def test_images_are_mapped_and_not_read(self, store: PatchStore) -> None:
        assert isinstance(store.images("A"), np.memmap)
        assert store.images("A").dtype == np.float16


def keep_plainly(case: PreparedCase) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
    """Give images and labels as a store without boxes would keep them."""
    assert case.labels is not None
    return case.images.astype(np.float16), np.rint(case.labels.clip(0, 1) * 255).astype(np.uint8)


def draw_plainly(
    kept: Mapping[str, tuple[NDArray[np.float16], NDArray[np.uint8]]],
    settings: SegmentationTraining,
    augmentation: AugmentationSettings,
    seed: int,
    step: int,
) -> Batch:
    """Draw a batch of stage 1 from whole arrays: how it was done before labels were boxed."""
    rng, size = np.random.default_rng([seed, step]), settings.crop_xyz
    crops = []
    for name in rng.choice(list(kept), settings.batch):
        images, labels = kept[str(name)]
        z, y, x = labels.shape[1:]
        center = rng.integers(0, (x, y, z))
        lesions = [voxels for voxels in map(np.flatnonzero, labels > 127) if len(voxels)]
        if lesions and rng.random() < settings.lesion_fraction:
            voxels = lesions[rng.integers(len(lesions))]
            reach = [n // 4 for n in size]
            voxel = np.unravel_index(voxels[rng.integers(len(voxels))], (z, y, x))
            center = np.array(voxel[::-1]) + rng.integers(np.negative(reach), reach, endpoint=True)
        start = np.array(place_box(center, (x, y, z), size)[::-1])
        warp = Warp.draw(augmentation, SPACING_MM, rng)
        half = (np.array(size[::-1]) - 1) / 2
        reach = np.abs(warp.matrix) @ half + np.abs(warp.pet_shift)
        low = np.clip(np.floor(start + half - reach).astype(int), 0, np.array((z, y, x)) - 1)
        high = np.clip(np.ceil(start + half + reach).astype(int) + 1, low + 1, (z, y, x))
        box = (slice(None), *(slice(a, b) for a, b in zip(low, high, strict=True)))
        steps = torch.meshgrid(*(torch.arange(n) - (n - 1) / 2 for n in size[::-1]), indexing="ij")
        matrix, first, shift = (
            torch.tensor(values, dtype=torch.float32) for values in (warp.matrix, start + half - low, warp.pet_shift)
        )
        places = torch.stack(steps, dim=-1) @ matrix.T + first
        ct, pet = torch.from_numpy(images[box]).float().split(1)
        crop = torch.cat([_interpolate(ct, places), _interpolate(pet, places + shift)])
        truth = _interpolate(torch.from_numpy(labels[box]).float() / 255, places).clamp(0, 1)
        crops.append((vary_intensities(crop, augmentation, rng), truth))
    drawn, truths = zip(*crops, strict=True)
    return Batch(torch.stack(drawn), (torch.stack(truths),))


@pytest.mark.parametrize("lesion_fraction", [0.0, 0.75])
def test_boxed_labels_give_the_same_batches_to_the_last_bit(tmp_path: Path, lesion_fraction: float) -> None:
    rng = np.random.default_rng(4)
    lesion = np.zeros((2, *SHAPE), np.float32)
    lesion[0, 3:7, 5:9, 2:7] = rng.random((4, 4, 5))
    lesion[1, 6:, :3, 11:] = rng.random((4, 3, 3))
    cases = [
        make_case(name, labels.astype(np.float32), rng.normal(0, 5, (2, *SHAPE)))
        for name, labels in (("A", lesion), ("B", two_lesions()), ("C", 0 * lesion), ("D", rng.random((2, *SHAPE))))
    ]
    store = PatchStore(tmp_path)
    for case in cases:
        store.save(case, "0123")
    draw = segmentation_draw(store, lesion_fraction=lesion_fraction, seed=5, patients="ABCD")
    settings, plain = draw.func.settings, {case.patient_id: keep_plainly(case) for case in cases}
    batches = [(draw(step), draw_plainly(plain, settings, LIVELY, 5, step)) for step in range(60)]
    assert all(same(one, other) for one, other in batches)
    assert any(batch.targets[0].any() for batch, _ in batches)


def segmentation_draw(
    store: PatchStore,
    lesion_fraction: float = 0.5,
    seed: int = 0,
    batch: int = 3,
    augmentation: AugmentationSettings = LIVELY,
    patients: str = "ABC",
) -> partial[Batch]:
    settings = SegmentationTraining(
        steps=1, batch=batch, micro_batch=batch, learning_rate=1, crop_xyz=(8, 6, 4), lesion_fraction=lesion_fraction
    )
    return partial(SegmentationCrops(store, list(patients), settings, augmentation, SPACING_MM, seed), device=CPU)


def lesion_draw(
    store: PatchStore,
    seed: int = 0,
    batch: int = 2,
    jitter: float = 1.0,
    augmentation: AugmentationSettings = LIVELY,
    groups: tuple[str, ...] = ("ABC",),
) -> DrawBatch:
    centers = {name: np.array([7.0, 6.0, 5.0]) for name in "ABC"}
    targets = {name: (np.array([number]), np.full(4, number)) for number, name in enumerate("ABC")}
    settings = OutcomeTraining(
        steps=1, batch=batch, micro_batch=batch, learning_rate=1, crop_xyz=(6, 6, 4), jitter_mm=jitter * SPACING_MM
    )
    groups_of_names = [list(group) for group in groups]
    crops = LesionCrops(store, groups_of_names, centers, targets, settings, augmentation, SPACING_MM, seed)
    return partial(crops, device=CPU)


def same(one: Batch, other: Batch) -> bool:
    pairs = zip((one.images, *one.targets), (other.images, *other.targets), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


class TestDraw:
    @pytest.mark.parametrize("make", [segmentation_draw, lesion_draw])
    def test_a_step_always_gives_the_same_batch(self, store: PatchStore, make: Callable[..., DrawBatch]) -> None:
        draw, again = make(store), make(store)
        later = draw(7)
        assert same(draw(3), again(3))
        assert same(later, again(7))

    @pytest.mark.parametrize("make", [segmentation_draw, lesion_draw])
    def test_steps_and_seeds_differ(self, store: PatchStore, make: Callable[..., DrawBatch]) -> None:
        assert not torch.equal(make(store)(3).images, make(store)(4).images)
        assert not torch.equal(make(store)(3).images, make(store, seed=1)(3).images)

    def test_segmentation_shapes(self, store: PatchStore) -> None:
        batch = segmentation_draw(store)(0)
        (labels,) = batch.targets
        assert batch.images.shape == labels.shape == (3, 2, 4, 6, 8)
        assert batch.images.dtype == labels.dtype == torch.float32
        assert labels.min() >= 0
        assert labels.max() <= 1

    def test_crops_are_whole_boxes_of_the_patch(self, store: PatchStore) -> None:
        starts = set()
        for step in range(60):
            batch = segmentation_draw(store, augmentation=STILL)(step)
            for images, labels in zip(batch.images.numpy(), batch.targets[0].numpy(), strict=True):
                z, y, x = np.unravel_index(round(float(images[0, 0, 0, 0])), SHAPE)
                box = np.s_[z : z + 4, y : y + 6, x : x + 8]
                np.testing.assert_allclose(images, np.stack([PLACES[box]] * 2), atol=1e-2)
                np.testing.assert_allclose(labels, two_lesions()[(slice(None), *box)], atol=0.5 / 255 + 1e-4)
                starts.add((z, y, x))
        assert {z for z, _, _ in starts} == set(range(7))
        assert {y for _, y, _ in starts} == set(range(7))
        assert {x for _, _, x in starts} == set(range(7))

    def test_every_crop_holds_a_lesion_where_that_is_asked(self, store: PatchStore) -> None:
        draw = segmentation_draw(store, lesion_fraction=1.0, augmentation=STILL)
        labels = torch.cat([draw(step).targets[0] for step in range(40)])
        assert (labels.flatten(1).amax(dim=1) > 0.5).all()
        with_node = (labels[:, 1].flatten(1).amax(dim=1) > 0.5).float().mean()
        assert 0.35 < with_node < 0.65  # one voxel of node counts as much as a hundred of tumor

    def test_without_it_crops_fall_anywhere(self, store: PatchStore) -> None:
        draw = segmentation_draw(store, lesion_fraction=0.0, augmentation=STILL)
        labels = torch.cat([draw(step).targets[0] for step in range(40)])
        assert (labels[:, 1].flatten(1).amax(dim=1) > 0.5).float().mean() < 0.3

    def test_a_patient_without_lesion_is_drawn_too(self, tmp_path: Path) -> None:
        store = PatchStore(tmp_path)
        store.save(make_case("A", np.zeros((2, *SHAPE), np.float32)), "0123")
        (labels,) = segmentation_draw(store, lesion_fraction=1.0, patients="A")(0).targets
        assert not labels.any()

    def test_lesion_crops_are_jittered_around_the_center(self, store: PatchStore) -> None:
        draw, seen = lesion_draw(store, jitter=2.0, augmentation=STILL), []
        for step in range(60):
            for images in draw(step).images.numpy():
                first = np.unravel_index(round(float(images[0, 0, 0, 0])), SHAPE)
                box = tuple(slice(a, a + n) for a, n in zip(first, (4, 6, 6), strict=True))
                np.testing.assert_allclose(images[1], PLACES[box], atol=1e-2)
                seen.append(np.subtract(first, (3.5, 3.5, 4.5)))  # a middle at (5, 6, 7)
        assert np.abs(seen).max() <= 2.5
        assert (np.ptp(seen, axis=0) >= 3).all()

    def test_targets_go_with_their_patients(self, tmp_path: Path) -> None:
        store = PatchStore(tmp_path)
        for number, name in enumerate("ABC"):
            store.save(make_case(name, None, np.full((2, *SHAPE), 10.0 * (number + 1))), name)
        batch = lesion_draw(store, batch=3)(0)
        number, row = batch.targets
        assert sorted(number.ravel().tolist()) == [0, 1, 2]  # each once
        assert number.dtype == torch.float32
        assert torch.equal(row, number.expand(3, 4))
        mean = batch.images.flatten(1).mean(dim=1)
        assert torch.equal(torch.round(mean / 10 - 1).clip(0, 2).long(), number.ravel().long())

    def test_a_batch_larger_than_the_cohort_repeats_patients(self, store: PatchStore) -> None:
        assert lesion_draw(store, batch=5)(0).images.shape[0] == 5

    def test_every_group_comes_as_often(self, store: PatchStore) -> None:
        draw = lesion_draw(store, batch=3, groups=("AB", "C"))
        drawn = torch.cat([draw(step).targets[0].ravel() for step in range(40)])
        assert int((drawn == 2).sum()) == 60
        assert 20 < int((drawn == 0).sum()) < 40


def keep_centers(workspace: Workspace, centers_xyz: dict[str, tuple[float, float, float]]) -> None:
    """Keep what later stages read of stage 1."""
    found = {"thresholds": UNTUNED, "gtvp_dice_mean": 0.5, "gtvn_dice_aggregated": 0.5}
    workspace.keep(SegmentationRecord(**found, lesion_centers_xyz=centers_xyz))


def test_crops_of_later_stages_lie_around_the_reference_mask_or_else_the_predicted_one(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, RunSettings("nobody", PROFILE))
    labels = two_lesions()
    labels[0, 4, 5, 5] = 0.4  # no lesion yet
    for name, mask in (("A", labels), ("B", None), ("C", 0 * labels)):
        workspace.store.save(make_case(name, mask), "0123")
    keep_centers(workspace, {"B": (1.0, 2.0, 3.0), "C": (4.0, 5.0, 6.0)})
    found = [training_center(workspace, name).tolist() for name in "ABC"]
    assert found == [[6.5, 5.5, 4.5], [1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
    labels[1] = 0
    workspace.store.save(make_case("A", labels), "0123")
    assert training_center(workspace, "A").tolist() == [2.0, 2.0, 1.5]


def smooth() -> NDArray[np.float32]:
    """A patch that linear interpolation follows well: CT rises along x, PET along z."""
    z, _, x = np.meshgrid(*map(np.arange, SHAPE), indexing="ij")
    return np.stack([x, z]).astype(np.float32)


WHOLE = ((0, 0, 0), SHAPE)


class TestAugment:
    def test_a_flip_swaps_left_and_right_in_images_and_labels(self) -> None:
        mirror = Warp(np.diag([1.0, 1.0, -1.0]), np.zeros(3))
        labels = (two_lesions() * 255).astype(np.uint8)
        crop, truth = warped_crop(smooth(), Boxed.of(labels), *WHOLE, mirror, CPU)
        np.testing.assert_allclose(crop, smooth()[..., ::-1], atol=1e-4)
        np.testing.assert_allclose(truth, labels[..., ::-1] / 255, atol=1e-4)

    def test_a_misaligned_pet_moves_alone(self) -> None:
        moved = Warp(np.eye(3), np.array([0.5, 0.0, 0.0]))
        labels = (two_lesions() * 255).astype(np.uint8)
        crop, truth = warped_crop(smooth(), Boxed.of(labels), *WHOLE, moved, CPU)
        np.testing.assert_allclose(crop[0], smooth()[0], atol=1e-4)
        np.testing.assert_allclose(truth, labels / 255, atol=1e-4)
        np.testing.assert_allclose(crop[1, :-1], smooth()[1, :-1] + 0.5, atol=1e-4)

    def test_a_rotation_turns_about_the_middle_of_the_crop(self) -> None:
        quarter = Warp(np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]]), np.zeros(3))
        start, size = (2, 3, 4), (5, 5, 5)
        crop, _ = warped_crop(smooth(), None, start, size, quarter, CPU)
        inside = smooth()[:, 2:7, 3:8, 4:9]
        # a step along z of the crop is a step down x of the patch; one along x a step up z
        np.testing.assert_allclose(crop, inside.transpose(0, 3, 2, 1)[:, ::-1], atol=1e-4)

    def test_a_scaled_crop_sees_more(self) -> None:
        crop, _ = warped_crop(smooth(), None, (3, 3, 3), (5, 5, 7), Warp(1.2 * np.eye(3), np.zeros(3)), CPU)
        np.testing.assert_allclose(np.diff(crop[0, 2, 2]), 1.2, atol=1e-4)

    def test_only_what_is_needed_is_read(self) -> None:
        """A warped crop does not depend on voxels beyond its reach."""
        warp = Warp.draw(LIVELY, SPACING_MM, np.random.default_rng(1))
        patch = np.random.default_rng(0).normal(size=(2, 40, 40, 40)).astype(np.float32)
        far = patch.copy()
        far[:, :8] = far[:, :, -8:] = np.nan
        box = (16, 16, 16), (8, 8, 8)
        one, other = (warped_crop(images, None, *box, warp, CPU)[0] for images in (patch, far))
        assert torch.equal(one, other)

    def test_draws_stay_within_their_bounds_and_vary(self) -> None:
        warps = [Warp.draw(LIVELY, SPACING_MM, np.random.default_rng(seed)) for seed in range(200)]
        shifts = np.stack([warp.pet_shift for warp in warps]) * SPACING_MM
        scales = np.cbrt([abs(np.linalg.det(warp.matrix)) for warp in warps])
        flips = [np.linalg.det(warp.matrix) < 0 for warp in warps]
        assert 0.8 < np.abs(shifts).max() / LIVELY.misalignment_mm <= 1
        assert 0.8 < np.abs(scales - 1).max() / LIVELY.scale <= 1
        assert 70 < sum(flips) < 130

    def test_changes_intensities_by_a_few_percent_in_each_image_apart(self) -> None:
        images = torch.stack([torch.full(SHAPE, 1.0), torch.full(SHAPE, 10.0)])
        settings = LIVELY.model_copy(update={"modality_dropout": 0.0})
        means = np.array(
            [vary_intensities(images, settings, np.random.default_rng(s)).mean(dim=(1, 2, 3)) for s in range(40)]
        )
        assert (np.abs(means - (1, 10)) <= (0.16, 1.06)).all()
        assert (means.std(axis=0) > (0.03, 0.3)).all()
        assert abs(np.corrcoef(means.T)[0, 1]) < 0.5

    def test_a_lost_modality_is_blank_and_the_other_is_not(self) -> None:
        settings = STILL.model_copy(update={"modality_dropout": 0.999})
        crops = [vary_intensities(torch.ones(2, *SHAPE), settings, np.random.default_rng(s)) for s in range(20)]
        assert {tuple(crop.amax((1, 2, 3)).tolist()) for crop in crops} == {(0.0, 1.0), (1.0, 0.0)}

    def test_leaves_the_cache_alone_and_needs_no_labels(self) -> None:
        images = np.ones((2, *SHAPE), np.float16)
        crop, truth = warped_crop(images, None, *WHOLE, Warp(np.eye(3), np.zeros(3)), CPU)
        vary_intensities(crop, LIVELY, np.random.default_rng(0))
        assert (images == 1).all()
        assert truth.numel() == 0
        assert crop.dtype == torch.float32


STEPS = 7


def noise_batch(step: int, device: torch.device = CPU) -> Batch:
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(2, 2, 16, 16, 16, generator=generator)  # 4 voxels a side at the coarsest level
    return Batch(images, ((images.mean(dim=(1, 2, 3, 4)) > 0).float()[:, None],))


def both_batches(step: int, device: torch.device) -> Batch:
    """What two devices draw in a step."""
    one, other = (noise_batch(2 * step + rank) for rank in range(2))
    return Batch(torch.cat([one.images, other.images]), (torch.cat([one.targets[0], other.targets[0]]),))


def make_job(folder: Path, draw: DrawBatch = noise_batch, checkpoint_every: int = 2, average_decay: float = 0.5) -> Job:
    """A stage 2 network, whose head has dropout."""
    torch.manual_seed(0)
    return Job(
        network=build_network(PROFILE, Stage.HPV),
        draw=draw,
        loss=binary_cross_entropy_with_logits,
        stage=PROFILE.training.hpv.model_copy(update={"steps": STEPS}),
        shared=PROFILE.training.model_copy(
            update={"checkpoint_every": checkpoint_every, "average_decay": average_decay}
        ),
        seed=5,
        folder=folder,
    )


def killed_at(last: int, drawn: list[int] | None = None) -> DrawBatch:
    def draw(step: int, device: torch.device) -> Batch:
        if drawn is not None:
            drawn.append(step)
        if step == last:
            raise Killed
        return noise_batch(step)

    return draw


def weights(network: StageNetwork) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, dict[str, Tensor]]:
    """A finished training, with the weights it started from."""
    job = make_job(tmp_path_factory.mktemp("undisturbed"))
    before = weights(job.network)
    train(job)
    return job, before


def assert_equal_networks(one: Job, other: Job) -> None:
    """In single precision as they were trained, and in half precision as they were left."""
    for a, b in (
        (weights(one.network), weights(other.network)),
        (load_file(one.finished), load_file(other.finished)),
    ):
        assert set(a) == set(b)
        assert all(torch.equal(a[name], b[name]) for name in a)


class TestLoop:
    def test_trains_every_tensor_and_leaves_half_precision(self, undisturbed: tuple[Job, dict[str, Tensor]]) -> None:
        job, before = undisturbed
        left, trained = load_file(job.finished), weights(job.network)
        assert {value.dtype for value in left.values()} == {torch.float16}
        assert set(left) == set(before)
        assert [name for name in before if torch.equal(trained[name], before[name])] == []
        assert sorted(p.name for p in job.folder.iterdir()) == ["log.csv", "network.safetensors", "tensorboard"]
        rows = (job.folder / "log.csv").read_text().splitlines()
        assert rows[0] == "step,loss,learning_rate,seconds,steps_per_second,skipped,validation"
        assert rows[-1].startswith(f"{STEPS},")

    def test_keeps_the_average_of_the_weights(self, undisturbed: tuple[Job, dict[str, Tensor]], tmp_path: Path) -> None:
        job, _ = undisturbed
        last = make_job(tmp_path, average_decay=0.0)
        train(last)
        kept, averaged, trained = load_file(last.finished), load_file(job.finished), weights(job.network)
        assert all(torch.equal(kept[name], value.half()) for name, value in trained.items())
        assert not all(torch.equal(averaged[name], kept[name]) for name in kept)
        assert all((averaged[name] - kept[name]).abs().max() < 0.01 for name in kept)

    @pytest.mark.parametrize(("last", "resumed_from"), [(1, 0), (5, 4), (6, 6)])
    def test_killed_and_resumed_it_ends_bit_for_bit_the_same(
        self, undisturbed: tuple[Job, dict[str, Tensor]], tmp_path: Path, last: int, resumed_from: int
    ) -> None:
        with pytest.raises(Killed):
            train(make_job(tmp_path, killed_at(last)))
        assert (tmp_path / "checkpoint.pt").is_file() == (resumed_from > 0)
        assert not (tmp_path / "network.safetensors").exists()
        drawn: list[int] = []
        torch.manual_seed(99)  # another process has drawn other numbers
        again = make_job(tmp_path, killed_at(-1, drawn))
        train(again)
        assert drawn == list(range(resumed_from, STEPS))
        assert_equal_networks(again, undisturbed[0])

    def test_killed_while_it_writes_a_checkpoint_it_goes_on_from_the_one_before(
        self, undisturbed: tuple[Job, dict[str, Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save, count = torch.save, iter(range(9))

        def save_half(what: object, path: Path) -> None:
            save(what, path)
            if next(count) == 1:
                path.write_bytes(path.read_bytes()[:1000])
                raise Killed

        monkeypatch.setattr(loop.torch, "save", save_half)
        with pytest.raises(Killed):
            train(make_job(tmp_path))
        drawn: list[int] = []
        again = make_job(tmp_path, killed_at(-1, drawn))
        train(again)
        assert drawn[0] == 2
        assert_equal_networks(again, undisturbed[0])

    def test_killed_while_it_writes_the_network_it_is_not_taken_for_finished(
        self, undisturbed: tuple[Job, dict[str, Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def save_half(tensors: dict[str, Tensor], path: Path) -> None:
            path.write_bytes(b"half a network")
            raise Killed

        with monkeypatch.context() as patched:
            patched.setattr(loop, "save_file", save_half)
            with pytest.raises(Killed):
                train(make_job(tmp_path))
        assert not (tmp_path / "network.safetensors").exists()
        again = make_job(tmp_path)
        train(again)
        assert_equal_networks(again, undisturbed[0])

    @pytest.mark.slow
    def test_two_devices_train_as_one_that_sees_both_batches(self, tmp_path: Path) -> None:
        """DDP, here on two CPU processes: each draws a batch of its own, and their gradients are averaged."""
        settled = {"network": PROFILE.network.model_copy(update={"head_dropout": 0.0})}
        jobs = []
        for folder, draw in (("two", noise_batch), ("one", both_batches)):
            torch.manual_seed(0)
            network = build_network(PROFILE.model_copy(update=settled), Stage.HPV)
            jobs.append(replace(make_job(tmp_path / folder, draw), network=network))
        train(jobs[0], devices=2, accelerator="cpu")
        train(jobs[1], accelerator="cpu")
        two, one = (load_file(job.finished) for job in jobs)
        apart, moved = (
            sum(float((a[name].float() - b[name].float()).abs().sum()) for name in one)
            for a, b in ((two, one), (one, weights(jobs[0].network)))  # this process's copy stays untrained
        )
        assert apart < 0.05 * moved
        assert (jobs[0].folder / "log.csv").read_text().count("\n") == 2  # one process writes

    def test_a_finished_network_is_not_trained_again(self, undisturbed: tuple[Job, dict[str, Tensor]]) -> None:
        finished = undisturbed[0]
        content, time = finished.finished.read_bytes(), finished.finished.stat().st_mtime_ns
        drawn: list[int] = []
        train(make_job(finished.folder, killed_at(0, drawn)))
        assert drawn == []
        assert (finished.finished.read_bytes(), finished.finished.stat().st_mtime_ns) == (content, time)


def test_batches_are_drawn_one_ahead_of_their_step() -> None:
    drawn: list[int] = []
    begun = [threading.Event() for _ in range(4)]

    def draw(step: int, device: torch.device) -> Batch:
        drawn.append(step)
        begun[step].set()
        return noise_batch(step)

    for step, batch in draw_ahead(draw, range(4), CPU):
        assert torch.equal(batch.images, noise_batch(step).images)
        assert begun[min(step + 1, 3)].wait(timeout=10)
        assert drawn == list(range(min(step + 2, 4)))
    assert list(draw_ahead(draw, [], CPU)) == []


def test_the_average_forgets_its_start_and_then_slows_down() -> None:
    decays = [average_decay(step, 0.99) for step in range(2000)]
    assert decays[0] == 0.1
    assert all(a <= b for a, b in pairwise(decays))
    assert decays[-1] == 0.99


def test_learning_rate_warms_up_and_falls_to_nothing() -> None:
    rates = [learning_rate(step, 100, 2e-3, 0.1) for step in range(101)]
    np.testing.assert_allclose(rates[:10], np.arange(1, 11) * 2e-4)
    assert max(rates) == pytest.approx(2e-3)
    assert rates[55] == pytest.approx(1e-3)
    assert rates[100] == pytest.approx(0, abs=1e-12)
    assert all(a >= b for a, b in pairwise(rates[10:]))
    assert learning_rate(0, 1, 1.0, 0.05) == 1.0
