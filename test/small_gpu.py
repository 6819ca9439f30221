"""A stand-in for a GPU with little memory, on a machine that has none."""

import copy
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


class FakeGpu(TorchFunctionMode):
    """A "cuda" that the CPU computes for: tensors that are sent there stay, and networks know where they were sent."""

    def __torch_function__(
        self, function: Callable, types: object, arguments: tuple = (), options: dict | None = None
    ) -> object:
        on_cpu = tuple(CPU if a == CUDA else a for a in arguments) if function is Tensor.to else arguments
        return function(*on_cpu, **(options or {}))


@dataclass
class Memory:
    """Of a GPU: how many windows fit at once, what was tried, and whether it was let go of when memory was freed."""

    windows: int
    tried: list[tuple[str, int]] = field(default_factory=list)
    activations: list[weakref.ref] = field(default_factory=list)
    alive_when_freed: list[bool] = field(default_factory=list)
    error: Exception = field(default_factory=lambda: torch.OutOfMemoryError("CUDA out of memory"))

    def take(self, where: str, images: Tensor) -> None:
        """Hold something like activations, and fail where too much is asked for."""
        self.tried.append((where, len(images)))
        held = torch.zeros(9)
        self.activations.append(weakref.ref(held))
        if where == "cuda" and len(images) > self.windows:
            raise type(self.error)(*self.error.args)  # another each time, as one keeps its traceback

    def free(self) -> None:
        """Stand in for `torch.cuda.empty_cache`."""
        self.alive_when_freed.append(self.activations[-1]() is not None)


class OnGpu(nn.Module):
    """A network that wants memory where it was sent."""

    def __init__(self, network: nn.Module, memory: Memory) -> None:
        super().__init__()
        self.network, self.memory, self.where = network, memory, "cpu"

    def to(self, device: torch.device, *rest: Any) -> "OnGpu":
        self.where = device.type
        return super().to(device, *rest)

    def __deepcopy__(self, memo: dict) -> "OnGpu":
        copied = OnGpu(copy.deepcopy(self.network, memo), self.memory)
        copied.where = self.where
        return copied

    def forward(self, images: Tensor) -> Tensor:
        self.memory.take(self.where, images)
        return self.network(images)
