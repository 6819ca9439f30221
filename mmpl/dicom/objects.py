"""What all objects that are written have in common: whose they are, who made them, what for, and the way to disk."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mmpl.case import InvalidInputError
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


def copy_identity(source: "Dataset", target: "Dataset") -> None:
    """Give an object the patient and the study of an image, letter by letter; what the image lacks stays empty."""
    for keyword in _REQUIRED:
        setattr(target, keyword, source.get(keyword))
    for keyword in _OPTIONAL:
        if keyword in source:
            setattr(target, keyword, source.get(keyword))


@contextmanager
def silently() -> Iterator[None]:
    """Keep pydicom and highdicom from logging or warning of odd values, as they repeat them: names, dates of birth."""
    loggers = [logging.getLogger(name) for name in ("pydicom", "highdicom")]
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


def read_object(path: Path) -> "Dataset":
    """Read a DICOM file.

    Raises:
        InvalidInputError: It is missing, or no whole DICOM file; the message names it, and nothing of its content.
    """
    from pydicom import dcmread

    try:
        with silently():
            return dcmread(path)
    except OSError as error:
        raise InvalidInputError(f"{path}: {error.strerror or 'cannot be read'}") from error
    except Exception as error:  # pydicom raises what it meets, and repeats the file's values
        raise InvalidInputError(f"{path}: not a readable DICOM file ({type(error).__name__})") from error


def write_object(path: Path, content: "Dataset") -> None:
    """Write an object, whole or not at all.

    Raises:
        OSError: It cannot be written, as where the disk is full.
    """
    with write_whole(path) as partial, silently():
        content.save_as(partial, enforce_file_format=True)
