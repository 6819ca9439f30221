"""Stage 2's forest: it learns what was planted, forgets how it was balanced, and its file holds data only."""

import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest

from mmpl.case import InvalidInputError
from mmpl.evidence import DEEP_SCORE, Evidence, FeatureTable, hpv_evidence
from mmpl.hpv import HpvModel, ensemble
from mmpl.profile import ForestSettings
from mmpl.radiomics import image_kind
from mmpl.training.forest import choose_threshold, fit_forest
from mmpl.training.selection import known_levels

SETTINGS = ForestSettings(
    trees=(60,),
    depth=(5,),
    minimum_leaf=(10,),
    radiomics_images=("original",),
    radiomics_kept=(10,),
    inner_folds=5,
    inner_repeats=1,
)
RADIOMICS = (*(f"ct_gtvp_original_glcm_{index}" for index in range(298)), "gtvp_absent", "gtvn_absent")
CLINICAL = ("Tobacco Consumption=0", "Tobacco Consumption=1", "Tobacco Consumption=missing", "Age")
STRONG = 17
"""The one radiomics column that knows the status."""


def simulate(
    seed: int, count: int, positive_share: float, deep_shift: float = 1.0, radiomics_shift: float = 2.0
) -> tuple[Evidence, np.ndarray]:
    """Draw patients whose status moves the deep score and one radiomics column by so many SD."""
    rng = np.random.default_rng(seed)
    positive = rng.random(count) < positive_share
    radiomics = rng.normal(size=(count, len(RADIOMICS))) * 1e3
    radiomics[:, STRONG] += 1e3 * radiomics_shift * positive
    radiomics[:, 3] = 12.5
    absent = rng.random(count) < 0.1
    radiomics[absent, 100:298] = np.nan
    radiomics[:, -2:] = 0
    radiomics[:, -1] = absent
    tobacco = rng.integers(0, 3, count)
    clinical = np.column_stack([*(tobacco == level for level in range(3)), rng.normal(size=count)]).astype(float)
    score = rng.normal(size=count) + deep_shift * positive
    return hpv_evidence(score, FeatureTable(RADIOMICS, radiomics), FeatureTable(CLINICAL, clinical)), positive


def with_radiomics(evidence: Evidence, values: np.ndarray, names: Sequence[str] = RADIOMICS) -> Evidence:
    return replace(evidence, radiomics=FeatureTable(tuple(names), values))


def fit(evidence: Evidence, positive: np.ndarray, seed: int = 0) -> HpvModel:
    return fit_forest(evidence, positive, SETTINGS, seed)


def area_under_curve(probability: np.ndarray, positive: np.ndarray) -> float:
    """Return the share of (positive, negative) pairs in the right order."""
    return float((probability[positive][:, None] > probability[~positive][None]).mean())


@pytest.fixture(scope="module")
def model() -> HpvModel:
    return fit(*simulate(0, 280, 0.9))


def test_planted_effects_are_recovered_with_one_negative_in_ten(model: HpvModel) -> None:
    evidence, positive = simulate(1, 1000, 0.5)
    area = area_under_curve(model.probability(evidence), positive)
    assert area > area_under_curve(evidence.table.read([DEEP_SCORE])[:, 0], positive) + 0.05
    assert area > 0.85
    assert RADIOMICS[STRONG] in model.names


def test_probability_is_of_hpv_positive(model: HpvModel) -> None:
    evidence, _ = simulate(2, 50, 0.5)

    def mean_probability(deep_score: float, radiomics: float) -> float:
        columns = evidence.radiomics.values.copy()
        columns[:, STRONG] = radiomics
        table = FeatureTable(RADIOMICS, columns)
        return float(model.probability(hpv_evidence(np.full(50, deep_score), table, evidence.clinical)).mean())

    assert mean_probability(3.0, 4e3) > 0.8
    assert mean_probability(-3.0, -2e3) < 0.5


def test_smote_balances_the_trained_forest() -> None:
    """Of patients no evidence tells apart, a forest on unbalanced data would call nine in ten positive."""
    model = fit(*simulate(0, 280, 0.9, deep_shift=0, radiomics_shift=0))
    fresh, _ = simulate(3, 500, 0.5, deep_shift=0, radiomics_shift=0)
    assert 0.4 < np.median(model.probability(fresh)) < 0.8


def test_only_selectable_radiomics_are_selected(model: HpvModel) -> None:
    radiomics = [name for name in model.names if name.startswith("ct_")]
    assert len(radiomics) == SETTINGS.radiomics_kept[0]
    assert RADIOMICS[3] not in radiomics, "a constant column was kept"
    clinical = known_levels(simulate(0, 280, 0.9)[0].clinical).names
    assert set(model.names) - set(radiomics) == {DEEP_SCORE, "gtvp_absent", "gtvn_absent", *clinical}


@pytest.mark.parametrize(("images", "strong"), [(("original",), True), (("log",), False), (("log", "wavelet"), False)])
def test_radiomics_of_the_named_images_alone_are_candidates(images: tuple[str, ...], strong: bool) -> None:
    names = list(RADIOMICS)
    names[100:200] = [f"pet_gtvn_log-sigma-3-0-mm-3D_glcm_{index}" for index in range(100)]
    names[200:298] = [f"ct_gtvp_wavelet-LLH_glcm_{index}" for index in range(98)]
    evidence, positive = simulate(0, 280, 0.8)
    evidence = with_radiomics(evidence, evidence.radiomics.values, names)
    model = fit_forest(evidence, positive, SETTINGS.model_copy(update={"radiomics_images": images}), 0)
    kinds = [kind for name in model.names if name in names and (kind := image_kind(name))]
    assert set(kinds) == set(images)
    assert len(kinds) == SETTINGS.radiomics_kept[0]
    assert (RADIOMICS[STRONG] in model.names) == strong
    assert {"gtvp_absent", "gtvn_absent"} <= set(model.names)


def test_fewer_are_kept_where_there_are_not_so_many_findings() -> None:
    """Nothing fills up: no repeat, and no image that is not named."""
    evidence, positive = simulate(13, 280, 0.8)
    radiomics = evidence.radiomics.values.copy()
    radiomics[:, :100] = radiomics[:, STRONG - 1 : STRONG + 1].repeat(50, axis=1)
    names = list(RADIOMICS)
    names[100:298] = [f"pet_gtvn_wavelet-LLH_glcm_{index}" for index in range(198)]
    evidence = with_radiomics(evidence, radiomics, names)
    model = fit(evidence, positive)
    assert [image_kind(name) for name in model.names if name.startswith(("ct_", "pet_"))] == ["original"] * 2
    assert model.choice["radiomics_kept"] == 2
    assert model.probability(evidence).shape == (280,)


def test_of_findings_that_repeat_each_other_one_is_kept() -> None:
    evidence, positive = simulate(12, 280, 0.8)
    radiomics = evidence.radiomics.values.copy()
    radiomics[:, 40:60] = radiomics[:, [STRONG]] + 100 * np.random.default_rng(0).normal(size=(280, 20))
    model = fit(with_radiomics(evidence, radiomics), positive)
    repeats = {RADIOMICS[STRONG], *RADIOMICS[40:60]}
    assert len(repeats & set(model.names)) == 1


@pytest.mark.slow
def test_the_inner_cross_validation_chooses() -> None:
    """Many columns of noise and deep trees on them cost accuracy; what is chosen is written down."""
    evidence, positive = simulate(0, 280, 0.8)
    settings = SETTINGS.model_copy(
        update={
            "trees": (20, 40),
            "depth": (1, 6),
            "minimum_leaf": (5,),
            "radiomics_kept": (1, 60),
            "inner_folds": 4,
            "inner_repeats": 2,
        }
    )
    model = fit_forest(evidence, positive, settings, 0)
    assert set(model.choice) == {"trees", "depth", "minimum_leaf", "radiomics_kept", "inner_balanced_accuracy"}
    assert model.choice["radiomics_kept"] == 1
    assert model.choice["trees"] in (20, 40)
    assert 0.6 < model.choice["inner_balanced_accuracy"] < 1
    assert len([name for name in model.names if name.startswith("ct_")]) == 1
    shares = model.forest.shares.prod(axis=1)  # of the training patients, in each leaf: 1 a tree
    assert shares.sum() == pytest.approx(model.choice["trees"])
    assert fit(evidence, positive).choice["inner_balanced_accuracy"] is None


def test_missing_radiomics_count_as_the_training_median(model: HpvModel) -> None:
    evidence, _ = simulate(4, 5, 0.5)
    column = model.names.index(RADIOMICS[STRONG])
    missing, median = evidence.radiomics.values.copy(), evidence.radiomics.values.copy()
    missing[:, STRONG] = [np.nan, np.inf, -np.inf, np.nan, np.nan]
    median[:, STRONG] = model.fills[column]
    answers = [model.probability(with_radiomics(evidence, values)) for values in (missing, median)]
    np.testing.assert_array_equal(*answers)
    training = simulate(0, 280, 0.9)[0].radiomics.values[:, STRONG]
    assert model.fills[column] == np.median(training)


def test_the_same_seed_gives_the_same_forest() -> None:
    data = simulate(5, 120, 0.8)
    fresh, _ = simulate(6, 50, 0.5)
    first, again, other = (fit(*data, seed=seed).probability(fresh) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_the_same_forest_has_the_same_bytes(tmp_path, monkeypatch) -> None:
    """Neither the clock nor where in memory it lay shows."""
    data, now = simulate(5, 120, 0.8), time.localtime()
    fit(*data).save(tmp_path / "first")
    monkeypatch.setattr(time, "localtime", lambda *_: time.struct_time((2031, *now[1:])))
    monkeypatch.setattr(time, "time", lambda: 2e9)
    fit(*data).save(tmp_path / "again")
    fit(*data, seed=2).save(tmp_path / "other")
    assert (tmp_path / "first").read_bytes() == (tmp_path / "again").read_bytes()
    assert (tmp_path / "first").read_bytes() != (tmp_path / "other").read_bytes()


def test_a_file_gives_identical_predictions(model: HpvModel, tmp_path) -> None:
    path = tmp_path / "forest.npz"
    model.save(path)
    loaded = HpvModel.load(path)
    evidence, _ = simulate(7, 40, 0.5)
    np.testing.assert_array_equal(loaded.probability(evidence), model.probability(evidence))
    assert loaded.names == model.names
    assert loaded.choice == model.choice


def test_a_file_of_a_large_forest_stays_under_half_a_megabyte(tmp_path) -> None:
    settings = SETTINGS.model_copy(update={"trees": (200,), "minimum_leaf": (5,), "radiomics_kept": (20,)})
    evidence, positive = simulate(8, 600, 0.9)
    fit_forest(evidence, positive, settings, 0).save(tmp_path / "forest.npz")
    assert (tmp_path / "forest.npz").stat().st_size < 0.5e6


def test_a_file_that_would_unpickle_something_is_refused(model: HpvModel, tmp_path) -> None:
    path = tmp_path / "foreign.npz"
    model.save(path)
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **arrays | {"values": np.array([print], dtype=object)})
    with pytest.raises(InvalidInputError, match=r"foreign\.npz.*allow_pickle"):
        HpvModel.load(path)


@pytest.mark.parametrize("content", [b"", b"not a zip file", b"PK\x03\x04 cut"])
def test_a_file_that_is_no_forest_is_named(content: bytes, tmp_path) -> None:
    path = tmp_path / "broken.npz"
    path.write_bytes(content)
    with pytest.raises(InvalidInputError, match="broken"):
        HpvModel.load(path)


@pytest.mark.parametrize(
    "changed",
    [
        {"values": np.ones(3)},
        {"columns": np.ones((4, 2))},
        {"columns": np.full((4, 2), 99)},
        {"fills": np.ones(2)},
        {"low": np.ones((4, 3))},
    ],
)
def test_tables_that_do_not_fit_each_other_are_refused(changed: dict[str, np.ndarray], model, tmp_path) -> None:
    path = tmp_path / "unfit.npz"
    model.save(path)
    with np.load(path) as file:
        arrays = dict(file)
    four = {name: arrays[name][:4, :2] for name in ("columns", "low", "high", "shares")} | {"values": np.ones(4)}
    np.savez(path, **arrays | four | changed)
    with pytest.raises(InvalidInputError, match=r"unfit\.npz: not an HPV forest"):
        HpvModel.load(path)


def test_a_damaged_archive_is_named(model: HpvModel, tmp_path) -> None:
    path = tmp_path / "damaged.npz"
    model.save(path)
    content, rng = path.read_bytes(), np.random.default_rng(0)
    for at in rng.integers(0, len(content), 300):
        path.write_bytes(content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :])
        with suppress(InvalidInputError):
            HpvModel.load(path)


def test_an_archive_of_something_else_is_named(tmp_path) -> None:
    path = tmp_path / "other.npz"
    np.savez(path, weights=np.ones(3))
    with pytest.raises(InvalidInputError, match=r"other\.npz"):
        HpvModel.load(path)


@pytest.mark.parametrize("status", [True, False])
def test_one_class_only_is_an_error(status: bool) -> None:
    evidence, _ = simulate(9, 30, 0.5)
    with pytest.raises(ValueError, match="same HPV status"):
        fit(evidence, np.full(30, status))


@pytest.mark.parametrize("minority", [1, 2, 4])
def test_a_small_minority_still_fits(minority: int, caplog) -> None:
    evidence, _ = simulate(10, 30, 0.5)
    probability = fit(evidence, np.arange(30) >= minority).probability(evidence)
    assert np.isfinite(probability).all()
    assert ("SMOTE is left out" in caplog.text) == (minority == 1)


def test_a_column_of_the_forest_that_is_not_there_is_named(model: HpvModel) -> None:
    evidence, _ = simulate(11, 20, 0.5)
    rest = [name for name in RADIOMICS if name != RADIOMICS[STRONG]]
    with pytest.raises(ValueError, match=f"no {RADIOMICS[STRONG]}$"):
        model.probability(with_radiomics(evidence, evidence.radiomics.read(rest), rest))


def test_a_status_is_needed_of_every_patient() -> None:
    evidence, positive = simulate(11, 20, 0.5)
    with pytest.raises(ValueError, match=r"\(19,\) HPV statuses for 20 patients"):
        fit(evidence, positive[1:])


@pytest.mark.parametrize(
    ("score", "positive", "threshold"),
    [
        ([0.1, 0.2, 0.6, 0.9], [0, 0, 1, 1], 0.45),
        ([0.9, 0.6, 0.2, 0.1], [1, 1, 0, 0], 0.45),
        ([-2.0, 7.0, -4.0], [0, 1, 0], 2.0),
        # Ninety positives do not outvote ten negatives.
        ([0.8] * 90 + [0.6] * 10, [1] * 90 + [0] * 10, 0.7),
    ],
)
def test_threshold_by_hand(score: list[float], positive: list[int], threshold: float) -> None:
    assert choose_threshold(score, positive) == pytest.approx(threshold)


def test_threshold_is_about_the_best_one_and_steady() -> None:
    """Normal scores, one in ten negative, an SD of 1 and 1.5 apart: 0.75 is best, for a balanced accuracy of 0.773."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(200):
        positive = np.arange(500) % 10 > 0
        found.append(choose_threshold(rng.normal(1.5 * positive, 1.0), positive))
    assert np.mean(found) == pytest.approx(0.75, abs=0.02)
    assert np.std(found) < 0.1


def test_threshold_needs_both_classes() -> None:
    with pytest.raises(ValueError, match="same HPV status"):
        choose_threshold([0.2, 0.3], [True, True])


def test_ensemble_averages_and_decides() -> None:
    result = ensemble([0.2, 0.4, 0.9], threshold=0.5)
    assert result.probability == pytest.approx(0.5)
    assert result.positive is True
    assert result.member_probabilities == (0.2, 0.4, 0.9)
    assert ensemble([0.2, 0.4], threshold=0.5).positive is False


def test_importing_the_module_loads_no_learning_library() -> None:
    heavy = "{'sklearn', 'imblearn', 'lifelines', 'skglm', 'pandas'}"
    code = f"import sys, mmpl.hpv, mmpl.survival; print(sorted({heavy} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
