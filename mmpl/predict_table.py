"""Answers for the patients of a table, without images, by weights that were fitted to tables (`train.tabular`)."""

import csv
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmpl.algorithm import why_no_days
from mmpl.calibration import check_prevalence
from mmpl.case import InvalidInputError, Patient
from mmpl.errors import some_of
from mmpl.evidence import HPV_PROBABILITY, Evidence, FeatureTable, hpv_evidence, survival_evidence
from mmpl.files import OverwriteError, write_whole
from mmpl.hpv import HpvResult
from mmpl.integration import hpv_seen_by_cox, integrate_hpv, integrate_survival, stated_flags
from mmpl.io.challenge import read_edition
from mmpl.io.features import read_features
from mmpl.io.patients import PatientTable, read_patients
from mmpl.names import DAYS_PER_YEAR, NO_RECURRENCE, PREDICTIONS_FILE, Column, Stage
from mmpl.predict import COLUMNS, decimals, flag
from mmpl.report import YEARS, read_report
from mmpl.schema import ClinicalSchema
from mmpl.survival import SurvivalResult
from mmpl.weights import Ensemble, WeightsError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TableAnswer:
    """The answers for one row of a table.

    Attributes:
        hpv: HPV status and the models' probabilities; None where the weights have no stage 2.
        survival: Recurrence risk, higher is worse; None where the weights have no stage 3. It has no network's curve.
        flags: Findings that the reader of the answers should know.
    """

    patient_id: str
    hpv: HpvResult | None
    survival: SurvivalResult | None
    flags: tuple[str, ...]


def answer_patient(
    ensemble: Ensemble, patient: Patient, radiomics: FeatureTable, hpv_prevalence: float | None = None
) -> TableAnswer:
    """Answer one patient.

    Args:
        ensemble: Weights that were fitted to tables.
        patient: Record, and an HPV status where the risk may rest on it; the outcome is never looked at.
        radiomics: Features, one row.
        hpv_prevalence: Share of HPV-positive patients where the patient comes from; by default that of training.

    Raises:
        ValueError: A model reads a feature that is not there; the message names it.
    """
    members, hpv, survival = ensemble.members, None, None
    records = [member.encoder.encode([patient.clinical]) for member in members]
    if Stage.HPV in ensemble.stages:
        seen = [hpv_evidence(None, radiomics, record) for record in records]
        hpv = integrate_hpv(ensemble, members, seen, patient, hpv_prevalence)
    if Stage.SURVIVAL in ensemble.stages:
        statuses = hpv_seen_by_cox(hpv, patient)
        seen = list[Evidence]()
        for position, record in enumerate(records):
            seen.append(survival_evidence(None, [statuses[position]] if statuses else None, radiomics, record))
        no_curves = np.empty(0), np.empty((len(members), 0))
        survival = integrate_survival(ensemble, members, seen, patient, *no_curves)
    return TableAnswer(patient.patient_id, hpv, survival, tuple(stated_flags(members, patient, hpv, survival)))


def predict_table(
    ensemble: Ensemble,
    table: Path,
    out: Path,
    radiomics: Path | None = None,
    where: Mapping[str, str] | None = None,
    hpv_prevalence: float | None = None,
) -> PatientTable:
    """Answer every patient of a table, and write `predictions.csv`.

    Its outcomes are never looked at, but for HPV status in an edition that has it as an input, as in `mmpl.predict`.

    Args:
        ensemble: Weights that were fitted to tables.
        table: Records, a CSV file or a workbook.
        out: Folder that takes the answers.
        radiomics: Table of features; needed where the weights read some.
        where: Cell that the rows to be answered have, by column.
        hpv_prevalence: Share of HPV-positive patients where they come from; by default that of training.

    Returns:
        The table's patients, with its remarks.

    Raises:
        WeightsError: The weights were made for images.
        InvalidInputError: A table cannot be read, or lacks a feature that the models read; the message names it.
        OverwriteError: A file that is read would be written over, or the table of other answers.
    """
    if not ensemble.of_tables:
        raise WeightsError(f"{ensemble.folder}: made for images; mmpl answer and mmpl predict use them")
    if hpv_prevalence is not None:
        check_prevalence(hpv_prevalence)
    target = out / PREDICTIONS_FILE
    if target.resolve() in {path.resolve() for path in (table, radiomics) if path}:
        raise OverwriteError(f"{target}: is read, and would be written; name another folder")
    if any(map(read_report, out.glob("[!.]*.json"))):
        raise OverwriteError(f"{out}: holds answers of mmpl predict, whose table would be lost; name another folder")
    if why := why_no_days(ensemble, ensemble.tasks):
        log.warning("note: no days without recurrence, as %s", why)
    known_hpv = read_edition().known_hpv
    read = read_patients(table, ensemble.profile.clinical, outcomes=False, where=where, known_hpv=known_hpv)
    features = features_of(read.patients, radiomics, ensemble.profile.clinical)
    if absent := sorted(measured_names(ensemble) - set(features.names)):
        source = radiomics or "no table of radiomics, and the weights read"
        raise InvalidInputError(f"{source}: {'no column ' if radiomics else ''}{some_of(absent)}")
    rows = []
    for at, patient in enumerate(read.patients):
        own = FeatureTable(features.names, features.values[at : at + 1])
        rows.append(answer_row(answer_patient(ensemble, patient, own, hpv_prevalence)))
    write_answers(out, rows)
    return read


def features_of(patients: Sequence[Patient], radiomics: Path | None, schema: ClinicalSchema) -> FeatureTable:
    """Read patients' features, a row each; no column where there is no table of them."""
    names = [patient.patient_id for patient in patients]
    return read_features(radiomics, names, schema) if radiomics else FeatureTable.empty(len(names))


def measured_names(ensemble: Ensemble) -> set[str]:
    """Names of the features that the models read: neither of the clinical record nor of an earlier stage."""
    names = set[str]()
    for member in ensemble.members:
        names |= member.read_names - set(member.encoder.names)
    return names - {HPV_PROBABILITY}


def answer_row(answer: TableAnswer) -> dict[str, str]:
    """Write an answer as a row of `predictions.csv`; what there is not stays blank."""
    row = {Column.PATIENT_ID.value: answer.patient_id, "flags": "; ".join(answer.flags)}
    if hpv := answer.hpv:
        row |= {
            "hpv_probability": decimals(hpv.probability, 6),
            "hpv_status": flag(hpv.positive),
            "hpv_known": flag(hpv.known),
            "hpv_calibrated": decimals(hpv.calibrated, 6),
            "hpv_prevalence": decimals(hpv.prevalence, 6),
            "hpv_set": hpv.conformal_set or "",
        }
    if survival := answer.survival:
        row |= {
            "risk_score": decimals(survival.risk_score, 6),
            "risk_percentile": decimals(survival.percentile, 1),
            "recurrence_free_days": decimals(survival.recurrence_free_days, 1),
        }
        for years in YEARS:
            if survival.curve and years * DAYS_PER_YEAR <= survival.curve.days[-1]:
                row[NO_RECURRENCE.format(years)] = decimals(survival.curve.at(years * DAYS_PER_YEAR)[0], 6)
    return row


def write_answers(folder: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Write `predictions.csv`, whole, as `mmpl predict` does."""
    folder.mkdir(parents=True, exist_ok=True)
    with write_whole(folder / PREDICTIONS_FILE) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(rows)
