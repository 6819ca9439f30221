"""The one place that spreads training: over processes of this machine, or over a Dask cluster.

A cluster is named by its scheduler's address (`--scheduler tcp://host:8786`); all its workers must see the folders of
run and cohort, and all its processes start in the checkout. Where workers offer `GPU` resources, each network takes
one. A worker of a cluster that dies loses nothing: its work goes to another, which goes on from the last checkpoint.
"""

import math
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import typer
from joblib import cpu_count
from joblib.externals.loky.process_executor import TerminatedWorkerError

from mmpl.memory import free_memory_gib, keep_freed_memory
from mmpl.names import Stage
from mmpl.parallel import call_each, connect, gpus_of
from mmpl.training.memory import PROCESS_GIB, training_gib
from mmpl.training.progress import LOG_FILE, Display, Training
from mmpl.training.splits import Member
from mmpl.training.workspace import Workspace

CORES: int = cpu_count()
"""Number of cores that this process may use, by affinity and cgroup."""


@dataclass(frozen=True)
class Engine:
    """The place where work runs: processes of this machine, or a Dask cluster.

    Attributes:
        workers: Processes of this machine; 0 for one a core, or for one network at a time on a GPU, as far as the
            memory that is free allows.
        scheduler: Address of a Dask scheduler, in place of them.
        devices: GPUs that train each network together.

    Raises:
        ValueError: Several devices on a cluster, a worker of which cannot start processes for them, or more than there
            are.
    """

    workers: int = 0
    scheduler: str | None = None
    devices: int = 1

    def __post_init__(self) -> None:
        if self.scheduler and self.devices > 1:
            raise ValueError("--devices and --scheduler do not go together: a worker of a cluster trains on one GPU")
        if self.devices > 1 and (there := _count_gpus()) < self.devices:
            raise ValueError(f"--devices {self.devices}: GPUs that can be used here: {there}")

    def map(
        self,
        title: str,
        function: Callable[..., Any],
        items: Iterable[Any],
        networks: bool = False,
        item_gib: float = PROCESS_GIB,
        trainings: Sequence[Training] = (),
    ) -> list[Any]:
        """Call a function on each item and show how far it is; results come in the items' order.

        Args:
            title: Title of the work.
            function: Function to call; it and its results are pickled.
            items: Arguments, one a call.
            networks: Whether a call trains or applies a network, and so wants a GPU where there are any.
            item_gib: Memory that a process takes for an item, GiB; on a cluster, its workers' own affair.
            trainings: The networks that the calls train, to be watched.

        Raises:
            OSError: Less memory is free than one process takes, or a process of this machine was killed; or a process
                of the cluster cannot import the programs, or there is no such cluster.
        """
        items, done = list(items), []
        if not items:
            return []
        with (
            self._call_each(title, function, items, networks, item_gib) as results,
            Display.open(title, len(items), trainings) as display,
        ):
            try:
                for result in results:
                    done.append(result)
                    display.advance()
            except TerminatedWorkerError as error:
                raise ChildProcessError(f"{title}: {_describe_loss(error, item_gib)}") from None
        return done

    def train(
        self,
        title: str,
        function: Callable[[Member], Any],
        workspace: Workspace,
        stage: Stage,
        members: Sequence[Member],
    ) -> list[Any]:
        """Call a function that trains one network of a stage on each model, and show how far each network is."""
        steps = getattr(workspace.profile.training, stage).steps
        trainings = [Training(each.name, workspace.stage_folder(each, stage) / LOG_FILE, steps) for each in members]
        needed = 0.0 if self.scheduler else training_gib(workspace.profile, stage)
        return self.map(title, function, members, networks=True, item_gib=needed, trainings=trainings)

    def require_memory(self, title: str, item_gib: float) -> None:
        """Refuse work before its turn comes, where it would not be started then.

        Args:
            title: Title of the work.
            item_gib: Memory that a process takes for an item, GiB; on a cluster, its workers' own affair.

        Raises:
            OSError: Less memory is free than one process takes, and the user did not say how many start all the same.
        """
        if not (self.scheduler or self.workers):
            self._count_workers(title, False, item_gib, items=1)

    @contextmanager
    def _call_each(
        self, title: str, function: Callable[..., Any], items: list[Any], networks: bool, item_gib: float
    ) -> Iterator[Iterable[Any]]:
        """Start the calls; results can be waited for in the items' order."""
        if self.scheduler is None:
            workers = self._count_workers(title, networks, item_gib, len(items))
            yield call_each(partial(_call, function=function, threads=max(1, CORES // workers)), items, workers)
            return
        with connect(self.scheduler, __name__) as client:
            resources = gpus_of(client) if networks else None
            futures = client.map(_call, items, function=function, threads=None, pure=False, resources=resources)
            yield (future.result() for future in futures)

    def _count_workers(self, title: str, networks: bool, item_gib: float, items: int) -> int:
        """Choose how many processes work; what the user asked for is done, with a warning where memory looks short.

        Raises:
            OSError: Not even one has the memory that it takes.
        """
        free = free_memory_gib()
        room = items if math.isinf(free) else int(free / item_gib)
        needs = f"one process needs about {item_gib:.1f} GiB of memory, and {free:.1f} GiB are free"
        if self.workers:
            if min(self.workers, items) > room:
                typer.echo(f"warning: {title}: {needs}; {min(self.workers, items)} may be killed for it", err=True)
            return min(self.workers, items)
        if room == 0:
            raise OSError(f"{title}: {needs}; nothing was started (--workers 1 starts one all the same)")
        return min(1 if networks and _count_gpus() else CORES, room, items)


def _describe_loss(error: TerminatedWorkerError, item_gib: float) -> str:
    """Say in one line how a process of this machine ended, from the exit codes that joblib knows."""
    kept = "what is finished is kept, and the same command goes on from there"
    if signal.SIGKILL.name in str(error):
        cause = f"a process was killed, most likely by the system for want of memory (it needs about {item_gib:.1f} GiB"
        return f"{cause}, and {free_memory_gib():.1f} GiB are free now): try fewer by --workers; {kept}"
    codes = str(error).partition("exit codes of the workers are ")[2].splitlines()
    return f"a process ended without an answer ({codes[0] if codes else 'exit code unknown'}); {kept}"


def _count_gpus() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _call(item: Any, function: Callable[..., Any], threads: int | None) -> Any:
    import torch

    keep_freed_memory()
    if threads is not None:
        torch.set_num_threads(threads)
    return function(item)
