"""One picture a person can read: what was found in a patient, and how sure the ten models are.

Everything is drawn on axis-aligned planes in patient space (LPS), resampled there, so that left is left whatever the
file's direction cosines say: axial seen from the feet, coronal from the front, sagittal from the patient's left.
"""

import math
import textwrap
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmpl.case import Case, Grid, Image
from mmpl.files import write_whole
from mmpl.geometry import Interpolation, extent_mm, index_to_mm, resample
from mmpl.lesions import components
from mmpl.names import CLASS_NAMES, DAYS_PER_YEAR, LESIONS, Label, status_name
from mmpl.segmentation import Segmentation
from mmpl.surroundings import without_plot_backend

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mmpl.hpv import HpvResult
    from mmpl.pipeline import PatientResult
    from mmpl.survival import SurvivalResult

COLORS = {Label.GTVP: "#00d5ff", Label.GTVN: "#7dff4a"}
SMALL_PRINT = (
    "Research software, not for clinical use. CT window -160 to 240 HU, {pet}; contours: {whose} mask. Orange: "
    "the ensemble; gray: its models."
)

FIELD_MM, SMALL_FIELD_MM = 220.0, 90.0
"""Width of a plane, and of the small ones of the lesions that have no row of their own."""
_PIXEL_MM = 1.0
_PLANES_INCHES, _SMALL_INCHES, _SMALL_IN_A_ROW = 3.75, 1.85, 6
CT_WINDOW_HU = (-160.0, 240.0)
CT_OUTSIDE_HU = -1024.0
_SUV_TOP = 10.0  # the same for every patient, so that two pictures compare
_OTHER_TOP_QUANTILE = 0.999  # of a PET in other units
SHOWN_FROM = 0.15  # of the top
_PET_OPACITY = 0.6
_INK, _GREY, _ACCENT = "#1d2733", "#7a8794", "#c2410c"

_DRAWING = threading.Lock()  # matplotlib is not made for several threads


@dataclass(frozen=True)
class Plane:
    """One way of cutting a patient; axes are 0, 1, 2 for x (to the left), y (to the back), z (to the head).

    Attributes:
        normal: Axis the plane is perpendicular to.
        across: Axis that runs to the right of the picture.
        up: Axis that runs along the picture's vertical.
        edges: Letters at the left, right, bottom and top.
        flipped: Whether the vertical axis runs downwards.
    """

    name: str
    normal: int
    across: int
    up: int
    edges: tuple[str, str, str, str]
    flipped: bool = False


@dataclass(frozen=True)
class PetScale:
    """The scale of the PET's colors, from 0 to `top`, with the bar's label and the sentence below the picture."""

    in_suv: bool
    top: float
    label: str
    words: str

    @classmethod
    def of(cls, case: Case) -> "PetScale":
        if case.pet_is_suv:
            return cls(True, _SUV_TOP, "PET (SUV)", f"PET from SUV {SHOWN_FROM * _SUV_TOP:g}")
        top = float(np.quantile(case.pet.voxels, _OTHER_TOP_QUANTILE))
        return cls(
            False, top if top > 0 else 1.0, "PET (not in SUV)", f"PET not in SUV, from {SHOWN_FROM:.0%} of the scale"
        )


Lesion = tuple[Label, Image]
"""A lesion as `mmpl.lesions.components` cuts it."""

PLANES = (
    Plane("Axial", 2, 0, 1, ("R", "L", "P", "A"), flipped=True),
    Plane("Coronal", 1, 0, 2, ("R", "L", "I", "S")),
    Plane("Sagittal", 0, 1, 2, ("A", "P", "I", "S")),
)


def draw(
    case: Case,
    result: "PatientResult",
    path: Path,
    hpv_threshold: float | None = None,
) -> None:
    """Write the picture of one patient as PNG.

    Args:
        case: The images.
        result: The ensemble's answers; its mask lies on the CT's grid.
        path: File to write, which is whole or absent.
        hpv_threshold: The decision threshold on the HPV probability, drawn where given.
    """
    with without_plot_backend():
        import matplotlib
    with _DRAWING, matplotlib.rc_context(matplotlib.rcParamsDefault):  # not those of the user's matplotlibrc
        _draw(case, result, path, hpv_threshold)


def draw_stills(case: Case, segmentation: Segmentation) -> bytes:
    """Draw the planes through the lesions alone, as JPEG."""
    with without_plot_backend():
        import matplotlib
    with _DRAWING, matplotlib.rc_context(matplotlib.rcParamsDefault):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        lesions = components(segmentation.mask)
        height = _lesions_inches(lesions) + 0.38
        figure = Figure(figsize=(11.5, height), facecolor="white", dpi=90)
        FigureCanvasAgg(figure)
        _draw_lesions(figure, case, segmentation, lesions, bottom=0.08, top=height - 0.3)
        file = BytesIO()
        figure.savefig(file, format="jpeg", pil_kwargs={"quality": 85})
        return file.getvalue()


def _draw(case: Case, result: "PatientResult", path: Path, hpv_threshold: float | None) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lesions = components(result.segmentation.mask)
    height = _lesions_inches(lesions) + 4.25
    figure = Figure(figsize=(11.5, height), facecolor="white", dpi=110)
    FigureCanvasAgg(figure)
    _draw_lesions(figure, case, result.segmentation, lesions, bottom=3.6, top=height - 0.62)
    panels = figure.add_gridspec(
        1, 3, left=0.04, right=0.965, top=3.05 / height, bottom=0.85 / height, wspace=0.24, width_ratios=(1.15, 1, 1)
    )
    _write_summary(figure.add_subplot(panels[0]), result, hpv_threshold)
    if result.hpv:
        _draw_hpv(figure.add_subplot(panels[1]), result.hpv, hpv_threshold)
    if result.survival:
        _draw_survival(figure.add_subplot(panels[2]), result.survival)
    large = {"fontsize": 14, "weight": "bold", "color": _INK, "parse_math": False}
    figure.text(0.04, 1 - 0.3 / height, f"Patient {result.patient_id}", large)
    whose = "a person's" if result.segmentation.replaced else "the ensemble's"
    small = SMALL_PRINT.format(pet=PetScale.of(case).words, whose=whose)
    figure.text(0.04, 0.16 / height, small, fontsize=8, color=_GREY)

    with write_whole(path) as partial:
        figure.savefig(partial, format="png")


def _split(lesions: list[Lesion]) -> tuple[list[tuple[int, Lesion]], list[tuple[int, Lesion]]]:
    """Part lesions, numbered from 1, into the largest of each class and the others."""
    numbered = list(enumerate(lesions, 1))
    first = {label: number for number, (label, _) in reversed(numbered)}
    rows = [each for each in numbered if each[0] in first.values()]
    return rows, [each for each in numbered if each not in rows]


def _lesions_inches(lesions: list[Lesion]) -> float:
    rows, others = _split(lesions)
    return _PLANES_INCHES * max(1, len(rows)) + _SMALL_INCHES * math.ceil(len(others) / _SMALL_IN_A_ROW)


def _draw_lesions(
    figure: "Figure", case: Case, segmentation: Segmentation, lesions: list[Lesion], bottom: float, top: float
) -> None:
    """Draw three planes through the largest lesion of each class and a small one through every other, in inches.

    Without a lesion they go through the middle of the patch that was searched.
    """
    mask = segmentation.mask
    height = float(figure.get_figheight())
    rows, others = _split(lesions)
    pet_scale = PetScale.of(case)
    classes = {label: Image(mask.voxels == label, mask.grid) for label in LESIONS}
    shown = [(f"{number} {CLASS_NAMES[label]}", COLORS[label], center_mm(lesion)) for number, (label, lesion) in rows]
    if not shown:
        shown = [("No lesion found", "white", np.mean(extent_mm(segmentation.roi or mask.grid), axis=0))]
    small = _SMALL_INCHES * math.ceil(len(others) / _SMALL_IN_A_ROW)
    place = {"left": 0.02, "right": 0.935, "top": top / height, "bottom": (bottom + small) / height}
    layout = figure.add_gridspec(len(shown), 3, hspace=0.04, wspace=0.03, **place)
    for row, (title, color, center) in enumerate(shown):
        for column, plane in enumerate(PLANES):
            axes = figure.add_subplot(layout[row, column])
            _draw_plane(axes, plane, case, pet_scale, classes, center)
            if row == 0:
                axes.set_title(plane.name, fontsize=11, color=_INK)
            if column == 0:
                _write_on(axes, 0.03, 0.03, title, color=color, fontsize=10.5, weight="bold")
    _draw_pet_bar(figure, pet_scale, bottom=(bottom + small) / height, top=top / height)
    if not others:
        return
    place = {"left": 0.02, "right": 0.935, "top": (bottom + small - 0.05) / height, "bottom": bottom / height}
    layout = figure.add_gridspec(
        math.ceil(len(others) / _SMALL_IN_A_ROW), _SMALL_IN_A_ROW, hspace=0.04, wspace=0.03, **place
    )
    for at, (number, (label, lesion)) in enumerate(others):
        axes = figure.add_subplot(layout[at])
        _draw_plane(axes, PLANES[0], case, pet_scale, classes, center_mm(lesion), SMALL_FIELD_MM)
        _write_on(axes, 0.05, 0.05, f"{number} {CLASS_NAMES[label]}", color=COLORS[label], fontsize=9, weight="bold")


def center_mm(lesion: Image) -> NDArray[np.float64]:
    """Find the voxel of a lesion that is nearest to its centroid: x, y, z in mm."""
    voxels = np.argwhere(lesion.voxels)
    nearest = voxels[((voxels - voxels.mean(axis=0)) ** 2).sum(axis=1).argmin()]
    return index_to_mm(lesion.grid, nearest[::-1])


def plane_grid(plane: Plane, center: NDArray[np.float64], field_mm: float = FIELD_MM) -> Grid:
    """Make the one-voxel-thick grid of a plane through a point, mm."""
    count = round(field_mm / _PIXEL_MM)
    size, origin = [count] * 3, center - (count - 1) / 2 * _PIXEL_MM
    size[plane.normal], origin[plane.normal] = 1, center[plane.normal]
    return Grid(tuple(size), (_PIXEL_MM,) * 3, tuple(float(v) for v in origin))  # type: ignore[arg-type]


def cut(
    image: Image, plane: Plane, center: NDArray[np.float64], fill: float, field_mm: float = FIELD_MM
) -> NDArray[np.float32]:
    """Sample an image on a plane through a point; rows run along `plane.up`, columns along `plane.across`."""
    volume = resample(image, plane_grid(plane, center, field_mm), Interpolation.LINEAR, fill)
    return volume.squeeze(axis=2 - plane.normal)


def _draw_plane(
    axes: "Axes",
    plane: Plane,
    case: Case,
    pet_scale: PetScale,
    lesions: dict[Label, Image],
    center: NDArray[np.float64],
    field_mm: float = FIELD_MM,
) -> None:
    from matplotlib import colormaps, patheffects

    half, small = field_mm / 2, field_mm < FIELD_MM
    extent = (-half, half, half, -half) if plane.flipped else (-half, half, -half, half)
    place: dict[str, Any] = {"origin": "upper" if plane.flipped else "lower", "extent": extent}
    ct = cut(case.ct, plane, center, CT_OUTSIDE_HU, field_mm)
    axes.imshow(ct, cmap="gray", vmin=CT_WINDOW_HU[0], vmax=CT_WINDOW_HU[1], interpolation="bilinear", **place)
    shown = np.clip(cut(case.pet, plane, center, 0.0, field_mm) / pet_scale.top, 0.0, 1.0)
    overlay = colormaps["hot"](shown)
    overlay[..., 3] = _PET_OPACITY * np.clip((shown - SHOWN_FROM) / (1.5 * SHOWN_FROM), 0.0, 1.0)
    axes.imshow(overlay, interpolation="bilinear", **place)
    millimeters = (np.arange(len(ct)) - (len(ct) - 1) / 2) * _PIXEL_MM
    for label, lesion in lesions.items():
        inside = cut(lesion, plane, center, 0.0, field_mm)
        if inside.max() > 0.5 > inside.min():
            outline = axes.contour(millimeters, millimeters, inside, levels=[0.5], colors=COLORS[label], linewidths=1.4)
            outline.set_path_effects([patheffects.withStroke(linewidth=2.6, foreground="black", alpha=0.6)])
    if not small:
        for start, stop in ((13 - half, 33 - half), (half - 33, half - 13)):
            axes.plot([start, stop], [0, 0], color="white", alpha=0.55, linewidth=0.8)
            axes.plot([0, 0], [start, stop], color="white", alpha=0.55, linewidth=0.8)
    for letter, x, y in zip(plane.edges, (0.02, 0.98, 0.5, 0.5), (0.5, 0.5, 0.02, 0.98), strict=True):
        if small and y != 0.5:
            continue
        horizontal = {0.02: "left", 0.98: "right"}.get(x, "center")
        vertical = {0.02: "bottom", 0.98: "top"}.get(y, "center")
        _write_on(axes, x, y, letter, fontsize=9, ha=horizontal, va=vertical)
    bar = 20 if small else 50
    right, low = 0.95, 0.05
    axes.plot([right - bar / field_mm, right], [low, low], transform=axes.transAxes, color="white", linewidth=2)
    _write_on(axes, right - bar / field_mm / 2, low + 0.015, f"{bar} mm", fontsize=7.5, ha="center", va="bottom")
    where = f"{'xyz'[plane.normal]} {center[plane.normal]:.0f} mm".replace("-", "\N{MINUS SIGN}")
    _write_on(axes, 0.03, 0.97, where, fontsize=7.5 if small else 8.5, va="top")
    axes.set(xlim=(-half, half), ylim=extent[2:], xticks=[], yticks=[], facecolor="black")


def _write_on(axes: "Axes", x: float, y: float, text: str, **how: Any) -> None:
    """Write on a plane, readable over light and dark."""
    from matplotlib import patheffects

    written = axes.text(x, y, text, transform=axes.transAxes, **{"color": "white", **how})
    written.set_path_effects([patheffects.withStroke(linewidth=3, foreground="black")])


def _draw_pet_bar(figure: "Figure", scale: PetScale, bottom: float, top: float) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    axes = figure.add_axes((0.947, bottom, 0.012, top - bottom))
    bar = figure.colorbar(ScalarMappable(Normalize(0, scale.top), "hot"), cax=axes, extend="max")
    bar.set_label(scale.label, fontsize=9, color=_INK)
    bar.ax.tick_params(labelsize=8, colors=_INK)
    bar.outline.set_linewidth(0.5)


def _write_summary(axes: "Axes", result: "PatientResult", threshold: float | None) -> None:
    hpv, survival = result.hpv, result.survival
    flags = textwrap.wrap("; ".join(result.flags) or "none", 42, max_lines=3)
    lines = [
        ("GTVp", f"{result.gtvp_ml:.1f} ml" if result.gtvp_ml else "none found", _INK),
        ("GTVn", f"{result.gtvn_ml:.1f} ml" if result.gtvn_ml else "none found", _INK),
    ]
    if result.segmentation.agreed:
        lines.append(("Agreement", f"{result.segmentation.agreement:.2f}", _INK))
        lines.append(("", f"mean Dice of the {result.segmentation.models} models with the mask", _GREY))
    if hpv:
        given = "" if hpv.known is None else f"given {status_name(hpv.known)}, predicted "
        lines.append(("HPV", f"{given}{status_name(hpv.positive)}, score {hpv.probability:.2f}", _INK))
        low, high = min(hpv.member_probabilities), max(hpv.member_probabilities)
        from_threshold = "" if threshold is None else f"positive from {threshold:.2f}; "
        lines.append(("", f"{from_threshold}models {low:.2f} to {high:.2f}", _GREY))
        if hpv.calibrated is not None:
            lines.append(("", f"probability {hpv.calibrated:.2f} at a prevalence of {hpv.prevalence:.2f}", _GREY))
        if hpv.conformal_set:
            lines.append(("", f"90% set: {hpv.conformal_set}", _GREY))
    if survival:
        lines.append(("Risk score", f"{survival.risk_score:+.2f}, higher = earlier recurrence", _INK))
        low, high = min(survival.member_risks), max(survival.member_risks)
        lines.append(("", f"in SD, 0 is average; models {low:+.2f} to {high:+.2f}", _GREY))
        if survival.percentile is not None:
            lines.append(("", f"percentile {survival.percentile:.0f} among the training patients", _GREY))
    lines += [("" if row else "Flags", text, _ACCENT if result.flags else _INK) for row, text in enumerate(flags)]
    y = 1.02
    for name, text, color in lines:
        y -= 0.1 if name else 0.085
        axes.text(0.0, y, name, va="baseline", fontsize=9.5, color=_GREY)
        size = 9.5 if color != _GREY else 8.5
        axes.text(0.25, y, text, va="baseline", fontsize=size, color=color, parse_math=False)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.axis("off")


def _draw_hpv(axes: "Axes", hpv: "HpvResult", threshold: float | None) -> None:
    _draw_models(axes, hpv.member_probabilities, hpv.probability, threshold, "threshold", 0.0, 1.0)
    axes.set(xlabel="score (mean of the models' forests)")
    _finish(axes, "HPV status")
    axes.spines["left"].set_visible(False)


def _draw_survival(axes: "Axes", survival: "SurvivalResult") -> None:
    """Draw the calibrated curve or, without one, the models' risks: the networks' own curves are not the answer."""
    if curve := survival.curve:
        years = curve.days / DAYS_PER_YEAR
        axes.fill_between(years, curve.low, curve.high, color=_ACCENT, alpha=0.2, linewidth=0)
        if survival.training_curve is not None:
            axes.plot(
                years, survival.training_curve, color=_GREY, linewidth=1.4, linestyle="--", label="training patients"
            )
        axes.plot(years, curve.probability, color=_ACCENT, linewidth=2.2, label="this patient")
        axes.legend(loc="lower left", fontsize=8, frameon=False, labelcolor=_INK)
        axes.set(xlim=(0, years[-1]), ylim=(0, 1.03), xlabel="years from treatment")
        axes.grid(axis="y", color="#e3e7eb", linewidth=0.8)
        _finish(axes, "No recurrence, 95% interval")
        return
    reach = max(3.0, *map(abs, survival.member_risks))
    _draw_models(axes, survival.member_risks, survival.risk_score, 0.0, "average", -reach, reach)
    axes.set(xlabel="SD of the training patients; higher is earlier")
    _finish(axes, "Recurrence risk, no probability")
    axes.spines["left"].set_visible(False)


def _draw_models(
    axes: "Axes", models: Sequence[float], answer: float, compared: float | None, name: str, low: float, high: float
) -> None:
    """Draw the models' answers and the ensemble's on an axis, and what they are compared with."""
    span = high - low
    if compared is not None:
        axes.axvline(compared, color=_INK, linestyle="--", linewidth=1)
        side = -1 if compared > low + 0.7 * span else 1
        place = {"fontsize": 8, "color": _INK, "va": "bottom", "ha": "left" if side > 0 else "right"}
        axes.text(compared + 0.02 * span * side, -0.93, name, place)
    axes.plot(models, np.linspace(-0.6, 0.6, len(models)), "o", color=_GREY, markersize=6, alpha=0.7)
    axes.plot(answer, 0.0, "D", color=_ACCENT, markeredgecolor="white", markersize=10)
    axes.set(xlim=(low - 0.02 * span, high + 0.02 * span), ylim=(-1, 1), yticks=[])


def _finish(axes: "Axes", title: str) -> None:
    axes.set_title(title, fontsize=10.5, color=_INK, loc="left")
    axes.tick_params(labelsize=8.5, colors=_INK)
    axes.xaxis.label.set(size=9, color=_INK)
    axes.spines[["top", "right"]].set_visible(False)
