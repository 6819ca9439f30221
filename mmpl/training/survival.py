"""Stage 3: ten survival networks, then ten Cox models on out-of-fold evidence: `python -m train.survival RUN`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import typer

from mmpl.case import Patient
from mmpl.labels import Stage
from mmpl.metrics import c_index
from mmpl.radiomics import feature_names
from mmpl.survival import CoxModel, RiskScale, SurvivalEvidence, TimeIntervals, expected_days, survival_curve
from mmpl.training.command import Devices, Only, RunFolder, Scheduler, Workers, need
from mmpl.training.hpv import by_scheme, fit_encoder
from mmpl.training.losses import discrete_time_nll
from mmpl.training.outcome_network import (
    PREVIOUS,
    OutcomeTask,
    own_scales,
    predict_fold,
    standardize,
    train_outcome_network,
    train_stage,
)
from mmpl.training.parallel import Engine
from mmpl.training.splits import Member, Scheme
from mmpl.training.workspace import Workspace
from mmpl.weights import MemberTables, Scale


def with_rfs(patients: list[Patient]) -> list[Patient]:
    """Keep the patients whose time and event are known."""
    return [p for p in patients if p.outcome.has_rfs]


def outcomes(patients: list[Patient]) -> tuple[np.ndarray, np.ndarray]:
    """Days and relapses of patients that have both."""
    return np.array([p.outcome.rfs_days for p in patients]), np.array([p.outcome.relapse for p in patients])


def cut_intervals(workspace: Workspace, member: Member) -> TimeIntervals:
    """Cut discrete time on the patients outside a model's fold."""
    days, relapse = outcomes(with_rfs(workspace.splits.outside(member, workspace.patients)))
    return TimeIntervals.cut(days, relapse, workspace.profile.survival.intervals)


def survival_task(workspace: Workspace, member: Member, intervals: TimeIntervals) -> OutcomeTask:
    """Say what a model's survival network learns: which intervals each patient survived."""
    patients = with_rfs(workspace.splits.outside(member, workspace.patients))
    survived, relapsed = intervals.targets(*outcomes(patients))
    targets = {p.patient_id: row for p, row in zip(patients, zip(survived, relapsed, strict=True), strict=True)}
    rank = partial(_concordance, intervals, {p.patient_id: p for p in patients})
    return OutcomeTask(Stage.SURVIVAL, [sorted(targets)], targets, discrete_time_nll, rank)


def _concordance(
    intervals: TimeIntervals, patients: Mapping[str, Patient], logits: Mapping[str, Sequence[float]]
) -> float:
    days = [expected_days(survival_curve(row), intervals) for row in logits.values()]
    return c_index(-np.array(days), *outcomes([patients[name] for name in logits]))


@dataclass(frozen=True)
class TrainAndPredict:
    """Train one model's network, from stage 2's or from scratch, and score the patients of its fold."""

    workspace: Workspace
    transfer: bool = True
    devices: int = 1

    def __call__(self, member: Member) -> tuple[int, dict[str, float]]:
        """Give how many tensors were transferred, and the expected days."""
        workspace = self.workspace
        start = workspace.network_file(member, PREVIOUS[Stage.SURVIVAL]) if self.transfer else None
        intervals = cut_intervals(workspace, member)
        task = survival_task(workspace, member, intervals)
        transferred = train_outcome_network(workspace, member, task, start, self.devices)
        logits = predict_fold(workspace, member, Stage.SURVIVAL)
        return transferred, {name: float(expected_days(survival_curve(row), intervals)) for name, row in logits.items()}


@dataclass(frozen=True)
class _FitCox:
    """Fit one Cox model outside its fold, keep all the member's tables, and give the hazards of those inside."""

    workspace: Workspace
    hpv_scales: dict[Member, Scale]
    days_scales: dict[Member, Scale]
    deep: dict[Scheme, dict[str, float]]
    hpv_probability: dict[Scheme, dict[str, float]]

    def __call__(self, member: Member) -> dict[str, float]:
        workspace, scheme = self.workspace, member.scheme
        fitted_on = with_rfs(workspace.splits.outside(member, workspace.patients))
        inside = workspace.splits.inside(member, workspace.patients)
        encoder = fit_encoder(workspace, member)

        def evidence(patients: list[Patient]) -> SurvivalEvidence:
            deep, probability = self.deep[scheme], self.hpv_probability[scheme]
            return SurvivalEvidence(
                expected_days_score=np.array([deep[p.patient_id] for p in patients]),
                hpv_probability=np.array([probability[p.patient_id] for p in patients]),
                radiomics=np.stack([workspace.radiomics(p.patient_id) for p in patients]),
                clinical=encoder.encode([p.clinical for p in patients]),
            )

        cox = CoxModel.fit(
            evidence(fitted_on),
            *outcomes(fitted_on),
            radiomics_names=feature_names(),
            clinical_names=encoder.names,
            screening_p=workspace.profile.survival.screening_p,
            seed=workspace.seed(member, Stage.SURVIVAL),
        )
        hazard = cox.log_partial_hazard(evidence(inside))
        tables = MemberTables(
            encoder=encoder,
            hpv_scale=self.hpv_scales[member],
            days_scale=self.days_scales[member],
            intervals=cut_intervals(workspace, member),
            cox=cox,
            risk_scale=RiskScale.of(hazard),
        )
        workspace.write_json(f"models/{member.name}/tables", tables.to_dict())
        return {p.patient_id: float(tables.risk_scale.standardize(h)) for p, h in zip(inside, hazard, strict=True)}


def describe_c_index(patients: Sequence[Patient], expected: dict[str, float]) -> str:
    """Score one network alone on those of the patients whose time and event are known."""
    known = with_rfs([p for p in patients if p.patient_id in expected])
    concordance = c_index([-expected[p.patient_id] for p in known], *outcomes(known))
    if math.isnan(concordance):
        return f"no C-index, as no two of the {len(known)} with RFS can be compared"
    return f"C-index {concordance:.3f} of {len(known)} with RFS"


def main(
    run: RunFolder,
    only: Only = None,
    workers: Workers = 0,
    scheduler: Scheduler = None,
    devices: Devices = 1,
) -> None:
    """Train stage 3 of every model, or of some; after the last, fit the Cox models."""
    need("lightning", "lifelines", "skglm")
    workspace, engine = Workspace.open(run), Engine(workers, scheduler)
    splits = workspace.splits
    members, schemes = splits.members, splits.schemes
    if not only:
        workspace.require(Stage.HPV)
    describe = partial(describe_c_index, workspace.patients)
    work = TrainAndPredict(workspace, devices=devices)
    trained = train_stage(workspace, engine, Stage.SURVIVAL, work, describe, only)
    if trained is None:
        return
    workspace.require(Stage.HPV)
    days = by_scheme(members, [trained[member] for member in members])
    workspace.write_json("expected_days", days)
    scores, probability = (
        {scheme: workspace.read_json(name)[scheme] for scheme in schemes} for name in ("hpv_scores", "hpv_probability")
    )
    hpv_scales, days_scales = (
        {member: scale for scheme in schemes for member, scale in own_scales(splits, scheme, table[scheme]).items()}
        for table in (scores, days)
    )
    deep = {scheme: standardize(splits, scheme, days[scheme]) for scheme in schemes}
    fit = _FitCox(workspace, hpv_scales, days_scales, deep, probability)
    risk = by_scheme(members, engine.spread("Cox models", fit, members))
    workspace.write_json("risk", risk)

    known = with_rfs(list(workspace.patients))
    time, relapse = outcomes(known)
    mean = np.array([np.mean([risk[scheme][p.patient_id] for scheme in schemes]) for p in known])
    deep_mean = np.array([-np.mean([deep[scheme][p.patient_id] for scheme in schemes]) for p in known])
    summary = {
        "c_index": float(c_index(mean, time, relapse)),
        "c_index_deep_only": float(c_index(deep_mean, time, relapse)),
    }
    workspace.write_json("survival", summary)
    typer.echo(f"out of fold: {summary}")
