"""The loop that the three stages share: draw, step, average, log, checkpoint; killed and started again, it goes on."""

import csv
import math
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from lightning.fabric import Fabric
from lightning.fabric.loggers import TensorBoardLogger
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from mmpl.network import StageNetwork
from mmpl.profile import OutcomeTraining, SegmentationTraining, TrainingSettings
from train.patches import Batch, DrawBatch
from train.progress import HEADER, LOG_FILE, LogRow, read_log

LOG_EVERY, LOG_EVERY_S = 20, 30.0
"""A row of the log is written after so many steps or seconds, whichever come first."""


@dataclass(frozen=True)
class Job:
    """One network to train.

    Attributes:
        network: Freshly made, its backbone transferred where the stage has one to start from.
        draw: Makes the batch of a step.
        loss: From logits and the batch's targets.
        stage: The stage's settings.
        shared: What all stages share.
        seed: Of this network; with the step it fixes every random number.
        folder: Where checkpoint, logs and the finished network go.
        first: The step of the schedule to begin with, above 0 where the network has learnt elsewhere.
        validate: Scores the averaged network at each checkpoint and at the end, for the reader of the log alone.
    """

    network: StageNetwork
    draw: DrawBatch
    loss: Callable[..., Tensor]
    stage: SegmentationTraining | OutcomeTraining
    shared: TrainingSettings
    seed: int
    folder: Path
    first: int = 0
    validate: Callable[[nn.Module, torch.device], float] | None = None

    @property
    def finished(self) -> Path:
        """The trained network, its averaged weights in half precision."""
        return self.folder / "network.safetensors"

    @property
    def checkpoint(self) -> Path:
        """All that the next step depends on; gone once the network is finished."""
        return self.folder / "checkpoint.pt"


def choose_precision() -> Literal["bf16-mixed", "16-mixed", "32-true"]:
    """Mix in the 16-bit format that the hardware multiplies: bfloat16, else on a GPU float16 with scaled losses."""
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    return "bf16-mixed" if torch.cpu._is_avx512_bf16_supported() else "32-true"


def learning_rate(step: int, steps: int, peak: float, warmup_fraction: float) -> float:
    """Rise linearly over the warm-up, then fall to zero along a half cosine."""
    warmup = max(1, int(steps * warmup_fraction))
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def average_decay(step: int, decay: float) -> float:
    """Let the moving average forget fast at first, so that the untrained weights do not linger in it."""
    return min(decay, (1 + step) / (10 + step))


def train(job: Job, devices: int = 1, accelerator: str = "auto") -> None:
    """Train a network to the end and leave it in `job.finished`; does nothing if it is there.

    Args:
        job: What to train.
        devices: With more than one, each is a process that draws batches of its own (DDP): the batch grows with them.
        accelerator: As Fabric names it.
    """
    if job.finished.is_file():
        return
    job.folder.mkdir(parents=True, exist_ok=True)
    strategy = "ddp_spawn" if devices > 1 else "auto"
    fabric = Fabric(accelerator=accelerator, devices=devices, strategy=strategy, precision=choose_precision())
    fabric.launch(partial(_train, job=job))


def _train(fabric: Fabric, job: Job) -> None:
    torch.backends.cudnn.deterministic = True
    optimizer = torch.optim.AdamW(
        job.network.parameters(), lr=job.stage.learning_rate, weight_decay=job.shared.weight_decay
    )
    job.network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # a sixth faster on a CPU
    network, optimizer = fabric.setup(job.network, optimizer)
    averaged = AveragedModel(job.network, multi_avg_fn=_follow(job.shared.average_decay))
    scaler = fabric.strategy.precision
    first = job.first
    if job.checkpoint.is_file():
        saved = torch.load(job.checkpoint, map_location=fabric.device, weights_only=True)
        job.network.load_state_dict(saved["network"])
        averaged.load_state_dict(saved["averaged"])
        optimizer.load_state_dict(saved["optimizer"])
        scaler.load_state_dict(saved["scaler"])
        first = saved["step"]
    log = _Log(job, first) if fabric.is_global_zero else None
    network.train()
    turns = [step * fabric.world_size + fabric.global_rank for step in range(first, job.stage.steps)]
    for step, (turn, batch) in enumerate(draw_ahead(job.draw, turns, fabric.device), first):
        torch.manual_seed(job.seed * 1_000_003 + turn)  # dropout, the only randomness beside the batch
        rate = learning_rate(step, job.stage.steps, job.stage.learning_rate, job.shared.warmup_fraction)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = job.loss(network(batch.images), *batch.targets)
        fabric.backward(loss)
        fabric.clip_gradients(network, optimizer, max_norm=job.shared.gradient_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        averaged.update_parameters(job.network)
        if log is None:
            continue
        done = step + 1
        log.add(loss.detach())
        log.write_if_due(done, rate, averaged.module, fabric.device)
        if done % job.shared.checkpoint_every == 0:
            state = {
                "step": done,
                "network": job.network.state_dict(),
                "averaged": averaged.state_dict(),
                "optimizer": optimizer.state_dict(),
                "scaler": scaler.state_dict(),
            }
            partial = job.checkpoint.with_suffix(".partial")
            torch.save(state, partial)
            partial.replace(job.checkpoint)
    if log is not None:
        log.close()
        partial = job.finished.with_suffix(".partial")
        weights = averaged.module.state_dict()
        save_file({name: value.half().cpu().contiguous() for name, value in weights.items()}, partial)
        partial.replace(job.finished)
        job.checkpoint.unlink(missing_ok=True)


def draw_ahead(draw: DrawBatch, turns: Iterable[int], device: torch.device) -> Iterator[tuple[int, Batch]]:
    """Give each turn and its batch, while a thread draws the next, so that the network does not wait for the images."""
    with ThreadPoolExecutor(1) as thread:
        coming = None
        for turn in turns:
            ready, coming = coming, (turn, thread.submit(draw, turn, device))
            if ready is not None:
                yield ready[0], ready[1].result()
        if coming is not None:
            yield coming[0], coming[1].result()


def _follow(decay: float) -> Callable[..., None]:
    @torch.no_grad()
    def follow(averages: list[Tensor], weights: list[Tensor], updates: Tensor) -> None:
        torch._foreach_lerp_(averages, weights, 1 - average_decay(int(updates), decay))

    return follow


class _Log:
    """The losses of a training, as CSV and for TensorBoard; rows that a resumed training makes again are dropped."""

    def __init__(self, job: Job, first: int) -> None:
        self._path = job.folder / LOG_FILE
        self._board = TensorBoardLogger(job.folder, name="", version="tensorboard")
        self._job = job
        self._started = self._written = time.monotonic()
        self._losses: list[Tensor] = []
        rows = [row.cells() for row in read_log(self._path) if row.step <= first]
        with self._path.open("w", newline="") as file:
            csv.writer(file).writerows([HEADER, *rows])

    def add(self, loss: Tensor) -> None:
        """Take the loss of a step; it stays on the device."""
        self._losses.append(loss)

    def write_if_due(self, step: int, rate: float, network: nn.Module, device: torch.device) -> None:
        """Write a row where it is time, with the mean of the losses since the last one and the network's score."""
        now, last = time.monotonic(), step == self._job.stage.steps
        validate = self._job.validate if last or step % self._job.shared.checkpoint_every == 0 else None
        if not (validate or last or step % LOG_EVERY == 0 or now - self._written >= LOG_EVERY_S):
            return
        row = LogRow(
            step=step,
            loss=float(torch.stack(self._losses).mean()),
            learning_rate=rate,
            seconds=time.monotonic() - self._started,
            steps_per_second=len(self._losses) / (time.monotonic() - self._written),
            validation=validate(network, device) if validate else math.nan,
        )
        self._losses.clear()
        self._written = time.monotonic()
        with self._path.open("a", newline="") as file:
            csv.writer(file).writerow(row.cells())
        values = {name: value for name, value in asdict(row).items() if name not in ("step", "seconds")}
        self._board.log_metrics({name: value for name, value in values.items() if not math.isnan(value)}, step)

    def close(self) -> None:
        """Flush what TensorBoard holds back."""
        self._board.finalize("success")
