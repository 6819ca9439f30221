"""Stage 2: the ten HPV networks, then the ten forests on out-of-fold evidence: `python -m train.hpv RUN`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import typer

from mmpl.case import Patient
from mmpl.evidence import Evidence, hpv_evidence
from mmpl.files import write_json
from mmpl.metrics import balanced_accuracy, roc_auc
from mmpl.names import Stage
from mmpl.training.command import Devices, Only, RunFolder, Scheduler, Workers, need
from mmpl.training.forest import choose_threshold, fit_forest
from mmpl.training.losses import hpv_loss
from mmpl.training.outcome_network import (
    OutcomeTask,
    Scores,
    by_scheme,
    mean_over_schemes,
    own_scales,
    predict_fold,
    standardize,
    train_outcome_network,
    train_stage,
)
from mmpl.training.parallel import Engine
from mmpl.training.records import HpvRecord, OutOfFold
from mmpl.training.splits import Member
from mmpl.training.workspace import Workspace
from mmpl.weights import FOREST_FILE, TABLES_FILE, HpvTables


def with_status(patients: Sequence[Patient]) -> list[Patient]:
    """Keep the patients whose HPV status is known."""
    return [p for p in patients if p.outcome.hpv_positive is not None]


def hpv_task(workspace: Workspace, member: Member) -> OutcomeTask:
    """Say what a model's HPV network learns: both statuses come as often, which balances the cross-entropy.

    Raises:
        ValueError: The training patients are all of one status.
    """
    known = with_status(workspace.splits.training(member, workspace.patients))
    groups = [[p.patient_id for p in known if p.outcome.hpv_positive == status] for status in (True, False)]
    if not all(groups):
        raise ValueError(f"{member.name}: its {len(known)} training patients with HPV status are all of one kind")
    positive = {p.patient_id: bool(p.outcome.hpv_positive) for p in known}
    targets = {name: (np.array([status], np.float32),) for name, status in positive.items()}
    return OutcomeTask(Stage.HPV, groups, targets, hpv_loss, partial(_auc, positive))


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
        start = self.workspace.previous_network(member, Stage.HPV) if self.transfer else None
        task = hpv_task(self.workspace, member)
        transferred = train_outcome_network(self.workspace, member, task, start, self.devices)
        return transferred, predict_fold(self.workspace, member, Stage.HPV)


@dataclass(frozen=True)
class _FitForest:
    """Fit one forest outside its fold, keep it, and give how it was chosen and the probabilities of those inside.

    Attributes:
        scores: Standardized logits, out of fold; none without networks.
    """

    workspace: Workspace
    scores: OutOfFold

    def __call__(self, member: Member) -> tuple[dict[str, float | None], dict[str, float]]:
        workspace = self.workspace
        known = with_status(workspace.splits.training(member, workspace.patients))
        held_out = workspace.splits.held_out(member, workspace.patients)

        def evidence(patients: list[Patient]) -> Evidence:
            scores = self.scores.get(member.scheme)
            deep_score = None if scores is None else [scores[p.patient_id] for p in patients]
            return hpv_evidence(deep_score, workspace.radiomics(patients), workspace.encode(member, patients))

        status = [bool(p.outcome.hpv_positive) for p in known]
        seed = workspace.seed(member, Stage.HPV)
        model = fit_forest(evidence(known), status, workspace.profile.forest, seed)
        model.save(workspace.member_file(member, FOREST_FILE))
        probability = model.probability(evidence(held_out))
        named = {p.patient_id: float(value) for p, value in zip(held_out, probability, strict=True)}
        return dict(model.choice), named


def describe_auc(patients: Sequence[Patient], scores: Scores) -> str:
    """Score one network alone on those of the patients whose status is known."""
    known = with_status([p for p in patients if p.patient_id in scores])
    auc = roc_auc([scores[p.patient_id][0] for p in known], [bool(p.outcome.hpv_positive) for p in known])
    if math.isnan(auc):
        return f"no AUC, as the {len(known)} of known HPV status are not of both kinds"
    return f"AUC {auc:.3f} of {len(known)} of known HPV status"


def fit_forests(workspace: Workspace, engine: Engine, logits: OutOfFold) -> HpvRecord:
    """Fit every model's forest on out-of-fold evidence, and choose the ensemble's threshold.

    Args:
        workspace: The run, which takes each model's scale and forest.
        engine: What spreads the work.
        logits: Logits of every network, out of fold; none without networks.
    """
    splits, members = workspace.splits, workspace.splits.members
    for member, scale in own_scales(splits, logits).items():
        write_json(workspace.member_file(member, TABLES_FILE[Stage.HPV]), HpvTables(scale))
    scores = standardize(splits, logits)
    choices, tables = zip(*engine.map("forests", _FitForest(workspace, scores), members), strict=True)
    probability = by_scheme(members, tables)
    known = with_status(workspace.patients)
    status = np.array([p.outcome.hpv_positive for p in known], bool)
    mean = mean_over_schemes(probability, known)
    threshold = choose_threshold(mean, status)
    return HpvRecord(
        logits=logits,
        probability=probability,
        threshold=threshold,
        auc=roc_auc(mean, status),
        auc_deep_only=roc_auc(mean_over_schemes(scores, known), status) if scores else None,
        balanced_accuracy=balanced_accuracy(mean >= threshold, status),
        forests={member.name: choice for member, choice in zip(members, choices, strict=True)},
    )


def main(
    run: RunFolder,
    only: Only = None,
    workers: Workers = 0,
    scheduler: Scheduler = None,
    devices: Devices = 1,
) -> None:
    """Train stage 2 of every model, or of some; after the last, fit the forests and choose the HPV threshold."""
    need("lightning", "imblearn")
    workspace, engine = Workspace.open(run), Engine(workers, scheduler, devices)
    if not workspace.trains(Stage.HPV):
        return
    workspace.require_prepared()
    if not only:
        workspace.require_radiomics()
    describe = partial(describe_auc, workspace.patients)
    work = TrainAndPredict(workspace, devices=devices)
    trained = train_stage(workspace, engine, Stage.HPV, work, describe, only)
    if trained is None:
        return
    workspace.require_radiomics()
    members = workspace.splits.members
    logits = by_scheme(members, [{name: row[0] for name, row in trained[member].items()} for member in members])
    record = fit_forests(workspace, engine, logits)
    workspace.keep(record)
    typer.echo(f"out of fold: AUC {record.auc:.3f}, of the networks alone {record.auc_deep_only:.3f}")
