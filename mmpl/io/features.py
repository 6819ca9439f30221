"""Radiomics that others measured: a table with a row a patient and a column a feature."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmpl.case import InvalidInputError, describe_problems
from mmpl.errors import some_of
from mmpl.evidence import DEEP_SCORE, EXPECTED_DAYS_SCORE, HPV_PROBABILITY, FeatureTable
from mmpl.io.patients import meaning
from mmpl.io.tables import read_table, require
from mmpl.names import Column
from mmpl.schema import ClinicalSchema, plain_name

_MISSING = ("", "nan", "na")
_MOST_SHOWN = 5
_LARGEST = 1e30
_SCORES = (DEEP_SCORE, EXPECTED_DAYS_SCORE, HPV_PROBABILITY)


def read_features(path: Path, patients: Sequence[str], schema: ClinicalSchema) -> FeatureTable:
    """Read the features of some patients; every column but `PatientID` is one, and a blank cell is a missing value.

    Args:
        path: A CSV file or a workbook.
        patients: IDs of the patients, in the order of the answer's rows.
        schema: Schema of the clinical record, whose fields are no features, as outcomes are none.

    Raises:
        InvalidInputError: It cannot be read, has a column of the record or of the outcomes, a cell is no number, or a
            patient has no row; the message names them.
    """

    def spell(name: str) -> str:
        return Column.PATIENT_ID.value if plain_name(name) == plain_name(Column.PATIENT_ID) else name

    table = read_table(path, spell)
    require(table, ())
    names = [name for name in table.header if name and name != Column.PATIENT_ID]
    problems = [f"column {name!r} is there twice" for name, count in Counter(names).items() if count > 1]
    problems += [f"column {name!r} is {meaning(schema, name)}: no feature" for name in names if meaning(schema, name)]
    problems += [f"column {name!r} is a score of the models: rename it" for name in names if name in _SCORES]
    rows = {row[Column.PATIENT_ID]: (line, row) for line, row in table.rows}
    if absent := [name for name in patients if name not in rows]:
        problems.append(f"no row for patient {some_of(absent)}")
    values = np.full((len(patients), len(names)), np.nan)
    for at, patient in enumerate(patients):
        line, row = rows.get(patient, (0, {}))
        for column, name in enumerate(names):
            text = row.get(name, "")
            if text.casefold() in _MISSING:
                continue
            try:
                values[at, column] = float(text)
            except ValueError:
                problems.append(f"line {line}: {name} is {text!r}, not a number")
            if abs(values[at, column]) > _LARGEST:
                problems.append(f"line {line}: {name} is {text}, no plausible number")
    if problems:
        left_out = len(problems) - _MOST_SHOWN
        shown = problems[:_MOST_SHOWN] + [f"and {left_out} more"] * (left_out > 0)
        raise InvalidInputError(describe_problems(path, shown))
    return FeatureTable(tuple(names), values)
