"""Kill a training again and again, and compare what comes out: `python test/kills.py FOLDER --kills 20`.

Two runs of `train.ensemble` on the micro profile, one left alone, one killed (SIGKILL, the whole process group) at
random moments of each step, or of those that `--step` names; after each kill every checkpoint and every finished file
must be readable. In the end all weights of the two must have the same SHA-256. In `training/`, `test_training.py` kills
once, and `test_patches.py` compares one network.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mmpl.files import PARTIAL  # noqa: E402

STEPS = {
    "prepare": "patches/*.json",
    "segmentation": "models/*/segmentation/network.safetensors",
    "radiomics": "radiomics/*.npy",
    "hpv": "models/*/hpv/network.safetensors",
    "survival": "models/*/survival/network.safetensors",
    "staging": "models/*/staging.json",
}
"""What each step of a training leaves, one after the other."""


def start(cohort: str, run: Path, weights: Path, errors: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
    """Start, or go on with, the training of a micro ensemble, in a process group of its own.

    Untrained networks find masks that fill the patch, whose textures take minutes: simple features alone are measured.
    """
    command = [sys.executable, "-W", "ignore", "-m", "train.ensemble", cohort, str(run), "--profile", "micro"]
    few = ["--set", "radiomics.feature_classes=[shape, firstorder]"]
    return subprocess.Popen(
        [*command, *few, "--weights", str(weights), "--workers", "2"],
        stdout=subprocess.DEVNULL,
        stderr=errors,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    )


def finish(cohort: str, run: Path, weights: Path) -> None:
    """Train to the end.

    Raises:
        RuntimeError: The training fails.
    """
    process = start(cohort, run, weights, subprocess.PIPE)
    _, errors = process.communicate()
    if process.returncode != 0:
        raise RuntimeError(errors[-3000:])


def kill(process: subprocess.Popen[str]) -> None:
    """Kill a training and all its workers at once."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def step_of(run: Path) -> str:
    """Name the last step that has left something."""
    begun = [name for name, pattern in STEPS.items() if any(run.glob(pattern))]
    return begun[-1] if begun else "start"


def read_everything(run: Path) -> int:
    """Read every file of a run that is not called partial; how many there are.

    Raises:
        Exception: One cannot be read.
    """
    readers = {
        ".pt": lambda path: torch.load(path, weights_only=True),
        ".safetensors": load_file,
        ".npy": np.load,
        ".npz": read_arrays,
        ".json": lambda path: json.loads(path.read_text()),
    }
    # a patient's arrays are whole once its description is there
    described = {path.stem for path in run.glob("patches/*.json")}
    whole = [path for path in run.rglob("*") if not path.name.startswith(PARTIAL)]
    finished = [p for p in whole if p.parent.name != "patches" or p.name.partition(".")[0] in described]
    paths = [path for path in finished if path.suffix in readers]
    for path in paths:
        readers[path.suffix](path)
    return len(paths)


def read_arrays(path: Path) -> list[NDArray]:
    """Read every array of a file."""
    with np.load(path) as file:
        return list(file.values())


def digests(weights: Path) -> dict[str, str]:
    """Give the SHA-256 of every weight file."""
    files: dict[str, str] = json.loads((weights / "manifest.json").read_text())["files"]
    return files


def main() -> int:
    """Train undisturbed and disturbed; exit code 1 where the weights differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="takes both runs")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--step", choices=STEPS, action="append", help="kill in this step alone; may be repeated")
    parser.add_argument("--cohort", default="phantom:36:3:0.5:v2", help="with stages in its table, as version 2 has")
    parser.add_argument("--longest", type=float, default=15.0, help="seconds that a step may go on, at most")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    calm, killed = (asked.folder / name for name in ("calm", "killed"))
    started = time.monotonic()
    finish(asked.cohort, calm / "run", calm / "weights")
    print(f"undisturbed: {time.monotonic() - started:.0f} s", flush=True)
    rng, where, read = random.Random(asked.seed), Counter[str](), 0
    order, steps = ["start", *STEPS], asked.step or [*STEPS]
    for number in range(asked.kills):
        wanted = steps[number * len(steps) // asked.kills]
        process = start(asked.cohort, killed / "run", killed / "weights")
        while process.poll() is None and order.index(step_of(killed / "run")) < order.index(wanted):
            time.sleep(0.1)
        time.sleep(rng.uniform(0, asked.longest))
        if process.poll() is not None:
            print(f"finished after {number} kills", flush=True)
            break
        kill(process)
        where[step_of(killed / "run")] += 1
        read += read_everything(killed / "run")
        print(f"kill {number + 1} during {step_of(killed / 'run')}", flush=True)
    finish(asked.cohort, killed / "run", killed / "weights")
    one, other = digests(calm / "weights"), digests(killed / "weights")
    different = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    print(f"kills by the step they hit: {dict(where)}; {read} files read after them, none unreadable")
    print(f"{len(one)} weight files, {len(different)} differ {different[:5]}")
    return int(bool(different))


if __name__ == "__main__":
    sys.exit(main())
