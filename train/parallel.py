"""The one place that spreads work over cores, by joblib."""

import os
from collections.abc import Callable, Iterable
from typing import Any

from joblib import Parallel, delayed
from rich.progress import Progress

WORKERS = os.cpu_count() or 1


def spread(title: str, function: Callable[..., Any], items: Iterable[Any], workers: int = WORKERS) -> list[Any]:
    """Call a function on each item, in worker processes, under a progress bar; results come in the items' order."""
    items = list(items)
    threads = max(1, WORKERS // workers)
    calls = (delayed(_call)(function, item, threads) for item in items)
    with Progress() as progress:
        results = Parallel(n_jobs=workers, return_as="generator")(calls)
        return list(progress.track(results, total=len(items), description=title))


def _call(function: Callable[..., Any], item: Any, threads: int) -> Any:
    import torch

    torch.set_num_threads(threads)
    return function(item)
