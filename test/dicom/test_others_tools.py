"""What other people's programs make of our objects, and we of theirs: dicom3tools, dcmtk, plastimatch, dcmqi.

The CT's place is what GDCM reads from the files, and the lesions are drawn there in the patient's space: a mirror or a
shift of ours cannot hide behind the same mistake on the way back.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from small_series import NAME, ORIENTATIONS, lesions_on, make_series, order_slices, write_series

from mmpl.case import Image
from mmpl.dicom.ct_series import CtSeries
from mmpl.dicom.lesions import ABNORMAL, LESION_OF
from mmpl.dicom.objects import RESEARCH_ONLY, write_object
from mmpl.dicom.segmentation_object import lay_segmentation_on, make_segmentation
from mmpl.dicom.structure_set import lay_structure_set_on, make_structure_set
from mmpl.dicom.structured_report import Outlook, make_report
from mmpl.geometry import to_sitk
from mmpl.io.images import grid_of
from mmpl.metrics import dice
from mmpl.names import LESIONS, Label

AXIAL = [name for name in ORIENTATIONS if name.startswith("axial")]
KNOWN_ERRORS: tuple[str, ...] = ()
"""What dciodvfy holds against the objects of dcmqi and plastimatch, too: nothing that ours have."""


def make_whole_report(mask: Image, series: CtSeries) -> Dataset:
    """Make a report that says all there is to say; the CT stands in for the PET."""
    outlook = Outlook(0.81, 0.93, True, -0.4, 31.0)
    pet = Image(np.ones(mask.voxels.shape, np.float32), mask.grid)
    return make_report(mask, series, make_segmentation(mask, series), outlook, pet)


MAKERS: dict[str, Callable[[Image, CtSeries], Dataset]] = {
    "seg": make_segmentation,
    "rtstruct": make_structure_set,
    "sr": make_whole_report,
}


def run(tool: str, *arguments: object) -> str:
    """Run a program, and give what it says; the test is skipped where it is not installed."""
    found = shutil.which(tool) or shutil.which(tool, path=str(Path(sys.executable).parent))
    if not found:
        pytest.skip(f"{tool} is not installed")
    ended = subprocess.run(list(map(str, (found, *arguments))), capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


class Written:
    """A series and its objects on disk.

    Attributes:
        ct: The CT as GDCM reads it.
        expected: The lesions, drawn on that image's grid.
    """

    def __init__(self, folder: Path, orientation: str) -> None:
        slices = make_series(orientation)
        self.folder, self.ct_folder = folder, write_series(folder / "ct", slices)
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(self.ct_folder)))
        self.ct = reader.Execute()
        self.expected = lesions_on(grid_of(self.ct)).voxels
        self.series: CtSeries = order_slices(slices)
        self.mask = lesions_on(self.series.grid)

    def object(self, kind: str) -> Path:
        """Write an object of the lesions."""
        path = self.folder / f"{kind}.dcm"
        write_object(path, MAKERS[kind](self.mask, self.series))
        return path

    def dice(self, image: Path, label: Label) -> float:
        """Compare a mask in a file with a lesion, in the patient's space."""
        found = sitk.GetArrayFromImage(sitk.Resample(sitk.ReadImage(str(image)), self.ct, sitk.Transform(), 1)) > 0
        return dice(self.expected == label, found)

    def dice_of(self, labels: NDArray) -> list[float]:
        """Compare a label map on the series' grid with the lesions."""
        return [dice(self.mask.voxels == label, labels == label) for label in LESIONS]

    def lesion_files(self) -> list[Path]:
        """Write each lesion as an image."""
        paths = []
        for label in LESIONS:
            lesion = to_sitk(self.mask) == int(label)
            paths.append(self.folder / f"{LESION_OF[label].name}.nrrd")
            sitk.WriteImage(lesion, str(paths[-1]))
        return paths


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str], Written]:
    return lambda orientation: Written(tmp_path, orientation)


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("orientation", ["axial", "oblique"])
def test_dciodvfy_finds_no_error(written: Callable[[str], Written], kind: str, orientation: str) -> None:
    said = run("dciodvfy", written(orientation).object(kind)).splitlines()
    assert [line for line in said if line.startswith("Error") and line not in KNOWN_ERRORS] == []


@pytest.mark.parametrize("kind", MAKERS)
def test_dcmdump_reads_it(written: Callable[[str], Written], kind: str) -> None:
    said = run("dcmdump", "+U8", written("axial").object(kind))
    assert RESEARCH_ONLY in said
    assert NAME in said


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_dcmqi_reads_our_segmentation(written: Callable[[str], Written], orientation: str) -> None:
    made = written(orientation)
    path = made.object("seg")
    run("segimage2itkimage", "--inputDICOM", path, "--outputDirectory", made.folder, "--prefix", "dcmqi", "-t", "nrrd")
    described = json.loads((made.folder / "dcmqi-meta.json").read_text())["segmentAttributes"]
    assert [each[0]["SegmentLabel"] for each in described] == ["GTVp", "GTVn"]
    for label in LESIONS:
        assert made.dice(made.folder / f"dcmqi-{int(label)}.nrrd", label) == 1.0


@pytest.mark.parametrize("orientation", AXIAL)
def test_plastimatch_reads_our_axial_structure_set(written: Callable[[str], Written], orientation: str) -> None:
    made = written(orientation)
    ours, out = made.object("rtstruct"), made.folder / "masks"
    run("plastimatch", "convert", "--input", ours, "--referenced-ct", made.ct_folder, "--output-prefix", out)
    for label in LESIONS:
        assert made.dice(out / f"{LESION_OF[label].name}.mha", label) >= 0.97


@pytest.mark.parametrize("orientation", ["axial", "oblique", "sagittal, feet first"])
def test_we_read_dcmqi_s_segmentation(written: Callable[[str], Written], orientation: str) -> None:
    made = written(orientation)
    description = made.folder / "meta.json"
    described = [
        {
            "labelID": 1,
            "SegmentDescription": "a lesion",
            "SegmentAlgorithmType": "MANUAL",
            "SegmentedPropertyCategoryCodeSequence": _code(ABNORMAL.value, ABNORMAL.meaning),
            "SegmentedPropertyTypeCodeSequence": _code(
                LESION_OF[label].morphology.value, LESION_OF[label].morphology.meaning
            ),
        }
        for label in LESIONS
    ]
    description.write_text(
        json.dumps(
            {
                "ContentCreatorName": "Doe^Jane",
                "SeriesDescription": "corrected",
                "SeriesNumber": "300",
                "InstanceNumber": "1",
                "segmentAttributes": [[each] for each in described],
            }
        )
    )
    theirs = made.folder / "theirs.dcm"
    run(
        "itkimage2segimage",
        "--inputImageList",
        ",".join(map(str, made.lesion_files())),
        "--inputDICOMDirectory",
        made.ct_folder,
        "--outputDICOM",
        theirs,
        "--inputMetadata",
        description,
    )
    found = lay_segmentation_on(dcmread(theirs), made.series.grid, made.series.identity)
    assert made.dice_of(found.voxels) == [1.0, 1.0]


def _code(value: str, meaning: str) -> dict[str, str]:
    return {"CodeValue": value, "CodingSchemeDesignator": "SCT", "CodeMeaning": meaning}


@pytest.mark.parametrize("orientation", AXIAL)
def test_we_read_plastimatch_s_structure_set(written: Callable[[str], Written], orientation: str) -> None:
    made = written(orientation)
    both = made.folder / "both.mha"  # a bit each: 1 and 2 are labels as they are
    sitk.WriteImage(sitk.Cast(to_sitk(made.mask), sitk.sitkUInt32), str(both))
    names = made.folder / "names.txt"
    names.write_text("0|255 0 0|GTVp\n1|0 0 255|GTVn\n")
    out = made.folder / "theirs"
    arguments = ("--input-ss-img", both, "--input-ss-list", names, "--referenced-ct", made.ct_folder)
    run("plastimatch", "convert", *arguments, "--output-dicom", out)
    (theirs,) = [path for path in out.iterdir() if dcmread(path, stop_before_pixels=True).Modality == "RTSTRUCT"]
    found = lay_structure_set_on(dcmread(theirs), made.series.grid, made.series.identity).voxels
    assert min(made.dice_of(found)) >= 0.97, made.dice_of(found)


def test_dcmqi_reads_our_report(written: Callable[[str], Written]) -> None:
    made = written("axial")
    out = made.folder / "report.json"
    run("tid1500reader", "--inputDICOM", made.object("sr"), "--outputMetadata", out)
    found = json.loads(out.read_text())["Measurements"]
    assert [group["TrackingIdentifier"] for group in found[:2]] == ["GTVp", "GTVn"]
    volumes = [float(group["measurementItems"][0]["value"]) for group in found[:2]]
    expected = [np.count_nonzero(made.expected == label) * 0.003 for label in LESIONS]
    assert volumes == pytest.approx(expected, abs=1e-3)


def test_the_tools_tell_a_mirror(written: Callable[[str], Written]) -> None:
    """A mirrored mask has no such overlap, so the tests above would see one."""
    made = written("axial")
    assert max(made.dice_of(np.ascontiguousarray(made.mask.voxels[:, :, ::-1]))) < 0.7
