"""Check all that training will need of a cohort, in one go: `python -m train.check COHORT`."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from mmpl.case import InvalidInputError, describe_problems
from mmpl.names import Stage
from mmpl.training.command import CenterOut, Changes, CohortName, Folds, ProfileName, Without, Workers
from mmpl.training.memory import IMAGES_GIB
from mmpl.training.needs import labeled_stages, one_stage_alone, unmet_needs
from mmpl.training.parallel import Engine
from mmpl.training.splits import Splits, make_splits
from mmpl.training.workspace import DEFAULT_PROFILE, RunSettings, Source, is_phantom, open_source

if TYPE_CHECKING:
    from mmpl.io.cohort import Cohort
    from mmpl.schema import ClinicalSchema

log = logging.getLogger(__name__)


def check_cohort(settings: RunSettings, engine: Engine) -> tuple[Splits, tuple[Stage, ...]]:
    """Read a cohort's table, every image and mask, deal the folds, and look what each stage will have to train on.

    Args:
        settings: Settings of the run that is to start.
        engine: Processes that read the images.

    Returns:
        The folds, and the stages that the labels allow.

    Raises:
        InvalidInputError: Something is wrong; the message lists every problem with its patient and file.
    """
    source: Source
    if is_phantom(settings.cohort):
        source, name = open_source(settings.cohort, settings.profile.clinical), settings.cohort
        of_table, of_images = list[str](), list[str]()
    else:
        source, of_table = _inspect(Path(settings.cohort), settings.profile.clinical)
        name, there = str(source.table), source.patients_with_images()
        found = engine.map("reading images", source.image_problem, there, item_gib=IMAGES_GIB)
        of_images = [problem for problem in found if problem]
    patients, problems = source.patients, of_table + of_images
    splits, stages = Splits({}), labeled_stages(patients, set(Stage) - set(settings.stages))
    if not of_table:  # of patients half read, nothing is said
        try:
            splits = make_splits(patients, settings.profile.training.seed, settings.folds, settings.center_out)
        except ValueError as error:
            problems.append(str(error))
        with_mask = {p.patient_id for p in patients if source.has_mask(p.patient_id)}
        problems += unmet_needs(patients, with_mask, splits, stages)
    if problems:
        raise InvalidInputError(describe_problems(name, problems))
    for remark in one_stage_alone(patients, splits) if Stage.STAGING in stages else ():
        log.warning("%s: %s", name, remark)
    return splits, stages


def _inspect(folder: Path, schema: "ClinicalSchema") -> "tuple[Cohort, list[str]]":
    """Read a cohort's table, and list what is wrong with it."""
    from mmpl.io.cohort import inspect_cohort  # needs an image library

    cohort, problems = inspect_cohort(folder, schema, training=True)
    for remark in cohort.remarks:
        log.warning("%s: %s", cohort.table, remark)
    problems += [
        f"patient {patient.patient_id}: the center is not known (CenterID is {patient.center_id!r})"
        for patient in cohort.patients
        if schema.is_missing(patient.center_id)
    ]
    return cohort, problems


def main(
    cohort: CohortName,
    profile: ProfileName = DEFAULT_PROFILE,
    changes: Changes = None,
    folds: Folds = None,
    center_out: CenterOut = None,
    without: Without = None,
    workers: Workers = 0,
) -> None:
    """Check the cohort's folder COHORT: its table, every image, and the folds that training would make."""
    settings = RunSettings.make(None, cohort, profile, changes or (), folds, center_out, without)
    splits, stages = check_cohort(settings, Engine(workers))
    typer.echo(f"{cohort}: fit for training {', '.join(stages)} of {len(splits.members)} models")
