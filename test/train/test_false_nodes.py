"""Dropping lesions that are probably false: counts are those of the metrics, and no patient decides on itself."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from rich.console import Console

from mmpl import metrics
from mmpl.lesions import Lesion, Side, Uptake
from mmpl.names import Label
from train.experiments.false_nodes import (
    FACTS,
    METRICS,
    Found,
    Score,
    aggregated_dice,
    aggregated_f1,
    by_fact,
    by_model,
    choose_threshold,
    compare,
    cross_validate,
    describe,
    is_largest,
    mean_dice,
    tabulate,
)

AIMS = list(METRICS[Label.GTVN].values())


def make_found(patients: int, seed: int = 0, telling: bool = True) -> Found:
    """A hit and a false lesion in each patient; the first fact is high for hits, or says nothing."""
    rng, hit = np.random.default_rng(seed), np.tile([True, False], patients)
    facts = rng.normal(size=(2 * patients, len(FACTS)))
    facts[:, 0] += 8 * hit * telling
    facts[rng.random(facts.shape) < 0.1] = np.nan
    facts[:, 0] = np.nan_to_num(facts[:, 0], nan=4.0)
    many, one = np.full(2 * patients, 10), np.ones(patients, int)
    return Found(np.repeat(np.arange(patients), 2), facts, many, np.where(hit, 8, 0), hit, 12 * one, one)


def as_mask(lesions: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    for lesion in lesions:
        mask[tuple(lesion.T)] = True
    return mask


def test_counts_are_those_of_the_metrics_whatever_is_kept() -> None:
    reference = np.zeros((12, 12, 30), bool)
    reference[2:6, 2:6, 2:12] = reference[2:6, 2:6, 20:24] = True
    boxes = (np.s_[2:6, 2:6, 2:6], np.s_[2:6, 2:6, 8:12], np.s_[3:7, 2:6, 20:24], np.s_[9:11, 9:11, 1:4])
    lesions = []
    for box in boxes:  # two halves of a lesion, each of which would be a hit, another one shifted, a false one
        part = np.zeros(reference.shape, bool)
        part[box] = True
        lesions.append(np.argwhere(part))
    found = compare(reference, lesions, [np.zeros(len(FACTS))] * 4)
    assert found.hit.sum() == 2
    assert found.hit[:2].sum() == 1  # one to one
    assert not found.hit[3]
    for kept in ([1, 1, 1, 1], [*found.hit[:2], 1, 0], [0, 0, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]):
        mask = as_mask([lesion for lesion, stays in zip(lesions, kept, strict=True) if stays], reference.shape)
        overlap, counts = metrics.count_overlap(reference, mask), metrics.lesion_counts(reference, mask)
        rows = found.count(np.array(kept, bool))
        assert rows.tolist() == [
            [overlap.intersection, overlap.total, counts.true_positives, counts.false_positives, counts.false_negatives]
        ]
        assert mean_dice(rows) == aggregated_dice(rows) == pytest.approx(overlap.dice)
        assert aggregated_f1(rows) == pytest.approx(metrics.aggregated_f1([counts]))


def test_nothing_found_and_nothing_there() -> None:
    nothing = compare(np.zeros((3, 3, 3), bool), [], [])
    assert nothing.count(nothing.hit).tolist() == [[0, 0, 0, 0, 0]]
    assert mean_dice(nothing.count(nothing.hit)) == 1.0
    missed = compare(np.ones((3, 3, 3), bool), [], [])
    assert missed.count(missed.hit).tolist() == [[0, 27, 0, 0, 1]]


def test_patients_taken_and_joined_again_are_the_same() -> None:
    found = make_found(7)
    both = Found.join([found.take(np.array([0, 2, 3])), found.take(np.array([1, 4, 5, 6]))])
    kept = np.arange(14) % 3 > 0
    moved = np.concatenate([kept[np.isin(found.patient, part)] for part in ([0, 2, 3], [1, 4, 5, 6])])
    assert both.count(moved).tolist() == found.count(kept)[[0, 2, 3, 1, 4, 5, 6]].tolist()


@pytest.mark.parametrize("score", [by_fact(FACTS[0]), by_model(lambda found: found.hit)], ids=["fact", "model"])
def test_false_lesions_that_are_told_apart_are_dropped(score: Score) -> None:
    """But for those whose first fact is missing, and a hit that is the lowest of all."""
    found = make_found(40)
    kept = cross_validate(found, score, AIMS)
    assert (kept == found.hit).mean() > 0.9
    assert aggregated_f1(found.count(kept)) > aggregated_f1(found.count(kept | True)) + 0.25


def test_where_nothing_is_false_nothing_is_dropped() -> None:
    """All lesions are hits, so that nothing is gained by dropping any."""
    found = replace(make_found(40, telling=False), shared=np.full(80, 8), hit=np.ones(80, bool))
    assert cross_validate(found, by_fact(FACTS[0]), AIMS).all()


def test_no_patient_takes_part_in_what_is_decided_of_it() -> None:
    found = make_found(40)
    found.facts[:, 1] = found.patient
    pairs = []

    def spy(seen: Found, unseen: Found) -> np.ndarray:
        pairs.append((set(seen.facts[:, 1]), set(unseen.facts[:, 1])))
        return unseen.facts[:, 0]

    cross_validate(found, spy, AIMS)
    assert all(seen.isdisjoint(unseen) for seen, unseen in pairs)
    outer = [pair for pair in pairs if len(set.union(*pair)) == 40]
    assert sorted(patient for _, unseen in outer for patient in unseen) == list(range(40))
    of_one_part = pairs[: len(pairs) // 10]
    assert set.union(*(seen | unseen for seen, unseen in of_one_part[:-1])).isdisjoint(of_one_part[-1][1])


def test_of_equal_thresholds_that_stands_which_drops_least() -> None:
    found = make_found(20)
    assert choose_threshold(found, np.arange(40.0), [lambda _: 0.5]) == -np.inf


def test_the_largest_lesion_is_its_patients() -> None:
    found = replace(make_found(2), voxels=np.array([3, 5, 2, 1]))
    assert is_largest(found).tolist() == [False, True, True, False]


def test_facts_by_hand() -> None:
    node = Lesion(Label.GTVN, 2.0, 20.0, (30.0, 0.0, 0.0), Side.LEFT, 12.0, Uptake(6.0, 3.0, 5.0, 6.0), 0.5)
    primary = replace(node, label=Label.GTVP, side=Side.RIGHT, from_primary_mm=None, uptake=None, found_by=None)
    edges_mm = np.array([[-40.0, -50.0, -60.0], [40.0, 50.0, 60.0]])
    of = partial(describe, probability=np.array([0.6, 0.8]), edges_mm=edges_mm)
    np.testing.assert_allclose(of(node, primary), [np.log(2), 0.8, 0.7, 0.5, 6.0, 3.0, 12.0, 10.0, 0.0])
    assert of(node, replace(primary, side=Side.LEFT))[-1] == 1.0
    for first in (replace(primary, side=None), replace(primary, side=Side.MIDLINE), node):
        assert np.isnan(of(node, first)[-1])
    assert np.isnan(of(primary, primary)[[3, 4, 5, 6]]).all()


def test_the_table_says_what_is_gained_patient_by_patient() -> None:
    """A Dice of 1/4 or of 3/4: it is where nothing is dropped that a difference of unlike patients would show."""
    found = replace(make_found(30), shared=np.tile([4, 0, 12, 0], 15))
    console = Console(width=200)
    with console.capture() as captured:
        console.print(tabulate(Label.GTVN, found, {"hits alone": found.hit, "nothing": found.hit | True}))
    lines = captured.get().splitlines()
    (hits,), (nothing,) = ([line for line in lines if name in line] for name in ("hits alone", "nothing"))
    assert "1.000, +0.333 [+0.333, +0.333]" in hits  # F1: two thirds with a false lesion for each hit
    assert nothing.count("+0.000 [+0.000, +0.000]") == 3
