"""What stage 3 begins with: its networks' hazards, and what its Cox models learn of HPV from."""

import numpy as np
import pytest
import torch
from scipy.special import expit

from mmpl.case import ClinicalRecord, Outcome, Patient
from mmpl.names import Stage
from mmpl.network import build_network
from mmpl.profile import load_profile
from mmpl.survival import TimeIntervals, survival_curve
from mmpl.training.losses import discrete_time_nll
from mmpl.training.survival import known_or_predicted, level_logits, start_logits


def test_a_known_status_is_learned_from_and_a_prediction_where_it_is_not_known() -> None:
    status = {"A": True, "B": False, "C": None}
    patients = [Patient(name, "1", ClinicalRecord(), Outcome(hpv_positive=known)) for name, known in status.items()]
    assert known_or_predicted(patients, {"A": 0.1, "B": 0.9, "C": 0.4}) == [1.0, 0.0, 0.4]


def followed(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw follow-up of which a third ends with a relapse."""
    rng = np.random.default_rng(0)
    relapse_days, days = rng.exponential(4000, count), rng.uniform(200, 3000, count)
    return np.minimum(relapse_days, days), relapse_days < days


def test_networks_begin_where_free_logits_would_end() -> None:
    """At the hazards of all patients the loss has no gradient; half a patient is added to both counts."""
    days, relapse = followed(2000)
    survived, relapsed = TimeIntervals.cut(days, relapse, 10).targets(days, relapse)
    logits = torch.tensor(start_logits(survived, relapsed), requires_grad=True)
    targets = (torch.tensor(values, dtype=torch.float32) for values in (survived, relapsed))
    discrete_time_nll(logits.expand(2000, 10), *targets).backward()
    assert logits.grad.abs().max() < 1e-3


def test_a_head_that_begins_there_gives_every_patient_about_that_survival() -> None:
    days, relapse = followed(300)
    profile = load_profile("micro")
    survived, relapsed = TimeIntervals.cut(days, relapse, profile.survival.intervals).targets(days, relapse)
    logits = start_logits(survived, relapsed)
    network = build_network(profile, Stage.SURVIVAL).eval()
    network.head.start_at(logits)
    size = profile.inference.lesion_crop_xyz[::-1]
    with torch.inference_mode():
        found = network(torch.randn(4, 2, *size, generator=torch.Generator().manual_seed(0))).double().numpy()
    assert expit(found) == pytest.approx(np.tile(expit(logits), (4, 1)), abs=0.1)
    assert survival_curve(found).mean(axis=0) == pytest.approx(survival_curve(np.array(logits)), abs=0.15)


def test_an_interval_without_a_relapse_has_a_finite_beginning() -> None:
    assert np.isfinite(start_logits(np.array([[1.0, 0.0]]), np.array([[0.0, 0.0]]))).all()


def test_levelled_networks_expect_as_many_relapses_as_came_and_rank_as_before() -> None:
    days, relapse = followed(1000)
    survived, relapsed = TimeIntervals.cut(days, relapse, 10).targets(days, relapse)
    names = [f"P-{number}" for number in range(1000)]
    targets = dict(zip(names, zip(survived, relapsed, strict=True), strict=True))
    own = np.random.default_rng(1).normal(-6, 1.5, (1000, 10))
    shift = level_logits(targets, dict(zip(names, own.tolist(), strict=True)))
    expected = ((survived + relapsed) * expit(own + shift)).sum(axis=0)
    assert expected == pytest.approx(relapsed.sum(axis=0), abs=0.5)
    assert shift.min() > 1


def test_a_shifted_head_adds_to_every_patient() -> None:
    profile = load_profile("micro")
    network = build_network(profile, Stage.SURVIVAL).eval()
    images = torch.randn(3, 2, *profile.inference.lesion_crop_xyz[::-1], generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        before = network(images)
        network.head.shift(np.arange(profile.survival.intervals))
        after = network(images)
    torch.testing.assert_close(after, before + torch.arange(profile.survival.intervals))


def test_an_interval_in_which_nobody_is_watched_is_left_as_it_is() -> None:
    targets = {name: (np.array([1.0, 0.0]), np.array([0.0, 0.0])) for name in "ABC"}
    shift = level_logits(targets, {name: [-1.0, -2.0] for name in "ABC"})
    assert shift[1] == 0
    assert np.isfinite(shift).all()
