"""What traps cost: every trap is tried, and a patient is compared with that very patient."""

from dataclasses import fields, replace
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from mmpl.case import Case
from mmpl.names import Label
from mmpl.phantom.render import render
from mmpl.phantom.traps import NO_TRAPS, Traps
from train.experiments.traps import NO_TRAP, Answer, answer, changes, choose_patients, tabulate, traps_of


def test_patients_have_both_lesions_and_long_scans_come_last() -> None:
    patients = choose_patients(10, 3102)
    assert [p.long_scan for p in patients] == [False] * 10 + [True] * 2
    assert all(p.primary_site and p.node_volumes_ml for p in patients)


def test_every_trap_is_tried_by_itself() -> None:
    """But for the iterations, which go with the point spread."""
    short, *_, long = choose_patients(10, 3102)
    tried = {}
    for patient in (short, long):
        traps = traps_of(patient, 1)
        assert traps.pop(NO_TRAP) == NO_TRAPS
        tried |= traps
    changed = {
        name: {f.name for f in fields(Traps) if getattr(each, f.name) != getattr(NO_TRAPS, f.name)}
        for name, each in tried.items()
    }
    assert set().union(*changed.values()) == {field.name for field in fields(Traps)}
    assert all(len(names - {"pet_iterations"}) == 1 for names in changed.values())
    assert traps_of(short, -1)["turn"].turn_deg == -traps_of(short, 1)["turn"].turn_deg


def test_changes_by_hand() -> None:
    first = {NO_TRAP: Answer(0.8, 0.7, 0.6, 1.0), "turn": Answer(0.7, 0.7, 0.5, 1.5)}
    second = {NO_TRAP: Answer(0.4, 0.5, 0.2, -1.0), "turn": Answer(0.5, 0.1, 0.4, -2.0)}
    third = {NO_TRAP: Answer(1.0, 1.0, 1.0, 1.0), "lung": Answer(1.0, 1.0, 1.0, 1.0)}
    found = changes([first, second, third])
    assert found["turn"] == pytest.approx(np.array([[-0.1, 0.0, -0.1, 0.5], [0.1, -0.4, 0.2, -1.0]]))
    assert found["lung"] == pytest.approx(np.zeros((1, 4)))
    console = Console(width=200)
    with console.capture() as captured:
        console.print(tabulate(found))
    (line,) = [line for line in captured.get().splitlines() if "turn" in line]
    assert "-0.200 [-0.400, +0.000]" in line  # GTVn
    assert "+0.050 [-0.100, +0.200]" in line  # HPV probability
    assert "0.150" in line  # either way
    assert "0.750" in line


def test_a_patient_is_drawn_with_the_trap_in_question_alone() -> None:
    """By a pipeline that finds the primary and no node, and tells the CT's mean for the risk."""

    def pipeline(case: Case) -> SimpleNamespace:
        assert case.reference
        mask = SimpleNamespace(voxels=np.where(case.reference.voxels == Label.GTVP, Label.GTVP, Label.BACKGROUND))
        told = SimpleNamespace(probability=0.5, risk_score=float(case.ct.voxels.mean()))
        return SimpleNamespace(segmentation=SimpleNamespace(mask=mask), hpv=told, survival=told)

    patient = replace(choose_patients(1, 3102)[0], traps=Traps(turn_deg=20.0, dental=True))
    plain, dental = (answer(pipeline, patient, traps) for traps in (NO_TRAPS, Traps(dental=True)))  # type: ignore[arg-type]
    assert (plain.gtvp_dice, plain.gtvn_dice, plain.hpv_probability) == (1.0, 0.0, 0.5)
    assert plain.risk == pytest.approx(float(render(replace(patient, traps=NO_TRAPS)).ct.voxels.mean()))
    assert dental.risk != plain.risk
