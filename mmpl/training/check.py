"""Check a cohort's folder before anything is trained on it, all of it in one go: `python -m train.check COHORT`."""

import logging
from dataclasses import dataclass
from pathlib import Path

import typer

from mmpl.case import InvalidInputError, describe_problems
from mmpl.io.cohort import Cohort, inspect_cohort
from mmpl.schema import ClinicalSchema, default_schema
from mmpl.training.command import Workers
from mmpl.training.parallel import Engine

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _MaskProblem:
    cohort: Cohort

    def __call__(self, patient_id: str) -> str | None:
        try:
            self.cohort.check_mask(patient_id)
        except InvalidInputError as error:
            return f"patient {patient_id}: {error}"
        return None


def check_cohort(folder: Path, engine: Engine, schema: ClinicalSchema | None = None) -> None:
    """Check table, images and reference masks of a cohort's folder.

    Raises:
        InvalidInputError: Something is wrong; the message lists every problem with its patient and file.
    """
    schema = schema or default_schema()
    cohort, problems = inspect_cohort(folder, schema, training=True)
    problems += [
        f"patient {patient.patient_id}: the center is not known (CenterID is {patient.center_id!r})"
        for patient in cohort.patients
        if schema.is_missing(patient.center_id)
    ]
    with_mask = {p.patient_id for p in cohort.patients if cohort.mask_path(p.patient_id)}
    problems += filter(None, engine.map("checking masks", _MaskProblem(cohort), sorted(with_mask)))
    for remark in cohort.remarks:
        log.warning("%s: %s", cohort.table, remark)
    if problems:
        raise InvalidInputError(describe_problems(cohort.table, problems))


def main(cohort: Path, workers: Workers = 0) -> None:
    """Check the cohort's folder COHORT."""
    check_cohort(cohort, Engine(workers))
    typer.echo(f"{cohort}: fit for training")
