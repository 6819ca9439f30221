"""The synthetic cohort: how hard it is, that what is planted shows, and what lies on disk."""

import csv
import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import label as components
from scipy.stats import spearmanr

from mmpl.case import Case, Image, InvalidInputError
from mmpl.geometry import Interpolation, resample
from mmpl.io.cohort import read_cohort
from mmpl.io.images import read_image
from mmpl.names import ImageFormat, Label
from mmpl.phantom.centers import TRAINING_CENTERS, UNSEEN_CENTERS, Center
from mmpl.phantom.cohort import ORACLE_NAME, TABLE_NAMES, MemoryCohort, write_cohort, write_sample_case
from mmpl.phantom.latent import LatentPatient, draw_patients
from mmpl.phantom.oracle import HPV, hpv_evidence, oracle_figures, oracle_parts
from mmpl.phantom.planted import VERSION_1, VERSIONS
from mmpl.phantom.render import render
from mmpl.phantom.scene import Ellipsoid, Field, Tube
from mmpl.units import LOWEST_HU

SAMPLE_INPUT = Path(__file__).parents[1] / "input"


@pytest.fixture(scope="module")
def many() -> tuple[LatentPatient, ...]:
    return draw_patients(20_000, seed=1)


@pytest.fixture(scope="module", params=VERSIONS)
def of_either_version(request: pytest.FixtureRequest) -> tuple[LatentPatient, ...]:
    return draw_patients(20_000, seed=1, version=request.param)


@pytest.fixture(scope="module", params=VERSIONS)
def drawn(request: pytest.FixtureRequest) -> list[tuple[LatentPatient, Case]]:
    drawn = draw_patients(30, 11, hpv_positive=0.5, version=request.param)
    patients = [patient for patient in drawn if not patient.long_scan]
    return [(patient, render(patient, with_reference=True)) for patient in patients[:16]]


def column(patients: tuple[LatentPatient, ...], name: str) -> NDArray[np.float64]:
    """Absent lesions count as average."""
    return np.array([0.0 if getattr(p, name) is None else getattr(p, name) for p in patients], dtype=np.float64)


def voxels_of(case: Case, label: Label) -> NDArray[np.bool_]:
    assert case.reference is not None
    return case.reference.voxels == label


def pet_on_ct(case: Case) -> NDArray[np.float32]:
    return resample(case.pet, case.ct.grid, Interpolation.LINEAR, 0.0)


RECORD_CAP = {1: 0.5, 2: 0.67}
"""Share of the oracle's distance from an HPV AUC of one half that the clinical record reaches at most, by version."""


class TestDifficulty:
    """On latent draws, without images."""

    def test_oracle_is_neither_perfect_nor_blind(self, of_either_version: tuple[LatentPatient, ...]) -> None:
        figures = oracle_figures(of_either_version)
        assert figures["hpv_auc"] is not None
        assert figures["c_index"] is not None
        assert 0.85 <= figures["hpv_auc"] <= 0.95
        assert 0.70 <= figures["c_index"] <= 0.80
        assert figures["hpv_balanced_accuracy"] == pytest.approx(0.84, abs=0.03)

    def test_no_part_carries_the_answer(self, of_either_version: tuple[LatentPatient, ...]) -> None:
        """The record alone reaches its cap at most, images at least half, no single variable more than 70%."""
        parts = oracle_parts(of_either_version)
        shares = {name: part.share_of(parts["oracle"]) for name, part in parts.items()}
        assert 0.2 < shares["clinical record"].hpv_auc <= RECORD_CAP[of_either_version[0].version]
        assert 0.2 < shares["clinical record"].c_index <= 0.5
        assert 0.5 <= shares["images"].hpv_auc < 1.0
        assert 0.5 <= shares["images"].c_index < 1.0
        groups = ("oracle", "clinical record", "record and released stages", "images")
        for name in shares.keys() - set(groups):
            assert name == HPV or shares[name].hpv_auc <= 0.7, name
            assert shares[name].c_index <= 0.7, name

    def test_evidence_is_the_ratio_of_the_drawn_densities(self, of_either_version: tuple[LatentPatient, ...]) -> None:
        """A likelihood ratio has expectation 1 under the denominator."""
        version = of_either_version[0].version
        ratios = np.exp([-sum(hpv_evidence(p).values()) for p in of_either_version if p.hpv_positive])
        assert ratios.mean() == pytest.approx(1.0, abs=0.15)
        halves = draw_patients(4000, 5, hpv_positive=0.5, version=version)
        for score in VERSIONS[version].scores:
            means = [
                np.mean([getattr(p, score.name) for p in halves if p.hpv_positive == s and getattr(p, score.name)])
                for s in (True, False)
            ]
            assert means[0] - means[1] == pytest.approx(score.shift, abs=0.12), score.name


class TestOutcomes:
    """Counts follow the released cohort."""

    def test_outcome_counts(self, many: tuple[LatentPatient, ...]) -> None:
        assert np.mean([p.relapse for p in many if p.rfs_known]) == pytest.approx(0.20, abs=0.012)
        assert np.mean([p.rfs_known for p in many]) == pytest.approx(0.93, abs=0.01)
        assert np.mean([p.mask_known for p in many]) == pytest.approx(0.94, abs=0.01)
        assert np.mean([p.hpv_known for p in many]) == pytest.approx(0.80, abs=0.01)
        assert np.mean([p.hpv_positive for p in many if p.hpv_known]) == pytest.approx(0.90, abs=0.01)
        assert all(p.rfs_days <= p.relapse_days + 1 for p in many)

    def test_lesion_counts(self, many: tuple[LatentPatient, ...]) -> None:
        assert 0.02 < np.mean([p.primary_site is None for p in many]) < 0.05
        assert np.mean([not p.node_volumes_ml for p in many]) == pytest.approx(1 / 6, abs=0.02)
        assert np.mean([any(v < 1.0 for v in p.node_volumes_ml) for p in many]) == pytest.approx(0.10, abs=0.015)
        assert all(p.primary_site or p.node_volumes_ml for p in many)
        assert 0.01 < np.mean([p.long_scan for p in many]) < 0.06

    @pytest.mark.parametrize(("centers", "prevalence"), [(TRAINING_CENTERS, 0.90), (UNSEEN_CENTERS, 0.20)])
    def test_shares_and_prevalence(self, centers: tuple[Center, ...], prevalence: float) -> None:
        assert sum(center.share for center in centers) == pytest.approx(1.0)
        assert sum(center.share * center.hpv_prevalence for center in centers) == pytest.approx(prevalence, abs=0.002)

    def test_prevalence_can_be_set(self) -> None:
        assert np.mean([p.hpv_positive for p in draw_patients(2000, 3, hpv_positive=0.5)]) == pytest.approx(
            0.5, abs=0.04
        )
        unseen = draw_patients(2000, 3, "unseen")
        assert np.mean([p.hpv_positive for p in unseen]) == pytest.approx(0.2, abs=0.04)
        assert {p.center for p in unseen} == {center.name for center in UNSEEN_CENTERS}

    def test_missing_fields_follow_the_center_not_the_status(self, many: tuple[LatentPatient, ...]) -> None:
        for center in TRAINING_CENTERS[:3]:
            here = [p for p in many if p.center == center.name]
            assert len(here) / len(many) == pytest.approx(center.share, abs=0.015)
            for status in (True, False):
                blank = np.mean(["tobacco" in p.missing for p in here if p.hpv_positive == status])
                assert blank == pytest.approx(center.missing[0], abs=0.09)

    def test_patients_of_a_seed_stay_the_same(self) -> None:
        assert draw_patients(20, 4) == draw_patients(60, 4)[:20]
        assert draw_patients(20, 4) != draw_patients(20, 5)
        names = Counter(patient.patient_id for patient in draw_patients(60, 4))
        assert max(names.values()) == 1


class TestScene:
    """Shapes have the volume, and fields the variance, that they claim."""

    def test_volumes(self) -> None:
        axis = np.arange(-30.0, 30.0, 0.5, dtype=np.float32)
        grid = axis[:, None, None], axis[None, :, None], axis[None, None, :]
        ball = Ellipsoid((1.0, -2.0, 3.0), (20.0, 15.0, 10.0))
        assert (ball.depth(*grid) > 0).sum() * 0.125 == pytest.approx(4 / 3 * np.pi * 3000, rel=0.02)
        tube = Tube(((-20, 0, 0, 10, 5), (20, 4, 0, 10, 5)))
        inside = tube.depth(*grid) > 0
        assert inside[40:].any(axis=(1, 2)).all()
        assert inside[60].sum() * 0.25 == pytest.approx(np.pi * 50, rel=0.05)

    def test_field_is_smooth_and_standardized(self) -> None:
        axis = np.arange(0.0, 300.0, 2.0, dtype=np.float32)
        values = Field(np.random.default_rng(0), [(0.0, 300.0)] * 3, 10.0)((axis, axis, axis))
        assert values.mean() == pytest.approx(0.0, abs=0.05)
        assert values.std() == pytest.approx(1.0, abs=0.1)
        assert np.diff(values, axis=0).std() < 0.35


class TestImages:
    """On drawn cases."""

    def test_masks_have_the_planted_volumes(self, drawn: list[tuple[LatentPatient, Case]]) -> None:
        for patient, case in drawn:
            voxel_ml = case.ct.grid.voxel_ml
            nodes_ml = voxels_of(case, Label.GTVN).sum() * voxel_ml
            assert nodes_ml == pytest.approx(sum(patient.node_volumes_ml), abs=0.02 * (1 + nodes_ml))
            assert voxels_of(case, Label.GTVP).any() == (patient.primary_site is not None)
            found = components(voxels_of(case, Label.GTVN), np.ones((3, 3, 3)))[1]
            assert (found > 0) == bool(patient.node_volumes_ml)

    def test_images_are_plausible(self, drawn: list[tuple[LatentPatient, Case]]) -> None:
        for _, case in drawn:
            assert (case.ct.voxels.dtype, case.pet.voxels.dtype) == (np.int16, np.float32)
            assert case.ct.voxels.min() >= -1024
            assert case.ct.voxels.max() > 1000  # skull
            assert case.pet.voxels.min() >= 0.0
            assert 8.0 < case.pet.voxels.max() < 60.0
            assert 60 <= case.ct.grid.size_xyz[2] <= 180

    def test_a_threshold_does_not_find_the_primary(self, drawn: list[tuple[LatentPatient, Case]]) -> None:
        scores = []
        for _, case in drawn:
            pet, primary = pet_on_ct(case), voxels_of(case, Label.GTVP)
            if primary.any():
                hot = pet >= 0.41 * pet.max()
                scores.append(2 * (hot & primary).sum() / (hot.sum() + primary.sum()))
        assert len(scores) > 10
        assert np.mean(scores) < 0.4

    def test_lesions_are_hot_and_aligned_in_both_images(self, drawn: list[tuple[LatentPatient, Case]]) -> None:
        for patient, case in drawn:
            primary = voxels_of(case, Label.GTVP)
            if primary.any():
                assert pet_on_ct(case)[primary].max() > 3.5, patient.patient_id
                assert np.median(case.ct.voxels[primary]) > 50.0, patient.patient_id

    def test_planted_variables_show(self, drawn: list[tuple[LatentPatient, Case]]) -> None:
        seen: dict[str, list[tuple[float, float]]] = {score.name: [] for score in VERSION_1.imaging}
        for patient, case in drawn:
            pet, voxel_ml = pet_on_ct(case), case.ct.grid.voxel_ml
            primary, nodes = voxels_of(case, Label.GTVP), voxels_of(case, Label.GTVN)
            shown = {}
            if primary.any():
                shown["primary_volume"] = primary.sum() * voxel_ml
                shown["primary_suv"] = pet[primary].mean()
                shown["primary_heterogeneity"] = np.subtract(*np.percentile(case.ct.voxels[primary], (75, 25)))
            if nodes.any():
                shown["nodal_volume"] = nodes.sum() * voxel_ml
                shown["nodal_cyst"] = -np.percentile(case.ct.voxels[nodes], 10)
            for name, value in shown.items():
                seen[name].append((getattr(patient, name), float(value)))
        for name, pairs in seen.items():
            assert len(pairs) >= 10, name
            assert spearmanr(*zip(*pairs, strict=True)).statistic >= 0.7, name

    def test_a_flipped_file_shows_the_same_patient(self) -> None:
        patient = next(p for p in draw_patients(200, 11) if p.center == "USZ" and p.primary_site and not p.long_scan)
        case = render(patient, with_reference=True)
        assert case.ct.grid.direction[0] == case.ct.grid.direction[4] == -1.0
        primary = voxels_of(case, Label.GTVP)
        assert pet_on_ct(case)[primary].mean() > 2.0
        assert np.median(case.ct.voxels[primary]) > 50.0

    def test_long_scans_reach_the_pelvis(self) -> None:
        patient = next(p for p in draw_patients(400, 11) if p.long_scan and p.primary_site)
        case = render(patient, with_reference=True)
        assert case.ct.grid.size_xyz[2] * case.ct.grid.spacing_xyz[2] > 880.0
        lungs = (case.ct.voxels > -900) & (case.ct.voxels < -750)
        assert lungs.sum() * case.ct.grid.voxel_ml > 1000.0

    def test_reference_only_where_known(self) -> None:
        patient = replace(draw_patients(1, 2)[0], mask_known=False, long_scan=False)
        assert render(patient).reference is None
        assert render(patient, with_reference=True).reference is not None


class TestDisk:
    """Layout, determinism, resuming."""

    def test_cohort(self, tmp_path: Path) -> None:
        write_cohort(3, 6, tmp_path, workers=2)
        cohort = MemoryCohort.draw(3, 6)
        for patient in cohort.latent:
            folder, case = tmp_path / patient.patient_id, cohort.read_case(patient.patient_id)
            names = {f"{patient.patient_id}{end}.nii.gz" for end in ("__CT", "__PT", *[""] * patient.mask_known)}
            assert {path.name for path in folder.iterdir()} == names
            self.compare(read_image(folder / f"{patient.patient_id}__CT.nii.gz"), case.ct)
            self.compare(read_image(folder / f"{patient.patient_id}__PT.nii.gz"), case.pet)
        with (tmp_path / TABLE_NAMES["training"]).open() as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == [
            "PatientID", "CenterID", "Age", "Gender", "Tobacco Consumption", "Alcohol Consumption",
            "Performance Status", "Treatment", "M-stage", "Relapse", "RFS", "HPV Status", "Synthetic Cohort",
        ]  # fmt: skip
        assert [row["PatientID"] for row in rows] == [patient.patient_id for patient in cohort.latent]
        assert [row["HPV Status"] != "" for row in rows] == [patient.hpv_known for patient in cohort.latent]
        with (tmp_path / "truth.csv").open() as file:
            truth = list(csv.DictReader(file))
        assert [float(row["relapse_days"]) for row in truth] == [round(p.relapse_days, 6) for p in cohort.latent]
        figures = json.loads((tmp_path / ORACLE_NAME).read_text())
        assert set(figures) == {"version", "hpv_auc", "hpv_balanced_accuracy", "c_index"}

        first, last = (
            tmp_path / p.patient_id / f"{p.patient_id}__CT.nii.gz" for p in (cohort.latent[0], cohort.latent[2])
        )
        kept, whole = first.stat().st_mtime_ns, last.read_bytes()
        last.unlink()
        write_cohort(3, 6, tmp_path, workers=1)
        assert first.stat().st_mtime_ns == kept
        assert last.read_bytes() == whole
        with pytest.raises(InvalidInputError, match="another seed, version"):
            write_cohort(3, 7, tmp_path)

    def test_cohort_as_dicom(self, tmp_path: Path) -> None:
        write_cohort(2, 6, tmp_path, workers=2, image_format=ImageFormat.DICOM)
        drawn, there = MemoryCohort.draw(2, 6), read_cohort(tmp_path)
        for patient in drawn.latent:
            name = patient.patient_id
            masks = [f"{name}.nii.gz"] * patient.mask_known
            assert sorted(path.name for path in (tmp_path / name).iterdir()) == sorted(["CT", "PT", *masks])
            case, found = drawn.read_case(name), there.read_case(name)
            np.testing.assert_array_equal(found.ct.voxels, np.maximum(case.ct.voxels, LOWEST_HU))
            tolerance = case.pet.voxels.max(axis=(1, 2), keepdims=True) / 60_000
            assert (np.abs(found.pet.voxels - case.pet.voxels) <= tolerance).all()
            for modality in ("ct", "pet"):
                grid, wanted = getattr(found, modality).grid, getattr(case, modality).grid
                assert grid.origin_xyz == pytest.approx(wanted.origin_xyz)
                assert grid.spacing_xyz == pytest.approx(wanted.spacing_xyz)
                assert grid.direction == pytest.approx(wanted.direction)
            assert found.clinical.values == drawn.patients[drawn.latent.index(patient)].clinical.values
            assert (found.reference is None) == (case.reference is None)
            if case.reference is not None and found.reference is not None:
                np.testing.assert_array_equal(found.reference.voxels, case.reference.voxels)
        first, last = (tmp_path / patient.patient_id for patient in drawn.latent)
        kept = first.stat().st_mtime_ns
        shutil.rmtree(last)
        write_cohort(2, 6, tmp_path, workers=1, image_format=ImageFormat.DICOM)
        assert (first.stat().st_mtime_ns, (last / "CT").is_dir()) == (kept, True)
        assert not list(tmp_path.glob(".partial*"))
        with pytest.raises(InvalidInputError, match="holds patients as dicom; name another folder"):
            write_cohort(2, 6, tmp_path)

    def test_sample_case_is_what_the_phantom_draws(self, tmp_path: Path) -> None:
        case = write_sample_case(tmp_path)
        assert case.ct.grid.size_xyz[:2] == (200, 200)
        assert components(voxels_of(case, Label.GTVP), np.ones((3, 3, 3)))[1] == 1
        assert components(voxels_of(case, Label.GTVN), np.ones((3, 3, 3)))[1] == 2
        assert (tmp_path / "ehr.json").read_text() == (SAMPLE_INPUT / "ehr.json").read_text()
        for modality, image in (("ct", case.ct), ("pet", case.pet)):
            (shipped,) = (SAMPLE_INPUT / "images" / modality).glob("*.mha")
            self.compare(read_image(shipped), image)
        assert sum(path.stat().st_size for path in SAMPLE_INPUT.rglob("*.*") if path.is_file()) < 8e6

    @staticmethod
    def compare(there: Image, drawn: Image) -> None:
        """Equal but for the last digit, which another processor may round otherwise."""
        assert there.grid.size_xyz == drawn.grid.size_xyz
        np.testing.assert_allclose(there.grid.origin_xyz, drawn.grid.origin_xyz, atol=1e-3)
        np.testing.assert_allclose(there.voxels, drawn.voxels, atol=1.0 if drawn.voxels.dtype == np.int16 else 1e-3)
