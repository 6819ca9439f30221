"""A few damaged inputs of each kind through the real program, and every input that ever broke its rules."""

from collections.abc import Callable, Iterator
from pathlib import Path

import fuzz_dicom
import pytest
from fuzz import Target, fuzz
from fuzz_tables import Tables, fuzz_tables

FOUND = sorted(path for path in (Path(__file__).parents[1] / "found").glob("*") if path.suffix != ".md")


@pytest.fixture
def target(
    write_input: Callable[..., Path], blind_ensemble: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Target:
    folder = write_input().rename(tmp_path / "sound")
    target = Target(folder, blind_ensemble, tmp_path)
    for name, value in target.environment.items():
        monkeypatch.setenv(name, value)
    return target


@pytest.mark.parametrize(("kind", "count"), [("record", 60), ("header", 60), ("image", 30)])
def test_damaged_inputs_are_answered_or_refused_by_the_rules(target: Target, kind: str, count: int) -> None:
    outcomes = fuzz(target, kind, count, seed=20251126)
    assert outcomes["broken"] == 0
    assert outcomes["refused"] > 0
    assert outcomes["answered"] > 0 or kind == "image"  # of compressed voxels every bit is checked


def test_damaged_headers_of_nifti_too(
    write_input: Callable[..., Path], blind_ensemble: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Target(write_input(suffix=".nii").rename(tmp_path / "sound"), blind_ensemble, tmp_path)
    for name, value in target.environment.items():
        monkeypatch.setenv(name, value)
    outcomes = fuzz(target, "nifti", 60, seed=20251126)
    assert outcomes["broken"] == 0
    assert outcomes["refused"] > 0
    assert outcomes["answered"] > 0


def test_damaged_tables_are_read_whole_or_refused(tmp_path: Path) -> None:
    outcomes = fuzz_tables(Tables(tmp_path), 200, seed=20251126)
    assert outcomes["broken"] == 0
    assert outcomes["check read, evaluate read"] > 0
    assert outcomes["check refused, evaluate refused"] > 0


@pytest.fixture(scope="module")
def study(blind_ensemble: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[fuzz_dicom.Target]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMPL_WEIGHTS", str(blind_ensemble))
        patch.setenv("MMPL_TIME_BUDGET_S", "0")
        yield fuzz_dicom.Target(*fuzz_dicom.small_study(), tmp_path_factory.mktemp("study"))


@pytest.mark.parametrize(("kind", "count"), [("header", 60), ("cut", 30), ("pixels", 10)])
def test_damaged_dicom_is_answered_or_refused_without_a_word_of_the_patient(
    study: fuzz_dicom.Target, kind: str, count: int
) -> None:
    outcomes = fuzz_dicom.fuzz_dicom(study, kind, count, seed=20251126)
    assert outcomes["broken"] == 0
    assert outcomes["refused"] > 0
    assert kind != "header" or min(outcomes["answered"], outcomes["read"]) > 0


@pytest.mark.parametrize("kind", ["record", "header", "image"])
def test_and_as_processes(target: Target, kind: str) -> None:
    assert fuzz(target, kind, 2, seed=7, process=True)["broken"] == 0


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.name)
def test_what_once_broke_the_rules(target: Target, path: Path) -> None:
    _, name, _ = path.name.split("-")
    target.put(name, path.read_bytes())
    assert target.as_a_process() in ("answered", "refused")
