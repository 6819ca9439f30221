"""A planned dose that a person names: refused in one line where it cannot be used, a part of the risk where read."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import MEMBERS
from dicom_files import write_ct, write_dose, write_pet
from small_gpu import CPU

from mmpl.__main__ import main
from mmpl.algorithm import Algorithm
from mmpl.api import Model
from mmpl.case import Case, Grid, Image, InvalidInputError
from mmpl.dose import PARTLY_COVERED, dose_names
from mmpl.evidence import DOSE_KNOWN
from mmpl.files import read_json, write_json
from mmpl.io.images import write_image
from mmpl.names import Stage, Task
from mmpl.patient import Sources, read_patient
from mmpl.pipeline import NO_DOSE, PatientResult, Pipeline
from mmpl.schema import default_schema
from mmpl.survival import Covariate
from mmpl.weights import TABLES_FILE, Ensemble, SurvivalTables, load_ensemble, write_manifest

SCHEMA = default_schema()
GRID = Grid((20, 20, 20), (12.0, 12.0, 12.0), (-114.0, -110.0, -100.0))
FILL, WEIGHT = 68.0, -0.2


def flat(gray: float) -> Image:
    return Image(np.full(GRID.shape_zyx, gray, np.float32), GRID)


def reads_dose(weights: Path, target: Path) -> Path:
    """Copy an ensemble whose first model reads the lowest dose of both classes, too."""
    shutil.copytree(weights, target)
    whole = load_ensemble(target)
    path = target / MEMBERS[0] / TABLES_FILE[Stage.SURVIVAL]
    tables = read_json(path, SurvivalTables)
    rows = [
        Covariate(f"dose_{lesion}_min_gy", FILL, FILL, 2.0, 4.0, WEIGHT, 0.8, 0.7, 0.9, 0.01, 0.5)
        for lesion in ("gtvp", "gtvn")
    ]
    cox = replace(tables.cox, covariates=(*tables.cox.covariates, *rows))
    write_json(path, replace(tables, cox=cox))
    write_manifest(target, whole.profile, MEMBERS, whole.stages, whole.thresholds, whole.hpv_threshold, whole.training)
    return target


@pytest.fixture(scope="module")
def weights(tiny_ensemble: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reads_dose(tiny_ensemble, tmp_path_factory.mktemp("dose") / "weights")


@pytest.fixture(scope="module")
def ensemble(weights: Path) -> Ensemble:
    return load_ensemble(weights)


@pytest.fixture(scope="module")
def without(tiny_ensemble: Path, head: Case) -> PatientResult:
    return Pipeline(load_ensemble(tiny_ensemble), CPU)(head)


def test_an_underdosed_tumor_is_a_higher_risk_and_the_models_that_read_no_dose_say_the_same(
    ensemble: Ensemble, head: Case, without: PatientResult
) -> None:
    assert ensemble.reads_dose
    result = Pipeline(ensemble, CPU)(replace(head, dose=flat(64.0)))
    assert without.survival
    assert result.survival
    added = 2 * WEIGHT * (64.0 - FILL) / 2.0 / 0.3
    expected = without.survival.member_risks[0] + added, without.survival.member_risks[1]
    assert result.survival.member_risks == pytest.approx(expected)
    assert result.survival.member_risks[1] == without.survival.member_risks[1]
    assert result.hpv == without.hpv
    assert result.flags == without.flags
    assert result.dose
    assert ensemble.profile.dose
    assert result.dose.names == dose_names(ensemble.profile.dose)
    assert result.dose.read(["dose_gtvp_mean_gy", "dose_gtvn_d98_gy", DOSE_KNOWN]).tolist() == [[64, 64, 1]]
    assert result.survival.explanation
    found = {each.name: each for each in result.survival.explanation.contributions}["dose_gtvp_min_gy"]
    assert found.value == pytest.approx(64.0)
    assert found.added == pytest.approx(added / 4)


def test_without_a_dose_the_risk_is_that_of_its_usual_value_and_says_so(
    ensemble: Ensemble, head: Case, without: PatientResult
) -> None:
    result = Pipeline(ensemble, CPU)(head)
    assert result.survival
    assert without.survival
    assert result.survival.member_risks == without.survival.member_risks
    assert [flag for flag in result.flags if flag not in without.flags] == [NO_DOSE]
    assert result.dose
    assert result.dose.read([DOSE_KNOWN]).tolist() == [[0]]


def test_a_dose_that_misses_the_lesions_is_flagged_and_moves_nothing(
    ensemble: Ensemble, head: Case, without: PatientResult
) -> None:
    beyond = Image(flat(50).voxels, replace(GRID, origin_xyz=(200.0, 0.0, 0.0)))
    result = Pipeline(ensemble, CPU)(replace(head, dose=beyond))
    assert result.survival
    assert without.survival
    assert result.survival.member_risks == without.survival.member_risks
    assert [flag for flag in result.flags if flag.startswith(f"{PARTLY_COVERED} 0%")]


def test_models_that_read_no_dose_measure_none(tiny_ensemble: Path, head: Case, without: PatientResult) -> None:
    ensemble = load_ensemble(tiny_ensemble)
    assert not ensemble.reads_dose
    result = Pipeline(ensemble, CPU)(replace(head, dose=flat(64.0)))
    assert result.dose is None
    assert result.survival
    assert without.survival
    assert result.survival.member_risks == without.survival.member_risks
    assert result.flags == without.flags


def test_where_the_risk_is_not_asked_for_nothing_is_said_of_a_dose(ensemble: Ensemble, head: Case) -> None:
    result = Pipeline(ensemble, CPU, frozenset({Task.HPV}))(head)
    assert result.dose is None
    assert NO_DOSE not in result.flags


# what a person names


@pytest.fixture
def images(head: Case, tmp_path: Path) -> dict[str, Path]:
    paths = {"ct": tmp_path / "ct.mha", "pet": tmp_path / "pet.mha", "dose": tmp_path / "dose.nii.gz"}
    for name, image in (("ct", head.ct), ("pet", head.pet), ("dose", flat(64.0))):
        write_image(paths[name], image)
    return paths


def test_a_named_dose_is_read_with_its_planning_ct(images: dict[str, Path]) -> None:
    case = read_patient(Sources(**images, planning_ct=images["ct"]), SCHEMA, "somebody")
    assert case.dose
    assert case.dose.voxels.max() == 64.0


@pytest.mark.parametrize(
    ("name", "image", "said"),
    [
        ("dose", flat(-1.0), "the dose is negative somewhere (-1)"),
        ("dose", flat(150.0), "the dose is neither in Gy nor in cGy (its maximum is 150)"),
        ("dose", None, "no such file"),
        ("planning_ct", flat(-1000.0), "the planning CT does not lie where the CT lies"),
    ],
)
def test_a_named_dose_that_cannot_be_used_is_refused_by_its_file(
    images: dict[str, Path], tmp_path: Path, name: str, image: Image | None, said: str
) -> None:
    path = tmp_path / "odd.mha"
    if image:
        write_image(path, image)
    with pytest.raises(InvalidInputError) as refused:
        read_patient(Sources(**images | {name: path}), SCHEMA, "somebody")
    assert said in str(refused.value)
    assert str(path) in str(refused.value)
    assert str(images["pet"]) not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_named_dose_goes_before_the_studys_and_must_be_of_its_ct(head: Case, tmp_path: Path) -> None:
    study = tmp_path / "visit"
    first, *_ = write_ct(study / "ct", head.ct)
    write_pet(study / "pet", head.pet)
    write_dose(study / "plan.dcm", flat(60.0), first)
    found = read_patient(Sources(dicom=study), SCHEMA, "somebody")
    assert found.dose
    assert found.dose.voxels.max() == pytest.approx(60)
    other = write_dose(tmp_path / "other.dcm", flat(66.0), first)
    named = read_patient(Sources(dicom=study, dose=other), SCHEMA, "somebody")
    assert named.dose
    assert named.dose.voxels.max() == pytest.approx(66)
    write_dose(other, flat(66.0), first, FrameOfReferenceUID="1.2.3")
    with pytest.raises(InvalidInputError, match=rf"^{other}: the RT dose has another frame of reference than the CT"):
        read_patient(Sources(dicom=study, dose=other), SCHEMA, "somebody")


def test_a_planning_ct_without_a_dose_is_refused(images: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="--planning-ct says where a dose lies, and --dose is not there"):
        Sources(ct=images["ct"], pet=images["pet"], planning_ct=images["ct"])


def test_the_commands_report_has_the_dose_and_the_python_interface_the_same_risk(
    weights: Path,
    ensemble: Ensemble,
    head: Case,
    images: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for name, value in (("MMPL_TIME_BUDGET_S", "0"), ("MMPL_HPV_PREVALENCE", ""), ("MMPL_WEIGHTS", str(weights))):
        monkeypatch.setenv(name, value)
    out = tmp_path / "out"
    arguments = [word for name, path in images.items() for word in (f"--{name}", str(path))]
    monkeypatch.setattr("sys.argv", ["mmpl", "case", *arguments, "--out", str(out), "--no-page"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert (stopped.value.code or 0, capfd.readouterr().err) == (0, "")
    report = json.loads((out / "report.json").read_text())
    assert report["dose"]["dose_gtvp_d98_gy"] == 64.0
    assert report["dose"][DOSE_KNOWN] == 1
    assert set(report["provenance"]["inputs"]) == {"ct", "pet", "dose"}
    finding = {each["finding"]: each for each in report["risk"]["why"]["findings"]}["dose_gtvp_min_gy"]
    assert (finding["in_words"], finding["unit"]) == ("primary tumor, planned dose: lowest", "Gy")
    model = Model(Pipeline(ensemble, CPU))
    for dose in (str(images["dose"]), (flat(64.0).voxels.T, np.diag([-12.0, -12.0, 12.0, 1.0]) + _offset())):
        result = model.answer(str(images["ct"]), str(images["pet"]), dose=dose)
        assert result.survival
        assert result.survival.risk_score == pytest.approx(report["risk"]["score"], abs=1e-6)


def _offset() -> np.ndarray:
    affine = np.zeros((4, 4))
    affine[:3, 3] = np.array([-1, -1, 1]) * GRID.origin_xyz
    return affine


def test_the_challenges_case_reads_a_dose_with_models_that_do_and_no_odd_one_stops_it(
    weights: Path,
    tiny_ensemble: Path,
    write_input: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:

    monkeypatch.setenv("MMPL_TIME_BUDGET_S", "0")
    folder = write_input()
    place = folder / "images" / "rt-dose" / "uuid.mha"
    place.parent.mkdir()

    def risk(chosen: Path) -> float:
        monkeypatch.setenv("MMPL_WEIGHTS", str(chosen))
        Algorithm.load().answer(folder, tmp_path / "out")
        return float(json.loads((tmp_path / "out" / "rfs.json").read_text()))

    before = risk(weights)
    place.write_bytes(b"no image")
    assert risk(weights) == before
    write_image(place, flat(64.0))
    assert risk(weights) == pytest.approx(before + 2 * WEIGHT * (64.0 - FILL) / 2.0 / 0.3 / 2)
    assert risk(tiny_ensemble) == pytest.approx(before)
