"""The folder of weights: found, verified, read, and never a way to run code."""

import json
import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from mmpl import __version__, weights
from mmpl.calibration import Calibration, HpvCalibration, HpvSets
from mmpl.files import read_json, write_json
from mmpl.names import NETWORK_STAGES, Stage, Task
from mmpl.network import build_network, count_parameters
from mmpl.profile import PROFILES, load_profile
from mmpl.radiomics import feature_names
from mmpl.reference import Reference
from mmpl.weights import (
    ENCODER_FILE,
    FOREST_FILE,
    MANIFEST,
    NETWORK_FILE,
    TABLES_FILE,
    EnsembleMember,
    WeightsError,
    digest,
    find_weights,
    load_ensemble,
    member_files,
    read_network,
    read_state,
    write_manifest,
)

ALL_FILES = member_files(NETWORK_STAGES)
PARTIAL = [(Stage.SEGMENTATION,), (Stage.SEGMENTATION, Stage.SURVIVAL), (Stage.SEGMENTATION, Stage.HPV)]
DATA_ONLY = {".safetensors", ".npz", ".json", ".md"}


@pytest.fixture
def folder(tmp_path, tiny_ensemble) -> Path:
    """A copy of the tiny ensemble, to be spoiled."""
    return Path(shutil.copytree(tiny_ensemble, tmp_path / "weights"))


def edit(folder: Path, **changes: object) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | changes))


def vouch(folder: Path, path: Path) -> None:
    """Let the manifest name a file as it is now."""
    files = json.loads((folder / MANIFEST).read_text())["files"]
    edit(folder, files=files | {str(path.relative_to(folder)): digest(path)})


def message(folder: Path) -> str:
    """Open weights that cannot be used; the error is one line."""
    with pytest.raises(WeightsError) as caught:
        load_ensemble(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def assert_whole(member: EnsembleMember) -> None:
    """Look at all that a model has beside its networks."""
    assert member.encoder.names
    assert member.forest.names
    assert member.hpv.scale.sd > 0
    assert member.survival.cox.covariates


def test_what_was_written_is_read(tiny_ensemble):
    ensemble = load_ensemble(tiny_ensemble)
    manifest = json.loads((tiny_ensemble / MANIFEST).read_text())
    assert ensemble.profile.name == "micro"
    assert [member.name for member in ensemble.members] == ["patient_0", "center_0"]
    assert ensemble.thresholds.gtvp == manifest["mask_thresholds"]["gtvp"]
    assert (ensemble.hpv_threshold, ensemble.code_version) == (0.5, __version__)
    assert ensemble.training["patients"] == 24
    assert ensemble.stages == NETWORK_STAGES
    assert ensemble.tasks == {Task.SEGMENTATION, Task.HPV, Task.SURVIVAL}
    assert set(manifest["files"]) == {f"{name}/{file}" for name in manifest["members"] for file in ALL_FILES}
    assert len(manifest["files"]) == 2 * 7


@pytest.mark.parametrize("stage", NETWORK_STAGES)
def test_networks_come_in_single_precision_ready_for_inference(tiny_ensemble, stage):
    networks = [member.network(stage) for member in load_ensemble(tiny_ensemble).members]
    stored = load_file(tiny_ensemble / "patient_0" / NETWORK_FILE[stage])
    assert {value.dtype for value in stored.values()} == {torch.float16}
    assert set(networks[0].state_dict()) == set(stored)
    for name, value in networks[0].state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, stored[name].float())
    assert not networks[0].training
    first, second = ([*network.parameters()] for network in networks)
    assert any(not torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_tables_survive_json(tiny_ensemble, tmp_path):
    member = load_ensemble(tiny_ensemble).members[0]
    for table in (member.encoder, member.hpv, member.survival):
        write_json(tmp_path / "table.json", table)
        assert read_json(tmp_path / "table.json", type(table)) == table


def test_no_manifest(tmp_path):
    assert message(tmp_path).startswith(f"{tmp_path / MANIFEST}: no such file; weights are looked for in $MMPL_WEIGHTS")


@pytest.mark.parametrize("name", ALL_FILES)
def test_a_missing_file(folder, name):
    (folder / "center_0" / name).unlink()
    assert message(folder).startswith(f"{folder / 'center_0' / name}: no such file")


@pytest.mark.parametrize("name", ALL_FILES)
def test_a_single_flipped_bit(folder, name):
    path = folder / "center_0" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert message(folder).startswith(f"{path}: its SHA-256 is not the manifest's")


def test_a_file_that_the_manifest_does_not_vouch_for(folder):
    files = json.loads((folder / MANIFEST).read_text())["files"]
    del files[f"patient_0/{FOREST_FILE}"]
    edit(folder, files=files)
    assert message(folder) == f"{folder / 'patient_0' / FOREST_FILE}: not in the manifest"


def test_a_member_without_files(folder):
    edit(folder, members=["patient_0", "center_1"])
    assert message(folder).startswith(f"{folder / 'center_1'}/")


def test_another_format(folder):
    edit(folder, format=2, profile="micro")
    assert message(folder) == f"{folder / MANIFEST}: format 2, and this version reads 3"


@pytest.mark.parametrize(
    ("profile", "reason"),
    [("micro", "valid dictionary"), ({"name": "micro"}, "preprocess: Field required"), (None, "valid dictionary")],
)
def test_a_profile_that_is_not_whole(folder, profile, reason):
    edit(folder, profile=profile)
    assert message(folder).startswith(f"{folder / MANIFEST}: not a manifest this version can read (")
    assert reason in message(folder)


def test_settings_come_from_the_manifest_alone(folder, monkeypatch):
    """What the YAML says today, or that there is none, changes nothing for weights that were made before."""
    before = load_ensemble(folder).profile
    assert before == load_profile("micro")
    monkeypatch.setattr("mmpl.profile.PROFILES", folder / "none")
    assert load_ensemble(folder).profile == before
    (folder / "none").mkdir()
    changed = yaml.safe_load((PROFILES / "micro.yaml").read_text())
    changed["preprocess"]["spacing_mm"], changed["inference"]["overlap"] = 9.0, 0.75
    (folder / "none/micro.yaml").write_text(yaml.safe_dump(changed))
    assert load_profile("micro") != before
    assert load_ensemble(folder).profile == before


def test_overridden_settings_come_with_the_weights(folder):
    ensemble = load_ensemble(folder)
    profile = load_profile("micro", ["inference.overlap=0.75", "training.segmentation.steps=3"])
    write_manifest(folder, profile, ["patient_0"], ensemble.stages, ensemble.thresholds, 0.5, {})
    assert load_ensemble(folder).profile == profile


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", '{"format": 3}', '{"format": 3, "profile": {}, "files": [], "members": []}'],
)
def test_a_manifest_that_is_none(folder, content):
    (folder / MANIFEST).write_text(content)
    assert message(folder).startswith(f"{folder / MANIFEST}: not a manifest this version can read (")


def test_thresholds_of_another_kind(folder):
    edit(folder, mask_thresholds={"tumor": 0.5})
    assert message(folder).startswith(f"{folder / MANIFEST}: not a manifest this version can read (")


def test_networks_of_another_profile(folder):
    edit(folder, profile=load_profile("demo").to_dict())
    member = load_ensemble(folder).members[0]
    path = member.folder / NETWORK_FILE[Stage.HPV]
    with pytest.raises(WeightsError) as caught:
        member.network(Stage.HPV)
    assert str(caught.value) == f"{path}: not the hpv network of profile demo"


def test_a_network_that_lacks_a_tensor_or_has_one_too_many(folder):
    ensemble = load_ensemble(folder)
    path = folder / "patient_0" / NETWORK_FILE[Stage.HPV]
    state = load_file(path)
    name = next(iter(state))
    for spoiled in (state | {"stray": torch.zeros(1)}, {key: value for key, value in state.items() if key != name}):
        save_file(spoiled, path)
        with pytest.raises(WeightsError, match="not the hpv network"):
            read_network(path, ensemble.profile, Stage.HPV)


@pytest.mark.parametrize("content", [None, b"", b"garbage", pickle.dumps({"weight": 1})])
def test_a_network_that_is_no_safetensors_file(tmp_path, content):
    path = tmp_path / "network.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        read_state(path)
    assert str(caught.value).startswith(f"{path}: not a readable safetensors file (")


def test_weights_are_looked_for_in_order(tmp_path, monkeypatch):
    chosen, platform, shipped = tmp_path / "chosen", tmp_path / "model", tmp_path / "weights"
    monkeypatch.setattr(weights, "PLATFORM_FOLDER", platform)
    monkeypatch.setattr(weights, "SHIPPED_FOLDER", shipped)
    monkeypatch.delenv("MMPL_WEIGHTS", raising=False)
    assert find_weights() == shipped
    platform.mkdir()
    assert find_weights() == shipped  # a folder without a manifest holds no weights
    (platform / MANIFEST).touch()
    assert find_weights() == platform
    monkeypatch.setenv("MMPL_WEIGHTS", str(chosen))
    assert find_weights() == chosen
    assert message(None).startswith(f"{chosen / MANIFEST}: no such file")  # named folders are never passed over
    monkeypatch.setenv("MMPL_WEIGHTS", "")
    assert find_weights() == platform


def test_the_manifest_is_whole_or_absent(folder, monkeypatch):
    before = (folder / MANIFEST).read_bytes()
    ensemble = load_ensemble(folder)
    (folder / "patient_0" / ENCODER_FILE).unlink()
    with pytest.raises(FileNotFoundError):
        write_manifest(folder, ensemble.profile, ["patient_0"], ensemble.stages, ensemble.thresholds, 0.5, {})
    assert (folder / MANIFEST).read_bytes() == before


# what an ensemble was trained for


@pytest.mark.parametrize("stages", PARTIAL)
def test_an_ensemble_holds_the_files_of_its_stages_alone(partial_ensemble, stages):
    folder = partial_ensemble(*stages)
    ensemble = load_ensemble(folder, keep_networks=True)
    assert ensemble.stages == stages
    assert ensemble.tasks == {Task(stage.value) for stage in stages}
    assert (ensemble.hpv_threshold is None) == (Stage.HPV not in stages)
    for member in ensemble.members:
        assert {path.name for path in member.folder.iterdir()} == set(member_files(stages))
        assert set(member.kept) == set(stages)
        assert bool(member.radiomics_names) == (Stage.HPV in stages)  # the tiny Cox model reads none


def test_a_model_names_the_radiomics_that_it_reads_and_no_other_columns(tiny_ensemble):
    ensemble = load_ensemble(tiny_ensemble)
    for member in ensemble.members:
        read = {*member.forest.names, *(covariate.name for covariate in member.survival.cox.covariates)}
        assert member.radiomics_names == read & set(feature_names(ensemble.profile.radiomics))
        assert 0 < len(member.radiomics_names) < len(read)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"stages": []}, "names no stage"),
        ({"stages": ["segmentation", "grading"]}, "not a manifest this version can read ("),
        ({"stages": None}, "not a manifest this version can read ("),
        ({"hpv_threshold": None}, "not a manifest this version can read ("),
    ],
)
def test_stages_that_cannot_be(folder, changes, reason):
    edit(folder, **changes)
    assert message(folder).startswith(f"{folder / MANIFEST}: {reason}")


@pytest.mark.parametrize("scales", [None, {}, {"t-stage": {"stages": [1], "thresholds": []}}, {"n-stage": 1}])
def test_stages_without_their_scales(staging_ensemble, tmp_path, scales):
    folder = Path(shutil.copytree(staging_ensemble, tmp_path / "staging"))
    edit(folder, stage_scales=scales)
    assert message(folder).startswith(f"{folder / MANIFEST}: not a manifest this version can read (")


def test_a_stage_without_files(partial_ensemble, tmp_path):
    folder = Path(shutil.copytree(partial_ensemble(Stage.SEGMENTATION), tmp_path / "weights"))
    edit(folder, stages=["segmentation", "survival"])
    path = folder / "patient_0" / NETWORK_FILE[Stage.SURVIVAL]
    assert message(folder) == f"{path}: not in the manifest"


@pytest.mark.parametrize("name", [ENCODER_FILE, *TABLES_FILE.values()])
@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"scale": 1}'])
def test_a_table_of_another_kind(staging_ensemble, tmp_path, name, content):
    folder = Path(shutil.copytree(staging_ensemble, tmp_path / "staging"))
    path = folder / "center_0" / name
    path.write_text(content)
    vouch(folder, path)
    with pytest.raises(WeightsError) as caught:
        load_ensemble(folder, keep_networks=True)
    assert str(caught.value).startswith(f"{path}: not a ")
    assert "\n" not in str(caught.value)


def test_kept_models_need_their_files_no_more(folder):
    """As in a server."""
    ensemble = load_ensemble(folder, keep_networks=True)
    shutil.rmtree(folder)
    for member in ensemble.members:
        assert all(member.network(stage) for stage in NETWORK_STAGES)
        assert_whole(member)


def test_an_ensemble_is_known_by_all_that_it_consists_of(folder, tiny_ensemble, blind_ensemble):
    before = load_ensemble(folder).identity
    assert before == load_ensemble(tiny_ensemble).identity  # wherever it lies
    assert before != load_ensemble(blind_ensemble).identity
    path = folder / "center_0" / TABLES_FILE[Stage.HPV]
    path.write_text(path.read_text().replace("0.5", "0.25"))
    vouch(folder, path)
    assert load_ensemble(folder).identity != before


# nothing in a folder of weights can run code

unpickled: list[str] = []
_watching = False


def _watch(event: str, details: tuple) -> None:
    if _watching and event == "pickle.find_class":
        unpickled.append(".".join(map(str, details[1:])))


sys.addaudithook(_watch)  # Python has no way to take a hook back; this one sleeps between tests


@pytest.fixture
def watched(monkeypatch):
    """Record every class that anything unpickles."""
    unpickled.clear()
    monkeypatch.setattr(sys.modules[__name__], "_watching", True)
    return unpickled


@pytest.fixture(params=["tiny_ensemble", "shipped"])
def any_ensemble(request) -> Path:
    """Each ensemble there is."""
    return request.getfixturevalue(request.param)


def test_the_watch_sees_a_pickle(watched):
    pickle.loads(pickle.dumps(Path()))
    assert watched


def read_all(folder):
    for member in load_ensemble(folder).members:
        assert_whole(member)
        for stage in NETWORK_STAGES:
            member.network(stage)


@pytest.mark.slow
def test_loading_unpickles_nothing(any_ensemble, request):
    read_all(any_ensemble)  # what libraries unpickle of their own, when they are first imported, is not the weights'
    watched = request.getfixturevalue("watched")
    read_all(any_ensemble)
    assert watched == []


def test_files_are_of_kinds_that_hold_data_alone(any_ensemble):
    paths = [path for path in any_ensemble.rglob("*") if path.is_file()]
    assert len(paths) > 10
    assert {path.suffix for path in paths} <= DATA_ONLY
    for path in paths:
        content = path.read_bytes()
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                assert all(file[name].size for name in file.files)
        elif path.suffix == ".safetensors":
            assert json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        else:
            content.decode()


def test_the_shipped_ensemble_has_its_promised_size(shipped):
    ensemble = load_ensemble(shipped)
    assert ensemble.profile.name == "demo"
    assert len({member.name for member in ensemble.members}) == 10
    assert sum(path.stat().st_size for path in shipped.rglob("*") if path.is_file()) < 60e6
    for member in ensemble.members:
        assert (member.folder / FOREST_FILE).stat().st_size <= 0.5e6
    for stage in NETWORK_STAGES:
        assert count_parameters(build_network(ensemble.profile, stage)) <= 0.8e6
        assert {value.dtype for value in load_file(ensemble.members[0].folder / NETWORK_FILE[stage]).values()} == {
            torch.float16
        }


def test_the_shipped_models_differ(shipped):
    ensemble = load_ensemble(shipped)
    for stage in NETWORK_STAGES:
        assert len({(member.folder / NETWORK_FILE[stage]).read_bytes() for member in ensemble.members}) == 10
    assert len({(member.folder / FOREST_FILE).read_bytes() for member in ensemble.members}) == 10
    assert 0 < ensemble.thresholds.gtvp < 1
    assert 0 < ensemble.thresholds.gtvn < 1
    assert 0 < ensemble.hpv_threshold < 1


# calibration


def test_calibration_comes_with_the_weights_or_is_absent(tiny_ensemble, calibrated_ensemble):
    assert load_ensemble(tiny_ensemble).calibration == Calibration()
    assert load_ensemble(tiny_ensemble).reference == Reference()
    assert load_ensemble(calibrated_ensemble).reference.percentile("Age", 60.0) == 50
    calibration = load_ensemble(calibrated_ensemble).calibration
    assert calibration.hpv == HpvCalibration(0.3, 1.5, 0.9, HpvSets(0.45, 0.55))
    assert calibration.survival.days[-1] == 1200


def test_a_folder_that_is_sealed_again_without_calibration_keeps_none(calibrated_ensemble, tmp_path):
    folder = Path(shutil.copytree(calibrated_ensemble, tmp_path / "weights"))
    whole = load_ensemble(folder)
    names = [member.name for member in whole.members]
    write_manifest(folder, whole.profile, names, whole.stages, whole.thresholds, 0.5, {})
    assert load_ensemble(folder).calibration == Calibration()
    assert load_ensemble(folder).reference == Reference()
    assert not any((folder / name).exists() for name in ("calibration.json", "reference.json"))


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("calibration.json", {"version": 2}),
        ("calibration.json", {"hpv": {"slope": 1}}),
        ("calibration.json", {"survival": []}),
        ("reference.json", {"version": 2}),
        ("reference.json", {"patch": {"limit": 1}}),
    ],
)
def test_a_record_of_another_version_is_refused_by_name(calibrated_ensemble, tmp_path, name, changed):
    folder = Path(shutil.copytree(calibrated_ensemble, tmp_path / "weights"))
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    assert message(folder).startswith(f"{path}: its SHA-256 is not the manifest's")
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][name] = weights.digest(path)
    (folder / MANIFEST).write_text(json.dumps(manifest))
    assert message(folder).startswith(f"{path}: ")
