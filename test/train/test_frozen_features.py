"""Heads on frozen features: pooled over a mask, and what they learn of features that say something."""

import numpy as np
import pytest
import torch

from mmpl.metrics import c_index, roc_auc
from train.experiments.frozen_features import fit_logistic, fit_ridge_cox, pool_over
from train.experiments.results import paired_difference


def test_features_are_averaged_over_the_mask_at_their_own_scale() -> None:
    fine, coarse, mask = torch.zeros(1, 1, 8, 8, 8), torch.zeros(1, 2, 4, 4, 4), torch.zeros(1, 1, 8, 8, 8)
    mask[..., :2, :2, :2] = 1
    fine[..., 0, 0, 0] = 8.0
    coarse[:, 1, 0, 0, 0] = 5.0
    coarse[:, 0, 3, 3, 3] = 7.0  # outside
    assert pool_over([coarse, fine], mask) == pytest.approx([0, 5, 1])


def test_an_empty_mask_is_the_whole_crop() -> None:
    assert pool_over([torch.full((1, 1, 4, 4, 4), 3.0)], torch.zeros(1, 1, 4, 4, 4)) == pytest.approx([3])


def test_heads_learn_what_features_say_and_which_way() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(400, 6))
    positive = features[:, 0] + rng.normal(size=400) > -1
    days = rng.exponential(np.exp(-features[:, 1])) * 1000
    relapse = rng.random(400) < 0.7
    logits = fit_logistic(features[:200], positive[:200], 0)(features[200:])
    assert roc_auc(logits, positive[200:]) > 0.75
    risk = fit_ridge_cox(features[:200], days[:200], relapse[:200], 0)(features[200:])
    assert c_index(risk, days[200:], relapse[200:]) > 0.65


def test_a_difference_has_the_sign_of_the_first() -> None:
    truth = np.arange(40) % 2 == 0
    good, bad = truth.astype(float), np.zeros(40)
    value, bounds = paired_difference(roc_auc, good, bad, truth)
    assert value == 0.5
    assert bounds.low > 0
