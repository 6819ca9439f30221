"""Training and prediction on fake CUDA tensors: what does not fit together fails, what is kept is counted.

`python -m benchmarks.dry_run [--profile NAME] [--predict]` needs no GPU, but a C++ compiler. Fake tensors have shapes,
dtypes and a device, and no memory; the operations are those of the programs, under CUDA's own autocast. Nothing is said
of speed, nor of the workspace that cuDNN takes beside the tensors.
"""

import json
import os
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import torch
import typer
from lightning.fabric import Fabric
from lightning.fabric.accelerators import CPUAccelerator
from lightning.fabric.plugins.precision import MixedPrecision, Precision
from lightning.fabric.strategies import SingleDeviceStrategy
from torch import Tensor, distributed, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed import GradBucket
from torch.nn.parallel import DistributedDataParallel
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from mmpl.names import NETWORK_STAGES, Stage
from mmpl.network import build_network
from mmpl.processor import PRECISION
from mmpl.profile import Profile, load_profile
from mmpl.segmentation import window_probability
from mmpl.training.loop import Job, Optimization, PrecisionName
from mmpl.training.losses import discrete_time_nll, hpv_loss, oda_loss
from mmpl.training.patches import Batch

SOURCE = Path(__file__).with_suffix("").with_name("pretended_cuda.cpp")
CUDA = torch.device("cuda", 0)
LOSSES: dict[Stage, Callable[..., Tensor]] = {
    Stage.SEGMENTATION: oda_loss,
    Stage.HPV: hpv_loss,
    Stage.SURVIVAL: discrete_time_nll,
}
TRAINING_PRECISIONS: tuple[PrecisionName, ...] = ("bf16-mixed", "16-mixed", "32-true")


@dataclass(frozen=True)
class StepMemory:
    """What the tensors of a training step take at most.

    Attributes:
        batch: Crops a step.
        micro_batch: Crops in memory at once.
        peak_gib: Weights, gradients, optimizer, moving average, batch, activations and what is made on the way.
        between_steps_gib: Of it, what stays from step to step.
    """

    stage: Stage
    precision: PrecisionName
    batch: int
    micro_batch: int
    peak_gib: float
    between_steps_gib: float


class LiveMemory(TorchDispatchMode):
    """The bytes of all tensors made under it that are still alive, each storage counted once."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.peak = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and count what it made."""
        result = func(*args, **(kwargs or {}))
        for made in tree_iter(result):
            if isinstance(made, Tensor):
                self._count(made.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        self._change(storage.nbytes())
        weakref.finalize(storage, self._change, -storage.nbytes())

    def _change(self, by: int) -> None:
        self.bytes += by
        self.peak = max(self.peak, self.bytes)


def run_pretending(*arguments: str) -> int:
    """Run this program again in a process that believes in a CUDA device; its exit code.

    Raises:
        RuntimeError: This machine has a real one.
        OSError: There is no C++ compiler, or it does not compile.
    """
    if torch.cuda.is_available():
        raise RuntimeError("this machine has a CUDA device; a dry run is for those that have none")
    home = Path(torch.__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        library = f"{folder}/pretended_cuda.so"
        options = ["-shared", "-fPIC", "-std=c++20", f"-I{home}/include"]
        linked = [f"-L{home}/lib", "-lc10", "-ltorch_cpu", f"-Wl,-rpath,{home}/lib"]
        made = subprocess.run(["g++", *options, SOURCE, "-o", library, *linked], capture_output=True, text=True)
        if made.returncode:
            raise OSError(f"{SOURCE}: g++ failed: {made.stderr.strip()}")
        # PyTorch asks for its devices once, when it is loaded
        environment = os.environ | {"LD_PRELOAD": library}
        return subprocess.run([sys.executable, "-m", "benchmarks.dry_run", *arguments], env=environment).returncode


@contextmanager
def fake_cuda() -> Iterator[LiveMemory]:
    """Make tensors on CUDA fake, under CUDA's own autocast, and count their bytes."""
    available = mock.patch.multiple(torch.cuda, is_available=lambda: True, is_bf16_supported=lambda *_: True)
    with available, FakeTensorMode(allow_non_fake_inputs=True), LiveMemory() as memory:
        yield memory


def make_batch(profile: Profile, stage: Stage) -> Batch:
    """Make the batch of a stage's step of fake tensors, under `fake_cuda`."""
    settings = getattr(profile.training, stage)
    size = (settings.batch, 2, *settings.crop_xyz[::-1])
    intervals = (settings.batch, profile.survival.intervals)
    targets = {Stage.SEGMENTATION: (size,), Stage.HPV: ((settings.batch, 1),), Stage.SURVIVAL: (intervals, intervals)}
    return Batch(torch.empty(size, device=CUDA), tuple(torch.empty(shape, device=CUDA) for shape in targets[stage]))


class _FakeFabric(Fabric):
    """What the training program has on one GPU, or on the first of two, for networks that cannot be moved there."""

    def __init__(self, precision: PrecisionName, devices: int) -> None:
        plugin = Precision() if precision == "32-true" else MixedPrecision(precision, "cuda")
        strategy = SingleDeviceStrategy if devices == 1 else _FirstOfTwo
        super().__init__(strategy=strategy(CUDA, accelerator=CPUAccelerator(), precision=plugin))

    def setup(self, module: Any, *optimizers: Any, **options: Any) -> Any:
        """Wrap network and optimizer."""
        return super().setup(module, *optimizers, **options | {"move_to_device": False})


class _FirstOfTwo(SingleDeviceStrategy):
    """The first process of two that train one network; nothing is sent to the other."""

    def setup_module(self, module: nn.Module) -> nn.Module:
        """Wrap it as DDP does, its gradients handed back as they are."""
        if not distributed.is_initialized():
            distributed.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
        wrapped = DistributedDataParallel(module, init_sync=False)  # fake weights cannot be compared or sent
        wrapped.register_comm_hook(None, _hand_back)
        return wrapped


def _hand_back(_: None, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    future: torch.futures.Future[Tensor] = torch.futures.Future()
    future.set_result(bucket.buffer())
    return future


def take_steps(profile: Profile, stage: Stage, precision: PrecisionName, devices: int = 1) -> StepMemory:
    """Take steps of a stage's training on fake CUDA tensors, by the training program's own code.

    Args:
        profile: Whose network and batch.
        stage: Which.
        precision: What is multiplied in.
        devices: 2 for a network that is trained on two (DDP).
    """
    settings = getattr(profile.training, stage)
    with torch.device("meta"):
        network = build_network(profile, stage)
    with fake_cuda() as memory:
        network.to_empty(device=CUDA)
        job = Job(network, _draw_nothing, LOSSES[stage], settings, profile.training, seed=0, folder=Path())
        optimization = Optimization(_FakeFabric(precision, devices), job)
        # two, as the first makes the optimizer's moments; DDP's own log wants a real device for the second
        for _ in range(2 if devices == 1 else 1):
            optimization.step(make_batch(profile, stage), settings.learning_rate)
        return StepMemory(
            stage, precision, settings.batch, settings.micro_batch, memory.peak / 2**30, memory.bytes / 2**30
        )


def _draw_nothing(step: int, device: torch.device) -> Batch:
    raise NotImplementedError("a dry run makes its batches itself")


def predict_once(profile: Profile, stage: Stage) -> float:
    """Predict a batch of windows, or a crop, as inference does on a GPU; the most GiB that tensors take."""
    settings = profile.inference
    count, size = (
        (settings.window_batch, settings.window_xyz) if stage is Stage.SEGMENTATION else (1, settings.lesion_crop_xyz)
    )
    dtype = PRECISION["cuda"] if stage is Stage.SEGMENTATION else torch.float32
    with torch.device("meta"):
        network = build_network(profile, stage).to(dtype).eval()
    with fake_cuda() as memory, torch.inference_mode():
        network.to_empty(device=CUDA)
        images = torch.empty(count, 2, *size[::-1], device=CUDA)
        if stage is Stage.SEGMENTATION:
            window_probability(images, network, dtype)
        else:
            network(images).double()
        return memory.peak / 2**30


def main(
    profile: str = "paper",
    stage: Annotated[list[Stage] | None, typer.Option(help="By default all three.")] = None,
    precision: Annotated[list[str] | None, typer.Option(help="By default all three.")] = None,
    devices: Annotated[int, typer.Option(min=1, max=2, help="GPUs that train a network together.")] = 1,
    predict: Annotated[bool, typer.Option("--predict", help="Predict instead, in inference's own precision.")] = False,
) -> None:
    """Take a training step of each stage in each precision; a line of JSON each."""
    if "LD_PRELOAD" not in os.environ:
        raise typer.Exit(run_pretending(*sys.argv[1:]))
    chosen = load_profile(profile)
    for each in stage or NETWORK_STAGES:
        if predict:
            print(json.dumps({"stage": each, "peak_gib": predict_once(chosen, each)}), flush=True)
            continue
        for name in TRAINING_PRECISIONS:
            if name in (precision or TRAINING_PRECISIONS):
                print(json.dumps(asdict(take_steps(chosen, each, name, devices))), flush=True)


if __name__ == "__main__":
    typer.run(main)
