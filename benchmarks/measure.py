"""Compare two ways of doing the same: in turns for the time, in a process of its own each for the memory."""

import ctypes
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from mmpl.memory import keep_freed_memory

Made = TypeVar("Made")
MIB = 1024  # KiB


@dataclass(frozen=True)
class Comparison:
    """Seconds of two ways, taken in turns: the first of each is the plain way."""

    plain_s: tuple[float, ...]
    fast_s: tuple[float, ...]

    @property
    def ratios(self) -> list[float]:
        """How many times faster the second way is, turn by turn."""
        return sorted(plain / fast for plain, fast in zip(self.plain_s, self.fast_s, strict=True))

    @property
    def ratio(self) -> float:
        """The median."""
        return statistics.median(self.ratios)

    def describe(self) -> str:
        """Write the median ratio, its range, and both medians."""
        low, high = self.ratios[0], self.ratios[-1]
        seconds = (f"{statistics.median(values):.3g} s" for values in (self.plain_s, self.fast_s))
        return f"{self.ratio:.1f} times ({low:.1f} to {high:.1f}): {' against '.join(seconds)}"


@dataclass(frozen=True)
class Point:
    """What an amount of work took.

    Attributes:
        x: How much work there was.
        mib: The most memory, by how much a process grew or in all, as the row says.
    """

    x: float
    seconds: float
    mib: float


def exponent(points: Sequence[Point]) -> float:
    """Fit the power of the work that the seconds grow as: 1 is linear, 2 is a square."""
    slope, _ = np.polyfit(np.log([point.x for point in points]), np.log([point.seconds for point in points]), 1)
    return float(slope)


def describe_growth(points: Sequence[Point]) -> str:
    """Write the power that the seconds grow as, and that of the last step, where what there is anyway counts least."""
    return f"{exponent(points):.2f}, at the end {exponent(points[-2:]):.2f}"


def take_turns(ways: Sequence[Callable[[], Any]], repeats: int) -> list[tuple[float, ...]]:
    """Time some ways in turns, each one's seconds; the caller calls all once before: the first turn loads nothing."""
    turns = [[seconds_of(way) for way in ways] for _ in range(repeats)]
    return list(zip(*turns, strict=True))


def alternate(plain: Callable[[], Any], fast: Callable[[], Any], repeats: int) -> Comparison:
    """Time two ways in turns, as `take_turns` does."""
    return Comparison(*take_turns((plain, fast), repeats))


def seconds_of(work: Callable[[], Any]) -> float:
    """Time one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def product_tflops(dtype: torch.dtype, device: torch.device, size: int = 8192, products: int = 10) -> float:
    """Measure what a product of large square matrices reaches, TFLOP/s: nothing but multiplying is done."""
    square = torch.ones(size, size, dtype=dtype, device=device)

    def multiply() -> None:
        for _ in range(products):
            torch.mm(square, square)
        wait_for(device)

    multiply()
    return products * 2 * size**3 / seconds_of(multiply) / 1e12


def wait_for(device: torch.device) -> None:
    """Wait until a device has done what it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def same_labels(found: NDArray, expected: NDArray) -> float:
    """Compare labels of an untrained network, at a threshold that makes either as often: the median; share the same."""
    threshold = np.median(expected)
    return float(((found > threshold) == (expected > threshold)).mean())


def peak_mib(make: Callable[[], Made], work: Callable[[Made], Any], keep: bool = True) -> float:
    """Measure by how much the resident memory of a fresh process grows, at its highest, while it works.

    Args:
        make: Makes what to work on, which does not count; importable, as is `work`.
        work: Called twice, as the first call loads libraries; the second counts.
        keep: Whether the process keeps what it frees, as the program does.
    """
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(make, work, keep, send))
    process.start()
    send.close()
    result: float = receive.recv()
    process.join()
    return result


class Apart:
    """Work in a process of its own, asked for as often as one likes.

    Args:
        make: Makes what to work on, once, in that process; importable, as is `work`.
        work: What a call does.
        keep: Whether the process keeps what it frees, as the program does.
    """

    def __init__(self, make: Callable[[], Made], work: Callable[[Made], Any], keep: bool) -> None:
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(1, context, initializer=_hold, initargs=(make, keep))
        self._work = work

    def __enter__(self) -> "Apart":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def __call__(self) -> Any:
        """Work once; what came out."""
        return self._pool.submit(_work_on_held, self._work).result()

    def run(self) -> None:
        """Work once, and leave there what came out."""
        self._pool.submit(_run_on_held, self._work).result()


_held: list[Any] = []


def _hold(make: Callable[[], Any], keep: bool) -> None:
    if keep:
        keep_freed_memory()
    _held.append(make())


def _work_on_held(work: Callable[[Any], Any]) -> Any:
    return work(_held[0])


def _run_on_held(work: Callable[[Any], Any]) -> None:
    work(_held[0])


def _measure(make: Callable[[], Made], work: Callable[[Made], Any], keep: bool, send: Any) -> None:
    if keep:
        keep_freed_memory()
    made = make()
    work(made)
    ctypes.CDLL(None).malloc_trim(0)  # give back what the first call left
    before = memory_kib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest so far
    work(made)
    send.send((memory_kib("VmHWM") - before) / MIB)


def memory_kib(name: str) -> int:
    """Read a line of this process's memory: `VmRSS`, what is resident, or `VmHWM`, the most that has been."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1])


def machine() -> str:
    """Describe what the figures hold for."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    native = "with" if torch.cpu._is_avx512_bf16_supported() else "without"
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    packages = ("torch", "SimpleITK", "pyradiomics-cuda", "numpy")
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    return (
        f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, {native} bfloat16 in hardware; {gpu}; "
        f"Python {platform.python_version()}, {versions}"
    )
