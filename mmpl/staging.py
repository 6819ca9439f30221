"""T and N stage of the AJCC's seventh edition: what they rest on, the manual's rules, the models, the answer.

A stage follows from the lesions' sizes, number, sides and places (`measure_geometry`). The rules as written are a
baseline (`stage_by_rules`); the models learn how readers stage, and what masks get wrong.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from mmpl.evidence import FeatureTable, Floats
from mmpl.lesions import Lesion, Side
from mmpl.names import STAGE_TASKS, Label, Task, of_stage
from mmpl.survival import ScaledColumn

NO_PRIMARY = "no primary found: the T stage that goes with that in training stands in"
GEOMETRY = (
    "primary_count",
    "primary_extent_mm",
    "primary_sphere_mm",
    "node_count",
    "node_extent_mm",
    "node_sphere_mm",
    "node_largest_sphere_mm",
    "node_sides",
    "node_contralateral",
    "node_below_primary_mm",
    "node_nearest_mm",
    "node_farthest_mm",
    "node_apart_mm",
)
"""Columns of `measure_geometry`."""
RULE_STEPS = {
    Task.T_STAGE: {least: f"rules_t_at_least_{least}" for least in (1, 2, 3)},
    Task.N_STAGE: {least: f"rules_n_at_least_{least}" for least in (1, 2, 3)},
}
"""Columns of `staging_evidence`: 1 where `stage_by_rules` says that stage or a higher one, else 0."""


def measure_geometry(lesions: Sequence[Lesion], smallest_ml: float = 0.0) -> FeatureTable:
    """Measure what stages rest on: one row of `GEOMETRY`.

    `count` is a number of lesions and `extent` the longest diameter of any of them; a volume stands as the diameter of
    the `sphere` that has it, that of all lesions together or of the `largest`. Where there are none, these are 0. Of
    the nodes: on how many `sides` of the midline there are some (0 to 2), how many are `contralateral` to the largest
    primary, how far the lowest centroid lies `below` that of the largest primary (toward the feet), the shortest
    distances of the `nearest` and of the `farthest` to it, and the largest distance of two centroids, `apart`, 0 of a
    single node. Places are missing where there is no node and, but for `apart`, no primary.

    Args:
        lesions: A patient's lesions, in the order of `find_lesions`.
        smallest_ml: Volume below which a lesion is a speck, and not counted.
    """
    counted = [lesion for lesion in lesions if lesion.volume_ml >= smallest_ml]
    primaries = [lesion for lesion in counted if lesion.label is Label.GTVP]
    nodes = [lesion for lesion in counted if lesion.label is Label.GTVN]
    sides = {node.side for node in nodes} & _OPPOSITE.keys()
    values = dict.fromkeys(GEOMETRY, math.nan)
    for name, group in (("primary", primaries), ("node", nodes)):
        values[f"{name}_count"] = len(group)
        values[f"{name}_extent_mm"] = max((lesion.diameter_mm for lesion in group), default=0.0)
        values[f"{name}_sphere_mm"] = _sphere_mm(sum(lesion.volume_ml for lesion in group))
    values["node_largest_sphere_mm"] = _sphere_mm(max((node.volume_ml for node in nodes), default=0.0))
    values["node_sides"] = len(sides)
    values["node_contralateral"] = 0
    if nodes:
        pairs = combinations([node.center_mm for node in nodes], 2)
        values["node_apart_mm"] = max((math.dist(*pair) for pair in pairs), default=0.0)
    if nodes and primaries:
        primary = primaries[0]
        away = [node.from_primary_mm for node in nodes if node.from_primary_mm is not None]
        values["node_contralateral"] = sum(node.side == _OPPOSITE.get(primary.side) for node in nodes if node.side)
        values["node_below_primary_mm"] = primary.center_mm[2] - min(node.center_mm[2] for node in nodes)
        values["node_nearest_mm"], values["node_farthest_mm"] = min(away), max(away)
    return FeatureTable.of(**{name: [value] for name, value in values.items()})


def _sphere_mm(volume_ml: float) -> float:
    return (6000 * volume_ml / math.pi) ** (1 / 3)


_OPPOSITE: dict[Side | None, Side] = {Side.LEFT: Side.RIGHT, Side.RIGHT: Side.LEFT}


def stage_by_rules(task: Task, geometry: FeatureTable) -> Floats:
    """Stage n patients by the manual's rules, for the oropharynx: (n,), NaN for T without a primary.

    T1 is a primary of up to 2 cm, T2 up to 4, T3 above. T4, which invades its neighbors, is never said: no invasion can
    be seen in a mask. N1 is one node of up to 3 cm, N2 a larger one, several, or any on the side that the primary does
    not lie on, N3 one above 6 cm.
    """
    if task is Task.T_STAGE:
        count, extent = geometry.read(["primary_count", "primary_extent_mm"]).T
        return np.where(count > 0, 1.0 + (extent > 20) + (extent > 40), np.nan)
    count, extent, sides, other = geometry.read(["node_count", "node_extent_mm", "node_sides", "node_contralateral"]).T
    several = (count > 1) | (sides > 1) | (other > 0)
    return np.select([count == 0, extent > 60, several | (extent > 30)], [0.0, 3.0, 2.0], 1.0)


def staging_evidence(geometry: FeatureTable, radiomics: FeatureTable) -> FeatureTable:
    """Make what the models of stage 4 see of n patients: geometry, what the manual says of it, and radiomics.

    The manual's stages stand as one column for each step, 1 where they are at least that stage. Deep scores and the
    clinical record add nothing (`train/LOG.md`).

    Args:
        geometry: Lesions' geometry on the one mask a patient, by `measure_geometry`: out of fold in training, the
            ensemble's at inference.
        radiomics: Features of the same mask.
    """
    ruled = {task: stage_by_rules(task, geometry) for task in STAGE_TASKS}
    steps = {name: ruled[task] >= least for task, names in RULE_STEPS.items() for least, name in names.items()}
    return FeatureTable.join(geometry, FeatureTable.of(**steps), radiomics)


def without_lesion(task: Task, geometry: FeatureTable) -> NDArray[np.bool_]:
    """Tell which of n patients have no lesion to stage, (n,): no primary for T, no node for N."""
    return geometry.read([of_stage(task, "primary_count", "node_count")])[:, 0] == 0


@dataclass(frozen=True)
class OrdinalModel:
    """Logistic regressions, one a step between two neighboring stages, of whether a stage is above it.

    So Frank and Hall (A simple approach to ordinal classification, 2001) make binary models of an ordinal one.

    Attributes:
        stages: Stages of the training patients, ascending.
        columns: The way each column of the evidence becomes a covariate.
        intercepts: Log odds of a typical training patient to be above each stage but the highest; none of one stage.
        coefficients: What each covariate adds to those, (stages - 1, columns).
    """

    stages: tuple[int, ...]
    columns: tuple[ScaledColumn, ...]
    intercepts: tuple[float, ...]
    coefficients: tuple[tuple[float, ...], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns that it reads."""
        return tuple(column.name for column in self.columns)

    def score(self, evidence: FeatureTable) -> Floats:
        """Return (n,) expected stages, as if each stage were as common as the others; higher is a higher one.

        Raises:
            ValueError: The evidence lacks a column; the message names it.
        """
        values = evidence.read(self.names).T
        covariates = np.array([column.scale_values(each) for column, each in zip(self.columns, values, strict=True)])
        coefficients = np.reshape(self.coefficients, (-1, len(self.columns)))
        above = expit(coefficients @ covariates + np.array(self.intercepts)[:, None])
        return self.stages[0] + np.diff(self.stages) @ above


@dataclass(frozen=True)
class StagingTables:
    """One model's two ordinal models."""

    t_stage: OrdinalModel
    n_stage: OrdinalModel

    def of(self, task: Task) -> OrdinalModel:
        """Give that of a task."""
        return of_stage(task, self.t_stage, self.n_stage)


@dataclass(frozen=True)
class StageScale:
    """The stages of a task along the ensemble's mean score.

    Attributes:
        stages: Stages of the training patients, ascending.
        thresholds: One between each two neighbors; at or above it is the higher stage.
        without_lesion: Stage of a patient without a lesion to stage: N0, and the T stage whose training patients are
            most often found no primary of.
    """

    stages: tuple[int, ...]
    thresholds: tuple[float, ...]
    without_lesion: int

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """Read what a manifest holds of it."""
        stages, thresholds = map(int, content["stages"]), map(float, content["thresholds"])
        return cls(tuple(stages), tuple(thresholds), int(content["without_lesion"]))

    def stages_of(self, scores: ArrayLike) -> NDArray[np.intp]:
        """Give the stage of each score."""
        return np.array(self.stages)[np.searchsorted(self.thresholds, np.asarray(scores), side="right")]


@dataclass(frozen=True)
class StageResult:
    """The ensemble's T or N stage of one patient.

    Attributes:
        stage: T 1 to 4, or N 0 to 3.
        score: Mean of the models' scores; higher means a higher stage.
        member_scores: Score that each model gives.
        by_rule: Whether there is no lesion to stage, and no model was asked: the scores are the stage itself.
    """

    stage: int
    score: float
    member_scores: tuple[float, ...]
    by_rule: bool = False


def answer_stage(task: Task, scale: StageScale, models: Sequence[OrdinalModel], evidence: FeatureTable) -> StageResult:
    """Stage one patient: by the models' mean score or, without a lesion to stage, as the scale says.

    Args:
        evidence: One row, by `staging_evidence`.
    """
    if without_lesion(task, evidence)[0]:
        stage = float(scale.without_lesion)
        return StageResult(scale.without_lesion, stage, (stage,) * len(models), by_rule=True)
    scores = tuple(float(model.score(evidence)[0]) for model in models)
    return StageResult(int(scale.stages_of(np.mean(scores))), float(np.mean(scores)), scores)
