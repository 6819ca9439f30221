"""What is planted: the effect of HPV on every variable, and of every variable on relapse. This table is the truth.

HPV status is drawn first; each variable is then independent of the others given HPV. A continuous variable is a
standard score z ~ N(+shift/2, 1) in HPV positive patients and N(-shift/2, 1) in HPV negative ones; the functions below
turn it into what is drawn in the image. A categorical variable has one probability table for each status. The log
hazard of relapse is the sum over what is present, plus `HPV_LOG_HAZARD` where HPV is positive.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """A continuous planted variable.

    Attributes:
        shift: Mean standard score in HPV positive less HPV negative patients.
        log_hazard: Added to the log hazard of relapse per unit of standard score.
    """

    name: str
    shift: float
    log_hazard: float


@dataclass(frozen=True)
class Category:
    """A categorical planted variable: probabilities by status, and the log hazard of each level."""

    name: str
    levels: tuple[int | str, ...]
    positive: tuple[float, ...]
    negative: tuple[float, ...]
    log_hazard: tuple[float, ...]


PRIMARY_SCORES = (
    Score("primary_volume", -0.70, 0.55),
    Score("primary_suv", -0.70, 0.40),
    Score("primary_heterogeneity", -0.90, 0.65),
)
"""Smaller, less avid and more homogeneous in HPV positive patients; present where there is a primary."""

NODAL_SCORES = (
    Score("nodal_volume", 0.50, 0.60),
    Score("nodal_cyst", 1.15, 0.0),
)
"""Larger and more cystic in HPV positive patients; present where there is a node."""

AGE = Score("age", -0.45, 0.15)

CATEGORIES = (
    Category("gender", (0, 1), (0.16, 0.84), (0.24, 0.76), (0.0, 0.1)),
    Category("tobacco", (0, 1), (0.55, 0.45), (0.37, 0.63), (0.0, 0.3)),
    Category("alcohol", (0, 1), (0.60, 0.40), (0.48, 0.52), (0.0, 0.2)),
    Category("performance_status", (0, 1, 2, 3, 4), (0.62, 0.29, 0.06, 0.025, 0.005), (0.5, 0.36, 0.09, 0.04, 0.01),
             (0.0, 0.3, 0.6, 0.9, 1.2)),
    Category("treatment", (0, 1), (0.13, 0.87), (0.17, 0.83), (0.0, -0.3)),
    Category("m_stage", ("M0", "M1", "Mx"), (0.86, 0.02, 0.12), (0.85, 0.03, 0.12), (0.0, 1.2, 0.1)),
)  # fmt: skip

HPV_LOG_HAZARD = -0.4

NO_PRIMARY = 0.03
"""Fraction of patients without a primary, whatever the status; all of them have nodes."""

NO_NODE = {True: 0.155, False: 0.29}
"""Fraction without a node among patients with a primary, by HPV status."""

IMAGING = PRIMARY_SCORES + NODAL_SCORES
SCORES = (*IMAGING, AGE)


def volume_ml(name: str, score: float) -> float:
    """Give the volume of the primary, or of all nodes together, ml."""
    median, spread = {"primary_volume": (11.0, 0.62), "nodal_volume": (9.0, 0.75)}[name]
    return median * math.exp(spread * score)


def primary_suv(score: float) -> float:
    """Give the mean SUV of the primary, before the scanner's point spread."""
    return 8.5 * math.exp(0.33 * score)


def heterogeneity(score: float) -> float:
    """Give the coefficient of variation of the primary's uptake; its CT texture is proportional to it."""
    return 0.28 * math.exp(0.45 * score)


def cyst_fraction(score: float) -> float:
    """Give the fraction of each node's volume that is cystic, dark in both images."""
    return 0.6 / (1.0 + math.exp(0.5 - 1.4 * score))


def age_years(score: float) -> float:
    """Give the age at treatment, years."""
    return 61.0 + 9.0 * score
