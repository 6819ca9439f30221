"""Throw damaged DICOM studies at the answering of one patient: `python test/fuzz_dicom.py WEIGHTS --headers 2000 ...`.

Headers of one file, or of all of a series, are changed; files are cut; compressed pixels are damaged. Every study is
answered, or read as it would be, or refused in one line that names the folder; none hangs, and nothing that a header
holds gets into a line, an answer's log or a file's name. `whole/test_fuzz.py` runs a few of each.
"""

import argparse
import contextlib
import io
import logging
import os
import shutil
import struct
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import gdcm
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "test")]

from dicom_files import write_ct, write_pet  # noqa: E402
from fuzz import Broken, damage, time_limit  # noqa: E402

from mmpl.algorithm import Algorithm  # noqa: E402
from mmpl.case import Grid, Image  # noqa: E402
from mmpl.dicom.writing import StudyHeader  # noqa: E402
from mmpl.errors import explain  # noqa: E402
from mmpl.names import MASK, PAGE, PICTURE, REPORT  # noqa: E402
from mmpl.patient import Sources, answer_patient, read_patient  # noqa: E402
from mmpl.schema import default_schema  # noqa: E402

SECRET = "Geheimrat"
ANSWERED_EACH = 10
"""Of so many studies one is answered, if it can be read; the others are read alone, which is ten times as fast."""
STUDY = StudyHeader(SECRET, "F", 61, 70.0, 1.75)
VALUES = [
    b"", b" ", b"0", b"1", b"-1", b"2", b"0.5", b"nan", b"inf", b"1e400", b"99999999999", b"1\\2", b"1\\0\\0\\0\\1\\0",
    b"0\\0\\0", b"0\\0\\0\\0\\0\\0", b"\\\\\\", b"\xff\xfe\x00\x01", b"\x00" * 8, b"CT", b"PT", b"BQML", b"GML",
    b"CNTS", b"START", b"NONE", b"ADMIN", b"20250102", b"19000101", b"99999999", b"120000", b"256199.9", b"061Y", b"M",
    b"1.2.840.10008.5.1.4.1.1.2", b"1.2.840.10008.5.1.4.1.1.128", b"1.2.840.10008.1.2.4.90", b"LOCALIZER",
    b"DERIVED\\MPR", SECRET.encode(), b"7 " * 4000, "ß€".encode(),
]  # fmt: skip
_START = 132  # of a file's elements
_LONG = (b"OB", b"OW", b"SQ", b"UN", b"UT", b"OF", b"OD", b"UC", b"UR", b"OL", b"OV", b"SV", b"UV")
_VRS = [b"DS", b"IS", b"LO", b"CS", b"UI", b"US", b"SQ", b"UN", b"OW", b"DA", b"TM", b"PN", b"XX"]
_PIXELS = 0x7FE00010
Element = tuple[int, bytes, bytes]


def parse(content: bytes) -> list[Element]:
    """Part a file of explicit VR, little endian, into tags, VRs and values."""
    elements, at = [], _START
    while at < len(content):
        group, number = struct.unpack_from("<HH", content, at)
        vr = content[at + 4 : at + 6]
        start, form = (at + 12, "<I") if vr in _LONG else (at + 8, "<H")
        (length,) = struct.unpack_from(form, content, start - struct.calcsize(form))
        length = len(content) - start if length == 0xFFFFFFFF else length
        elements.append((group << 16 | number, vr, content[start : start + length]))
        at = start + length
    return elements


def join(content: bytes, elements: list[Element]) -> bytes:
    """Write the elements again, under the file's own beginning."""
    parts = [content[:_START]]
    for tag, vr, value in elements:
        long = vr in _LONG
        head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr
        size = len(value) if long else len(value) & 0xFFFF
        parts.append(head + (struct.pack("<HI", 0, size) if long else struct.pack("<H", size)) + value)
    return b"".join(parts)


def mutate(rng: np.random.Generator, contents: list[bytes]) -> list[bytes]:
    """Change one to three elements of the headers of some files, of all in the same way."""
    parsed = [parse(content) for content in contents]
    for _ in range(rng.integers(1, 4)):
        tag = parsed[0][rng.integers(len(parsed[0]))][0]
        way, value = rng.integers(6), VALUES[rng.integers(len(VALUES))]
        vr, place = _VRS[rng.integers(len(_VRS))], rng.random()
        for elements in parsed:
            found = [index for index, element in enumerate(elements) if element[0] == tag]
            if not found:
                continue
            index = found[0]
            _, own, there = elements[index]
            if way == 0:
                elements.pop(index)
            elif way == 1:
                elements.insert(int(place * len(elements)), elements[index])
            elif way == 2:
                elements[index] = tag, vr, there
            elif way == 3 and tag != _PIXELS and there:
                elements[index] = tag, own, damage(np.random.default_rng(int(place * 1e9)), there)
            else:
                elements[index] = tag, own, value + b" " * (len(value) % 2)
        parsed = [elements or [(0x00080060, b"CS", b"CT")] for elements in parsed]
    return [join(content, elements) for content, elements in zip(contents, parsed, strict=True)]


class Target:
    """A small study whose files are replaced, and the program that answers it."""

    def __init__(self, ct: Image, pet: Image, work: Path) -> None:
        self.folder, self.out = work / "study", work / "answers"
        write_ct(self.folder / "ct", ct, STUDY)
        write_pet(self.folder / "pet", pet, STUDY)
        self.algorithm = Algorithm.load(keep_networks=True)
        self.plain = {path: path.read_bytes() for path in sorted(self.folder.rglob("*.dcm"))}
        self.compressed = dict(self.plain)
        for path in self.plain:
            if path.parent.name == "ct":
                compress(path)
                self.compressed[path] = path.read_bytes()

    def put(self, sound: dict[Path, bytes], changed: dict[Path, bytes]) -> None:
        """Replace some files; the others are sound."""
        for path, content in sound.items():
            path.write_bytes(changed.get(path, content))

    def judge(self, whole: bool) -> str:
        """Answer the study, or read it alone; say whether it was answered, read or refused, or raise `Broken`."""
        log = io.StringIO()
        handler = logging.StreamHandler(log)
        logging.root.addHandler(handler)
        try:
            with listening(log), time_limit():
                if whole:
                    answer_patient(Sources(self.folder), self.out, self.algorithm)
                else:
                    read_patient(Sources(self.folder), default_schema(), "study")
            said, outcome = "", "answered" if whole else "read"
        except Exception as error:
            said, outcome = explain(error), "refused"
            if not isinstance(error, ValueError) or isinstance(error, UnicodeError):
                raise Broken(f"{type(error).__name__}: {said}") from error
        finally:
            logging.root.removeHandler(handler)
        left = {path.name for path in self.out.iterdir()} if self.out.is_dir() else set()
        if left != ({MASK, REPORT, PAGE, PICTURE} if outcome == "answered" else set()):
            raise Broken(f"{outcome}, and left {sorted(left)}")
        if SECRET in said + log.getvalue():
            raise Broken(f"says what a header holds: {said}{log.getvalue()}")
        if outcome == "refused" and (str(self.folder) not in said or "\n" in said or len(said) > 2000):
            raise Broken(f"not one clear line: {said}")
        return outcome


def compress(path: Path) -> None:
    """Compress a file's pixels as lossless JPEG."""
    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(path))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(path))
    assert writer.Write()


@contextlib.contextmanager
def listening(log: io.StringIO) -> Iterator[None]:
    """Take down what is printed and warned of."""
    with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log), warnings.catch_warnings():
        warnings.simplefilter("always")
        yield


def fuzz_dicom(target: Target, kind: str, count: int, seed: int) -> Counter[str]:
    """Try so many studies of a kind (header, cut, pixels); how many were answered, read, refused and broken."""
    outcomes: Counter[str] = Counter()
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        sound = target.compressed if kind == "pixels" else target.plain
        paths = [
            path for path in sound if path.parent.name == ("ct" if kind == "pixels" else rng.choice(["ct", "pet"]))
        ]
        chosen = paths if kind == "header" and rng.random() < 0.5 else [paths[rng.integers(len(paths))]]
        if kind == "header":
            contents = mutate(rng, [sound[path] for path in chosen])
        elif kind == "cut":
            contents = [sound[path][: rng.integers(len(sound[path]))] for path in chosen]
        else:
            contents = []
            for path in chosen:
                at = sound[path].index(struct.pack("<HH", _PIXELS >> 16, _PIXELS & 0xFFFF)) + 32
                contents.append(sound[path][:at] + damage(rng, sound[path][at:]))
        target.put(sound, dict(zip(chosen, contents, strict=True)))
        shutil.rmtree(target.out, ignore_errors=True)
        try:
            outcomes[target.judge(whole=number % ANSWERED_EACH == 0)] += 1
        except Broken as broken:
            outcomes["broken"] += 1
            print(f"{kind} {number} of seed {seed}: {broken}", file=sys.__stderr__, flush=True)
    return outcomes


def small_study() -> tuple[Image, Image]:
    """A ball of water with a hot spot, CT and PET, as small as a study can be."""
    images = []
    for size, spacing in (((16, 15, 12), 12.0), ((12, 12, 10), 15.0)):
        grid = Grid(size, (spacing,) * 3, tuple(-spacing * (n - 1) / 2 for n in size))  # type: ignore[arg-type]
        z, y, x = np.meshgrid(*[np.linspace(-1, 1, n) for n in size[::-1]], indexing="ij")
        radius = x**2 + y**2 + z**2
        images.append((np.where(radius < 0.8, 40, -1000), 1.0 * (radius < 0.8) + 9.0 * (radius < 0.1), grid))
    (ct, _, ct_grid), (_, pet, pet_grid) = images
    return Image(ct.astype(np.int16), ct_grid), Image(pet.astype(np.float32), pet_grid)


def main() -> int:
    """Fuzz as much as asked for; exit code 1 where anything broke the rules."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path, help="an ensemble that is quick")
    for kind in ("headers", "cuts", "pixels"):
        parser.add_argument(f"--{kind}", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    os.environ |= {"MMPL_WEIGHTS": str(asked.weights), "MMPL_TIME_BUDGET_S": "0"}
    broken = 0
    with tempfile.TemporaryDirectory() as work:
        target = Target(*small_study(), Path(work))
        for kind, count in (("header", asked.headers), ("cut", asked.cuts), ("pixels", asked.pixels)):
            outcomes = fuzz_dicom(target, kind, count, asked.seed)
            broken += outcomes["broken"]
            print(f"{count} studies with damaged {kind}: {dict(outcomes)}", flush=True)
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
