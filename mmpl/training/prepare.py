"""Cache every patient's patch and make the folds: `python -m train.prepare COHORT RUN --profile demo`."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import typer

from mmpl.errors import some_of
from mmpl.names import Stage
from mmpl.preprocess import prepare
from mmpl.training.check import check_cohort
from mmpl.training.command import (
    CenterOut,
    Changes,
    CohortName,
    Folds,
    RunFolder,
    RunProfile,
    Scheduler,
    Without,
    Workers,
)
from mmpl.training.memory import IMAGES_GIB
from mmpl.training.parallel import Engine
from mmpl.training.patches import hash_of
from mmpl.training.workspace import RunSettings, Workspace


@dataclass(frozen=True)
class PreparePatient:
    """Keeps the patch of a patient of a run."""

    workspace: Workspace

    def __call__(self, patient_id: str) -> None:
        """Read, prepare and keep a patient."""
        case = self.workspace.source.read_case(patient_id)
        reference = None if case.reference is None else case.reference.voxels
        prepared = prepare(case, self.workspace.profile.preprocess)
        self.workspace.store.save(prepared, hash_of(case.ct), reference)


def begin(
    engine: Engine,
    cohort: str,
    run: Path,
    profile: str | None = None,
    changes: Sequence[str] | None = None,
    folds: int | None = None,
    center_out: bool | None = None,
    without: Collection[Stage] | None = None,
) -> Workspace:
    """Start a run, or go on with one; settings, cohort and folds are checked before anything is written.

    A run that goes on takes the `micro_batch` that is asked for.

    Raises:
        ValueError: One of them cannot be used, or the run that is there is another.
    """
    workspace = Workspace(run, RunSettings.make(run, cohort, profile, changes or (), folds, center_out, without))
    if workspace.begun:
        workspace.keep_settings()
        return workspace
    splits, stages = check_cohort(workspace.settings, engine)
    workspace = replace(workspace, settings=replace(workspace.settings, stages=stages))
    workspace.begin(splits)
    for stage in Stage:
        workspace.trains(stage)
    return workspace


def cache(workspace: Workspace, engine: Engine) -> None:
    """Keep the patch of every patient that has none yet, and name patients whose images are those of another."""
    missing = [p.patient_id for p in workspace.patients if not workspace.store.has(p.patient_id)]
    engine.map("preparing", PreparePatient(workspace), missing, item_gib=IMAGES_GIB)
    by_hash = defaultdict[str, list[str]](list)
    for patient in workspace.patients:
        by_hash[workspace.store.describe(patient.patient_id).image_hash].append(patient.patient_id)
    if twins := [" and ".join(names) for names in by_hash.values() if len(names) > 1]:
        typer.echo(f"warning: the same images, which may lie in several folds: {some_of(twins)}", err=True)


def main(
    cohort: CohortName,
    run: RunFolder,
    profile: RunProfile = None,
    changes: Changes = None,
    folds: Folds = None,
    center_out: CenterOut = None,
    without: Without = None,
    workers: Workers = 0,
    scheduler: Scheduler = None,
) -> None:
    """Prepare a cohort for training in the folder RUN."""
    engine = Engine(workers, scheduler)
    cache(begin(engine, cohort, run, profile, changes, folds, center_out, without), engine)
