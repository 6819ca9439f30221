"""From a case to its answers: what the stages hand on to each other."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import EHR
from small_gpu import CPU, CUDA, FakeGpu, Memory, OnGpu

from mmpl import pipeline
from mmpl.case import Case
from mmpl.evidence import ABSENT, EXPECTED_DAYS_SCORE, HPV_PROBABILITY, SCORE_LIMIT_SD, FeatureTable
from mmpl.names import NETWORK_STAGES, Stage
from mmpl.pipeline import NO_DEEP_EVIDENCE, PatientResult, Pipeline
from mmpl.processor import ON_CPU, PRECISION
from mmpl.profile import load_profile
from mmpl.radiomics import feature_names
from mmpl.schema import default_schema
from mmpl.segmentation import NO_LESION, Thresholds
from mmpl.weights import load_ensemble

ALL = 99


@pytest.fixture(scope="module")
def on_cpu(tiny_ensemble: Path, head: Case) -> PatientResult:
    return Pipeline(load_ensemble(tiny_ensemble), CPU)(head)


def outputs(network: torch.nn.Module) -> int:
    """How many logits a network's head gives."""
    return [module for module in network.modules() if isinstance(module, torch.nn.Linear)][-1].out_features


def assert_same(one: PatientResult, other: PatientResult) -> None:
    """Compare all that two results say, to the last bit."""
    assert one.hpv == other.hpv
    for first, second in ((one.survival, other.survival), (one.radiomics, other.radiomics)):
        assert (first is None) == (second is None)
    np.testing.assert_array_equal(one.segmentation.mask.voxels, other.segmentation.mask.voxels)
    if one.survival:
        assert one.survival.member_risks == other.survival.member_risks
        np.testing.assert_array_equal(one.survival.member_curves, other.survival.member_curves)
    if one.radiomics:
        assert one.radiomics.names == other.radiomics.names
        np.testing.assert_array_equal(one.radiomics.values, other.radiomics.values)
    assert (one.flags, one.notes) == (other.flags, other.notes)


def test_changed_yaml_beside_unchanged_weights_changes_nothing(
    tiny_ensemble: Path, head: Case, on_cpu: PatientResult, other_resources: Path
) -> None:
    assert load_profile("micro") != load_ensemble(tiny_ensemble).profile
    assert "Gender" not in default_schema().names
    ensemble = load_ensemble(tiny_ensemble)
    record = ensemble.profile.clinical.read(EHR)
    assert record == head.clinical
    assert_same(Pipeline(ensemble, CPU)(replace(head, clinical=record)), on_cpu)


@pytest.mark.slow
def test_all_radiomics_are_measured_where_asked_and_change_no_answer(
    tiny_ensemble: Path, head: Case, on_cpu: PatientResult
) -> None:
    ensemble = load_ensemble(tiny_ensemble)
    read = on_cpu.radiomics.names
    assert set(read) == {name for member in ensemble.members for name in member.radiomics_names} | set(ABSENT)
    result = Pipeline(ensemble, CPU, all_radiomics=True)(head)
    assert result.radiomics.names == feature_names(ensemble.profile.radiomics)
    assert np.isfinite(result.radiomics.values).mean() > 0.9
    assert_same(replace(result, radiomics=FeatureTable(read, result.radiomics.read(read))), on_cpu)


@pytest.mark.parametrize("logit", [-1e6, 1e6])
def test_what_a_network_says_of_an_odd_image_moves_the_risk_by_a_bounded_step(
    tiny_ensemble: Path, head: Case, on_cpu: PatientResult, monkeypatch: pytest.MonkeyPatch, logit: float
) -> None:
    """By what 4 SD of the expected days and the whole of the HPV probability weigh, whatever the networks give."""
    ensemble = load_ensemble(tiny_ensemble)
    monkeypatch.setattr(
        pipeline, "predict_logits", lambda crop, network, processor: np.full(20, logit)[: outputs(network)]
    )
    risks = Pipeline(ensemble, CPU)(head).survival.member_risks
    for member, risk, before in zip(ensemble.members, risks, on_cpu.survival.member_risks, strict=True):
        weight = {covariate.name: abs(covariate.coefficient) for covariate in member.survival.cox.covariates}
        most = 2 * SCORE_LIMIT_SD * weight.get(EXPECTED_DAYS_SCORE, 0) + weight.get(HPV_PROBABILITY, 0)
        assert abs(risk - before) <= most / member.survival.risk_scale.sd + 1e-9


def test_without_a_lesion_the_networks_say_nothing(
    tiny_ensemble: Path, head: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensemble = replace(load_ensemble(tiny_ensemble), thresholds=Thresholds(1.1, 1.1))
    results = []
    for logit in (-3.0, 3.0):
        monkeypatch.setattr(
            pipeline,
            "predict_logits",
            lambda crop, network, processor, logit=logit: np.full(20, logit)[: outputs(network)],
        )
        results.append(Pipeline(ensemble, CPU)(head))
    assert results[0].hpv == results[1].hpv
    assert results[0].survival.member_risks == results[1].survival.member_risks
    assert all({NO_LESION, NO_DEEP_EVIDENCE} <= set(result.flags) for result in results)


class TestFewerAnswers:
    def test_masks_alone(self, partial_ensemble: Callable[..., Path], head: Case, on_cpu: PatientResult) -> None:
        steps: list[str] = []
        ensemble = load_ensemble(partial_ensemble(Stage.SEGMENTATION))
        nothing_else = replace(on_cpu, hpv=None, survival=None, radiomics=None)
        assert_same(Pipeline(ensemble, CPU, progress=steps.append)(head), nothing_else)
        assert steps == ["segmenting"]

    def test_masks_and_radiomics(self, partial_ensemble: Callable[..., Path], head: Case) -> None:
        ensemble = replace(load_ensemble(partial_ensemble(Stage.SEGMENTATION)), thresholds=Thresholds(1.1, 1.1))
        result = Pipeline(ensemble, CPU, all_radiomics=True)(head)
        assert (result.hpv, result.survival) == (None, None)
        assert result.radiomics.names == feature_names(ensemble.profile.radiomics)
        assert result.radiomics.read(["gtvp_absent", "gtvn_absent"]).tolist() == [[1, 1]]

    def test_masks_and_hpv(self, partial_ensemble: Callable[..., Path], head: Case, on_cpu: PatientResult) -> None:
        ensemble = load_ensemble(partial_ensemble(Stage.SEGMENTATION, Stage.HPV))
        assert_same(Pipeline(ensemble, CPU)(head), replace(on_cpu, survival=None))

    def test_masks_and_survival(self, partial_ensemble: Callable[..., Path], head: Case, on_cpu: PatientResult) -> None:
        """Each model's risk is what it was without its HPV covariate's share, and a known status has no say."""
        ensemble = load_ensemble(partial_ensemble(Stage.SEGMENTATION, Stage.SURVIVAL))
        result = Pipeline(ensemble, CPU)(replace(head, known_hpv=True))
        assert result.hpv is None
        assert result.radiomics.names == ABSENT
        np.testing.assert_array_equal(result.segmentation.mask.voxels, on_cpu.segmentation.mask.voxels)
        np.testing.assert_array_equal(result.survival.member_curves, on_cpu.survival.member_curves)
        hpv_share = [(-1.0 - seed) * p / 0.3 for seed, p in enumerate(on_cpu.hpv.member_probabilities)]
        np.testing.assert_allclose(result.survival.member_risks, np.subtract(on_cpu.survival.member_risks, hpv_share))


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
        memory = {stage: Memory(windows if stage is Stage.SEGMENTATION else crops) for stage in NETWORK_STAGES}
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
