"""Image files: what is read and written, and that nothing unusable is ever read over."""

import errno
import gzip
import os
import re
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from mmpl.case import Grid, Image, InvalidInputError
from mmpl.io import images
from mmpl.io.images import read_grid, read_image, write_image
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
def test_a_file_that_one_may_not_read(tmp_path, monkeypatch, suffix):
    """Root may read any, so that the refusal is the system's in name alone."""
    path = tmp_path / f"a{suffix}"
    write_image(path, numbered(np.uint8))

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "open", refuse)
    for read in (read_image, read_grid):
        with pytest.raises(InvalidInputError) as caught:
            read(path)
        assert str(caught.value) == f"{path}: Permission denied"


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


def write_meta(path: Path, voxels: bytes, **fields: str) -> None:
    """Write an `.mha`, or the header of an `.mhd`, of the numbered image as far as no field says otherwise."""
    header = {
        "NDims": "3", "CompressedData": "False", "Offset": "-1.5 2.5 3e1", "ElementSpacing": "1 2 3",
        "TransformMatrix": "1 0 0 0 1 0 0 0 1", "DimSize": "7 6 5", "ElementType": "MET_SHORT",
    }  # fmt: skip
    header |= {"ElementDataFile": "LOCAL"} | fields
    last = header.pop("ElementDataFile")
    lines = [f"{key} = {value}\n" for key, value in (*header.items(), ("ElementDataFile", last)) if value]
    path.write_bytes("".join(lines).encode() + voxels)


STORED = numbered().voxels.tobytes()
ZIPPED = zlib.compress(STORED)
COMPRESSED = {"CompressedData": "True", "CompressedDataSize": str(len(ZIPPED))}


@pytest.mark.parametrize("name", ["a.mha", "a.MHA", "a.mhd", "a.MHD"])
def test_a_meta_image_reads_whatever_the_case_of_its_ending(tmp_path, name):
    write_meta(tmp_path / name, STORED)
    np.testing.assert_array_equal(read_image(tmp_path / name).voxels, numbered().voxels)
    assert read_image(tmp_path / name).grid == read_grid(tmp_path / name)
    assert read_grid(tmp_path / name).origin_xyz == (-1.5, 2.5, 30.0)


@pytest.mark.parametrize(
    ("voxels", "fields"),
    [
        (ZIPPED, COMPRESSED),
        (ZIPPED + b"after", COMPRESSED),
        (gzip.compress(STORED), COMPRESSED | {"CompressedDataSize": str(len(gzip.compress(STORED)))}),
        (ZIPPED, COMPRESSED | {"CompressedData": "1"}),
        (STORED + b"\r\n", {}),
        (STORED + bytes(512), {}),
        (b"before" + STORED, {"HeaderSize": "-1"}),
        (b" ".join(str(n).encode() for n in range(210)) + b"\n", {"BinaryData": "False"}),
        (
            STORED,
            {"NDims": "4", "DimSize": "7 6 5 1", "Offset": "", "TransformMatrix": "", "ElementSpacing": "1 2 3 1"},
        ),
    ],
)
def test_a_meta_image_with_all_its_voxels(tmp_path, voxels, fields):
    write_meta(tmp_path / "a.mha", voxels, **fields)
    np.testing.assert_array_equal(read_image(tmp_path / "a.mha").voxels, numbered().voxels)


@pytest.mark.parametrize(
    ("fields", "voxels"),
    [
        ({"DimSize": "7 6 6"}, "420 bytes of voxels, and by the header 504"),
        ({"DimSize": "7 6 4"}, "420 bytes of voxels{more}, and by the header 336"),
        ({"ElementType": "MET_FLOAT"}, "420 bytes of voxels, and by the header 840"),
        ({"ElementType": "MET_UCHAR"}, "420 bytes of voxels{more}, and by the header 210"),
    ],
)
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("ending", [".mha", ".mhd"])
def test_voxels_that_a_meta_images_header_contradicts(tmp_path, fields, voxels, compressed, ending):
    path, stored = tmp_path / f"a{ending}", ZIPPED if compressed else STORED
    fields = fields | (COMPRESSED if compressed else {})
    if ending == ".mhd":
        (tmp_path / "a.raw").write_bytes(stored)
        fields |= {"ElementDataFile": "a.raw"}
    write_meta(path, b"" if ending == ".mhd" else stored, **fields)
    said = message(path)
    if compressed or "{more}" in voxels:  # ITK itself misses voxels that lie there as they are
        assert said == f"the file is damaged ({voxels.format(more=' or more' if compressed else '')})"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"CompressedDataSize": ""}, "not a readable image (CompressedDataSize is missing)"),
        ({"CompressedDataSize": "0"}, "not a readable image (CompressedDataSize is '0')"),
        ({"CompressedDataSize": "-1"}, "not a readable image (CompressedDataSize is '-1')"),
        ({"CompressedData": "1", "CompressedDataSize": ""}, "not a readable image (CompressedDataSize is missing)"),
        (
            {"CompressedDataSize": "99"},
            f"the file is damaged (the compressed voxels take {len(ZIPPED)} bytes, and CompressedDataSize is 99)",
        ),
        ({"HeaderSize": "-1"}, "not a readable image (HeaderSize is '-1')"),
    ],
)
def test_compressed_voxels_of_which_itk_would_read_other_bytes(tmp_path, fields, said):
    write_meta(tmp_path / "a.mha", ZIPPED, **(COMPRESSED | fields))
    assert message(tmp_path / "a.mha") == said


def test_an_mhd_beside_its_voxels(tmp_path):
    for slice_number in range(5):
        (tmp_path / f"{slice_number}.raw").write_bytes(STORED[84 * slice_number :][:84])
    (tmp_path / "all in one.raw").write_bytes(STORED)
    (tmp_path / "all.zraw").write_bytes(ZIPPED)
    fields = COMPRESSED | {"CompressedDataSize": "", "ElementDataFile": "all.zraw"}
    for more in ({"ElementDataFile": "all in one.raw"}, {"ElementDataFile": "%d.raw 0 4 1"}, fields):
        write_meta(tmp_path / "a.mhd", b"", **more)
        np.testing.assert_array_equal(read_image(tmp_path / "a.mhd").voxels, numbered().voxels)
    for said in ("LIST", "LIST 2", "LIST2D"):
        write_meta(tmp_path / "a.mhd", b"".join(b"%d.raw\n" % n for n in range(5)), ElementDataFile=said)
        np.testing.assert_array_equal(read_image(tmp_path / "a.mhd").voxels, numbered().voxels)


@pytest.mark.parametrize("ending", [".mha", ".mhd"])
@pytest.mark.parametrize(
    "value", ["-120,25 -109,0 -98,0", "1 2", "1 2 3 4", "1 2 x", "nan 0 0", "1e999 0 0", "0x10 0 0"]
)
@pytest.mark.parametrize("field", ["Offset", "Position", "Origin", "ElementSpacing", "ElementSize"])
def test_a_meta_image_that_would_be_read_as_another_place(tmp_path, ending, field, value):
    write_meta(tmp_path / f"a{ending}", STORED, **{field: value})
    for read in (read_image, read_grid):
        with pytest.raises(InvalidInputError, match=re.escape(f"({field} is '{value}', not 3 numbers)")):
            read(tmp_path / f"a{ending}")


@pytest.mark.parametrize("value", ["1,0 0 0 0 1,0 0 0 0 1,0", "1 0 0 1"])
@pytest.mark.parametrize("field", ["TransformMatrix", "Rotation", "Orientation"])
def test_a_meta_images_axes_that_are_no_numbers(tmp_path, field, value):
    write_meta(tmp_path / "a.mha", STORED, **{field: value})
    assert message(tmp_path / "a.mha") == f"not a readable image ({field} is '{value}', not 9 numbers)"


NRRD = b"NRRD0005\ntype: int16\ndimension: 3\nsizes: 7 6 5\nendian: little\nencoding: raw\n"


@pytest.mark.parametrize(
    "fields",
    [
        b"spacings: 1,5 2 3\n",
        b"spacings: 1 2 nan\n",
        b"spacings: 1 2 3\naxis mins: 1,5 2 3\n",
        b"spacings: 1 2 3\naxis mins: 1 2 nan\n",
        b"space: LPS\nspace directions: (1,0,0) (0,2,0) (0,0,3x)\n",
        b"space: LPS\nspace directions: (1,0,0) (0,2,0) none\n",
        b"space: LPS\nspace directions: (1,0,0) (0,2,0) (0,0,3)\nspace origin: (1.5e,2,3)\n",
    ],
)
def test_a_nrrd_that_would_be_read_as_another_place(tmp_path, fields):
    (tmp_path / "a.nrrd").write_bytes(NRRD + fields + b"\n" + STORED)
    field, _, value = fields.splitlines()[-1].decode().partition(": ")
    for read in (read_image, read_grid):
        with pytest.raises(InvalidInputError, match=re.escape(f"({field} is '{value[:40]}')")):
            read(tmp_path / "a.nrrd")


@pytest.mark.parametrize(
    "fields",
    [
        b"",
        b"spacings: 1 2 3\naxis mins: -.5 2. 3e0\n",
        b"spacings: nan nan nan\n",
        b"space: LPS\nspace directions: (1, 0, 0)  (0,+2,0) (0,0,3)\nspace origin: (1,-2.5,3)\n",
        b"space: LPS\nspace directions: none none none\nspace origin: none\n",
    ],
)
def test_a_nrrd_that_says_its_place_or_nothing_of_it(tmp_path, fields):
    (tmp_path / "a.NRRD").write_bytes(NRRD + fields + b"\n" + STORED)
    np.testing.assert_array_equal(read_image(tmp_path / "a.NRRD").voxels, numbered().voxels)


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
