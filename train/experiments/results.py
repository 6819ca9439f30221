"""Read a finished run back as results: what each model said of the patients it never saw, under each scheme."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmpl.case import Patient
from mmpl.cohort_scores import RESAMPLES, Interval, interval, resamples, score_mask
from mmpl.evidence import Evidence, FeatureTable, Scale
from mmpl.names import Stage
from mmpl.segmentation import UNTUNED, restore
from mmpl.training.cox import SMALLEST_RISK_SD, fit_cox
from mmpl.training.forest import fit_forest
from mmpl.training.hpv import with_status
from mmpl.training.memory import IMAGES_GIB
from mmpl.training.parallel import Engine
from mmpl.training.records import SurvivalRecord
from mmpl.training.splits import Member, Scheme
from mmpl.training.survival import CoxEvidence, times_and_events, with_rfs
from mmpl.training.workspace import Workspace


@dataclass(frozen=True)
class _ScoreMask:
    workspace: Workspace
    scheme: Scheme

    def __call__(self, patient_id: str) -> tuple[float, ...]:
        workspace, patient = self.workspace, self.workspace.store.describe(patient_id)
        reference = workspace.store.reference(patient_id)
        assert reference is not None
        probability = workspace.probability(self.scheme, patient_id)
        smallest = workspace.profile.inference.minimum_component_voxels
        found = restore(probability, patient.roi, patient.ct_grid, UNTUNED, smallest)
        return score_mask(reference, found.voxels, patient.ct_grid.spacing_xyz)


def score_masks(workspace: Workspace, scheme: Scheme, engine: Engine) -> dict[str, tuple[float, ...]]:
    """Score every out-of-fold mask of a scheme on the CT's grid; the numbers of `MASK_COLUMNS`, by patient."""
    patients = [p.patient_id for p in workspace.patients if workspace.store.describe(p.patient_id).has_labels]
    title = f"scoring masks, {workspace.variant or 'ODA'}, {scheme}"
    scored = engine.map(title, _ScoreMask(workspace, scheme), patients, item_gib=IMAGES_GIB)
    return dict(zip(patients, scored, strict=True))


def with_interval(value: float, bounds: Interval, sign: str = "") -> str:
    """Write a measure as `0.700 [0.600, 0.800]`, with a plus before what is above 0 where the sign says so."""
    if math.isnan(value):
        return "undefined"
    text = f"{value:{sign}.3f}"
    return text if math.isnan(bounds.low) else f"{text} [{bounds.low:{sign}.3f}, {bounds.high:{sign}.3f}]"


def paired_difference(
    metric: Callable[..., float], ours: NDArray, other: NDArray, *truth: NDArray
) -> tuple[float, Interval]:
    """Give by how much a metric of some answers exceeds that of others of the same patients, with its 95% interval.

    Args:
        metric: Function of answers and of each part of the truth.
        ours, other: (n,) answers.
        truth: (n,) what is known of the patients.
    """

    def difference(*rows: NDArray) -> float:
        one, two, *known = rows
        return metric(one, *known) - metric(two, *known)

    rows = (ours, other, *truth)
    drawn = [difference(*(row[chosen] for row in rows)) for chosen in resamples(len(ours), RESAMPLES)]
    return difference(*rows), interval(drawn)


@dataclass(frozen=True)
class NoHpv:
    """Fit a fold's Cox model without any HPV status, known or predicted, and score the patients of the fold."""

    workspace: Workspace

    def __call__(self, member: Member) -> dict[str, float]:
        evidence = CoxEvidence(self.workspace, self.workspace.read(SurvivalRecord).expected_days, None)
        return evidence.score(member, evidence.fit(member))[1]


@dataclass(frozen=True)
class Baseline:
    """Fit stage 2's forest and stage 3's Cox model of one fold on part of the evidence; score the patients inside.

    Attributes:
        radiomics: Whether radiomics are seen, as is the clinical record where `clinical` says so; never the networks.
    """

    workspace: Workspace
    radiomics: bool
    clinical: bool

    def __call__(self, member: Member) -> tuple[dict[str, float], dict[str, float]]:
        """Give HPV probabilities and risk scores, standardized within the fold, by patient; none without the stage."""
        workspace, splits = self.workspace, self.workspace.splits
        training, held_out = (part(member, workspace.patients) for part in (splits.training, splits.held_out))

        def evidence(patients: Sequence[Patient]) -> Evidence:
            nothing = FeatureTable((), np.zeros((len(patients), 0)))
            return Evidence(
                nothing,
                workspace.radiomics(patients) if self.radiomics else nothing,
                workspace.encode(member, patients) if self.clinical else nothing,
            )

        ids, profile, stages = [p.patient_id for p in held_out], workspace.profile, workspace.settings.stages
        probability, risk = dict[str, float](), dict[str, float]()
        if Stage.HPV in stages:
            known = with_status(training)
            status = [bool(p.outcome.hpv_positive) for p in known]
            forest = fit_forest(evidence(known), status, profile.forest, workspace.seed(member, Stage.HPV))
            probability = dict(zip(ids, forest.probability(evidence(held_out)).tolist(), strict=True))
        if Stage.SURVIVAL in stages:
            followed, seed = with_rfs(training), workspace.seed(member, Stage.SURVIVAL)
            cox = fit_cox(evidence(followed), *times_and_events(followed), profile.survival.screening_p, seed)
            hazard = cox.log_partial_hazard(evidence(held_out))
            scale = Scale.of(hazard, SMALLEST_RISK_SD)
            risk = {name: scale.standardize(float(value)) for name, value in zip(ids, hazard, strict=True)}
        return probability, risk
