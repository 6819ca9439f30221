"""Outcomes as tables say them."""

from pathlib import Path

import pytest
from cohorts import ROW, write_images, write_table

from mmpl.case import InvalidInputError
from mmpl.io.cohort import read_cohort
from mmpl.io.outcomes import read_stage
from mmpl.io.patients import read_patients
from mmpl.names import N_STAGE, T_STAGE
from mmpl.schema import CategoricalField, ClinicalSchema, default_schema


@pytest.mark.parametrize(
    ("column", "cell", "stage"),
    [
        (T_STAGE, "T4a", 4),
        (N_STAGE, "n2C", 2),
        (T_STAGE, "2", 2),
        (N_STAGE, "3.0", 3),
        (T_STAGE, "cT1", 1),
        (N_STAGE, "pN0", 0),
        (T_STAGE, "TX", None),
        (T_STAGE, "cTX", None),
        (T_STAGE, "pTx", None),
        (N_STAGE, "cNX", None),
        (N_STAGE, "ypNX", None),
        (N_STAGE, "pX", None),
        (N_STAGE, "x", None),
    ],
)
def test_stages_are_read_as_their_numbers(column: str, cell: str, stage: int | None) -> None:
    assert read_stage(column, cell) == stage


@pytest.mark.parametrize("cell", ["IV", "T5", "N1", "T", "1.5", "early", "-1", "T4d", "10", "Tis", "TXa", "cNX", "c"])
def test_a_stage_that_is_none_is_refused(cell: str) -> None:
    with pytest.raises(ValueError, match="not T0 to T4, or TX"):
        read_stage(T_STAGE, cell)
    with pytest.raises(ValueError, match="not N0 to N3, or NX"):
        read_stage(N_STAGE, "N4")


def test_in_training_it_is_a_problem_by_name_and_else_a_remark(tmp_path: Path) -> None:
    folder = write_table(tmp_path, ROW | {T_STAGE: "IV", N_STAGE: "n2C"})
    write_images(folder, ROW["PatientID"])
    with pytest.raises(InvalidInputError, match=rf"line 2, patient {ROW['PatientID']}: T-stage is 'IV', not T0 to T4"):
        read_cohort(folder, training=True)
    scored = read_cohort(folder)
    assert (scored.patients[0].outcome.t_stage, scored.patients[0].outcome.n_stage) == (None, 2)
    assert any("cannot be read, and are not scored: 1 (" in remark and "'IV'" in remark for remark in scored.remarks)
    answered = read_cohort(folder, outcomes=False)
    assert (answered.patients[0].outcome.n_stage, answered.remarks) == (None, ())


@pytest.mark.parametrize("cell", ["", "unknown", "n/a", "-", "NaN"])
def test_unknown_stages(tmp_path: Path, cell: str) -> None:
    folder = write_table(tmp_path, ROW | {T_STAGE: cell, N_STAGE: cell})
    write_images(folder, ROW["PatientID"])
    outcome = read_cohort(folder, training=True).patients[0].outcome
    assert (outcome.t_stage, outcome.n_stage) == (None, None)


def test_a_stage_that_is_a_field_of_the_record_is_no_label(tmp_path: Path) -> None:
    field = CategoricalField(name=T_STAGE, levels={"T2": (), "Tis": ()})
    plain = default_schema()
    schema = ClinicalSchema(missing=plain.missing, ignored=(), fields=(*plain.fields, field))
    folder = write_table(tmp_path, ROW | {T_STAGE: "Tis"})
    (table,) = folder.glob("*.csv")
    for outcomes in (True, False):
        (patient,) = read_patients(table, schema, outcomes=outcomes).patients
        assert patient.clinical.values[T_STAGE] == "Tis"
        assert patient.outcome.t_stage is None
