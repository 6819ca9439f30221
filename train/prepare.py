"""Cache every patient's patch and make the folds: `python -m train.prepare COHORT RUN --profile demo`."""

from dataclasses import dataclass
from pathlib import Path

from mmpl.preprocess import prepare
from train.command import run_program
from train.memory import IMAGES_GIB
from train.parallel import Engine
from train.splits import FOLDS, make_splits, write_splits
from train.workspace import SPLITS_FILE, Workspace, is_phantom


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
    engine, started = Engine(workers, scheduler), (run / SPLITS_FILE).is_file()
    if not started and not is_phantom(cohort):
        from train.check import check_cohort  # needs an image library

        check_cohort(Path(cohort), engine)
    workspace = Workspace.create(run, cohort, profile)
    if not started:
        splits = make_splits(workspace.patients, workspace.profile.training.seed, folds, center_out)
        write_splits(splits, workspace.splits_file)
    missing = [p.patient_id for p in workspace.patients if not workspace.store.has(p.patient_id)]
    engine.spread("preparing", _PreparePatient(workspace), missing, item_gib=IMAGES_GIB)


if __name__ == "__main__":
    run_program(main)
