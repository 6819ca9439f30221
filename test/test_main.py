"""The command line: what each command prints, and that a foreseen error is one line without a traceback."""

import csv
import json
import platform
import subprocess
import sys

import pytest
from cohorts import write_images, write_table

from mmpl.__main__ import main
from mmpl.names import Stage
from mmpl.weights import digest


@pytest.fixture
def run(monkeypatch, capfd):
    """Run a command in this process: exit code, stdout, stderr."""

    def start(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setenv("COLUMNS", "160")
        monkeypatch.setattr("sys.argv", ["mmpl", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        printed = capfd.readouterr()
        return int(stopped.value.code or 0), printed.out, printed.err

    return start


def rows_of(table: str) -> dict[str, list[str]]:
    """Cells of a printed table by their first."""
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in table.splitlines() if "│" in line]
    return {row[0]: row[1:] for row in rows}


@pytest.mark.slow
def test_info_on_the_published_widths(run):
    code, text, error = run("info", "--profile", "paper")
    assert (code, error) == (0, "")
    rows = rows_of(text)
    assert set(rows) == {"segmentation", "hpv", "survival"}
    parameters, size, gflop = rows["segmentation"]
    assert int(parameters.replace(",", "")) == pytest.approx(18.4e6, rel=0.01)
    assert size == "128 x 128 x 128"
    assert float(gflop) == pytest.approx(480, rel=0.05)
    assert "weights:" not in text


def test_info_on_the_loaded_weights(run, tiny_ensemble, monkeypatch):
    monkeypatch.setenv("MMPL_WEIGHTS", str(tiny_ensemble))
    code, text, error = run("info")
    assert (code, error) == (0, "")
    assert "profile micro" in text
    assert "weights: 2 models from" in text
    assert str(tiny_ensemble) in text.replace("\n", "")
    assert "trained for segmentation, hpv, survival on noise, 24 patients" in text
    assert "unlike" not in text


def test_info_as_json(run, tiny_ensemble, monkeypatch):
    monkeypatch.setenv("MMPL_WEIGHTS", str(tiny_ensemble))
    code, text, error = run("info", "--json")
    assert (code, error) == (0, "")
    content = json.loads(text)
    assert content["versions"]["python"] == platform.python_version()
    assert (content["profile"], content["weights"]["sha256"]) == ("micro", digest(tiny_ensemble / "manifest.json"))
    assert content["networks"]["hpv"]["parameters"] > 1000
    assert content["threads"] >= 1
    code, text, _ = run("info", "--json", "--profile", "micro")
    assert "weights" not in json.loads(text)


def test_info_on_weights_of_some_stages(run, partial_ensemble, monkeypatch):
    monkeypatch.setenv("MMPL_WEIGHTS", str(partial_ensemble(Stage.SEGMENTATION, Stage.HPV)))
    code, text, error = run("info")
    assert (code, error) == (0, "")
    assert "trained for segmentation, hpv on noise, 24 patients" in text


def test_info_tells_what_the_files_beside_say_otherwise(run, tiny_ensemble, monkeypatch, other_resources):
    monkeypatch.setenv("MMPL_WEIGHTS", str(tiny_ensemble))
    code, text, error = run("info")
    assert (code, error) == (0, "")
    for difference in (
        "preprocess.spacing_mm is 6.0, not 9.0",
        "radiomics.filters.log_sigmas_mm is [1.0, 3.0], not [2.0, 4.0]",
        "clinical.fields.Age.range is [1.0, 120.0], not [1.0, 20.0]",
    ):
        assert f"unlike resources/profiles/micro.yaml, {difference}" in text


def test_info_on_the_shipped_weights(run, shipped, monkeypatch):
    monkeypatch.delenv("MMPL_WEIGHTS", raising=False)
    code, text, error = run("info")
    assert (code, error) == (0, "")
    assert "profile demo" in text
    assert "weights: 10 models from" in text


@pytest.mark.slow
def test_phantom_makes_a_cohort(run, tmp_path):
    out = tmp_path / "cohort"
    code, _, error = run("phantom", "--patients", 1, "--seed", 5, "--out", out, "--centers", "unseen")
    assert (code, error) == (0, "")
    (table,) = (path for path in out.glob("*.csv") if path.name != "truth.csv")
    with table.open(newline="") as file:
        (row,) = csv.DictReader(file)
    name = row["PatientID"]
    assert (out / name / f"{name}__CT.nii.gz").is_file()
    assert (out / name / f"{name}__PT.nii.gz").is_file()
    assert (out / "truth.csv").is_file()
    oracle = json.loads((out / "oracle.json").read_text())
    assert set(oracle) >= {"hpv_auc", "hpv_balanced_accuracy", "c_index"}
    assert oracle["version"] == 2


def test_no_command_shows_the_help(run):
    code, text, error = run()
    assert code == 2
    for command in ("phantom", "predict", "evaluate", "info"):
        assert command in text + error


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("info", "--profile", "future"), "no profile 'future'; there are demo, micro, paper"),
        (("info",), "manifest.json: no such file"),
        (("predict", "absent", "out"), "manifest.json: no such file"),
        (("evaluate", "absent", "absent"), "absent"),
    ],
)
def test_a_foreseen_error_is_one_line(run, monkeypatch, tmp_path, arguments, expected):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MMPL_WEIGHTS", str(tmp_path / "nothing"))
    code, text, error = run(*arguments)
    assert code == 1
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert expected in error
    assert "Traceback" not in text + error
    assert list(tmp_path.iterdir()) == []


def test_a_cohort_that_is_not_there_is_one_line(run, monkeypatch, tmp_path, tiny_ensemble):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MMPL_WEIGHTS", str(tiny_ensemble))
    assert run("predict", "absent", "out") == (1, "", "error: absent: no such folder\n")
    assert list(tmp_path.iterdir()) == []


def test_a_cohort_is_checked_before_it_is_answered(run, tmp_path, tiny_ensemble):
    """All of it in one go: a row without images, a PET that was cut; a table of names alone is enough."""
    folder = write_table(tmp_path / "cohort", *({"PatientID": name} for name in ("A", "B", "C")))
    for name in "AB":
        write_images(folder, name)
    pet = folder / "B/B__PT.nii.gz"
    whole = pet.read_bytes()
    pet.write_bytes(whole[:-9])
    code, text, error = run("check", folder, "--weights", tiny_ensemble)
    assert (code, text) == (1, "")
    assert f"error: {folder / 'EHR.csv'}: 3 problems\n" in error
    assert "patient C: no CT image" in error
    assert "patient C: no PT image" in error
    assert f"patient B: {pet}: the file is damaged" in error
    assert "note: no column 'Age': not known of any patient" in error
    assert "Relapse" not in error  # which nobody looks at for an answer
    pet.write_bytes(whole)
    write_table(folder, *({"PatientID": name} for name in ("A", "B")))
    code, text, _ = run("check", folder, "--weights", tiny_ensemble)
    assert (code, text) == (0, f"{folder}: fit to be answered, 2 patients\n")


def test_whatever_goes_wrong_is_one_line(run, monkeypatch, tmp_path):
    def fail(*_: object, **__: object) -> None:
        raise KeyError("unforeseen")

    monkeypatch.delenv("MMPL_DEBUG", raising=False)
    monkeypatch.setattr("mmpl.evaluate.evaluate", fail)
    assert run("evaluate", tmp_path, tmp_path) == (1, "", "error: KeyError: 'unforeseen' (MMPL_DEBUG=1 shows where)\n")
    monkeypatch.setenv("MMPL_DEBUG", "1")
    monkeypatch.setattr("sys.argv", ["mmpl", "evaluate", str(tmp_path), str(tmp_path)])
    with pytest.raises(KeyError):
        main()


@pytest.mark.parametrize(
    "arguments",
    [
        ("phantom", "--patients", "0", "--seed", "1", "--out", "x"),
        ("phantom", "--patients", "1", "--seed", "1", "--out", "x", "--hpv-positive", "1.5"),
        ("phantom", "--patients", "1", "--seed", "1", "--out", "x", "--centers", "mars"),
        ("phantom", "--patients", "1", "--seed", "1", "--out", "x", "--version", "3"),
        ("divine",),
    ],
)
def test_a_wrong_option_is_a_usage_error(run, monkeypatch, tmp_path, arguments):
    monkeypatch.chdir(tmp_path)
    code, text, error = run(*arguments)
    assert code == 2
    assert "Usage" in error
    assert "Traceback" not in text + error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_closed_streams_change_no_exit_code(root, closed):
    for arguments, code in (("--version", 0), ("evaluate absent absent", 1)):
        command = ["bash", "-c", f"{sys.executable} -m mmpl {arguments} {closed}"]
        assert subprocess.run(command, cwd=root, capture_output=True).returncode == code


def test_the_module_runs_as_a_process(root):
    run = subprocess.run(
        [sys.executable, "-m", "mmpl", "evaluate", "absent", "absent"], cwd=root, capture_output=True, text=True
    )
    assert run.returncode == 1
    assert run.stderr.startswith("error: ")
    assert run.stderr.count("\n") == 1
