"""Measure lesions and planned dose, once a patient, on the out-of-fold mask: `python -m train.radiomics RUN`."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import typer

from mmpl.dose import DOSE_LEFT_OUT, IN_CENTIGRAY, measure_dose
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

    def __call__(self, patient_id: str) -> list[str]:
        """Measure a patient, and say what is odd of the dose."""
        workspace, dose = self.workspace, self.workspace.profile.dose
        case = workspace.source.read_case(patient_id)
        mask = out_of_fold_mask(workspace, patient_id, workspace.segmentation.thresholds)
        said = [flag for flag in case.flags if flag.startswith((DOSE_LEFT_OUT, IN_CENTIGRAY))]
        if case.dose:
            measured = measure_dose(case.dose, mask, dose, workspace.profile.radiomics)
            _keep(workspace.dose_file(patient_id), measured.columns)
            said += measured.flags
        if Stage.STAGING in workspace.settings.stages:
            lesions = find_lesions(case, mask)
            smallest_ml = workspace.profile.inference.smallest_lesion_ml(mask.grid.voxel_ml)
            _keep(workspace.geometry_file(patient_id), measure_geometry(lesions, smallest_ml))
        features = measure_lesions(case, mask, workspace.profile.radiomics)
        _keep(workspace.features_file(patient_id), features)  # with which the patient is finished
        return [f"{patient_id}: {flag}" for flag in said]


def _keep(path: Path, row: FeatureTable) -> None:
    """Keep one patient's row, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_whole(path) as partial, partial.open("wb") as file:
        np.save(file, row.values[0])


def main(run: RunFolder, workers: Workers = 0, scheduler: Scheduler = None) -> None:
    """Restore every patient's out-of-fold mask to the CT and measure it; finished patients are not done again."""
    workspace = Workspace.open(run)
    if workspace.settings.stages == (Stage.SEGMENTATION,):
        return  # nothing that would read them is trained
    workspace.require(Stage.SEGMENTATION)
    missing = [p.patient_id for p in workspace.patients if not workspace.is_measured(p.patient_id)]
    for said in Engine(workers, scheduler).map("radiomics", _Measure(workspace), missing, item_gib=IMAGES_GIB):
        for line in said:
            typer.echo(f"note: {line}")
    if with_dose := sum(workspace.dose_file(patient.patient_id).is_file() for patient in workspace.patients):
        typer.echo(f"planned dose: of {with_dose} patients")
