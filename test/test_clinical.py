import json
import math

import numpy as np
import pytest
from pydantic import ValidationError

from mmpl.case import ClinicalRecord
from mmpl.clinical import ClinicalEncoder, ClinicalSchema, field_of_key, fields, is_missing, read_record, read_schema

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
    assert fields() == tuple(COMPLETE)


def test_reads_a_complete_record_without_comment() -> None:
    record = read_record(COMPLETE | {"CenterID": 3})
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
    record = read_record({name: known for name, known in COMPLETE.items() if name != field} | {key: value})
    assert record.values[field] == expected
    assert record.assumed == ()


@pytest.mark.parametrize("value", [None, math.nan, "", "  ", "NaN", "nan", "Unknown", "N/A", "null", "-"])
@pytest.mark.parametrize("field", COMPLETE)
def test_what_says_missing_is_missing(field: str, value: object) -> None:
    record = read_record(COMPLETE | {field: value})
    assert record.values[field] is None
    (note,) = record.assumed
    assert note.startswith(f"{field} is ")
    assert note.endswith(": taken as missing")
    assert is_missing(value)


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
        ("Gender", 2, "2"),
        ("Gender", 0.5, "0.5"),
        ("Performance Status", 5, "5"),
        ("Performance Status", True, "True"),
        ("M-stage", "M2", "'M2'"),
        ("Treatment", {"surgery": 1}, "{'surgery': 1}"),
        ("M-stage", "x" * 500, "xxxxxx..."),
    ],
)
def test_odd_values_are_missing_and_named(field: str, value: object, shown: str) -> None:
    record = read_record(COMPLETE | {field: value})
    assert record.values[field] is None
    (note,) = record.assumed
    assert note.startswith(f"{field} is ")
    assert shown in note
    assert len(note) < 160


def test_absent_fields_are_named_one_by_one() -> None:
    record = read_record({"Age": 50})
    assert record.assumed == tuple(f"{field} is not given: taken as missing" for field in fields()[1:])
    assert tuple(record.values) == fields()


def test_unknown_keys_are_named_and_known_extras_are_not() -> None:
    record = read_record(COMPLETE | {"PatientID": "CHUM-001", "center_id": 2, "Perfomance": 1})
    assert record.assumed == ("'Perfomance' is no field of the clinical record: not used",)


def test_field_given_twice() -> None:
    assert read_record({"sex": None} | COMPLETE).values["Gender"] == "1"
    assert read_record(COMPLETE | {"sex": "1.0"}).assumed == ()
    record = read_record(COMPLETE | {"sex": "female"})
    assert record.values["Gender"] == "1"
    assert record.assumed == ("Gender is given twice: 1 taken, 'female' not used",)


def test_schema_refuses_what_it_does_not_know() -> None:
    good = read_schema().model_dump()
    assert ClinicalSchema.model_validate(good) == read_schema()
    with pytest.raises(ValidationError, match="tolerance"):
        ClinicalSchema.model_validate(good | {"tolerance": 1})
    age, *others = good["fields"]
    with pytest.raises(ValidationError, match="units"):
        ClinicalSchema.model_validate(good | {"fields": [age | {"units": "years"}, *others]})
    with pytest.raises(ValidationError, match="two fields share a spelling"):
        ClinicalSchema.model_validate(good | {"fields": [age | {"also": ["SEX"]}, *others]})
    gender = others[0] | {"levels": {"0": ["f"], "1": ["F"]}}
    with pytest.raises(ValidationError, match="two levels of Gender share a spelling"):
        ClinicalSchema.model_validate(good | {"fields": [age, gender]})


def test_field_of_key() -> None:
    assert field_of_key("performance_STATUS") == "Performance Status"
    assert field_of_key("RFS") is None


def records(*ages: float | None, **levels: str) -> list[ClinicalRecord]:
    return [ClinicalRecord({"Age": age, **levels}) for age in ages]


def test_encodes_golden_values() -> None:
    training = [
        read_record(COMPLETE | {"Age": age, "Gender": gender, "Performance Status": status})
        for age, gender, status in [(50, 0, 0), (60, 1, 2), (None, None, 0), (80, 1, 0)]
    ]
    encoder = ClinicalEncoder.fit(training)
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
    np.testing.assert_allclose(
        encoder.encode(training),
        [
            [(50 - 190 / 3) / sd, 0, 1, 0, 0, *rest, 1, 0, 0, *rest],
            [(60 - 190 / 3) / sd, 0, 0, 1, 0, *rest, 0, 1, 0, *rest],
            [(60 - 190 / 3) / sd, 1, 0, 0, 1, *rest, 1, 0, 0, *rest],
            [(80 - 190 / 3) / sd, 0, 0, 1, 0, *rest, 1, 0, 0, *rest],
        ],
        rtol=1e-12,
    )


def test_unseen_level_encodes_as_missing_and_says_so() -> None:
    encoder = ClinicalEncoder.fit([read_record(COMPLETE)])
    record = read_record(COMPLETE | {"M-stage": "M1"})
    row = dict(zip(encoder.names, encoder.encode([record])[0], strict=True))
    assert row["M-stage=missing"] == 1.0
    assert "M-stage=M1" not in row
    assert encoder.notes(record) == ("M-stage M1 was in no training record: taken as missing",)
    assert encoder.notes(read_record(COMPLETE)) == ()
    assert encoder.notes(read_record({})) == ()


def test_constant_and_never_seen_continuous_fields_stay_finite() -> None:
    constant = ClinicalEncoder.fit(records(61.0, 61.0))
    np.testing.assert_array_equal(constant.encode(records(61.0, 62.0, None))[:, :2], [[0, 0], [1, 0], [0, 1]])
    never = ClinicalEncoder.fit(records(None, None))
    assert np.isfinite(never.encode(records(61.0, None))).all()


def test_encodes_no_record() -> None:
    encoder = ClinicalEncoder.fit([read_record(COMPLETE)])
    assert encoder.encode([]).shape == (0, len(encoder.names))


def test_survives_json() -> None:
    training = [read_record(COMPLETE | {"Age": age}) for age in (41.3, 57, None, 72)]
    encoder = ClinicalEncoder.fit(training)
    restored = ClinicalEncoder.from_dict(json.loads(json.dumps(encoder.to_dict())))
    assert restored == encoder
    np.testing.assert_array_equal(restored.encode(training), encoder.encode(training))
    with pytest.raises(ValidationError, match="version"):
        ClinicalEncoder.from_dict(encoder.to_dict() | {"version": 1})
