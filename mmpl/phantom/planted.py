"""What is planted: the effect of HPV on every variable, and of every variable on relapse. These tables are the truth.

HPV status is drawn first; each variable is then independent of the others given HPV. A continuous variable is a
standard score z ~ N(+shift/2, 1) in HPV positive patients and N(-shift/2, 1) in HPV negative ones; the functions below
turn it into what is drawn in the image. A categorical variable has one probability table for each status. The log
hazard of relapse is the sum over what is present, plus that of HPV where it is positive.

`VERSION_1` was invented. `VERSION_2` takes what goes with HPV, and what makes a relapse likelier, from real patients
with cancer of the oropharynx (`train/LOG.md`, 2026-11-29): HPV, age, sex, tobacco, performance status, T, N and
treatment. What only images show stays invented.
"""

import math
from collections.abc import Mapping
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

    def mean(self, hpv_positive: bool) -> float:
        """Give the mean of a status."""
        return 0.5 * self.shift if hpv_positive else -0.5 * self.shift


@dataclass(frozen=True)
class Category:
    """A categorical planted variable: probabilities by status, and the log hazard of each level."""

    name: str
    levels: tuple[int | str, ...]
    positive: tuple[float, ...]
    negative: tuple[float, ...]
    log_hazard: tuple[float, ...]


@dataclass(frozen=True)
class Stages:
    """What stages need beyond volumes, and what they do. Invasion goes with HPV; nothing else here does.

    Attributes:
        invasion: Chance by HPV status that a primary above 2 cm invades its neighbors, which makes it T4.
        elongation: Median and log standard deviation of a lesion's largest extent over the diameter of its volume,
            before what is below `staging.LEAST_ELONGATION` is brought up to that.
        contralateral: Chance of each node to lie on the side that the primary does not. Without a primary, the first
            node's side stands for the primary's.
        t_log_hazard: Added to the log hazard per T stage above T1.
        n_log_hazard: Added per N stage above N0; N2a, N2b and N2c are one.
        misread: Chances that a reader takes the true T stage of a primary, and the true N stage, for a neighbor: either
            neighbor alike, where there are two. Nobody misreads T0.
    """

    invasion: Mapping[bool, float]
    elongation: tuple[float, float]
    contralateral: float
    t_log_hazard: float
    n_log_hazard: float
    misread: tuple[float, float]


@dataclass(frozen=True)
class Planted:
    """One version of the cohort.

    Attributes:
        primary_scores: Smaller, less avid and more homogeneous in HPV positive patients; present with a primary.
        nodal_scores: Larger and more cystic in HPV positive patients; present with a node.
        hpv_log_hazard: Added to the log hazard of HPV positive patients.
        within_status: Whether an imaging score acts on relapse by its distance from the mean of the patient's status,
            so that `hpv_log_hazard` is all that HPV does, as a Cox model without images measures it; otherwise it acts
            by itself.
        no_primary: Fraction of patients without a primary, whatever the status; all of them have nodes.
        no_node: Fraction without a node among patients with a primary, by HPV status.
        volumes_ml: Volume at a score of 0, which is halfway between the medians of HPV positive and negative patients,
            and log standard deviation; of the primary, and of all nodes together.
        age_years: Age at a score of 0, and standard deviation.
        relapse_scale_days: Weibull scale of the time to relapse at log hazard 0, such that a fifth of the training
            centers' patients relapse while they are followed.
        hpv_known: Fraction of patients whose status is released.
        blank_factor: Times each center's chance that (tobacco, alcohol, performance status) was not recorded.
        sites: Where primaries sit, and how often; it tells nothing of HPV or relapse.
        stages: None where the cohort has no T and N stage.
        traps: Whether images have the traps of `mmpl.phantom.traps`.
    """

    version: int
    primary_scores: tuple[Score, ...]
    nodal_scores: tuple[Score, ...]
    age: Score
    categories: tuple[Category, ...]
    hpv_log_hazard: float
    within_status: bool
    no_primary: float
    no_node: Mapping[bool, float]
    volumes_ml: Mapping[str, tuple[float, float]]
    age_years: tuple[float, float]
    relapse_scale_days: float
    hpv_known: float
    blank_factor: tuple[float, float, float]
    sites: Mapping[str, float]
    stages: Stages | None
    traps: bool

    @property
    def imaging(self) -> tuple[Score, ...]:
        """The scores that images show."""
        return self.primary_scores + self.nodal_scores

    @property
    def scores(self) -> tuple[Score, ...]:
        """All scores."""
        return (*self.imaging, self.age)

    def volume_ml(self, name: str, score: float) -> float:
        """Give the volume of the primary, or of all nodes together, ml."""
        median, spread = self.volumes_ml[name]
        return median * math.exp(spread * score)

    def years(self, score: float) -> float:
        """Give the age at treatment, years."""
        mean, spread = self.age_years
        return mean + spread * score


VERSION_1 = Planted(
    version=1,
    primary_scores=(
        Score("primary_volume", -0.70, 0.55),
        Score("primary_suv", -0.70, 0.40),
        Score("primary_heterogeneity", -0.90, 0.65),
    ),
    nodal_scores=(
        Score("nodal_volume", 0.50, 0.60),
        Score("nodal_cyst", 1.15, 0.0),
    ),
    age=Score("age", -0.45, 0.15),
    categories=(
        Category("gender", (0, 1), (0.16, 0.84), (0.24, 0.76), (0.0, 0.1)),
        Category("tobacco", (0, 1), (0.55, 0.45), (0.37, 0.63), (0.0, 0.3)),
        Category("alcohol", (0, 1), (0.60, 0.40), (0.48, 0.52), (0.0, 0.2)),
        Category("performance_status", (0, 1, 2, 3, 4), (0.62, 0.29, 0.06, 0.025, 0.005), (0.5, 0.36, 0.09, 0.04, 0.01),
                 (0.0, 0.3, 0.6, 0.9, 1.2)),
        Category("treatment", (0, 1), (0.13, 0.87), (0.17, 0.83), (0.0, -0.3)),
        Category("m_stage", ("M0", "M1", "Mx"), (0.86, 0.02, 0.12), (0.85, 0.03, 0.12), (0.0, 1.2, 0.1)),
    ),
    hpv_log_hazard=-0.4,
    within_status=False,
    no_primary=0.03,
    no_node={True: 0.155, False: 0.29},
    volumes_ml={"primary_volume": (11.0, 0.62), "nodal_volume": (9.0, 0.75)},
    age_years=(61.0, 9.0),
    relapse_scale_days=7500.0,
    hpv_known=0.80,
    blank_factor=(1.0, 1.0, 1.0),
    sites={"tonsil": 0.42, "tongue base": 0.33, "soft palate": 0.06, "hypopharynx": 0.10, "larynx": 0.09},
    stages=None,
    traps=False,
)  # fmt: skip

VERSION_2 = Planted(
    version=2,
    primary_scores=(
        Score("primary_volume", -0.45, 0.20),  # T carries most of what volume does
        Score("primary_suv", -0.70, 0.40),
        Score("primary_heterogeneity", -0.90, 0.65),
    ),
    nodal_scores=(
        Score("nodal_volume", 0.50, 0.30),  # N likewise
        Score("nodal_cyst", 1.15, 0.0),
    ),
    age=Score("age", -0.46, 0.11),
    categories=(
        Category("gender", (0, 1), (0.167, 0.833), (0.264, 0.736), (0.0, 0.07)),
        Category("tobacco", (0, 1), (0.343, 0.657), (0.071, 0.929), (0.0, 0.25)),
        Category("alcohol", (0, 1), (0.60, 0.40), (0.48, 0.52), (0.0, 0.2)),  # in no real table; as in version 1
        Category("performance_status", (0, 1, 2, 3, 4), (0.680, 0.265, 0.050, 0.004, 0.001),
                 (0.441, 0.424, 0.103, 0.029, 0.003), (0.0, 0.25, 0.50, 0.75, 1.0)),
        Category("treatment", (0, 1), (0.13, 0.87), (0.17, 0.83), (0.0, -0.45)),
        Category("m_stage", ("M0", "M1", "Mx"), (0.86, 0.02, 0.12), (0.85, 0.03, 0.12), (0.0, 1.2, 0.1)),
    ),
    hpv_log_hazard=-0.87,
    within_status=True,
    no_primary=0.03,
    no_node={True: 0.09, False: 0.29},
    volumes_ml={"primary_volume": (6.0, 1.0), "nodal_volume": (9.0, 0.90)},
    age_years=(62.0, 9.5),
    relapse_scale_days=22500.0,
    hpv_known=0.76,
    blank_factor=(0.65, 0.555, 1.0),  # 33%, 34% and 40%, as released
    sites={"tonsil": 0.50, "tongue base": 0.40, "soft palate": 0.10},
    stages=Stages(
        invasion={True: 0.19, False: 0.33},
        elongation=(1.38, 0.12),
        contralateral=0.12,
        t_log_hazard=0.365,
        n_log_hazard=0.485,
        misread=(0.10, 0.08),
    ),
    traps=True,
)  # fmt: skip

VERSIONS = {planted.version: planted for planted in (VERSION_1, VERSION_2)}


def primary_suv(score: float) -> float:
    """Give the mean SUV of the primary, before the scanner's point spread."""
    return 8.5 * math.exp(0.33 * score)


def heterogeneity(score: float) -> float:
    """Give the coefficient of variation of the primary's uptake; its CT texture is proportional to it."""
    return 0.28 * math.exp(0.45 * score)


def cyst_fraction(score: float) -> float:
    """Give the fraction of each node's volume that is cystic, dark in both images."""
    return 0.6 / (1.0 + math.exp(0.5 - 1.4 * score))
