"""Answers already made as DICOM: which CT they are of, what is written, and what is said where it cannot be."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from cohorts import ROW, write_table
from pydicom import Dataset, dcmread
from small_series import lesions_on, make_series, order_slices, write_series
from test_persons_masks import full_disk

from mmpl.__main__ import main
from mmpl.case import Image
from mmpl.dicom.ct_series import CtSeries
from mmpl.dicom.masks import read_any_mask
from mmpl.export import find_answers
from mmpl.io.images import read_image, write_image
from mmpl.names import Stage

NAMES = ("CHUM-001", "CHUM-002")


def report(name: str, by: str = "ensemble") -> str:
    """Write what `read_report` reads, and no more."""
    return json.dumps(
        {
            "patient": name,
            "weights": "w",
            "source": None,
            "models": ["patient_0"],
            "gtvp_ml": 1.0,
            "gtvn_ml": 1.0,
            "flags": [],
            "mask": {"by": by},
            "hpv": {"probability": 0.75, "positive": True, "calibrated": 0.875},
            "risk": {"score": -0.5, "percentile": 25.0},
        }
    )


@pytest.fixture
def studies(tmp_path: Path) -> dict[str, CtSeries]:
    """A folder a patient with a CT each, and something that is none."""
    made = {}
    for name, orientation in zip(NAMES, ("axial", "oblique"), strict=True):
        slices = make_series(orientation)
        write_series(tmp_path / "studies" / name / "series", slices)
        (tmp_path / "studies" / name / "notes.txt").write_text("not DICOM")
        made[name] = order_slices(slices)
    return made


@pytest.fixture
def answers(studies: dict[str, CtSeries], tmp_path: Path) -> Path:
    """Answers for both, as `predict` leaves them."""
    folder = tmp_path / "answers"
    folder.mkdir()
    for name, series in studies.items():
        write_image(folder / f"{name}.nii.gz", lesions_on(series.grid))
        (folder / f"{name}.json").write_text(report(name))
    return folder


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> Callable[..., tuple[int, str]]:
    """Run a command: exit code, and what it says on stderr."""

    def start(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["mmpl", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        return int(stopped.value.code or 0), capfd.readouterr().err.strip()

    return start


def numbers(path: Path) -> dict[str, float]:
    """Read the numbers of a report by the meaning of their names."""

    def walk(item: Dataset) -> None:
        if item.get("ValueType") == "NUM":
            found[item.ConceptNameCodeSequence[0].CodeValue] = float(item.MeasuredValueSequence[0].NumericValue)
        for each in item.get("ContentSequence", []):
            walk(each)

    found: dict[str, float] = {}
    walk(dcmread(path))
    return found


def test_a_mask_that_is_there_is_not_written_over(
    answers: Path, tmp_path: Path, run: Callable[..., tuple[int, str]]
) -> None:
    labels = tmp_path / "labels"
    labels.mkdir()
    (labels / f"{NAMES[1]}.nii.gz").write_bytes(b"drawn by a person")
    code, error = run("export", answers, "--format", "nifti", "--out", labels)
    assert code == 1
    assert error.endswith(f"{NAMES[1]}.nii.gz: is another mask, perhaps a person's; name another folder")
    assert [path.name for path in labels.iterdir()] == [f"{NAMES[1]}.nii.gz"]
    for _ in range(2):
        assert run("export", answers, "--format", "nifti", "--format", "mha", "--out", tmp_path / "images") == (0, "")
    mask = read_image(answers / f"{NAMES[0]}.nii.gz")
    write_image(answers / f"{NAMES[0]}.mha", Image(2 * mask.voxels, mask.grid))
    assert run("export", answers, "--format", "mha")[0] == 1


def test_an_object_that_another_program_changed_is_not_written_over(
    answers: Path, tmp_path: Path, run: Callable[..., tuple[int, str]]
) -> None:
    arguments = ("export", answers, "--dicom", tmp_path / "studies", "--format", "dicom-sr")
    for _ in range(2):
        assert run(*arguments) == (0, "")
    edited = answers / f"{NAMES[1]}_seg.dcm"  # which comes with a report
    segmentation = dcmread(edited)
    segmentation.Manufacturer = "3D Slicer Community"
    segmentation.save_as(edited)
    before = {path: path.read_bytes() for path in answers.iterdir()}
    code, error = run(*arguments)
    assert (code, error) == (1, f"error: {edited}: is another mask, perhaps a person's; name another folder")
    assert {path: path.read_bytes() for path in answers.iterdir()} == before


def test_an_answer_is_written_for_the_series_that_was_answered_alone(
    answers: Path, studies: dict[str, CtSeries], tmp_path: Path, run: Callable[..., tuple[int, str]]
) -> None:
    """Another patient's CT, or another visit's, may have the same grid."""
    (answers / f"{NAMES[1]}.json").unlink()
    path, identity = answers / f"{NAMES[0]}.json", studies[NAMES[0]].identity
    path.write_text(json.dumps(json.loads(report(NAMES[0])) | {"series": {"ct": asdict(identity)}}))
    study = tmp_path / "studies" / NAMES[0]
    again = make_series()
    for each in again:
        each.SeriesInstanceUID = "1.2.3"
    write_series(study / "again", again)
    assert run("export", answers, "--dicom", study, "--format", "dicom-seg") == (0, "")
    found = dcmread(answers / f"{NAMES[0]}_seg.dcm").ReferencedSeriesSequence[0].SeriesInstanceUID
    assert found == identity.series_uid
    shutil.rmtree(study / "series")
    code, error = run("export", answers, "--dicom", study, "--format", "dicom-seg")
    assert code == 1
    assert error == f"error: {study}: the CT series that was answered is not there; --ct-series names another"


def test_a_place_of_several_patients_is_no_study(
    answers: Path, tmp_path: Path, run: Callable[..., tuple[int, str]]
) -> None:
    (answers / f"{NAMES[1]}.json").unlink()
    stranger = make_series()
    for each in stranger:
        each.PatientID = "another"
    shutil.rmtree(tmp_path / "studies" / NAMES[0])
    write_series(tmp_path / "studies" / "another", stranger)
    code, error = run("export", answers, "--dicom", tmp_path / "studies", "--format", "dicom-seg")
    assert (code, error) == (1, f"error: {tmp_path}/studies: images of 2 patients; a folder for each is needed")


def test_a_patient_may_be_called_report(answers: Path, tmp_path: Path, run: Callable[..., tuple[int, str]]) -> None:
    (answers / "report.json").write_text(report("report"))
    shutil.copy(answers / f"{NAMES[0]}.nii.gz", answers / "report.nii.gz")
    assert run("export", answers, "--format", "mha", "--out", tmp_path / "out") == (0, "")
    assert sorted(path.stem for path in (tmp_path / "out").iterdir()) == [*NAMES, "report"]


def test_every_answer_beside_its_own_ct(
    answers: Path, studies: dict[str, CtSeries], tmp_path: Path, run: Callable[..., tuple[int, str]]
) -> None:
    assert run("export", answers, "--dicom", tmp_path / "studies") == (0, "")
    for name, series in studies.items():
        expected = lesions_on(series.grid).voxels
        for suffix in ("_seg.dcm", "_rtstruct.dcm"):
            found = read_any_mask(answers / f"{name}{suffix}", series.grid, series.identity)
            np.testing.assert_array_equal(found.voxels, expected)
        said = numbers(answers / f"{name}_sr.dcm")
        assert (said["hpv_score"], said["hpv_probability"]) == (0.75, 0.875)
        assert (said["risk_score"], said["risk_percentile"]) == (-0.5, 25.0)


def test_the_forms_that_are_asked_for_alone(answers: Path, tmp_path: Path, run: Callable[..., tuple[int, str]]) -> None:
    out = tmp_path / "out"
    assert run("export", answers, "--format", "mha", "--format", "nifti", "--out", out) == (0, "")
    expected = [f"{name}{suffix}" for name in NAMES for suffix in (".mha", ".nii.gz")]
    assert sorted(path.name for path in out.iterdir()) == expected
    assert run("export", answers, "--format", "dicom-sr", "--dicom", tmp_path / "studies", "--out", out) == (0, "")
    assert (out / "CHUM-001_seg.dcm").is_file()  # which the report refers to
    assert not (out / "CHUM-001_rtstruct.dcm").exists()


@pytest.mark.parametrize("socket", ["tumor-lymph-node-segmentation", "head-neck-tumor-segmentation"])
def test_an_answer_alone_and_a_study_alone(
    answers: Path, studies: dict[str, CtSeries], tmp_path: Path, run: Callable[..., tuple[int, str]], socket: str
) -> None:
    """As `mmpl answer` leaves it, for either edition; the mask is a person's."""
    alone = tmp_path / "alone"
    path = alone / "images" / socket / "output.mha"
    path.parent.mkdir(parents=True)
    write_image(path, read_image(answers / "CHUM-002.nii.gz"))
    (alone / "report.json").write_text(report("case", by="person"))
    assert run("export", alone, "--dicom", tmp_path / "studies/CHUM-002", "--format", "dicom-seg") == (0, "")
    assert dcmread(alone / "mask_seg.dcm").SegmentSequence[0].SegmentAlgorithmType == "MANUAL"


def test_of_two_series_the_one_that_the_mask_lies_on(
    answers: Path, studies: dict[str, CtSeries], tmp_path: Path, run: Callable[..., tuple[int, str]]
) -> None:
    (answers / "CHUM-002.json").unlink()
    both = tmp_path / "studies"  # the oblique one is no ground for this mask
    assert run("export", answers, "--dicom", both, "--format", "dicom-seg") == (0, "")
    found = dcmread(answers / "CHUM-001_seg.dcm").ReferencedSeriesSequence[0].SeriesInstanceUID
    assert found == studies["CHUM-001"].identity.series_uid


def test_two_reconstructions_are_told_by_number(
    answers: Path, tmp_path: Path, run: Callable[..., tuple[int, str]]
) -> None:
    (answers / "CHUM-002.json").unlink()
    study = tmp_path / "studies/CHUM-001"
    again = make_series()
    for each in again:
        each.SeriesNumber = 7
    write_series(study / "sharp", again)
    code, said = run("export", answers, "--dicom", study, "--format", "rtstruct")
    assert (code, said) == (1, f"error: {study}: the mask lies on 2 CT series; name one of 2, 7")
    assert run("export", answers, "--dicom", study, "--format", "rtstruct", "--ct-series", 7) == (0, "")
    frame = dcmread(answers / "CHUM-001_rtstruct.dcm").ReferencedFrameOfReferenceSequence[0]
    assert frame.FrameOfReferenceUID == again[0].FrameOfReferenceUID


def test_one_without_a_ct_keeps_no_other_from_its_objects(
    answers: Path, tmp_path: Path, run: Callable[..., tuple[int, str]]
) -> None:
    shutil.rmtree(tmp_path / "studies/CHUM-001")
    code, said = run("export", answers, "--dicom", tmp_path / "studies", "--format", "dicom-seg")
    assert (code, said) == (1, f"error: {answers}: {tmp_path}/studies/CHUM-001: no such folder")
    assert (answers / "CHUM-002_seg.dcm").is_file()


def test_a_mask_of_another_ct(answers: Path, tmp_path: Path, run: Callable[..., tuple[int, str]]) -> None:
    (answers / "CHUM-002.json").unlink()
    study = tmp_path / "studies/CHUM-002"
    code, said = run("export", answers, "--dicom", study, "--format", "dicom-seg")
    assert code == 1
    assert said.startswith(f"error: {study}: the mask does not lie where the image lies (")
    assert not (answers / "CHUM-001_seg.dcm").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "rtstruct"], "rtstruct: needs the CT's DICOM files; name their folder (--dicom)"),
        (["--dicom", "{answers}"], "{answers}: no DICOM file, which dicom-seg, dicom-sr, rtstruct would refer to"),
        (["--dicom", "{studies}", "--out", "{studies}/x"], "{studies}/x: lies in {studies}, which is read; name a "),
    ],
)
def test_what_is_wrong_is_one_line(
    answers: Path, tmp_path: Path, run: Callable[..., tuple[int, str]], arguments: list[str], message: str
) -> None:
    places = {"answers": answers, "studies": tmp_path / "studies"}
    code, said = run("export", answers, *(each.format(**places) for each in arguments))
    assert code == 1
    assert said.startswith("error: " + message.format(**places))
    assert "\n" not in said


def test_a_folder_without_answers(tmp_path: Path, run: Callable[..., tuple[int, str]]) -> None:
    code, said = run("export", tmp_path, "--format", "mha")
    assert (code, said) == (1, f"error: {tmp_path}: no answers, which are masks with a report each")


def test_a_full_disk_leaves_nothing_half_written(
    answers: Path, tmp_path: Path, run: Callable[..., tuple[int, str]]
) -> None:
    before = sorted(answers.iterdir())
    with full_disk(2048):
        code, said = run("export", answers, "--dicom", tmp_path / "studies")
    assert code == 1
    assert said == f"error: {answers}/CHUM-001_seg.dcm: cannot be written (File too large)"
    assert sorted(answers.iterdir()) == before


def test_whatever_a_header_does_to_an_object_is_one_line_without_it(
    answers: Path, tmp_path: Path, run: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(*_: object) -> None:
        raise TypeError("Somebody, born on")

    monkeypatch.setattr("mmpl.export.make_structure_set", stumble)
    (answers / "CHUM-002.json").unlink()
    study = tmp_path / "studies/CHUM-001"
    code, said = run("export", answers, "--dicom", study, "--format", "rtstruct")
    assert (code, said) == (1, f"error: {study}/series, CT series 2 cannot be referred to (TypeError)")


def test_a_series_called_mask_is_not_the_patients_study(
    answers: Path, tmp_path: Path, run: Callable[..., tuple[int, str]]
) -> None:
    study, alone = tmp_path / "studies" / NAMES[0], tmp_path / "alone"
    (study / "mask").mkdir()
    alone.mkdir()
    shutil.copy(answers / f"{NAMES[0]}.nii.gz", alone / "mask.nii.gz")
    shutil.copy(answers / f"{NAMES[0]}.json", alone / "report.json")
    assert run("export", alone, "--dicom", study) == (0, "")
    assert (alone / "mask_seg.dcm").is_file()


def test_without_the_extra_one_line_says_what_to_install(
    answers: Path, tmp_path: Path, run: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    code, said = run("export", answers, "--dicom", tmp_path / "studies")
    install = f"{sys.executable} -m pip install -r requirements-dicom.txt"
    assert (code, said) == (1, f"error: pydicom is not installed: {install}")


def test_predict_writes_forms_at_once(
    studies: dict[str, CtSeries],
    tmp_path: Path,
    partial_ensemble: Callable[..., Path],
    run: Callable[..., tuple[int, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A cohort whose patients' DICOM files lie below their folders; a person's mask is what is written."""
    monkeypatch.setenv("MMPL_WEIGHTS", str(partial_ensemble(Stage.SEGMENTATION)))
    cohort = write_table(tmp_path / "studies", *(ROW | {"PatientID": name} for name in NAMES))
    masks, out = tmp_path / "masks", tmp_path / "out"
    masks.mkdir()
    for name, series in studies.items():
        lesions, grid = lesions_on(series.grid), series.grid
        ct = np.where(lesions.voxels > 0, 40, -1000).astype(np.int16)
        write_image(cohort / name / f"{name}__CT.nii.gz", Image(ct, grid))
        write_image(cohort / name / f"{name}__PT.nii.gz", Image(lesions.voxels.astype(np.float32), grid))
        write_image(masks / f"{name}.nii.gz", lesions)
    arguments = ("predict", cohort, out, "--no-pictures", "--masks", masks, "--format", "rtstruct")
    assert run(*arguments)[0] == 0
    for name, series in studies.items():
        found = read_any_mask(out / f"{name}_rtstruct.dcm", series.grid, series.identity)
        np.testing.assert_array_equal(found.voxels, lesions_on(series.grid).voxels)


@pytest.mark.parametrize("positive", [True, False])
def test_the_status_of_the_report_is_the_one_that_is_written(tmp_path: Path, positive: bool) -> None:
    content = json.loads(report("A"))
    content["hpv"]["positive"] = positive
    (tmp_path / "A.json").write_text(json.dumps(content))
    (answer,) = find_answers(tmp_path)
    assert answer.outlook.hpv_positive is positive
