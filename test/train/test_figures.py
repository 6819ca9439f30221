"""The pictures of a finished run: what stands in them, and that they can be read."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image as Picture
from scipy.special import expit

from mmpl.case import ClinicalRecord, Outcome, Patient
from mmpl.cohort_scores import Results
from mmpl.metrics import roc_auc
from mmpl.training.results import make_results
from train.experiments.figures import ANSWER, draw, draw_plot, join_rocs, make_plots

CALIBRATED = [
    "HPV status: ROC of the methods",
    "No recurrence, by risk",
    "Calibration: HPV-positive",
    "Decision curve: HPV-positive",
    "Calibration: recurrence by 2 years",
    "Decision curve: recurrence by 2 years",
]


@pytest.fixture(scope="module")
def answers() -> Results:
    """Patients, and answers that know something of them, calibrated."""
    rng = np.random.default_rng(0)
    odds, risk = 2 * rng.normal(size=150), rng.normal(size=150)
    positive, times = rng.random(150) < expit(odds), rng.exponential(1500 * np.exp(-risk))
    followed = rng.uniform(1000, 4000, 150)
    days, relapse = np.minimum(times, followed), times <= followed
    patients = [
        Patient(f"P{i}", "1", ClinicalRecord(), Outcome(bool(positive[i]), bool(relapse[i]), float(days[i])))
        for i in range(150)
    ]
    grid = np.tile(np.linspace(0, 3000, 31), (150, 1))
    curve = np.exp(-grid / 1500 * np.exp(risk)[:, None])
    said = {"hpv_probability": expit(odds / 3), "hpv_calibrated": expit(odds), "risk": risk}
    left = np.exp(-np.array([[730.5, 1826.25]]) / 1500 * np.exp(risk)[:, None])
    return replace(make_results(patients), **said, curve_days=grid, curve=curve, no_recurrence=left)


def test_one_png_has_all_plots(answers: Results, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    methods = {"Clinical-only": replace(answers, hpv_probability=rng.random(150)), ANSWER: answers}
    assert [plot.title for plot in make_plots(methods, answers, 10)] == CALIBRATED
    draw(tmp_path / "figures.png", methods, answers, (rng.uniform(1, 50, 40), rng.random(40)), count=10)
    with Picture.open(tmp_path / "figures.png") as picture:
        assert picture.width == 1660  # twice a README's width
        assert picture.height == 4 * 750
    uncalibrated = replace(answers, hpv_calibrated=None, no_recurrence=None, curve=None, curve_days=None)
    assert [plot.title for plot in make_plots(methods, uncalibrated, 10)] == CALIBRATED[:2]


def test_every_method_has_its_curve_and_area(answers: Results) -> None:
    positive = answers.hpv_positive == 1
    worse = replace(answers, hpv_probability=np.where(np.arange(150) % 2, answers.hpv_probability, 0.5))
    plot = join_rocs({"Deep-only": worse, ANSWER: answers})
    assert plot is not None
    both = {"Deep-only": worse, ANSWER: answers}
    labels = [f"{name}, {roc_auc(each.hpv_probability, positive):.2f}" for name, each in both.items()]
    assert [series.label for series in plot.series] == ["chance", *labels]
    for series, each in zip(plot.series[1:], (worse, answers), strict=True):
        x, y = np.array(series.line).T
        assert np.trapezoid(y, x) == pytest.approx(roc_auc(each.hpv_probability, positive))
    assert join_rocs({ANSWER: replace(answers, hpv_positive=np.ones(150))}) is None


def test_numbers_at_risk_stand_below_their_years(answers: Results) -> None:
    """And the probabilities that were said beside what was seen, dashed."""
    (plot,) = [plot for plot in make_plots({ANSWER: answers}, answers, 10) if plot.counts]
    axes = Figure().add_subplot()
    draw_plot(axes, plot)
    written = [text.get_text() for text in axes.texts]
    for counts in plot.counts.values():
        assert counts[0] == 75
        assert all(str(count) in written for count in counts)
    assert written.count("at risk") == 2
    below = [text.get_position()[0] for text in axes.texts if text.get_text() == "75"]
    assert below == [0.0, 0.0]
    styles = {line.get_label(): line.get_linestyle() for line in axes.lines}
    assert (styles["higher risk"], styles["higher risk, as said"]) == ("-", "--")
    said = np.array(next(series.line for series in plot.series if series.label == "higher risk, as said"))
    high = answers.risk > np.median(answers.risk)
    assert answers.curve is not None
    np.testing.assert_allclose(said[:, 1], answers.curve[high, : len(said)].mean(axis=0))
