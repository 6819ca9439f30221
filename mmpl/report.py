"""What is kept of one patient beside the answers, as JSON: each model's own, flags and notes."""

import json
from pathlib import Path
from typing import Any

from mmpl import __version__
from mmpl.pipeline import PatientResult
from mmpl.weights import Ensemble


def describe(result: PatientResult, ensemble: Ensemble) -> dict[str, Any]:
    """Give the content of a report; what was not asked for is left out."""
    content: dict[str, Any] = {
        "patient": result.patient_id,
        "code_version": __version__,
        "profile": ensemble.profile.name,
        "models": [member.name for member in ensemble.members[: result.segmentation.models]],
        "gtvp_ml": round(result.gtvp_ml, 3),
        "gtvn_ml": round(result.gtvn_ml, 3),
        "agreement": round(result.segmentation.agreement, 4),
        "flags": result.flags,
        "clinical_notes": result.notes,
    }
    if result.hpv:
        content["hpv"] = {
            "probability": result.hpv.probability,
            "threshold": ensemble.hpv_threshold,
            "positive": result.hpv.positive,
            "by_model": result.hpv.member_probabilities,
        }
    if result.survival:
        content["risk"] = {"score": result.survival.risk_score, "by_model": result.survival.member_risks}
    return content


def write_report(path: Path, result: PatientResult, ensemble: Ensemble) -> None:
    """Write a report, whole or not at all."""
    partial = path.with_name(f".partial.{path.name}")
    try:
        partial.write_text(json.dumps(describe(result, ensemble), indent=1) + "\n")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
