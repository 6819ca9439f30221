"""The challenge's folders: what lies in /input, and what must lie in /output (`resources/challenge.yaml`)."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict

from mmpl.case import Case, ClinicalRecord, InvalidInputError
from mmpl.clinical import read_record
from mmpl.geometry import common_grid
from mmpl.io.images import IMAGE_SUFFIXES, read_image, write_image
from mmpl.pipeline import PatientResult
from mmpl.profile import RESOURCES

CASE_ID = "case"
"""The challenge names no patient."""
LEAST_OVERLAP_MM = 10.0
"""CT and PET that share less than this along any axis are refused while it is known which files they are."""


class Socket(BaseModel):
    """One input or output: its slug on the platform and its path below /input or /output."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    slug: str
    path: str


class Sockets(BaseModel):
    """The edition's sockets, read from `resources/challenge.yaml`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ct: Socket
    pet: Socket
    clinical: Socket
    mask: Socket
    risk: Socket
    hpv: Socket
    mask_file: str


@cache
def read_sockets() -> Sockets:
    """Read the edition's sockets."""
    return Sockets.model_validate(yaml.safe_load((RESOURCES / "challenge.yaml").read_text()))


@dataclass(frozen=True)
class _Layout:
    """Where the inputs lie; `inputs.json`, where present, wins over the default paths."""

    folder: Path
    listed: dict[str, str]

    def path(self, socket: Socket) -> Path:
        return self.folder / self.listed.get(socket.slug, socket.path)


def read_challenge_case(folder: Path) -> Case:
    """Read the one case in a folder of the challenge's layout.

    Raises:
        InvalidInputError: A file is missing or cannot be used; the message names it.
    """
    if not folder.is_dir():
        raise InvalidInputError(f"{folder}: no such folder")
    layout, sockets = _Layout(folder, _read_listed_paths(folder / "inputs.json")), read_sockets()
    ct = find_image(layout.path(sockets.ct), "CT")
    pet = find_image(layout.path(sockets.pet), "PET")
    clinical = read_clinical_file(layout.path(sockets.clinical))
    images = read_image(ct), read_image(pet)
    try:
        case = Case(CASE_ID, *images, clinical)
        common_grid(case.ct.grid, case.pet.grid, LEAST_OVERLAP_MM)
    except InvalidInputError as error:
        about = [str(path) for name, path in (("CT", ct), ("PET", pet)) if name in str(error)]
        raise InvalidInputError(f"{', '.join(about)}: {error}") from error
    return case


def find_image(folder: Path, what: str) -> Path:
    """Find the one image file of a socket's folder.

    Raises:
        InvalidInputError: There is none, or more than one.
    """
    files = sorted(p for p in folder.glob("*") if p.name.lower().endswith(IMAGE_SUFFIXES)) if folder.is_dir() else []
    if len(files) != 1:
        raise InvalidInputError(
            f"{folder}: {len(files)} {what} images, and one is needed ({', '.join(IMAGE_SUFFIXES)})"
        )
    return files[0]


def read_clinical_file(path: Path) -> ClinicalRecord:
    """Read `ehr.json`; a literal NaN and trailing commas, which occur in the wild, are accepted.

    Raises:
        InvalidInputError: The file is missing or is not a JSON object.
    """
    if not path.is_file():
        raise InvalidInputError(f"{path}: no such file")
    try:
        content = parse_lenient_json(path.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise InvalidInputError(f"{path}: holds {type(content).__name__}, and an object of clinical fields is needed")
    return read_record(content)


def parse_lenient_json(text: str) -> Any:
    """Parse JSON; where that fails, once more without the commas that stand before a closing bracket."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return json.loads(_without_trailing_commas(text))


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
        listed = {}
        for entry in json.loads(path.read_text()):
            socket = entry.get("socket") or entry["interface"]
            listed[str(socket["slug"])] = str(socket["relative_path"])
        outside = [p for p in listed.values() if not (path.parent / p).resolve().is_relative_to(path.parent.resolve())]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InvalidInputError(f"{path}: not a list of sockets ({error!r})") from error
    if outside:
        raise InvalidInputError(f"{path}: {outside[0]} lies outside the input folder")
    return listed


def write_challenge_result(result: PatientResult, folder: Path) -> list[Path]:
    """Write mask, risk and HPV status where the challenge wants them, the mask first; all of them or none."""
    sockets = read_sockets()
    mask = folder / sockets.mask.path / sockets.mask_file
    risk, hpv = folder / sockets.risk.path, folder / sockets.hpv.path
    written: list[Path] = []
    try:
        mask.parent.mkdir(parents=True, exist_ok=True)
        for path in (mask, risk, hpv):
            written.append(path)
            if path == mask:
                write_image(path, result.segmentation.mask)
            elif path == risk:
                _write_json(path, _finite(result.survival.risk_score))
            else:
                _write_json(path, bool(result.hpv.positive))
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise
    return written


def clear_challenge_result(folder: Path) -> None:
    """Remove the answers of an earlier run, so that an error leaves nothing that could be taken for an answer."""
    sockets = read_sockets()
    for path in (folder / sockets.mask.path / sockets.mask_file, folder / sockets.risk.path, folder / sockets.hpv.path):
        path.unlink(missing_ok=True)


def _finite(risk_score: float) -> float:
    if not np.isfinite(risk_score):
        raise ArithmeticError(f"the risk score is {risk_score}")
    return float(risk_score)


def _write_json(path: Path, content: float | bool) -> None:
    partial = path.with_name(f".partial.{path.name}")
    try:
        partial.write_text(json.dumps(content) + "\n")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
