"""Stage 4's training: ordinal models on planted orders, their thresholds, and what each fold may see."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import ArrayLike

from mmpl.case import ClinicalRecord, Outcome, Patient
from mmpl.evidence import FeatureTable
from mmpl.files import read_json, write_json
from mmpl.metrics import mean_recall
from mmpl.names import STAGE_TASKS, Stage, Task
from mmpl.profile import load_profile
from mmpl.staging import GEOMETRY, OrdinalModel, StageScale
from mmpl.training.parallel import Engine
from mmpl.training.records import StagingRecord
from mmpl.training.splits import make_splits
from mmpl.training.staging import (
    choose_scale,
    fit_ordinal,
    fit_ordinal_models,
    stage_without_lesion,
)
from mmpl.training.workspace import RunSettings, Workspace
from mmpl.weights import TABLES_FILE


def draw(counts: tuple[int, ...], noise: float = 0.3, seed: int = 0) -> tuple[FeatureTable, np.ndarray]:
    """Draw patients of stages 0, 1, ... whose nodes are the larger the higher the stage is, and what says nothing."""
    rng = np.random.default_rng(seed)
    stages = np.repeat(np.arange(len(counts)), counts)
    size = 10.0 + 10.0 * (stages + rng.normal(0.0, noise, len(stages)))
    size[::7] = np.nan
    others = {"primary_count": stages, "node_sides": np.ones(len(stages)), "texture": stages}
    return FeatureTable.of(node_extent_mm=size, node_count=rng.normal(size=len(stages)), **others), stages


def scale_of(scores: ArrayLike, stages: ArrayLike) -> StageScale:
    return choose_scale(Task.N_STAGE, scores, stages, np.zeros(len(np.asarray(stages)), bool))


def test_a_planted_order_is_found() -> None:
    evidence, stages = draw((40, 40, 40, 40))
    model = fit_ordinal(Task.N_STAGE, evidence, stages)
    assert model.names == ("node_extent_mm", "node_count", "node_sides")  # of the nodes alone
    assert all(of_sides == 0 for *_, of_sides in model.coefficients)  # which are the same of all
    assert model.stages == (0, 1, 2, 3)
    fresh, truth = draw((50, 50, 50, 50), seed=1)
    scores = model.score(fresh)
    assert (np.diff([scores[truth == stage].mean() for stage in range(4)]) > 0.3).all()
    assert ((scores >= 0) & (scores <= 3)).all()
    assert mean_recall(scale_of(model.score(evidence), stages).stages_of(scores), truth) > 0.75


def test_a_rare_stage_weighs_as_much_as_a_common_one() -> None:
    """Where stages overlap, a model of patients as they come hardly ever says the rare one."""
    evidence, stages = draw((300, 15), noise=1.0)
    scores = fit_ordinal(Task.N_STAGE, evidence, stages).score(evidence)
    assert scores.mean() == pytest.approx(0.5, abs=0.1)
    scale = scale_of(scores, stages)
    found = scale.stages_of(scores)
    assert (found[stages == 1] == 1).mean() > 0.5


def test_stages_that_nobody_has_are_never_said() -> None:
    evidence, stages = draw((20, 20, 0, 20))
    model = fit_ordinal(Task.N_STAGE, evidence, stages)
    scale = scale_of(model.score(evidence), stages)
    assert model.stages == scale.stages == (0, 1, 3)
    assert len(scale.thresholds) == 2
    assert set(scale.stages_of(np.linspace(-1, 5, 50))) == {0, 1, 3}


def test_masks_that_find_nothing_still_make_a_model() -> None:
    """As those of networks that have learnt nothing do."""
    stages = np.repeat([1, 2, 3], (10, 30, 10))
    nothing = FeatureTable.of(primary_count=np.zeros(50), primary_extent_mm=np.full(50, np.nan))
    scores = fit_ordinal(Task.T_STAGE, nothing, stages).score(nothing)
    assert scores == pytest.approx(2.0, abs=0.01)
    assert choose_scale(Task.T_STAGE, scores, stages, np.ones(50, bool)).without_lesion == 2


def test_of_one_stage_alone_it_is_said_of_everybody(tmp_path: Path) -> None:
    """Whatever the patient, and however the model was kept."""
    evidence, _ = draw((20,))
    write_json(tmp_path / "model.json", fit_ordinal(Task.N_STAGE, evidence, np.full(20, 2)))
    model = read_json(tmp_path / "model.json", OrdinalModel)
    assert model.stages == (2,)
    assert model.score(draw((20, 20, 20))[0]).tolist() == [2.0] * 60
    with pytest.raises(ValueError, match=r"\(5,\) stages for 20 patients"):
        fit_ordinal(Task.N_STAGE, evidence, np.full(5, 2))


def test_thresholds_lie_between_stages() -> None:
    rng = np.random.default_rng(1)
    stages = np.repeat([1, 2, 3], (60, 200, 20))
    scores = stages + rng.normal(0.0, 0.2, len(stages))
    assert scale_of(scores, stages).thresholds == pytest.approx((1.5, 2.5), abs=0.12)


def test_thresholds_give_up_a_stage_that_does_not_show() -> None:
    """Where the highest stage looks like all others, leaving it out is better than taking a third of each."""
    rng = np.random.default_rng(2)
    stages = np.repeat([1, 2, 3, 4], 100)
    scores = np.where(stages == 4, rng.uniform(1.5, 3.2, 400), stages + rng.normal(0.0, 0.1, 400))
    scale = scale_of(scores, stages)
    recalls = [(scale.stages_of(scores)[stages == stage] == stage).mean() for stage in (1, 2, 3, 4)]
    assert min(recalls[:3]) > 0.95
    assert scale.thresholds == tuple(sorted(scale.thresholds))


def test_scores_that_are_all_the_same_have_thresholds() -> None:
    scale = scale_of(np.full(6, 1.0), [0, 0, 1, 1, 2, 2])
    assert len(scale.thresholds) == 2
    assert np.isfinite(scale.thresholds).all()


@pytest.mark.parametrize(
    ("absent", "t_stage"),
    [
        ([0, 0, 0, 0, 0, 0, 0], 2),  # the commonest
        ([0, 1, 1, 1, 0, 0, 0], 2),
        ([1, 1, 1, 0, 0, 0, 0], 1),  # fewer patients than of T2, and a larger share
    ],
)
def test_the_stage_without_a_primary_is_that_of_which_most_are_missed(absent: list[int], t_stage: int) -> None:
    stages = [1, 2, 2, 2, 2, 3, 4]
    assert stage_without_lesion(Task.T_STAGE, stages, absent) == t_stage
    assert stage_without_lesion(Task.N_STAGE, stages, absent) == 0


def test_balanced_accuracy_is_the_mean_of_the_stages_shares() -> None:
    assert mean_recall([1, 1, 1, 2, 3], [1, 1, 1, 2, 2]) == pytest.approx(0.75)
    assert mean_recall([4, 4], [1, 2]) == 0.0


PATIENTS = tuple(
    Patient(str(number), str(number % 5), ClinicalRecord(), Outcome(t_stage=number % 5, n_stage=number % 4))
    for number in range(100)
)


class Measured(Workspace):
    """A run of patients whose nodes were measured: the larger, the higher the stage of `PATIENTS` is."""

    patients = PATIENTS

    def geometry(self, patients: Sequence[Patient]) -> FeatureTable:
        true = {p.patient_id: p.outcome.n_stage or 0 for p in PATIENTS}
        rows = [[10.0 * true[p.patient_id] + int(p.patient_id) % 7] * len(GEOMETRY) for p in patients]
        return FeatureTable(GEOMETRY, np.array(rows, float).reshape(-1, len(GEOMETRY)))

    def radiomics(self, patients: Sequence[Patient]) -> FeatureTable:
        return FeatureTable.empty(len(patients))


@pytest.fixture
def run(tmp_path: Path) -> Measured:
    made = Measured(tmp_path / "run", RunSettings("noise", load_profile("micro"), folds=4, center_out=False))
    made.keep_folds(make_splits(PATIENTS, 0, 4, center_out=False))
    return made


def test_every_patient_is_scored_and_the_thresholds_are_the_ensembles(run: Measured) -> None:
    record = fit_ordinal_models(run, Engine(1))
    (scheme,) = run.splits.schemes
    for task in STAGE_TASKS:
        assert set(record.scores[task][scheme]) == {p.patient_id for p in PATIENTS}
    assert record.scales[Task.T_STAGE].stages == (1, 2, 3, 4)  # of T0 nothing is learnt
    assert record.scales[Task.N_STAGE].stages == (0, 1, 2, 3)
    assert record.balanced_accuracy[Task.N_STAGE] > 0.9
    assert record.balanced_accuracy_by_rules[Task.N_STAGE] < 0.9  # as sizes here are those of no node
    run.keep(record)
    assert run.read(StagingRecord) == record


def test_a_model_learns_nothing_of_the_patients_of_its_fold(run: Measured, monkeypatch: pytest.MonkeyPatch) -> None:
    """With other stages of theirs the same model comes out, and says the same of them; other models change."""
    first, second, *_ = run.splits.members
    files = [run.member_file(member, TABLES_FILE[Stage.STAGING]) for member in (first, second)]
    inside = {p.patient_id for p in run.splits.held_out(first, PATIENTS)}
    before, tables = fit_ordinal_models(run, Engine(1)), [file.read_bytes() for file in files]
    swapped = tuple(
        replace(p, outcome=Outcome(t_stage=1, n_stage=3)) if p.patient_id in inside else p for p in PATIENTS
    )
    monkeypatch.setattr(Measured, "patients", swapped)
    after = fit_ordinal_models(run, Engine(1))
    assert files[0].read_bytes() == tables[0]
    assert files[1].read_bytes() != tables[1]
    for task in STAGE_TASKS:
        (was,), (now,) = before.scores[task].values(), after.scores[task].values()
        assert {name for name in was if was[name] == now[name]} == inside


def test_a_fold_of_one_stage_does_not_keep_the_ensemble_from_staging(
    run: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The only N stages but N2 are in one fold: its model says N2 there, and the ensemble still tells them apart."""
    first = run.splits.members[0]
    inside = {p.patient_id for p in run.splits.held_out(first, PATIENTS)}
    patients = tuple(
        p if p.patient_id in inside else replace(p, outcome=replace(p.outcome, n_stage=2)) for p in PATIENTS
    )
    monkeypatch.setattr(Measured, "patients", patients)
    record = fit_ordinal_models(run, Engine(1))
    (scores,) = record.scores[Task.N_STAGE].values()
    assert {scores[name] for name in inside} == {2.0}
    assert len(set(scores.values())) > 2
    assert record.scales[Task.N_STAGE].stages == (0, 1, 2, 3)
