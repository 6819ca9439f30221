"""What a program takes over from where it was started, as far as that could stop it."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_BACKEND = "MPLBACKEND"


def settle() -> None:
    """Begin a program: its standard streams are open, and no library imports a caller's backend of matplotlib."""
    open_standard_streams()
    os.environ[_BACKEND] = "agg"


def open_standard_streams() -> None:
    """Open what a caller closed of stdin, stdout and stderr, on nothing: the next file must not take their place."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))


@contextmanager
def without_plot_backend() -> Iterator[None]:
    """Let matplotlib be imported whatever backend a notebook names for its windows, which it has afterwards."""
    named, first = os.environ.pop(_BACKEND, None), "matplotlib" not in sys.modules
    try:
        yield
    finally:
        if named is not None:
            os.environ[_BACKEND] = named
            if first and (imported := sys.modules.get("matplotlib")):
                with suppress(ValueError):  # a name that matplotlib does not know
                    imported.rcParams["backend"] = named
