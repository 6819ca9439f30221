"""The loop that the three stages share: draw, step, log, checkpoint; killed and started again, it goes on."""

import csv
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning.fabric import Fabric
from lightning.fabric.loggers import TensorBoardLogger
from safetensors.torch import save_file
from torch import Tensor

from mmpl.network import StageNetwork
from mmpl.profile import OutcomeTraining, SegmentationTraining, TrainingSettings
from train.patches import DrawBatch

LOG_EVERY = 20


@dataclass(frozen=True)
class Job:
    """One network to train.

    Attributes:
        network: Freshly made, its backbone transferred where the stage has one to start from.
        draw: Makes the batch of a step.
        loss: From logits and the batch's targets.
        stage: The stage's settings.
        shared: What all stages share.
        folder: Where checkpoint, logs and the finished network go.
    """

    network: StageNetwork
    draw: DrawBatch
    loss: Callable[..., Tensor]
    stage: SegmentationTraining | OutcomeTraining
    shared: TrainingSettings
    folder: Path

    @property
    def finished(self) -> Path:
        """The trained network, in half precision."""
        return self.folder / "network.safetensors"


def make_fabric() -> Fabric:
    """Take one device: an accelerator where there is one; bfloat16 where the hardware multiplies it."""
    quick = torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported()
    return Fabric(accelerator="auto", devices=1, precision="bf16-mixed" if quick else "32-true")


def learning_rate(step: int, steps: int, peak: float, warmup_fraction: float) -> float:
    """Rise linearly over the warm-up, then fall to zero along a half cosine."""
    warmup = max(1, int(steps * warmup_fraction))
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def train(job: Job) -> None:
    """Train a network to the end and leave it in `job.finished`; does nothing if it is there."""
    if job.finished.is_file():
        return
    job.folder.mkdir(parents=True, exist_ok=True)
    checkpoint = job.folder / "checkpoint.pt"
    fabric = make_fabric()
    optimizer = torch.optim.AdamW(
        job.network.parameters(), lr=job.stage.learning_rate, weight_decay=job.shared.weight_decay
    )
    network, optimizer = fabric.setup(job.network, optimizer)
    first = 0
    if checkpoint.is_file():
        saved = torch.load(checkpoint, map_location=fabric.device, weights_only=True)
        network.load_state_dict(saved["network"])
        optimizer.load_state_dict(saved["optimizer"])
        first = saved["step"]
    board = TensorBoardLogger(job.folder, name="", version="tensorboard")
    network.train()
    started, losses = time.monotonic(), []
    for step in range(first, job.stage.steps):
        torch.manual_seed(job.shared.seed + step)  # dropout, the only randomness beside the batch
        batch = job.draw(step)
        rate = learning_rate(step, job.stage.steps, job.stage.learning_rate, job.shared.warmup_fraction)
        for group in optimizer.param_groups:
            group["lr"] = rate
        logits = network(batch.images.to(fabric.device))
        loss = job.loss(logits, *(target.to(fabric.device) for target in batch.targets))
        fabric.backward(loss)
        fabric.clip_gradients(network, optimizer, max_norm=job.shared.gradient_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach())
        done = step + 1
        if done % LOG_EVERY == 0 or done == job.stage.steps:
            mean = float(torch.stack(losses).mean())
            losses.clear()
            _log(job.folder / "log.csv", done, mean, rate, time.monotonic() - started)
            board.log_metrics({"loss": mean, "learning_rate": rate}, done)
        if done % job.shared.checkpoint_every == 0:
            partial = checkpoint.with_suffix(".partial")
            torch.save(
                {"step": done, "network": network.module.state_dict(), "optimizer": optimizer.state_dict()}, partial
            )
            partial.replace(checkpoint)
    board.finalize("success")
    partial = job.finished.with_suffix(".partial")
    save_file({name: value.half().cpu().contiguous() for name, value in network.module.state_dict().items()}, partial)
    partial.replace(job.finished)
    checkpoint.unlink(missing_ok=True)


def _log(path: Path, step: int, loss: float, rate: float, seconds: float) -> None:
    new = not path.is_file()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(["step", "loss", "learning_rate", "seconds"])
        writer.writerow([step, f"{loss:.5f}", f"{rate:.3e}", f"{seconds:.1f}"])
