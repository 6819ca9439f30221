"""Plan a training before it is begun: its disk, memory and hours, from parts measured on a few of its patients.

`python -m train.plan COHORT --profile paper` prepares some of the cohort's patients in a folder that is thrown away,
measures what each leaves on the disk and what each costs a processor, counts the operations of the networks and what
they keep in memory, and prints a plan as Markdown. Hours on a GPU are computed, not measured: operations over the rate
at which it trains.
"""

import math
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from scipy import ndimage

from mmpl.files import write_json
from mmpl.names import NETWORK_STAGES, Stage
from mmpl.network import build_network, count_gflop
from mmpl.preprocess import prepare
from mmpl.profile import OutcomeTraining, Profile, SegmentationTraining, load_profile
from mmpl.radiomics import measure_lesions
from mmpl.segmentation import UNTUNED, lesion_center, window_boxes
from mmpl.training.command import Changes, CohortName, ProfileName
from mmpl.training.memory import GPU_PROCESS_GIB, predicting_gib, training_gib
from mmpl.training.patches import SegmentationCrops, hash_of
from mmpl.training.segmentation import measure_overlaps, out_of_fold_mask
from mmpl.training.splits import FOLDS, Scheme, Splits
from mmpl.training.workspace import RunSettings, Workspace

MEMBERS = FOLDS * len(Scheme)
GPUS = (1, 4, 10)
LEAST_PASSES, MOST_PASSES = 3, 4
"""Forward passes that a step of training costs: itself and twice that backward; one more where it is done again."""
NETWORK_BYTES, CHECKPOINT_BYTES = 2, 16
"""Bytes of a parameter, finished (float16) and in training (float32: weight, moving average, two moments of AdamW)."""


@dataclass(frozen=True)
class Parts:
    """The costs of one patient, the mean of those that were measured.

    Attributes:
        file_bytes: Size on the disk, bytes, by kind of file.
        seconds: Seconds of one processor core, by step, without the reading of scans.
        draw_seconds: Seconds of one core to draw a batch of stage 1.
        read_seconds: Seconds of one core to read as many whole patches as the batch has crops: its part where a GPU
            does the rest.
    """

    file_bytes: Mapping[str, float]
    seconds: Mapping[str, float]
    draw_seconds: float
    read_seconds: float


def measure_parts(workspace: Workspace, most: int) -> Parts:
    """Do with a few patients all that a training does without a network.

    Only patients with a reference mask; blurred, it stands in for a network's probability.

    Raises:
        ValueError: None of those that were tried has one.
    """
    store, spent = workspace.store, defaultdict[str, float](float)
    with_mask = []
    for patient in workspace.patients[:: -(-len(workspace.patients) // most)]:
        case = workspace.source.read_case(patient.patient_id)
        if case.reference is not None:
            with_mask.append(case)
            with _timed(spent, "preparing"):
                store.save(prepare(case, workspace.profile.preprocess), hash_of(case.ct), case.reference.voxels)
    if not with_mask:
        raise ValueError(f"{workspace.cohort}: no reference mask to measure with")
    names = [case.patient_id for case in with_mask]
    write_json(workspace.splits_file, Splits({scheme: dict.fromkeys(names, 0) for scheme in Scheme}))
    for name, case in zip(names, with_mask, strict=True):
        labels = store.load(name).labels
        assert labels is not None
        stand_in = ndimage.uniform_filter(labels, (0, 5, 5, 5))
        with _timed(spent, "keeping out-of-fold probabilities"):
            for scheme in Scheme:
                workspace.keep_probability(scheme, name, stand_in)
        with _timed(spent, "choosing thresholds"):
            measure_overlaps(workspace, name)
        with _timed(spent, "locating lesions"):
            mask = out_of_fold_mask(workspace, name, UNTUNED)
            lesion_center(mask, store.describe(name).roi)
        with _timed(spent, "radiomics"):
            mask = out_of_fold_mask(workspace, name, UNTUNED)
            features = measure_lesions(case, mask, workspace.profile.radiomics)
        path = workspace.features_file(name)
        path.parent.mkdir(exist_ok=True)
        np.save(path, features.values[0])
        with _timed(spent, "drawing"):
            _draw(workspace, names)
        with _timed(spent, "reading"):
            store.labels(name), np.array(store.images(name))
    mean = {step: seconds / len(names) for step, seconds in spent.items()}
    draw, read = mean.pop("drawing"), mean.pop("reading") * workspace.profile.training.segmentation.batch
    return Parts(_bytes_by_kind(workspace, len(names)), mean, draw, read)


@contextmanager
def _timed(spent: dict[str, float], step: str) -> Iterator[None]:
    """Add what a step costs the processor to what it has cost so far, seconds; other programs do not count."""
    started = time.process_time()
    yield
    spent[step] += time.process_time() - started


def _draw(workspace: Workspace, names: Sequence[str]) -> None:
    training, spacing_mm = workspace.profile.training, workspace.profile.preprocess.spacing_mm
    crops = SegmentationCrops(workspace.store, names, training.segmentation, training.augmentation, spacing_mm, seed=0)
    crops(0, torch.device("cpu"))


def _bytes_by_kind(workspace: Workspace, patients: int) -> dict[str, float]:
    store, run = workspace.store.folder, workspace.folder
    kinds = {
        "images": store.glob("*.images.*"),
        "reference mask on the patch": store.glob("*.labels.*"),
        "reference mask on the CT": store.glob("*.reference.*"),
        "description": store.glob("*.json"),
        "two out-of-fold probabilities": run.glob("out_of_fold/*/*"),
        "radiomics": run.glob("radiomics/*"),
    }
    return {kind: sum(path.stat().st_size for path in paths) / patients for kind, paths in kinds.items()}


def run_bytes(profile: Profile, patients: int, parts: Parts, gpus: int) -> dict[str, float]:
    """Sum up a run's folder by kind when it is largest: stage 3 trains, a network on each GPU."""
    *before, last = (_parameters(profile, stage) for stage in NETWORK_STAGES)
    sizes = {kind: patients * size for kind, size in parts.file_bytes.items()}
    sizes["finished networks"] = MEMBERS * NETWORK_BYTES * sum(before)
    sizes["checkpoints"] = min(gpus, MEMBERS) * CHECKPOINT_BYTES * last
    return sizes


def _parameters(profile: Profile, stage: Stage) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build_network(profile, stage).parameters())


@dataclass(frozen=True)
class Work:
    """The operations of a stage, TFLOP.

    Attributes:
        training: Operations of one network's forward passes in training.
        prediction: Operations of all networks in prediction, each on its fold.
    """

    training: float
    prediction: float


def count_work(profile: Profile, stage: Stage, patients: int) -> Work:
    """Count the operations of a stage, in training over its crop, in prediction over the windows of inference."""
    settings: SegmentationTraining | OutcomeTraining = getattr(profile.training, stage)
    training, prediction = count_gflop(profile, stage, settings.crop_xyz) / 1000, count_gflop(profile, stage) / 1000
    windows = 1
    if stage is Stage.SEGMENTATION:
        patch, window = profile.preprocess.roi_size_xyz, profile.inference.window_xyz
        windows = len(window_boxes(patch, window, profile.inference.overlap))
    return Work(settings.steps * settings.batch * training, patients * len(Scheme) * windows * prediction)


def disk_table(profile: Profile, patients: int, parts: Parts) -> str:
    """Make the Markdown table of a run's disk."""
    runs = [run_bytes(profile, patients, parts, gpus) for gpus in GPUS]
    rows = [(kind, parts.file_bytes.get(kind), [run[kind] for run in runs]) for kind in runs[0]]
    rows.append(("together", sum(parts.file_bytes.values()), [sum(run.values()) for run in runs]))
    lines = _heads(f"disk, {patients} patients", "a patient, MB", "GB")
    for kind, each, sizes in rows:
        cells = [kind, "" if each is None else f"{each / 1e6:.3f}", *(f"{size / 1e9:.2f}" for size in sizes)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def memory_table(profile: Profile) -> str:
    """Make the Markdown table of the machine's memory that one process takes, whatever the number of patients."""
    heads = "memory of one process, GiB", "training on a CPU", "training on a GPU", "out-of-fold prediction on a CPU"
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    prediction = f"{predicting_gib(profile):.1f}"
    for stage in NETWORK_STAGES:
        cells = [stage, f"{training_gib(profile, stage, on_gpu=False):.1f}", f"{GPU_PROCESS_GIB:.1f}", prediction]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def hours_table(profile: Profile, patients: int, parts: Parts, tflops: tuple[float, float], cores: int) -> str:
    """Make the Markdown table of a run's hours, for the fewest operations at the best rate and the reverse."""
    ends = (LEAST_PASSES, tflops[1]), (MOST_PASSES, tflops[0])
    rows: list[tuple[str, str, list[list[float]]]] = []
    for stage in NETWORK_STAGES:
        work = count_work(profile, stage, patients)
        training = [
            [work.training * passes * math.ceil(MEMBERS / gpus) / rate for passes, rate in ends] for gpus in GPUS
        ]
        prediction = [[work.prediction / gpus / rate for _, rate in ends] for gpus in GPUS]
        known = f"computed, {work.training * MEMBERS * LEAST_PASSES / 1000:.0f} PFLOP and more"
        rows.append((f"{stage}, training", known, training))
        rows.append((f"{stage}, out-of-fold prediction", f"computed, {work.prediction / 1000:.1f} PFLOP", prediction))
    for step, each in parts.seconds.items():
        known = f"measured, {each:.2f} s of a core and patient"
        rows.append((step, known, [[patients * each / gpus / cores] * 2 for gpus in GPUS]))
    rows.append(("together", "", np.sum([seconds for *_, seconds in rows], axis=0).tolist()))
    lines = _heads(f"{MEMBERS} networks, {patients} patients", "how known", "hours")
    for step, known, seconds in rows:
        cells = [step, known, *(_range(low / 3600, high / 3600) for low, high in seconds)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _heads(what: str, then: str, unit: str) -> list[str]:
    heads = [what, then, *(f"{gpus} GPU{'s' * (gpus > 1)}, {unit}" for gpus in GPUS)]
    return [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]


def _range(low: float, high: float) -> str:
    ends = [f"{hours:.2f}" if hours < 1 else f"{hours:.1f}" for hours in (low, high)]
    return " to ".join(dict.fromkeys(ends))


def drawing(profile: Profile, parts: Parts, tflops: tuple[float, float]) -> str:
    """Compare the drawing of batches with the steps that wait for them."""
    batch, crop_xyz = profile.training.segmentation.batch, profile.training.segmentation.crop_xyz
    tflop = batch * count_gflop(profile, Stage.SEGMENTATION, crop_xyz) / 1000
    return (
        f"A batch of {batch} crops of stage 1 takes a core {parts.draw_seconds:.2f} s, of which reading takes "
        f"{parts.read_seconds:.3f} s at most; where there is a GPU it does the rest, and a step is computed to take "
        f"{tflop * LEAST_PASSES / tflops[1]:.3f} to {tflop * MOST_PASSES / tflops[0]:.3f} s."
    )


def main(
    cohort: CohortName,
    profile: ProfileName = "paper",
    changes: Changes = None,
    sample: Annotated[int, typer.Option(min=1, help="patients to measure, at most")] = 5,
    tflops: Annotated[tuple[float, float], typer.Option(help="least and most TFLOP/s of a GPU in training")] = (10, 45),
    cores: Annotated[int, typer.Option(min=1, help="processor cores beside each GPU")] = 8,
) -> None:
    """Measure a few patients of a cohort (a folder, or `phantom:PATIENTS:SEED`) and plan the training of all."""
    settings = load_profile(profile, changes or ())
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder), RunSettings(cohort, settings))
        parts = measure_parts(workspace, sample)
        patients = len(workspace.patients)
        typer.echo(disk_table(settings, patients, parts))
        typer.echo(f"\n{memory_table(settings)}")
        typer.echo(f"\n{hours_table(settings, patients, parts, tflops, cores)}")
        typer.echo(f"\n{drawing(settings, parts, tflops)}")
