"""Work spread over processes that grow, where warnings are errors."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

KEPT: list[bytes] = []


def grow(number: int) -> int:
    """Keep 200 MB more, for as long as joblib waits between two looks at a process."""
    KEPT.append(b"x" * 200_000_000)
    time.sleep(1.1)
    return number


PROGRAM = """
import sys
from mmpl.parallel import call_each
from test_call_each import grow
print(list(call_each(grow, range(7), 2)))
"""


@pytest.mark.slow
def test_a_process_that_joblib_replaces_stops_nothing(root: Path) -> None:
    command = [sys.executable, "-W", "error::UserWarning", "-c", PROGRAM]
    environment = {**os.environ, "PYTHONPATH": f"{root}:{root / 'test'}"}
    ended = subprocess.run(
        command, cwd=root, env=environment, timeout=60, check=True, stdout=subprocess.PIPE, text=True
    )
    assert ended.stdout.strip() == str(list(range(7)))
