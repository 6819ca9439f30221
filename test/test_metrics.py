"""The official metrics: worked by hand, and against scikit-learn, lifelines and scikit-survival on random input."""

import itertools
import warnings

import numpy as np
import pytest

from mmpl import metrics
from mmpl.metrics import LesionCounts, Overlap

NAN = float("nan")


def line(*voxels: int, length: int = 40) -> np.ndarray:
    """A mask (1, 1, length) with these voxels set."""
    mask = np.zeros((1, 1, length), bool)
    mask[0, 0, list(voxels)] = True
    return mask


EMPTY = line()


def test_dice_by_hand():
    assert metrics.dice(line(0, 1, 2), line(2, 3, 4, 5, 6)) == 2 * 1 / 8
    assert metrics.dice(line(3), line(3)) == 1.0
    assert metrics.dice(EMPTY, EMPTY) == 1.0
    assert metrics.dice(EMPTY, line(1)) == 0.0
    assert metrics.dice(line(1), EMPTY) == 0.0


def test_aggregated_dice_pools_voxels_and_lets_empty_pairs_weigh_nothing():
    overlaps = [metrics.count_overlap(line(0, 1, 2), line(2, 3, 4, 5, 6)), Overlap(10, 20), Overlap(0, 0)]
    assert metrics.aggregated_dice(overlaps) == 2 * (1 + 10) / (8 + 20)
    assert np.isnan(metrics.aggregated_dice([Overlap(0, 0)]))
    assert np.isnan(metrics.aggregated_dice([]))


@pytest.mark.parametrize("measure", [metrics.dice, metrics.lesion_counts, metrics.count_overlap])
def test_masks_on_other_grids_are_refused(measure):
    with pytest.raises(ValueError, match=r"\(1, 1, 40\) and \(1, 1, 39\)"):
        measure(line(1), line(1, length=39))


@pytest.mark.parametrize(
    ("reference", "prediction", "expected"),
    [
        (EMPTY, EMPTY, (0, 0, 0)),
        (EMPTY, line(1, 5), (0, 2, 0)),
        (line(1, 5), EMPTY, (0, 0, 2)),
        (line(1, 2, 5), line(1, 2, 5), (2, 0, 0)),
        # 3 shared of 10 together: an IoU of exactly 0.30 is no hit
        (line(*range(6)), line(*range(3, 10)), (0, 1, 1)),
        # 6 of 20, the same ratio from other numbers
        (line(*range(13)), line(*range(7, 20)), (0, 1, 1)),
        # 3 of 9: just above
        (line(*range(6)), line(*range(3, 9)), (1, 0, 0)),
        # one true lesion split in two halves that both exceed 0.30 (4 of 10 and 5 of 10): one hit, one false positive
        (line(*range(10)), line(0, 1, 2, 3, 5, 6, 7, 8, 9), (1, 1, 0)),
        # two true lesions under one prediction (5 and 5 of 11): one hit, one miss
        (line(0, 1, 2, 3, 4, 6, 7, 8, 9, 10), line(*range(11)), (1, 0, 1)),
    ],
)
def test_lesion_counts_by_hand(reference, prediction, expected):
    assert metrics.lesion_counts(reference, prediction) == LesionCounts(*expected)


def test_matching_finds_as_many_hits_as_there_are():
    # lesions A = 0..9 and B = 11..15; predictions p = 0..3 and q = 5..15: q hits A (5 of 16, IoU 0.3125) and B (5 of
    # 11), p hits only A. Giving A to q would leave p or B out; one-to-one both are found.
    reference, prediction = line(*range(10), *range(11, 16)), line(*range(4), *range(5, 16))
    assert metrics.lesion_counts(reference, prediction) == LesionCounts(2, 0, 0)


def test_lesions_touching_by_a_corner_are_one():
    mask = np.zeros((4, 4, 4), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = True
    assert metrics.lesion_counts(mask, mask) == LesionCounts(1, 0, 0)
    mask[1, 1, 1], mask[2, 2, 2] = False, True
    assert metrics.lesion_counts(mask, mask) == LesionCounts(2, 0, 0)


def test_aggregated_f1_pools_counts():
    counts = [LesionCounts(2, 1, 0), LesionCounts(0, 0, 3), LesionCounts(0, 0, 0)]
    assert metrics.aggregated_f1(counts) == 2 * 2 / (2 * 2 + 1 + 3)
    assert np.isnan(metrics.aggregated_f1([LesionCounts(0, 0, 0)]))
    assert np.isnan(metrics.aggregated_f1([]))


def test_hausdorff_is_in_millimeters():
    a, b = np.zeros((10, 10, 10), bool), np.zeros((10, 10, 10), bool)
    a[2, 5, 5] = b[6, 5, 5] = True
    assert metrics.hausdorff95_mm(a, b, (2.5, 1.0, 1.0)) == 10.0
    assert metrics.hausdorff95_mm(a, a, (2.5, 1.0, 1.0)) == 0.0
    assert np.isnan(metrics.hausdorff95_mm(a, np.zeros_like(a), (1.0, 1.0, 1.0)))


@pytest.mark.parametrize(
    ("risk", "days", "relapse", "expected"),
    [
        ([3, 2, 1], [100, 200, 300], [1, 1, 0], 1.0),
        ([1, 2, 3], [100, 200, 300], [1, 1, 0], 0.0),
        # pairs: (0,1) right, (0,2) tied in risk, (1,2) wrong
        ([2, 1, 2], [100, 200, 300], [1, 1, 0], (1 + 0.5 + 0) / 3),
        # a missing prediction is half right in both its pairs
        ([3, NAN, 1], [100, 200, 300], [1, 1, 1], (0.5 + 1 + 0.5) / 3),
        # two events on one day do not compare; each compares with the third
        ([3, 9, 5], [100, 100, 200], [1, 1, 0], 0.5),
        # an event on the day another's follow-up ends came first
        ([3, 1], [100, 100], [1, 0], 1.0),
        # a patient censored first compares with nobody who relapsed later
        ([3, 1], [100, 200], [0, 1], NAN),
        ([3, 1], [100, 200], [0, 0], NAN),
        ([3], [100], [1], NAN),
        ([], [], [], NAN),
    ],
)
def test_c_index_by_hand(risk, days, relapse, expected):
    assert metrics.c_index(risk, days, relapse) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("seed", range(20))
def test_c_index_is_that_of_every_pair(seed, monkeypatch):
    """Ties of every kind and missing risks, with days and risks that lie across the blocks that it counts in."""
    monkeypatch.setattr(metrics, "_BLOCK", 7)
    random = np.random.default_rng(seed)
    days, relapse = random.integers(0, 15, 60), random.random(60) < 0.5
    risk = np.where(random.random(60) < 0.1, np.nan, random.integers(0, 8, 60))
    score, pairs = 0.0, 0
    for first, second in itertools.permutations(range(60), 2):
        followed_on = days[second] > days[first] or (days[second] == days[first] and not relapse[second])
        if relapse[first] and followed_on:
            pairs += 1
            score += 1.0 if risk[first] > risk[second] else 0.0 if risk[first] < risk[second] else 0.5
    assert metrics.c_index(risk, days, relapse) == pytest.approx(score / pairs, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_c_index_agrees_with_lifelines_and_scikit_survival(seed):
    from lifelines.utils import concordance_index
    from sksurv.metrics import concordance_index_censored

    random = np.random.default_rng(seed)
    days = random.integers(1, 40, 120)
    relapse = random.random(120) < 0.4
    risk = np.round(-0.05 * days + random.normal(size=120), 1)
    ours = metrics.c_index(risk, days, relapse)
    assert ours == pytest.approx(concordance_index(days, -risk, relapse), abs=1e-12)
    assert ours == pytest.approx(concordance_index_censored(relapse, days, risk, tied_tol=0)[0], abs=1e-12)
    assert ours > 0.55


@pytest.mark.parametrize("seed", range(5))
def test_roc_auc_and_balanced_accuracy_agree_with_scikit_learn(seed):
    from sklearn.metrics import balanced_accuracy_score, roc_auc_score

    random = np.random.default_rng(seed)
    truth = random.random(150) < 0.3
    score = np.round(truth + random.normal(size=150), 1)
    assert metrics.roc_auc(score, truth) == pytest.approx(roc_auc_score(truth, score), abs=1e-12)
    assert metrics.balanced_accuracy(score > 0.6, truth) == pytest.approx(balanced_accuracy_score(truth, score > 0.6))
    stages, answered = random.choice([1, 2, 4], 60), random.integers(1, 5, 60)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an answer that is no true stage
        expected = balanced_accuracy_score(stages, answered)
    assert metrics.mean_recall(answered, stages) == pytest.approx(expected)


def test_hpv_metrics_with_missing_answers():
    # negatives 0.2 and missing, positives 0.1 and 0.9: pairs 0, half, 1, half
    assert metrics.roc_auc([0.2, NAN, 0.1, 0.9], [0, 0, 1, 1]) == 0.5
    # sensitivity 1 of 2, specificity 1 of 2 (the missing one is wrong)
    assert metrics.balanced_accuracy([0, NAN, 0, 1], [0, 0, 1, 1]) == 0.5
    assert metrics.balanced_accuracy([0, 0, NAN, 1], [0, 0, 1, 1]) == 0.75
    assert metrics.mean_recall([1, NAN, 3, 3], [1, 1, 2, 3]) == (0.5 + 0 + 1) / 3
    assert np.isnan(metrics.mean_recall([], []))


@pytest.mark.parametrize("truth", [[], [1, 1], [0, 0]])
def test_hpv_metrics_need_both_classes(truth):
    assert np.isnan(metrics.roc_auc([0.5] * len(truth), truth))
    assert np.isnan(metrics.balanced_accuracy([1] * len(truth), truth))
