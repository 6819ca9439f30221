"""The rows of whole cohorts, on two or three small patients: they work, and what they compare is the same."""

import json
import os
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from clusters import start_cluster
from distributed import Client
from joblib import cpu_count

from benchmarks import cohorts, growth
from benchmarks.scans import draw_reference, draw_scan, write_scans
from mmpl.case import Case
from mmpl.io.images import read_image
from mmpl.names import PREDICTIONS_FILE, Label
from mmpl.processor import use_allowed_cores

SMALL = partial(draw_scan, 300.0, 96, 64, 5.0)


@pytest.fixture(autouse=True)
def be_small(monkeypatch: pytest.MonkeyPatch, calibrated_ensemble: Path) -> None:
    """Two small scans, and two models that have learnt nothing."""
    monkeypatch.setenv("MMPL_WEIGHTS", str(calibrated_ensemble))
    monkeypatch.setattr(cohorts, "PATIENTS", 2)
    monkeypatch.setattr(growth, "PATIENTS", 2)
    for module in (cohorts, growth):
        monkeypatch.setattr(module, "draw_synthetic", SMALL)
    monkeypatch.setattr(cohorts, "product_tflops", partial(cohorts.product_tflops, size=64))


def test_scans_are_written_as_released_each_with_noise_of_its_own(tmp_path: Path) -> None:
    names = write_scans(tmp_path / "cohort", 2, SMALL)
    cts = [read_image(tmp_path / "cohort" / f"{name}__CT.nii.gz").voxels for name in names]
    assert not np.array_equal(*cts)
    assert np.abs(cts[0] - SMALL().ct.voxels).mean() == pytest.approx(15 * np.sqrt(2 / np.pi), rel=0.05)
    reference, scan = read_image(tmp_path / "cohort" / f"{names[0]}.nii.gz"), SMALL()
    assert np.array_equal(reference.voxels, draw_reference(scan).voxels)
    volume = np.count_nonzero(reference.voxels == Label.GTVP) * scan.ct.grid.voxel_ml
    assert volume == pytest.approx(4 / 3 * np.pi * 1.7**3, rel=0.1)


def test_patients_at_once_are_compared_with_one_after_the_other() -> None:
    row = cohorts.predict_at_once(1)
    assert "patients a minute" in row.result
    assert "2 of 2 masks are the same to the last bit" in row.result
    assert re.search(r"[\d.]+ GiB against [\d.]+ GiB in all", row.result)


def test_two_workers_are_compared_with_one() -> None:
    row = cohorts.predict_on_a_cluster(1)
    assert "2 of 2 masks are the same to the last bit, predictions.csv is" in row.result
    assert "NOT" not in row.result


def test_a_worker_has_one_core(tmp_path: Path) -> None:
    def count_threads() -> int:
        use_allowed_cores()
        return torch.get_num_threads()

    core = max(os.sched_getaffinity(0))
    with (
        start_cluster(tmp_path, 1, str(cohorts.ROOT), str(cohorts.ROOT), [core]) as address,
        Client(address, set_as_default=False) as client,
    ):
        cores, threads = (list(client.run(ask).values()) for ask in (cpu_count, count_threads))
    assert (cores, threads) == ([1], [1])


def test_other_answers_are_told_apart(tmp_path: Path) -> None:
    for folder, mask, table in (("one", b"1", b"0.1"), ("other", b"2", b"0.2")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "A.nii.gz").write_bytes(mask)
        (tmp_path / folder / "B.nii.gz").write_bytes(b"")
        (tmp_path / folder / PREDICTIONS_FILE).write_bytes(table)
    said = cohorts.compare_answers(tmp_path / "one", tmp_path / "other")
    assert said == "1 of 2 masks are the same to the last bit, predictions.csv is NOT"


def test_more_workers_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "WORKERS", (1, 2))
    row = growth.workers(1)
    assert [point.x for point in row.points] == [1, 2]
    assert all(point.seconds > 0 and point.mib > 200 for point in row.points)


def test_preparing_files_is_compared_with_the_plain_way(monkeypatch: pytest.MonkeyPatch, head: Case) -> None:
    monkeypatch.setattr(cohorts, "draw_long_patient", lambda noise: head)
    row = cohorts.preparing_files(1)
    assert re.search(r"times .*; inflating the files once by zlib takes [\d.]+ s, \d+% of it \(\d+ MB/s", row.result)


def test_answers_in_thousands_are_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cohorts, "LONG_COHORTS", (30, 60))
    monkeypatch.setattr(cohorts, "RESAMPLES", 5)
    row = cohorts.evaluate_at_length(1)
    assert [point.x for point in row.points] == [30, 60]
    assert re.search(
        r"^30: [\d.]+ s tables, .*; 60: .* the patients: tables [-\d.]+, evaluate [-\d.]+, page", row.result
    )


def test_written_answers_are_whole_and_differ(tmp_path: Path) -> None:
    template = cohorts.answer_once(tmp_path)
    cohort, answers = tmp_path / "many", tmp_path / "many-answers"
    cohorts.write_answers(cohort, answers, 12, template)
    *_, mib = cohorts.evaluate_all(cohorts.Answered(cohort, answers, 2))
    assert mib > 0
    rows = (answers / PREDICTIONS_FILE).read_text().splitlines()[1:]
    assert len({row.partition(",")[2] for row in rows}) == 12
    reports = [json.loads(path.read_text()) for path in answers.glob("*.json")]
    assert len({report["hpv"]["probability"] for report in reports}) == 12
    assert (answers / "index.html").is_file()
