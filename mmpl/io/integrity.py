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
META_SUFFIXES = (".mha", ".mhd")
_LONGEST_LINE = 10_000  # bytes
_BLOCK = 1 << 22  # bytes; a multiple of any voxel's size
_COMPRESSED_BLOCK = 1 << 16  # bytes, of which no more than 67 MB can come
_MOST_PADDING = 512  # bytes, a sector of a disk
_NIFTI_FLOATS = {"16": "f4", "64": "f8"}
_LOCAL = (b"LOCAL", b"Local", b"local")  # as ITK takes it
_NUMBERS_OF_PLACE = {
    **dict.fromkeys((b"Offset", b"Position", b"Origin", b"ElementSpacing", b"ElementSize"), 1),
    **dict.fromkeys((b"TransformMatrix", b"Rotation", b"Orientation"), 2),
}
"""Fields that say where an `.mha` lies; for n dimensions each has n to this power numbers."""
_NRRD_SUFFIXES = (".nrrd", ".nhdr")
_NRRD_STEPS, _NRRD_ORIGINS = (b"space directions", b"spacings"), (b"space origin", b"axis mins", b"axismins")
_NUMBER = re.compile(rb"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?", re.IGNORECASE)
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
    """Refuse a header that ITK must not see: it crashes on some, and reads others as another place or other voxels.

    Raises:
        InvalidInputError: The header of an `.mha`, `.mhd`, `.nrrd` or `.nhdr` does not describe one volume of a size
            that a scan can have, or not where it lies; or its voxels are not in this file, as those of `.mha` and
            `.nrrd` must be.
    """
    name = path.name.lower()
    if name.endswith(_NRRD_SUFFIXES):
        _check_nrrd_header(path)
    if not name.endswith(META_SUFFIXES):
        return
    with path.open("rb") as file:
        header = _read_meta_header(file)
    where = header.get(b"ElementDataFile")
    if name.endswith(".mha") and where not in _LOCAL:
        raise InvalidInputError(f"{path}: not a readable image (ElementDataFile is {_shown(where)}, not LOCAL)")
    dimensions = _whole_numbers(header.get(b"NDims"))
    if len(dimensions) != 1 or not 1 <= dimensions[0] <= 4:
        raise _odd_field(path, header, b"NDims")
    size = _whole_numbers(header.get(b"DimSize"))
    if len(size) != dimensions[0] or min(size) < 1 or math.prod(size) > MOST_VOXELS:
        raise _odd_field(path, header, b"DimSize")
    for field, power in _NUMBERS_OF_PLACE.items():
        needed = dimensions[0] ** power
        if field in header and len(_numbers(header[field])) != needed:
            raise _odd_field(path, header, field, f", not {needed} numbers")
    compressed, local = _is_true(header, b"CompressedData"), where in _LOCAL
    if compressed and local and not _compressed_size(header):
        raise _odd_field(path, header, b"CompressedDataSize")
    skipped = header.get(b"HeaderSize", b"0")
    if skipped != b"0" and (compressed or (local and skipped != b"-1")):  # ITK would read other bytes as voxels
        raise _odd_field(path, header, b"HeaderSize")


def _odd_field(path: Path, header: dict[bytes, bytes], field: bytes, why: str = "") -> InvalidInputError:
    return InvalidInputError(f"{path}: not a readable image ({field.decode()} is {_shown(header.get(field))}{why})")


def says_place(path: Path) -> bool:
    """Tell whether an image file says where its voxels lie and how far apart.

    A TIFF or an Analyze file cannot; an `.mha`, `.mhd`, `.nrrd` or a NIfTI pair of `.hdr` and `.img` need not. A NIfTI
    file that does not is refused where it is read (`mmpl.io.nifti`).
    """
    name = path.name.lower()
    if name.endswith(META_SUFFIXES):
        with path.open("rb") as file:
            keys = _read_meta_header(file).keys()
        return bool(keys & {b"ElementSpacing", b"ElementSize"} and keys & {b"Offset", b"Position", b"Origin"})
    if name.endswith(_NRRD_SUFFIXES):
        fields = _read_nrrd_header(path)
        said = [b"".join(fields.get(name, b"") for name in names) for names in (_NRRD_STEPS, _NRRD_ORIGINS)]
        return all(re.search(rb"[0-9]", words) for words in said)  # "none" and "nan" say nothing
    if name.endswith((".hdr", ".img")):
        headers = [each for each in path.parent.iterdir() if each.name.lower() == f"{path.stem}.hdr".lower()]
        header = headers[0].read_bytes()[:348] if headers else b""
        return header[344:].startswith(b"ni1") and any(header[252:256])  # the codes of its two transforms
    return not name.endswith((".tif", ".tiff"))


def _check_nrrd_header(path: Path) -> None:
    fields = _read_nrrd_header(path)
    if path.name.lower().endswith(".nrrd") and {name.replace(b" ", b"") for name in fields} & {b"datafile"}:
        raise InvalidInputError(f"{path}: not a readable image (its voxels are in another file)")
    channels = max(0, sum(_whole_numbers(fields.get(b"dimension"))) - 3)
    for name in (*_NRRD_STEPS, *_NRRD_ORIGINS):
        axes = re.findall(rb"\([^)]*\)|[^\s()]+", fields.get(name, b""))
        said = [axis for axis in axes if re.search(rb"[0-9]", axis)]
        numbers = [word.strip() for axis in said for word in (axis[1:-1].split(b",") if axis[:1] == b"(" else [axis])]
        if not all(map(_NUMBER.fullmatch, numbers)) or (said and len(axes) - len(said) > channels):
            raise _odd_field(path, fields, name)


def _read_nrrd_header(path: Path) -> dict[bytes, bytes]:
    """Read the fields above the voxels, names and values in small letters."""
    fields: dict[bytes, bytes] = {}
    with path.open("rb") as file:
        while (line := file.readline(_LONGEST_LINE)).strip():
            name, _, value = line.lower().partition(b":")
            if not (value.startswith(b"=") or line.startswith(b"#")):  # a pair of somebody's own, a comment
                fields[name.strip()] = value.strip()
    return fields


def _numbers(text: bytes | None) -> list[float]:
    """Read numbers between spaces; none where one is no finite number, of which ITK would make 0 or a part of it."""
    words = (text or b"").split()
    numbers = [float(word) for word in words] if all(map(_NUMBER.fullmatch, words)) else []
    return numbers if all(map(math.isfinite, numbers)) else []


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
        InvalidInputError: Voxels are missing, too many, damaged, NaN or infinite.
    """
    name = path.name.lower()
    try:
        if name.endswith(nifti.SUFFIXES):
            _check_nifti(path, image)
            return
        if name.endswith(META_SUFFIXES):
            _check_meta(path, image)
        errors = [line for line in complaints if "warning" not in line.lower()]
        if errors and not name.endswith(".mha"):
            raise EOFError(errors[0])
    except (EOFError, OSError, zlib.error) as error:
        raise InvalidInputError(f"{path}: the file is damaged ({error})") from error


def check_written(path: Path, image: sitk.Image) -> None:
    """Look whether an `.mha` or `.nii.gz` of an image was written to its end: ITK may not see that the disk is full.

    Raises:
        OSError: The file ends early.
    """
    try:
        if path.stat().st_size == 0:
            raise EOFError("the file is empty")
        if path.suffix == ".mha":
            _check_meta(path, image)
        elif path.suffix == ".gz":
            with gzip.open(path) as file:
                while file.read(_BLOCK):
                    pass
    except (EOFError, OSError, zlib.error) as error:
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


def _check_meta(path: Path, image: sitk.Image) -> None:
    """Count the bytes of voxels that an `.mha` or `.mhd` holds, compressed or not: those of its image, no more."""
    channels = image.GetNumberOfComponentsPerPixel()
    needed = image.GetNumberOfPixels() * channels * image.GetSizeOfPixelComponent()
    with path.open("rb") as file:
        header = _read_meta_header(file)
        where = header.get(b"ElementDataFile")
        if where is None:
            raise EOFError("the header ends early")
        if where in _LOCAL:
            _count_voxels(file, header, needed)
    # of files a slice each, ITK misses what is not there
    if where not in _LOCAL and not where.startswith(b"LIST") and b"%" not in where:
        with (path.parent / os.fsdecode(where)).open("rb") as file:
            _count_voxels(file, header, needed)


def _count_voxels(file: BinaryIO, header: dict[bytes, bytes], needed: int) -> None:
    """Count the bytes of voxels from here on.

    Raises:
        EOFError: They are not those that are needed, or ITK does not see all of them.
    """
    if _is_true(header, b"CompressedData"):
        start, stream, found = file.tell(), zlib.decompressobj(zlib.MAX_WBITS | 32), 0  # zlib or gzip
        while not stream.eof and found <= needed:
            block = file.read(_COMPRESSED_BLOCK)
            if not block:
                raise EOFError("the compressed voxels end early")
            found += len(stream.decompress(block))
        if found != needed:
            raise EOFError(f"{found} bytes of voxels{' or more' * (found > needed)}, and by the header {needed}")
        taken, said = file.tell() - start - len(stream.unused_data), _compressed_size(header)
        if said and taken > said:
            raise EOFError(f"the compressed voxels take {taken} bytes, and CompressedDataSize is {said}")
    elif _is_true(header, b"BinaryData"):
        skipped = _numbers(header.get(b"HeaderSize")) or [0.0]
        start = file.tell() if skipped[0] <= 0 else int(skipped[0])
        found = os.fstat(file.fileno()).st_size - start
        if found < needed:
            raise EOFError(f"{found} bytes of voxels, and by the header {needed}")
        file.seek(start + needed)
        rest = file.read(_MOST_PADDING + 1)
        if skipped[0] >= 0 and (len(rest) > _MOST_PADDING or rest.strip(b"\0\r\n")):  # -1: the last ones are read
            raise EOFError(f"{found} bytes of voxels, and by the header {needed}")


def _is_true(header: dict[bytes, bytes], field: bytes) -> bool:
    """Read a field that is true or false as ITK does, by its first letter; of those missing `BinaryData` is true."""
    return header.get(field, b"T" if field == b"BinaryData" else b"F")[:1] in (b"T", b"t", b"1")


def _compressed_size(header: dict[bytes, bytes]) -> int:
    """Read how many bytes of compressed voxels there are; 0 where that is not said."""
    numbers = _numbers(header.get(b"CompressedDataSize"))
    return int(numbers[0]) if len(numbers) == 1 and numbers[0] > 0 else 0


def _read_meta_header(file: BinaryIO) -> dict[bytes, bytes]:
    """Read the text header of an `.mha` or `.mhd` as ITK does: case counts, and of a repeated field the last value."""
    header: dict[bytes, bytes] = {}
    while b"ElementDataFile" not in header and (line := file.readline(_LONGEST_LINE)):
        key, *value = re.split(rb"[=:]", line, maxsplit=1)
        header[key.strip()] = b"".join(value).strip()
    return header
