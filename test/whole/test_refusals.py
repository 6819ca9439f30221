"""Cases that the challenge's program cannot answer: exit code, one line on stderr, and no answer beside it."""

import runpy
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from challenge_program import CT, PET, PROGRAM, plain_logging, start
from expected import files

from mmpl import algorithm
from mmpl.files import OverwriteError
from mmpl.io import challenge
from mmpl.names import Stage


def test_an_unknown_argument(capfd):
    assert runpy.run_path(str(PROGRAM))["main"](["serve"]) == 2
    assert capfd.readouterr().err == "usage: inference.py [invoke]\n"


def test_a_process_of_its_own_refuses_with_one_line(write_input, head, output, tiny_ensemble):
    folder = write_input()
    path = folder / CT
    path.write_bytes(path.read_bytes()[:-2000])  # ITK itself would print two lines more
    run = start(folder, output, tiny_ensemble)
    assert run.returncode == 1
    assert run.stderr.startswith(f"error: {path}: not a readable image (")
    assert run.stderr.count("\n") == 1
    assert "Traceback" not in run.stdout + run.stderr
    assert files(output) == set()


@pytest.mark.parametrize("share", ["0", "1", "-0.2", "20", "nan", "often"])
def test_a_prevalence_that_is_none_is_refused(refuse, write_input, monkeypatch, share):
    monkeypatch.setenv("MMPL_HPV_PREVALENCE", share)
    assert refuse(write_input()) == f"MMPL_HPV_PREVALENCE is {share!r}, not a share between 0 and 1"


@pytest.mark.parametrize(
    ("stages", "tasks", "lacking"),
    [
        ((Stage.SEGMENTATION,), "hpv", "hpv"),
        ((Stage.SEGMENTATION,), "segmentation,survival,hpv", "survival, hpv"),
        ((Stage.SEGMENTATION, Stage.SURVIVAL), "hpv", "hpv"),
        ((Stage.SEGMENTATION, Stage.HPV), "hpv survival", "survival"),
    ],
)
def test_a_task_that_the_weights_lack_is_refused(
    refuse, write_input, monkeypatch, partial_ensemble, stages, tasks, lacking
):
    monkeypatch.setenv("MMPL_TASKS", tasks)
    reason = refuse(write_input(), weights=partial_ensemble(*stages))
    assert reason == f"MMPL_TASKS names {lacking}, for which these weights were not trained"


@pytest.mark.parametrize(
    ("edition", "tasks", "message"),
    [
        ("", "staging", "MMPL_TASKS names staging; hecktor-2025 asks for segmentation, survival, hpv"),
        ("", "hpv t-stage", "MMPL_TASKS names t-stage; hecktor-2025 asks for segmentation, survival, hpv"),
        (
            "hecktor-2026",
            "hpv,survival",
            "MMPL_TASKS names hpv; hecktor-2026 asks for segmentation, survival, t-stage, n-stage",
        ),
        ("hecktor-2026", "n-stage", "MMPL_TASKS names n-stage, for which these weights were not trained"),
        ("staging", "", "no edition 'staging' (MMPL_EDITION); there are hecktor-2025, hecktor-2026"),
    ],
)
def test_a_task_or_edition_that_there_is_not(refuse, write_input, monkeypatch, edition, tasks, message):
    monkeypatch.setenv("MMPL_EDITION", edition)
    monkeypatch.setenv("MMPL_TASKS", tasks)
    monkeypatch.setattr(algorithm, "read_challenge_case", None)  # nothing runs
    assert refuse(write_input()) == message


def test_a_key_that_an_edition_does_not_know_is_named(answer, write_input, output, monkeypatch, tmp_path):
    text = (challenge.EDITIONS / "hecktor-2026.yaml").read_text()
    (tmp_path / "mistyped.yaml").write_text(text.replace("known_hpv:", "knwon_hpv:"))
    monkeypatch.setattr(challenge, "EDITIONS", tmp_path)
    monkeypatch.setenv("MMPL_EDITION", "mistyped")
    code, _, error = answer(write_input())
    where = f"{tmp_path / 'mistyped.yaml'}: knwon_hpv is 'HPV Status': Extra inputs are not permitted"
    assert (code, error) == (1, f"error: {where}\n")
    assert not output.exists()


def test_a_missing_input_folder(refuse, tmp_path):
    assert refuse(tmp_path / "absent") == f"{tmp_path / 'absent'}: no such folder"


@pytest.mark.parametrize("name", [CT, PET])
def test_a_missing_image(refuse, write_input, name):
    folder = write_input()
    (folder / name).unlink()
    assert refuse(folder).startswith(f"{(folder / name).parent}: 0 ")


@pytest.mark.parametrize("name", [CT, PET])
def test_an_empty_image(refuse, write_input, name):
    folder = write_input()
    (folder / name).write_bytes(b"")
    assert refuse(folder) == f"{folder / name}: the file is empty"


@pytest.mark.parametrize("name", [CT, PET])
def test_an_unreadable_image(refuse, write_input, name):
    folder = write_input()
    (folder / name).write_bytes(b"garbage\n" * 100)
    assert refuse(folder).startswith(f"{folder / name}: not a readable image (")


@pytest.mark.parametrize("name", [CT, PET])
def test_a_flat_image(refuse, write_input, name):
    folder = write_input()
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((40, 40), np.int16)), str(folder / name))
    assert refuse(folder) == f"{folder / name}: the image has 2 dimensions, not 3"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_or_infinity_in_an_image(refuse, write_input, head, value):
    voxels = head.pet.voxels.copy()
    voxels[-1, -1, -1] = value
    folder = write_input(pet=replace(head.pet, voxels=voxels))
    assert refuse(folder) == f"{folder / PET}: the PET holds NaN or infinite voxels"


def test_nan_in_a_nifti_image(refuse, write_input, head):
    voxels = head.pet.voxels.copy()
    voxels[-1, -1, -1] = np.nan
    folder = write_input(pet=replace(head.pet, voxels=voxels), suffix=".nii.gz")
    assert refuse(folder) == f"{folder / PET.replace('.mha', '.nii.gz')}: the image holds NaN or infinite voxels"


def test_images_that_do_not_overlap(refuse, write_input, moved_away):
    folder = write_input(pet=moved_away)
    assert refuse(folder).startswith(f"{folder / CT}, {folder / PET}: CT and PET do not overlap")


@pytest.mark.parametrize("content", ['{"Age": 61', "", "[]", "Age = 61"])
def test_malformed_json(refuse, write_input, content):
    folder = write_input(ehr=content)
    assert refuse(folder).startswith(f"{folder / 'ehr.json'}: ")


def test_missing_weights(refuse, write_input, tmp_path):
    empty = tmp_path / "empty"
    assert refuse(write_input(), weights=empty).startswith(f"{empty / 'manifest.json'}: no such file")


def test_an_output_that_is_no_folder(answer, write_input, output):
    output.write_text("a file")
    code, _, error = answer(write_input())
    assert code == 1
    assert error.count("\n") == 1
    assert str(output) in error
    assert output.read_text() == "a file"


@pytest.mark.parametrize(("variable", "where"), [("OUTPUT", ""), ("OUTPUT", "answers"), ("REPORT", "ehr.json")])
def test_no_output_lies_among_the_inputs(write_input, tmp_path, monkeypatch, variable, where):
    folder = write_input()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for name, value in {"INPUT": folder, "OUTPUT": tmp_path / "output", variable: folder / where}.items():
        monkeypatch.setenv(f"MMPL_{name}", str(value))
    load = runpy.run_path(str(PROGRAM))["load"]
    with pytest.raises(OverwriteError) as refused:
        load()
    assert str(refused.value) == f"{folder / where}: lies in {folder}, which is read; name a folder outside it"
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_an_unforeseen_error_is_one_line_too(refuse, write_input, monkeypatch):
    def fail(*_):
        raise RuntimeError("first line\n  second line")

    monkeypatch.setattr(algorithm, "read_challenge_case", fail)
    assert refuse(write_input()) == "RuntimeError: first line second line (MMPL_DEBUG=1 shows where)"
    monkeypatch.setenv("MMPL_DEBUG", "1")
    with pytest.raises(RuntimeError):
        refuse(write_input())


def test_a_disk_that_is_full_at_the_last_answer_leaves_none(refuse, write_input, blind_ensemble, monkeypatch):
    def fail(path, content, partial_folder):
        if path.name == "hpv-status.json":
            raise OSError(28, "No space left on device")
        path.write_text("0\n")

    monkeypatch.setattr(challenge, "_write_json", fail)
    assert "No space left on device" in refuse(write_input(), weights=blind_ensemble)


@pytest.mark.parametrize(("pages", "name"), [(0, "output.mha"), (2, "hpv-status.json")])
def test_a_disk_that_is_full_is_named_and_holds_nothing(answer, write_input, blind_ensemble, output, pages, name):
    """A disk of so many pages, each enough for one small file; one is there already."""
    output.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={4096 * (1 + pages)}", "tmpfs", output]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        (output / "other.txt").write_text("other")
        code, _, error = answer(write_input(), blind_ensemble)
        assert files(output) == {"other.txt"}
    finally:
        subprocess.run(["umount", output], check=True)
    assert code == 1
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert name in error
    assert "No space left on device" in error or "is the disk full?" in error


def test_a_picture_of_an_earlier_case_does_not_stay(refuse, tmp_path, monkeypatch):
    picture = tmp_path / "picture.png"
    picture.write_bytes(b"of another patient")
    monkeypatch.setenv("MMPL_PICTURE", str(picture))
    refuse(tmp_path / "absent")
    assert not picture.exists()


def test_an_interruption_is_one_line(write_input, output, capfd, monkeypatch):
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setenv("MMPL_INPUT", str(write_input()))
    monkeypatch.setenv("MMPL_OUTPUT", str(output))
    monkeypatch.setattr("mmpl.algorithm.Algorithm.load", interrupt)
    with plain_logging():
        assert runpy.run_path(str(PROGRAM))["main"]([]) == 130
    assert capfd.readouterr().err == "error: interrupted\n"
