"""Measure, and write `benchmarks/RESULTS.md`: `python -m benchmarks [PART...] [--repeats N]`.

Without names every part is measured; with names those alone, and the others keep what was measured before, each with
the machine it was measured on.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.gpu import GPU_PARTS
from benchmarks.growth import GROWTH
from benchmarks.measure import machine
from benchmarks.parts import PARTS, Row
from mmpl.memory import keep_freed_memory

FOLDER = Path(__file__).resolve().parent
ALL: dict[str, Callable[[int], Row]] = {**PARTS, **GPU_PARTS, **GROWTH}


@dataclass(frozen=True)
class Measured:
    """A row, and what it holds for."""

    row: Row
    machine: str
    date: str
    repeats: int


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
    kept = {}
    if path.is_file():
        kept = {name: Measured(Row(**old.pop("row")), **old) for name, old in json.loads(path.read_text()).items()}
    for name in names or [name for name in ALL if gpu or name not in GPU_PARTS]:
        row = ALL[name](repeats)
        kept[name] = Measured(row, machine(), date.today().isoformat(), repeats)
        typer.echo(f"{name}: {row.result}")
        path.write_text(json.dumps({name: asdict(measured) for name, measured in kept.items()}, indent=1) + "\n")
    (FOLDER / "RESULTS.md").write_text(write_up(kept))


def write_up(kept: Mapping[str, Measured]) -> str:
    """Make the Markdown of what was measured."""
    machines = list(dict.fromkeys(measured.machine for measured in kept.values()))
    lines = ["# What was measured", ""]
    lines += ["By `python -m benchmarks`. Where two ways are compared they take turns, and the median of the turns'"]
    lines += ["ratios counts, with its range. Memory is by how much a process grows. The machines:", ""]
    lines += [f"{number}. {name}" for number, name in enumerate(machines, 1)]
    for title, parts in (("Side by side", {**PARTS, **GPU_PARTS}), ("As work grows", GROWTH)):
        lines += [
            "",
            f"## {title}",
            "",
            "| part | against | to reach | measured | machine, date |",
            "|---|---|---|---|---|",
        ]
        for name in parts:
            if name in kept:
                measured = kept[name]
                row, number = measured.row, machines.index(measured.machine) + 1
                turns = "1 turn" if measured.repeats == 1 else f"{measured.repeats} turns"
                when = f"{number}, {measured.date}, {turns}"
            elif name in GPU_PARTS:
                row, when = GPU_PARTS[name].row, "no GPU yet"
            else:
                continue
            lines.append(f"| {row.part} | {row.against} | {row.goal} | {row.result} | {when} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    typer.run(main)
