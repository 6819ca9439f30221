"""What the models make of the evidence of stages 2 and 3: forests and Cox models, then the ensemble's answer and why.

It is the same for a case with images and for a row of a table; only where the evidence comes from differs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mmpl.case import Case, Patient
from mmpl.evidence import HPV_PROBABILITY, Evidence, Floats
from mmpl.explanation import Explanation, Share, explain
from mmpl.hpv import HpvResult, ensemble
from mmpl.names import Stage, status_name
from mmpl.survival import SurvivalResult, combine
from mmpl.weights import Ensemble, EnsembleMember

CLINICAL_ASSUMED = "clinical fields assumed"
HPV_KNOWN = "the risk rests on a known HPV status"
HPV_UNUSED = "the known HPV status has no part in the risk: these models were trained without"


def integrate_hpv(
    weights: Ensemble,
    members: Sequence[EnsembleMember],
    seen: Sequence[Evidence],
    patient: Case | Patient,
    prevalence: float | None = None,
) -> HpvResult:
    """Answer stage 2 for one patient: the mean of the forests' probabilities.

    Args:
        weights: The ensemble.
        members: Models of it that answer.
        seen: Evidence of the patient as each of them sees it, by `hpv_evidence`.
        patient: What is stated of the patient, for the explanation, and an HPV status that is known.
        prevalence: Share of HPV-positive patients where the patient comes from; by default that of training.
    """
    assert weights.hpv_threshold is not None
    pairs = list(zip(members, seen, strict=True))
    probabilities = [float(member.forest.probability(evidence)[0]) for member, evidence in pairs]
    shares = [member.forest.explain(evidence) for member, evidence in pairs]
    result = ensemble(probabilities, weights.hpv_threshold, weights.calibration.hpv, prevalence)
    return replace(result, explanation=_explain(weights, members, shares, seen, patient), known=patient.known_hpv)


def integrate_survival(
    weights: Ensemble,
    members: Sequence[EnsembleMember],
    seen: Sequence[Evidence],
    patient: Case | Patient,
    curve_days: Floats,
    member_curves: Floats,
) -> SurvivalResult:
    """Answer stage 3 for one patient: the mean of the Cox models' standardized risks.

    Args:
        weights: The ensemble.
        members: Models of it that answer.
        seen: Evidence of the patient as each of them sees it, by `survival_evidence`.
        patient: What is stated of the patient, for the explanation.
        curve_days: (T,) days of the networks' curves; none without networks.
        member_curves: (models, T) each network's probability of no relapse by then.
    """
    tables = [member.survival for member in members]
    hazards = [float(each.cox.log_partial_hazard(evidence)[0]) for each, evidence in zip(tables, seen, strict=True)]
    shares = [each.cox.explain(evidence, each.risk_scale) for each, evidence in zip(tables, seen, strict=True)]
    scales = [each.risk_scale for each in tables]
    rests_on_known = Stage.HPV in weights.stages and patient.known_hpv is not None
    result = combine(hazards, scales, curve_days, member_curves, weights.calibration.of_risk(rests_on_known))
    return replace(result, explanation=_explain(weights, members, shares, seen, patient))


def hpv_seen_by_cox(hpv: HpvResult | None, patient: Case | Patient) -> list[float] | None:
    """Give what each model's Cox model takes for the HPV status: its own forest's probability, or a known one.

    Returns:
        A number for each model; None for an ensemble without stage 2.
    """
    if hpv is None:
        return None
    if patient.known_hpv is None:
        return list(hpv.member_probabilities)
    return [float(patient.known_hpv)] * len(hpv.member_probabilities)


def stated_flags(
    members: Sequence[EnsembleMember], patient: Case | Patient, hpv: HpvResult | None, survival: SurvivalResult | None
) -> list[str]:
    """Say which clinical fields the models had to assume, and whether the risk rests on a known HPV status."""
    flags = list[str]()
    if fields := [name for member in members for name in member.assumed_fields(patient.clinical)]:
        flags.append(f"{CLINICAL_ASSUMED}: {', '.join(dict.fromkeys(fields))}")
    if hpv and survival and patient.known_hpv is not None:
        flags.append(f"{HPV_KNOWN} ({status_name(patient.known_hpv)})")
    if survival and not hpv and patient.known_hpv is not None:
        flags.append(HPV_UNUSED)
    return flags


def _explain(
    weights: Ensemble,
    members: Sequence[EnsembleMember],
    shares: Sequence[Share],
    seen: Sequence[Evidence],
    patient: Case | Patient,
) -> Explanation:
    field_of = {column: name for member in members for column, name in member.encoder.field_of.items()}
    stated: Mapping[str, float | str | None] = patient.clinical.values
    if patient.known_hpv is not None:
        stated = {**stated, HPV_PROBABILITY: status_name(patient.known_hpv)}
    return explain(shares, seen, stated, field_of, weights.reference)
