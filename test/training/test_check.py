"""The check of a cohort's folder before training."""

import csv
from pathlib import Path

import pytest

from mmpl.case import InvalidInputError
from mmpl.names import Column
from mmpl.schema import default_schema
from mmpl.training.check import check_cohort
from mmpl.training.parallel import Engine


def test_a_field_that_the_runs_own_schema_lacks_is_not_asked_for(tmp_path: Path) -> None:
    schema = default_schema()
    fewer = schema.model_validate({**schema.model_dump(), "fields": schema.model_dump()["fields"][:-1]})
    with (tmp_path / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*Column, *fewer.names])
        writer.writerow(["A", "1", *[""] * (len(Column) - 2 + len(fewer.names))])
    missing = f"column {schema.names[-1]!r} is missing"
    with pytest.raises(InvalidInputError, match=missing):
        check_cohort(tmp_path, Engine(1))
    with pytest.raises(InvalidInputError, match="no CT image") as caught:
        check_cohort(tmp_path, Engine(1), fewer)
    assert missing not in str(caught.value)
