"""The three losses, by hand and at their edges."""

import math

import pytest
import torch

from mmpl.training.losses import dice_loss, discrete_time_nll, hpv_loss, oda_loss, tversky_index


def test_dice_and_tversky_by_hand() -> None:
    truth, prediction = torch.tensor([1.0, 1.0, 0.0, 0.0]), torch.tensor([0.8, 0.4, 0.2, 0.0])
    # overlap 1.2, sums 2 and 1.4; false positives 0.2, false negatives 0.8; epsilon 1
    assert dice_loss(truth, prediction).item() == pytest.approx(1 - (2.4 + 1) / (3.4 + 1))
    assert tversky_index(truth, prediction, 0.3, 0.7).item() == pytest.approx(2.2 / (2.2 + 0.06 + 0.56))


def test_oda_by_hand() -> None:
    """Two voxels, GTVp = (1, 0) predicted 0.75 and 0.25, GTVn absent and predicted 0.5 twice."""
    labels = torch.tensor([[[[[1.0, 0.0]]], [[[0.0, 0.0]]]]])
    logits = torch.tensor([[[[[math.log(3), -math.log(3)]]], [[[0.0, 0.0]]]]])
    tumor_dice = 1 - (2 * 0.75 + 1) / (1 + 1 + 1)
    tumor_index = 1.75 / (1.75 + 0.5 * 0.25 + 0.5 * 0.25)
    tumor = tumor_dice + (1 - tumor_index) ** 1.33 - math.log(0.75) + 1 - (1.5 + 1) / 3
    node_dice = 1 - 1 / (1 + 1)
    node_index = 1 / (1 + 0.3 * 1.0)
    node = node_dice + (1 - node_index) ** 1.5 + math.log(2) + 1 - (2 * 1 + 1) / (2 + 1 + 1)
    assert oda_loss(logits, labels).item() == pytest.approx(tumor + node, rel=1e-5)


def test_oda_is_the_mean_over_samples() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 2, 4, 4, 4, generator=generator)
    labels = (torch.rand(3, 2, 4, 4, 4, generator=generator) > 0.7).float()
    each = [oda_loss(logits[i : i + 1], labels[i : i + 1]) for i in range(3)]
    assert oda_loss(logits, labels).item() == pytest.approx(torch.stack(each).mean().item(), rel=1e-5)


@pytest.mark.parametrize("value", [-50.0, 50.0])
@pytest.mark.parametrize("truth", ["empty", "full", "half"])
def test_oda_is_finite_and_pulls_the_right_way(value: float, truth: str) -> None:
    labels = torch.zeros(1, 2, 4, 4, 4)
    if truth == "full":
        labels += 1
    elif truth == "half":
        labels[..., :2] = 1
    logits = torch.full_like(labels, value, requires_grad=True)
    loss = oda_loss(logits, labels)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()
    wrong = (labels > 0.5) != (value > 0)
    if wrong.any():
        pull = -logits.grad[wrong]
        assert (pull.sign() == torch.where(labels[wrong] > 0.5, 1.0, -1.0)).all()
        assert pull.abs().min() > 1e-3


def test_hpv_loss_by_hand() -> None:
    """Probabilities 0.5 and 0.75 of positive, of one positive and one negative."""
    logits = torch.tensor([[0.0], [math.log(3)]])
    expected = -(math.log(0.5) + math.log(0.25)) / 2
    assert hpv_loss(logits, torch.tensor([[1.0], [0.0]])).item() == pytest.approx(expected)


def test_discrete_time_nll_by_hand() -> None:
    """Hazards 0.5 and 0.25: an event in the second interval, and one censored after the first."""
    logits = torch.tensor([[0.0, -math.log(3)], [0.0, -math.log(3)]])
    survived = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    relapsed = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    expected = -(math.log(0.5) + math.log(0.25) + math.log(0.5)) / 2
    assert discrete_time_nll(logits, survived, relapsed).item() == pytest.approx(expected)


@pytest.mark.parametrize("value", [-50.0, 50.0])
def test_outcome_losses_stay_finite_with_a_gradient_where_wrong(value: float) -> None:
    logits = torch.full((4, 3), value, requires_grad=True)
    survived = torch.full((4, 3), float(value > 0))
    relapsed = 1 - survived
    loss = discrete_time_nll(logits, survived, relapsed)
    loss.backward()
    assert loss.item() == pytest.approx(150, rel=1e-3)
    assert (logits.grad.abs() > 0.1).all()
    score = torch.full((4,), value, requires_grad=True)
    hpv_loss(score, torch.full((4,), float(value < 0))).backward()
    assert (score.grad.abs() > 0.1).all()


def test_an_all_censored_batch_lowers_the_hazard() -> None:
    logits = torch.zeros(4, 3, requires_grad=True)
    discrete_time_nll(logits, torch.tensor([[1.0, 1.0, 0.0]] * 4), torch.zeros(4, 3)).backward()
    assert (logits.grad[:, :2] > 0).all()
    assert (logits.grad[:, 2] == 0).all()
