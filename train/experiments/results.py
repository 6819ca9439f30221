"""Read a finished run back as results: what each model said of the patients it never saw, under each scheme."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmpl.case import Patient
from mmpl.hpv import Evidence, HpvModel, choose_threshold
from mmpl.labels import Stage
from mmpl.radiomics import feature_names
from mmpl.scoring import MASK_COLUMNS, Results, score_mask
from mmpl.segmentation import Thresholds, restore
from mmpl.survival import CoxModel, RiskScale, SurvivalEvidence
from mmpl.training.hpv import fit_encoder
from mmpl.training.parallel import Engine
from mmpl.training.splits import Member, Scheme
from mmpl.training.survival import outcomes, with_rfs
from mmpl.training.workspace import Workspace

Values = Mapping[str, float]
"""One number a patient."""

HALF = Thresholds(gtvp=0.5, gtvn=0.5)
"""Untuned, so that no method gains from thresholds chosen on the patients that are scored."""


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
        found = restore(probability, patient.roi, patient.ct_grid, HALF, smallest)
        return score_mask(reference, found.voxels, patient.ct_grid.spacing_xyz)


def score_masks(workspace: Workspace, scheme: Scheme, engine: Engine) -> dict[str, tuple[float, ...]]:
    """Score every out-of-fold mask of a scheme on the CT's grid; numbers as `mmpl.scoring.MASK_COLUMNS`, by patient."""
    patients = [p.patient_id for p in workspace.patients if workspace.store.describe(p.patient_id).has_labels]
    title = f"scoring masks, {workspace.variant or 'ODA'}, {scheme}"
    return dict(zip(patients, engine.spread(title, _ScoreMask(workspace, scheme), patients), strict=True))


def make_results(
    patients: Sequence[Patient],
    masks: Mapping[str, Sequence[float]] | None = None,
    risk: Values | None = None,
    probability: Values | None = None,
    decision: Values | None = None,
) -> Results:
    """Line answers up with patients; what is left out is missing of all of them."""

    def column(values: Values | None) -> NDArray[np.float64]:
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
    )


def decide(workspace: Workspace, scheme: Scheme, score: Values) -> dict[str, float]:
    """Call each patient HPV-positive or not by the threshold that the other folds' patients give.

    Args:
        workspace: Of the run.
        scheme: Whose folds.
        score: Out of fold; higher means more likely positive, on any scale.
    """
    fold_of = workspace.splits.fold_of[scheme]
    known = [p for p in workspace.patients if p.outcome.hpv_positive is not None]
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
        workspace = self.workspace
        outside, inside = (
            part(member, workspace.patients) for part in (workspace.splits.outside, workspace.splits.inside)
        )
        encoder = fit_encoder(workspace, member)
        names = feature_names() if self.radiomics else ()
        columns = encoder.names if self.clinical else ()

        def tables(patients: list[Patient]) -> tuple[NDArray, NDArray]:
            rows = [workspace.radiomics(p.patient_id)[: len(names)] for p in patients]
            clinical = encoder.encode([p.clinical for p in patients])[:, : len(columns)]
            return np.array(rows).reshape(len(patients), len(names)), clinical

        known = [p for p in outside if p.outcome.hpv_positive is not None]
        forest = HpvModel.fit(
            Evidence(np.zeros(len(known)), *tables(known)),
            np.array([p.outcome.hpv_positive for p in known]),
            names,
            columns,
            workspace.profile.forest,
            workspace.seed(member, Stage.HPV),
        )
        followed = with_rfs(outside)

        def evidence(patients: list[Patient]) -> SurvivalEvidence:
            return SurvivalEvidence(np.zeros(len(patients)), np.zeros(len(patients)), *tables(patients))

        cox = CoxModel.fit(
            evidence(followed),
            *outcomes(followed),
            names,
            columns,
            workspace.profile.survival.screening_p,
            workspace.seed(member, Stage.SURVIVAL),
        )
        ids = [p.patient_id for p in inside]
        probability = forest.probability(Evidence(np.zeros(len(inside)), *tables(inside)))
        hazard = cox.log_partial_hazard(evidence(inside))
        scale = RiskScale.of(hazard)
        risk = [scale.standardize(float(value)) for value in hazard]
        return dict(zip(ids, probability.tolist(), strict=True)), dict(zip(ids, risk, strict=True))
