"""What is kept of one patient beside the answers, as JSON: each model's own, lesions, flags, notes, provenance."""

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from mmpl.calibration import SurvivalCurve
from mmpl.case import SeriesIdentity
from mmpl.evidence import FeatureTable
from mmpl.explanation import Explanation
from mmpl.files import write_whole
from mmpl.findings import in_words, unit_of
from mmpl.io.challenge import read_edition
from mmpl.lesions import Lesion, Uptake
from mmpl.names import CLASS_NAMES, DAYS_PER_YEAR, LESIONS, Task, stage_name
from mmpl.pipeline import PatientResult
from mmpl.provenance import Provenance
from mmpl.schema import ClinicalSchema
from mmpl.segmentation import Segmentation
from mmpl.staging import StageResult
from mmpl.units import NOT_SUV
from mmpl.version import __version__
from mmpl.weights import Ensemble

YEARS = (1, 2, 3, 5)
"""Years after which the probability of no recurrence is given, where follow-up goes so far."""
UPTAKE_COLUMNS = frozenset(field.name for field in fields(Uptake))
"""Measures of a lesion that there are only of a PET in SUV."""

BY_ENSEMBLE, BY_PERSON = "ensemble", "person"
"""Whose mask the answers rest on."""


def describe(
    result: PatientResult, ensemble: Ensemble, source: str | None = None, provenance: Provenance | None = None
) -> dict[str, Any]:
    """Give the content of a report; what was not asked for is left out.

    Args:
        result: The patient's answers.
        ensemble: The ensemble that gave them.
        source: What tells the images and the record apart from others of that name (`Cohort.fingerprint`).
        provenance: Manifest of the answer.
    """
    content: dict[str, Any] = {
        "patient": result.patient_id,
        "code_version": __version__,
        "edition": read_edition().name,
        "profile": ensemble.profile.name,
        "weights": ensemble.identity,
        "source": source,
        "models": [member.name for member in ensemble.members[: result.segmentation.models]],
        "gtvp_ml": round(result.gtvp_ml, 3),
        "gtvn_ml": round(result.gtvn_ml, 3),
        "mask": describe_mask(result.segmentation),
        "agreement": round(result.segmentation.agreement, 4),
        "flags": result.flags,
        "unlike_training": result.unlike_training,
        "clinical_notes": result.notes,
    }
    if result.lesions is not None:
        content["lesions"] = [describe_lesion(lesion) for lesion in result.lesions]
    series = {"ct": result.ct_series, "pet": result.pet_series}
    if any(series.values()):
        content["series"] = {name: asdict(identity) for name, identity in series.items() if identity}
    if result.suv:
        content["suv"] = asdict(result.suv)
    if result.dose:
        content["dose"] = describe_dose(result.dose)
    if result.hpv:
        content["hpv"] = {
            "probability": result.hpv.probability,
            "threshold": ensemble.hpv_threshold,
            "positive": result.hpv.positive,
            "by_model": result.hpv.member_probabilities,
            "calibrated": result.hpv.calibrated,
            "prevalence": result.hpv.prevalence,
            "conformal_set": result.hpv.conformal_set,
            "known": result.hpv.known,
            "why": describe_explanation(result.hpv.explanation, ensemble.profile.clinical),
        }
    if result.survival:
        content["risk"] = {
            "score": result.survival.risk_score,
            "by_model": result.survival.member_risks,
            "why": describe_explanation(result.survival.explanation, ensemble.profile.clinical),
        }
        if result.survival.curve:
            content["risk"]["percentile"] = result.survival.percentile
            content["risk"]["recurrence_free_days"] = result.survival.recurrence_free_days
            content["no_recurrence"] = describe_curve(result.survival.curve)
    for name, task in (("t_stage", Task.T_STAGE), ("n_stage", Task.N_STAGE)):
        if stage := result.stage_of(task):
            content[name] = describe_stage(task, stage)
    if provenance:
        content["provenance"] = asdict(provenance)
    return content


def describe_stage(task: Task, result: StageResult) -> dict[str, Any]:
    """Give a stage, and the scores that it was made of."""
    return {
        "stage": stage_name(task, result.stage),
        "score": result.score,
        "by_model": result.member_scores,
        "by_rule": result.by_rule,
    }


def describe_mask(segmentation: Segmentation) -> dict[str, Any]:
    """Say whose mask it is and, of a person's, how it differs from the ensemble's own."""
    replaced = segmentation.replaced
    if replaced is None:
        return {"by": BY_ENSEMBLE}
    return {
        "by": BY_PERSON,
        "file": replaced.given.source,
        "dice_with_ensemble": {label.name.lower(): round(replaced.dice(label), 4) for label in LESIONS},
        "ensemble_ml": {label.name.lower(): round(replaced.volume_ml(label), 3) for label in LESIONS},
    }


def describe_lesion(lesion: Lesion) -> dict[str, str | float | None]:
    """Give a lesion's measures by their names, which say the units; those of the PET only where it is in SUV."""
    x, y, z = (round(value, 1) for value in lesion.center_mm)
    found: dict[str, str | float | None] = {
        "class": CLASS_NAMES[lesion.label],
        "volume_ml": round(lesion.volume_ml, 3),
        "longest_diameter_mm": round(lesion.diameter_mm, 1),
    }
    if lesion.uptake:
        found |= {name: round(value, 3) for name, value in asdict(lesion.uptake).items()}
    return found | {
        "side": lesion.side,
        "x_mm": x,
        "y_mm": y,
        "z_mm": z,
        "from_primary_mm": None if lesion.from_primary_mm is None else round(lesion.from_primary_mm, 1),
        "found_by": None if lesion.found_by is None else round(lesion.found_by, 3),
    }


def describe_dose(dose: FeatureTable) -> dict[str, float | None]:
    """Give every measure of the planned dose by its name, which says the unit; None where it is missing."""
    values = dict(zip(dose.names, dose.values[0].tolist(), strict=True))
    return {name: None if math.isnan(value) else value for name, value in values.items()}


def describe_curve(curve: SurvivalCurve) -> dict[str, Any]:
    """Give the calibrated probability of no recurrence after some years, as far as follow-up goes, with intervals."""
    known = [years for years in YEARS if years * DAYS_PER_YEAR <= curve.days[-1]]
    after = {
        str(years): dict(zip(("probability", "low", "high"), curve.at(years * DAYS_PER_YEAR), strict=True))
        for years in known
    }
    return {
        "after_years": after,
        "median_days": curve.median_days,
        "restricted_mean_days": curve.restricted_mean_days,
        "follow_up_days": float(curve.days[-1]),
        "curve": {"days": curve.days.tolist(), "probability": curve.probability.tolist()},
    }


def describe_explanation(explanation: Explanation | None, schema: ClinicalSchema) -> dict[str, Any] | None:
    """Give the parts of a score, the largest first: with the baseline they add up to it."""
    if explanation is None:
        return None
    findings = [
        {
            "finding": each.name,
            "in_words": in_words(each.name),
            "value": each.value,
            "unit": unit_of(each.name, schema),
            "percentile": each.percentile,
            "adds": each.added,
        }
        for each in explanation.contributions
    ]
    return {"baseline": explanation.baseline, "findings": findings}


def write_report(
    path: Path,
    result: PatientResult,
    ensemble: Ensemble,
    source: str | None = None,
    provenance: Provenance | None = None,
) -> None:
    """Write a report, whole or not at all."""
    with write_whole(path) as partial:
        partial.write_text(json.dumps(describe(result, ensemble, source, provenance), indent=1) + "\n")


def write_radiomics(path: Path, table: FeatureTable) -> None:
    """Write one patient's radiomics as CSV, a feature a row; blank where it is missing."""
    with write_whole(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("feature", "value"))
        values = zip(table.names, table.values[0].tolist(), strict=True)
        writer.writerows((name, "" if math.isnan(value) else repr(value)) for name, value in values)


@dataclass(frozen=True)
class ReportedAnswer:
    """The ensemble's answers as a report holds them, for a table of many patients.

    Attributes:
        weights: Identity of the ensemble.
        source: What tells the images and the record that were answered apart from others; None where it was not kept.
        models: Names of its models that answered, in its order.
        risk_score: Recurrence risk, higher is worse; None where it was not answered.
        hpv_probability, hpv_positive: Mean of the models' probabilities, and the decision; None likewise.
        hpv_calibrated, hpv_prevalence: Calibrated probability, and the prevalence that it is given for; None likewise,
            or of weights that were not calibrated.
        hpv_set: Status that the score leaves at 90%, or that it is undecided; None where the weights hold no sets.
        no_recurrence: Calibrated probability of no recurrence after each of YEARS; None beyond follow-up, too.
        risk_percentile: Share of the training patients, 0 to 100, whose risk is lower; None likewise.
        gtvp_ml, gtvn_ml: Volumes, ml.
        unlike_training: Distance of the images from those of training, above 1 is flagged; None where it is not known.
        mask_by: Whose mask it is, BY_ENSEMBLE or BY_PERSON.
        lesions: What `describe_lesion` gives of each; none of a report that an older version wrote.
        weight_kg: Weight that a DICOM PET was brought to SUV by, kg; None where there was none.
        t_stage, n_stage: Stages as the challenge writes them; None where they were not answered.
        hpv_known: Status that was given, on which the risk rests; None where none was.
        recurrence_free_days: Mean days without recurrence; None where the weights do not know them.
        edition: Edition of the challenge that was answered; None of a report that an older version wrote.
        ct_series, pet_series: DICOM series that were answered; None where the images were none, or an older version
            wrote the report.
    """

    patient_id: str
    weights: str
    source: str | None
    models: tuple[str, ...]
    risk_score: float | None
    hpv_probability: float | None
    hpv_positive: bool | None
    hpv_calibrated: float | None
    hpv_prevalence: float | None
    hpv_set: str | None
    no_recurrence: tuple[float | None, ...]
    risk_percentile: float | None
    gtvp_ml: float
    gtvn_ml: float
    flags: tuple[str, ...]
    unlike_training: float | None
    mask_by: str = BY_ENSEMBLE
    lesions: tuple[dict[str, Any], ...] = ()
    weight_kg: float | None = None
    t_stage: str | None = None
    n_stage: str | None = None
    hpv_known: bool | None = None
    recurrence_free_days: float | None = None
    edition: str | None = None
    ct_series: SeriesIdentity | None = None
    pet_series: SeriesIdentity | None = None

    @property
    def pet_not_suv(self) -> bool:
        """Whether the PET was answered as not being in SUV."""
        return any(flag.startswith(NOT_SUV) for flag in self.flags)


def read_report(path: Path) -> ReportedAnswer | None:
    """Read the answers back from a report; None where the file is not a whole report of this version."""
    try:
        content = json.loads(path.read_text())
        risk, hpv = content.get("risk") or {}, content.get("hpv") or {}
        after = content.get("no_recurrence", {}).get("after_years", {})
        return ReportedAnswer(
            patient_id=str(content["patient"]),
            weights=str(content["weights"]),
            source=content["source"],
            models=tuple(map(str, content["models"])),
            risk_score=float(risk["score"]) if risk else None,
            hpv_probability=float(hpv["probability"]) if hpv else None,
            hpv_positive=bool(hpv["positive"]) if hpv else None,
            hpv_calibrated=_number(hpv.get("calibrated")),
            hpv_prevalence=_number(hpv.get("prevalence")),
            hpv_set=hpv.get("conformal_set"),
            no_recurrence=tuple(_number(after.get(str(years), {}).get("probability")) for years in YEARS),
            risk_percentile=_number(risk.get("percentile")),
            gtvp_ml=float(content["gtvp_ml"]),
            gtvn_ml=float(content["gtvn_ml"]),
            flags=tuple(map(str, content["flags"])),
            unlike_training=_number(content.get("unlike_training")),
            mask_by=content.get("mask", {}).get("by", BY_ENSEMBLE),
            lesions=tuple(map(dict, content.get("lesions", ()))),
            weight_kg=_number((content.get("suv") or {}).get("weight_kg")),
            t_stage=content.get("t_stage", {}).get("stage"),
            n_stage=content.get("n_stage", {}).get("stage"),
            hpv_known=hpv.get("known"),
            recurrence_free_days=_number(risk.get("recurrence_free_days")),
            edition=content.get("edition"),
            ct_series=_series(content, "ct"),
            pet_series=_series(content, "pet"),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def read_curve(path: Path) -> tuple[list[float], list[float]] | None:
    """Read days and calibrated probabilities of no recurrence from a report; None where it has none."""
    try:
        curve = json.loads(path.read_text())["no_recurrence"]["curve"]
        days, probability = ([float(value) for value in curve[name]] for name in ("days", "probability"))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return (days, probability) if len(days) == len(probability) > 1 else None


def _series(content: Mapping[str, Any], name: str) -> SeriesIdentity | None:
    identity = content.get("series", {}).get(name)
    return SeriesIdentity(**identity) if identity else None


def _number(value: object) -> float | None:
    return None if value is None else float(value)  # type: ignore[arg-type]
