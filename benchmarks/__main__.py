"""Measure, and write `RESULTS.md` and `growth.png`: `python -m benchmarks [PART...] [--repeats N]`.

Without names every part is measured; with names those alone, and the others keep what was measured before, each with
the machine it was measured on.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated

import torch
import typer
from pydantic import TypeAdapter

from benchmarks.cohorts import COHORT_PARTS
from benchmarks.curves import draw_growth
from benchmarks.gpu import GPU_PARTS
from benchmarks.growth import GROWTH
from benchmarks.measure import describe_growth, machine
from benchmarks.parts import PARTS, Row
from mmpl.memory import keep_freed_memory

FOLDER = Path(__file__).resolve().parent
SIDE_BY_SIDE: dict[str, Callable[[int], Row]] = {**PARTS, **COHORT_PARTS, **GPU_PARTS}
ALL = {**SIDE_BY_SIDE, **GROWTH}


@dataclass(frozen=True)
class Measured:
    """A row, and what it holds for."""

    row: Row
    machine: str
    date: str
    repeats: int


KEPT = TypeAdapter(dict[str, Measured])
"""What was measured, by the part's name, as `measured.json` has it."""


def main(
    names: Annotated[
        list[str] | None, typer.Argument(help=f"{', '.join(ALL)}; by default all that the machine can measure")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1)] = 5,
) -> None:
    """Measure parts of the program side by side with the plain ways."""
    if unknown := set(names or ()) - ALL.keys():
        raise typer.BadParameter(f"no part {', '.join(sorted(unknown))}; there are {', '.join(ALL)}")
    gpu = torch.cuda.is_available()
    if not gpu and (blocked := set(names or ()) & GPU_PARTS.keys()):
        raise typer.BadParameter(f"{', '.join(sorted(blocked))} needs a GPU, and none can be used")
    keep_freed_memory()  # as the program does
    path = FOLDER / "measured.json"
    kept = KEPT.validate_json(path.read_bytes()) if path.is_file() else {}
    for name in names or [name for name in ALL if gpu or name not in GPU_PARTS]:
        row = ALL[name](repeats)
        kept[name] = Measured(row, machine(), date.today().isoformat(), repeats)
        typer.echo(f"{name}: {row.result}")
        path.write_bytes(KEPT.dump_json(kept, indent=1, exclude_defaults=True) + b"\n")
    draw_growth({name: kept[name].row for name in GROWTH if name in kept}, FOLDER / "growth.png")
    (FOLDER / "RESULTS.md").write_text(write_up(kept))


def write_up(kept: Mapping[str, Measured]) -> str:
    """Make the Markdown of what was measured."""
    machines = list(dict.fromkeys(measured.machine for measured in kept.values()))
    lines = ["# What was measured", ""]
    lines += ["By `python -m benchmarks`. Where two ways are compared they take turns, and the median of the turns'"]
    lines += ["ratios counts, with its range. Memory is by how much a process grows. A row holds for code and models"]
    lines += ["of its date: rows of different dates do not compare. Not every goal is reached. The machines:", ""]
    lines += [f"{number}. {name}" for number, name in enumerate(machines, 1)]
    when = {}
    for name, measured in kept.items():
        turns = "1 turn" if measured.repeats == 1 else f"{measured.repeats} turns"
        when[name] = f"{machines.index(measured.machine) + 1}, {measured.date}, {turns}"
    lines += ["", "## Side by side", "", "| part | against | to reach | measured | machine, date |", f"|{'---|' * 5}"]
    for name in SIDE_BY_SIDE:
        if name in kept or name in GPU_PARTS:
            row = kept[name].row if name in kept else GPU_PARTS[name].row
            known = when.get(name, "no GPU yet")
            lines.append(f"| {row.part} | {row.against} | {row.goal} | {row.result} | {known} |")
    lines += ["", "## As work grows", ""]
    lines += ["The seconds grow as that power of the work, on the whole and at its last step: 1 is linear.", ""]
    lines += ["![Seconds of each part below against the work, log-log, and memory](growth.png)", ""]
    lines += ["| part | measured | power | machine, date |", f"|{'---|' * 4}"]
    for name in GROWTH:
        if name in kept:
            row = kept[name].row
            lines.append(f"| {row.part} | {row.result} | {describe_growth(row.points)} | {when[name]} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    typer.run(main)
