"""Stage 3's arithmetic by hand, and a Cox model that finds what was planted; a higher risk is worse throughout."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mmpl.evidence import EXPECTED_DAYS_SCORE, HPV_PROBABILITY, Evidence, FeatureTable, Scale, survival_evidence
from mmpl.files import read_json, write_json
from mmpl.survival import CoxModel, TimeIntervals, combine, expected_days, member_curves, survival_curve
from mmpl.training.cox import (
    DUPLICATE_CORRELATION,
    RIDGE,
    SMALLEST_RISK_SD,
    fit_cox,
    log_partial_likelihood,
    univariate_p,
)
from mmpl.training.losses import discrete_time_nll
from mmpl.training.selection import uncorrelated

INTERVALS = TimeIntervals((0.0, 100.0, 300.0, 600.0))
RADIOMICS = tuple(f"pet_gtvp_original_glcm_{index}" for index in range(200))
CLINICAL = ("Treatment=0", "Treatment=1", "Treatment=missing", "Age", "Age_missing")
PLANTED = 40
"""The one radiomics column that moves the hazard."""


def simulate(seed: int, count: int = 400) -> tuple[Evidence, np.ndarray, np.ndarray, np.ndarray]:
    """Draw patients: evidence, follow-up, whether the relapse was seen, and the true time to relapse."""
    rng = np.random.default_rng(seed)
    radiomics = rng.normal(size=(count, len(RADIOMICS)))
    treatment = rng.choice(3, count, p=[0.3, 0.6, 0.1])
    score, hpv = rng.normal(size=count), rng.random(count)
    log_hazard = -0.6 * score - 0.5 * hpv + 0.7 * radiomics[:, PLANTED] + 0.9 * (treatment == 0)
    relapse_days = rng.exponential(4000 * np.exp(-log_hazard))
    followed_days = rng.uniform(200, 2500, count)
    radiomics = 50 + 1e-3 * radiomics
    radiomics[:, 5] = 7.0
    radiomics[:, PLANTED + 1] = 2 * radiomics[:, PLANTED] + 1
    radiomics[:, 6] = np.nan
    radiomics[rng.random(count) < 0.1, 10:60] = np.nan
    clinical = np.column_stack([*(treatment == level for level in range(3)), rng.normal(size=count), np.zeros(count)])
    evidence = survival_evidence(score, hpv, FeatureTable(RADIOMICS, radiomics), FeatureTable(CLINICAL, clinical))
    return evidence, np.minimum(relapse_days, followed_days), relapse_days < followed_days, relapse_days


def with_radiomics(evidence: Evidence, values: np.ndarray, names: Sequence[str] = RADIOMICS) -> Evidence:
    return replace(evidence, radiomics=FeatureTable(tuple(names), values))


def fit(evidence: Evidence, days: np.ndarray, relapse: np.ndarray) -> CoxModel:
    return fit_cox(evidence, days, relapse, screening_p=0.05, seed=0)


def concordance(risk: np.ndarray, days: np.ndarray) -> float:
    """Return the share of pairs in which the higher risk relapsed first; all relapses seen."""
    earlier = days[:, None] < days[None]
    return float((risk[:, None] > risk[None])[earlier].mean())


@pytest.fixture(scope="module")
def model() -> CoxModel:
    return fit(*simulate(0)[:3])


# Discrete time


def test_intervals_are_cut_at_quantiles_of_the_relapse_times() -> None:
    """And end where a tenth of the patients is followed: two of these twenty are after day 902.5."""
    days = [100, 200, 300, 400, 500, *[800] * 12, 900, 925, 3000]
    relapse = [True] * 5 + [False] * 14 + [True]
    assert TimeIntervals.cut(days, relapse, 4).edges_days == pytest.approx((0, 200, 300, 400, 902.5))


@pytest.mark.parametrize(
    ("days", "relapse", "count", "edges"),
    [
        # Knots 0, 100, 200, 400: every fourth part of three steps.
        ([100, 100, 100, 200, *[400] * 5], [1, 1, 1, 1, *[0] * 5], 4, (0, 75, 150, 250, 400)),
        ([300, *[600] * 9], [1, *[0] * 9], 4, (0, 150, 300, 450, 600)),
        ([600], [1], 3, (0, 200, 400, 600)),
        ([0, 0, *[500] * 9], [1, 1, *[0] * 9], 2, (0, 250, 500)),
        # The one relapse is after the end.
        ([*[400] * 19, 500], [*[0] * 19, 1], 2, (0, 200, 400)),
    ],
)
def test_ties_and_few_relapses_still_give_increasing_edges(days, relapse, count, edges) -> None:
    assert TimeIntervals.cut(days, relapse, count).edges_days == pytest.approx(edges)


@pytest.mark.parametrize(
    ("days", "relapse", "message"),
    [([100, 200], [0, 0], "0 relapses"), ([-1, 5], [1, 1], "negative"), ([np.nan, 5], [1, 1], "finite")],
)
def test_intervals_need_a_relapse_and_real_times(days, relapse, message) -> None:
    with pytest.raises(ValueError, match=message):
        TimeIntervals.cut(days, relapse, 3)


@pytest.mark.parametrize("edges", [(0,), (1, 2), (0, 5, 5), (0, np.inf), (0, np.nan)])
def test_edges_start_at_zero_and_increase(edges) -> None:
    with pytest.raises(ValueError, match="edges"):
        TimeIntervals(edges)


@pytest.mark.parametrize(
    ("days", "relapse", "survived", "event"),
    [
        (0, True, (0, 0, 0), (1, 0, 0)),
        (50, True, (0, 0, 0), (1, 0, 0)),
        (100, True, (0, 0, 0), (1, 0, 0)),
        (101, True, (1, 0, 0), (0, 1, 0)),
        (600, True, (1, 1, 0), (0, 0, 1)),
        (601, True, (1, 1, 1), (0, 0, 0)),
        (0, False, (0, 0, 0), (0, 0, 0)),
        (50, False, (0.5, 0, 0), (0, 0, 0)),
        (100, False, (1, 0, 0), (0, 0, 0)),
        (250, False, (1, 0.75, 0), (0, 0, 0)),
        (600, False, (1, 1, 1), (0, 0, 0)),
        (9999, False, (1, 1, 1), (0, 0, 0)),
    ],
)
def test_targets_by_hand(days, relapse, survived, event) -> None:
    got = INTERVALS.targets([days], [relapse])
    np.testing.assert_array_equal(got[0], [survived])
    np.testing.assert_array_equal(got[1], [event])


@pytest.mark.parametrize("shape", [0.6, 1.0, 3.0])
@pytest.mark.parametrize("followed_days", [2000, 5000])
def test_free_hazards_fitted_to_censored_outcomes_are_those_of_kaplan_meier(shape: float, followed_days: int) -> None:
    """The best logits of the loss, one an interval for all patients, at every edge; follow-up ends at any day."""
    from lifelines import KaplanMeierFitter

    rng = np.random.default_rng(0)
    relapse_days = 3000 * rng.weibull(shape, 500)
    censored_days = rng.uniform(0, followed_days, 500)
    days, relapse = np.minimum(relapse_days, censored_days), relapse_days <= censored_days
    intervals = TimeIntervals.cut(days, relapse, 10)
    survived, event = (torch.tensor(each) for each in intervals.targets(days, relapse))
    logits = torch.zeros(10, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = discrete_time_nll(logits.expand(500, 10), survived, event)
        value.backward()
        return value

    optimizer.step(loss)
    expected = KaplanMeierFitter().fit(days, relapse).survival_function_at_times(intervals.edges_days[1:])
    np.testing.assert_allclose(survival_curve(logits.detach().numpy()), expected, atol=0.02)


def test_survival_and_expected_days_by_hand() -> None:
    """Hazards 1/2, 1/4, 3/4: S = 1/2, 3/8, 3/32, so 50 + 75 + 28.125 days."""
    logits = np.log([1.0, 1 / 3, 3.0])
    survival = survival_curve(logits)
    np.testing.assert_allclose(survival, [1 / 2, 3 / 8, 3 / 32])
    assert expected_days(survival, INTERVALS) == pytest.approx(153.125)
    batch = expected_days(survival_curve(np.stack([logits, logits + 1])), INTERVALS)
    assert batch.shape == (2,)
    assert batch[1] < batch[0]


def test_survival_is_stable_for_extreme_logits() -> None:
    hopeless, safe = survival_curve(np.full((2, 10), [[50.0], [-50.0]]))
    assert (hopeless > 0).all()
    np.testing.assert_allclose(hopeless[0], np.exp(-50), rtol=1e-12)
    np.testing.assert_allclose(safe, 1)


def test_curves_meet_on_common_days_with_a_constant_hazard_between_edges() -> None:
    short = TimeIntervals((0.0, 100.0, 400.0))
    days, curves = member_curves([np.array([0.25, 0.04]), np.array([0.8, 0.6, 0.0])], [short, INTERVALS], points=9)
    np.testing.assert_allclose(days, np.arange(0, 401, 50))
    np.testing.assert_allclose(curves[0][[0, 1, 2, 5, 8]], [1, 0.5, 0.25, 0.1, 0.04])
    np.testing.assert_allclose(curves[1][[0, 2, 4, 6]], [1, 0.8, np.sqrt(0.8 * 0.6), 0.6])
    assert np.isfinite(curves).all()
    assert (np.diff(curves) <= 0).all()


# The ensemble


def test_risks_are_standardized_with_a_floor_and_averaged() -> None:
    scales = [Scale(1.0, 2.0), Scale.of([-0.01, 0.01], SMALLEST_RISK_SD)]
    result = combine([3.0, 0.1], scales, np.array([0.0, 10.0]), np.array([[1, 0.5], [1, 0.7]]))
    assert result.member_risks == pytest.approx((1.0, 2.0))
    assert result.risk_score == pytest.approx(1.5)


def test_a_scale_is_the_mean_and_sd_of_what_it_measured() -> None:
    assert Scale.of([1.0, 3.0], smallest_sd=0.05) == Scale(2.0, 1.0)


# Columns of a Cox model


def test_univariate_p_agrees_with_lifelines() -> None:
    import pandas as pd
    from lifelines import CoxPHFitter
    from lifelines.statistics import logrank_test

    rng = np.random.default_rng(0)
    columns = np.column_stack([rng.normal(size=300), rng.random(300) < 0.3, np.ones(300)]).astype(float)
    days = rng.exponential(1000 * np.exp(-0.15 * columns[:, 0] - 0.3 * columns[:, 1]))
    relapse = rng.random(300) < 0.5
    p = univariate_p(columns, days, relapse)
    group = columns[:, 1] == 1
    log_rank = logrank_test(days[group], days[~group], relapse[group], relapse[~group])
    assert p[1] == pytest.approx(log_rank.p_value, rel=1e-9)
    table = pd.DataFrame({"x": columns[:, 0], "days": days, "relapse": relapse})
    assert p[0] == pytest.approx(CoxPHFitter().fit(table, "days", "relapse").summary["p"]["x"], rel=0.05)
    assert p[2] == 1


def test_log_partial_likelihood_by_hand() -> None:
    """Hazards 1, 2, 3 at days 1, 2, 2: the relapse at day 1 has 1 of 6, the one at day 2 has 2 of 5."""
    log_hazard = np.log([[1.0], [2.0], [3.0]])
    days, relapse = np.array([1.0, 2.0, 2.0]), np.array([True, True, False])
    assert log_partial_likelihood(log_hazard, days, relapse)[0] == pytest.approx(np.log(1 / 6) + np.log(2 / 5))


def test_constant_columns_and_near_duplicates_are_dropped() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 200))
    columns = np.column_stack([np.full(200, 0.1), x, y, -5 * x + 3, x + 0.05 * y, x + y, 1e-12 * rng.normal(size=200)])
    assert uncorrelated(columns, DUPLICATE_CORRELATION).tolist() == [1, 2, 5, 6]


# The Cox model


@pytest.mark.slow
def test_planted_effects_are_recovered(model: CoxModel) -> None:
    rows = {covariate.name: covariate for covariate in model.covariates}
    assert {EXPECTED_DAYS_SCORE, HPV_PROBABILITY, "Treatment=0", RADIOMICS[PLANTED]} <= rows.keys()
    assert len(rows) <= 4 + model.events // 10
    assert rows[EXPECTED_DAYS_SCORE].coefficient == pytest.approx(-0.6, abs=0.25)
    assert rows["Treatment=0"].coefficient == pytest.approx(0.9, abs=0.45)
    assert rows[RADIOMICS[PLANTED]].coefficient == pytest.approx(0.7, abs=0.25)
    evidence, _, _, relapse_days = simulate(1, 1000)
    reached = concordance(model.log_partial_hazard(evidence), relapse_days)
    assert reached > 0.68
    assert reached > concordance(-evidence.table.read([EXPECTED_DAYS_SCORE])[:, 0], relapse_days) + 0.04


@pytest.mark.slow
def test_longer_expected_time_and_hpv_are_lower_risk(model: CoxModel) -> None:
    radiomics = FeatureTable(RADIOMICS, np.full((3, len(RADIOMICS)), np.nan))
    clinical = FeatureTable(CLINICAL, np.zeros((3, len(CLINICAL))))
    for days_score, probability in (([-1, 0, 1], [0.5] * 3), ([0] * 3, [0, 0.5, 1])):
        evidence = survival_evidence(days_score, probability, radiomics, clinical)
        assert (np.diff(model.log_partial_hazard(evidence)) < 0).all()


@pytest.mark.slow
def test_degenerate_radiomics_are_not_selected(model: CoxModel) -> None:
    names = {covariate.name for covariate in model.covariates}
    assert not names & {
        RADIOMICS[5],
        RADIOMICS[6],
        RADIOMICS[PLANTED + 1],
        "Age_missing",
        "Treatment=1",
        "Treatment=missing",
    }


@pytest.mark.slow
def test_the_table_tells_what_a_paper_prints(model: CoxModel) -> None:
    assert (model.patients, model.events) == (400, int(simulate(0)[2].sum()))
    for row in model.covariates:
        assert row.hazard_ratio == pytest.approx(np.exp(row.coefficient))
        assert row.hazard_ratio_low < row.hazard_ratio < row.hazard_ratio_high
        assert 0 <= row.p <= 1
        assert 0 <= row.proportional_hazards_p <= 1
    assert next(row.p for row in model.covariates if row.name == RADIOMICS[PLANTED]) < 1e-3


@pytest.mark.slow
def test_predictions_are_those_of_lifelines(model: CoxModel) -> None:
    import pandas as pd
    from lifelines import CoxPHFitter

    evidence, days, relapse, _ = simulate(0)
    columns = {row.name: row.read(evidence) for row in model.covariates}
    fitter = CoxPHFitter(penalizer=RIDGE).fit(
        pd.DataFrame({**columns, "days": days, "relapse": relapse}), "days", "relapse"
    )
    expected = fitter.predict_log_partial_hazard(pd.DataFrame(columns))
    got = model.log_partial_hazard(evidence)
    np.testing.assert_allclose(got - got.mean(), expected - expected.mean(), atol=1e-9)


@pytest.mark.slow
def test_missing_radiomics_count_as_the_training_median_and_outliers_are_clipped(model: CoxModel) -> None:
    row = next(row for row in model.covariates if row.name == RADIOMICS[PLANTED])
    evidence = simulate(2, 4)[0]
    radiomics = evidence.radiomics.values.copy()
    radiomics[:, PLANTED] = [np.nan, row.fill, row.mean + 4 * row.scale, 1e9]
    values = row.read(with_radiomics(evidence, radiomics))
    assert values[0] == values[1]
    assert values[2:] == pytest.approx(4.0)


@pytest.mark.slow
def test_json_gives_identical_predictions(model: CoxModel, tmp_path: Path) -> None:
    path = tmp_path / "cox.json"
    write_json(path, model)
    assert path.stat().st_size < 20_000
    evidence = simulate(3, 50)[0]
    loaded = read_json(path, CoxModel)
    assert loaded == model
    np.testing.assert_array_equal(loaded.log_partial_hazard(evidence), model.log_partial_hazard(evidence))


def test_noise_alone_seldom_selects_radiomics() -> None:
    """Cross-validation must be able to say no: at most a few of 200 noise columns over four cohorts of 400."""
    selected = 0
    for seed in range(4):
        evidence, days, relapse, _ = simulate(seed)
        noise = np.random.default_rng(seed + 100).normal(size=evidence.radiomics.values.shape)
        model = fit(with_radiomics(evidence, noise), days, relapse)
        selected += sum(row.name in RADIOMICS for row in model.covariates)
    assert selected <= 8


@pytest.mark.parametrize("relapses", [0, 2])
def test_too_few_relapses_are_an_error(relapses: int) -> None:
    evidence, days, _, _ = simulate(4, 60)
    with pytest.raises(ValueError, match=f"{relapses} relapses among 60 patients"):
        fit(evidence, days, np.arange(60) < relapses)


def test_few_relapses_fit_without_radiomics(caplog) -> None:
    evidence, days, _, _ = simulate(4, 60)
    model = fit(evidence, days, np.arange(60) < 5)
    assert not any(row.name in RADIOMICS for row in model.covariates)
    assert np.isfinite(model.log_partial_hazard(evidence)).all()
    assert "too few" in caplog.text


def test_constant_scores_and_no_radiomics_at_all_still_fit() -> None:
    evidence, days, relapse, _ = simulate(5, 200)
    radiomics = FeatureTable(RADIOMICS, np.full((200, len(RADIOMICS)), np.nan))
    empty = survival_evidence(np.zeros(200), np.ones(200), radiomics, FeatureTable(CLINICAL, np.zeros((200, 5))))
    model = fit(empty, days, relapse)
    assert model.covariates == ()
    np.testing.assert_array_equal(model.log_partial_hazard(evidence), 0)


def test_a_level_without_any_relapse_gets_a_finite_coefficient() -> None:
    evidence, days, relapse, _ = simulate(6)
    clinical = evidence.clinical.values.copy()
    clinical[:, 0] = ~relapse & (np.arange(400) % 3 == 0)
    model = fit(replace(evidence, clinical=FeatureTable(CLINICAL, clinical)), days, relapse)
    row = next(row for row in model.covariates if row.name == "Treatment=0")
    assert -20 < row.coefficient < -0.5


def test_without_stage_2_the_model_has_no_hpv_probability() -> None:
    evidence, days, relapse, _ = simulate(7, 200)
    score = evidence.table.read([EXPECTED_DAYS_SCORE])[:, 0]
    alone = survival_evidence(score, None, evidence.radiomics, evidence.clinical)
    names = {row.name for row in fit(alone, days, relapse).covariates}
    assert EXPECTED_DAYS_SCORE in names
    assert HPV_PROBABILITY not in names


@pytest.mark.slow
def test_a_covariate_that_is_not_there_is_named(model: CoxModel) -> None:
    evidence = simulate(7, 50)[0]
    rest = [name for name in RADIOMICS if name != RADIOMICS[PLANTED]]
    with pytest.raises(ValueError, match=f"no {RADIOMICS[PLANTED]}$"):
        model.log_partial_hazard(with_radiomics(evidence, evidence.radiomics.read(rest), rest))


def test_an_outcome_is_needed_of_every_patient() -> None:
    evidence, days, relapse, _ = simulate(7, 50)
    with pytest.raises(ValueError, match="49 outcomes for 50 patients"):
        fit(evidence, days[1:], relapse[1:])
