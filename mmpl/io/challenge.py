"""The challenge's folders: what lies in /input, and what must lie in /output (`resources/editions`)."""

import json
import logging
import math
import os
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Annotated, Self

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mmpl.case import Case, InvalidInputError
from mmpl.datafiles import RESOURCES, load_yaml
from mmpl.dose import leave_dose_out
from mmpl.errors import some_of
from mmpl.files import PARTIAL, OverwriteError, write_whole
from mmpl.geometry import check_overlap
from mmpl.io.dose import add_found_dose, say_why_not
from mmpl.io.images import IMAGE_SUFFIXES, flags_of, read_image, write_image
from mmpl.io.record import read_record, read_record_file
from mmpl.names import (
    DISAGREEMENT,
    DISAGREEMENT_MHA,
    PAGE,
    PICTURE,
    REPORT,
    SCORE_PARTS,
    Task,
    exported,
    stage_name,
)
from mmpl.pipeline import PatientResult
from mmpl.profile import Positive, describe_invalid
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


class Form(StrEnum):
    """How an answer is written."""

    LABELS = "labels"
    """A label map on the CT's grid."""
    RISK = "risk"
    """A bare number, higher for an earlier recurrence."""
    DAYS = "days"
    """A bare number of days without recurrence, higher is better."""
    STATUS = "status"
    """A bare boolean, true for HPV-positive."""
    STAGE = "stage"
    """A bare string, a letter and a number such as T2."""


FORMS_OF = {
    Task.SEGMENTATION: {Form.LABELS},
    Task.SURVIVAL: {Form.RISK, Form.DAYS},
    Task.HPV: {Form.STATUS},
    Task.T_STAGE: {Form.STAGE},
    Task.N_STAGE: {Form.STAGE},
}


class Answer(Socket):
    """One output: where its file lies, how it is written, and how long a case that is asked for it may take.

    Attributes:
        path: Path of the file below /output; of an image its socket is the folder.
        limit_s: Seconds that the platform gives such a case.
    """

    form: Form
    limit_s: Positive


class Edition(BaseModel):
    """One edition of the challenge: what it asks for, where things lie, how long a case may take, how it is scored.

    Attributes:
        name: Name of its file.
        known_hpv: Key of the clinical record, and column of the table, whose HPV status is an input; None where the
            status is asked for and no input has it.
        answers: Output of each task that it asks for.
        reserve_s: Seconds of a limit that are not this program's to spend.
        score: Share that each metric of `mmpl.cohort_scores` has in the edition's own score; none where it has no such.
        dose, planning_ct: Sockets that a case may lack, and so may an edition.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    ct: Socket
    pet: Socket
    clinical: Socket
    known_hpv: str | None = None
    answers: dict[Task, Answer]
    reserve_s: Annotated[float, Field(ge=0)]
    score: dict[str, Positive] = {}
    dose: Socket | None = None
    planning_ct: Socket | None = None

    @model_validator(mode="after")
    def _answers_are_whole(self) -> Self:
        if Task.SEGMENTATION not in self.answers:
            raise ValueError("answers lacks segmentation, on which the others rest")
        for task, answer in self.answers.items():
            if answer.form not in FORMS_OF[task]:
                raise ValueError(f"{task} cannot be written as {answer.form}")
            if self.reserve_s >= answer.limit_s:
                raise ValueError(f"reserve_s is {self.reserve_s:g}, not below the limit_s of {task}")
        return self

    @model_validator(mode="after")
    def _score_is_whole(self) -> Self:
        if unknown := [metric for metric in self.score if metric not in SCORE_PARTS]:
            raise ValueError(f"score names {', '.join(unknown)}; there are {', '.join(SCORE_PARTS)}")
        if self.score and not math.isclose(whole := sum(self.score.values()), 1):
            raise ValueError(f"the shares of score add up to {whole:g}, not 1")
        return self

    @property
    def tasks(self) -> tuple[Task, ...]:
        """What the edition asks for, the mask first."""
        return tuple(task for task in Task if task in self.answers)

    def budget_s(self, tasks: Collection[Task]) -> float:
        """Give the seconds a case may take for some tasks: the least of their limits, less the reserve."""
        return min(self.answers[task].limit_s for task in tasks) - self.reserve_s

    def output_path(self, task: Task, folder: Path) -> Path:
        """Path of a task's answer below the output folder."""
        return folder / self.answers[task].path


def read_edition(name: str | None = None) -> Edition:
    """Read an edition, by default the one that `MMPL_EDITION` names, else HECKTOR 2025.

    Raises:
        ValueError: There is no such edition, or its file cannot be used; one line says which of its keys.
    """
    return _read_edition(name or os.environ.get(EDITION_VARIABLE) or DEFAULT_EDITION)


def known_editions() -> list[str]:
    """Name the editions that there are."""
    return sorted(path.stem for path in EDITIONS.glob("*.yaml"))


@cache
def _read_edition(name: str) -> Edition:
    known = known_editions()
    if name not in known:
        raise ValueError(f"no edition {name!r} ({EDITION_VARIABLE}); there are {', '.join(known)}")
    path = EDITIONS / f"{name}.yaml"
    try:
        return Edition.model_validate({"name": name, **load_yaml(path.read_text(encoding="utf-8"))})
    except ValidationError as error:
        raise ValueError(f"{path}: {describe_invalid(error)}") from error
    except (OSError, TypeError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from error


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
        known_hpv: HPV status that the risk may rest on; it goes before that of the record, where the edition has one.
        with_dose: Whether a planned dose is looked for; one that cannot be used is left out and flagged.

    Raises:
        InvalidInputError: A file is missing or cannot be used; the message names it.
    """
    if not folder.is_dir():
        raise InvalidInputError(f"{folder}: no such folder")
    layout, edition = _Layout(folder, _read_listed_paths(folder / "inputs.json")), read_edition()
    ct = find_image(layout.path(edition.ct), "CT")
    pet = find_image(layout.path(edition.pet), "PET")
    path = layout.path(edition.clinical)
    content, notes = read_record_file(path) if path.is_file() else ({}, [f"there is no {path.name}"])
    clinical, known_hpv = read_record(content, schema or default_schema(), edition.known_hpv, known_hpv, notes)
    images = read_image(ct), read_image(pet)
    try:
        case = check_units(Case(CASE_ID, *images, clinical, flags=flags_of(ct, pet), known_hpv=known_hpv))
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
        outside = [  # as it is written: a link may lead anywhere, and its .. elsewhere than it reads
            p for p in listed.values() if ".." in Path(p).parts or not (path.parent / p).is_relative_to(path.parent)
        ]
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
    paths = {task: edition.output_path(task, folder) for task in edition.tasks if task in tasks}
    try:
        for task, path in paths.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            if task is Task.SEGMENTATION:
                write_image(path, result.segmentation.mask, folder)
            else:
                _write_json(path, _content(result, task, edition.answers[task].form), folder)
    except BaseException:
        for path in reversed(paths.values()):
            path.unlink(missing_ok=True)
        raise
    return paths


def former_answer(folder: Path, extras: Collection[Path] = ()) -> list[Path]:
    """List what an earlier answer may have left in its folder, by whichever program and for whichever edition.

    The challenge's masks, written first, are last: as all of it is removed, no other answer stands without its mask;
    nor, of `mmpl case`, any file without the report.

    Args:
        folder: The folder.
        extras: Files that are named to be written, whosever they are.

    Raises:
        OverwriteError: Another file has a name that people give theirs, and there is no answer that it could be of.
    """
    names = PICTURE, PAGE, DISAGREEMENT, DISAGREEMENT_MHA, REPORT
    beside = [*exported(folder), *(folder / name for name in names)]
    answers = [
        edition.output_path(task, folder)
        for edition in map(read_edition, known_editions())
        for task in reversed(edition.tasks)
    ]
    strange = next((path for path in beside if path.is_file() and path not in extras), None)
    if strange and not _is_report(folder / REPORT) and not any(path.is_file() for path in answers):
        raise OverwriteError(f"{strange}: is no file of an earlier answer, and would be lost; name another folder")
    return [*beside, *folder.glob(f"{PARTIAL}*"), *answers]


def _is_report(path: Path) -> bool:
    """Tell whether a file is a report of ours, of whichever version."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and {"patient", "weights", "models"} <= content.keys()


def clear_challenge_result(folder: Path, *extras: Path | None) -> None:
    """Remove an earlier answer and what a killed program left: an error must leave nothing like an answer.

    So go the extras: its picture and its report, wherever they lie.

    Raises:
        OverwriteError: As for `former_answer`; nothing is removed.
    """
    named = [path for path in extras if path]
    for path in (*named, *former_answer(folder, named)):
        path.unlink(missing_ok=True)


def _content(result: PatientResult, task: Task, form: Form) -> float | bool | str:
    """Give the JSON value of an answer that is no image."""
    if task is Task.SURVIVAL:
        assert result.survival is not None
        risk_score, days = _finite(result.survival.risk_score), result.survival.recurrence_free_days
        if form is Form.RISK:
            return risk_score
        return -risk_score if days is None else days
    if task is Task.HPV:
        assert result.hpv is not None
        return bool(result.hpv.positive)
    stage = result.stage_of(task)
    assert stage is not None
    return stage_name(task, stage.stage)


def _finite(risk_score: float) -> float:
    if not np.isfinite(risk_score):
        raise ArithmeticError(f"the risk score is {risk_score}")
    return float(risk_score)


def _write_json(path: Path, content: float | bool | str, partial_folder: Path) -> None:
    with write_whole(path, partial_folder) as partial:
        partial.write_text(json.dumps(content) + "\n")
