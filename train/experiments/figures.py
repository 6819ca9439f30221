"""Four pictures of a finished run: ROC, calibration, survival by risk third, Dice by lesion volume."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.metrics import roc_curve

from mmpl.cohort_scores import Results
from mmpl.metrics import roc_auc
from mmpl.names import Label
from mmpl.surroundings import without_plot_backend
from mmpl.training.workspace import Workspace

with without_plot_backend():
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

GRAY = "0.55"


def draw(path: Path, hpv: Mapping[str, Results], survival: Results, dice: tuple[NDArray, NDArray]) -> None:
    """Draw all four into one PNG.

    Args:
        path: File to write.
        hpv: Scores of HPV status by method.
        survival: Risk scores of the method to show.
        dice: Volume of each true primary, ml, and its Dice.
    """
    figure = Figure(figsize=(11, 9.5), layout="constrained", dpi=90)
    (a, b), (c, d) = figure.subplots(2, 2)
    draw_roc(a, hpv)
    draw_calibration(b, hpv["Deep+Rad+Clin"])
    draw_survival(c, survival)
    draw_dice(d, *dice)
    for axes in (a, b, c, d):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def draw_roc(axes: Axes, methods: Mapping[str, Results]) -> None:
    """One curve a method."""
    for name, results in methods.items():
        positive = results.hpv_positive == 1
        x, y, _ = roc_curve(positive, results.hpv_probability)
        area = roc_auc(results.hpv_probability, positive)
        axes.plot(x, y, label=f"{name}, {area:.2f}", lw=2 if name == "Deep+Rad+Clin" else 1.2)
    axes.plot([0, 1], [0, 1], color=GRAY, lw=0.8, ls="--")
    axes.set(title="HPV status: ROC, area", xlabel="1 - specificity", ylabel="sensitivity", aspect="equal")
    axes.legend(frameon=False, fontsize=8, loc="lower right")


def draw_calibration(axes: Axes, results: Results, groups: int = 6) -> None:
    """Observed share of HPV-positive against predicted probability, in groups of equal size, with 95% intervals."""
    order = np.argsort(results.hpv_probability)
    for chosen in np.array_split(order, groups):
        predicted = results.hpv_probability[chosen].mean()
        found = binomtest(int(results.hpv_positive[chosen].sum()), len(chosen))
        share, bounds = found.statistic, found.proportion_ci(method="wilson")
        apart = [[share - bounds.low], [bounds.high - share]]
        axes.errorbar(predicted, share, apart, fmt="o", color="C0", capsize=3)
    axes.plot([0, 1], [0, 1], color=GRAY, lw=0.8, ls="--")
    axes.set(
        title="HPV status: calibration (the forest is balanced by SMOTE)",
        xlabel="predicted probability",
        ylabel="observed share positive",
        xlim=(0, 1),
        ylim=(0, 1.02),
        aspect="equal",
    )


def draw_survival(axes: Axes, results: Results) -> None:
    """Kaplan-Meier curves of the thirds of the risk score, with the log-rank test."""
    from lifelines import KaplanMeierFitter
    from lifelines.statistics import multivariate_logrank_test

    third = np.searchsorted(np.quantile(results.risk, (1 / 3, 2 / 3)), results.risk)
    years = results.days / 365.25
    for index, (name, color) in enumerate((("low", "C0"), ("middle", GRAY), ("high", "C3"))):
        chosen = third == index
        fitted = KaplanMeierFitter().fit(years[chosen], results.relapse[chosen], label=f"{name}, {chosen.sum()}")
        fitted.plot_survival_function(ax=axes, color=color, ci_alpha=0.12)
    p = multivariate_logrank_test(years, third, results.relapse).p_value
    axes.set(
        title=f"Recurrence-free survival by risk third, log-rank p = {p:.1g}",
        xlabel="years",
        ylabel="recurrence-free",
        ylim=(0, 1.02),
    )
    axes.legend(frameon=False, fontsize=8, loc="lower left")


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
    axes.semilogx(volume_ml, dice, ".", color=GRAY, ms=3)
    for chosen in np.array_split(np.argsort(volume_ml), min(groups, len(volume_ml))):
        axes.plot(np.median(volume_ml[chosen]), np.median(dice[chosen]), "o", color="C3")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(title="GTVp Dice by volume, medians in red", xlabel="volume, ml", ylabel="Dice", ylim=(-0.02, 1))
