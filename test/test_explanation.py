"""Why an answer is what it is: its parts are those of the models, and add up to what was answered."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmpl.case import Case
from mmpl.evidence import ABSENT, EXPECTED_DAYS_SCORE, HPV_PROBABILITY, Evidence, FeatureTable
from mmpl.explanation import Share, explain
from mmpl.findings import in_words, unit_of, value_in_words
from mmpl.pipeline import PatientResult, Pipeline
from mmpl.radiomics import feature_names
from mmpl.reference import PERCENTS, Reference
from mmpl.report import describe
from mmpl.schema import default_schema
from mmpl.survival import Covariate, CoxModel
from mmpl.weights import load_ensemble

CPU = torch.device("cpu")
FIELD_OF = {"Gender=0": "Gender", "Gender=1": "Gender", "Age": "Age", "Age_missing": "Age"}


def evidence_of(value: float, score: float = 0.0) -> Evidence:
    clinical = FeatureTable.of(**{name: [0.0] for name in FIELD_OF})
    return Evidence(FeatureTable.of(deep_score=[score]), FeatureTable.of(volume=[value]), clinical)


def test_parts_are_means_over_the_models_and_columns_of_a_field_go_together() -> None:
    shares = [
        Share(0.5, {"volume": 0.2, "Gender=0": -0.1, "Gender=1": 0.3}),
        Share(0.3, {"volume": -0.6, "deep_score": 0.4, "Age_missing": 0.0}),
    ]
    stated = {"Gender": "1", "Age": None}
    reference = Reference({"volume": tuple(map(float, PERCENTS)), "deep_score": (0.0,) * len(PERCENTS)})
    found = explain(shares, [evidence_of(30.0, -1.0), evidence_of(30.0, 2.0)], stated, FIELD_OF, reference)
    assert found.baseline == pytest.approx(0.4)
    assert found.total == pytest.approx(0.4 + (0.2 - 0.1 + 0.3 - 0.6 + 0.4) / 2)
    by_name = {each.name: each for each in found.contributions}
    assert [abs(each.added) for each in found.contributions] == sorted(
        (abs(each.added) for each in found.contributions), reverse=True
    )
    assert set(by_name) == {"volume", "deep_score", "Gender", "Age"}
    assert (by_name["volume"].value, by_name["volume"].percentile) == (30.0, 30.0)
    assert (by_name["Gender"].value, by_name["Gender"].percentile) == ("1", None)
    assert by_name["Gender"].added == pytest.approx(0.1)
    assert by_name["Age"].value is None
    assert by_name["deep_score"].value == pytest.approx(0.5)


def test_a_missing_feature_has_no_value_and_no_percentile() -> None:
    reference = Reference({"volume": tuple(map(float, PERCENTS))})
    found = explain([Share(0.0, {"volume": 0.1})], [evidence_of(np.nan)], {}, {}, reference)
    assert (found.contributions[0].value, found.contributions[0].percentile) == (None, None)


@pytest.fixture(scope="module")
def result(calibrated_ensemble: Path, head: Case) -> PatientResult:
    return Pipeline(load_ensemble(calibrated_ensemble), CPU)(head)


def test_they_add_up_to_what_was_answered(result: PatientResult) -> None:
    assert result.hpv.explanation.total == pytest.approx(result.hpv.probability, abs=1e-9)
    assert result.survival.explanation.total == pytest.approx(result.survival.risk_score, abs=1e-9)
    assert result.hpv.explanation.contributions
    assert result.survival.explanation.contributions


@pytest.mark.parametrize("status", [True, False])
def test_a_known_status_is_the_value_that_the_risk_rests_on(
    calibrated_ensemble: Path, head: Case, status: bool
) -> None:
    found = Pipeline(load_ensemble(calibrated_ensemble), CPU)(replace(head, known_hpv=status))
    by_name = {each.name: each for each in found.survival.explanation.contributions}
    assert by_name[HPV_PROBABILITY].value == ("positive" if status else "negative")
    assert by_name[HPV_PROBABILITY].percentile is None
    assert found.survival.explanation.total == pytest.approx(found.survival.risk_score, abs=1e-9)


def test_the_report_gives_each_in_words(result: PatientResult, calibrated_ensemble: Path) -> None:
    content = describe(result, load_ensemble(calibrated_ensemble))
    for part, answer in (("hpv", "probability"), ("risk", "score")):
        why = content[part]["why"]
        assert why["baseline"] + sum(each["adds"] for each in why["findings"]) == pytest.approx(content[part][answer])
        assert all(each["in_words"] for each in why["findings"])
    days = next(each for each in content["risk"]["why"]["findings"] if each["finding"] == EXPECTED_DAYS_SCORE)
    assert days["in_words"] == "the survival networks' expected time without recurrence"
    ages = [each for each in content["hpv"]["why"]["findings"] if each["finding"] == "Age"]
    assert [(each["value"], each["unit"]) for each in ages] == [(61.0, "years")] * len(ages)
    assert [each["percentile"] for each in ages] == pytest.approx([np.interp(61, np.linspace(40, 80, 21), PERCENTS)])


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=5), st.floats(-5, 5))
def test_a_risk_is_the_sum_of_its_terms(coefficients: list[float], value: float) -> None:
    covariates = tuple(
        Covariate(f"f{at}", 0.0, 0.5, 2.0, 4.0, coefficient, 1, 1, 1, 1, 1)
        for at, coefficient in enumerate(coefficients)
    )
    cox = CoxModel(covariates, 10, 5)
    radiomics = FeatureTable.of(**{covariate.name: [value + at] for at, covariate in enumerate(covariates)})
    evidence = Evidence(FeatureTable.of(score=[0.0]), radiomics, FeatureTable.of(age=[0.0]))
    assert sum(term[0] for term in cox.terms(evidence).values()) == pytest.approx(cox.log_partial_hazard(evidence)[0])


class TestWords:
    @pytest.mark.parametrize(
        ("name", "words", "unit"),
        [
            ("Age", "Age", "years"),
            ("Gender", "Gender", ""),
            ("gtvn_absent", "no nodes found", ""),
            ("ct_gtvp_original_shape_Maximum3DDiameter", "primary tumor, shape: Maximum 3D Diameter", "mm"),
            ("ct_gtvn_original_shape_MeshVolume", "nodes, shape: Mesh Volume", "mm³"),
            ("ct_gtvn_original_shape_SurfaceVolumeRatio", "nodes, shape: Surface Volume Ratio", "1/mm"),
            ("ct_gtvn_original_shape_Sphericity", "nodes, shape: Sphericity", ""),
            ("pet_gtvp_original_firstorder_Maximum", "primary tumor on PET, intensity: Maximum", "SUV"),
            ("ct_gtvp_original_firstorder_Variance", "primary tumor on CT, intensity: Variance", "HU²"),
            ("ct_gtvp_original_firstorder_Skewness", "primary tumor on CT, intensity: Skewness", ""),
            ("pet_gtvn_wavelet-LLH_firstorder_Mean", "nodes on PET, wavelet LLH, intensity: Mean", "SUV"),
            (
                "pet_gtvp_log-sigma-3-0-mm-3D_glrlm_RunEntropy",
                "primary tumor on PET, Laplacian of Gaussian of 3 mm, gray-level runs: Run Entropy",
                "",
            ),
        ],
    )
    def test_a_finding_in_words(self, name: str, words: str, unit: str) -> None:
        assert in_words(name) == words
        assert unit_of(name, default_schema()) == unit

    @pytest.mark.parametrize(
        ("name", "value", "words"),
        [
            ("Treatment", "1", "chemoradiotherapy (1)"),
            ("Treatment", "0", "radiotherapy (0)"),
            ("Tobacco Consumption", "0", "non-smoker (0)"),
            ("Alcohol Consumption", "1", "yes (1)"),
            ("Gender", "0", "female (0)"),
            ("Performance Status", "2", "2"),
            ("M-stage", "Mx", "Mx"),
            ("Age", 61.0, "61 years"),
            ("Age", None, "missing"),
            (ABSENT[0], 1.0, "yes"),
            (ABSENT[1], 0.0, "no"),
        ],
    )
    def test_a_value_in_words(self, name: str, value: float | str | None, words: str) -> None:
        assert value_in_words(name, value, default_schema()) == words

    def test_every_feature_has_words_of_its_own(self, result: PatientResult, calibrated_ensemble: Path) -> None:
        names = feature_names(load_ensemble(calibrated_ensemble).profile.radiomics)
        assert len({in_words(name) for name in names}) == len(names)
        assert not set(map(in_words, names)) & set(names)
