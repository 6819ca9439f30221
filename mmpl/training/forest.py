"""Stage 2's random forest: imputed, standardized, selected, balanced with SMOTE and grown (paper, section 2.4)."""

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmpl.evidence import ABSENT, Evidence, Floats
from mmpl.forest import Forest
from mmpl.hpv import HpvModel
from mmpl.profile import ForestSettings
from mmpl.radiomics import image_kind
from mmpl.training.selection import known_levels, uncorrelated

if TYPE_CHECKING:
    from sklearn.feature_selection import SelectKBest

Bools = NDArray[np.bool_]

log = logging.getLogger(__name__)

NEIGHBORS = 5
"""Neighbors that SMOTE interpolates between, where the minority has more patients than this."""
REPEATED_CORRELATION = 0.6
"""Absolute correlation above which only the more relevant of two radiomics is kept. In simulation
(580 patients, 10% negative) the forest then reaches 0.73 of the oracle's distance, at 0.8 0.70, at 0.95 0.65."""
COLUMNS_TRIED = 0.15
"""Share of the columns a split chooses from. In simulation 0.75 of the oracle's distance, where 0.3 reaches 0.73."""


def fit_forest(evidence: Evidence, positive: ArrayLike, settings: ForestSettings, seed: int) -> HpvModel:
    """Fit one model's forest to n patients, as one pipeline.

    Radiomics of the settings' images are candidates, and those whose names do not say of which image they are. How many
    are kept, and the size of the forest, are those of the highest balanced accuracy in a repeated inner
    cross-validation of these patients. Scores, clinical columns (`known_levels`) and the indicators of absent lesions
    always pass the selection. With a single patient in the minority class there is nothing to interpolate, and SMOTE is
    left out.

    Args:
        evidence: Evidence of the training patients.
        positive: (n,) HPV status.
        settings: Settings that the inner cross-validation chooses from.
        seed: Random seed of all that is random in the fit.

    Raises:
        ValueError: If only one status is present, or the shapes do not fit.
    """
    from imblearn.pipeline import Pipeline
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.impute import SimpleImputer
    from sklearn.model_selection import GridSearchCV, RepeatedStratifiedKFold
    from sklearn.preprocessing import StandardScaler

    evidence, status = replace(evidence, clinical=known_levels(evidence.clinical)), np.asarray(positive, dtype=bool)
    if status.shape != (len(evidence),):
        raise ValueError(f"{status.shape} HPV statuses for {len(evidence)} patients")
    minority = int(min(status.sum(), (~status).sum()))
    if minority == 0:
        raise ValueError(f"all {len(status)} patients have the same HPV status; a forest needs both")
    measured = set(evidence.radiomics.names) - set(ABSENT)
    candidates = {name for name in measured if image_kind(name) in (None, *settings.radiomics_images)}
    names = [name for name in evidence.table.names if name not in measured or name in candidates]
    values = evidence.table.read(names)
    matrix = np.where(np.isfinite(values), values, np.nan)
    candidate = np.array([name in candidates for name in names])
    passing = ~candidate
    always, most = int(passing.sum()), int(candidate.sum())
    choices = {
        "select__k": sorted({always + min(kept, most) for kept in settings.radiomics_kept}),
        "forest__n_estimators": list(settings.trees),
        "forest__max_depth": list(settings.depth),
        "forest__min_samples_leaf": list(settings.minimum_leaf),
    }
    folds = min(settings.inner_folds, minority)
    held_out = -(-minority // folds)  # of the minority, at most, in a fold of the inner cross-validation
    inner_minority = minority - held_out
    choosing = inner_minority > 1 and any(len(values) > 1 for values in choices.values())
    pipeline = Pipeline(
        [
            ("impute", SimpleImputer(strategy="median", keep_empty_features=True)),
            ("scale", StandardScaler()),
            ("select", _selection(_Relevance(passing, candidate, max(settings.radiomics_kept)))),
            ("balance", _smote(inner_minority if choosing else minority, seed)),
            ("forest", RandomForestClassifier(max_features=COLUMNS_TRIED, random_state=seed)),
        ]
    )
    accuracy = None
    if choosing:
        inner = RepeatedStratifiedKFold(n_splits=folds, n_repeats=settings.inner_repeats, random_state=seed)
        search = GridSearchCV(pipeline, choices, scoring="balanced_accuracy", cv=inner)
        pipeline = search.fit(matrix, status).best_estimator_
        accuracy = float(search.best_score_)
    else:
        pipeline.set_params(**{name: values[0] for name, values in choices.items()})
        pipeline.fit(matrix, status)
    kept = pipeline["select"].get_support(indices=True)
    forest = pipeline["forest"]
    return HpvModel(
        names=tuple(names[index] for index in kept),
        fills=pipeline["impute"].statistics_[kept],
        means=pipeline["scale"].mean_[kept],
        scales=pipeline["scale"].scale_[kept],
        forest=Forest.of(forest, list(forest.classes_).index(True)),
        choice={
            "trees": forest.n_estimators,
            "depth": forest.max_depth,
            "minimum_leaf": forest.min_samples_leaf,
            "radiomics_kept": len(kept) - always,
            "inner_balanced_accuracy": accuracy,
        },
    )


class _Relevance:
    """Score z-scored columns for SelectKBest: infinity for those that pass, a candidate's F-value, else -1.

    A constant scores -1, too, and so does a column that repeats a more relevant one: the best ten of thousands are
    often one finding ten times.
    """

    def __init__(self, passing: Bools, candidate: Bools, most: int) -> None:
        self.passing = passing
        self.candidate = candidate
        self.most = most

    def __call__(self, columns: Floats, status: Bools) -> Floats:
        from sklearn.feature_selection import f_classif

        scores = np.where(self.passing, np.inf, -1.0)
        candidates = np.flatnonzero(self.candidate & (columns.std(0) > 0.5))
        if len(candidates):
            relevance = f_classif(columns[:, candidates], status)[0]
            ranked = candidates[np.argsort(-relevance, kind="stable")]
            kept = ranked[uncorrelated(columns[:, ranked], REPEATED_CORRELATION, self.most)]
            scores[kept] = relevance[np.searchsorted(candidates, kept)]
        return scores


def _selection(relevance: _Relevance) -> "SelectKBest":
    """Return a selection of the k best columns, or of fewer, where the others score below zero."""
    from sklearn.feature_selection import SelectKBest

    class Selection(SelectKBest):
        def _get_support_mask(self) -> Bools:
            return super()._get_support_mask() & (self.scores_ >= 0)

    return Selection(relevance)


def _smote(minority: int, seed: int) -> object:
    """Return SMOTE with as many neighbors as the minority allows, or "passthrough" for a minority of one."""
    if minority < 2:
        log.warning("SMOTE is left out: the smaller HPV class has %d patient", minority)
        return "passthrough"
    from imblearn.over_sampling import SMOTE

    return SMOTE(k_neighbors=min(NEIGHBORS, minority - 1), random_state=seed)


def choose_threshold(score: ArrayLike, positive: ArrayLike) -> float:
    """Take the middle between the two classes' mean scores, at or above which a patient is called positive.

    The threshold of the best balanced accuracy follows single patients: with fifty negatives its SD, over folds, is
    eight times as large, and its balanced accuracy on the patients left out lower by 0.01 (`train/LOG.md`).

    Args:
        score: (n,) higher means more likely positive, on any scale.
        positive: (n,) HPV status.

    Raises:
        ValueError: If only one status is present.
    """
    score, status = np.asarray(score, dtype=float), np.asarray(positive, dtype=bool)
    if status.all() or not status.any():
        raise ValueError(f"all {len(status)} patients have the same HPV status; a threshold needs both")
    return float((score[status].mean() + score[~status].mean()) / 2)
