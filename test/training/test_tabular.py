"""Stages 2 and 3 on tables alone: what is planted is found, what is exported answers, and a blank is no finding."""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmpl.__main__ import main as command_line
from mmpl.case import InvalidInputError, Patient
from mmpl.cohort_scores import score
from mmpl.evaluate import collect, evaluate
from mmpl.files import OverwriteError
from mmpl.integration import HPV_UNUSED, stated_flags
from mmpl.io.patients import read_patients
from mmpl.metrics import c_index, roc_auc
from mmpl.names import Stage
from mmpl.pipeline import Pipeline
from mmpl.predict_table import answer_patient, predict_table
from mmpl.profile import load_profile
from mmpl.reliability import kaplan_meier
from mmpl.schema import CategoricalField, ContinuousField, default_schema
from mmpl.training.calibration import calibrate_survival
from mmpl.training.outcome_network import by_scheme
from mmpl.training.parallel import Engine
from mmpl.training.records import SurvivalRecord
from mmpl.training.results import out_of_fold_results
from mmpl.training.splits import Scheme
from mmpl.training.survival import RisksOfKnownStatus, times_and_events, with_rfs
from mmpl.training.tabular import EVALUATION_FILE, TabularRun, begin, extend_schema, fit, main
from mmpl.weights import ENCODER_FILE, FOREST_FILE, TABLES_FILE, WeightsError, load_ensemble
from train.experiments.results import NoHpv

PATIENTS = 160
QUICK = (
    "forest.trees=[20]",
    "forest.depth=[4]",
    "forest.minimum_leaf=[5]",
    "forest.radiomics_kept=[2]",
    "forest.inner_folds=2",
    "forest.inner_repeats=1",
)


def draw(seed: int, patients: int = PATIENTS) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Draw records and features: roundness and the stage tell of HPV, HPV and pack-years of recurrence."""
    rng = np.random.default_rng(seed)
    records, features = [], []
    for at in range(patients):
        positive = rng.random() < 0.5
        stage, packs = f"N{int(rng.random() < (0.8 if positive else 0.3)) + 1}", rng.uniform(0, 60)
        relapse_days = rng.exponential(2000 * np.exp(1.5 * positive - packs / 20))
        followed = rng.uniform(300, 2500)
        records.append(
            {
                "PatientID": f"P{at}",
                "CenterID": str(at % 5),
                "Age": str(int(rng.uniform(40, 80))),
                "Gender": str(int(rng.random() < 0.8)),
                "N-stage": stage,
                "Pack Years": f"{packs:.1f}" if rng.random() < 0.9 else "",
                "Site": "tongue" if at % 4 else "tonsil",
                "Relapse": str(int(relapse_days <= followed)),
                "RFS": f"{max(1, min(relapse_days, followed)):.0f}",
                "HPV Status": str(int(positive)) if rng.random() < 0.9 else "",
            }
        )
        features.append(
            {
                "PatientID": f"P{at}",
                "roundness": f"{rng.normal(1.0 * positive, 1):.3f}",
                "noise": f"{rng.normal():.3f}",
                "same": "1",
            }
        )
    return records, features


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def write(path: Path, rows: Sequence[Mapping[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training tables, other patients' tables, and a run."""
    folder = tmp_path_factory.mktemp("tabular")
    for name, seed in (("training", 1), ("others", 2)):
        records, features = draw(seed)
        write(folder / f"{name}.csv", records)
        write(folder / f"{name}_radiomics.csv", features)
    fit_run(folder, folder / "run")
    return folder


def fit_run(folder: Path, run: Path, **options: object) -> None:
    radiomics = folder / "training_radiomics.csv"
    chosen: dict = {
        "category": ["N-stage"],
        "number": ["Pack Years"],
        "changes": QUICK,
        "workers": 1,
        "resamples": 10,
    } | options
    main(folder / "training.csv", run, radiomics, **chosen)


def test_what_is_planted_is_found_out_of_fold_and_in_others(folder: Path) -> None:
    out_of_fold = json.loads((folder / "run" / EVALUATION_FILE).read_text())
    assert out_of_fold["hpv_auc"] > 0.7
    assert out_of_fold["c_index"] > 0.65
    assert {"hpv_calibration_slope", "relapse_2_years_brier"} <= out_of_fold.keys()
    ensemble = load_ensemble(folder / "run" / "weights")
    predict_table(ensemble, folder / "others.csv", folder / "answers", folder / "others_radiomics.csv")
    scores = evaluate(folder / "answers", folder / "others.csv", resamples=10).scores
    assert scores.hpv_auc > 0.7
    assert scores.c_index > 0.65
    assert scores.hpv_calibration_slope is not None


@pytest.mark.slow
def test_no_patient_is_scored_by_a_model_that_saw_it(folder: Path, tmp_path: Path) -> None:
    """Where outcomes are dealt at random, nothing is found: a leak would find it."""
    rng = np.random.default_rng(5)
    records, features = draw(1)
    for row in records:
        row["HPV Status"] = str(int(rng.random() < 0.5))
    shuffled = [records[at] for at in rng.permutation(len(records))]
    for row, other in zip(records, [dict(each) for each in shuffled], strict=True):
        row["Relapse"], row["RFS"] = other["Relapse"], other["RFS"]
    write(tmp_path / "training.csv", records)
    write(tmp_path / "training_radiomics.csv", features)
    fit_run(tmp_path, tmp_path / "run")
    found = json.loads((tmp_path / "run" / EVALUATION_FILE).read_text())
    assert 0.35 < found["hpv_auc"] < 0.65
    assert 0.35 < found["c_index"] < 0.65


def test_weights_have_no_network_and_are_refused_for_images(folder: Path) -> None:
    ensemble = load_ensemble(folder / "run" / "weights", keep_networks=True)
    assert ensemble.stages == (Stage.HPV, Stage.SURVIVAL)
    assert not list(ensemble.folder.rglob("*.safetensors"))
    with pytest.raises(WeightsError, match="fitted to tables, without networks"):
        Pipeline(ensemble, None)  # type: ignore[arg-type]


def test_weights_of_images_are_refused_for_tables(folder: Path, tiny_ensemble: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="made for images"):
        predict_table(load_ensemble(tiny_ensemble), folder / "others.csv", tmp_path / "answers")


def test_the_reasons_add_up_to_the_answers(folder: Path) -> None:
    ensemble = load_ensemble(folder / "run" / "weights")
    run = read_run(folder)
    answer = answer_patient(ensemble, run.patients[0], run.radiomics(run.patients[:1]))
    assert answer.hpv is not None
    assert answer.survival is not None
    assert answer.hpv.explanation is not None
    assert answer.survival.explanation is not None
    assert answer.hpv.explanation.total == pytest.approx(answer.hpv.probability, abs=1e-9)
    assert answer.survival.explanation.total == pytest.approx(answer.survival.risk_score, abs=1e-9)
    assert {"N-stage", "roundness"} <= {each.name for each in answer.hpv.explanation.contributions}


def test_a_known_status_moves_the_risk_its_way(folder: Path) -> None:
    ensemble = load_ensemble(folder / "run" / "weights")
    run = read_run(folder)
    risk = {}
    for known in (True, False):
        patient = replace(run.patients[0], known_hpv=known)
        survival = answer_patient(ensemble, patient, run.radiomics(run.patients[:1])).survival
        assert survival is not None
        risk[known] = survival.risk_score
    assert risk[True] < risk[False]


def test_a_known_status_that_no_model_reads_is_said(folder: Path) -> None:
    ensemble = load_ensemble(folder / "run" / "weights")
    run = read_run(folder)
    patient = replace(run.patients[0], known_hpv=True)
    survival = answer_patient(ensemble, patient, run.radiomics(run.patients[:1])).survival
    assert stated_flags((), patient, None, survival) == [HPV_UNUSED]
    assert stated_flags((), patient, None, None) == []


def test_in_2026_a_table_has_the_status_as_an_input_and_days_are_answered(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As `mmpl predict` has it: what is predicted stays so, and the risk rests on what is known."""
    records, _ = draw(2)
    table, radiomics = write(tmp_path / "others.csv", records), folder / "others_radiomics.csv"
    monkeypatch.setenv("MMPL_WEIGHTS", str(folder / "run" / "weights"))
    monkeypatch.setenv("MMPL_EDITION", "hecktor-2025")
    rows = {}
    for edition in ("hecktor-2025", "hecktor-2026"):
        options = ["--radiomics", str(radiomics), "--edition", edition]
        monkeypatch.setattr("sys.argv", ["mmpl", "predict-table", str(table), str(tmp_path / edition), *options])
        with pytest.raises(SystemExit, match="0"):
            command_line()
        assert f"{PATIENTS} patients answered in {tmp_path / edition}, {edition}" in capfd.readouterr().out
        rows[edition] = rows_of(tmp_path / edition / "predictions.csv")
    for record, before, after in zip(records, *rows.values(), strict=True):
        status = record["HPV Status"]
        assert (before["hpv_known"], after["hpv_known"]) == ("", status)
        assert before["hpv_probability"] == after["hpv_probability"]
        assert (before["risk_score"] == after["risk_score"]) == (status == "")
        word = {"1": "positive", "0": "negative"}.get(status)
        assert (f"the risk rests on a known HPV status ({word})" in after["flags"]) == bool(word)
        assert "known HPV" not in before["flags"]
    answers = rows["hecktor-2026"]
    risks, days = ([float(row[name]) for row in answers] for name in ("risk_score", "recurrence_free_days"))
    assert 0 < min(days) < max(days) < max(float(record["RFS"]) for record in records)
    known = np.array([row["hpv_known"] != "" for row in answers])
    for kind in (known, ~known):  # each has a calibration of its own
        assert (np.diff(np.array(days)[kind][np.argsort(np.array(risks)[kind])]) <= 0.1).all()
    named = [
        {("Known HPV Status" if name == "HPV Status" else name): cell for name, cell in r.items()} for r in records
    ]
    ensemble = load_ensemble(folder / "run" / "weights")
    predict_table(ensemble, write(tmp_path / "named.csv", named), tmp_path / "named", radiomics)
    assert rows_of(tmp_path / "named" / "predictions.csv") == answers


def test_a_known_status_ranks_better_than_none(folder: Path) -> None:
    """HPV is planted in the hazard; models that see none must make do with pack-years and what tells of it."""
    run = read_run(folder)
    followed, scores = with_rfs(run.patients), dict[str, float]()
    outcomes = times_and_events(followed)
    for scorer in (NoHpv(run), RisksOfKnownStatus(run)):
        risks = by_scheme(run.splits.members, [scorer(member) for member in run.splits.members])[Scheme.PATIENT]
        scores[type(scorer).__name__] = c_index([risks[p.patient_id] for p in followed], *outcomes)
    predicted = run.read(SurvivalRecord).risk[Scheme.PATIENT]
    scores["predicted"] = c_index([predicted[p.patient_id] for p in followed], *outcomes)
    assert scores["RisksOfKnownStatus"] > scores["NoHpv"] + 0.01
    assert scores["RisksOfKnownStatus"] > scores["predicted"] + 0.01


def test_a_known_status_has_the_calibration_of_known_statuses(folder: Path) -> None:
    """Otherwise those said to be positive would lie below most of the training patients, whatever they are."""
    run, ensemble = read_run(folder), load_ensemble(folder / "run" / "weights")
    followed = with_rfs([p for p in run.patients if p.outcome.hpv_positive is not None])
    told = [replace(p, known_hpv=p.outcome.hpv_positive) for p in followed]
    answers = [answer_patient(ensemble, p, run.radiomics([p])).survival for p in told]
    assert np.mean([answer.percentile for answer in answers]) == pytest.approx(50, abs=4)
    two_years = np.mean([answer.curve.at(730)[0] for answer in answers])
    assert two_years == pytest.approx(float(kaplan_meier(*times_and_events(followed))(730)), abs=0.03)
    calibration = ensemble.calibration
    assert calibration.survival_known != calibration.survival
    assert calibration.survival_known.days == calibration.survival.days  # so that days without recurrence compare
    assert replace(calibration, survival_known=None).of_risk(known_status=True) == calibration.survival


def read_run(folder: Path) -> TabularRun:
    profile = load_profile("demo", QUICK)
    schema = extend_schema(profile.clinical, folder / "training.csv", ["N-stage"], ["Pack Years"])
    profile = profile.model_copy(update={"clinical": schema})
    return begin(folder / "run", folder / "training.csv", profile, folder / "training_radiomics.csv")


def test_out_of_fold_results_are_those_of_the_records(folder: Path) -> None:
    run = read_run(folder)
    results = out_of_fold_results(run)
    known = ~np.isnan(results.hpv_positive)
    assert np.isnan(results.hpv_probability[~known]).all()
    assert roc_auc(results.hpv_probability[known], results.hpv_positive[known] == 1) > 0.7
    followed = [p.outcome.has_rfs for p in run.patients]
    assert (~np.isnan(results.risk) == followed).all()
    assert sum(followed) == len(with_rfs(run.patients))
    assert c_index(results.risk[followed], results.days[followed], results.relapse[followed] == 1) > 0.65


def test_rows_are_chosen_by_their_cells(folder: Path, tmp_path: Path) -> None:
    ensemble = load_ensemble(folder / "run" / "weights")
    where, others = {"site": "Tonsil"}, folder / "others.csv"
    predict_table(ensemble, others, tmp_path, folder / "others_radiomics.csv", where)
    assert len(rows_of(tmp_path / "predictions.csv")) == PATIENTS // 4
    assert len(collect(tmp_path, others, where)) == PATIENTS // 4
    women = read_patients(others, where={"sex": "0"}).patients
    assert {patient.clinical.values["Gender"] for patient in women} == {"0"}
    with pytest.raises(InvalidInputError, match="column 'Town' is missing, and rows are chosen by it"):
        predict_table(ensemble, others, tmp_path, folder / "others_radiomics.csv", {"Town": "x"})


def test_answers_are_not_written_over_what_is_read_or_over_others(folder: Path, tmp_path: Path) -> None:
    ensemble, radiomics = load_ensemble(folder / "run" / "weights"), folder / "others_radiomics.csv"
    own = tmp_path / "predictions.csv"
    own.write_bytes((folder / "others.csv").read_bytes())
    with pytest.raises(OverwriteError, match=r"predictions\.csv: is read, and would be written"):
        predict_table(ensemble, own, tmp_path, radiomics)
    report = {"patient": "A", "weights": "w", "source": None, "models": ["m"], "gtvp_ml": 1, "gtvn_ml": 0, "flags": []}
    (tmp_path / "A.json").write_text(json.dumps(report))
    with pytest.raises(OverwriteError, match="holds answers of mmpl predict"):
        predict_table(ensemble, folder / "others.csv", tmp_path, radiomics)
    assert own.read_bytes() == (folder / "others.csv").read_bytes()


def test_a_feature_that_is_read_must_be_there(folder: Path, tmp_path: Path) -> None:
    ensemble = load_ensemble(folder / "run" / "weights")
    with pytest.raises(InvalidInputError, match=r"no table of radiomics, and the weights read: .*roundness"):
        predict_table(ensemble, folder / "others.csv", tmp_path)
    _, features = draw(2)
    renamed = [{("round" if name == "roundness" else name): value for name, value in row.items()} for row in features]
    with pytest.raises(InvalidInputError, match=r"renamed\.csv: no column roundness"):
        predict_table(ensemble, folder / "others.csv", tmp_path, write(tmp_path / "renamed.csv", renamed))


@pytest.mark.slow
def test_one_stage_alone(folder: Path, tmp_path: Path) -> None:
    fit_run(folder, tmp_path / "run", without=[Stage.HPV])
    ensemble = load_ensemble(tmp_path / "run" / "weights")
    assert ensemble.stages == (Stage.SURVIVAL,)
    predict_table(ensemble, folder / "others.csv", tmp_path / "answers", folder / "others_radiomics.csv")
    row = rows_of(tmp_path / "answers" / "predictions.csv")[0]
    assert row["risk_score"]
    assert not row["hpv_probability"]


def test_times_of_zero_or_less_are_left_out_and_counted(tmp_path: Path, capsys) -> None:
    records, _ = draw(1)
    records[3]["RFS"], records[4]["RFS"] = "0", "-12"
    write(tmp_path / "training.csv", records)
    run = begin(tmp_path / "run", tmp_path / "training.csv", load_profile("demo"))
    assert "RFS: 2 of zero or less, without recurrence-free survival here" in capsys.readouterr().out
    assert len(with_rfs(run.patients)) == PATIENTS - 2


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"category": ["T-stage"]}, "no column T-stage"),
        ({"category": ["Age"]}, "Age is Age, and no further feature"),
        ({"number": ["rfs"]}, "rfs is RFS, and no further feature"),
        ({"category": ["HPV Status"]}, "HPV Status is HPV Status, and no further feature"),
        ({"category": ["N-stage", "n-stage"]}, "N-stage is asked for twice"),
        ({"category": ["Pack Years"], "number": []}, "Pack Years has .* levels, more than 20: a number"),
        ({"number": ["N-stage"], "category": []}, "N-stage holds no number"),
        ({"where": ["Gender=1", "Sex=0"]}, "two conditions on Gender"),
        ({"where": ["Site"]}, "'Site' is no condition: write COLUMN=CELL"),
        ({"where": ["Site=lip"]}, "no patient"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_written(
    folder: Path, tmp_path: Path, options: dict, problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        fit_run(folder, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_what_is_there_is_left_alone(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is there already"):
        fit_run(folder, folder / "run")
    with pytest.raises(ValueError, match="of other training; --force writes over"):
        fit_run(folder, tmp_path / "other", weights=folder / "run" / "weights")


def test_a_number_may_be_zero_of_everyone(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("PatientID,Pack Years\nA,0\nB,0\n")
    assert extend_schema(default_schema(), tmp_path / "table.csv", [], ["Pack Years"]).fields[-1].name == "Pack Years"


def test_columns_become_fields(folder: Path) -> None:
    schema = extend_schema(default_schema(), folder / "training.csv", ["N-stage"], ["Pack Years"])
    category, number = schema.fields[-2:]
    assert isinstance(number, ContinuousField)
    assert isinstance(category, CategoricalField)
    assert list(category.levels) == ["N1", "N2"]
    record = schema.read({"N-stage": "n2", "Pack Years": "12.5"})
    assert (record.values["N-stage"], record.values["Pack Years"]) == ("N2", 12.5)


@pytest.mark.parametrize(
    ("column", "problem"),
    [
        ("RFS", "column 'RFS' is RFS: no feature"),
        ("hpv status", "column 'hpv status' is HPV Status: no feature"),
        ("Smoking", "column 'Smoking' is Tobacco Consumption: no feature"),
        ("hpv_probability", "column 'hpv_probability' is a score of the models: rename it"),
    ],
)
def test_an_outcome_is_no_feature(folder: Path, tmp_path: Path, column: str, problem: str) -> None:
    _, features = draw(1)
    table = write(tmp_path / "features.csv", [row | {column: "1"} for row in features])
    with pytest.raises(InvalidInputError, match=problem):
        main(folder / "training.csv", tmp_path / "run", table, changes=QUICK, workers=1)
    assert not (tmp_path / "run").exists()


def test_a_risk_that_is_the_same_for_all_has_the_curve_of_all() -> None:
    rng = np.random.default_rng(0)
    days, seen = rng.exponential(1000, 200), rng.random(200) < 0.5
    curve = calibrate_survival(np.zeros(200), days, seen, seed=0, resamples=5).curve([0.0, 1.0])
    followed = kaplan_meier(days, seen)(curve.days)
    assert np.abs(curve.probability - followed).max() < 0.02


def test_a_stage_that_is_left_out_has_no_score(folder: Path, tmp_path: Path) -> None:
    run = replace(read_run(folder), settings=replace(read_run(folder).settings, stages=(Stage.SURVIVAL,)))
    scores = score(out_of_fold_results(run))
    assert np.isnan(scores.hpv_auc)
    assert scores.c_index > 0.65


def test_damaged_radiomics_are_named(folder: Path, tmp_path: Path) -> None:
    _, features = draw(1)
    features[2]["noise"] = "high"
    del features[5]
    damaged = write(tmp_path / "features.csv", features)
    with pytest.raises(InvalidInputError) as caught:
        main(folder / "training.csv", tmp_path / "run", damaged, changes=QUICK, workers=1)
    assert str(caught.value).splitlines()[1:] == [
        "  no row for patient P5",
        "  line 4: noise is 'high', not a number",
    ]


def other_status(patient: Patient) -> Patient:
    status = patient.outcome.hpv_positive
    return replace(patient, outcome=replace(patient.outcome, hpv_positive=None if status is None else not status))


def other_time(patient: Patient) -> Patient:
    found = patient.outcome
    days = None if found.rfs_days is None else 3000 - found.rfs_days
    return replace(patient, outcome=replace(found, relapse=not found.relapse, rfs_days=days))


def other_record(patient: Patient) -> Patient:
    return replace(patient, clinical=replace(patient.clinical, values={**patient.clinical.values, "Age": 99.0}))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "name"),
    [(other_status, FOREST_FILE), (other_time, TABLES_FILE[Stage.SURVIVAL]), (other_record, ENCODER_FILE)],
)
def test_a_model_learns_nothing_of_the_patients_of_its_fold(
    tmp_path: Path, change: Callable[[Patient], Patient], name: str
) -> None:
    """Nor do the others learn it by way of it: their files change as their own patients do."""
    for table, rows in zip(("training", "training_radiomics"), draw(1), strict=True):
        write(tmp_path / f"{table}.csv", rows)

    def fitted(run: str, change: Callable[[Patient], Patient] | None = None) -> list[dict[str, bytes]]:
        profile = load_profile("demo", QUICK)
        begun = begin(tmp_path / run, tmp_path / "training.csv", profile, tmp_path / "training_radiomics.csv")
        if change:
            inside = {each.patient_id for each in begun.splits.held_out(begun.splits.members[0], begun.patients)}
            listed = tuple(change(each) if each.patient_id in inside else each for each in begun.patients)
            begun = replace(begun, listed=listed)
            begun.keep_folds(begun.splits)
        fit(begun, Engine(1))
        folders = [tmp_path / run / "models" / member.name for member in begun.splits.members]
        return [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders]

    (own, other, *_), (own_then, other_then, *_) = fitted("a"), fitted("b", change)
    assert own[name] == own_then[name]
    assert other[name] != other_then[name]
