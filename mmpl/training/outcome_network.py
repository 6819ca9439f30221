"""What stages 2 and 3 share: a network that starts from the stage before, and its scores out of fold."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from torch import Tensor

from mmpl.case import Patient
from mmpl.evidence import Scale
from mmpl.names import Stage
from mmpl.network import StageNetwork, build_network, transfer_backbone
from mmpl.network.model import OutcomeHead
from mmpl.processor import Processor, default_device
from mmpl.profile import OutcomeTraining
from mmpl.segmentation import crop_around, predict_logits
from mmpl.training.memory import predicting_gib
from mmpl.training.parallel import Engine
from mmpl.training.patches import HALF_LABEL, LesionCrops
from mmpl.training.records import OutOfFold, Values
from mmpl.training.splits import Member, Splits
from mmpl.training.validation import OutcomeScore, hold_out
from mmpl.training.workspace import Workspace
from mmpl.weights import read_network, read_state

Table = TypeVar("Table")
"""What a stage's network says of each patient of its fold."""
Scores = dict[str, list[float]]
"""Logits by patient."""
SMALLEST_SCORE_SD = 1e-6
"""Floor of the SD of a network's scores, which may say the same of everyone."""


@dataclass(frozen=True)
class OutcomeTask:
    """The task that a stage 2 or 3 network learns.

    Attributes:
        groups: Training patients that have targets; every batch draws from each group as often.
        targets: Values that the loss compares the logits with, by patient.
        loss: Loss function of logits and targets.
        score: Function from logits by patient to how well a network ranks; NaN where that is undefined.
        start_logits: Logits that the head begins with; None for about 0.
        level: Function from the trained network's logits by patient to what is added to all patients' at the end.
    """

    stage: Stage
    groups: Sequence[Sequence[str]]
    targets: Mapping[str, Sequence[NDArray]]
    loss: Callable[..., Tensor]
    score: Callable[[Mapping[str, Sequence[float]]], float]
    start_logits: Sequence[float] | None = None
    level: Callable[[Scores], NDArray[np.float64]] | None = None


def train_outcome_network(
    workspace: Workspace, member: Member, task: OutcomeTask, start: Path | None, devices: int = 1
) -> int:
    """Train a stage 2 or 3 network.

    Args:
        workspace: The run.
        member: The model to train.
        task: The task that the network learns.
        start: The network of an earlier stage whose whole backbone it starts from; None for none.
        devices: Number of this machine's devices to train on.

    Returns:
        How many tensors were transferred.

    Raises:
        ValueError: All patients of a group are held out inside the training split.
    """
    from mmpl.training.loop import Job, train  # needs lightning, which `--help` does without

    profile, stage = workspace.profile, task.stage
    settings: OutcomeTraining = getattr(profile.training, stage)
    seed = workspace.seed(member, stage)
    torch.manual_seed(seed)
    network = build_network(profile, stage)
    transferred = transfer_backbone(read_state(start), network) if start else 0
    if task.start_logits is not None:
        cast(OutcomeHead, network.head).start_at(task.start_logits)
    held_out = hold_out(workspace, member)
    draw = LesionCrops(
        workspace.store,
        [[name for name in group if name not in held_out] for group in task.groups],
        {name: training_center(workspace, name) for group in task.groups for name in group},
        task.targets,
        settings,
        profile.training.augmentation,
        profile.preprocess.spacing_mm,
        seed,
    )
    if not all(draw.groups):
        raise ValueError(f"{member.name}: training.validation_fraction leaves stage {stage} no patient of one kind")
    folder = workspace.stage_folder(member, stage)
    validate = OutcomeScore(draw, sorted(held_out & task.targets.keys()), task.score) if held_out else None
    finish = _Level(workspace, draw, task.level) if task.level else None
    job = Job(network, draw, task.loss, settings, profile.training, seed, folder, validate=validate, finish=finish)
    train(job, devices)
    return transferred


@dataclass(frozen=True)
class _Level:
    """What brings a trained network's logits to the level of its training patients."""

    workspace: Workspace
    draw: LesionCrops
    level: Callable[[Scores], NDArray[np.float64]]

    def __call__(self, network: StageNetwork) -> None:
        """Shift the head's last bias."""
        patients = sorted({name for group in self.draw.groups for name in group})
        logits = score_patients(self.workspace, network, {name: self.draw.centers_xyz[name] for name in patients})
        cast(OutcomeHead, network.head).shift(self.level(logits))


def training_center(workspace: Workspace, patient_id: str) -> NDArray[np.float64]:
    """Find the middle of the reference mask's bounding box, voxels (x, y, z); the out-of-fold mask's without one."""
    labels = workspace.store.labels(patient_id)
    if labels is not None:
        voxels = np.argwhere((labels.inside > HALF_LABEL).any(axis=0))
        if len(voxels):
            return (labels.first + (voxels.min(axis=0) + voxels.max(axis=0)) / 2)[::-1]
    return np.array(workspace.segmentation.lesion_centers_xyz[patient_id])


def predict_fold(workspace: Workspace, member: Member, stage: Stage) -> Scores:
    """Score every patient of a model's own fold on the crop around the out-of-fold mask."""
    network = read_network(workspace.network_file(member, stage), workspace.profile, stage).to(default_device())
    centers, held_out = workspace.segmentation.lesion_centers_xyz, workspace.splits.held_out(member, workspace.patients)
    return score_patients(workspace, network, {p.patient_id: np.array(centers[p.patient_id]) for p in held_out})


def score_patients(workspace: Workspace, network: StageNetwork, centers: Mapping[str, NDArray[np.float64]]) -> Scores:
    """Give a network's logits on patients' crops around the given centers, voxels (x, y, z) of the patch."""
    device, scores = next(network.parameters()).device, {}
    for name, center in centers.items():
        images, size = workspace.store.images(name), workspace.profile.inference.lesion_crop_xyz
        crop = crop_around(images, center, size).astype(np.float32)
        scores[name] = predict_logits(crop, network, Processor(device)).tolist()
    return scores


def train_stage(
    workspace: Workspace,
    engine: Engine,
    stage: Stage,
    work: Callable[[Member], tuple[int, Table]],
    describe: Callable[[Table], str],
    only: Sequence[str] | None = None,
) -> dict[Member, Table] | None:
    """Train stage 2 or 3 of every model, or of some, and say how each scores the patients of its fold.

    Args:
        workspace: The run.
        engine: What spreads the work.
        stage: The stage to train, 2 or 3.
        work: Function that trains a model's network, or finds it trained, and gives how many tensors were transferred
            and its scores.
        describe: Function that makes words of a model's scores.
        only: Names of models; all where none is named.

    Returns:
        The scores of every model; None, once it was said, where the networks of others are still missing.

    Raises:
        ValueError: The stage before is not finished; one line says what is missing.
    """
    title, chosen = f"stage {list(Stage).index(stage) + 1}", workspace.choose(only)
    stages = workspace.settings.stages
    previous = stages[stages.index(stage) - 1]
    workspace.require(Stage.SEGMENTATION)
    if any(not workspace.network_file(member, previous).is_file() for member in chosen):
        raise ValueError(f"{stage} starts from the networks of {previous}: {workspace.missing(previous)}")
    trained = dict(zip(chosen, engine.train(title, work, workspace, stage, chosen), strict=True))
    typer.echo(f"{title}: {trained[chosen[0]][0]} tensors of the backbone came from {previous}, none was left out")
    for member, (_, scores) in trained.items():
        typer.echo(f"{member.name}, the patients of its fold, the network alone: {describe(scores)}")
    if missing := workspace.missing(stage):
        typer.echo(missing)
        return None
    rest = [member for member in workspace.splits.members if member not in trained]
    needed = predicting_gib(workspace.profile)
    scored = engine.map(f"{title}, scoring", work, rest, networks=True, item_gib=needed)
    trained |= dict(zip(rest, scored, strict=True))
    return {member: trained[member][1] for member in workspace.splits.members}


def own_scales(splits: Splits, scores: OutOfFold) -> dict[Member, Scale]:
    """Take the mean and SD of each network's scores of the patients it never saw.

    Five networks make a scheme's out-of-fold table, and nothing holds their outputs to one level: the folds' mean
    expected days differ by more than the patients of a fold do.
    """
    scales = {}
    for member in (member for member in splits.members if member.scheme in scores):
        fold_of = splits.fold_of[member.scheme]
        own = [value for name, value in scores[member.scheme].items() if fold_of[name] == member.fold]
        scales[member] = Scale.of(own, SMALLEST_SCORE_SD)
    return scales


def standardize(splits: Splits, scores: OutOfFold) -> OutOfFold:
    """Bring out-of-fold scores to one scale, each by its network's own."""
    scales = own_scales(splits, scores)
    return {
        scheme: {
            name: scales[Member(scheme, splits.fold_of[scheme][name])].standardize(value)
            for name, value in table.items()
        }
        for scheme, table in scores.items()
    }


def by_scheme(members: Sequence[Member], tables: Sequence[Values]) -> OutOfFold:
    """Join what the models of each scheme say of their own folds into one out-of-fold table."""
    joined: OutOfFold = {}
    for member, table in zip(members, tables, strict=True):
        joined.setdefault(member.scheme, {}).update(table)
    return joined


def mean_over_schemes(values: OutOfFold, patients: Sequence[Patient]) -> NDArray[np.float64]:
    """Average each patient's out-of-fold values, one a scheme: (n,)."""
    return np.mean([[table[p.patient_id] for p in patients] for table in values.values()], axis=0)
