"""Patients before any image: HPV status, planted variables, outcome and what of it the released table shows."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmpl.phantom import planted
from mmpl.phantom.centers import BY_NAME, GROUPS, Center, CenterGroup

SITES = {
    "tonsil": 0.42,
    "tongue base": 0.33,
    "soft palate": 0.06,
    "hypopharynx": 0.10,
    "larynx": 0.09,
}
"""Where primaries sit, and how often; it tells nothing of HPV or relapse."""

HPV_KNOWN, RFS_KNOWN, MASK_KNOWN = 0.80, 0.93, 0.94
SMALL_NODE = 0.12
"""Fraction of patients with nodes, one of which is made smaller than 1 ml."""

WEIBULL_SHAPE, WEIBULL_SCALE_DAYS = 0.9, 7500.0
"""Time to relapse at log hazard 0; the scale gives 20% of observed relapses in the training centers."""

FOLLOW_UP_DAYS = (1350.0, 0.5)
"""Median and log standard deviation of the time to censoring."""

CLINICAL_COLUMNS = {
    "age": "Age",
    "gender": "Gender",
    "tobacco": "Tobacco Consumption",
    "alcohol": "Alcohol Consumption",
    "performance_status": "Performance Status",
    "treatment": "Treatment",
    "m_stage": "M-stage",
}
"""Released column of every clinical variable, in the table's order."""


@dataclass(frozen=True)
class LatentPatient:
    """Everything about one patient. Planted continuous variables are standard scores (see `planted`); None is absent.

    Attributes:
        node_volumes_ml: One entry a node; their sum is what `nodal_volume` stands for.
        missing: Clinical variables that the released table leaves blank.
        log_hazard: Latent log hazard of relapse, higher is worse.
        relapse_days: True time to relapse, never censored.
        rfs_days: Observed time to relapse or censoring.
        long_scan: Whether the scan reaches the pelvis.
        image_seed: Seeds everything that is drawn in the images.
    """

    patient_id: str
    center: str
    hpv_positive: bool
    primary_volume: float | None
    primary_suv: float | None
    primary_heterogeneity: float | None
    nodal_volume: float | None
    nodal_cyst: float | None
    primary_site: str | None
    node_volumes_ml: tuple[float, ...]
    age: float
    gender: int
    tobacco: int
    alcohol: int
    performance_status: int
    treatment: int
    m_stage: str
    missing: frozenset[str]
    log_hazard: float
    relapse_days: float
    relapse: bool
    rfs_days: float
    hpv_known: bool
    rfs_known: bool
    mask_known: bool
    long_scan: bool
    image_seed: int

    @property
    def clinical(self) -> dict[str, int | str | None]:
        """Clinical fields by released column, as the released table gives them; None where it is blank."""
        known = {name: getattr(self, name) for name in CLINICAL_COLUMNS if name not in self.missing}
        if "age" in known:
            known["age"] = round(planted.age_years(self.age))
        return {column: known.get(name) for name, column in CLINICAL_COLUMNS.items()}


def draw_patients(
    count: int, seed: int, centers: CenterGroup = "training", hpv_positive: float | None = None
) -> tuple[LatentPatient, ...]:
    """Draw a cohort. Patient i of a seed is the same however many are drawn.

    Args:
        hpv_positive: One HPV prevalence for all centers in place of each center's own.
    """
    group = GROUPS[centers]
    shares = np.array([center.share for center in group])
    numbers: defaultdict[str, int] = defaultdict(int)
    patients = []
    for index in range(count):
        rng = np.random.default_rng((seed, index, group[0].code))
        center = group[rng.choice(len(group), p=shares / shares.sum())]
        numbers[center.name] += 1
        prevalence = center.hpv_prevalence if hpv_positive is None else hpv_positive
        patients.append(_draw_patient(rng, f"{center.name}-{numbers[center.name]:03d}", center, prevalence))
    return tuple(patients)


def log_hazard(hpv_positive: bool, values: Mapping[str, Any]) -> float:
    """Sum the planted effects on relapse of the variables that are present."""
    total = planted.HPV_LOG_HAZARD * hpv_positive
    total += sum(score.log_hazard * values[score.name] for score in planted.SCORES if score.name in values)
    return total + sum(c.log_hazard[c.levels.index(values[c.name])] for c in planted.CATEGORIES)


def _draw_patient(rng: np.random.Generator, patient_id: str, center: Center, prevalence: float) -> LatentPatient:
    positive = bool(rng.random() < prevalence)
    primary = rng.random() >= planted.NO_PRIMARY
    nodal = rng.random() >= planted.NO_NODE[positive] or not primary
    side = 0.5 if positive else -0.5
    scores = {score.name: rng.normal(side * score.shift) for score in planted.SCORES}
    present: dict[str, Any] = {
        **{score.name: scores[score.name] for score in planted.PRIMARY_SCORES if primary},
        **{score.name: scores[score.name] for score in planted.NODAL_SCORES if nodal},
        "age": scores["age"],
    }
    categories: dict[str, Any] = {
        category.name: category.levels[rng.choice(len(category.levels), p=_probabilities(category, positive))]
        for category in planted.CATEGORIES
    }
    imaging: dict[str, Any] = {score.name: present.get(score.name) for score in planted.IMAGING}
    risk = log_hazard(positive, present | categories)
    relapse_days = WEIBULL_SCALE_DAYS * (rng.exponential() / np.exp(risk)) ** (1.0 / WEIBULL_SHAPE)
    follow_up_days = float(np.clip(rng.lognormal(np.log(FOLLOW_UP_DAYS[0]), FOLLOW_UP_DAYS[1]), 90.0, 5000.0))
    return LatentPatient(
        patient_id=patient_id,
        center=center.name,
        hpv_positive=positive,
        **imaging,
        primary_site=str(rng.choice(list(SITES), p=list(SITES.values()))) if primary else None,
        node_volumes_ml=_split_nodes(rng, present["nodal_volume"], center) if nodal else (),
        age=scores["age"],
        **categories,
        missing=_draw_missing(rng, center),
        log_hazard=risk,
        relapse_days=max(float(relapse_days), 1.0),
        relapse=bool(relapse_days <= follow_up_days),
        rfs_days=max(1.0, float(round(min(relapse_days, follow_up_days)))),
        hpv_known=bool(rng.random() < HPV_KNOWN),
        rfs_known=bool(rng.random() < RFS_KNOWN),
        mask_known=bool(rng.random() < MASK_KNOWN),
        long_scan=bool(rng.random() < center.long_share),
        image_seed=int(rng.integers(2**31)),
    )


def _probabilities(category: planted.Category, positive: bool) -> tuple[float, ...]:
    return category.positive if positive else category.negative


def _split_nodes(rng: np.random.Generator, score: float, center: Center) -> tuple[float, ...]:
    """Share the nodal volume among one to four nodes of at least 1 ml, and rarely one below; largest first."""
    total_ml = planted.volume_ml("nodal_volume", score) * center.volume_factor
    small_ml = rng.uniform(0.35, 0.95) if rng.random() < SMALL_NODE and total_ml > 2.0 else 0.0
    rest_ml = total_ml - small_ml
    count = 1 + min(rng.poisson(0.8), int(rest_ml / 2.5), 3)
    floor_ml = min(1.05, rest_ml / count)
    parts = floor_ml + (rest_ml - floor_ml * count) * rng.dirichlet(np.full(count, 1.5))
    return tuple(sorted((float(part) for part in (*parts, small_ml) if part > 0), reverse=True))


def _draw_missing(rng: np.random.Generator, center: Center) -> frozenset[str]:
    tobacco, alcohol, performance = center.missing
    chances = {
        "age": 0.005,
        "gender": 0.0,
        "tobacco": tobacco,
        "alcohol": alcohol,
        "performance_status": performance,
        "treatment": 0.02,
        "m_stage": 0.05,
    }
    return frozenset(name for name, chance in chances.items() if rng.random() < chance)


def center_of(patient: LatentPatient) -> Center:
    """Look up the patient's center."""
    return BY_NAME[patient.center]
