"""DICOM's packages are read when they are needed, and never by what answers the challenge."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        ("mmpl.predict, mmpl.export, mmpl.__main__", ("pydicom", "highdicom")),
        ("mmpl.algorithm, mmpl.io.server", ("pydicom", "highdicom", "mmpl.dicom")),
    ],
)
def test_what_a_start_imports(root: Path, modules: str, absent: tuple[str, ...]) -> None:
    code = f"import sys, {modules}; print([name for name in {absent} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
