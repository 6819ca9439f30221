"""What labels allow to be trained, told from the table and the folds alone."""

from dataclasses import replace

import pytest

from mmpl.case import ClinicalRecord, Outcome, Patient
from mmpl.names import Stage
from mmpl.training.needs import labeled_stages, one_stage_alone, unmet_needs
from mmpl.training.splits import Scheme, Splits

PATIENTS = [
    Patient(
        str(number),
        "A",
        ClinicalRecord(),
        Outcome(number % 4 < 2, number % 4 == 0, 100.0 + number, number % 3 + 1, number % 3),
    )
    for number in range(24)
]
IDS = frozenset(patient.patient_id for patient in PATIENTS)
SPLITS = Splits({Scheme.PATIENT: {patient.patient_id: int(patient.patient_id) % 2 for patient in PATIENTS}})


def blank(*fields: str) -> list[Patient]:
    return change(**dict.fromkeys(fields))


def change(**outcome: int | None) -> list[Patient]:
    return [replace(p, outcome=replace(p.outcome, **outcome)) for p in PATIENTS]


@pytest.mark.parametrize(
    ("patients", "without", "stages"),
    [
        (PATIENTS, (), ["segmentation", "hpv", "survival", "staging"]),
        (blank("hpv_positive"), (), ["segmentation", "survival", "staging"]),
        (blank("rfs_days"), (), ["segmentation", "hpv", "staging"]),
        (blank("t_stage"), (), ["segmentation", "hpv", "survival"]),
        (blank("n_stage"), (), ["segmentation", "hpv", "survival"]),
        (change(n_stage=2), (), ["segmentation", "hpv", "survival"]),
        (change(t_stage=0), (), ["segmentation", "hpv", "survival"]),
        (blank("relapse", "hpv_positive", "n_stage"), (), ["segmentation"]),
        (PATIENTS, [Stage.HPV, Stage.STAGING], ["segmentation", "survival"]),
    ],
)
def test_stages_without_any_label_are_left_out(
    patients: list[Patient], without: list[Stage], stages: list[str]
) -> None:
    assert list(labeled_stages(patients, without)) == stages


def test_what_folds_lack_is_told_by_model() -> None:
    every = tuple(Stage)
    swapped = {patient.patient_id: int(int(patient.patient_id) % 4 < 2) for patient in PATIENTS}
    assert unmet_needs(PATIENTS, IDS, SPLITS, every) == [
        "patient-0: 0 relapses among the patients it trains on, and 3 are needed"
    ]
    assert unmet_needs(PATIENTS, IDS, Splits({Scheme.PATIENT: swapped}), every) == [
        "patient-0: the 12 patients of known HPV status it trains on are of one kind",
        "patient-1: the 12 patients of known HPV status it trains on are of one kind",
        "patient-1: 0 relapses among the patients it trains on, and 3 are needed",
    ]
    assert unmet_needs(PATIENTS, IDS, SPLITS, [Stage.SEGMENTATION, Stage.HPV]) == []
    staged_at_one_place = [p if int(p.patient_id) % 2 else replace(p, outcome=Outcome()) for p in PATIENTS]
    assert unmet_needs(staged_at_one_place, IDS, SPLITS, [Stage.STAGING]) == [
        f"patient-1: none of the 12 patients it trains on has a known {task}" for task in ("t-stage", "n-stage")
    ]
    even = frozenset(name for name in IDS if int(name) % 2 == 0)
    assert unmet_needs(PATIENTS, even, SPLITS, [Stage.SEGMENTATION]) == [
        "patient-0: none of the 12 patients it trains on has a reference mask"
    ]


def test_a_model_that_learns_of_one_stage_alone_is_told_and_no_problem() -> None:
    first, *others = change(t_stage=2, n_stage=0)
    patients = [replace(first, outcome=replace(first.outcome, t_stage=4, n_stage=3)), *others]
    assert unmet_needs(patients, IDS, SPLITS, [Stage.STAGING]) == []
    assert one_stage_alone(PATIENTS, SPLITS) == []
    assert one_stage_alone(patients, SPLITS) == [
        f"patient-0: all 12 patients of known {task} it trains on are {stage}, which it will say of everybody"
        for task, stage in (("t-stage", "T2"), ("n-stage", "N0"))
    ]
