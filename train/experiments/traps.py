"""Measure what each trap of the synthetic cohort costs: `python -m train.experiments.traps 10 3102`.

The same patients of version 2 are drawn without any trap and with each by itself, near its strongest. The weights
answer both, and what is compared is a patient with that very patient. `train/LOG.md` keeps what was found.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from mmpl.cohort_scores import RESAMPLES, interval, resamples
from mmpl.metrics import dice
from mmpl.names import Label
from mmpl.phantom.latent import LatentPatient, center_of, draw_patients
from mmpl.phantom.render import render
from mmpl.phantom.traps import NO_TRAPS, Traps, other_vessel_hu
from mmpl.pipeline import Pipeline
from mmpl.training.command import run_program
from mmpl.weights import load_ensemble

NO_TRAP = "no trap"
LONG_SHARE = 5
"""One long scan for so many others; the second tumor in the lung shows on those alone."""


@dataclass(frozen=True)
class Answer:
    """What the weights make of one drawing of a patient.

    Attributes:
        gtvp_dice: With the drawn mask, 0 to 1.
        gtvn_dice: Likewise.
        hpv_probability: Mean of the models' probabilities, 0 to 1.
        risk: Risk score, SD of the training patients; higher is worse.
    """

    gtvp_dice: float
    gtvn_dice: float
    hpv_probability: float
    risk: float


def choose_patients(count: int, seed: int) -> list[LatentPatient]:
    """Draw patients with a primary and a node, half of them HPV-positive: so many, and some long scans after them."""
    drawn = draw_patients(40 * count, seed, hpv_positive=0.5, version=2)
    whole = [patient for patient in drawn if patient.primary_site and patient.node_volumes_ml]
    long, short = ([patient for patient in whole if patient.long_scan is is_long] for is_long in (True, False))
    return short[:count] + long[: count // LONG_SHARE]


def traps_of(patient: LatentPatient, sign: int) -> dict[str, Traps]:
    """List what a patient is drawn with, by name; `sign` (1 or -1) says which way heads turn and patients lie."""
    if patient.long_scan:
        return {NO_TRAP: NO_TRAPS, "lung": Traps(lung_lesion_mm=30.0), "arms down": Traps(arms="down")}
    return {
        NO_TRAP: NO_TRAPS,
        "turn": Traps(turn_deg=20.0 * sign),
        "tilt": Traps(tilt_deg=20.0 * sign),
        "field cut": Traps(field_cut_mm=35.0 * sign),
        "dental": Traps(dental=True),
        "arms up": Traps(arms="up"),
        "contrast": Traps(vessel_hu=other_vessel_hu(center_of(patient).vessel_hu)),
        "PET of 4 mm": Traps(pet_fwhm_mm=4.0, pet_iterations=5),
        "PET of 6 mm": Traps(pet_fwhm_mm=6.0, pet_iterations=2),
    }


def answer(pipeline: Pipeline, patient: LatentPatient, traps: Traps) -> Answer:
    """Draw a patient with some traps, and let the weights answer."""
    case = render(replace(patient, traps=traps), with_reference=True)
    result = pipeline(case)
    assert case.reference
    assert result.hpv
    assert result.survival
    true, found = case.reference.voxels, result.segmentation.mask.voxels
    gtvp, gtvn = (dice(true == label, found == label) for label in (Label.GTVP, Label.GTVN))
    return Answer(gtvp, gtvn, result.hpv.probability, result.survival.risk_score)


def answer_with_each(pipeline: Pipeline, patient: LatentPatient, sign: int) -> dict[str, Answer]:
    """Answer a patient without a trap and with each, by name."""
    return {name: answer(pipeline, patient, traps) for name, traps in traps_of(patient, sign).items()}


def changes(answers: Iterable[Mapping[str, Answer]]) -> dict[str, NDArray[np.float64]]:
    """Subtract each patient's answer without a trap from that with one: (patients, 4) by trap, as `Answer` has them."""
    found = defaultdict(list)
    for by_trap in answers:
        plain = astuple(by_trap[NO_TRAP])
        for name, each in by_trap.items():
            found[name].append(np.subtract(astuple(each), plain))
    return {name: np.array(rows) for name, rows in found.items() if name != NO_TRAP}


def tabulate(changes: Mapping[str, NDArray[np.float64]]) -> Table:
    """Lay out each trap's mean change with its 95% interval over patients, and how far answers move either way."""
    table = Table(title="with a trap less without", title_justify="left")
    headings = "patients", "GTVp Dice", "GTVn Dice", "HPV probability", "either way", "risk, SD", "either way"
    for heading in ("trap", *headings):
        table.add_column(heading, justify="left" if heading == "trap" else "right", overflow="fold")
    for name, rows in changes.items():
        gtvp, gtvn, hpv, risk = (_with_interval(column) for column in rows.T)
        moved_hpv, moved_risk = (f"{np.abs(column).mean():.3f}" for column in rows.T[2:])
        table.add_row(name, str(len(rows)), gtvp, gtvn, hpv, moved_hpv, risk, moved_risk)
    return table


def _with_interval(values: NDArray[np.float64]) -> str:
    low, high = interval([float(values[chosen].mean()) for chosen in resamples(len(values), RESAMPLES)])
    return f"{values.mean():+.3f} [{low:+.3f}, {high:+.3f}]"


def main(patients: int, seed: int) -> None:
    """Draw PATIENTS of SEED, and a long scan for every five, with each trap and without; print what changes."""
    pipeline = Pipeline(load_ensemble(keep_networks=True), torch.device("cpu"))
    chosen = enumerate(track(choose_patients(patients, seed), "answering"))
    answers = [answer_with_each(pipeline, patient, 1 if index % 2 else -1) for index, patient in chosen]
    without = np.array([astuple(by_trap[NO_TRAP]) for by_trap in answers])
    console = Console(width=120)
    console.print(tabulate(changes(answers)))
    console.print("without a trap, mean and SD over patients: GTVp Dice, GTVn Dice, HPV probability, risk")
    console.print(*(f"{mean:.3f} ({sd:.3f})" for mean, sd in zip(without.mean(0), without.std(0), strict=True)))


if __name__ == "__main__":
    run_program(main)
