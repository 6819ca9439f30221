"""Patients before any image: HPV status, planted variables, outcome and what of it the released table shows."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmpl.phantom.centers import BY_NAME, GROUPS, Center, CenterGroup
from mmpl.phantom.dose import Dose, draw_dose
from mmpl.phantom.planted import VERSIONS, Category, Planted
from mmpl.phantom.staging import Staging, draw_staging, stage_number
from mmpl.phantom.traps import NO_TRAPS, Traps, draw_traps

RFS_KNOWN, MASK_KNOWN = 0.93, 0.94
"""Fractions of patients whose follow-up, and whose reference mask, is released."""

SMALL_NODE = 0.12
"""Fraction of the patients with more than 2 ml of nodes who have one more node, below 1 ml."""

WEIBULL_SHAPE = 0.9
"""Shape of the time to relapse."""

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
        staging: T and N stage and what they rest on; None in version 1.
        traps: What in the images misleads beyond version 1.
        dose: None where there is no dose map.
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
    version: int = 1
    staging: Staging | None = None
    traps: Traps = NO_TRAPS
    dose: Dose | None = None

    @property
    def planted(self) -> Planted:
        """The effects of the patient's version."""
        return VERSIONS[self.version]

    @property
    def clinical(self) -> dict[str, int | str | None]:
        """Clinical fields by released column, as the released table gives them; None where it is blank."""
        known = {name: getattr(self, name) for name in CLINICAL_COLUMNS if name not in self.missing}
        if "age" in known:
            known["age"] = round(self.planted.years(self.age))
        return {column: known.get(name) for name, column in CLINICAL_COLUMNS.items()}


def draw_patients(
    count: int,
    seed: int,
    centers: CenterGroup = "training",
    hpv_positive: float | None = None,
    version: int = 1,
    dose_share: float = 0.0,
) -> tuple[LatentPatient, ...]:
    """Draw a cohort. Patient i of a seed is the same however many are drawn.

    Args:
        hpv_positive: One HPV prevalence for all centers in place of each center's own.
        version: Which effects are planted (`planted.VERSIONS`); from 2 on there are stages and traps, too.
        dose_share: Share of patients with a dose map.
    """
    group, planted = GROUPS[centers], VERSIONS[version]
    shares = np.array([center.share for center in group])
    numbers: defaultdict[str, int] = defaultdict(int)
    patients = []
    for index in range(count):
        rng = np.random.default_rng((seed, index, group[0].code))
        center = group[rng.choice(len(group), p=shares / shares.sum())]
        numbers[center.name] += 1
        prevalence = center.hpv_prevalence if hpv_positive is None else hpv_positive
        patient_id = f"{center.name}-{numbers[center.name]:03d}"
        patients.append(_draw_patient(rng, patient_id, center, prevalence, planted, dose_share))
    return tuple(patients)


def log_hazard(
    planted: Planted, hpv_positive: bool, values: Mapping[str, Any], staging: Staging | None = None
) -> float:
    """Sum the planted effects on relapse of the variables that are present.

    Args:
        values: Scores and categories by name, without those of absent lesions.
    """
    total = planted.hpv_log_hazard * hpv_positive
    total += sum(score.log_hazard * values[score.name] for score in planted.scores if score.name in values)
    if planted.within_status:
        total -= sum(score.log_hazard * score.mean(hpv_positive) for score in planted.imaging if score.name in values)
    total += sum(c.log_hazard[c.levels.index(values[c.name])] for c in planted.categories)
    if planted.stages and staging:
        total += planted.stages.t_log_hazard * max(0, stage_number(staging.t_stage) - 1)
        total += planted.stages.n_log_hazard * stage_number(staging.n_stage)
    return total


def _draw_patient(
    rng: np.random.Generator, patient_id: str, center: Center, prevalence: float, planted: Planted, dose_share: float
) -> LatentPatient:
    staging_rng, traps_rng, dose_rng = rng.spawn(3)
    positive = bool(rng.random() < prevalence)
    primary = rng.random() >= planted.no_primary
    nodal = rng.random() >= planted.no_node[positive] or not primary
    scores = {score.name: rng.normal(score.mean(positive)) for score in planted.scores}
    present: dict[str, Any] = {
        **{score.name: scores[score.name] for score in planted.primary_scores if primary},
        **{score.name: scores[score.name] for score in planted.nodal_scores if nodal},
        "age": scores["age"],
    }
    categories: dict[str, Any] = {
        category.name: category.levels[rng.choice(len(category.levels), p=_probabilities(category, positive))]
        for category in planted.categories
    }
    imaging: dict[str, Any] = {score.name: present.get(score.name) for score in planted.imaging}
    relapse_draw = rng.exponential()
    follow_up_days = float(np.clip(rng.lognormal(np.log(FOLLOW_UP_DAYS[0]), FOLLOW_UP_DAYS[1]), 90.0, 5000.0))
    site = str(rng.choice(list(planted.sites), p=list(planted.sites.values()))) if primary else None
    node_volumes_ml = _split_nodes(rng, planted, present["nodal_volume"], center) if nodal else ()
    staging = None
    if planted.stages:
        primary_ml = 0.0
        if primary:
            primary_ml = planted.volume_ml("primary_volume", present["primary_volume"]) * center.volume_factor
        staging = draw_staging(staging_rng, planted.stages, positive, primary_ml, node_volumes_ml)
    dose = draw_dose(dose_rng, dose_share)
    risk = log_hazard(planted, positive, present | categories, staging) + (dose.log_hazard if dose else 0.0)
    relapse_days = planted.relapse_scale_days * (relapse_draw / np.exp(risk)) ** (1.0 / WEIBULL_SHAPE)
    missing = _draw_missing(rng, center, planted)
    hpv_known, rfs_known, mask_known, long_scan = (
        bool(rng.random() < chance) for chance in (planted.hpv_known, RFS_KNOWN, MASK_KNOWN, center.long_share)
    )
    return LatentPatient(
        patient_id=patient_id,
        center=center.name,
        hpv_positive=positive,
        **imaging,
        primary_site=site,
        node_volumes_ml=node_volumes_ml,
        age=scores["age"],
        **categories,
        missing=missing,
        log_hazard=risk,
        relapse_days=max(float(relapse_days), 1.0),
        relapse=bool(relapse_days <= follow_up_days),
        rfs_days=max(1.0, float(round(min(relapse_days, follow_up_days)))),
        hpv_known=hpv_known,
        rfs_known=rfs_known,
        mask_known=mask_known,
        long_scan=long_scan,
        image_seed=int(rng.integers(2**31)),
        version=planted.version,
        staging=staging,
        traps=draw_traps(traps_rng, center.vessel_hu, long_scan) if planted.traps else NO_TRAPS,
        dose=dose,
    )


def _probabilities(category: Category, positive: bool) -> tuple[float, ...]:
    return category.positive if positive else category.negative


def _split_nodes(rng: np.random.Generator, planted: Planted, score: float, center: Center) -> tuple[float, ...]:
    """Share the nodal volume among one to four nodes, of at least 1 ml as far as it goes, and rarely one below.

    Returns:
        Volumes, ml, largest first.
    """
    total_ml = planted.volume_ml("nodal_volume", score) * center.volume_factor
    small_ml = rng.uniform(0.35, 0.95) if rng.random() < SMALL_NODE and total_ml > 2.0 else 0.0
    rest_ml = total_ml - small_ml
    count = 1 + min(rng.poisson(0.8), int(rest_ml / 2.5), 3)
    floor_ml = min(1.05, rest_ml / count)
    parts = floor_ml + (rest_ml - floor_ml * count) * rng.dirichlet(np.full(count, 1.5))
    return tuple(sorted((float(part) for part in (*parts, small_ml) if part > 0), reverse=True))


def _draw_missing(rng: np.random.Generator, center: Center, planted: Planted) -> frozenset[str]:
    tobacco, alcohol, performance = (
        chance * factor for chance, factor in zip(center.missing, planted.blank_factor, strict=True)
    )
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
