"""The challenge's program on cases that it answers."""

import json
import logging
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from challenge_program import plain_logging, start
from conftest import EHR
from expected import ALL, MASK, MASK_2026, compare, files

from mmpl import algorithm, processor
from mmpl.__main__ import main
from mmpl.case import Image
from mmpl.io import challenge
from mmpl.io.images import read_image
from mmpl.names import Stage


def test_a_process_of_its_own_answers_and_prints_nothing_on_stderr(write_input, head, output, tiny_ensemble):
    run = start(write_input(), output, tiny_ensemble)
    assert (run.returncode, run.stderr) == (0, "")
    assert files(output) == ALL
    assert np.isfinite(json.loads((output / "rfs.json").read_text()))
    assert json.loads((output / "hpv-status.json").read_text()) in (True, False)
    mask = read_image(output / MASK)
    assert mask.grid == head.ct.grid
    assert mask.voxels.dtype == np.uint8
    assert set(np.unique(mask.voxels)) == {0, 1, 2}
    found, reference = mask.voxels > 0, head.reference.voxels > 0
    assert 2 * np.count_nonzero(found & reference) / (found.sum() + reference.sum()) > 0.6
    for name in ALL:
        assert str(output / name) in run.stdout
    assert "2 models, profile micro" in run.stdout
    assert len(run.stdout.splitlines()) < 12, run.stdout  # pyradiomics alone has hundreds of lines to say


def test_the_same_case_has_the_same_answer_and_a_picture_where_asked(
    answer, write_input, output, tmp_path, monkeypatch
):
    folder, picture = write_input(), tmp_path / "picture.png"
    answer(folder)
    before = {name: (output / name).read_bytes() for name in ALL}
    monkeypatch.setenv("MMPL_PICTURE", str(picture))
    code, text, error = answer(folder)
    assert (code, error) == (0, "")
    assert {name: (output / name).read_bytes() for name in ALL} == before
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert f"picture: {picture}" in text


ASCII_ALONE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize("surroundings", [{"MPLBACKEND": "module://matplotlib_inline.backend_inline"}, ASCII_ALONE])
def test_surroundings_cost_no_answer(write_input, tmp_path, tiny_ensemble, surroundings):
    """A notebook's backend, which matplotlib would import; letters that the locale cannot read, in every path."""
    picture = tmp_path / "picture.png"
    folder = write_input().rename(tmp_path / "Müller [1] *it's$HOME")
    output = tmp_path / "öut [2] ?"
    run = start(folder, output, tiny_ensemble, {"MMPL_PICTURE": str(picture), **surroundings})
    assert (run.returncode, run.stderr) == (0, "")
    assert files(output) == ALL
    assert picture.is_file()


def test_calibrated_weights_answer_alike_and_say_what_it_means(
    answer, write_input, output, calibrated_ensemble, monkeypatch
):
    folder = write_input()
    answer(folder)
    before = {name: (output / name).read_bytes() for name in ALL}
    monkeypatch.setenv("MMPL_HPV_PREVALENCE", "0.2")
    code, text, error = answer(folder, calibrated_ensemble)
    assert (code, error) == (0, "")
    assert {name: (output / name).read_bytes() for name in ALL} == before
    assert "at a prevalence of 0.20" in text
    assert "no recurrence in 2 years 0." in text


def test_the_command_gives_what_was_asked_for_and_takes_away_what_was_not(
    write_input, output, calibrated_ensemble, monkeypatch
):
    """An image of the disagreement of one case must not stand beside the answers to the next."""
    folder, differing = write_input(), output / "disagreement.mha"
    for variable in ("MMPL_HPV_PREVALENCE", "MMPL_TIME_BUDGET_S", "MMPL_WEIGHTS"):
        monkeypatch.setenv(variable, "")  # the command sets them

    def command(*options: object) -> dict:
        monkeypatch.setattr("sys.argv", ["mmpl", "answer", *map(str, (folder, output, *options))])
        with plain_logging(), pytest.raises(SystemExit) as stopped:
            main()
        assert not stopped.value.code
        return json.loads((output / "report.json").read_text())

    known = command("--weights", calibrated_ensemble, "--known-hpv", "negative", "--disagreement")
    assert "the risk rests on a known HPV status (negative)" in known["flags"]
    mask = sitk.ReadImage(str(output / MASK))
    image = sitk.ReadImage(str(differing))
    assert (image.GetSize(), image.GetOrigin()) == (mask.GetSize(), mask.GetOrigin())
    assert sitk.GetArrayFromImage(image).max() > 0
    assert set(known["provenance"]["inputs"]) == {"ct", "pet"}  # of the record a hash would give the fields away
    page = (output / "report.html").read_text()
    assert all(digest in page for digest in known["provenance"]["inputs"].values())
    assert "uuid" not in page  # the images' file names
    predicted = command("--weights", calibrated_ensemble, "--hpv-prevalence", "0.2", "--no-page")
    assert not (output / "report.html").exists()
    assert predicted["hpv"]["prevalence"] == 0.2
    assert not differing.exists()
    assert known["hpv"]["probability"] == predicted["hpv"]["probability"]


def test_a_prevalence_is_said_to_be_of_no_use_to_weights_without_calibration(answer, write_input, monkeypatch):
    monkeypatch.setenv("MMPL_HPV_PREVALENCE", "0.2")
    code, text, _ = answer(write_input())
    assert code == 0
    assert "note: the HPV prevalence is not used, as these weights were not calibrated" in text


def test_no_more_threads_than_a_container_may_use(tiny_ensemble, monkeypatch):
    """A share of the cores (cgroup) is what joblib counts, and PyTorch does not."""
    monkeypatch.setenv("MMPL_WEIGHTS", str(tiny_ensemble))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        monkeypatch.setattr(processor, "cpu_count", lambda: 1)
        algorithm.Algorithm.load()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)


def test_what_ran_before_does_not_matter(write_input, head, output, tiny_ensemble, monkeypatch):
    """As a server does it: one loaded ensemble, one case after the other."""
    monkeypatch.setenv("MMPL_WEIGHTS", str(tiny_ensemble))
    cases = [head.pet.voxels, head.pet.voxels[:, :, ::-1] * np.float32(1.3), head.pet.voxels]
    answers, server = [], algorithm.Algorithm.load(keep_networks=True)
    for voxels in cases:
        server.answer(write_input(pet=replace(head.pet, voxels=voxels)), output)
        answers.append({name: (output / name).read_bytes() for name in ALL})
    assert answers[0] == answers[2]
    assert answers[0][MASK] != answers[1][MASK]


def test_a_scan_of_1_3_m_takes_less_than_2_gib_more_than_a_small_one(
    root, write_input, head, output, blind_ensemble, tmp_path
):
    def peak_mib(folder: Path) -> float:
        env = {"MMPL_INPUT": str(folder), "MMPL_OUTPUT": str(output), "MMPL_WEIGHTS": str(blind_ensemble)}
        program = (
            "import runpy; code = runpy.run_path('inference.py')['main']([]);"
            "print(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0]); raise SystemExit(code)"
        )
        ran = subprocess.run(
            [sys.executable, "-c", program], env=os.environ | env, cwd=root, capture_output=True, text=True, check=True
        )
        assert files(output) == ALL
        return int(ran.stdout.splitlines()[-1]) / 1024  # what a parent is told of its child starts at its own size

    small = peak_mib(write_input().rename(tmp_path / "small"))
    long = write_input(
        stretch(head.ct, (512, 512, 660), (0.98, 0.98, 2.0)), stretch(head.pet, (400, 400, 660), (1.27, 1.27, 2.0))
    )
    large = peak_mib(long)
    assert read_image(output / MASK).grid.size_xyz == (512, 512, 660)
    assert 100 < large - small < 2048, (small, large)


def stretch(image: Image, size: tuple[int, int, int], spacing: tuple[float, float, float]) -> Image:
    """Draw the same picture with as many voxels, each of this size in mm."""
    index = [np.arange(n) * m // n for n, m in zip(size, image.grid.size_xyz, strict=True)]
    grid = replace(image.grid, size_xyz=size, spacing_xyz=spacing, origin_xyz=(-250.0, -250.0, 0.0))
    return Image(image.voxels[np.ix_(*index[::-1])], grid)


def test_odd_clinical_values_are_answered_and_the_log_says_what_was_assumed(
    answer, write_input, output, blind_ensemble
):
    record = '{"Age": NaN, "Gender": "", "M-stage": "M9", "Treatment": null, "Performance Status": "4", "CenterID": 3,}'
    code, text, error = answer(write_input(ehr=record), blind_ensemble)
    assert (code, error) == (0, "")
    assert files(output) == ALL
    for note in (
        "Age is nan: taken as missing",
        "Gender is '': taken as missing",
        "M-stage is 'M9', not one of",
        "Treatment is None: taken as missing",
        "Tobacco Consumption is not given: taken as missing",
        "Performance Status 4 was in no training record: taken as missing",
    ):
        assert f"clinical record: {note}" in text
    assert "CenterID" not in text
    assert "note: no lesion found" in text


def test_a_library_that_warns_is_logged(answer, write_input, monkeypatch, blind_ensemble):
    read = algorithm.read_challenge_case

    def read_and_warn(*arguments):
        warnings.warn("old spelling", DeprecationWarning, stacklevel=1)
        logging.getLogger("some.library").warning("odd weather")
        logging.getLogger("some.library").info("fine weather")
        return read(*arguments)

    monkeypatch.setattr(algorithm, "read_challenge_case", read_and_warn)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        code, text, error = answer(write_input(), blind_ensemble)
    assert (code, error) == (0, "")
    assert "old spelling" in text
    assert "odd weather" in text
    assert "fine weather" not in text


@pytest.mark.parametrize("threads", [1, 2])
def test_the_sample_case_with_the_shipped_weights(answer, sample, output, shipped, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        code, text, error = answer(sample, shipped)
    finally:
        torch.set_num_threads(before)
    assert (code, error) == (0, "")
    compare(output, text)
    (ct,) = (sample / "images" / "ct").iterdir()
    assert read_image(output / MASK).grid == read_image(ct).grid


@pytest.mark.parametrize(
    ("tasks", "expected"),
    [
        ("segmentation", {MASK}),
        ("hpv", {"hpv-status.json"}),
        ("survival", {"rfs.json"}),
        ("hpv, segmentation", {MASK, "hpv-status.json"}),
        ("", ALL),
    ],
)
def test_only_the_chosen_tasks_are_done_and_written(
    answer, write_input, output, monkeypatch, blind_ensemble, tasks, expected
):
    monkeypatch.setenv("MMPL_TASKS", tasks)
    code, text, error = answer(write_input(), blind_ensemble)
    assert (code, error) == (0, "")
    assert files(output) == expected
    assert ("measuring radiomics" in text) == (tasks != "segmentation")
    assert ("predicting recurrence" in text) == ("rfs.json" in expected)


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        ((Stage.SEGMENTATION,), {MASK}),
        ((Stage.SEGMENTATION, Stage.SURVIVAL), {MASK, "rfs.json"}),
        ((Stage.SEGMENTATION, Stage.HPV), {MASK, "hpv-status.json"}),
    ],
)
def test_weights_of_some_stages_answer_their_tasks_and_no_others(
    answer, write_input, output, tmp_path, monkeypatch, partial_ensemble, stages, expected
):
    monkeypatch.delenv("MMPL_TASKS", raising=False)
    report, picture = tmp_path / "report.json", tmp_path / "picture.png"
    monkeypatch.setenv("MMPL_REPORT", str(report))
    monkeypatch.setenv("MMPL_PICTURE", str(picture))
    code, text, error = answer(write_input(), partial_ensemble(*stages))
    assert (code, error) == (0, "")
    assert files(output) == expected
    content = json.loads(report.read_text())
    assert ("hpv" in content, "risk" in content) == ("hpv-status.json" in expected, "rfs.json" in expected)
    assert picture.is_file()
    assert ("measuring radiomics" in text) == (expected != {MASK})


def test_changed_yaml_beside_the_code_changes_no_answer(
    answer, write_input, output, tmp_path, monkeypatch, tiny_ensemble, request
):
    """Among it what the clinical record is read by."""
    report = tmp_path / "report.json"
    monkeypatch.setenv("MMPL_REPORT", str(report))
    folder, told = write_input(ehr=EHR | {"Age": 75, "Performance Status": "5"}), []
    for changed in (False, True):
        if changed:
            request.getfixturevalue("other_resources")
        code, _, error = answer(folder)
        assert (code, error) == (0, "")
        told.append({name: (output / name).read_bytes() for name in ALL} | json.loads(report.read_text()))
        assert told[-1].pop("provenance")["seconds"]["segmentation"] > 0
    assert told[0] == told[1]
    assert any("Performance Status is '5'" in note for note in told[0]["clinical_notes"])


def test_another_edition_is_another_file(answer, write_input, output, monkeypatch, blind_ensemble, tmp_path):
    """Elsewhere and with a time in place of the risk, by data alone."""
    answer(write_input(), blind_ensemble)
    risk = json.loads((output / "rfs.json").read_text())
    text = (challenge.EDITIONS / "hecktor-2025.yaml").read_text()
    (tmp_path / "next.yaml").write_text(
        text.replace("rfs.json", "risk/answer.json").replace("form: risk", "form: days")
    )
    monkeypatch.setattr(challenge, "EDITIONS", tmp_path)
    monkeypatch.setenv("MMPL_EDITION", "next")
    code, text, error = answer(write_input(), blind_ensemble)
    assert (code, error) == (0, "")
    assert json.loads((output / "risk/answer.json").read_text()) == -risk
    no_days = (
        "note: risk/answer.json is the negative risk score, no number of days, as these weights were not calibrated"
    )
    assert text.splitlines()[0] == no_days


def test_weights_that_do_not_stage_answer_the_rest_of_2026_and_say_so_first(
    answer, write_input, output, monkeypatch, calibrated_ensemble
):
    """HPV status is no answer there, and what the risk rests on where the record has one."""
    monkeypatch.setenv("MMPL_EDITION", "hecktor-2026")
    days, texts = {}, {}
    for status in ("", 0, 1):
        code, texts[status], error = answer(write_input(ehr=EHR | {"HPV Status": status}), calibrated_ensemble)
        assert (code, error) == (0, "")
        assert files(output) == {MASK_2026, "rfs.json"}
        days[status] = json.loads((output / "rfs.json").read_text())
    lacking = "note: hecktor-2026 asks for t-stage, n-stage, too, for which these weights were not trained"
    assert texts[""].splitlines()[0] == lacking
    assert "predicting HPV status" in texts[""]
    assert "clinical record: HPV Status is '': predicted" in texts[""]
    assert "note: the risk rests on a known HPV status (negative)" in texts[0]
    assert "HPV Status" not in texts[1]
    assert "no number of days" not in texts[1]
    assert 0 < days[0] < days[""] < days[1] < 1200  # up to the follow-up's end


def test_a_record_of_2026_is_answered_by_2025_as_it_was(answer, write_input, output, monkeypatch, tiny_ensemble):
    told = []
    for edition, record in (("", EHR), ("", EHR | {"HPV Status": 1}), ("hecktor-2025", EHR | {"HPV Status": 0})):
        monkeypatch.setenv("MMPL_EDITION", edition)
        code, text, error = answer(write_input(ehr=record), tiny_ensemble)
        assert (code, error) == (0, "")
        assert "asks for" not in text
        assert "HPV Status" not in text
        told.append({name: (output / name).read_bytes() for name in ALL})
    assert told[0] == told[1] == told[2]


def test_without_a_record_nothing_is_known_and_said_so(answer, write_input, blind_ensemble):
    folder = write_input(ehr=None)
    code, text, error = answer(folder, blind_ensemble)
    assert (code, error) == (0, "")
    assert "clinical record: there is no ehr.json" in text
    assert "clinical record: Age is not given: taken as missing" in text
    assert "note: clinical fields assumed: Age, " in text


def test_a_field_that_is_there_twice_is_noted(answer, write_input, blind_ensemble):
    code, text, _ = answer(write_input(ehr='{"Age": 61, "Gender": 1, "Age": 16,}'), blind_ensemble)
    assert code == 0
    assert "clinical record: 'Age' is there twice: the last is taken" in text


def test_a_hidden_file_of_a_mac_is_not_read(answer, write_input, blind_ensemble):
    folder = write_input()
    hidden = folder / "images/ct/._ct-uuid.mha"
    hidden.write_bytes(b"\0\5\26\7")
    code, text, error = answer(folder, blind_ensemble)
    assert (code, error) == (0, "")
    assert f"note: {hidden} is a hidden file: not read" in text


@pytest.mark.parametrize("extra", ["picture", "report", "page"])
def test_what_stands_beside_the_answers_costs_none(
    answer, write_input, blind_ensemble, tmp_path, monkeypatch, output, extra
):
    monkeypatch.setenv(f"MMPL_{extra.upper()}", str(tmp_path / "absent" / "extra"))
    code, text, error = answer(write_input(), blind_ensemble)
    assert (code, error) == (0, "")
    assert f"note: no {extra} ({tmp_path / 'absent' / 'extra'}: cannot be written" in text
    assert len(files(output)) == 3


def test_pet_without_any_signal_is_answered_and_flagged(answer, write_input, head, blind_ensemble):
    flat = Image(np.zeros_like(head.pet.voxels), head.pet.grid)
    code, text, error = answer(write_input(pet=flat), blind_ensemble)
    assert (code, error) == (0, "")
    assert "note: head not found" in text
    assert "note: PET without signal" in text


def test_the_container_knows_nothing_of_dicom(root: Path) -> None:
    code = "import sys, mmpl.algorithm; print([name for name in sys.modules if 'dicom' in name or name == 'gdcm'])"
    ran = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert (ran.stdout, ran.stderr) == ("[]\n", "")
