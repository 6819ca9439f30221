"""The ten models of the micro profile, trained by the real programs on a cohort on disk, killed once on the way."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import kills
import numpy as np
import pytest
import torch

from mmpl.evidence import ABSENT, Scale
from mmpl.io.cohort import read_cohort
from mmpl.names import NETWORK_STAGES, STAGE_TASKS, Stage
from mmpl.phantom.cohort import write_cohort
from mmpl.pipeline import Pipeline
from mmpl.training import segmentation
from mmpl.training.outcome_network import own_scales, score_patients, standardize, training_center
from mmpl.training.records import HpvRecord, StagingRecord, SurvivalRecord
from mmpl.training.segmentation import Start, train_member
from mmpl.training.splits import Member, Scheme, Splits
from mmpl.training.survival import cut_intervals, survival_task
from mmpl.training.workspace import RunSettings, Workspace, may_share_patients
from mmpl.weights import load_ensemble, read_network, read_state
from train.experiments import ablation

pytestmark = pytest.mark.slow

PATIENTS = 36
FIRST = Member(Scheme.PATIENT, 0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path, dict[Path, int]]:
    """Train, kill -9 after three networks, train again; the cohort, the run, the weights, what the kill left."""
    folder = tmp_path_factory.mktemp("training")
    cohort, run, weights = folder / "cohort", folder / "run", folder / "weights"
    write_cohort(PATIENTS, 3, cohort, hpv_positive=0.5, version=2)
    first = kills.start(str(cohort), run, weights)
    deadline = time.monotonic() + 900
    while len(list(run.glob("models/*/*/network.safetensors"))) < 3:
        assert first.poll() is None, "training ended before three networks were there"
        assert time.monotonic() < deadline
        time.sleep(0.1)
    kills.kill(first)
    kills.read_everything(run)
    left = {path: path.stat().st_mtime_ns for path in run.glob("models/*/*/network.safetensors")}
    kills.finish(str(cohort), run, weights)
    return cohort, run, weights, left


def test_scores_of_several_networks_come_to_one_scale() -> None:
    splits = Splits({Scheme.PATIENT: {"a": 0, "b": 0, "c": 1, "d": 1}})
    scores = {Scheme.PATIENT: {"a": 1.0, "b": 3.0, "c": 1001.0, "d": 1005.0}}
    assert own_scales(splits, scores)[Member(Scheme.PATIENT, 1)] == Scale(1003.0, 2.0)
    assert standardize(splits, scores) == {Scheme.PATIENT: {"a": -1.0, "b": 1.0, "c": -1.0, "d": 1.0}}


def test_a_killed_run_goes_on_where_it_was(trained: tuple[Path, Path, Path, dict[Path, int]]) -> None:
    *_, left = trained
    assert len(left) >= 3
    assert {path: path.stat().st_mtime_ns for path in left} == left


def test_survival_networks_end_at_the_level_of_their_training_patients(
    trained: tuple[Path, Path, Path, dict[Path, int]],
) -> None:
    workspace = Workspace.open(trained[1])
    task = survival_task(workspace, FIRST, cut_intervals(workspace, FIRST))
    network = read_network(workspace.network_file(FIRST, Stage.SURVIVAL), workspace.profile, Stage.SURVIVAL)
    centers = {name: training_center(workspace, name) for name in task.targets}
    assert task.level is not None
    assert task.level(score_patients(workspace, network, centers)) == pytest.approx(0, abs=0.01)


def test_every_patient_is_scored_once_a_scheme_out_of_fold(trained: tuple[Path, Path, Path, dict[Path, int]]) -> None:
    _, run, _, _ = trained
    workspace = Workspace.open(run)
    ids = {p.patient_id for p in workspace.patients}
    assert len(ids) == PATIENTS
    hpv, survival = workspace.read(HpvRecord), workspace.read(SurvivalRecord)
    for table in (hpv.logits, hpv.probability, survival.expected_days, survival.risk):
        assert set(table) == set(Scheme)
        for scheme in Scheme:
            assert set(table[scheme]) == ids
            assert np.isfinite(list(table[scheme].values())).all()
    staging = workspace.read(StagingRecord)
    assert all(set(staging.scores[task][scheme]) == ids for task in STAGE_TASKS for scheme in Scheme)
    for scheme in Scheme:
        assert {p.stem for p in (run / "out_of_fold" / scheme).glob("*.npz")} == ids


def test_stages_start_from_the_whole_backbone_before(trained: tuple[Path, Path, Path, dict[Path, int]]) -> None:
    """Few small steps from it: every backbone tensor stays near the one it started from, unlike a fresh one."""
    from safetensors.torch import load_file

    _, run, _, _ = trained
    workspace = Workspace.open(run)
    one, two, three = (load_file(workspace.network_file(FIRST, stage)) for stage in NETWORK_STAGES)
    names = [n for n in one if n.startswith("backbone.") and n.endswith("weight") and one[n].dim() == 5]
    assert any(".decoder." in n for n in names)
    assert any(".encoder." in n for n in names)
    for name in names:
        assert (one[name] - two[name]).abs().max() < 0.02
        assert (two[name] - three[name]).abs().max() < 0.02


def test_the_weights_answer_a_patient(trained: tuple[Path, Path, Path, dict[Path, int]]) -> None:
    cohort, run, weights, _ = trained
    ensemble = load_ensemble(weights)
    assert [member.name for member in ensemble.members] == [m.name for m in Workspace.open(run).splits.members]
    assert len(ensemble.members) == 10
    patients = read_cohort(cohort)
    case = patients.read_case(patients.patients[0].patient_id)
    result = Pipeline(ensemble, torch.device("cpu"))(case)
    assert result.segmentation.mask.grid == case.ct.grid
    assert np.isfinite(result.survival.risk_score)
    assert len(result.hpv.member_probabilities) == 10
    assert result.survival.member_curves.shape[0] == 10
    assert (np.diff(result.survival.member_curves, axis=1) <= 1e-12).all()
    staging = Workspace.open(run).read(StagingRecord)
    assert ensemble.stages == tuple(Stage)
    assert ensemble.stage_scales == staging.scales
    for task, answer in zip(STAGE_TASKS, (result.t_stage, result.n_stage), strict=True):
        assert answer.stage in staging.scales[task].stages
        assert len(answer.member_scores) == 10


def test_nothing_in_the_weights_can_execute(trained: tuple[Path, Path, Path, dict[Path, int]]) -> None:
    _, _, weights, _ = trained
    suffixes = {path.suffix for path in weights.rglob("*") if path.is_file()}
    assert suffixes == {".json", ".safetensors", ".npz"}
    manifest = json.loads((weights / "manifest.json").read_text())
    calibration = load_ensemble(weights).calibration
    assert calibration.hpv is None  # fewer than ten patients of one status tell nothing of it
    assert len(manifest["files"]) == 81 + bool(calibration.survival)  # risks of so few may point the other way


def test_the_weights_know_where_a_patient_stands(trained: tuple[Path, Path, Path, dict[Path, int]]) -> None:
    """Every column that forests and Cox models read has rising percentiles; of few patients there is no distance."""
    ensemble = load_ensemble(trained[2])
    read = frozenset().union(*(member.forest.names for member in ensemble.members))
    read |= {each.name for member in ensemble.members for each in member.survival.cox.covariates}
    fields = {name for member in ensemble.members for name in member.encoder.field_of}
    percentiles = ensemble.reference.percentiles
    assert (read - fields - set(ABSENT)) | {"Age"} <= set(percentiles)
    assert all(list(values) == sorted(values) for values in percentiles.values())
    assert ensemble.reference.patch is None


def test_the_weights_know_whose_images_they_saw(trained: tuple[Path, Path, Path, dict[Path, int]]) -> None:
    _, run, weights, _ = trained
    known = json.loads((weights / "manifest.json").read_text())["training"]["image_hashes"]
    assert known == sorted(Workspace.open(run).image_hashes)
    assert len(set(known)) == PATIENTS


def test_stage_1_goes_on_from_an_ensemble_of_other_patients(
    trained: tuple[Path, Path, Path, dict[Path, int]], tmp_path: Path
) -> None:
    cohort, run, weights, _ = trained
    workspace = Workspace.open(run)
    steps = workspace.profile.training.segmentation.steps
    with pytest.raises(ValueError, match="its patients would not be out of fold"):
        Start(weights, 0).describe(workspace)
    (tmp_path / "renamed").symlink_to(cohort)
    other = Workspace(tmp_path / "run", RunSettings(str(tmp_path / "renamed"), workspace.profile))
    other.folder.mkdir()
    for name in ("patches", "splits.json"):
        (other.folder / name).symlink_to(run / name)
    with pytest.raises(ValueError, match=r"trained on the images of .* its patients would not be out of fold"):
        Start(weights, 0).describe(other)
    elsewhere = of_another_cohort(weights, tmp_path)
    with pytest.raises(ValueError, match=f"step {steps} is not one of the {steps}"):
        Start(elsewhere, steps).describe(other)
    manifest = elsewhere / "manifest.json"
    whole = manifest.read_text()
    manifest.write_text(json.dumps(json.loads(whole) | {"members": [FIRST.name]}))
    with pytest.raises(ValueError, match="has no network for "):
        Start(elsewhere, 0).describe(other)
    manifest.write_text(whole)
    start = Start(elsewhere, steps - 1)  # one small step from where the others ended
    record = start.describe(other)
    assert record.cohorts == ("phantom:20:9",)
    assert record.image_hashes == ("0123456789abcdef",)
    train_member(other, FIRST, start=start)
    before, after = (read_state(w.network_file(FIRST, Stage.SEGMENTATION)) for w in (workspace, other))
    assert all((before[name] - after[name]).abs().max() < 0.002 for name in before)
    assert any((before[name] != after[name]).any() for name in before)
    for program in (segmentation, ablation):
        with pytest.raises(ValueError, match="began with another --start or --start-step: none"):
            program.main(run, start=elsewhere)


def of_another_cohort(weights: Path, folder: Path) -> Path:
    """The same weights, as if they were trained on other patients."""
    copy = Path(shutil.copytree(weights, folder / "weights"))
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["training"] |= {"cohort": "phantom:20:9", "image_hashes": ["0123456789abcdef"]}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        ("phantom:480:1", "phantom:726:1", True),  # a patient is the same however many are drawn
        ("phantom:480:1", "phantom:480:1:0.5", True),
        ("phantom:480:1", "phantom:480:1:v2", True),
        ("phantom:480:1", "phantom:480:1:v2:dose", True),
        ("phantom:480:1", "phantom:480:11", False),
        ("/data/hecktor", "hecktor", True),
        ("/data/hecktor", "phantom:480:1", False),
    ],
)
def test_cohorts_that_may_share_patients(one: str, other: str, shared: bool) -> None:
    assert may_share_patients(one, other) is may_share_patients(other, one) is shared


def test_networks_train_without_an_image_library(tmp_path: Path) -> None:
    """From phantom to a trained network of stage 1 where SimpleITK cannot be imported."""
    program = """
import sys
sys.modules["SimpleITK"] = None  # importing it now raises ImportError
from pathlib import Path
from mmpl.training import prepare
from mmpl.training.segmentation import predict_fold, train_member
from mmpl.training.workspace import Workspace
run = Path(sys.argv[1])
prepare.main("phantom:20:3", run, "micro", without=["hpv", "survival"], workers=1)
workspace = Workspace.open(run)
first = workspace.splits.members[0]
train_member(workspace, first)
predict_fold(workspace, first)
"""
    command = [sys.executable, "-W", "ignore", "-c", program, str(tmp_path / "run")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    run = Workspace.open(tmp_path / "run")
    assert run.network_file(FIRST, Stage.SEGMENTATION).is_file()
    assert list((tmp_path / "run/out_of_fold/patient").glob("*.npz"))


def test_the_papers_tables_come_out_of_a_run(trained: tuple[Path, Path, Path, dict[Path, int]], tmp_path: Path) -> None:
    _, run, _, _ = trained
    for program, *arguments in (("ablation", run), ("tables", run, tmp_path, "--threshold")):
        command = [sys.executable, "-W", "ignore", "-m", f"train.experiments.{program}", *map(str, arguments)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    text = (tmp_path / "RESULTS.md").read_text()
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")]
    for method in (
        *("41% of SUVmax", "Dice-only", "ODA", "ODA less Dice-only"),
        *("Deep-only", "Deep-only, from scratch", "Clinical-only", "Radiomics-only", "Deep+Rad+Clin"),
        *("CoxPH integration", "CoxPH integration less Deep-only"),
        *("CoxPH integration, known HPV status", "CoxPH integration less CoxPH integration, no HPV status"),
    ):
        assert method in rows, method
    assert rows.count("ODA") == 2  # one a scheme
    assert "0.816 / - / 0.821 / 0.839" in text  # what the paper reports
    assert (tmp_path / "figures.png").stat().st_size > 20_000
