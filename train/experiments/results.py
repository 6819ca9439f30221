"""Read a finished run back as results: what each model said of the patients it never saw, under each scheme."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmpl.case import Patient
from mmpl.cohort_scores import MASK_COLUMNS, Interval, Results, score_mask
from mmpl.evaluate import describe_patients
from mmpl.evidence import Evidence, FeatureTable, Scale
from mmpl.names import Stage
from mmpl.segmentation import UNTUNED, restore
from mmpl.training.cox import SMALLEST_RISK_SD, fit_cox
from mmpl.training.forest import choose_threshold, fit_forest
from mmpl.training.hpv import with_status
from mmpl.training.parallel import Engine
from mmpl.training.splits import Member, Scheme
from mmpl.training.survival import times_and_events, with_rfs
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
    return dict(zip(patients, engine.map(title, _ScoreMask(workspace, scheme), patients), strict=True))


def make_results(
    patients: Sequence[Patient],
    masks: Mapping[str, Sequence[float]] | None = None,
    risk: Mapping[str, float] | None = None,
    probability: Mapping[str, float] | None = None,
    decision: Mapping[str, float] | None = None,
) -> Results:
    """Line answers up with patients; what is left out is missing of all of them."""

    def column(values: Mapping[str, float] | None) -> NDArray[np.float64]:
        return np.array([(values or {}).get(p.patient_id, np.nan) for p in patients], float)

    def known(values: Sequence[float | None]) -> NDArray[np.float64]:
        return np.array([np.nan if value is None else value for value in values], float)

    blank = [np.nan] * len(MASK_COLUMNS)
    table = np.array([(masks or {}).get(p.patient_id, blank) for p in patients], float).reshape(-1, len(blank))
    has_rfs = [p.outcome.has_rfs for p in patients]
    every = np.ones(len(patients), bool)
    by_column: dict[str, Any] = dict(zip(MASK_COLUMNS, table.T, strict=True))
    return Results(
        center=np.array([p.center_id for p in patients], str),
        **by_column,
        mask_predicted=every,
        answered=every,
        risk=column(risk),
        days=known([p.outcome.rfs_days if has else None for p, has in zip(patients, has_rfs, strict=True)]),
        relapse=known([p.outcome.relapse if has else None for p, has in zip(patients, has_rfs, strict=True)]),
        hpv_probability=column(probability),
        hpv_decision=column(decision),
        hpv_positive=known([p.outcome.hpv_positive for p in patients]),
        **describe_patients(patients),
    )


def with_interval(value: float, bounds: Interval, sign: str = "") -> str:
    """Write a measure as `0.700 [0.600, 0.800]`, with a plus before what is above 0 where the sign says so."""
    if math.isnan(value):
        return "undefined"
    text = f"{value:{sign}.3f}"
    return text if math.isnan(bounds.low) else f"{text} [{bounds.low:{sign}.3f}, {bounds.high:{sign}.3f}]"


def decide(workspace: Workspace, scheme: Scheme, score: Mapping[str, float]) -> dict[str, float]:
    """Call each patient HPV-positive or not by the threshold that the other folds' patients give.

    Args:
        workspace: The run.
        scheme: The scheme whose folds they are.
        score: Out-of-fold score of each patient; higher means more likely positive, on any scale.
    """
    fold_of = workspace.splits.fold_of[scheme]
    known = with_status(workspace.patients)
    decisions: dict[str, float] = {}
    for fold in sorted(set(fold_of.values())):
        others = [p for p in known if fold_of[p.patient_id] != fold]
        values = [score[p.patient_id] for p in others]
        threshold = choose_threshold(values, [bool(p.outcome.hpv_positive) for p in others])
        inside = [name for name, where in fold_of.items() if where == fold and name in score]
        decisions |= {name: float(score[name] >= threshold) for name in inside}
    return decisions


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
        """Give HPV probabilities and risk scores, standardized within the fold, by patient."""
        workspace, splits = self.workspace, self.workspace.splits
        training, held_out = (part(member, workspace.patients) for part in (splits.training, splits.held_out))

        def evidence(patients: Sequence[Patient]) -> Evidence:
            nothing = FeatureTable((), np.zeros((len(patients), 0)))
            return Evidence(
                nothing,
                workspace.radiomics(patients) if self.radiomics else nothing,
                workspace.encode(member, patients) if self.clinical else nothing,
            )

        known, followed = with_status(training), with_rfs(training)
        status = [bool(p.outcome.hpv_positive) for p in known]
        seeds = (workspace.seed(member, stage) for stage in (Stage.HPV, Stage.SURVIVAL))
        forest = fit_forest(evidence(known), status, workspace.profile.forest, next(seeds))
        screening_p = workspace.profile.survival.screening_p
        cox = fit_cox(evidence(followed), *times_and_events(followed), screening_p, next(seeds))
        probability = forest.probability(evidence(held_out))
        hazard = cox.log_partial_hazard(evidence(held_out))
        scale = Scale.of(hazard, SMALLEST_RISK_SD)
        ids = [p.patient_id for p in held_out]
        risk = [scale.standardize(float(value)) for value in hazard]
        return dict(zip(ids, probability.tolist(), strict=True)), dict(zip(ids, risk, strict=True))
