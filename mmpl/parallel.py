"""Work spread over processes of this machine, by joblib."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

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
