"""Measure radiomics, once a patient, on the out-of-fold mask: `python -m train.radiomics RUN`."""

from dataclasses import dataclass

import numpy as np

from mmpl.labels import Stage
from mmpl.radiomics import extract
from mmpl.training.command import RunFolder, Scheduler, Workers
from mmpl.training.memory import IMAGES_GIB
from mmpl.training.parallel import Engine
from mmpl.training.segmentation import out_of_fold_mask
from mmpl.training.workspace import Workspace


@dataclass(frozen=True)
class _Measure:
    workspace: Workspace

    def __call__(self, patient_id: str) -> None:
        case = self.workspace.source.read_case(patient_id)
        features = extract(case.ct, case.pet if case.pet_is_suv else None, out_of_fold_mask(self.workspace, patient_id))
        path = self.workspace.features_file(patient_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.save(file, features)
        partial.replace(path)


def main(run: RunFolder, workers: Workers = 0, scheduler: Scheduler = None) -> None:
    """Restore every patient's out-of-fold mask to the CT and measure it; finished patients are not done again."""
    workspace = Workspace.open(run)
    workspace.require(Stage.SEGMENTATION)
    missing = [p.patient_id for p in workspace.patients if not workspace.features_file(p.patient_id).is_file()]
    Engine(workers, scheduler).spread("radiomics", _Measure(workspace), missing, item_gib=IMAGES_GIB)
