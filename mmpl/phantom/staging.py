"""T and N stage by the seventh edition of the AJCC's manual, from the lesions that are drawn.

Oropharynx: T1 up to 2 cm, T2 up to 4, T3 above; T4 invades its neighbors, whatever its size. N1 is one node on the
primary's side up to 3 cm, N2a one up to 6, N2b several, N2c any on the other side, N3 one above 6 cm.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmpl.phantom.planted import Stages

T_STAGES = ("T0", "T1", "T2", "T3", "T4")
N_STAGES = ("N0", "N1", "N2a", "N2b", "N2c", "N3")
NODE_LEVELS = {"II": 0.50, "III": 0.24, "IV": 0.09, "V": 0.08, "I": 0.06, "retropharyngeal": 0.03}
"""Neck levels, and how often a node lies in each."""

INVADES_FROM_MM = 20.0
"""No smaller primary invades."""

LEAST_ELONGATION = 1.2
"""Least ratio of a lesion's largest extent to the diameter of its volume; no rough surface is rounder."""


@dataclass(frozen=True)
class Staging:
    """The lesions as a stage sees them. Nodes are in the order of their volumes.

    Attributes:
        primary_extent_mm: Largest extent of the primary; 0 without one.
        invasion: Whether the primary invades its neighbors, so that bone does not stop it.
        side: "left" or "right", the primary's; without one, that of the first node.
        node_contralateral: Whether each node lies on the other side.
        t_stage: True stage.
        n_stage: True stage.
        t_read: Stage as it was released, not always the true one.
        n_read: Likewise.
    """

    primary_extent_mm: float
    invasion: bool
    side: str
    node_extents_mm: tuple[float, ...]
    node_levels: tuple[str, ...]
    node_contralateral: tuple[bool, ...]
    t_stage: str
    n_stage: str
    t_read: str
    n_read: str


def t_stage(extent_mm: float, invasion: bool) -> str:
    """Stage a primary by its largest extent; one of 0 mm is none."""
    if extent_mm == 0.0:
        return "T0"
    if invasion:
        return "T4"
    return "T1" if extent_mm <= 20.0 else "T2" if extent_mm <= 40.0 else "T3"


def n_stage(extents_mm: Sequence[float], contralateral: Sequence[bool]) -> str:
    """Stage nodes by size, number and side."""
    if not extents_mm:
        return "N0"
    if max(extents_mm) > 60.0:
        return "N3"
    if any(contralateral):
        return "N2c"
    if len(extents_mm) > 1:
        return "N2b"
    return "N1" if extents_mm[0] <= 30.0 else "N2a"


def stage_number(stage: str) -> int:
    """Give 0 for T0 to 4 for T4, 0 for N0 to 3 for N3; N2a, N2b and N2c are 2."""
    return int(stage[1])


def draw_staging(
    rng: np.random.Generator, stages: Stages, hpv_positive: bool, primary_ml: float, node_volumes_ml: Sequence[float]
) -> Staging:
    """Draw what stages rest on beyond volumes, stage the patient, and read the stages with noise.

    Args:
        primary_ml: Volume of the primary; 0 without one.
    """
    side = str(rng.choice(("left", "right")))
    extents_mm = [diameter_mm(volume) * _elongation(rng, stages) for volume in (primary_ml, *node_volumes_ml)]
    invades = rng.random() < stages.invasion[hpv_positive]
    levels = rng.choice(list(NODE_LEVELS), len(node_volumes_ml), p=list(NODE_LEVELS.values()))
    draws = rng.random(len(node_volumes_ml)) < stages.contralateral
    contralateral = tuple(bool(other) and (index > 0 or primary_ml > 0.0) for index, other in enumerate(draws))
    primary_mm, nodes_mm = extents_mm[0], tuple(extents_mm[1:])
    invasion = bool(invades and primary_mm > INVADES_FROM_MM)
    t, n = t_stage(primary_mm, invasion), n_stage(nodes_mm, contralateral)
    t_chance, n_chance = stages.misread
    t_read = _misread(rng, t, T_STAGES[1:], t_chance) if primary_ml else t
    n_read = _misread(rng, n, N_STAGES, n_chance)
    return Staging(primary_mm, invasion, side, nodes_mm, tuple(map(str, levels)), contralateral, t, n, t_read, n_read)


def diameter_mm(volume_ml: float) -> float:
    """Give the diameter of the sphere of a volume, mm."""
    return float((volume_ml * 1000.0 * 6.0 / np.pi) ** (1.0 / 3.0))


def _elongation(rng: np.random.Generator, stages: Stages) -> float:
    median, spread = stages.elongation
    return max(LEAST_ELONGATION, float(median * np.exp(spread * rng.standard_normal())))


def _misread(rng: np.random.Generator, stage: str, order: Sequence[str], chance: float) -> str:
    """Read a neighbor of a stage instead of it, now and then; the first and the last have one alone."""
    wrong, step, place = rng.random() < chance, int(rng.choice((-1, 1))), order.index(stage)
    if not 0 <= place + step < len(order):
        step = -step
    return order[place + step] if wrong else stage
