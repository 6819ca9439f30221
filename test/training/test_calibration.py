"""Probabilities that mean what they say, on simulated patients whose own are known."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter
from scipy.special import expit

from mmpl.calibration import HpvCalibration, HpvSet, SurvivalCalibration, SurvivalCurve
from mmpl.files import read_json, write_json
from mmpl.training import calibration
from mmpl.training.calibration import calibrate_hpv, calibrate_survival, conformal_sets

pytestmark = pytest.mark.slow

YEAR = 365.25


def draw_hpv(seed: int, count: int, prevalence: float, apart: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Draw statuses and scores, squeezed as a balanced forest's are, whose log odds lie so many SD apart."""
    rng = np.random.default_rng(seed)
    positive = rng.random(count) < prevalence
    return expit(0.5 * (rng.normal(size=count) + apart * positive)), positive


def draw_survival(seed: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draw risks on another scale than the hazard's, follow-up, whether the relapse was seen, and the true hazard."""
    rng = np.random.default_rng(seed)
    risk = rng.normal(size=count)
    rate = np.exp(0.6 * risk) / 4000
    relapse_days, followed = rng.exponential(1 / rate), rng.uniform(300, 3000, count)
    return risk, np.minimum(relapse_days, followed), relapse_days < followed, rate


class TestHpv:
    @pytest.mark.parametrize("prevalence", [0.9, 0.2])
    def test_the_share_of_positives_is_the_probability_at_any_prevalence(self, prevalence: float) -> None:
        fitted = calibrate_hpv(*draw_hpv(0, 5000, 0.9))
        score, positive = draw_hpv(1, 20000, prevalence)
        probability = fitted.probability(score, prevalence)
        for part in np.array_split(np.argsort(probability), 5):
            assert probability[part].mean() == pytest.approx(positive[part].mean(), abs=0.03)

    def test_the_odds_move_and_the_evidence_does_not(self) -> None:
        fitted = HpvCalibration(0.3, 2.0, 0.8)
        rare, common = fitted.probability(0.6, 0.1), fitted.probability(0.6, 0.5)
        assert np.log(common / (1 - common)) - np.log(rare / (1 - rare)) == pytest.approx(np.log(9))
        assert fitted.probability(0.6) == fitted.probability(0.6, 0.8)
        assert common == pytest.approx(expit(fitted.log_likelihood_ratio(0.6)))

    @pytest.mark.parametrize("prevalence", [0.0, 1.0, -0.1, 1.5, np.nan])
    def test_a_prevalence_is_between_0_and_1(self, prevalence: float) -> None:
        with pytest.raises(ValueError, match="is not between 0 and 1"):
            HpvCalibration(0.0, 1.0, 0.5).probability(0.5, prevalence)

    def test_scores_of_0_and_1_have_finite_evidence(self) -> None:
        assert np.isfinite(HpvCalibration(0.0, 3.0, 0.5).log_likelihood_ratio([0.0, 1.0])).all()


class TestSets:
    def test_nine_in_ten_of_either_status_are_not_said_to_have_the_other(self) -> None:
        """Over many cohorts with few negatives, whatever the prevalence of those who are asked."""
        covered, undecided = [], []
        for seed in range(60):
            sets = conformal_sets(*draw_hpv(seed, 300, 0.85, apart=2.0))
            score, positive = draw_hpv(1000 + seed, 2000, 0.3, apart=2.0)
            said = np.array([sets.of(value) for value in score])
            covered.append([np.mean(said[positive] != HpvSet.NEGATIVE), np.mean(said[~positive] != HpvSet.POSITIVE)])
            undecided.append(np.mean(said == HpvSet.UNDECIDED))
        assert np.mean(covered, axis=0) == pytest.approx([0.9, 0.9], abs=0.015)
        assert 0.1 < np.mean(undecided) < 0.6

    def test_where_scores_divide_the_statuses_between_them_is_undecided(self) -> None:
        score = np.r_[np.linspace(0, 0.2, 30), np.linspace(0.8, 1, 30)]
        sets = conformal_sets(score, score > 0.5)
        assert [sets.of(value) for value in (0.1, 0.5, 0.95)] == [HpvSet.NEGATIVE, HpvSet.UNDECIDED, HpvSet.POSITIVE]

    def test_of_scores_that_say_nothing_there_are_none(self) -> None:
        rng = np.random.default_rng(0)
        assert conformal_sets(rng.random(200), rng.random(200) < 0.5) is None

    def test_of_eight_patients_of_a_status_there_are_none(self) -> None:
        score = np.linspace(0, 1, 40)
        assert conformal_sets(score, score > score[-9]) is None
        assert conformal_sets(score, score > score[-10]) is not None


@pytest.fixture(scope="module")
def survival() -> SurvivalCalibration:
    return calibrate_survival(*draw_survival(0, 600)[:3], seed=0)


class TestSurvival:
    def test_the_probability_is_the_true_one(self, survival: SurvivalCalibration) -> None:
        for risk in (-1.5, 0.0, 1.5):
            true = np.exp(-np.exp(0.6 * risk) / 4000 * 2 * YEAR)
            assert survival.curve([risk] * 10).at(2 * YEAR)[0] == pytest.approx(true, abs=0.05)

    def test_it_is_the_cox_model_of_lifelines(self, survival: SurvivalCalibration) -> None:
        risk, days, relapse, _ = draw_survival(0, 600)
        fitter = CoxPHFitter().fit(pd.DataFrame({"risk": risk, "days": days, "relapse": relapse}), "days", "relapse")
        seen = np.sort(days[relapse])
        day = seen[40]
        expected = fitter.predict_survival_function(pd.DataFrame({"risk": [0.7]}), times=[day]).iloc[0, 0]
        curve = survival.curve([0.7])
        before, after = np.searchsorted(curve.days, day) - 1, np.searchsorted(curve.days, day)
        assert curve.probability[after] <= expected + 1e-9
        assert expected <= curve.probability[before] + 1e-9

    def test_intervals_hold_the_truth_as_often_as_they_say(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(calibration, "RESAMPLES", 60)
        held = []
        for seed in range(1, 13):
            fitted = calibrate_survival(*draw_survival(seed, 200)[:3], seed=seed)
            for risk in (-1.0, 1.0):
                _, low, high = fitted.curve([risk]).at(YEAR)
                held.append(low < np.exp(-np.exp(0.6 * risk) / 4000 * YEAR) < high)
        assert np.mean(held) >= 0.8  # 0.95 less three standard errors

    def test_models_that_differ_widen_the_interval(self, survival: SurvivalCalibration) -> None:
        alike, apart = survival.curve([0.5] * 10), survival.curve([-1.5, 2.5] * 5)
        assert alike.probability == pytest.approx(apart.probability)
        for day in (YEAR, 2 * YEAR):
            assert np.diff(apart.at(day)[1:]) > 1.5 * np.diff(alike.at(day)[1:])

    def test_a_curve_falls_from_1_and_stays_in_its_interval(self, survival: SurvivalCalibration) -> None:
        curve = survival.curve([0.3, 0.5, -0.2])
        assert (curve.probability[0], curve.days[0]) == (1.0, 0.0)
        assert (np.diff(curve.probability) <= 0).all()
        assert (curve.low <= curve.probability + 1e-9).all()
        assert (curve.probability <= curve.high + 1e-9).all()

    def test_a_higher_risk_is_worse_everywhere(self, survival: SurvivalCalibration) -> None:
        low, high = survival.curve([-0.5]), survival.curve([0.5])
        assert (low.probability[1:] >= high.probability[1:]).all()
        assert low.restricted_mean_days > high.restricted_mean_days
        assert survival.percentile(-0.5) < survival.percentile(0.5)

    @pytest.mark.parametrize("day", [-1.0, 1e5, np.nan])
    def test_nothing_is_said_beyond_the_follow_up(self, survival: SurvivalCalibration, day: float) -> None:
        with pytest.raises(ValueError, match="not within the follow-up"):
            survival.curve([0.0]).at(day)

    def test_it_is_kept_as_json(self, survival: SurvivalCalibration, tmp_path: Path) -> None:
        write_json(tmp_path / "calibration.json", survival)
        assert read_json(tmp_path / "calibration.json", SurvivalCalibration) == survival


def test_median_and_restricted_mean_by_hand() -> None:
    days, probability = np.array([0.0, 100.0, 200.0]), np.array([1.0, 0.6, 0.2])
    curve = SurvivalCurve(days, probability, probability, probability)
    assert curve.median_days == pytest.approx(125)
    assert curve.restricted_mean_days == pytest.approx(120)
    assert SurvivalCurve(days, probability + 0.4, probability, probability).median_days is None


def test_the_level_of_the_risk_has_no_part_in_the_curve() -> None:
    risk, days, relapse, _ = draw_survival(0, 300)
    one, moved = (calibrate_survival(risk + by, days, relapse, seed=0, resamples=2) for by in (0.0, 3.0))
    np.testing.assert_allclose(moved.curve([3.7]).probability, one.curve([0.7]).probability, atol=1e-6)


def test_the_interval_is_that_of_the_resamples() -> None:
    hazards = np.linspace(0, 1, 1001)
    resampled = tuple((0.0, float(hazard)) for hazard in hazards)
    fitted = SurvivalCalibration((0.0, 1.0), 1.0, (0.0, 0.5), (0.0,) * 1001, resampled, ())
    assert fitted.curve([0.3]).at(1.0)[1:] == pytest.approx(np.exp([-0.975, -0.025]), abs=1e-6)
