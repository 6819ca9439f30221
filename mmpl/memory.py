"""What memory there is, and what a process does with that which it frees."""

import ctypes
import math
import platform
from collections.abc import Iterator
from pathlib import Path

GIB = 2**30

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # as `malloc.h` numbers them


def keep_freed_memory() -> None:
    """Let this process use again what it frees, however large; without glibc nothing changes.

    glibc gives every array above 32 MiB back to the system at once, and each page of the next one faults: that is half
    the time of a 128^3 window of the published network on a CPU (`train/LOG.md`).
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)  # bytes; the most it takes


def free_memory_gib(root: Path = Path("/")) -> float:
    """Measure what this process and its children may still take: infinite where the system does not say.

    That is what the kernel could hand out without swapping, or less where a cgroup (a container's limit, a batch
    job's) allows less. Files that a cgroup has cached count as free, as they do for the kernel.

    Args:
        root: Root of the file system that has `proc` and `sys`.
    """
    lines = (_read(root / "proc/meminfo") or "").splitlines()
    available = [int(line.split()[1]) / 2**20 for line in lines if line.startswith("MemAvailable:")]
    return min([*available, *(left / GIB for left in _left_in_cgroups(root))], default=math.inf)


def _left_in_cgroups(root: Path) -> Iterator[int]:
    """Give limit less usage, bytes, of each memory cgroup around this process, from its own to the outermost one."""
    for line in (_read(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            mount, limit, usage, cached = root / "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            mount, cached = root / "sys/fs/cgroup/memory", "total_inactive_file"
            limit, usage = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        own = mount / path.strip("/")
        for group in (own, *own.parents[: len(own.parts) - len(mount.parts)]):
            allowed, used = _read(group / limit), _read(group / usage)
            if allowed is None or used is None or allowed.strip() == "max":
                continue
            statistics = dict(line.split() for line in (_read(group / "memory.stat") or "").splitlines())
            yield int(allowed) - int(used) + int(statistics.get(cached, 0))


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:  # another version of cgroups, or a container that shows its own alone
        return None
