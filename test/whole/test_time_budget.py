"""The limit of time that a case keeps to, and what it leaves out for it."""

import logging
import os
import subprocess
import time
from collections.abc import Callable

import pytest
import torch
from expected import ALL, files
from small_gpu import FakeGpu

from mmpl import algorithm

CUT = "time budget: 1 of 2 models"


def test_a_time_budget_is_kept_by_doing_less_and_said(answer, write_input, output, monkeypatch, blind_ensemble):
    monkeypatch.setenv("MMPL_TIME_BUDGET_S", "0.001")
    code, text, error = answer(write_input(), blind_ensemble)
    assert (code, error) == (0, "")
    assert files(output) == ALL
    assert f"note: {CUT}" in text


@pytest.mark.parametrize("value", ["soon", "-1", "nan", "inf"])
def test_a_time_budget_that_is_no_number_of_seconds(refuse, write_input, monkeypatch, value):
    monkeypatch.setenv("MMPL_TIME_BUDGET_S", value)
    assert refuse(write_input()) == f"MMPL_TIME_BUDGET_S is '{value}', not a number of seconds, or 0 for no limit"


class SlowDays:
    """A clock that real time moves, and what is said to have taken long."""

    def __init__(self) -> None:
        self.monotonic, self.ahead = time.monotonic, 0.0

    def __call__(self) -> float:
        return self.monotonic() + self.ahead

    def slow(self, function: Callable, seconds: float) -> Callable:
        """Make a function that takes so much longer."""

        def run(*arguments, **options):
            self.ahead += seconds
            return function(*arguments, **options)

        return run


@pytest.fixture
def slow_days(monkeypatch) -> SlowDays:
    clock = SlowDays()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


@pytest.mark.parametrize(
    ("variables", "seconds", "cut"),
    [
        ({}, 400, False),
        ({}, 541, True),
        ({"MMPL_TASKS": "segmentation"}, 541, True),
        ({"MMPL_TASKS": "survival"}, 541, False),
        ({"MMPL_TASKS": "survival"}, 841, True),
        ({"MMPL_TIME_BUDGET_S": "0"}, 9000, False),
        ({"MMPL_TIME_BUDGET_S": "5000"}, 841, False),
        ({"MMPL_TIME_BUDGET_S": "100"}, 101, True),
        ({"MMPL_EDITION": "hecktor-2026"}, 1400, False),
        ({"MMPL_EDITION": "hecktor-2026"}, 1441, True),
    ],
)
def test_without_a_gpu_the_editions_limit_less_its_reserve_is_the_time_budget(
    answer, write_input, output, monkeypatch, blind_ensemble, slow_days, variables, seconds, cut
):
    """Loading counts, as the process began for this case."""
    monkeypatch.setattr(algorithm, "load_ensemble", slow_days.slow(algorithm.load_ensemble, seconds))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    code, text, error = answer(write_input(), blind_ensemble)
    assert (code, error) == (0, "")
    assert (f"note: {CUT}" in text) == cut


def test_with_a_gpu_there_is_no_time_budget_unless_asked_for(
    answer, write_input, monkeypatch, blind_ensemble, slow_days
):
    monkeypatch.setattr(algorithm, "load_ensemble", slow_days.slow(algorithm.load_ensemble, 9000))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    folder = write_input()
    for budget, cut in (("", False), ("100", True)):
        monkeypatch.setenv("MMPL_TIME_BUDGET_S", budget)
        with FakeGpu():
            code, text, error = answer(folder, blind_ensemble)
        assert (code, error) == (0, "")
        assert "on a GPU" in text
        assert (f"note: {CUT}" in text) == cut


def test_a_server_counts_from_the_request(write_input, output, monkeypatch, blind_ensemble, slow_days, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("MMPL_WEIGHTS", str(blind_ensemble))
    monkeypatch.setattr(algorithm, "load_ensemble", slow_days.slow(algorithm.load_ensemble, 9000))
    server, folder = algorithm.Algorithm.load(keep_networks=True), write_input()
    server.answer(folder, output)
    assert f"note: {CUT}" not in caplog.messages
    monkeypatch.setattr(algorithm, "read_challenge_case", slow_days.slow(algorithm.read_challenge_case, 541))
    server.answer(folder, output)
    assert f"note: {CUT}" in caplog.messages


def test_the_shell_script_asks_for_no_time_budget_unless_one_is_given(root, tmp_path):
    (tmp_path / "run.sh").write_text((root / "run.sh").read_text())
    (tmp_path / "setup.sh").write_text((root / "setup.sh").read_text() + "make_venv() { :; }\n")
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$1 ${MMPL_TIME_BUDGET_S-unset}"\n')
    python.chmod(0o755)
    for given, expected in ((None, "0"), ("", "0"), ("100", "100")):
        environment = {name: value for name, value in os.environ.items() if name != "MMPL_TIME_BUDGET_S"}
        if given is not None:
            environment["MMPL_TIME_BUDGET_S"] = given
        ran = subprocess.run(["bash", tmp_path / "run.sh"], env=environment, capture_output=True, text=True)
        assert (ran.stdout, ran.stderr) == (f"inference.py {expected}\n", "")
