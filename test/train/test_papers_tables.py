"""The arithmetic of the tables: fold means, nested decisions, paired differences, shifted priors, calibration."""

from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import expit

from mmpl.calibration import Calibration
from mmpl.case import ClinicalRecord, Outcome, Patient
from mmpl.cohort_scores import score
from mmpl.evidence import Scale
from mmpl.metrics import balanced_accuracy
from mmpl.names import Stage
from mmpl.profile import Profile, load_profile
from mmpl.reliability import brier_skill
from mmpl.training.calibration import (
    NotCalibratedError,
    calibrate,
    calibrate_hpv,
    calibrate_hpv_of,
    calibrate_survival_of,
)
from mmpl.training.cox import SMALLEST_RISK_SD
from mmpl.training.parallel import Engine
from mmpl.training.records import HpvRecord, SurvivalRecord
from mmpl.training.results import BY_RATIO, calibrated_hpv, calibrated_survival, decide, make_results
from mmpl.training.splits import Scheme, Splits
from train.experiments.calibration import calibration_tables
from train.experiments.results import score_masks
from train.experiments.tables import Comparison, Method, mean_and_sd, measure_hpv, measure_survival, write_table
from train.experiments.unseen_centers import at_prevalence, estimate_prevalence, rank

NAN = float("nan")


def make_patients(status: list[bool | None]) -> list[Patient]:
    return [
        Patient(f"P{i}", "1", ClinicalRecord(), Outcome(positive, relapse=i % 2 == 0, rfs_days=100.0 + i))
        for i, positive in enumerate(status)
    ]


@dataclass(frozen=True)
class Run:
    """As much of a workspace as deciding needs."""

    patients: list[Patient]
    splits: Splits


def test_a_decision_never_sees_its_own_fold() -> None:
    """In fold 1 the scores lie elsewhere: its own threshold would be 10.5, the other fold's is 0.5."""
    patients = make_patients([False, False, True, True, False, False, True, True])
    score = dict(zip((p.patient_id for p in patients), (0, 0, 1, 1, 10, 10, 11, 11), strict=True))
    folds = {p.patient_id: i // 4 for i, p in enumerate(patients)}
    decisions = decide(Run(patients, Splits({Scheme.PATIENT: folds})), Scheme.PATIENT, score)
    assert [decisions[p.patient_id] for p in patients] == [0, 0, 0, 0, 1, 1, 1, 1]


def test_patients_without_a_status_are_decided_but_choose_no_threshold() -> None:
    patients = make_patients([False, True, False, True, None, None])
    score = dict(zip((p.patient_id for p in patients), (0.2, 0.8, 0.2, 0.8, 0.3, 0.7), strict=True))
    folds = {p.patient_id: i % 2 if i > 3 else i // 2 for i, p in enumerate(patients)}
    decisions = decide(Run(patients, Splits({Scheme.PATIENT: folds})), Scheme.PATIENT, score)
    assert [decisions[p.patient_id] for p in patients] == [0, 1, 0, 1, 0, 1]


def test_masks_are_scored_by_no_more_processes_than_their_images_leave_room_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mmpl.training.parallel.free_memory_gib", lambda: 1.5)
    store = SimpleNamespace(describe=lambda _: SimpleNamespace(has_labels=True))
    run = SimpleNamespace(patients=make_patients([None]), store=store, variant=None)
    with pytest.raises(OSError, match=r"one process needs about 2\.0 GiB"):
        score_masks(run, Scheme.PATIENT, Engine())


def test_fold_means_say_where_a_metric_is_undefined() -> None:
    assert mean_and_sd([0.5, 0.7]) == "0.600 ± 0.141"
    assert mean_and_sd([0.5, NAN, 0.7]) == "0.600 ± 0.141 (undefined in 1 of 3 folds)"
    assert mean_and_sd([NAN, NAN]) == "undefined in every fold"
    assert mean_and_sd([0.5]) == "0.500"


def test_a_table_by_hand() -> None:
    patients = make_patients([True, False, True, False])
    make = partial(make_results, patients)
    good = {"P0": 0.9, "P1": 0.1, "P2": 0.8, "P3": 0.2}
    bad = {"P0": 0.9, "P1": 0.1, "P2": 0.2, "P3": 0.8}
    methods = [
        Method("good", make(probability=good, decision={k: float(v > 0.5) for k, v in good.items()}), "0.9"),
        Method("bad", make(probability=bad, decision={k: float(v > 0.5) for k, v in bad.items()})),
    ]
    comparisons = [Comparison("good", "bad"), Comparison("good", "absent")]
    lines = write_table(methods, comparisons, np.array([0, 0, 1, 1]), measure_hpv)
    cells = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in lines if line}
    assert cells["good"][0] == "1.000 ± 0.000"
    assert cells["good"][1] == "1.000 [1.000, 1.000]"
    assert cells["good"][-1] == "0.9"
    assert cells["bad"][0] == "0.500 ± 0.707"  # right in fold 0, wrong in fold 1
    assert cells["bad"][1].startswith("0.750 [")  # P0 over both, P2 over P1 alone
    assert cells["good less bad"][0].startswith("+0.250 [")
    assert "good less absent" not in cells


def test_a_fold_of_one_class_is_said_to_be_undefined() -> None:
    patients = make_patients([True, True, True, False])
    methods = [Method("m", make_results(patients, probability={p.patient_id: 0.5 for p in patients}))]
    lines = write_table(methods, [], np.array([0, 0, 1, 1]), measure_hpv)
    assert "0.500 (undefined in 1 of 2 folds)" in lines[-1]


def test_the_difference_of_what_is_undefined_is_undefined() -> None:
    patients = make_patients([True, True])
    methods = [Method(name, make_results(patients, probability={"P0": 0.5, "P1": 0.5})) for name in ("one", "other")]
    lines = write_table(methods, [Comparison("one", "other")], np.array([0, 1]), measure_hpv)
    assert lines[-1].split("|")[2].strip() == "undefined"  # an AUC among positives alone


def test_the_earlier_relapse_has_the_higher_risk() -> None:
    patients = make_patients([None] * 6)
    risk = {p.patient_id: -p.outcome.rfs_days for p in patients if p.outcome.rfs_days is not None}
    assert measure_survival(make_results(patients, risk=risk)) == {"C-index": 1.0}


def test_prevalence_is_found_again_where_probabilities_are_calibrated() -> None:
    rng = np.random.default_rng(0)
    positive = rng.random(4000) < 0.2
    ratio = 2 * (rng.normal(size=4000) + np.where(positive, 1.0, -1.0))  # log-likelihood ratio of N(1, 1) over N(-1, 1)
    balanced = 1 / (1 + np.exp(-ratio))
    assert estimate_prevalence(balanced) == pytest.approx(0.2, abs=0.02)
    np.testing.assert_allclose(at_prevalence(balanced, 0.5), balanced)
    # balanced accuracy does not ask for the prevalence: even odds are best, the likelier status is not
    likelier = at_prevalence(balanced, 0.2) >= 0.5
    assert balanced_accuracy(balanced >= 0.5, positive) > balanced_accuracy(likelier, positive) + 0.02


def test_risks_are_ranked_with_and_without_their_scale() -> None:
    risks = {"patient-0": np.array([0.0, 1.0]), "center-0": np.array([3.0, 1.0])}
    ways = rank(risks, {"patient-0": Scale(1.0, 2.0), "center-0": Scale.of([-0.01, 0.01], SMALLEST_RISK_SD)})
    np.testing.assert_allclose(ways["standardized"], [1.5, 1.0])
    np.testing.assert_allclose(ways["log hazards"], [(1.0 + 0.15) / 2, (3.0 + 0.05) / 2])
    np.testing.assert_allclose(ways["center-out models"], [3.0, 1.0])
    np.testing.assert_allclose(ways["patient-level models"], [0.0, 1.0])


@dataclass(frozen=True)
class Scored:
    """As much of a finished run as its calibration reads."""

    patients: list[Patient]
    records: dict
    profile: Profile
    settings = SimpleNamespace(stages=(Stage.HPV, Stage.SURVIVAL))

    def has(self, record: type) -> bool:
        return record in self.records

    def read(self, record: type) -> SimpleNamespace:
        return self.records[record]


def make_scored(count: int, seed: int, known: float) -> Scored:
    """Patients whose scores know of status and time what `known` says: 0 nothing, 1 all that there is."""
    rng = np.random.default_rng(seed)
    odds, risk = 2 * rng.normal(size=count), rng.normal(size=count)
    positive, times = rng.random(count) < expit(odds), rng.exponential(1500 * np.exp(-risk))
    followed = rng.uniform(1000, 4000, count)
    days, relapse = np.minimum(times, followed), times <= followed
    patients = [
        Patient(f"P{i}", "1", ClinicalRecord(), Outcome(bool(positive[i]), bool(relapse[i]), float(days[i])))
        for i in range(count)
    ]
    noise = rng.normal(size=count)
    score, risk = expit((known * odds + (1 - known) * noise) / 3), known * risk + (1 - known) * noise
    named = [{Scheme.PATIENT: {f"P{i}": float(v) for i, v in enumerate(values)}} for values in (score, risk)]
    records = {HpvRecord: SimpleNamespace(probability=named[0]), SurvivalRecord: SimpleNamespace(risk=named[1])}
    return Scored(patients, records, load_profile("micro"))


def test_scores_that_know_something_are_calibrated_by_the_other_patients() -> None:
    run = make_scored(600, 0, 1.0)
    by_rule = calibrated_hpv(run)
    hpv, survival = score(by_rule[BY_RATIO]), score(calibrated_survival(run))
    assert hpv.hpv_calibration_slope == pytest.approx(1, abs=0.15)
    assert hpv.hpv_brier_skill > 0.2
    assert survival.relapse_2_years_calibration_slope == pytest.approx(1, abs=0.25)
    assert survival.integrated_brier_skill > 0.05
    assert survival.relapse_2_years_auc > 0.7
    for results in by_rule.values():
        assert score(results).hpv_balanced_accuracy > 0.7


def calibrates(run: Scored) -> bool:
    try:
        calibrate_hpv_of(run)
        calibrate_survival_of(run, resamples=1)
    except NotCalibratedError:
        return False
    return True


def test_scores_that_point_the_other_way_are_not_calibrated(caplog: pytest.LogCaptureFixture) -> None:
    """Turned round, the probability would contradict the status and the risk beside it."""
    run = make_scored(200, 0, -1.0)
    assert calibrate(run) == Calibration()
    assert caplog.messages == [
        "HPV probabilities are not calibrated: out of fold they are no higher of positive patients than of negative "
        "ones",
        "risks are not calibrated: out of fold, relapses come no sooner where they are higher",
    ]
    assert calibration_tables(run) == []
    for calibrated in (calibrated_hpv, calibrated_survival):
        with pytest.raises(NotCalibratedError):
            calibrated(run)


def test_scores_that_know_nothing_gain_nothing() -> None:
    """Calibrated on the patients themselves, they would."""
    runs = [run for seed in range(16) if calibrates(run := make_scored(60, seed, 0.0))]
    assert 3 <= len(runs) < 16
    for run in runs:
        known = calibrated_hpv(run)[BY_RATIO]
        own = calibrate_hpv(known.hpv_probability, known.hpv_positive).probability(known.hpv_probability)
        assert brier_skill(own, known.hpv_positive) > 0
    assert np.mean([score(calibrated_hpv(run)[BY_RATIO]).hpv_brier_skill for run in runs]) < 0
    assert np.mean([score(calibrated_survival(run)).integrated_brier_skill for run in runs[:3]]) < 0.02


def test_the_tables_of_calibration_name_every_measure_with_its_interval() -> None:
    lines = calibration_tables(make_scored(80, 1, 1.0))
    for name in ("hpv_calibration_slope", "hpv_auc", "c_index", "relapse_2_years_brier", "integrated_brier_skill"):
        (line,) = [line for line in lines if line.startswith(f"| {name} |")]
        assert line.count("[") == 1
    assert any(line.startswith("| likelihood ratio of 1 less threshold") for line in lines)
    assert calibration_tables(make_scored(12, 1, 1.0)) == []
