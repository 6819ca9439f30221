"""What computes the networks of one case, and what it gives up where GPU memory or half precision ends."""

import copy
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
from joblib import cpu_count
from torch import nn

from mmpl.memory import free_memory_gib

log = logging.getLogger(__name__)

PRECISION = {"cpu": torch.float32, "cuda": torch.float16}
"""Precision of stage 1, by the kind of device; the weights are stored in half precision, so none is lost. Stages 2
and 3 stay in single precision (TF32 in the convolutions of GPUs that have it): they take one crop a model, where stage
1 takes some forty windows."""
_GPU = threading.Lock()
ON_CPU = "out of GPU memory: the rest on the CPU"
NO_KERNELS = "this PyTorch cannot compute on this GPU: all on the CPU"
_OUT_OF_MEMORY = ("out of memory", "ALLOC_FAILED")
"""What CUDA and its libraries say where memory ends beside PyTorch's own count."""
_UNABLE = "no kernel image"
"""What CUDA says where PyTorch was built for other cards."""

Network = TypeVar("Network", bound=nn.Module)
Item = TypeVar("Item")
Result = TypeVar("Result")


def default_device() -> torch.device:
    """Choose the GPU where PyTorch can use one by CUDA, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def use_cores(count: int) -> None:
    """Compute on so many cores in this thread, whatever other threads use."""
    torch.get_num_threads()  # in a new thread it takes over what was set last anywhere, which then comes first
    torch.set_num_threads(count)


def use_allowed_cores() -> None:
    """Compute on no more cores than this process may use; PyTorch does not look at a container's share of them."""
    torch.set_num_threads(min(torch.get_num_threads(), cpu_count()))


class Processor:
    """The GPU, as far as its memory goes, or the CPU: one for each case, as what is given up stays given up for it.

    Of several cases that are answered at once, one has the GPU at a time, for a network and a patch or crop; the others
    read, measure and draw meanwhile. Their networks are the same objects, so that a case that has left the GPU computes
    with copies.

    Attributes:
        device: Device that computes from now on.
        network_gib: Memory that a network takes on a CPU while it computes, of all cases at once.
        dtype: Precision that stage 1 computes in from now on.
        notes: Notes of what was given up, for the reader of the answers.
        able: Whether the device can compute at all, so that fewer windows at a time may help.
    """

    def __init__(self, device: torch.device, network_gib: float = 0.0) -> None:
        self.device = device
        self.network_gib = network_gib
        self.dtype = PRECISION[device.type]
        self.notes: tuple[str, ...] = ()
        self._turn: AbstractContextManager[object] = nullcontext() if device.type == "cpu" else _GPU
        self.able = self._shared = True

    @property
    def at_once(self) -> int:
        """Number of networks that compute at once: on a CPU one a core that this thread may use, as memory allows."""
        if self.device.type != "cpu":
            return 1
        cores = torch.get_num_threads()
        return max(1, int(min(cores, free_memory_gib() / self.network_gib))) if self.network_gib else cores

    def each(self, work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Do some work on each item, `at_once` at a time, which share the cores; in order.

        A small network gains little from a second core, two such networks do.
        """
        at_once, cores = min(self.at_once, len(items)), torch.get_num_threads()
        if at_once <= 1:
            return [work(item) for item in items]
        try:
            with ThreadPoolExecutor(at_once, initializer=use_cores, initargs=(max(1, cores // at_once),)) as pool:
                return list(pool.map(work, items))
        finally:
            use_cores(cores)  # or threads that begin later had fewer, too

    def attempt(self, work: Callable[[], Result]) -> Result | None:
        """Do some work; None where GPU memory ran out, and what it had taken is free again, or the GPU cannot do it.

        Raises:
            RuntimeError: The work failed on the CPU, or for another reason.
        """
        try:
            with self._turn:
                return work()
        except RuntimeError as error:
            self.able = _UNABLE not in str(error)
            out = isinstance(error, torch.OutOfMemoryError) or any(said in str(error) for said in _OUT_OF_MEMORY)
            if self.device.type == "cpu" or (self.able and not out):
                raise
        if self.able:
            torch.cuda.empty_cache()  # not before the block ends: until then the traceback holds the activations
        return None

    def place(self, network: Network, dtype: torch.dtype) -> Network:
        """Bring a network to the device, or a copy of it where another case may want it elsewhere meanwhile."""
        if self._shared:
            return network.to(self.device, dtype)
        with _GPU:
            return copy.deepcopy(network.to(self.device, dtype))

    def leave_gpu(self) -> None:
        """Go on on the CPU."""
        self.device, self.dtype = torch.device("cpu"), PRECISION["cpu"]
        self._turn, self._shared = nullcontext(), False
        self.note(ON_CPU if self.able else NO_KERNELS)

    def leave_half_precision(self) -> None:
        """Go on in single precision."""
        self.dtype = torch.float32
        self.note("half precision overflowed: segmented in single precision")

    def note(self, note: str) -> None:
        """Say what was given up, in the log and for the reader of the answers."""
        log.warning(note)
        self.notes = (*self.notes, note)
