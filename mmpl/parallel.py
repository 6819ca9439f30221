"""Work spread over processes of this machine, by joblib, or over a Dask cluster."""

import importlib
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

GPU = "GPU"
"""The resource that a Dask worker with a GPU of its own declares: `dask worker ADDRESS --resources GPU=1`."""
WORKER_ENDED = "A worker stopped while some jobs were given to the executor"


def call_each(function: Callable[..., Any], items: Iterable[Any], workers: int, ordered: bool = True) -> Iterator[Any]:
    """Call a function on each item in processes, and give the results as they come.

    Args:
        function: Function to call; it and its results are pickled.
        items: Arguments, one a call.
        workers: Number of processes.
        ordered: Whether results come in the items' order, rather than as they are ready.
    """
    from joblib import Parallel, delayed

    # joblib ends a process that has grown by 300 MB, as ours do, which keep freed memory; another takes over. It warns
    # of that in a thread of its own, and a program that makes errors of warnings would wait for that thread forever.
    warnings.filterwarnings("ignore", message=WORKER_ENDED, category=UserWarning)
    spread = Parallel(n_jobs=workers, return_as="generator" if ordered else "generator_unordered")
    return spread(delayed(function)(item) for item in items)


@contextmanager
def connect(scheduler: str, module: str) -> Iterator[Any]:
    """Connect to a Dask cluster that has a worker, and whose processes find the programs; a `distributed.Client`.

    Args:
        scheduler: Address of the scheduler.
        module: Module that scheduler and workers must be able to import.

    Raises:
        OSError: One cannot import it, or there is no such cluster.
    """
    from distributed import Client  # joblib's own way to Dask computes here where one worker is all there is

    with Client(scheduler, set_as_default=False) as client:
        _check_cluster(client, module)
        yield client


def gpus_of(client: Any) -> dict[str, int] | None:
    """Give what a call with a network asks of a cluster's worker: a GPU where any has one, else nothing."""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return {GPU: 1} if any(GPU in worker["resources"] for worker in workers) else None


def _check_cluster(client: Any, module: str) -> None:
    """Wait for a cluster's first worker, and ask scheduler and workers for the programs.

    Raises:
        OSError: One cannot import them.
    """
    advice = "start it in the checkout's folder, by .venv/bin/python -m dask"
    try:
        client.run_on_scheduler(importlib.import_module, module)
    except ImportError as failure:
        address = client.scheduler.address
        raise OSError(f"the scheduler {address} cannot import the programs ({failure}); {advice} scheduler") from None
    if not client.scheduler_info(n_workers=-1)["workers"]:
        print(f"waiting for a worker to join {client.scheduler.address}", file=sys.stderr)
        client.wait_for_workers(1)
    answers = client.run(importlib.import_module, module, on_error="return")
    for address, answer in answers.items():
        if isinstance(answer, ImportError):
            raise OSError(f"the worker {address} cannot import the programs ({answer}); {advice} worker")


class Together:
    """A context that several threads may be in at once: the first to enter opens it, the last to leave closes it.

    What it changes belongs to the whole process, as levels of logging do.
    """

    def __init__(self, make: Callable[[], AbstractContextManager[Any]]) -> None:
        self._make, self._lock, self._inside = make, threading.Lock(), 0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Be in it."""
        with self._lock:
            if self._inside == 0:
                self._opened = self._make()
                self._opened.__enter__()
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if self._inside == 0:
                    self._opened.__exit__(None, None, None)
