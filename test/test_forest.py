"""Forests as leaves: scikit-learn's probabilities, and the Shapley values of shap and of the definition itself."""

from itertools import combinations
from math import factorial

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier

from mmpl.forest import Forest


def grow(seed: int, columns: int = 6, **settings: object) -> tuple[RandomForestClassifier, np.ndarray]:
    """Grow a forest on three hundred patients of whom few are of one kind; it and five more patients."""
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(300, columns)).round(1)  # ties, as of one-hot columns
    status = table[:, 0] + table[:, 1] * table[:, 2] + rng.normal(size=300) > 1
    forest = RandomForestClassifier(n_estimators=7, random_state=seed, **settings).fit(table, status)
    return forest, rng.normal(size=(5, columns))


@pytest.mark.parametrize("settings", [{}, {"max_depth": 1}, {"max_depth": 4}, {"max_features": None}])
def test_they_are_those_of_shap(settings: dict) -> None:
    shap = pytest.importorskip("shap")
    forest, patients = grow(0, **settings)
    oracle = shap.TreeExplainer(forest, feature_perturbation="tree_path_dependent")
    paths = Forest.of(forest, 1)
    assert paths.expected == pytest.approx(oracle.expected_value[1], abs=1e-9)
    for patient, expected in zip(patients, oracle.shap_values(patients)[..., 1], strict=True):
        np.testing.assert_allclose(paths.shapley(patient), expected, atol=1e-9)


def test_they_are_those_of_the_definition() -> None:
    """Every coalition of four columns, each tree walked down by hand."""
    forest, patients = grow(1, columns=4, max_depth=3)

    def said(tree: object, patient: np.ndarray, known: set[int], node: int = 0) -> float:
        if tree.children_left[node] == -1:
            return tree.value[node, 0, 1] / tree.value[node, 0].sum()
        children = tree.children_left[node], tree.children_right[node]
        if tree.feature[node] in known:
            return said(tree, patient, known, children[int(patient[tree.feature[node]] > tree.threshold[node])])
        cover = tree.weighted_n_node_samples
        return sum(cover[c] / cover[node] * said(tree, patient, known, c) for c in children)

    for patient in patients:
        expected = np.zeros(4)
        for column in range(4):
            others = [other for other in range(4) if other != column]
            for size in range(4):
                weight = factorial(size) * factorial(3 - size) / factorial(4)
                for some in combinations(others, size):
                    for each in forest.estimators_:
                        more = said(each.tree_, patient, {*some, column}) - said(each.tree_, patient, set(some))
                        expected[column] += weight * more / len(forest.estimators_)
        np.testing.assert_allclose(Forest.of(forest, 1).shapley(patient), expected, atol=1e-12)


@pytest.mark.parametrize("settings", [{}, {"max_depth": 1}, {"max_depth": 4}, {"max_features": None}])
def test_the_leaves_give_the_probability_of_scikit_learn(settings: dict) -> None:
    forest, _ = grow(2, **settings)
    patients = np.random.default_rng(3).normal(size=(200, 6)).round(1)  # many lie on a threshold's other side by little
    for position in (0, 1):
        expected = forest.predict_proba(patients)[:, position]
        np.testing.assert_allclose(Forest.of(forest, position).probability(patients), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_with_the_mean_they_add_up_to_the_probability(seed: int) -> None:
    forest, patients = grow(seed)
    paths = Forest.of(forest, 0)
    added = [paths.expected + paths.shapley(patient).sum() for patient in patients]
    np.testing.assert_allclose(added, forest.predict_proba(patients)[:, 0], atol=1e-12)


def test_a_forest_of_stumps_that_split_nothing_says_its_mean() -> None:
    forest = RandomForestClassifier(n_estimators=3, min_samples_leaf=40, random_state=0)
    forest.fit(np.zeros((60, 2)), np.arange(60) < 20)
    paths = Forest.of(forest, 1)
    assert paths.shapley(np.zeros(2)).tolist() == [0, 0]
    assert paths.expected == pytest.approx(forest.predict_proba(np.zeros((1, 2)))[0, 1])
