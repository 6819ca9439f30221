"""`setup.sh`, in a project of its own whose requirements are tiny packages that lie beside it."""

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def wheel(folder: Path, name: str, module: str) -> str:
    """Write a package of one empty module; the line of a requirements file that installs it."""
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{module}.py", "")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return f"./{name}-1.0-py3-none-any.whl\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the scripts see of the project, after `make_venv requirements.txt`."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(ROOT / "setup.sh", folder)
    (folder / "requirements.txt").write_text(wheel(folder, "first", "first_module"))
    (folder / "requirements-train.txt").write_text("-r requirements.txt\n")
    (folder / "requirements-dev.txt").write_text("-r requirements-train.txt\n" + wheel(folder, "more", "more_module"))
    ran = make_venv(folder, MMPL_PYTHON=sys.executable)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "installing requirements.txt" in ran.stdout
    return folder


@pytest.fixture
def project(made: Path, tmp_path: Path) -> Path:
    """A copy, to be changed."""
    return Path(shutil.copytree(made, tmp_path / "project", symlinks=True))


def make_venv(project: Path, requirements: str = "requirements.txt", **environment: str) -> subprocess.CompletedProcess:
    surroundings = {name: value for name, value in os.environ.items() if name != "MMPL_PYTHON"} | environment
    command = ["/bin/bash", "-euc", f". ./setup.sh; make_venv {requirements}"]
    return subprocess.run(command, cwd=project, env=surroundings, capture_output=True, text=True)


def refused(ran: subprocess.CompletedProcess) -> str:
    """The one line that it ends with."""
    assert ran.returncode == 1, ran
    assert ran.stderr.startswith("error: ")
    assert ran.stderr.count("\n") == 1
    return ran.stderr


def holds(project: Path, module: str) -> bool:
    ran = subprocess.run([project / ".venv/bin/python", "-c", f"import {module}"], capture_output=True)
    return ran.returncode == 0


def version(python: str | Path) -> str:
    """An interpreter's version, as 3.12; empty where it does not start."""
    ask = [python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    return subprocess.run(ask, capture_output=True, text=True).stdout.strip()


def other_python() -> str:
    """A Python of 3.11 to 3.13 that is not the tests' own."""
    for minor in {11, 12, 13} - {sys.version_info.minor}:
        for found in (f"python3.{minor}", *map(str, Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/python"))):
            try:
                if version(found) == f"3.{minor}":
                    return found
            except FileNotFoundError:
                continue
    pytest.skip("this machine has no second Python of 3.11 to 3.13")


def test_what_is_there_is_not_installed_again(project: Path) -> None:
    assert holds(project, "first_module")
    again = make_venv(project)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")


def test_more_requirements_are_added_and_serve_fewer(project: Path) -> None:
    assert not holds(project, "more_module")
    kept = project / ".venv/kept"
    kept.touch()
    assert "installing requirements-dev.txt" in make_venv(project, "requirements-dev.txt").stdout
    assert holds(project, "more_module")
    assert kept.exists()
    assert make_venv(project).stdout == ""


def test_other_pins_leave_nothing_of_the_former_beside_them(project: Path) -> None:
    """Two packages that bring the same module would overwrite each other's files."""
    (project / "requirements.txt").write_text(wheel(project, "second", "second_module"))
    assert "installing" in make_venv(project).stdout
    assert holds(project, "second_module")
    assert not holds(project, "first_module")


def test_a_venv_whose_python_is_gone_is_made_anew(project: Path) -> None:
    for link in (project / ".venv/bin").glob("python*"):
        link.unlink()
        link.symlink_to("/nowhere/python")
    assert make_venv(project, MMPL_PYTHON=sys.executable).returncode == 0
    assert holds(project, "first_module")


def test_the_python_that_is_asked_for_is_taken_and_kept(project: Path) -> None:
    other = other_python()
    ran = make_venv(project, MMPL_PYTHON=other)
    assert ran.returncode == 0, ran.stderr
    assert version(project / ".venv/bin/python") == version(other)
    assert holds(project, "first_module")
    assert make_venv(project).stdout == ""  # unasked, the one that is there serves
    assert version(project / ".venv/bin/python") == version(other)


@pytest.mark.parametrize("claims", ["3.10", "3.14", ""])
def test_a_python_that_will_not_do_is_refused(project: Path, claims: str) -> None:
    named = project / "python"
    named.write_text(f"#!/bin/sh\necho {claims}\nexit 1\n")
    named.chmod(0o755)
    assert "MMPL_PYTHON" in (line := refused(make_venv(project, MMPL_PYTHON=str(named))))
    assert str(named) in line
    assert "3.11" in line
    assert holds(project, "first_module")


def test_what_the_machine_lacks_is_said_in_one_line(project: Path) -> None:
    """With nothing on the PATH but what the script itself uses."""
    tools = project / "tools"
    tools.mkdir()
    for tool in ("cat", "head", "sha256sum", "grep"):
        (tools / tool).symlink_to(f"/usr/bin/{tool}")
    (project / ".venv/installed").write_text("")
    line = refused(make_venv(project, PATH=str(tools)))
    assert "gcc" in line
    assert "Python" not in line
    shutil.rmtree(project / ".venv")
    line = refused(make_venv(project, PATH=str(tools)))
    assert "gcc" in line
    assert "Python 3.11" in line


def test_radiomics_run_on_the_cpu() -> None:
    """The package has code for CUDA too, which is built where nvcc is found unless it is told not to."""
    spec = importlib.util.find_spec("radiomics._cshape")
    assert spec is not None
    assert spec.origin is not None
    assert b"cuda" not in Path(spec.origin).read_bytes().lower()


@pytest.fixture
def runnable(project: Path) -> Path:
    """The project with `run.sh`, and a program that says which folders it was given."""
    shutil.copy(ROOT / "run.sh", project)
    names = ("INPUT", "OUTPUT", "PICTURE", "REPORT", "PAGE", "WEIGHTS")
    lines = [f'print(os.path.abspath(os.environ.get("MMPL_{name}", "")))' for name in names]
    (project / "inference.py").write_text("\n".join(["import os", *lines, ""]))
    return project


def given(program: Path, where: Path, *arguments: str, **environment: str) -> list[str]:
    ran = subprocess.run(
        [program, *arguments], cwd=where, env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    return ran.stdout.splitlines()


@pytest.mark.parametrize("link", [False, True])
def test_folders_are_those_of_whoever_calls(runnable: Path, tmp_path: Path, link: bool) -> None:
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    program = runnable / "run.sh"
    if link:
        program = elsewhere / "mmpl"
        program.symlink_to(runnable / "run.sh")
    before = sorted(path.name for path in runnable.iterdir())
    source, target, picture, report, page, weights = given(program, elsewhere, "case", "out", MMPL_WEIGHTS="mine")
    assert (source, target, weights) == (f"{elsewhere}/case", f"{elsewhere}/out", f"{elsewhere}/mine")
    assert (picture, report) == (f"{elsewhere}/out/picture.png", f"{elsewhere}/out/report.json")
    assert page == f"{elsewhere}/out/report.html"
    assert given(program, elsewhere)[:2] == [f"{runnable}/test/input", f"{runnable}/output"]
    assert given(program, elsewhere, "/case", "/out")[:2] == ["/case", "/out"]
    assert given(runnable / "run.sh", runnable, "case", "out")[:2] == [f"{runnable}/case", f"{runnable}/out"]
    assert sorted(path.name for path in runnable.iterdir()) == before
