"""Training steps of every stage and precision on fake CUDA tensors, in a process that believes in a GPU."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.dry_run import TRAINING_PRECISIONS, LiveMemory
from mmpl.names import NETWORK_STAGES, Stage

MOST_GIB = {Stage.SEGMENTATION: 10.0, Stage.HPV: 12.0, Stage.SURVIVAL: 12.0}
"""What the tensors of a step of the published networks may take, so that a card of 16 GB has room for workspace."""
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++, which the pretended CUDA device needs")
needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a real CUDA device")


def dry_run(root: Path, *arguments: str) -> list[dict]:
    command = [sys.executable, "-m", "benchmarks.dry_run", *arguments]
    run = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


@needs_compiler
@needs_no_gpu
@pytest.mark.parametrize("devices", ["1", "2"])
def test_every_stage_takes_a_step_on_cuda_in_every_precision(root: Path, devices: str) -> None:
    found = dry_run(root, "--profile", "micro", "--devices", devices)
    assert [(row["stage"], row["precision"]) for row in found] == [
        (stage, precision) for stage in NETWORK_STAGES for precision in TRAINING_PRECISIONS
    ]


@needs_compiler
@needs_no_gpu
@pytest.mark.parametrize("stage", NETWORK_STAGES)
def test_a_step_of_the_published_network_fits(root: Path, stage: Stage) -> None:
    (row,) = dry_run(root, "--profile", "paper", "--stage", stage, "--precision", "bf16-mixed")
    assert row["batch"] == {Stage.SEGMENTATION: 2}.get(stage, 4)
    assert 5 < row["peak_gib"] <= MOST_GIB[stage]
    assert 0.25 < row["between_steps_gib"] < 0.5  # weights, average, two moments, of 18.3 M numbers each, and the batch


@needs_compiler
@needs_no_gpu
def test_the_published_networks_predict_on_cuda(root: Path) -> None:
    found = {row["stage"]: row["peak_gib"] for row in dry_run(root, "--profile", "paper", "--predict")}
    assert set(found) == set(NETWORK_STAGES)
    assert all(0.1 < peak < 6 for peak in found.values())


def test_the_memory_of_tensors_is_counted_once_each_while_they_live() -> None:
    with LiveMemory() as memory:
        first = torch.zeros(1000)
        view = first.view(10, 100)[:5]
        assert memory.bytes == 4000
        second = view + 1
        assert memory.bytes == 6000
        del first
        assert memory.bytes == 6000  # the view holds it
        del view
        assert memory.bytes == 2000
        second.add_(1)
        assert (memory.bytes, memory.peak) == (2000, 6000)
