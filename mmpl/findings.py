"""Findings in plain words: what a column of evidence, a clinical field or a flag is for a person, and its unit."""

import re

from mmpl.dose import DOSE_LEFT_OUT, IN_CENTIGRAY, PARTLY_COVERED
from mmpl.evidence import ABSENT, DEEP_SCORE, DOSE_KNOWN, EXPECTED_DAYS_SCORE, HPV_PROBABILITY
from mmpl.integration import CLINICAL_ASSUMED, HPV_KNOWN
from mmpl.io.images import NO_PLACE
from mmpl.names import LESIONS, Label
from mmpl.pipeline import NO_DEEP_EVIDENCE, NO_DOSE, OUTSIDE_PATCH, UNLIKE_TRAINING
from mmpl.preprocess import FIELD_OF_VIEW_CUT, HEAD_NOT_FOUND, NO_PET_SIGNAL
from mmpl.radiomics import PET_COVERS
from mmpl.schema import CategoricalField, ClinicalSchema, ContinuousField
from mmpl.segmentation import GIVEN, LOW_AGREEMENT, NO_LESION, NO_OVERLAP
from mmpl.staging import NO_PRIMARY
from mmpl.units import NOT_HU, NOT_SUV, SHIFTED, UNWRAPPED

_WORDS = {Label.GTVP: "primary tumor", Label.GTVN: "nodes"}
_LESIONS = {label.name.lower(): _WORDS[label] for label in LESIONS}
_SCORES = {
    DEEP_SCORE: "the HPV networks' score",
    EXPECTED_DAYS_SCORE: "the survival networks' expected time without recurrence",
    HPV_PROBABILITY: "the forests' HPV score, or the known status",
    DOSE_KNOWN: "planned dose known (1), or not (0)",
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
_INTENSITY = {"ct": "HU", "pet": "SUV", "dose": "Gy"}
_MODALITIES = {"ct": "CT", "pet": "PET", "dose": "the planned dose"}
_DOSE = re.compile(r"dose_(?P<lesion>gtvp|gtvn)_(?:(?P<mean>mean|min)|d(?P<percent>\d+)|v(?P<level>\d+))_(?:gy|share)")


def in_words(name: str) -> str:
    """Say what a column of evidence, or a clinical field, is; one that is not known is given back."""
    if name in _SCORES:
        return _SCORES[name]
    if name in ABSENT:
        return f"no {dict(zip(ABSENT, _LESIONS.values(), strict=True))[name]} found"
    if dose := _DOSE.fullmatch(name):
        return f"{_LESIONS[dose['lesion']]}, planned dose: {_dose_in_words(dose)}"
    parts = _parts(name)
    if parts is None:
        return name
    modality, lesion, image, kind, feature = parts
    words = re.sub(r"(?<=[a-z])(?=[A-Z0-9])|(?<=[A-Z0-9])(?=[A-Z][a-z])", " ", feature)
    seen = "" if kind == "shape" else f" on {_MODALITIES[modality]}"
    return f"{_LESIONS[lesion]}{seen}{_filtered(image)}, {_CLASSES.get(kind, kind)}: {words}"


def unit_of(name: str, schema: ClinicalSchema) -> str:
    """Give the unit of a column of evidence, or of a clinical field; nothing where it has none."""
    if name in (DEEP_SCORE, EXPECTED_DAYS_SCORE):
        return _STANDARD_SCORE
    for field in schema.fields:
        if field.name == name and isinstance(field, ContinuousField):
            return field.unit
    if _DOSE.fullmatch(name):
        return "Gy" if name.endswith("_gy") else "of its volume"
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


def value_in_words(name: str, value: float | str | None, schema: ClinicalSchema) -> str:
    """Say a finding's value with its unit, and what the code of a clinical level means."""
    if value is None:
        return "missing"
    if name in ABSENT:
        return "yes" if value else "no"
    for field in schema.fields:
        if field.name == name and isinstance(field, CategoricalField):
            words = _level_in_words(field, str(value), schema)
            return f"{words} ({value})" if words and str(value).isdigit() else str(value)
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return f"{text} {unit_of(name, schema)}".strip()


def _level_in_words(field: CategoricalField, code: str, schema: ClinicalSchema) -> str:
    """Find the word for a level: one that no other field has, as chemoradiotherapy rather than yes; blank for none."""
    words = [word for word in field.levels.get(code, ()) if len(word) > 1 and code not in word]
    others = [each for each in schema.fields if isinstance(each, CategoricalField) and each is not field]
    shared = {word for each in others for spellings in each.levels.values() for word in spellings}
    return next((word for word in words if word not in shared), words[0] if words else "")


def _dose_in_words(dose: re.Match[str]) -> str:
    if dose["level"]:
        return f"share that gets {dose['level']} Gy or more"
    if dose["percent"]:
        return f"what {dose['percent']}% of the volume get or more (D{dose['percent']})"
    return {"mean": "mean", "min": "lowest"}[dose["mean"]]


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


_FLAGS = {
    NO_LESION: "No tumor and no node were found.",
    NO_DEEP_EVIDENCE: None,  # which that says
    OUTSIDE_PATCH: "The contours lie outside the region that the models look at: what networks say has no part.",
    GIVEN: "The contours are a person's, not the models'.",
    LOW_AGREEMENT: "The models disagree about the contours: look at them closely.",
    NO_PRIMARY: "No primary tumor was found: the T stage is that of training patients of whom none was found either.",
    UNLIKE_TRAINING: (
        "The images are unlike those that the models were trained on: what is said here may not hold for them."
    ),
    HEAD_NOT_FOUND: "No head was found in the PET: the models looked at the middle of the upper part of the scan.",
    NO_PET_SIGNAL: "The PET has no signal: the contours rest on the CT alone.",
    FIELD_OF_VIEW_CUT: "The scan is smaller than the region that the models look at: lesions may lie outside it.",
    NO_PLACE: "An image does not say how large its voxels are: volumes and distances may be wrong.",
    NOT_HU: "The CT may not be in HU: what is said here may be wrong.",
    NOT_SUV: "The PET is not in SUV: no uptake was measured, and no PET feature has a part in the answers.",
    NO_OVERLAP: "Time was short: the contours are coarser than they could be.",
    NO_DOSE: "There is no planned dose, which the models read: a typical patient's stands in.",
    IN_CENTIGRAY: "The planned dose was taken to be in cGy, by its values.",
    UNWRAPPED: None,
    SHIFTED: None,
}
_FLAG_BEGINNINGS = {
    CLINICAL_ASSUMED: "The models read fields that were not given, and a typical patient's stand in",
    HPV_KNOWN: "The recurrence risk rests on the HPV status that was given",
    DOSE_LEFT_OUT: "The planned dose was left out",
    PARTLY_COVERED: "The planned dose covers no more than",
    PET_COVERS: "The PET covers no more than",
    "time budget": "Time was short, and not all models answered",
    "out of GPU memory": None,
    "half precision": None,
}


_OUTCOMES_REST = {
    NO_LESION: " HPV status and recurrence risk rest on that and the clinical record.",
    GIVEN: " HPV status and recurrence risk rest on them.",
}


def flag_in_words(flag: str, outcomes: bool = True) -> str | None:
    """Say what a flag means for a reader of the answers; None where it means nothing, and a new one as it is.

    Args:
        flag: A flag of a `PatientResult`.
        outcomes: Whether HPV status or risk is among the answers.
    """
    if flag in _FLAGS:
        words = _FLAGS[flag]
        return words + _OUTCOMES_REST[flag] if words and outcomes and flag in _OUTCOMES_REST else words
    for beginning, words in _FLAG_BEGINNINGS.items():
        if flag.startswith(beginning):
            return words and f"{words}{flag.removeprefix(beginning)}."
    return flag
