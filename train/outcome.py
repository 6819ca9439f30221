"""What stages 2 and 3 share: a network that starts from the stage before, and its scores out of fold."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmpl.labels import Stage
from mmpl.network import build_network, transfer_backbone
from mmpl.profile import OutcomeTraining
from mmpl.segmentation import crop_around, predict_logits
from mmpl.weights import Scale, read_network, read_state
from train.loop import Job, train
from train.patches import HALF, draw_lesion_crops
from train.splits import Member, Scheme
from train.workspace import Workspace

Scores = dict[str, list[float]]
"""Logits by patient."""

PREVIOUS = {Stage.HPV: Stage.SEGMENTATION, Stage.SURVIVAL: Stage.HPV}


def train_outcome_network(
    workspace: Workspace,
    member: Member,
    stage: Stage,
    settings: OutcomeTraining,
    targets: Mapping[str, Sequence[NDArray]],
    loss: Callable[..., Tensor],
) -> int:
    """Train a stage 2 or 3 network on the patients that have targets; returns how many tensors were transferred."""
    seed = workspace.seed(member, stage)
    torch.manual_seed(seed)
    network = build_network(workspace.profile, stage)
    transferred = transfer_backbone(read_state(workspace.network_file(member, PREVIOUS[stage])), network)
    patients = sorted(targets)
    draw = draw_lesion_crops(
        workspace.store,
        patients,
        {patient_id: training_center(workspace, patient_id) for patient_id in patients},
        targets,
        settings.crop_xyz,
        settings.jitter_mm / workspace.profile.preprocess.spacing_mm,
        settings.batch,
        seed,
    )
    train(Job(network, draw, loss, settings, workspace.profile.training, workspace.stage_folder(member, stage)))
    return transferred


def training_center(workspace: Workspace, patient_id: str) -> NDArray[np.float64]:
    """Find the middle of the reference mask's bounding box, voxels (x, y, z); the out-of-fold mask's without one."""
    labels = workspace.store.labels(patient_id)
    voxels = np.argwhere((labels > HALF).any(axis=0)) if labels is not None else np.empty((0, 3))
    if len(voxels) == 0:
        return workspace.lesion_centers[patient_id]
    return ((voxels.min(axis=0) + voxels.max(axis=0)) / 2)[::-1]


def predict_fold(workspace: Workspace, member: Member, stage: Stage) -> Scores:
    """Score every patient of a model's own fold on the crop around the out-of-fold mask."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = read_network(workspace.network_file(member, stage), workspace.profile, stage).to(device)
    scores = {}
    for patient in workspace.splits.inside(member, workspace.patients):
        images = workspace.store.images(patient.patient_id)
        center = workspace.lesion_centers[patient.patient_id]
        crop = crop_around(images, center, workspace.profile.inference.lesion_crop_xyz).astype(np.float32)
        scores[patient.patient_id] = predict_logits(crop, network, device).tolist()
    return scores


def scale_by_scheme(scores: Mapping[Scheme, Mapping[str, float]]) -> dict[Scheme, Scale]:
    """Take the mean and SD of each scheme's out-of-fold table."""
    scales = {}
    for scheme, table in scores.items():
        values = np.array(list(table.values()))
        scales[scheme] = Scale(float(values.mean()), max(float(values.std()), 1e-6))
    return scales
