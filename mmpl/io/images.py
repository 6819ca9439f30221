"""Image files, read and written through SimpleITK (NIfTI, MHA, TIFF)."""

import os
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from mmpl.case import Grid, Image, InvalidInputError
from mmpl.files import write_whole
from mmpl.geometry import to_sitk
from mmpl.io import nifti
from mmpl.io.integrity import META_SUFFIXES, caught_stderr, check_header, check_stored, check_written, says_place

IMAGE_SUFFIXES = (".mha", ".nii.gz", ".nii", ".tif", ".tiff")
NO_PLACE = "an image without a place in space: origin and 1 mm were taken where it says none"


def grid_of(image: sitk.Image) -> Grid:
    """Take the geometry of a 3-D SimpleITK image."""
    return Grid(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())


def read_image(path: Path) -> Image:
    """Read one volume.

    Raises:
        InvalidInputError: The file is missing, empty, unreadable, damaged or not a single-channel volume, or one may
            not read it.
    """
    _check_file(path)
    if path.stat().st_size == 0:
        raise InvalidInputError(f"{path}: the file is empty")
    name = itk_name(path)
    check_header(path)
    affine = _declared_affine(path)
    complaints: list[str] = []
    try:
        with caught_stderr(complaints):
            image = sitk.ReadImage(name, imageIO=_reader_of(path))
    except RuntimeError as error:
        reason = complaints[0] if complaints else str(error).strip().splitlines()[-1].split(": ", 1)[-1].strip()
        raise InvalidInputError(f"{path}: not a readable image ({reason})") from error
    try:
        image = as_volume(image)
        check_stored(path, image, complaints)
        if affine is not None:
            nifti.check_place(path, affine, grid_of(image))
        return from_sitk(image)
    except InvalidInputError as error:
        raise InvalidInputError(str(error) if str(path) in str(error) else f"{path}: {error}") from error


def _check_file(path: Path) -> None:
    """Refuse what is no file, or none that may be read: of that ITK says that it does not exist."""
    if not path.is_file():
        raise InvalidInputError(f"{path}: {'a folder, not an image file' if path.is_dir() else 'no such file'}")
    try:
        path.open("rb").close()
    except OSError as error:
        raise InvalidInputError(f"{path}: {error.strerror or error}") from error


def flags_of(*paths: Path) -> tuple[str, ...]:
    """Give the flags of a case whose images are these files."""
    return () if all(map(says_place, paths)) else (NO_PLACE,)


def says_no_place(image: sitk.Image) -> bool:
    """Tell whether an image in memory lies where SimpleITK puts voxels of which nothing is said."""
    nowhere = sitk.Image([1] * image.GetDimension(), sitk.sitkUInt8)
    parts = (sitk.Image.GetSpacing, sitk.Image.GetOrigin, sitk.Image.GetDirection)
    return all(part(image) == part(nowhere) for part in parts)


def itk_name(path: Path) -> str:
    """Give a file's name as ITK takes it, whatever the locale; one that is not UTF-8 would end the process.

    Raises:
        InvalidInputError: It is not.
    """
    stored = os.fsencode(path)
    try:
        return stored.decode()
    except UnicodeDecodeError:
        raise InvalidInputError(f"{stored.decode(errors='replace')}: the name is not UTF-8; rename it") from None


def _reader_of(path: Path) -> str:
    """Name ITK's reader of a file where it takes no ending in capitals for its own; elsewhere it finds one itself."""
    return "MetaImageIO" if path.name.lower().endswith(META_SUFFIXES) else ""


def _declared_affine(path: Path) -> NDArray[np.float64] | None:
    """Read the place that a NIfTI's header claims; None for other files."""
    return nifti.read_affine(path) if path.name.lower().endswith(nifti.SUFFIXES) else None


def as_volume(image: sitk.Image) -> sitk.Image:
    """Take the one volume of a SimpleITK image.

    Raises:
        InvalidInputError: It is not a single-channel volume.
    """
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = image[:, :, :, 0]
    if image.GetDimension() != 3:
        raise InvalidInputError(f"the image has {image.GetDimension()} dimensions, not 3")
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise InvalidInputError(f"the image has {image.GetNumberOfComponentsPerPixel()} channels, not 1")
    return image


def from_sitk(image: sitk.Image) -> Image:
    """Take voxels and geometry of a 3-D SimpleITK image."""
    return Image(sitk.GetArrayFromImage(image), grid_of(image))


def read_grid(path: Path) -> Grid:
    """Read the geometry of a volume from its header.

    Raises:
        InvalidInputError: The file is missing or may not be read, or its header cannot be read or is not a volume's.
    """
    _check_file(path)
    name = itk_name(path)
    check_header(path)
    affine = _declared_affine(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(name)
    reader.SetImageIO(_reader_of(path))
    complaints: list[str] = []
    try:
        with caught_stderr(complaints):
            reader.ReadImageInformation()
    except RuntimeError as error:
        raise InvalidInputError(f"{path}: not a readable image ({complaints[0] if complaints else error})") from error
    dimension = reader.GetDimension()
    if dimension < 3:
        raise InvalidInputError(f"{path}: the image has {dimension} dimensions, not 3")
    direction = np.reshape(reader.GetDirection(), (dimension, dimension))[:3, :3].ravel()
    grid = Grid(reader.GetSize()[:3], reader.GetSpacing()[:3], reader.GetOrigin()[:3], tuple(direction.tolist()))
    if affine is not None:
        nifti.check_place(path, affine, grid)
    return grid


def write_image(path: Path, image: Image, partial_folder: Path | None = None, note: str = "") -> None:
    """Write one volume, compressed, under a partial name first, so that the file is whole or absent.

    Args:
        path: File to write; its suffix says in which format.
        image: Volume to write.
        partial_folder: Folder of the partial file, on the same filesystem; by default that of `path`.
        note: What a NIfTI's header says of it (`descrip`, 79 bytes).

    Raises:
        OSError: It cannot be written, as where the disk is full.
    """
    voxels, complaints = to_sitk(Image(np.ascontiguousarray(image.voxels), image.grid)), list[str]()
    if note:
        voxels.SetMetaData("ITK_FileNotes", note)
    with write_whole(path, partial_folder) as partial:
        try:
            with caught_stderr(complaints):
                sitk.WriteImage(voxels, itk_name(partial), True, 1)
        except RuntimeError as error:
            raise OSError(str(error).strip().splitlines()[-1].strip()) from error
        check_written(partial, voxels)
