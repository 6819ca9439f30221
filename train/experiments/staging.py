"""How well T and N are staged: `python -m train.experiments.staging phantom:240:3301:v2 --model patient-0`.

With `--answers FOLDER` the masks and stages are those that `mmpl predict` wrote of a cohort's folder.

Balanced accuracy of the stages as released, with 95% bootstrap intervals over patients, and the share of each stage's
patients who are given it:

- oracle: the true stages of a synthetic cohort; what it lacks is the readers' noise.
- rules, reference mask and rules, predicted mask: the manual's rules as written (`mmpl.staging.stage_by_rules`).
- models, cross-validated: stage 4 fitted to these patients' predicted masks, each patient by the others, thresholds and
  all. The networks must never have seen them.
- weights: what the weights say, where they stage.
"""

import csv
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from mmpl.case import Grid, Image, Patient
from mmpl.cohort_scores import RESAMPLES, interval, resamples
from mmpl.evidence import FeatureTable, Floats
from mmpl.io.masks import read_mask
from mmpl.lesions import find_lesions
from mmpl.metrics import mean_recall
from mmpl.names import STAGE_TASKS, Task
from mmpl.phantom.cohort import TRUTH_NAME, MemoryCohort
from mmpl.phantom.staging import stage_number
from mmpl.pipeline import Pipeline
from mmpl.radiomics import feature_names, measure_lesions
from mmpl.report import read_report
from mmpl.staging import measure_geometry, staging_evidence, without_lesion
from mmpl.training.command import CohortName, Workers, run_program
from mmpl.training.memory import IMAGES_GIB, predicting_gib
from mmpl.training.parallel import Engine
from mmpl.training.staging import (
    COLUMNS,
    answer,
    by_rules,
    choose_scale,
    fit_ordinal,
    stage_without_lesion,
    with_stage,
)
from mmpl.training.workspace import open_source
from mmpl.weights import load_ensemble
from train.experiments.results import with_interval

FOLDS = 5


@dataclass(frozen=True)
class Measured:
    """One patient.

    Attributes:
        predicted: What the models of stage 4 see of the predicted mask, one row.
        reference: Geometry of the reference mask, one row; None without one.
        true: True stages; none of patients that are not synthetic.
        answered: Stages that the weights give; none where they do not stage.
    """

    patient: Patient
    predicted: FeatureTable
    reference: FeatureTable | None
    true: Mapping[Task, int]
    answered: Mapping[Task, int]


@dataclass(frozen=True)
class _Measure:
    cohort: str
    weights: Path | None
    models: tuple[str, ...]
    answers: Path | None

    def __call__(self, patient_id: str) -> Measured:
        ensemble = load_ensemble(self.weights).only(self.models)
        source, profile = open_source(self.cohort, ensemble.profile.clinical), ensemble.profile
        case = source.read_case(patient_id)
        if self.answers:
            mask, answered = _read_answer(self.answers, patient_id, case.ct.grid)
        else:
            tasks = frozenset((Task.SEGMENTATION, *STAGE_TASKS))
            result = Pipeline(ensemble, torch.device("cpu"), tasks)(case)
            mask = result.segmentation.mask
            answered = {task: found.stage for task in STAGE_TASKS if (found := result.stage_of(task))}
        read = [name for name in feature_names(profile.radiomics) if name.startswith(COLUMNS[Task.N_STAGE])]
        radiomics = measure_lesions(case, mask, profile.radiomics, read)

        def geometry(mask: Image) -> FeatureTable:
            smallest_ml = profile.inference.smallest_lesion_ml(mask.grid.voxel_ml)
            return measure_geometry(find_lesions(case, mask), smallest_ml)

        patient = next(each for each in source.patients if each.patient_id == patient_id)
        return Measured(
            patient,
            staging_evidence(geometry(mask), radiomics),
            geometry(case.reference) if case.reference else None,
            _true_stages(self.cohort, source, patient_id),
            answered,
        )


def _read_answer(folder: Path, patient_id: str, grid: Grid) -> tuple[Image, dict[Task, int]]:
    """Read the mask that was answered, and the stages if there are any."""
    report = read_report(folder / f"{patient_id}.json")
    if report is None:
        raise ValueError(f"{folder / patient_id}.json: no such report")
    stages = {Task.T_STAGE: report.t_stage, Task.N_STAGE: report.n_stage}
    numbers = {task: stage_number(stage) for task, stage in stages.items() if stage}
    return read_mask(folder / f"{patient_id}.nii.gz", grid), numbers


def _true_stages(cohort: str, source: object, patient_id: str) -> dict[Task, int]:
    if isinstance(source, MemoryCohort):
        staging = next(each.staging for each in source.latent if each.patient_id == patient_id)
        stages = (staging.t_stage, staging.n_stage) if staging else ("", "")
    elif (path := Path(cohort) / TRUTH_NAME).is_file():
        with path.open(newline="") as file:
            (row,) = (row for row in csv.DictReader(file) if row["PatientID"] == patient_id)
        stages = row["t_stage"], row["n_stage"]
    else:
        return {}
    return {task: stage_number(stage) for task, stage in zip(STAGE_TASKS, stages, strict=True) if stage}


def cross_validate(task: Task, evidence: FeatureTable, stages: NDArray[np.intp], seed: int = 0) -> NDArray[np.intp]:
    """Stage n patients, each by models and thresholds of the other folds' patients: (n,)."""

    def score(evidence: FeatureTable, stages: NDArray[np.intp], seed: int) -> Floats:
        scores = np.empty(len(stages))
        for others, part in _folds(stages, seed):
            scores[part] = fit_ordinal(task, _rows(evidence, others), stages[others]).score(_rows(evidence, part))
        return scores

    answered = np.empty(len(stages), dtype=np.intp)
    for others, part in _folds(stages, seed):
        seen, held_out = _rows(evidence, others), _rows(evidence, part)
        known = stages[others]
        scale = choose_scale(task, score(seen, known, seed + 1), known, without_lesion(task, seen))
        answered[part] = answer(task, scale, fit_ordinal(task, seen, stages[others]).score(held_out), held_out)
    return answered


def _folds(stages: NDArray[np.intp], seed: int) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    from sklearn.model_selection import StratifiedKFold

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a stage with fewer patients than folds
        return list(StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(stages[:, None], stages))


def _rows(table: FeatureTable, rows: NDArray[np.intp] | list[int]) -> FeatureTable:
    return FeatureTable(table.names, table.values[rows])


def _stack(tables: list[FeatureTable]) -> FeatureTable:
    return FeatureTable(tables[0].names, np.vstack([table.values for table in tables]))


def ways(task: Task, patients: list[Measured]) -> dict[str, tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Stage the patients whose stage is known, in every way: the stages given and those released, (n,) each."""
    names = {p.patient_id for p in with_stage(task, [each.patient for each in patients])[0]}
    known = [each for each in patients if each.patient.patient_id in names]
    _, truth = with_stage(task, [each.patient for each in known])
    predicted = _stack([each.predicted for each in known])
    stand_in = stage_without_lesion(task, truth, without_lesion(task, predicted))
    with_mask = [at for at, each in enumerate(known) if each.reference is not None]
    reference = _stack([each.reference for each in known if each.reference is not None])
    found = {
        "rules, reference mask": (by_rules(task, reference, stand_in), truth[with_mask]),
        "rules, predicted mask": (by_rules(task, predicted, stand_in), truth),
        "models, cross-validated": (cross_validate(task, predicted, truth), truth),
    }
    if all(each.true for each in known):
        found = {"oracle": (np.array([each.true[task] for each in known]), truth), **found}
    if all(each.answered for each in known):
        found["weights"] = np.array([each.answered[task] for each in known]), truth
    return found


def report(task: Task, patients: list[Measured]) -> Table:
    """Make the table of a task."""
    found = ways(task, patients)
    _, truth = found["rules, predicted mask"]
    absent = sum(bool(without_lesion(task, each.predicted)[0]) for each in patients)
    table = Table(title=f"{task}, {absent} of {len(patients)} masks without a lesion to stage", title_justify="left")
    kinds = np.unique(truth)
    for heading in ("stages by", "patients", "balanced accuracy", *(f"of {kind}" for kind in kinds)):
        table.add_column(heading, justify="left" if heading == "stages by" else "right")
    for way, (given, released) in found.items():
        drawn = [mean_recall(given[i], released[i]) for i in resamples(len(given), RESAMPLES)]
        value = with_interval(mean_recall(given, released), interval(drawn))
        shares = [f"{np.mean(given[at] == kind):.2f}" if (at := released == kind).any() else "" for kind in kinds]
        table.add_row(way, str(len(given)), value, *shares)
    return table


def main(
    cohort: CohortName,
    weights: Annotated[Path | None, typer.Option(help="Folder of the weights; by default as for mmpl predict.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="Use this model alone; may be repeated.")] = None,
    answers: Annotated[
        Path | None, typer.Option(help="Answers of mmpl predict, whose masks and stages are taken, and none made.")
    ] = None,
    workers: Workers = 0,
) -> None:
    """Segment and stage the patients of COHORT, which the weights were not trained on, and compare."""
    measure = _Measure(cohort, weights, tuple(model or ()), answers)
    profile = load_ensemble(weights).profile
    source = open_source(cohort, profile.clinical)
    names = [patient.patient_id for patient in source.patients]
    needed = predicting_gib(profile, IMAGES_GIB)
    patients = Engine(workers).map("measuring", measure, names, networks=True, item_gib=needed)
    for task in STAGE_TASKS:
        Console(width=120).print(report(task, patients))


if __name__ == "__main__":
    run_program(main)
