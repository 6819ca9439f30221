"""What a person sees while networks train: logs in any state, on a terminal and without one."""

import io
import math
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_patches import STEPS, make_job

from mmpl.training import loop, progress
from mmpl.training.loop import train
from mmpl.training.parallel import Engine
from mmpl.training.progress import HEADER, Display, LogRow, Training, read_log

ROW = LogRow(step=400, loss=1.25, learning_rate=1e-3, seconds=100.0, steps_per_second=4.0, skipped=0.0, validation=0.5)
LINES = "\n".join([",".join(HEADER), ",".join(replace(ROW, step=200).cells()), ",".join(ROW.cells()), ""])


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "POLL_S", 0.05)
    monkeypatch.setattr(progress, "PLAIN_LINE_S", 0.2)


def shown(folder: Path, terminal: bool, text: str | bytes | None = LINES, seconds: float = 0.5) -> str:
    """What is seen of one of three networks, whose log is written while one looks on."""
    console = Console(file=io.StringIO(), force_terminal=terminal, width=150)
    log = folder / "log.csv"
    with Display.open("stage 1", 3, [Training("patient-0", log, 1000)], console) as display:
        display.advance()
        if isinstance(text, str):
            log.write_text(text)
        elif text is not None:
            log.write_bytes(text)
        time.sleep(seconds)
        display.advance()
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_terminal_shows_step_rate_time_left_and_loss_of_a_network_in_training(tmp_path: Path) -> None:
    seen = shown(tmp_path, terminal=True)
    for wanted in ("stage 1", "1/3", "patient-0", "400/1000", "4 steps/s", "0:02:30 left", "loss 1.2500", "0.500"):
        assert wanted in seen, wanted
    assert "2/3" in seen  # what was done in the end


def test_without_a_terminal_there_are_plain_lines(tmp_path: Path) -> None:
    seen = shown(tmp_path, terminal=False)
    assert "\x1b" not in seen
    assert "\r" not in seen
    *lines, last = seen.splitlines()
    assert 1 <= len(lines) <= 3
    network = "patient-0 400/1000, 4 steps/s, 0:02:30 left, loss 1.2500, validation 0.500"
    assert re.fullmatch(rf"stage 1 1/3 0:00:\d\d left; {network}", lines[-1])
    assert re.fullmatch(r"stage 1 2/3 in 0:00:\d\d", last)


@pytest.mark.parametrize(
    "text",
    [None, "", "step,lo", ",".join(HEADER) + "\n", "999", b"\xff\xfe\x00\n\n", LINES + "\n,,\nnot,a,row\n", "a\n" * 9],
)
@pytest.mark.parametrize("terminal", [True, False])
def test_a_log_that_cannot_be_read_is_no_error(tmp_path: Path, text: str | bytes | None, terminal: bool) -> None:
    seen = shown(tmp_path, terminal, text, seconds=0.3)
    assert "stage 1" in seen
    assert ("400/1000" in seen) == (text is not None and "400" in str(text))


def test_a_row_half_written_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(LINES + "600,1.1")
    assert [row.step for row in read_log(tmp_path / "log.csv")] == [200, 400]


def test_a_log_of_an_earlier_run_is_not_shown_until_it_is_written_to(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(LINES)
    assert "patient-0" not in shown(tmp_path, terminal=False, text=None)
    assert "patient-0" in shown(tmp_path, terminal=False, text=LINES + ",".join(replace(ROW, step=420).cells()) + "\n")


def test_a_finished_network_is_not_in_training(tmp_path: Path) -> None:
    finished = LINES + ",".join(replace(ROW, step=1000).cells()) + "\n"
    assert "patient-0" not in shown(tmp_path, terminal=False, text=finished)


def test_nobody_reading_along_does_not_stop_the_work(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), force_terminal=False)
    console.file.close()
    with Display.open("stage 1", 1, [], console) as display:
        display.advance()


def square(number: int) -> int:
    return number * number


def test_spreading_work_says_how_far_it_came(capsys: pytest.CaptureFixture[str]) -> None:
    assert Engine(workers=1).map("squares", square, range(3)) == [0, 1, 4]
    assert re.fullmatch(r"squares 3/3 in 0:00:\d\d\n", capsys.readouterr().out)


@pytest.mark.parametrize(("seconds", "steps"), [(0.0, range(1, STEPS + 1)), (1e9, [STEPS])])
def test_rows_come_by_the_clock_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, steps: Sequence[int]
) -> None:
    monkeypatch.setattr(loop, "LOG_EVERY_S", seconds)
    train(make_job(tmp_path))
    rows = read_log(tmp_path / "log.csv")
    assert [row.step for row in rows] == list(steps)
    took = sum((row.step - before) / row.steps_per_second for before, row in zip([0, *steps], rows, strict=False))
    assert took == pytest.approx(rows[-1].seconds, abs=0.3)
    assert all(math.isnan(row.validation) for row in rows)


def test_tensorboard_has_rate_loss_and_the_score_where_there_is_one(tmp_path: Path) -> None:
    scores: Iterator[float] = iter([0.25, math.nan, 0.75, 0.5])
    job = replace(make_job(tmp_path), validate=lambda network, device: next(scores))
    train(job)
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert {"loss", "learning_rate", "steps_per_second", "validation"} <= set(board.Tags()["scalars"])
    every, steps = job.shared.checkpoint_every, job.stage.steps
    wanted = [step for step in range(1, steps + 1) if step % every == 0 or step == steps]
    rows = read_log(tmp_path / "log.csv")
    assert [row.step for row in rows] == wanted
    assert [row.validation for row in rows if row.validation == row.validation] == [0.25, 0.75, 0.5][: len(wanted) - 1]
    assert (tmp_path / "log.csv").read_text().splitlines()[2].endswith(",")  # blank where it is undefined
