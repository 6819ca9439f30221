"""The plan of a training: what it measures, what it counts, and that the published one fits its disk."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from mmpl.case import Case, Outcome, Patient
from mmpl.names import NETWORK_STAGES, Stage
from mmpl.network import build_network
from mmpl.profile import load_profile
from mmpl.training import plan, workspace
from mmpl.training.loop import Job, train
from mmpl.training.memory import predicting_gib, training_gib
from mmpl.training.patches import Batch, DrawBatch
from mmpl.training.plan import (
    CHECKPOINT_BYTES,
    NETWORK_BYTES,
    Parts,
    count_work,
    drawing,
    hours_table,
    measure_parts,
    run_bytes,
)
from mmpl.training.workspace import RunSettings, Workspace

pytestmark = pytest.mark.slow

PAPER = load_profile("paper")
RELEASED = 726
"""Patients of the challenge's training data."""
LARGEST_RUN = 40e9
FREE = Parts({"images": 1e6}, {"preparing": 36.0}, 0.0, 0.0)


def rows(table: str) -> dict[str, list[str]]:
    """Cells of a Markdown table, by the first of each row."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return {first: rest for first, *rest in cells}


def test_a_run_of_the_published_profile_on_all_patients_stays_under_40_gb(tmp_path: Path) -> None:
    """As a drawn patient at 1 mm has it, while stage 3 trains one network on each of ten GPUs."""
    parts = measure_parts(Workspace(tmp_path, RunSettings("phantom:1:3", PAPER)), 1)
    largest = run_bytes(PAPER, RELEASED, parts, gpus=10)
    on_disk = sum(path.stat().st_size for path in tmp_path.glob("*/**/*") if path.is_file())
    assert sum(parts.file_bytes.values()) == on_disk
    assert all(size > 0 for size in largest.values())
    assert all(seconds > 0 for seconds in parts.seconds.values())
    assert sum(largest.values()) < LARGEST_RUN, largest


def test_operations_are_those_of_the_networks() -> None:
    work = {stage: count_work(PAPER, stage, RELEASED) for stage in NETWORK_STAGES}
    assert work[Stage.SEGMENTATION].training == pytest.approx(50_000 * 2 * 0.475, rel=0.01)
    assert work[Stage.SEGMENTATION].prediction == pytest.approx(726 * 2 * 36 * 0.475, rel=0.01)
    for stage in (Stage.HPV, Stage.SURVIVAL):
        assert work[stage].training == pytest.approx(6000 * 4 * 0.475, rel=0.01)
        assert work[stage].prediction == pytest.approx(726 * 2 * 0.475, rel=0.01)


@pytest.mark.parametrize("stage", NETWORK_STAGES)
def test_training_is_counted_over_the_crop_and_prediction_over_the_window(stage: Stage) -> None:
    small = load_profile("paper", [f"training.{stage}.crop_xyz=[64, 64, 64]"])
    work, whole = count_work(small, stage, RELEASED), count_work(PAPER, stage, RELEASED)
    assert work.training == pytest.approx(whole.training / 8, rel=0.01)
    assert work.prediction == whole.prediction
    if stage is Stage.SEGMENTATION:
        assert drawing(small, FREE, (10.0, 40.0)) != drawing(PAPER, FREE, (10.0, 40.0))


def test_ten_networks_take_ten_three_and_one_turns() -> None:
    table = rows(hours_table(PAPER, RELEASED, FREE, (10.0, 40.0), cores=2))
    alone = count_work(PAPER, Stage.HPV, RELEASED).training * 3 / 40 / 3600
    fastest = [float(cell.split(" to ")[0]) for cell in table["hpv, training"][1:]]
    assert fastest == pytest.approx([10 * alone, 3 * alone, alone], abs=0.05)
    slowest = [float(cell.split(" to ")[1]) for cell in table["hpv, training"][1:]]
    assert slowest == pytest.approx([10 * alone * 16 / 3, 3 * alone * 16 / 3, alone * 16 / 3], abs=0.05)
    assert table["preparing"] == ["measured, 36.00 s of a core and patient", "3.6", "0.91", "0.36"]


def test_networks_on_disk_are_as_large_as_planned(tmp_path: Path) -> None:
    """In training, interrupted after its first checkpoint, and finished."""
    demo = load_profile("demo")
    often = demo.training.model_copy(update={"checkpoint_every": 1})
    stage = demo.training.hpv.model_copy(update={"steps": 2})
    noise = Batch(torch.randn(1, 2, 16, 16, 16), (torch.ones(1, 1),))

    def draw(step: int, device: torch.device, last: int = 2) -> Batch:
        if step == last:
            raise InterruptedError
        return noise

    def job(draw: DrawBatch) -> Job:
        network = build_network(demo, Stage.HPV)
        return Job(network, draw, binary_cross_entropy_with_logits, stage, often, 0, tmp_path)

    interrupted, finished = job(partial(draw, last=1)), job(draw)
    with pytest.raises(InterruptedError):
        train(interrupted)
    checkpoint = interrupted.checkpoint.stat().st_size
    train(finished)
    parameters = sum(parameter.numel() for parameter in finished.network.parameters())
    names_and_shapes = 500_000  # bytes, whatever the widths
    assert checkpoint == pytest.approx(CHECKPOINT_BYTES * parameters, abs=names_and_shapes)
    assert finished.finished.stat().st_size == pytest.approx(NETWORK_BYTES * parameters, abs=names_and_shapes)
    assert NETWORK_BYTES * parameters > 2 * names_and_shapes


def test_a_gpu_more_is_a_checkpoint_more_up_to_the_number_of_networks() -> None:
    one, two, many = (run_bytes(PAPER, RELEASED, FREE, gpus) for gpus in (1, 2, 99))
    assert one["finished networks"] == two["finished networks"]
    assert two["checkpoints"] == 2 * one["checkpoints"]
    assert many["checkpoints"] == 10 * one["checkpoints"]


def test_a_cohort_is_planned_from_its_own_patients(capsys: pytest.CaptureFixture[str]) -> None:
    plan.main("phantom:40:3", "micro", sample=2, tflops=(0.001, 0.002), cores=1)
    disk, memory, hours, batches = capsys.readouterr().out.strip().split("\n\n")
    sizes = rows(disk)
    heads = sizes.pop("disk, 40 patients")
    assert heads == ["a patient, MB", "1 GPU, GB", "4 GPUs, GB", "10 GPUs, GB"]
    columns = np.array([[float(cell or 0) for cell in cells] for first, cells in sizes.items() if first != "---"])
    np.testing.assert_allclose(columns[:-1].sum(axis=0), columns[-1], atol=0.06)
    micro = load_profile("micro")
    _, _, *sizes_gib = rows(memory).items()
    assert [stage for stage, _ in sizes_gib] == list(NETWORK_STAGES)
    for stage, cells in sizes_gib:
        training = [training_gib(micro, Stage(stage), on_gpu) for on_gpu in (False, True)]
        assert cells == [f"{gib:.1f}" for gib in (*training, predicting_gib(micro))]
    assert "10 networks, 40 patients" in hours
    assert "survival, out-of-fold prediction" in hours
    assert "radiomics | measured, " in hours
    assert batches.startswith("A batch of 1 crops of stage 1 takes a core ")


@dataclass(frozen=True)
class OnePatient:
    """A cohort of one, whose reference mask is not known."""

    case: Case

    @property
    def patients(self) -> Sequence[Patient]:
        return [Patient(self.case.patient_id, "1", self.case.clinical, Outcome(None, None, None))]

    def read_case(self, patient_id: str) -> Case:
        return self.case


def test_without_a_reference_mask_there_is_no_plan(head: Case, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(workspace, "open_source", lambda *_: OnePatient(replace(head, reference=None)))
    with pytest.raises(ValueError, match=r"^cohort: no reference mask to measure with$"):
        measure_parts(Workspace(tmp_path, RunSettings("cohort", load_profile("micro"))), 3)
