"""The picture of how cost grows: a panel of each entry, log-log, with the power that its seconds grow as."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from benchmarks.measure import describe_growth, exponent
from benchmarks.parts import Row
from mmpl.files import write_whole

COLUMNS = 3
SECONDS, MEMORY = "#1f5a96", "#b5651d"


def draw_growth(rows: Mapping[str, Row], path: Path) -> None:
    """Draw the entries that have points, by name, as a PNG."""
    drawn = {name: row for name, row in rows.items() if len(row.points) > 1}
    if not drawn:
        return
    lines = -(-len(drawn) // COLUMNS)
    figure = Figure(figsize=(11.5, 2.9 * lines), facecolor="white", dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(lines, COLUMNS, squeeze=False).ravel()
    for panel, (name, row) in zip(panels, drawn.items(), strict=False):
        _draw_panel(panel, name, row)
    for panel in panels[len(drawn) :]:
        panel.set_axis_off()
    with write_whole(path) as partial:
        figure.savefig(partial, format="png", metadata={"Software": None})


def _draw_panel(panel: Axes, name: str, row: Row) -> None:
    """Draw seconds on the left with their fitted power, MiB on the right from 0 on."""
    x, seconds, mib = (np.array([getattr(point, kind) for point in row.points]) for kind in ("x", "seconds", "mib"))
    power = exponent(row.points)
    fitted = np.exp(np.log(seconds).mean() + power * (np.log(x) - np.log(x).mean()))
    panel.plot(x, fitted, "--", color=SECONDS, linewidth=1, label=f"power {describe_growth(row.points)}")
    panel.plot(x, seconds, "o", color=SECONDS, markersize=5)
    panel.set(xscale="log", yscale="log", xlabel=row.x_label, title=name)
    panel.set_ylim(seconds.min() / 2, seconds.max() * 3)
    panel.set_ylabel("s", color=SECONDS)
    panel.set_xticks(x)
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_formatter(NullFormatter())
    panel.legend(loc="upper left", frameon=False, fontsize="small", handlelength=1.5)
    memory = panel.twinx()
    memory.plot(x, mib, "s:", color=MEMORY, markersize=3.5, linewidth=1)
    memory.set_ylim(0, 1.6 * mib.max())
    memory.set_ylabel("MiB", color=MEMORY)
