"""Stage 1: train the ten segmentation networks and predict every patient out of fold.

`python -m train.segmentation RUN`; then `RUN/segmentation.json` holds the class thresholds, chosen on the mean of each
patient's out-of-fold probabilities, and where the crops of the later stages lie.
`--start WEIGHTS` goes on from an ensemble that was trained on other patients, at the schedule's step `--start-step`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from torch import Tensor

from mmpl.case import Image
from mmpl.errors import some_of
from mmpl.metrics import Overlap, aggregated_dice, count_overlap, dice
from mmpl.names import Stage
from mmpl.network import build_network
from mmpl.processor import Processor, default_device
from mmpl.profile import differences
from mmpl.segmentation import Thresholds, lesion_center, predict_probability, restore
from mmpl.training.command import Devices, Only, RunFolder, Scheduler, StartStep, Workers, need
from mmpl.training.command import Start as StartWeights
from mmpl.training.losses import oda_loss
from mmpl.training.memory import IMAGES_GIB
from mmpl.training.parallel import Engine
from mmpl.training.patches import HALF_LABEL, SegmentationCrops
from mmpl.training.records import SegmentationRecord, StartRecord
from mmpl.training.splits import Member
from mmpl.training.validation import MaskScore, hold_out
from mmpl.training.workspace import Workspace, may_share_patients
from mmpl.weights import NETWORK_FILE, load_ensemble, read_network, read_state

CANDIDATES = np.round(np.arange(0.20, 0.81, 0.05), 2)


@dataclass(frozen=True)
class Start:
    """Networks to go on from, each from its namesake.

    Attributes:
        weights: Folder of an ensemble.
        step: Step of the schedule at which they are taken to stand.
    """

    weights: Path
    step: int

    def describe(self, workspace: Workspace) -> StartRecord:
        """Say where the networks come from.

        Raises:
            ValueError: They have seen patients of the same cohort, which would then not be out of fold; or there are
                none, they are other networks or see other patches, some are missing, or the step is not in the
                schedule.
        """
        ensemble, steps = load_ensemble(self.weights), workspace.profile.training.segmentation.steps
        if ensemble.of_tables:
            raise ValueError(f"{self.weights}: fitted to tables, without a network to go on from")
        settings = [profile.to_dict() for profile in (ensemble.profile, workspace.profile)]
        before = StartRecord.model_validate(ensemble.training.get("started_from", {}))
        cohorts = (ensemble.training["cohort"], *before.cohorts)
        hashes = (*ensemble.training.get("image_hashes", ()), *before.image_hashes)
        not_out_of_fold = "so that its patients would not be out of fold"
        if shared := [cohort for cohort in cohorts if may_share_patients(cohort, workspace.cohort)]:
            raise ValueError(f"{self.weights}: trained on {shared[0]}, {not_out_of_fold}")
        ours = workspace.image_hashes
        if same := [ours[known] for known in hashes if known in ours]:
            raise ValueError(f"{self.weights}: trained on the images of {some_of(same)}, {not_out_of_fold}")
        theirs, wanted = ({"preprocess": p["preprocess"], "network": p["network"]} for p in settings)
        if other := differences(theirs, wanted):
            raise ValueError(f"{self.weights}: its networks are made for other settings: {'; '.join(other)}")
        there = {member.name for member in ensemble.members}
        if absent := [member.name for member in workspace.splits.members if member.name not in there]:
            raise ValueError(f"{self.weights}: has no network for {some_of(absent)}")
        if not 0 <= self.step < steps:
            raise ValueError(f"step {self.step} is not one of the {steps} of the schedule")
        return StartRecord(cohorts=cohorts, image_hashes=hashes, code_version=ensemble.code_version, step=self.step)


def find_start(workspace: Workspace, weights: Path | None, step: int) -> tuple[Start | None, StartRecord]:
    """Say where a run's networks begin, None for untrained ones; whatever trains in it must begin there.

    Nothing is kept: until every patient is prepared, nobody knows whether the weights have seen one.

    Raises:
        ValueError: The run began elsewhere, or cannot begin there (`Start.describe`).
    """
    start = Start(weights, step) if weights else None
    record = start.describe(workspace) if start else StartRecord()
    if workspace.has(StartRecord) and (known := workspace.read(StartRecord)) != record:
        theirs = f"{', '.join(known.cohorts)} at step {known.step}" if known.cohorts else "none"
        raise ValueError(f"{workspace.folder} began with another --start or --start-step: {theirs}")
    return start, record


def train_member(
    workspace: Workspace,
    member: Member,
    loss: Callable[..., Tensor] = oda_loss,
    devices: int = 1,
    start: Start | None = None,
) -> None:
    """Train one segmentation network on the patients outside its fold that have a reference mask."""
    from mmpl.training.loop import Job, train  # needs lightning, which `--help` does without

    profile, stage = workspace.profile, workspace.profile.training.segmentation
    patients = [p.patient_id for p in workspace.splits.training(member, workspace.patients)]
    with_mask = [p for p in patients if workspace.store.describe(p).has_labels]
    seed, held_out = workspace.seed(member, Stage.SEGMENTATION), hold_out(workspace, member)
    draw = SegmentationCrops(
        workspace.store,
        [p for p in with_mask if p not in held_out],
        stage,
        profile.training.augmentation,
        profile.preprocess.spacing_mm,
        seed,
    )
    if not draw.patients:
        raise ValueError(f"{member.name}: training.validation_fraction leaves stage 1 no patient with a reference mask")
    torch.manual_seed(seed)
    network = build_network(profile, Stage.SEGMENTATION)
    if start:
        network.load_state_dict(read_state(start.weights / member.name / NETWORK_FILE[Stage.SEGMENTATION]))
    train(
        Job(
            network=network,
            draw=draw,
            loss=loss,
            stage=stage,
            shared=profile.training,
            seed=seed,
            folder=workspace.stage_folder(member, Stage.SEGMENTATION),
            first=start.step if start else 0,
            validate=MaskScore(draw, [p for p in with_mask if p in held_out]) if held_out else None,
        ),
        devices,
    )


def predict_fold(workspace: Workspace, member: Member) -> None:
    """Predict the patients of a model's own fold, which it has not seen."""
    device = default_device()
    network = read_network(workspace.network_file(member, Stage.SEGMENTATION), workspace.profile, Stage.SEGMENTATION)
    network.to(device)
    for patient in workspace.splits.held_out(member, workspace.patients):
        if workspace.probability_file(member.scheme, patient.patient_id).is_file():
            continue
        images = workspace.store.images(patient.patient_id).astype(np.float32)
        probability = predict_probability(images, network, workspace.profile.inference, Processor(device))
        workspace.keep_probability(member.scheme, patient.patient_id, probability)


def out_of_fold_probability(workspace: Workspace, patient_id: str) -> NDArray[np.float32]:
    """Average a patient's out-of-fold probabilities, one a scheme: float32 (2, z, y, x)."""
    every = [workspace.probability(scheme, patient_id) for scheme in workspace.splits.schemes]
    return np.mean(every, axis=0, dtype=np.float32)


def out_of_fold_mask(workspace: Workspace, patient_id: str, thresholds: Thresholds) -> Image:
    """Make a patient's out-of-fold mask on the CT's grid, as inference would."""
    patient, smallest = workspace.store.describe(patient_id), workspace.profile.inference.minimum_component_voxels
    probability = out_of_fold_probability(workspace, patient_id)
    return restore(probability, patient.roi, patient.ct_grid, thresholds, smallest)


@dataclass(frozen=True)
class _LesionCenter:
    """The middle of one patient's out-of-fold mask, voxels (x, y, z) of the patch."""

    workspace: Workspace
    thresholds: Thresholds

    def __call__(self, patient_id: str) -> tuple[float, float, float]:
        mask = out_of_fold_mask(self.workspace, patient_id, self.thresholds)
        x, y, z = lesion_center(mask, self.workspace.store.describe(patient_id).roi).tolist()
        return x, y, z


def measure_overlaps(workspace: Workspace, patient_id: str) -> NDArray[np.float64]:
    """Give GTVp Dice, GTVn intersection and GTVn sum of volumes of one patient, each at every candidate threshold."""
    reference = workspace.store.labels(patient_id)
    assert reference is not None
    labels, (gtvp, gtvn) = reference.whole(), out_of_fold_probability(workspace, patient_id)
    rows = []
    for threshold in CANDIDATES:
        node, truth = gtvn >= threshold, labels[1] > HALF_LABEL
        rows.append((dice(labels[0] > HALF_LABEL, gtvp >= threshold), (node & truth).sum(), node.sum() + truth.sum()))
    return np.array(rows, float)


@dataclass(frozen=True)
class ChosenThresholds:
    """The class thresholds, and what they reach out of fold: mean GTVp Dice and aggregated GTVn Dice."""

    thresholds: Thresholds
    gtvp_dice_mean: float
    gtvn_dice_aggregated: float


def choose_thresholds(workspace: Workspace, engine: Engine) -> ChosenThresholds:
    """Pick, out of fold, the threshold of the best mean GTVp Dice and that of the best aggregated GTVn Dice.

    Where no patient has a node, nor any threshold makes one, the highest candidate stands: nothing speaks for less.
    """
    patients = [p.patient_id for p in workspace.patients if workspace.store.describe(p.patient_id).has_labels]
    measure = partial(measure_overlaps, workspace)
    overlaps = np.stack(engine.map("choosing thresholds", measure, patients, item_gib=IMAGES_GIB))
    gtvp = overlaps[:, :, 0].mean(axis=0)
    volumes = overlaps[:, :, 2].sum(axis=0)
    gtvn = np.where(volumes > 0, 2 * overlaps[:, :, 1].sum(axis=0) / np.maximum(volumes, 1), np.nan)
    best = int(np.nanargmax(gtvn)) if np.nanmax(gtvn, initial=0.0) > 0 else len(CANDIDATES) - 1
    return ChosenThresholds(
        Thresholds(gtvp=float(CANDIDATES[gtvp.argmax()]), gtvn=float(CANDIDATES[best])),
        float(gtvp.max()),
        float(gtvn[best]),
    )


@dataclass(frozen=True)
class TrainAndPredict:
    """Train one model's network and predict the patients of its fold."""

    workspace: Workspace
    loss: Callable[..., Tensor] = oda_loss
    devices: int = 1
    start: Start | None = None

    def __call__(self, member: Member) -> None:
        """Do it, or what is left of it."""
        train_member(self.workspace, member, self.loss, self.devices, self.start)
        predict_fold(self.workspace, member)


@dataclass(frozen=True)
class _OwnOverlaps:
    """GTVp and GTVn overlap of one patient with what one model says alone, out of fold, at a threshold of one half."""

    workspace: Workspace
    member: Member

    def __call__(self, patient_id: str) -> list[Overlap]:
        labels = self.workspace.store.labels(patient_id)
        assert labels is not None
        both = zip(labels.whole(), self.workspace.probability(self.member.scheme, patient_id), strict=True)
        return [count_overlap(truth > HALF_LABEL, ours >= 0.5) for truth, ours in both]


def describe_fold(workspace: Workspace, member: Member, engine: Engine) -> str:
    """Score one model on the patients of its fold that have a reference mask, at the patch's spacing."""
    inside = [p.patient_id for p in workspace.splits.held_out(member, workspace.patients)]
    with_mask = [name for name in inside if workspace.store.describe(name).has_labels]
    if not with_mask:
        return f"{member.name}: no patient of its fold has a mask to score"
    gtvp, gtvn = zip(*engine.map(f"scoring {member.name}", _OwnOverlaps(workspace, member), with_mask), strict=True)
    dice_mean = np.mean([overlap.dice for overlap in gtvp])
    return (
        f"{member.name}, the {len(with_mask)} patients of its fold that have a mask, at a threshold of 0.5: "
        f"mean GTVp Dice {dice_mean:.3f}, aggregated GTVn Dice {aggregated_dice(gtvn):.3f}"
    )


def main(
    run: RunFolder,
    only: Only = None,
    workers: Workers = 0,
    scheduler: Scheduler = None,
    devices: Devices = 1,
    start: StartWeights = None,
    start_step: StartStep = 0,
) -> None:
    """Train stage 1 of every model, or of some, predict out of fold and, after the last, choose the thresholds."""
    need("lightning")
    workspace, engine = Workspace.open(run), Engine(workers, scheduler, devices)
    chosen = workspace.choose(only)
    workspace.require_prepared()
    begin, begun = find_start(workspace, start, start_step)
    workspace.keep(begun)
    work = TrainAndPredict(workspace, devices=devices, start=begin)
    engine.train("stage 1", work, workspace, Stage.SEGMENTATION, chosen)
    for member in chosen:
        typer.echo(describe_fold(workspace, member, engine))
    if missing := workspace.missing(Stage.SEGMENTATION):
        typer.echo(missing)
        return
    chosen_thresholds = choose_thresholds(workspace, engine)
    locate = _LesionCenter(workspace, chosen_thresholds.thresholds)
    patients = [p.patient_id for p in workspace.patients]
    centers = engine.map("locating lesions", locate, patients, item_gib=IMAGES_GIB)
    record = SegmentationRecord(**vars(chosen_thresholds), lesion_centers_xyz=dict(zip(patients, centers, strict=True)))
    workspace.keep(record)
    typer.echo(
        f"out of fold, at the patch's spacing: mean GTVp Dice {record.gtvp_dice_mean:.3f} at a threshold of "
        f"{record.thresholds.gtvp:g}, aggregated GTVn Dice {record.gtvn_dice_aggregated:.3f} at one of "
        f"{record.thresholds.gtvn:g}"
    )
