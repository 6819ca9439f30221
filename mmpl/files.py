"""Files written whole or not at all, and never over what they are made from; records as JSON."""

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter

Record = TypeVar("Record")

PARTIAL = ".partial."
"""Beginning of the name of a file that is not whole yet."""


class OverwriteError(ValueError):
    """An output that would lie among the inputs; the message names both."""


@contextmanager
def write_whole(path: Path, partial_folder: Path | None = None, lasting: bool = False) -> Iterator[Path]:
    """Give a partial name to write to, which becomes `path` when the block ends, and is removed where it fails.

    The partial name is no other writer's, so that two processes may write the same file: the last one's stays, whole.

    Args:
        path: The file.
        partial_folder: Folder of the partial file, on the same filesystem; by default that of `path`.
        lasting: Whether the file is to outlast a loss of power from the end of the block on.

    Raises:
        OSError: It cannot be written; the message names the file, never its partial name.
    """
    unique = f"{os.getpid()}.{secrets.token_hex(4)}"
    partial = (partial_folder or path.parent) / f"{PARTIAL}{unique}.{path.name}"
    try:
        yield partial
        if lasting:
            _force_to_disk(partial)
        partial.replace(path)
        if lasting:
            _force_to_disk(path.parent)
    except OSError as error:
        raise OSError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        partial.unlink(missing_ok=True)


def _force_to_disk(path: Path) -> None:
    """Wait until a file or a folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def refuse_inside(output: Path, inputs: Path) -> None:
    """Refuse an output that is, or lies in, the folder of the inputs, whatever links lead there.

    Raises:
        OverwriteError: It does.
    """
    if output.resolve().is_relative_to(inputs.resolve()):
        raise OverwriteError(f"{output}: lies in {inputs}, which is read; name a folder outside it")


def refuse_to_replace(given: Path, output: Path) -> None:
    """Refuse a file to be read that lies in a folder whose files are written anew.

    Raises:
        OverwriteError: It does.
    """
    if given.resolve().is_relative_to(output.resolve()):
        raise OverwriteError(f"{given}: lies in {output}, which takes the answers; copy it elsewhere first")


def write_json(path: Path, record: object) -> None:
    """Write a record (a dataclass or a pydantic model), or what JSON can hold, whole or not at all."""
    content = record
    if isinstance(record, BaseModel):
        content = record.model_dump(mode="json")
    elif is_dataclass(record) and not isinstance(record, type):
        content = asdict(record)
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_whole(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n")


def read_json(path: Path, record: type[Record]) -> Record:
    """Read a record that `write_json` wrote.

    Raises:
        ValueError: The file is missing or holds another record; the message names it.
    """
    try:
        content: Any = json.loads(path.read_text())
        return TypeAdapter(record).validate_python(content)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ValueError(f"{path}: not a {record.__name__} of this version ({_first_line(error)})") from error


def _first_line(error: ValueError) -> str:
    return " ".join(str(error).split())[:200]
