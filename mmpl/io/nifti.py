"""The place in space that a NIfTI file claims, read from its header: twice, in two ways, of which readers take either.

Source: the NIfTI-1 definition (nifti1.h), which the byte offsets below are from. NIfTI-2 is read by no library here.
"""

import gzip
import zlib
from pathlib import Path
from typing import BinaryIO, Literal, cast

import numpy as np
from numpy.typing import NDArray

from mmpl.case import Grid, InvalidInputError
from mmpl.geometry import index_to_mm

SUFFIXES = (".nii", ".nii.gz")
_GZIP = b"\x1f\x8b"
MOST_APART_MM = 0.1
"""How far a corner may lie from itself by the two ways, or by this header and what a library made of it."""
MOST_SHEAR = 1e-4
"""Largest cosine between two axes that ITK takes for right-angled."""

_HEADER = 348  # bytes
_DIM, _PIXDIM, _START, _UNITS, _DESCRIP, _CODES, _QUATERNION, _SROW = 40, 76, 108, 123, 148, 252, 256, 280
_EARLIEST_START = 352  # bytes; where an earlier one stands, and be it zero, ITK reads the header's end as voxels
_ORDERS: tuple[tuple[str, Literal["little", "big"]], ...] = (("<", "little"), (">", "big"))
_MM_OF_UNIT = {1: 1000.0, 2: 1.0, 3: 0.001}
_TO_LPS = np.diag([-1.0, -1.0, 1.0])


def open_stored(path: Path) -> BinaryIO:
    """Open a file that may be compressed, whatever its name says."""
    with path.open("rb") as file:
        zipped = file.read(2) == _GZIP
    return cast(BinaryIO, gzip.open(path)) if zipped else path.open("rb")


def byte_order(header: bytes) -> str | None:
    """Tell in which order a header's bytes are, "<" or ">", by its first number, its size; None where it is none."""
    return next((order for order, name in _ORDERS if int.from_bytes(header[:4], name) == _HEADER), None)


def read_note(path: Path) -> str:
    """Read what a file's header says of it (`descrip`, which `write_image` writes); blank where it says nothing."""
    try:
        with open_stored(path) as file:
            header = file.read(_HEADER)
    except (OSError, EOFError, zlib.error):
        return ""
    return header[_DESCRIP : _DESCRIP + 80].split(b"\0")[0].decode("utf-8", "replace").strip()


def read_affine(path: Path) -> NDArray[np.float64] | None:
    """Read the affine of a file's header, which says it once or twice alike.

    Returns:
        (3, 4), voxel indices (x, y, z) to LPS, mm; None where this is no NIfTI header, which readers will say.

    Raises:
        InvalidInputError: The header gives no place, two places, a voxel without extent, axes that are not at right
            angles, or a byte where no voxels can start.
    """
    try:
        with open_stored(path) as file:
            header = file.read(_HEADER)
    except (OSError, EOFError, zlib.error):
        return None
    order = byte_order(header)
    if order is None or len(header) < _HEADER:
        return None

    def numbers(kind: str, count: int, at: int) -> NDArray[np.float64]:
        return np.frombuffer(header, order + kind, count, at).astype(float)

    start = numbers("f4", 1, _START)[0]
    if not (start >= _EARLIEST_START and start.is_integer()):
        raise InvalidInputError(
            f"{path}: the header's vox_offset is {start:g}, not a whole number of at least {_EARLIEST_START}"
        )
    voxel_mm, shape = numbers("f4", 4, _PIXDIM), numbers("i2", 4, _DIM)[1:]
    qform, sform = numbers("i2", 2, _CODES)
    scale = _MM_OF_UNIT.get(header[_UNITS] & 7, 1.0)
    if not (np.isfinite(voxel_mm[1:]).all() and (voxel_mm[1:] > 0).all()):
        raise InvalidInputError(f"{path}: the header gives voxels of {_shown(voxel_mm[1:])} mm")
    places = []
    if sform > 0:
        places.append(numbers("f4", 12, _SROW).reshape(3, 4))
    if qform > 0:
        places.append(_from_quaternion(numbers("f4", 6, _QUATERNION), voxel_mm))
    if not places:
        raise InvalidInputError(f"{path}: the header gives no place in space (qform_code and sform_code are 0)")
    first, last = _TO_LPS @ places[0] * scale, _TO_LPS @ places[-1] * scale
    length = np.linalg.norm(first[:, :3], axis=0)
    if not (np.isfinite(first).all() and (length > 0).all()):
        raise InvalidInputError(f"{path}: the header gives an axis of no length, or no place at all")
    axes = first[:, :3] / length
    if np.abs(axes.T @ axes - np.eye(3)).max() > MOST_SHEAR:
        raise InvalidInputError(
            f"{path}: its axes are not at right angles, as after a scan with a tilted gantry; resample it to a "
            "right-angled grid"
        )
    corners = _corners(np.maximum(shape, 1))
    apart = np.linalg.norm(corners @ (first - last).T, axis=1).max()
    if not apart <= MOST_APART_MM:
        raise InvalidInputError(f"{path}: the header's qform and sform lie {apart:.3g} mm apart; make them agree")
    return first


def check_place(path: Path, affine: NDArray[np.float64], grid: Grid) -> None:
    """Compare a header's affine with the grid that a library read.

    Raises:
        InvalidInputError: They differ: the header contradicts itself, say in the size of its voxels.
    """
    corners = _corners(np.array(grid.size_xyz, float))
    apart = np.linalg.norm(corners @ affine.T - index_to_mm(grid, corners[:, :3]), axis=1).max()
    if not apart <= MOST_APART_MM:
        raise InvalidInputError(f"{path}: the header contradicts itself about where it lies ({apart:.3g} mm apart)")


def _corners(size_xyz: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give the corners' voxels (8, 4), the last column of ones."""
    ends = np.array(np.meshgrid(*[(0.0, n - 1) for n in size_xyz], [1.0], indexing="ij"))
    return ends.reshape(4, -1).T


def _from_quaternion(values: NDArray[np.float64], voxel_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Make the affine (3, 4) of a quaternion and an offset; the sign of `voxel_mm[0]` turns the third axis round."""
    from scipy.spatial.transform import Rotation

    b, c, d = values[:3]
    a = np.sqrt(max(0.0, 1.0 - b * b - c * c - d * d))
    quaternion = np.array([b, c, d, a])
    rotation = np.eye(3) if not np.isfinite(quaternion).all() else Rotation.from_quat(quaternion).as_matrix()
    steps = rotation * voxel_mm[1:] * [1.0, 1.0, -1.0 if voxel_mm[0] < 0 else 1.0]
    return np.column_stack([steps, values[3:]])


def _shown(numbers: NDArray[np.float64]) -> str:
    return " x ".join(f"{number:g}" for number in numbers)
