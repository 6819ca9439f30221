"""Our radiomics beside the IBSI's consensus: `python -m train.experiments.ibsi FOLDER OUT`.

FOLDER has the digital phantom of the Image Biomarker Standardisation Initiative (arXiv:1612.07003) with its consensus:
`image.nii.gz`, `mask.nii.gz` and `reference_values.json`. OUT takes the tables that `docs/ibsi.md` shows.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from pydantic import TypeAdapter, ValidationError

from mmpl.case import Grid, Image
from mmpl.files import write_whole
from mmpl.io.images import read_image
from mmpl.names import Label, Modality
from mmpl.profile import FilterSettings, GrayLevels, RadiomicsSettings, load_profile
from mmpl.radiomics import WAVELET_BANDS, feature_names, filtered_images, log_name, measure
from mmpl.training.command import run_program

CODES = {
    "shape": {
        "MeshVolume": "RNU0", "VoxelVolume": "YEKZ", "SurfaceArea": "C0JK", "SurfaceVolumeRatio": "2PR5",
        "Sphericity": "QCFX", "Maximum3DDiameter": "L0JK", "MajorAxisLength": "TDIC", "MinorAxisLength": "P9VJ",
        "LeastAxisLength": "7J51", "Elongation": "Q3CK", "Flatness": "N17B",
    },
    "firstorder": {
        "10Percentile": "QG58", "90Percentile": "8DWT", "Energy": "N8CA", "Entropy": "TLU2",
        "InterquartileRange": "SALO", "Kurtosis": "IPH6", "Maximum": "84IY", "MeanAbsoluteDeviation": "4FUA",
        "Mean": "Q4LE", "Median": "Y12H", "Minimum": "1GSF", "Range": "2OJQ", "RobustMeanAbsoluteDeviation": "1128",
        "RootMeanSquared": "5ZWQ", "Skewness": "KE2A", "Uniformity": "BJ5W", "Variance": "ECT3",
    },
    "glcm": {
        "Autocorrelation": "QWB0", "ClusterProminence": "AE86", "ClusterShade": "7NFM", "ClusterTendency": "DG8W",
        "Contrast": "ACUI", "Correlation": "NI2N", "DifferenceAverage": "TF7R", "DifferenceEntropy": "NTRS",
        "DifferenceVariance": "D3YU", "Id": "IB1Z", "Idm": "WF0Z", "Idmn": "1QCO", "Idn": "NDRX", "Imc1": "R8DG",
        "Imc2": "JN9H", "InverseVariance": "E8JP", "JointAverage": "60VM", "JointEnergy": "8ZQL",
        "JointEntropy": "TU9B", "MaximumProbability": "GYBY", "SumAverage": "ZGXS", "SumEntropy": "P6QZ",
        "SumSquares": "UR99",
    },
    "glrlm": {
        "GrayLevelNonUniformity": "R5YN", "GrayLevelNonUniformityNormalized": "OVBL", "GrayLevelVariance": "8CE5",
        "HighGrayLevelRunEmphasis": "G3QZ", "LongRunEmphasis": "W4KF", "LongRunHighGrayLevelEmphasis": "3KUM",
        "LongRunLowGrayLevelEmphasis": "IVPO", "LowGrayLevelRunEmphasis": "V3SW", "RunEntropy": "HJ9O",
        "RunLengthNonUniformity": "W92Y", "RunLengthNonUniformityNormalized": "IC23", "RunPercentage": "9ZK5",
        "RunVariance": "SXLW", "ShortRunEmphasis": "22OV", "ShortRunHighGrayLevelEmphasis": "GD3A",
        "ShortRunLowGrayLevelEmphasis": "HTZT",
    },
    "glszm": {
        "GrayLevelNonUniformity": "JNSA", "GrayLevelNonUniformityNormalized": "Y1RO", "GrayLevelVariance": "BYLV",
        "HighGrayLevelZoneEmphasis": "5GN9", "LargeAreaEmphasis": "48P8", "LargeAreaHighGrayLevelEmphasis": "J17V",
        "LargeAreaLowGrayLevelEmphasis": "YH51", "LowGrayLevelZoneEmphasis": "XMSY", "SizeZoneNonUniformity": "4JP3",
        "SizeZoneNonUniformityNormalized": "VB3A", "SmallAreaEmphasis": "P001",
        "SmallAreaHighGrayLevelEmphasis": "HW1V", "SmallAreaLowGrayLevelEmphasis": "5RAI", "ZoneEntropy": "GU8N",
        "ZonePercentage": "P30P", "ZoneVariance": "3NSA",
    },
}  # fmt: skip
"""pyradiomics' name -> the IBSI's code, by class. The planar diameters, TotalEnergy and MCC have none."""

UNCODED = {"Small zone emphasis": "P001"}
"""Codes of features that `reference_values.json` gives without one."""
OTHER_AGGREGATION = "3D, merged"
"""One matrix for all directions, where pyradiomics averages over the directions' own."""

DEFINED_OTHERWISE = {
    "Kurtosis": "in excess of the normal distribution's 3",
    "MajorAxisLength": "covariance over n - 1",
    "MinorAxisLength": "covariance over n - 1",
    "LeastAxisLength": "covariance over n - 1",
}
"""What the IBSI has, where pyradiomics defines a feature in another way."""


@dataclass(frozen=True)
class Reference:
    """One row of `reference_values.json`; without a tolerance, the value has three digits."""

    ibsi_code: str | None
    feature: str
    aggregation: str | None
    value: float
    tolerance: float | None
    consensus: str

    @property
    def code(self) -> str | None:
        """The feature's code, also where the file leaves it out."""
        return self.ibsi_code or UNCODED.get(self.feature)

    @property
    def allowed(self) -> float:
        """Distance from the value that still agrees: the tolerance, else half a unit of the third digit."""
        return self.tolerance or 0.505 * 10 ** (math.floor(math.log10(abs(self.value))) - 2)


@dataclass(frozen=True)
class Comparison:
    """One feature of ours beside the consensus.

    Attributes:
        name: Class and name, as pyradiomics has them: `glcm_Idm`.
        value: What we measure.
        converted: The same as the IBSI defines it.
    """

    name: str
    reference: Reference
    value: float
    converted: float

    @property
    def agrees(self) -> bool:
        """Whether it is as near to the consensus as the reference allows."""
        return abs(self.converted - self.reference.value) <= self.reference.allowed


def read_references(path: Path) -> list[Reference]:
    """Read the consensus.

    Raises:
        ValueError: The file is missing, or is something else; the message names it.
    """
    try:
        return TypeAdapter(list[Reference]).validate_python(json.loads(path.read_text()))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from error
    except (ValidationError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: no list of the IBSI's reference values") from error


def measure_phantom(image: Image, mask: Image) -> dict[str, float]:
    """Measure the phantom by class and name, its intensities 1 to 6 as the gray levels they are."""
    settings = load_profile("paper").radiomics
    settings = settings.model_copy(update={"filters": FilterSettings(log_sigmas_mm=(), wavelet=None)})
    how = GrayLevels(bin_width=1.0, fill=0.0, range=(0.0, 10.0), resegment=None)
    names = _region_names(settings)
    measured = measure(image, mask.voxels == 1, names, settings, how)
    return {name.removeprefix("original_"): value for name, value in measured.items()}


def as_the_ibsi_defines(feature: str, value: float, voxels: int) -> float:
    """Turn a value of ours, of a region of so many voxels, into the IBSI's; most are that already."""
    if feature == "Kurtosis":
        return value - 3
    return value * math.sqrt(voxels / (voxels - 1)) if feature in DEFINED_OTHERWISE else value


def compare(folder: Path) -> tuple[list[Comparison], list[Reference]]:
    """Compare every feature of ours that has a code; give also the references that nothing of ours stands beside.

    Raises:
        InvalidInputError, ValueError: A file is missing or cannot be read.
    """
    references = read_references(folder / "reference_values.json")
    image, mask = read_image(folder / "image.nii.gz"), read_image(folder / "mask.nii.gz")
    measured, voxels = measure_phantom(image, mask), int((mask.voxels == 1).sum())
    by_code = {row.code: row for row in references if row.aggregation != OTHER_AGGREGATION}
    compared = []
    for class_name, codes in CODES.items():
        for feature, code in codes.items():
            name = f"{class_name}_{feature}"
            converted = as_the_ibsi_defines(feature, measured[name], voxels)
            compared.append(Comparison(name, by_code[code], measured[name], converted))
    found = [each.reference for each in compared]
    return compared, [row for row in references if row not in found]


def filter_differences(settings: RadiomicsSettings) -> dict[str, float]:
    """Compare our filters' responses to one bright voxel with those of the IBSI's definitions (arXiv:2006.05470).

    The definitions are scipy's sampled Laplacian of Gaussian, of which ours is sigma squared (mm) times, and one
    convolution along x, y and z each with PyWavelets' low-pass or high-pass decomposition filter, in the order of the
    band's letters.

    Returns:
        The largest difference by filter, as a share of the definition's range.
    """
    import pywt
    import SimpleITK as sitk
    from scipy import ndimage

    around, inside = settings.margin, 21
    size = 2 * around + inside
    bright = np.zeros((size,) * 3, np.float32)
    bright[(size // 2,) * 3] = 1.0
    box = (slice(around, around + inside),) * 3
    image = Image(bright, Grid((size,) * 3, (settings.spacing_mm,) * 3, (0.0, 0.0, 0.0)))
    defined = {}
    for sigma in settings.filters.log_sigmas_mm:
        response = ndimage.gaussian_laplace(bright.astype(float), sigma / settings.spacing_mm, truncate=6)
        defined[log_name(sigma)] = response * sigma**2
    wavelet = pywt.Wavelet(settings.filters.wavelet)
    for band in WAVELET_BANDS:
        response = bright.astype(float)
        for axis, letter in zip((2, 1, 0), band, strict=True):
            taps = wavelet.dec_lo if letter == "L" else wavelet.dec_hi
            response = ndimage.convolve1d(response, taps, axis, mode="constant")
        defined[f"wavelet-{band}"] = response
    differences = {}
    for name, filtered in filtered_images(image, box, settings, defined):
        expected = defined[name][box]
        differences[name] = float(np.abs(sitk.GetArrayFromImage(filtered) - expected).max() / np.ptp(expected))
    return differences


def tables(folder: Path) -> str:
    """Write all that is compared as Markdown."""
    settings = load_profile("paper").radiomics
    compared, others = compare(folder)
    agreeing, merged = sum(c.agrees for c in compared), [r for r in others if r.aggregation == OTHER_AGGREGATION]
    absent = [r for r in others if r.aggregation != OTHER_AGGREGATION]
    lines = _table(
        ("code", "ours", "the IBSI's name", "aggregation", "our value", "consensus", "tolerance", "agrees"),
        [_row(each) for each in compared],
    )
    lines += [
        f"{agreeing} of our {len(compared)} features with a code agree. Of the {len(compared) + len(others)} reference "
        f"values, {len(merged)} are of texture with one merged matrix for all directions, which we do not compute, and "
        f"{len(absent)} have nothing of ours beside them:",
        "",
        ", ".join(f"{row.feature} ({row.code})" for row in absent) + ".",
        "",
        "Ours without a code: " + ", ".join(f"`{name}`" for name in without_code()) + ".",
        "",
    ]
    differences = [(f"`{name}`", f"{100 * share:.2f}%") for name, share in filter_differences(settings).items()]
    lines += _table(("filter", "largest difference from the definition, of its range"), differences)
    return "\n".join(lines).rstrip() + "\n"


def without_code() -> list[str]:
    """Name what we measure of an original image and the IBSI has no code for."""
    settings = load_profile("paper").radiomics
    coded = {f"original_{class_name}_{feature}" for class_name, codes in CODES.items() for feature in codes}
    names = [name for name in _region_names(settings) if name.startswith("original_")]
    return [name.removeprefix("original_") for name in names if name not in coded]


def _region_names(settings: RadiomicsSettings) -> list[str]:
    """Name what is measured of one region, shape and all."""
    prefix = f"{Modality.CT}_{Label.GTVP.name.lower()}_"
    return [name.removeprefix(prefix) for name in feature_names(settings) if name.startswith(prefix)]


def _row(each: Comparison) -> tuple[str, ...]:
    reference, (_, _, feature) = each.reference, each.name.partition("_")
    agrees = "yes" if each.agrees else "no"
    if feature in DEFINED_OTHERWISE:
        agrees += f", as {each.converted:.4g}: {DEFINED_OTHERWISE[feature]}"
    return (
        str(reference.code),
        f"`{each.name}`",
        reference.feature,
        reference.aggregation or "",
        f"{each.value:.4g}",
        f"{reference.value:g}",
        f"{reference.tolerance:g}" if reference.tolerance else "",
        agrees,
    )


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [*(f"| {' | '.join(cells)} |" for cells in (heading, ["---"] * len(heading), *rows)), ""]


def main(
    folder: Annotated[Path, typer.Argument(help="Has image.nii.gz, mask.nii.gz and reference_values.json.")],
    out: Annotated[Path, typer.Argument(help="Takes the tables, as Markdown.")],
) -> None:
    """Measure the IBSI's digital phantom, and write our values beside the consensus."""
    text = tables(folder)
    with write_whole(out) as partial:
        partial.write_text(text)


if __name__ == "__main__":
    run_program(main)
