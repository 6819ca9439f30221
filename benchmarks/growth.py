"""Cost as work grows: time and memory against the length of the scan, the lesions, the models and the cohort."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.cohorts import CPU, PATIENTS, Prediction, answer_anew, evaluate_at_length
from benchmarks.measure import MIB, Apart, Point, memory_kib, peak_mib, seconds_of
from benchmarks.parts import SAMPLE, Row
from benchmarks.scans import draw_lesions, draw_scan, draw_synthetic, write_scans, write_table
from mmpl.case import Case, Image
from mmpl.io.challenge import read_challenge_case
from mmpl.io.images import write_image
from mmpl.pipeline import Pipeline
from mmpl.predict import predict
from mmpl.profile import load_profile
from mmpl.radiomics import extract
from mmpl.weights import load_ensemble

COHORTS = (1, 10, 100, 1000)
WORKERS = (1, 2, 4)


def answer(case: Case) -> None:
    """Answer with the shipped models."""
    Pipeline(load_ensemble(), CPU)(case)


def measure(lesions: tuple[Image, Image, Image]) -> None:
    """Measure radiomics."""
    extract(*lesions, load_profile("demo").radiomics)


def scan_length(repeats: int) -> Row:
    """Ten models, whole case: one alone takes much of a drawn body for a lesion."""
    points = _series({meters: partial(draw_scan, 1000 * meters) for meters in (0.3, 0.6, 1.3, 2.0)}, answer, repeats)
    return _row("length of the scan, 512 x 512 CT, ten models", points, "scan, m", " m")


def lesion_volume(repeats: int) -> Row:
    """Radiomics alone."""
    cases = {ml: partial(draw_lesions, ml, 1, 1.0, (180, 180, 180)) for ml in (2, 20, 100, 300)}
    return _row("volume of the primary, radiomics alone", _series(cases, measure, repeats), "primary, ml", " ml")


def lesion_number(repeats: int) -> Row:
    """Radiomics alone."""
    cases = {n: partial(draw_lesions, 5.0, n, 1.5 * n, (220, 180, 200)) for n in (1, 2, 4, 8)}
    part = "number of nodes of 1.5 ml, radiomics alone (all nodes are one region)"
    return _row(part, _series(cases, measure, repeats), "nodes")


def models(repeats: int) -> Row:
    """The sample case."""
    cases = {count: partial(open_models, count) for count in (1, 2, 5, 10)}
    return _row("number of models, the sample case", _series(cases, answer_with, repeats), "models")


def open_models(count: int) -> tuple[Pipeline, Case]:
    """Open the first of the shipped models, and the sample case."""
    ensemble = load_ensemble()
    return Pipeline(replace(ensemble, members=ensemble.members[:count]), CPU), read_challenge_case(SAMPLE)


def answer_with(opened: tuple[Pipeline, Case]) -> None:
    """Answer the case."""
    pipeline, case = opened
    pipeline(case)


def _series(cases: Mapping[Any, Callable[[], Any]], work: Callable[[Any], Any], repeats: int) -> tuple[Point, ...]:
    """Measure work on what is made of each amount; memory is by how much a process grows."""
    points = []
    for amount, make in cases.items():
        made = make()
        work(made)
        seconds = min(seconds_of(partial(work, made)) for _ in range(repeats))
        points.append(Point(amount, seconds, peak_mib(make, work)))
    return tuple(points)


def _row(part: str, points: tuple[Point, ...], x_label: str, unit: str = "") -> Row:
    """Say in words what the points are."""
    result = "; ".join(f"{point.x:g}{unit}: {point.seconds:.2f} s, {point.mib:.0f} MiB" for point in points)
    return Row(part, result=result, points=points, x_label=x_label)


def cohort(repeats: int) -> Row:
    """Small scans, so that reader, writer and table count for much; one model, no pictures."""
    del repeats  # once is enough for so many patients
    points, case = list[Point](), draw_scan(300.0, 96, 64, 5.0)
    with tempfile.TemporaryDirectory() as work:
        sources = {"CT": Path(work) / "ct.nii.gz", "PT": Path(work) / "pet.nii.gz"}
        for source, image in zip(sources.values(), (case.ct, case.pet), strict=True):
            write_image(source, image)
        for count in COHORTS:
            folder = Path(work) / str(count)
            names = [f"P-{number:04d}" for number in range(count)]
            folder.mkdir()
            write_table(folder, names)
            for kind, source in sources.items():
                for name in names:
                    (folder / f"{name}__{kind}.nii.gz").symlink_to(source)
            with Apart(partial(Path, folder), predict_all, keep=True) as apart:
                points.append(Point(count, *apart()))
    lines = (f"{p.x:g}: {p.seconds:.0f} s ({p.seconds / p.x:.2f} s each), {p.mib:.0f} MiB in all" for p in points)
    return Row(
        "patients in a cohort, 96 x 96 x 60 CT, one model, `predict` with reader and writer",
        result="; ".join(lines),
        points=tuple(points),
        x_label="patients",
    )


def predict_all(folder: Path) -> tuple[float, float]:
    """Predict a cohort; seconds, and the most memory that the process ever had, MiB."""
    seconds = seconds_of(partial(predict, folder, folder.with_name(f"{folder.name}-answers"), False, ["patient-0"]))
    return seconds, memory_kib("VmHWM") / MIB


def workers(repeats: int) -> Row:
    """Full-size scans, ten models, pictures: more patients at once than there are cores cost memory alone."""
    points = []
    with tempfile.TemporaryDirectory() as work:
        scans = Path(work) / "cohort"
        write_scans(scans, PATIENTS, draw_synthetic)
        for count in WORKERS:
            make = partial(Prediction, scans, Path(work) / str(count), workers=count)
            with Apart(make, answer_anew, keep=True) as apart:
                mib = apart()
                points.append(Point(count, min(seconds_of(apart.run) for _ in range(repeats)), mib))
    lines = (f"{p.x:g}: {p.seconds:.0f} s, {p.mib:.0f} MiB in all" for p in points)
    return Row(
        f"patients at once (`--workers`), {PATIENTS} patients of 512 x 512 x 150 CT, ten models, pictures and reports",
        result="; ".join(lines),
        points=tuple(points),
        x_label="workers",
    )


GROWTH: dict[str, Callable[[int], Row]] = {
    "scan length": scan_length,
    "lesion volume": lesion_volume,
    "lesion number": lesion_number,
    "models": models,
    "cohort": cohort,
    "workers": workers,
    "evaluate at length": evaluate_at_length,
}
