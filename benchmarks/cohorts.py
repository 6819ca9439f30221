"""The rows of whole cohorts: patients at once, on a cluster, from released files to patches, answers in thousands."""

import csv
import gzip
import json
import os
import shutil
import statistics
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from clusters import start_cluster

from benchmarks.measure import (
    MIB,
    Apart,
    Comparison,
    Point,
    alternate,
    exponent,
    memory_kib,
    product_tflops,
    seconds_of,
)
from benchmarks.parts import ROOT, Row
from benchmarks.scans import draw_scan, draw_synthetic, write_scans
from mmpl.case import Case, ClinicalRecord, Grid, Image
from mmpl.cohort_page import write_cohort_page
from mmpl.cohort_scores import RESAMPLES
from mmpl.evaluate import evaluate
from mmpl.geometry import to_sitk
from mmpl.io.images import from_sitk, write_image
from mmpl.names import PREDICTIONS_FILE, Column, Stage
from mmpl.network import count_gflop
from mmpl.phantom.cohort import table_row
from mmpl.phantom.latent import draw_patients
from mmpl.predict import AnswerTables, predict
from mmpl.processor import Processor
from mmpl.profile import Profile
from mmpl.segmentation import SlidingWindow
from mmpl.training.prepare import PreparePatient
from mmpl.training.workspace import RunSettings, Workspace
from mmpl.weights import load_ensemble
from oracles import PAPER, carry_out_literally

PATIENTS = 8
LONG_COHORTS = (1_000, 3_000, 10_000)
CPU = torch.device("cpu")

draw_long_patient = partial(draw_scan, 600.0)
"""512 x 512 x 300 CT, 200 x 200 x 300 PET."""


@dataclass(frozen=True)
class Prediction:
    """A cohort to be answered by the shipped models, with pictures and reports, anew each time."""

    cohort: Path
    out: Path
    workers: int = 0
    scheduler: str | None = None


def answer_anew(asked: Prediction) -> float:
    """Answer a cohort; the most memory that this process ever had, MiB."""
    shutil.rmtree(asked.out, ignore_errors=True)
    if failures := predict(asked.cohort, asked.out, workers=asked.workers, scheduler=asked.scheduler):
        raise RuntimeError(f"not answered: {failures}")
    return memory_kib("VmHWM") / MIB


def predict_at_once(repeats: int) -> Row:
    """One patient after the other, which has all cores, and as many at once as the machine allows."""
    with tempfile.TemporaryDirectory() as work:
        cohort, one, many = (Path(work) / name for name in ("cohort", "one", "many"))
        write_scans(cohort, PATIENTS, draw_synthetic)
        with (
            Apart(partial(Prediction, cohort, one, 1), answer_anew, keep=True) as alone,
            Apart(partial(Prediction, cohort, many), answer_anew, keep=True) as at_once,
        ):
            alone_mib, at_once_mib = alone(), at_once()
            time_ = alternate(alone.run, at_once.run, repeats)
        same = compare_answers(one, many)
    ensemble = load_ensemble()
    gflop = len(ensemble.members) * model_gflop(ensemble.profile)
    attainable = 1000 * product_tflops(torch.float32, CPU, size=2048)
    at_best = PATIENTS * gflop / attainable / statistics.median(time_.fast_s)
    return Row(
        part=f"`predict`, ten models, {PATIENTS} patients of 512 x 512 x 150 CT, with pictures and reports: "
        "as many at once as the machine allows",
        against="one after the other (`--workers 1`)",
        goal=">= 1.5 times faster, memory under 2.5 GiB, the same answers",
        result=f"{time_.describe()}, {patients_a_minute(time_)}; {at_once_mib / 1024:.2f} GiB against "
        f"{alone_mib / 1024:.2f} GiB in all; {same}; the networks' {gflop:.0f} GFLOP a patient would take "
        f"{at_best:.0%} of it at the rate of a product of large matrices ({attainable:.0f} GFLOP/s)",
    )


def model_gflop(profile: Profile) -> float:
    """Count the operations (in 1e9) of one model's three networks on one patient."""
    x, y, z = profile.preprocess.roi_size_xyz
    windows = SlidingWindow(profile.inference, Processor(CPU)).count((z, y, x))
    crops = sum(count_gflop(profile, stage) for stage in (Stage.HPV, Stage.SURVIVAL))
    return windows * count_gflop(profile, Stage.SEGMENTATION) + crops


def patients_a_minute(time_: Comparison) -> str:
    """Write both rates of a cohort of PATIENTS, the faster first."""
    fast, plain = (60 * PATIENTS / statistics.median(seconds) for seconds in (time_.fast_s, time_.plain_s))
    return f"{fast:.1f} patients a minute against {plain:.1f}"


def compare_answers(one: Path, other: Path) -> str:
    """Say how many of a folder's masks, and whether its table, are another's to the last bit."""

    def same(name: str) -> bool:
        return (one / name).read_bytes() == (other / name).read_bytes()

    masks = [path.name for path in one.glob("*.nii.gz")]
    table = "is" if same(PREDICTIONS_FILE) else "is NOT"
    return f"{sum(map(same, masks))} of {len(masks)} masks are the same to the last bit, {PREDICTIONS_FILE} {table}"


def predict_on_a_cluster(repeats: int) -> Row:
    """Dask clusters on this machine, whose workers have a core each."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise OSError("two workers want two cores, and this process may use one")
    with tempfile.TemporaryDirectory() as work, ExitStack() as stack:
        cohort, ways = Path(work) / "cohort", []
        write_scans(cohort, PATIENTS, draw_synthetic)
        for workers in (1, 2):
            place = Path(work) / str(workers)
            place.mkdir()
            address = stack.enter_context(start_cluster(place, workers, str(ROOT), str(ROOT), cores[:workers]))
            ways.append(Prediction(cohort, place / "answers", scheduler=address))
        one, two = (partial(answer_anew, way) for way in ways)
        one(), two()
        time_ = alternate(one, two, repeats)
        same = compare_answers(*(way.out for way in ways))
    return Row(
        part="the same cohort on a Dask cluster of two workers, a core each",
        against="of one such worker",
        goal=">= 1.8 times faster, the same answers",
        result=f"{time_.describe()}, {patients_a_minute(time_)}; {same}",
    )


def preparing_files(repeats: int) -> Row:
    """What `train.prepare` does for a patient, beside the plain way, each in a process that has one core."""
    with tempfile.TemporaryDirectory() as work:
        cohort = Path(work) / "cohort"
        (name,) = write_scans(cohort, 1, draw_long_patient)
        paths = [cohort / f"{name}{ending}.nii.gz" for ending in ("__CT", "__PT", "")]
        with (
            Apart(partial(open_files, paths), prepare_files_plainly, keep=False) as plain,
            Apart(partial(open_run, cohort, Path(work) / "run"), prepare_first, keep=True) as ours,
        ):
            plain.run()
            ours.run()
            time_ = alternate(plain.run, ours.run, repeats)
        inflated = sum(map(inflate, paths))
        inflating_s = min(seconds_of(lambda: [inflate(path) for path in paths]) for _ in range(repeats))
    our_s = statistics.median(time_.fast_s)
    return Row(
        part="preparing a patient for training (`train.prepare`) from released files, `paper` profile, one core: "
        "512 x 512 x 300 CT, 200 x 200 x 300 PET, mask",
        against="SimpleITK: read, B-spline of both whole images and nearest neighbor of the mask to 1 mm, crop; "
        "nothing is written",
        goal=">= 3 times faster",
        result=f"{time_.describe()}; inflating the files once by zlib takes {inflating_s:.2f} s, "
        f"{inflating_s / our_s:.0%} of it ({inflated / inflating_s / 1e6:.0f} MB/s of voxels)",
    )


def use_one_core() -> None:
    """Let this process, whatever threads it has, compute on one core."""
    core = max(os.sched_getaffinity(0))
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), {core})
    torch.set_num_threads(1)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)


def open_files(paths: Sequence[Path]) -> Sequence[Path]:
    """Use one core from now on."""
    use_one_core()
    return paths


def open_run(cohort: Path, run: Path) -> Workspace:
    """Use one core from now on, and open a run of the `paper` profile."""
    use_one_core()
    return Workspace(run, RunSettings.make(None, str(cohort), "paper"))


def prepare_first(workspace: Workspace) -> None:
    """Prepare a run's first patient."""
    PreparePatient(workspace)(workspace.patients[0].patient_id)


def prepare_files_plainly(paths: Sequence[Path]) -> None:
    """Read CT, PET and mask with SimpleITK alone, resample all of each to 1 mm, and crop."""
    ct, pet, mask = (from_sitk(sitk.ReadImage(str(path))) for path in paths)
    literal = carry_out_literally(Case("plain", ct, pet, ClinicalRecord()))
    labels = sitk.Resample(to_sitk(mask), literal.grid, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    for whole, fill in ((literal.ct, -1024.0), (literal.pet, 0.0), (sitk.GetArrayFromImage(labels), 0.0)):
        literal.patch(whole, PAPER.roi_size_xyz, fill)


def inflate(path: Path) -> int:
    """Inflate a file; its bytes then."""
    count = 0
    with gzip.open(path) as file:
        while block := file.read(1 << 22):
            count += len(block)
    return count


@dataclass(frozen=True)
class Answered:
    """A cohort, a folder of its answers, and how often patients are drawn for intervals."""

    cohort: Path
    answers: Path
    resamples: int


def evaluate_at_length(repeats: int) -> Row:
    """The tables of `predict`, `evaluate` and the page of the cohort, of patients and answers drawn at random."""
    del repeats  # once is enough for so many patients
    taken = list[tuple[float, ...]]()
    with tempfile.TemporaryDirectory() as work:
        template = answer_once(Path(work))
        for count in LONG_COHORTS:
            cohort, answers = Path(work) / f"cohort-{count}", Path(work) / f"answers-{count}"
            write_answers(cohort, answers, count, template)
            with Apart(partial(Answered, cohort, answers, RESAMPLES), evaluate_all, keep=True) as apart:
                taken.append(apart())
    points = tuple(Point(count, sum(seconds), mib) for count, (*seconds, mib) in zip(LONG_COHORTS, taken, strict=True))
    named, powers = ("tables", "evaluate", "page"), list[str]()
    for name, seconds in zip(named, zip(*taken, strict=True), strict=False):  # memory comes last
        grown = exponent([Point(count, s, 0) for count, s in zip(LONG_COHORTS, seconds, strict=True)])
        powers.append(f"{name} {grown:.2f}")
    lines = [
        f"{count}: {tables:.1f} s tables, {scores:.0f} s `evaluate`, {page:.0f} s page, {mib:.0f} MiB in all"
        for count, (tables, scores, page, mib) in zip(LONG_COHORTS, taken, strict=True)
    ]
    return Row(
        f"answers in thousands: `predict`'s tables, `evaluate`, `mmpl report`; {RESAMPLES} resamples, masks of a few "
        "voxels",
        goal="linear",
        result=f"{'; '.join(lines)}; grows as the power of the patients: {', '.join(powers)}",
        points=points,
        x_label="answers",
    )


def answer_once(work: Path) -> dict[str, Any]:
    """Answer a small drawn patient with the shipped models; the report."""
    (name,) = write_scans(work / "one", 1, partial(draw_scan, 300.0, 96, 64, 5.0))
    predict(work / "one", work / "one-answers", pictures=False)
    report: dict[str, Any] = json.loads((work / "one-answers" / f"{name}.json").read_text())
    return report


def write_answers(cohort: Path, answers: Path, count: int, template: dict[str, Any]) -> None:
    """Write a cohort of the phantom's patients, but tiny images, and answers at random in a report's form."""
    cohort.mkdir()
    answers.mkdir()
    rows, rng = [table_row(patient) for patient in draw_patients(count, seed=1, version=2)], np.random.default_rng(0)
    with (cohort / "cohort.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    grid = Grid((6, 5, 4), (3.0, 3.0, 3.0), (0.0, 0.0, 0.0))
    masks = [cohort.with_suffix(".truth.nii.gz"), cohort.with_suffix(".found.nii.gz")]
    for path in masks:
        write_image(path, Image(rng.integers(0, 3, grid.shape_zyx, np.uint8), grid))
    for name in (str(row[Column.PATIENT_ID]) for row in rows):
        for ending in ("__CT", "__PT", ""):
            (cohort / f"{name}{ending}.nii.gz").symlink_to(masks[0])
        (answers / f"{name}.nii.gz").symlink_to(masks[1])
        probability, left = rng.random(2)
        hpv = template["hpv"] | {"probability": probability, "calibrated": probability, "positive": probability > 0.5}
        risk, known = template["risk"] | {"score": rng.standard_normal()}, template["no_recurrence"]
        after = {years: point | {"probability": left} for years, point in known["after_years"].items()}
        report = template | {"patient": name, "hpv": hpv, "risk": risk, "no_recurrence": known | {"after_years": after}}
        (answers / f"{name}.json").write_text(json.dumps(report, indent=1, default=bool))


def evaluate_all(answered: Answered) -> tuple[float, ...]:
    """Write the tables of a cohort's answers, evaluate them, and write the page; seconds each, and the most MiB."""
    answers, cohort, resamples = answered.answers, answered.cohort, answered.resamples
    tables_s = seconds_of(AnswerTables(answers).write)
    scores_s = seconds_of(partial(evaluate, answers, cohort, resamples=resamples))
    page_s = seconds_of(partial(write_cohort_page, answers, cohort, resamples))
    return tables_s, scores_s, page_s, memory_kib("VmHWM") / MIB


COHORT_PARTS: dict[str, Callable[[int], Row]] = {
    "predict, at once": predict_at_once,
    "predict, on a cluster": predict_on_a_cluster,
    "preparing files": preparing_files,
}
