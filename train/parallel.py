"""The one place that spreads work, by joblib: over processes of this machine, or over a Dask cluster.

A cluster is named by its scheduler's address (`--scheduler tcp://host:8786`); all its workers must see the folders of
run and cohort. Where workers offer `GPU` resources, each network takes one. A worker that dies loses nothing: its work
is given to another, which goes on from the last checkpoint.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from joblib import Parallel, delayed, parallel_config
from rich.progress import Progress

from mmpl.memory import keep_freed_memory

CORES = os.cpu_count() or 1
GPU = "GPU"
"""The resource that a Dask worker with a GPU of its own declares: `dask worker ADDRESS --resources GPU=1`."""


@dataclass(frozen=True)
class Engine:
    """Where work runs.

    Attributes:
        workers: Processes of this machine; 0 for one a core, or for one network at a time on a GPU.
        scheduler: Address of a Dask scheduler, in place of them.
    """

    workers: int = 0
    scheduler: str | None = None

    def spread(
        self, title: str, function: Callable[..., Any], items: Iterable[Any], networks: bool = False
    ) -> list[Any]:
        """Call a function on each item under a progress bar; results come in the items' order.

        Args:
            title: Of the progress bar.
            function: What to call; it and its results are pickled.
            items: One argument each.
            networks: Whether a call trains or applies a network, and so wants a GPU where there are any.
        """
        items = list(items)
        if not items:
            return []
        with Progress() as progress, self._backend(networks) as (workers, threads):
            calls = (delayed(_call)(function, item, threads) for item in items)
            results = Parallel(n_jobs=workers, return_as="generator")(calls)
            return list(progress.track(results, total=len(items), description=title))

    @contextmanager
    def _backend(self, networks: bool) -> Iterator[tuple[int, int | None]]:
        """Make joblib use the engine; how many jobs it may have, and the threads of each (None: as they are)."""
        if self.scheduler is None:
            workers = self.workers or (1 if networks and _has_gpu() else CORES)
            yield workers, max(1, CORES // workers)
            return
        from distributed import Client

        with Client(self.scheduler, set_as_default=False) as client:
            known = client.scheduler_info(n_workers=-1)["workers"].values()
            options = {"resources": {GPU: 1}} if networks and any(GPU in w["resources"] for w in known) else {}
            with parallel_config(backend="dask", client=client, **options):
                yield -1, None


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _call(function: Callable[..., Any], item: Any, threads: int | None) -> Any:
    import torch

    keep_freed_memory()
    if threads is not None:
        torch.set_num_threads(threads)
    return function(item)
