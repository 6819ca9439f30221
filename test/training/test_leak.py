"""Where labels say nothing, cross-validated figures must say nothing, through the real programs of stages 2 and 3."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mmpl.case import Case, ClinicalRecord, Grid, Outcome, Patient
from mmpl.names import NETWORK_STAGES, Stage
from mmpl.network import build_network
from mmpl.preprocess import PreparedCase
from mmpl.profile import load_profile
from mmpl.radiomics import feature_names
from mmpl.schema import default_schema
from mmpl.segmentation import UNTUNED
from mmpl.training import hpv, parallel, survival, workspace
from mmpl.training.records import HpvRecord, SegmentationRecord, SurvivalRecord
from mmpl.training.splits import Splits, make_splits
from mmpl.training.workspace import RunSettings, Workspace

pytestmark = pytest.mark.slow

PATIENTS = 160
PROFILE = load_profile("micro")
FEATURES = feature_names(PROFILE.radiomics)[:80]


@dataclass(frozen=True)
class NoiseCohort:
    """Patients whose images, radiomics and records have nothing to do with HPV status or outcome."""

    patients: tuple[Patient, ...]

    def fingerprint(self, patient_id: str) -> str:
        return patient_id

    def read_case(self, patient_id: str) -> Case:
        raise AssertionError("stages 2 and 3 read patches, not images")


def draw_patients() -> tuple[Patient, ...]:
    rng = np.random.default_rng(1)
    patients = []
    for number in range(PATIENTS):
        values: dict[str, float | str | None] = dict.fromkeys(default_schema().names)
        values |= {"Age": float(rng.integers(40, 80)), "Gender": str(rng.integers(2)), "M-stage": "M0"}
        outcome = Outcome(
            hpv_positive=bool(rng.random() < 0.6),
            relapse=bool(rng.random() < 0.5),
            rfs_days=float(rng.integers(100, 3000)),
        )
        patients.append(Patient(f"P{number:03d}", str(number % 7), ClinicalRecord(values), outcome))
    return tuple(patients)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose stage 1 is done, on noise."""
    cohort, rng = NoiseCohort(draw_patients()), np.random.default_rng(2)
    monkeypatch.setattr(workspace, "open_source", lambda *_: cohort)
    monkeypatch.setattr(workspace, "feature_names", lambda _: FEATURES)
    monkeypatch.setattr(parallel, "CORES", 1)  # networks this small gain nothing from a second thread
    noise = Workspace(tmp_path / "run", RunSettings("noise", PROFILE, stages=NETWORK_STAGES))
    noise.begin(make_splits(cohort.patients, 1))
    size = PROFILE.preprocess.roi_size_xyz
    roi = Grid(size, (6.0, 6.0, 6.0), (0.0, 0.0, 0.0))
    centers = {}
    for patient in cohort.patients:
        images = rng.normal(size=(2, *size[::-1])).astype(np.float32)
        noise.store.save(PreparedCase(patient.patient_id, images, None, roi, roi, ()), "0123")
        centers[patient.patient_id] = tuple(rng.uniform(8, 20, 3).tolist())
        path = noise.features_file(patient.patient_id)
        path.parent.mkdir(exist_ok=True)
        np.save(path, rng.normal(size=len(FEATURES)))
    noise.keep(
        SegmentationRecord(thresholds=UNTUNED, gtvp_dice_mean=0.5, gtvn_dice_aggregated=0.5, lesion_centers_xyz=centers)
    )
    for member in noise.splits.members:
        torch.manual_seed(3)
        state = build_network(PROFILE, Stage.SEGMENTATION).state_dict()
        path = noise.network_file(member, Stage.SEGMENTATION)
        path.parent.mkdir(parents=True)
        save_file({name: value.half() for name, value in state.items()}, path)
    return noise.folder


def figures(run: Path) -> dict[str, float]:
    """Run stages 2 and 3; what they report out of fold."""
    hpv.main(run, workers=1)
    survival.main(run, workers=1)
    done = Workspace.open(run)
    stage_2, stage_3 = done.read(HpvRecord), done.read(SurvivalRecord)
    return {
        "auc": stage_2.auc,
        "auc_deep_only": stage_2.auc_deep_only,
        "c_index": stage_3.c_index,
        "c_index_deep_only": stage_3.c_index_deep_only,
    }


@contextmanager
def everybody_outside(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leak on purpose: every model trains on the patients it scores, too."""
    with monkeypatch.context() as patched:
        patched.setattr(Splits, "training", lambda self, member, patients: list(patients))
        yield


def test_labels_that_say_nothing_are_not_predicted(run: Path) -> None:
    """The bounds are three standard errors of either statistic at this number of patients and events."""
    found = figures(run)
    assert all(abs(value - 0.5) < 0.14 for value in found.values()), found


def test_a_leak_would_be_seen(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the forest; the Cox model, which may choose nothing, chooses next to nothing of noise even then."""
    with everybody_outside(monkeypatch):
        assert figures(run)["auc"] > 0.8
