"""The official metrics of HECKTOR 2025 and 2026 on plain arrays; each says what an empty or missing answer scores.

Where a metric is undefined (nothing to compare) the answer is NaN, never a number that could be averaged unseen.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage, sparse
from scipy.sparse.csgraph import maximum_bipartite_matching

LESION_CONNECTIVITY = np.ones((3, 3, 3), dtype=bool)
"""Voxels that touch by a face, an edge or a corner belong to one lesion (26-connectivity)."""

HIT_IOU = 0.30
"""A predicted lesion finds a reference lesion if their intersection over union exceeds this."""

_BLOCK = 512  # patients of whom every pair is looked at; the others are found in their order, so that time is no square


@dataclass(frozen=True)
class Overlap:
    """Voxel counts of one patient and class, from which both Dice scores follow.

    Attributes:
        intersection: Voxels in both masks.
        total: Voxels of the reference plus voxels of the prediction.
    """

    intersection: int
    total: int

    @property
    def dice(self) -> float:
        """Dice score in [0, 1]; 1 if both masks are empty, 0 if only one is."""
        return 2.0 * self.intersection / self.total if self.total else 1.0


@dataclass(frozen=True)
class LesionCounts:
    """Lesions found, invented and missed."""

    true_positives: int
    false_positives: int
    false_negatives: int


def count_overlap(reference: NDArray[np.bool_], prediction: NDArray[np.bool_]) -> Overlap:
    """Count the voxels of two masks of the same shape, and those they share."""
    _check_shapes(reference, prediction)
    both = int(np.count_nonzero(reference & prediction))
    return Overlap(both, int(np.count_nonzero(reference)) + int(np.count_nonzero(prediction)))


def dice(reference: NDArray[np.bool_], prediction: NDArray[np.bool_]) -> float:
    """Score the overlap of two masks in [0, 1]; 1 if both are empty, 0 if only one is."""
    return count_overlap(reference, prediction).dice


def aggregated_dice(overlaps: Iterable[Overlap]) -> float:
    """Score the overlap over all patients' voxels pooled; NaN if no patient has any in either mask."""
    overlaps = tuple(overlaps)
    total = sum(o.total for o in overlaps)
    return 2.0 * sum(o.intersection for o in overlaps) / total if total else float("nan")


def lesion_counts(
    reference: NDArray[np.bool_], prediction: NDArray[np.bool_], iou_threshold: float = HIT_IOU
) -> LesionCounts:
    """Match the lesions (26-connected components) of two masks.

    A pair is a hit if its intersection over union exceeds the threshold strictly. Each lesion counts in one hit at
    most: below an IoU of 0.5 two predicted lesions can both hit one reference lesion, so hits are matched one to one,
    as many as possible.

    Args:
        reference: True lesions (z, y, x).
        prediction: Predicted lesions, same shape.
        iou_threshold: Intersection over union that a hit must exceed.
    """
    _check_shapes(reference, prediction)
    box = _bounding_box(reference | prediction)
    true_labels, true_count = ndimage.label(reference[box], LESION_CONNECTIVITY)
    found_labels, found_count = ndimage.label(prediction[box], LESION_CONNECTIVITY)
    pairs = true_labels.astype(np.int64).ravel() * (found_count + 1) + found_labels.ravel()
    shared = np.bincount(pairs, minlength=(true_count + 1) * (found_count + 1)).reshape(true_count + 1, -1)
    union = shared.sum(axis=1, keepdims=True) + shared.sum(axis=0, keepdims=True) - shared
    hits = shared[1:, 1:] / union[1:, 1:] > iou_threshold
    matched = int((maximum_bipartite_matching(sparse.csr_array(hits)) >= 0).sum()) if hits.size else 0
    return LesionCounts(matched, found_count - matched, true_count - matched)


def aggregated_f1(counts: Iterable[LesionCounts]) -> float:
    """Score detection in [0, 1] over all patients' lesions pooled; NaN if there is no lesion at all."""
    counts = tuple(counts)
    hits = 2 * sum(c.true_positives for c in counts)
    lesions = hits + sum(c.false_positives + c.false_negatives for c in counts)
    return hits / lesions if lesions else float("nan")


def hausdorff95_mm(
    reference: NDArray[np.bool_], prediction: NDArray[np.bool_], spacing_zyx: tuple[float, float, float]
) -> float:
    """Measure the 95th percentile of the distance between two surfaces, mm (lower is better); NaN if one is empty."""
    from grand_challenge_metrics.stats import percentile_hausdorff_distance

    _check_shapes(reference, prediction)
    if not (reference.any() and prediction.any()):
        return float("nan")
    box = _bounding_box(reference | prediction)
    return float(percentile_hausdorff_distance(reference[box], prediction[box], 0.95, spacing_zyx))


def c_index(risk_score: ArrayLike, rfs_days: ArrayLike, relapse: ArrayLike) -> float:
    """Compute Harrell's concordance index in [0, 1]; 0.5 is chance.

    A pair of patients is comparable if one is known to have relapsed while the other was still free of relapse: an
    event before the other's time, or an event at the very time another's follow-up ends. Two events on one day are
    not comparable. It counts 1 if the earlier relapse has the higher risk, half if the risks are tied or one missing.

    Args:
        risk_score: (n,) higher means earlier recurrence; NaN for a missing prediction.
        rfs_days: (n,) days to the relapse, or to the end of follow-up.
        relapse: (n,) True if a relapse was seen.

    Returns:
        The index, NaN if no pair is comparable.
    """
    risk, days, event = np.asarray(risk_score, float), np.asarray(rfs_days, float), np.asarray(relapse, bool)
    latest_first = np.lexsort((~event, days))[::-1]  # of one day, whose follow-up ends before who relapses
    risk, days, event = risk[latest_first], days[latest_first], event[latest_first]
    starts = np.append(True, (np.diff(days) != 0) | np.diff(event))[: len(days)]
    later = np.flatnonzero(starts)[np.cumsum(starts) - 1]  # number of patients with whom each can be compared
    pairs = int(later[event].sum())
    if pairs == 0:
        return float("nan")
    higher_less_lower = 0
    for start in range(0, len(risk), _BLOCK):
        asked = event & np.isfinite(risk) & (later >= start) & (later < start + _BLOCK)
        ours, before = risk[asked, None], np.sort(risk[:start][np.isfinite(risk[:start])])
        higher_less_lower += np.searchsorted(before, ours, "left").sum()
        higher_less_lower -= (len(before) - np.searchsorted(before, ours, "right")).sum()
        block = risk[start : start + _BLOCK]
        comparable = start + np.arange(len(block)) < later[asked, None]
        higher_less_lower += np.count_nonzero(comparable & (ours > block))
        higher_less_lower -= np.count_nonzero(comparable & (ours < block))
    return 0.5 + 0.5 * float(higher_less_lower) / pairs


def roc_auc(score: ArrayLike, positive: ArrayLike, weight: ArrayLike = 1.0) -> float:
    """Compute the area under the ROC curve in [0, 1], ties and missing (NaN) scores counting half.

    scikit-learn's refuses missing scores, and takes ten times as long on so few patients.

    Args:
        score: (n,) higher means more likely positive.
        positive: (n,) the truth.
        weight: (n,) weights; with those of `reliability.known_by` it is the area of a day (Uno, 2007).

    Returns:
        The area, NaN if only one class is present.
    """
    values, truth = np.asarray(score, float), np.asarray(positive, bool)
    weights, given = np.broadcast_to(np.asarray(weight, float), values.shape), np.isfinite(values)
    pairs = weights[truth].sum() * weights[~truth].sum()
    if pairs == 0:
        return math.nan
    cases, others = truth & given, ~truth & given
    order = np.argsort(values[others])
    lower = np.append(0.0, np.cumsum(weights[others][order]))
    sides = [lower[np.searchsorted(values[others][order], values[cases], side)] for side in ("left", "right")]
    ranked = weights[cases] @ np.mean(sides, axis=0)
    return float((ranked + 0.5 * (pairs - weights[cases].sum() * weights[others].sum())) / pairs)


def balanced_accuracy(predicted: ArrayLike, truth: ArrayLike) -> float:
    """Average sensitivity and specificity; 0.5 is chance.

    Args:
        predicted: (n,) 1 or True for positive, 0 or False for negative; NaN, a missing answer, is never right.
        truth: (n,) bool.

    Returns:
        A value in [0, 1], NaN if only one class is present.
    """
    positive = np.asarray(truth, bool)
    if positive.all() or not positive.any():
        return float("nan")
    right = np.asarray(predicted, float) == positive
    return float(right[positive].mean() + right[~positive].mean()) / 2.0


def mean_recall(answered: ArrayLike, truth: ArrayLike) -> float:
    """Average the share of right answers over the classes that occur: balanced accuracy of any number of classes.

    Args:
        answered: (n,) classes as numbers; NaN, a missing answer, is never right.
        truth: (n,) likewise, none missing.

    Returns:
        A value in [0, 1], NaN without a patient.
    """
    classes = np.asarray(truth, float)
    right = np.asarray(answered, float) == classes
    recalls = [right[classes == each].mean() for each in np.unique(classes)]
    return float(np.mean(recalls)) if recalls else float("nan")


def _bounding_box(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    boxes = ndimage.find_objects(mask.astype(np.uint8))
    return boxes[0] if boxes else (slice(0, 1),) * mask.ndim


def _check_shapes(reference: NDArray, prediction: NDArray) -> None:
    if reference.shape != prediction.shape:
        raise ValueError(f"the masks have shapes {reference.shape} and {prediction.shape}; they must lie on one grid")
