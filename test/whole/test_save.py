"""The script that writes the uploads, with an engine that only notes what it is asked for."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmpl.io.challenge import read_edition

ENGINE = r"""#!/usr/bin/env python3
import json, os, pathlib, sys
asked = sys.argv[1:]
with open(os.environ["ASKED"], "a") as file:
    file.write(json.dumps(asked) + "\n")
folder = pathlib.Path(os.environ["ASKED"]).parent
if asked[0] == "build":
    given = dict(word.split("=", 1) for word in asked if word.startswith("MMPL_"))
    (folder / asked[asked.index("--tag") + 1]).write_text(json.dumps(given))
elif asked[0] == "load":
    sys.stdin.buffer.read()
elif asked[0] == "run":
    image = next(word for word in asked if word.startswith("mmpl-"))
    os.environ.update(json.loads((folder / image).read_text()))
    if asked[-1] == "inference.py":
        (output,) = [word.removesuffix(":/output") for word in asked if word.endswith(":/output")]
        for answer in os.environ["ANSWERS"].split():
            path = pathlib.Path(output, answer)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("an answer")
    else:
        os.execv(os.environ["PYTHON"], [os.environ["PYTHON"], *asked[-2:]])
"""


def save(root: Path, folder: Path, answers: str, *options: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run it; what it prints, and the arguments that each image was built with."""
    engine, asked = folder / "engine", folder / "asked"
    engine.write_text(ENGINE)
    engine.chmod(0o755)
    surroundings = {"CONTAINER_ENGINE": str(engine), "ASKED": str(asked), "ANSWERS": answers, "PYTHON": sys.executable}
    for name in ("MMPL_EDITION", "MMPL_TASKS", "BASE_IMAGE", "BUILD_OPTIONS"):
        surroundings[name] = ""
    command = ["bash", str(root / "save.sh"), *options, str(folder / "upload")]
    ran = subprocess.run(command, env=os.environ | surroundings, capture_output=True, text=True, cwd=root)
    calls = [json.loads(line) for line in asked.read_text().splitlines()] if asked.exists() else []
    built = [" ".join(word for word in call if word.startswith("MMPL_")) for call in calls if call[0] == "build"]
    return ran, built


def paths(edition: str) -> str:
    return " ".join(answer.path for answer in read_edition(edition).answers.values())


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_2025_takes_an_algorithm_for_each_task(root: Path, tmp_path: Path) -> None:
    ran, built = save(root, tmp_path, paths("hecktor-2025"))
    assert (ran.returncode, ran.stderr) == (0, "")
    assert built == [f"MMPL_EDITION=hecktor-2025 MMPL_TASKS={task}" for task in ("segmentation", "survival", "hpv")]
    assert names(tmp_path / "upload") == {f"mmpl-{task}.tar.gz" for task in ("segmentation", "survival", "hpv")}


def test_2026_takes_one_for_everything(root: Path, tmp_path: Path) -> None:
    ran, built = save(root, tmp_path, paths("hecktor-2026"), "--edition", "hecktor-2026")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert built == ["MMPL_EDITION=hecktor-2026 MMPL_TASKS="]
    assert names(tmp_path / "upload") == {"mmpl-hecktor-2026.tar.gz"}


@pytest.mark.parametrize(
    ("edition", "lacking"),
    [("hecktor-2025", "hpv-status.json"), ("hecktor-2026", "n-stage.json"), ("hecktor-2026", "t-stage.json")],
)
def test_an_upload_that_leaves_an_answer_out_is_none(root: Path, tmp_path: Path, edition: str, lacking: str) -> None:
    answers = paths(edition).replace(lacking, "")
    ran, _ = save(root, tmp_path, answers, "--edition", edition)
    assert ran.returncode == 1
    assert ran.stderr.startswith("error: ")
    assert ran.stderr.endswith(f" loads, but leaves no {lacking}\n")
    last = "hpv" if edition == "hecktor-2025" else edition
    assert f"mmpl-{last}.tar.gz" not in names(tmp_path / "upload")


@pytest.mark.parametrize("options", [("--edition", "hecktor-1999"), ("--edition", ""), ("--odd",)])
def test_what_it_does_not_know_is_refused(root: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    ran, built = save(root, tmp_path, "", *options)
    assert (ran.returncode, built) == (2, [])
    assert ran.stderr.count("\n") == 1
