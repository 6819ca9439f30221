"""Real scans as DICOM, and as what dcm2niix makes of it: the same answers.

Needs the images that `real` says, and dcm2niix: `pip install dcm2niix`.
"""

import csv
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from dicom_files import INJECTION
from real import REAL_DATA

from mmpl.case import Image
from mmpl.dicom.writing import StudyHeader, ct_datasets, pet_datasets, save_series, to_bqml
from mmpl.geometry import lay_on
from mmpl.io.images import read_image
from mmpl.predict import predict

STUDIES = sorted(REAL_DATA.glob("sts/STS_*")) if REAL_DATA.is_dir() else []
WEIGHT_KG = 80.0
MOST_APART = 1e-3  # SD of the training patients' risk

pytestmark = pytest.mark.slow


def answers(cohort: Path, out: Path) -> dict[str, str]:
    assert predict(cohort, out, pictures=False, models=["patient-0"]) == {}
    with (out / "predictions.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    return row


@pytest.mark.parametrize("study", STUDIES[1:3], ids=lambda path: path.name)
def test_dicom_and_what_dcm2niix_makes_of_it_have_the_same_answers(study, shipped, tmp_path, monkeypatch):
    dcm2niix = pytest.importorskip("dcm2niix")
    monkeypatch.setenv("MMPL_WEIGHTS", str(shipped))
    name, header = study.name, StudyHeader(study.name, "M", 55, WEIGHT_KG, 1.8)
    ct, pet = read_image(study / "CT_image.nii.gz"), read_image(study / "PET_image.nii.gz")
    dicom, nifti = tmp_path / "dicom", tmp_path / "nifti"
    save_series(ct_datasets(ct, header), dicom / name / "ct")
    save_series(pet_datasets(to_bqml(pet, WEIGHT_KG, INJECTION), header, INJECTION), dicom / name / "pt")
    (nifti / name).mkdir(parents=True)
    for series, end in (("ct", "CT"), ("pt", "PT")):
        made = tmp_path / "made" / series
        made.mkdir(parents=True)
        subprocess.run([dcm2niix.bin, "-z", "y", "-o", made, dicom / name / series], check=True, capture_output=True)
        (image,) = made.glob("*.nii.gz")
        image.rename(nifti / name / f"{name}__{end}.nii.gz")
    for cohort in (dicom, nifti):
        (cohort / "EHR.csv").write_text(f"PatientID,Age,Gender\n{name},55,1\n")
    factor = WEIGHT_KG * 1000 / INJECTION.decayed_bq
    (nifti / "suv_factors.csv").write_text(f"PatientID,Factor\n{name},{factor!r}\n")
    from_dicom, from_nifti = (answers(cohort, tmp_path / f"of {cohort.name}") for cohort in (dicom, nifti))
    masks = [read_image(tmp_path / f"of {way}" / f"{name}.nii.gz") for way in ("dicom", "nifti")]
    np.testing.assert_array_equal(lay_on(Image(masks[1].voxels, masks[1].grid), masks[0].grid).voxels, masks[0].voxels)
    assert abs(float(from_dicom["risk_score"]) - float(from_nifti["risk_score"])) < MOST_APART
    assert from_dicom["flags"] == from_nifti["flags"]
    report = json.loads((tmp_path / "of dicom" / f"{name}.json").read_text())
    assert report["suv"]["factor"] == pytest.approx(factor)
    print(name, from_dicom["risk_score"], from_nifti["risk_score"], masks[0].voxels.max(), from_dicom["flags"])
