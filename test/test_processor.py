"""Networks that compute at once: as many as there are cores and memory, each on one core, answers in order."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from small_gpu import CUDA, FakeGpu

from mmpl import processor
from mmpl.processor import Processor, default_device, use_cores

CPU = torch.device("cpu")


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Four cores, and memory enough for all."""
    monkeypatch.setattr(processor, "free_memory_gib", lambda: float("inf"))
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("there", "chosen"), [(True, "cuda"), (False, "cpu")])
def test_the_gpu_computes_where_there_is_one(there: bool, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert default_device().type == chosen


@pytest.mark.usefixtures("free")
def test_as_many_work_at_once_as_there_are_cores_each_on_one() -> None:
    together = threading.Barrier(4, timeout=20)  # breaks where fewer come

    def work(item: int) -> tuple[int, int]:
        together.wait()
        return item, torch.get_num_threads()

    assert Processor(CPU).each(work, range(8)) == [(item, 1) for item in range(8)]


@pytest.mark.usefixtures("free")
def test_fewer_items_than_cores_share_them() -> None:
    assert Processor(CPU).each(lambda _: torch.get_num_threads(), range(2)) == [2, 2]


@pytest.mark.usefixtures("free")
def test_a_thread_keeps_its_cores_whatever_others_were_given() -> None:
    """PyTorch gives a new thread what was set last anywhere, at its first question."""

    def begin() -> int:
        use_cores(3)
        others = threading.Thread(target=torch.set_num_threads, args=(1,))
        others.start()
        others.join()
        return torch.get_num_threads()

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(begin).result() == 3


@pytest.mark.usefixtures("free")
def test_what_leaves_the_gpu_runs_at_once_like_anything_on_the_cpu() -> None:
    with FakeGpu():
        left = Processor(CUDA)
    left.leave_gpu()
    together = threading.Barrier(4, timeout=20)
    assert left.each(lambda item: left.attempt(together.wait) is not None, range(4)) == [True] * 4


@pytest.mark.usefixtures("free")
def test_threads_that_begin_later_have_all_cores() -> None:
    seen = list[int]()
    Processor(CPU).each(lambda item: item, range(4))
    later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert [*seen, torch.get_num_threads()] == [4, 4]


@pytest.mark.usefixtures("free")
def test_memory_lets_fewer_work(monkeypatch: pytest.MonkeyPatch) -> None:
    for gib, at_once in ((0.1, 1), (4.0, 2), (99, 4)):
        monkeypatch.setattr(processor, "free_memory_gib", lambda gib=gib: gib)
        assert Processor(CPU, network_gib=2.0).at_once == at_once


@pytest.mark.usefixtures("free")
def test_one_at_a_time_has_the_gpu() -> None:
    with FakeGpu():
        on_gpu = Processor(CUDA)
    assert on_gpu.at_once == 1
    names = on_gpu.each(lambda _: threading.current_thread().name, range(3))
    assert names == [threading.current_thread().name] * 3


@pytest.mark.usefixtures("free")
def test_what_goes_wrong_in_one_is_raised() -> None:
    def work(item: int) -> int:
        if item == 2:
            raise ArithmeticError("two")
        return item

    with pytest.raises(ArithmeticError, match="two"):
        Processor(CPU).each(work, range(4))
