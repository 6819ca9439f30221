"""The training programs as a shell runs them: their settings, what is refused before it begins, one model at a time."""

import contextlib
import importlib
import io
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from mmpl.names import NETWORK_STAGES
from mmpl.profile import load_profile
from mmpl.radiomics import feature_names
from mmpl.training.command import run_program
from mmpl.training.workspace import Workspace
from mmpl.weights import load_ensemble

COHORT = "phantom:16:16:0.5"
"""So few that, by this seed, either half has three patients of each HPV status and three relapses."""
SMALL = ("--profile", "micro", "--folds", "2", "--no-center-out", "--set", "training.segmentation.steps=3")
TRAIN = Path(__file__).parents[2] / "train"
PROGRAMS = sorted(
    ".".join(path.relative_to(TRAIN).with_suffix("").parts)
    for path in TRAIN.rglob("*.py")
    if "run_program(main)" in path.read_text()
)
assert {"prepare", "segmentation", "radiomics", "hpv", "survival", "ensemble", "export", "experiments.tables"} <= set(
    PROGRAMS
)


@dataclass(frozen=True)
class Ended:
    """How a program ended."""

    code: int
    output: str
    errors: str

    @property
    def error(self) -> str:
        """The one line that says why it failed."""
        assert self.code == 1
        assert self.errors.count("\n") == 1
        assert self.errors.startswith("error: ")
        return self.errors.removeprefix("error: ").strip()


def shell(program: str, *arguments: object) -> Ended:
    """Run a training program as `python -m train.PROGRAM` does, in this process."""
    main = importlib.import_module(f"train.{program}").main
    output, errors = io.StringIO(), io.StringIO()
    before, sys.argv = sys.argv, [f"train.{program}", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors), pytest.raises(SystemExit) as ended:
            run_program(main)
    finally:
        sys.argv = before
    return Ended(ended.value.code or 0, output.getvalue(), errors.getvalue())


def files(folder: Path) -> dict[Path, int]:
    """Every file of a folder, and when it was written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


# what is refused before anything is written

REFUSED = {
    ("--profile", "mirco"): "no profile 'mirco'; there are ",
    ("--profile", "./mine.yaml"): "mine.yaml: ",
    ("--profile", "micro", "--set", "training.hpv.stps=4"): "no setting 'training.hpv.stps'; there are steps, ",
    ("--profile", "micro", "--set", "training.hpv.steps=-4"): "training.hpv.steps is -4: ",
    ("--profile", "micro", "--set", "training.hpv.crop_xyz=[16, 16, 18]"): "every size must be a multiple of 4",
    ("--profile", "paper", "--set", "training.hpv.crop_xyz=[16, 16, 16]"): "more than one voxel at the coarsest level",
    ("--folds", "1"): "--folds",
    ("--folds", "17"): "16 patients cannot be dealt to 17 folds",
    ("--fold", "2"): "--fold",
}


@pytest.mark.parametrize("program", ["prepare", "ensemble"])
@pytest.mark.parametrize("options", REFUSED)
def test_a_mistake_is_one_line_and_leaves_no_run(program: str, options: tuple[str, ...], tmp_path: Path) -> None:
    assert REFUSED[options] in shell(program, COHORT, tmp_path / "run", *options).error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "cohort",
    ["phantom:24", "phantom:x:3", "phantom:24:3:half", "phantom:24:3:v9", "phantom:24:3:2", "phantom:24:3:dose7"],
)
def test_a_synthetic_cohort_that_is_none(cohort: str, tmp_path: Path) -> None:
    wanted = f"{cohort}: a synthetic cohort is phantom:PATIENTS:SEED[:HPV_POSITIVE][:vVERSION][:dose[SHARE]]"
    assert shell("prepare", cohort, tmp_path / "run").error == wanted
    assert not (tmp_path / "run").exists()


def test_a_step_without_a_run(tmp_path: Path) -> None:
    wanted = f"{tmp_path / 'run.json'}: no such file; start with python -m train.prepare"
    for program, *more in (
        ("segmentation",),
        ("radiomics",),
        ("hpv",),
        ("survival",),
        ("export", tmp_path / "weights"),
    ):
        assert shell(program, tmp_path, *more).error == wanted
    (tmp_path / "run.json").write_text('{"cohort": "phantom:24:3", "profile": "micro"}')  # as older versions wrote it
    assert "run.json: not a run that this version can go on with" in shell("segmentation", tmp_path).error


# a run, one model at a time: each test goes on where the one before stopped


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("programs") / "run"


@pytest.fixture(scope="module")
def one_network(run: Path) -> Ended:
    """Stage 1 of the first of two models."""
    return shell("ensemble", COHORT, run, *SMALL, "--only", "patient-0", "--workers", "1")


def test_one_network_trains_and_is_scored_on_its_own_fold(run: Path, one_network: Ended) -> None:
    assert one_network.code == 0, one_network.errors
    workspace = Workspace.open(run)
    first, second = workspace.splits.members
    assert [p.parents[1].name for p in run.rglob("network.safetensors")] == [first.name]
    inside = {p.patient_id for p in workspace.splits.held_out(first, workspace.patients)}
    assert {path.stem for path in (run / "out_of_fold/patient").iterdir()} == inside
    with_mask = sum(workspace.store.describe(name).has_labels for name in inside)
    lines = one_network.output.splitlines()
    (score,) = [line for line in lines if line.startswith(f"patient-0, the {with_mask} patients of its fold")]
    assert "mean GTVp Dice 0." in score
    assert "aggregated GTVn Dice 0." in score
    (missing,) = [line for line in lines if "missing" in line]
    assert missing.startswith(f"segmentation of {second.name} is still missing")
    assert f"python -m train.segmentation {run} goes on" in missing
    assert not (run / "segmentation.json").exists()
    assert not (run / "weights").exists()


def test_a_run_holds_its_settings(
    run: Path, one_network: Ended, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The changed ones, too; what the YAML has become since is of no interest."""
    changed = load_profile("micro", ["training.segmentation.steps=3"])
    assert Workspace.open(run).profile == changed
    monkeypatch.setattr("mmpl.profile.PROFILES", tmp_path)
    assert Workspace.open(run).profile == changed
    before = files(run)
    assert shell("prepare", COHORT, run).code == 0
    assert shell("prepare", COHORT, run, "--set", "training.segmentation.steps=3", "--folds", "2").code == 0
    assert files(run) == before


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        (("--set", "training.hpv.steps=5"), "profile.training.hpv.steps is 4, not 5"),
        (("--profile", "micro"), "profile.training.segmentation.steps is 3, not 8"),
        (("--folds", "3"), "folds is 2, not 3"),
        (("--center-out",), "center_out is false, not true"),
    ],
)
@pytest.mark.parametrize("program", ["prepare", "ensemble"])
def test_a_run_of_other_settings_is_refused_by_their_names(
    run: Path, one_network: Ended, program: str, options: tuple[str, ...], difference: str
) -> None:
    before = files(run)
    assert shell(program, COHORT, run, *options).error == f"{run / 'run.json'} belongs to another run: {difference}"
    other = f'{run / "run.json"} belongs to another run: cohort is "{COHORT}", not "phantom:25:3"'
    assert shell(program, "phantom:25:3", run).error == other
    assert files(run) == before


def test_a_model_that_there_is_not(run: Path, one_network: Ended) -> None:
    for program, *more in (("ensemble", COHORT), ("segmentation",), ("hpv",), ("survival",)):
        ended = shell(program, *more, run, "--only", "center-0")
        assert ended.error == "no model center-0; there are patient-0, patient-1"


def test_later_steps_say_what_they_wait_for(run: Path, one_network: Ended) -> None:
    before = files(run)
    for program in ("radiomics", "hpv", "survival"):
        more = ("--only", "patient-0") if program != "radiomics" else ()
        assert shell(program, run, *more).error.startswith("segmentation of patient-1 is still missing")
    assert shell("export", run, run / "weights").error.startswith("segmentation of patient-1 is still missing")
    assert files(run) == before


@pytest.fixture(scope="module")
def stage_1(run: Path, one_network: Ended) -> Path:
    """The other model's, and what needs both; the first is not trained again."""
    before = {path: when for path, when in files(run).items() if "models" in path.parts or "out_of_fold" in path.parts}
    ended = shell("segmentation", run, "--workers", "1")
    assert ended.code == 0, ended.errors
    assert before
    assert before.items() <= files(run).items()
    record = Workspace.open(run).segmentation
    assert record.lesion_centers_xyz.keys() == {p.patient_id for p in Workspace.open(run).patients}
    return run


def test_stages_2_and_3_of_one_model(stage_1: Path) -> None:
    run = stage_1
    assert shell("hpv", run).error.startswith("radiomics of 16 patients are missing")
    ended = shell("hpv", run, "--only", "patient-1", "--workers", "1")
    assert ended.code == 0, ended.errors
    assert "patient-1, the patients of its fold, the network alone: AUC " in ended.output
    assert "hpv of patient-0 is still missing" in ended.output
    assert not (run / "hpv.json").exists()

    refused = shell("survival", run, "--only", "patient-0").error
    assert refused.startswith("survival starts from the networks of hpv: hpv of patient-0 is still missing")
    ended = shell("survival", run, "--only", "patient-1", "--workers", "1")
    assert ended.code == 0, ended.errors
    assert "patient-1, the patients of its fold, the network alone: C-index " in ended.output
    assert "survival of patient-0 is still missing" in ended.output


@pytest.fixture(scope="module")
def finished(stage_1: Path) -> Path:
    """The whole run, with no setting named again; radiomics are noise, as of such masks they take minutes."""
    workspace, rng = Workspace.open(stage_1), np.random.default_rng(0)
    for patient in workspace.patients:
        path = workspace.features_file(patient.patient_id)
        path.parent.mkdir(exist_ok=True)
        np.save(path, rng.normal(size=len(feature_names(workspace.profile.radiomics))))
    before = {path: path.stat().st_mtime_ns for path in stage_1.rglob("network.safetensors")}
    ended = shell("ensemble", COHORT, stage_1, "--workers", "1")
    assert ended.code == 0, ended.errors
    assert "wrote 2 models" in ended.output
    assert len(before) >= 2
    assert before.items() <= files(stage_1).items()
    return stage_1


def test_weights_carry_the_changed_settings(finished: Path) -> None:
    ensemble = load_ensemble(finished / "weights")
    assert [member.name for member in ensemble.members] == ["patient-0", "patient-1"]
    assert ensemble.profile == load_profile("micro", ["training.segmentation.steps=3"])


def test_weights_of_other_training_are_written_over_by_force_alone(
    finished: Path, tiny_ensemble: Path, tmp_path: Path
) -> None:
    weights = Path(shutil.copytree(tiny_ensemble, tmp_path / "weights"))
    (weights / "MODEL_CARD.md").write_text("mine")
    before = files(weights)
    wanted = f"{weights / 'manifest.json'}: of other training than {finished}; --force writes over that ensemble"
    assert shell("export", finished, weights).error == wanted
    assert shell("ensemble", COHORT, finished, "--weights", weights).error == wanted
    assert files(weights) == before
    (weights / "manifest.json").write_text("{")
    assert shell("export", finished, weights).error == wanted

    assert shell("export", finished, weights, "--force").code == 0
    assert [member.name for member in load_ensemble(weights).members] == ["patient-0", "patient-1"]
    assert (weights / "MODEL_CARD.md").read_text() == "mine"
    assert shell("export", finished, weights).code == 0  # of the same training
    load_ensemble(weights)


def test_a_new_run_does_not_begin_where_its_weights_could_not_be_written(tiny_ensemble: Path, tmp_path: Path) -> None:
    before = files(tiny_ensemble)
    ended = shell("ensemble", COHORT, tmp_path / "run", *SMALL, "--weights", tiny_ensemble, "--workers", "1")
    assert "--force writes over that ensemble" in ended.error
    assert not (tmp_path / "run/patches").exists()
    assert files(tiny_ensemble) == before


# the published networks

REDUCED = (
    "preprocess.spacing_mm=6.0",
    "preprocess.roi_size_xyz=[32, 32, 48]",
    "inference.window_xyz=[32, 32, 48]",
    "inference.overlap=0.0",
    "inference.lesion_crop_xyz=[32, 32, 16]",
    *(f"training.{stage}.{key}" for stage in NETWORK_STAGES for key in ("steps=1", "batch=1", "crop_xyz=[32, 32, 16]")),
    "radiomics.filters.log_sigmas_mm=[]",
    "radiomics.filters.wavelet=null",
    "radiomics.feature_classes=[firstorder]",  # untrained networks call half of a patient a lesion
    "forest.trees=[10]",
    "forest.depth=[3]",
    "forest.minimum_leaf=[3]",
    "forest.inner_folds=2",
    "forest.inner_repeats=1",
)


def test_the_published_widths_go_through_every_step(tmp_path: Path) -> None:
    """On coarse images, one step a network."""
    changes = [part for change in REDUCED for part in ("--set", change)]
    run = tmp_path / "run"
    ended = shell(
        "ensemble", COHORT, run, "--profile", "paper", "--folds", "2", "--no-center-out", "--workers", "1", *changes
    )
    assert ended.code == 0, ended.errors
    ensemble = load_ensemble(run / "weights")
    assert ensemble.profile == load_profile("paper", REDUCED)
    assert ensemble.profile.network == load_profile("paper").network
    assert ensemble.stages == NETWORK_STAGES
    files = [
        run / "weights" / member.name / f"{stage}.safetensors"
        for member in ensemble.members
        for stage in NETWORK_STAGES
    ]
    assert all(file.stat().st_size > 36e6 for file in files)  # 18.3 M parameters of 16 bits


# how a program ends

WITHOUT = """
import importlib, io, sys
from contextlib import redirect_stdout
for name in ("dask", "distributed", "imblearn", "lifelines", "lightning", "openpyxl", "pandas", "skglm", "tensorboard"):
    sys.modules[name] = None  # importing it now raises ModuleNotFoundError
from mmpl.training.command import run_program
for program in sys.argv[1].split(","):
    sys.argv = [f"train.{program}", "--help"]
    main = importlib.import_module(f"train.{program}").main
    output = io.StringIO()
    try:
        with redirect_stdout(output):
            run_program(main)
    except SystemExit as ended:
        assert not ended.code, (program, ended.code)
    assert "Usage" in output.getvalue(), program
"""


def test_help_needs_no_training_package() -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", WITHOUT, ",".join(PROGRAMS)], check=True)


@pytest.mark.parametrize("program", ["train.plan", "train.experiments.tables"])
def test_help_comes_whatever_backend_a_notebook_names(program: str, root: Path) -> None:
    """They import matplotlib before they begin."""
    environment = {**os.environ, "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    subprocess.run([sys.executable, "-m", program, "--help"], env=environment, cwd=root, check=True)


@pytest.mark.parametrize("package", ["lightning", "imblearn", "lifelines", "skglm"])
def test_a_missing_package_is_named_before_anything_begins(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    ended = shell("ensemble", COHORT, tmp_path / "run", *SMALL)
    assert ended.error == f"{package} is not installed: {sys.executable} -m pip install -r requirements-train.txt"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("what is wrong"), "what is wrong"),
        (RuntimeError("several\n  lines"), "RuntimeError: several lines (MMPL_DEBUG=1 shows where)"),
        (KeyError("a"), "KeyError: 'a' (MMPL_DEBUG=1 shows where)"),
        (
            ModuleNotFoundError("no", name="openpyxl.cell"),
            f"openpyxl is not installed: {sys.executable} -m pip install -r requirements-train",
        ),
    ],
)
def test_whatever_goes_wrong_is_one_line(error: Exception, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.delenv("MMPL_DEBUG", raising=False)
    monkeypatch.setattr("mmpl.training.radiomics.Workspace.open", fail)
    assert shell("radiomics", "run").error.startswith(line)
    monkeypatch.setenv("MMPL_DEBUG", "1")
    monkeypatch.setattr(sys, "argv", ["train.radiomics", "run"])
    with pytest.raises(type(error)):
        run_program(importlib.import_module("train.radiomics").main)
