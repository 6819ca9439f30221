"""From a case to its answers: what the stages hand on to each other."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_gpu import CPU, CUDA, FakeGpu, Memory, OnGpu

from mmpl.case import Case
from mmpl.labels import Stage
from mmpl.pipeline import PatientResult, Pipeline
from mmpl.processor import ON_CPU, PRECISION
from mmpl.weights import load_ensemble

ALL = 99


@pytest.fixture(scope="module")
def on_cpu(tiny_ensemble: Path, head: Case) -> PatientResult:
    return Pipeline(load_ensemble(tiny_ensemble), CPU)(head)


class TestOutOfGpuMemory:
    @pytest.fixture(autouse=True)
    def gpu(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.setitem(PRECISION, "cuda", torch.float32)
        with FakeGpu():
            yield

    @pytest.mark.parametrize(
        ("windows", "crops", "hpv", "survival"),
        [
            (ALL, ALL, ["cuda", "cuda"], ["cuda", "cuda"]),
            (ALL, 0, ["cuda", "cpu", "cpu"], ["cpu", "cpu"]),
            (0, ALL, ["cpu", "cpu"], ["cpu", "cpu"]),
        ],
    )
    def test_a_gpu_that_was_given_up_stays_so_for_the_case_and_is_flagged(
        self,
        tiny_ensemble: Path,
        head: Case,
        on_cpu: PatientResult,
        windows: int,
        crops: int,
        hpv: list[str],
        survival: list[str],
    ) -> None:
        ensemble = load_ensemble(tiny_ensemble, keep_networks=True)
        memory = {stage: Memory(windows if stage is Stage.SEGMENTATION else crops) for stage in Stage}
        for member in ensemble.members:
            member.kept.update({stage: OnGpu(network, memory[stage]) for stage, network in member.kept.items()})
        result = Pipeline(ensemble, CUDA)(head)
        assert [where for where, _ in memory[Stage.HPV].tried] == hpv
        assert [where for where, _ in memory[Stage.SURVIVAL].tried] == survival
        assert result.flags.count(ON_CPU) == (min(windows, crops) == 0)
        assert result.segmentation.volume_ml(1) == on_cpu.segmentation.volume_ml(1) > 0
        assert result.hpv == on_cpu.hpv
        assert result.survival.risk_score == on_cpu.survival.risk_score

    def test_the_next_case_has_the_gpu_again(self, tiny_ensemble: Path, head: Case) -> None:
        ensemble = load_ensemble(tiny_ensemble, keep_networks=True)
        memory = Memory(0)
        member = ensemble.members[0]
        member.kept[Stage.HPV] = OnGpu(member.kept[Stage.HPV], memory)
        pipeline = Pipeline(replace(ensemble, members=(member,)), CUDA)
        for _ in range(2):
            pipeline(head)
        assert [where for where, _ in memory.tried] == ["cuda", "cpu"] * 2
