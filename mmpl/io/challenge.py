"""The challenge's folders: what lies in /input, and what must lie in /output (`resources/editions`)."""

import json
import logging
import os
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from mmpl.case import Case, ClinicalRecord, InvalidInputError
from mmpl.datafiles import RESOURCES, load_yaml
from mmpl.dose import leave_dose_out
from mmpl.errors import some_of
from mmpl.files import PARTIAL, write_whole
from mmpl.geometry import check_overlap
from mmpl.io.dose import add_found_dose, say_why_not
from mmpl.io.images import IMAGE_SUFFIXES, read_image, write_image
from mmpl.names import Task
from mmpl.pipeline import PatientResult
from mmpl.profile import Positive
from mmpl.schema import ClinicalSchema, default_schema
from mmpl.units import check_units

EDITIONS = RESOURCES / "editions"
EDITION_VARIABLE, DEFAULT_EDITION = "MMPL_EDITION", "hecktor-2025"
log = logging.getLogger(__name__)

CASE_ID = "case"
"""The challenge names no patient."""


class Socket(BaseModel):
    """One input or output: its slug on the platform and its path below /input or /output."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    slug: str
    path: str


class Edition(BaseModel):
    """One edition of the challenge: where things lie, which way its risk points, and how long a case may take.

    Attributes:
        dose, planning_ct: Sockets that a case may lack, and so may an edition.
        limit_s: Seconds that the platform gives a case, for each task.
        reserve_s: Seconds of them that are not this program's to spend.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    ct: Socket
    pet: Socket
    clinical: Socket
    mask: Socket
    mask_file: str
    risk: Socket
    risk_sign: Literal[1, -1]
    hpv: Socket
    limit_s: dict[Task, Positive]
    reserve_s: Annotated[float, Field(ge=0)]
    dose: Socket | None = None
    planning_ct: Socket | None = None

    @model_validator(mode="after")
    def _limits_are_whole(self) -> Self:
        missing = [task for task in Task if task not in self.limit_s]
        if missing:
            raise ValueError(f"limit_s lacks {', '.join(missing)}")
        if self.reserve_s >= min(self.limit_s.values()):
            raise ValueError(f"reserve_s is {self.reserve_s:g}, not below every limit_s")
        return self

    def budget_s(self, tasks: Collection[Task]) -> float:
        """Give the seconds a case may take for some tasks: the least of their limits, less the reserve."""
        return min(self.limit_s[task] for task in tasks) - self.reserve_s

    def output_path(self, task: Task, folder: Path) -> Path:
        """Path of a task's answer below the output folder."""
        paths = {
            Task.SEGMENTATION: f"{self.mask.path}/{self.mask_file}",
            Task.SURVIVAL: self.risk.path,
            Task.HPV: self.hpv.path,
        }
        return folder / paths[task]


def read_edition() -> Edition:
    """Read the edition that `MMPL_EDITION` names, by default HECKTOR 2025.

    Raises:
        ValueError: There is no such edition.
    """
    return _read_edition(os.environ.get(EDITION_VARIABLE) or DEFAULT_EDITION)


@cache
def _read_edition(name: str) -> Edition:
    known = sorted(path.stem for path in EDITIONS.glob("*.yaml"))
    if name not in known:
        raise ValueError(f"{EDITION_VARIABLE} is {name!r}; there are {', '.join(known)}")
    return Edition.model_validate(load_yaml((EDITIONS / f"{name}.yaml").read_text()))


@dataclass(frozen=True)
class _Layout:
    """The places of the inputs; `inputs.json`, where present, wins over the default paths."""

    folder: Path
    listed: dict[str, str]

    def path(self, socket: Socket) -> Path:
        return self.folder / self.listed.get(socket.slug, socket.path)


def read_challenge_case(
    folder: Path, schema: ClinicalSchema | None = None, known_hpv: bool | None = None, with_dose: bool = False
) -> Case:
    """Read the one case in a folder of the challenge's layout.

    Args:
        folder: The platform's /input.
        schema: Schema of the clinical record: that of the weights; by default that of `resources/clinical.yaml`.
        known_hpv: HPV status that the risk may rest on, which no file of the layout holds.
        with_dose: Whether a planned dose is looked for; one that cannot be used is left out and flagged.

    Raises:
        InvalidInputError: A file is missing or cannot be used; the message names it.
    """
    if not folder.is_dir():
        raise InvalidInputError(f"{folder}: no such folder")
    layout, edition = _Layout(folder, _read_listed_paths(folder / "inputs.json")), read_edition()
    ct = find_image(layout.path(edition.ct), "CT")
    pet = find_image(layout.path(edition.pet), "PET")
    clinical = read_clinical_file(layout.path(edition.clinical), schema or default_schema())
    images = read_image(ct), read_image(pet)
    try:
        case = check_units(Case(CASE_ID, *images, clinical, known_hpv=known_hpv))
        check_overlap(case.ct.grid, case.pet.grid)
    except InvalidInputError as error:
        about = [str(path) for name, path in (("CT", ct), ("PET", pet)) if name in str(error)]
        raise InvalidInputError(f"{', '.join(about)}: {error}") from error
    return _add_dose(case, layout, edition) if with_dose else case


def _add_dose(case: Case, layout: _Layout, edition: Edition) -> Case:
    """Add the planned dose where there is one; nothing that is wrong with it keeps the case from being answered."""
    places = [layout.path(socket) if socket else None for socket in (edition.dose, edition.planning_ct)]
    try:
        dose, planning_ct = (
            find_image(place, what) if place and place.is_dir() and any(place.iterdir()) else None
            for place, what in zip(places, ("dose", "planning CT"), strict=True)
        )
    except (InvalidInputError, OSError) as error:
        return leave_dose_out(case, say_why_not(error, *places))
    return add_found_dose(case, dose, planning_ct) if dose else case


def image_files(folder: Path) -> dict[str, Path]:
    """Name the images of the one case in a folder of the challenge's layout, by what they are."""
    layout, edition = _Layout(folder, _read_listed_paths(folder / "inputs.json")), read_edition()
    return {"ct": find_image(layout.path(edition.ct), "CT"), "pet": find_image(layout.path(edition.pet), "PET")}


def find_image(folder: Path, what: str) -> Path:
    """Find the one image file of a socket's folder.

    Raises:
        InvalidInputError: There is none, or more than one.
    """
    found = sorted(p for p in folder.glob("*") if p.name.lower().endswith(IMAGE_SUFFIXES)) if folder.is_dir() else []
    files = [path for path in found if not path.name.startswith(".")]
    if len(files) != 1:
        names = f" ({some_of([path.name for path in files])})" if files else ""
        kinds = ", ".join(IMAGE_SUFFIXES)
        raise InvalidInputError(f"{folder}: {len(files)} {what} images{names}, and one is needed ({kinds})")
    for path in set(found) - set(files):
        log.info("note: %s is a hidden file: not read", path)
    return files[0]


def read_clinical_file(path: Path, schema: ClinicalSchema) -> ClinicalRecord:
    """Read `ehr.json`; a literal NaN and trailing commas, which occur in the wild, are accepted.

    Without the file nothing is known of the patient, and the record says so, as it does of a name that is there twice.

    Raises:
        InvalidInputError: The file is not a JSON object.
    """
    if not path.is_file():
        return _assuming(schema.read({}), f"no such file as {path}")
    content, notes = read_record_file(path)
    return _assuming(schema.read(content), *notes)


def read_record_file(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Read a clinical record as it is written, and a sentence for each name that is there twice.

    Raises:
        InvalidInputError: The file is not there, or not a JSON object.
    """
    try:
        content, repeated = parse_lenient_json(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise InvalidInputError(f"{path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise InvalidInputError(f"{path}: holds {type(content).__name__}, and an object of clinical fields is needed")
    return content, [f"{name[:60]!r} is there twice: the last is taken" for name in repeated]


def _assuming(record: ClinicalRecord, *notes: str) -> ClinicalRecord:
    return replace(record, assumed=(*notes, *record.assumed))


def parse_lenient_json(text: str) -> tuple[Any, list[str]]:
    """Parse JSON; where that fails, once more without the commas that stand before a closing bracket.

    Returns:
        The content, and the names that an object has more than once; of those, the last counts.
    """
    try:
        return _parse_json(text)
    except json.JSONDecodeError:
        return _parse_json(_without_trailing_commas(text))


def _parse_json(text: str) -> tuple[Any, list[str]]:
    repeated: list[str] = []

    def as_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        repeated.extend(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        return dict(pairs)

    return json.loads(text, object_pairs_hook=as_dict), repeated


def _without_trailing_commas(text: str) -> str:
    kept: list[str] = []
    quoted = escaped = False
    for position, character in enumerate(text):
        if not quoted and character == "," and text[position + 1 :].lstrip()[:1] in ("}", "]"):
            continue
        kept.append(character)
        quoted = quoted != (character == '"' and not escaped)
        escaped = quoted and character == "\\" and not escaped
    return "".join(kept)


def _read_listed_paths(path: Path) -> dict[str, str]:
    """Read where `inputs.json` says each socket lies; empty without the file."""
    if not path.is_file():
        return {}
    try:
        pairs = []
        for entry in json.loads(path.read_text()):
            socket = entry.get("socket") or entry["interface"]
            pairs.append((str(socket["slug"]), str(socket["relative_path"])))
        listed = dict(pairs)
        outside = [p for p in listed.values() if not (path.parent / p).resolve().is_relative_to(path.parent.resolve())]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InvalidInputError(f"{path}: not a list of sockets ({error!r})") from error
    if other := [slug for slug, relative in pairs if listed[slug] != relative]:
        raise InvalidInputError(f"{path}: {other[0]} is there twice")
    if outside:
        raise InvalidInputError(f"{path}: {outside[0]} lies outside the input folder")
    return listed


def write_challenge_result(result: PatientResult, folder: Path, tasks: Collection[Task]) -> dict[Task, Path]:
    """Write the answers of some tasks where the challenge wants them, the mask first; all of them or none.

    Returns:
        Path of each answer, by task.
    """
    edition = read_edition()
    paths = {task: edition.output_path(task, folder) for task in Task if task in tasks}
    try:
        for task, path in paths.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            if task is Task.SEGMENTATION:
                write_image(path, result.segmentation.mask, folder)
            elif task is Task.SURVIVAL:
                assert result.survival is not None
                _write_json(path, edition.risk_sign * _finite(result.survival.risk_score), folder)
            else:
                assert result.hpv is not None
                _write_json(path, bool(result.hpv.positive), folder)
    except BaseException:
        for path in reversed(paths.values()):
            path.unlink(missing_ok=True)
        raise
    return paths


def clear_challenge_result(folder: Path, *extras: Path | None) -> None:
    """Remove the answers of an earlier run and what a killed one left: an error must leave nothing like an answer.

    So goes what stands beside them, the extras: its picture and its report.

    The mask, written first, goes last: at no moment does another answer stand without it.
    """
    edition = read_edition()
    for extra in filter(None, extras):
        extra.unlink(missing_ok=True)
    for task in reversed(Task):
        edition.output_path(task, folder).unlink(missing_ok=True)
    for partial in folder.glob(f"{PARTIAL}*"):
        partial.unlink(missing_ok=True)


def _finite(risk_score: float) -> float:
    if not np.isfinite(risk_score):
        raise ArithmeticError(f"the risk score is {risk_score}")
    return float(risk_score)


def _write_json(path: Path, content: float | bool, partial_folder: Path) -> None:
    with write_whole(path, partial_folder) as partial:
        partial.write_text(json.dumps(content) + "\n")
