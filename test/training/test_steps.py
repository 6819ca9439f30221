"""Steps of a run on what the ones before are taken to have left: mask thresholds, radiomics, and the weights."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from conftest import MEMBERS

from mmpl.names import NETWORK_STAGES, Stage
from mmpl.profile import change_profile, load_profile
from mmpl.radiomics import feature_names, measure_lesions
from mmpl.reference import Reference
from mmpl.segmentation import Thresholds
from mmpl.training import ensemble, hpv, radiomics, segmentation, survival
from mmpl.training import export as exporting
from mmpl.training.boxed import Boxed
from mmpl.training.export import export
from mmpl.training.parallel import Engine
from mmpl.training.patches import PatchStore
from mmpl.training.prepare import begin, cache
from mmpl.training.records import HpvRecord, SegmentationRecord, StartRecord, SurvivalRecord
from mmpl.training.segmentation import choose_thresholds, out_of_fold_mask
from mmpl.training.splits import Member, Scheme, make_splits
from mmpl.training.workspace import RunSettings, Workspace
from mmpl.weights import NETWORK_FILE, WeightsError, load_ensemble, member_files

COHORT = "phantom:2:16"
THRESHOLDS = Thresholds(gtvp=0.5, gtvn=0.25)


@pytest.fixture
def run(tmp_path: Path) -> Workspace:
    """A run of two patients and two folds that has begun; it measures shape alone."""
    changes = ["radiomics.feature_classes=[shape]"]
    left_out = [Stage.STAGING]  # as these patients have no T and N stage
    settings = RunSettings.make(tmp_path / "run", COHORT, "micro", changes, 2, center_out=False, without=left_out)
    workspace = Workspace(tmp_path / "run", settings)
    workspace.begin(make_splits(workspace.patients, seed=0, folds=2, center_out=False))
    return workspace


@pytest.fixture
def finished(run: Workspace, tiny_ensemble: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """The same run, as finished with the networks, forests and tables of the tiny ensemble; nobody was measured."""
    monkeypatch.setattr(exporting, "make_reference", lambda _: Reference())
    networks = {NETWORK_FILE[stage]: stage for stage in NETWORK_STAGES}
    for member, name in zip(run.splits.members, MEMBERS, strict=True):
        for file in member_files(NETWORK_STAGES):
            stage = networks.get(file)
            path = run.network_file(member, stage) if stage else run.member_file(member, file)
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(tiny_ensemble / name / file, path)
    run.keep(StartRecord())
    run.keep(
        SegmentationRecord(thresholds=THRESHOLDS, gtvp_dice_mean=0.5, gtvn_dice_aggregated=0.5, lesion_centers_xyz={})
    )
    run.keep(
        HpvRecord(
            logits={},
            probability={},
            threshold=0.625,
            auc=0.5,
            auc_deep_only=0.5,
            balanced_accuracy=0.5,
            forests={},
        )
    )
    run.keep(SurvivalRecord(expected_days={}, risk={}, c_index=0.5, c_index_deep_only=0.5))
    return run


def test_the_weights_hold_what_the_run_made_and_chose(finished: Workspace, tiny_ensemble: Path, tmp_path: Path) -> None:
    export(finished, tmp_path / "weights")
    ensemble, tiny = load_ensemble(tmp_path / "weights"), load_ensemble(tiny_ensemble)
    assert [member.name for member in ensemble.members] == ["patient-0", "patient-1"]
    assert ensemble.profile == finished.profile
    assert (ensemble.thresholds, ensemble.hpv_threshold) == (THRESHOLDS, 0.625)
    assert (ensemble.training["cohort"], ensemble.training["patients"]) == (COHORT, 2)
    for member, other in zip(ensemble.members, tiny.members, strict=True):
        assert member.survival == other.survival
        assert member.encoder == other.encoder
        for stage in NETWORK_STAGES:
            name = NETWORK_FILE[stage]
            assert (member.folder / name).read_bytes() == (other.folder / name).read_bytes()


def test_a_run_that_is_not_finished_is_not_exported(finished: Workspace, tmp_path: Path) -> None:
    (finished.folder / SurvivalRecord.FILE).unlink()
    with pytest.raises(ValueError, match=r"survival\.json: no such file; python -m train\.survival"):
        export(finished, tmp_path / "weights")
    assert not (tmp_path / "weights").exists()


def test_stopped_half_way_it_leaves_nothing_that_loads_and_goes_on(
    finished: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, copied = tmp_path / "weights", []
    export(finished, weights)

    def copy_two(source: Path, target: Path) -> None:
        if len(copied) == 2:
            raise OSError("no space left")
        copied.append(target.write_bytes(source.read_bytes()))

    with monkeypatch.context() as patched:
        patched.setattr(exporting.shutil, "copyfile", copy_two)
        with pytest.raises(OSError, match="no space left"):
            export(finished, weights)
    with pytest.raises(WeightsError):
        load_ensemble(weights)
    export(finished, weights)
    assert len(load_ensemble(weights).members) == 2
    assert {path.name for path in weights.rglob("*") if path.is_file()} == {
        "manifest.json",
        *member_files(NETWORK_STAGES),
    }


def test_weights_that_cannot_know_their_patients_images_again_say_so(
    finished: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(finished, tmp_path / "weights")  # whose patients were never prepared
    assert "note: the patches of 2 patients are gone" in capsys.readouterr().out


def test_patients_with_the_same_images_are_named(run: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    cache(run, Engine(1))
    assert "same images" not in capsys.readouterr().err
    first, second = (run.store.folder / f"{patient.patient_id}.json" for patient in run.patients)
    hashes = [json.loads(path.read_text())["image_hash"] for path in (first, second)]
    second.write_text(second.read_text().replace(hashes[1], hashes[0]))
    cache(run, Engine(1))
    assert f"several folds: {first.stem} and {second.stem}" in capsys.readouterr().err


def test_memory_that_a_late_step_lacks_is_told_before_the_first(
    run: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what takes less of it, a smaller `micro_batch`, makes no other run."""
    monkeypatch.setattr("mmpl.training.parallel.free_memory_gib", lambda: 2.5)
    with pytest.raises(OSError, match=r"^\w+: one process needs about .* 2\.5 GiB are free; nothing was started"):
        ensemble.main(COHORT, run.folder, changes=["training.survival.micro_batch=4096"])
    assert not run.store.folder.exists()
    engine = Engine(1)
    begin(engine, COHORT, run.folder, changes=["training.survival.micro_batch=1"])
    assert Workspace.open(run.folder).profile == change_profile(run.profile, ["training.survival.micro_batch=1"])
    with pytest.raises(ValueError, match=r"another run: profile\.training\.survival\.batch is \d, not 1$"):
        begin(engine, COHORT, run.folder, changes=["training.survival.batch=1", "training.survival.micro_batch=2"])
    assert Workspace.open(run.folder).profile.training.survival.micro_batch == 1


@pytest.mark.parametrize("program", [segmentation, hpv, survival])
@pytest.mark.parametrize("fault", ["missing", "cut"])
def test_what_is_not_prepared_is_told_before_anything_trains(program: ModuleType, fault: str, run: Workspace) -> None:
    """As a killed `train.prepare` leaves it, or a disk that was full."""
    cache(run, Engine(1))
    images = run.store.folder / f"{run.patients[1].patient_id}.images.npy"
    images.unlink()
    if fault == "cut":
        images.write_bytes(b"some")
    wanted = f"patches of 1 patients are missing or cut; python -m train.prepare {COHORT} {run.folder}"
    with pytest.raises(ValueError, match=f"^{wanted}$"):
        program.main(run.folder)
    assert not list(run.folder.glob("models/*/*/*"))


def test_weights_that_saw_a_patient_bind_no_run(
    tiny_ensemble: Path, run: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """That they did is known once the patients are prepared; the run can begin otherwise then."""
    cache(run, Engine(1))
    first = run.patients[0].patient_id
    weights = Path(shutil.copytree(tiny_ensemble, tmp_path / "weights"))
    text = (weights / "manifest.json").read_text()
    for name, member in zip(MEMBERS, run.splits.members, strict=True):
        (weights / name).rename(weights / member.name)
        text = text.replace(name, member.name)
    manifest = json.loads(text)
    manifest["training"]["image_hashes"] = [run.store.describe(first).image_hash]
    (weights / "manifest.json").write_text(json.dumps(manifest))
    shutil.rmtree(run.store.folder)
    with pytest.raises(ValueError, match=f"trained on the images of {first}, so that its patients would not be"):
        ensemble.main(COHORT, run.folder, start=weights, workers=1)
    assert "prepare: " in capsys.readouterr().out
    assert segmentation.find_start(run, None, 0) == (None, StartRecord())


def test_weights_that_were_fitted_to_tables_start_nothing(
    partial_ensemble: Callable[..., Path], run: Workspace
) -> None:
    weights = partial_ensemble(Stage.HPV)
    with pytest.raises(ValueError, match=f"^{weights}: fitted to tables, without a network to go on from$"):
        ensemble.main(COHORT, run.folder, start=weights, workers=1)
    assert not run.store.folder.exists()


def test_a_run_says_what_it_started_from(finished: Workspace, tmp_path: Path) -> None:
    finished.keep(StartRecord(cohorts=("phantom:100:1",), code_version="0.1.0", step=10))
    export(finished, tmp_path / "weights")
    manifest = json.loads((tmp_path / "weights/manifest.json").read_text())
    assert manifest["training"]["started_from"]["cohorts"] == ["phantom:100:1"]


@pytest.mark.slow
def test_radiomics_are_those_of_the_out_of_fold_mask(run: Workspace) -> None:
    """Each patient's own; one that was measured before is not measured again."""
    segmentation = SegmentationRecord(
        thresholds=THRESHOLDS, gtvp_dice_mean=0.5, gtvn_dice_aggregated=0.5, lesion_centers_xyz={}
    )
    cache(run, Engine(1))
    first, second = run.patients
    for patient in run.patients:
        (scheme,) = run.splits.schemes
        shape = run.store.images(patient.patient_id).shape[1:]
        probability = np.zeros((2, *shape), np.float32)
        probability[0, 4:10, 4:10, 4:10] = 1.0
        probability[1, 12:16, 12:17, 12:18] = 0.4
        run.keep_probability(scheme, patient.patient_id, probability)
    run.keep(segmentation)
    done = run.features_file(first.patient_id)
    done.parent.mkdir()
    done.write_bytes(b"as it was")
    radiomics.main(run.folder, workers=1)
    assert done.read_bytes() == b"as it was"
    found = np.load(run.features_file(second.patient_id))
    mask = out_of_fold_mask(run, second.patient_id, THRESHOLDS)
    wanted = measure_lesions(run.source.read_case(second.patient_id), mask, run.profile.radiomics)
    assert wanted.names == feature_names(run.profile.radiomics)
    np.testing.assert_array_equal(found, wanted.values[0])
    assert np.isfinite(found).any()


def test_a_run_of_masks_alone_measures_nothing(run: Workspace) -> None:
    alone = replace(run, settings=replace(run.settings, stages=(Stage.SEGMENTATION,)))
    alone.begin(run.splits)
    radiomics.main(run.folder, workers=1)
    assert not run.features_file(run.patients[0].patient_id).parent.exists()


@pytest.mark.parametrize(
    ("node", "found", "gtvn", "dice"),
    [
        (False, 0.0, 0.8, float("nan")),  # nobody has a node and nothing finds one: the highest candidate
        (False, 0.5, 0.8, float("nan")),  # what is found is wrong, the less of it the better
        (True, 0.5, 0.2, 1.0),
        (True, 0.1, 0.8, 0.0),  # no threshold finds one
    ],
)
def test_thresholds_of_a_cohort_with_few_or_no_nodes(
    node: bool, found: float, gtvn: float, dice: float, run: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = np.zeros((2, 12, 12, 12), np.uint8)
    labels[0, 2:5, 2:5, 2:5] = 255
    where = np.s_[1, 8:11, 8:11, 8:11]
    labels[where] = 255 * node
    probability = (labels / 255).astype(np.float32)
    probability[where] = found
    for patient in run.patients:
        run.keep_probability(run.splits.schemes[0], patient.patient_id, probability)
    monkeypatch.setattr(PatchStore, "describe", lambda *_: SimpleNamespace(has_labels=True))
    monkeypatch.setattr(PatchStore, "labels", lambda *_: Boxed.of(labels))
    chosen = choose_thresholds(run, Engine(1))
    assert (chosen.thresholds.gtvp, chosen.gtvp_dice_mean) == (0.2, 1.0)
    assert chosen.thresholds.gtvn == gtvn
    assert chosen.gtvn_dice_aggregated == pytest.approx(dice, nan_ok=True)


def test_where_a_stage_is_left_out_the_next_begins_with_the_one_before_it(tmp_path: Path) -> None:
    stages = (Stage.SEGMENTATION, Stage.SURVIVAL)
    run, member = (
        Workspace(tmp_path, RunSettings("cohort", load_profile("micro"), stages=stages)),
        Member(Scheme.PATIENT, 0),
    )
    assert run.previous_network(member, Stage.SURVIVAL) == run.network_file(member, Stage.SEGMENTATION)
