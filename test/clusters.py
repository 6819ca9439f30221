"""A Dask cluster on this machine, as a test starts it."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from distributed import Client

OPTIONS = ("--nthreads", "1", "--no-nanny", "--resources", "GPU=1")


@contextmanager
def start_cluster(
    folder: Path, workers: int, schedulers_path: str, workers_path: str, cores: Sequence[int] = ()
) -> Iterator[str]:
    """A scheduler and worker processes on loopback, started in a folder, each offering one GPU; the address.

    Each of the first workers may use one of the cores alone.
    """
    described = folder / "scheduler.json"
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    environment["DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES"] = "3"

    def start(program: str, path: str, *options: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "dask", program, "--scheduler-file", str(described)]
        command += ["--no-dashboard", *options]
        with (folder / f"{program}.log").open("ab") as log:
            return subprocess.Popen(
                command, cwd=folder, env={**environment, "PYTHONPATH": path}, stdout=log, stderr=log
            )

    processes = [start("scheduler", schedulers_path, "--host", "127.0.0.1", "--port", "0")]
    processes += [start("worker", workers_path, *OPTIONS) for _ in range(workers)]
    for worker, core in zip(processes[1:], cores, strict=False):
        os.sched_setaffinity(worker.pid, {core})  # before it has any thread but its first, whose others share it
    try:
        with Client(scheduler_file=str(described), timeout=60, set_as_default=False) as client:
            client.wait_for_workers(workers, timeout=60)
            address = client.scheduler.address
        yield address
    finally:
        for process in processes:
            process.kill()
            process.wait()
