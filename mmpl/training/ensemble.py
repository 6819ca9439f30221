"""Train the whole ensemble and write its weights: `python -m train.ensemble COHORT RUN --profile paper`."""

import time
from pathlib import Path
from typing import Annotated

import typer

from mmpl.names import Stage
from mmpl.training import hpv, prepare, radiomics, segmentation, staging, survival
from mmpl.training.command import (
    CenterOut,
    Changes,
    CohortName,
    Devices,
    Folds,
    Force,
    Only,
    RunFolder,
    RunProfile,
    Scheduler,
    Start,
    StartStep,
    Without,
    Workers,
    need,
)
from mmpl.training.export import export, refuse_other_training
from mmpl.training.memory import IMAGES_GIB, training_gib
from mmpl.training.parallel import Engine
from mmpl.weights import networks_of


def main(
    cohort: CohortName,
    run: RunFolder,
    profile: RunProfile = None,
    changes: Changes = None,
    folds: Folds = None,
    center_out: CenterOut = None,
    without: Without = None,
    only: Only = None,
    weights: Annotated[Path | None, typer.Option(help="Takes the weights; by default RUN/weights.")] = None,
    force: Force = False,
    workers: Workers = 0,
    scheduler: Scheduler = None,
    devices: Devices = 1,
    start: Start = None,
    start_step: StartStep = 0,
) -> None:
    """Run every step, each where it was left, and write the models' weights once all of them are trained."""
    need("lightning", "imblearn", "lifelines", "skglm")
    engine, target = Engine(workers, scheduler, devices), weights or run / "weights"
    workspace = prepare.begin(engine, cohort, run, profile, changes, folds, center_out, without)
    workspace.choose(only)
    if not force:
        refuse_other_training(workspace, target)
    segmentation.find_start(workspace, start, start_step)
    engine.require_memory("prepare", IMAGES_GIB)
    for stage in networks_of(workspace.settings.stages):
        engine.require_memory(stage, training_gib(workspace.profile, stage))
    steps = {
        "prepare": lambda: prepare.cache(workspace, engine),
        "segmentation": lambda: segmentation.main(run, only, workers, scheduler, devices, start, start_step),
        "radiomics": lambda: radiomics.main(run, workers, scheduler),
        "hpv": lambda: hpv.main(run, only, workers, scheduler, devices),
        "survival": lambda: survival.main(run, only, workers, scheduler, devices),
        "staging": lambda: staging.main(run, workers, scheduler),
    }
    for name, step in steps.items():
        started = time.monotonic()
        step()
        typer.echo(f"{name}: {time.monotonic() - started:.0f} s")
        if name == "segmentation" and workspace.missing(Stage.SEGMENTATION):
            return  # every later crop lies where the out-of-fold masks of all models say
    if not workspace.missing(workspace.last_networks):
        export(workspace, target, force)
