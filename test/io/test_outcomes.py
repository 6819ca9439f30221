"""Outcomes as tables say them."""

import pytest

from mmpl.io.outcomes import OUTCOMES, read_outcome

BLANK = dict.fromkeys(map(str, OUTCOMES), "")


@pytest.mark.parametrize(
    ("t", "n", "expected"),
    [
        ("T4a", "n2C", (4, 2)),
        ("2", "2", (2, 2)),
        ("2.0", "3.0", (2, 3)),
        ("cT1", "pN0", (1, 0)),
        ("T0", "N2b", (0, 2)),
        ("TX", "x", (None, None)),
        ("", "NaN", (None, None)),
    ],
)
def test_stages_are_read_as_their_numbers(t: str, n: str, expected: tuple[int | None, int | None]) -> None:
    outcome, wrong = read_outcome(BLANK | {"T-stage": t, "N-stage": n}, has_plus=False)
    assert ((outcome.t_stage, outcome.n_stage), wrong) == (expected, [])


@pytest.mark.parametrize("cell", ["IV", "T5", "N1", "T", "1.5", "early", "-1", "T4d", "10"])
def test_a_stage_that_is_none_is_a_problem_by_name(cell: str) -> None:
    outcome, wrong = read_outcome(BLANK | {"T-stage": cell}, has_plus=False)
    assert outcome.t_stage is None
    assert wrong == [f"T-stage is {cell!r}, not T0 to T4, or TX"]


def test_a_stage_of_four_is_no_n_stage() -> None:
    assert read_outcome(BLANK | {"N-stage": "N4"}, has_plus=False)[1] == ["N-stage is 'N4', not N0 to N3, or NX"]
