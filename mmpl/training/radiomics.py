"""Measure lesions, once a patient, on the out-of-fold mask: `python -m train.radiomics RUN`."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmpl.evidence import FeatureTable
from mmpl.files import write_whole
from mmpl.lesions import find_lesions
from mmpl.names import Stage
from mmpl.radiomics import measure_lesions
from mmpl.staging import measure_geometry
from mmpl.training.command import RunFolder, Scheduler, Workers
from mmpl.training.memory import IMAGES_GIB
from mmpl.training.parallel import Engine
from mmpl.training.segmentation import out_of_fold_mask
from mmpl.training.workspace import Workspace


@dataclass(frozen=True)
class _Measure:
    workspace: Workspace

    def __call__(self, patient_id: str) -> None:
        workspace = self.workspace
        case = workspace.source.read_case(patient_id)
        mask = out_of_fold_mask(workspace, patient_id, workspace.segmentation.thresholds)
        _save(workspace.features_file(patient_id), measure_lesions(case, mask, workspace.profile.radiomics))
        if Stage.STAGING in workspace.settings.stages:
            lesions = find_lesions(case, mask)
            smallest_ml = workspace.profile.inference.smallest_lesion_ml(mask.grid.voxel_ml)
            _save(workspace.geometry_file(patient_id), measure_geometry(lesions, smallest_ml))


def _save(path: Path, measured: FeatureTable) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_whole(path) as partial, partial.open("wb") as file:
        np.save(file, measured.values[0])


def main(run: RunFolder, workers: Workers = 0, scheduler: Scheduler = None) -> None:
    """Restore every patient's out-of-fold mask to the CT and measure it; finished patients are not done again."""
    workspace = Workspace.open(run)
    if workspace.settings.stages == (Stage.SEGMENTATION,):
        return  # nothing that would read them is trained
    workspace.require(Stage.SEGMENTATION)
    missing = [p.patient_id for p in workspace.patients if not workspace.is_measured(p.patient_id)]
    Engine(workers, scheduler).map("radiomics", _Measure(workspace), missing, item_gib=IMAGES_GIB)
