"""Throw damaged inputs at the challenge's program: `python test/fuzz.py CASE WEIGHTS --records 20000 ...`.

Every input is either answered, all three answers complete, or refused with exit code 1 and one line on stderr; none
hangs, none leaves a partial output, none prints a traceback. What breaks that is written to a folder, to become a
regression file in `test/found`. `whole/test_fuzz.py` runs a few of each.
"""

import argparse
import contextlib
import io
import json
import os
import runpy
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
ANSWERS = {"images/tumor-lymph-node-segmentation/output.mha", "rfs.json", "hpv-status.json"}
SECONDS = 60
"""An input that takes longer hangs."""

VALUES: list[object] = [
    None, "", " ", "unknown", "NaN", float("nan"), float("inf"), 0, 1, 2, -5, 900, 61, 61.5, "61", "61,5", "1.0", 1.0,
    True, False, "Male", "male", "M", "M0", "m1", "MX", "M9", [], {}, [1], {"a": 1}, "ß" * 300, "\u0000", 10**400,
    -0.0, 1e308, "0x10", "1e3", "\u0661", "\ud800", "None", "null", "<NA>", "-", "?", "Yes", "never",
]  # fmt: skip
KEYS = ["Age", "Gender", "Tobacco Consumption", "Alcohol Consumption", "Performance Status", "Treatment", "M-stage"]
HEADER_VALUES = [
    "", "0", "-1", "1", "2", "3", "4", "nan", "inf", "1e300", "1e-300", "0 0 0", "1 1 1", "-1 -1 -1", "48 44 40",
    "99999 99999 99999", "48 44", "1 0 0 0 1 0 0 0 1", "0 0 0 0 0 0 0 0 0", "1 0 0 0 1 0 0 0 -1", "5 5 nan", "True",
    "False", "MET_SHORT", "MET_FLOAT", "MET_DOUBLE", "MET_UCHAR", "MET_ULONG_LONG", "MET_OTHER", "LOCAL", "LIST",
    "/etc/passwd", "../../secret", "a" * 2000,
]  # fmt: skip


def mutate_record(rng: np.random.Generator) -> bytes:
    """Make an `ehr.json` that is odd in one to four ways, sometimes no JSON at all."""
    record: dict[str, object] = {"Age": 61, "Gender": 1, "Performance Status": 1, "Treatment": 1, "M-stage": "M0"}
    record |= {"Tobacco Consumption": 0, "Alcohol Consumption": 1}
    for _ in range(rng.integers(1, 5)):
        key = KEYS[rng.integers(len(KEYS))]
        way = rng.integers(5)
        if way == 0:
            record.pop(key, None)
        elif way == 1:
            record["".join(c.upper() if rng.random() < 0.5 else c.lower() for c in key)] = record.pop(key, 1)
        elif way == 2:
            record["x" * int(rng.integers(1, 50))] = VALUES[rng.integers(len(VALUES))]
        else:
            record[key] = VALUES[rng.integers(len(VALUES))]
    items = list(record.items())
    rng.shuffle(items)
    with contextlib.suppress(ValueError):
        text = json.dumps(dict(items), ensure_ascii=bool(rng.random() < 0.5))
        way = rng.random()
        if way < 0.1:
            text = text[:-1] + ",}"
        content = text.encode("utf-8", "surrogatepass")
        if 0.1 < way < 0.15:
            content = b"\xef\xbb\xbf" + content
        if way > 0.85:
            content = damage(rng, content)
        return content
    return b"{" + b'"Age": ' + b"9" * 5000 + b"}"


def damage(rng: np.random.Generator, content: bytes) -> bytes:
    """Cut, flip bits of, repeat, remove or insert a part."""
    way = rng.integers(5)
    data = bytearray(content)
    place = int(rng.integers(len(data)))
    length = int(rng.integers(1, 1 + min(64, len(data))))
    if way == 0:
        return bytes(data[:place])
    if way == 1:
        for _ in range(rng.integers(1, 20)):
            data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    elif way == 2:
        data[place:place] = data[place : place + length]
    elif way == 3:
        del data[place : place + length]
    else:
        data[place:place] = rng.bytes(length)
    return bytes(data)


def mutate_header(rng: np.random.Generator, content: bytes) -> bytes:
    """Change the text header of an `.mha`: a value, a key, a line that is gone, doubled or moved, or a few bytes."""
    end = content.index(b"\n", content.index(b"ElementDataFile")) + 1
    lines, voxels = content[:end].decode().splitlines(), content[end:]
    for _ in range(rng.integers(1, 4)):
        place = int(rng.integers(len(lines)))
        way = rng.integers(6)
        key, _, value = lines[place].partition(" = ")
        if way == 0:
            lines.pop(place)
        elif way == 1:
            lines.insert(int(rng.integers(len(lines) + 1)), lines[place])
        elif way == 2:
            lines.insert(int(rng.integers(len(lines))), lines.pop(place))
        elif way == 3:
            lines[place] = f"{key[: rng.integers(len(key) + 1)]} = {value}"
        else:
            lines[place] = f"{key} = {HEADER_VALUES[rng.integers(len(HEADER_VALUES))]}"
        if not lines:
            break
    header = ("\n".join(lines) + "\n").encode()
    return (damage(rng, header) if rng.random() < 0.2 else header) + voxels


_NIFTI_FIELDS = {  # offset and form of what a NIfTI-1 header says of voxels and place
    "sizeof_hdr": (0, "i"), "dim": (40, "8h"), "datatype": (70, "h"), "bitpix": (72, "h"), "pixdim": (76, "8f"),
    "vox_offset": (108, "f"), "scl_slope": (112, "f"), "scl_inter": (116, "f"), "xyzt_units": (123, "b"),
    "qform_code": (252, "h"), "sform_code": (254, "h"), "quatern": (256, "3f"), "qoffset": (268, "3f"),
    "srow": (280, "12f"), "magic": (344, "4b"),
}  # fmt: skip
_NIFTI_NUMBERS = [
    0, 1, 2, 3, 4, 5, -1, -2, 16, 64, 127, 48, 44, 1e-6, 0.1, 1.5, -5.0, 100.0, 1e9, float("nan"), float("inf"),
]  # fmt: skip
_NIFTI_HEADER = 348


def mutate_nifti(rng: np.random.Generator, content: bytes) -> bytes:
    """Change one to three numbers of an uncompressed NIfTI's header, or a few of its bytes."""
    header, names = bytearray(content[:_NIFTI_HEADER]), list(_NIFTI_FIELDS)
    for _ in range(rng.integers(1, 4)):
        offset, form = _NIFTI_FIELDS[names[rng.integers(len(names))]]
        values = list(struct.unpack_from("<" + form, header, offset))
        at, number = int(rng.integers(len(values))), _NIFTI_NUMBERS[rng.integers(len(_NIFTI_NUMBERS))]
        if form[-1] == "f":
            values[at] = number if rng.random() < 0.7 else values[at] * float(rng.choice([-1, 0.5, 1.0001, 1.1]))
        elif np.isfinite(number) and abs(number) < 128:
            values[at] = int(number)
        struct.pack_into("<" + form, header, offset, *values)
    if rng.random() < 0.2:
        header = bytearray(damage(rng, bytes(header)))
    return bytes(header) + content[_NIFTI_HEADER:]


class Broken(Exception):
    """An input that the program neither answers nor refuses as it should."""


def judge(code: int, stderr: str, output: Path) -> str:
    """Say whether an input was answered or refused, or raise `Broken`."""
    left = {str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()}
    if "Traceback" in stderr:
        raise Broken(f"a traceback: {stderr}")
    if code == 0:
        if left != ANSWERS:
            raise Broken(f"answered with {sorted(left)}")
        risk, hpv = (json.loads((output / name).read_text()) for name in ("rfs.json", "hpv-status.json"))
        if not (isinstance(risk, float) and np.isfinite(risk) and isinstance(hpv, bool)):
            raise Broken(f"risk {risk}, HPV {hpv}")
        return "answered"
    if code != 1 or left:
        raise Broken(f"exit code {code}, left {sorted(left)}: {stderr}")
    if not stderr.startswith("error: ") or stderr.count("\n") != 1 or len(stderr) > 2000:
        raise Broken(f"not one clear line: {stderr}")
    return "refused"


@contextlib.contextmanager
def time_limit() -> Iterator[None]:
    """Raise `Broken` where the body takes too long."""

    def stop(_: int, __: FrameType | None) -> None:
        raise Broken(f"hangs: more than {SECONDS} s")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


class Target:
    """A case in a folder, whose files are replaced one at a time, and the program that answers it."""

    def __init__(self, case: Path, weights: Path, work: Path) -> None:
        self.folder, self.output = work / "input", work / "output"
        shutil.copytree(case, self.folder)
        self.files = {
            "record": self.folder / "ehr.json",
            "ct": next((self.folder / "images/ct").iterdir()),
            "pet": next((self.folder / "images/pet").iterdir()),
        }
        self.sound = {name: path.read_bytes() for name, path in self.files.items()}
        self.environment = {
            "MMPL_INPUT": str(self.folder),
            "MMPL_OUTPUT": str(self.output),
            "MMPL_WEIGHTS": str(weights),
        }

    def put(self, name: str, content: bytes) -> None:
        """Replace one file; the others are sound."""
        for other, path in self.files.items():
            path.write_bytes(content if other == name else self.sound[other])
        shutil.rmtree(self.output, ignore_errors=True)
        self.output.mkdir()

    def in_process(self) -> str:
        """Run the program's own `main()` here."""
        import logging

        stderr = io.StringIO()
        for handler in list(logging.root.handlers):
            logging.root.removeHandler(handler)
        os.environ.update(self.environment)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(stderr), time_limit():
            code = runpy.run_path(str(ROOT / "inference.py"))["main"]([])
        return judge(code, stderr.getvalue(), self.output)

    def as_a_process(self) -> str:
        """Run the program as the platform does."""
        try:
            ran = subprocess.run(
                [sys.executable, ROOT / "inference.py"],
                env=os.environ | self.environment,
                capture_output=True,
                text=True,
                timeout=SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise Broken(f"hangs: more than {SECONDS} s") from None
        return judge(ran.returncode, ran.stderr, self.output)


def fuzz(
    target: Target, kind: str, count: int, seed: int, found: Path | None = None, process: bool = False
) -> Counter[str]:
    """Try so many inputs of a kind (record, header, nifti, image); how many were answered, refused and broken.

    Args:
        target: What to throw them at; for "nifti" its images are uncompressed NIfTI.
        kind: What is damaged.
        count: How many.
        seed: The same seed makes the same inputs.
        found: Where to keep what breaks the rules.
        process: Run each in a process of its own.
    """
    outcomes: Counter[str] = Counter()
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        name = "record" if kind == "record" else str(rng.choice(["ct", "pet"]))
        make: dict[str, Callable[[], bytes]] = {
            "record": lambda rng=rng: mutate_record(rng),
            "header": lambda rng=rng, name=name: mutate_header(rng, target.sound[name]),
            "nifti": lambda rng=rng, name=name: mutate_nifti(rng, target.sound[name]),
            "image": lambda rng=rng, name=name: damage(rng, target.sound[name]),
        }
        content = make[kind]()
        target.put(name, content)
        try:
            outcomes[target.as_a_process() if process else target.in_process()] += 1
        except Broken as broken:
            outcomes["broken"] += 1
            print(f"{kind} {number} of seed {seed}: {broken}", file=sys.__stderr__, flush=True)
            if found:
                found.mkdir(parents=True, exist_ok=True)
                suffix = target.files[name].name.partition(".")[2]
                (found / f"{kind}-{name}-{zlib.crc32(content):08x}.{suffix}").write_bytes(content)
    return outcomes


def main() -> int:
    """Fuzz as much as asked for; exit code 1 where anything broke the rules."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", type=Path, help="a small case in the challenge's layout; of .nii for --niftis")
    parser.add_argument("weights", type=Path, help="an ensemble that is quick on it")
    for kind in ("records", "headers", "niftis", "images", "processes"):
        parser.add_argument(f"--{kind}", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--found", type=Path, default=Path("fuzz-found"))
    asked = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    broken = 0
    with tempfile.TemporaryDirectory() as work:
        target = Target(asked.case, asked.weights, Path(work))
        plan = [("record", asked.records, False), ("header", asked.headers, False), ("nifti", asked.niftis, False)]
        plan += [("image", asked.images, False)]
        third = -(-asked.processes // 3)
        plan += [(kind, third, True) for kind in ("record", "header", "image")]
        for kind, count, process in plan:
            outcomes = fuzz(target, kind, count, asked.seed + process, asked.found, process)
            broken += outcomes["broken"]
            where = "as processes" if process else "in one process"
            print(f"{count} damaged {kind}s {where}: {dict(outcomes)}", flush=True)
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
