"""Bootstrap intervals, results by center and paired differences."""

from dataclasses import fields, replace

import numpy as np
import pytest

from mmpl.cohort_scores import Results, Scores, by_center, count_patients, differences, interval, intervals, score
from mmpl.names import SCORE_PARTS

PATIENTS = 60


@pytest.fixture(scope="module")
def results() -> Results:
    """Patients whose answers know something, a tenth of everything missing."""
    rng = np.random.default_rng(0)
    positive, days = rng.integers(0, 2, PATIENTS).astype(float), rng.integers(10, 2000, PATIENTS).astype(float)
    probability = np.clip(0.3 + 0.3 * positive + 0.2 * rng.normal(size=PATIENTS), 0, 1)

    def with_gaps(values: np.ndarray) -> np.ndarray:
        return np.where(rng.random(PATIENTS) < 0.1, np.nan, values)

    dice = with_gaps(rng.uniform(0.3, 1, PATIENTS))
    known_days = with_gaps(days)
    return Results(
        center=rng.choice(["1", "2"], PATIENTS),
        gtvp_dice=dice,
        gtvp_hd95_mm=np.where(np.isnan(dice), np.nan, rng.uniform(1, 9, PATIENTS)),
        gtvp_shared=rng.integers(0, 50, PATIENTS).astype(float),
        gtvp_total=rng.integers(100, 200, PATIENTS).astype(float),
        gtvn_shared=rng.integers(0, 50, PATIENTS).astype(float),
        gtvn_total=rng.integers(100, 200, PATIENTS).astype(float),
        gtvn_hits=rng.integers(0, 3, PATIENTS).astype(float),
        gtvn_invented=rng.integers(0, 2, PATIENTS).astype(float),
        gtvn_missed=rng.integers(0, 2, PATIENTS).astype(float),
        mask_predicted=np.ones(PATIENTS, bool),
        answered=np.ones(PATIENTS, bool),
        risk=-days + 500 * rng.normal(size=PATIENTS),
        days=known_days,
        relapse=np.where(np.isnan(known_days), np.nan, rng.integers(0, 2, PATIENTS)),
        hpv_probability=probability,
        hpv_decision=(probability > 0.4).astype(float),
        hpv_positive=with_gaps(positive),
        true_days=days,
        log_hazard=-days,
        hpv_log_likelihood_ratio=positive - 0.5,
    )


def test_intervals_hold_the_scores_and_are_narrower_on_more_patients(results: Results) -> None:
    found, scores = intervals(results, 300), score(results).by_name
    assert set(found) == set(scores)
    for name, value in scores.items():
        assert found[name].low <= value <= found[name].high, name
    many = intervals(results.take(np.tile(np.arange(PATIENTS), 4)), 300)
    for name in ("gtvp_dice_mean", "c_index", "hpv_auc", "hpv_balanced_accuracy"):
        width, narrow = (each[name].high - each[name].low for each in (found, many))
        assert 0.35 < narrow / width < 0.7, name  # one half, were the bootstrap endless
    assert intervals(results, 50) == intervals(results, 50)


@pytest.mark.slow
def test_an_interval_agrees_with_the_normal_one_of_a_mean(results: Results) -> None:
    dice = results.gtvp_dice[~np.isnan(results.gtvp_dice)]
    half = 1.96 * dice.std() / np.sqrt(len(dice))
    low, high = intervals(results, 2000)["gtvp_dice_mean"]
    assert (low, high) == pytest.approx((dice.mean() - half, dice.mean() + half), abs=0.15 * half)


def test_resamples_without_a_value_are_left_out() -> None:
    assert interval([1.0, float("nan"), 1.0]) == (1.0, 1.0)
    assert np.isnan(interval([float("nan")])).all()


def test_results_equal_to_themselves_differ_by_nothing(results: Results) -> None:
    assert set(differences(results, results, 20).values()) == {(0.0, (0.0, 0.0))}


def test_a_paired_difference_is_narrower_than_two_unpaired_ones(results: Results) -> None:
    nudged = replace(results, gtvp_dice=results.gtvp_dice + 0.01)
    difference = differences(nudged, results, 200)["gtvp_dice_mean"]
    assert difference.value == pytest.approx(0.01)
    assert difference.interval == pytest.approx((0.01, 0.01))


def test_answers_that_are_missing_are_no_better_than_those_that_are_there(results: Results) -> None:
    """The same answers, of which one set lacks those of its worse half: on the patients of both nothing differs."""
    rng = np.random.default_rng(1)
    left = rng.random((PATIENTS, 2))
    days = np.tile(np.linspace(0, 2000, 21), (PATIENTS, 1))
    curve = np.exp(-days / rng.uniform(500, 5000, (PATIENTS, 1)))
    whole = replace(results, hpv_calibrated=results.hpv_probability, no_recurrence=left, curve_days=days, curve=curve)
    whole = replace(whole, hpv_set=rng.choice([0.0, 0.5, 1.0], PATIENTS))
    hard = np.abs(results.hpv_probability - results.hpv_positive) > 0.3
    names = ("gtvp_hd95_mm", "hpv_calibrated", "hpv_set", "no_recurrence", "curve")
    gaps = {name: getattr(whole, name).copy() for name in names}
    for values in gaps.values():
        values[hard] = np.nan
    gaps["curve"], gaps["curve_days"] = gaps["curve"][:, ::2], days[:, ::2]
    found = differences(replace(whole, **gaps), whole, 20)
    assert {"hpv_brier", "hpv_set_undecided", "gtvp_hd95_median_mm", "relapse_2_years_brier_skill"} <= found.keys()
    assert {name: each.value for name, each in found.items() if abs(each.value) > 0.02} == {}  # curves of fewer days
    assert found["hpv_brier"] == found["gtvp_hd95_median_mm"] == (0.0, (0.0, 0.0))


def test_centers_partition_the_patients(results: Results) -> None:
    parts = by_center(results)
    assert list(parts) == ["1", "2"]
    assert sum(len(part) for part in parts.values()) == PATIENTS
    assert sum(count_patients(part).events for part in parts.values()) == count_patients(results).events


def test_a_score_with_a_part_that_is_not_there_is_undefined(results: Results) -> None:
    assert np.isnan(score(results, {"c_index": 0.5, "t_balanced_accuracy": 0.5}).edition_score)
    assert score(results, {"c_index": 1.0}).edition_score == score(results).c_index
    assert score(results).edition_score is None
    assert set(SCORE_PARTS) <= {field.name for field in fields(Scores)}


def test_without_hidden_truth_there_is_no_oracle(results: Results) -> None:
    known = score(replace(results, true_days=None, log_hazard=None, hpv_log_likelihood_ratio=None))
    assert known.oracle_hpv_auc is None
    assert "c_index_uncensored" not in known.by_name
    assert score(results).oracle_hpv_auc == score(results).oracle_c_index_uncensored == 1.0
