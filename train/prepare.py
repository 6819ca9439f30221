"""Cache every patient's patch and make the folds: `python -m train.prepare COHORT RUN --profile demo`."""

from dataclasses import dataclass
from pathlib import Path

import typer

from mmpl.preprocess import prepare
from train.parallel import Engine
from train.splits import FOLDS, make_splits, write_splits
from train.workspace import Workspace


@dataclass(frozen=True)
class _PreparePatient:
    workspace: Workspace

    def __call__(self, patient_id: str) -> None:
        case = self.workspace.source.read_case(patient_id)
        reference = None if case.reference is None else case.reference.voxels
        self.workspace.store.save(prepare(case, self.workspace.profile.preprocess), reference)


def main(
    cohort: str,
    run: Path,
    profile: str = "demo",
    folds: int = FOLDS,
    center_out: bool = True,
    workers: int = 0,
    scheduler: str | None = None,
) -> None:
    """Prepare a cohort (a folder in HECKTOR's layout, or `phantom:PATIENTS:SEED`) for training in the folder RUN."""
    workspace = Workspace.create(run, cohort, profile)
    patients = workspace.patients
    if not workspace.splits_file.is_file():
        splits = make_splits(patients, workspace.profile.training.seed, folds, center_out)
        write_splits(splits, workspace.splits_file)
    missing = [p.patient_id for p in patients if not workspace.store.has(p.patient_id)]
    Engine(workers, scheduler).spread("preparing", _PreparePatient(workspace), missing)


if __name__ == "__main__":
    typer.run(main)
