"""Train what the paper's claims are compared with: `python -m train.experiments.ablation RUN`.

Patches and patient-level folds are the run's own.

- `dice-only`: stage 1 with the Dice loss alone, against ODA; a run that had a `--start` needs it again here.
- `scratch`: stages 2 and 3 from untrained backbones, against progressive transfer.
"""

from dataclasses import replace

import typer

from mmpl.names import Stage
from mmpl.training import hpv, segmentation, survival
from mmpl.training.command import Devices, RunFolder, Scheduler, Start, StartStep, Workers, need, run_program
from mmpl.training.losses import dice_only_loss
from mmpl.training.parallel import Engine
from mmpl.training.records import ScratchRecord
from mmpl.training.splits import Scheme
from mmpl.training.workspace import Workspace

DICE_ONLY, SCRATCH = "dice-only", "scratch"


def main(
    run: RunFolder,
    workers: Workers = 0,
    scheduler: Scheduler = None,
    devices: Devices = 1,
    start: Start = None,
    start_step: StartStep = 0,
) -> None:
    """Train the comparisons of a finished run and predict every patient out of fold."""
    need("lightning")
    workspace, engine = Workspace.open(run), Engine(workers, scheduler, devices)
    stages = workspace.settings.stages
    for stage in stages:
        workspace.require(stage)
    workspace.require_prepared()
    begin, _ = segmentation.find_start(workspace, start, start_step)
    members = [member for member in workspace.splits.members if member.scheme is Scheme.PATIENT]
    dice_only, scratch = (replace(workspace, variant=name) for name in (DICE_ONLY, SCRATCH))
    one = segmentation.TrainAndPredict(dice_only, dice_only_loss, devices, begin)
    engine.train("stage 1, Dice alone", one, dice_only, Stage.SEGMENTATION, members)
    logits, days = dict[str, float](), dict[str, float]()
    if Stage.HPV in stages:
        two = hpv.TrainAndPredict(scratch, transfer=False, devices=devices)
        for _, rows in engine.train("stage 2 from scratch", two, scratch, Stage.HPV, members):
            logits |= {name: row[0] for name, row in rows.items()}
    if Stage.SURVIVAL in stages:
        three = survival.TrainAndPredict(scratch, transfer=False, devices=devices)
        for _, expected in engine.train("stage 3 from scratch", three, scratch, Stage.SURVIVAL, members):
            days |= expected
    workspace.keep(ScratchRecord(logits=logits, expected_days=days))
    typer.echo(f"trained {(1 + bool(logits) + bool(days)) * len(members)} networks for comparison")


if __name__ == "__main__":
    run_program(main)
