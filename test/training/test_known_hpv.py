"""What stage 3's Cox models learn of HPV from."""

from mmpl.case import ClinicalRecord, Outcome, Patient
from mmpl.training.survival import known_or_predicted


def test_a_known_status_is_learned_from_and_a_prediction_where_it_is_not_known() -> None:
    status = {"A": True, "B": False, "C": None}
    patients = [Patient(name, "1", ClinicalRecord(), Outcome(hpv_positive=known)) for name, known in status.items()]
    assert known_or_predicted(patients, {"A": 0.1, "B": 0.9, "C": 0.4}) == [1.0, 0.0, 0.4]
