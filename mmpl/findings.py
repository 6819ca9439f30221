"""Findings in plain words: what a column of evidence or a clinical field is called for a person, and its unit."""

import re

from mmpl.evidence import ABSENT, DEEP_SCORE, EXPECTED_DAYS_SCORE, HPV_PROBABILITY
from mmpl.names import LESIONS, Label
from mmpl.schema import ClinicalSchema, ContinuousField

_WORDS = {Label.GTVP: "primary tumor", Label.GTVN: "nodes"}
_LESIONS = {label.name.lower(): _WORDS[label] for label in LESIONS}
_SCORES = {
    DEEP_SCORE: "the HPV networks' score",
    EXPECTED_DAYS_SCORE: "the survival networks' expected time without recurrence",
    HPV_PROBABILITY: "the forests' HPV probability, or the known status",
}
_CLASSES = {
    "shape": "shape",
    "firstorder": "intensity",
    "glcm": "gray-level co-occurrence",
    "glrlm": "gray-level runs",
    "glszm": "gray-level zones",
}
_STANDARD_SCORE = "SD from the mean of the training patients"
_LINEAR = {
    "10Percentile",
    "90Percentile",
    "InterquartileRange",
    "Maximum",
    "Mean",
    "MeanAbsoluteDeviation",
    "Median",
    "Minimum",
    "Range",
    "RobustMeanAbsoluteDeviation",
    "RootMeanSquared",
}
_SQUARED = {"Energy", "Variance"}
_INTENSITY = {"ct": "HU", "pet": "SUV"}


def in_words(name: str) -> str:
    """Say what a column of evidence, or a clinical field, is; one that is not known is given back."""
    if name in _SCORES:
        return _SCORES[name]
    if name in ABSENT:
        return f"no {dict(zip(ABSENT, _LESIONS.values(), strict=True))[name]} found (1), or some (0)"
    parts = _parts(name)
    if parts is None:
        return name
    modality, lesion, image, kind, feature = parts
    words = re.sub(r"(?<=[a-z])(?=[A-Z0-9])|(?<=[A-Z0-9])(?=[A-Z][a-z])", " ", feature)
    seen = "" if kind == "shape" else f" on {modality.upper()}"
    return f"{_LESIONS[lesion]}{seen}{_filtered(image)}, {_CLASSES.get(kind, kind)}: {words}"


def unit_of(name: str, schema: ClinicalSchema) -> str:
    """Give the unit of a column of evidence, or of a clinical field; nothing where it has none."""
    if name in (DEEP_SCORE, EXPECTED_DAYS_SCORE):
        return _STANDARD_SCORE
    for field in schema.fields:
        if field.name == name and isinstance(field, ContinuousField):
            return field.unit
    parts = _parts(name)
    if parts is None:
        return ""
    modality, _, _, kind, feature = parts
    if kind == "shape":
        return _length_unit(feature)
    if kind != "firstorder":
        return ""  # filters are linear, and keep the image's unit
    if feature == "TotalEnergy":
        return f"{_INTENSITY[modality]}² mm³"
    if feature in _SQUARED:
        return f"{_INTENSITY[modality]}²"
    return _INTENSITY[modality] if feature in _LINEAR else ""


def _length_unit(feature: str) -> str:
    if feature.endswith("SurfaceVolumeRatio"):
        return "1/mm"
    if feature.endswith("SurfaceArea"):
        return "mm²"
    if feature.endswith("Volume"):
        return "mm³"
    return "mm" if "Length" in feature or "Diameter" in feature else ""


def _filtered(image: str) -> str:
    if found := re.fullmatch(r"log-sigma-(\d+)-(\d+)-mm-3D", image):
        return f", Laplacian of Gaussian of {float('.'.join(found.groups())):g} mm"
    return f", {image.replace('-', ' ')}" if image != "original" else ""


def _parts(name: str) -> tuple[str, str, str, str, str] | None:
    """Part a radiomics column into modality, lesion, image, class and feature; None of other columns."""
    parts = name.split("_")
    if len(parts) != 5 or parts[0] not in _INTENSITY or parts[1] not in _LESIONS:
        return None
    return parts[0], parts[1], parts[2], parts[3], parts[4]
