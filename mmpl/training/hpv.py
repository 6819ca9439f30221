"""Stage 2: the ten HPV networks, then the ten forests on out-of-fold evidence: `python -m train.hpv RUN`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from mmpl.case import Patient
from mmpl.clinical import ClinicalEncoder
from mmpl.hpv import Evidence, HpvModel, choose_threshold
from mmpl.labels import Stage
from mmpl.metrics import balanced_accuracy, roc_auc
from mmpl.radiomics import feature_names
from mmpl.training.command import Devices, Only, RunFolder, Scheduler, Workers, need
from mmpl.training.losses import balanced_bce
from mmpl.training.outcome_network import (
    PREVIOUS,
    OutcomeTask,
    Scores,
    predict_fold,
    standardize,
    train_outcome_network,
    train_stage,
)
from mmpl.training.parallel import Engine
from mmpl.training.splits import Member, Scheme
from mmpl.training.workspace import Workspace


def hpv_task(workspace: Workspace, member: Member) -> OutcomeTask:
    """Say what a model's HPV network learns: both statuses come as often, which balances the cross-entropy.

    Raises:
        ValueError: The training patients are all of one status.
    """
    known = [p for p in workspace.splits.outside(member, workspace.patients) if p.outcome.hpv_positive is not None]
    groups = [[p.patient_id for p in known if p.outcome.hpv_positive == status] for status in (True, False)]
    if not all(groups):
        raise ValueError(f"{member.name}: its {len(known)} training patients with HPV status are all of one kind")
    positive = {p.patient_id: bool(p.outcome.hpv_positive) for p in known}
    targets = {name: (np.array([status], np.float32),) for name, status in positive.items()}
    return OutcomeTask(Stage.HPV, groups, targets, partial(balanced_bce, prevalence=0.5), partial(_auc, positive))


def _auc(positive: Mapping[str, bool], logits: Mapping[str, Sequence[float]]) -> float:
    return roc_auc([row[0] for row in logits.values()], [positive[name] for name in logits])


@dataclass(frozen=True)
class TrainAndPredict:
    """Train one model's network, from stage 1's or from scratch, and score the patients of its fold."""

    workspace: Workspace
    transfer: bool = True
    devices: int = 1

    def __call__(self, member: Member) -> tuple[int, Scores]:
        """Give how many tensors were transferred, and the logits."""
        start = self.workspace.network_file(member, PREVIOUS[Stage.HPV]) if self.transfer else None
        task = hpv_task(self.workspace, member)
        transferred = train_outcome_network(self.workspace, member, task, start, self.devices)
        return transferred, predict_fold(self.workspace, member, Stage.HPV)


def make_evidence(
    workspace: Workspace, patients: list[Patient], deep: dict[str, float], encoder: ClinicalEncoder
) -> Evidence:
    """Join standardized deep score, radiomics and clinical record of patients."""
    return Evidence(
        deep_score=np.array([deep[p.patient_id] for p in patients]),
        radiomics=np.stack([workspace.radiomics(p.patient_id) for p in patients]),
        clinical=encoder.encode([p.clinical for p in patients]),
    )


@dataclass(frozen=True)
class _FitForest:
    """Fit one forest outside its fold, keep it, and give the probabilities of the patients inside."""

    workspace: Workspace
    deep: dict[Scheme, dict[str, float]]

    def __call__(self, member: Member) -> dict[str, float]:
        workspace, scheme = self.workspace, member.scheme
        outside = workspace.splits.outside(member, workspace.patients)
        inside = workspace.splits.inside(member, workspace.patients)
        known = [p for p in outside if p.outcome.hpv_positive is not None]
        encoder = fit_encoder(workspace, member)
        evidence = partial(make_evidence, workspace, deep=self.deep[scheme], encoder=encoder)
        model = HpvModel.fit(
            evidence(known),
            np.array([p.outcome.hpv_positive for p in known]),
            radiomics_names=feature_names(),
            clinical_names=encoder.names,
            settings=workspace.profile.forest,
            seed=workspace.seed(member, Stage.HPV),
        )
        model.save(workspace.forest_file(member))
        probability = model.probability(evidence(inside))
        return {p.patient_id: float(value) for p, value in zip(inside, probability, strict=True)}


def fit_encoder(workspace: Workspace, member: Member) -> ClinicalEncoder:
    """Fit the clinical encoder of a model on the patients outside its fold."""
    return ClinicalEncoder.fit([p.clinical for p in workspace.splits.outside(member, workspace.patients)])


def by_scheme(members: Sequence[Member], tables: Sequence[dict[str, float]]) -> dict[Scheme, dict[str, float]]:
    """Join the folds of each scheme into one out-of-fold table."""
    joined: dict[Scheme, dict[str, float]] = {}
    for member, table in zip(members, tables, strict=True):
        joined.setdefault(member.scheme, {}).update(table)
    return joined


def describe_auc(patients: Sequence[Patient], scores: Scores) -> str:
    """Score one network alone on those of the patients whose status is known."""
    known = [p for p in patients if p.patient_id in scores and p.outcome.hpv_positive is not None]
    auc = roc_auc([scores[p.patient_id][0] for p in known], [bool(p.outcome.hpv_positive) for p in known])
    if math.isnan(auc):
        return f"no AUC, as the {len(known)} of known HPV status are not of both kinds"
    return f"AUC {auc:.3f} of {len(known)} of known HPV status"


def main(
    run: RunFolder,
    only: Only = None,
    workers: Workers = 0,
    scheduler: Scheduler = None,
    devices: Devices = 1,
) -> None:
    """Train stage 2 of every model, or of some; after the last, fit the forests and choose the HPV threshold."""
    need("lightning", "imblearn")
    workspace, engine = Workspace.open(run), Engine(workers, scheduler)
    members, schemes = workspace.splits.members, workspace.splits.schemes
    if not only:
        workspace.require_radiomics()
    describe = partial(describe_auc, workspace.patients)
    work = TrainAndPredict(workspace, devices=devices)
    trained = train_stage(workspace, engine, Stage.HPV, work, describe, only)
    if trained is None:
        return
    workspace.require_radiomics()
    scores = by_scheme(members, [{name: row[0] for name, row in trained[member].items()} for member in members])
    workspace.write_json("hpv_scores", scores)
    deep = {scheme: standardize(workspace.splits, scheme, scores[scheme]) for scheme in schemes}
    probability = by_scheme(members, engine.spread("forests", _FitForest(workspace, deep), members))
    workspace.write_json("hpv_probability", probability)

    known = [p for p in workspace.patients if p.outcome.hpv_positive is not None]
    truth = np.array([p.outcome.hpv_positive for p in known])
    mean = np.array([np.mean([probability[scheme][p.patient_id] for scheme in schemes]) for p in known])
    deep_mean = np.array([np.mean([deep[scheme][p.patient_id] for scheme in schemes]) for p in known])
    threshold = choose_threshold(mean, truth)
    summary: dict[str, Any] = {
        "threshold": float(threshold),
        "auc": float(roc_auc(mean, truth)),
        "auc_deep_only": float(roc_auc(deep_mean, truth)),
        "balanced_accuracy_at_the_chosen_threshold": float(balanced_accuracy(mean >= threshold, truth)),
    }
    summary |= {
        "forests": {member.name: dict(HpvModel.load(workspace.forest_file(member)).choice) for member in members}
    }
    workspace.write_json("hpv", summary)
