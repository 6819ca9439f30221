"""Measure, and write `benchmarks/RESULTS.md`: `python -m benchmarks [PART...] [--repeats N]`.

Without names every part that this machine has the hardware for is measured; with names those alone, and the others
keep what was measured before, each with the machine it was measured on.
"""

import json
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.growth import GROWTH
from benchmarks.measure import machine
from benchmarks.parts import PARTS, Row

FOLDER = Path(__file__).resolve().parent
MEASURED = FOLDER / "measured.json"


def main(
    names: Annotated[list[str] | None, typer.Argument(help=f"{', '.join((*PARTS, *GROWTH))}; by default all")] = None,
    repeats: Annotated[int, typer.Option(min=1)] = 5,
) -> None:
    """Measure parts of the program side by side with the plain ways."""
    unknown = set(names or ()) - {*PARTS, *GROWTH}
    if unknown:
        raise typer.BadParameter(f"no part {', '.join(sorted(unknown))}; there are {', '.join((*PARTS, *GROWTH))}")
    kept = json.loads(MEASURED.read_text()) if MEASURED.is_file() else {}
    for name in names or (*PARTS, *GROWTH):
        row = (PARTS.get(name) or GROWTH[name])(repeats)
        kept[name] = asdict(row) | {"machine": machine(), "date": date.today().isoformat(), "repeats": repeats}
        typer.echo(f"{name}: {row.result}")
        MEASURED.write_text(json.dumps(kept, indent=1) + "\n")
    (FOLDER / "RESULTS.md").write_text(write_up(kept))


def write_up(measured: dict) -> str:
    """Make the Markdown of what was measured."""
    machines = list(dict.fromkeys(entry["machine"] for entry in measured.values()))
    lines = [
        "# What was measured",
        "",
        "By `python -m benchmarks`: two ways take turns in one process, and the median of",
    ]
    lines[-1] += " the ratios counts, with its range. The machines:"
    lines += ["", *(f"{number}. {name}" for number, name in enumerate(machines, 1)), ""]
    for title, parts in (("Side by side", PARTS), ("As work grows", GROWTH)):
        lines += [
            f"## {title}",
            "",
            "| part | against | to reach | measured | machine, date |",
            "|---|---|---|---|---|",
        ]
        for name in parts:
            if (entry := measured.get(name)) is None:
                continue
            row = Row(**{field: entry[field] for field in Row.__dataclass_fields__})
            when = f"{machines.index(entry['machine']) + 1}, {entry['date']}, {entry['repeats']} turns"
            lines.append(f"| {row.part} | {row.against} | {row.goal} | {row.result} | {when} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
