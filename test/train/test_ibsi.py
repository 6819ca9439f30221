"""The comparison with the IBSI's consensus, where its digital phantom is at hand, and with its filters' definitions."""

import json
from pathlib import Path

import pytest
from real import REAL_DATA

from mmpl.profile import load_profile
from train.experiments.ibsi import (
    CODES,
    Comparison,
    Reference,
    as_the_ibsi_defines,
    compare,
    filter_differences,
    read_references,
    tables,
    without_code,
)

PHANTOM = REAL_DATA / "ibsi_digital_phantom"
at_hand = pytest.mark.skipif(not PHANTOM.is_dir(), reason="the IBSI digital phantom is not at hand (CONTRIBUTING.md)")


@at_hand
def test_every_feature_with_a_code_agrees() -> None:
    compared, others = compare(PHANTOM)
    assert len(compared) == 83
    assert [each for each in compared if not each.agrees] == []
    assert len(compared) + len(others) == len(json.loads((PHANTOM / "reference_values.json").read_text()))


@at_hand
def test_the_document_shows_what_is_measured(root: Path) -> None:
    assert tables(PHANTOM) in (root / "docs" / "ibsi.md").read_text()


def test_no_feature_is_left_out() -> None:
    planar = [f"shape_Maximum2DDiameter{plane}" for plane in ("Column", "Row", "Slice")]
    assert sorted(without_code()) == sorted([*planar, "firstorder_TotalEnergy", "glcm_MCC"])
    codes = [code for codes in CODES.values() for code in codes.values()]
    assert len(codes) == len(set(codes)) == 83


@pytest.mark.parametrize(
    ("tolerance", "ours", "agrees"),
    [(None, 1234.9, False), (None, 1235.0, True), (None, 1245.1, False), (3.0, 1237.1, True), (3.0, 1236.9, False)],
)
def test_agrees_as_far_as_the_reference_says(tolerance: float | None, ours: float, agrees: bool) -> None:
    reference = Reference("W4KF", "Long runs emphasis", "3D, averaged", 1240.0, tolerance, "very strong")
    assert Comparison("glrlm_LongRunEmphasis", reference, ours, ours).agrees is agrees


def test_what_is_defined_otherwise_is_converted() -> None:
    assert as_the_ibsi_defines("Kurtosis", 3.0, 5) == 0.0
    assert as_the_ibsi_defines("MinorAxisLength", 2.0, 5) == pytest.approx(2 * (5 / 4) ** 0.5)
    assert as_the_ibsi_defines("Mean", 2.0, 5) == 2.0


def test_filters_beside_their_definitions() -> None:
    """The wavelets are PyWavelets' own; ITK's recursive filter is not the sampled Gaussian."""
    differences = filter_differences(load_profile("paper").radiomics)
    assert len(differences) == 10
    for name, share in differences.items():
        assert 0.01 < share < 0.02 if name.startswith("log") else share < 1e-6, name


@pytest.mark.parametrize("content", [None, "{", '[{"ibsi_code": "Q4LE"}]'])
def test_references_that_cannot_be_read_are_named(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "reference_values.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=r"reference_values\.json: "):
        read_references(path)
