"""Calibration and Brier scores: by hand, on simulated patients, against scikit-survival."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit
from scipy.stats import chisquare
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sksurv.metrics import brier_score, cumulative_dynamic_auc, integrated_brier_score
from sksurv.util import Surv

from mmpl import reliability
from mmpl.metrics import roc_auc

PATIENTS = 400


class Simulated:
    """Patients with exponential times of known hazards, a third censored evenly."""

    def __init__(self, seed: int = 0, count: int = PATIENTS, whole_days: bool = False) -> None:
        rng = np.random.default_rng(seed)
        self.risk = rng.normal(size=count)
        self.hazard = np.exp(self.risk) / 3000
        times, censored = rng.exponential(1 / self.hazard), rng.uniform(0, 5000, count)
        self.days, self.relapse = np.minimum(times, censored), times <= censored
        if whole_days:
            self.days = np.ceil(self.days / 100) * 100
        self.grid = np.linspace(0, 2500, 26)
        self.curves = np.exp(-self.hazard[:, None] * self.grid)

    @property
    def outcome(self) -> np.ndarray:
        return Surv.from_arrays(self.relapse, self.days)


@pytest.fixture(scope="module")
def patients() -> Simulated:
    return Simulated()


def test_a_days_brier_score_and_auc_are_those_of_scikit_survival(patients: Simulated) -> None:
    for day in (300.0, 1000.0, 2000.0):
        left = np.exp(-patients.hazard * day)
        happened, weight = reliability.known_by(day, patients.days, patients.relapse)
        (wanted,) = brier_score(patients.outcome, patients.outcome, left, day)[1]
        assert reliability.brier(1 - left, happened, weight) == pytest.approx(wanted, abs=1e-9)
        (wanted,) = cumulative_dynamic_auc(patients.outcome, patients.outcome, patients.risk, day)[0]
        assert roc_auc(patients.risk, happened, weight) == pytest.approx(wanted, abs=1e-9)


def test_the_integrated_brier_score_is_that_of_scikit_survival(patients: Simulated) -> None:
    found, skill = reliability.integrated_brier(patients.grid, patients.curves, patients.days, patients.relapse)
    wanted = integrated_brier_score(patients.outcome, patients.outcome, patients.curves[:, 1:], patients.grid[1:])
    first = brier_score(patients.outcome, patients.outcome, patients.curves[:, 1], patients.grid[1])[1][0]
    width, whole = patients.grid[1], patients.grid[-1]
    assert found == pytest.approx((wanted * (whole - width) + first / 2 * width) / whole, abs=1e-9)  # 0 on day 0
    assert 0.05 < skill < 0.4


@pytest.mark.parametrize("whole_days", [False, True])
def test_weights_stand_for_those_who_were_censored(whole_days: bool) -> None:
    """Their sum is the number of patients, and they give Kaplan-Meier's share, ties or not."""
    from lifelines import KaplanMeierFitter

    patients = Simulated(1, whole_days=whole_days)
    fitted = KaplanMeierFitter().fit(patients.days, patients.relapse)
    for day in (300.0, 1000.0, 2000.0):
        happened, weight = reliability.known_by(day, patients.days, patients.relapse)
        assert weight.sum() == pytest.approx(PATIENTS, abs=1e-6)
        assert np.average(happened, weights=weight) == pytest.approx(1 - fitted.predict(day), abs=1e-9)
        assert (weight[~happened & (patients.days <= day)] == 0).all()


def test_nothing_is_said_of_days_that_nearly_nobody_is_followed_to(patients: Simulated) -> None:
    beyond = float(np.quantile(patients.days, 0.95))
    happened, weight = reliability.known_by(beyond, patients.days, patients.relapse)
    assert not weight.any()
    for measure in (reliability.brier, reliability.brier_skill, roc_auc):
        assert math.isnan(measure(patients.risk, happened, weight))
    assert math.isnan(reliability.calibration_slope(expit(patients.risk), happened, weight))
    late = np.array([beyond, beyond + 1])
    assert math.isnan(reliability.integrated_brier(late, np.ones((PATIENTS, 2)), patients.days, patients.relapse)[0])


def test_calibrated_probabilities_have_slope_1_and_intercept_0() -> None:
    rng = np.random.default_rng(0)
    probability = expit(rng.normal(size=40000))
    happened = rng.random(40000) < probability
    assert reliability.calibration_slope(probability, happened) == pytest.approx(1, abs=0.04)
    assert reliability.calibration_intercept(probability, happened) == pytest.approx(0, abs=0.03)
    extreme, high = expit(2 * logit(probability)), expit(logit(probability) + 1)
    assert reliability.calibration_slope(extreme, happened) == pytest.approx(0.5, abs=0.02)
    assert reliability.calibration_intercept(high, happened) == pytest.approx(-1, abs=0.03)
    assert reliability.brier(probability, happened) < reliability.brier(extreme, happened)
    assert reliability.brier_skill(probability, happened) > reliability.brier_skill(high, happened)


def test_slope_and_auc_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(5)
    for count in (12, 80):
        score = np.round(rng.random(count), 1 if count > 50 else 3)  # with ties
        weight = rng.random(count) * (rng.random(count) < 0.8)
        happened = rng.random(count) < 0.3 + 0.4 * score
        probability = np.clip(score, 0.02, 0.98)
        wanted = LogisticRegression(C=np.inf, tol=1e-10).fit(logit(probability)[:, None], happened, weight).coef_[0, 0]
        assert reliability.calibration_slope(probability, happened, weight) == pytest.approx(wanted, abs=1e-4)
        wanted = roc_auc_score(happened, score, sample_weight=weight)
        assert roc_auc(score, happened, weight) == pytest.approx(wanted, abs=1e-12)


def test_a_days_calibration_is_found_in_spite_of_censoring() -> None:
    patients = Simulated(2, 20000)
    happened, weight = reliability.known_by(730.5, patients.days, patients.relapse)
    probability = 1 - np.exp(-patients.hazard * 730.5)
    assert reliability.calibration_slope(probability, happened, weight) == pytest.approx(1, abs=0.05)
    assert reliability.calibration_intercept(probability, happened, weight) == pytest.approx(0, abs=0.05)


def test_brier_skill_by_hand() -> None:
    happened = [1, 1, 0, 0]
    assert reliability.brier([1, 0.5, 0, 0], happened) == 0.0625
    assert reliability.brier_skill([1, 0.5, 0, 0], happened) == 0.75
    assert reliability.brier_skill([0.5] * 4, happened) == 0
    assert reliability.brier([1, 0], [1, 1], [3, 1]) == 0.25


def test_one_outcome_says_nothing() -> None:
    for measure in (
        reliability.brier_skill,
        reliability.calibration_slope,
        reliability.calibration_intercept,
        roc_auc,
    ):
        assert math.isnan(measure([0.2, 0.7], [1, 1]))
        assert math.isnan(measure([], []))
    assert math.isnan(reliability.brier([], []))
    assert math.isnan(reliability.calibration_slope([0.5, 0.5], [0, 1]))


@pytest.mark.parametrize(
    ("probability", "happened", "weight"),
    [
        ([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1], 1.0),
        ([0.1, 0.2, 0.8, 0.9], [1, 1, 0, 0], 1.0),
        ([0.1, 0.3, 0.3, 0.9], [0, 0, 1, 1], 1.0),
        ([0.3, 0.3, 0.9], [1, 0, 0], 1.0),
        ([0.1, 0.2, 0.8, 0.9], [0, 1, 0, 1], [1, 0, 2, 1]),
        ([0, 0, 1, 1], [0, 0, 1, 1], 1.0),
    ],
)
def test_probabilities_that_divide_the_outcomes_have_no_slope(
    probability: list[float], happened: list[int], weight: float | list[float]
) -> None:
    assert math.isnan(reliability.calibration_slope(probability, happened, weight))


@pytest.mark.parametrize("spread", [1e-4, 1e-2, 1.0])
def test_a_slope_may_be_steep_where_probabilities_are_nearly_the_same(spread: float) -> None:
    """Its size is what the patients say, not how many steps it is sought in."""
    rng = np.random.default_rng(3)
    steps = rng.normal(size=60)
    happened = rng.random(60) < expit(3 * steps)
    wanted = LogisticRegression(C=np.inf, tol=1e-12).fit(steps[:, None], happened).coef_[0, 0] / spread
    found = reliability.calibration_slope(expit(1 + spread * steps), happened)
    assert found == pytest.approx(wanted, rel=1e-4)


def test_a_slope_is_found_where_two_patients_alone_keep_it_from_dividing_the_outcomes() -> None:
    """There the likelihood is as high as anywhere near: its derivatives are 0."""
    probability = np.array([0.01, 0.1, 0.2, 0.5, 0.5 - 1e-9, 0.7, 0.9])
    happened = np.array([0, 0, 0, 0, 1, 1, 1])
    slope = reliability.calibration_slope(probability, happened)
    assert 5 < slope < 100
    odds = slope * logit(probability)
    level = reliability.calibration_intercept(expit(odds), happened)
    assert np.abs((happened - expit(odds + level)) @ logit(probability)) < 1e-5


def test_probabilities_of_0_and_1_stay_finite() -> None:
    assert math.isfinite(reliability.calibration_slope([0, 1, 0.4, 0.6], [0, 1, 1, 0]))
    assert math.isfinite(reliability.calibration_intercept([0, 1, 0.4, 0.6], [1, 1, 1, 0]))


def test_d_calibration_doubts_wrong_curves_alone() -> None:
    found = [
        reliability.d_calibration(p.grid, p.curves, p.days, p.relapse)
        for p in (Simulated(seed, 200) for seed in range(60))
    ]
    assert np.mean(np.array(found) < 0.1) < 0.15
    patients = Simulated(3)
    assert reliability.d_calibration(patients.grid, patients.curves**2, patients.days, patients.relapse) < 0.01
    assert math.isnan(reliability.d_calibration(patients.grid, np.empty((0, 26)), [], []))


def test_d_calibration_by_hand() -> None:
    """One relapse in the upper half; one patient censored at 0.75 lies a third above a half, two thirds below."""
    found = reliability.d_calibration([0, 10], [[1, 0], [1, 0.5]], [2.5, 5.0], [1, 0], bins=2)
    assert found == pytest.approx(chisquare([2 / 3, 1 + 1 / 3]).pvalue)


@pytest.mark.parametrize("seed", range(40))
def test_the_slope_is_that_of_scikit_learn_however_far_off_the_level(seed: int) -> None:
    """Where prevalences differ, log odds lie units away from the outcomes', and a whole Newton step goes too far."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(60, 400))
    odds = rng.normal(rng.uniform(-6, 6), rng.uniform(0.2, 3), count)
    happened = rng.random(count) < expit(rng.uniform(-2, 2) + rng.uniform(-0.5, 2) * (odds - odds.mean()))
    weights = rng.exponential(size=count)
    fitted = LogisticRegression(C=1e8, tol=1e-9, max_iter=10000)
    expected = fitted.fit(odds[:, None], happened, sample_weight=weights).coef_[0, 0]
    assert reliability.calibration_slope(expit(odds), happened, weights) == pytest.approx(expected, abs=2e-3, rel=2e-3)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.booleans(), st.floats(0.1, 10)), min_size=1, max_size=60),
    st.floats(0.05, 0.95),
)
def test_net_benefit_is_of_right_and_wrong_acts(patients: list[tuple[float, bool, float]], threshold: float) -> None:
    probability, happened, weight = (np.array(column) for column in zip(*patients, strict=True))
    acted = probability >= threshold
    right, wrong = weight[acted & happened].sum(), weight[acted & ~happened].sum()
    expected = (right - wrong * threshold / (1 - threshold)) / weight.sum()
    found = reliability.net_benefit(probability, happened, threshold, weight)
    assert found == pytest.approx(expected, abs=1e-9)
    assert reliability.net_benefit(np.zeros_like(probability), happened, threshold, weight) == 0


def test_net_benefit_of_nobody_is_not_defined() -> None:
    assert math.isnan(reliability.net_benefit([], [], 0.2))
