"""The loop that the three stages share: draw, step, average, log, checkpoint; killed and started again, it goes on."""

import copy
import csv
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.fabric import Fabric
from lightning.fabric.loggers import TensorBoardLogger
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.fabric.utilities.rank_zero import rank_zero_only
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW

from mmpl.files import write_whole
from mmpl.network import StageNetwork
from mmpl.processor import default_device
from mmpl.profile import OutcomeTraining, SegmentationTraining, TrainingSettings
from mmpl.training.patches import Batch, DrawBatch
from mmpl.training.progress import HEADER, LOG_FILE, LogRow, read_log

logging.getLogger("lightning.fabric").setLevel(logging.WARNING)  # it would name the precision of every network anew

PrecisionName = Literal["bf16-mixed", "16-mixed", "32-true"]

LOG_EVERY, LOG_EVERY_S = 20, 30.0
"""A row of the log is written after so many steps or seconds, whichever come first."""
MOST_SKIPPED = 100
"""Steps in a row without a finite gradient that end a training; a loss scale finds its place within twenty."""


@dataclass(frozen=True)
class Job:
    """One network to train.

    Attributes:
        network: The network, freshly made, its backbone transferred where the stage has one to start from.
        draw: Function that makes the batch of a step.
        loss: Loss function of the logits and the batch's targets.
        stage: The stage's settings.
        shared: Settings that all stages share.
        seed: Random seed of this network; with the step it fixes every random number.
        folder: Folder of the checkpoint, the logs and the finished network.
        first: The step of the schedule to begin with, above 0 where the network has learnt elsewhere.
        validate: Function that scores the averaged network at each checkpoint and at the end, for the log alone.
        finish: Function that changes the averaged network a last time, before it is kept.
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
    finish: Callable[[StageNetwork], None] | None = None

    @property
    def finished(self) -> Path:
        """The trained network, its averaged weights in half precision."""
        return self.folder / "network.safetensors"

    @property
    def checkpoint(self) -> Path:
        """All that the next step depends on; gone once the network is finished."""
        return self.folder / "checkpoint.pt"


def choose_precision() -> PrecisionName:
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


def train(job: Job, devices: int = 1, accelerator: str | None = None) -> None:
    """Train a network to the end and leave it in `job.finished`; does nothing if it is there.

    Args:
        job: The network to train, with its settings.
        devices: Number of devices; of several, each is a process that draws batches of its own (DDP): the batch grows.
        accelerator: Kind of device, as Fabric names it; by default that of `default_device`, on which the steps after
            it compute, too: Fabric's own choice may be another kind of GPU.

    Raises:
        ArithmeticError: The gradient is never finite.
    """
    if job.finished.is_file():
        return
    job.folder.mkdir(parents=True, exist_ok=True)
    strategy = "ddp_spawn" if devices > 1 else "auto"
    fabric = Fabric(
        accelerator=accelerator or default_device().type,
        devices=devices,
        strategy=strategy,
        precision=choose_precision(),
        plugins=[LightningEnvironment()],  # SLURM's ranks are of its tasks, and these processes are our own
    )
    fabric.launch(partial(_train, job=job))


class Optimization:
    """A network on its device, its optimizer and its moving average, and the step that all three stages take.

    A gradient that is not finite changes no weight; where losses are scaled (float16) the scale is halved, too, as it
    is meant to be. Nothing in a step waits for the device.

    Attributes:
        network: The network under training.
        average: The moving average of its weights by name, which is what is kept.
        steps: Number of steps taken so far, those without effect counted in.
    """

    def __init__(self, fabric: Fabric, job: Job) -> None:
        self._fabric, self._job = fabric, job
        self.network = job.network
        optimizer = AdamW(
            self.network.parameters(), lr=job.stage.learning_rate, weight_decay=job.shared.weight_decay, fused=True
        )
        self._wrapped, self._optimizer = fabric.setup(self.network, optimizer)
        self.average = {name: value.detach().clone() for name, value in self.network.named_parameters()}
        self.steps = 0

    def step(self, batch: Batch, rate: float) -> tuple[Tensor, Tensor]:
        """Take a step at a learning rate, the batch in pieces whose gradients add up to that of the whole.

        Returns:
            The loss, and whether the gradient was finite; both stay on the device.
        """
        parts = batch.split(self._job.stage.micro_batch)
        losses = []
        for number, part in enumerate(parts, 1):
            with self._fabric.no_backward_sync(self._wrapped, enabled=number < len(parts)):
                share = len(part.images) / len(batch.images)
                loss = self._job.loss(self._wrapped(part.images), *part.targets) * share
                self._fabric.backward(loss)
            losses.append(loss.detach())
        optimizer, scaler = self._optimizer.optimizer, getattr(self._fabric.strategy.precision, "scaler", None)
        if scaler is not None:
            scaler.unscale_(optimizer)
        norm = clip_grad_norm_(self.network.parameters(), self._job.shared.gradient_clip)
        finite = norm.isfinite()
        if scaler is None:
            optimizer.found_inf = (~finite).float()  # the fused step then leaves everything as it is
        for group in optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        weight = 1 - average_decay(self.steps, self._job.shared.average_decay) if self.steps else 1.0
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.values()), list(self.network.parameters()), weight)
        self.steps += 1
        return torch.stack(losses).sum(), finite

    @property
    def device(self) -> torch.device:
        """The device on which the network lies."""
        return self._fabric.device

    def averaged_network(self) -> StageNetwork:
        """Make a copy of the network that has the averaged weights."""
        network = copy.deepcopy(self.network)
        network.load_state_dict(self.average)
        return network

    def state(self) -> dict[str, Any]:
        """Collect all that the next step depends on."""
        return {
            "steps": self.steps,
            "network": self.network.state_dict(),
            "average": self.average,
            "optimizer": self._optimizer.state_dict(),
            "precision": self._fabric.strategy.precision.state_dict(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to a state that was collected."""
        self.steps = state["steps"]
        self.network.load_state_dict(state["network"])
        self.average = state["average"]
        self._optimizer.load_state_dict(state["optimizer"])
        if state["precision"]:  # none of a training in another precision, which knows no scale
            self._fabric.strategy.precision.load_state_dict(state["precision"])


def _train(fabric: Fabric, job: Job) -> None:
    # the CPU resumes to the last byte; some of CUDA's backward passes cannot, so that nothing is lost by the fastest
    torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()
    if fabric.world_size > 1:  # whose processes are given one memory for all
        job = replace(job, network=copy.deepcopy(job.network))
    optimization = Optimization(fabric, job)
    first = job.first
    if job.checkpoint.is_file():
        saved = torch.load(job.checkpoint, map_location=fabric.device, weights_only=True)
        optimization.restore(saved)
        first = job.first + optimization.steps
    rank_zero_only.rank = fabric.global_rank  # type: ignore[attr-defined]  # of TensorBoard's log, else SLURM's
    log = _Log(job, first) if fabric.is_global_zero else None
    optimization.network.train()
    turns = [step * fabric.world_size + fabric.global_rank for step in range(first, job.stage.steps)]
    for step, (turn, batch) in enumerate(draw_ahead(job.draw, turns, fabric.device), first):
        torch.manual_seed(job.seed * 1_000_003 + turn)  # dropout, the only randomness beside the batch
        rate = learning_rate(step, job.stage.steps, job.stage.learning_rate, job.shared.warmup_fraction)
        loss, finite = optimization.step(batch, rate)
        if log is None:
            continue
        done = step + 1
        log.add(loss, finite)
        log.write_if_due(done, rate, optimization)
        if done % job.shared.checkpoint_every == 0:
            with write_whole(job.checkpoint) as partial:
                torch.save(optimization.state(), partial)
    if log is not None:
        log.close()
        network = optimization.averaged_network().eval()
        if job.finish:
            job.finish(network)
        weights = {name: value.detach().half().cpu().contiguous() for name, value in network.named_parameters()}
        with write_whole(job.finished) as partial:
            save_file(weights, partial)
        job.checkpoint.unlink(missing_ok=True)


def draw_ahead(draw: DrawBatch, turns: Iterable[int], device: torch.device) -> Iterator[tuple[int, Batch]]:
    """Give each turn and its batch, while a thread draws the next, so that the network does not wait for the images.

    On a GPU the thread works on a stream of its own, beside the step that runs.
    """
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def draw_apart(turn: int) -> Batch:
        with torch.cuda.stream(stream):  # without a stream it does nothing
            return draw(turn, device)

    def hand_over(coming: Future[Batch]) -> Batch:
        batch = coming.result()
        if stream is not None:
            current = torch.cuda.current_stream(device)
            current.wait_stream(stream)
            for tensor in (batch.images, *batch.targets):
                tensor.record_stream(current)  # its memory is not used again before this stream is done with it
        return batch

    with ThreadPoolExecutor(1) as thread:
        coming = None
        for turn in turns:
            ready, coming = coming, (turn, thread.submit(draw_apart, turn))
            if ready is not None:
                yield ready[0], hand_over(ready[1])
        if coming is not None:
            yield coming[0], hand_over(coming[1])


class _Log:
    """The losses of a training, as CSV and for TensorBoard; rows that a resumed training makes again are dropped."""

    def __init__(self, job: Job, first: int) -> None:
        self._path = job.folder / LOG_FILE
        self._board = TensorBoardLogger(job.folder, name="", version="tensorboard", purge_step=first + 1)
        self._job = job
        self._started = self._written = time.monotonic()
        self._steps: list[tuple[Tensor, Tensor]] = []
        self._skipped_in_a_row = 0
        rows = [row.cells() for row in read_log(self._path) if row.step <= first]
        with self._path.open("w", newline="") as file:
            csv.writer(file).writerows([HEADER, *rows])

    def add(self, loss: Tensor, finite: Tensor) -> None:
        """Take the loss of a step, and whether its gradient was finite; they stay on the device."""
        self._steps.append((loss, finite))

    def write_if_due(self, step: int, rate: float, optimization: Optimization) -> None:
        """Write a row where it is time: of the steps since the last one that had an effect, and of the average's score.

        Raises:
            ArithmeticError: No gradient was finite for a long time.
        """
        now, last = time.monotonic(), step == self._job.stage.steps
        validate = self._job.validate if last or step % self._job.shared.checkpoint_every == 0 else None
        if not (validate or last or step % LOG_EVERY == 0 or now - self._written >= LOG_EVERY_S):
            return
        losses, finite = (torch.stack(column).cpu() for column in zip(*self._steps, strict=True))
        skipped = int((~finite).sum())
        self._skipped_in_a_row = self._skipped_in_a_row + skipped if skipped == len(self._steps) else 0
        if self._skipped_in_a_row >= MOST_SKIPPED:
            raise ArithmeticError(f"{self._path.parent}: no gradient of the last {MOST_SKIPPED} steps was finite")
        row = LogRow(
            step=step,
            loss=float(losses[finite].mean()),
            learning_rate=rate,
            seconds=time.monotonic() - self._started,
            steps_per_second=len(self._steps) / (time.monotonic() - self._written),
            skipped=skipped,
            validation=validate(optimization.averaged_network(), optimization.device) if validate else math.nan,
        )
        self._steps.clear()
        self._written = time.monotonic()
        with self._path.open("a", newline="") as file:
            csv.writer(file).writerow(row.cells())
        values = {name: value for name, value in asdict(row).items() if name not in ("step", "seconds")}
        self._board.log_metrics({name: value for name, value in values.items() if not math.isnan(value)}, step)

    def close(self) -> None:
        """Flush what TensorBoard holds back."""
        self._board.finalize("success")
