"""One HTML page a cohort: a table of its patients and, where outcomes are known, how good the answers are."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from itertools import count as count_from
from pathlib import Path
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from mmpl.case import InvalidInputError, Outcome
from mmpl.cohort_scores import (
    RESAMPLES,
    VOLUMES_ML,
    YEARS_SCORED,
    DecisionPoint,
    Foretold,
    Group,
    Interval,
    Results,
    foretell,
    interval,
    resamples,
)
from mmpl.evaluate import Evaluation, assess, collect
from mmpl.evidence import Floats
from mmpl.files import OverwriteError, refuse_inside, write_whole
from mmpl.findings import flag_in_words
from mmpl.io.challenge import read_edition
from mmpl.io.cohort import read_cohort
from mmpl.metrics import roc_auc
from mmpl.names import DAYS_PER_YEAR
from mmpl.page import is_page, render
from mmpl.report import YEARS, ReportedAnswer, read_report
from mmpl.survival import end_of_follow_up

COHORT_PAGE = "index.html"
"""The page's name; the first of `index-2.html`, `index-3.html` and so on where a patient's page has that name."""
SHOWN_BESIDE = (".html", ".png", ".json")
"""What a patient's name leads to: the first of these that is there."""

_TITLES = {
    "hpv": "HPV-positive",
    "relapse_2_years": "recurrence by 2 years",
    "relapse_5_years": "recurrence by 5 years",
}
_BINS = 5
_LEAST_ON_ALL = -0.2  # net benefit down to which acting on all is drawn
_SMALLEST_ML = 0.1  # where volumes of nothing are drawn
_GROUP_METRICS = {"gtvp_dice_mean": "GTVp Dice", "c_index": "C-index", "hpv_auc": "HPV AUC"}


@dataclass(frozen=True)
class Row:
    """One patient of the table."""

    answer: ReportedAnswer
    link: str
    flags: str
    outcome: Outcome


@dataclass(frozen=True)
class Series:
    """What is drawn of one thing: a line, dots with their intervals, or ticks; places in the plot, from 0 to 1.

    Attributes:
        kind: Its style: "first", "second", "third", or "plain" for what it is compared with.
        intervals: x, and low and high, of each dot that has one.
        dashed: Whether its line is dashed, as that of what is compared with always is.
    """

    label: str
    kind: str
    line: tuple[tuple[float, float], ...] = ()
    dots: tuple[tuple[float, float], ...] = ()
    ticks: tuple[tuple[float, float], ...] = ()
    intervals: tuple[tuple[float, float, float], ...] = ()
    dashed: bool = False


@dataclass(frozen=True)
class Plot:
    """A plot of some series.

    Attributes:
        x_ticks, y_ticks: Place, from 0 to 1, and label.
        note: What it says in numbers.
        counts: Rows of numbers below the x axis' ticks, by label, as those at risk.
    """

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    note: str = ""
    counts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Measured:
    """A figure of some patients with its interval, places from 0 to 1 as it is drawn; NaN where it is undefined."""

    value: float
    interval: Interval
    few: bool = False

    @property
    def known(self) -> bool:
        """Whether it can be drawn."""
        return not (math.isnan(self.value) or math.isnan(self.interval.low))


def write_cohort_page(answers: Path, cohort: Path | None = None, count: int = RESAMPLES) -> Path:
    """Write the page of the answers in a folder beside them, as `COHORT_PAGE`.

    Args:
        answers: A folder that `mmpl.predict` wrote.
        cohort: The cohort's folder, whose released outcomes the answers are compared with; None for none.
        count: Number of bootstrap resamples.

    Returns:
        The page.

    Raises:
        InvalidInputError: The folder has no answers, or the cohort cannot be read.
        OverwriteError: The answers lie in the cohort's folder, or another page has the name.
    """
    if cohort:
        refuse_inside(answers, cohort)
    reports = {path.stem: read_report(path) for path in sorted(answers.glob("[!.]*.json"))}
    found = [report for name, report in reports.items() if report and report.patient_id == name]
    if not found:
        raise InvalidInputError(f"{answers}: no answers, which `mmpl predict` writes")
    path = answers / _page_name(found)
    if path.exists() and not is_page(path):
        raise OverwriteError(f"{path}: is no page of answers, and would be lost; move it elsewhere")
    outcomes, plots, evaluation = dict[str, Outcome](), list[Plot](), None
    if cohort:
        outcomes = {patient.patient_id: patient.outcome for patient in read_cohort(cohort, images=False).patients}
        edition = read_edition()
        results = collect(answers, cohort, edition=edition)
        evaluation = assess(results, count, edition=edition)
        plots = draw_plots(results, evaluation, count)
    page = render(
        "cohort.html",
        scripts=("table.js",),
        weights=sorted({report.weights for report in found}),
        models=sorted({len(report.models) for report in found}),
        rows=[_row(answers, report, outcomes.get(report.patient_id, Outcome())) for report in found],
        years=[
            (at, year)
            for at, year in enumerate(YEARS)
            if year in YEARS_SCORED and any(report.no_recurrence[at] is not None for report in found)
        ],
        calibrated=any(report.hpv_calibrated is not None for report in found),
        known=any(report.hpv_known is not None for report in found),
        staged=any(report.t_stage or report.n_stage for report in found),
        outcomes=cohort is not None,
        evaluation=evaluation,
        metrics=_metrics(evaluation) if evaluation else {},
        groups=_groups(evaluation) if evaluation else {},
        group_metrics=_GROUP_METRICS,
        plots=plots,
        days_per_year=DAYS_PER_YEAR,
    )
    with write_whole(path) as partial:
        partial.write_text(page, encoding="utf-8")
    return path


def _page_name(reports: Sequence[ReportedAnswer]) -> str:
    taken = {f"{report.patient_id}.html".casefold() for report in reports}
    names = chain([COHORT_PAGE], (f"index-{number}.html" for number in count_from(2)))
    return next(name for name in names if name not in taken)


def _row(answers: Path, report: ReportedAnswer, outcome: Outcome) -> Row:
    names = [f"{report.patient_id}{ending}" for ending in SHOWN_BESIDE]
    link = next(name for name in names if (answers / name).is_file())
    answers_outcomes = not (report.hpv_probability is None and report.risk_score is None)
    flags = [words for flag in report.flags if (words := flag_in_words(flag, answers_outcomes))]
    return Row(report, quote(link), " ".join(flags), outcome)


def _metrics(evaluation: Evaluation) -> dict[str, Measured]:
    return {
        name: Measured(value, evaluation.intervals[name])
        for name, value in evaluation.scores.by_name.items()
        if not math.isnan(value)
    }


def _groups(evaluation: Evaluation) -> dict[str, tuple[Group, dict[str, Measured]]]:
    few = {"gtvp_dice_mean": "few_masks", "c_index": "few_relapses", "hpv_auc": "few_of_one_status"}
    return {
        name: (
            group,
            {
                metric: Measured(
                    group.scores.by_name[metric],
                    group.intervals[metric],
                    getattr(group, few[metric]),
                )
                for metric in _GROUP_METRICS
            },
        )
        for name, group in evaluation.every_group.items()
    }


def draw_plots(results: Results, evaluation: Evaluation, count: int = RESAMPLES) -> list[Plot]:
    """Draw what there is to draw of a cohort's results."""
    plots = [draw_kaplan_meier(results), draw_roc(results, count)]
    foretold = foretell(results)
    plots += [draw_calibration(name, each, evaluation) for name, each in foretold.items()]
    plots += [draw_decisions(name, points) for name, points in evaluation.decisions.items()]
    plots.append(draw_dice(results))
    return [plot for plot in plots if plot]


def draw_kaplan_meier(results: Results) -> Plot | None:
    """Draw the share without recurrence over the years, of those above the median risk and of the others.

    Beside it stands the mean of their calibrated curves, where there are any, as far as those go.

    It ends where a tenth of the patients is still followed; beyond, steps are those of a few. None of fewer than two
    patients in a group, without a recurrence, or where so few are followed beyond day 0.
    """
    known = results.take(~np.isnan(results.days) & ~np.isnan(results.risk))
    relapse = known.relapse == 1
    high = known.risk > np.median(known.risk) if len(known) else np.zeros(0, bool)
    if min(high.sum(), (~high).sum()) < 2 or not relapse.any():
        return None
    end = end_of_follow_up(known.days)
    if not end:
        return None
    years = range(int(end / DAYS_PER_YEAR) + 1)
    groups = ("lower risk", "second", ~high), ("higher risk", "first", high)
    series, counts, samples = [], {}, []
    for label, kind, chosen in groups:
        days, seen = known.days[chosen], relapse[chosen]
        sample = stats.CensoredData.right_censored(days, ~seen)
        curve = stats.ecdf(sample).sf
        times = [0.0, *(float(day) for day in curve.quantiles if day <= end), end]
        shares = [1.0, *np.atleast_1d(curve.evaluate(times[1:])).tolist()]
        steps = [(times[0] / end, shares[0])]
        for before, at, share in zip(shares, times[1:], shares[1:], strict=False):
            steps += [(at / end, before), (at / end, share)]
        censored = days[~seen & (days <= end)]
        ticks = zip((censored / end).tolist(), np.atleast_1d(curve.evaluate(censored)).tolist(), strict=True)
        series.append(Series(label, kind, line=tuple(steps), ticks=tuple(ticks)))
        counts[label] = tuple(int((days >= year * DAYS_PER_YEAR).sum()) for year in years)
        samples.append(sample)
    if known.curve is not None and known.curve_days is not None and not np.isnan(known.curve).any():
        days = known.curve_days[0][known.curve_days[0] <= end]
        for label, kind, chosen in groups:
            said = known.curve[chosen, : len(days)].mean(axis=0)
            line = tuple(zip((days / end).tolist(), said.tolist(), strict=True))
            series.append(Series(f"{label}, as said", kind, line=line, dashed=True))
    with np.errstate(invalid="ignore"):
        p = float(stats.logrank(*samples).pvalue)
    tested = f"log-rank p {'below 0.001' if p < 0.001 else f'= {p:.3f}'}"
    if math.isnan(p):
        tested = "no log-rank test, as no relapse came while both were followed"
    return Plot(
        "No recurrence, by risk",
        "years from treatment",
        "share without recurrence",
        tuple(series),
        tuple((year * DAYS_PER_YEAR / end, str(year)) for year in years),
        _shares(),
        f"Parted at the patients' median risk; {tested}.",
        counts,
    )


def draw_roc(results: Results, count: int = RESAMPLES) -> Plot | None:
    """Draw the ROC curve of the HPV score, of the patients who have one; None where one status alone is known.

    The score's AUC, which counts a missing one as half right, differs where some are missing.
    """
    known = results.take(~np.isnan(results.hpv_positive) & ~np.isnan(results.hpv_probability))
    positive = known.hpv_positive == 1
    if positive.all() or not positive.any():
        return None
    order = np.argsort(-known.hpv_probability)
    last = np.append(np.diff(known.hpv_probability[order]) != 0, True)  # of equal scores, all or none
    hits, alarms = (
        np.cumsum(positive[order])[last] / positive.sum(),
        np.cumsum(~positive[order])[last] / (~positive).sum(),
    )
    line = ((0.0, 0.0), *zip(alarms.tolist(), hits.tolist(), strict=True))
    auc = roc_auc(known.hpv_probability, positive)
    drawn = [roc_auc(known.hpv_probability[some], positive[some]) for some in resamples(len(known), count)]
    bounds = interval(drawn)
    return Plot(
        "HPV score: ROC",
        "1 - specificity",
        "sensitivity",
        (Series("chance", "plain", line=((0, 0), (1, 1))), Series("HPV score", "first", line=line)),
        _shares(),
        _shares(),
        f"AUC {auc:.2f} ({bounds.low:.2f} to {bounds.high:.2f}) of {len(known)} patients.",
    )


def draw_calibration(name: str, foretold: Foretold, evaluation: Evaluation) -> Plot | None:
    """Draw how often it happened against how often it was said, in fifths of the patients, with Wilson intervals."""
    used = foretold.weight > 0
    probability, happened, weight = foretold.probability[used], foretold.happened[used], foretold.weight[used]
    if len(probability) < 2 * _BINS:
        return None
    dots, bounds = [], []
    for part in np.array_split(np.argsort(probability), _BINS):
        said = float(np.average(probability[part], weights=weight[part]))
        share = float(np.average(happened[part], weights=weight[part]))
        low, high = _wilson(share, float(weight[part].sum() ** 2 / (weight[part] ** 2).sum()))
        dots.append((said, share))
        bounds.append((said, low, high))
    scores, ranges = evaluation.scores.by_name, evaluation.intervals
    told = [
        f"{words} {scores[key]:.2f} ({ranges[key].low:.2f} to {ranges[key].high:.2f})"
        for words in ("intercept", "slope")
        if not math.isnan(scores.get(key := f"{name}_calibration_{words}", math.nan))
    ]
    return Plot(
        f"Calibration: {_TITLES[name]}",
        "probability said",
        "share in which it was so",
        (
            Series("ideal", "plain", line=((0, 0), (1, 1))),
            Series("fifths of the patients", "first", dots=tuple(dots), intervals=tuple(bounds)),
        ),
        _shares(),
        _shares(),
        f"Calibration {', '.join(told)}; 0 and 1 are ideal." if told else "",
    )


def _wilson(share: float, count: float) -> tuple[float, float]:
    """Bound a share of so many patients, 95% (Wilson, 1927)."""
    z = float(stats.norm.ppf(0.975))
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return middle - half, middle + half


def draw_decisions(name: str, points: Sequence[DecisionPoint]) -> Plot | None:
    """Draw a decision curve: what acting on the probability brings, beside acting on all and on nobody."""
    known = [point for point in points if not math.isnan(point.net_benefit)]
    if not known:
        return None
    on_all = [point.acting_on_all for point in known]
    ours = [0.0, *(point.net_benefit for point in known)]
    low, high = min(*ours, max(min(on_all), _LEAST_ON_ALL)) - 0.02, max(*ours, *on_all) + 0.02

    def place(value: float) -> float:
        return (value - low) / (high - low)

    def line(kind: str) -> tuple[tuple[float, float], ...]:
        """Draw down to the plot's lower edge, below which acting on all may lie."""
        values = [(point.threshold, getattr(point, kind)) for point in known]
        drawn = [(threshold, place(value)) for threshold, value in values if value >= low]
        if drawn and len(drawn) < len(values):
            (x, y), (x_below, y_below) = values[len(drawn) - 1], values[len(drawn)]
            drawn.append((x + (x_below - x) * (y - low) / (y - y_below), 0.0))
        return tuple(drawn)

    step = next(step for step in (0.1, 0.2, 0.5, 1.0, 2.0) if high - low < 6 * step)  # at 0.9 nobody loses over 9
    ticks = [n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return Plot(
        f"Decision curve: {_TITLES[name]}",
        "probability from which one acts",
        "net benefit",
        (
            Series("acting on nobody", "plain", line=((known[0].threshold, place(0)), (known[-1].threshold, place(0)))),
            *([Series("acting on all", "second", line=on_all_line)] if (on_all_line := line("acting_on_all")) else []),
            Series("acting on the probability", "first", line=line("net_benefit"), dots=line("net_benefit")),
        ),
        _shares(),
        tuple((place(value), f"{value:.1f}") for value in ticks),
        "Where it lies above both others, acting on the probability brings more; `mmpl evaluate` gives intervals.",
    )


def draw_dice(results: Results) -> Plot | None:
    """Draw the GTVp Dice of each answered patient against the volume found, with the medians of three sizes."""
    known = results.take(~np.isnan(results.gtvp_dice) & results.mask_predicted)
    if known.volume_ml is None or not len(known):
        return None
    volume = np.nan_to_num(known.volume_ml)
    shown = np.maximum(volume, _SMALLEST_ML)
    top = float(max(100.0, shown.max()))

    def place(ml: Floats) -> Floats:
        return np.log(ml / _SMALLEST_ML) / math.log(top / _SMALLEST_ML)

    edges = (0.0, *VOLUMES_ML, math.inf)
    parts = [(volume >= low) & (volume < high) for low, high in pairwise(edges)]
    medians = [f"{np.median(known.gtvp_dice[part]):.2f} ({part.sum()})" if part.any() else "none" for part in parts]
    small, large = VOLUMES_ML
    return Plot(
        "GTVp Dice by volume",
        "GTVp and GTVn found, ml",
        "Dice",
        (Series("a patient", "first", dots=tuple(zip(place(shown).tolist(), known.gtvp_dice.tolist(), strict=True))),),
        tuple((float(place(np.array(ml))), f"{ml:g}") for ml in (0.1, 1, 10, 100)),
        _shares(),
        f"Median below {small} ml {medians[0]}, to {large} ml {medians[1]}, above {medians[2]} (patients).",
    )


def _shares() -> tuple[tuple[float, str], ...]:
    places: NDArray[np.float64] = np.linspace(0, 1, 5)
    return tuple((float(at), f"{at:g}") for at in places)
