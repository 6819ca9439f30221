"""Stage 2: deep score, radiomics and clinical record -> probability that the tumor is HPV positive.

A random forest in an imbalanced-learn pipeline (paper, section 2.4). What is kept of it afterwards is the forest and
the numbers that prepare its columns, so that inference needs neither imbalanced-learn nor the columns left out.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Self
from zipfile import ZIP_DEFLATED, BadZipFile, ZipFile, ZipInfo

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmpl.case import InvalidInputError
from mmpl.profile import ForestSettings
from mmpl.radiomics import image_kind
from mmpl.selection import distinct

if TYPE_CHECKING:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.feature_selection import SelectKBest

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

log = logging.getLogger(__name__)

DEEP_SCORE = "deep_score"
TRUSTED_TYPES = frozenset({"sklearn.tree._tree.Tree"})
"""All that a forest's file may ask to be trusted by name, beyond what skops itself knows to be data."""
NEIGHBORS = 5
"""Of SMOTE, where the minority has more patients than this."""
REPEATED_CORRELATION = 0.6
"""Of two radiomics correlated more strongly than this, in absolute value, only the more relevant is kept. In simulation
(580 patients, 10% negative) the forest then reaches 0.73 of the oracle's distance, at 0.8 0.70, at 0.95 0.65."""
COLUMNS_TRIED = 0.15
"""Share of the columns a split chooses from. In simulation 0.75 of the oracle's distance, where 0.3 reaches 0.73."""


@dataclass(frozen=True)
class Evidence:
    """What the forest sees of n patients.

    Attributes:
        deep_score: (n,) logit of the HPV head, standardized by mean and SD of its network's out-of-fold scores.
        radiomics: (n, p) radiomics; NaN for an absent lesion.
        clinical: (n, q) encoded clinical record.
    """

    deep_score: Floats
    radiomics: Floats
    clinical: Floats

    def __post_init__(self) -> None:
        lengths = {len(self.deep_score), len(self.radiomics), len(self.clinical)}
        if len(lengths) != 1 or (self.deep_score.ndim, self.radiomics.ndim, self.clinical.ndim) != (1, 2, 2):
            shapes = (self.deep_score.shape, self.radiomics.shape, self.clinical.shape)
            raise ValueError(f"the HPV evidence is not one row a patient: {shapes}")
        if not (np.isfinite(self.deep_score).all() and np.isfinite(self.clinical).all()):
            raise ValueError("the HPV evidence has a deep score or clinical value that is not finite")

    @property
    def matrix(self) -> Floats:
        """(n, 1 + p + q) deep score, radiomics, clinical; NaN where missing."""
        radiomics = np.where(np.isfinite(self.radiomics), self.radiomics, np.nan)
        return np.hstack([self.deep_score[:, None], radiomics, self.clinical])

    def check_columns(self, radiomics: int, clinical: int) -> None:
        """Raise ValueError where the columns are not so many."""
        got = (self.radiomics.shape[1], self.clinical.shape[1])
        if got != (radiomics, clinical):
            raise ValueError(f"{got} radiomics and clinical columns, where {(radiomics, clinical)} are expected")


@dataclass(frozen=True)
class HpvResult:
    """The ensemble's answer for one patient.

    Attributes:
        probability: Mean of the models' probabilities that the tumor is HPV positive.
        positive: Whether it reaches the ensemble's threshold.
        member_probabilities: Each model's.
    """

    probability: float
    positive: bool
    member_probabilities: tuple[float, ...]


@dataclass(frozen=True)
class HpvModel:
    """A fitted forest and how its columns are prepared.

    Attributes:
        names: The forest's columns.
        indices: Where they lie in `Evidence.matrix`.
        fills, means, scales: Training median, mean and SD of each; the median stands in for a missing value.
        radiomics_count, clinical_count: Columns the evidence must have.
        choice: The hyper-parameters, and the balanced accuracy they were chosen for; None where there was one choice.
    """

    names: tuple[str, ...]
    indices: NDArray[np.intp]
    fills: Floats
    means: Floats
    scales: Floats
    radiomics_count: int
    clinical_count: int
    forest: "RandomForestClassifier"
    choice: Mapping[str, float | None] = field(default_factory=dict)

    @classmethod
    def fit(
        cls,
        evidence: Evidence,
        positive: ArrayLike,
        radiomics_names: Sequence[str],
        clinical_names: Sequence[str],
        settings: ForestSettings,
        seed: int,
    ) -> Self:
        """Impute, standardize, select radiomics, balance with SMOTE and grow the forest, as one pipeline.

        Radiomics of the settings' images are candidates. How many are kept, and the size of the forest, are those of
        the highest balanced accuracy in a repeated inner cross-validation of these patients. The deep score, the
        clinical columns and the indicators of absent lesions always pass the selection. With a single patient in the
        minority class there is nothing to interpolate, and SMOTE is left out.

        Args:
            positive: (n,) HPV status.
            radiomics_names: p names, as `mmpl.radiomics.image_kind` reads them.
            clinical_names: q names.

        Raises:
            ValueError: If only one status is present, or the shapes do not fit.
        """
        from imblearn.pipeline import Pipeline
        from sklearn.ensemble import RandomForestClassifier
        from sklearn.impute import SimpleImputer
        from sklearn.model_selection import GridSearchCV, RepeatedStratifiedKFold
        from sklearn.preprocessing import StandardScaler

        status = np.asarray(positive, dtype=bool)
        evidence.check_columns(len(radiomics_names), len(clinical_names))
        if status.shape != evidence.deep_score.shape:
            raise ValueError(f"{status.shape} HPV statuses for {evidence.deep_score.shape} patients")
        minority = int(min(status.sum(), (~status).sum()))
        if minority == 0:
            raise ValueError(f"all {len(status)} patients have the same HPV status; a forest needs both")
        names = (DEEP_SCORE, *radiomics_names, *clinical_names)
        kinds = [image_kind(name) for name in radiomics_names]
        passing = np.array([True, *(kind is None for kind in kinds), *(True for _ in clinical_names)])
        candidate = np.zeros(len(names), dtype=bool)
        candidate[1 : 1 + len(kinds)] = [kind in settings.radiomics_images for kind in kinds]
        always, most = int(passing.sum()), int(candidate.sum())
        candidates = {
            "select__k": sorted({always + min(kept, most) for kept in settings.radiomics_kept}),
            "forest__n_estimators": list(settings.trees),
            "forest__max_depth": list(settings.depth),
            "forest__min_samples_leaf": list(settings.minimum_leaf),
        }
        folds = min(settings.inner_folds, minority)
        inner_minority = minority - -(
            -minority // folds
        )  # what the inner cross-validation leaves to train on, at least
        choosing = inner_minority > 1 and any(len(values) > 1 for values in candidates.values())
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
            search = GridSearchCV(pipeline, candidates, scoring="balanced_accuracy", cv=inner)
            pipeline = search.fit(evidence.matrix, status).best_estimator_
            accuracy = float(search.best_score_)
        else:
            pipeline.set_params(**{name: values[0] for name, values in candidates.items()})
            pipeline.fit(evidence.matrix, status)
        indices = pipeline["select"].get_support(indices=True)
        forest = pipeline["forest"]
        return cls(
            names=tuple(names[index] for index in indices),
            indices=indices,
            fills=pipeline["impute"].statistics_[indices],
            means=pipeline["scale"].mean_[indices],
            scales=pipeline["scale"].scale_[indices],
            radiomics_count=len(radiomics_names),
            clinical_count=len(clinical_names),
            forest=forest,
            choice={
                "trees": forest.n_estimators,
                "depth": forest.max_depth,
                "minimum_leaf": forest.min_samples_leaf,
                "radiomics_kept": len(indices) - always,
                "inner_balanced_accuracy": accuracy,
            },
        )

    def probability(self, evidence: Evidence) -> Floats:
        """Return (n,) probabilities that the tumor is HPV positive.

        Raises:
            ValueError: If the evidence has other columns than the fitted ones.
        """
        evidence.check_columns(self.radiomics_count, self.clinical_count)
        columns = evidence.matrix[:, self.indices]
        columns = (np.where(np.isnan(columns), self.fills, columns) - self.means) / self.scales
        return self.forest.predict_proba(columns)[:, list(self.forest.classes_).index(True)]

    def save(self, path: Path) -> None:
        """Write a skops file, which holds data and no code."""
        import skops.io

        content = {field: getattr(self, field) for field in self.__dataclass_fields__}
        path.write_bytes(_reproducible(skops.io.dumps(content)))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            InvalidInputError: If the file is not one of those, or asks to trust any type but `TRUSTED_TYPES`.
        """
        import skops.io

        try:
            foreign = set(skops.io.get_untrusted_types(file=path)) - TRUSTED_TYPES
            if foreign:
                raise InvalidInputError(f"{path}: holds {', '.join(sorted(foreign))}, which is not trusted")
            return cls(**skops.io.load(path, trusted=sorted(TRUSTED_TYPES)))
        except (BadZipFile, KeyError, TypeError) as error:
            raise InvalidInputError(f"{path}: not an HPV forest ({error})") from error


def _reproducible(content: bytes) -> bytes:
    """Pack a skops file so that the same forest has the same bytes: no clock, and counts where it has addresses."""
    source = ZipFile(BytesIO(content))
    schema = source.read("schema.json").decode()
    addresses = dict.fromkeys(re.findall(r'"__id__": (\d+)', schema))
    order = {address: str(count) for count, address in enumerate(addresses)}
    packed = BytesIO()
    with ZipFile(packed, "w", ZIP_DEFLATED, compresslevel=9) as target:
        for name in source.namelist():
            address, dot, kind = name.partition(".")
            if address in order:
                target.writestr(ZipInfo(order[address] + dot + kind), source.read(name), ZIP_DEFLATED, 9)
        schema = re.sub(r'(?<="__id__": )\d+|(?<=")\d+(?=\.npy")', lambda found: order[found[0]], schema)
        target.writestr(ZipInfo("schema.json"), schema, ZIP_DEFLATED, 9)
    return packed.getvalue()


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
            kept = ranked[distinct(columns[:, ranked], REPEATED_CORRELATION, self.most)]
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


def ensemble(member_probabilities: Sequence[float], threshold: float) -> HpvResult:
    """Average the models' probabilities of one patient and decide."""
    probability = float(np.mean(member_probabilities))
    return HpvResult(probability, probability >= threshold, tuple(float(value) for value in member_probabilities))
