"""One patient's clinical record as an object of fields, the challenge's `ehr.json`, and what else it may state."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmpl.case import ClinicalRecord, InvalidInputError
from mmpl.io.outcomes import read_known_status
from mmpl.io.tables import cell_text
from mmpl.names import WEIGHT
from mmpl.schema import ClinicalSchema, plain_name, shown


def read_record(
    content: Mapping[str, Any],
    schema: ClinicalSchema,
    status_name: str | None = None,
    known_hpv: bool | None = None,
    notes: Sequence[str] = (),
) -> tuple[ClinicalRecord, bool | None]:
    """Read a record's fields, and the known HPV status that the risk may rest on.

    Args:
        content: Fields by name.
        schema: Schema of the clinical record.
        status_name: Name of a known HPV status; None where none is looked at.
        known_hpv: HPV status that is stated elsewhere, and goes before the record's.
        notes: What the record is to say of itself before what was assumed.

    Returns:
        The record, and the status; None where it is not known, or given in no way that is understood, which the record
        says, too.
    """
    content, notes = dict(content), list(notes)
    if status_name:
        stated, said = _take_known_hpv(content, status_name, schema)
        if known_hpv is None:
            known_hpv, notes = stated, [*notes, *said]
    record = schema.read(content)
    return replace(record, assumed=(*notes, *record.assumed)), known_hpv


def _take_known_hpv(content: dict[str, Any], name: str, schema: ClinicalSchema) -> tuple[bool | None, list[str]]:
    """Take the known HPV status out of a record as it is written, and say so where it has none.

    Args:
        content: The record, which loses the key.
        name: Key of the status.
        schema: Schema of the clinical record.
    """
    key = next((key for key in content if plain_name(key) == plain_name(name)), None)
    if key is None:
        return None, [f"{name} is not given: predicted"]
    value = content.pop(key)
    if schema.is_missing(value):
        return None, [f"{name} is {shown(value)}: predicted"]
    try:
        return read_known_status(cell_text(value)), []
    except ValueError:
        return None, [f"{name} is {shown(value)}, neither positive (1) nor negative (0): predicted"]


def read_record_file(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Read a record as it is written, and a sentence for each name that is there twice.

    A literal NaN and trailing commas, which occur in the wild, are accepted.

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


def stated_weight_kg(content: Mapping[str, Any], schema: ClinicalSchema) -> float | None:
    """Give the body weight that a record states first.

    Raises:
        InvalidInputError: It is no number.
    """
    for name, value in content.items():
        if is_weight(str(name)) and not schema.is_missing(value):
            return read_weight_kg(value)
    return None


def is_weight(name: str) -> bool:
    """Tell the name of a body weight."""
    return name.strip().casefold() == WEIGHT.casefold()


def read_weight_kg(stated: object) -> float:
    """Read a body weight that somebody states.

    Raises:
        InvalidInputError: It is no number.
    """
    try:
        return float(str(stated))
    except ValueError:
        raise InvalidInputError(f"weight is {str(stated)[:40]!r}, not a number of kg") from None


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
