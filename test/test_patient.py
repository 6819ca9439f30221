"""One patient by name: images of any kind, and the record from a file, from options and from headers."""

import json
import logging
import re
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_files import INJECTION, SECRETS, STUDY, change, write_ct

from mmpl.__main__ import main
from mmpl.case import Image, InvalidInputError
from mmpl.files import OverwriteError
from mmpl.io.cohort import read_cohort
from mmpl.io.images import read_image, write_image
from mmpl.names import Label
from mmpl.patient import Sources, make_room, read_fields, read_patient
from mmpl.pipeline import Pipeline
from mmpl.predict import predict
from mmpl.schema import default_schema
from mmpl.units import NOT_SUV

SCHEMA = default_schema()
AGE = {"age": "61"}
CHALLENGE_MASK = "images/tumor-lymph-node-segmentation/output.mha"


@pytest.fixture
def run(
    blind_ensemble: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """Run a command in this process: exit code, stdout, stderr."""
    for name in ("MMPL_TIME_BUDGET_S", "MMPL_HPV_PREVALENCE"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("MMPL_TIME_BUDGET_S", "0")
    monkeypatch.setenv("MMPL_WEIGHTS", str(blind_ensemble))

    def start(*arguments: object) -> tuple[int, str, str]:
        for handler in list(logging.root.handlers):
            logging.root.removeHandler(handler)
        monkeypatch.setattr("sys.argv", ["mmpl", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        printed = capfd.readouterr()
        return int(stopped.value.code or 0), printed.out, printed.err

    level = logging.root.level
    yield start
    logging.root.setLevel(level)
    logging.captureWarnings(False)
    for handler in list(logging.root.handlers):
        logging.root.removeHandler(handler)


def test_a_study_is_answered_as_its_images_are(run, written, head, tmp_path):
    code, text, error = run("case", "--dicom", written, "--treatment", "1", "--m-stage=M0", "--out", tmp_path / "a")
    assert (code, error) == (0, "")
    assert not any(secret in text for secret in SECRETS)
    assert "clinical record: Age is that of the DICOM header" in text
    assert "clinical record: Gender is that of the DICOM header" in text
    assert "M-stage is" not in text
    names = ["mask.nii.gz", "picture.png", "report.html", "report.json"]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == names
    report = json.loads((tmp_path / "a" / "report.json").read_text())
    assert report["suv"] == {
        "factor": pytest.approx(70_000 / INJECTION.decayed_bq),
        "why_none": "",
        "units": "BQML",
        "suv_type": "",
        "decay_correction": "START",
        "counted_to": "series time",
        "uptake_s": 3600.0,
        "other_uptake_s": None,
        "half_life_s": INJECTION.half_life_s,
        "dose_bq": INJECTION.dose_bq,
        "decayed_bq": pytest.approx(INJECTION.decayed_bq),
        "weight_kg": 70.0,
        "height_m": 1.75,
    }
    write_image(tmp_path / "ct.nrrd", head.ct)
    write_image(tmp_path / "pet.mha", head.pet)
    record = tmp_path / "record.json"
    record.write_text('{"Age": 61, "Sex": "f", "Treatment": 1, "M-stage": "M0"}')
    images = ("--ct", tmp_path / "ct.nrrd", "--pet", tmp_path / "pet.mha")
    code, _, error = run("case", *images, "--record", record, "--out", tmp_path / "b")
    assert (code, error) == (0, "")
    other = json.loads((tmp_path / "b" / "report.json").read_text())
    assert "suv" not in other
    assert other["risk"]["score"] == pytest.approx(report["risk"]["score"], abs=1e-3)
    masks = [read_image(tmp_path / name / "mask.nii.gz") for name in "ab"]
    np.testing.assert_array_equal(masks[0].voxels, masks[1].voxels)
    assert masks[0].grid.shape_zyx == head.ct.grid.shape_zyx


def test_a_persons_mask_and_other_forms(run, written, head, tmp_path):
    """The mask that was exported as a structure set comes back as the answer, and the report says whose it is."""
    labels = np.zeros(head.ct.grid.shape_zyx, np.uint8)
    z, y, x = (length // 2 for length in labels.shape)
    labels[z - 3 : z + 4, y - 8 : y + 8, x - 12 : x + 4] = Label.GTVP
    write_image(tmp_path / "mine.nii.gz", Image(labels, head.ct.grid))
    forms = ("--format", "rtstruct", "--format", "dicom-seg", "--format", "mha")
    given = ("--dicom", written, "--out", tmp_path / "a", "--mask", tmp_path / "mine.nii.gz")
    assert run("case", *given, *forms)[0] == 0
    names = {
        "mask.nii.gz",
        "mask.mha",
        "mask_seg.dcm",
        "mask_rtstruct.dcm",
        "report.json",
        "report.html",
        "picture.png",
    }
    assert {path.name for path in (tmp_path / "a").iterdir()} == names
    back = ("--dicom", written, "--out", tmp_path / "b", "--no-page", "--mask", tmp_path / "a" / "mask_rtstruct.dcm")
    assert run("case", *back)[0] == 0
    assert {path.name for path in (tmp_path / "b").iterdir()} == {"mask.nii.gz", "report.json", "picture.png"}
    assert (read_image(tmp_path / "b" / "mask.nii.gz").voxels == labels).all()
    said = json.loads((tmp_path / "b" / "report.json").read_text())["mask"]
    assert (said["by"], said["file"]) == ("person", "mask_rtstruct.dcm")
    assert said["dice_with_ensemble"]["gtvp"] < 1
    code, _, error = run("case", *given[:4], "--mask", tmp_path / "a" / "mask.mha")
    assert (code, error.count("\n"), "copy it elsewhere first" in error) == (1, 1, True)
    assert (tmp_path / "a" / "mask_seg.dcm").is_file()


def test_a_mask_of_another_ct_is_refused_even_on_the_same_grid(run, written, head, tmp_path):
    """A structure set drawn on another patient's CT, whose slices lie where these do."""
    labels = np.zeros(head.ct.grid.shape_zyx, np.uint8)
    z, y, x = (length // 2 for length in labels.shape)
    labels[z - 3 : z + 4, y - 8 : y + 8, x - 12 : x + 4] = Label.GTVP
    write_image(tmp_path / "mine.nii.gz", Image(labels, head.ct.grid))
    given = ("--dicom", written, "--mask", tmp_path / "mine.nii.gz", "--no-page")
    assert run("case", *given, "--out", tmp_path / "a", "--format", "rtstruct", "--format", "dicom-seg")[0] == 0
    other = tmp_path / "other"
    shutil.copytree(written, other)
    change(other / "ct", SeriesInstanceUID="1.2.3.4", FrameOfReferenceUID="1.2.3.5")
    change(other / "pet", FrameOfReferenceUID="1.2.3.5")
    for name in ("mask_rtstruct.dcm", "mask_seg.dcm"):
        code, _, error = run("case", "--dicom", other, "--mask", tmp_path / "a" / name, "--out", tmp_path / "b")
        assert (code, error.count("\n"), "belongs to another CT" in error) == (1, 1, True)
        assert not list((tmp_path / "b").iterdir())


def test_two_series_of_two_frames_of_reference_are_refused(study):
    change(study / "pet", FrameOfReferenceUID="1.2.3.5")
    with pytest.raises(InvalidInputError, match="do not have one frame of reference"):
        read_patient(Sources(ct=study / "ct", pet=study / "pet"), SCHEMA, "P")


def test_a_structured_report_has_the_uptake(run, written, head, tmp_path):
    """The SUV of the PET that was answered, from the headers."""
    labels = np.zeros(head.ct.grid.shape_zyx, np.uint8)
    z, y, x = (length // 2 for length in labels.shape)
    labels[z - 3 : z + 4, y - 8 : y + 8, x - 12 : x + 4] = Label.GTVP
    write_image(tmp_path / "mine.nii.gz", Image(labels, head.ct.grid))
    given = ("--dicom", written, "--out", tmp_path / "a", "--mask", tmp_path / "mine.nii.gz", "--weight", "35")
    assert run("case", *given, "--format", "dicom-sr", "--no-page")[0] == 0
    (lesion,) = json.loads((tmp_path / "a" / "report.json").read_text())["lesions"]
    report = pydicom.dcmread(tmp_path / "a" / "mask_sr.dcm")
    numbers = [float(element.value) for element in report.iterall() if element.keyword == "NumericValue"]
    for measured in (lesion["suv_max"], lesion["suv_mean"]):
        assert measured > 0
        assert any(value == pytest.approx(measured, abs=2e-3) for value in numbers)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        ({"FrameOfReferenceUID": None}, "CT series 1: not one frame of reference, in which what is written would lie"),
        (
            {"StudyInstanceUID": None},
            "CT series 1: a file without StudyInstanceUID, by which what is written would refer",
        ),
        ({"SOPInstanceUID": None}, "CT series 1: a file without SOPInstanceUID"),
    ],
)
def test_a_ct_that_cannot_be_referred_to_is_refused_before_anything_is_answered(
    run, study, tmp_path, monkeypatch, spoil, said
):
    change(study / "ct", **spoil)
    if "FrameOfReferenceUID" in spoil:
        change(study / "pet", **spoil)
    monkeypatch.setattr(Pipeline, "__call__", None)  # nobody is there to answer
    for form in ("dicom-seg", "rtstruct", "dicom-sr"):
        code, _, error = run("case", "--dicom", study, "--out", tmp_path / "a", "--format", form)
        assert (code, error.count("\n")) == (1, 1)
        assert said in error
        assert not any(secret in error for secret in SECRETS)
        assert list((tmp_path / "a").iterdir()) == []


def test_a_form_that_cannot_be_written_costs_nothing_else(run, written, tmp_path, monkeypatch):
    def full(path: Path, _: object) -> None:
        raise OSError(f"{path}: cannot be written (No space left on device)")

    monkeypatch.setattr("mmpl.export.write_object", full)
    out = tmp_path / "a"
    code, _, error = run("case", "--dicom", written, "--out", out, "--format", "dicom-seg", "--format", "mha")
    assert (code, error) == (1, f"error: {out}/mask_seg.dcm: cannot be written (No space left on device)\n")
    names = ["mask.mha", "mask.nii.gz", "picture.png", "report.html", "report.json"]
    assert sorted(path.name for path in out.iterdir()) == names


def test_of_a_cohort_only_who_cannot_be_exported_is_not_answered(run, written, tmp_path):
    cohort, out = tmp_path / "cohort", tmp_path / "out"
    for name in ("A-1", "A-2", "A-3"):
        shutil.copytree(written, cohort / name)
    for series in ("ct", "pet"):
        change(cohort / "A-2" / series, FrameOfReferenceUID=None)
    out.mkdir()
    (out / "B-1.json").write_text("{}")  # of no patient here
    arguments = ("predict", cohort, out, "--no-pictures", "--format", "dicom-sr")
    for _ in range(2):  # the second time, of finished patients
        code, _, error = run(*arguments)
        assert code == 1
        assert error.startswith(f"error: A-2: {cohort}/A-2: {cohort}/A-2/ct, CT series 1: not one frame of reference")
        assert error.count("\n") == 1
        made = {f"{name}{end}" for name in ("A-1", "A-3") for end in (".json", ".nii.gz", "_seg.dcm", "_sr.dcm")}
        assert {path.name for path in out.iterdir()} == {*made, "B-1.json", "predictions.csv", "lesions.csv"}
        for path in out.glob("*.dcm"):
            path.unlink()


def test_a_study_is_answered_to_the_bit_alone_and_in_a_cohort(written, tmp_path, run, tiny_ensemble, monkeypatch):
    """By an ensemble that finds lesions; the record comes from a table once, and once from options."""
    monkeypatch.setenv("MMPL_WEIGHTS", str(tiny_ensemble))
    cohort = tmp_path / "cohort"
    shutil.copytree(written, cohort / "A-1")
    (cohort / "EHR.csv").write_text("PatientID,Age,Treatment,Weight\nA-1,50,1,66\n")
    assert run("predict", cohort, tmp_path / "out", "--no-pictures", "--disagreement")[0] == 0
    stated = ("--age", "50", "--treatment", "1", "--weight", "66", "--no-page", "--disagreement")
    assert run("case", "--dicom", cohort / "A-1", *stated, "--out", tmp_path / "A-1")[0] == 0
    for mine, theirs in (
        ("A-1/mask.nii.gz", "out/A-1.nii.gz"),
        ("A-1/disagreement.nii.gz", "out/A-1_disagreement.nii.gz"),
    ):
        alone, together = read_image(tmp_path / mine), read_image(tmp_path / theirs)
        assert alone.voxels.any()
        assert alone.voxels.tobytes() == together.voxels.tobytes()
        assert alone.grid == together.grid
    reports = [json.loads((tmp_path / path).read_text()) for path in ("A-1/report.json", "out/A-1.json")]
    for report in reports:
        for name in ("source", "provenance", "clinical_notes"):  # of a row, and of a moment; "" beside "not given"
            report.pop(name)
    assert reports[0] == reports[1]


def test_what_is_read_is_not_written_over(run, head, tmp_path):
    for name, image in (("mask.mha", head.ct), ("pet.mha", head.pet)):
        write_image(tmp_path / name, image)
    code, _, error = run("case", "--ct", tmp_path / "mask.mha", "--pet", tmp_path / "pet.mha", "--out", tmp_path)
    assert (code, error.count("\n"), "would be lost" in error) == (1, 1, True)
    (tmp_path / "report.json").write_text('{"patient": "A", "weights": "w", "models": []}')
    code, _, error = run("case", "--ct", tmp_path / "mask.mha", "--pet", tmp_path / "pet.mha", "--out", tmp_path)
    assert (code, error.count("\n"), "copy it elsewhere first" in error) == (1, 1, True)
    assert (tmp_path / "mask.mha").is_file()


@pytest.mark.parametrize("weight", ["70,5", "seventy", "140 kg"])
def test_a_weight_that_is_no_number_is_refused(study, weight):
    with pytest.raises(InvalidInputError, match="not a number of kg"):
        read_patient(Sources(dicom=study, fields={"weight": weight}), SCHEMA, "P")


def test_options_go_before_the_record(study, tmp_path):
    (tmp_path / "record.json").write_text('{"weight": 90, "Age": 40}')
    sources = Sources(dicom=study, record=tmp_path / "record.json", fields={"weight": "140", "Age": "61"})
    case = read_patient(sources, SCHEMA, "P")
    assert case.suv is not None
    assert (case.suv.weight_kg, case.clinical.values["Age"]) == (140, 61)


def test_dicom_forms_need_a_dicom_ct(run, head, tmp_path):
    write_image(tmp_path / "ct.nii.gz", head.ct)
    write_image(tmp_path / "pet.nii.gz", head.pet)
    images = ("--ct", tmp_path / "ct.nii.gz", "--pet", tmp_path / "pet.nii.gz")
    code, _, error = run("case", *images, "--out", tmp_path / "a", "--format", "rtstruct")
    assert (code, error) == (1, "error: rtstruct: needs the CT's DICOM files; name their folder (--dicom)\n")
    assert not (tmp_path / "a").exists()


def test_what_is_stated_goes_before_the_header_and_the_file(study, tmp_path):
    record = tmp_path / "record.json"
    record.write_text('{"Age": 50, "Performance Status": 2, "Weight": 35}')
    case = read_patient(Sources(study, record=record, fields={"age": "40"}), SCHEMA, "x")
    assert (case.clinical.values["Age"], case.clinical.values["Gender"]) == (40.0, "0")
    assert case.clinical.values["Performance Status"] == "2"
    assert case.suv is not None
    assert case.suv.weight_kg == 35
    assert "Age is given twice: '40' taken, 50 not used" in case.clinical.assumed
    assert "Gender is that of the DICOM header" in case.clinical.assumed
    assert not any(note.startswith("Gender is not given") for note in case.clinical.assumed)
    assert "Treatment is not given: taken as missing" in case.clinical.assumed


def test_the_records_status_is_an_input_where_the_edition_has_it(study, tmp_path, monkeypatch):
    record = tmp_path / "record.json"
    record.write_text('{"Age": 50, "HPV Status": 1}')
    assert read_patient(Sources(study, record=record), SCHEMA, "x").known_hpv is None
    monkeypatch.setenv("MMPL_EDITION", "hecktor-2026")
    assert read_patient(Sources(study, record=record), SCHEMA, "x").known_hpv is True
    assert read_patient(Sources(study, record=record, known_hpv=False), SCHEMA, "x").known_hpv is False
    assert read_patient(Sources(study), SCHEMA, "x").known_hpv is None


def test_what_the_answers_rest_on_without_a_record_is_flagged(study):
    rest = "no clinical record: the answers rest on the images"
    assert read_patient(Sources(study), SCHEMA, "x").flags == (f"{rest}, age, sex alone",)
    for series in ("ct", "pet"):
        change(study / series, PatientAge=None, PatientSex=None)
    assert read_patient(Sources(study, fields={"weight": "70"}), SCHEMA, "x").flags == (f"{rest} alone",)
    assert read_patient(Sources(study, fields={"treatment": "1"}), SCHEMA, "x").flags == ()


def test_an_odd_value_gives_way_to_the_header(study):
    case = read_patient(Sources(study, fields={"age": "old"}), SCHEMA, "x")
    assert case.clinical.values["Age"] == 61
    assert case.clinical.odd == ()


def test_a_pet_without_weight_is_answered_without_pet_radiomics(study):
    change(study / "pet", PatientWeight=None)
    case = read_patient(Sources(study, fields=AGE), SCHEMA, "x")
    assert not case.pet_is_suv
    assert case.flags == (f"{NOT_SUV} (the patient's weight is missing or 0)",)
    assert read_patient(Sources(study, fields=AGE | {"weight": "70"}), SCHEMA, "x").flags == ()


def test_a_pet_whose_counts_look_like_suv_is_not_taken_for_suv(study):
    change(study / "pet", Units="CNTS", RescaleSlope="0.0003")
    case = read_patient(Sources(study, fields=AGE), SCHEMA, "x")
    assert not case.pet_is_suv
    assert case.flags == (f"{NOT_SUV} (its values are counts, without Philips' private factor)",)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda study: change(study / "pet", DecayCorrection="NONE"), "the PET was not corrected for decay"),
        (lambda study: (study / "ct" / "0007.dcm").unlink(), "slice 7 is missing"),
        (lambda study: change(study / "ct", PatientID="other"), "images of 2 patients"),
        (lambda study: change(study / "ct", FrameOfReferenceUID="1.2"), "no CT of the PET's frame of reference"),
        (lambda study: shutil.rmtree(study / "pet"), "no PET series"),
        (lambda study: change(study / "pet", ImagePositionPatient=[0, 0, 0]), "lie at one place"),
    ],
)
def test_a_study_that_cannot_be_answered_is_one_line_and_leaves_nothing(run, study, tmp_path, spoil, said):
    out = tmp_path / "out"
    out.mkdir()
    former = ("mask.nii.gz", "report.json", "picture.png", "mask_seg.dcm", "rfs.json", CHALLENGE_MASK)
    for name in former:  # of mmpl case, or of mmpl answer, whose mask would be exported in its place
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("of an earlier run")
    spoil(study)
    code, _, error = run("case", "--dicom", study, "--out", out)
    assert code == 1
    assert error.startswith(f"error: {study}")
    assert said in error
    assert error.count("\n") == 1
    assert not any(secret in error for secret in SECRETS)
    assert not [path for path in out.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "either --dicom is needed, or both --ct and --pet"),
        (("--ct", "a.mha"), "either --dicom is needed, or both --ct and --pet"),
        (("--dicom", "a", "--ct", "b", "--pet", "c"), "either --dicom is needed, or both --ct and --pet"),
        (("--dicom", "absent"), "absent: no such folder or zip archive"),
        (("--dicom", "absent", "--shoe-size", "44"), "there is no option --shoe-size, nor such a clinical field"),
        (("--dicom", "absent", "--age"), "--age has no value"),
        (("--dicom", "absent", "--record", "none.json"), "none.json: No such file or directory"),
        (("--ct", "a.mha", "--pet", "b.mha"), "a.mha: no such file"),
    ],
)
def test_what_is_named_wrongly_is_one_line(run, tmp_path, arguments, said):
    code, _, error = run("case", *arguments, "--out", tmp_path / "out")
    assert (code, error.count("\n")) == (1, 1)
    assert error.startswith(f"error: {said}")


@pytest.mark.parametrize("wrong", [("--weights", "absent"), ("--shoe-size", "44")])
def test_no_earlier_answer_stays_whatever_is_wrong(run, written, tmp_path, wrong):
    out = tmp_path / "out"
    assert run("case", "--dicom", written, "--out", out)[0] == 0
    assert (out / "mask.nii.gz").is_file()
    code, _, error = run("case", "--dicom", written, "--out", out, *wrong)
    assert (code, error.count("\n"), list(out.iterdir())) == (1, 1, [])


def test_a_limit_of_time_holds(run, written, tmp_path, monkeypatch):
    """Where one is asked for; by default there is none here."""
    monkeypatch.setenv("MMPL_TIME_BUDGET_S", "0.001")
    assert run("case", "--dicom", written, "--out", tmp_path / "out")[0] == 0
    flags = json.loads((tmp_path / "out" / "report.json").read_text())["flags"]
    assert any(flag.startswith("time budget") for flag in flags)


def test_a_file_where_the_answers_go_is_named(run, written, tmp_path):
    (tmp_path / "out").write_text("mine")
    code, _, error = run("case", "--dicom", written, "--out", tmp_path / "out")
    assert (code, error) == (1, f"error: {tmp_path}/out: File exists\n")


def test_objects_alone_are_no_study(run, tmp_path, written):
    """As a folder that has a structure set, a segmentation or a report, and no image."""
    shutil.copytree(written / "ct", tmp_path / "visit")
    change(tmp_path / "visit", SOPClassUID="1.2.840.10008.5.1.4.1.1.481.3", Modality="RTSTRUCT")
    code, _, error = run("case", "--dicom", tmp_path / "visit", "--out", tmp_path / "out")
    reason = "other object (secondary capture, segmentation, structure set, report)"
    assert (code, error) == (1, f"error: {tmp_path}/visit: no CT or PET series (40 x {reason})\n")


def test_answers_do_not_lie_among_what_is_read(run, study):
    code, _, error = run("case", "--dicom", study, "--out", study / "answers")
    assert code == 1
    assert "which is read; name a folder outside it" in error
    assert not (study / "answers").exists()


def test_fields_are_options_by_any_of_their_names():
    assert read_fields(["--sex", "m", "--performance-status=1", "--Weight", "70"], SCHEMA) == {
        "sex": "m",
        "performance-status": "1",
        "Weight": "70",
    }


@pytest.mark.parametrize("again", ["--age=99", "--Age=61"])
def test_a_field_that_is_given_twice_is_refused(again):
    with pytest.raises(ValueError, match="is given twice"):
        read_fields(["--age", "61", again], SCHEMA)


def test_a_folder_of_studies_is_answered_without_a_table(written, tmp_path, monkeypatch, blind_ensemble):
    cohort = tmp_path / "cohort"
    shutil.copytree(written, cohort / "first")
    with zipfile.ZipFile(cohort / "second.zip", "w") as archive:
        for path in sorted(written.rglob("*.dcm")):
            archive.write(path, path.relative_to(written))
    shutil.copytree(written, cohort / "third")
    change(cohort / "third" / "ct", FrameOfReferenceUID="1.2")
    (cohort / "no study").mkdir()
    monkeypatch.setenv("MMPL_WEIGHTS", str(blind_ensemble))
    failures = predict(cohort, tmp_path / "out", pictures=False)
    assert list(failures) == ["third"]
    assert "no CT of the PET's frame of reference" in failures["third"]
    reports = [json.loads((tmp_path / "out" / f"{name}.json").read_text()) for name in ("first", "second")]
    assert reports[0]["suv"] == reports[1]["suv"]
    assert reports[0]["risk"]["score"] == reports[1]["risk"]["score"]
    assert predict(cohort, tmp_path / "out", pictures=False).keys() == {"third"}  # the others are finished
    change(cohort / "first" / "ct", Manufacturer="another")
    assert "answered from other images" in predict(cohort, tmp_path / "out", pictures=False)["first"]


def test_a_table_says_what_is_known_of_studies(written, head, tmp_path):
    shutil.copytree(written, tmp_path / "A-1")
    write_image(tmp_path / "A-1" / "A-1.nii.gz", head.reference)
    (tmp_path / "EHR.csv").write_text("PatientID,Age,Treatment\nA-1,,1\n")
    cohort = read_cohort(tmp_path, outcomes=False)
    case = cohort.read_case("A-1")
    assert (case.clinical.values["Age"], case.clinical.values["Treatment"]) == (61.0, "1")
    assert case.reference is not None
    np.testing.assert_array_equal(case.reference.voxels, head.reference.voxels)
    np.testing.assert_array_equal(case.ct.voxels, head.ct.voxels)


def test_a_table_states_the_weight_as_an_option_does(written, tmp_path, blind_ensemble, monkeypatch):
    cohort, out = tmp_path / "cohort", tmp_path / "out"
    for name in ("A-1", "A-2", "A-3"):
        shutil.copytree(written, cohort / name)
    table = cohort / "EHR.csv"
    table.write_text("PatientID,Age,weight\nA-1,50,35\nA-2,50,\nA-3,50,70 kg\n")
    read = read_cohort(cohort, outcomes=False)
    assert read.remarks != ()
    assert not any("weight" in remark for remark in read.remarks)
    weights = [case.suv and case.suv.weight_kg for case in map(read.read_case, ("A-1", "A-2"))]
    assert weights == [35.0, 70.0]
    stated = read_patient(Sources(written, fields={"weight": "35"}), SCHEMA, "A-1")
    np.testing.assert_array_equal(read.read_case("A-1").pet.voxels, stated.pet.voxels)
    monkeypatch.setenv("MMPL_WEIGHTS", str(blind_ensemble))
    said = f"{table}, patient A-3: weight is '70 kg', not a number of kg"
    assert predict(cohort, out, pictures=False) == {"A-3": said}
    table.write_text("PatientID,Age,weight\nA-1,50,36\nA-2,50,unknown\nA-3,50,NaN\n")
    failures = predict(cohort, out, pictures=False)
    assert list(failures) == ["A-1"]
    assert "answered from other images or another record" in failures["A-1"]


def test_images_that_are_no_dicom_have_no_use_for_a_weight(head, tmp_path):
    for end, image in (("CT", head.ct), ("PT", head.pet)):
        write_image(tmp_path / f"A-1__{end}.nii.gz", image)
    table = tmp_path / "EHR.csv"
    table.write_text("PatientID,Weight\nA-1,heavy\n")
    before = read_cohort(tmp_path, outcomes=False)
    assert before.read_case("A-1").pet_is_suv
    table.write_text("PatientID,Weight\nA-1,70\n")
    assert read_cohort(tmp_path, outcomes=False).fingerprint("A-1") == before.fingerprint("A-1")


def test_a_study_takes_no_factor_from_a_table(written, tmp_path):
    shutil.copytree(written, tmp_path / "A-1")
    (tmp_path / "EHR.csv").write_text("PatientID\nA-1\n")
    (tmp_path / "suv_factors.csv").write_text("PatientID,Factor\nA-1,0.0002\n")
    with pytest.raises(InvalidInputError, match="has another in a table"):
        read_cohort(tmp_path, outcomes=False).read_case("A-1")


def test_a_study_beside_a_zip_of_it_is_one_too_many(written, tmp_path):
    shutil.copytree(written, tmp_path / "A-1")
    with zipfile.ZipFile(tmp_path / "A-1.zip", "w") as archive:
        archive.write(written / "ct" / "0001.dcm")
    (tmp_path / "EHR.csv").write_text("PatientID\nA-1\n")
    with pytest.raises(InvalidInputError, match=r"A-1 and .*A-1\.zip: one of the two is too many"):
        read_cohort(tmp_path, outcomes=False)


def test_without_the_extra_commands_that_need_it_say_so_in_one_line(run, written, tmp_path, monkeypatch):
    shutil.copytree(written, tmp_path / "cohort" / "first")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    for arguments in (
        ("case", "--dicom", written, "--out", tmp_path / "out"),
        ("case", "--ct", written, "--pet", written, "--out", tmp_path / "out"),
        ("predict", tmp_path / "cohort", tmp_path / "out"),
        ("check", tmp_path / "cohort"),
        ("phantom", "--patients", 1, "--seed", 1, "--out", tmp_path / "new", "--format", "dicom"),
    ):
        code, _, error = run(*arguments)
        assert code == 1
        assert re.fullmatch(r"error: pydicom is not installed: .* -m pip install .*dicom.*\n", error)
    assert not (tmp_path / "new").exists()


def test_reading_a_case_of_other_images_needs_no_extra(head, tmp_path, monkeypatch):
    write_image(tmp_path / "ct.mha", head.ct)
    write_image(tmp_path / "pet.mha", head.pet)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    case = read_patient(Sources(ct=tmp_path / "ct.mha", pet=tmp_path / "pet.mha"), SCHEMA, "x")
    assert case.pet_is_suv


def test_a_ct_and_a_pet_of_two_patients_are_refused(study, head, tmp_path):
    write_ct(tmp_path / "other", head.ct, replace(STUDY, patient_id="other"))
    with pytest.raises(InvalidInputError, match="images of 2 patients"):
        read_patient(Sources(ct=tmp_path / "other", pet=study), SCHEMA, "x")


def test_a_record_among_the_answers_stays(tmp_path: Path) -> None:
    record = tmp_path / "report.json"
    record.write_text('{"patient": "A", "weights": "w", "models": []}')
    with pytest.raises(OverwriteError):
        make_room(Sources(ct=tmp_path / "a", pet=tmp_path / "b", record=record), tmp_path)
    assert record.is_file()
