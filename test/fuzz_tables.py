"""Throw damaged tables at training's check and at scoring: `python test/fuzz_tables.py --tables 5000 --seed 1`.

A tiny cohort's table, as CSV or XLSX, or the table of predictions is changed as people and programs change them. Every
one is read whole, no row lost, or refused with what is wrong; none ends in a traceback or an error nobody foresaw.
`whole/test_fuzz.py` runs a few.
"""

import argparse
import contextlib
import csv
import io
import logging
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "test")]

from cohorts import CT_GRID, ROW, mask_on, write_images  # noqa: E402
from fuzz import VALUES, Broken, damage  # noqa: E402
from openpyxl import Workbook  # noqa: E402

from mmpl.errors import explain  # noqa: E402
from mmpl.evaluate import evaluate  # noqa: E402
from mmpl.io.cohort import read_cohort  # noqa: E402
from mmpl.io.images import write_image  # noqa: E402
from mmpl.names import Stage  # noqa: E402
from mmpl.profile import load_profile  # noqa: E402
from mmpl.training.check import check_cohort  # noqa: E402
from mmpl.training.parallel import Engine  # noqa: E402
from mmpl.training.workspace import RunSettings  # noqa: E402

PATIENTS = [f"P{number}" for number in range(6)]
ODD = [str(value) for value in VALUES if not isinstance(value, str) or value.isprintable()] + [
    "+", "-", "pos", "p16-", "#N/A", "=1+1", "61 years", "12,5", "P1", "p1", "P1 ", "../P1", "1e9", "sep=;", '"', "'",
    ";", "0.9999", "412.0", "NA", "n/a", "2", "-1", "14", "a\nb",
]  # fmt: skip
Rows = list[list[str]]


def sound_rows() -> Rows:
    """The cohort's table as it should be."""
    own = [{"PatientID": name, "HPV Status": str(i % 2), "RFS": str(400 + i)} for i, name in enumerate(PATIENTS)]
    return [list(ROW), *(list((ROW | row).values()) for row in own)]


def sound_predictions() -> Rows:
    """The predictions' table as it should be."""
    rows = [[name, str(i / 7), str(i / 6), str(i % 2), "1.0", "0.5", ""] for i, name in enumerate(PATIENTS)]
    return [["PatientID", "risk_score", "hpv_probability", "hpv_status", "gtvp_ml", "gtvn_ml", "flags"], *rows]


def change_cells(rng: np.random.Generator, rows: Rows) -> Rows:
    """Change one to four things as a person or a spreadsheet program does."""
    rows = [list(row) for row in rows]
    for _ in range(rng.integers(1, 5)):
        line, way = int(rng.integers(len(rows))), rng.integers(9)
        column = int(rng.integers(max(1, len(rows[line]))))
        if way < 4 and rows[line]:
            rows[line][column % len(rows[line])] = ODD[rng.integers(len(ODD))]
        elif way == 4:
            rows.insert(line, list(rows[int(rng.integers(len(rows)))]))
        elif way == 5 and len(rows) > 1:
            rows.pop(line)
        elif way == 6:
            rows[line] = rows[line][: rng.integers(len(rows[line]) + 1)]
        elif way == 7:
            rows.insert(line, [""] * int(rng.integers(0, 3)))
        else:
            rows = [[*row, ""] for row in rows]
    return rows


def to_csv(rng: np.random.Generator, rows: Rows) -> bytes:
    """Write a CSV as some program might, sometimes damaged."""
    text = io.StringIO()
    delimiter = ";" if rng.random() < 0.1 else "\t" if rng.random() < 0.05 else ","
    csv.writer(text, delimiter=delimiter, lineterminator=["\n", "\r\n", "\r"][rng.integers(3)]).writerows(rows)
    encoding = ["utf-8", "utf-8-sig", "utf-16", "latin-1"][int(rng.choice(4, p=[0.7, 0.2, 0.05, 0.05]))]
    content = text.getvalue().encode(encoding, "replace")
    return damage(rng, content) if content and rng.random() < 0.2 else content


def to_xlsx(rng: np.random.Generator, rows: Rows, folder: Path) -> bytes:
    """Write a workbook, numbers as numbers, with a spreadsheet's own oddities, sometimes damaged."""
    book = Workbook()
    sheet = book.active
    assert sheet is not None
    for row in rows:
        sheet.append([float(cell) if cell.isdigit() and rng.random() < 0.5 else _storable(cell) for cell in row])
    if rng.random() < 0.1:
        sheet.merge_cells(start_row=2, start_column=1, end_row=3, end_column=int(rng.integers(1, 4)))
    if rng.random() < 0.1:
        sheet.row_dimensions[int(rng.integers(1, 9))].hidden = True
    if rng.random() < 0.1:
        book.create_sheet("Dictionary").append(["PatientID" if rng.random() < 0.3 else "Variable"])
    path = folder / "made.xlsx"
    book.save(path)
    content = path.read_bytes()
    path.unlink()
    return damage(rng, content) if rng.random() < 0.2 else content


def _storable(cell: str) -> str:
    return "".join(character for character in cell if character.isprintable() and ord(character) < 0xD800)


class Tables:
    """A tiny cohort and its predictions, whose tables are replaced."""

    def __init__(self, work: Path) -> None:
        self.work, self.cohort, self.out = work, work / "cohort", work / "out"
        self.cohort.mkdir()
        self.out.mkdir()
        for name in PATIENTS:
            write_images(self.cohort, name, mask=mask_on(CT_GRID))
            write_image(self.out / f"{name}.nii.gz", mask_on(CT_GRID))
        profile = load_profile("micro")
        self.settings = RunSettings(str(self.cohort), profile, folds=2, center_out=False, stages=(Stage.SEGMENTATION,))

    def put(self, cohort: bytes, suffix: str, predictions: bytes) -> None:
        """Replace both tables."""
        for old in self.cohort.glob("EHR.*"):
            old.unlink()
        (self.cohort / f"EHR{suffix}").write_bytes(cohort)
        (self.out / "predictions.csv").write_bytes(predictions)

    def judge(self, patients: int | None) -> str:
        """Check and score; say whether the cohort was accepted, and raise `Broken` where the rules are.

        Args:
            patients: Number of rows that are there to be read; None where that cannot be told.
        """
        found = []
        for step in (
            lambda: check_cohort(self.settings, Engine(1)),
            lambda: evaluate(self.out, self.cohort, resamples=4),
        ):
            try:
                step()
                found.append("read")
            except Exception as error:
                text = explain(error)
                if not isinstance(error, ValueError) or isinstance(error, UnicodeError) or not text.strip():
                    raise Broken(f"{type(error).__name__}: {text}") from error
                if str(self.work) not in text:
                    raise Broken(f"names no file: {text}") from error
                found.append("refused")
        if patients is not None and "read" in found:
            there = len(read_cohort(self.cohort).patients)
            if there != patients:
                raise Broken(f"{there} patients of {patients} rows")
        return f"check {found[0]}, evaluate {found[1]}"


def fuzz_tables(tables: Tables, count: int, seed: int) -> Counter[str]:
    """Try so many tables; how many were read, refused and broken."""
    outcomes: Counter[str] = Counter()
    logging.disable(logging.WARNING)  # remarks on tables are not errors
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        suffix, patients = [".csv", ".xlsx"][rng.integers(2)], None
        rows, predictions = sound_rows(), sound_predictions()
        if rng.random() < 0.75:
            rows = change_cells(rng, rows)
        else:
            predictions = change_cells(rng, predictions)
        content = to_csv(rng, rows) if suffix == ".csv" else to_xlsx(rng, rows, tables.work)
        if suffix == ".csv" and content == _plain(rows):
            patients = sum(any(cell.strip() for cell in row) for row in rows[1:])
        tables.put(content, suffix, to_csv(rng, predictions))
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                outcomes[tables.judge(patients)] += 1
        except Broken as broken:
            outcomes["broken"] += 1
            print(f"table {number} of seed {seed}: {broken}", file=sys.__stderr__, flush=True)
    logging.disable(logging.NOTSET)
    return outcomes


def _plain(rows: Rows) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def main() -> int:
    """Fuzz as much as asked for; exit code 1 where anything broke the rules."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        outcomes = fuzz_tables(Tables(Path(work)), asked.tables, asked.seed)
    print(f"{asked.tables} damaged tables: {dict(outcomes)}", flush=True)
    return int(outcomes["broken"] > 0)


if __name__ == "__main__":
    sys.exit(main())
