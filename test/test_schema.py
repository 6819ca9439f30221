"""The schema of the clinical record: what is understood, what is missing, and what is said about it."""

import json
import math

import numpy as np
import pytest
from pydantic import ValidationError

from mmpl.schema import CategoricalField, ClinicalSchema, ContinuousField, default_schema

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


def test_fields_are_those_of_the_released_record() -> None:
    assert SCHEMA.names == tuple(COMPLETE)


def test_reads_a_complete_record_without_comment() -> None:
    record = SCHEMA.read(COMPLETE | {"CenterID": 3})
    assert dict(record.values) == {
        "Age": 61.0,
        "Gender": "1",
        "Tobacco Consumption": "0",
        "Alcohol Consumption": "1",
        "Performance Status": "2",
        "Treatment": "1",
        "M-stage": "M0",
    }
    assert record.assumed == ()


@pytest.mark.parametrize(
    ("key", "value", "field", "expected"),
    [
        ("age", "61", "Age", 61.0),
        ("AGE", " 61.5 ", "Age", 61.5),
        ("Age at diagnosis", 61.0, "Age", 61.0),
        ("Gender", 1.0, "Gender", "1"),
        ("gender", "1.0", "Gender", "1"),
        ("Sex", "Male", "Gender", "1"),
        ("sex", "F", "Gender", "0"),
        ("tobacco_consumption", "yes", "Tobacco Consumption", "1"),
        ("TobaccoConsumption", False, "Tobacco Consumption", "0"),
        ("alcohol-consumption", True, "Alcohol Consumption", "1"),
        ("performance status", np.float64(3.0), "Performance Status", "3"),
        ("ECOG", "ECOG 1", "Performance Status", "1"),
        ("treatment", "Chemoradiotherapy", "Treatment", "1"),
        ("M stage", "m1", "M-stage", "M1"),
        ("m_stage", "MX", "M-stage", "Mx"),
        ("Mstage", 0, "M-stage", "M0"),
    ],
)
def test_reads_spellings(key: str, value: object, field: str, expected: float | str) -> None:
    record = SCHEMA.read({name: known for name, known in COMPLETE.items() if name != field} | {key: value})
    assert record.values[field] == expected
    assert record.assumed == ()


@pytest.mark.parametrize("value", [None, math.nan, "", "  ", "NaN", "nan", "Unknown", "N/A", "null", "-"])
@pytest.mark.parametrize("field", COMPLETE)
def test_what_says_missing_is_missing(field: str, value: object) -> None:
    record = SCHEMA.read(COMPLETE | {field: value})
    assert record.values[field] is None
    (note,) = record.assumed
    assert note.startswith(f"{field} is ")
    assert note.endswith(": taken as missing")
    assert SCHEMA.is_missing(value)


@pytest.mark.parametrize(
    ("field", "value", "shown"),
    [
        ("Age", -5, "-5"),
        ("Age", 900, "900"),
        ("Age", True, "True"),
        ("Age", "sixty", "'sixty'"),
        ("Age", math.inf, "inf"),
        ("Age", [61], "[61]"),
        pytest.param("Age", 10**5000, "a huge number", id="huge"),
        ("Gender", 3, "3"),
        ("Treatment", 3, "3"),
        ("Gender", 0.5, "0.5"),
        ("Performance Status", 5, "5"),
        ("Performance Status", True, "True"),
        ("M-stage", "M2", "'M2'"),
        ("Treatment", {"surgery": 1}, "{'surgery': 1}"),
        ("M-stage", "x" * 500, "xxxxxx..."),
    ],
)
def test_odd_values_are_missing_and_named(field: str, value: object, shown: str) -> None:
    record = SCHEMA.read(COMPLETE | {field: value})
    assert record.values[field] is None
    (note,) = record.assumed
    assert note.startswith(f"{field} is ")
    assert shown in note
    assert len(note) < 130
    assert shown in record.given[field]
    assert len(record.given[field]) <= 30


def test_control_characters_are_not_echoed() -> None:
    record = SCHEMA.read({"Age": "\x1b[31m\u202e61\n", "a\x00b": 1})
    assert record.values["Age"] is None
    assert all(text.isprintable() for text in (*record.assumed, *record.given.values()))


@pytest.mark.parametrize("value", [2, 2.0, "2", " 2 "])
def test_what_is_assumed_of_a_value_is_said(value: object) -> None:
    """Women are 2 where men are 1; who has 0 and 1 has no 2."""
    record = SCHEMA.read(COMPLETE | {"Gender": value})
    assert record.values["Gender"] == "0"
    (note,) = record.assumed
    assert note.startswith("Gender is ")
    assert note.endswith(": assumed to be 0")
    assert record.odd == ()


def test_a_treatment_that_no_record_explains_is_a_level_of_its_own() -> None:
    record = SCHEMA.read(COMPLETE | {"Treatment": 2})
    assert (record.values["Treatment"], record.assumed) == ("2", ())


def test_absent_fields_are_named_one_by_one() -> None:
    record = SCHEMA.read({"Age": 50})
    assert record.assumed == tuple(f"{field} is not given: taken as missing" for field in SCHEMA.names[1:])
    assert tuple(record.values) == SCHEMA.names


def test_unknown_keys_are_named_and_known_extras_are_not() -> None:
    record = SCHEMA.read(COMPLETE | {"PatientID": "CHUM-001", "center_id": 2, "Perfomance": 1})
    assert record.assumed == ("'Perfomance' is no field of the clinical record: not used",)


def test_field_given_twice() -> None:
    assert SCHEMA.read({"sex": None} | COMPLETE).values["Gender"] == "1"
    assert SCHEMA.read(COMPLETE | {"sex": "1.0"}).assumed == ()
    record = SCHEMA.read(COMPLETE | {"sex": "female"})
    assert record.values["Gender"] == "1"
    assert record.assumed == ("Gender is given twice: 1 taken, 'female' not used",)


def test_schema_refuses_what_it_does_not_know() -> None:
    good = SCHEMA.model_dump()
    assert ClinicalSchema.model_validate(good) == SCHEMA
    with pytest.raises(ValidationError, match="tolerance"):
        ClinicalSchema.model_validate(good | {"tolerance": 1})
    age, *others = good["fields"]
    with pytest.raises(ValidationError, match="units"):
        ClinicalSchema.model_validate(good | {"fields": [age | {"units": "years"}, *others]})
    with pytest.raises(ValidationError, match="two fields share a spelling"):
        ClinicalSchema.model_validate(good | {"fields": [age | {"also": ["SEX"]}, *others]})
    with pytest.raises(ValidationError, match="Gender: 2 is assumed to be a level that is not there"):
        ClinicalSchema.model_validate(good | {"fields": [age, others[0] | {"assumed": {"2": "f"}}]})
    with pytest.raises(ValidationError, match=r"Gender: male is assumed .* or is one itself"):
        ClinicalSchema.model_validate(good | {"fields": [age, others[0] | {"assumed": {"male": "0"}}]})
    gender = others[0] | {"levels": {"0": ["f"], "1": ["F"]}}
    with pytest.raises(ValidationError, match="two levels of Gender share a spelling"):
        ClinicalSchema.model_validate(good | {"fields": [age, gender]})


def test_a_schema_survives_json() -> None:
    restored = ClinicalSchema.model_validate(json.loads(json.dumps(SCHEMA.model_dump(mode="json"))))
    assert restored == SCHEMA
    assert restored.read(COMPLETE | {"Sex": "f", "Age": "odd"}) == SCHEMA.read(COMPLETE | {"Sex": "f", "Age": "odd"})


def test_each_schema_reads_by_itself() -> None:
    """As weights carry theirs: other fields, levels and words for missing than those of the file beside."""
    stage = CategoricalField(name="T-stage", levels={"T1": (), "T4": ("t4a", "t4b")})
    weight = ContinuousField(name="Weight", also=("Body weight",), unit="kg", range=(20, 300))
    other = ClinicalSchema(missing=("lost",), ignored=("Age",), fields=(stage, weight))
    record = other.read({"t_stage": "T4b", "body weight": "81", "Age": 61, "Gender": 1})
    assert dict(record.values) == {"T-stage": "T4", "Weight": 81.0}
    assert record.assumed == ("'Gender' is no field of the clinical record: not used",)
    assert (other.is_missing("lost"), other.is_missing("unknown")) == (True, False)
    assert (SCHEMA.is_missing("lost"), SCHEMA.is_missing("unknown")) == (False, True)


def test_field_of_key() -> None:
    assert SCHEMA.field_of_key("performance_STATUS") == "Performance Status"
    assert SCHEMA.field_of_key("RFS") is None
