"""A cohort's folder, as HECKTOR releases it: one table and, for each patient, a CT, a PET and perhaps a mask.

The images lie either in a folder a patient or all in the cohort's folder:

    <folder>/<name>.csv, or .xlsx with a data dictionary on another sheet
    <folder>/<ID>/<ID>__CT.nii.gz, <ID>__PT.nii.gz, <ID>.nii.gz
    <folder>/<ID>__CT.nii.gz, ...
"""

import csv
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar
from zipfile import BadZipFile

import numpy as np

from mmpl.case import Case, Grid, Image, InvalidInputError, Outcome, Patient, describe_problems
from mmpl.geometry import extent_mm
from mmpl.io.images import read_grid, read_image
from mmpl.names import Column, Label
from mmpl.schema import ClinicalSchema, default_schema
from mmpl.units import check_units

TABLE_SUFFIXES = (".csv", ".xlsx")
SUV_FACTORS_NAME = "suv_factors.csv"
"""Table for patients whose PET is in Bq/ml: `PatientID` and `Factor`, what a voxel is multiplied by to be in SUV."""
NOT_A_COHORT_TABLE = ("truth.csv", "predictions.csv", SUV_FACTORS_NAME)
"""Tables that may lie in the same folder: the synthetic cohort's latent variables, this program's own answers, and SUV
factors."""

_SAME_PLACE_MM = 0.01  # what headers lose in float32 at the far corner of a whole-body scan, ten times over

_T = TypeVar("_T")
_Row = dict[str, str]


@dataclass(frozen=True)
class Cohort:
    """A checked cohort: the table is read, the images are found but not yet read.

    Attributes:
        patients: The patients, in the table's order.
        suv_factors: Factors that the PET of some patients is multiplied by to be in SUV, by patient ID.
    """

    folder: Path
    table: Path
    patients: tuple[Patient, ...]
    suv_factors: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def _by_id(self) -> dict[str, Patient]:
        return {patient.patient_id: patient for patient in self.patients}

    def patient(self, patient_id: str) -> Patient:
        """Look one patient up.

        Raises:
            InvalidInputError: The table has no such patient.
        """
        if patient_id not in self._by_id:
            raise InvalidInputError(f"{self.folder}: the table has no patient {patient_id}")
        return self._by_id[patient_id]

    def mask_path(self, patient_id: str) -> Path | None:
        """Find a patient's reference mask; None where there is none.

        Raises:
            InvalidInputError: There is one in the patient's folder and another in the cohort's.
        """
        path = _find(self.folder, patient_id, f"{patient_id}.nii.gz")
        return path if path.is_file() else None

    def has_mask(self, patient_id: str) -> bool:
        """Tell whether a patient has a reference mask."""
        return self.mask_path(patient_id) is not None

    def read_case(self, patient_id: str) -> Case:
        """Read the images of one patient.

        Raises:
            InvalidInputError: An image cannot be used, or the mask does not lie on the CT's grid.
        """
        patient, mask_path = self.patient(patient_id), self.mask_path(patient_id)
        ct = read_image(_find(self.folder, patient_id, f"{patient_id}__CT.nii.gz"))
        pet = read_image(_find(self.folder, patient_id, f"{patient_id}__PT.nii.gz"))
        reference = None if mask_path is None else _read_mask(mask_path, ct.grid)
        if patient_id in self.suv_factors:
            pet = Image(pet.voxels * np.float32(self.suv_factors[patient_id]), pet.grid)
        try:
            return check_units(Case(patient_id, ct, pet, patient.clinical, reference))
        except InvalidInputError as error:
            raise InvalidInputError(f"{self.folder}, patient {patient_id}: {error}") from error

    def check_mask(self, patient_id: str) -> None:
        """Read the mask of a patient, if there is one, against the CT's header alone.

        Raises:
            InvalidInputError: The CT has no readable header, or the mask is on another grid or has unknown labels.
        """
        path = self.mask_path(patient_id)
        if path is not None:
            _read_mask(path, read_grid(_find(self.folder, patient_id, f"{patient_id}__CT.nii.gz")))


def read_cohort(folder: Path, schema: ClinicalSchema | None = None) -> Cohort:
    """Read and check a cohort's table, and that every patient in it has images.

    Args:
        folder: Cohort's folder, in the released layout.
        schema: Schema of the clinical record: that of the weights or of the training run; by default that of
            `resources/clinical.yaml`.

    Raises:
        InvalidInputError: There is not exactly one table, or it has problems; the message lists them all.
    """
    cohort, problems = inspect_cohort(folder, schema)
    if problems:
        raise InvalidInputError(describe_problems(cohort.table, problems))
    return cohort


def inspect_cohort(folder: Path, schema: ClinicalSchema | None = None) -> tuple[Cohort, list[str]]:
    """Read a cohort's table as far as it can be read, and list what is wrong with it and with the files it names.

    Args:
        folder: Cohort's folder, in the released layout.
        schema: Schema of the clinical record, as in `read_cohort`.

    Raises:
        InvalidInputError: There is not exactly one table, or it cannot be read at all.
    """
    schema, table = schema or default_schema(), find_table(folder)
    header, rows = _read_table(table, schema)
    problems = _check_header(header, schema)
    blank = dict.fromkeys(_needed_columns(schema), "")
    patients = []
    for line, row in rows:
        patient, wrong = _read_row(blank | row, schema)
        if Column.PATIENT_ID not in header:
            continue
        problems += [f"line {line}, patient {patient.patient_id or '(none)'}: {what}" for what in wrong]
        if _can_name_a_file(patient.patient_id):
            problems += _check_images(folder, patient.patient_id)
        patients.append(patient)
    counts = Counter(patient.patient_id for patient in patients)
    problems += [f"patient {name}: {count} rows" for name, count in counts.items() if name and count > 1]
    if not rows:
        problems.append("no patient")
    factors, wrong = _read_suv_factors(folder / SUV_FACTORS_NAME)
    return Cohort(folder, table, tuple(patients), factors), problems + wrong


def _read_suv_factors(path: Path) -> tuple[dict[str, float], list[str]]:
    """Read the factors, where there are any, and what is wrong with them."""
    if not path.is_file():
        return {}, []
    (_, header), *rows = _read_csv(path) or [(1, [])]
    if header != [Column.PATIENT_ID, "Factor"]:
        return {}, [f"{path.name}: the columns must be PatientID and Factor, not {', '.join(header)}"]
    factors, wrong = {}, []
    for line, cells in rows:
        try:
            name, factor = cells[0], float(cells[1])
        except (ValueError, IndexError):
            name, factor = "", math.nan
        if name and 0 < factor < math.inf:
            factors[name] = factor
        else:
            wrong.append(f"{path.name}, line {line}: {', '.join(cells)} is not a patient and a factor above 0")
    return factors, wrong


def find_table(folder: Path) -> Path:
    """Find the one table of a cohort's folder, CSV or XLSX.

    Raises:
        InvalidInputError: The folder, or the table, does not exist, or there are several.
    """
    if not folder.is_dir():
        raise InvalidInputError(f"{folder}: no such folder")
    tables = sorted(
        path
        for path in folder.iterdir()
        if path.suffix in TABLE_SUFFIXES and path.name not in NOT_A_COHORT_TABLE and not path.name.startswith("~$")
    )
    if not tables:
        raise InvalidInputError(f"{folder}: no table; the cohort's *.csv or *.xlsx must lie in it")
    if len(tables) > 1:
        names = ", ".join(path.name for path in tables)
        raise InvalidInputError(f"{folder}: {len(tables)} tables ({names}); leave the cohort's alone in the folder")
    return tables[0]


def _read_table(table: Path, schema: ClinicalSchema) -> tuple[list[str], list[tuple[int, _Row]]]:
    """Read header and rows, each row with its line; columns by their released names, others left out."""
    lines = _read_xlsx(table) if table.suffix == ".xlsx" else _read_csv(table)
    header = [_column(name, schema) for name in lines[0][1]] if lines else []
    rows = [(line, cells) for line, cells in lines[1:] if any(cell.strip() for cell in cells)]
    uneven = [
        f"line {line}: {len(cells)} cells, not {len(header)}" for line, cells in rows if len(cells) != len(header)
    ]
    if uneven:
        raise InvalidInputError(describe_problems(table, uneven))
    return header, [(line, dict(zip(header, map(str.strip, cells), strict=True))) for line, cells in rows]


def _read_csv(table: Path) -> list[tuple[int, list[str]]]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            return [(reader.line_num, cells) for cells in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidInputError(f"{table}: not a readable table ({error})") from error


def _read_xlsx(table: Path) -> list[tuple[int, list[str]]]:
    """Read the sheet whose first row names the patients' column; the released workbook has a data dictionary beside."""
    from openpyxl import load_workbook

    try:
        with table.open("rb") as file:
            book = load_workbook(file, read_only=True, data_only=True)
            sheets = [[[_cell(value) for value in row] for row in sheet.iter_rows(values_only=True)] for sheet in book]
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise InvalidInputError(f"{table}: not a readable workbook ({error})") from error
    found = [rows for rows in sheets if rows and any(_is_patient_column(name) for name in rows[0])]
    if len(found) != 1:
        raise InvalidInputError(f"{table}: {len(found)} sheets have a column {Column.PATIENT_ID}, and one is needed")
    (rows,) = found
    width = max((i + 1 for i, name in enumerate(rows[0]) if name), default=0)
    return [(number, (row + [""] * width)[:width]) for number, row in enumerate(rows, 1)]


def _is_patient_column(name: str) -> bool:
    return name.strip().casefold() == Column.PATIENT_ID.casefold()


def _cell(value: object) -> str:
    """Write a cell as a CSV would hold it."""
    if value is None:
        return ""
    return str(int(value)) if isinstance(value, bool) else str(value)


def _column(name: str, schema: ClinicalSchema) -> str:
    """Bring a column's name to its released spelling, where it is known."""
    plain = name.strip()
    columns = {column.casefold(): column.value for column in Column}
    return columns.get(plain.casefold()) or schema.field_of_key(plain) or plain


def _needed_columns(schema: ClinicalSchema) -> tuple[str, ...]:
    return (*(column.value for column in Column), *schema.names)


def _check_header(header: Sequence[str], schema: ClinicalSchema) -> list[str]:
    needed = _needed_columns(schema)
    missing = [f"column {name!r} is missing (its cells may be blank)" for name in needed if name not in header]
    return missing + [f"column {name!r} is there twice" for name in needed if header.count(name) > 1]


def _read_row(row: _Row, schema: ClinicalSchema) -> tuple[Patient, list[str]]:
    """Read one row and what is wrong with it."""
    wrong: list[str] = []

    def cell(column: Column, parse: Callable[[str], _T]) -> _T | None:
        if schema.is_missing(row[column]):
            return None
        try:
            return parse(row[column])
        except ValueError as error:
            wrong.append(f"{column} is {row[column]!r}, {error}")
            return None

    outcome = Outcome(
        cell(Column.HPV_STATUS, _parse_flag), cell(Column.RELAPSE, _parse_flag), cell(Column.RFS_DAYS, _parse_days)
    )
    patient_id = row[Column.PATIENT_ID]
    if not patient_id:
        wrong.append("PatientID is blank")
    elif not _can_name_a_file(patient_id):
        wrong.append("PatientID cannot be a file's name")
    record = schema.read({name: row[name] for name in schema.names})
    return Patient(patient_id, row[Column.CENTER_ID], record, outcome), wrong


def _can_name_a_file(patient_id: str) -> bool:
    return Path(patient_id).name == patient_id not in ("", "..")


def _parse_flag(text: str) -> bool:
    try:
        return {0.0: False, 1.0: True}[float(text)]
    except (ValueError, KeyError):
        raise ValueError("not 0 or 1") from None


def _parse_days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = math.nan
    if not 0 <= days < math.inf:
        raise ValueError("not a number of days, 0 or more")
    return days


def _find(folder: Path, patient_id: str, name: str) -> Path:
    """Give the path of a patient's file, in the patient's folder or, where it lies there, in the cohort's.

    Raises:
        InvalidInputError: It lies in both.
    """
    flat, nested = folder / name, folder / patient_id / name
    if flat.is_file() and nested.is_file():
        raise InvalidInputError(f"{flat} and {nested}: one of the two is too many")
    return flat if flat.is_file() else nested


def _check_images(folder: Path, patient_id: str) -> list[str]:
    """List the images that a patient lacks, and the images and masks that are there twice."""
    wrong = []
    for name, needed in (
        (f"{patient_id}__CT.nii.gz", "CT image"),
        (f"{patient_id}__PT.nii.gz", "PT image"),
        (f"{patient_id}.nii.gz", None),
    ):
        try:
            found = _find(folder, patient_id, name).is_file()
        except InvalidInputError as error:
            wrong.append(f"patient {patient_id}: {error}")
            continue
        if needed and not found:
            wrong.append(f"patient {patient_id}: no {needed}, neither {folder / patient_id / name} nor {folder / name}")
    return wrong


def _read_mask(path: Path, ct: Grid) -> Image:
    """Read a mask and lay it on the CT's own grid, where its header agrees but for rounding."""
    mask = read_image(path)
    if mask.grid.size_xyz != ct.size_xyz:
        raise InvalidInputError(f"{path}: the mask has {mask.grid.size_xyz} voxels, the CT {ct.size_xyz} (x, y, z)")
    apart = np.abs(np.subtract(extent_mm(mask.grid), extent_mm(ct))).max()
    if not apart <= _SAME_PLACE_MM:
        raise InvalidInputError(f"{path}: the mask does not lie where the CT lies ({apart:.3g} mm apart)")
    known = np.isin(mask.voxels, list(Label))
    if not known.all():
        odd = sorted(set(np.unique(mask.voxels[~known]).tolist()))[:5]
        raise InvalidInputError(f"{path}: the mask has labels {odd}; only 0, 1 and 2 are known")
    return Image(mask.voxels.astype(np.uint8), ct)
