"""Stages 2 and 3 on tables alone, without images and networks: `python -m train.tabular TABLE RUN`.

Stages 1 and 4 are of masks, and left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import typer

from mmpl.case import InvalidInputError, Patient, describe_problems
from mmpl.clinical import says_missing
from mmpl.cohort_scores import RESAMPLES
from mmpl.evaluate import assess, print_table
from mmpl.evidence import FeatureTable
from mmpl.files import write_whole
from mmpl.io.patients import meaning, read_chosen, read_patients, read_where
from mmpl.io.tables import require
from mmpl.names import Stage
from mmpl.predict_table import features_of
from mmpl.profile import Profile, load_profile
from mmpl.schema import CategoricalField, ClinicalSchema, ContinuousField, normalized
from mmpl.training.command import Changes, Force, ProfileName, Radiomics, Where, Without, Workers, need
from mmpl.training.export import export
from mmpl.training.hpv import fit_forests
from mmpl.training.needs import labeled_stages, unmet_needs
from mmpl.training.parallel import Engine
from mmpl.training.results import out_of_fold_results
from mmpl.training.splits import FOLDS, make_splits
from mmpl.training.survival import fit_cox_models
from mmpl.training.workspace import DEFAULT_PROFILE, RunSettings, Workspace
from mmpl.weights import MANIFEST

EVALUATION_FILE = "evaluation.json"
"""The metrics of the patients out of fold, in the run's folder."""
MOST_LEVELS = 20
"""More levels than this are no category."""
_ANY_NUMBER = (-1e12, 1e12)


@dataclass(frozen=True)
class TabularRun(Workspace):
    """The folder of a run on tables: the patients' records and what others measured, no image and no network.

    Attributes:
        listed: The patients.
        measured: Their radiomics, a row each.
    """

    listed: tuple[Patient, ...] = ()
    measured: FeatureTable = field(default_factory=lambda: FeatureTable.empty(0))

    @property
    def patients(self) -> Sequence[Patient]:
        """Every patient of the table."""
        return self.listed

    def radiomics(self, patients: Sequence[Patient]) -> FeatureTable:
        """Give patients' radiomics, a row each."""
        row_of = {patient.patient_id: row for row, patient in enumerate(self.listed)}
        return FeatureTable(self.measured.names, self.measured.values[[row_of[p.patient_id] for p in patients]])


def extend_schema(
    schema: ClinicalSchema,
    table: Path,
    categories: Sequence[str] = (),
    numbers: Sequence[str] = (),
    where: Mapping[str, str] | None = None,
) -> ClinicalSchema:
    """Add columns of a table to the fields of the clinical record.

    Args:
        schema: Schema of the clinical record.
        table: The table, which tells the levels of a category.
        categories: Columns whose cells are one of a few levels, such as T stages.
        numbers: Columns whose cells are numbers, such as pack-years.
        where: Cell that the rows to be looked at have, by column.

    Raises:
        InvalidInputError: The table has no such column, or it cannot be such a field; the message names it.
    """
    asked = (*categories, *numbers)
    read = read_chosen(table, schema, True, where or {}, asked)
    problems = [] if read.rows else ["no patient"]
    problems += dict.fromkeys(problem for name in asked if (problem := _no_field(name, asked, schema)))
    fields = list[ContinuousField | CategoricalField]()
    require(replace(read, problems=(*read.problems, *problems)), asked)
    for name in asked:
        cells = [row[name] for _, row in read.rows if not schema.is_missing(row[name])]
        if name in numbers:
            fields.append(ContinuousField(name=name, unit="as in the table", range=_ANY_NUMBER))
            if all(fields[-1].read(normalized(cell)) is None for cell in cells):
                problems.append(f"{name} holds no number")
            continue
        levels = {normalized(cell): cell for cell in sorted(cells, reverse=True)}
        if len(levels) > MOST_LEVELS:
            problems.append(f"{name} has {len(levels)} levels, more than {MOST_LEVELS}: a number?")
        elif odd := [level for level in levels.values() if says_missing(f"{name}={level}")]:
            problems.append(f"{name} has the level {odd[0]!r}, which is how a missing value is written")
        else:
            fields.append(CategoricalField(name=name, levels=dict.fromkeys(sorted(levels.values()), ())))
    if problems:
        raise InvalidInputError(describe_problems(table, problems))
    return ClinicalSchema(missing=schema.missing, ignored=schema.ignored, fields=(*schema.fields, *fields))


def _no_field(name: str, asked: Sequence[str], schema: ClinicalSchema) -> str | None:
    """Say why a column's name cannot be that of a new field; None where it can."""
    if what := meaning(schema, name):
        return f"{name} is {what}, and no further feature"
    if sum(name.casefold() == other.casefold() for other in asked) > 1:
        return f"{name} is asked for twice"
    if "=" in name or says_missing(name):
        return f"{name} cannot be a field's name, as columns are named with '=' and '_missing'"
    return None


def begin(
    folder: Path,
    table: Path,
    profile: Profile,
    radiomics: Path | None = None,
    where: Mapping[str, str] | None = None,
    folds: int = FOLDS,
    center_out: bool = False,
    without: Sequence[Stage] = (),
) -> TabularRun:
    """Read the tables, deal the folds and fit each model's clinical encoder.

    Args:
        folder: Folder of the run.
        table: Records with outcomes.
        profile: Settings, whose schema names the fields of the record.
        radiomics: Table of features; None for none.
        where: Cell that the rows to learn from have, by column.
        folds: Number of patient-level folds.
        center_out: Whether whole centers are held out, too.
        without: Stages to leave out.

    Raises:
        ValueError: A table cannot be read, or has too little for a stage; the message lists why.
    """
    read = read_patients(table, profile.clinical, where=where)
    for remark in read.remarks:
        typer.echo(f"note: {table}: {remark}")
    stages = labeled_stages(read.patients, {Stage.SEGMENTATION, Stage.STAGING, *without})
    if not stages:
        raise InvalidInputError(f"{table}: no HPV status or recurrence-free survival to learn that is wanted")
    splits = make_splits(read.patients, profile.training.seed, folds, center_out)
    if problems := unmet_needs(read.patients, [p.patient_id for p in read.patients], splits, stages):
        raise InvalidInputError(describe_problems(table, problems))
    settings = RunSettings(str(table.resolve()), profile, folds, center_out, stages)
    run = TabularRun(folder, settings, None, read.patients, features_of(read.patients, radiomics, profile.clinical))
    run.keep_folds(splits)
    return run


def fit(run: TabularRun, engine: Engine) -> None:
    """Fit every model's forest and Cox model outside its fold, and keep what they say of the patients inside."""
    if Stage.HPV in run.settings.stages:
        run.keep(fit_forests(run, engine, {}))
    if Stage.SURVIVAL in run.settings.stages:
        run.keep(fit_cox_models(run, engine, {}))


def main(
    table: Annotated[Path, typer.Argument(help="Records with outcomes, a CSV file or a workbook.")],
    run: Annotated[Path, typer.Argument(help="Takes folds, models and their evaluation; a new folder.")],
    radiomics: Radiomics = None,
    category: Annotated[
        list[str] | None, typer.Option(help="Take this column as a category, such as T-stage; may be repeated.")
    ] = None,
    number: Annotated[
        list[str] | None, typer.Option(help="Take this column as a number, such as pack-years; may be repeated.")
    ] = None,
    where: Where = None,
    profile: ProfileName = DEFAULT_PROFILE,
    changes: Changes = None,
    folds: Annotated[int, typer.Option(min=2, help="Patient-level folds.")] = FOLDS,
    center_out: Annotated[bool, typer.Option(help="Hold out whole centers, too.")] = False,
    without: Without = None,
    weights: Annotated[Path | None, typer.Option(help="Takes the weights; by default RUN/weights.")] = None,
    force: Force = False,
    workers: Workers = 0,
    resamples: Annotated[int, typer.Option(min=1, help="Bootstrap samples of the metrics' intervals.")] = RESAMPLES,
) -> None:
    """Fit forests and Cox models to TABLE, say how well they do on patients they never saw, and write their weights."""
    need("imblearn", "lifelines", "skglm")
    if run.exists() and not (run.is_dir() and not any(run.iterdir())):
        raise ValueError(f"{run}: is there already; name a new folder")
    settings, chosen, target = load_profile(profile, changes or ()), read_where(where), weights or run / "weights"
    if (target / MANIFEST).is_file() and not force:
        raise ValueError(f"{target / MANIFEST}: of other training; --force writes over that ensemble")
    schema = extend_schema(settings.clinical, table, category or (), number or (), chosen)
    settings = settings.model_copy(update={"clinical": schema})
    begun = begin(run, table, settings, radiomics, chosen, folds, center_out, without or ())
    fit(begun, Engine(workers))
    evaluation = assess(out_of_fold_results(begun), resamples)
    print_table(evaluation)
    with write_whole(run / EVALUATION_FILE) as partial:
        partial.write_text(evaluation.to_json())
    export(begun, target, force=True)
