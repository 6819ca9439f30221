"""The planned dose in training: kept of those who have one, chosen where it tells, and nothing where nobody has any."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmpl.case import Case, Grid, Image
from mmpl.clinical import ClinicalEncoder
from mmpl.dose import DOSE_LEFT_OUT, dose_names, is_dose, leave_dose_out, measure_dose
from mmpl.evidence import DOSE_KNOWN, Evidence, FeatureTable, survival_evidence
from mmpl.names import Label
from mmpl.phantom.cohort import MemoryCohort, table_patient
from mmpl.phantom.dose import dose_map
from mmpl.phantom.latent import LatentPatient, draw_patients
from mmpl.profile import load_profile
from mmpl.schema import default_schema
from mmpl.segmentation import Thresholds
from mmpl.training import radiomics
from mmpl.training.cox import RADIOMICS_LIMIT_SD, fit_cox
from mmpl.training.parallel import Engine
from mmpl.training.prepare import cache
from mmpl.training.records import SegmentationRecord
from mmpl.training.segmentation import out_of_fold_mask
from mmpl.training.splits import make_splits
from mmpl.training.workspace import RunSettings, Workspace

PROFILE = load_profile("micro")
assert PROFILE.dose is not None
NAMES = dose_names(PROFILE.dose)
SIDE = 50
SPACING_MM = 2.0


def in_water(patient: LatentPatient) -> Case:
    """Put a ball of the patient's largest lesion into water: all that a dose map asks for."""
    label = Label.GTVP if patient.primary_site else Label.GTVN
    volume_ml = 8.0 if patient.primary_volume is None else patient.planted.volume_ml(
        "primary_volume", patient.primary_volume
    )  # fmt: skip
    grid = Grid((SIDE,) * 3, (SPACING_MM,) * 3, (0.0, 0.0, 0.0))
    away = (np.arange(SIDE) - SIDE / 2) * SPACING_MM
    square = away[:, None, None] ** 2 + away[:, None] ** 2 + away**2
    radius_mm = max(8.0, (volume_ml * 1000 * 3 / 4 / np.pi) ** (1 / 3))
    labels = np.where(square < radius_mm**2, label, Label.BACKGROUND).astype(np.uint8)
    water = Image(np.zeros(labels.shape, np.int16), grid)
    return Case(patient.patient_id, water, water, default_schema().read({}), Image(labels, grid))


def dose_row(patient: LatentPatient) -> np.ndarray:
    case = in_water(patient)
    assert patient.dose
    assert case.reference
    assert PROFILE.dose
    gray = dose_map(patient.dose, case, patient.image_seed)
    return measure_dose(gray, case.reference, PROFILE.dose, PROFILE.radiomics).columns.values[0]


def evidence_of(patients: tuple[LatentPatient, ...], dose: FeatureTable | None) -> Evidence:
    records = [table_patient(patient).clinical for patient in patients]
    clinical = ClinicalEncoder.fit(records, default_schema()).encode(records)
    return survival_evidence(None, None, FeatureTable.empty(len(patients)), clinical, dose)


@pytest.fixture(scope="module")
def followed() -> tuple[LatentPatient, ...]:
    """Patients of version 2, each with a planned dose, half of them underdosed."""
    drawn = draw_patients(330, 8, version=2, dose_share=1.0)
    return tuple(patient for patient in drawn if patient.rfs_known)


@pytest.fixture(scope="module")
def doses(followed: tuple[LatentPatient, ...]) -> FeatureTable:
    return FeatureTable(NAMES, np.array([dose_row(patient) for patient in followed]))


def outcome(patients: tuple[LatentPatient, ...]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([p.rfs_days for p in patients]), np.array([p.relapse for p in patients])


@pytest.mark.slow
def test_with_a_dose_of_everybody_the_planted_underdosage_is_found(
    followed: tuple[LatentPatient, ...], doses: FeatureTable
) -> None:
    lack = np.array([patient.dose.underdosage_gy for patient in followed if patient.dose])
    primary = np.array([patient.primary_site is not None for patient in followed])
    coldest = doses.read(["dose_gtvp_d98_gy"])[primary, 0]
    assert np.corrcoef(coldest, lack[primary])[0, 1] < -0.8
    model = fit_cox(evidence_of(followed, doses), *outcome(followed), screening_p=0.05, seed=0)
    found = {row.name: row for row in model.covariates if row.name.endswith(("_gy", "_share"))}
    assert found
    assert all(is_dose(name) for name in found)
    assert all(row.coefficient < 0 for row in found.values())
    assert min(row.p for row in found.values()) < 0.01
    assert DOSE_KNOWN not in [row.name for row in model.covariates]


@pytest.mark.slow
def test_that_a_dose_is_known_is_no_risk_factor_and_a_blank_is_a_usual_dose(doses: FeatureTable) -> None:
    """Of half the patients, who do better for that; what a blank adds is within an SD of the column."""
    rng, known = np.random.default_rng(3), np.arange(len(doses)) % 2 == 0
    coldest = doses.read(["dose_gtvp_d98_gy"])[:, 0]
    away = np.nan_to_num((coldest - np.nanmean(coldest)) / np.nanstd(coldest))
    days = rng.exponential(1000, len(doses)) * np.exp(np.where(known, 2.0 * away, -1.0))
    values = np.where(known[:, None], doses.values, np.nan)
    values[:, NAMES.index(DOSE_KNOWN)] = known
    dose, empty = FeatureTable(NAMES, values), FeatureTable.empty(len(doses))
    seen = survival_evidence(None, None, empty, empty, dose)
    model = fit_cox(seen, days, np.full(len(doses), True), screening_p=0.05, seed=0)
    chosen = {row.name: row for row in model.covariates}
    assert chosen
    assert DOSE_KNOWN not in chosen
    for name, added in model.terms(seen).items():
        (blank,) = set(added[~known])
        assert abs(blank) <= abs(chosen[name].coefficient)
        assert np.abs(added).max() <= abs(chosen[name].coefficient) * RADIOMICS_LIMIT_SD + 1e-9


# a run


@pytest.fixture
def run(tmp_path: Path) -> Workspace:
    """A run of two patients that is ready to measure them; shape alone."""
    changes = ["radiomics.feature_classes=[shape]"]
    settings = RunSettings.make(tmp_path / "run", "phantom:2:16", "micro", changes, folds=2, center_out=False)
    workspace = Workspace(tmp_path / "run", settings)
    workspace.begin(make_splits(workspace.patients, seed=0, folds=2, center_out=False))
    return workspace


def test_a_run_without_any_dose_has_no_columns_of_it(run: Workspace) -> None:
    assert run.dose(run.patients) is None
    empty = FeatureTable.empty(2)
    assert survival_evidence(None, None, empty, empty, None).table.names == ()
    run.dose_file(run.patients[0].patient_id).parent.mkdir()
    np.save(run.dose_file(run.patients[0].patient_id), np.ones(len(NAMES)))
    assert run.dose(run.patients) is not None


@pytest.mark.slow
def test_a_run_keeps_the_dose_of_who_has_one_and_says_whose_was_left_out(
    run: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cache(run, Engine(1))
    first, second = run.patients
    for patient in run.patients:
        (scheme,) = run.splits.schemes
        probability = np.zeros((2, *run.store.images(patient.patient_id).shape[1:]), np.float32)
        probability[0, 4:10, 4:10, 4:10] = 1.0
        run.keep_probability(scheme, patient.patient_id, probability)
    segmentation = SegmentationRecord(
        thresholds=Thresholds(0.5, 0.5), gtvp_dice_mean=0.5, gtvn_dice_aggregated=0.5, lesion_centers_xyz={}
    )
    run.keep(segmentation)
    read_case = MemoryCohort.read_case

    def with_dose(cohort: MemoryCohort, patient_id: str) -> Case:
        case = read_case(cohort, patient_id)
        if patient_id == second.patient_id:
            return leave_dose_out(case, "the dose is negative somewhere (-1)")
        slope = np.broadcast_to(np.linspace(50, 70, case.pet.voxels.shape[2], dtype=np.float32), case.pet.voxels.shape)
        return replace(case, dose=Image(slope, case.pet.grid))

    monkeypatch.setattr(MemoryCohort, "read_case", with_dose)
    radiomics.main(run.folder, workers=1)
    said = capsys.readouterr().out
    assert f"note: {second.patient_id}: {DOSE_LEFT_OUT}: the dose is negative somewhere (-1)" in said
    assert "planned dose: of 1 patients" in said
    dose = run.dose(run.patients)
    assert dose
    mask = out_of_fold_mask(run, first.patient_id, segmentation.thresholds)
    assert run.profile.dose
    case = run.source.read_case(first.patient_id)
    wanted = measure_dose(case.dose, mask, run.profile.dose, run.profile.radiomics)
    np.testing.assert_array_equal(dose.values[0], wanted.columns.values[0])
    assert dose.read([DOSE_KNOWN])[:, 0].tolist() == [1, 0]
    assert np.isfinite(dose.read(["dose_gtvp_d98_gy"])[0, 0])
    assert np.isnan(np.delete(dose.values[1], NAMES.index(DOSE_KNOWN))).all()
    assert all(run.features_file(patient.patient_id).is_file() for patient in run.patients)
    assert run.radiomics(run.patients).values.shape[0] == 2
