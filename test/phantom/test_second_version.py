"""Version 2 of the synthetic cohort beside version 1: stages, released blanks, dose and traps; version 1 as it was."""

import csv
import hashlib
import json
from dataclasses import fields, replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import SimpleITK as sitk
from lifelines import CoxPHFitter
from numpy.typing import NDArray
from pandas import DataFrame

from mmpl.__main__ import main
from mmpl.case import Case
from mmpl.geometry import Interpolation, resample
from mmpl.io.cohort import read_cohort
from mmpl.io.images import read_image
from mmpl.names import Label
from mmpl.phantom.cohort import ORACLE_NAME, TABLE_NAMES, MemoryCohort, truth_row, write_cohort
from mmpl.phantom.dose import Dose, dose_map
from mmpl.phantom.latent import LatentPatient, draw_patients
from mmpl.phantom.lesions import largest_extent_mm
from mmpl.phantom.planted import VERSION_2
from mmpl.phantom.render import render
from mmpl.phantom.scene import Pose
from mmpl.phantom.staging import N_STAGES, T_STAGES, n_stage, stage_number, t_stage
from mmpl.phantom.traps import NO_TRAPS, SHARES, Traps, draw_traps
from mmpl.schema import default_schema
from mmpl.training.workspace import open_source

assert VERSION_2.stages
MISREAD = VERSION_2.stages.misread


@pytest.fixture(scope="module")
def many() -> tuple[LatentPatient, ...]:
    return draw_patients(8000, seed=1, version=2)


@pytest.fixture(scope="module")
def plain() -> LatentPatient:
    """A patient with a primary and a node, as in a scan without traps."""
    patients = draw_patients(60, 21, version=2)
    patient = next(p for p in patients if p.primary_site and p.node_volumes_ml and not p.long_scan)
    return replace(patient, traps=NO_TRAPS)


@pytest.fixture(scope="module")
def plain_case(plain: LatentPatient) -> Case:
    return render(plain, with_reference=True)


def drawn_with(patient: LatentPatient, **traps: object) -> Case:
    return render(replace(patient, traps=Traps(**traps)), with_reference=True)  # type: ignore[arg-type]


def lesion_voxels(case: Case, label: Label) -> NDArray[np.bool_]:
    assert case.reference is not None
    return case.reference.voxels == label


class TestGolden:
    """A seed draws what it always drew."""

    @pytest.mark.parametrize(("version", "digest"), [(1, "d52a3a68e57ce9d0"), (2, "570f2eba7208b3e6")])
    def test_latent_patients(self, version: int, digest: str) -> None:
        """Golden: the hash of each `truth_row`; of version 1 made before version 2, of which no column is in it."""
        new = {"version", "underdosage_gy"}
        patients = draw_patients(50, 3, version=version)
        rows = [{name: cell for name, cell in truth_row(p).items() if name not in new} for p in patients]
        assert hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16] == digest

    @pytest.mark.parametrize(
        ("index", "ct_mean", "pet_mean", "primary", "nodes"),
        [
            (0, -722.5257158878418, 0.3704834290368061, 2666, 1215),
            (1, -727.8381963413314, 0.3200070912142529, 2434, 0),
        ],
    )
    def test_images(self, index: int, ct_mean: float, pet_mean: float, primary: int, nodes: int) -> None:
        """Golden: made before version 2; another processor may round a few voxels otherwise."""
        case = render(draw_patients(2, 3)[index], with_reference=True)
        assert case.ct.voxels.mean(dtype=float) == pytest.approx(ct_mean, abs=1e-3)
        assert case.pet.voxels.mean(dtype=float) == pytest.approx(pet_mean, abs=1e-6)
        assert lesion_voxels(case, Label.GTVP).sum() == primary
        assert lesion_voxels(case, Label.GTVN).sum() == nodes

    def test_names_without_a_version(self) -> None:
        names = ("phantom:3:5", "phantom:3:5:v1", "phantom:3:5:v2", "phantom:3:5:0.5:v2")
        sources = [open_source(name, default_schema()) for name in names]
        assert all(isinstance(source, MemoryCohort) for source in sources)
        assert [source.latent[0].version for source in sources if isinstance(source, MemoryCohort)] == [1, 1, 2, 2]
        assert sources[0].patients == sources[1].patients != sources[2].patients

    @pytest.mark.parametrize(
        ("version", "ending", "share", "options"),
        [
            (2, "", 0.0, []),
            (2, ":dose0.5", 0.5, ["--dose-share", "0.5"]),
            (2, ":dose", 0.125, ["--dose"]),
            (2, ":dose0.5", 0.5, ["--dose", "--dose-share", "0.5"]),
            (1, ":dose1", 1.0, ["--dose", "--dose-share", "1"]),
        ],
    )
    def test_names_with_dose(
        self, version: int, ending: str, share: float, options: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As `mmpl phantom` draws with its own switch."""
        source, written = open_source(f"phantom:40:5:v{version}{ending}", default_schema()), Mock()
        assert isinstance(source, MemoryCohort)
        assert source.latent == draw_patients(40, 5, version=version, dose_share=share)
        monkeypatch.setattr("mmpl.phantom.cohort.write_cohort", written)
        monkeypatch.setattr("sys.argv", ["mmpl", "phantom", "--patients=40", "--seed=5", "--out=x", *options])
        with pytest.raises(SystemExit, match="0"):
            main()
        assert written.call_args.args[6] == share


class TestRealEffects:
    """The released table of version 2 gives a Cox model about the hazard ratios of real patients."""

    def test_cox_model(self, many: tuple[LatentPatient, ...]) -> None:
        frame = DataFrame(
            {
                "hpv": [p.hpv_positive for p in many],
                "performance": [p.performance_status for p in many],
                "tobacco": [p.tobacco for p in many],
                "chemotherapy": [p.treatment for p in many],
                "t": [stage_number(p.staging.t_read) for p in many if p.staging],
                "n": [stage_number(p.staging.n_read) for p in many if p.staging],
                "days": [p.rfs_days for p in many],
                "relapse": [p.relapse for p in many],
            }
        ).astype(float)
        ratios = CoxPHFitter().fit(frame, "days", "relapse").hazard_ratios_
        assert 0.32 <= ratios["hpv"] <= 0.56
        assert 1.07 <= ratios["performance"] <= 1.54
        assert 0.48 <= ratios["chemotherapy"] <= 0.87
        assert 1.26 <= ratios["t"] <= 1.64
        assert 1.36 <= ratios["n"] <= 1.95

    def test_outcomes_and_blanks_as_released(self, many: tuple[LatentPatient, ...]) -> None:
        assert np.mean([p.relapse for p in many if p.rfs_known]) == pytest.approx(0.20, abs=0.02)
        assert np.mean([p.hpv_known for p in many]) == pytest.approx(0.76, abs=0.02)
        for name, share in {"tobacco": 0.33, "alcohol": 0.34, "performance_status": 0.40}.items():
            assert np.mean([name in p.missing for p in many]) == pytest.approx(share, abs=0.02), name


class TestStages:
    """By AJCC 7, on the drawn lesions."""

    @pytest.mark.parametrize(
        ("extent_mm", "invasion", "stage"),
        [
            (0, False, "T0"),
            (20, False, "T1"),
            (20.1, False, "T2"),
            (40, False, "T2"),
            (41, False, "T3"),
            (9, True, "T4"),
        ],
    )
    def test_t(self, extent_mm: float, invasion: bool, stage: str) -> None:
        assert t_stage(extent_mm, invasion) == stage

    @pytest.mark.parametrize(
        ("extents_mm", "contralateral", "stage"),
        [
            ((), (), "N0"),
            ((30,), (False,), "N1"),
            ((31,), (False,), "N2a"),
            ((10, 9), (False, False), "N2b"),
            ((10, 9), (False, True), "N2c"),
            ((10,), (True,), "N2c"),
            ((61, 10), (False, True), "N3"),
        ],
    )
    def test_n(self, extents_mm: tuple[float, ...], contralateral: tuple[bool, ...], stage: str) -> None:
        assert n_stage(extents_mm, contralateral) == stage

    @pytest.mark.parametrize(
        ("true", "read", "stages", "chance"),
        [
            ("t_stage", "t_read", T_STAGES[1:], MISREAD[0]),
            ("n_stage", "n_read", N_STAGES, MISREAD[1]),
        ],
    )
    def test_misread_stages(
        self, many: tuple[LatentPatient, ...], true: str, read: str, stages: tuple[str, ...], chance: float
    ) -> None:
        """Each stage with the whole chance, the first and the last too, and for a neighbor alone."""
        stagings = [p.staging for p in many if p.staging]
        assert len(stagings) == len(many)
        for place, stage in enumerate(stages):
            readings = np.array([stages.index(getattr(s, read)) for s in stagings if getattr(s, true) == stage])
            assert np.mean(readings != place) == pytest.approx(chance, abs=4 * np.sqrt(chance / len(readings))), stage
            assert set(readings) == set(range(len(stages))) & {place - 1, place, place + 1}
        assert all(s.t_read == "T0" for s in stagings if s.t_stage == "T0")

    def test_drawn_lesions_have_the_stage(self) -> None:
        patients = [p for p in draw_patients(30, 33, version=2, hpv_positive=0.5) if not p.long_scan][:14]
        ratios, sides = [], []
        for patient in patients:
            case, staging = render(patient, with_reference=True), patient.staging
            assert staging is not None
            spacing_zyx = case.ct.grid.spacing_xyz[::-1]
            axes = [np.arange(size) * step for size, step in zip(case.ct.voxels.shape, spacing_zyx, strict=True)]
            primary = lesion_voxels(case, Label.GTVP)
            if primary.any():
                ratios.append(largest_extent_mm(primary, axes) / staging.primary_extent_mm)
            if patient.primary_site == "tonsil" and not patient.traps.turn_deg and case.ct.grid.direction[0] == 1.0:
                # the spine is in the middle of the body, whatever the field of view
                body_x = np.nonzero((case.ct.voxels > -300)[primary.any(axis=(1, 2))].any(axis=(0, 1)))[0]
                right_of_middle = np.nonzero(primary)[2].mean() < body_x.mean()
                sides.append(right_of_middle == (staging.side == "right"))
        assert len(ratios) > 8
        assert np.median(ratios) == pytest.approx(1.0, abs=0.05)
        assert np.mean(np.abs(np.array(ratios) - 1.0) < 0.15) >= 0.8
        assert len(sides) >= 2
        assert np.mean(sides) > 0.7

    def test_invasion_erodes_bone(self) -> None:
        """The same lesion without invasion spares the jaw."""
        patients = [p for p in draw_patients(400, 5, version=2, hpv_positive=0.3) if p.staging and p.staging.invasion]
        large = max((p for p in patients if not p.long_scan), key=lambda p: p.primary_volume or 0.0)
        invading = replace(large, traps=NO_TRAPS, node_volumes_ml=())
        assert invading.staging is not None
        spared = replace(invading, staging=replace(invading.staging, invasion=False))
        bone = [(render(p, with_reference=True).ct.voxels > 400).sum() for p in (invading, spared)]
        assert bone[0] < bone[1]


class TestDose:
    """On a switch, from a stream of its own."""

    def test_everything_else_is_the_same(self) -> None:
        without = draw_patients(300, 8, version=2)
        with_dose = draw_patients(300, 8, version=2, dose_share=0.5)
        assert np.mean([p.dose is not None for p in with_dose]) == pytest.approx(0.5, abs=0.1)
        changed = {"dose", "log_hazard", "relapse_days", "relapse", "rfs_days"}
        for one, other in zip(without, with_dose, strict=True):
            cold = other.dose is not None and other.dose.underdosage_gy > 0.0
            differing = {field.name for field in fields(one) if getattr(one, field.name) != getattr(other, field.name)}
            assert differing <= (changed if cold else {"dose"})
            if cold:
                assert other.log_hazard > one.log_hazard
                assert other.relapse_days <= one.relapse_days

    def test_everybody_can_have_it(self) -> None:
        assert all(p.dose for p in draw_patients(30, 8, version=2, dose_share=1.0))

    @pytest.mark.parametrize("lack_gy", [0.0, 6.0])
    def test_map_shows_the_underdosage(self, plain: LatentPatient, plain_case: Case, lack_gy: float) -> None:
        gray = dose_map(Dose(lack_gy), plain_case, plain.image_seed)
        assert gray.grid.spacing_xyz[0] > 2 * plain_case.ct.grid.spacing_xyz[0]
        on_ct = resample(gray, plain_case.ct.grid, Interpolation.LINEAR, 0.0)
        primary = on_ct[lesion_voxels(plain_case, Label.GTVP)]
        assert np.percentile(primary, 90) == pytest.approx(70.0, abs=1.5)
        assert 70.0 - np.percentile(primary, 5) == pytest.approx(lack_gy, abs=2.0)
        assert np.median(on_ct[on_ct > 0]) < 60.0


class TestTraps:
    """Each shows, spares what it should, and leaves the lesions' volumes."""

    def test_shares(self, many: tuple[LatentPatient, ...]) -> None:
        for name, share in {
            "dental": np.mean([p.traps.dental for p in many]),
            "pose": np.mean([bool(p.traps.turn_deg or p.traps.tilt_deg) for p in many]),
            "arms_up": np.mean([p.traps.arms == "up" for p in many]),
            "field_cut": np.mean([p.traps.field_cut_mm != 0.0 for p in many]),
            "contrast": np.mean([p.traps.vessel_hu is not None for p in many]),
            "reconstruction": np.mean([p.traps.pet_fwhm_mm is not None for p in many]),
            "lung_lesion": np.mean([p.traps.lung_lesion_mm > 0.0 for p in many if p.long_scan]),
        }.items():
            assert share == pytest.approx(SHARES[name], abs=0.06 if name == "lung_lesion" else 0.02), name

    def test_streams_are_their_own(self) -> None:
        """Taking one trap away leaves the others as they were."""
        for seed in range(20):
            every = draw_traps(np.random.default_rng(seed), 150.0, True, dict.fromkeys(SHARES, 1.0))
            fewer = dict.fromkeys(SHARES, 1.0) | {"pose": 0.0}
            assert draw_traps(np.random.default_rng(seed), 150.0, True, fewer) == replace(
                every, turn_deg=0.0, tilt_deg=0.0
            )

    @pytest.mark.parametrize(("turn", "tilt"), [(20.0, 0.0), (0.0, 20.0), (0.0, -20.0)])
    def test_pose_and_its_inverse(self, turn: float, tilt: float) -> None:
        pose, rng = Pose(turn, tilt), np.random.default_rng(0)
        places = rng.uniform(-150, 170, 500), rng.uniform(-90, 100, 500), rng.uniform(-90, 90, 500)
        back = pose.scene(*pose.scanner(*places))
        assert max(np.abs(one - other).max() for one, other in zip(places, back, strict=True)) < 0.05
        nose, shoulder = pose.seen((0.0, -95.0, 44.0)), pose.seen((100.0, 30.0, -130.0))
        assert (nose[0] > 30.0) is (turn > 0.0)
        assert (nose[2] - 44.0) * tilt > 30.0 * abs(tilt) or not tilt
        assert shoulder == (100.0, 30.0, -130.0)

    def test_a_turned_head_keeps_lesions_in_both_images(self, plain: LatentPatient, plain_case: Case) -> None:
        turned = drawn_with(plain, turn_deg=20.0)
        for case in (plain_case, turned):
            pet = resample(case.pet, case.ct.grid, Interpolation.LINEAR, 0.0)
            primary = lesion_voxels(case, Label.GTVP)
            assert pet[primary].mean() > 1.5 * pet[case.ct.voxels > 0].mean()
        sizes = [lesion_voxels(case, label).sum() for case in (plain_case, turned) for label in (1, 2)]
        assert sizes[:2] == pytest.approx(sizes[2:], abs=2)

    def test_metal_streaks_ct_and_heats_pet(self, plain: LatentPatient, plain_case: Case) -> None:
        metal = drawn_with(plain, dental=True)
        assert (metal.ct.voxels > 2900).sum() > (plain_case.ct.voxels > 2900).sum()
        hotter = metal.pet.voxels / np.maximum(plain_case.pet.voxels, 0.2)
        assert hotter.max() > 1.2
        assert np.median(hotter[plain_case.pet.voxels > 0.2]) == pytest.approx(1.0, abs=0.02)

    def test_arms(self, plain: LatentPatient, plain_case: Case) -> None:
        top = slice(-10, None)
        up, down = (drawn_with(plain, arms=arms) for arms in ("up", "down"))
        tissue = [(case.ct.voxels[top] > -200).sum() for case in (plain_case, up, down)]
        assert tissue[1] > tissue[0] + 1000
        assert tissue[2] == pytest.approx(tissue[0], abs=50)

    def test_round_field(self, plain: LatentPatient) -> None:
        cut = drawn_with(plain, field_cut_mm=35.0)
        corner = cut.ct.voxels[:, :20, :20]
        assert (corner == -1000).all()
        shoulders = cut.ct.voxels[:8]
        assert (shoulders[:, :, -12:] > 150).sum() + (shoulders[:, :, :12] > 150).sum() > 20  # the rim

    def test_contrast(self, plain: LatentPatient) -> None:
        native, enhanced = (drawn_with(plain, vessel_hu=hu) for hu in (45.0, 165.0))
        primary = lesion_voxels(native, Label.GTVP)
        rise = np.median(enhanced.ct.voxels[primary]) - np.median(native.ct.voxels[primary])
        assert rise == pytest.approx(0.12 * 120.0, abs=3.0)

    def test_iterations_make_noise(self, plain: LatentPatient) -> None:
        roughness = []
        for iterations in (2, 5):
            pet = drawn_with(plain, pet_fwhm_mm=6.0, pet_iterations=iterations).pet.voxels
            tissue = (pet > 0.3) & (pet < 1.2)
            roughness.append(np.abs(np.diff(pet, axis=2))[tissue[:, :, 1:] & tissue[:, :, :-1]].mean())
        assert roughness[1] > 1.3 * roughness[0]

    def test_a_lesion_in_the_lung_is_no_label(self) -> None:
        long = next(p for p in draw_patients(300, 4, version=2) if p.long_scan and p.center != "USZ")
        none, lung = (drawn_with(long, lung_lesion_mm=mm) for mm in (0.0, 30.0))
        differing = np.abs(lung.pet.voxels - none.pet.voxels) > 1.0
        ml = differing.sum() * none.pet.grid.voxel_ml
        assert 5.0 < ml < 60.0
        assert (lesion_voxels(lung, Label.GTVP) == lesion_voxels(none, Label.GTVP)).all()
        assert np.nonzero(differing)[0].max() < 0.8 * none.pet.voxels.shape[0]


class TestFiles:
    """What lies on disk names its version."""

    def test_cohort(self, tmp_path: Path) -> None:
        write_cohort(2, 8, tmp_path, version=2, dose_share=1.0, workers=1)
        patients = draw_patients(2, 8, version=2, dose_share=1.0)
        for patient in patients:
            for path in (tmp_path / patient.patient_id).iterdir():
                assert sitk.ReadImage(path).GetMetaData("ITK_FileNotes").endswith("version 2")
            dose = read_image(tmp_path / patient.patient_id / f"{patient.patient_id}__RTDOSE.nii.gz")
            assert 60.0 < dose.voxels.max() < 80.0
        with (tmp_path / TABLE_NAMES["training"]).open() as file:
            rows = list(csv.DictReader(file))
        for row, patient in zip(rows, patients, strict=True):
            assert patient.staging is not None
            assert (row["T-stage"], row["N-stage"]) == (patient.staging.t_read, patient.staging.n_read)
            assert row["Synthetic Cohort"].endswith("version 2")
        assert json.loads((tmp_path / ORACLE_NAME).read_text())["version"] == 2
        with (tmp_path / "truth.csv").open() as file:
            truth = list(csv.DictReader(file))
        assert [row["version"] for row in truth] == ["2", "2"]
        assert [float(row["underdosage_gy"]) for row in truth] == pytest.approx(
            [p.dose.underdosage_gy for p in patients if p.dose], abs=1e-6
        )
        there, drawn = read_cohort(tmp_path, training=True), open_source("phantom:2:8:v2:dose1", default_schema())
        assert [p.outcome for p in there.patients] == [p.outcome for p in drawn.patients]
        for patient in patients:
            read, case = there.read_case(patient.patient_id), drawn.read_case(patient.patient_id)
            assert (read.reference is None) == (case.reference is None) == (not patient.mask_known)
            assert read.dose is not None
            assert case.dose is not None
            np.testing.assert_allclose(read.dose.voxels, case.dose.voxels, atol=1e-3)
            np.testing.assert_allclose(read.dose.grid.origin_xyz, case.dose.grid.origin_xyz, atol=1e-3)
            assert (read.flags, read.dose.grid.size_xyz) == (case.flags, case.dose.grid.size_xyz)
        with pytest.raises(ValueError, match="version"):
            write_cohort(2, 8, tmp_path, version=1)
