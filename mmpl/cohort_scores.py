"""A cohort's metrics from what each patient got right, with bootstrap intervals, by center, and in pairs.

Which patients each metric counts:
- masks: every patient with a reference mask; a missing prediction is an empty mask.
- `gtvp_dice_aggregated` (not official): the same patients.
- `gtvp_hd95_median_mm` (surface distance, not official): those of them with a GTVp in both masks.
- `c_index`: every patient with a released time and event; a missing risk is half right in each of its pairs.
- HPV: every patient with a released status; a missing decision is wrong, a missing probability half right.
- `hpv_balanced_accuracy_at_half` (not official): had a probability of one half been the threshold.
- `c_index_uncensored` and `oracle_c_index_uncensored` (synthetic cohorts only): every patient, against the true time to
  recurrence, whether or not it was released.
- `oracle_hpv_auc` and `oracle_hpv_balanced_accuracy`: the patients of the HPV metrics.
- calibration, Brier scores and the AUC of a day (`mmpl.reliability`): those of HPV and of the C-index that have the
  probability in question; they are there where any patient has a calibrated one.
- `gtvn_dice_mean`, `t_balanced_accuracy`, `n_balanced_accuracy` (HECKTOR 2026): the patients of the masks, two empty
  masks having a Dice of 1; those with a released stage but T0, a missing one being wrong. They are there where stages
  are asked for or answered.
- `edition_score`: what the challenge's edition makes of some of these.
- `hpv_set_...`: those of HPV that have a conformal set: the shares of positive and of negative patients who are not
  said to be the other, the share left undecided, and the share of wrong ones among the others.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmpl import metrics, reliability
from mmpl.names import DAYS_PER_YEAR, Label, Task, stage_name

Floats = NDArray[np.float64]

RESAMPLES = 1000
YEARS_SCORED = (2, 5)
"""Years after which probabilities of recurrence are scored."""
ACTED_ON_RELAPSE = (0.1, 0.2, 0.3, 0.4, 0.5)
"""Probabilities of recurrence from which somebody may want to act, for decision curves."""
ACTED_ON_HPV = (0.5, 0.6, 0.7, 0.8, 0.9)
"""Probabilities of HPV positivity likewise."""
OLDER = 60
"""Years from which a patient belongs to the older ones."""
VOLUMES_ML = (10, 30)
"""Volumes, ml, that part small, middle and large ones."""
FEW = 10
"""With fewer relapses, or patients of one HPV status, a group's figures say little."""
STAGES = {Task.T_STAGE: (1, 2, 3, 4), Task.N_STAGE: (0, 1, 2, 3)}
"""Stages that are told apart, in the AJCC's seventh edition; T0 is none of them."""
NOT_STAGED = "none"
"""Column of a confusion table: patients without an answer."""
_UNDECIDED = 0.5
SET_NUMBERS = {"positive": 1.0, "negative": 0.0, "undecided": _UNDECIDED}
"""Numbers that conformal sets have among `Results`."""
NOT_RESAMPLED = frozenset({"d_calibration_p"})
"""Metrics without an interval: a test's p is no estimate of anything."""
MASK_COLUMNS = (
    "gtvp_dice",
    "gtvp_hd95_mm",
    "gtvp_shared",
    "gtvp_total",
    "gtvn_shared",
    "gtvn_total",
    "gtvn_hits",
    "gtvn_invented",
    "gtvn_missed",
)
"""The columns of `Results` that `score_mask` gives of one patient."""


@dataclass(frozen=True)
class Results:
    """Answers and outcomes of n patients, an array (n,) each; NaN where a thing is missing or not known.

    Attributes:
        center: Center where each patient was seen.
        gtvp_dice: GTVp Dice; NaN without a reference mask, as for all of the masks' columns.
        gtvp_hd95_mm: GTVp surface distance, mm; NaN where either mask has no GTVp, too.
        gtvp_shared: GTVp voxels in both masks.
        gtvp_total: GTVp voxels of the one plus those of the other.
        gtvn_shared: GTVn voxels in both masks.
        gtvn_total: GTVn voxels of the one plus those of the other.
        gtvn_hits: GTVn lesions found, as are `gtvn_invented` and `gtvn_missed`.
        mask_predicted: Whether there was a mask.
        answered: Whether there was an answer at all.
        risk: Predicted risk; higher means earlier recurrence.
        days: Days to relapse or to the end of follow-up.
        relapse: Whether the relapse was seen, 1 or 0.
        hpv_probability: Predicted probability of being HPV-positive.
        hpv_decision: Predicted HPV status, 1 or 0.
        hpv_positive: True HPV status, 1 or 0.
        true_days: True time to relapse, never censored, as are the next two of a synthetic cohort alone.
        log_hazard: The oracle's risk.
        hpv_log_likelihood_ratio: The oracle's HPV score, positive means HPV-positive.
        hpv_calibrated: Calibrated probability of being HPV-positive.
        hpv_set: Conformal set, 1 positive, 0 negative, 0.5 undecided.
        no_recurrence: (n, 2) calibrated probability of no recurrence by the years of YEARS_SCORED.
        curve_days, curve: (n, T) days, the same for all, and the calibrated probability of no recurrence by each.
        male: Whether the patient is a man, 1 or 0.
        age: Years.
        fields_missing: Number of clinical fields that are blank.
        volume_ml: Predicted volume of GTVp and GTVn together.
        t_stage, n_stage: Predicted stages; None where none is asked for, as are the next two.
        true_t_stage, true_n_stage: Released stages, those of `STAGES` alone.
    """

    center: NDArray[np.str_]
    gtvp_dice: Floats
    gtvp_hd95_mm: Floats
    gtvp_shared: Floats
    gtvp_total: Floats
    gtvn_shared: Floats
    gtvn_total: Floats
    gtvn_hits: Floats
    gtvn_invented: Floats
    gtvn_missed: Floats
    mask_predicted: NDArray[np.bool_]
    answered: NDArray[np.bool_]
    risk: Floats
    days: Floats
    relapse: Floats
    hpv_probability: Floats
    hpv_decision: Floats
    hpv_positive: Floats
    true_days: Floats | None = None
    log_hazard: Floats | None = None
    hpv_log_likelihood_ratio: Floats | None = None
    hpv_calibrated: Floats | None = None
    hpv_set: Floats | None = None
    no_recurrence: Floats | None = None
    curve_days: Floats | None = None
    curve: Floats | None = None
    male: Floats | None = None
    age: Floats | None = None
    fields_missing: Floats | None = None
    volume_ml: Floats | None = None
    t_stage: Floats | None = None
    n_stage: Floats | None = None
    true_t_stage: Floats | None = None
    true_n_stage: Floats | None = None

    def __len__(self) -> int:
        return len(self.center)

    def take(self, chosen: NDArray) -> "Results":
        """Keep patients by index, perhaps some more than once, or by a mask."""
        columns: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        return Results(**{name: column[chosen] for name, column in columns.items() if column is not None})


@dataclass(frozen=True)
class Scores:
    """The metrics of a cohort; NaN where one is undefined, None where it does not apply."""

    gtvp_dice_mean: float
    gtvp_dice_aggregated: float
    gtvp_hd95_median_mm: float
    gtvn_dice_aggregated: float
    gtvn_f1_aggregated: float
    c_index: float
    hpv_balanced_accuracy: float
    hpv_auc: float
    hpv_balanced_accuracy_at_half: float
    c_index_uncensored: float | None = None
    oracle_c_index_uncensored: float | None = None
    oracle_hpv_balanced_accuracy: float | None = None
    oracle_hpv_auc: float | None = None
    hpv_brier: float | None = None
    hpv_brier_skill: float | None = None
    hpv_calibration_intercept: float | None = None
    hpv_calibration_slope: float | None = None
    hpv_set_covers_positive: float | None = None
    hpv_set_covers_negative: float | None = None
    hpv_set_undecided: float | None = None
    hpv_set_decided_wrong: float | None = None
    relapse_2_years_auc: float | None = None
    relapse_2_years_brier: float | None = None
    relapse_2_years_brier_skill: float | None = None
    relapse_2_years_calibration_intercept: float | None = None
    relapse_2_years_calibration_slope: float | None = None
    relapse_5_years_auc: float | None = None
    relapse_5_years_brier: float | None = None
    relapse_5_years_brier_skill: float | None = None
    relapse_5_years_calibration_intercept: float | None = None
    relapse_5_years_calibration_slope: float | None = None
    integrated_brier: float | None = None
    integrated_brier_skill: float | None = None
    d_calibration_p: float | None = None
    gtvn_dice_mean: float | None = None
    t_balanced_accuracy: float | None = None
    n_balanced_accuracy: float | None = None
    edition_score: float | None = None

    @property
    def by_name(self) -> dict[str, float]:
        """The metrics that apply."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Counts:
    """Numbers of patients, and of what was missing.

    Attributes:
        patients: Patients of the cohort.
        with_mask: Patients with a reference mask.
        with_rfs: Patients with a released time and event.
        events: Released relapses among those.
        hpv_positive: Released HPV-positive patients.
        hpv_negative: Released HPV-negative patients.
        missing_predictions: Patients without a row in the predictions.
        missing_masks: Patients with a reference mask but no predicted one.
        missing_risks: Patients with time and event but no predicted risk.
        missing_hpv: Patients with HPV status but no predicted one.
    """

    patients: int
    with_mask: int
    with_rfs: int
    events: int
    hpv_positive: int
    hpv_negative: int
    missing_predictions: int
    missing_masks: int
    missing_risks: int
    missing_hpv: int


class Interval(NamedTuple):
    """A 95% percentile interval of the bootstrap over patients; NaN where the metric is never defined."""

    low: float
    high: float


@dataclass(frozen=True)
class Group:
    """Scores, counts and intervals of some of the patients."""

    scores: Scores
    counts: Counts
    intervals: Mapping[str, Interval]

    @property
    def few_masks(self) -> bool:
        """Whether there are too few for what is said of their contours."""
        return self.counts.with_mask < FEW

    @property
    def few_relapses(self) -> bool:
        """Whether there are too few for what is said of their risks."""
        return min(self.counts.events, self.counts.with_rfs - self.counts.events) < FEW

    @property
    def few_of_one_status(self) -> bool:
        """Whether there are too few of one HPV status for what is said of their probabilities."""
        return min(self.counts.hpv_positive, self.counts.hpv_negative) < FEW


class Difference(NamedTuple):
    """One set of results less another on the same patients, with its paired interval."""

    value: float
    interval: Interval


def score_mask(reference: NDArray, found: NDArray, spacing_xyz: tuple[float, float, float]) -> tuple[float, ...]:
    """Compare two label maps (z, y, x) of one grid: one number for each of `MASK_COLUMNS`."""
    true_tumor, tumor = reference == Label.GTVP, found == Label.GTVP
    true_nodes, nodes = reference == Label.GTVN, found == Label.GTVN
    of_tumor, of_nodes = metrics.count_overlap(true_tumor, tumor), metrics.count_overlap(true_nodes, nodes)
    lesions = metrics.lesion_counts(true_nodes, nodes)
    return (
        metrics.dice(true_tumor, tumor),
        metrics.hausdorff95_mm(true_tumor, tumor, spacing_xyz[::-1]),
        of_tumor.intersection,
        of_tumor.total,
        of_nodes.intersection,
        of_nodes.total,
        lesions.true_positives,
        lesions.false_positives,
        lesions.false_negatives,
    )


def score(results: Results, shares: Mapping[str, float] | None = None) -> Scores:
    """Compute every metric.

    Args:
        results: Answers and outcomes.
        shares: Share of each metric in the edition's own score; None or none for no such score.
    """
    scores = _of_answers(results)
    if not shares:
        return scores
    values = scores.by_name
    return replace(scores, edition_score=sum(share * values.get(part, math.nan) for part, share in shares.items()))


def _of_answers(results: Results) -> Scores:
    masks = results.take(~np.isnan(results.gtvp_dice))
    rfs = results.take(~np.isnan(results.days))
    hpv = results.take(~np.isnan(results.hpv_positive))
    positive = hpv.hpv_positive == 1
    measured = masks.gtvp_hd95_mm[~np.isnan(masks.gtvp_hd95_mm)]
    of_tumors = metrics.Overlap(int(masks.gtvp_shared.sum()), int(masks.gtvp_total.sum()))
    of_nodes = metrics.Overlap(int(masks.gtvn_shared.sum()), int(masks.gtvn_total.sum()))
    lesions = metrics.LesionCounts(*(int(n.sum()) for n in (masks.gtvn_hits, masks.gtvn_invented, masks.gtvn_missed)))
    at_half = np.where(np.isnan(hpv.hpv_probability), np.nan, hpv.hpv_probability >= 0.5)
    scores = Scores(
        gtvp_dice_mean=float(masks.gtvp_dice.mean()) if len(masks) else math.nan,
        gtvp_dice_aggregated=metrics.aggregated_dice([of_tumors]),
        gtvp_hd95_median_mm=float(np.median(measured)) if len(measured) else math.nan,
        gtvn_dice_aggregated=metrics.aggregated_dice([of_nodes]),
        gtvn_f1_aggregated=metrics.aggregated_f1([lesions]),
        c_index=metrics.c_index(rfs.risk, rfs.days, rfs.relapse == 1),
        hpv_balanced_accuracy=metrics.balanced_accuracy(hpv.hpv_decision, positive),
        hpv_auc=metrics.roc_auc(hpv.hpv_probability, positive),
        hpv_balanced_accuracy_at_half=metrics.balanced_accuracy(at_half, positive),
    )
    scores = replace(scores, **_reliability(results), **_staging(results, masks))
    if results.true_days is None or results.log_hazard is None or hpv.hpv_log_likelihood_ratio is None:
        return scores
    relapsed = np.ones(len(results), bool)
    return replace(
        scores,
        c_index_uncensored=metrics.c_index(results.risk, results.true_days, relapsed),
        oracle_c_index_uncensored=metrics.c_index(results.log_hazard, results.true_days, relapsed),
        oracle_hpv_balanced_accuracy=metrics.balanced_accuracy(hpv.hpv_log_likelihood_ratio > 0, positive),
        oracle_hpv_auc=metrics.roc_auc(hpv.hpv_log_likelihood_ratio, positive),
    )


def _staging(results: Results, masks: Results) -> dict[str, float]:
    """Score the stages, and the nodes' masks as the edition that asks for stages does, where stages are asked for."""
    if results.true_t_stage is None:
        return {}
    total = masks.gtvn_total
    dice = np.where(total > 0, 2 * masks.gtvn_shared / np.maximum(total, 1), 1.0)
    found = {"gtvn_dice_mean": float(dice.mean()) if len(dice) else math.nan}
    for task, (answered, truth) in _stages(results).items():
        known = ~np.isnan(truth)
        found[f"{task.value[0]}_balanced_accuracy"] = metrics.mean_recall(answered[known], truth[known])
    return found


def _stages(results: Results) -> dict[Task, tuple[Floats, Floats]]:
    """Give answered and true stages, by task; nothing where they are not asked for."""
    columns = {
        Task.T_STAGE: (results.t_stage, results.true_t_stage),
        Task.N_STAGE: (results.n_stage, results.true_n_stage),
    }
    return {task: (one, other) for task, (one, other) in columns.items() if one is not None and other is not None}


Confusion = Mapping[str, Mapping[str, int]]
"""Numbers of patients by their true stage and, of each, by the answered one."""


def confusion_tables(results: Results) -> dict[str, Confusion]:
    """Count the patients of each true stage by what was answered, by task; nothing where stages are not asked for."""
    tables = dict[str, Confusion]()
    for task, (answered, truth) in _stages(results).items():
        names = {stage_name(task, stage): stage for stage in STAGES[task]}
        tables[task.value] = {
            row: {
                **{column: int(((truth == stage) & (answered == other)).sum()) for column, other in names.items()},
                NOT_STAGED: int(((truth == stage) & np.isnan(answered)).sum()),
            }
            for row, stage in names.items()
        }
    return tables


class Foretold(NamedTuple):
    """Calibrated probabilities of n patients, whether it happened, and the patients' weights."""

    probability: Floats
    happened: NDArray[np.bool_]
    weight: Floats


def foretell(results: Results) -> dict[str, Foretold]:
    """Put calibrated probabilities beside what is known, by what they are of; nothing where there are none."""
    found = dict[str, Foretold]()
    if results.hpv_calibrated is not None:
        told = ~np.isnan(results.hpv_calibrated) & ~np.isnan(results.hpv_positive)
        probability, positive = results.hpv_calibrated[told], results.hpv_positive[told] == 1
        found["hpv"] = Foretold(probability, positive, np.ones(len(probability)))
    if results.no_recurrence is not None:
        for years, left in zip(YEARS_SCORED, results.no_recurrence.T, strict=True):
            told = ~np.isnan(left) & ~np.isnan(results.days)
            days, relapse = results.days[told], results.relapse[told] == 1
            happened, weight = reliability.known_by(years * DAYS_PER_YEAR, days, relapse)
            found[f"relapse_{years}_years"] = Foretold(1 - left[told], happened, weight)
    return found


def _reliability(results: Results) -> dict[str, float]:
    """Score the calibrated probabilities, curves and sets, as far as there are any."""
    found = dict[str, float]()
    for name, foretold in foretell(results).items():
        found |= {f"{name}_{measured}": measure(*foretold) for measured, measure in _RELIABILITY.items()}
        if name != "hpv":
            found[f"{name}_auc"] = metrics.roc_auc(*foretold)
    if results.curve is not None and results.curve_days is not None:
        told = ~np.isnan(results.curve[:, 0]) & ~np.isnan(results.days)
        curve_days = results.curve_days[0] if len(results) else np.empty(0)
        curves = curve_days, results.curve[told], results.days[told], results.relapse[told] == 1
        found["integrated_brier"], found["integrated_brier_skill"] = reliability.integrated_brier(*curves)
        found["d_calibration_p"] = reliability.d_calibration(*curves)
    if results.hpv_set is not None:
        told = ~np.isnan(results.hpv_set) & ~np.isnan(results.hpv_positive)
        said, positive = results.hpv_set[told], results.hpv_positive[told] == 1
        wrong = np.where(positive, said == 0, said == 1)
        found["hpv_set_covers_positive"] = 1 - _share(wrong[positive])
        found["hpv_set_covers_negative"] = 1 - _share(wrong[~positive])
        found["hpv_set_undecided"] = _share(said == _UNDECIDED)
        found["hpv_set_decided_wrong"] = _share(wrong[said != _UNDECIDED])
    return found


def _share(chosen: NDArray[np.bool_]) -> float:
    return float(chosen.mean()) if len(chosen) else math.nan


_RELIABILITY = {
    "brier": reliability.brier,
    "brier_skill": reliability.brier_skill,
    "calibration_intercept": reliability.calibration_intercept,
    "calibration_slope": reliability.calibration_slope,
}


class DecisionPoint(NamedTuple):
    """A point of a decision curve: what comes of acting on the patients whose probability reaches a threshold.

    Attributes:
        net_benefit: As `mmpl.reliability.net_benefit`; acting on nobody has 0.
        acting_on_all: The same of acting on everybody.
        gain: `net_benefit` less the better of those two.
    """

    threshold: float
    net_benefit: float
    acting_on_all: float
    gain: float
    gain_interval: Interval


def decision_curves(results: Results, count: int = RESAMPLES) -> dict[str, list[DecisionPoint]]:
    """Draw the decision curve of each calibrated probability, with bootstrap intervals of so many resamples."""
    curves = {name: _acting(foretold, _acted_on(name)) for name, foretold in foretell(results).items()}
    drawn = [foretell(results.take(chosen)) for chosen in resamples(len(results), count)]
    found = dict[str, list[DecisionPoint]]()
    for name, points in curves.items():
        gains = [[gain for *_, gain in _acting(each[name], _acted_on(name))] for each in drawn]
        resampled = np.reshape(gains, (len(drawn), len(points)))
        found[name] = [DecisionPoint(*point, interval(resampled[:, at].tolist())) for at, point in enumerate(points)]
    return found


def _acted_on(name: str) -> tuple[float, ...]:
    return ACTED_ON_HPV if name == "hpv" else ACTED_ON_RELAPSE


def _acting(foretold: Foretold, thresholds: Sequence[float]) -> list[tuple[float, float, float, float]]:
    """Give each threshold, the net benefit there, that of acting on everybody, and the gain over the better default."""
    probability, happened, weight = foretold
    points = []
    for threshold in thresholds:
        ours = reliability.net_benefit(probability, happened, threshold, weight)
        everybody = reliability.net_benefit(np.ones_like(probability), happened, threshold, weight)
        points.append((threshold, ours, everybody, ours - max(everybody, 0.0)))
    return points


def count_patients(results: Results) -> Counts:
    """Count patients and what was missing."""
    with_mask, with_rfs = ~np.isnan(results.gtvp_dice), ~np.isnan(results.days)
    with_hpv = ~np.isnan(results.hpv_positive)
    sums = {
        "with_mask": with_mask,
        "with_rfs": with_rfs,
        "events": with_rfs & (results.relapse == 1),
        "hpv_positive": results.hpv_positive == 1,
        "hpv_negative": results.hpv_positive == 0,
        "missing_predictions": ~results.answered,
        "missing_masks": with_mask & ~results.mask_predicted,
        "missing_risks": with_rfs & np.isnan(results.risk),
        "missing_hpv": with_hpv & np.isnan(results.hpv_decision),
    }
    return Counts(patients=len(results), **{name: int(chosen.sum()) for name, chosen in sums.items()})


def by_center(results: Results) -> dict[str, Results]:
    """Split results by center, in the order of the centers' names."""
    return {str(center): results.take(results.center == center) for center in np.unique(results.center)}


def by_group(results: Results) -> dict[str, Results]:
    """Split results by sex, age, HPV status, predicted volume and blank fields; empty groups are left out."""
    groups = dict[str, NDArray[np.bool_]]()
    if results.male is not None:
        groups |= {"women": results.male == 0, "men": results.male == 1}
    if results.age is not None:
        groups |= {f"below {OLDER} years": results.age < OLDER, f"{OLDER} years and above": results.age >= OLDER}
    groups |= {
        "HPV-positive": results.hpv_positive == 1,
        "HPV-negative": results.hpv_positive == 0,
        "HPV not known": np.isnan(results.hpv_positive),
    }
    if results.volume_ml is not None:
        low, high = (0.0, *VOLUMES_ML), (*VOLUMES_ML, math.inf)
        names = (f"below {VOLUMES_ML[0]} ml", f"{VOLUMES_ML[0]} to {VOLUMES_ML[1]} ml", f"{VOLUMES_ML[1]} ml and above")
        volume = results.volume_ml
        groups |= {n: (volume >= a) & (volume < b) for n, a, b in zip(names, low, high, strict=True)}
    if results.fields_missing is not None:
        blank = results.fields_missing
        groups |= {
            "no blank field": blank == 0,
            "1 or 2 blank fields": (blank > 0) & (blank < 3),
            "3 or more blank fields": blank > 2,
        }
    return {name: results.take(chosen) for name, chosen in groups.items() if chosen.any()}


def score_groups(groups: Mapping[str, Results], count: int = RESAMPLES) -> dict[str, Group]:
    """Score every group, as `by_center` and `by_group` make them, with intervals of so many resamples."""
    return {name: Group(score(part), count_patients(part), intervals(part, count)) for name, part in groups.items()}


def intervals(
    results: Results, count: int = RESAMPLES, seed: int = 0, shares: Mapping[str, float] | None = None
) -> dict[str, Interval]:
    """Bound every metric that is defined by the bootstrap over patients, without resamples in which it is not."""
    drawn = [score(results.take(chosen), shares).by_name for chosen in resamples(len(results), count, seed)]
    values = score(results, shares).by_name
    return {
        name: interval([] if name in NOT_RESAMPLED or math.isnan(value) else [each[name] for each in drawn])
        for name, value in values.items()
    }


def differences(
    ours: Results,
    theirs: Results,
    count: int = RESAMPLES,
    seed: int = 0,
    shares: Mapping[str, float] | None = None,
) -> dict[str, Difference]:
    """Compare two sets of results of the same patients, in the same order, metric by metric: ours less theirs.

    Metrics that one of them lacks, as it was not calibrated, are left out. Those that count only patients who have an
    answer, as calibration does, count the patients who have both.
    """
    ours, theirs = _leave_out_unshared(ours, theirs), _leave_out_unshared(theirs, ours)

    def subtract(a: Mapping[str, float], b: Mapping[str, float]) -> dict[str, float]:
        return {name: a[name] - b[name] for name in a if name in b and name not in NOT_RESAMPLED}

    value = subtract(score(ours, shares).by_name, score(theirs, shares).by_name)
    drawn = [
        subtract(score(ours.take(chosen), shares).by_name, score(theirs.take(chosen), shares).by_name)
        for chosen in resamples(len(ours), count, seed)
    ]
    return {name: Difference(value[name], interval([each[name] for each in drawn])) for name in value}


def _leave_out_unshared(one: Results, other: Results) -> Results:
    """Blank what metrics leave out where it is blank, of the patients of whom the other results have it blank."""
    blanked = {}
    for name in ("gtvp_hd95_mm", "hpv_calibrated", "hpv_set", "no_recurrence", "curve"):
        ours, theirs = getattr(one, name), getattr(other, name)
        if ours is not None and theirs is not None:
            lacking = np.isnan(theirs[:, :1] if name == "curve" else theirs)  # whose days may be others
            blanked[name] = np.where(lacking, np.nan, ours)
    return replace(one, **blanked)


def interval(values: Sequence[float]) -> Interval:
    """Take the 2.5th and the 97.5th percentile of a statistic's resamples, without those where it is undefined."""
    known = [value for value in values if not math.isnan(value)]
    return Interval(*map(float, np.percentile(known, (2.5, 97.5)))) if known else Interval(math.nan, math.nan)


def resamples(patients: int, count: int, seed: int = 0) -> Iterator[NDArray[np.intp]]:
    """Draw patients with replacement, so many times over; the same seed draws the same ones."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield rng.integers(0, patients, patients)
