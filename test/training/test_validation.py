"""Patients held out inside a training split: never trained on, scored as they should be, and nothing else changed."""

import math
from collections import Counter
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from test_leak import NoiseCohort, draw_patients
from test_patches import assert_equal_networks, keep_centers, make_job
from torch import Tensor, nn

from mmpl.case import Grid
from mmpl.names import NETWORK_STAGES, Stage
from mmpl.preprocess import PreparedCase
from mmpl.profile import Profile, load_profile
from mmpl.training import loop
from mmpl.training import workspace as workspaces
from mmpl.training.hpv import hpv_task
from mmpl.training.loop import Job
from mmpl.training.outcome_network import train_outcome_network
from mmpl.training.patches import Batch, LesionCrops, SegmentationCrops
from mmpl.training.progress import read_log
from mmpl.training.segmentation import train_member
from mmpl.training.splits import Member, Scheme, make_splits
from mmpl.training.survival import cut_intervals, survival_task
from mmpl.training.validation import MaskScore, OutcomeScore, hold_out
from mmpl.training.workspace import RunSettings, Workspace

pytestmark = pytest.mark.slow

PATIENTS = 24
FIRST = Member(Scheme.PATIENT, 0)
CPU = torch.device("cpu")


def with_fraction(fraction: float) -> Profile:
    profile = load_profile("micro")
    training = profile.training.model_copy(update={"validation_fraction": fraction})
    return profile.model_copy(update={"training": training})


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A run on noise with one lesion of each class in every patient, a quarter of each split held out."""
    torch.set_num_threads(1)  # networks this small gain nothing from a second thread
    cohort, rng = NoiseCohort(draw_patients()[:PATIENTS]), np.random.default_rng(2)
    monkeypatch.setattr(workspaces, "open_source", lambda *_: cohort)
    noise = Workspace(tmp_path / "run", RunSettings("noise", with_fraction(0.25), stages=NETWORK_STAGES))
    noise.begin(make_splits(cohort.patients, 1))
    size = noise.profile.preprocess.roi_size_xyz
    roi = Grid(size, (6.0, 6.0, 6.0), (0.0, 0.0, 0.0))
    labels = np.zeros((2, *size[::-1]), np.float32)
    labels[0, 20:24, 8:12, 8:12] = labels[1, 28:32, 16:20, 16:20] = 1
    for patient in cohort.patients:
        images = rng.normal(size=labels.shape).astype(np.float32)
        noise.store.save(PreparedCase(patient.patient_id, images, labels, roi, roi, ()), "0123")
    return noise


def test_a_fraction_is_held_out_evenly_and_alike_every_time(workspace: Workspace) -> None:
    members = workspace.splits.members
    held = {member: hold_out(workspace, member) for member in members}
    for member in members:
        outside = {p.patient_id: p.outcome for p in workspace.splits.training(member, workspace.patients)}
        assert held[member] < outside.keys()
        assert len(held[member]) == round(0.25 * len(outside))
        assert held[member] == hold_out(workspace, member)
        kinds = Counter((o.hpv_positive, o.relapse) for o in outside.values())
        chosen = Counter((outside[name].hpv_positive, outside[name].relapse) for name in held[member])
        assert len(kinds) == 4
        assert all(abs(chosen[kind] - 0.25 * count) < 1 for kind, count in kinds.items())
    assert len(set(held.values())) == len(members)
    assert hold_out(replace(workspace, settings=RunSettings("noise", with_fraction(0.0))), FIRST) == frozenset()
    assert len(hold_out(replace(workspace, settings=RunSettings("noise", with_fraction(0.001))), FIRST)) == 1


@pytest.fixture
def jobs(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> dict[Stage, Job]:
    """Every stage of the first model, trained one after the other."""
    made: list[Job] = []
    train = loop.train

    def train_and_keep(job: Job, devices: int) -> None:
        made.append(job)
        train(job, devices)

    monkeypatch.setattr(loop, "train", train_and_keep)
    train_member(workspace, FIRST)
    x, y, z = ((np.array(workspace.profile.preprocess.roi_size_xyz) - 1) / 2).tolist()
    keep_centers(workspace, {p.patient_id: (x, y, z) for p in workspace.patients})
    tasks = (hpv_task(workspace, FIRST), survival_task(workspace, FIRST, cut_intervals(workspace, FIRST)))
    for task in tasks:
        train_outcome_network(workspace, FIRST, task, workspace.network_file(FIRST, Stage.SEGMENTATION))
    return dict(zip(NETWORK_STAGES, made, strict=True))


def test_no_stage_trains_on_the_patients_that_it_is_scored_on(workspace: Workspace, jobs: dict[Stage, Job]) -> None:
    held = hold_out(workspace, FIRST)
    outside = {p.patient_id for p in workspace.splits.training(FIRST, workspace.patients)}
    for job in jobs.values():
        draw, score = job.draw, job.validate
        assert isinstance(draw, SegmentationCrops | LesionCrops)
        assert isinstance(score, MaskScore | OutcomeScore)
        groups = [draw.patients] if isinstance(draw, SegmentationCrops) else draw.groups
        trained = {name for group in groups for name in group}
        assert set(score.patients) == held  # every patient of this cohort has mask and outcomes
        assert trained == outside - held


def test_the_log_has_a_score_at_every_checkpoint_and_at_the_end(jobs: dict[Stage, Job]) -> None:
    for job in jobs.values():
        every, steps, rows = job.shared.checkpoint_every, job.stage.steps, read_log(job.folder / "log.csv")
        assert [row.step for row in rows] == [n for n in range(1, steps + 1) if n % every == 0 or n == steps]
        assert all(0 <= row.validation <= 1 for row in rows)
        assert job.validate is not None
        last, network = rows[-1].validation, job.network
        network.load_state_dict({name: value.float() for name, value in load_file(job.finished).items()})
        again = job.validate(network, CPU)
        assert again == pytest.approx(last, abs=0.03)  # the averaged weights, in half precision
        assert again == job.validate(network, CPU)


@dataclass(frozen=True)
class LabelsAsImages(SegmentationCrops):
    """Crops whose images give the answer away."""

    def __call__(self, step: int, device: torch.device) -> Batch:
        batch = super().__call__(step, device)
        return Batch(batch.targets[0], batch.targets)


class Answer(nn.Module):
    """Calls lesion what the images are above one half, or all the rest."""

    def __init__(self, sign: float) -> None:
        super().__init__()
        self.sign = sign

    def forward(self, images: Tensor) -> Tensor:
        return self.sign * (images - 0.5001)


def test_the_score_of_masks_is_the_mean_dice_of_both_classes(jobs: dict[Stage, Job]) -> None:
    score = jobs[Stage.SEGMENTATION].validate
    assert isinstance(score, MaskScore)
    draw = LabelsAsImages(**{f.name: getattr(score.draw, f.name) for f in fields(score.draw)})
    assert replace(score, draw=draw)(Answer(1.0), CPU) == 1.0
    assert replace(score, draw=draw)(Answer(-1.0), CPU) == 0.0
    assert math.isnan(replace(score, patients=[])(Answer(1.0), CPU))


def test_the_scores_of_outcomes_rank_patients_and_are_blank_where_undefined(workspace: Workspace) -> None:
    outside = workspace.splits.training(FIRST, workspace.patients)
    auc = hpv_task(workspace, FIRST).score
    status = {p.patient_id: bool(p.outcome.hpv_positive) for p in outside}
    assert auc({name: [float(positive)] for name, positive in status.items()}) == 1.0
    assert auc({name: [-float(positive)] for name, positive in status.items()}) == 0.0
    assert math.isnan(auc({name: [1.0] for name, positive in status.items() if positive}))
    assert math.isnan(auc({}))

    intervals = cut_intervals(workspace, FIRST)
    concordance = survival_task(workspace, FIRST, intervals).score
    days = {p.patient_id: float(p.outcome.rfs_days or 0) for p in outside}
    hazards = {name: [-value / 1000] * intervals.count for name, value in days.items()}  # who lives longer has less
    assert concordance(hazards) == 1.0
    assert concordance({name: [-row[0]] * len(row) for name, row in hazards.items()}) == 0.0
    assert math.isnan(concordance({p.patient_id: [0.0] * intervals.count for p in outside if not p.outcome.relapse}))


def test_scores_change_no_weight(tmp_path: Path) -> None:
    blind = make_job(tmp_path / "blind")
    scored = replace(
        make_job(tmp_path / "scored"), validate=lambda network, _: float(network.eval()(IMAGES).detach().mean())
    )
    loop.train(blind)
    loop.train(scored)
    assert_equal_networks(blind, scored)


def test_more_than_there_is_to_hold_out_is_refused(workspace: Workspace) -> None:
    with pytest.raises(ValidationError, match=r"training\.validation_fraction"):
        Profile.model_validate(with_fraction(0.6).model_dump())
    task = hpv_task(workspace, FIRST)
    held = sorted(hold_out(workspace, FIRST) & task.targets.keys())
    with pytest.raises(ValueError, match=r"patient-0: training\.validation_fraction leaves stage hpv no patient"):
        train_outcome_network(workspace, FIRST, replace(task, groups=[held[:1], held[1:]]), None)


IMAGES = torch.randn(2, 2, 16, 16, 16, generator=torch.Generator().manual_seed(1))
