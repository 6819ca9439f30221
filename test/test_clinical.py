"""The encoder of clinical records: columns, their numbers, and what training never saw."""

import math
from pathlib import Path

import numpy as np
import pytest

from mmpl.case import ClinicalRecord
from mmpl.clinical import ClinicalEncoder
from mmpl.files import read_json, write_json
from mmpl.schema import CategoricalField, ClinicalSchema, default_schema

SCHEMA = default_schema()
COMPLETE = {
    "Age": 61,
    "Gender": 1,
    "Tobacco Consumption": 0,
    "Alcohol Consumption": 1,
    "Performance Status": 2,
    "Treatment": 1,
    "M-stage": "M0",
}


def records(*ages: float | None, **levels: str) -> list[ClinicalRecord]:
    return [ClinicalRecord({"Age": age, **levels}) for age in ages]


def test_encodes_golden_values() -> None:
    training = [
        SCHEMA.read(COMPLETE | {"Age": age, "Gender": gender, "Performance Status": status})
        for age, gender, status in [(50, 0, 0), (60, 1, 2), (None, None, 0), (80, 1, 0)]
    ]
    encoder = ClinicalEncoder.fit(training, SCHEMA)
    assert encoder.names == (
        "Age",
        "Age_missing",
        "Gender=0",
        "Gender=1",
        "Gender=missing",
        "Tobacco Consumption=0",
        "Tobacco Consumption=missing",
        "Alcohol Consumption=1",
        "Alcohol Consumption=missing",
        "Performance Status=0",
        "Performance Status=2",
        "Performance Status=missing",
        "Treatment=1",
        "Treatment=missing",
        "M-stage=M0",
        "M-stage=missing",
    )
    # 50, 60, 80: mean 190/3, SD sqrt(1400/9), median 60.
    sd = math.sqrt(1400) / 3
    rest = [1, 0, 1, 0]
    table = encoder.encode(training)
    assert table.names == encoder.names
    np.testing.assert_allclose(
        table.values,
        [
            [(50 - 190 / 3) / sd, 0, 1, 0, 0, *rest, 1, 0, 0, *rest],
            [(60 - 190 / 3) / sd, 0, 0, 1, 0, *rest, 0, 1, 0, *rest],
            [(60 - 190 / 3) / sd, 1, 0, 0, 1, *rest, 1, 0, 0, *rest],
            [(80 - 190 / 3) / sd, 0, 0, 1, 0, *rest, 1, 0, 0, *rest],
        ],
        rtol=1e-12,
    )


def test_unseen_level_encodes_as_missing_and_says_so() -> None:
    encoder = ClinicalEncoder.fit([SCHEMA.read(COMPLETE)], SCHEMA)
    record = SCHEMA.read(COMPLETE | {"M-stage": "M1"})
    table = encoder.encode([record])
    assert table.read(["M-stage=missing"]) == 1.0
    assert "M-stage=M1" not in table.names
    assert encoder.notes(record) == ("M-stage M1 was in no training record: taken as missing",)
    assert encoder.notes(SCHEMA.read(COMPLETE)) == ()
    assert encoder.notes(SCHEMA.read({})) == ()


def test_constant_and_never_seen_continuous_fields_stay_finite() -> None:
    constant = ClinicalEncoder.fit(records(61.0, 61.0), SCHEMA)
    encoded = constant.encode(records(61.0, 62.0, None)).read(["Age", "Age_missing"])
    np.testing.assert_array_equal(encoded, [[0, 0], [1, 0], [0, 1]])
    never = ClinicalEncoder.fit(records(None, None), SCHEMA)
    assert np.isfinite(never.encode(records(61.0, None)).values).all()


def test_encodes_no_record() -> None:
    encoder = ClinicalEncoder.fit([SCHEMA.read(COMPLETE)], SCHEMA)
    assert encoder.encode([]).values.shape == (0, len(encoder.names))


def test_columns_are_those_of_the_schema_it_was_fitted_by() -> None:
    """As of other weights: the schema beside has nothing to say."""
    stage = CategoricalField(name="T-stage", levels={"T1": (), "T4": ("t4a", "t4b")})
    schema = ClinicalSchema(missing=("",), ignored=(), fields=(stage,))
    training = [schema.read({"T-stage": value}) for value in ("T1", "T4b", "")]
    table = ClinicalEncoder.fit(training, schema).encode(training)
    assert table.names == ("T-stage=T1", "T-stage=T4", "T-stage=missing")
    np.testing.assert_array_equal(table.values, np.eye(3))


def test_survives_json(tmp_path: Path) -> None:
    training = [SCHEMA.read(COMPLETE | {"Age": age}) for age in (41.3, 57, None, 72)]
    encoder = ClinicalEncoder.fit(training, SCHEMA)
    write_json(tmp_path / "encoder.json", encoder)
    restored = read_json(tmp_path / "encoder.json", ClinicalEncoder)
    assert restored == encoder
    np.testing.assert_array_equal(restored.encode(training).values, encoder.encode(training).values)
    write_json(tmp_path / "encoder.json", encoder.model_dump(mode="json") | {"version": 1})
    with pytest.raises(ValueError, match="version"):
        read_json(tmp_path / "encoder.json", ClinicalEncoder)
