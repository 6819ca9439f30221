"""Columns of evidence are read by name, so that neither their order nor their company changes a model's answer."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from mmpl.evidence import Evidence, FeatureTable, Scale, hpv_evidence, survival_evidence
from mmpl.profile import ForestSettings
from mmpl.training.cox import fit_cox
from mmpl.training.forest import fit_forest

TABLE = FeatureTable(("a", "b", "c"), np.array([[1.0, 2.0, 3.0], [4.0, np.nan, 6.0]]))
EVIDENCE = hpv_evidence([0.5, -0.5], TABLE, FeatureTable.of(Age=[1, 2]))
PATIENTS = 80
FOREST = ForestSettings(
    trees=(10,),
    depth=(4,),
    minimum_leaf=(2,),
    radiomics_images=("original",),
    radiomics_kept=(3,),
    inner_folds=2,
    inner_repeats=1,
)

Answer = Callable[[Evidence], np.ndarray]


def test_columns_are_read_by_name_in_any_order() -> None:
    np.testing.assert_array_equal(TABLE.read(["c", "a"]), [[3, 1], [6, 4]])
    np.testing.assert_array_equal(TABLE.read(["b", "b"]), [[2, 2], [np.nan, np.nan]])
    assert TABLE.read([]).shape == (2, 0)


def test_a_column_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match=r"has no d, e$"):
        TABLE.read(["a", "d", "e"])
    with pytest.raises(ValueError, match=r"has no d, e, f \.\.\.$"):
        TABLE.read(["d", "e", "f", "g"])


def test_a_table_has_one_name_a_column() -> None:
    for values in (np.zeros((2, 4)), np.zeros(3), np.zeros((2, 3, 1))):
        with pytest.raises(ValueError, match="3 names"):
            FeatureTable(TABLE.names, values)


def test_a_column_named_twice_is_refused() -> None:
    with pytest.raises(ValueError, match=r"twice.*b"):
        FeatureTable(("a", "b", "b"), TABLE.values)
    with pytest.raises(ValueError, match=r"twice.*a"):
        FeatureTable.join(TABLE, FeatureTable.of(a=[0, 0]))
    with pytest.raises(ValueError, match=r"twice.*a"):
        _ = replace(EVIDENCE, clinical=FeatureTable.of(a=[0, 0])).table


def test_tables_are_joined_side_by_side() -> None:
    joined = FeatureTable.join(TABLE, FeatureTable.of(e=[7, 8], d=[True, False]))
    assert joined.names == ("a", "b", "c", "e", "d")
    np.testing.assert_array_equal(joined.read(["d", "c", "e"]), [[1, 3, 7], [0, 6, 8]])
    assert len(joined) == 2


def test_evidence_has_one_row_a_patient() -> None:
    assert len(EVIDENCE) == 2
    assert EVIDENCE.table.names == ("deep_score", "a", "b", "c", "Age")
    for name in ("scores", "radiomics", "clinical"):
        with pytest.raises(ValueError, match="one row a patient"):
            replace(EVIDENCE, **{name: FeatureTable.of(other=[0, 0, 0])})
    with pytest.raises(ValueError, match=r"size 2 .* size 1$"):
        survival_evidence([1, 2], [0.5], TABLE, EVIDENCE.clinical)


@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_only_radiomics_may_be_missing(odd: float) -> None:
    for name in ("scores", "clinical"):
        with pytest.raises(ValueError, match="not finite among other, strange"):
            replace(EVIDENCE, **{name: FeatureTable.of(other=[0, 0], strange=[0, odd])})
    replace(EVIDENCE, radiomics=FeatureTable.of(other=[0, odd]))


def test_stage_3_names_its_scores_and_needs_no_stage_2() -> None:
    with_hpv, alone = (
        survival_evidence([1, 2], probability, TABLE, EVIDENCE.clinical) for probability in ([0.2, 0.7], None)
    )
    assert with_hpv.scores.names == ("expected_days_score", "hpv_probability")
    assert alone.scores.names == ("expected_days_score",)
    np.testing.assert_array_equal(with_hpv.table.read(["hpv_probability", "expected_days_score"]), [[0.2, 1], [0.7, 2]])


def test_what_a_network_says_is_bounded_and_nothing_without_a_lesion() -> None:
    """Neither class there, one of them, both; the training mean, which is 0, stands in for the first alone."""
    score = [[30.0, -30.0, 3.0], [4.0, -4.0, 3.0]]
    radiomics = FeatureTable.of(gtvp_absent=[0, 1, 0], gtvn_absent=[0, 0, 1])
    none = FeatureTable.of(gtvp_absent=[1, 1, 1], gtvn_absent=[1, 1, 1])
    clinical = FeatureTable.of(Age=[1, 2, 3])
    for table, expected in ((radiomics, score[1]), (none, [0.0, 0.0, 0.0])):
        for evidence in (hpv_evidence(score[0], table, clinical), survival_evidence(score[0], None, table, clinical)):
            np.testing.assert_array_equal(evidence.scores.values[:, 0], expected)


def test_a_scale_makes_standard_scores_with_a_floor() -> None:
    assert Scale.of([1, 3], smallest_sd=0.05) == Scale(2.0, 1.0)
    assert Scale.of([4, 4], smallest_sd=0.05) == Scale(4.0, 0.05)
    assert Scale(2.0, 4.0).standardize(0.0) == -0.5


# Fitted models


def draw_tables() -> tuple[FeatureTable, FeatureTable]:
    """Draw radiomics, some of them missing, and clinical columns."""
    rng = np.random.default_rng(0)
    names = ("gtvp_absent", *(f"ct_gtvp_original_glcm_{index}" for index in range(8)))
    radiomics = rng.normal(size=(PATIENTS, len(names)))
    radiomics[::7, 3:] = np.nan
    clinical = FeatureTable(("Gender=0", "Gender=1", "Age"), rng.normal(size=(PATIENTS, 3)))
    return FeatureTable(names, radiomics), clinical


def forest() -> tuple[Evidence, Answer]:
    radiomics, clinical = draw_tables()
    evidence = hpv_evidence(np.random.default_rng(1).normal(size=PATIENTS), radiomics, clinical)
    return evidence, fit_forest(evidence, clinical.read(["Age"])[:, 0] > 0, FOREST, 0).probability


def cox_model() -> tuple[Evidence, Answer]:
    """Fit to so few relapses that no radiomics enter, which would take skglm's compiling."""
    rng = np.random.default_rng(2)
    evidence = survival_evidence(rng.normal(size=PATIENTS), rng.random(PATIENTS), *draw_tables())
    days = 1000 * np.exp(-evidence.clinical.read(["Age"])[:, 0])
    return evidence, fit_cox(evidence, days, days < np.sort(days)[9], 0.9, 0).log_partial_hazard


def turned(table: FeatureTable) -> FeatureTable:
    return FeatureTable(table.names[::-1], table.read(table.names[::-1]))


def with_another(table: FeatureTable, name: str) -> FeatureTable:
    return FeatureTable.join(FeatureTable.of(**{name: np.full(len(table), 9.0)}), table)


@pytest.mark.parametrize("fit", [forest, cox_model])
def test_neither_order_nor_company_of_columns_changes_an_answer(fit: Callable[[], tuple[Evidence, Answer]]) -> None:
    evidence, answer = fit()
    expected = answer(evidence)
    assert np.ptp(expected) > 0.1
    parts = {name: getattr(evidence, name) for name in ("scores", "radiomics", "clinical")}
    in_other_order = Evidence(**{name: turned(table) for name, table in parts.items()})
    among_more = Evidence(**{name: with_another(table, f"other {name}") for name, table in parts.items()})
    np.testing.assert_array_equal(answer(in_other_order), expected)
    np.testing.assert_array_equal(answer(among_more), expected)
