"""The folds of a run, made once and read by every later step."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from mmpl.case import Patient

FOLDS = 5


class Scheme(StrEnum):
    """The way patients are held out: at random, or whole centers at a time."""

    PATIENT = "patient"
    CENTER = "center"


@dataclass(frozen=True)
class Member:
    """One model of the ensemble: it trains outside its fold and scores the patients inside."""

    scheme: Scheme
    fold: int

    @property
    def name(self) -> str:
        """The model's name, for example `center-3`."""
        return f"{self.scheme}-{self.fold}"


@dataclass(frozen=True)
class Splits:
    """The fold of each patient in each scheme."""

    fold_of: dict[Scheme, dict[str, int]]

    @property
    def schemes(self) -> tuple[Scheme, ...]:
        """The ways patients are held out; each scheme has an out-of-fold table of its own."""
        return tuple(self.fold_of)

    @property
    def members(self) -> tuple[Member, ...]:
        """Every model that these folds make, scheme by scheme."""
        return tuple(
            Member(scheme, fold) for scheme, folds in self.fold_of.items() for fold in sorted(set(folds.values()))
        )

    def held_out(self, member: Member, patients: Sequence[Patient]) -> list[Patient]:
        """Keep the patients of a model's own fold, which it never trains on."""
        return [p for p in patients if self.fold_of[member.scheme][p.patient_id] == member.fold]

    def training(self, member: Member, patients: Sequence[Patient]) -> list[Patient]:
        """Keep the patients that a model trains on."""
        return [p for p in patients if self.fold_of[member.scheme][p.patient_id] != member.fold]


def patient_folds(patients: Sequence[Patient], seed: int, folds: int = FOLDS) -> dict[str, int]:
    """Deal patients to folds evenly within each stratum of center, HPV status and relapse.

    scikit-learn's `StratifiedKFold` deals alike, but warns of strata with fewer patients than folds, of which a real
    cohort has several, and refuses where all are, as in a small one.
    """
    strata = defaultdict(list)
    for patient in patients:
        strata[str((patient.center_id, patient.outcome.hpv_positive, patient.outcome.relapse))].append(
            patient.patient_id
        )
    rng = np.random.default_rng(seed)
    dealt = [name for key in sorted(strata) for name in rng.permutation(sorted(strata[key]))]
    return {str(name): position % folds for position, name in enumerate(dealt)}


def center_folds(patients: Sequence[Patient]) -> dict[str, int]:
    """Hold out whole centers: the largest ones alone, the rest in pairs, largest with smallest.

    Seven centers give three alone and two pairs.

    Raises:
        ValueError: There are fewer than five centers, or more than ten.
    """
    sizes = Counter(p.center_id for p in patients)
    if not FOLDS <= len(sizes) <= 2 * FOLDS:
        raise ValueError(f"{FOLDS} center-out folds need {FOLDS} to {2 * FOLDS} centers, and there are {len(sizes)}")
    ranked = sorted(sizes, key=lambda center: (-sizes[center], center))
    alone = 2 * FOLDS - len(ranked)
    paired = ranked[alone:]
    groups = [[c] for c in ranked[:alone]] + [[paired[i], paired[-1 - i]] for i in range(len(paired) // 2)]
    fold_of_center = {center: fold for fold, group in enumerate(groups) for center in group}
    return {p.patient_id: fold_of_center[p.center_id] for p in patients}


def make_splits(patients: Sequence[Patient], seed: int, folds: int = FOLDS, center_out: bool = True) -> Splits:
    """Make both schemes' folds, or the patient-level ones alone.

    Raises:
        ValueError: The patients, or their centers, are too few.
    """
    if len(patients) < folds:
        raise ValueError(f"{len(patients)} patients cannot be dealt to {folds} folds")
    fold_of = {Scheme.PATIENT: patient_folds(patients, seed, folds)}
    return Splits(fold_of | {Scheme.CENTER: center_folds(patients)} if center_out else fold_of)
