"""The best any method could do, knowing every planted variable."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log

import numpy as np
from numpy.typing import NDArray

from mmpl.metrics import balanced_accuracy, c_index, roc_auc
from mmpl.phantom.latent import CLINICAL_COLUMNS, LatentPatient
from mmpl.phantom.planted import Planted
from mmpl.phantom.staging import INVADES_FROM_MM

HPV = "hpv_positive"
ABSENCE = ("primary_site", "node_volumes_ml")
"""Variables of which only counts whether they are there."""


def hpv_log_likelihood_ratio(patient: LatentPatient) -> float:
    """Score HPV status by the planted densities; positive speaks for HPV, whatever the prevalence."""
    return sum(hpv_evidence(patient).values())


def hpv_evidence(patient: LatentPatient) -> dict[str, float]:
    """Split the log-likelihood ratio into what each planted variable adds; an absent lesion adds its own term."""
    evidence, planted = {}, patient.planted
    if patient.primary_site is not None:
        evidence["nodes"] = _log_ratio(planted.no_node, not patient.node_volumes_ml)
    for score in planted.scores:
        value = getattr(patient, score.name)
        if value is not None:
            evidence[score.name] = score.shift * value  # two unit normals at +-shift/2
    for category in planted.categories:
        level = category.levels.index(getattr(patient, category.name))
        evidence[category.name] = log(category.positive[level] / category.negative[level])
    if planted.stages and patient.staging and patient.staging.primary_extent_mm > INVADES_FROM_MM:
        evidence["invasion"] = _log_ratio(planted.stages.invasion, patient.staging.invasion)
    return evidence


def _log_ratio(chance: Mapping[bool, float], happened: bool) -> float:
    """Weigh what happens with a chance that HPV changes."""
    positive, negative = chance[True], chance[False]
    return log(positive / negative) if happened else log((1 - positive) / (1 - negative))


def oracle_figures(patients: Sequence[LatentPatient]) -> dict[str, float | None]:
    """Give `hpv_auc`, `hpv_balanced_accuracy` and `c_index` (against true, uncensored times) of the oracle.

    None stands where the cohort has only one status, or one patient.
    """
    positive = np.array([patient.hpv_positive for patient in patients])
    ratio = np.array([hpv_log_likelihood_ratio(patient) for patient in patients])
    risk = np.array([patient.log_hazard for patient in patients])
    days = np.array([patient.relapse_days for patient in patients])
    relapse = np.ones(len(days), bool)
    both = bool(positive.any() and not positive.all())
    return {
        "hpv_auc": roc_auc(ratio, positive) if both else None,
        "hpv_balanced_accuracy": balanced_accuracy(ratio > 0, positive) if both else None,
        "c_index": c_index(risk, days, relapse) if len(patients) > 1 else None,
    }


@dataclass(frozen=True)
class Reach:
    """How far some of the variables lead by themselves.

    Attributes:
        hpv_auc: AUC of HPV status.
        c_index: C-index of relapse, against true, uncensored times.
    """

    hpv_auc: float
    c_index: float

    def share_of(self, oracle: "Reach") -> "Reach":
        """Give the shares of the oracle's distances from one half."""
        hpv, risk = (self.hpv_auc - 0.5) / (oracle.hpv_auc - 0.5), (self.c_index - 0.5) / (oracle.c_index - 0.5)
        return Reach(hpv, risk)


def oracle_parts(patients: Sequence[LatentPatient]) -> dict[str, Reach]:
    """Say how far the oracle comes, the clinical record, what images show, and each variable alone.

    But for the oracle's own, scores are the best linear ones (least squares on status and log hazard).

    Raises:
        ValueError: The cohort has only one HPV status.
    """
    planted = patients[0].planted
    positive = np.array([patient.hpv_positive for patient in patients])
    risk = np.array([patient.log_hazard for patient in patients])
    days = np.array([patient.relapse_days for patient in patients])
    relapse = np.ones(len(days), bool)
    columns = {name: _columns([_value(p, name) for p in patients]) for name in _names(planted)}

    def part(*names: str) -> Reach:
        table = np.concatenate([np.ones((len(patients), 1)), *(columns[name] for name in names)], axis=1)
        status, hazard = (table @ np.linalg.lstsq(table, target, rcond=None)[0] for target in (positive * 1.0, risk))
        return Reach(roc_auc(status, positive), c_index(hazard, days, relapse))

    ratio = np.array([hpv_log_likelihood_ratio(patient) for patient in patients])
    record, stages = tuple(CLINICAL_COLUMNS), ("t_read", "n_read")
    images = tuple(name for name in columns if name not in (*record, *stages, HPV))
    staged = {"record and released stages": part(*record, *stages)} if planted.stages else {}
    return {
        "oracle": Reach(roc_auc(ratio, positive), c_index(risk, days, relapse)),
        "clinical record": part(*record),
        **staged,
        "images": part(*images),
        **{name: part(name) for name in columns if name not in ABSENCE},
    }


def _names(planted: Planted) -> tuple[str, ...]:
    stages = ("invasion", "t_stage", "n_stage", "t_read", "n_read") if planted.stages else ()
    return (*(score.name for score in planted.imaging), *ABSENCE, *stages, *CLINICAL_COLUMNS, HPV)


def _value(patient: LatentPatient, name: str) -> float | str:
    """Give a variable; absent lesions count as average."""
    if name in ABSENCE:
        return float(bool(getattr(patient, name)))
    value = getattr(patient if hasattr(patient, name) else patient.staging, name)
    return value if isinstance(value, str) else float(value or 0.0)


def _columns(values: Sequence[float | str]) -> NDArray[np.float64]:
    """Write numbers as they are, and names as one column each but for the first."""
    if isinstance(values[0], str):
        return np.array([[value == level for level in sorted(set(values))[1:]] for value in values], dtype=float)
    return np.array(values, dtype=float)[:, None]
