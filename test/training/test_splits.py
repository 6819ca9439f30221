"""Folds: nobody is trained on and held out at once, and whole centers stay together."""

from collections import Counter
from pathlib import Path

import pytest

from mmpl.case import ClinicalRecord, Outcome, Patient
from mmpl.files import read_json, write_json
from mmpl.training.splits import (
    FOLDS,
    Member,
    Scheme,
    Splits,
    center_folds,
    make_splits,
    patient_folds,
)

HECKTOR = {"MDA": 442, "CHUP": 72, "CHUS": 72, "CHUM": 56, "HGJ": 55, "HMR": 18, "USZ": 11}


def cohort(sizes: dict[str, int]) -> list[Patient]:
    """Patients with every combination of outcomes, unevenly many of each."""
    patients = []
    for center, count in sizes.items():
        for i in range(count):
            hpv_positive, relapse = (True, True, None, False)[i % 4], (False, False, True, None)[i % 7 % 4]
            outcome = Outcome(hpv_positive=hpv_positive, relapse=relapse)
            patients.append(Patient(f"{center}-{i:03d}", center, ClinicalRecord(), outcome))
    return patients


@pytest.fixture(scope="module")
def patients() -> list[Patient]:
    return cohort(HECKTOR)


def test_there_are_ten_members_with_names_of_their_own(patients: list[Patient]) -> None:
    members = make_splits(patients, seed=1).members
    assert len({member.name for member in members}) == len(members) == 10
    assert Counter(member.scheme for member in members) == {Scheme.PATIENT: 5, Scheme.CENTER: 5}
    assert Member(Scheme.CENTER, 3).name == "center-3"


def test_every_patient_is_held_out_once_in_each_scheme(patients: list[Patient]) -> None:
    splits = make_splits(patients, seed=1)
    for scheme in Scheme:
        held_out = [p.patient_id for fold in range(FOLDS) for p in splits.held_out(Member(scheme, fold), patients)]
        assert sorted(held_out) == sorted(p.patient_id for p in patients)


def test_nobody_is_both_inside_and_outside(patients: list[Patient]) -> None:
    splits = make_splits(patients, seed=1)
    for member in splits.members:
        inside, outside = ({p.patient_id for p in part} for part in (
            splits.held_out(member, patients), splits.training(member, patients)
        ))  # fmt: skip
        assert not inside & outside
        assert len(inside) + len(outside) == len(patients)
        assert inside
        assert outside


def test_patient_folds_are_even_in_size_and_in_every_stratum(patients: list[Patient]) -> None:
    folds = patient_folds(patients, seed=1)
    sizes = Counter(folds.values())
    assert set(sizes) == set(range(FOLDS))
    assert max(sizes.values()) - min(sizes.values()) <= 1
    strata: dict[tuple, list[int]] = {}
    for p in patients:
        strata.setdefault((p.center_id, p.outcome.hpv_positive, p.outcome.relapse), []).append(folds[p.patient_id])
    assert len(strata) > 50
    for held in strata.values():
        counts = [held.count(fold) for fold in range(FOLDS)]
        assert max(counts) - min(counts) <= 1


def test_patient_folds_follow_the_seed_and_not_the_order_of_the_table(patients: list[Patient]) -> None:
    folds = patient_folds(patients, seed=1)
    assert patient_folds(patients[::-1], seed=1) == folds
    assert patient_folds(patients, seed=2) != folds


def test_the_three_largest_of_seven_centers_stand_alone(patients: list[Patient]) -> None:
    folds = center_folds(patients)
    centers = [sorted({p.center_id for p in patients if folds[p.patient_id] == fold}) for fold in range(FOLDS)]
    assert centers == [["MDA"], ["CHUP"], ["CHUS"], ["CHUM", "USZ"], ["HGJ", "HMR"]]


@pytest.mark.parametrize("count", [5, 6, 8, 10])
def test_a_center_is_never_divided(count: int) -> None:
    patients = cohort({f"C{i}": 3 + 2 * i for i in range(count)})
    folds = center_folds(patients)
    fold_of_center = {p.center_id: folds[p.patient_id] for p in patients}
    assert all(folds[p.patient_id] == fold_of_center[p.center_id] for p in patients)
    groups = Counter(fold_of_center.values())
    assert len(groups) == FOLDS
    assert max(groups.values()) <= 2
    assert sorted(groups.values()).count(2) == count - FOLDS


@pytest.mark.parametrize("count", [4, 11])
def test_too_few_or_too_many_centers_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"need 5 to 10 centers, and there are {count}"):
        center_folds(cohort({f"C{i}": 3 for i in range(count)}))


def test_files_give_back_the_same_splits(patients: list[Patient], tmp_path: Path) -> None:
    splits, path = make_splits(patients, seed=1), tmp_path / "splits.json"
    write_json(path, splits)
    assert read_json(path, Splits) == splits
    assert [p.name for p in tmp_path.iterdir()] == ["splits.json"]
    for member in splits.members:
        assert read_json(path, Splits).held_out(member, patients) == splits.held_out(member, patients)
