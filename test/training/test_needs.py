"""What labels allow to be trained, told from the table and the folds alone."""

from dataclasses import replace

import pytest

from mmpl.case import ClinicalRecord, Outcome, Patient
from mmpl.names import Stage
from mmpl.training.needs import labeled_stages, unmet_needs
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
    return [replace(p, outcome=replace(p.outcome, **dict.fromkeys(fields))) for p in PATIENTS]


@pytest.mark.parametrize(
    ("patients", "without", "stages"),
    [
        (PATIENTS, (), ["segmentation", "hpv", "survival", "staging"]),
        (blank("hpv_positive"), (), ["segmentation", "survival", "staging"]),
        (blank("rfs_days"), (), ["segmentation", "hpv", "staging"]),
        (blank("t_stage"), (), ["segmentation", "hpv", "survival"]),
        (blank("n_stage"), (), ["segmentation", "hpv", "survival"]),
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
    no_stage = [replace(p, outcome=replace(p.outcome, t_stage=0, n_stage=1)) for p in PATIENTS]
    assert unmet_needs(no_stage, IDS, SPLITS, [Stage.STAGING]) == [
        f"{member}: the {count} patients of known {task} it trains on are all of one"
        for member in ("patient-0", "patient-1")
        for task, count in (("t-stage", 0), ("n-stage", 12))
    ]
    even = frozenset(name for name in IDS if int(name) % 2 == 0)
    assert unmet_needs(PATIENTS, even, SPLITS, [Stage.SEGMENTATION]) == [
        "patient-0: none of the 12 patients it trains on has a reference mask"
    ]
