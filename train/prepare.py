"""Cache every patient's patch and make the folds: `python -m train.prepare COHORT RUN --profile demo`."""

from dataclasses import dataclass
from pathlib import Path

import typer

from mmpl.preprocess import prepare
from train.parallel import WORKERS, spread
from train.splits import make_splits, write_splits
from train.workspace import Workspace


@dataclass(frozen=True)
class _PreparePatient:
    workspace: Workspace

    def __call__(self, patient_id: str) -> None:
        case = self.workspace.source.read_case(patient_id)
        self.workspace.store.save(prepare(case, self.workspace.profile.preprocess))


def main(cohort: str, run: Path, profile: str = "demo", workers: int = WORKERS) -> None:
    """Prepare a cohort (a folder in HECKTOR's layout, or `phantom:PATIENTS:SEED`) for training in the folder RUN."""
    workspace = Workspace.create(run, cohort, profile)
    patients = workspace.patients
    if not workspace.splits_file.is_file():
        write_splits(make_splits(patients, workspace.profile.training.seed), workspace.splits_file)
    missing = [p.patient_id for p in patients if not workspace.store.has(p.patient_id)]
    spread("preparing", _PreparePatient(workspace), missing, workers)


if __name__ == "__main__":
    typer.run(main)
