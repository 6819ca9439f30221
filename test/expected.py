"""Compare the sample case's answers with those kept in `test/expected`, as the platform would see them.

`test/expected` is what `./run.sh test/input test/expected` left with the shipped weights, without report, page and
picture, and `log.txt` the lines that it printed of its answers; `test/expected/hecktor-2026` what it left with that
edition, but for the mask, which is the same. After new weights, run both again and look at the picture first.
"""

import json
import re
from pathlib import Path

import numpy as np
import SimpleITK as sitk

EXPECTED = Path(__file__).parent / "expected"
MASK, RISK, HPV = "images/tumor-lymph-node-segmentation/output.mha", "rfs.json", "hpv-status.json"
MASK_2026, STAGES = "images/head-neck-tumor-segmentation/output.mha", ("t-stage.json", "n-stage.json")
ALL = frozenset({MASK, RISK, HPV})

LEAST_DICE = {"cpu": 0.999, "gpu": 0.99}
HPV_WITHIN = 0.01
RISK_WITHIN = {"cpu": 0.02, "gpu": 0.1}
"""In SDs of the training cohort, which is what a risk score counts in."""
DAYS_WITHIN = {"cpu": 10, "gpu": 50}


def files(folder: Path) -> set[str]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def compare(output: Path, log: str, wanted: frozenset[str] = ALL, device: str = "cpu") -> None:
    """Assert that a folder holds the wanted answers and no other, each as expected; `log` is what was printed."""
    assert files(output) == wanted
    if MASK in wanted:
        compare_mask(output / MASK, device)
    if RISK in wanted:
        found_risk, expected_risk = (json.loads((folder / RISK).read_text()) for folder in (output, EXPECTED))
        assert abs(found_risk - expected_risk) <= RISK_WITHIN[device]
    if HPV in wanted:
        assert (output / HPV).read_text() == (EXPECTED / HPV).read_text()
        found_hpv, expected_hpv = map(_probability, (log, (EXPECTED / "log.txt").read_text()))
        assert abs(found_hpv - expected_hpv) <= HPV_WITHIN


def compare_mask(path: Path, device: str = "cpu") -> None:
    """Assert that a mask, wherever its edition wants it, is as expected."""
    found, expected = (sitk.ReadImage(str(each)) for each in (path, EXPECTED / MASK))
    for header in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection", "GetPixelID"):
        assert getattr(found, header)() == getattr(expected, header)(), header
    ours, theirs = (sitk.GetArrayViewFromImage(image) for image in (found, expected))
    for label in (1, 2):
        both, total = np.sum((ours == label) & (theirs == label)), np.sum(ours == label) + np.sum(theirs == label)
        assert 2 * both / total >= LEAST_DICE[device], label


def compare_2026(output: Path, log: str, device: str = "cpu") -> None:
    """Assert that a folder holds HECKTOR 2026's answers as expected, and that nothing is said to be missing."""
    assert files(output) == {MASK_2026, RISK, *STAGES}
    compare_mask(output / MASK_2026, device)
    expected = EXPECTED / "hecktor-2026"
    for name in STAGES:
        assert (output / name).read_text() == (expected / name).read_text()
    found_days, expected_days = (json.loads((folder / RISK).read_text()) for folder in (output, expected))
    assert abs(found_days - expected_days) <= DAYS_WITHIN[device]
    assert "hecktor-2026 asks for" not in log
    assert "no number of days" not in log


def _probability(log: str) -> float:
    """Read the HPV probability, which is no answer of the challenge's, from what the program prints."""
    (probability,) = re.findall(r"^HPV .*probability ([\d.]+)", log, re.MULTILINE)
    return float(probability)
