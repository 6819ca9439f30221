"""The best any method could do, knowing every planted variable."""

from collections.abc import Sequence
from math import log

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from mmpl.metrics import balanced_accuracy, roc_auc
from mmpl.phantom import planted
from mmpl.phantom.latent import LatentPatient


def hpv_log_likelihood_ratio(patient: LatentPatient) -> float:
    """Score HPV status by the planted densities; positive speaks for HPV, whatever the prevalence."""
    return sum(hpv_evidence(patient).values())


def hpv_evidence(patient: LatentPatient) -> dict[str, float]:
    """Split the log-likelihood ratio into what each planted variable adds; an absent lesion adds its own term."""
    evidence = {}
    if patient.primary_site is not None:
        absent = not patient.node_volumes_ml
        positive, negative = (planted.NO_NODE[status] for status in (True, False))
        evidence["nodes"] = log(positive / negative) if absent else log((1 - positive) / (1 - negative))
    for score in planted.SCORES:
        value = getattr(patient, score.name)
        if value is not None:
            evidence[score.name] = score.shift * value  # two unit normals at +-shift/2
    for category in planted.CATEGORIES:
        level = category.levels.index(getattr(patient, category.name))
        evidence[category.name] = log(category.positive[level] / category.negative[level])
    return evidence


def oracle_figures(patients: Sequence[LatentPatient]) -> dict[str, float | None]:
    """Give `hpv_auc`, `hpv_balanced_accuracy` and `c_index` (against true, uncensored times) of the oracle.

    None stands where the cohort has only one status, or one patient.
    """
    positive = np.array([patient.hpv_positive for patient in patients])
    ratio = np.array([hpv_log_likelihood_ratio(patient) for patient in patients])
    risk = np.array([patient.log_hazard for patient in patients])
    days = np.array([patient.relapse_days for patient in patients])
    both = bool(positive.any() and not positive.all())
    return {
        "hpv_auc": roc_auc(ratio, positive) if both else None,
        "hpv_balanced_accuracy": balanced_accuracy(ratio > 0, positive) if both else None,
        "c_index": uncensored_c_index(risk, days) if len(patients) > 1 else None,
    }


def uncensored_c_index(risk: NDArray, days: NDArray) -> float:
    """Harrell's C of a risk (higher is worse) against true times without ties: one half less half of Kendall's tau."""
    return float(0.5 - 0.5 * kendalltau(risk, days).statistic)
