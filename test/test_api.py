"""The Python interface: every form of an image gives the same answer, and what cannot be used is named."""

import re
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from cohorts import ROW, write_table
from conftest import EHR
from dicom_files import INJECTION, write_ct, write_pet
from expected import EXPECTED, HPV_WITHIN

import mmpl
from mmpl.api import Model, mask_image, read_any_image
from mmpl.case import Case, Image, InvalidInputError
from mmpl.dicom.study import read_pair
from mmpl.dose import DOSE_UNREAD
from mmpl.geometry import to_sitk
from mmpl.io.images import NO_PLACE, says_no_place, write_image
from mmpl.weights import WeightsError, digest

pytestmark = pytest.mark.slow

OBLIQUE = np.array([[0.0, -1.0, 0.0], [0.8, 0.0, -0.6], [0.6, 0.0, 0.8]])


def affine_of(image: sitk.Image) -> np.ndarray:
    """The affine to RAS that nibabel would give."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


@pytest.fixture(scope="module")
def model(tiny_ensemble: Path) -> Model:
    return mmpl.load(tiny_ensemble)


def test_a_path_an_image_and_an_array_are_one_image(head: Case, tmp_path: Path) -> None:
    image = to_sitk(head.ct)
    image.SetDirection(OBLIQUE.ravel().tolist())
    path = tmp_path / "ct.nii.gz"
    sitk.WriteImage(image, str(path))
    array = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
    for given in (str(path), path, image, (array, affine_of(image))):
        read = read_any_image("CT", given)
        np.testing.assert_array_equal(read.voxels, head.ct.voxels)
        assert read.grid.size_xyz == head.ct.grid.size_xyz
        for ours, theirs in (
            (read.grid.spacing_xyz, image.GetSpacing()),
            (read.grid.origin_xyz, image.GetOrigin()),
            (read.grid.direction, image.GetDirection()),
        ):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_dicom_folders_are_read_in_suv_with_what_their_headers_say(model: Model, head: Case, tmp_path: Path) -> None:
    write_ct(tmp_path / "ct", head.ct)
    write_pet(tmp_path / "pet", head.pet)
    record = {name: value for name, value in EHR.items() if name != "Age"}
    found = model.answer(tmp_path / "ct", tmp_path / "pet", record)
    wanted = model.pipeline(head)
    assert found.survival.risk_score == pytest.approx(wanted.survival.risk_score, abs=1e-3)
    assert found.suv.factor == pytest.approx(70_000 / INJECTION.decayed_bq)
    assert found.notes == ("Age is that of the DICOM header",)


def test_a_records_weight_and_status_count_as_for_the_programs(
    model: Model, head: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_ct(tmp_path / "ct", head.ct)
    write_pet(tmp_path / "pet", head.pet)
    record = {**EHR, "Weight": 35, "HPV Status": 0}
    found = model.answer(tmp_path / "ct", tmp_path / "pet", record)
    assert found.suv.factor == pytest.approx(35_000 / INJECTION.decayed_bq)
    assert found.hpv.known is None
    monkeypatch.setenv("MMPL_EDITION", "hecktor-2026")
    assert model.answer(to_sitk(head.ct), to_sitk(head.pet), record).hpv.known is False
    assert "HPV Status is not given: predicted" in model.answer(to_sitk(head.ct), to_sitk(head.pet), EHR).notes


def test_a_file_without_a_place_in_space_is_flagged(model: Model, head: Case, tmp_path: Path) -> None:
    write_image(tmp_path / "ct.tif", head.ct)
    write_image(tmp_path / "pet.tif", head.pet)
    assert read_pair(tmp_path / "ct.tif", tmp_path / "pet.tif").flags == (NO_PLACE,)
    bare = replace(head.pet, grid=replace(head.pet.grid, origin_xyz=(0.0, 0.0, 0.0)))
    assert NO_PLACE in model.answer(tmp_path / "ct.tif", to_sitk(bare), EHR).flags


def test_voxels_in_memory_without_a_place_are_flagged(model: Model, head: Case) -> None:
    """As `sitk.GetImageFromArray` makes them."""
    assert NO_PLACE not in model.answer(to_sitk(head.ct), to_sitk(head.pet), EHR).flags
    bare = [sitk.GetImageFromArray(np.tile(head.ct.voxels, (4, 4, 4))) for _ in range(2)]
    assert says_no_place(bare[0])
    assert not says_no_place(to_sitk(head.ct))
    flags = model.answer(bare[0], sitk.Cast(sitk.Abs(bare[1]), sitk.sitkFloat32), EHR).flags
    assert NO_PLACE in flags


@pytest.mark.parametrize("status", ["0", "negative", 2, float("nan"), np.array([True, False])])
def test_a_known_status_that_is_none_is_refused(model: Model, head: Case, status: object) -> None:
    """The text "0" would be true."""
    with pytest.raises(InvalidInputError, match=r"known_hpv is .*: True, False or None is needed"):
        model.answer(to_sitk(head.ct), to_sitk(head.pet), EHR, known_hpv=status)  # type: ignore[arg-type]


def test_a_status_and_a_record_come_in_any_type_that_holds_them(model: Model, head: Case) -> None:
    pandas = pytest.importorskip("pandas")
    images = to_sitk(head.ct), to_sitk(head.pet)
    wanted = model.answer(*images, EHR, known_hpv=False)
    found = model.answer(*images, pandas.Series(EHR), known_hpv=np.bool_(False))
    assert found.survival.member_risks == wanted.survival.member_risks
    assert found.hpv.known is False


def test_a_dose_that_no_model_reads_is_told(model: Model, head: Case, caplog: pytest.LogCaptureFixture) -> None:
    dose = sitk.Cast(to_sitk(head.ct) * 0 + 60, sitk.sitkFloat32)
    model.answer(to_sitk(head.ct), to_sitk(head.pet), EHR, dose=dose)
    assert DOSE_UNREAD in caplog.text


def test_answers_are_those_of_the_pipeline(model: Model, head: Case, tmp_path: Path) -> None:
    wanted = model.pipeline(head)
    write_image(tmp_path / "ct.nii.gz", head.ct)
    found = model.answer(tmp_path / "ct.nii.gz", to_sitk(head.pet), EHR, patient_id=head.patient_id)
    assert found.patient_id == head.patient_id
    np.testing.assert_array_equal(found.segmentation.mask.voxels, wanted.segmentation.mask.voxels)
    assert found.hpv.probability == pytest.approx(wanted.hpv.probability, abs=1e-6)  # a header rounds the grid
    assert found.survival.risk_score == pytest.approx(wanted.survival.risk_score, abs=1e-6)
    mask = mask_image(found)
    assert mask.GetSize() == head.ct.grid.size_xyz
    np.testing.assert_array_equal(sitk.GetArrayFromImage(mask), found.segmentation.mask.voxels)


def test_a_page_is_written_where_asked(model: Model, head: Case, tmp_path: Path) -> None:
    write_image(tmp_path / "surname.nii.gz", head.ct)
    found = model.answer(
        tmp_path / "surname.nii.gz", to_sitk(head.pet), EHR, patient_id="A-1", page=tmp_path / "a.html"
    )
    page = (tmp_path / "a.html").read_text()
    assert "Patient A-1" in page
    assert "surname" not in page
    assert digest(tmp_path / "surname.nii.gz") in page
    assert found.lesions
    assert page.count('data-lesion="') == len(found.lesions)


def test_a_known_status_takes_the_place_of_the_predicted_one(model: Model, head: Case) -> None:
    images = to_sitk(head.ct), to_sitk(head.pet)
    negative, positive = (model.answer(*images, EHR, known_hpv=status) for status in (False, True))
    assert negative.survival.risk_score > positive.survival.risk_score
    assert (negative.hpv.known, positive.hpv.known) == (False, True)
    assert replace(negative.hpv, known=None) == replace(positive.hpv, known=None)
    assert "the risk rests on a known HPV status (negative)" in negative.flags


def test_a_prevalence_is_a_share(tiny_ensemble: Path) -> None:
    with pytest.raises(ValueError, match="an HPV prevalence of 1 is not between 0 and 1"):
        mmpl.load(tiny_ensemble, hpv_prevalence=1.0)


def test_a_cohort_has_a_column_for_known_status(model: Model, head: Case, tmp_path: Path) -> None:
    """The released outcome beside it is not looked at."""
    statuses = {"A": ("positive", True), "B": ("p16-", False), "C": ("", None)}
    for name in statuses:
        write_image(tmp_path / f"{name}__CT.nii.gz", head.ct)
        write_image(tmp_path / f"{name}__PT.nii.gz", head.pet)
    record = {key: str(value) for key, value in EHR.items()}
    write_table(
        tmp_path,
        *(
            {**ROW, **record, "PatientID": name, "known HPV status": text, "HPV Status": "1"}
            for name, (text, _) in statuses.items()
        ),
    )
    for name, result in model.answer_cohort(tmp_path):
        images = tmp_path / f"{name}__CT.nii.gz", tmp_path / f"{name}__PT.nii.gz"
        alone = model.answer(*images, EHR, known_hpv=statuses[name][1])
        assert result.survival.risk_score == alone.survival.risk_score
        assert result.flags == alone.flags


def test_a_cohort_is_answered_though_a_patient_cannot_be(
    model: Model, head: Case, tmp_path: Path, moved_away: Image
) -> None:
    for name, pet in (("A", head.pet), ("B", moved_away)):
        write_image(tmp_path / f"{name}__CT.nii.gz", head.ct)
        write_image(tmp_path / f"{name}__PT.nii.gz", pet)
    write_table(
        tmp_path, *({**ROW, "PatientID": name, **{key: str(value) for key, value in EHR.items()}} for name in "AB")
    )
    found = dict(model.answer_cohort(tmp_path))
    assert list(found) == ["A", "B"]
    alone = model.answer(tmp_path / "A__CT.nii.gz", tmp_path / "A__PT.nii.gz", EHR)
    assert found["A"].survival.risk_score == alone.survival.risk_score
    assert found["A"].patient_id == "A"
    assert "do not overlap" in str(found["B"])


def test_what_is_asked_for_is_answered(tiny_ensemble: Path, head: Case) -> None:
    with pytest.raises(ValueError, match="device mps: cpu and cuda can be used"):
        mmpl.load(tiny_ensemble, device="mps")
    alone = mmpl.load(tiny_ensemble, device="cpu", models=["center_0"], tasks=["segmentation"])
    result = alone.answer(to_sitk(head.ct), to_sitk(head.pet))
    assert (result.hpv, result.survival, result.radiomics, result.notes) == (None, None, None, ())
    assert result.segmentation.models == 1
    with pytest.raises(WeightsError, match="no model nobody; there are"):
        mmpl.load(tiny_ensemble, models=["nobody"])
    with pytest.raises(ValueError, match="staging"):
        mmpl.load(tiny_ensemble, tasks=["staging"])


SHEARED = np.array([[1.0, 0.2, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
VOLUME = np.zeros((4, 5, 6), np.float32)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("nowhere.nii.gz", r"nowhere\.nii\.gz: no such file"),
        ((VOLUME, SHEARED), r"CT: the affine is sheared"),
        ((VOLUME, np.diag([1.0, 0.0, 1.0, 1.0])), r"CT: the affine has an axis of no length"),
        (
            (VOLUME, np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [9, 9, 9, 1]])),
            r"CT: the last row of the affine",
        ),
        ((np.ma.masked_less(VOLUME, 1.0), np.eye(4)), r"CT: a masked array; fill what is masked"),
        ((VOLUME, np.eye(3)), r"CT: voxels of shape \(4, 5, 6\) and an affine of shape \(3, 3\)"),
        ((VOLUME[0], np.eye(4)), r"CT: voxels of shape \(5, 6\)"),
        (VOLUME, r"CT: a path, a SimpleITK image or \(voxels, affine\) is needed, not ndarray"),
        (sitk.Image(4, 4, sitk.sitkInt16), r"CT: the image has 2 dimensions, not 3"),
        (sitk.Image([4, 4, 4], sitk.sitkVectorUInt8, 3), r"CT: the image has 3 channels, not 1"),
    ],
)
def test_an_image_that_cannot_be_used_is_named(image: object, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        read_any_image("CT", image)


@pytest.mark.slow
def test_the_documented_script_runs_as_it_stands(
    root: Path, shipped: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shipped
    monkeypatch.setattr(sys, "argv", ["python_interface.py"])
    runpy.run_path(str(root / "docs/python_interface.py"))
    printed = capsys.readouterr().out
    (said,) = re.findall(r"^HPV \w+, probability ([\d.]+)$", printed, re.MULTILINE)
    (expected,) = re.findall(r"^HPV \w+, probability ([\d.]+)", (EXPECTED / "log.txt").read_text(), re.MULTILINE)
    assert abs(float(said) - float(expected)) <= HPV_WITHIN
    assert printed.endswith("the same mask from arrays\n")
