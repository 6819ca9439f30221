"""Stage 3: ten survival networks, then ten Cox models on out-of-fold evidence: `python -m train.survival RUN`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import typer
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit

from mmpl.case import Patient
from mmpl.evidence import Evidence, Scale, survival_evidence
from mmpl.files import read_json, write_json
from mmpl.metrics import c_index
from mmpl.names import Stage
from mmpl.survival import CoxModel, TimeIntervals, expected_days, survival_curve
from mmpl.training.command import Devices, Only, RunFolder, Scheduler, Workers, need
from mmpl.training.cox import SMALLEST_RISK_SD, fit_cox
from mmpl.training.losses import discrete_time_nll
from mmpl.training.outcome_network import (
    OutcomeTask,
    by_scheme,
    mean_over_schemes,
    own_scales,
    predict_fold,
    standardize,
    train_outcome_network,
    train_stage,
)
from mmpl.training.parallel import Engine
from mmpl.training.records import HpvRecord, OutOfFold, SurvivalRecord
from mmpl.training.splits import Member
from mmpl.training.workspace import Workspace
from mmpl.weights import TABLES_FILE, SurvivalTables

_HALF = 0.5
"""Added to both counts of an interval, one of which may be 0."""
_FAR = 20.0
"""Logit of a hazard that is surely 0 or 1."""


def with_rfs(patients: Sequence[Patient]) -> list[Patient]:
    """Keep the patients whose time and event are known."""
    return [p for p in patients if p.outcome.has_rfs]


def times_and_events(patients: Sequence[Patient]) -> tuple[np.ndarray, np.ndarray]:
    """Days and relapses (n,) each of patients that have both."""
    return np.array([p.outcome.rfs_days for p in patients]), np.array([p.outcome.relapse for p in patients])


def cut_intervals(workspace: Workspace, member: Member) -> TimeIntervals:
    """Cut discrete time on the patients outside a model's fold."""
    days, relapse = times_and_events(with_rfs(workspace.splits.training(member, workspace.patients)))
    return TimeIntervals.cut(days, relapse, workspace.profile.survival.intervals)


def survival_task(workspace: Workspace, member: Member, intervals: TimeIntervals) -> OutcomeTask:
    """Say what a model's survival network learns: which intervals each patient survived."""
    patients = with_rfs(workspace.splits.training(member, workspace.patients))
    survived, relapsed = intervals.targets(*times_and_events(patients))
    targets = {p.patient_id: row for p, row in zip(patients, zip(survived, relapsed, strict=True), strict=True)}
    rank = partial(_concordance, intervals, {p.patient_id: p for p in patients})
    logits, level = start_logits(survived, relapsed), partial(level_logits, targets)
    return OutcomeTask(Stage.SURVIVAL, [sorted(targets)], targets, discrete_time_nll, rank, logits, level)


def start_logits(survived: NDArray[np.float64], relapsed: NDArray[np.float64]) -> list[float]:
    """Give each interval's hazard among all patients (n, K) as a logit, (K,), which is where its network begins.

    Relapses are few: from hazards of one half the first steps go down too far, and 300 steps did not bring them back
    (a mean survival of 0.93 after six years where Kaplan-Meier has 0.74).
    """
    relapses, survivals = relapsed.sum(axis=0) + _HALF, survived.sum(axis=0) + _HALF
    return np.log(relapses / survivals).tolist()


def level_logits(
    targets: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]], logits: Mapping[str, Sequence[float]]
) -> NDArray[np.float64]:
    """Find what to add to a network's hazard logits so that as many relapses are expected in each interval as came.

    Training ends at a level that is the network's own, as few patients relapse; how it ranks them stays.

    Args:
        targets: Each patient's (K,) shares survived and relapses (`TimeIntervals.targets`).
        logits: (K,) hazard logits by patient, patients as in `targets` or some of them.

    Returns:
        (K,) logits; 0 for an interval in which nobody was watched.
    """
    survived, relapsed = (np.array([targets[name][part] for name in logits]) for part in (0, 1))
    ours, watched = np.array(list(logits.values())), survived + relapsed
    wanted = watched.sum(axis=0) * expit(start_logits(survived, relapsed))
    far = np.abs(ours).max() + _FAR

    def missing(shift: float, interval: int) -> float:
        return float(watched[:, interval] @ expit(ours[:, interval] + shift) - wanted[interval])

    def level(interval: int) -> float:
        return float(brentq(missing, -far, far, args=(interval,))) if watched[:, interval].any() else 0.0

    return np.array([level(interval) for interval in range(len(wanted))])


def _concordance(
    intervals: TimeIntervals, patients: Mapping[str, Patient], logits: Mapping[str, Sequence[float]]
) -> float:
    days = [expected_days(survival_curve(row), intervals) for row in logits.values()]
    return c_index(-np.array(days), *times_and_events([patients[name] for name in logits]))


@dataclass(frozen=True)
class TrainAndPredict:
    """Train one model's network, from the stage before or from scratch, and score the patients of its fold."""

    workspace: Workspace
    transfer: bool = True
    devices: int = 1

    def __call__(self, member: Member) -> tuple[int, dict[str, float]]:
        """Give how many tensors were transferred, and the expected days."""
        workspace = self.workspace
        start = workspace.previous_network(member, Stage.SURVIVAL) if self.transfer else None
        intervals = cut_intervals(workspace, member)
        task = survival_task(workspace, member, intervals)
        transferred = train_outcome_network(workspace, member, task, start, self.devices)
        logits = predict_fold(workspace, member, Stage.SURVIVAL)
        return transferred, {name: float(expected_days(survival_curve(row), intervals)) for name, row in logits.items()}


@dataclass(frozen=True)
class CoxEvidence:
    """What the Cox models of a run see of its patients, out of fold.

    Attributes:
        days: Expected days of every network; none without networks.
        hpv_probability: HPV probabilities of the forests; None for models that see no HPV status.
    """

    workspace: Workspace
    days: OutOfFold
    hpv_probability: OutOfFold | None

    @classmethod
    def of(cls, workspace: Workspace, days: OutOfFold) -> "CoxEvidence":
        """Take a run's networks' expected days, and its HPV probabilities where it has stage 2."""
        has_hpv = Stage.HPV in workspace.settings.stages
        return cls(workspace, days, workspace.read(HpvRecord).probability if has_hpv else None)

    def __call__(self, member: Member, patients: Sequence[Patient], known: bool = False) -> Evidence:
        """Give the evidence of some patients, with known HPV statuses where `known` says so and there are any."""
        workspace, scheme, hpv = self.workspace, member.scheme, None
        if self.hpv_probability is not None:
            predicted = self.hpv_probability[scheme]
            hpv = known_or_predicted(patients, predicted) if known else [predicted[p.patient_id] for p in patients]
        scores = standardize(workspace.splits, self.days).get(scheme)
        days_score = None if scores is None else [scores[p.patient_id] for p in patients]
        clinical = workspace.encode(member, patients)
        return survival_evidence(days_score, hpv, workspace.radiomics(patients), clinical, workspace.dose(patients))

    def fit(self, member: Member) -> CoxModel:
        """Fit a model's Cox model to the patients outside its fold."""
        workspace = self.workspace
        followed = with_rfs(workspace.splits.training(member, workspace.patients))
        evidence, outcomes = self(member, followed, known=True), times_and_events(followed)
        return fit_cox(
            evidence, *outcomes, workspace.profile.survival.screening_p, workspace.seed(member, Stage.SURVIVAL)
        )

    def score(
        self, member: Member, cox: CoxModel, known: bool = False, scale: Scale | None = None
    ) -> tuple[Scale, dict[str, float]]:
        """Give a scale, by default that of the log hazards inside a model's fold, and the risks there, standardized."""
        held_out = self.workspace.splits.held_out(member, self.workspace.patients)
        hazard = cox.log_partial_hazard(self(member, held_out, known))
        scale = scale or Scale.of(hazard, SMALLEST_RISK_SD)
        return scale, {p.patient_id: scale.standardize(h) for p, h in zip(held_out, hazard.tolist(), strict=True)}


@dataclass(frozen=True)
class _FitCox:
    """Fit one Cox model outside its fold, keep the model's tables, and give the risks of those inside.

    Attributes:
        scales: Scale of each network's expected days; none without networks.
    """

    evidence: CoxEvidence
    scales: Mapping[Member, Scale]

    def __call__(self, member: Member) -> dict[str, float]:
        workspace, scale = self.evidence.workspace, self.scales.get(member)
        cox = self.evidence.fit(member)
        risk_scale, risks = self.evidence.score(member, cox)
        tables = SurvivalTables(cut_intervals(workspace, member) if scale else None, scale, cox, risk_scale)
        write_json(workspace.member_file(member, TABLES_FILE[Stage.SURVIVAL]), tables)
        return risks


def known_or_predicted(patients: Sequence[Patient], probability: Mapping[str, float]) -> list[float]:
    """Give what a Cox model learns of HPV from: a known status as 0 or 1, else the forest's probability.

    Learned from probabilities alone, its sign was wrong in eight of ten models (`train/LOG.md`).
    """
    return [
        probability[p.patient_id] if p.outcome.hpv_positive is None else float(p.outcome.hpv_positive) for p in patients
    ]


@dataclass(frozen=True)
class RisksOfKnownStatus:
    """Score the patients of a fold by its Cox model from known HPV statuses, as where one is given with a case.

    Where none is known it takes the predicted one. The scale is that of predicted statuses, as in an answer.
    """

    workspace: Workspace

    def __call__(self, member: Member) -> dict[str, float]:
        workspace = self.workspace
        evidence = CoxEvidence.of(workspace, workspace.read(SurvivalRecord).expected_days)
        tables = read_json(workspace.member_file(member, TABLES_FILE[Stage.SURVIVAL]), SurvivalTables)
        return evidence.score(member, tables.cox, known=True, scale=tables.risk_scale)[1]


def describe_c_index(patients: Sequence[Patient], expected: dict[str, float]) -> str:
    """Score one network alone on those of the patients whose time and event are known."""
    known = with_rfs([p for p in patients if p.patient_id in expected])
    concordance = c_index([-expected[p.patient_id] for p in known], *times_and_events(known))
    if math.isnan(concordance):
        return f"no C-index, as no two of the {len(known)} with RFS can be compared"
    return f"C-index {concordance:.3f} of {len(known)} with RFS"


def fit_cox_models(workspace: Workspace, engine: Engine, days: OutOfFold) -> SurvivalRecord:
    """Fit every model's Cox model on out-of-fold evidence.

    Args:
        workspace: The run, which takes each model's tables.
        engine: What spreads the work.
        days: Expected days of every network, out of fold; none without networks.
    """
    splits, members = workspace.splits, workspace.splits.members
    scores = standardize(splits, days)
    fit = _FitCox(CoxEvidence.of(workspace, days), own_scales(splits, days))
    risk = by_scheme(members, engine.map("Cox models", fit, members))
    known = with_rfs(workspace.patients)
    outcomes = times_and_events(known)
    return SurvivalRecord(
        expected_days=days,
        risk=risk,
        c_index=c_index(mean_over_schemes(risk, known), *outcomes),
        c_index_deep_only=c_index(-mean_over_schemes(scores, known), *outcomes) if scores else None,
    )


def main(
    run: RunFolder,
    only: Only = None,
    workers: Workers = 0,
    scheduler: Scheduler = None,
    devices: Devices = 1,
) -> None:
    """Train stage 3 of every model, or of some; after the last, fit the Cox models."""
    need("lightning", "lifelines", "skglm")
    workspace, engine = Workspace.open(run), Engine(workers, scheduler, devices)
    if not workspace.trains(Stage.SURVIVAL):
        return
    workspace.require_prepared()
    if not only:
        workspace.require(Stage.HPV)
        workspace.require_radiomics()
    describe = partial(describe_c_index, workspace.patients)
    work = TrainAndPredict(workspace, devices=devices)
    trained = train_stage(workspace, engine, Stage.SURVIVAL, work, describe, only)
    if trained is None:
        return
    workspace.require(Stage.HPV)
    workspace.require_radiomics()
    members = workspace.splits.members
    record = fit_cox_models(workspace, engine, by_scheme(members, [trained[member] for member in members]))
    workspace.keep(record)
    typer.echo(f"out of fold: C-index {record.c_index:.3f}, of the networks alone {record.c_index_deep_only:.3f}")
