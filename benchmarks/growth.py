"""Cost as work grows: time and memory against the length of the scan, the lesions, the models and the cohort."""

import csv
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import MIB, Apart, memory_kib, peak_mib, seconds_of
from benchmarks.parts import SAMPLE, Row
from benchmarks.scans import draw_lesions, draw_scan
from mmpl.case import Case, Image
from mmpl.io.challenge import read_challenge_case
from mmpl.io.images import write_image
from mmpl.names import Column
from mmpl.pipeline import Pipeline
from mmpl.predict import predict
from mmpl.profile import load_profile
from mmpl.radiomics import extract
from mmpl.schema import default_schema
from mmpl.weights import load_ensemble

CPU = torch.device("cpu")
COHORTS = (1, 10, 100, 1000)


def answer(case: Case) -> None:
    """Answer with the shipped models."""
    Pipeline(load_ensemble(), CPU)(case)


def measure(lesions: tuple[Image, Image, Image]) -> None:
    """Measure radiomics."""
    extract(*lesions, load_profile("demo").radiomics)


def scan_length(repeats: int) -> Row:
    """Ten models, whole case: one alone takes much of a drawn body for a lesion."""
    cases = {f"{mm / 1000:.1f} m": partial(draw_scan, mm) for mm in (300.0, 600.0, 1300.0, 2000.0)}
    return Row("length of the scan, 512 x 512 CT, ten models", result=_series(cases, answer, repeats))


def lesion_volume(repeats: int) -> Row:
    """Radiomics alone."""
    cases = {f"{ml} ml": partial(draw_lesions, ml, 1, 1.0, (180, 180, 180)) for ml in (2, 20, 100, 300)}
    return Row("volume of the primary, radiomics alone", result=_series(cases, measure, repeats))


def lesion_number(repeats: int) -> Row:
    """Radiomics alone."""
    cases = {str(n): partial(draw_lesions, 5.0, n, 1.5 * n, (220, 180, 200)) for n in (1, 2, 4, 8)}
    return Row(
        "number of nodes of 1.5 ml, radiomics alone (all nodes are one region)",
        result=_series(cases, measure, repeats),
    )


def models(repeats: int) -> Row:
    """The sample case."""
    cases = {str(count): partial(open_models, count) for count in (1, 2, 5, 10)}
    return Row("number of models, the sample case", result=_series(cases, answer_with, repeats))


def open_models(count: int) -> tuple[Pipeline, Case]:
    """Open the first of the shipped models, and the sample case."""
    ensemble = load_ensemble()
    return Pipeline(replace(ensemble, members=ensemble.members[:count]), CPU), read_challenge_case(SAMPLE)


def answer_with(opened: tuple[Pipeline, Case]) -> None:
    """Answer the case."""
    pipeline, case = opened
    pipeline(case)


def _series(cases: Mapping[str, Callable[[], Any]], work: Callable[[Any], Any], repeats: int) -> str:
    results = []
    for name, make in cases.items():
        made = make()
        work(made)
        seconds = min(seconds_of(partial(work, made)) for _ in range(repeats))
        results.append(f"{name}: {seconds:.2f} s, {peak_mib(make, work):.0f} MiB")
    return "; ".join(results)


def cohort(repeats: int) -> Row:
    """Small scans, so that reader, writer and table count for much; one model, no pictures."""
    del repeats  # once is enough for so many patients
    results = []
    case = draw_scan(300.0, 96, 64, 5.0)
    with tempfile.TemporaryDirectory() as work:
        sources = {"CT": Path(work) / "ct.nii.gz", "PT": Path(work) / "pet.nii.gz"}
        for source, image in zip(sources.values(), (case.ct, case.pet), strict=True):
            write_image(source, image)
        for count in COHORTS:
            folder = Path(work) / str(count)
            names = [f"P-{number:04d}" for number in range(count)]
            folder.mkdir()
            with (folder / "cohort.csv").open("w", newline="") as file:
                table = csv.DictWriter(file, [*Column, *default_schema().names])
                table.writeheader()
                table.writerows({Column.PATIENT_ID: name} for name in names)
            for kind, source in sources.items():
                for name in names:
                    (folder / f"{name}__{kind}.nii.gz").symlink_to(source)
            with Apart(partial(Path, folder), predict_all, keep=True) as apart:
                seconds, mib = apart()
            results.append(f"{count}: {seconds:.0f} s ({seconds / count:.2f} s each), {mib:.0f} MiB in all")
    return Row(
        "patients in a cohort, 96 x 96 x 60 CT, one model, `predict` with reader and writer",
        result="; ".join(results),
    )


def predict_all(folder: Path) -> tuple[float, float]:
    """Predict a cohort; seconds, and the most memory that the process ever had, MiB."""
    seconds = seconds_of(partial(predict, folder, folder.with_name(f"{folder.name}-answers"), False, ["patient-0"]))
    return seconds, memory_kib("VmHWM") / MIB


GROWTH: dict[str, Callable[[int], Row]] = {
    "scan length": scan_length,
    "lesion volume": lesion_volume,
    "lesion number": lesion_number,
    "models": models,
    "cohort": cohort,
}
