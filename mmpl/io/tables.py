"""Tables as people keep them, CSV and XLSX: read to their true end, or refused in words that say what to change."""

import csv
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmpl.case import InvalidInputError, describe_problems
from mmpl.errors import some_of
from mmpl.names import Column

if TYPE_CHECKING:
    from openpyxl import Workbook
    from openpyxl.worksheet.worksheet import Worksheet

_HEADER_WITHIN = 20  # lines in which a header that is not the first is looked for
_SEPARATOR_LINE = re.compile("sep=.?,?", re.DOTALL)  # with which some spreadsheet programs begin
_DELIMITERS = {";": "semicolons", "\t": "tabs", "|": "bars"}

Spell = Callable[[str], str | None]
_Lines = list[tuple[int, list[str]]]


@dataclass(frozen=True)
class Table:
    """A table of patients: its columns and its rows, blanks round every cell taken off.

    Attributes:
        header: Names of the columns as they were asked for; "" for a column that was not.
        rows: Line of each row, and its cells by column.
        problems: What is wrong with it, a sentence each; what they are about must not be relied on.
        unread: Names of the columns that were not asked for, as they stand there.
    """

    path: Path
    header: tuple[str, ...]
    rows: tuple[tuple[int, dict[str, str]], ...]
    problems: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()


def read_table(path: Path, spell: Spell) -> Table:
    """Read a table whose first line names its columns, `PatientID` among them; blank rows are skipped.

    Args:
        path: A CSV file with commas, or a workbook of which one sheet has that column; hidden ones are not looked at.
        spell: Function that gives the name by which a column is asked for, or None where it is not; `PatientID` for
            that of the patients, however it is spelled.

    Raises:
        InvalidInputError: It cannot be read as such a table at all; the message names it.
    """
    read = _read_xlsx if path.suffix.lower() == ".xlsx" else _read_csv
    lines, problems = read(path, spell)
    header = tuple(spell(name.strip()) or "" for name in lines[0][1]) if lines else ()
    rows = []
    for line, cells in lines[1:]:
        if not any(cell.strip() for cell in cells):
            continue
        if any(cell.strip() for cell in cells[len(header) :]) or len(cells) < len(header):
            problems.append(f"line {line}: {len(cells)} cells, not {len(header)}")
            continue
        rows.append((line, dict(zip(header, map(str.strip, cells), strict=False))))
    unread = [name.strip() for name, asked in zip(lines[0][1], header, strict=True) if not asked] if lines else []
    return Table(path, header, tuple(rows), tuple(problems), tuple(filter(None, unread)))


def require(table: Table, columns: Sequence[str]) -> None:
    """Refuse a table that has problems, or that lacks a column or a patient's name or has one twice.

    Raises:
        InvalidInputError: It does; the message lists all there is.
    """
    problems = [*table.problems]
    for column in (Column.PATIENT_ID.value, *columns):
        if table.header.count(column) != 1:
            problems.append(f"no column {column}" if column not in table.header else f"column {column} is there twice")
    if not problems:
        seen: dict[str, int] = {}
        for line, row in table.rows:
            name = row[Column.PATIENT_ID]
            if not name:
                problems.append(f"line {line}: {Column.PATIENT_ID} is blank")
            elif name in seen:
                problems.append(f"line {line}: patient {name} is there twice, in line {seen[name]}, too")
            seen[name] = line
    if problems:
        raise InvalidInputError(describe_problems(table.path, problems))


def merge_tables(
    tables: Sequence[Table], folder: Path, says_nothing: Callable[[str, str], bool]
) -> tuple[Table, list[str]]:
    """Merge tables by patient.

    Args:
        tables: The tables; one alone stays as it is.
        folder: Folder that all lie below, for their names in messages.
        says_nothing: Function that tells of a column and a cell whether the value is said not to be known.

    Returns:
        The table, in the order of the first that names a patient, and the problems: the tables' own, and where two say
        different things of one patient.
    """
    if len(tables) == 1:
        return tables[0], list(tables[0].problems)
    header, rows, problems = list[str](), dict[str, tuple[int, dict[str, str]]](), list[str]()
    said_in: dict[tuple[str, str], str] = {}
    for table in tables:
        name = str(table.path.relative_to(folder))
        problems += [f"{name}, {problem}" for problem in table.problems]
        repeated = [column for column, count in Counter(table.header).items() if column and count > 1]
        problems += [f"{name}: column {column!r} is there twice" for column in repeated]
        if Column.PATIENT_ID not in table.header:
            problems.append(f"{name}: column {Column.PATIENT_ID.value!r} is missing")
            continue
        header += [column for column in table.header if column not in header]
        twice = [patient for patient, n in Counter(row[Column.PATIENT_ID] for _, row in table.rows).items() if n > 1]
        problems += [f"{name}: patient {patient or '(none)'} has several rows" for patient in twice]
        for line, row in table.rows:
            patient = row[Column.PATIENT_ID]
            _, merged = rows.setdefault(patient, (line, {}))
            for column, text in row.items():
                if says_nothing(column, text):
                    continue
                before = merged.get(column, "")
                if before and text and not same(before, text) and patient not in twice:
                    there = said_in[patient, column]
                    problems.append(f"patient {patient}: {column} is {before!r} in {there} and {text!r} in {name}")
                elif text and not before:
                    merged[column], said_in[patient, column] = text, name
    blank = dict.fromkeys(header, "")
    unread = dict.fromkeys(name for table in tables for name in table.unread)
    merged_rows = tuple((line, blank | row) for line, row in rows.values())
    return Table(tables[0].path, tuple(header), merged_rows, unread=tuple(unread)), problems


def same(one: str, other: str) -> bool:
    """Tell whether two cells say the same: 1 and 1.0 do."""
    try:
        return one.casefold() == other.casefold() or float(one) == float(other)
    except ValueError:
        return False


def _is_header(cells: Sequence[str], spell: Spell) -> bool:
    """Tell whether a line names the patients' column."""
    return any(spell(cell.strip()) == Column.PATIENT_ID for cell in cells)


def _read_csv(path: Path, spell: Spell) -> tuple[_Lines, list[str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            lines = [(reader.line_num, cells) for cells in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidInputError(f"{path}: not a readable table ({error})") from error
    if lines and _SEPARATOR_LINE.fullmatch(",".join(lines[0][1])):
        lines = lines[1:]
    if lines and not _is_header(lines[0][1], spell):
        first = ",".join(lines[0][1]).replace('"', "")
        for delimiter, name in _DELIMITERS.items():
            if _is_header(first.split(delimiter), spell):
                raise InvalidInputError(f"{path}: the cells are parted by {name}; save it with commas")
        _refuse_later_header(str(path), lines, spell)
    # a quotation mark that stands alone takes the lines after it into its cell
    broken = [line for line, cells in lines if any("\n" in cell or "\r" in cell for cell in cells)]
    return lines, [f"line {line}: a cell holds a line break; is a quotation mark missing?" for line in broken]


def _refuse_later_header(source: str, lines: _Lines, spell: Spell) -> None:
    """Refuse a table whose header is not its first line.

    Raises:
        InvalidInputError: It has lines before it.
    """
    if lines and _is_header(lines[0][1], spell):
        return
    for line, cells in lines[1:_HEADER_WITHIN]:
        if _is_header(cells, spell):
            raise InvalidInputError(f"{source}: the header is line {line}; delete the lines before it")


def _read_xlsx(path: Path, spell: Spell) -> tuple[_Lines, list[str]]:
    """Read the visible sheet that has the patients' column; the released workbook has a data dictionary on another."""
    try:
        values, formulas = _open(path, data_only=True), _open(path, data_only=False)
        every = {sheet.title: _lines(sheet) for sheet in values.worksheets}
    except ModuleNotFoundError:
        raise
    except Exception as error:  # a damaged workbook ends in whatever its parsers meet first
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InvalidInputError(f"{path}: not a readable workbook ({reason})") from error
    if not any(every.values()):  # nor is there a sheet, to openpyxl, in Strict Open XML
        raise InvalidInputError(f"{path}: no sheet that can be read; save it as Excel workbook (.xlsx) or as CSV")
    sheets = {title: lines for title, lines in every.items() if values[title].sheet_state == "visible"}
    found = [title for title, lines in sheets.items() if _may_be_the_table(lines, spell)]
    if len(found) < 2:
        for title in found or sheets:
            _refuse_later_header(f"{path}, sheet {title}", sheets[title], spell)
    if len(found) != 1:
        hidden = [f"{title} is hidden" for title, lines in every.items() if _may_be_the_table(lines, spell)]
        which = f" ({', '.join(found or hidden)})" if found or hidden else ""
        raise InvalidInputError(
            f"{path}: {len(found)} sheets have a column {Column.PATIENT_ID}{which}, and one is needed"
        )
    lines = sheets[found[0]]
    return lines, _sheet_problems(values[found[0]], formulas[found[0]], lines, spell)


def _may_be_the_table(lines: _Lines, spell: Spell) -> bool:
    """Tell whether a sheet has a header; one below its first line names more than the patients, as a dictionary may."""
    return any(
        _is_header(cells, spell) and (line == 1 or sum(spell(cell.strip()) is not None for cell in cells) > 1)
        for line, cells in lines[:_HEADER_WITHIN]
    )


def _open(path: Path, data_only: bool) -> "Workbook":
    """Open a workbook with the values that its formulas last had, or with the formulas."""
    from openpyxl import load_workbook

    with path.open("rb") as file:
        return load_workbook(file, data_only=data_only)


def _lines(sheet: "Worksheet") -> _Lines:
    """Read a sheet as far as its cells hold something, whatever it says of its size; columns as far as the header."""
    end = max((row for (row, _), cell in sheet._cells.items() if cell.value is not None), default=0)
    rows = [list(map(cell_text, row)) for row in sheet.iter_rows(max_row=end, values_only=True)] if end else []
    width = max((position for position, name in enumerate(rows[0], 1) if name), default=0) if rows else 0
    return [(number, row[: max(width, _filled(row))]) for number, row in enumerate(rows, 1)]


def _filled(row: Sequence[str]) -> int:
    """Number of cells up to the last that is not blank."""
    return max((position for position, text in enumerate(row, 1) if text), default=0)


def _sheet_problems(values: "Worksheet", formulas: "Worksheet", lines: _Lines, spell: Spell) -> list[str]:
    """List what a spreadsheet shows otherwise than a reader of its cells would take it."""
    wanted = [position for position, name in enumerate(lines[0][1], 1) if spell(name.strip())]
    problems = [
        f"cells {cells.coord} are merged: unmerge them, and fill each"
        for cells in formulas.merged_cells.ranges
        if any(cells.min_col <= position <= cells.max_col for position in wanted)
    ]
    hidden = [line for line, cells in lines if any(cells) and formulas.row_dimensions[line].hidden]
    if hidden:
        problems.append(f"line {some_of(hidden)}: hidden; show what belongs to the cohort, and delete the rest")
    problems += [
        f"cell {cell.coordinate} holds a formula without its value: save it as values"
        for (line, position), cell in sorted(formulas._cells.items())
        if cell.data_type == "f" and line > 1 and position in wanted and values.cell(line, position).value is None
    ]
    return problems


def cell_text(value: object) -> str:
    """Write a cell as a CSV would hold it."""
    if value is None:
        return ""
    return str(int(value)) if isinstance(value, bool) else str(value)
