"""What a process does with the memory it frees."""

import ctypes
import platform

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
