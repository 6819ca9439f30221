"""The challenge's folders: what is read from /input, and what is left in /output."""

import json
import math
import multiprocessing
import time
from collections import Counter
from dataclasses import replace
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from mmpl.case import Image, InvalidInputError
from mmpl.files import PARTIAL
from mmpl.hpv import HpvResult
from mmpl.io import challenge
from mmpl.io.challenge import (
    clear_challenge_result,
    parse_lenient_json,
    read_challenge_case,
    read_clinical_file,
    write_challenge_result,
)
from mmpl.io.images import read_image
from mmpl.names import Task
from mmpl.pipeline import PatientResult
from mmpl.schema import ClinicalSchema, default_schema
from mmpl.segmentation import Segmentation
from mmpl.survival import SurvivalResult

MASK = "images/tumor-lymph-node-segmentation/output.mha"


def message(folder: Path) -> str:
    """Read a folder that cannot be answered; the error is one line."""
    with pytest.raises(InvalidInputError) as caught:
        read_challenge_case(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def result(head) -> PatientResult:
    voxels = head.reference.voxels.copy()
    voxels[2:4, 3:6, 5:9] = 2
    return PatientResult(
        patient_id="case",
        segmentation=Segmentation(Image(voxels, head.ct.grid), 0.9, 2, ()),
        hpv=HpvResult(0.7, np.bool_(True), (0.6, 0.8)),
        survival=SurvivalResult(np.float64(-0.25), (-0.5, 0.0), np.arange(3.0), np.ones((2, 3))),
        radiomics=None,
        flags=(),
        notes=(),
    )


# what is read


def test_the_sample_case(sample):
    case = read_challenge_case(sample)
    assert case.ct.grid.size_xyz[:2] == (200, 200)
    assert case.ct.voxels.min() < -900
    assert 300 < case.ct.voxels.max() < 5000
    assert 1 < case.pet.voxels.max() < 60
    assert case.clinical.assumed == ()
    assert set(case.clinical.values) == set(default_schema().names)
    assert case.reference is None
    assert sum(path.stat().st_size for path in sample.rglob("*")) < 8e6


def test_images_and_record_arrive_as_written(write_input, head):
    case = read_challenge_case(write_input())
    for name in ("ct", "pet"):
        assert getattr(case, name).grid == getattr(head, name).grid
        np.testing.assert_array_equal(getattr(case, name).voxels, getattr(head, name).voxels)
    assert case.clinical == head.clinical


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
def test_nifti_in_place_of_mha(write_input, head, suffix):
    case = read_challenge_case(write_input(suffix=suffix))
    np.testing.assert_array_equal(case.pet.voxels, head.pet.voxels)
    assert case.ct.grid.origin_xyz == pytest.approx(head.ct.grid.origin_xyz, rel=1e-6)


def test_tiff_in_place_of_mha(write_input, head):
    case = read_challenge_case(write_input(suffix=".tif"))
    np.testing.assert_array_equal(case.ct.voxels, head.ct.voxels)


def test_images_that_are_not_used_may_lie_there(write_input, head):
    folder = write_input()
    for name in ("ct-planning", "rt-dose"):
        (folder / "images" / name).mkdir()
        (folder / "images" / name / "uuid.mha").write_bytes(b"not looked at")
    assert read_challenge_case(folder).ct.grid == head.ct.grid


def list_sockets(folder: Path, key: str, **paths: str) -> None:
    entries = [{key: {"slug": slug.replace("_", "-"), "relative_path": path}} for slug, path in paths.items()]
    entries.append({key: {"slug": "rt-dose", "relative_path": "images/rt-dose"}})
    (folder / "inputs.json").write_text(json.dumps(entries))


@pytest.mark.parametrize("key", ["socket", "interface"])
def test_the_list_of_sockets_wins_over_the_default_paths(write_input, head, key):
    folder = write_input()
    (folder / "images" / "ct").rename(folder / "images" / "elsewhere")
    (folder / "ehr.json").rename(folder / "record.json")
    write_input(ct=head.pet, ehr={"Age": 20})  # decoys at the default paths
    list_sockets(folder, key, ct_image="images/elsewhere", electronic_health_record="record.json")
    case = read_challenge_case(folder)
    np.testing.assert_array_equal(case.ct.voxels, head.ct.voxels)
    assert case.clinical == head.clinical


@pytest.mark.parametrize("path", ["../secret", "/etc", "images/../../secret"])
def test_the_list_of_sockets_cannot_lead_out_of_the_input(write_input, path):
    folder = write_input()
    list_sockets(folder, "socket", ct_image=path)
    assert message(folder) == f"{folder / 'inputs.json'}: {path} lies outside the input folder"


@pytest.mark.parametrize("content", ["", "{}}", '{"a": 1}', "[1]", "null", '[{"socket": {"slug": "ct-image"}}]'])
def test_a_bad_list_of_sockets_is_named(write_input, content):
    folder = write_input()
    (folder / "inputs.json").write_text(content)
    assert message(folder).startswith(f"{folder / 'inputs.json'}: not a list of sockets (")


def test_a_missing_folder(tmp_path):
    assert message(tmp_path / "absent") == f"{tmp_path / 'absent'}: no such folder"


@pytest.mark.parametrize("name", ["ct", "pet"])
def test_a_missing_image(write_input, name):
    folder = write_input(**{name: None})
    assert message(folder).startswith(f"{folder / 'images' / name}: 0 {name.upper()} images, and one is needed")


def test_two_images_where_one_is_needed(write_input, head):
    folder = write_input()
    write_input(suffix=".nii.gz")
    assert message(folder).startswith(f"{folder / 'images' / 'ct'}: 2 CT images (ct-uuid.mha, ct-uuid.nii.gz), and one")


def test_nan_in_an_image(write_input, head):
    voxels = head.pet.voxels.copy()
    voxels[3, 4, 5] = np.nan
    folder = write_input(pet=replace(head.pet, voxels=voxels))
    assert message(folder) == f"{folder / 'images/pet/pet-uuid.mha'}: the PET holds NaN or infinite voxels"


def test_images_that_do_not_overlap(write_input, moved_away):
    folder = write_input(pet=moved_away)
    ct, pet = folder / "images/ct/ct-uuid.mha", folder / "images/pet/pet-uuid.mha"
    assert message(folder).startswith(f"{ct}, {pet}: CT and PET do not overlap: the CT spans")


def test_a_single_slice_is_no_volume(write_input, head):
    grid = replace(head.ct.grid, size_xyz=(48, 44, 1))
    folder = write_input(ct=Image(head.ct.voxels[:1], grid))
    assert message(folder).startswith(f"{folder / 'images/ct/ct-uuid.mha'}: the CT is (48, 44, 1) voxels")


# the clinical record


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ('{"Age": NaN}', {"Age": math.nan}),
        ('{"Age": 61,}', {"Age": 61}),
        ('{"Age": [61 , ] ,\n }', {"Age": [61]}),
        ('{"M-stage": "a,}", "Age": 1,}', {"M-stage": "a,}", "Age": 1}),
        (r'{"M-stage": "a\",}\\", "Age": 1,}', {"M-stage": 'a",}\\', "Age": 1}),
    ],
)
def test_json_of_the_wild(text, content):
    assert repr(parse_lenient_json(text)) == repr((content, []))


@pytest.mark.parametrize("text", ["[1,,]", '{"Age": 61', '{"Age" 61}', "", "'Age'"])
def test_json_that_is_none_even_in_the_wild(text):
    with pytest.raises(json.JSONDecodeError):
        parse_lenient_json(text)


def test_a_byte_order_mark(tmp_path):
    (tmp_path / "ehr.json").write_bytes(b'\xef\xbb\xbf{"Age": 61}')
    assert read_clinical_file(tmp_path / "ehr.json", default_schema()).values["Age"] == 61


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"Age": 61', "not valid JSON ("),
        (b"", "not valid JSON ("),
        (b"\xff\xfe{\x00}\x00", "not valid JSON ("),
        (b"[" * 100_000, "not valid JSON ("),
        (b'{"Age": 1' + b"0" * 5000 + b"}", "not valid JSON ("),
        (b"[]", "holds list, and an object"),
        (b"null", "holds NoneType, and an object"),
    ],
    ids=["cut", "empty", "utf-16", "deep", "long number", "list", "null"],
)
def test_a_record_that_is_no_json_object(write_input, content, reason):
    folder = write_input()
    (folder / "ehr.json").write_bytes(content)
    assert message(folder).startswith(f"{folder / 'ehr.json'}: {reason}")


def test_a_missing_record(write_input):
    folder = write_input(ehr=None)
    clinical = read_challenge_case(folder).clinical
    assert set(clinical.values.values()) == {None}
    assert clinical.assumed[0] == f"no such file as {folder / 'ehr.json'}"


def test_odd_values_are_no_errors(write_input):
    record = {"Age": "", "Gender": None, "Tobacco Consumption": math.nan, "M-stage": "M7", "Performance Status": "2"}
    clinical = read_challenge_case(write_input(ehr=record)).clinical
    assert clinical.values["Performance Status"] == "2"
    missing = set(default_schema().names) - {"Performance Status"}
    assert {name for name, value in clinical.values.items() if value is None} == missing
    for name in missing:
        assert any(name in note for note in clinical.assumed)


def test_the_record_is_read_by_the_schema_that_is_given(write_input):
    """As the weights carry theirs; by default by the file beside."""
    schema = ClinicalSchema(missing=(), ignored=(), fields=default_schema().fields[:1])
    case = read_challenge_case(write_input(), schema)
    assert dict(case.clinical.values) == {"Age": 61.0}
    assert "'Gender' is no field of the clinical record: not used" in case.clinical.assumed


# what is written


def test_the_three_answers(result, head, tmp_path):
    written = write_challenge_result(result, tmp_path, Task)
    assert list(written.values()) == [tmp_path / MASK, tmp_path / "rfs.json", tmp_path / "hpv-status.json"]
    assert files(tmp_path) == {MASK, "rfs.json", "hpv-status.json"}
    assert (tmp_path / "rfs.json").read_text().strip() == "-0.25"
    assert (tmp_path / "hpv-status.json").read_text().strip() == "true"

    mask = sitk.ReadImage(str(tmp_path / MASK))
    assert mask.GetPixelID() == sitk.sitkUInt8
    assert b"CompressedData = True" in (tmp_path / MASK).read_bytes()[:1000]
    grid = head.ct.grid
    assert (mask.GetSize(), mask.GetSpacing()) == (grid.size_xyz, grid.spacing_xyz)
    assert (mask.GetOrigin(), mask.GetDirection()) == (grid.origin_xyz, grid.direction)
    assert set(np.unique(sitk.GetArrayViewFromImage(mask))) == {0, 1, 2}


@pytest.mark.parametrize(
    ("tasks", "expected"),
    [({Task.SEGMENTATION}, {MASK}), ({Task.SURVIVAL, Task.SEGMENTATION}, {MASK, "rfs.json"})],
)
def test_what_was_not_answered_is_not_written(result, tmp_path, tasks, expected):
    lacking = replace(result, hpv=None, survival=result.survival if Task.SURVIVAL in tasks else None)
    assert set(write_challenge_result(lacking, tmp_path, tasks)) == tasks
    assert files(tmp_path) == expected


@pytest.mark.parametrize("failing", [MASK, "rfs.json", "hpv-status.json"])
def test_a_failure_half_way_leaves_nothing(result, tmp_path, monkeypatch, failing):
    replace_file = Path.replace

    def fail(self, target):
        if Path(target) == tmp_path / failing:
            raise OSError("no space left")
        return replace_file(self, target)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match=r"cannot be written \(no space left\)"):
        write_challenge_result(result, tmp_path, Task)
    assert files(tmp_path) == set()


@pytest.mark.parametrize("risk", [math.nan, math.inf])
def test_a_risk_that_is_no_number_is_no_answer(result, tmp_path, risk):
    with pytest.raises(ArithmeticError, match="risk score"):
        write_challenge_result(replace(result, survival=replace(result.survival, risk_score=risk)), tmp_path, Task)
    assert files(tmp_path) == set()


def test_earlier_answers_are_cleared_and_nothing_else(result, tmp_path):
    write_challenge_result(result, tmp_path, Task)
    (tmp_path / "notes.txt").touch()
    clear_challenge_result(tmp_path)
    clear_challenge_result(tmp_path)
    assert files(tmp_path) == {"notes.txt"}


@pytest.mark.slow
def test_killed_at_any_moment_every_answer_is_whole_or_absent_and_the_next_start_clears_up(result, tmp_path):
    """200 processes that write answers over and over, each killed some time in its first two or three rounds."""
    rng, mask, left = np.random.default_rng(0), result.segmentation.mask, Counter()
    context = multiprocessing.get_context("fork")
    for _ in range(200):
        started = time.perf_counter()
        write_challenge_result(result, tmp_path, Task)
        clear_challenge_result(tmp_path)
        round_s = time.perf_counter() - started  # of this moment, as the machine may be busy
        begun = context.Event()
        process = context.Process(target=_write_forever, args=(result, tmp_path, begun, round_s))
        process.start()
        begun.wait()
        time.sleep(rng.uniform(0, 3 * round_s))
        process.kill()
        process.join()
        found = {name for name in files(tmp_path) if not Path(name).name.startswith(PARTIAL)}
        left[len(found)] += 1
        left["partial"] += files(tmp_path) != found
        if MASK in found:
            np.testing.assert_array_equal(read_image(tmp_path / MASK).voxels, mask.voxels)
        assert found in (set(), {MASK}, {MASK, "rfs.json"}, {MASK, "rfs.json", "hpv-status.json"})
        for name, content in (("rfs.json", "-0.25"), ("hpv-status.json", "true")):
            assert name not in found or (tmp_path / name).read_text() == f"{content}\n"
        clear_challenge_result(tmp_path)
        assert files(tmp_path) == set()
    assert min(left[0], left[3], left["partial"]) > 0, left


def _write_forever(result: PatientResult, folder: Path, begun: Event, rest_s: float) -> None:
    begun.set()
    while True:
        write_challenge_result(result, folder, Task)
        time.sleep(rest_s)  # or the answers would hardly ever be found whole
        clear_challenge_result(folder)


def test_the_contract_of_the_edition_on_a_known_patient(result, tmp_path):
    """HECKTOR 2025 as its organizers publish it: slugs, paths, keys, and a risk that is higher for worse."""
    edition = challenge.read_edition()
    slugs = (edition.ct.slug, edition.pet.slug, edition.clinical.slug, edition.mask.slug, edition.risk.slug)
    assert slugs == ("ct-image", "pet-image", "electronic-health-record", "tumor-lymph-node-segmentation", "rfs")
    assert edition.hpv.slug == "hpv-status"
    assert (edition.ct.path, edition.pet.path, edition.clinical.path) == ("images/ct", "images/pet", "ehr.json")
    keys = {"Age", "Gender", "Tobacco Consumption", "Alcohol Consumption", "Performance Status", "Treatment", "M-stage"}
    assert set(default_schema().names) == keys
    write_challenge_result(replace(result, survival=replace(result.survival, risk_score=1.5)), tmp_path, Task)
    worse = json.loads((tmp_path / "rfs.json").read_text())
    write_challenge_result(replace(result, survival=replace(result.survival, risk_score=-1.5)), tmp_path, Task)
    assert worse > json.loads((tmp_path / "rfs.json").read_text())


def test_the_editions_limits():
    """As the organizers publish them, of which some is left to the platform."""
    edition = challenge.read_edition()
    assert edition.limit_s == {Task.SEGMENTATION: 600, Task.SURVIVAL: 900, Task.HPV: 600}
    assert 0 < edition.reserve_s <= 90
    for tasks, limit in ((Task, 600), ({Task.SURVIVAL}, 900), ({Task.HPV, Task.SURVIVAL}, 600)):
        assert edition.budget_s(tasks) == limit - edition.reserve_s


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"limit_s": {"segmentation": 600, "hpv": 600}}, "limit_s lacks survival"),
        ({"limit_s": {"segmentation": 600, "hpv": 600, "survival": 60}}, "reserve_s is 60, not below every limit_s"),
        ({"limit_s": {"segmentation": 600, "hpv": 0, "survival": 60}}, "greater than 0"),
        ({"limit_s": {"segmentation": 600, "hpv": 600, "survival": 900, "staging": 600}}, "'segmentation', 'survival'"),
        ({"reserve_s": -1}, "greater than or equal to 0"),
    ],
)
def test_an_edition_whose_limits_cannot_be_kept(change, message):
    content = challenge.read_edition().model_dump(mode="json") | {"reserve_s": 60} | change
    with pytest.raises(ValueError, match=message):
        challenge.Edition.model_validate(content)
