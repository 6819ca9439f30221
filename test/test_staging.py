"""T and N stage: geometry and rules on lesions worked by hand, and the ensemble's answer, with lesions and without."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mmpl.case import Case, GivenMask, Image, Outcome
from mmpl.evidence import FeatureTable
from mmpl.lesions import Lesion, Side
from mmpl.names import NETWORK_STAGES, STAGE_TASKS, Label, Stage, Task
from mmpl.pipeline import NO_DEEP_EVIDENCE, PatientResult, Pipeline
from mmpl.report import describe
from mmpl.staging import (
    GEOMETRY,
    NO_PRIMARY,
    OrdinalModel,
    StageScale,
    measure_geometry,
    stage_by_rules,
    staging_evidence,
)
from mmpl.survival import ScaledColumn
from mmpl.weights import load_ensemble, write_manifest

CPU = torch.device("cpu")


def lesion(
    label: Label,
    diameter_mm: float = 20.0,
    side: Side | None = Side.LEFT,
    volume_ml: float = 4.0,
    center_mm: tuple[float, float, float] = (20.0, 0.0, 0.0),
    from_primary_mm: float | None = None,
) -> Lesion:
    return Lesion(label, volume_ml, diameter_mm, center_mm, side, from_primary_mm, None, None)


def row(table: FeatureTable) -> dict[str, float]:
    assert len(table) == 1
    return dict(zip(table.names, table.values[0].tolist(), strict=True))


def test_only_stages_have_a_stage() -> None:
    """T0 is known, and nothing that is staged."""
    outcomes = Outcome(t_stage=3, n_stage=2), Outcome(t_stage=0, n_stage=0)
    assert [[outcome.stage_of(task) for task in STAGE_TASKS] for outcome in outcomes] == [[3, 2], [None, 0]]
    with pytest.raises(ValueError, match="not in tuple"):
        outcomes[0].stage_of(Task.HPV)


def test_geometry_worked_by_hand() -> None:
    """A primary on the left, with a part that lies apart; three nodes, one of them on the right, and a speck."""
    found = row(
        measure_geometry(
            [
                lesion(Label.GTVP, 31.0, Side.LEFT, 5.0, (18.0, -5.0, 10.0)),
                lesion(Label.GTVP, 34.0, Side.MIDLINE, 1.0, (2.0, -5.0, 30.0), 4.0),
                lesion(Label.GTVN, 25.0, Side.LEFT, 6.0, (40.0, 10.0, -10.0), 12.0),
                lesion(Label.GTVN, 41.0, Side.RIGHT, 2.0, (-40.0, 10.0, -10.0), 50.0),
                lesion(Label.GTVN, 10.0, Side.LEFT, 0.5, (40.0, 10.0, -40.0), 35.0),
                lesion(Label.GTVN, 3.0, Side.RIGHT, 0.01, (-90.0, 10.0, -90.0), 99.0),
            ],
            smallest_ml=0.05,
        )
    )
    assert tuple(found) == GEOMETRY
    assert found == pytest.approx(
        {
            "primary_count": 2,
            "primary_extent_mm": 34.0,
            "primary_sphere_mm": (6000 * 6.0 / math.pi) ** (1 / 3),
            "node_count": 3,
            "node_extent_mm": 41.0,
            "node_sphere_mm": (6000 * 8.5 / math.pi) ** (1 / 3),
            "node_largest_sphere_mm": (6000 * 6.0 / math.pi) ** (1 / 3),
            "node_sides": 2,
            "node_contralateral": 1,
            "node_below_primary_mm": 50.0,
            "node_nearest_mm": 12.0,
            "node_farthest_mm": 50.0,
            "node_apart_mm": math.dist((-40, -10), (40, -40)),
        }
    )


def test_what_is_not_there_has_no_place() -> None:
    found = row(measure_geometry([lesion(Label.GTVN)]))
    assert (found["primary_count"], found["primary_extent_mm"], found["node_apart_mm"]) == (0, 0, 0)
    assert math.isnan(found["node_below_primary_mm"])
    assert math.isnan(found["node_nearest_mm"])
    nothing = row(measure_geometry([]))
    assert {name for name, value in nothing.items() if math.isnan(value)} == {
        name for name in GEOMETRY if name.split("_")[1] in ("below", "nearest", "farthest", "apart")
    }
    assert not any(value for value in nothing.values() if not math.isnan(value))


@pytest.mark.parametrize(("extent", "stage"), [(8.0, 1), (20.0, 1), (20.1, 2), (40.0, 2), (40.1, 3), (90.0, 3)])
def test_rules_of_the_primary(extent: float, stage: int) -> None:
    assert stage_by_rules(Task.T_STAGE, measure_geometry([lesion(Label.GTVP, extent)])).tolist() == [stage]


def test_rules_say_nothing_of_no_primary() -> None:
    assert np.isnan(stage_by_rules(Task.T_STAGE, measure_geometry([lesion(Label.GTVN)]))).all()


LEFT, RIGHT = lesion(Label.GTVN, side=Side.LEFT, from_primary_mm=9.0), lesion(Label.GTVN, side=Side.RIGHT)


@pytest.mark.parametrize(
    ("nodes", "stage"),
    [
        ([], 0),
        ([LEFT], 1),
        ([replace(LEFT, diameter_mm=30.0)], 1),
        ([replace(LEFT, diameter_mm=30.1)], 2),
        ([LEFT, LEFT], 2),
        ([replace(RIGHT, from_primary_mm=9.0)], 2),
        ([replace(LEFT, side=Side.MIDLINE)], 1),
        ([replace(LEFT, diameter_mm=60.1)], 3),
        ([replace(LEFT, diameter_mm=60.0), LEFT], 2),
    ],
)
def test_rules_of_the_nodes(nodes: list[Lesion], stage: int) -> None:
    """Beside a primary on the left."""
    assert stage_by_rules(Task.N_STAGE, measure_geometry([lesion(Label.GTVP), *nodes])).tolist() == [stage]


def test_nodes_on_both_sides_need_no_primary() -> None:
    assert stage_by_rules(Task.N_STAGE, measure_geometry([LEFT])).tolist() == [1]
    assert stage_by_rules(Task.N_STAGE, measure_geometry([RIGHT])).tolist() == [1]
    assert stage_by_rules(Task.N_STAGE, measure_geometry([LEFT, RIGHT])).tolist() == [2]


def test_evidence_has_a_step_of_the_rules_where_they_say_so() -> None:
    rows = [measure_geometry([lesion(Label.GTVP, 45.0)]), measure_geometry([LEFT, RIGHT])]
    geometry = FeatureTable(GEOMETRY, np.vstack([each.values for each in rows]))
    seen = staging_evidence(geometry, FeatureTable.of(texture=[1.0, 2.0]))
    steps = [f"rules_{letter}_at_least_{least}" for letter in "tn" for least in (1, 2, 3)]
    assert seen.read(steps).tolist() == [[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 0]]
    assert seen.read(["texture"]).tolist() == [[1.0], [2.0]]


def test_a_score_is_the_expected_stage() -> None:
    column = ScaledColumn("size", fill=3.0, mean=1.0, scale=2.0, limit=4.0)
    model = OrdinalModel((1, 2, 4), (column,), (0.0, -2.0), ((1.0,), (0.5,)))
    scores = model.score(FeatureTable.of(size=[1.0, 3.0, math.nan, 1e9]))
    above = [1 / (1 + math.exp(-1.0)), 1 / (1 + math.exp(1.5))]
    assert scores[0] == pytest.approx(1 + 0.5 + 2 / (1 + math.exp(2.0)))
    assert scores[1] == scores[2] == pytest.approx(1 + above[0] + 2 * above[1])
    assert scores[3] == pytest.approx(1 + 1 / (1 + math.exp(-4.0)) + 2 / (1 + math.exp(0.0)))
    with pytest.raises(ValueError, match="the evidence has no size"):
        model.score(FeatureTable.of(age=[1.0]))


def test_a_threshold_belongs_to_the_higher_stage() -> None:
    scale = StageScale((1, 2, 4), (1.5, 3.0), without_lesion=1)
    assert scale.stages_of([0.0, 1.49, 1.5, 2.9, 3.0, 9.0]).tolist() == [1, 1, 2, 2, 4, 4]


@pytest.fixture(scope="module")
def answered(staging_ensemble: Path, head: Case) -> PatientResult:
    return Pipeline(load_ensemble(staging_ensemble), CPU)(head)


def with_mask(case: Case, mask: np.ndarray) -> Case:
    return replace(case, given_mask=GivenMask(Image(mask, case.ct.grid), "mine.mha"))


def test_the_answer_is_that_of_the_models_mean_score(answered: PatientResult, staging_ensemble: Path) -> None:
    ensemble = load_ensemble(staging_ensemble)
    assert ensemble.tasks == set(Task)
    for task, result in zip(STAGE_TASKS, (answered.t_stage, answered.n_stage), strict=True):
        assert result is not None
        assert not result.by_rule
        assert len(set(result.member_scores)) == 2
        assert result.score == pytest.approx(np.mean(result.member_scores))
        assert result.stage == ensemble.stage_scales[task].stages_of(result.score)
    assert answered.lesions is None  # not asked for
    assert list(answered.seconds)[-2:] == ["lesions", Stage.STAGING]
    assert answered.n_stage is not None
    told = describe(answered, ensemble)["n_stage"]
    assert told == {
        "stage": f"N{answered.n_stage.stage}",
        "score": answered.n_stage.score,
        "by_model": answered.n_stage.member_scores,
        "by_rule": False,
    }


def test_other_answers_do_not_change(answered: PatientResult, tiny_ensemble: Path, head: Case) -> None:
    without = Pipeline(load_ensemble(tiny_ensemble), CPU)(head)
    assert (without.t_stage, without.n_stage) == (None, None)
    assert without.survival is not None
    assert answered.survival is not None
    assert without.hpv == answered.hpv
    assert without.survival.risk_score == answered.survival.risk_score
    assert without.flags == answered.flags


def test_without_nodes_it_is_n0_and_without_a_primary_what_the_weights_say(staging_ensemble: Path, head: Case) -> None:
    """By masks of a person, of which specks do not count."""
    pipeline = Pipeline(load_ensemble(staging_ensemble), CPU, frozenset(STAGE_TASKS))
    mask = np.zeros(head.ct.grid.shape_zyx, np.uint8)
    mask[24:28, 17:21, 27:31] = Label.GTVP
    mask[10, 14, 12] = Label.GTVN  # one voxel, fewer than the profile counts
    alone = pipeline(with_mask(head, mask))
    assert alone.n_stage is not None
    assert alone.t_stage is not None
    assert (alone.n_stage.stage, alone.n_stage.score, alone.n_stage.by_rule) == (0, 0.0, True)
    assert alone.t_stage.by_rule is False
    assert NO_PRIMARY not in alone.flags
    assert (alone.hpv, alone.survival, alone.notes) == (None, None, ())  # nobody asked, and no record is read

    nodes = pipeline(with_mask(head, np.where(mask == Label.GTVP, Label.GTVN, 0).astype(np.uint8)))
    assert nodes.t_stage is not None
    assert nodes.n_stage is not None
    assert (nodes.t_stage.stage, nodes.t_stage.by_rule, nodes.n_stage.by_rule) == (1, True, False)
    assert NO_PRIMARY in nodes.flags

    neither = pipeline(with_mask(head, np.zeros_like(mask)))
    assert neither.t_stage is not None
    assert neither.n_stage is not None
    assert (neither.t_stage.stage, neither.n_stage.stage) == (1, 0)
    assert NO_DEEP_EVIDENCE not in neither.flags


def test_staging_needs_no_other_outcome(staging_ensemble: Path, head: Case, tmp_path: Path) -> None:
    whole = load_ensemble(staging_ensemble)
    stages = (Stage.SEGMENTATION, Stage.STAGING)
    for member in whole.members:
        (tmp_path / member.name).symlink_to(member.folder)
    names = [member.name for member in whole.members]
    write_manifest(tmp_path, whole.profile, names, stages, whole.thresholds, None, {}, stage_scales=whole.stage_scales)
    alone = load_ensemble(tmp_path, keep_networks=True)
    assert alone.tasks == {Task.SEGMENTATION, *STAGE_TASKS}
    result, both = Pipeline(alone, CPU)(head), Pipeline(whole, CPU, frozenset(STAGE_TASKS))(head)
    assert (result.t_stage, result.n_stage) == (both.t_stage, both.n_stage)
    assert (result.hpv, result.survival) == (None, None)


def test_weights_without_stages_say_nothing_of_them(tiny_ensemble: Path) -> None:
    ensemble = load_ensemble(tiny_ensemble)
    assert (ensemble.stages, ensemble.stage_scales) == (NETWORK_STAGES, {})
    assert not ensemble.tasks & set(STAGE_TASKS)
    assert "stage_scales" not in (tiny_ensemble / "manifest.json").read_text()
