"""Work spread over processes and over a real Dask cluster, one of whose workers is killed while it trains."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from distributed import Client
from safetensors.torch import load_file
from torch.nn.functional import binary_cross_entropy_with_logits

from mmpl.labels import Stage
from mmpl.network import build_network
from mmpl.profile import load_profile
from train.loop import Job, train
from train.parallel import Engine
from train.patches import Batch

ROOT = Path(__file__).resolve().parents[1]
PROFILE = load_profile("micro")
STEPS = 12


def square(number: int) -> int:
    return number * number


def threads(_: int) -> int:
    return torch.get_num_threads()


@dataclass(frozen=True)
class SlowTraining:
    """Train a small network, slowly enough to be killed; who drew which step is written down."""

    folder: Path
    pause_s: float

    def __call__(self, number: int) -> str:
        folder = self.folder / str(number)
        folder.mkdir(parents=True, exist_ok=True)

        def draw(step: int, device: torch.device) -> Batch:
            time.sleep(self.pause_s)
            with (folder / "drawn").open("a") as file:
                file.write(f"{os.getpid()} {step}\n")
            images = torch.randn(2, 2, 16, 16, 16, generator=torch.Generator().manual_seed(100 * number + step))
            return Batch(images, ((images.mean(dim=(1, 2, 3, 4)) > 0).float()[:, None],))

        torch.manual_seed(number)
        torch.set_num_threads(1)
        train(
            Job(
                network=build_network(PROFILE, Stage.HPV),
                draw=draw,
                loss=binary_cross_entropy_with_logits,
                stage=PROFILE.training.hpv.model_copy(update={"steps": STEPS}),
                shared=PROFILE.training.model_copy(update={"checkpoint_every": 1}),
                seed=number,
                folder=folder / "network",
            )
        )
        return f"network {number}"


def test_results_come_in_the_items_order_and_cores_are_shared() -> None:
    assert Engine(workers=2).spread("squares", square, range(7)) == [n * n for n in range(7)]
    assert Engine(workers=2).spread("nothing", square, []) == []
    assert Engine(workers=os.cpu_count() or 1).spread("threads", threads, range(2)) == [1, 1]


def test_an_error_reaches_the_caller() -> None:
    with pytest.raises(TypeError):
        Engine(workers=2).spread("squares", square, ["no number"])


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    """A scheduler and two worker processes on loopback, each offering one GPU; the scheduler's address."""
    described = tmp_path / "scheduler.json"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'test'}", "PYTHONWARNINGS": "ignore"}
    environment["DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES"] = "3"

    def start(program: str, *options: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.dask_{program}", "--scheduler-file", str(described)]
        command += ["--no-dashboard", *options]
        with (tmp_path / f"{program}.log").open("ab") as log:
            return subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)

    processes = [start("scheduler", "--host", "127.0.0.1", "--port", "0")]
    processes += [start("worker", "--nthreads", "1", "--no-nanny", "--resources", "GPU=1") for _ in range(2)]
    try:
        with Client(scheduler_file=str(described), timeout=60, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)
            address = client.scheduler.address
        yield address
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_a_killed_dask_worker_loses_nothing(cluster: str, tmp_path: Path) -> None:
    training, undisturbed = SlowTraining(tmp_path / "cluster", 0.3), SlowTraining(tmp_path / "alone", 0.0)
    killer = subprocess.Popen([sys.executable, "-c", KILL, str(tmp_path / "cluster/1")])
    results = Engine(scheduler=cluster).spread("networks", training, range(3), networks=True)
    assert killer.wait(timeout=10) == 0
    assert results == ["network 0", "network 1", "network 2"]

    drawn = [tuple(map(int, line.split())) for line in (tmp_path / "cluster/1/drawn").read_text().splitlines()]
    first, last = drawn[0][0], drawn[-1][0]
    assert first != last  # another worker went on
    by_second = [step for worker, step in drawn if worker == last]
    assert by_second == list(range(by_second[0], STEPS))
    assert by_second[0] > 0  # from a checkpoint, not from the start
    for number in range(3):
        undisturbed(number)
        name = f"{number}/network/network.safetensors"
        ours, theirs = (load_file(function.folder / name) for function in (training, undisturbed))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


KILL = f"""
import os, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
while not (folder / "network/checkpoint.pt").is_file() or len((folder / "drawn").read_text().splitlines()) < 4:
    time.sleep(0.02)
os.kill(int((folder / "drawn").read_text().split()[0]), {int(signal.SIGKILL)})
"""
