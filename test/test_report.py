"""What is kept of a patient beside the answers: it is read back as it was written, or not at all."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mmpl.case import Case
from mmpl.names import CLASS_NAMES, Task
from mmpl.pipeline import PatientResult, Pipeline
from mmpl.provenance import trace
from mmpl.report import describe, read_report, write_radiomics, write_report
from mmpl.staging import StageResult
from mmpl.version import __version__
from mmpl.weights import MANIFEST, Ensemble, digest, load_ensemble

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def ensemble(tiny_ensemble: Path) -> Ensemble:
    return load_ensemble(tiny_ensemble)


@pytest.fixture(scope="module")
def result(ensemble: Ensemble, head: Case) -> PatientResult:
    return Pipeline(ensemble, CPU)(head)


def test_the_answers_are_read_back(result: PatientResult, ensemble: Ensemble, tmp_path: Path) -> None:
    write_report(tmp_path / "head.json", result, ensemble)
    read = read_report(tmp_path / "head.json")
    assert read is not None
    assert (read.patient_id, read.weights, read.flags) == ("head", ensemble.identity, result.flags)
    assert read.models == tuple(member.name for member in ensemble.members)
    assert result.survival is not None
    assert result.hpv is not None
    assert read.risk_score == result.survival.risk_score
    assert (read.hpv_probability, read.hpv_positive) == (result.hpv.probability, result.hpv.positive)
    assert (read.gtvp_ml, read.gtvn_ml) == pytest.approx((result.gtvp_ml, result.gtvn_ml), abs=5e-4)
    assert [path.name for path in tmp_path.iterdir()] == ["head.json"]


def test_it_holds_each_models_own_answer_and_the_threshold(result: PatientResult, ensemble: Ensemble) -> None:
    content = describe(result, ensemble)
    assert result.hpv is not None
    assert content["hpv"]["threshold"] == ensemble.hpv_threshold
    assert content["hpv"]["by_model"] == result.hpv.member_probabilities
    assert len(content["risk"]["by_model"]) == len(ensemble.members)


def test_calibrated_answers_say_of_whom_they_are_true(
    calibrated_ensemble: Path, head: Case, result: PatientResult
) -> None:
    """The decision, the scores and the mask are what they were."""
    ensemble = load_ensemble(calibrated_ensemble)
    usual, rare = (Pipeline(ensemble, CPU, hpv_prevalence=share)(head) for share in (None, 0.1))
    assert usual.hpv.member_probabilities == result.hpv.member_probabilities
    assert (usual.hpv.positive, usual.survival.risk_score) == (result.hpv.positive, result.survival.risk_score)
    content, rarely = describe(usual, ensemble), describe(rare, ensemble)
    assert content["hpv"]["prevalence"] == 0.9
    assert rarely["hpv"]["prevalence"] == 0.1
    assert 0 < rarely["hpv"]["calibrated"] < content["hpv"]["calibrated"] < 1
    assert rarely["no_recurrence"] == content["no_recurrence"]
    after = content["no_recurrence"]["after_years"]
    assert set(after) == {"1", "2", "3"}  # follow-up ends after 1,200 days
    for one in after.values():
        assert 0 < one["low"] < one["probability"] < one["high"] < 1
    assert after["1"]["probability"] > after["3"]["probability"]
    assert content["no_recurrence"]["follow_up_days"] == 1200
    assert 0 <= content["risk"]["percentile"] <= 100
    json.dumps(content, allow_nan=False)


def test_weights_that_were_not_calibrated_say_nothing_more(result: PatientResult, ensemble: Ensemble) -> None:
    content = describe(result, ensemble)
    assert (content["hpv"]["calibrated"], content["hpv"]["prevalence"]) == (None, None)
    assert "no_recurrence" not in content
    assert "percentile" not in content["risk"]


def test_lesions_and_provenance_stand_in_it(ensemble: Ensemble, head: Case, tmp_path: Path) -> None:
    (tmp_path / "ct.mha").write_bytes(b"abc")
    result = Pipeline(ensemble, CPU, lesions=True)(head)
    provenance = trace(ensemble, CPU, result.seconds, {"ct": tmp_path / "ct.mha"})
    content = json.loads(json.dumps(describe(result, ensemble, None, provenance), allow_nan=False))
    assert result.lesions
    assert [each["class"] for each in content["lesions"]] == [CLASS_NAMES[each.label] for each in result.lesions]
    assert {"suv_max", "suv_mean", "suv_peak", "tlg"} <= content["lesions"][0].keys()
    for lesion in content["lesions"]:
        assert 0 <= lesion["found_by"] <= 1
    manifest = content["provenance"]
    assert manifest["weights"] == ensemble.identity == digest(ensemble.folder / MANIFEST)
    assert manifest["inputs"] == {"ct": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}
    assert list(manifest["seconds"]) == ["preparing", "segmentation", "radiomics", "hpv", "survival", "lesions"]
    assert (manifest["device"], manifest["versions"]["mmpl"]) == ("CPU", __version__)
    other = Pipeline(ensemble, CPU, lesions=True)(replace(head, pet_is_suv=False))
    assert "suv_max" not in describe(other, ensemble)["lesions"][0]


def test_what_was_not_asked_for_is_left_out(tiny_ensemble: Path, head: Case, tmp_path: Path) -> None:
    ensemble = load_ensemble(tiny_ensemble)
    alone = Pipeline(ensemble, CPU, tasks=frozenset({Task.SEGMENTATION}))(head)
    write_report(tmp_path / "head.json", alone, ensemble)
    assert not {"hpv", "risk"} & json.loads((tmp_path / "head.json").read_text()).keys()
    read = read_report(tmp_path / "head.json")
    assert read is not None
    assert (read.risk_score, read.hpv_probability, read.hpv_positive) == (None, None, None)


def test_stages_are_written_as_the_challenge_writes_them(
    result: PatientResult, ensemble: Ensemble, tmp_path: Path
) -> None:
    staged = replace(result, t_stage=StageResult(4, 3.5, (3.25, 3.75)), n_stage=StageResult(0, 0.25, (0.0, 0.5)))
    write_report(tmp_path / "head.json", staged, ensemble)
    content = json.loads((tmp_path / "head.json").read_text())
    assert content["t_stage"] == {"stage": "T4", "score": 3.5, "by_model": [3.25, 3.75], "by_rule": False}
    read = read_report(tmp_path / "head.json")
    assert read is not None
    assert (read.t_stage, read.n_stage) == ("T4", "N0")
    write_report(tmp_path / "head.json", result, ensemble)
    plain = read_report(tmp_path / "head.json")
    assert plain is not None
    assert (plain.t_stage, plain.n_stage) == (None, None)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"patient": "head"}', '{"patient": "head", "models": 3}', "\x00"],
)
def test_no_whole_report_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "head.json").write_text(text)
    assert read_report(tmp_path / "head.json") is None
    assert read_report(tmp_path / "nobody.json") is None


def test_a_report_with_a_line_cut_off_is_none(result: PatientResult, ensemble: Ensemble, tmp_path: Path) -> None:
    path = tmp_path / "head.json"
    write_report(path, result, ensemble)
    whole = path.read_text()
    for end in range(0, len(whole) - 2, 97):
        path.write_text(whole[:end])
        assert read_report(path) is None


def test_radiomics_keep_every_digit_and_are_blank_where_missing(result: PatientResult, tmp_path: Path) -> None:
    assert result.radiomics is not None
    table = result.radiomics
    table.values[0, 0] = math.nan
    write_radiomics(tmp_path / "features.csv", table)
    with (tmp_path / "features.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["feature", "value"]
    assert tuple(name for name, _ in rows) == table.names
    assert rows[0][1] == ""
    for (_, text), value in zip(rows, table.values[0], strict=True):
        assert (text == "") == math.isnan(value)
        assert not text or float(text) == value
