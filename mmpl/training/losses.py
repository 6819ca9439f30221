"""The losses of the three stages, each on logits and in log space where it matters."""

import torch
from torch import Tensor
from torch.nn import functional

# alpha weighs false positives, beta false negatives, gamma focuses; one row a class, GTVp then GTVn (paper, 2.3)
TVERSKY = ((0.5, 0.5, 1.33), (0.3, 0.7, 1.50))
EPSILON_VOXELS = 1.0


def dice_loss(truth: Tensor, prediction: Tensor) -> Tensor:
    """Equation (2), left: one minus the soft Dice of each row of (..., voxels)."""
    overlap = (truth * prediction).sum(-1)
    return 1 - (2 * overlap + EPSILON_VOXELS) / (truth.sum(-1) + prediction.sum(-1) + EPSILON_VOXELS)


def tversky_index(truth: Tensor, prediction: Tensor, alpha: float, beta: float) -> Tensor:
    """Equation (2), right: the soft Tversky index of each row of (..., voxels)."""
    true_positive = (truth * prediction).sum(-1)
    false_positive = ((1 - truth) * prediction).sum(-1)
    false_negative = (truth * (1 - prediction)).sum(-1)
    missed = alpha * false_positive + beta * false_negative
    return (true_positive + EPSILON_VOXELS) / (true_positive + missed + EPSILON_VOXELS)


def oda_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The overlap-detection-aware loss, equations (1) to (3), averaged over the batch.

    The Dice terms are taken per sample, with one voxel as epsilon; the stabilizers (cross-entropy, and the Dice of
    the background) keep a gradient where a class is absent or the network is surely wrong.

    Args:
        logits: (batch, 2, z, y, x), GTVp and GTVn.
        labels: The same shape, each voxel's fraction of lesion in [0, 1].
    """
    logits, labels = logits.float().flatten(2), labels.float().flatten(2)
    probability = torch.sigmoid(logits)
    total = logits.new_zeros(())
    for channel, (alpha, beta, gamma) in enumerate(TVERSKY):
        y, p = labels[:, channel], probability[:, channel]
        overlap = dice_loss(y, p) + (1 - tversky_index(y, p, alpha, beta)).clamp_min(0) ** gamma
        cross_entropy = functional.binary_cross_entropy_with_logits(logits[:, channel], y, reduction="none").mean(-1)
        stabilizer = cross_entropy + dice_loss(1 - y, torch.sigmoid(-logits[:, channel]))
        total = total + (overlap + stabilizer).mean()
    return total


def dice_only_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """What the paper compares ODA with: the Dice terms of both classes alone, averaged over the batch."""
    probability, labels = torch.sigmoid(logits.float().flatten(2)), labels.float().flatten(2)
    return dice_loss(labels, probability).sum(1).mean()


def hpv_loss(logits: Tensor, positive: Tensor) -> Tensor:
    """Binary cross-entropy of HPV status, of batches that hold both statuses as often.

    Args:
        logits: (batch, 1).
        positive: (batch, 1), 1 for HPV-positive.
    """
    return functional.binary_cross_entropy_with_logits(logits.float(), positive.float())


def discrete_time_nll(hazard_logits: Tensor, survived: Tensor, relapsed: Tensor) -> Tensor:
    """The negative log-likelihood of discrete-time survival with censoring, averaged over the batch.

    With q the conditional probability of surviving an interval, sigmoid of minus the hazard's logit, a patient
    contributes log q for each interval survived and log(1 - q) for the one with the event (Kvamme and Borgan, 2021);
    of an interval survived in part, that share of log q, which a constant hazard inside it makes.

    Args:
        hazard_logits: (batch, K); higher means the event is likelier in that interval.
        survived: (batch, K), share of the interval that was survived, 0 to 1.
        relapsed: (batch, K), 1 in the interval of the event, if there was one.
    """
    logits = hazard_logits.float()
    log_likelihood = survived * functional.logsigmoid(-logits) + relapsed * functional.logsigmoid(logits)
    return -log_likelihood.sum(-1).mean()
