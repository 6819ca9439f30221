"""Factors that bring the PET of a cohort's patients from Bq/ml to SUV by body weight, from either of two tables."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmpl.case import Image, InvalidInputError
from mmpl.errors import some_of
from mmpl.io.tables import read_table
from mmpl.names import Column
from mmpl.units import LEAST_PEAK_SUV, is_suv

SUV_FACTORS_NAME = "suv_factors.csv"
"""Our table of patients whose PET is in Bq/ml: `PatientID` and `Factor`, which brings a voxel to SUV."""
SUV_TAGS_NAME = "suv_conversion_tags.csv"
"""The organisers' table: `pid` and `bqml_to_suvbw_factor`, by the DICOM headers, and `units`, those of the PET."""

_SPELLINGS = {
    "patientid": Column.PATIENT_ID.value,
    "pid": Column.PATIENT_ID.value,
    "factor": "factor",
    "bqml_to_suvbw_factor": "factor",
    "units": "units",
}
_ACTIVITY, _SUV = "BQML", "GML"  # as DICOM names the units of a PET


def read_suv_factors(places: Sequence[Path], patients: Sequence[str]) -> tuple[dict[str, float], list[str], list[str]]:
    """Read the factors that a cohort's folders have, for its patients.

    Args:
        places: The cohort's folder, and those in it that may hold such tables too.
        patients: IDs of its patients.

    Returns:
        Factor by patient ID, what is wrong with the tables, and what a reader should know of them.
    """
    factors, wrong, remarks = dict[str, float](), list[str](), list[str]()
    told: dict[str, str] = {}
    for path in (place / name for place in places for name in (SUV_FACTORS_NAME, SUV_TAGS_NAME)):
        if path.is_file():
            found, problems, strangers = _read(path)
            here = f"{path.parent.name}/{path.name}"
            for name in (*found, *strangers):
                if told.setdefault(name, here) != here:
                    problems.append(f"{path.name}: {name} is in {told[name]}, too")
            wrong += problems
            factors |= found
            unknown = [name for name in (*found, *strangers) if name not in patients]
            alike = {patient.casefold(): patient for patient in patients}
            wrong += [
                f"{path.name}: no patient {name}; there is {alike[name.casefold()]}"
                for name in unknown
                if name.casefold() in alike
            ]
            if unknown and len(unknown) == len(found) + len(strangers):
                wrong.append(f"{path.name}: none of its patients is in the cohort's table")
            elif unknown:
                remarks.append(f"{path.name}: not in the cohort's table: {some_of(unknown)}")
    return {name: factor for name, factor in factors.items() if name in patients}, wrong, remarks


def to_suv(pet: Image, factor: float) -> Image:
    """Bring a PET to SUV by its factor.

    Raises:
        InvalidInputError: It is in SUV already, as far as its values tell, and would not be with the factor.
    """
    scaled = pet.voxels * np.float32(factor)
    if is_suv(pet.voxels) and scaled.max() < LEAST_PEAK_SUV <= pet.voxels.max():
        raise InvalidInputError(f"the PET is in SUV already, by its values, and has a factor ({factor:g}) all the same")
    return Image(scaled, pet.grid)


def _read(path: Path) -> tuple[dict[str, float], list[str], list[str]]:
    """Read one table: factors, problems, and the patients whose PET is in SUV already."""
    try:
        table = read_table(path, lambda name: _SPELLINGS.get(name.casefold()))
    except InvalidInputError as error:
        return {}, [str(error)], []
    wrong = [f"{path.name}, {problem}" for problem in table.problems]
    if table.header.count("units") > 1:
        wrong.append(f"{path.name}: column units is there twice")
    if missing := [name for name in (Column.PATIENT_ID.value, "factor") if table.header.count(name) != 1]:
        return {}, [*wrong, f"{path.name}: one column {' and one '.join(missing)} is needed"], []
    factors, in_suv = dict[str, float](), list[str]()
    for line, row in table.rows:
        name, text = row[Column.PATIENT_ID], row["factor"]
        if name in factors or name in in_suv:
            wrong.append(f"{path.name}, line {line}: patient {name} is there twice")
        elif name and (unit := row.get("units", _ACTIVITY).upper()) == _SUV:
            in_suv.append(name)
        elif name and unit != _ACTIVITY:
            wrong.append(
                f"{path.name}, line {line}: the PET of {name} is in {unit or 'no unit'}, not {_ACTIVITY} or {_SUV}"
            )
        elif name and 0 < _number(text) < math.inf:
            factors[name] = _number(text)
        else:
            wrong.append(f"{path.name}, line {line}: {name}, {text} is not a patient and a factor above 0")
    return factors, wrong, in_suv


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
