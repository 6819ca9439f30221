"""Compare the sample case's answers with those kept in `test/expected`, as the platform would see them.

`test/expected` is what `./run.sh test/input test/expected` left with the shipped weights, without the picture, and
`log.txt` the lines that it printed of its answers. After new weights, run it again and look at the picture first.
"""

import json
import re
from pathlib import Path

import numpy as np
import SimpleITK as sitk

EXPECTED = Path(__file__).parent / "expected"
MASK, RISK, HPV = "images/tumor-lymph-node-segmentation/output.mha", "rfs.json", "hpv-status.json"
MASK_2026 = "images/head-neck-tumor-segmentation/output.mha"
ALL = frozenset({MASK, RISK, HPV})

LEAST_DICE = {"cpu": 0.999, "gpu": 0.99}
HPV_WITHIN = 0.01
RISK_WITHIN = {"cpu": 0.02, "gpu": 0.1}
"""In SDs of the training cohort, which is what a risk score counts in."""


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
    """Assert what weights that neither stage nor are calibrated answer to HECKTOR 2026, and that they say so."""
    assert files(output) == {MASK_2026, RISK}
    compare_mask(output / MASK_2026, device)
    lacking, no_days, *_ = log.splitlines()
    assert lacking.startswith("note: hecktor-2026 asks for t-stage, n-stage, too")
    assert no_days.startswith("note: rfs.json is the negative risk score, no number of days")
    found, risk = (json.loads((folder / RISK).read_text()) for folder in (output, EXPECTED))
    assert abs(found + risk) <= RISK_WITHIN[device]


def _probability(log: str) -> float:
    """Read the HPV probability, which is no answer of the challenge's, from what the program prints."""
    (probability,) = re.findall(r"^HPV .*probability ([\d.]+)", log, re.MULTILINE)
    return float(probability)
