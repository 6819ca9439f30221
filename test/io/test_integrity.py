"""What SimpleITK reads over: headers that it must not see, voxels that a file lacks, complaints in C++."""

import contextlib
import gzip
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from mmpl.case import Grid, Image, InvalidInputError
from mmpl.io.images import write_image
from mmpl.io.integrity import caught_stderr, check_header, check_stored, check_written, says_place

GRID = Grid((6, 5, 4), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
NOISE = np.random.default_rng(0).normal(size=GRID.shape_zyx).astype(np.float32)
IMAGE = sitk.GetImageFromArray(NOISE)


@pytest.fixture(params=[".mha", ".nii.gz"])
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """An image of noise, compressed."""
    path = tmp_path / f"noise{request.param}"
    write_image(path, Image(NOISE, GRID))
    return path


def test_what_is_written_to_stderr_below_python_is_caught(capfd: pytest.CaptureFixture[str]) -> None:
    lines: list[str] = []
    with caught_stderr(lines):
        os.write(2, b"of a library\nin C++")
    print("afterwards", file=sys.stderr, flush=True)
    assert "of a library" in lines
    assert "".join(lines[1:]).startswith("in C++")
    assert capfd.readouterr().err == "afterwards\n"


def test_stderr_is_given_back_after_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    lines: list[str] = []
    with contextlib.suppress(KeyError), caught_stderr(lines):
        os.write(2, b"before it\n")
        raise KeyError
    os.write(2, b"after it\n")
    assert lines == ["before it"]
    assert capfd.readouterr().err == "after it\n"


def test_stderr_is_given_back_after_several_threads() -> None:
    def catch(number: int) -> list[str]:
        lines: list[str] = []
        with caught_stderr(lines):
            time.sleep(0.001)
            os.write(2, f"of {number}\n".encode())
        return lines

    before = os.fstat(2)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(catch, range(40))) == [[f"of {number}"] for number in range(40)]
    assert os.path.samestat(before, os.fstat(2))


def test_an_mha_need_not_say_where_its_voxels_lie(stored: Path, tmp_path: Path) -> None:
    assert says_place(stored)
    header = "ObjectType = Image\nNDims = 3\nDimSize = 1 1 1\nElementType = MET_UCHAR\n"
    for number, lines in enumerate(("", "ElementSpacing = 1 1 3\n", "Offset = 0 0 0\n")):
        path = tmp_path / f"{number}.mha"
        path.write_bytes(f"{header}{lines}ElementDataFile = LOCAL\n".encode() + b"\0")
        assert not says_place(path)


def test_a_nrrd_need_not_either(stored: Path, tmp_path: Path) -> None:
    """As pynrrd writes a bare array; other formats have no room to say it, or always do."""
    image = sitk.ReadImage(str(stored))
    for ending in (".nrrd", ".mhd", ".nii.gz"):
        sitk.WriteImage(image, str(tmp_path / f"whole{ending}"))
        assert says_place(tmp_path / f"whole{ending}")
    sitk.WriteImage(image, str(tmp_path / "pair.img"))  # SimpleITK's is NIfTI
    assert says_place(tmp_path / "pair.img")
    header = bytearray((tmp_path / "pair.hdr").read_bytes())
    header[252:256] = bytes(4)
    (tmp_path / "PLACELESS.HDR").write_bytes(header)
    assert not says_place(tmp_path / "PLACELESS.IMG")
    (tmp_path / "analyze.hdr").write_bytes(bytes(348))
    assert not says_place(tmp_path / "analyze.img")
    header = b"NRRD0005\ntype: uint8\ndimension: 3\nsizes: 1 1 1\nencoding: raw\n"
    for number, lines in enumerate(
        (
            b"",
            b"spacings: 1 1 3\n",
            b"space: LPS\nspace origin: (0,0,0)\n",
            b"space: LPS\nspace origin: (0,0,0)\nspace directions: none none none\n",
        )
    ):
        path = tmp_path / f"{number}.nrrd"
        path.write_bytes(header + lines + b"\n\0")
        assert not says_place(path)
    path.write_bytes(header + b"spacings: 1 1 3\naxis mins: 0 0 0\n\n\0")
    assert says_place(path)


def test_a_whole_file_passes(stored: Path) -> None:
    check_header(stored)
    check_stored(stored, sitk.ReadImage(str(stored)), [])
    check_written(stored, IMAGE)


def test_a_file_that_was_not_written_to_its_end(stored: Path) -> None:
    whole = stored.read_bytes()
    for kept in (0, 1, len(whole) // 2, len(whole) - 12):
        stored.write_bytes(whole[:kept])
        with pytest.raises(OSError, match="disk full"):
            check_written(stored, IMAGE)


def test_voxels_that_a_file_lacks(stored: Path) -> None:
    image = sitk.ReadImage(str(stored))
    if stored.suffix == ".gz":
        stored.write_bytes(gzip.compress(gzip.decompress(stored.read_bytes())[:-8]))
    else:
        stored.write_bytes(stored.read_bytes()[:-8])
    with pytest.raises(InvalidInputError, match="the file is damaged"):
        check_stored(stored, image, [])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ElementDataFile = other.raw", "ElementDataFile is 'other.raw', not LOCAL"),
        ("NDims = 0", "NDims is '0'"),
        ("DimSize = 6 5 99999999999", "DimSize is '6 5 99999999999'"),
        ("DimSize = 6 5", "DimSize is '6 5'"),
    ],
)
def test_an_mha_that_itk_must_not_see(line: str, message: str, tmp_path: Path) -> None:
    lines = {"NDims": "3", "DimSize": "6 5 4", "ElementType": "MET_FLOAT", "ElementDataFile": "LOCAL"}
    key, _, value = line.partition(" = ")
    lines[key] = value
    path = tmp_path / "odd.mha"
    path.write_text("".join(f"{key} = {value}\n" for key, value in lines.items()))
    with pytest.raises(InvalidInputError, match=message):
        check_header(path)


def test_a_complaint_of_another_formats_reader_is_an_error_unless_it_is_a_warning(tmp_path: Path) -> None:
    path, image = tmp_path / "image.tif", sitk.GetImageFromArray(NOISE)
    check_stored(path, image, ["Warning: an unknown tag"])
    with pytest.raises(InvalidInputError, match="strip 3 is short"):
        check_stored(path, image, ["Warning: an unknown tag", "strip 3 is short"])
