"""The challenge's program as the platform starts it, and as a test may call it in its own process."""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

PROGRAM = Path(__file__).parents[1] / "inference.py"
CT, PET = "images/ct/ct-uuid.mha", "images/pet/pet-uuid.mha"


@contextmanager
def plain_logging() -> Iterator[None]:
    """Let the program set up logging as if nobody had, and take it back."""
    level = logging.root.level
    with mock.patch.object(logging.root, "handlers", []):
        yield
    logging.captureWarnings(False)
    logging.root.setLevel(level)


def start(
    folder: Path, output: Path, weights: Path, surroundings: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess:
    """Run the program as the platform does, in a process of its own."""
    env = {"MMPL_INPUT": str(folder), "MMPL_OUTPUT": str(output), "MMPL_WEIGHTS": str(weights), **(surroundings or {})}
    return subprocess.run([sys.executable, PROGRAM], env=os.environ | env, cwd="/", capture_output=True, text=True)
