"""The benchmarks run and say what they measured; apart from the rest, fast ways are not slower than plain ones."""

import json
import re
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import __main__ as program
from benchmarks import gpu, growth
from benchmarks.cohorts import COHORT_PARTS
from benchmarks.curves import draw_growth
from benchmarks.measure import Apart, Comparison, Point, alternate, describe_growth, exponent, machine, peak_mib
from benchmarks.parts import (
    PARTS,
    SAMPLE,
    Row,
    compare_features,
    extract_plainly,
    our_network,
    plain_network,
    prepare_ours,
    prepare_plainly,
    run_program,
)
from benchmarks.scans import draw_lesions, draw_scan
from mmpl.io.challenge import read_challenge_case
from mmpl.names import Label, Modality
from mmpl.pipeline import Pipeline
from mmpl.profile import load_profile
from mmpl.radiomics import extract
from mmpl.weights import load_ensemble
from oracles import measure_plainly


def test_a_ratio_is_of_turns_not_of_sums() -> None:
    comparison = Comparison((4.0, 30.0, 6.0), (2.0, 3.0, 2.0))
    assert comparison.ratios == [2.0, 3.0, 10.0]
    assert comparison.describe() == "3.0 times (2.0 to 10.0): 6 s against 2 s"


def make_nothing() -> None:
    return None


def take_200_mib(_: None) -> None:
    np.ones(200 * 2**17).sum()


def test_memory_is_the_highest_not_what_is_left() -> None:
    assert 190 < peak_mib(make_nothing, take_200_mib) < 260


def test_lesions_have_the_volumes_asked_for() -> None:
    _, _, mask = draw_lesions(20, 2, 10, (160, 140, 130))
    assert np.count_nonzero(mask.voxels == Label.GTVP) / 1000 == pytest.approx(20, rel=0.02)
    assert np.count_nonzero(mask.voxels == Label.GTVN) / 1000 == pytest.approx(10, rel=0.03)


@pytest.mark.speed
def test_preparing_a_scan_is_much_faster_than_the_plain_way() -> None:
    """A wide margin: it was 18 times faster here. `test/test_preprocess.py` compares what comes out."""
    case = draw_scan(400.0, 128, 100, 4.0)
    prepare_ours(case)
    assert alternate(partial(prepare_plainly, case), partial(prepare_ours, case), 1).ratio > 3


def test_the_published_network_has_instance_norm() -> None:
    image = torch.randn(1, 2, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    plain, ours = plain_network(), our_network()
    assert not any(isinstance(module, nn.GroupNorm) for module in plain.modules())
    with torch.inference_mode():
        torch.testing.assert_close(ours(image), plain(image), rtol=0, atol=1e-4)


@pytest.mark.speed
def test_its_norm_is_faster_than_the_plain_one() -> None:
    """By the quickest turn of each, which other work has disturbed least: 1.5 times faster here."""
    plain, ours = nn.InstanceNorm3d(16, affine=True), nn.GroupNorm(16, 16)
    values = torch.randn(1, 16, 96, 96, 96)
    with torch.inference_mode():
        turns = alternate(partial(plain, values), partial(ours, values), 20)
    assert min(turns.fast_s) < min(turns.plain_s)


def test_work_apart_is_done_on_what_was_made_once() -> None:
    with Apart(list, count_calls, keep=True) as apart:
        assert [apart(), apart()] == [1, 2]


def count_calls(made: list[int]) -> int:
    made.append(0)
    return len(made)


class TestGpuParts:
    """Small, on the CPU: they work, and what they compare is the same. Their figures hold for no GPU."""

    MICRO, CPU = load_profile("micro"), torch.device("cpu")

    @pytest.fixture(autouse=True)
    def multiply_small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(gpu, "product_tflops", partial(gpu.product_tflops, size=64))

    def test_sliding_window(self) -> None:
        assert "labels (at the median) the same on 100.000%" in gpu.sliding_window(self.MICRO, self.CPU, 1, models=2)

    def test_a_training_step(self) -> None:
        assert re.search(r"times .*: \d+ ms against \d+ ms", gpu.training_step(self.MICRO, self.CPU, 1, steps=2))

    @pytest.mark.speed
    def test_loading_keeps_up_with_a_cpu(self) -> None:
        """A wide margin: it was 13 times as fast here."""
        ratio = re.match(r"([\d.]+) times", gpu.loading(self.MICRO, self.CPU, 1, patients=2, steps=3))
        assert ratio is not None
        assert float(ratio[1]) > 1.5

    def test_a_case_is_answered_by_untrained_networks(self, tmp_path: Path) -> None:
        gpu.write_untrained(tmp_path / "weights", load_profile("demo"), models=1)
        ensemble = load_ensemble(tmp_path / "weights")
        assert [member.name for member in ensemble.members] == ["patient-0"]
        gpu.write_case(tmp_path / "input", 300.0)
        answer = Pipeline(ensemble, self.CPU)(read_challenge_case(tmp_path / "input"))
        assert "no lesion found" in answer.flags

    def test_only_a_gpu_is_measured(self) -> None:
        if torch.cuda.is_available():
            pytest.skip("there is a GPU")
        with pytest.raises(Exception, match="gpu step needs a GPU"):
            program.main(["gpu step"])


def test_a_cohort_is_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "COHORTS", (1, 2))
    row = growth.cohort(1)
    assert re.fullmatch(r"1: .* MiB in all; 2: \d+ s \(\d+\.\d\d s each\), \d+ MiB in all", row.result)
    assert [point.x for point in row.points] == [1, 2]


def test_pyradiomics_is_asked_for_some_features_alone() -> None:
    lesions, settings = draw_lesions(1.0, 1, 0.5, (190, 140, 150)), load_profile("micro").radiomics
    names = ["pet_gtvp_original_firstorder_Mean", "pet_gtvp_log-sigma-3-0-mm-3D_glrlm_RunVariance"]
    names += ["ct_gtvn_original_shape_Sphericity", "ct_gtvn_wavelet-LLH_glcm_Contrast"]
    asked = extract_plainly(lesions, settings, ["gtvp_absent", *names])
    assert set(names) < set(asked)
    found = {tuple(name.split("_", 3)) for name in asked}
    assert {(modality, lesion) for modality, lesion, *_ in found} == {("pet", "gtvp"), ("ct", "gtvn")}
    assert {feature for *_, feature in found} == {name.split("_", 3)[3] for name in names}
    assert not any("log-sigma-1" in name or name.startswith("pet_gtvp_wavelet") for name in asked)
    _, pet, mask = lesions
    everything = measure_plainly(pet, mask, Label.GTVP, settings, settings.images[Modality.PET])
    assert [asked[name] for name in names[:2]] == [everything[name.removeprefix("pet_gtvp_")] for name in names[:2]]
    assert compare_features(extract(*lesions, settings, names), asked) == "4 of 4 features within 1e-4"


def test_a_case_for_a_reader_is_answered_by_the_other_program(tiny_ensemble: Path) -> None:
    for read in (False, True):
        total, begun = run_program(SAMPLE, tiny_ensemble, read)
        assert 0 < begun < total


def test_seconds_grow_as_a_power() -> None:
    points = [Point(x, 3 * x**2, 0) for x in (1, 10, 100)]
    assert exponent(points) == pytest.approx(2)
    assert describe_growth([Point(1, 1, 0), Point(2, 1, 0), Point(4, 4, 0)]) == "1.00, at the end 2.00"


def test_growth_is_drawn_of_what_has_points(tmp_path: Path) -> None:
    row = Row("one", points=(Point(1, 2, 10), Point(10, 20, 11)), x_label="patients")
    draw_growth({"old": replace(row, points=())}, tmp_path / "none.png")
    assert not list(tmp_path.iterdir())
    draw_growth({"cohort": row, **{f"more {n}": row for n in range(3)}}, tmp_path / "growth.png")
    draw_growth({"cohort": row}, tmp_path / "small.png")
    tall, low = (matplotlib.image.imread(tmp_path / name).shape for name in ("growth.png", "small.png"))
    assert tall[0] == pytest.approx(2 * low[0], abs=1)


def test_what_was_measured_before_has_the_points_that_its_sentence_says() -> None:
    kept = program.KEPT.validate_json((program.FOLDER / "measured.json").read_bytes())
    grown = {name: measured.row for name, measured in kept.items() if name in growth.GROWTH}
    assert {"scan length", "lesion volume", "lesion number", "models", "cohort"} <= set(grown)
    for row in grown.values():
        assert row.x_label
        said = [re.match(r"([\d.,]+).*: ([\d.]+) s.*?(\d+) MiB", line) for line in row.result.split("; ")]
        told = [(float(words[1].replace(",", "")), float(words[3])) for words in said if words]
        assert [(point.x, round(point.mib)) for point in row.points] == told


def test_what_was_measured_is_written_up(monkeypatch: pytest.MonkeyPatch, tmp_path, capsys) -> None:
    monkeypatch.setattr(program, "FOLDER", tmp_path)
    monkeypatch.setitem(program.ALL, "radiomics", lambda repeats: Row("one", "other", ">= 2", f"{repeats} turns"))
    old = asdict(program.Measured(Row("case", result="slow"), "an older one", "2026-01-01", 5))
    (tmp_path / "measured.json").write_text(json.dumps({"whole case": old}))
    grown = Row("more", points=(Point(1, 1, 5), Point(10, 100, 5)), x_label="patients")
    monkeypatch.setitem(program.ALL, "cohort", lambda repeats: grown)
    program.main(["radiomics", "cohort"], repeats=3)
    text = (tmp_path / "RESULTS.md").read_text()
    assert "| one | other | >= 2 | 3 turns | 2, " in text
    assert "| case |  |  | slow | 1, 2026-01-01, 5 turns |" in text
    assert f"2. {machine()}" in text
    assert "| one training step, stage 1, 128^3, batch 2, GPU | eager float32 | >= 3 times faster" in text
    assert "![Seconds of each part" in text
    assert "| more |  | 2.00, at the end 2.00 | 2, " in text
    assert (tmp_path / "growth.png").is_file()
    assert program.KEPT.validate_json((tmp_path / "measured.json").read_bytes())["cohort"].row == grown
    assert "radiomics: 3 turns" in capsys.readouterr().out
    with pytest.raises(Exception, match="no part other"):
        program.main(["other"])
    named = [*PARTS, *COHORT_PARTS, *gpu.GPU_PARTS, *growth.GROWTH]
    assert len(set(named)) == len(named)
