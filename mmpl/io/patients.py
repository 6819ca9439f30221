"""The patients of a table: identity, center, clinical record and outcome of each, read leniently and checked."""

import re
import statistics
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mmpl.case import InvalidInputError, Outcome, Patient, describe_problems
from mmpl.errors import some_of
from mmpl.io.outcomes import (
    OUTCOMES,
    STAGES,
    is_dash,
    is_missing,
    is_plus,
    read_known_status,
    read_outcome,
    read_stage,
)
from mmpl.io.tables import Spell, Table, read_table, same
from mmpl.names import KNOWN_HPV, WEIGHT, Column
from mmpl.schema import CategoricalField, ClinicalSchema, default_schema, normalized, plain_name, shown

FEWEST_DAYS = 120
"""A median follow-up below this is more likely one of months, written as days."""

_COLUMN_OF_IDS = re.compile(r"(patient|p)?[ _-]?id", re.IGNORECASE)
_NEVER_UNREAD_IN_SILENCE = ("hpv", "stage", "weight")  # words of columns that nobody misses where they are not there
_LONGEST_ID = 200  # bytes; with what follows it, a file's name may have 255
_Row = dict[str, str]


@dataclass(frozen=True)
class PatientTable:
    """The patients of a table.

    Attributes:
        path: The table, or the first of several that were merged.
        patients: The patients, in the table's order.
        remarks: What its reader should know that keeps nobody from being answered, a sentence each.
    """

    path: Path
    patients: tuple[Patient, ...]
    remarks: tuple[str, ...] = ()


def read_patients(
    path: Path,
    schema: ClinicalSchema | None = None,
    outcomes: bool = True,
    where: Mapping[str, str] | None = None,
    known_hpv: str | None = None,
) -> PatientTable:
    """Read a table that stands for itself, without images.

    A time of zero or less is that of a disease that never went away: such a patient has no recurrence-free survival,
    and is counted in a remark.

    Args:
        path: A CSV file or a workbook.
        schema: Schema of the clinical record; by default that of `resources/clinical.yaml`.
        outcomes: Whether HPV status, relapse and follow-up are looked at; for answers they are not.
        where: Cell that the rows to be read have, by column; every row is where none is named.
        known_hpv: Column whose HPV status answers may rest on, beside `Known HPV Status`; that of the edition.

    Raises:
        InvalidInputError: It cannot be read, or has problems; the message lists them.
    """
    schema = schema or default_schema()
    table = read_chosen(path, schema, outcomes, where or {}, known_hpv=known_hpv)
    rows = list(table.rows)
    remarks = list[str]()
    if early := [line for line, row in rows if _is_zero_or_less(row.get(Column.RFS_DAYS, ""))]:
        remarks.append(f"{Column.RFS_DAYS}: {len(early)} of zero or less, without recurrence-free survival here")
        rows = [(line, row | {Column.RFS_DAYS: ""} if line in early else row) for line, row in rows]
    table = replace(table, rows=tuple(rows))
    read, problems = inspect_patients(table, list(table.problems), schema, False, outcomes, known_hpv)
    if problems:
        raise InvalidInputError(describe_problems(path, problems))
    return replace(read, remarks=(*read.remarks, *remarks, *_doubt_rows(read.patients, schema)))


def read_chosen(
    path: Path,
    schema: ClinicalSchema,
    outcomes: bool,
    where: Mapping[str, str],
    others: Sequence[str] = (),
    known_hpv: str | None = None,
) -> Table:
    """Read the rows of a table that have some cells.

    Args:
        path: A CSV file or a workbook.
        schema: Schema of the clinical record.
        outcomes: Whether outcomes are looked at.
        where: Cell that the rows have, by column.
        others: More columns to read.
        known_hpv: Column of a known HPV status, as in `read_patients`.

    Raises:
        InvalidInputError: It cannot be read, or lacks a column of the condition or has it twice, or two name the same.
    """
    known = spelling(schema, outcomes, known_hpv=known_hpv)
    cells: dict[str, str] = {}
    for name, cell in where.items():
        if (column := known(name) or name) in cells:
            raise InvalidInputError(f"{path}: two conditions on {column}")
        cells[column] = cell
    table = read_table(path, spelling(schema, outcomes, (*cells, *others), known_hpv))
    if odd := [name for name in cells if table.header.count(name) != 1]:
        wrong = "is there twice" if odd[0] in table.header else "is missing"
        raise InvalidInputError(f"{path}: column {odd[0]!r} {wrong}, and rows are chosen by it")
    rows = [(line, row) for line, row in table.rows if all(same(row[name], cells[name]) for name in cells)]
    return replace(table, rows=tuple(rows))


def meaning(schema: ClinicalSchema, name: str) -> str | None:
    """Tell which released column, or field of the record, a name is a spelling of; None where it may be a feature's."""
    found = KNOWN_HPV if plain_name(name) == plain_name(KNOWN_HPV) else spelling(schema)(name)
    return None if found in _stages(schema) else found


def read_where(conditions: Sequence[str] | None) -> dict[str, str]:
    """Read conditions such as `Site=oropharynx` as the cell that a row must have, by column.

    Raises:
        ValueError: One is not of that form, or a column is named twice.
    """
    where = dict[str, str]()
    for condition in conditions or ():
        column, equals, cell = condition.partition("=")
        if not equals or not column.strip():
            raise ValueError(f"{condition!r} is no condition: write COLUMN=CELL")
        if column.strip() in where:
            raise ValueError(f"{column.strip()}: two conditions on one column")
        where[column.strip()] = cell.strip()
    return where


def spelling(
    schema: ClinicalSchema, outcomes: bool = True, others: Collection[str] = (), known_hpv: str | None = None
) -> Spell:
    """Make what brings a column's name to its released spelling; None where it is none of those that are looked at.

    Args:
        schema: Schema of the clinical record.
        outcomes: Whether outcomes are looked at.
        others: Names of more columns that are, as they stand there.
        known_hpv: Another name of the column `Known HPV Status`, where outcomes are not looked at.
    """
    named = (*Column, KNOWN_HPV, WEIGHT, *_stages(schema))
    released = {plain_name(column): str(column) for column in named}
    if known_hpv and not outcomes:
        released[plain_name(known_hpv)] = KNOWN_HPV
    as_they_stand = {name.casefold(): name for name in others}
    looked_at = {*_columns(schema, outcomes), *_optional(schema, outcomes), *others}

    def spell(name: str) -> str | None:
        found = as_they_stand.get(name.casefold()) or released.get(plain_name(name)) or schema.field_of_key(name)
        return found if found in looked_at else None

    return spell


def says_nothing(schema: ClinicalSchema, column: str, text: str) -> bool:
    """Tell whether a column's cell says that something is not known."""
    if column == KNOWN_HPV:  # of which a dash may be a finding
        return is_missing(text) or (schema.is_missing(text) and not is_dash(text))
    return is_missing(text) if column in OUTCOMES else schema.is_missing(text)


def inspect_patients(
    table: Table,
    problems: list[str],
    schema: ClinicalSchema,
    training: bool,
    outcomes: bool,
    known_hpv: str | None = None,
) -> tuple[PatientTable, list[str]]:
    """Read the patients of a table as far as they can be read, and list what is wrong with it.

    Args:
        table: The table, read with `spelling`.
        problems: Problems that were found before.
        schema: Schema of the clinical record.
        training: Whether every released column must be there, but those of optional fields; otherwise the remarks say
            what is not.
        outcomes: Whether outcomes are looked at.
        known_hpv: Name of the HPV status that the edition has as an input: where a row has none, its record says so.
    """
    columns = _columns(schema, outcomes)
    optional = _optional(schema, outcomes)
    problems = problems + [
        f"column {str(name)!r} is there twice" for name in (*columns, *optional) if table.header.count(name) > 1
    ]
    missing = [name for name in columns if name not in table.header]
    needed = [name for name in columns if name not in schema.optional_names] if training else [Column.PATIENT_ID]
    problems += [
        f"column {str(name)!r} is missing{' (its cells may be blank)' * (name != Column.PATIENT_ID)}"
        for name in missing
        if name in needed
    ]
    remarks = [f"no column {str(name)!r}: not known of any patient" for name in missing if name not in needed]
    expected = None if outcomes else known_hpv
    if expected and KNOWN_HPV not in table.header:
        remarks.append(f"no column {expected!r}: predicted of every patient")
    known = spelling(schema)
    others = [name for name in table.unread if known(name) is None]
    if not remarks:
        others = [name for name in others if any(word in plain_name(name) for word in _NEVER_UNREAD_IN_SILENCE)]
    if others:
        remarks.append(f"columns that are not read: {some_of(list(map(repr, others)))}")
    if Column.PATIENT_ID not in table.header:
        return PatientTable(table.path, (), tuple(remarks)), problems
    blank = dict.fromkeys((*Column, *schema.names, KNOWN_HPV, WEIGHT), "")
    read = (*columns, *optional)
    rows = [(line, blank | {name: row[name] for name in read if name in row}) for line, row in table.rows]
    has_plus = any(is_plus(row[Column.HPV_STATUS]) for _, row in rows)
    patients, odd_stages = list[Patient](), list[str]()
    for line, row in rows:
        patient, wrong = _read_row(row, schema, has_plus)
        if expected and patient.known_hpv is None:
            said = f"is {shown(row[KNOWN_HPV])}" if KNOWN_HPV in table.header else "is not given"
            assumed = (f"HPV status {said}: predicted", *patient.clinical.assumed)
            patient = replace(patient, clinical=replace(patient.clinical, assumed=assumed))
        (t_stage, n_stage), odd = _read_stages(row, schema)
        about = f"line {line}, patient {patient.patient_id or '(none)'}"
        if _is_second_header(patient, first=not patients):
            wrong = ["a line of units or a second header, and no patient? delete it", *wrong]
        problems += [f"{about}: {what}" for what in wrong]
        odd_stages += [f"{about}: {what}" for what in odd]
        patients.append(replace(patient, outcome=replace(patient.outcome, t_stage=t_stage, n_stage=n_stage)))
    patients, joined = _join_centers(patients)
    remarks += joined
    if training:
        problems += odd_stages
    elif odd_stages:
        remarks.append(f"stages that cannot be read, and are not scored: {len(odd_stages)} ({odd_stages[0]})")
    counts = Counter(patient.patient_id for patient in patients)
    problems += [f"patient {name}: {count} rows" for name, count in counts.items() if name and count > 1]
    if not rows:
        problems.append("no patient")
    remarks += _doubt_days(patients)
    for name, cells in _not_understood(patients, rows).items():
        given = sum(not schema.is_missing(row[name]) for _, row in rows)
        said = f"{name}: {len(cells)} of {given} values are not understood and taken as missing ({cells[0]!r}, ...)"
        (problems if training and len(cells) == given else remarks).append(said)
    remarks += _assumed(schema, rows)
    return PatientTable(table.path, tuple(patients), tuple(remarks)), problems


def can_name_a_file(patient_id: str) -> bool:
    """Tell whether a patient's ID can be a file's name."""
    named = Path(patient_id).name == patient_id != "" and not patient_id.startswith(".")
    return named and patient_id.isprintable() and len(patient_id.encode(errors="replace")) <= _LONGEST_ID


def _columns(schema: ClinicalSchema, outcomes: bool) -> list[str]:
    return [name for name in (*Column, *schema.names) if outcomes or name not in OUTCOMES]


def _stages(schema: ClinicalSchema) -> list[str]:
    """Name the columns of stages, which are labels unless a field has their name."""
    return [name for name in STAGES if schema.field_of_key(name) is None]


def _optional(schema: ClinicalSchema, outcomes: bool) -> list[str]:
    """Name the columns that nobody misses where they are not there."""
    return [WEIGHT, *(_stages(schema) if outcomes else [KNOWN_HPV])]


def _read_row(row: _Row, schema: ClinicalSchema, has_plus: bool) -> tuple[Patient, list[str]]:
    """Read one row and what is wrong with it; `has_plus` tells whether another has "+" for its HPV status."""
    outcome, wrong = read_outcome(row, has_plus)
    patient_id = row[Column.PATIENT_ID]
    if not patient_id:
        wrong.append("PatientID is blank")
    elif not can_name_a_file(patient_id):
        wrong.append("PatientID cannot be a file's name")
    known_hpv = None
    if not says_nothing(schema, KNOWN_HPV, row[KNOWN_HPV]):
        try:
            known_hpv = read_known_status(row[KNOWN_HPV])
        except ValueError as error:
            wrong.append(f"{KNOWN_HPV} is {row[KNOWN_HPV]!r}, {error}")
    record = schema.read({name: row[name] for name in schema.names})
    return Patient(patient_id, row[Column.CENTER_ID], record, outcome, known_hpv, row[WEIGHT]), wrong


def _is_second_header(patient: Patient, first: bool) -> bool:
    """Tell whether a row has the header's word for its ID, or is the first and has words alone, as of units.

    Such a row is refused and not left out, as it may be a patient.
    """
    name, read = patient.patient_id, patient.clinical
    nothing_read = bool(read.odd) and all(value is None for value in read.values.values())
    return bool(_COLUMN_OF_IDS.fullmatch(name) or (first and nothing_read and not re.search(r"\d", name)))


def _read_stages(row: _Row, schema: ClinicalSchema) -> tuple[list[int | None], list[str]]:
    """Read T and N stage as far as they are labels, and say which cells are none."""
    stages, odd = list[int | None](), list[str]()
    for column in STAGES:
        text = row.get(column, "") if column in _stages(schema) else ""
        stage = None
        if not schema.is_missing(text):
            try:
                stage = read_stage(column, text)
            except ValueError as error:
                odd.append(f"{column} is {text!r}, {error}")
        stages.append(stage)
    return stages, odd


def _not_understood(patients: Sequence[Patient], rows: Sequence[tuple[int, _Row]]) -> dict[str, list[str]]:
    """Give the cells that are no values of their clinical field, by field."""
    cells: dict[str, list[str]] = {}
    for patient, (_, row) in zip(patients, rows, strict=True):
        for name in patient.clinical.odd:
            cells.setdefault(name, []).append(row[name])
    return cells


def _assumed(schema: ClinicalSchema, rows: Sequence[tuple[int, _Row]]) -> list[str]:
    """Say of which fields some cells are not sure to mean what they are read as."""
    said = list[str]()
    for field in schema.fields:
        known = field.assumed if isinstance(field, CategoricalField) else {}
        if cells := [row[field.name] for _, row in rows if normalized(row[field.name]) in known]:
            level = known[normalized(cells[0])]
            said.append(f"{field.name}: {len(cells)} values are not sure ({cells[0]!r} is assumed to be {level})")
    return said


def _join_centers(patients: Sequence[Patient]) -> tuple[list[Patient], list[str]]:
    """Give centers that are spelled in several ways the first one, and say so.

    Otherwise a center would be held out and trained on at once.
    """
    spellings: dict[str, list[str]] = {}
    for patient in patients:
        spellings.setdefault(plain_center(patient.center_id), []).append(patient.center_id)
    joined = [replace(patient, center_id=spellings[plain_center(patient.center_id)][0]) for patient in patients]
    several = [known for cells in spellings.values() if len(known := list(dict.fromkeys(cells))) > 1]
    return joined, [f"{Column.CENTER_ID}: {' and '.join(map(repr, known))} are taken for one" for known in several]


def plain_center(center_id: str) -> str:
    """Write a center's ID the one way that they are compared in: 1, 1.0 and 01 are "1"."""
    number = re.fullmatch(r"0*([0-9]+)(\.0*)?", center_id)
    return number[1] if number else " ".join(center_id.split()).casefold()


def _doubt_rows(patients: Sequence[Patient], schema: ClinicalSchema) -> list[str]:
    """Say so where rows may be sums or footnotes, as they have a name and perhaps numbers alone, unlike others."""
    categories = [field.name for field in schema.fields if isinstance(field, CategoricalField)]
    bare = [
        patient.patient_id
        for patient in patients
        if schema.is_missing(patient.center_id)
        and patient.outcome == Outcome()
        and patient.known_hpv is None
        and all(patient.clinical.values[name] is None for name in categories)
    ]
    if len(bare) in (0, len(patients)):
        return []
    return [
        "rows with neither center nor outcome nor any category of the record, which may be no patients: "
        f"{len(bare)} ({some_of(list(map(repr, bare)))})"
    ]


def _doubt_days(patients: Sequence[Patient]) -> list[str]:
    """Say so where times cannot well be days."""
    days = [p.outcome.rfs_days for p in patients if p.outcome.rfs_days is not None and p.outcome.has_rfs]
    if not days or (median := statistics.median(days)) >= FEWEST_DAYS:
        return []
    return [f"{Column.RFS_DAYS}: the median is {median:g} days; if these are months, multiply them by 30.4"]


def _is_zero_or_less(text: str) -> bool:
    try:
        return float(text) <= 0
    except ValueError:
        return False
