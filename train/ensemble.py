"""Train the whole ensemble and write its weights: `python -m train.ensemble COHORT RUN --weights weights`."""

import shutil
import time
from pathlib import Path

import typer

from mmpl.labels import Stage
from mmpl.weights import FOREST_FILE, NETWORK_FILE, TABLES_FILE, write_manifest
from train import hpv, prepare, radiomics, segmentation, survival
from train.command import run_program
from train.workspace import Workspace


def export(workspace: Workspace, weights: Path) -> None:
    """Copy the finished models into a folder that inference can load, and seal it with a manifest."""
    members = workspace.splits.members
    for member in members:
        folder = weights / member.name
        folder.mkdir(parents=True, exist_ok=True)
        for stage in Stage:
            shutil.copyfile(workspace.network_file(member, stage), folder / NETWORK_FILE[stage])
        shutil.copyfile(workspace.forest_file(member), folder / FOREST_FILE)
        shutil.copyfile(workspace.tables_file(member), folder / TABLES_FILE)
    summary = {
        "cohort": Path(workspace.cohort).name,
        "patients": len(workspace.patients),
        "segmentation": workspace.read_json("thresholds"),
        "hpv": workspace.read_json("hpv"),
        "survival": workspace.read_json("survival"),
    }
    if started := workspace.read_json("start"):
        summary["started_from"] = started
    write_manifest(
        weights,
        workspace.profile,
        [member.name for member in members],
        workspace.mask_thresholds,
        workspace.read_json("hpv")["threshold"],
        summary,
    )


def main(
    cohort: str,
    run: Path,
    profile: str = "demo",
    weights: Path = Path("weights"),
    workers: int = 0,
    scheduler: str | None = None,
    devices: int = 1,
    start: Path | None = None,
    start_step: int = 0,
) -> None:
    """Run every step, each where it was left, and write the ten models to WEIGHTS."""
    steps = {
        "prepare": lambda: prepare.main(cohort, run, profile, workers=workers, scheduler=scheduler),
        "segmentation": lambda: segmentation.main(run, workers, scheduler, devices, start, start_step),
        "radiomics": lambda: radiomics.main(run, workers, scheduler),
        "hpv": lambda: hpv.main(run, workers, scheduler, devices),
        "survival": lambda: survival.main(run, workers, scheduler, devices),
    }
    for name, step in steps.items():
        started = time.monotonic()
        step()
        typer.echo(f"{name}: {time.monotonic() - started:.0f} s")
    workspace = Workspace.open(run)
    export(workspace, weights)
    typer.echo(f"wrote {len(workspace.splits.members)} models to {weights}")


if __name__ == "__main__":
    run_program(main)
