"""One HTML file a patient that a person reads: images to scroll through, the answers and what they rest on.

It holds all it needs and fetches nothing, which its content security policy enforces. What names a patient is the
identifier that was given; of the images' headers the UIDs of DICOM series get in, and no file names. The CT itself, at
some 1.4 mm, shows a face: a page is as private as the images. The template escapes all it is given.
"""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from mmpl import datafiles
from mmpl.case import Case, ClinicalRecord
from mmpl.evidence import Floats
from mmpl.explanation import Explanation
from mmpl.files import write_whole
from mmpl.findings import flag_in_words, in_words, value_in_words
from mmpl.io.challenge import read_edition
from mmpl.lesions import Lesion
from mmpl.names import CLASS_NAMES, DAYS_PER_YEAR, LESIONS
from mmpl.picture import COLORS, SHOWN_FROM, draw_stills
from mmpl.pipeline import PatientResult
from mmpl.provenance import Provenance
from mmpl.report import YEARS
from mmpl.scene import SIDE_VOXELS, make_scene
from mmpl.schema import TAKEN_AS_MISSING, ClinicalSchema
from mmpl.survival import SurvivalResult
from mmpl.version import __version__
from mmpl.weights import Ensemble

GENERATOR = "MMPL"
"""What a page says of who made it, by which it is told from others'."""
FINDINGS_SHOWN = 8
"""Most findings that are listed of an answer; the report has all."""
NOTES_SHOWN = 6
"""Most notes on the record that are listed; the report has all."""
MISSING_MATTERS_SD = 0.2
"""A clinical field is minded where its being missing moves the risk, in SD of the training patients, as far as this."""


@dataclass(frozen=True)
class Bar:
    """One finding and what it adds to an answer.

    Attributes:
        percent: Length of its bar, of the longest one's.
    """

    words: str
    value: str
    percentile: float | None
    added: float
    percent: float


@dataclass(frozen=True)
class FieldRead:
    """A clinical field, what was given for it, and what that was read as."""

    name: str
    given: str
    read_as: str


@dataclass(frozen=True)
class Strip:
    """The models' answers on a line, with the ensemble's and what that is compared with; places in percent of it."""

    models: tuple[float, ...]
    answer: float
    compared: float | None
    low: float
    high: float

    @classmethod
    def of(cls, models: Sequence[float], answer: float, compared: float | None, low: float, high: float) -> "Strip":
        """Place answers on a line from `low` to `high`."""

        def place(value: float) -> float:
            return round(100 * (value - low) / (high - low), 2)

        return cls(tuple(map(place, models)), place(answer), None if compared is None else place(compared), low, high)


@dataclass(frozen=True)
class CurveDrawing:
    """A calibrated curve as SVG's paths, on 300 by 120 units, and its values after some years.

    Attributes:
        after: Years, probability, low, high, and the training patients' own.
    """

    patient: str
    band: str
    training: str
    years: float
    ticks: tuple[int, ...]
    after: tuple[tuple[int, float, float, float, float], ...]


def write_page(path: Path, case: Case, result: PatientResult, ensemble: Ensemble, provenance: Provenance) -> None:
    """Write the page of one patient, whole or not at all.

    Args:
        path: File to write.
        case: The images.
        result: The patient's answers; the lesions among them where they were measured.
        ensemble: The ensemble that gave them.
        provenance: Manifest of the answer.
    """
    text = render_page(case, result, ensemble, provenance)
    with write_whole(path) as partial_path:
        partial_path.write_text(text, encoding="utf-8")


def render_page(case: Case, result: PatientResult, ensemble: Ensemble, provenance: Provenance) -> str:
    """Make the page of one patient; arguments as those of `write_page`."""
    scene, lesions, schema = make_scene(case, result.segmentation), result.lesions or (), ensemble.profile.clinical
    hpv, survival = result.hpv, result.survival
    data = {
        "voxels": SIDE_VOXELS,
        "spacing": scene.grid.spacing_xyz[0],
        "origin": scene.grid.origin_xyz,
        "lesions": [scene.voxel_of(lesion) for lesion in lesions],
        "colors": [COLORS[label] for label in LESIONS],
        "shown_from": SHOWN_FROM,
    }
    reach = max(3.0, *map(abs, survival.member_risks)) if survival else 3.0
    return render(
        "patient.html",
        scripts=("viewer.js",),
        result=result,
        ensemble=ensemble,
        provenance=provenance,
        edition=read_edition().name,
        lesions=lesions,
        from_primary=partial(_level, lesions),
        pet=scene.pet,
        scene=data,
        volumes=scene.packed(),
        still=base64.b64encode(draw_stills(case, result.segmentation)).decode("ascii"),
        hpv_strip=hpv and Strip.of(hpv.member_probabilities, hpv.probability, ensemble.hpv_threshold, 0.0, 1.0),
        risk_strip=survival and Strip.of(survival.member_risks, survival.risk_score, 0.0, -reach, reach),
        curve=survival and _draw_curve(survival),
        why=[
            (name, _bars(answer.explanation, schema), answer.explanation)
            for name, answer in (("Recurrence risk", survival), ("HPV score", hpv))
            if answer and answer.explanation
        ],
        flags=_minded(result, schema),
        record=_read_record(case.clinical, schema),
        notes=[note for note in result.notes if note not in case.clinical.assumed or TAKEN_AS_MISSING not in note],
        notes_shown=NOTES_SHOWN,
        series={"ct": case.ct_series, "pet": case.pet_series},
        class_names=CLASS_NAMES,
        colors=COLORS,
    )


def is_page(path: Path) -> bool:
    """Tell whether a file is a page that was made here."""
    with path.open(encoding="utf-8", errors="replace") as file:
        return f'<meta name="generator" content="{GENERATOR} ' in file.read(2000)


def render(template: str, scripts: Sequence[str], **content: Any) -> str:
    """Fill a template of `resources/report`; of its scripts, which stand in it, only these may run."""
    folder = datafiles.RESOURCES / "report"
    loader = jinja2.FileSystemLoader(folder)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = number
    sources = [(folder / name).read_text(encoding="utf-8") for name in scripts]
    digests = [base64.b64encode(hashlib.sha256(source.encode()).digest()).decode() for source in sources]
    allowed = [f"'sha256-{digest}'" for digest in digests]
    return environment.get_template(template).render(
        generator=f"{GENERATOR} {__version__}",
        style=(folder / "style.css").read_text(encoding="utf-8"),
        sources=sources,
        policy="; ".join(
            (
                "default-src 'none'",
                "img-src data:",
                "style-src 'unsafe-inline'",
                f"script-src {' '.join(allowed)}",
                "base-uri 'none'",
                "form-action 'none'",
            )
        ),
        **content,
    )


def number(value: float, places: int = 2, sign: str = "") -> str:
    """Write a number with a real minus, and where `sign` is "+" with its sign in any case."""
    return f"{round(value, places) + 0.0:{sign}.{places}f}".replace("-", "\N{MINUS SIGN}")


def _minded(result: PatientResult, schema: ClinicalSchema) -> list[str]:
    """Say what a reader should know before the answers."""
    outcomes = bool(result.hpv or result.survival)
    minded = [words for flag in result.flags if (words := flag_in_words(flag, outcomes))]
    if result.gtvn_ml and not result.gtvp_ml:
        minded.append(f"No primary tumor was found{': the answers rest on the nodes' if outcomes else ''}.")
    why = result.survival.explanation.contributions if result.survival and result.survival.explanation else ()
    minded += [
        f"{each.name} is missing, which alone moves the risk by {number(each.added, 2, '+')}."
        for each in why
        if each.name in schema.names and each.value is None and abs(each.added) >= MISSING_MATTERS_SD
    ]
    return minded


def _read_record(record: ClinicalRecord, schema: ClinicalSchema) -> list[FieldRead]:
    return [
        FieldRead(name, record.given.get(name, "not given"), value_in_words(name, record.values.get(name), schema))
        for name in schema.names
    ]


def _level(lesions: Sequence[Lesion], lesion: Lesion) -> str:
    """Say how far above or below the primary a lesion lies, centroid to centroid; its z without one."""
    primary = lesions[0]
    if lesion is primary or primary.label is not LESIONS[0]:
        return f"z {number(lesion.center_mm[2], 0)} mm"
    above = lesion.center_mm[2] - primary.center_mm[2]
    if abs(above) < 1:
        return "level with 1"
    return f"{abs(above):.0f} mm {'above' if above > 0 else 'below'} 1"


def _bars(explanation: Explanation, schema: ClinicalSchema) -> list[Bar]:
    shown = explanation.contributions[:FINDINGS_SHOWN]
    longest = max((abs(each.added) for each in shown), default=1.0) or 1.0
    bars = []
    for each in shown:
        value = value_in_words(each.name, each.value, schema)
        bars.append(
            Bar(in_words(each.name), value, each.percentile, each.added, round(100 * abs(each.added) / longest, 1))
        )
    return bars


def _draw_curve(survival: SurvivalResult) -> CurveDrawing | None:
    """Draw the calibrated curve beside that of the training patients; None of weights that were not calibrated."""
    curve, training = survival.curve, survival.training_curve
    if curve is None or training is None:
        return None
    years = float(curve.days[-1] / DAYS_PER_YEAR)
    across = 300 * curve.days / curve.days[-1]

    def path(values: Floats, command: str = "M") -> str:
        points = " ".join(f"{x:.1f},{120 * (1 - y):.1f}" for x, y in zip(across, values, strict=True))
        return f"{command}{points}"

    back = " ".join(f"{x:.1f},{120 * (1 - y):.1f}" for x, y in zip(across[::-1], curve.high[::-1], strict=True))
    after = []
    for each in YEARS:
        day = each * DAYS_PER_YEAR
        if day <= curve.days[-1]:
            after.append((each, *curve.at(day), float(np.interp(day, curve.days, training))))
    ticks = tuple(range(int(years) + 1))
    return CurveDrawing(
        path(curve.probability), f"{path(curve.low)} L{back} Z", path(training), years, ticks, tuple(after)
    )
