"""A planned dose that is found beside a case's images: used where it can be, else left out, said and flagged.

No extra file keeps a case from being answered. A dose that a person names is another matter: `mmpl.dicom.dose`.
"""

import logging
from pathlib import Path
from typing import Any

from mmpl.case import Case
from mmpl.dose import give_dose, leave_dose_out
from mmpl.errors import one_line
from mmpl.io.images import read_image

log = logging.getLogger(__name__)


def add_found_dose(case: Case, dose: Path, planning_ct: Path | None = None) -> Case:
    """Add the dose in a file to a case, or flag why it is left out.

    Args:
        case: The case.
        dose: Image of the dose.
        planning_ct: Image of the CT that it was planned on, where there is one.
    """
    try:
        return give_dose(case, read_image(dose), read_image(planning_ct) if planning_ct else None)
    except Exception as error:  # of an extra file, whatever it is
        return leave_dose_out(case, say_why_not(error, dose, planning_ct))


def say_why_not(error: Exception, *paths: Any) -> str:
    """Log why a dose is left out, and give it without the files' names, which may tell more than a report should."""
    text = one_line(error)
    log.warning("note: %s: planned dose not used: %s", paths[0], text)
    names = set[str]()
    for path in filter(None, paths):
        names |= {str(path), path.name, *(child.name for child in (path.iterdir() if path.is_dir() else ()))}
    for name in sorted(names, key=len, reverse=True):
        text = text.replace(f"{name}: ", "").replace(name, "a file")
    return text
