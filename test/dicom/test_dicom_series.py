"""Series of slices: every orientation comes back as it was written, and what is no volume is refused by number."""

import base64
import io
import itertools
import re
import zipfile
from dataclasses import replace
from pathlib import Path

import gdcm
import numpy as np
import PIL.Image
import pytest
from dicom_files import SECRETS, STUDY, change, change_file, enhanced, noise_ct, noise_pet, write_ct, write_pet
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import (
    HTJ2K,
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from mmpl.case import Grid, Image, InvalidInputError
from mmpl.dicom import headers
from mmpl.dicom.headers import holds_dicom, read_headers
from mmpl.dicom.objects import read_object
from mmpl.dicom.series import LEFT_OUT, Series, find_series, read_series, stacked
from mmpl.dicom.writing import ct_datasets, save_series
from mmpl.geometry import lay_on
from mmpl.names import Modality

GRID = Grid((7, 6, 5), (0.9765625, 1.25, 3.27), (-249.51171875, -401.0123456789, 1.0 / 3.0))
OBLIQUE = (0.8, -0.36, 0.48, 0.6, 0.48, -0.64, 0.0, 0.8, 0.6)
AXES = [
    tuple((np.eye(3)[list(order)] * signs).T.ravel().tolist())
    for order in itertools.permutations(range(3))
    for signs in (np.array(bits)[:, None] for bits in itertools.product((1, -1), repeat=3))
]


def series_in(place: Path) -> Series:
    (series,), _ = find_series(read_headers(place))
    return series


def message(place: Path) -> str:
    """Read a series that cannot be used: one line, with nothing of the patient in it."""
    with pytest.raises(InvalidInputError) as caught:
        read_series(series_in(place))
    text = str(caught.value)
    assert "\n" not in text
    assert not any(secret in text for secret in SECRETS)
    return text


def assert_same(found: Image, written: Image, atol: float = 0.0) -> None:
    laid = lay_on(written, found.grid)
    assert np.linalg.det(np.reshape(found.grid.direction, (3, 3))) == pytest.approx(1)
    np.testing.assert_allclose(found.voxels, laid.voxels, rtol=0, atol=atol)


@pytest.mark.parametrize("position", ["HFS", "FFS", "HFP", "FFDR"])
def test_a_ct_comes_back_exactly(tmp_path, position):
    written = noise_ct(GRID)
    write_ct(tmp_path, written, replace(STUDY, position=position))
    found = read_series(series_in(tmp_path))
    assert found.voxels.dtype == np.int16
    np.testing.assert_array_equal(found.voxels, written.voxels)
    for name in ("size_xyz", "spacing_xyz", "origin_xyz", "direction"):
        assert getattr(found.grid, name) == pytest.approx(getattr(GRID, name), abs=1e-11)
    assert stacked(series_in(tmp_path))[1] == found.grid


@pytest.mark.parametrize("direction", [*AXES, OBLIQUE, tuple(np.reshape(OBLIQUE, (3, 3)).T.ravel())])
def test_every_orientation_comes_back(tmp_path, direction):
    written = noise_ct(replace(GRID, direction=direction))
    write_ct(tmp_path, written)
    assert_same(read_series(series_in(tmp_path)), written)


def test_there_are_all_orientations():
    assert len(set(AXES)) == 48


def test_a_deflated_file_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    (dataset,) = ct_datasets(noise_ct(replace(GRID, size_xyz=(1024, 1024, 1))), STUDY)
    dataset.PixelData = bytes(len(dataset.PixelData))
    dataset.ensure_file_meta()
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    path = tmp_path / "1.dcm"
    dataset.save_as(path, enforce_file_format=True)
    assert path.stat().st_size < 10_000
    assert len(read_headers(tmp_path)) == 1
    monkeypatch.setattr(headers, "MOST_INFLATED", 2**21)  # its pixels alone are as many
    for read in (lambda: read_headers(tmp_path), lambda: read_object(path)):
        with pytest.raises(InvalidInputError, match=f"^{path}: holds more than 0.00195 GiB, deflated$"):
            read()


def test_names_and_numbers_of_files_say_nothing_of_their_order(tmp_path):
    written = noise_ct(GRID)
    datasets = ct_datasets(written, STUDY)
    for dataset, number in zip(datasets, (3, 1, 5, 2, 4), strict=True):
        dataset.InstanceNumber = number
    save_series([datasets[index] for index in (4, 0, 2, 1, 3)], tmp_path)
    assert_same(read_series(series_in(tmp_path)), written)


def test_each_slice_of_a_pet_has_a_scale_of_its_own(tmp_path):
    written = noise_pet(GRID)
    written.voxels[2] *= 100
    slopes = {dataset.RescaleSlope for dataset in write_pet(tmp_path, written)}
    assert len(slopes) == 5
    found = read_series(series_in(tmp_path))
    assert found.voxels.dtype == np.float32
    factor = found.voxels[2].max() / written.voxels[2].max()
    for plane, there in zip(found.voxels, written.voxels, strict=True):
        np.testing.assert_allclose(plane / factor, there, atol=there.max() / 60_000)


def test_fractional_slopes_of_a_ct_give_floats(tmp_path):
    write_ct(tmp_path, noise_ct(GRID))
    change(tmp_path, RescaleSlope="0.5")
    found = read_series(series_in(tmp_path))
    assert found.voxels.dtype == np.float32
    np.testing.assert_allclose(found.voxels, (noise_ct(GRID).voxels + 1024) * 0.5 - 1024)


def test_bits_above_those_stored_are_no_part_of_the_value(tmp_path):
    datasets = ct_datasets(noise_ct(GRID), STUDY)
    for dataset in datasets:
        stored = np.frombuffer(dataset.PixelData, np.uint16)
        dataset.PixelData = (stored | 0x8000).tobytes()  # as overlays are kept
        dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 12, 11, 0
    save_series(datasets, tmp_path)
    assert_same(read_series(series_in(tmp_path)), noise_ct(GRID))


@pytest.mark.parametrize("modality", [Modality.CT, Modality.PET])
@pytest.mark.parametrize("direction", [GRID.direction, OBLIQUE])
def test_a_multi_frame_file_is_what_its_slices_are(tmp_path, modality, direction):
    grid = replace(GRID, direction=direction)
    write = {Modality.CT: write_ct, Modality.PET: write_pet}[modality]
    image = {Modality.CT: noise_ct, Modality.PET: noise_pet}[modality](grid)
    datasets = write(tmp_path / "slices", image)
    save_series([enhanced([datasets[index] for index in (4, 0, 2, 1, 3)])], tmp_path / "frames")
    found, expected = (read_series(series_in(tmp_path / name)) for name in ("frames", "slices"))
    np.testing.assert_array_equal(found.voxels, expected.voxels)
    assert found.grid == expected.grid


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEGLossless, JPEGLosslessSV1, RLELossless])
def test_compressed_pixels_come_back_exactly(tmp_path, syntax):
    write_ct(tmp_path, noise_ct(GRID))
    for path in tmp_path.iterdir():
        compress(path, syntax)
        assert dcmread(path).file_meta.TransferSyntaxUID == syntax
    assert_same(read_series(series_in(tmp_path)), noise_ct(GRID))


def test_a_damaged_stream_is_not_read_as_noise(tmp_path, capfd):
    write_ct(tmp_path, noise_ct(replace(GRID, size_xyz=(64, 64, 5))))
    for path in tmp_path.iterdir():
        compress(path, JPEGLosslessSV1)
    content = bytearray((tmp_path / "0002.dcm").read_bytes())
    content[-2000:-1000] = bytes(1000)
    (tmp_path / "0002.dcm").write_bytes(content)
    assert "0002.dcm: its pixels are damaged or cut short" in message(tmp_path)
    assert capfd.readouterr().err == ""


def test_jpeg_2000_comes_back_exactly(tmp_path):
    datasets = ct_datasets(noise_ct(GRID), STUDY)
    for dataset in datasets:
        stored, file = np.frombuffer(dataset.PixelData, np.uint16).reshape(6, 7), io.BytesIO()
        PIL.Image.fromarray(stored).save(file, "JPEG2000", irreversible=False, num_resolutions=1, no_jp2=True)
        dataset.PixelRepresentation = 0
        dataset.PixelData = encapsulate([file.getvalue()])
        dataset.ensure_file_meta()
        dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    save_series(datasets, tmp_path)
    assert_same(read_series(series_in(tmp_path)), noise_ct(GRID))


HTJ2K_OF_A_RAMP = base64.b64decode(
    "/0//UQApQAAAAAAHAAAABgAAAAAAAAAAAAAABwAAAAYAAAAAAAAAAAABDwEB/1AACAACAAAACf9SAAwAAgABAAEEBEAB/1wAByCIiIiI/2QAFwAB"
    "T3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAAD8AAf+TwAAt4P9/U/kL/1/wF/61+0j/Tj06vhue/q53P3NCADG3AKAAFWBUU0011cBCAb62AP/Z"
)
"""What OpenJPH makes of RAMP."""
RAMP = np.arange(42, dtype=np.uint16).reshape(6, 7) * 61


@pytest.mark.parametrize("syntax", [HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K])
def test_high_throughput_jpeg_2000_comes_back_exactly(tmp_path, syntax):
    datasets = ct_datasets(noise_ct(GRID), STUDY)
    for dataset in datasets:
        dataset.PixelRepresentation, dataset.PixelData = 0, encapsulate([HTJ2K_OF_A_RAMP])
        dataset.ensure_file_meta()
        dataset.file_meta.TransferSyntaxUID = syntax
    save_series(datasets, tmp_path)
    for plane in read_series(series_in(tmp_path)).voxels:
        np.testing.assert_array_equal(plane, RAMP.astype(np.int16) - 1024)
    change_file(tmp_path / "0002.dcm", PixelData=encapsulate([HTJ2K_OF_A_RAMP[:120]]))
    assert "0002.dcm: its pixels are damaged or cut short" in message(tmp_path)


def compress(path: Path, syntax: str) -> None:
    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(path))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(syntax)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(path))
    assert writer.Write()


@pytest.mark.parametrize("syntax", [DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_other_ways_to_write_headers(tmp_path, syntax):
    datasets = ct_datasets(noise_ct(GRID), STUDY)
    for dataset in datasets:
        dataset.ensure_file_meta()
        dataset.file_meta.TransferSyntaxUID = syntax
    save_series(datasets, tmp_path)
    assert_same(read_series(series_in(tmp_path)), noise_ct(GRID))


def test_a_zip_archive_is_read_as_its_folder(tmp_path):
    write_ct(tmp_path / "deep" / "er", noise_ct(GRID))
    with zipfile.ZipFile(tmp_path / "study.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("read me.txt", "no slice")
        for path in (tmp_path / "deep").rglob("*.dcm"):
            archive.write(path, path.relative_to(tmp_path))
    assert holds_dicom(tmp_path / "study.zip")
    assert_same(read_series(series_in(tmp_path / "study.zip")), noise_ct(GRID))


def test_links_are_followed_once_and_hidden_files_and_folders_passed_over(tmp_path):
    write_ct(tmp_path / "elsewhere", noise_ct(GRID))
    place = tmp_path / "Frau Müller (2)"
    (place / ".trash").mkdir(parents=True)
    (place / "ct").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "again").symlink_to(place)
    (place / "gone.dcm").symlink_to(tmp_path / "nowhere")
    for hidden in (place / ".DS_Store", place / "._0001.dcm", place / ".trash" / "0001.dcm"):
        hidden.write_bytes(b"no DICOM")
    assert_same(read_series(series_in(place)), noise_ct(GRID))
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        archive.writestr("__MACOSX/._0001.dcm", "no DICOM")
        archive.writestr(".trash/0001.dcm", "no DICOM")
        for path in (tmp_path / "elsewhere").glob("*.dcm"):
            archive.write(path, path.name)
    assert_same(read_series(series_in(tmp_path / "study.zip")), noise_ct(GRID))


@pytest.mark.parametrize("first", [b"\x02\0\0\0UL", b"\x08\0\x05\0CS"])
def test_files_without_the_preamble_are_told_by_their_first_element(tmp_path, first):
    write_ct(tmp_path, noise_ct(GRID))
    for path in list(tmp_path.iterdir()):
        content = path.read_bytes()
        path.with_suffix("").write_bytes(content[content.index(first) :])
        path.unlink()
    (tmp_path / "notes.txt").write_text("no DICOM")
    assert holds_dicom(tmp_path)
    assert len(series_in(tmp_path).slices) == 5


def test_what_is_no_slice_of_a_scan_is_left_out(tmp_path):
    write_ct(tmp_path / "ct", noise_ct(GRID))
    for name, changes in {
        "localizer": {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
        "capture": {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"},
        "reformat": {"ImageType": ["DERIVED", "SECONDARY", "MPR"]},
    }.items():
        write_ct(tmp_path / name, noise_ct(GRID))
        change(tmp_path / name, **changes)
    (tmp_path / "notes.txt").write_text("no DICOM")
    (found,), left_out = find_series(read_headers(tmp_path))
    assert len(found.slices) == 5
    assert left_out == dict.fromkeys(LEFT_OUT, 5)


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ([3], "slice 3 is missing, between 0002.dcm and 0004.dcm"),
        ([5, 6, 9], "slice 5 is missing, between 0004.dcm and 0007.dcm; 3 are in all"),
    ],
)
def test_missing_slices_are_named_by_number(tmp_path, lost, said):
    write_ct(tmp_path, noise_ct(replace(GRID, size_xyz=(7, 6, 12))))
    for number in lost:
        (tmp_path / f"{number:04d}.dcm").unlink()
    assert message(tmp_path).endswith(said)


def test_a_series_cut_in_half_is_refused_where_its_headers_count(tmp_path):
    write_ct(tmp_path / "ct", noise_ct(GRID))
    write_pet(tmp_path / "pet", noise_pet(GRID))
    for folder in ("ct", "pet"):
        for name in ("0004.dcm", "0005.dcm"):
            (tmp_path / folder / name).unlink()
        assert "3 slices, where the header counts 5: the series is not whole" in message(tmp_path / folder)


def test_doubled_slices_are_named_by_number(tmp_path):
    write_ct(tmp_path, noise_ct(GRID))
    (tmp_path / "copy.dcm").write_bytes((tmp_path / "0003.dcm").read_bytes())
    assert "slices 3 and 4 lie at one place (0003.dcm and copy.dcm)" in message(tmp_path)


def test_time_points_gates_and_copies_are_counted(tmp_path):
    write_pet(tmp_path, noise_pet(GRID))
    for path in sorted(tmp_path.iterdir()):
        (tmp_path / f"later {path.name}").write_bytes(path.read_bytes())
    assert (
        "2 slices at each of 5 places (0001.dcm and later 0001.dcm at one), as of several time points, gates or copies"
        in message(tmp_path)
    )


def test_slices_that_lie_unevenly(tmp_path):
    write_ct(tmp_path, noise_ct(GRID))
    x, y, z = dcmread(tmp_path / "0005.dcm").ImagePositionPatient
    change_file(tmp_path / "0005.dcm", ImagePositionPatient=[x, y, z + 1.5])
    assert "slices lie 3.27 to 4.77 mm apart, not evenly" in message(tmp_path)


def test_a_slice_that_is_shifted_in_its_plane(tmp_path):
    write_ct(tmp_path, noise_ct(GRID))
    x, y, z = dcmread(tmp_path / "0003.dcm").ImagePositionPatient
    change_file(tmp_path / "0003.dcm", ImagePositionPatient=[x + 2, y, z])
    assert "slice 3 of 5 (0003.dcm) lies 2.00 mm off" in message(tmp_path)


def test_a_tilted_gantry(tmp_path):
    for dataset in (datasets := ct_datasets(noise_ct(GRID), STUDY)):
        x, y, z = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [x, f"{y + np.tan(np.radians(12)) * (z - 1 / 3):.6f}", z]
    save_series(datasets, tmp_path)
    assert "the gantry was tilted by 12.0 degrees" in message(tmp_path)


def test_positions_rounded_to_a_tenth_of_a_millimeter_are_even(tmp_path):
    for dataset in (datasets := ct_datasets(noise_ct(GRID), STUDY)):
        dataset.ImagePositionPatient = [f"{value:.1f}" for value in dataset.ImagePositionPatient]
    save_series(datasets, tmp_path)
    assert read_series(series_in(tmp_path)).grid.spacing_xyz[2] == pytest.approx(3.27, abs=0.03)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ImagePositionPatient": None}, "0002.dcm: no position or orientation in space"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0, 0]}, "0002.dcm: rows and columns are not at right angles"),
        ({"ImageOrientationPatient": [0, 1, 0, 1, 0, 0]}, "0002.dcm lies at an angle to 0001.dcm"),
        ({"PixelSpacing": [0, 1]}, "0002.dcm: no distance between pixels"),
        ({"PixelSpacing": [1, 1]}, "0002.dcm has other pixels than 0001.dcm"),
        ({"Rows": 5}, "0002.dcm has other pixels than 0001.dcm"),
        ({"Rows": None}, "0002.dcm: no rows or columns"),
        ({"RescaleSlope": "0"}, "0002.dcm: RescaleSlope is not above 0"),
        ({"PixelData": b"12"}, "0002.dcm: its pixels are damaged or cut short"),
        ({"PixelData": None}, "0002.dcm: its pixels are damaged or cut short"),
        ({"SamplesPerPixel": 3}, "0002.dcm: its pixels are damaged or cut short"),
    ],
)
def test_one_slice_that_cannot_be_used_is_named(tmp_path, changes, said):
    write_ct(tmp_path, noise_ct(GRID))
    change_file(tmp_path / "0002.dcm", **changes)
    assert said in message(tmp_path)


@pytest.mark.parametrize("kept", [20, 140, 400, 0.5, 0.9, 0.999])
def test_a_file_cut_short_is_named(tmp_path, kept):
    write_ct(tmp_path, noise_ct(GRID))
    content = (tmp_path / "0002.dcm").read_bytes()
    (tmp_path / "0002.dcm").write_bytes(content[: int(kept if kept >= 1 else kept * len(content))])
    with pytest.raises(InvalidInputError, match=re.escape("0002.dcm")) as caught:
        read_series(series_in(tmp_path))
    assert not any(secret in str(caught.value) for secret in SECRETS)


def test_pixels_in_a_way_that_is_not_read_are_named(tmp_path):
    write_ct(tmp_path, noise_ct(GRID))
    dataset = dcmread(tmp_path / "0001.dcm")
    dataset.file_meta.TransferSyntaxUID = MPEG2MPML
    dataset.PixelData = (
        b"\xfe\xff\x00\xe0\x00\x00\x00\x00\xfe\xff\x00\xe0\x02\x00\x00\x0012\xfe\xff\xdd\xe0\x00\x00\x00\x00"
    )
    dataset["PixelData"].VR = "OB"
    dataset.save_as(tmp_path / "0001.dcm")
    assert "0001.dcm: its pixels are written as MPEG2 Main Profile / Main Level, which is not read" in message(tmp_path)


def test_a_header_that_does_not_say_how_its_pixels_are_written(tmp_path):
    write_ct(tmp_path, noise_ct(GRID))
    content = (tmp_path / "0002.dcm").read_bytes()
    (tmp_path / "0002.dcm").write_bytes(content.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840\\10008.1.2.1\0"))
    assert "0002.dcm: its header does not say how its pixels are written" in message(tmp_path)


def test_a_series_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    """From its headers: compressed, it may be of a few kB."""
    write_ct(tmp_path, noise_ct(GRID))
    monkeypatch.setattr("mmpl.dicom.series.MOST_VOXELS", 10)
    assert "voxels, more than a scan has" in message(tmp_path)


def test_one_slice_is_no_volume(tmp_path):
    write_ct(tmp_path, noise_ct(GRID))
    for path in sorted(tmp_path.iterdir())[1:]:
        path.unlink()
    assert "1 slice; a volume is needed" in message(tmp_path)


def test_places_without_any(tmp_path):
    (tmp_path / "notes.txt").write_text("no DICOM")
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 not")
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as archive:
        archive.write(tmp_path / "broken.zip", "inner.zip")
    assert not holds_dicom(tmp_path / "notes.txt")
    for place, said in (
        (tmp_path / "absent", "no such folder or zip archive"),
        (tmp_path, "no DICOM file among 3 files; broken.zip in it is not looked into, unpack it or name it alone"),
        (tmp_path / "outer.zip", "no DICOM file among 1 files; inner.zip in it is not looked into"),
        (tmp_path / "notes.txt", "neither DICOM nor a zip archive"),
        (tmp_path / "broken.zip", "not a readable zip archive"),
    ):
        with pytest.raises(InvalidInputError, match=re.escape(f"{place}: {said}")):
            read_headers(place)
