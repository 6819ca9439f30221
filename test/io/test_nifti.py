"""NIfTI headers of the wild: one place in space, or a refusal that says why there is none."""

import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmpl.case import InvalidInputError
from mmpl.io.images import read_grid, read_image

VOXELS = np.arange(6 * 5 * 4, dtype=np.int16).reshape(4, 5, 6)
AFFINE = np.array([[-2.0, 0, 0, 60], [0, -2.0, 0, 50], [0, 0, 3.0, -40]])
"""To RAS, of an image stored in LPS order."""
QUATERNION = (0.0, 0.0, 1.0)
"""Half a turn about the third axis: that affine's rotation."""


def write(
    path: Path,
    qform: int = 1,
    sform: int = 1,
    affine: np.ndarray = AFFINE,
    quaternion: tuple[float, float, float] = QUATERNION,
    offset: tuple[float, ...] = (60.0, 50.0, -40.0),
    voxel_mm: tuple[float, ...] = (2.0, 2.0, 3.0),
    qfac: float = 1.0,
    units: int = 2,
    order: str = "<",
) -> Path:
    """Write a header byte by byte, as the definition of NIfTI-1 lays it out, and the voxels."""
    header = bytearray(352)

    def put(form: str, at: int, *values: float) -> None:
        struct.pack_into(order + form, header, at, *values)

    put("i", 0, 348)
    put("8h", 40, 3, 6, 5, 4, 1, 1, 1, 1)
    put("hh", 70, 4, 16)  # int16
    put("8f", 76, qfac, *voxel_mm, 0, 0, 0, 0)
    put("f", 108, 352.0)
    put("ff", 112, 1.0, 0.0)
    put("b", 123, units)
    put("hh", 252, qform, sform)
    put("6f", 256, *quaternion, *offset)
    put("12f", 280, *affine.ravel())
    header[344:348] = b"n+1\0"
    content = bytes(header) + VOXELS.astype(order + "i2").tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def moved(*by: float) -> np.ndarray:
    result = AFFINE.copy()
    result[:, 3] += by
    return result


def tilted(degrees: float) -> np.ndarray:
    result = AFFINE.copy()
    result[1, 2] = 3 * np.tan(np.radians(degrees))
    return result


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("qform", "sform"), [(1, 1), (1, 0), (0, 1), (2, 1), (1, 4)])
def test_a_sound_header_gives_its_place(tmp_path: Path, suffix: str, order: str, qform: int, sform: int) -> None:
    path = write(tmp_path / f"a{suffix}", qform, sform, order=order)
    grid = read_image(path).grid
    assert grid == read_grid(path)
    assert (grid.size_xyz, grid.spacing_xyz) == ((6, 5, 4), (2.0, 2.0, 3.0))
    assert grid.origin_xyz == (-60.0, -50.0, -40.0)
    assert grid.direction == (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)
    np.testing.assert_array_equal(read_image(path).voxels, VOXELS)


SOUND: dict[str, dict[str, Any]] = {
    "rounded apart": {"affine": moved(0.05, 0, 0)},
    "tilted by rounding": {"affine": tilted(0.005), "qform": 0},
    "left-handed": {"qfac": -1.0, "affine": AFFINE * [1, 1, -1, 1]},
}


@pytest.mark.parametrize("name", SOUND)
def test_what_rounds_is_read(tmp_path: Path, name: str) -> None:
    grid = read_image(write(tmp_path / "a.nii.gz", **SOUND[name])).grid
    assert grid.spacing_xyz == pytest.approx((2.0, 2.0, 3.0), abs=1e-4)
    assert grid.direction[8] == pytest.approx(-1.0 if name == "left-handed" else 1.0)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no place at all": ({"qform": 0, "sform": 0}, "gives no place in space (qform_code and sform_code are 0)"),
    "moved": ({"affine": moved(10, 0, 25)}, "the header's qform and sform lie 26.9 mm apart; make them agree"),
    "moved, aligned": ({"affine": moved(10, 0, 25), "sform": 2}, "the header's qform and sform lie 26.9 mm apart"),
    "moved a little": ({"affine": moved(0.2, 0, 0)}, "the header's qform and sform lie 0.2 mm apart"),
    "turned": ({"quaternion": (0.0, 1.0, 0.0)}, "the header's qform and sform lie"),
    "mirrored": ({"qfac": -1.0}, "the header's qform and sform lie 18 mm apart"),
    "tilted a little": ({"affine": tilted(0.05), "qform": 0}, "its axes are not at right angles"),
    "tilted gantry, sform alone": ({"affine": tilted(12), "qform": 0}, "its axes are not at right angles"),
    "tilted gantry, qform made right-angled": ({"affine": tilted(12)}, "its axes are not at right angles"),
    "a voxel without extent": ({"voxel_mm": (2.0, 2.0, 0.0)}, "the header gives voxels of 2 x 2 x 0 mm"),
    "a negative voxel": ({"voxel_mm": (2.0, -2.0, 3.0)}, "the header gives voxels of 2 x -2 x 3 mm"),
    "a voxel that is no number": ({"voxel_mm": (2.0, 2.0, float("nan"))}, "the header gives voxels of 2 x 2 x nan mm"),
    "an axis without length": ({"affine": AFFINE * [1, 1, 0, 1]}, "the header gives an axis of no length"),
    "voxels of another size than the sform's": (
        {"voxel_mm": (2.0, 2.0, 4.0), "qform": 0},
        "the header contradicts itself about where it lies",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("read", [read_image, read_grid])
def test_what_has_no_one_place_is_refused(tmp_path: Path, name: str, read: Callable[[Path], object]) -> None:
    settings, message = REFUSED[name]
    path = write(tmp_path / "a.nii.gz", **settings)
    with pytest.raises(InvalidInputError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("units", "mm"), [(1, 1000.0), (3, 0.001)])
def test_other_units_of_length_are_mm_or_refused(tmp_path: Path, units: int, mm: float) -> None:
    """Meters and micrometers: never taken for millimeters."""
    path = write(tmp_path / "a.nii.gz", units=units)
    try:
        found = read_image(path).grid.spacing_xyz
    except InvalidInputError:
        return
    assert found == pytest.approx((2 * mm, 2 * mm, 3 * mm))


def test_a_name_that_is_not_utf_8_never_reaches_itk(tmp_path: Path) -> None:
    path = Path(str(tmp_path / "a") + "\udcff.nii.gz")
    write(path)
    for read in (read_image, read_grid):
        with pytest.raises(InvalidInputError, match="the name is not UTF-8; rename it") as caught:
            read(path)
        assert str(caught.value).encode()


@pytest.mark.parametrize("at", [2, 9, 12, 30])
def test_a_damaged_beginning_names_the_file(tmp_path: Path, at: int) -> None:
    path = write(tmp_path / "a.nii.gz")
    content = bytearray(path.read_bytes())
    content[at : at + 8] = b"\xff" * 8
    path.write_bytes(content)
    for read in (read_image, read_grid):
        with pytest.raises(InvalidInputError, match=str(path)):
            read(path)
