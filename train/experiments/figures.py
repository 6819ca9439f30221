"""Pictures of a finished run, as one PNG: ROC, survival by risk, calibration, decision curves, Dice by volume.

All but the last are the plots of a cohort's page (`mmpl.cohort_page`), drawn for print.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmpl.cohort_page import Plot, Series, draw_calibration, draw_decisions, draw_kaplan_meier, draw_roc
from mmpl.cohort_scores import (
    RESAMPLES,
    Results,
    count_patients,
    decision_curves,
    foretell,
    intervals,
    score,
)
from mmpl.evaluate import Evaluation
from mmpl.files import write_whole
from mmpl.metrics import roc_auc
from mmpl.names import Label
from mmpl.surroundings import without_plot_backend
from mmpl.training.workspace import Workspace

with without_plot_backend():
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

ANSWER = "Deep+Rad+Clin"
"""The method that the ensemble answers by."""
ROC_TITLE = "HPV status: ROC of the methods"
DRAWN = ("hpv", "relapse_2_years")
"""Calibrated probabilities of which calibration and decision curve are drawn."""

_COLORS = {"first": "#c2410c", "second": "#1f6f9c", "third": "#2f8a12", "plain": "0.5"}
_INK, _GRAY = "#1d2733", "#5c6b7a"
_PLOT_INCHES, _DPI = (4.15, 3.75), 200  # two plots are as wide as a README, where a point is then a pixel and more


def draw(
    path: Path,
    methods: Mapping[str, Results],
    answers: Results,
    dice: tuple[NDArray, NDArray],
    count: int = RESAMPLES,
) -> None:
    """Draw all into one PNG; what is calibrated only where it is.

    Args:
        path: File to write.
        methods: Scores of HPV status by method.
        answers: What the ensemble says of patients it never saw, calibrated where there are enough of them.
        dice: Volume of each true primary, ml, and its Dice.
        count: Number of bootstrap resamples.
    """
    plots = make_plots(methods, answers, count)
    rows, (width, height) = math.ceil((len(plots) + 1) / 2), _PLOT_INCHES
    with matplotlib.rc_context({"font.size": 9, "text.color": _INK, "axes.labelcolor": _INK}):
        layout = ConstrainedLayoutEngine(h_pad=0.12)
        figure = Figure(figsize=(2 * width, rows * height), layout=layout, dpi=_DPI)
        panels = figure.subplots(rows, 2, squeeze=False).ravel()
        for axes, plot in zip(panels, plots, strict=False):
            draw_plot(axes, plot)
        draw_dice(panels[len(plots)], *dice)
        for axes in panels[: len(plots) + 1]:
            axes.spines[["top", "right"]].set_visible(False)
        for axes in panels[len(plots) + 1 :]:
            axes.remove()
        with write_whole(path) as partial:
            figure.savefig(partial, format="png")


def make_plots(methods: Mapping[str, Results], answers: Results, count: int = RESAMPLES) -> list[Plot]:
    """Make the plots of `draw` but that of Dice."""
    decisions = decision_curves(answers, count // 5)
    evaluation = Evaluation(score(answers), count_patients(answers), intervals(answers, count), {}, {}, decisions)
    plots = [join_rocs(methods), draw_kaplan_meier(answers)]
    for name, foretold in foretell(answers).items():
        if name in DRAWN:
            plots += [draw_calibration(name, foretold, evaluation), draw_decisions(name, decisions[name])]
    return [plot for plot in plots if plot]


def join_rocs(methods: Mapping[str, Results]) -> Plot | None:
    """Draw the ROC curves of several methods in one plot, each with its area; None where one status alone is known."""
    drawn: Plot | None = None
    for at, (name, results) in enumerate(methods.items()):
        if plot := draw_roc(results, count=1):
            area = roc_auc(results.hpv_probability, results.hpv_positive == 1)
            kind = "first" if name == ANSWER else f"C{at}"
            series = replace(plot.series[1], label=f"{name}, {area:.2f}", kind=kind)
            drawn = drawn or replace(
                plot, title=ROC_TITLE, note="Area under each curve beside it.", series=plot.series[:1]
            )
            drawn = replace(drawn, series=(*drawn.series, series))
    return drawn


def draw_plot(axes: Axes, plot: Plot) -> None:
    """Draw a plot of a cohort's page, with its note above and the numbers at risk below."""
    for each in plot.series:
        color = _COLORS.get(each.kind, each.kind)
        _draw_series(axes, each, color)
    axes.set_xticks(*zip(*plot.x_ticks, strict=True))
    axes.set_yticks(*zip(*plot.y_ticks, strict=True))
    axes.set(xlabel=plot.x_label, ylabel=plot.y_label, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.grid(axis="y", color="#e3e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, fontsize=8, loc="best")
    _title(axes, plot.title, plot.note)
    colors = {each.label: _COLORS.get(each.kind, each.kind) for each in plot.series}
    for row, (label, counts) in enumerate(plot.counts.items()):
        below, how = -0.22 - 0.08 * row, {"color": colors[label], "fontsize": 8}
        axes.text(-0.08, below, "at risk", how, ha="right", transform=axes.get_xaxis_transform())
        for (at, _), number in zip(plot.x_ticks, counts, strict=True):
            axes.text(at, below, str(number), how, ha="center", transform=axes.get_xaxis_transform())


def _draw_series(axes: Axes, series: Series, color: str) -> None:
    lines: Sequence[tuple[Sequence[tuple[float, float]], str, float]] = (
        (series.line, "--" if series.dashed or series.kind == "plain" else "-", 2.0 if series.kind == "first" else 1.4),
        (series.ticks, "|", 1.0),
        (series.dots, "o", 1.0),
    )
    label: str | None = series.label
    for points, style, width in lines:
        if points:
            axes.plot(*zip(*points, strict=True), style, color=color, linewidth=width, markersize=5, label=label)
            label = None
    for x, low, high in series.intervals:
        axes.plot((x, x), (low, high), color=color, linewidth=1.2)


def _title(axes: Axes, title: str, note: str) -> None:
    lines = textwrap.wrap(note, 62)
    axes.set_title(title, loc="left", fontsize=10.5, weight="bold", pad=6 + 11 * len(lines))
    axes.text(0, 1.02, "\n".join(lines), transform=axes.transAxes, fontsize=8, color=_GRAY, va="bottom")


def volumes_and_dice(
    workspace: Workspace, scores: Mapping[str, Sequence[float]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give the volume of every true primary, ml, and its GTVp Dice."""
    pairs = []
    for patient_id, (dice, *_) in scores.items():
        reference = workspace.store.reference(patient_id)
        assert reference is not None
        voxels = int(np.count_nonzero(reference == Label.GTVP))
        if voxels:
            pairs.append((voxels * workspace.store.describe(patient_id).ct_grid.voxel_ml, dice))
    volume, dice_of = np.array(pairs).reshape(-1, 2).T
    return volume, dice_of


def draw_dice(axes: Axes, volume_ml: NDArray, dice: NDArray, groups: int = 6) -> None:
    """Every primary, and the median Dice in groups of equal size."""
    axes.semilogx(volume_ml, dice, ".", color="0.6", markersize=3.5)
    for chosen in np.array_split(np.argsort(volume_ml), min(groups, len(volume_ml))):
        axes.plot(np.median(volume_ml[chosen]), np.median(dice[chosen]), "o", color=_COLORS["first"])
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel="volume of the primary, ml", ylabel="Dice", ylim=(-0.02, 1.02))
    axes.grid(axis="y", color="#e3e7eb", linewidth=0.8)
    _title(axes, "GTVp Dice by volume", f"{len(dice)} primaries; orange: medians of {groups} groups of equal size.")
