"""A person's mask in a file of any kind: told by its content, and refused in one line that names it."""

import logging
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from small_series import lesions_on, make_series, order_slices

from mmpl.case import InvalidInputError, SeriesIdentity
from mmpl.dicom.ct_series import CtSeries
from mmpl.dicom.headers import quiet
from mmpl.dicom.masks import read_any_mask
from mmpl.dicom.objects import write_object
from mmpl.dicom.segmentation_object import make_segmentation
from mmpl.dicom.structure_set import make_structure_set
from mmpl.io.images import write_image

NOTHING = b"\0"


@pytest.fixture
def series() -> CtSeries:
    return order_slices(make_series("coronal"))


@pytest.fixture
def files(series: CtSeries, tmp_path: Path) -> dict[str, Path]:
    """The same lesions in each form, and under names that say nothing."""
    mask = lesions_on(series.grid)
    paths = {"image": tmp_path / "a.nii.gz", "seg": tmp_path / "b", "rtstruct": tmp_path / "c"}
    write_image(paths["image"], mask)
    write_object(paths["seg"], make_segmentation(mask, series))
    write_object(paths["rtstruct"], make_structure_set(mask, series))
    return paths


@pytest.mark.parametrize("form", ["image", "seg", "rtstruct"])
def test_every_form_is_read(files: dict[str, Path], series: CtSeries, form: str) -> None:
    found = read_any_mask(files[form], series.grid, series.identity)
    np.testing.assert_array_equal(found.voxels, lesions_on(series.grid).voxels)


@pytest.mark.parametrize("form", ["seg", "rtstruct"])
def test_of_another_ct(files: dict[str, Path], series: CtSeries, form: str) -> None:
    with pytest.raises(InvalidInputError, match=f"^{files[form]}: it belongs to another CT"):
        read_any_mask(files[form], series.grid, SeriesIdentity("1.2", "1.3"))


@pytest.mark.parametrize("form", ["seg", "rtstruct"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_a_file_cut_short(files: dict[str, Path], series: CtSeries, form: str, share: float) -> None:
    content = files[form].read_bytes()
    files[form].write_bytes(content[: int(share * len(content))])
    with pytest.raises(InvalidInputError, match=f"^{files[form]}: ") as refused:
        read_any_mask(files[form], series.grid)
    assert "\n" not in str(refused.value)


def test_a_folder_is_no_mask(series: CtSeries, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=f"^{tmp_path}: a folder, not an image file$"):
        read_any_mask(tmp_path, series.grid)


def test_a_slice_of_the_ct_is_no_mask(series: CtSeries, tmp_path: Path) -> None:
    write_object(tmp_path / "ct.dcm", series.slices[0])
    with pytest.raises(InvalidInputError, match=r"ct\.dcm: neither a DICOM segmentation nor an RT structure set"):
        read_any_mask(tmp_path / "ct.dcm", series.grid)


def test_nothing_of_the_patient_is_said_of_a_damaged_file(
    series: CtSeries, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture
) -> None:
    path = tmp_path / "rtstruct.dcm"
    made = make_structure_set(lesions_on(series.grid), series)
    with quiet():
        made.PatientName, made.PatientBirthDate, made.PatientID = "SECRET", "SECRET", "SECRET " * 20
        made.StructureSetROISequence[0].ROINumber = 471147114
        write_object(path, made)
    path.write_bytes(path.read_bytes().replace(b"471147114 ", b"SECRET.ID "))
    with caplog.at_level(logging.DEBUG), pytest.raises(InvalidInputError) as refused:
        read_any_mask(path, series.grid)
    assert "SECRET" not in caplog.text + "".join(capfd.readouterr()) + str(refused.value)


@contextmanager
def full_disk(after: int) -> Iterator[None]:
    """Let no file grow beyond some bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (after, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("make", [make_segmentation, make_structure_set])
def test_a_full_disk_leaves_what_was_there(make, series: CtSeries, tmp_path: Path) -> None:
    path = tmp_path / "object.dcm"
    path.write_bytes(b"an earlier one")
    made = make(lesions_on(series.grid), series)
    made.EncapsulatedDocument = bytes(1 << 20)  # which no buffer takes
    with full_disk(4096), pytest.raises(OSError, match=rf"^{path}: cannot be written \(File too large\)$"):
        write_object(path, made)
    assert path.read_bytes() == b"an earlier one"
    assert list(tmp_path.iterdir()) == [path]
