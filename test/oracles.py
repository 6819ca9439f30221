"""The plain ways: what a user would write with the libraries' own calls. Tests hold the fast ways against them."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage
from torch import nn

from mmpl.case import Case, Image
from mmpl.geometry import to_sitk
from mmpl.names import Label
from mmpl.profile import GrayLevels, RadiomicsSettings, load_profile
from mmpl.radiomics import log_name

PAPER = load_profile("paper").preprocess


@dataclass(frozen=True)
class Literal:
    """What the definition gives, on the whole common grid: CT in HU, PET in SUV, the head and the patch's start."""

    ct: NDArray[np.float32]
    pet: NDArray[np.float32]
    grid: sitk.Image
    centroid_xyz: NDArray[np.float64]
    start_xyz: NDArray[np.int64]

    def patch(self, whole: NDArray[np.float32], size_xyz: tuple[int, int, int], fill: float) -> NDArray[np.float32]:
        """Crop, and pad where the patch leaves the grid."""
        result = np.full(size_xyz[::-1], fill, np.float32)
        inner, outer = [], []
        for start, size, count in zip(self.start_xyz[::-1], size_xyz[::-1], whole.shape, strict=True):
            first, last = max(start, 0), min(start + size, count)
            outer.append(slice(first, last))
            inner.append(slice(first - start, last - start))
        result[tuple(inner)] = whole[tuple(outer)]
        return result


def carry_out_literally(case: Case) -> Literal:
    """Follow the `paper` profile's definition with SimpleITK alone, holding the whole common grid."""
    ct, pet = to_sitk(case.ct), to_sitk(case.pet)
    bounds = []
    for image in (ct, pet):
        ends = [(-0.5, n - 0.5) for n in image.GetSize()]
        corners = [(i, j, k) for i in ends[0] for j in ends[1] for k in ends[2]]
        points = np.array([image.TransformContinuousIndexToPhysicalPoint(corner) for corner in corners])
        bounds.append((points.min(axis=0), points.max(axis=0)))
    lower, upper = np.maximum(bounds[0][0], bounds[1][0]), np.minimum(bounds[0][1], bounds[1][1])
    size = [int(n) for n in np.floor(upper - lower + 1e-3)]
    grid = sitk.Image(size, sitk.sitkUInt8)
    grid.SetOrigin((lower + 0.5).tolist())
    whole_ct, whole_pet = (
        sitk.GetArrayFromImage(
            sitk.Resample(sitk.Cast(image, sitk.sitkFloat32), grid, sitk.Transform(), sitk.sitkBSpline, fill)
        )
        for image, fill in ((ct, -1024.0), (pet, 0.0))
    )

    depth = min(int(np.ceil(size[2] / 4)), 400)
    slab = whole_pet[-depth:].astype(np.float64)
    hot = (slab - slab.mean()) / slab.std() > 1.0
    parts, _ = ndimage.label(hot, structure=np.ones((3, 3, 3)))
    largest = np.bincount(parts.ravel())[1:].argmax() + 1
    centroid = np.array(ndimage.center_of_mass(parts == largest))[::-1]
    centroid[2] += size[2] - depth
    start = []
    for center, count, wanted in zip(centroid, size, PAPER.roi_size_xyz, strict=True):
        if count < wanted:
            start.append(-((wanted - count) // 2))
        else:
            start.append(int(np.clip(np.rint(center - (wanted - 1) / 2), 0, count - wanted)))
    return Literal(whole_ct, whole_pet, grid, centroid, np.array(start))


def with_instance_norm(network: nn.Module) -> nn.Module:
    """Put PyTorch's own instance norm wherever the published network has one, in place."""
    for module in list(network.modules()):
        for name, norm in list(module.named_children()):
            if isinstance(norm, nn.GroupNorm) and norm.num_groups == norm.num_channels:
                plain = nn.InstanceNorm3d(norm.num_channels, norm.eps, affine=True)
                plain.load_state_dict(norm.state_dict())
                setattr(module, name, plain)
    return network


def measure_plainly(
    image: Image,
    mask: Image,
    label: Label,
    settings: RadiomicsSettings,
    how: GrayLevels,
    names: Iterable[str] | None = None,
) -> dict[str, float]:
    """Let pyradiomics filter and measure a whole image, as its README shows, with our settings.

    Asked for some features by name it makes the images that those need, and measures those features, and no others, on
    each: it cannot be told which on which, nor to make one band of a wavelet alone.
    """
    from radiomics.featureextractor import RadiomicsFeatureExtractor

    sigmas, kept = list(settings.filters.log_sigmas_mm), how.resegment and list(how.resegment)
    original = wavelet = True
    classes = {name: list[str]() for name in map(str, settings.feature_classes)}
    if names is not None:
        asked = [name.split("_") for name in names]
        if not asked:
            return {}
        kinds = {image for image, *_ in asked}
        original, wavelet = "original" in kinds, any(kind.startswith("wavelet") for kind in kinds)
        sigmas = [sigma for sigma in sigmas if log_name(sigma) in kinds]
        classes = {name: [feature for _, other, feature in asked if other == name] for _, name, _ in asked}
    extractor = RadiomicsFeatureExtractor(
        binWidth=how.bin_width, additionalInfo=False, label=int(label), resegmentRange=kept
    )
    extractor.disableAllImageTypes()
    if original:
        extractor.enableImageTypeByName("Original")
    if sigmas:
        extractor.enableImageTypeByName("LoG", customArgs={"sigma": sigmas})
    if wavelet:
        extractor.enableImageTypeByName("Wavelet", customArgs={"wavelet": settings.filters.wavelet})
    extractor.disableAllFeatures()
    extractor.enableFeaturesByName(**classes)
    features = extractor.execute(to_sitk(image), to_sitk(mask))
    return {name: float(value) for name, value in features.items()}
