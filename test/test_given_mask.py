"""A person's mask in the ensemble's place: HPV and risk rest on it, and the report says how it differs."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cohorts import ROW, write_table
from scipy import ndimage

from mmpl.__main__ import main
from mmpl.api import load
from mmpl.case import Case, GivenMask, Image, InvalidInputError
from mmpl.dicom.masks import give_mask
from mmpl.geometry import crop_grid, holds, index_to_mm, to_sitk
from mmpl.io.images import read_image, write_image
from mmpl.metrics import dice
from mmpl.names import LESIONS, Label, Stage, Task
from mmpl.pipeline import NO_DEEP_EVIDENCE, OUTSIDE_PATCH, PatientResult, Pipeline
from mmpl.predict import predict
from mmpl.preprocess import prepare
from mmpl.radiomics import PET_COVERS
from mmpl.report import BY_PERSON, describe
from mmpl.segmentation import GIVEN, NO_LESION
from mmpl.weights import Ensemble, load_ensemble

CPU = torch.device("cpu")
PATIENT = "CHUM-001"


@pytest.fixture(scope="module")
def ensemble(tiny_ensemble: Path) -> Ensemble:
    return load_ensemble(tiny_ensemble)


@pytest.fixture(scope="module")
def own(ensemble: Ensemble, head: Case) -> PatientResult:
    return Pipeline(ensemble, CPU)(head)


@pytest.fixture(scope="module")
def corrected(own: PatientResult) -> Image:
    """The ensemble's mask without its right half, and with a node that it had not found."""
    voxels = own.segmentation.mask.voxels.copy()
    voxels[:, :, : int(np.median(np.nonzero(voxels)[2]))] = Label.BACKGROUND
    voxels[5:9, 20:24, 10:14] = Label.GTVN
    return Image(voxels, own.segmentation.mask.grid)


@pytest.fixture(scope="module")
def given(ensemble: Ensemble, head: Case, corrected: Image) -> PatientResult:
    return Pipeline(ensemble, CPU)(replace(head, given_mask=GivenMask(corrected, "corrected.mha")))


def test_the_answer_is_the_given_mask_and_rests_on_it(
    own: PatientResult, given: PatientResult, corrected: Image
) -> None:
    assert given.segmentation.mask is corrected
    assert GIVEN in given.flags
    assert GIVEN not in own.flags
    assert given.gtvn_ml != own.gtvn_ml
    assert given.radiomics is not None
    assert own.radiomics is not None
    assert not np.array_equal(given.radiomics.values, own.radiomics.values, equal_nan=True)
    assert given.radiomics.read(["gtvn_absent"]) == [[0.0]]


def test_the_ensembles_own_mask_given_back_changes_no_answer(
    ensemble: Ensemble, head: Case, own: PatientResult
) -> None:
    same = Pipeline(ensemble, CPU)(replace(head, given_mask=GivenMask(own.segmentation.mask, "same.mha")))
    assert (same.hpv, same.survival and same.survival.risk_score) == (own.hpv, own.survival and own.survival.risk_score)
    content = describe(same, ensemble)["mask"]
    assert content["dice_with_ensemble"] == {"gtvp": 1.0, "gtvn": 1.0}


def test_the_report_says_whose_it_is_and_how_it_differs(
    own: PatientResult, given: PatientResult, corrected: Image, ensemble: Ensemble
) -> None:
    assert describe(own, ensemble)["mask"] == {"by": "ensemble"}
    content = describe(given, ensemble)["mask"]
    assert (content["by"], content["file"]) == (BY_PERSON, "corrected.mha")
    for label in LESIONS:
        found = dice(own.segmentation.mask.voxels == label, corrected.voxels == label)
        assert content["dice_with_ensemble"][label.name.lower()] == pytest.approx(found, abs=5e-5)
    assert content["ensemble_ml"] == pytest.approx({"gtvp": own.gtvp_ml, "gtvn": own.gtvn_ml}, abs=5e-4)


def test_an_empty_given_mask_is_no_lesion(ensemble: Ensemble, head: Case, corrected: Image) -> None:
    empty = Image(np.zeros_like(corrected.voxels), corrected.grid)
    result = Pipeline(ensemble, CPU)(replace(head, given_mask=GivenMask(empty, "empty.mha")))
    assert NO_LESION in result.flags
    assert not result.segmentation.mask.voxels.any()


def test_networks_say_nothing_of_a_mask_that_they_do_not_see(ensemble: Ensemble, head: Case) -> None:
    """A node beside the patch: radiomics and the record count, deep scores are those of the training mean."""
    roi = prepare(head, ensemble.profile.preprocess).roi
    outside = ~holds(roi, index_to_mm(head.ct.grid, np.indices(head.ct.voxels.shape)[::-1].transpose(1, 2, 3, 0)))
    voxels = np.zeros_like(head.ct.voxels, np.uint8)
    z, y, x = np.argwhere(ndimage.binary_erosion(outside, iterations=3))[0]
    voxels[z - 1 : z + 2, y - 1 : y + 2, x - 1 : x + 2] = Label.GTVN
    beside = replace(head, given_mask=GivenMask(Image(voxels, head.ct.grid), "beside.mha"))
    found = Pipeline(ensemble, CPU)(beside)
    assert {OUTSIDE_PATCH, NO_DEEP_EVIDENCE} <= set(found.flags)
    lesion = head.reference.voxels > 0
    denser = replace(head.ct, voxels=np.where(lesion, 300, head.ct.voxels))  # the networks see another CT
    other = Pipeline(ensemble, CPU)(replace(beside, ct=denser))
    assert other.hpv.member_probabilities == found.hpv.member_probabilities
    assert other.survival.member_risks == found.survival.member_risks
    assert other.segmentation.mask is found.segmentation.mask


@pytest.mark.parametrize(("first", "part"), [(21, True), (30, False)])
def test_of_a_lesion_at_the_edge_of_the_pet_what_it_shows_is_measured(
    ensemble: Ensemble, head: Case, first: int, part: bool
) -> None:
    """What it does not show is not zero uptake."""
    voxels = np.zeros_like(head.ct.voxels, np.uint8)
    voxels[20:28, 20:26, 12:18] = Label.GTVN
    pet = Image(head.pet.voxels[first:], crop_grid(head.pet.grid, (0, 0, first), (40, 38, 36 - first)))
    case = replace(head, pet=pet, given_mask=GivenMask(Image(voxels, head.ct.grid), "edge.mha"))
    found = Pipeline(ensemble, CPU, all_radiomics=True)(case)
    (flag,) = (flag for flag in found.flags if flag.startswith(PET_COVERS))
    wanted = ("pet_gtvn_original_firstorder_Minimum", "ct_gtvn_original_shape_VoxelVolume")
    lowest, volume = found.radiomics.read(wanted)[0]
    assert volume > 0
    if part:
        assert lowest > 0.5
    else:
        assert np.isnan(lowest)
        assert flag == f"{PET_COVERS} 0% of GTVn: its PET features are missing"


def test_a_given_mask_where_the_ensemble_finds_nothing(blind_ensemble: Path, head: Case, corrected: Image) -> None:
    case = replace(head, given_mask=GivenMask(corrected, "mask.mha"))
    result = Pipeline(load_ensemble(blind_ensemble), CPU, frozenset({Task.SEGMENTATION}))(case)
    assert NO_LESION not in result.flags
    assert result.gtvn_ml > 0


def test_a_given_mask_on_another_grid_is_no_case(head: Case) -> None:
    with pytest.raises(InvalidInputError, match="the given mask is not on the CT's grid"):
        replace(head, given_mask=GivenMask(Image(np.zeros(head.pet.voxels.shape, np.uint8), head.pet.grid), "x"))


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run a command in this process, and give its exit code."""
    monkeypatch.setattr("sys.argv", ["mmpl", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


@pytest.fixture
def weights(partial_ensemble: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that segment alone, quickly, for a command whose other settings do not outlive the test."""
    monkeypatch.setenv("MMPL_WEIGHTS", str(partial_ensemble(Stage.SEGMENTATION)))
    monkeypatch.setenv("MMPL_TIME_BUDGET_S", "0")


def test_answer_takes_a_mask(
    write_input: Callable[..., Path], weights: None, corrected: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask, out = tmp_path / "corrected.nii.gz", tmp_path / "out"
    write_image(mask, corrected)
    out.mkdir()
    (out / "mask_seg.dcm").write_text("of an earlier answer")
    (out / "report.json").write_text(json.dumps({"patient": "case", "weights": "others", "models": []}))
    assert run(monkeypatch, "answer", write_input(), out, "--mask", mask) == 0
    assert not (out / "mask_seg.dcm").exists()
    found = read_image(out / "images/tumor-lymph-node-segmentation/output.mha")
    np.testing.assert_array_equal(found.voxels, corrected.voxels)
    assert json.loads((out / "report.json").read_text())["mask"]["file"] == "corrected.nii.gz"


@pytest.mark.parametrize("form", ["path", "image"])
def test_the_python_interface_takes_a_mask(
    partial_ensemble: Callable[..., Path], head: Case, corrected: Image, tmp_path: Path, form: str
) -> None:
    model = load(partial_ensemble(Stage.SEGMENTATION), device="cpu")
    write_image(tmp_path / "mask.mha", corrected)
    mask = to_sitk(corrected) if form == "image" else tmp_path / "mask.mha"
    result = model.answer(to_sitk(head.ct), to_sitk(head.pet), mask=mask)
    np.testing.assert_array_equal(result.segmentation.mask.voxels, corrected.voxels)
    assert GIVEN in result.flags


def test_a_mask_that_cannot_be_used_leaves_no_answer(
    write_input: Callable[..., Path],
    weights: None,
    head: Case,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
) -> None:
    mask, out = tmp_path / "pet.mha", tmp_path / "out"
    write_image(mask, Image(np.zeros(head.pet.voxels.shape, np.uint8), head.pet.grid))
    assert run(monkeypatch, "answer", write_input(), out, "--mask", mask) == 1
    said = capfd.readouterr().err.strip()
    assert said.startswith(f"error: {mask}: the mask has (40, 38, 36) voxels")
    assert "\n" not in said
    assert not (out / "rfs.json").exists()


def test_a_mask_among_the_answers_is_refused_before_those_are_removed(
    write_input: Callable[..., Path],
    weights: None,
    corrected: Image,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
) -> None:
    mask = tmp_path / "out/images/tumor-lymph-node-segmentation/output.mha"
    mask.parent.mkdir(parents=True)
    write_image(mask, corrected)
    assert run(monkeypatch, "answer", write_input(), tmp_path / "out", "--mask", mask) == 1
    assert f"{mask}: lies in {tmp_path / 'out'}, which takes the answers" in capfd.readouterr().err
    assert mask.is_file()


@pytest.fixture
def cohort(tmp_path: Path, head: Case) -> Path:
    """Two patients with the images of `head`."""
    folder = write_table(tmp_path / "cohort", ROW, ROW | {"PatientID": "CHUM-002"})
    for name in (PATIENT, "CHUM-002"):
        (folder / name).mkdir()
        write_image(folder / name / f"{name}__CT.nii.gz", head.ct)
        write_image(folder / name / f"{name}__PT.nii.gz", head.pet)
    return folder


def test_predict_takes_the_masks_that_are_there(
    cohort: Path, weights: None, corrected: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks, out = tmp_path / "masks", tmp_path / "out"
    masks.mkdir()
    write_image(masks / f"{PATIENT}.mha", corrected)
    assert run(monkeypatch, "predict", cohort, out, "--no-pictures", "--masks", masks) == 0
    np.testing.assert_array_equal(read_image(out / f"{PATIENT}.nii.gz").voxels, corrected.voxels)
    by = [json.loads((out / f"{name}.json").read_text())["mask"]["by"] for name in (PATIENT, "CHUM-002")]
    assert by == ["person", "ensemble"]
    with (out / "predictions.csv").open() as file:
        flags = [row["flags"] for row in csv.DictReader(file)]
    assert [GIVEN in flag for flag in flags] == [True, False]
    write_image(masks / "CHUM-002.nii.gz", corrected)
    assert list(predict(cohort, out, pictures=False, masks=masks)) == ["CHUM-002"]  # answered with another mask


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["CHUM-003.nii.gz"], "CHUM-003.nii.gz: the cohort has no patient CHUM-003"),
        ([f"{PATIENT}.mha", f"{PATIENT}.dcm"], f"{PATIENT}.mha: one of the two is too many"),
        (None, "masks: no such folder"),
    ],
)
def test_masks_of_nobody_are_no_masks(
    cohort: Path, weights: None, tmp_path: Path, files: list[str] | None, message: str
) -> None:
    if files is not None:
        (tmp_path / "masks").mkdir()
        for name in files:
            (tmp_path / "masks" / name).touch()
    with pytest.raises(InvalidInputError, match=message):
        predict(cohort, tmp_path / "out", masks=tmp_path / "masks")


@pytest.mark.parametrize("there", ["", "CHUM-001/CHUM-001.nii.gz", "CHUM-001.zip"])
def test_a_folder_without_masks_is_not_taken_for_one(cohort: Path, weights: None, tmp_path: Path, there: str) -> None:
    masks = tmp_path / "masks"
    (masks / there).parent.mkdir(parents=True, exist_ok=True)
    masks.mkdir(exist_ok=True)
    if there:
        (masks / there).write_text("a mask")
    with pytest.raises(InvalidInputError, match=f"{masks}: no masks, which are called as patients are"):
        predict(cohort, tmp_path / "out", masks=masks)


def test_the_file_of_a_given_mask_is_named(head: Case, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=f"{tmp_path}/absent.nii.gz: no such file"):
        give_mask(head, tmp_path / "absent.nii.gz")
