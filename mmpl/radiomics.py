"""Named radiomics features of the two lesion classes, by pyradiomics, on PET (SUV) and CT (HU).

Each class is measured as one region (all nodes together) on its own 1 mm grid, as `RadiomicsSettings` say.
"""

import logging
import math
import re
import warnings
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmpl.case import Case, Grid, Image
from mmpl.evidence import ABSENT, FeatureTable
from mmpl.geometry import Interpolation, crop_grid, extent_mm, grid_between, holds, resample, to_sitk
from mmpl.lesions import cut_class, places_mm
from mmpl.names import CLASS_NAMES, LESIONS, Label, Modality
from mmpl.parallel import Together
from mmpl.profile import GrayLevels, RadiomicsSettings

if TYPE_CHECKING:
    import SimpleITK as sitk
    from radiomics.base import RadiomicsFeaturesBase

Box = tuple[slice, slice, slice]

_ORIGINAL, _SHAPE = "original", "shape"
_FEATURE = re.compile(r"(?:gtvp|gtvn)_absent$|(?:ct|pet)_(?:gtvp|gtvn)_(?P<kind>[a-z]+)[^_]*_[^_]+_[^_]+$")
PET_COVERS = "PET covers"
WAVELET_BANDS = ("LLH", "LHL", "LHH", "HLL", "HLH", "HHL", "HHH", "LLL")
_HALF = 0.5 - 1e-3  # a voxel center on the very surface is inside, whatever the last bits of the origin


def feature_names(settings: RadiomicsSettings) -> tuple[str, ...]:
    """Name every feature that the settings make: per class its absence, its shape, then CT, then PET."""
    names = []
    for label, absent in zip(LESIONS, ABSENT, strict=True):
        names.append(absent)
        for modality in Modality:
            shape = modality is Modality.CT
            names += [_full_name(modality, label, name) for name in _region_names(settings, shape)]
    return tuple(names)


def is_radiomics(column: str) -> bool:
    """Tell a feature of `feature_names` from other columns of evidence."""
    return _FEATURE.match(column) is not None


def image_kind(column: str) -> str | None:
    """Tell what a feature is measured on: "original", "log" or "wavelet"; None of an absence, and of other columns."""
    found = _FEATURE.match(column)
    return found["kind"] if found else None


def measure_lesions(
    case: Case, mask: Image, settings: RadiomicsSettings, names: Collection[str] | None = None
) -> FeatureTable:
    """Measure a case's lesions by `extract`; a PET that is not in SUV is left out."""
    return extract(case.ct, case.pet if case.pet_is_suv else None, mask, settings, names)


def pet_flags(case: Case, mask: Image) -> tuple[str, ...]:
    """Name the lesion classes of which a PET in SUV shows a part alone, or nothing."""
    flags = []
    for label in LESIONS if case.pet_is_suv else ():
        if lesion := cut_class(mask, label):
            share = holds(case.pet.grid, places_mm(lesion)).mean()
            if share < 1:
                but = "" if share else ": its PET features are missing"
                flags.append(f"{PET_COVERS} {math.floor(100 * share)}% of {CLASS_NAMES[label]}{but}")
    return tuple(flags)


def extract(
    ct: Image, pet: Image | None, mask: Image, settings: RadiomicsSettings, names: Collection[str] | None = None
) -> FeatureTable:
    """Measure both lesion classes of a patient.

    Args:
        ct: CT, HU.
        pet: PET, SUV, on any grid; None where there is none in SUV, and its features are missing.
        mask: Label map, on any grid.
        settings: Settings of the measurement.
        names: The features that are asked for, among `feature_names(settings)`; None for all. What is left out costs no
            time, and changes no other value.

    Returns:
        One row of the features asked for, in the order of `feature_names`. A class that is absent has its indicator at
        1 and NaN elsewhere; one too small for texture (a point or a line on the 1 mm grid) has NaN and its indicator at
        0. A class of which re-segmentation leaves too little has a shape, and NaN for that image. Of a lesion that lies
        partly outside the PET, PET features are those of the part inside.

    Raises:
        ValueError: The settings do not make a feature that is asked for.
    """
    known = feature_names(settings)
    wanted = set(known if names is None else names)
    if unknown := sorted(wanted - set(known)):
        raise ValueError(f"the radiomics settings make no {', '.join(unknown[:3])}")
    images = {Modality.CT: ct} if pet is None else {Modality.CT: ct, Modality.PET: pet}
    values: dict[str, float] = {}
    for label, absent in zip(LESIONS, ABSENT, strict=True):
        lesion = cut_class(mask, label)
        values[absent] = float(lesion is None)
        if lesion is None:
            continue
        region = measured_region(lesion, settings)
        grid, inside = region.grid, region.voxels
        for modality, image in images.items():
            prefix, how = _full_name(modality, label, ""), settings.images[modality]
            asked = [name.removeprefix(prefix) for name in known if name.startswith(prefix) and name in wanted]
            if asked:
                voxels = resample(image, grid, Interpolation.BSPLINE, math.nan)
                shown = inside if modality is Modality.CT else inside & np.isfinite(voxels)
                filled = Image(np.nan_to_num(voxels, nan=how.fill).clip(*how.range), grid)
                measured = measure(filled, shown, asked, settings, how)
                values |= {prefix + name: value for name, value in measured.items()}
    chosen = tuple(name for name in known if name in wanted)
    return FeatureTable(chosen, np.array([[values.get(name, math.nan) for name in chosen]]))


def measure(
    image: Image, inside: NDArray[np.bool_], names: Iterable[str], settings: RadiomicsSettings, how: GrayLevels
) -> dict[str, float]:
    """Measure one region of one image, as it is: nothing is resampled here.

    Args:
        image: The image, with room around the region for the filters.
        inside: The region (z, y, x), on the image's grid.
        names: The features, by pyradiomics' names: `original_glcm_Contrast`.
        settings: The filters.
        how: The image's gray levels; all but the shape is measured on its voxels inside `how.resegment` alone.

    Returns:
        Features by name; none of a region, or of what is left of it, in fewer than two dimensions.
    """
    if not _has_texture(inside):
        return {}
    asked: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))  # image, then class, then features
    for name in names:
        image_name, class_name, feature = name.split("_")
        asked[image_name][class_name].append(feature)
    box = _bounding_box(inside)
    low, high = how.resegment or (-math.inf, math.inf)
    kept = inside & (image.voxels >= low) & (image.voxels <= high)
    region, core = (to_sitk(_crop(Image(part.astype(np.uint8), image.grid), box, 0)) for part in (inside, kept))
    values: dict[str, float] = {}
    with _quiet(), np.errstate(all="ignore"):
        for name, filtered in filtered_images(image, box, settings, asked):
            textures = dict(asked[name])
            if shape := textures.pop(_SHAPE, None):
                values |= _measure_classes({_SHAPE: shape}, name, filtered, region)
            if textures and _has_texture(kept):
                values |= _measure_classes(textures, name, filtered, core, binWidth=how.bin_width)
    return {name: value if math.isfinite(value) else math.nan for name, value in values.items()}


def _has_texture(inside: NDArray[np.bool_]) -> bool:
    """Whether a region has at least two dimensions: it is more than a point or a line of voxels."""
    return bool(inside.any()) and sum(side.stop - side.start > 1 for side in _bounding_box(inside)) >= 2


def filtered_images(
    image: Image, box: Box, settings: RadiomicsSettings, names: Collection[str]
) -> Iterator[tuple[str, "sitk.Image"]]:
    """Yield those of the original and the filtered images that are asked for, by pyradiomics' names, cut to a box.

    Each filter sees no more around the box than can change its response inside: half the time of filtering the whole
    grid for all.
    """
    import SimpleITK as sitk
    from radiomics import imageoperations

    if _ORIGINAL in names:
        yield _ORIGINAL, to_sitk(_crop(image, box, 0))
    for sigma in settings.filters.log_sigmas_mm:
        if log_name(sigma) in names:
            room = settings.log_margin(sigma)
            yield log_name(sigma), _laplacian_of_gaussian(to_sitk(_crop(image, box, room)), sigma, room)
    if any(name.startswith("wavelet") for name in names):
        room = settings.wavelet_margin
        source = to_sitk(_crop(image, box, room))
        for filtered, name, _ in imageoperations.getWaveletImage(source, None, wavelet=settings.filters.wavelet):
            if name in names:
                yield name, sitk.Crop(filtered, [room] * 3, [room] * 3)


def _laplacian_of_gaussian(image: "sitk.Image", sigma_mm: float, room: int) -> "sitk.Image":
    """Return ITK's LaplacianRecursiveGaussian, scaled by sigma squared, of all but a border of `room` voxels.

    ITK passes nine times over the whole image. Cut along each axis once that is done, and summed before the last, seven
    passes are half the work.
    """
    import SimpleITK as sitk

    def along(axis: int, order: int, source: "sitk.Image") -> "sitk.Image":
        border = [room if i == axis else 0 for i in range(3)]
        filtered = sitk.Crop(sitk.RecursiveGaussian(source, sigma_mm, True, order, axis), border, border)
        return sitk.ShiftScale(filtered, 0.0, source.GetSpacing()[axis] ** -order)

    smooth, curved = along(0, 0, image), along(0, 2, image)
    smooth, curved = along(1, 0, smooth), along(1, 2, smooth) + along(1, 0, curved)
    return along(2, 2, smooth) + along(2, 0, curved)


def log_name(sigma_mm: float) -> str:
    """Name the image of one LoG as pyradiomics does."""
    return f"log-sigma-{str(sigma_mm).replace('.', '-')}-mm-3D"


def _full_name(modality: Modality, label: Label, name: str) -> str:
    return f"{modality}_{label.name.lower()}_{name}"


def _region_names(settings: RadiomicsSettings, shape: bool) -> list[str]:
    """List what `measure` can be asked for; a test holds the two together."""
    from radiomics import getFeatureClasses

    filtered = [log_name(sigma) for sigma in settings.filters.log_sigmas_mm]
    if settings.filters.wavelet:
        filtered += [f"wavelet-{band}" for band in WAVELET_BANDS]
    names = []
    for image_name in (_ORIGINAL, *filtered):
        for class_name in settings.feature_classes:
            if class_name == _SHAPE and not (shape and image_name == _ORIGINAL):
                continue
            features = getFeatureClasses()[class_name].getFeatureNames()
            names += [f"{image_name}_{class_name}_{name}" for name, deprecated in features.items() if not deprecated]
    return names


def _measure_classes(
    classes: Mapping[str, Sequence[str]], image_name: str, image: "sitk.Image", region: "sitk.Image", **how: Any
) -> dict[str, float]:
    """Measure features, by class, of one image, whose gray levels they share."""
    binned: list[Any] = []
    values: dict[str, float] = {}
    for class_name, features in classes.items():
        measurement = _feature_classes()[class_name](image, region, binned=binned, **how)
        for feature in features:
            measurement.enableFeatureByName(feature)
        measured = measurement.execute()
        values |= {f"{image_name}_{class_name}_{name}": float(value) for name, value in measured.items()}
    return values


@cache
def _feature_classes() -> Mapping[str, type["RadiomicsFeaturesBase"]]:
    """Return pyradiomics' feature classes, two of whose roads are shortened at the same answers."""
    from radiomics import getFeatureClasses, imageoperations
    from radiomics.glcm import RadiomicsGLCM

    make_bins = imageoperations.binImage

    def share(*region: Any, binned: list[Any] | None = None, **settings: Any) -> Any:
        """Make an image's gray levels once: each class makes them anew, a sixth of the time.

        The classes pass their settings on, so one of them, a list, can hold what was made.
        """
        if binned is None:
            return make_bins(*region, **settings)
        if not binned:
            binned.append(make_bins(*region, **settings))
        return binned[0]

    class SymmetricGLCM(RadiomicsGLCM):
        """A GLCM whose MCC takes the eigenvalues of a symmetric matrix: pyradiomics' takes a tenth of the time."""

        __module__ = RadiomicsGLCM.__module__  # names its logger, which `_quiet` silences

        def getMCCFeatureValue(self) -> NDArray[np.float64]:
            """Average the second largest size of an eigenvalue of p(i, j) / sqrt(p(i) p(j)) over the directions.

            The square of that matrix is similar to pyradiomics' Q, of whose second largest eigenvalue MCC is the root.
            """
            root = np.sqrt(self.coefficients["px"])
            scaled = self.P_glcm / (root * root.swapaxes(1, 2) + self.coefficients["eps"])
            sizes = np.sort(np.abs(np.linalg.eigvalsh(scaled.transpose(0, 3, 1, 2))))
            return np.nanmean(sizes[..., -2], 1) if sizes.shape[-1] > 1 else np.ones(1)  # 1: pyradiomics' choice

    imageoperations.binImage = share
    return {**getFeatureClasses(), "glcm": SymmetricGLCM}


@Together
@contextmanager
def _quiet() -> Iterator[None]:
    """Keep pyradiomics from logging every step, and from warning of flat regions, where it divides by zero."""
    import radiomics

    level = radiomics.logger.level
    radiomics.logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        radiomics.logger.setLevel(level)


def measured_region(lesion: Image, settings: RadiomicsSettings) -> Image:
    """Bring what `cut_class` gives to the grid on which it is measured; voxels are True inside."""
    grid = _lesion_grid(lesion.grid, settings)
    return Image(resample(_padded(lesion), grid, Interpolation.LINEAR, 0.0) >= _HALF, grid)


def _bounding_box(inside: NDArray[np.bool_]) -> Box:
    """Find the smallest box (z, y, x) around a region that is not empty."""
    box = []
    for axis in range(3):
        found = np.flatnonzero(inside.any(axis=tuple({0, 1, 2} - {axis})))
        box.append(slice(int(found[0]), int(found[-1]) + 1))
    return box[0], box[1], box[2]


def _crop(image: Image, box: Box, margin: int) -> Image:
    """Cut a box (z, y, x) and a margin (voxels) out of an image."""
    wide = tuple(slice(side.start - margin, side.stop + margin) for side in box)
    if any(side.start < 0 or side.stop > size for side, size in zip(wide, image.voxels.shape, strict=True)):
        raise ValueError(f"the region has less than {margin} voxels of image around it")
    voxels = image.voxels[wide]
    z, y, x = (side.start for side in wide)
    return Image(voxels, crop_grid(image.grid, (x, y, z), voxels.shape[::-1]))


def _lesion_grid(lesion: Grid, settings: RadiomicsSettings) -> Grid:
    """Make the grid of one lesion: anchored to its own box, so that features do not depend on where a scan starts."""
    lower, upper = extent_mm(lesion)
    room_mm = (settings.margin + 1) * settings.spacing_mm  # one more, as the last voxel may be cut short
    return grid_between(lower - room_mm, upper + room_mm, settings.spacing_mm)


def _padded(lesion: Image) -> Image:
    """Add one empty voxel all round, so that interpolation ends at the lesion's surface; voxels are 0 and 1."""
    x, y, z = lesion.grid.size_xyz
    grid = crop_grid(lesion.grid, (-1, -1, -1), (x + 2, y + 2, z + 2))
    return Image(np.pad(lesion.voxels.astype(np.float32), 1), grid)
