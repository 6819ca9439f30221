"""Several patients at once: threads of one process, a Dask cluster whose worker is killed, and a GPU in turns."""

import csv
import json
import os
import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from clusters import start_cluster
from distributed import Client
from torch import nn

from mmpl.network import memory_gib
from mmpl.parallel import Together
from mmpl.phantom.cohort import write_cohort
from mmpl.predict import GPU_PATIENTS, PATIENT_GIB, _answer_here, _count_workers, predict
from mmpl.processor import Processor
from mmpl.profile import load_profile

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("at-once") / "cohort"
    write_cohort(4, seed=4, out=folder, hpv_positive=0.5, workers=2)
    return folder


def answers(out: Path) -> dict[str, object]:
    """What was answered, without what differs from one run to the next."""
    found: dict[str, object] = {}
    for path in sorted(out.glob("[!.]*")):
        if path.suffix == ".json":
            content = json.loads(path.read_text())
            del content["provenance"]
            found[path.name] = content
        elif path.suffix != ".png":
            found[path.name] = path.read_bytes()
    return found


@pytest.mark.slow
def test_two_at_once_answer_as_one_after_the_other(
    cohort: Path, tmp_path: Path, tiny_ensemble: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMPL_WEIGHTS", str(tiny_ensemble))
    monkeypatch.setattr("mmpl.predict.cpu_count", lambda: 1)  # on as many threads, that sums are the same to the bit
    for name, workers in (("one", 1), ("two", 2)):
        assert predict(cohort, tmp_path / name, workers=workers) == {}
    assert answers(tmp_path / "two") == answers(tmp_path / "one")
    assert len(list((tmp_path / "two").glob("*.png"))) == 4


@pytest.mark.slow
def test_a_killed_worker_costs_no_row_and_two_clients_may_share_a_folder(
    cohort: Path, tmp_path: Path, tiny_ensemble: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMPL_WEIGHTS", str(tiny_ensemble))
    out = tmp_path / "out"
    with start_cluster(tmp_path, 2, str(ROOT), str(ROOT)) as address, ThreadPoolExecutor(2) as clients:
        with Client(address, set_as_default=False) as client:
            workers = list(client.run(os.getpid).values())
        running = [clients.submit(predict, cohort, out, scheduler=address) for _ in range(2)]
        while not list(out.glob("*.json")):
            assert not any(each.done() for each in running)
            time.sleep(0.02)
        os.kill(workers[0], signal.SIGKILL)
        assert [each.result() for each in running] == [{}, {}]
    with (out / "predictions.csv").open(newline="") as file:
        names = [row["PatientID"] for row in csv.DictReader(file)]
    assert names == sorted(path.name for path in cohort.iterdir() if path.is_dir())
    left = [path.name for path in out.glob(".partial.*")]
    assert all(name.startswith(f".partial.{workers[0]}.") for name in left)  # what the killed one was writing


@pytest.mark.slow
def test_a_cluster_answers_from_what_there_is_by_then(
    cohort: Path, tmp_path: Path, tiny_ensemble: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMPL_WEIGHTS", str(tiny_ensemble))
    mine, out = tmp_path / "mine", tmp_path / "out"
    first, second = sorted(path for path in cohort.iterdir() if path.is_dir())[:2]
    shutil.copytree(first, mine / first.name)
    [ehr] = cohort.glob("*_EHR.csv")
    header, *rows = ehr.read_text().splitlines()
    table = {row.partition(",")[0]: row for row in rows}
    (mine / ehr.name).write_text(f"{header}\n{table[first.name]}\n")
    with start_cluster(tmp_path, 1, str(ROOT), str(ROOT)) as address:
        assert predict(mine, out, pictures=False, scheduler=address) == {}
        shutil.copytree(second, mine / second.name)
        (mine / ehr.name).write_text(f"{header}\n{table[first.name]}\n{table[second.name]}\n")
        assert predict(mine, out, pictures=False, scheduler=address) == {}
    assert len(list(out.glob("*.json"))) == 2


def meet(device: str) -> int:
    """The most of two cases that were ever inside a network on a device at once."""
    inside, most, lock = 0, 0, threading.Lock()

    def work() -> bool:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        time.sleep(0.2)
        with lock:
            inside -= 1
        return True

    processors = [Processor(torch.device(device)) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(lambda each: each.attempt(work), processors))
    return most


def test_one_case_has_the_gpu_at_a_time_and_any_number_the_cpu() -> None:
    assert (meet("cuda"), meet("cpu")) == (1, 2)


def test_who_has_left_the_gpu_computes_with_networks_of_its_own() -> None:
    shared, gone = nn.Linear(1, 1), Processor(torch.device("cuda"))
    gone.leave_gpu()
    own = gone.place(shared, torch.float32)
    assert own.state_dict() == shared.state_dict()
    shared.half()  # as another case does on the GPU
    assert own.weight.dtype is torch.float32


@pytest.mark.parametrize(("cores", "free_gib"), [(16, 10.0), (32, 20.0), (8, 6.0), (64, 200.0)])
def test_patients_at_once_and_their_networks_fit_the_memory(
    cores: int, free_gib: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("predict", "processor"):
        monkeypatch.setattr(f"mmpl.{module}.free_memory_gib", lambda: free_gib)
    monkeypatch.setattr("mmpl.predict.cpu_count", lambda: cores)
    network_gib = memory_gib(load_profile("paper"))
    patients = _count_workers("cpu", PATIENT_GIB + network_gib, 100)
    monkeypatch.setattr("torch.get_num_threads", lambda: cores // patients)
    networks = Processor(torch.device("cpu"), network_gib * patients).at_once
    assert patients * networks * network_gib <= free_gib
    assert _count_workers("cpu", PATIENT_GIB + network_gib, 1) == 1


class PretendedPatients:
    """Patients of whom the GPU takes as long as all else: ten networks in turns, between reading and drawing."""

    names = tuple("ABCDEFGHIJKL")
    pipeline = SimpleNamespace(at_once=GPU_PATIENTS)

    def __init__(self) -> None:
        self.on_gpu_s = 0.0

    def keep(self) -> None:
        pass

    def compute(self) -> bool:
        started = time.monotonic()
        time.sleep(0.03)
        self.on_gpu_s += time.monotonic() - started
        return True

    def answer(self, name: str) -> None:
        processor = Processor(torch.device("cuda"))
        time.sleep(0.15)
        for _ in range(10):
            assert processor.attempt(self.compute)
        time.sleep(0.15)


def test_the_gpu_is_busy_while_others_are_read_and_drawn() -> None:
    patients, started = PretendedPatients(), time.monotonic()
    assert len(list(_answer_here(patients))) == len(patients.names)
    assert patients.on_gpu_s / (time.monotonic() - started) > 0.8


def test_what_several_threads_are_in_ends_with_the_last_of_them() -> None:
    said: list[str] = []

    @contextmanager
    def room():
        said.append("opened")
        yield
        said.append("closed")

    together = Together(room)
    with together():
        entered, leave = threading.Event(), threading.Event()

        def visit() -> None:
            with together():
                entered.set()
                leave.wait(10)

        visitor = threading.Thread(target=visit)
        visitor.start()
        assert entered.wait(10)
    assert said == ["opened"]
    leave.set()
    visitor.join()
    assert said == ["opened", "closed"]
    with pytest.raises(KeyError), together():
        raise KeyError
    assert said == ["opened", "closed"] * 2
