"""The challenge's folders: what is read from /input, and what is left in /output."""

import json
import math
import multiprocessing
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import EHR

from mmpl.calibration import SurvivalCalibration
from mmpl.case import Image, InvalidInputError
from mmpl.evidence import Scale
from mmpl.files import PARTIAL, OverwriteError
from mmpl.hpv import HpvResult
from mmpl.io import challenge
from mmpl.io.challenge import (
    clear_challenge_result,
    read_challenge_case,
    write_challenge_result,
)
from mmpl.io.images import NO_PLACE, read_image
from mmpl.io.record import parse_lenient_json, read_record_file
from mmpl.names import Task
from mmpl.pipeline import PatientResult
from mmpl.schema import ClinicalSchema, default_schema
from mmpl.segmentation import Segmentation
from mmpl.staging import StageResult
from mmpl.survival import SurvivalResult, combine

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
    assert case.flags == (NO_PLACE,)


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


@pytest.mark.parametrize("path", ["../secret", "/etc", "images/../../secret", "images/ct/.."])
def test_the_list_of_sockets_cannot_lead_out_of_the_input(write_input, path):
    folder = write_input()
    list_sockets(folder, "socket", ct_image=path)
    assert message(folder) == f"{folder / 'inputs.json'}: {path} lies outside the input folder"


def test_a_folder_that_the_list_of_sockets_names_may_be_a_link(write_input, head, tmp_path):
    folder = write_input()
    (folder / "images" / "ct").rename(tmp_path / "elsewhere")
    (folder / "images" / "ct").symlink_to(tmp_path / "elsewhere")
    list_sockets(folder, "socket", ct_image="images/ct")
    np.testing.assert_array_equal(read_challenge_case(folder).ct.voxels, head.ct.voxels)


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
    assert read_record_file(tmp_path / "ehr.json") == ({"Age": 61}, [])


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
    assert clinical.assumed[0] == "there is no ehr.json"


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


@pytest.mark.parametrize(
    "name",
    [
        *("mask.nii.gz", "mask.mha", "mask_seg.dcm", "mask_rtstruct.dcm", "mask_sr.dcm"),
        *("picture.png", "report.json", "report.html", "disagreement.nii.gz", "disagreement.mha"),
    ],
)
def test_a_file_of_no_answer_is_not_removed(result, tmp_path, name):
    (tmp_path / name).write_text("{}")
    extra = tmp_path / "drawn.png"
    extra.write_text("drawn")
    with pytest.raises(OverwriteError, match=f"{name}: is no file of an earlier answer"):
        clear_challenge_result(tmp_path, extra)
    assert files(tmp_path) == {name, "drawn.png"}
    clear_challenge_result(tmp_path, tmp_path / name)  # a file that is named may be written over
    assert files(tmp_path) == {"drawn.png"}
    write_challenge_result(result, tmp_path, set(Task) & set(challenge.read_edition().tasks))
    clear_challenge_result(tmp_path, extra)
    assert files(tmp_path) == set()


def test_earlier_answers_are_cleared_and_nothing_else(result, tmp_path):
    write_challenge_result(result, tmp_path, Task)
    for name in ("notes.txt", "report.json", "picture.png", "report.html", "disagreement.mha", "t-stage.json"):
        (tmp_path / name).touch()
    for name in ("mask_seg.dcm", "mask_rtstruct.dcm", "mask_sr.dcm", "mask.nii.gz", "mask.mha"):
        (tmp_path / name).touch()  # exported of the answer of another patient
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


def slugs_and_paths(edition: challenge.Edition) -> dict[str, str]:
    return {socket.slug: socket.path for socket in (edition.ct, edition.pet, edition.clinical)}


INPUTS = {"ct-image": "images/ct", "pet-image": "images/pet", "electronic-health-record": "ehr.json"}


CALIBRATION = SurvivalCalibration(
    days=(0.0, 400.0, 800.0, 1200.0),
    slope=0.5,
    cumulative_hazard=(0.0, 0.1, 0.2, 0.3),
    resampled_slopes=(0.5,),
    resampled_hazards=((0.0, 0.1, 0.2, 0.3),),
    risk_quantiles=tuple(np.linspace(-2, 2, 101).tolist()),
)


def answers_by_risk(
    result: PatientResult, folder: Path, risks: Iterable[float], calibration: SurvivalCalibration | None = CALIBRATION
) -> list[float]:
    """What `rfs.json` says of patients who differ in their risk alone."""
    survival, found = result.survival, []
    for risk in risks:
        member_risks = (risk - 0.25, risk + 0.25)
        curves = survival.curve_days, survival.member_curves
        other = combine(member_risks, [Scale(0.0, 1.0)] * 2, *curves, calibration)
        write_challenge_result(replace(result, survival=other), folder, {Task.SURVIVAL})
        found.append(json.loads((folder / "rfs.json").read_text()))
    return found


def test_the_contract_of_2025_on_a_known_patient(result, tmp_path, monkeypatch):
    """As its organizers publish it: slugs, paths, keys, and a risk that is higher for worse."""
    monkeypatch.delenv("MMPL_EDITION", raising=False)
    edition = challenge.read_edition()
    assert edition == challenge.read_edition("hecktor-2025")
    assert slugs_and_paths(edition) == INPUTS
    assert {answer.slug: answer.path for answer in edition.answers.values()} == {
        "tumor-lymph-node-segmentation": MASK,
        "rfs": "rfs.json",
        "hpv-status": "hpv-status.json",
    }
    assert edition.known_hpv is None
    keys = {"Age", "Gender", "Tobacco Consumption", "Alcohol Consumption", "Performance Status", "Treatment", "M-stage"}
    assert set(default_schema().names) == keys
    better, worse = answers_by_risk(result, tmp_path, (-1.5, 1.5))
    assert (better, worse) == (-1.5, 1.5)


@pytest.fixture
def of_2026(monkeypatch) -> challenge.Edition:
    monkeypatch.setenv("MMPL_EDITION", "hecktor-2026")
    return challenge.read_edition()


def test_the_contract_of_2026_on_a_known_patient(result, head, tmp_path, of_2026):
    """As its organizers publish it: other places, stages as bare strings, no HPV status, and days."""
    assert slugs_and_paths(of_2026) == INPUTS
    mask = "images/head-neck-tumor-segmentation/output.mha"
    assert {answer.slug: answer.path for answer in of_2026.answers.values()} == {
        "head-neck-tumor-segmentation": mask,
        "t-stage": "t-stage.json",
        "n-stage": "n-stage.json",
        "rfs": "rfs.json",
    }
    staged = replace(result, t_stage=StageResult(4, 3.6, (3.5, 3.7)), n_stage=StageResult(0, 0.2, (0.1, 0.3)))
    written = write_challenge_result(staged, tmp_path, Task)
    assert list(written) == [Task.SEGMENTATION, Task.SURVIVAL, Task.T_STAGE, Task.N_STAGE]
    assert files(tmp_path) == {mask, "t-stage.json", "n-stage.json", "rfs.json"}
    assert (tmp_path / "t-stage.json").read_text() == '"T4"\n'
    assert (tmp_path / "n-stage.json").read_text() == '"N0"\n'
    found = read_image(tmp_path / mask)
    assert (found.grid, found.voxels.dtype) == (head.ct.grid, np.uint8)
    clear_challenge_result(tmp_path)
    assert files(tmp_path) == set()


def test_days_fall_as_the_risk_rises_whatever_the_risk(result, tmp_path, of_2026):
    """So that the concordance of the days is that of the risk; they are the mean of the curve's follow-up."""
    risks = np.linspace(-6, 6, 300)
    days = answers_by_risk(result, tmp_path, risks)
    assert all(before > after for before, after in pairwise(days))
    assert 0 < days[-1] < days[0] < 1200
    level = np.exp(-np.exp(0.5 * risks[0]) * np.array([0, 0.1, 0.2, 0.3]))
    assert days[0] == pytest.approx(400 * (level[0] / 2 + level[1] + level[2] + level[3] / 2))


@pytest.mark.parametrize("calibration", [None, replace(CALIBRATION, slope=-0.1), replace(CALIBRATION, slope=0.0)])
def test_without_a_curve_that_follows_the_risk_the_answer_is_the_negative_risk(result, tmp_path, of_2026, calibration):
    assert answers_by_risk(result, tmp_path, (-1.5, 1.5), calibration) == [1.5, -1.5]


def test_answers_of_the_other_edition_are_cleared_too(result, tmp_path, of_2026, monkeypatch):
    """An HPV status of one patient must not stand beside the stages of the next."""
    monkeypatch.setenv("MMPL_EDITION", "hecktor-2025")
    write_challenge_result(result, tmp_path, Task)
    monkeypatch.setenv("MMPL_EDITION", "hecktor-2026")
    clear_challenge_result(tmp_path)
    assert files(tmp_path) == set()


def test_a_failure_half_way_leaves_no_answer_of_2026_either(result, tmp_path, of_2026):
    """No stage was made, as of weights that cannot."""
    with pytest.raises(AssertionError):
        write_challenge_result(result, tmp_path, Task)
    assert files(tmp_path) == set()


@pytest.mark.parametrize(
    ("value", "status"),
    [
        *((value, True) for value in (1, 1.0, "1", "1.0", " Positive", "p16+", "+", True)),
        *((value, False) for value in (0, 0.0, "0", "negative", "neg", False)),
    ],
)
def test_a_known_status_is_an_input_of_2026_alone(write_input, monkeypatch, value, status):
    folder = write_input(ehr=EHR | {"HPV Status": value})
    monkeypatch.delenv("MMPL_EDITION", raising=False)
    without = read_challenge_case(folder)
    assert without.known_hpv is None
    monkeypatch.setenv("MMPL_EDITION", "hecktor-2026")
    case = read_challenge_case(folder)
    assert case.known_hpv is status
    assert case.clinical == without.clinical
    assert read_challenge_case(folder, known_hpv=not status).known_hpv is (not status)  # as the command line says
    other = ClinicalSchema(missing=(), ignored=(), fields=default_schema().fields)
    assert read_challenge_case(folder, other).clinical.assumed == ()  # it is not said to be of no use


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        *((None, "None"), (math.nan, "nan"), ("", "''"), ("unknown", "'unknown'"), ("-", "'-'"), (2, "2")),
        *((0.5, "0.5"), ("maybe", "'maybe'"), ([1], "[1]"), ({"is": 1}, "{'is': 1}")),
    ],
)
def test_a_status_that_is_none_is_predicted_and_said(write_input, of_2026, value, shown):
    case = read_challenge_case(write_input(ehr=EHR | {"hpv_status": value}))
    assert case.known_hpv is None
    (note,) = case.clinical.assumed
    assert note.startswith(f"HPV Status is {shown}")
    assert note.endswith(": predicted")


def test_a_status_that_is_stated_elsewhere_is_not_missed_in_the_record(write_input, of_2026):
    case = read_challenge_case(write_input(ehr=EHR), known_hpv=True)
    assert case.known_hpv is True
    assert not any("HPV Status" in note for note in case.clinical.assumed)


def test_the_organizers_sample_record_of_2026(write_input, of_2026):
    """With its trailing comma, its center and without an M-stage."""
    record = """{"CenterID": 9, "Age": 62, "Gender": 1, "Tobacco Consumption": 1, "Alcohol Consumption": 0,
    "Performance Status": 1, "Treatment": 1, "HPV Status": 1,}"""
    case = read_challenge_case(write_input(ehr=record))
    assert case.known_hpv is True
    assert list(case.clinical.values.values()) == [62.0, "1", "1", "0", "1", "1", None]
    assert case.clinical.assumed == ("M-stage is not given: taken as missing",)
    assert "HPV Status is not given: predicted" in read_challenge_case(write_input()).clinical.assumed
    case = read_challenge_case(write_input(ehr=EHR | {"Gender": 2, "Treatment": 2, "HPV Status": 0}))
    assert (case.clinical.values["Gender"], case.clinical.values["Treatment"]) == ("0", "2")
    assert case.clinical.assumed == ("Gender is 2: assumed to be 0",)


def test_the_editions_limits():
    """As the organizers publish them, of which some is left to the platform."""
    edition = challenge.read_edition("hecktor-2025")
    limits = {task: answer.limit_s for task, answer in edition.answers.items()}
    assert limits == {Task.SEGMENTATION: 600, Task.SURVIVAL: 900, Task.HPV: 600}
    assert 0 < edition.reserve_s <= 90
    for tasks, limit in ((edition.tasks, 600), ({Task.SURVIVAL}, 900), ({Task.HPV, Task.SURVIVAL}, 600)):
        assert edition.budget_s(tasks) == limit - edition.reserve_s
    next_one = challenge.read_edition("hecktor-2026")
    assert {answer.limit_s for answer in next_one.answers.values()} == {25 * 60}
    assert 0 < next_one.reserve_s <= 90
    assert next_one.budget_s(next_one.tasks) == 1500 - next_one.reserve_s


FIRST = """ct: {slug: ct, path: ct}
pet: {slug: pet, path: pet}
clinical: {slug: record, path: ehr.json}
answers:
  segmentation: {slug: mask, path: mask/output.mha, form: labels, limit_s: 600}
  survival: {slug: rfs, path: rfs.json, form: risk, limit_s: 900}
reserve_s: 60
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("reserve_s: 60", "reserve_s: 60\nsign: -1", "sign is -1: Extra inputs are not permitted"),
        ("path: rfs.json,", "path: rfs.json, kind: 1,", "answers.survival.kind is 1: Extra inputs are not permitted"),
        ("survival:", "staging:", "answers.staging.[key] is 'staging': Input should be 'segmentation'"),
        ("form: risk", "form: status", "survival cannot be written as status"),
        ("form: risk", "form: months", "answers.survival.form is 'months': Input should be 'labels', 'risk'"),
        ("segmentation:", "hpv:", "answers lacks segmentation"),
        ("limit_s: 900", "limit_s: 60", "reserve_s is 60, not below the limit_s of survival"),
        ("limit_s: 900", "limit_s: 0", "answers.survival.limit_s is 0: Input should be greater than 0"),
        ("reserve_s: 60", "reserve_s: -1", "reserve_s is -1: Input should be greater than or equal to 0"),
        ("reserve_s: 60", "reserve_s: 60\nscore: {luck: 1}", "score names luck; there are gtvp_dice_mean"),
        ("reserve_s: 60", "reserve_s: 60\nscore: {c_index: 0.4}", "the shares of score add up to 0.4, not 1"),
        ("reserve_s: 60", "reserve_s: 60\nreserve_s: 30", "'reserve_s' is there twice"),
        (FIRST, "- a list", "is not a mapping"),
    ],
)
def test_an_edition_that_cannot_be_is_named_in_one_line(write_input, tmp_path, monkeypatch, old, new, message):
    """Before anything is read or written."""
    assert old in FIRST
    (tmp_path / "mine.yaml").write_text(FIRST)
    monkeypatch.setattr(challenge, "EDITIONS", tmp_path)
    assert challenge._read_edition.__wrapped__("mine").tasks == (Task.SEGMENTATION, Task.SURVIVAL)
    (tmp_path / "mine.yaml").write_text(FIRST.replace(old, new))
    with pytest.raises(ValueError, match=r"mine\.yaml: ") as caught:
        challenge._read_edition.__wrapped__("mine")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"no edition 'yours' \(MMPL_EDITION\); there are mine"):
        challenge.read_edition("yours")
