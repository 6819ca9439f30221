"""Stage 4: T and N stage, by ten pairs of ordinal models on out-of-fold masks: `python -m train.staging RUN`."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import typer
from numpy.typing import ArrayLike, NDArray

from mmpl.case import Patient
from mmpl.evidence import SCORE_LIMIT_SD, FeatureTable, Floats
from mmpl.files import write_json
from mmpl.metrics import mean_recall
from mmpl.names import STAGE_TASKS, Modality, Stage, Task
from mmpl.staging import (
    OrdinalModel,
    StageScale,
    StagingTables,
    stage_by_rules,
    staging_evidence,
    without_lesion,
)
from mmpl.survival import ScaledColumn
from mmpl.training.command import RunFolder, Scheduler, Workers, need
from mmpl.training.outcome_network import SMALLEST_SCORE_SD, by_scheme, mean_over_schemes
from mmpl.training.parallel import Engine
from mmpl.training.records import OutOfFold, StagingRecord, Values
from mmpl.training.splits import Member
from mmpl.training.workspace import Workspace
from mmpl.weights import TABLES_FILE

INVERSE_PENALTY = 0.1
"""sklearn's C of the logistic regressions, on covariates of unit variance."""
COLUMNS = {
    Task.T_STAGE: ("primary_", "rules_t_"),
    Task.N_STAGE: (
        "node_",
        "rules_n_",
        *(f"{measured}_gtvn_original_{kind}_" for measured in Modality for kind in ("shape", "firstorder")),
    ),
}
"""Beginnings of the names of the columns that are read; what was left out added nothing (`train/LOG.md`)."""
SMOOTHING = 1.06
"""Silverman's factor of a normal kernel's width."""
SCORES_TRIED = 101


def with_stage(task: Task, patients: Sequence[Patient]) -> tuple[list[Patient], NDArray[np.intp]]:
    """Keep the patients whose stage is known, and give their stages (n,)."""
    known = [p for p in patients if p.outcome.stage_of(task) is not None]
    return known, np.array([p.outcome.stage_of(task) for p in known], dtype=np.intp)


def fit_ordinal(task: Task, evidence: FeatureTable, stages: ArrayLike) -> OrdinalModel:
    """Fit the steps between neighboring stages; every stage has the same weight in all, however common it is.

    Of one stage alone there is no step, and the model says it of everybody.

    Args:
        task: T or N.
        evidence: Evidence of n training patients, one at least.
        stages: (n,) their stages.

    Raises:
        ValueError: The shapes do not fit.
    """
    from sklearn.linear_model import LogisticRegression

    truth = np.asarray(stages, dtype=np.intp)
    if truth.shape != (len(evidence),):
        raise ValueError(f"{truth.shape} stages for {len(evidence)} patients")
    kinds, counts = np.unique(truth, return_counts=True)
    weights = (len(truth) / len(kinds) / counts)[np.searchsorted(kinds, truth)]
    names = [name for name in evidence.names if name.startswith(COLUMNS[task])]
    values = dict(zip(names, evidence.read(names).T, strict=True))
    columns = [_scale(name, column) for name, column in values.items()]
    covariates = np.column_stack([column.scale_values(values[column.name]) for column in columns])
    steps = [
        LogisticRegression(C=INVERSE_PENALTY, max_iter=1000).fit(covariates, truth > kind, sample_weight=weights)
        for kind in kinds[:-1]
    ]
    return OrdinalModel(
        tuple(kinds.tolist()),
        tuple(columns),
        tuple(float(step.intercept_[0]) for step in steps),
        tuple(tuple(step.coef_[0].tolist()) for step in steps),
    )


def _scale(name: str, values: Floats) -> ScaledColumn:
    """Prepare a column (n,): its median stands in for what is missing; one that does not vary becomes 0."""
    known = values[np.isfinite(values)]
    fill = float(np.median(known)) if len(known) else 0.0
    filled = np.where(np.isfinite(values), values, fill)
    return ScaledColumn(name, fill, float(filled.mean()), float(filled.std()) or 1.0, SCORE_LIMIT_SD)


def stage_without_lesion(task: Task, stages: ArrayLike, absent: ArrayLike) -> int:
    """Choose the stage of patients without a lesion to stage: N0, and the T stage of which most are found no primary.

    What is missed is small: of 440 patients 17% of those of T1 had no primary in the mask, 3% of T2 (`train/LOG.md`).
    Where every patient has one, or none has, it is the commonest.

    Args:
        task: T or N.
        stages: (n,) stages.
        absent: (n,) whether each has no lesion to stage.
    """
    if task is Task.N_STAGE:
        return 0
    truth, lacking = np.asarray(stages, dtype=np.intp), np.asarray(absent, dtype=bool)
    kinds, counts = np.unique(truth, return_counts=True)
    shares = np.array([lacking[truth == kind].mean() for kind in kinds])
    return int(kinds[np.argmax(shares if np.ptp(shares) else counts)])


def choose_scale(task: Task, scores: ArrayLike, stages: ArrayLike, absent: ArrayLike) -> StageScale:
    """Choose the thresholds of the highest balanced accuracy, were each stage's scores as smooth as a normal kernel.

    As they are, the best thresholds follow single patients; the middles between the stages' mean scores, by which HPV
    is decided, serve T badly, as T4 does not show as larger than T3 (`train/LOG.md`).

    Args:
        task: T or N.
        scores: (n,) mean out-of-fold scores.
        stages: (n,) stages.
        absent: (n,) whether each has no lesion to stage.
    """
    values, truth = np.asarray(scores, dtype=float), np.asarray(stages, dtype=np.intp)
    kinds = np.unique(truth)
    tried = np.linspace(values.min(), values.max(), SCORES_TRIED)
    below = np.array([_smooth_share_below(values[truth == kind], tried) for kind in kinds])
    reached, best = below[0], []  # the sum of recalls up to a stage, by the threshold above it, and the one before
    for this, above in zip(below[1:], [*below[2:], None], strict=True):
        gained = reached - this
        best.append(np.array([int(gained[: at + 1].argmax()) for at in range(len(tried))]))
        reached = np.maximum.accumulate(gained) + (this if above is not None else 1.0)
    at, thresholds = len(tried) - 1, list[float]()
    for chosen in reversed(best):
        at = int(chosen[at])
        thresholds.insert(0, float(tried[at]))
    return StageScale(tuple(kinds.tolist()), tuple(thresholds), stage_without_lesion(task, truth, absent))


def _smooth_share_below(scores: Floats, tried: Floats) -> Floats:
    from scipy.stats import norm

    width = max(SMOOTHING * scores.std() * len(scores) ** -0.2, np.ptp(tried) / SCORES_TRIED, SMALLEST_SCORE_SD)
    return norm.cdf((tried[:, None] - scores) / width).mean(axis=1)


def answer(task: Task, scale: StageScale, scores: Floats, geometry: FeatureTable) -> NDArray[np.intp]:
    """Give n patients the stages that inference would, (n,), by mean scores (n,)."""
    return np.where(without_lesion(task, geometry), scale.without_lesion, scale.stages_of(scores))


def by_rules(task: Task, geometry: FeatureTable, stand_in: int) -> NDArray[np.intp]:
    """Give n patients the stages that the manual's rules would, (n,); without a primary the one that stands in."""
    ruled = stage_by_rules(task, geometry)
    return np.where(np.isnan(ruled), stand_in, ruled).astype(np.intp)


def evidence(workspace: Workspace, patients: Sequence[Patient]) -> FeatureTable:
    """Give what the models see of some of a run's patients, on the out-of-fold masks."""
    return staging_evidence(workspace.geometry(patients), workspace.radiomics(patients))


@dataclass(frozen=True)
class _FitModels:
    """Fit one model's two ordinal models outside its fold, keep them, and give the scores of the patients inside."""

    workspace: Workspace

    def __call__(self, member: Member) -> tuple[Values, ...]:
        workspace = self.workspace
        training = workspace.splits.training(member, workspace.patients)
        held_out = workspace.splits.held_out(member, workspace.patients)
        models, tables = list[OrdinalModel](), list[Values]()
        for task in STAGE_TASKS:
            known, stages = with_stage(task, training)
            models.append(fit_ordinal(task, evidence(workspace, known), stages))
            scores = models[-1].score(evidence(workspace, held_out))
            tables.append({p.patient_id: float(score) for p, score in zip(held_out, scores, strict=True)})
        write_json(workspace.member_file(member, TABLES_FILE[Stage.STAGING]), StagingTables(*models))
        return tuple(tables)


def fit_ordinal_models(workspace: Workspace, engine: Engine) -> StagingRecord:
    """Fit every model's ordinal models on out-of-fold evidence, and choose the ensemble's thresholds."""
    members = workspace.splits.members
    fitted = engine.map("ordinal models", _FitModels(workspace), members)
    scores, scales = dict[Task, OutOfFold](), dict[Task, StageScale]()
    reached, reached_by_rules = dict[Task, float](), dict[Task, float]()
    for task, tables in zip(STAGE_TASKS, zip(*fitted, strict=True), strict=True):
        scores[task] = by_scheme(members, tables)
        known, truth = with_stage(task, workspace.patients)
        mean, geometry = mean_over_schemes(scores[task], known), workspace.geometry(known)
        scales[task] = choose_scale(task, mean, truth, without_lesion(task, geometry))
        reached[task] = mean_recall(answer(task, scales[task], mean, geometry), truth)
        ruled = by_rules(task, geometry, scales[task].without_lesion)
        reached_by_rules[task] = mean_recall(ruled, truth)
    return StagingRecord(
        scores=scores, scales=scales, balanced_accuracy=reached, balanced_accuracy_by_rules=reached_by_rules
    )


def main(run: RunFolder, workers: Workers = 0, scheduler: Scheduler = None) -> None:
    """Fit stage 4 of every model, once masks and radiomics are there, and choose the thresholds of T and N."""
    need("sklearn")
    workspace, engine = Workspace.open(run), Engine(workers, scheduler)
    if not workspace.trains(Stage.STAGING):
        return
    workspace.require(Stage.SEGMENTATION)
    workspace.require_radiomics()
    record = fit_ordinal_models(workspace, engine)
    workspace.keep(record)
    for task in STAGE_TASKS:
        typer.echo(
            f"{task}, out of fold: balanced accuracy {record.balanced_accuracy[task]:.3f} at thresholds chosen on the "
            f"same patients, by the manual's rules {record.balanced_accuracy_by_rules[task]:.3f}"
        )
