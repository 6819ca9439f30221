"""How every training program is run from a shell."""

import sys
from collections.abc import Callable

import typer


def run_program(program: Callable[..., None]) -> None:
    """Run a program with the shell's arguments; a foreseen error is a message on stderr and exit code 1."""
    try:
        typer.run(program)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
