"""Whether to drop lesions that are probably false: `python -m train.experiments.false_nodes RUN`.

The out-of-fold masks of a finished run, on the CT's own grid, with and without some of their lesions: what the editions
of the challenge score of nodes and of primaries, paired over the patients with a reference mask.

- volume, highest probability: lesions below a threshold of the one or the other are dropped.
- logistic models say how probably a lesion is a hit by the metrics' rule, or overlaps with the reference at all; the
  last one sees nothing that depends on how many models there are.
- largest alone: of a patient's lesions.
- hits alone: what one who knows the reference would keep, as no gate can.

Each tenth of the patients loses lesions by models and thresholds of the others. A threshold is that of the best mean of
the class's metrics, on models of an inner cross-validation.

An out-of-fold mask is the mean of two models, an answer's that of ten. So `--fresh phantom:40:5117:v2` lets all models
answer patients that they have not seen, whose lesions are dropped by what all patients of the run teach.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy import sparse
from scipy.ndimage import map_coordinates
from scipy.sparse.csgraph import maximum_bipartite_matching

from mmpl import metrics
from mmpl.case import Case, ClinicalRecord, Image
from mmpl.cohort_scores import RESAMPLES, interval, resamples
from mmpl.evidence import Floats
from mmpl.geometry import extent_mm, index_to_mm, mm_to_index
from mmpl.lesions import Lesion, Side, components, find_lesions
from mmpl.metrics import HIT_IOU, LesionCounts, Overlap
from mmpl.names import LESIONS, Label, Stage
from mmpl.preprocess import PreparedCase, prepare
from mmpl.processor import Processor, default_device
from mmpl.profile import Profile
from mmpl.segmentation import MemberMasks, Thresholds, compose, predict_probability, restore
from mmpl.training.command import RunFolder, Workers, run_program
from mmpl.training.memory import IMAGES_GIB, predicting_gib
from mmpl.training.parallel import Engine
from mmpl.training.records import StartRecord
from mmpl.training.workspace import Workspace, may_share_patients, open_source
from mmpl.weights import load_ensemble
from train.experiments.results import with_interval

PARTS = 10
FACTS = (
    "log_ml",
    "highest_probability",
    "mean_probability",
    "found_by",
    "uptake_max",
    "uptake_mean",
    "from_primary_mm",
    "from_edge_mm",
    "on_primarys_side",
)
"""Columns of `Found.facts`: uptake in the patch's units, the edge is the patch's; NaN is what cannot be told."""
BY_MODELS = ("highest_probability", "mean_probability", "found_by")
"""Those that rest on what each model says."""
SHARES_TRIED = np.arange(0.02, 0.61, 0.02)
"""Shares of the lesions that thresholds are tried to drop, beside none."""

Indices = NDArray[np.intp]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Found:
    """The lesions of one class, c in all, in the masks of n patients, and what there was to find.

    Attributes:
        patient: (c,) position of each lesion's patient.
        facts: (c, FACTS).
        voxels: (c,) voxels of each.
        shared: (c,) voxels of each that are in the reference.
        hit: (c,) whether each finds a lesion of the reference, matched one to one as `mmpl.metrics.lesion_counts` does.
        true_voxels: (n,) voxels of the reference.
        true_lesions: (n,) lesions of the reference.
    """

    patient: Indices
    facts: Floats
    voxels: Indices
    shared: Indices
    hit: Bools
    true_voxels: Indices
    true_lesions: Indices

    @classmethod
    def join(cls, parts: Sequence["Found"]) -> "Found":
        """Put patients together."""
        before = np.cumsum([0, *(len(part.true_voxels) for part in parts)])
        rest = ("facts", "voxels", "shared", "hit", "true_voxels", "true_lesions")
        return Found(
            np.concatenate([part.patient + at for part, at in zip(parts, before, strict=False)]),
            *(np.concatenate([getattr(part, name) for part in parts]) for name in rest),
        )

    def take(self, patients: Indices) -> "Found":
        """Keep some patients, in ascending order."""
        at = np.isin(self.patient, patients)
        rows = (self.facts[at], self.voxels[at], self.shared[at], self.hit[at])
        moved = np.searchsorted(patients, self.patient[at])
        return Found(moved, *rows, self.true_voxels[patients], self.true_lesions[patients])

    def count(self, kept: Bools) -> Indices:
        """Count, where some lesions alone are kept, what metrics rest on: (n, 5).

        Shared voxels, voxels of both masks, hits, invented and missed lesions. No lesion takes a dropped one's place as
        a hit, so that hits may be too few by some.
        """
        shared, voxels, hits, lesions = (
            np.bincount(self.patient[kept], each[kept], len(self.true_voxels)).astype(int)
            for each in (self.shared, self.voxels, self.hit, np.ones_like(self.voxels))
        )
        return np.stack([shared, voxels + self.true_voxels, hits, lesions - hits, self.true_lesions - hits], axis=1)


def aggregated_dice(counts: Indices) -> float:
    """Score the overlap of patients' counts (n, 5), pooled."""
    return metrics.aggregated_dice([Overlap(*counts[:, :2].sum(axis=0).tolist())])


def aggregated_f1(counts: Indices) -> float:
    """Score the detection likewise."""
    return metrics.aggregated_f1([LesionCounts(*counts[:, 2:].sum(axis=0).tolist())])


def mean_dice(counts: Indices) -> float:
    """Average the patients' Dice, 1 where both masks are empty."""
    shared, total = counts[:, :2].T
    return float(np.where(total > 0, 2 * shared / np.maximum(total, 1), 1.0).mean())


Metric = Callable[[Indices], float]
METRICS: Mapping[Label, Mapping[str, Metric]] = {
    Label.GTVN: {"aggregated Dice": aggregated_dice, "F1": aggregated_f1, "mean Dice": mean_dice},
    Label.GTVP: {"mean Dice": mean_dice},
}
"""What the editions of the challenge score."""


@dataclass(frozen=True)
class _OutOfFold:
    workspace: Workspace

    def __call__(self, patient_id: str) -> dict[Label, Found]:
        workspace, prepared = self.workspace, self.workspace.store.load(patient_id)
        reference = workspace.store.reference(patient_id)
        assert reference is not None
        every = [workspace.probability(scheme, patient_id) for scheme in workspace.splits.schemes]
        return find(prepared, every, workspace.segmentation.thresholds, workspace.profile, reference)


@dataclass(frozen=True)
class _Answered:
    cohort: str
    weights: Path

    def __call__(self, patient_id: str) -> dict[Label, Found]:
        ensemble, device = load_ensemble(self.weights), default_device()
        profile, thresholds = ensemble.profile, ensemble.thresholds
        case = open_source(self.cohort, profile.clinical).read_case(patient_id)
        assert case.reference is not None
        assert thresholds is not None
        prepared, processor = prepare(case, profile.preprocess), Processor(device)
        networks = (member.network(Stage.SEGMENTATION) for member in ensemble.members)
        every = [predict_probability(prepared.images, each, profile.inference, processor) for each in networks]
        return find(prepared, every, thresholds, profile, case.reference.voxels)


def find(
    prepared: PreparedCase,
    probabilities: Sequence[NDArray[np.float32]],
    thresholds: Thresholds,
    profile: Profile,
    reference: NDArray[np.uint8],
) -> dict[Label, Found]:
    """Find the lesions of one patient as an answer would, and compare them with the reference.

    Args:
        prepared: The patch.
        probabilities: (2, z, y, x) on the patch, of each model.
        thresholds: The class thresholds.
        profile: The settings.
        reference: True label map on the CT's grid.
    """
    mean: NDArray[np.float32] = np.mean(probabilities, axis=0, dtype=np.float32)
    roi = prepared.roi
    mask = restore(mean, roi, prepared.ct_grid, thresholds, profile.inference.minimum_component_voxels)
    masks = MemberMasks(np.stack([compose(each, thresholds) for each in probabilities]), roi)
    ct, pet = prepared.images
    low, high = profile.preprocess.ct_range_hu
    case = Case(prepared.patient_id, Image((ct + 1) / 2 * (high - low) + low, roi), Image(pet, roi), ClinicalRecord())
    lesions, edges_mm = find_lesions(case, mask, masks), np.array(extent_mm(roi))
    facts: dict[Label, list[Floats]] = {label: [] for label in LESIONS}
    voxels: dict[Label, list[Indices]] = {label: [] for label in LESIONS}
    for lesion, (label, part) in zip(lesions, components(mask), strict=True):
        places_mm = index_to_mm(part.grid, np.argwhere(part.voxels)[:, ::-1])
        of_class, at = mean[LESIONS.index(label)], mm_to_index(roi, places_mm).T[::-1]
        probability = map_coordinates(of_class, at, order=1, mode="nearest")
        facts[label].append(describe(lesion, lesions[0], probability, edges_mm))
        voxels[label].append(np.rint(mm_to_index(mask.grid, places_mm)).astype(int)[:, ::-1])
    return {label: compare(reference == label, voxels[label], facts[label]) for label in LESIONS}


def describe(lesion: Lesion, first: Lesion, probability: Floats, edges_mm: Floats) -> Floats:
    """Give the `FACTS` of a lesion.

    Args:
        lesion: The lesion.
        first: The patient's first one, which is the largest primary where there is a primary.
        probability: (v,) that of each of its voxels.
        edges_mm: Lower and upper edges of the patch (2, 3; x, y, z).
    """
    sides = {lesion.side, first.side}
    known = first.label is Label.GTVP and not sides & {None, Side.MIDLINE}
    return np.array(
        [
            math.log(lesion.volume_ml),
            probability.max(),
            probability.mean(),
            math.nan if lesion.found_by is None else lesion.found_by,
            lesion.uptake.suv_max if lesion.uptake else math.nan,
            lesion.uptake.suv_mean if lesion.uptake else math.nan,
            math.nan if lesion.from_primary_mm is None else lesion.from_primary_mm,
            np.abs(edges_mm - lesion.center_mm).min(),
            float(len(sides) == 1) if known else math.nan,
        ]
    )


def compare(reference: Bools, lesions: Sequence[Indices], facts: Sequence[Floats]) -> Found:
    """Compare the lesions of one class in one patient with the reference (z, y, x).

    Args:
        reference: True lesions.
        lesions: Voxels (v, 3; z, y, x) of each lesion found.
        facts: `FACTS` of each.
    """
    import cc3d

    labels = cc3d.connected_components(reference, connectivity=26)
    true = np.bincount(labels.ravel())[1:]
    shared = np.array([np.bincount(labels[tuple(each.T)], minlength=len(true) + 1)[1:] for each in lesions], int)
    shared, voxels = shared.reshape(len(lesions), len(true)), np.array([len(each) for each in lesions], int)
    hits = shared / np.maximum(voxels[:, None] + true - shared, 1) > HIT_IOU
    matched = maximum_bipartite_matching(sparse.csr_array(hits), "column") if hits.size else np.full(len(voxels), -1)
    return Found(
        np.zeros(len(lesions), int),
        np.array(facts, float).reshape(-1, len(FACTS)),
        voxels,
        shared.sum(axis=1),
        matched >= 0,
        np.array([true.sum()]),
        np.array([len(true)]),
    )


Score = Callable[[Found, Found], Floats]
"""Learns of the lesions of the first and scores those of the second, (c,): the lower, the likelier to be false."""


def by_fact(name: str) -> Score:
    """Score by one fact, with nothing to learn."""
    return lambda _, unseen: unseen.facts[:, FACTS.index(name)]


def by_model(target: Callable[[Found], Bools], facts: Sequence[str] = FACTS) -> Score:
    """Score by the probability of a target, by a logistic model on some facts."""
    columns = [FACTS.index(name) for name in facts]

    def score(seen: Found, unseen: Found) -> Floats:
        from sklearn.impute import SimpleImputer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        imputer = SimpleImputer(add_indicator=True, keep_empty_features=True)
        model = make_pipeline(imputer, StandardScaler(), LogisticRegression())
        return model.fit(seen.facts[:, columns], target(seen)).predict_proba(unseen.facts[:, columns])[:, 1]

    return score


def _is_hit(found: Found) -> Bools:
    return found.hit


def _overlaps(found: Found) -> Bools:
    return found.shared > 0


SCORES: Mapping[str, Score] = {
    "volume": by_fact("log_ml"),
    "highest probability": by_fact("highest_probability"),
    "logistic, hit": by_model(_is_hit),
    "logistic, overlap": by_model(_overlaps),
    "logistic, overlap, no model's view": by_model(_overlaps, [name for name in FACTS if name not in BY_MODELS]),
}


def cross_validate(found: Found, score: Score, aims: Sequence[Metric], seed: int = 0) -> Bools:
    """Tell which lesions are kept, (c,), those of each tenth of the patients by what the others teach."""
    kept = np.ones(len(found.patient), bool)
    for others, part in _parts(found, seed):
        kept[np.isin(found.patient, part)] = keep(found.take(others), found.take(part), score, aims, seed)
    return kept


def keep(seen: Found, unseen: Found, score: Score, aims: Sequence[Metric], seed: int = 0) -> Bools:
    """Tell which lesions of the second patients are kept, (c,), by score and threshold that the first ones teach."""
    inner = np.empty(len(seen.patient))
    for rest, part in _parts(seen, seed):
        inner[np.isin(seen.patient, part)] = score(seen.take(rest), seen.take(part))
    return score(seen, unseen) >= choose_threshold(seen, inner, aims)


def choose_threshold(found: Found, score: Floats, aims: Sequence[Metric]) -> float:
    """Choose the threshold below which dropping makes the mean of some metrics best; of equals that which drops least.

    Args:
        found: The lesions.
        score: (c,) score of each.
        aims: The metrics.
    """
    tried = [-math.inf, *np.quantile(score, SHARES_TRIED, method="higher").tolist()]
    reached = [np.mean([metric(found.count(score >= threshold)) for metric in aims]) for threshold in tried]
    return tried[int(np.argmax(reached))]


def _parts(found: Found, seed: int) -> list[tuple[Indices, Indices]]:
    from sklearn.model_selection import KFold

    return list(KFold(PARTS, shuffle=True, random_state=seed).split(found.true_voxels))


def is_largest(found: Found) -> Bools:
    """Tell which lesions are their patient's largest, (c,)."""
    most = np.zeros(len(found.true_voxels), int)
    np.maximum.at(most, found.patient, found.voxels)
    return found.voxels == most[found.patient]


def tabulate(label: Label, found: Found, kept: Mapping[str, Bools]) -> Table:
    """Lay out what becomes of the metrics where some lesions alone are kept, with 95% paired bootstrap intervals."""
    patients, before = len(found.true_voxels), found.count(np.ones(len(found.patient), bool))
    lost, true = len(found.patient), int(found.true_lesions.sum())
    title = f"{label.name}: {lost} lesions in {patients} patients, {found.hit.sum()} of them hits of {true} true ones"
    table = Table(title=title, title_justify="left")
    table.add_column("lesions dropped by", overflow="fold")
    for heading in ("dropped", "hits among them", *METRICS[label]):
        table.add_column(heading, justify="right", overflow="fold")
    table.add_row("none", "0", "0", *(f"{metric(before):.3f}" for metric in METRICS[label].values()))
    for name, which in kept.items():
        after, cells = found.count(which), []
        for metric in METRICS[label].values():
            drawn = [metric(after[chosen]) - metric(before[chosen]) for chosen in resamples(patients, RESAMPLES)]
            change = with_interval(metric(after) - metric(before), interval(drawn), "+")
            cells.append(f"{metric(after):.3f}, {change}")
        table.add_row(name, str((~which).sum()), str((found.hit & ~which).sum()), *cells)
    return table


def main(
    run: RunFolder,
    fresh: Annotated[str | None, typer.Option(help="Unseen patients, for RUN/weights to answer.")] = None,
    workers: Workers = 0,
) -> None:
    """Drop lesions of the out-of-fold masks in RUN in several ways, and of fresh patients' answers, and compare."""
    workspace, engine, console = Workspace.open(run), Engine(workers), Console(width=180)
    seen = (workspace.cohort, *workspace.read(StartRecord).cohorts)
    if fresh and (shared := [cohort for cohort in seen if may_share_patients(cohort, fresh)]):
        raise ValueError(f"{fresh}: the models were trained on {shared[0]}")
    names = [p.patient_id for p in workspace.patients if workspace.store.describe(p.patient_id).has_labels]
    out_of_fold = engine.map("finding lesions", _OutOfFold(workspace), names, item_gib=IMAGES_GIB)
    answered: list[dict[Label, Found]] = []
    if fresh:
        source = open_source(fresh, workspace.profile.clinical)
        names = [p.patient_id for p in source.patients if source.has_mask(p.patient_id)]
        needed = predicting_gib(workspace.profile, IMAGES_GIB)
        answered = engine.map("answering", _Answered(fresh, run / "weights"), names, networks=True, item_gib=needed)
    for label, scored in METRICS.items():
        by_class, aims = Found.join([each[label] for each in out_of_fold]), list(scored.values())
        kept = {name: cross_validate(by_class, score, aims) for name, score in SCORES.items()}
        console.print(tabulate(label, by_class, kept | _without_learning(by_class)))
        if answered:
            new = Found.join([each[label] for each in answered])
            kept = {name: keep(by_class, new, score, aims) for name, score in SCORES.items()}
            console.print("fresh patients, all models:")
            console.print(tabulate(label, new, kept | _without_learning(new)))


def _without_learning(found: Found) -> dict[str, Bools]:
    return {"largest alone": is_largest(found), "hits alone": found.hit}


if __name__ == "__main__":
    run_program(main)
