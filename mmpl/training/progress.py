"""What a training says of itself while it goes on: each network's `log.csv`, and the display that reads them.

Networks train in other processes or on other machines, so whoever waits for them reads what they write to the run's
folder. That costs one small file a network and second, and whatever is wrong with such a file is no error.
"""

import csv
import io
import math
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from datetime import timedelta
from pathlib import Path
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

LOG_FILE = "log.csv"
POLL_S = 1.0
PLAIN_LINE_S = 60.0
"""Without a terminal, a line of text this often."""


@dataclass(frozen=True)
class LogRow:
    """One row of a network's `log.csv`.

    Attributes:
        step: Number of steps that are done.
        loss: Mean loss of the steps since the row before.
        learning_rate: Learning rate of the last of them.
        seconds: Seconds since this process began.
        steps_per_second: Steps per second since the row before.
        skipped: Number of steps since the row before whose gradient was not finite; they had no effect.
        validation: The score on the patients held out inside the training split; NaN (blank) where there is none.
    """

    step: int
    loss: float
    learning_rate: float
    seconds: float
    steps_per_second: float
    skipped: float
    validation: float = math.nan

    @classmethod
    def parse(cls, cells: Sequence[str]) -> Self:
        """Read a row; one that lacks the last columns has NaN there.

        Raises:
            ValueError: It is none.
        """
        if not cells:
            raise ValueError("an empty row")
        numbers = [float(cell) if cell else math.nan for cell in cells[1 : len(fields(cls))]]
        return cls(int(cells[0]), *(numbers + [math.nan] * (len(fields(cls)) - 1 - len(numbers))))

    def cells(self) -> list[str]:
        """Write the row."""
        formats = ("d", ".5f", ".3e", ".1f", ".4g", ".0f", ".4f")
        return ["" if value != value else format(value, f) for value, f in zip(astuple(self), formats, strict=True)]


HEADER = [field.name for field in fields(LogRow)]


def read_log(path: Path) -> list[LogRow]:
    """Read the whole rows of a network's log; what is missing, half written or no row is left out."""
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return []
    rows = []
    for cells in csv.reader(io.StringIO(text[: text.rfind("\n") + 1])):
        try:
            rows.append(LogRow.parse(cells))
        except ValueError:
            continue
    return rows


@dataclass(frozen=True)
class Training:
    """One network to watch.

    Attributes:
        name: Name of its model.
        log: Its `log.csv`, there or not yet.
        steps: Number of steps of its schedule.
    """

    name: str
    log: Path
    steps: int

    def stamp(self) -> tuple[int, int]:
        """Tell one state of the log from another."""
        try:
            found = self.log.stat()
        except OSError:
            return 0, 0
        return found.st_mtime_ns, found.st_size


class Display:
    """A display of how far work is: a bar on a terminal, elsewhere a line of text now and then.

    Of the networks in training it shows step, steps a second, time left and loss. A log that nobody has written to
    since the display was opened is of an earlier run.
    """

    def __init__(self, title: str, total: int, trainings: Sequence[Training], console: Console) -> None:
        self._title, self._total, self._done = title, total, 0
        self._console = console
        self._began = time.monotonic()
        self._earlier = {training: training.stamp() for training in trainings}
        columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), "{task.fields[note]}")
        self._bars = Progress(*(TextColumn(c) if isinstance(c, str) else c for c in columns), console=console)
        self._overall = self._bars.add_task(title, total=total, note="")
        self._tasks: dict[Training, TaskID] = {}

    @classmethod
    @contextmanager
    def open(
        cls, title: str, total: int, trainings: Sequence[Training] = (), console: Console | None = None
    ) -> Iterator[Self]:
        """Show it while a block runs, and leave its last state behind.

        Args:
            title: Title of the work.
            total: Number of pieces.
            trainings: The networks among them.
            console: Console to write to; standard output unless told.
        """
        display, ended = cls(title, total, trainings, console or Console()), threading.Event()
        watcher = threading.Thread(target=display._watch, args=(ended,), daemon=True)
        watcher.start()
        try:
            yield display
        finally:
            ended.set()
            watcher.join()

    def advance(self) -> None:
        """Count one more piece as done."""
        self._done += 1

    def _watch(self, ended: threading.Event) -> None:
        try:
            (self._redraw if self._console.is_terminal else self._write_lines)(ended)
        except (OSError, ValueError):  # nobody reads along any more; the work goes on
            return

    def _redraw(self, ended: threading.Event) -> None:
        with self._bars:
            while not ended.wait(POLL_S):
                training = self._in_training()
                for gone in self._tasks.keys() - training.keys():
                    self._bars.remove_task(self._tasks.pop(gone))
                for network, row in training.items():
                    if network not in self._tasks:
                        self._tasks[network] = self._bars.add_task(f"  {network.name}", total=network.steps, note="")
                    self._bars.update(self._tasks[network], completed=row.step, note=_note(network, row))
                self._bars.update(self._overall, completed=self._done, note=self._left())
            for task in self._tasks.values():
                self._bars.remove_task(task)
            self._bars.update(self._overall, completed=self._done, note=f"in {_duration(self._elapsed)}")

    def _write_lines(self, ended: threading.Event) -> None:
        while not ended.wait(PLAIN_LINE_S):
            networks = [f"{n.name} {row.step}/{n.steps}, {_note(n, row)}" for n, row in self._in_training().items()]
            self._print("; ".join([f"{self._title} {self._done}/{self._total} {self._left()}".rstrip(), *networks]))
        self._print(f"{self._title} {self._done}/{self._total} in {_duration(self._elapsed)}")

    def _print(self, line: str) -> None:
        self._console.print(line, soft_wrap=True, highlight=False, markup=False)

    def _in_training(self) -> dict[Training, LogRow]:
        """Give the last row of each network that has written one and is not at its end."""
        begun = [training for training, earlier in self._earlier.items() if training.stamp() != earlier]
        last = {training: rows[-1] for training in begun if (rows := read_log(training.log))}
        return {training: row for training, row in last.items() if row.step < training.steps}

    @property
    def _elapsed(self) -> float:
        return time.monotonic() - self._began

    def _left(self) -> str:
        if not self._done:
            return ""
        return f"{_duration(self._elapsed / self._done * (self._total - self._done))} left"


def _note(network: Training, row: LogRow) -> str:
    """Say how fast a network trains, how long it has to go, and its loss."""
    rate, said = row.steps_per_second, [f"loss {row.loss:.4f}"]
    if rate > 0:
        said = [f"{rate:.3g} steps/s", f"{_duration((network.steps - row.step) / rate)} left", *said]
    return ", ".join(said if math.isnan(row.validation) else [*said, f"validation {row.validation:.3f}"])


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
