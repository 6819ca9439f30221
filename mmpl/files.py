"""Files written whole or not at all, and never over what they are made from."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL = ".partial."
"""How the name of a file begins that is not whole yet."""


class OverwriteError(ValueError):
    """An output that would lie among the inputs; the message names both."""


@contextmanager
def write_whole(path: Path, partial_folder: Path | None = None) -> Iterator[Path]:
    """Give a partial name to write to, which becomes `path` when the block ends, and is removed where it fails.

    The partial name is no other writer's, so that two processes may write the same file: the last one's stays, whole.

    Args:
        path: The file.
        partial_folder: Where the partial file lies, on the same filesystem; by default beside.

    Raises:
        OSError: It cannot be written; the message names the file, never its partial name.
    """
    unique = f"{os.getpid()}.{secrets.token_hex(4)}"
    partial = (partial_folder or path.parent) / f"{PARTIAL}{unique}.{path.name}"
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        raise OSError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        partial.unlink(missing_ok=True)


def refuse_inside(output: Path, inputs: Path) -> None:
    """Refuse an output that is, or lies in, the folder of the inputs, whatever links lead there.

    Raises:
        OverwriteError: It does.
    """
    if output.resolve().is_relative_to(inputs.resolve()):
        raise OverwriteError(f"{output}: lies in {inputs}, which is read; name a folder outside it")
