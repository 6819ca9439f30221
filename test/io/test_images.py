"""Image files: what is read and written, and that nothing unusable is ever read over."""

import gzip
import re
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from mmpl.case import Grid, Image, InvalidInputError
from mmpl.io import images
from mmpl.io.images import read_image, write_image
from mmpl.io.masks import read_mask

TILT = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0)
GRID = Grid((7, 6, 5), (0.9765625, 0.9765625, 3.27), (-249.51171875, -401.0123456789, 1.0 / 3.0))


def numbered(dtype: type = np.int16, grid: Grid = GRID) -> Image:
    return Image(np.arange(np.prod(grid.size_xyz), dtype=dtype).reshape(grid.shape_zyx), grid)


def message(path) -> str:
    """Read a file that cannot be used; the error names it, in one line."""
    with pytest.raises(InvalidInputError) as caught:
        read_image(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text.removeprefix(f"{path}: ")


@pytest.mark.parametrize("direction", [GRID.direction, TILT, (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)])
@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32, np.float64])
def test_mha_keeps_voxels_type_and_every_digit_of_the_header(tmp_path, dtype, direction):
    image = numbered(dtype, replace(GRID, direction=direction))
    write_image(tmp_path / "a.mha", image)
    found = read_image(tmp_path / "a.mha")
    assert found.grid == image.grid
    assert found.voxels.dtype == dtype
    np.testing.assert_array_equal(found.voxels, image.voxels)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
def test_nifti_keeps_voxels_and_the_header_in_single_precision(tmp_path, suffix):
    image = numbered(np.float32, replace(GRID, direction=TILT))
    write_image(tmp_path / f"a{suffix}", image)
    found = read_image(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(found.voxels, image.voxels)
    assert found.grid.size_xyz == image.grid.size_xyz
    for name in ("spacing_xyz", "origin_xyz", "direction"):
        assert getattr(found.grid, name) == pytest.approx(getattr(image.grid, name), rel=1e-6, abs=1e-6)


def test_nrrd_keeps_voxels_and_place(tmp_path):
    image = numbered(np.float32, replace(GRID, direction=TILT))
    write_image(tmp_path / "a.nrrd", image)
    found = read_image(tmp_path / "a.nrrd")
    np.testing.assert_array_equal(found.voxels, image.voxels)
    for name in ("size_xyz", "spacing_xyz", "origin_xyz", "direction"):
        assert getattr(found.grid, name) == pytest.approx(getattr(image.grid, name), abs=1e-12)


def test_an_nrrd_leads_to_no_other_file(tmp_path):
    write_image(tmp_path / "a.nrrd", numbered())
    header, _, _ = (tmp_path / "a.nrrd").read_bytes().partition(b"\n\n")
    (tmp_path / "b.nrrd").write_bytes(header + b"\ndata file: a.nrrd\n\n")
    assert message(tmp_path / "b.nrrd") == "not a readable image (its voxels are in another file)"


def test_tiff_reads_without_a_place_in_space(tmp_path):
    write_image(tmp_path / "a.tif", numbered(np.uint8))
    found = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(found.voxels, numbered().voxels)
    assert found.grid.origin_xyz == (0, 0, 0)


@pytest.mark.parametrize("suffix", [".mha", ".nii.gz"])
def test_written_files_are_compressed(tmp_path, suffix):
    grid = replace(GRID, size_xyz=(64, 64, 64))
    write_image(tmp_path / f"a{suffix}", Image(np.zeros(grid.shape_zyx, np.uint8), grid))
    assert (tmp_path / f"a{suffix}").stat().st_size < 64**3 / 20


def test_writing_takes_a_view_of_other_voxels(tmp_path):
    image = numbered()
    write_image(tmp_path / "a.mha", replace(image, voxels=image.voxels[::-1]))
    np.testing.assert_array_equal(read_image(tmp_path / "a.mha").voxels, image.voxels[::-1])


@pytest.mark.parametrize("suffix", [".mha", ".nii.gz"])
@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.99])
@pytest.mark.parametrize("said", [True, False])
def test_a_write_that_fails_leaves_what_was_there_whether_itk_says_so_or_not(tmp_path, monkeypatch, suffix, kept, said):
    before, write = tmp_path / f"a{suffix}", sitk.WriteImage
    write_image(before, numbered())

    def full_disk(image, name, *rest):
        write(image, name, *rest)
        whole = Path(name).read_bytes()
        Path(name).write_bytes(whole[: int(kept if kept >= 1 else kept * len(whole))])
        if said:
            raise RuntimeError("first line\n no space left")

    monkeypatch.setattr(images.sitk, "WriteImage", full_disk)
    for path in (before, tmp_path / f"b{suffix}"):
        with pytest.raises(OSError, match=rf"{path}: cannot be written \(.*(no space left|is the disk full\?)\)"):
            write_image(path, replace(numbered(), voxels=numbered().voxels + 1))
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == [before]
    np.testing.assert_array_equal(read_image(before).voxels, numbered().voxels)


def test_missing_and_empty_files(tmp_path):
    (tmp_path / "empty.mha").touch()
    assert message(tmp_path / "absent.mha") == "no such file"
    assert message(tmp_path) == "a folder, not an image file"
    assert message(tmp_path / "empty.mha") == "the file is empty"


@pytest.mark.parametrize("suffix", [*images.IMAGE_SUFFIXES, ".nrrd"])
def test_garbage(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"<html>not found</html>\n" * 50)
    assert message(path).startswith("not a readable image (")


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("suffix", [*images.IMAGE_SUFFIXES, ".nrrd"])
def test_truncated_files_are_not_read_as_zeros(tmp_path, capfd, suffix, kept):
    path = tmp_path / f"a{suffix}"
    noise = np.random.default_rng(0).integers(0, 255, (20, 24, 28), np.uint8)
    write_image(path, Image(noise, replace(GRID, size_xyz=(28, 24, 20))))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    assert re.match(r"not a readable image \(|the file is damaged \(", message(path))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("suffix", [".mha", ".nii.gz", ".nrrd"])
def test_damaged_compressed_voxels_are_not_read_as_noise(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    noise = np.random.default_rng(0).integers(0, 99, (60, 64, 64)).astype(np.int16)
    write_image(path, Image(noise, replace(GRID, size_xyz=(64, 64, 60))))
    content = bytearray(path.read_bytes())
    content[len(content) - 2000 : len(content) - 1980] = bytes(20)
    path.write_bytes(content)
    assert re.match(r"the file is damaged \(|not a readable image \(data read error", message(path))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("position", [0, 104, 209])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nan_in_a_nifti_is_not_read_as_zero(tmp_path, suffix, dtype, position, value):
    image = numbered(dtype)
    image.voxels.flat[position] = value
    write_image(tmp_path / f"a{suffix}", image)
    assert message(tmp_path / f"a{suffix}") == "the image holds NaN or infinite voxels"


def big_endian(content: bytes, dtype: str) -> bytes:
    """Turn the bytes of a little-endian NIfTI-1 file round, as far as a reader looks."""
    header = bytearray(content[:352])
    for kind, first, count in (("i", 0, 1), ("h", 40, 8), ("h", 68, 3), ("h", 252, 2), ("f", 76, 11), ("f", 256, 18)):
        values = struct.unpack_from(f"<{count}{kind}", header, first)
        struct.pack_into(f">{count}{kind}", header, first, *values)
    return bytes(header) + np.frombuffer(content[352:], "<" + dtype).astype(">" + dtype).tobytes()


@pytest.mark.parametrize("zipped", [False, True])
def test_nan_in_a_big_endian_nifti(tmp_path, zipped):
    path = tmp_path / ("a.nii.gz" if zipped else "a.nii")
    image = numbered(np.float32)
    write_image(tmp_path / "little.nii", image)
    content = big_endian((tmp_path / "little.nii").read_bytes(), "f4")
    path.write_bytes(gzip.compress(content) if zipped else content)
    np.testing.assert_array_equal(read_image(path).voxels, image.voxels)
    content = content[:-4] + struct.pack(">f", np.nan)
    path.write_bytes(gzip.compress(content) if zipped else content)
    assert message(path) == "the image holds NaN or infinite voxels"


def test_nan_in_an_mha_is_left_for_the_case_to_refuse(tmp_path):
    image = numbered(np.float32)
    image.voxels[2, 3, 4] = np.nan
    write_image(tmp_path / "a.mha", image)
    assert np.isnan(read_image(tmp_path / "a.mha").voxels).sum() == 1


def test_a_file_that_is_zipped_in_spite_of_its_name_and_the_other_way_round(tmp_path):
    write_image(tmp_path / "a.nii", numbered())
    (tmp_path / "b.nii.gz").write_bytes((tmp_path / "a.nii").read_bytes())
    np.testing.assert_array_equal(read_image(tmp_path / "b.nii.gz").voxels, numbered().voxels)


@pytest.mark.parametrize("suffix", [".mha", ".nii.gz", ".tif"])
def test_a_flat_image(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((6, 7), np.uint8)), str(path))
    assert message(path) == "the image has 2 dimensions, not 3"


@pytest.mark.parametrize("suffix", [".mha", ".nii.gz"])
def test_an_image_of_vectors(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((5, 6, 7, 3), np.float32), isVector=True), str(path))
    assert message(path) == "the image has 3 channels, not 1"


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_an_image_of_complex_numbers(tmp_path, suffix):
    sitk.WriteImage(sitk.Image([7, 6, 5], sitk.sitkComplexFloat32), str(tmp_path / f"a{suffix}"))
    assert message(tmp_path / f"a{suffix}") == "the image's voxels are complex64, not real numbers"
    with pytest.raises(InvalidInputError, match="complex64, not real numbers"):
        read_mask(tmp_path / f"a{suffix}", GRID)
    with pytest.raises(InvalidInputError, match="complex128, not real numbers"):
        numbered(complex)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("offset", [0.0, 16.0, 348.0, 351.0, -1.0, 352.5, float("nan"), float("inf")])
@pytest.mark.parametrize("magic", [b"n+1\0", b"ni1\0"])
@pytest.mark.parametrize("order", "<>")
def test_voxels_that_would_be_read_from_another_place(tmp_path, suffix, offset, magic, order):
    write_image(tmp_path / "a.nii", numbered())
    stored = bytearray((tmp_path / "a.nii").read_bytes())
    stored[108:112], stored[344:348] = struct.pack("<f", offset), magic
    content = big_endian(bytes(stored), "i2") if order == ">" else bytes(stored)
    path = tmp_path / f"b{suffix}"
    path.write_bytes(gzip.compress(content) if suffix == ".nii.gz" else content)
    assert message(path) == f"the header's vox_offset is {offset:g}, not a whole number of at least 352"


def test_voxels_after_an_extension_of_the_header(tmp_path):
    write_image(tmp_path / "a.nii", numbered())
    stored = bytearray((tmp_path / "a.nii").read_bytes())
    stored[108:112] = struct.pack("<f", 368.0)
    stored[352:352] = bytes(16)
    (tmp_path / "a.nii").write_bytes(stored)
    np.testing.assert_array_equal(read_image(tmp_path / "a.nii").voxels, numbered().voxels)


@pytest.mark.parametrize("suffix", [".mha", ".nii.gz"])
def test_a_fourth_dimension_is_dropped_only_where_it_has_one_frame(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    frames = np.arange(2 * 5 * 6 * 7, dtype=np.int16).reshape(2, 5, 6, 7)
    sitk.WriteImage(sitk.GetImageFromArray(frames[:1], isVector=False), str(path))
    np.testing.assert_array_equal(read_image(path).voxels, frames[0])
    sitk.WriteImage(sitk.GetImageFromArray(frames, isVector=False), str(path))
    assert message(path) == "the image has 4 dimensions, not 3"


@pytest.mark.parametrize(
    ("line", "value", "reason"),
    [
        ("NDims", "-1", "NDims is '-1'"),  # ITK crashes on these two
        ("NDims", "99999 99999 99999", "NDims is '99999 99999 99999'"),
        ("NDims", "1e300", "NDims is '1e300'"),
        ("DimSize", "99999 99999 99999", "DimSize is"),
        ("DimSize", "4 4", "DimSize is '4 4'"),
        ("DimSize", "4 -4 4", "DimSize is '4 -4 4'"),
        ("ElementDataFile", "/etc/passwd", "ElementDataFile is '/etc/passwd', not LOCAL"),
        ("ElementDataFile", "../other.raw", "not LOCAL"),
        ("ElementDataFile", "LIST", "not LOCAL"),
    ],
)
def test_headers_that_itk_must_not_see_are_refused(tmp_path, line, value, reason):
    path = tmp_path / "a.mha"
    write_image(path, Image(np.zeros((4, 4, 4), np.int16), Grid((4, 4, 4), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))))
    content = path.read_bytes()
    path.write_bytes(re.sub(rf"^{line} = .*$".encode(), f"{line} = {value}".encode(), content, count=1, flags=re.M))
    with pytest.raises(InvalidInputError, match=re.escape(reason)):
        read_image(path)


def test_another_format_under_the_name_of_a_nifti(tmp_path):
    write_image(tmp_path / "a.tif", numbered(np.uint8))
    (tmp_path / "a.tif").rename(tmp_path / "a.nii.gz")
    assert message(tmp_path / "a.nii.gz") == "not a NIfTI file, whatever its name says"
