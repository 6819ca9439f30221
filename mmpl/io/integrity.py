"""Damage that SimpleITK reads over: voxels that a file lacks come back as zeros or noise, NaN in a NIfTI as zeros.

What ITK complains of on the process's own stderr is caught here too, as it is never more than half of a message.
"""

import gzip
import math
import os
import re
import sys
import tempfile
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np
import SimpleITK as sitk

from mmpl.case import InvalidInputError
from mmpl.io import nifti
from mmpl.io.nifti import byte_order, open_stored
from mmpl.surroundings import open_standard_streams

MOST_VOXELS = 1_500_000_000
"""More than twice a 2 m scan of 512 x 512 pixels and 1 mm slices."""
_LONGEST_LINE = 10_000  # bytes
_BLOCK = 1 << 22  # bytes; a multiple of any voxel's size
_NIFTI_FLOATS = {"16": "f4", "64": "f8"}
_STDERR = threading.RLock()


@contextmanager
def caught_stderr(lines: list[str]) -> Iterator[None]:
    """Collect what is written to the process's stderr meanwhile, by libraries in C++ too; needs no disk.

    The process has one stderr, so one thread at a time does so; the next one waits.
    """
    with _STDERR, _open_nowhere() as file:
        open_standard_streams()
        sys.stderr.flush()
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            lines += file.read().decode(errors="replace").splitlines()


def _open_nowhere() -> IO[bytes]:
    """Open a file without a name: in memory where the system can, as a disk may be full or read-only."""
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("stderr"), "rb")
    return tempfile.TemporaryFile()  # noqa: SIM115: its caller closes it


def check_header(path: Path) -> None:
    """Refuse an `.mha` or `.nrrd` whose header ITK must not see: it crashes on some, and follows others to other files.

    Raises:
        InvalidInputError: The header does not describe one volume, stored in this file, of a size that a scan can have.
    """
    if path.name.lower().endswith(".nrrd"):
        _check_nrrd_header(path)
    if not path.name.lower().endswith(".mha"):
        return
    with path.open("rb") as file:
        header = _read_mha_header(file)
    if (where := header.get(b"elementdatafile")) != b"local":
        raise InvalidInputError(f"{path}: not a readable image (ElementDataFile is {_shown(where)}, not LOCAL)")
    dimensions = _whole_numbers(header.get(b"ndims"))
    if len(dimensions) != 1 or not 1 <= dimensions[0] <= 4:
        raise InvalidInputError(f"{path}: not a readable image (NDims is {_shown(header.get(b'ndims'))})")
    size = _whole_numbers(header.get(b"dimsize"))
    if len(size) != dimensions[0] or min(size) < 1 or math.prod(size) > MOST_VOXELS:
        raise InvalidInputError(f"{path}: not a readable image (DimSize is {_shown(header.get(b'dimsize'))})")


_NRRD_STEPS, _NRRD_ORIGINS = (b"space directions", b"spacings"), (b"space origin", b"axis mins", b"axismins")


def says_place(path: Path) -> bool:
    """Tell whether an image file says where its voxels lie and how far apart.

    A TIFF or an Analyze file cannot; an `.mha`, `.mhd`, `.nrrd` or a NIfTI pair of `.hdr` and `.img` need not. A NIfTI
    file that does not is refused where it is read (`mmpl.io.nifti`).
    """
    name = path.name.lower()
    if name.endswith((".mha", ".mhd")):
        with path.open("rb") as file:
            keys = _read_mha_header(file).keys()
        return bool(keys & {b"elementspacing", b"elementsize"} and keys & {b"offset", b"position", b"origin"})
    if name.endswith((".nrrd", ".nhdr")):
        fields = {key.strip(): value for key, _, value in (line.partition(b":") for line in _nrrd_header(path))}
        said = [b"".join(fields.get(name, b"") for name in names) for names in (_NRRD_STEPS, _NRRD_ORIGINS)]
        return all(re.search(rb"[0-9]", words) for words in said)  # "none" and "nan" say nothing
    if name.endswith((".hdr", ".img")):
        headers = [each for each in path.parent.iterdir() if each.name.lower() == f"{path.stem}.hdr".lower()]
        header = headers[0].read_bytes()[:348] if headers else b""
        return header[344:].startswith(b"ni1") and any(header[252:256])  # the codes of its two transforms
    return not name.endswith((".tif", ".tiff"))


def _check_nrrd_header(path: Path) -> None:
    for line in _nrrd_header(path):
        if line.replace(b" ", b"").startswith(b"datafile:"):
            raise InvalidInputError(f"{path}: not a readable image (its voxels are in another file)")


def _nrrd_header(path: Path) -> Iterator[bytes]:
    """Read the lines above the voxels, in small letters."""
    with path.open("rb") as file:
        while (line := file.readline(_LONGEST_LINE)).strip():
            yield line.lower()


def _whole_numbers(text: bytes | None) -> list[int]:
    """Read numbers between spaces; none where one is no whole number."""
    words = (text or b"").split()
    return [int(word) for word in words] if all(re.fullmatch(rb"-?[0-9]{1,9}", word) for word in words) else []


def _shown(value: bytes | None) -> str:
    return "missing" if value is None else repr(value.decode(errors="replace")[:40])


def check_stored(path: Path, image: sitk.Image, complaints: list[str]) -> None:
    """Look whether a file holds what SimpleITK says it read.

    Args:
        path: The file.
        image: Image that was read from it, one channel.
        complaints: Lines that the reader wrote to stderr.

    Raises:
        InvalidInputError: Voxels are missing, damaged, NaN or infinite.
    """
    name = path.name.lower()
    try:
        if name.endswith(nifti.SUFFIXES):
            _check_nifti(path, image)
        elif name.endswith(".mha"):
            _check_mha(path)
        elif errors := [line for line in complaints if "warning" not in line.lower()]:
            raise EOFError(errors[0])
    except (EOFError, OSError, zlib.error) as error:
        raise InvalidInputError(f"{path}: the file is damaged ({error})") from error


def check_written(path: Path) -> None:
    """Look whether a compressed `.mha` or `.nii.gz` was written to its end: ITK may not see that the disk is full.

    Raises:
        OSError: The file ends early.
    """
    try:
        if path.stat().st_size == 0:
            raise EOFError("the file is empty")
        if path.suffix == ".mha":
            _check_mha(path, compressed=True)
        elif path.suffix == ".gz":
            with gzip.open(path) as file:
                while file.read(_BLOCK):
                    pass
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise OSError(f"{error}; is the disk full?") from error


def _check_nifti(path: Path, image: sitk.Image) -> None:
    if not image.HasMetaDataKey("datatype"):
        raise InvalidInputError(f"{path}: not a NIfTI file, whatever its name says")
    with open_stored(path) as file:
        order = byte_order(file.read(4)) or "<"
        real = _NIFTI_FLOATS.get(image.GetMetaData("datatype"))
        voxel = int(image.GetMetaData("bitpix")) // 8
        left = image.GetNumberOfPixels() * voxel
        file.seek(int(float(image.GetMetaData("vox_offset"))))
        while left > 0:
            block = file.read(min(left, _BLOCK))
            if len(block) < voxel:
                raise EOFError(f"{left} bytes of voxels are missing")
            left -= len(block)
            if real and not np.isfinite(np.frombuffer(block, order + real, len(block) // voxel)).all():
                raise InvalidInputError(f"{path}: the image holds NaN or infinite voxels")
        file.read(1)  # gzip compares its checksum at the end


def _check_mha(path: Path, compressed: bool = False) -> None:
    with path.open("rb") as file:
        header = _read_mha_header(file)
        if header.get(b"compresseddata") != b"true":
            if compressed:
                raise EOFError("the header ends early")
            return
        stream = zlib.decompressobj(zlib.MAX_WBITS | 32)  # zlib or gzip
        while not stream.eof:
            block = file.read(_BLOCK)
            if not block:
                raise EOFError("the compressed voxels end early")
            stream.decompress(block)


def _read_mha_header(file: BinaryIO) -> dict[bytes, bytes]:
    """Read the text header of an `.mha`, keys and values in lower case; of a repeated key the last value counts."""
    header: dict[bytes, bytes] = {}
    while b"elementdatafile" not in header and (line := file.readline(_LONGEST_LINE)):
        key, _, value = line.partition(b"=")
        header[key.strip().lower()] = value.strip().lower()
    return header
