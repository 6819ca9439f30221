"""DICOM files of a folder or a zip archive, and the values of their headers, read whatever they hold.

A header's values identify a patient. None of them gets into a message: those name files, numbers and counts. So
pydicom, whose warnings quote what they warn of, is kept quiet.
"""

import logging
import math
import os
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, cast

from mmpl.case import InvalidInputError
from mmpl.parallel import Together

if TYPE_CHECKING:
    from pydicom import Dataset

ZIP_SUFFIX = ".zip"
MOST_UNPACKED = 16 << 30
"""Bytes that a zip archive may hold, unpacked; more than any study."""
MOST_INFLATED = 2 << 30
"""Bytes that a file of the deflated transfer syntax may hold, inflated; more than any CT in one file."""

_MAGIC, _MAGIC_AT = b"DICM", 128
_NO_PREAMBLE = re.compile(rb"[\x02\x08]\0.\0[A-Z]{2}", re.DOTALL)  # a first element of group 2 or 8, and its VR
_NO_MAGIC_SUFFIXES = (".dcm", ".ima")  # of files that may lack the magic bytes and are DICOM all the same
_DAMAGED_ZIP = (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError)  # RuntimeError: it wants a password
_AT_ONCE = 1 << 20  # bytes that are inflated in one go
_DATE = re.compile(r"([12]\d{3})\.?(\d\d)\.?(\d\d)")
_TIME = re.compile(r"(\d\d):?(\d\d)(?::?(\d\d)(?:\.(\d{1,6}))?)?")
_OFFSET = re.compile(r"([+-])(0\d|1[0-4])([0-5]\d)$")

Stored = Path | zipfile.Path
"""A file on disk, or in a zip archive."""


@dataclass(frozen=True)
class Header:
    """The header of one file, or of one frame of it; values that are not there, or not as they should be, are None.

    Attributes:
        file: The file.
        dataset: Its header, or the parts of it that are one frame's.
    """

    file: Stored
    dataset: "Dataset"

    def get(self, keyword: str) -> Any:
        """Give a value as pydicom has it."""
        try:
            with quiet():
                return self.dataset.get(keyword)
        except Exception:  # conversion of a damaged value raises whatever it likes
            return None

    def text(self, keyword: str) -> str:
        """Give one value as text; blank where there is none."""
        words = self.words(keyword)
        return words[0] if words else ""

    def words(self, keyword: str) -> tuple[str, ...]:
        """Give the values of a text that may have several."""
        from pydicom.multival import MultiValue
        from pydicom.sequence import Sequence as Items

        value = self.get(keyword)
        if value is None or value == "" or isinstance(value, Items):
            return ()
        return tuple(str(each).strip() for each in (value if isinstance(value, MultiValue | list) else [value]))

    def number(self, keyword: str) -> float | None:
        """Give one finite number."""
        numbers = self.numbers(keyword)
        return numbers[0] if numbers else None

    def numbers(self, keyword: str, count: int | None = None) -> tuple[float, ...] | None:
        """Give finite numbers, so many of them."""
        try:
            numbers = tuple(map(float, self.words(keyword)))
        except (ValueError, OverflowError):
            return None
        right = len(numbers) > 0 if count is None else len(numbers) == count
        return numbers if right and all(map(math.isfinite, numbers)) else None

    def items(self, keyword: str) -> list["Header"]:
        """Give the items of a sequence."""
        from pydicom.sequence import Sequence as Items

        value = self.get(keyword)
        return [Header(self.file, item) for item in value] if isinstance(value, Items) else []

    def item(self, *keywords: str) -> "Header":
        """Give the first item of a sequence, of one in that, and so on; an empty header where there is none."""
        from pydicom import Dataset

        header = self
        for keyword in keywords:
            items = header.items(keyword)
            header = items[0] if items else Header(self.file, Dataset())
        return header

    def private(self, creator: str, group: int, element: int) -> str:
        """Give a private value as text; blank where there is none."""
        try:
            with quiet():
                value = self.dataset.private_block(group, creator)[element].value
        except Exception:
            return ""
        return value.decode("ascii", "replace").strip("\0 ") if isinstance(value, bytes) else str(value).strip()

    def moment(self, date: str, time_of_day: str) -> datetime | None:
        """Give the moment that two values are together."""
        return as_moment(self.text(date), self.text(time_of_day))


def as_moment(date: str, time_of_day: str) -> datetime | None:
    """Read a date and a time as DICOM writes them, old spellings too."""
    day, clock = _DATE.match(date), as_time(time_of_day)
    if not day or clock is None:
        return None
    try:
        return datetime.combine(datetime(*map(int, day.groups())), clock)  # type: ignore[arg-type]
    except ValueError:
        return None


def as_time(text: str) -> time | None:
    """Read a time of day."""
    found = _TIME.match(text)
    if not found:
        return None
    hour, minute, second, fraction = found.groups()
    try:
        return time(int(hour), int(minute), int(second or 0), int((fraction or "0").ljust(6, "0")))
    except ValueError:
        return None


def as_offset(text: str) -> timedelta | None:
    """Read the offset from UTC that a text is or ends with, as +0100; None where there is none."""
    found = _OFFSET.search(text)
    if not found:
        return None
    sign, hours, minutes = found.groups()
    offset = timedelta(hours=int(hours), minutes=int(minutes))
    return offset if sign == "+" else -offset


def as_stamp(text: str, clock: timedelta | None) -> datetime | None:
    """Read a date and time in one.

    Args:
        text: As DICOM writes it; an offset from UTC may follow.
        clock: Offset from UTC of the clock that the moment is given on. Where it, or the moment's own offset, is not
            known, both are taken to be one.
    """
    moment, own = as_moment(text[:8], text[8:]), as_offset(text)
    return moment + (clock - own) if moment and clock is not None and own is not None else moment


def holds_dicom(place: Path) -> bool:
    """Tell whether a folder, or a zip archive, has a DICOM file somewhere, or is one; needs no extra."""
    if place.is_file() and not is_zip(place):
        return looks_like_dicom(place)
    if not place.exists():
        return False
    try:
        return any(map(looks_like_dicom, stored_files(place)))
    except InvalidInputError:
        return True  # which reading it will say more of


def require_pydicom() -> None:
    """Tell before anything is read whether DICOM can be.

    Raises:
        ModuleNotFoundError: The extra `dicom` is not installed.
    """
    import pydicom  # noqa: F401


def is_zip(path: Path) -> bool:
    """Tell a zip archive by its name."""
    return path.is_file() and path.name.lower().endswith(ZIP_SUFFIX)


def read_headers(place: Path) -> list[Header]:
    """Read the headers of all DICOM files in a folder and those below it, or in a zip archive.

    Files that are not DICOM are passed over, as are directories of media (DICOMDIR).

    Raises:
        InvalidInputError: There is none, or one is damaged; the message names it.
        ModuleNotFoundError: The extra `dicom` is not installed.
    """
    files = stored_files(place)
    headers = [header for header in map(_read_header, files) if header]
    if not headers:
        archives = [file.name for file in files if file.name.lower().endswith(ZIP_SUFFIX)]
        hint = f"; {archives[0]} in it is not looked into, unpack it or name it alone" if archives else ""
        raise InvalidInputError(f"{place}: no DICOM file among {len(files)} files{hint}")
    return headers


def stored_files(place: Path) -> Sequence[Stored]:
    """List the files of a folder and those below it, links followed, or of a zip archive, but for hidden ones.

    A DICOM file is the one of its place.

    Raises:
        InvalidInputError: There is no such folder, or the archive is damaged.
    """
    if place.is_dir():
        return sorted(_files_below(place))
    if not is_zip(place):
        if place.is_file() and looks_like_dicom(place):
            return [place]
        wrong = "neither DICOM nor a zip archive" if place.is_file() else "no such folder or zip archive"
        raise InvalidInputError(f"{place}: {wrong}")
    try:
        archive = zipfile.ZipFile(place)
    except (OSError, *_DAMAGED_ZIP) as error:
        raise InvalidInputError(f"{place}: not a readable zip archive") from error
    members = [member for member in archive.infolist() if not member.is_dir()]
    if sum(member.file_size for member in members) > MOST_UNPACKED:
        raise InvalidInputError(f"{place}: holds more than {MOST_UNPACKED >> 30} GiB")
    names = sorted(member.filename for member in members)
    return [zipfile.Path(archive, name) for name in names if not any(map(_is_hidden, Path(name).parts))]


def _files_below(folder: Path) -> Iterator[Path]:
    """Find the files of a folder and those below it, each folder once, however many links lead there."""
    seen = set[str]()
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        if (real := os.path.realpath(parent)) in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (path for name in files if not _is_hidden(name) and (path := Path(parent, name)).is_file())


def _is_hidden(name: str) -> bool:
    return name.startswith(".")


@Together
@contextmanager
def quiet() -> Iterator[None]:
    """Let DICOM's packages say nothing: what they say may hold a header's values, as names and dates of birth."""
    loggers = [logging.getLogger(name) for name in ("pydicom", "highdicom", "pynetdicom")]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def read_dataset(file: Stored, pixels: bool) -> "Dataset":
    """Read one file.

    Raises:
        InvalidInputError: It is damaged, or holds too much once it is inflated.
    """
    import pydicom

    try:
        with quiet(), file.open("rb") as stream:
            check_inflated(stream)
            return pydicom.dcmread(stream, stop_before_pixels=not pixels, force=True)
    except InvalidInputError as error:
        raise InvalidInputError(f"{file}: {error}") from None
    except Exception:  # a damaged file raises whatever it likes, and says values of the header in doing so
        raise InvalidInputError(f"{file}: not a readable DICOM file") from None


def check_inflated(stream: IO[bytes]) -> None:
    """Refuse a file of the deflated transfer syntax that would fill the memory, which pydicom inflates whole.

    Args:
        stream: The file, at its begin, where it is left.

    Raises:
        InvalidInputError: It holds too much.
    """
    from pydicom import filereader, uid

    file = cast("BinaryIO", stream)
    filereader.read_preamble(file, force=True)
    meta = filereader.read_dataset(
        file, is_implicit_VR=False, is_little_endian=True, stop_when=lambda tag, *_: tag.group != 2
    )
    if meta.get("TransferSyntaxUID") == uid.DeflatedExplicitVRLittleEndian:
        inflater, left, size = zlib.decompressobj(-zlib.MAX_WBITS), stream.read(), 0
        while left and not inflater.eof and size <= MOST_INFLATED:
            size += len(inflater.decompress(left, _AT_ONCE))
            left = inflater.unconsumed_tail
        if size > MOST_INFLATED:
            raise InvalidInputError(f"holds more than {MOST_INFLATED / 2**30:.3g} GiB, deflated")
    stream.seek(0)


def _read_header(file: Stored) -> Header | None:
    """Read one header; None of what is no DICOM file, or none with an image."""
    if not looks_like_dicom(file):
        return None
    header = Header(file, read_dataset(file, pixels=False))
    if header.text("SOPClassUID") == "" and header.text("Modality") == "":
        if header.get("DirectoryRecordSequence") is not None:
            return None
        raise InvalidInputError(f"{file}: not a readable DICOM file")
    return header


def looks_like_dicom(file: Stored) -> bool:
    """Tell a DICOM file by its magic bytes, or by its first element or its name where it lacks them; needs no extra.

    Raises:
        InvalidInputError: It cannot be read.
    """
    try:
        with file.open("rb") as stream:
            start = stream.read(_MAGIC_AT + len(_MAGIC))
    except (OSError, EOFError, *_DAMAGED_ZIP) as error:
        raise InvalidInputError(f"{file}: cannot be read") from error
    return (
        start[_MAGIC_AT:] == _MAGIC or bool(_NO_PREAMBLE.match(start)) or file.name.lower().endswith(_NO_MAGIC_SUFFIXES)
    )
