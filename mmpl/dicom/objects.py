"""What all objects that are written have in common: whose they are, who made them, what for, and the way to disk."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta, timezone
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from mmpl.case import InvalidInputError
from mmpl.dicom.headers import Header, as_offset, check_inflated, quiet, read_dataset
from mmpl.files import write_whole
from mmpl.version import __version__

if TYPE_CHECKING:
    from pydicom import Dataset

MANUFACTURER, MODEL, SERIAL_NUMBER, VERSION = "MMPL", "MMPL", "none", __version__
RESEARCH_ONLY = "Research only, not for clinical use"
"""Stands in every object, where its readers show it."""
SERIES_NUMBER = 9000
"""Far from those of scanners; each kind of object adds its own few."""

_REQUIRED = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
)
_OPTIONAL = (
    "SpecificCharacterSet",
    "TimezoneOffsetFromUTC",
    "StudyDescription",
    "IssuerOfPatientID",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
)


def made_here(path: Path) -> bool:
    """Tell whether a file is an object that was written here, as far as its headers say: other programs name theirs."""
    try:
        header = Header(path, read_dataset(path, pixels=False))
    except InvalidInputError:
        return False
    return (header.text("Manufacturer"), header.text("ManufacturerModelName")) == (MANUFACTURER, MODEL)


def copy_identity(source: "Dataset", target: "Dataset") -> None:
    """Give an object the patient and the study of an image, letter by letter; what the image lacks stays empty."""
    for keyword in _REQUIRED:
        setattr(target, keyword, source.get(keyword))
    for keyword in _OPTIONAL:
        with suppress(Exception):  # whatever pydicom raises at a value that is none, such as a weight of "72,5"
            if keyword in source:
                setattr(target, keyword, source.get(keyword))


def now_at(source: "Dataset") -> datetime:
    """Give the time of day where an image was made, as its offset from UTC has it, which its objects repeat."""
    offset = as_offset(str(source.get("TimezoneOffsetFromUTC") or "").strip())
    return datetime.now(timezone(offset) if offset is not None and abs(offset) < timedelta(days=1) else None)


def set_times(made: "Dataset", source: "Dataset") -> None:
    """Give an object that highdicom made, by the clock of this machine, the times of where the image was made."""
    now = now_at(source)
    for kind in ("InstanceCreation", "Content", "Series"):
        for part, value in (("Date", now.strftime("%Y%m%d")), ("Time", now.strftime("%H%M%S"))):
            if f"{kind}{part}" in made:
                setattr(made, f"{kind}{part}", value)
    for equipment in made.get("ContributingEquipmentSequence") or ():
        equipment.ContributionDateTime = now.strftime("%Y%m%d%H%M%S")


def without_identity(source: "Dataset", *keywords: str) -> "Dataset":
    """Take some attributes of an object for highdicom, which refuses and repeats what is odd of a patient or study."""
    from pydicom import Dataset

    taken = Dataset()
    for keyword in (*_REQUIRED, *keywords):
        setattr(taken, keyword, source.get(keyword) if keyword in keywords else None)
    return taken


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Look into an object, quietly: pydicom raises whatever it meets, when it meets it, and repeats the value.

    Raises:
        InvalidInputError: It cannot be used; the message repeats nothing of its content.
    """
    try:
        with quiet():
            yield
    except InvalidInputError:
        raise
    except Exception as error:
        raise InvalidInputError(f"not a whole {what} ({type(error).__name__})") from error


def read_object(path: Path, pixels: bool = True) -> "Dataset":
    """Read a DICOM file.

    Args:
        path: The file.
        pixels: Whether to read them, too.

    Raises:
        InvalidInputError: It is missing, or no whole DICOM file; the message names it, and nothing of its content.
    """
    from pydicom import dcmread

    try:
        with reading("DICOM file"), path.open("rb") as stream:
            check_inflated(stream)
            return dcmread(stream, stop_before_pixels=not pixels)
    except InvalidInputError as error:
        raise InvalidInputError(f"{path}: {error}") from error


def one_line_of(text: object) -> str:
    """Give a name as it can stand in a message; of none, nothing."""
    return "" if text is None else " ".join(str(text).split())


def write_object(path: Path, content: "Dataset") -> None:
    """Write an object, whole or not at all.

    It is put together in memory first: what a full disk raises comes from pydicom with a traceback for its message.

    Raises:
        OSError: It cannot be written, as where the disk is full.
    """
    whole = BytesIO()
    with quiet():
        content.save_as(whole, enforce_file_format=True)
    with write_whole(path) as partial:
        partial.write_bytes(whole.getbuffer())
