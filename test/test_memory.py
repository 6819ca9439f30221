"""Memory that was freed is used again."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from mmpl.memory import keep_freed_memory

if "keep" in sys.argv:
    keep_freed_memory()
np.ones(200 * 2**17)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(200 * 2**17)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is asked to keep memory")
def test_no_page_of_a_second_large_array_faults() -> None:
    mapped, kept = (
        int(subprocess.run([sys.executable, "-c", PROGRAM, word], capture_output=True, check=True).stdout)
        for word in ("give back", "keep")
    )
    assert kept < 20 < mapped


def test_without_glibc_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmpl import memory

    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: pytest.fail("asked a library that is not glibc"))
    memory.keep_freed_memory()
