"""The step that all stages take: gradients that are not finite, batches in pieces, batches drawn on another stream."""

import csv
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning.fabric import Fabric
from lightning.fabric.accelerators import MPSAccelerator
from lightning.fabric.plugins.precision import MixedPrecision, Precision
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from mmpl.names import Stage
from mmpl.network import build_network
from mmpl.profile import load_profile
from mmpl.training import loop
from mmpl.training.loop import Job, Optimization, draw_ahead
from mmpl.training.patches import Batch

PROFILE = load_profile("micro")
CPU = torch.device("cpu")
PRECISIONS: dict[str, Callable[[], Precision]] = {
    "float32": Precision,
    "bfloat16": lambda: MixedPrecision("bf16-mixed", "cpu"),
    "float16": lambda: MixedPrecision("16-mixed", "cpu"),
}


def noise_batch(step: int, device: torch.device = CPU, size: int = 2) -> Batch:
    images = torch.randn(size, 2, 16, 16, 16, generator=torch.Generator().manual_seed(step))
    return Batch(images, ((images.mean(dim=(1, 2, 3, 4)) > 0).float()[:, None],))


def overflowing_at(*steps: int) -> Callable[[int, torch.device], Batch]:
    """Noise, of which some steps' is so large that no gradient is finite."""

    def draw(step: int, device: torch.device) -> Batch:
        batch = noise_batch(step)
        return Batch(batch.images * float("inf"), batch.targets) if step in steps else batch

    return draw


def make_job(folder: Path, steps: int = 8, **changes: object) -> Job:
    torch.manual_seed(0)
    settled = PROFILE.model_copy(update={"network": PROFILE.network.model_copy(update={"head_dropout": 0.0})})
    job = Job(
        network=build_network(settled, Stage.HPV),
        draw=noise_batch,
        loss=binary_cross_entropy_with_logits,
        stage=PROFILE.training.hpv.model_copy(update={"steps": steps}),
        shared=PROFILE.training.model_copy(update={"checkpoint_every": 1}),
        seed=5,
        folder=folder,
    )
    return replace(job, **changes)


def make_fabric(precision: str) -> Fabric:
    return Fabric(accelerator="cpu", devices=1, plugins=PRECISIONS[precision]())


def copy_state(optimization: Optimization) -> dict[str, Tensor]:
    """Weights and both moments, by name."""
    state = optimization.state()
    moments = {
        f"{number}.{name}": value
        for number, values in state["optimizer"]["state"].items()
        for name, value in values.items()
    }
    return {name: value.clone() for name, value in (state["network"] | moments).items()}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_gradient_that_is_not_finite_changes_no_weight_and_no_moment(precision: str, tmp_path: Path) -> None:
    fabric = make_fabric(precision)
    optimization = Optimization(fabric, make_job(tmp_path))
    assert optimization.step(noise_batch(0), 1e-3)[1]
    before, scaler = copy_state(optimization), getattr(fabric.strategy.precision, "scaler", None)
    scale = scaler.get_scale() if scaler else None
    loss, finite = optimization.step(overflowing_at(1)(1, CPU), 1e-3)
    assert not finite
    assert not loss.isfinite()
    after = copy_state(optimization)
    assert all(torch.equal(after[name], before[name]) for name in before)
    if scaler:
        assert scaler.get_scale() == scale / 2
    assert optimization.step(noise_batch(2), 1e-3)[1]
    assert any(not torch.equal(value, before[name]) for name, value in copy_state(optimization).items())
    assert all(value.isfinite().all() for value in optimization.average.values())


class Killed(Exception):
    """Stands in for the end of the process."""


@pytest.mark.parametrize(("tasks", "rank"), [("2", "1"), ("1", "0"), ("8", "3")])
def test_the_ranks_of_slurm_are_not_ours(
    tasks: str, rank: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"JOB_NAME": "train.sh", "LOCALID": rank, "NODEID": "0", "NTASKS": tasks, "PROCID": rank}
    for name, value in names.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    job = make_job(tmp_path, steps=2)
    loop.train(job, accelerator="cpu")
    assert job.finished.is_file()
    assert list(tmp_path.glob("tensorboard/events*"))


def test_a_gpu_that_later_steps_do_not_know_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a Mac Fabric's own choice is MPS, which PyTorch cannot use here."""
    monkeypatch.setattr(MPSAccelerator, "is_available", lambda *_: True)
    job = make_job(tmp_path, steps=2)
    loop.train(job)
    assert job.finished.is_file()


@pytest.mark.slow
@pytest.mark.parametrize("before", ["float32", "bfloat16"])
def test_a_training_goes_on_in_float16_on_another_machine(before: str, tmp_path: Path) -> None:
    def killed(step: int, device: torch.device) -> Batch:
        if step == 5:
            raise Killed
        return noise_batch(step)

    with pytest.raises(Killed):
        loop._train(make_fabric(before), make_job(tmp_path, draw=killed))
    job = make_job(tmp_path)
    loop._train(make_fabric("float16"), job)
    assert job.finished.is_file()


@pytest.mark.slow
def test_a_training_in_float16_goes_on_after_overflows_and_a_kill_between_them(tmp_path: Path) -> None:
    """Four overflows, the process killed after the second; as if it had not been."""
    draw = overflowing_at(1, 2, 5, 6)

    def killed(step: int, device: torch.device) -> Batch:
        if step == 5:
            raise Killed
        return draw(step, device)

    whole = make_job(tmp_path / "whole", draw=draw)
    parts = make_job(tmp_path / "parts", draw=killed)
    for job in (whole, parts):
        job.folder.mkdir()
    loop._train(make_fabric("float16"), whole)
    with pytest.raises(Killed):
        loop._train(make_fabric("float16"), parts)
    saved = torch.load(parts.checkpoint, weights_only=True)
    assert saved["steps"] == 5
    assert saved["precision"]["scale"] == 2.0**16 / 4
    again = make_job(tmp_path / "parts", draw=draw)
    loop._train(make_fabric("float16"), again)
    expected, found = load_file(whole.finished), load_file(again.finished)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    with (whole.folder / "log.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["skipped"] == "4"
    assert 0 < float(row["loss"]) < 5


def test_a_training_without_any_finite_gradient_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "LOG_EVERY", 2)
    monkeypatch.setattr(loop, "MOST_SKIPPED", 6)
    job = make_job(tmp_path, draw=overflowing_at(*range(1, 9)), steps=9)
    with pytest.raises(ArithmeticError, match=f"^{tmp_path}: no gradient of the last 6 steps was finite$"):
        loop._train(make_fabric("float32"), job)
    assert not job.finished.exists()


@pytest.mark.parametrize("micro_batch", [1, 2, 3])
def test_pieces_of_a_batch_have_the_gradient_of_the_whole(micro_batch: int, tmp_path: Path) -> None:
    seen = []

    def loss(logits: Tensor, positive: Tensor) -> Tensor:
        seen.append(len(logits))
        return binary_cross_entropy_with_logits(logits, positive)

    after = []
    for size in (micro_batch, 4):
        stage = PROFILE.training.hpv.model_copy(update={"batch": 4, "micro_batch": size})
        optimization = Optimization(make_fabric("float32"), make_job(tmp_path, stage=stage, loss=loss))
        losses = [optimization.step(noise_batch(step, size=4), 1e-3)[0] for step in range(3)]
        after.append((torch.stack(losses), copy_state(optimization)))
    (losses, pieces), (expected, whole) = after
    assert sum(seen) == 2 * 3 * 4
    assert max(seen[: len(seen) - 3]) == micro_batch
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-6)
    for name, value in whole.items():
        if name.endswith("exp_avg"):  # the gradients themselves; the weights follow their signs
            torch.testing.assert_close(pieces[name], value, rtol=1e-3, atol=1e-6)


def test_a_gpu_draws_batches_on_a_stream_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a pretended one: drawn under the second stream, awaited and kept by the first."""
    events: list[str] = []

    class Stream:
        def __init__(self, name: object) -> None:
            self.name = str(name)

        def wait_stream(self, other: "Stream") -> None:
            events.append(f"{self.name} waits for {other.name}")

    @contextmanager
    def under(stream: Stream):  # type: ignore[no-untyped-def]
        events.append(f"draws on {stream.name}")
        yield

    def draw(step: int, device: torch.device) -> Batch:
        assert device.type == "cuda"
        return noise_batch(step)

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream("second"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream("first"))
    monkeypatch.setattr(torch.cuda, "stream", under)
    monkeypatch.setattr(Tensor, "record_stream", lambda self, stream: events.append(f"{stream.name} keeps"))
    assert [turn for turn, _ in draw_ahead(draw, [7], torch.device("cuda"))] == [7]
    assert events == ["draws on second", "first waits for second", "first keeps", "first keeps"]
