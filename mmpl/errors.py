"""How a program says what stopped it: in words for what can be foreseen, and in one line whatever it was."""

import os
import shlex
import sys
from collections.abc import Sequence

from mmpl.datafiles import INSTALLED

DEBUG_VARIABLE = "MMPL_DEBUG"
"""Set to anything, every error comes with its traceback."""

_EXTRA_OF = {
    **dict.fromkeys(("fastapi", "uvicorn"), "serve"),
    **dict.fromkeys(("pydicom", "gdcm", "highdicom", "pynetdicom"), "dicom"),
}
"""Extras of the package that bring what only some commands need; the rest is training's."""
_OURS = ("", "mmpl", "train")


def some_of(names: Sequence[object], most: int = 5) -> str:
    """Write the first few of a list, and dots where there are more."""
    return ", ".join(map(str, names[:most])) + (" ..." if len(names) > most else "")


def wanted_in_full() -> bool:
    """Whether errors are to come with their tracebacks."""
    return bool(os.environ.get(DEBUG_VARIABLE))


def explain(error: BaseException) -> str:
    """Say what stopped a program: one line, or the lines of a list where an input has several problems."""
    package = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if package not in _OURS:
        extra = _EXTRA_OF.get(package, "train")
        pins = "requirements-dicom.txt" if extra == "dicom" else "requirements-train.txt"
        what = f"'mmpl[{extra}]'" if INSTALLED else f"-r {pins}"
        return f"{package} is not installed: {shlex.quote(sys.executable)} -m pip install {what}"
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, (ValueError, OSError)):
        return str(error) or type(error).__name__
    return f"{type(error).__name__}: {' '.join(str(error).split())} ({DEBUG_VARIABLE}=1 shows where)"


def one_line(error: BaseException) -> str:
    """Say it in one line, whatever it is."""
    return " ".join(explain(error).split())


def step_command(step: str) -> str:
    """Write how a training step is run: as a command of the package, or as a program of the checkout."""
    return f"mmpl train {step}" if INSTALLED else f"python -m train.{step}"


def report_error(text: str) -> None:
    """Print an error where a person and the platform look for it; a stream that cannot take every letter gets most."""
    stream = sys.stderr
    encoding = getattr(stream, "encoding", None) or "utf-8"
    print("error:", text.encode(encoding, "backslashreplace").decode(encoding), file=stream)
