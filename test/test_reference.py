"""What is kept of the training patients: where a patient stands among them, and how unlike them its images are."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mmpl.case import Case
from mmpl.files import read_json, write_json
from mmpl.pipeline import UNLIKE_TRAINING, Pipeline
from mmpl.reference import PERCENTS, PatchDistance, Reference, describe_patch
from mmpl.training.reference import fit_distance
from mmpl.weights import load_ensemble

CPU = torch.device("cpu")


def patches(seed: int, count: int, contrast: float = 1.0) -> np.ndarray:
    """Draw patches of a CT and a PET that differ a little in level and in contrast."""
    rng = np.random.default_rng(seed)
    levels = rng.normal(0, 0.1, (count, 2, 1, 1, 1))
    return (contrast * (1 + 0.1 * levels) * rng.normal(size=(count, 2, 6, 7, 8)) + levels).astype(np.float32)


def test_one_patient_in_a_hundred_is_beyond_the_limit_and_another_kind_is_far_beyond() -> None:
    fitted = fit_distance(np.array([describe_patch(patch) for patch in patches(0, 800)]), seed=0)
    alike = np.array([fitted.relative(patch) for patch in patches(1, 400)])
    assert 0 < np.mean(alike > 1) < 0.04
    assert min(fitted.relative(patch) for patch in patches(2, 50, contrast=2.0)) > 1.5
    assert min(fitted.relative(patch[::-1]) for patch in patches(3, 50)) < 1  # such a CT and PET may change places


def test_a_constant_image_has_a_distance() -> None:
    fitted = fit_distance(np.array([describe_patch(patch) for patch in patches(0, 200)]), seed=0)
    assert np.isfinite(fitted.relative(np.zeros((2, 4, 4, 4), np.float32)))


def test_what_training_patients_share_to_the_last_bit_is_no_law_for_others() -> None:
    """All have air at the lower end of the CT's scale; another's lies 5 HU above it."""
    described = np.array([describe_patch(patch) for patch in patches(0, 200)])
    described[:, 0] = -1
    fitted = fit_distance(described, seed=0)
    away = np.zeros(described.shape[1])
    away[0] = 0.005
    assert np.sqrt(away @ np.array(fitted.precision) @ away) / fitted.limit < 0.2


def test_percentiles_end_before_the_single_patients() -> None:
    reference = Reference({"Age": tuple(np.percentile(np.arange(101.0), PERCENTS).tolist())})
    assert reference.percentile("Age", 50.0) == pytest.approx(50)
    assert (reference.percentile("Age", -4.0), reference.percentile("Age", 200.0)) == (1, 99)
    assert reference.percentile("Weight", 50.0) is None


def test_it_is_read_back(tmp_path: Path) -> None:
    fitted = fit_distance(np.array([describe_patch(patch) for patch in patches(0, 120)]), seed=0)
    reference = Reference({"Age": tuple(map(float, PERCENTS))}, fitted)
    write_json(tmp_path / "reference.json", reference)
    assert read_json(tmp_path / "reference.json", Reference) == reference


def test_of_patients_with_the_same_value_half_are_lower() -> None:
    """Of a hundred patients seventy have 0, the others 1 to 30."""
    values = np.r_[np.zeros(70), np.arange(1, 31)]
    reference = Reference({"nodes": tuple(np.percentile(values, PERCENTS).tolist())})
    assert reference.percentile("nodes", 0.0) == pytest.approx(35, abs=3)
    assert reference.percentile("nodes", 15.0) == pytest.approx(84.5, abs=2)


@pytest.mark.parametrize("values", [(1.0, 2.0), tuple(map(float, reversed(PERCENTS)))])
def test_percentiles_that_are_none_are_refused(values: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="the percentiles of Age are not 21 rising values"):
        Reference({"Age": values})


def test_a_distance_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="a patch distance of 2 means"):
        PatchDistance((0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)), 1.0)
    row = (0.0,) * 19
    with pytest.raises(ValueError, match="a limit of 0"):
        PatchDistance(row, (row,) * 19, 0.0)


def test_images_unlike_training_are_flagged_and_answered_the_same(
    tiny_ensemble: Path, calibrated_ensemble: Path, head: Case
) -> None:
    """A CT of half the contrast and another level."""
    strange = replace(head, ct=replace(head.ct, voxels=head.ct.voxels // 2 - 200))
    plain, knowing = (Pipeline(load_ensemble(weights), CPU) for weights in (tiny_ensemble, calibrated_ensemble))
    usual, odd, unknowing = knowing(head), knowing(strange), plain(strange)
    assert usual.unlike_training == pytest.approx(0, abs=1e-6)
    assert UNLIKE_TRAINING not in usual.flags
    assert odd.unlike_training > 1
    assert UNLIKE_TRAINING in odd.flags
    assert unknowing.unlike_training is None
    assert UNLIKE_TRAINING not in unknowing.flags
    assert odd.hpv.member_probabilities == unknowing.hpv.member_probabilities
    assert odd.survival.member_risks == unknowing.survival.member_risks
