"""Write the weights of a finished run, which inference can load: `python -m train.export RUN WEIGHTS`."""

import json
import shutil
from pathlib import Path
from typing import Annotated

import typer

from mmpl.files import write_whole
from mmpl.names import Stage
from mmpl.training.calibration import calibrate
from mmpl.training.command import Force, RunFolder, need
from mmpl.training.records import HpvRecord, StagingRecord, StartRecord
from mmpl.training.reference import make_reference
from mmpl.training.splits import Member
from mmpl.training.workspace import STAGE_RECORD, Workspace
from mmpl.weights import MANIFEST, NETWORK_FILE, digest, have_networks, member_files, networks_of, write_manifest

_NETWORK_SUFFIX = ".safetensors"


def refuse_other_training(workspace: Workspace, weights: Path) -> None:
    """Refuse a folder that holds an ensemble of other networks than the run's; of the same, it may be written again.

    Raises:
        ValueError: It does, or its manifest cannot be read.
    """
    path = weights / MANIFEST
    if not path.is_file():
        return
    ours = {
        f"{member.name}/{name}": file
        for member in workspace.splits.members
        for name, file in _networks(workspace, member).items()
    }
    try:
        files = json.loads(path.read_text())["files"]
        theirs = {name: known for name, known in files.items() if name.endswith(_NETWORK_SUFFIX)}
    except (ValueError, KeyError, TypeError, AttributeError):
        theirs = None
    if theirs != {name: digest(file) for name, file in ours.items() if file.is_file()}:
        raise ValueError(f"{path}: of other training than {workspace.folder}; --force writes over that ensemble")


def _networks(workspace: Workspace, member: Member) -> dict[str, Path]:
    """Give a model's networks by the names they have in the weights; none of a run on tables."""
    stages = networks_of(workspace.settings.stages)
    return {NETWORK_FILE[stage]: workspace.network_file(member, stage) for stage in stages}


def export(workspace: Workspace, weights: Path, force: bool = False) -> None:
    """Copy the finished models into a folder that inference can load, and seal it with a manifest.

    Args:
        workspace: The run.
        weights: The folder; its manifest is taken away before anything is written, and written last.
        force: Write over an ensemble of other training.

    Raises:
        ValueError: The run is not finished, or the folder holds an ensemble of other training.
    """
    stages, members = workspace.settings.stages, workspace.splits.members
    for stage in stages:
        workspace.require(stage)
    if not force:
        refuse_other_training(workspace, weights)
    calibration, reference = calibrate(workspace), make_reference(workspace)
    (weights / MANIFEST).unlink(missing_ok=True)
    for member in members:
        folder = weights / member.name
        folder.mkdir(parents=True, exist_ok=True)
        networks = _networks(workspace, member)
        for name in member_files(stages):
            with write_whole(folder / name) as partial:
                shutil.copyfile(networks.get(name) or workspace.member_file(member, name), partial)
    summary = {
        "cohort": Path(workspace.cohort).name,
        "patients": len(workspace.patients),
        "image_hashes": sorted(workspace.image_hashes),
    }
    if have_networks(stages) and (gone := [p for p in workspace.patients if not workspace.store.has(p.patient_id)]):
        typer.echo(f"note: the patches of {len(gone)} patients are gone: --start will not know their images again")
    summary |= {stage.value: workspace.read(STAGE_RECORD[stage]).summary() for stage in stages}
    if have_networks(stages) and (start := workspace.read(StartRecord)).cohorts:
        summary["started_from"] = start.model_dump(mode="json")
    write_manifest(
        weights,
        workspace.profile,
        [member.name for member in members],
        stages,
        workspace.segmentation.thresholds if have_networks(stages) else None,
        workspace.read(HpvRecord).threshold if Stage.HPV in stages else None,
        summary,
        calibration,
        reference,
        workspace.read(StagingRecord).scales if Stage.STAGING in stages else None,
    )
    typer.echo(f"wrote {len(members)} models for {', '.join(stages)} to {weights}")


def main(
    run: RunFolder, weights: Annotated[Path, typer.Argument(help="Takes the weights.")], force: Force = False
) -> None:
    """Write the models of the finished run in RUN to the folder WEIGHTS."""
    need("sklearn")
    export(Workspace.open(run), weights, force)
