"""`evaluate` on tiny cohorts whose every metric is worked by hand."""

import csv
import json
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from mmpl.__main__ import main
from mmpl.case import Grid, Image, InvalidInputError, Outcome, Patient
from mmpl.evaluate import Evaluation, _why_undefined, describe_patients, evaluate, print_table
from mmpl.io.challenge import read_edition
from mmpl.io.images import write_image
from mmpl.schema import CategoricalField, default_schema

pytestmark = pytest.mark.slow

GRID = Grid((40, 6, 5), (1.0, 1.0, 2.0), (-10.0, 5.0, 7.5))

# patient: relapse, days, HPV, truth voxels of GTVp and GTVn along the first line of voxels
PATIENTS = {
    "A-001": ("1", "100", "1", (range(10), range(20, 24))),
    "A-002": ("1", "200", "0", (range(0), range(20, 30))),
    "A-003": ("0", "300", "1", (range(4), range(0))),
    "A-004": ("0", "50", "", None),
}

# patient: risk, HPV probability, HPV status, predicted voxels
ANSWERS = {
    "A-001": ("0.5", "0.9", "1", (range(5, 15), range(20, 24))),
    "A-002": ("0.1", "0.2", "0", (range(0), range(30, 34))),
    "A-003": ("0.1", "0.1", "0", (range(4), range(0))),
    "A-004": ("0.9", "0.7", "1", (range(0), range(0))),
}

TRUTH = {
    "A-001": ("100", "2.0", "1.5"),
    "A-002": ("200", "1.0", "-0.5"),
    "A-003": ("900", "-1.0", "-1.0"),
    "A-004": ("400", "0.0", "3.0"),
}


def paint(tumor: range, nodes: range) -> np.ndarray:
    mask = np.zeros(GRID.shape_zyx, np.uint8)
    mask[2, 3, list(tumor)] = 1
    mask[2, 3, list(nodes)] = 2
    return mask


def write_table(path: Path, header: list[str], rows: list[list[str]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def write_cohort(folder: Path, patients: dict = PATIENTS) -> None:
    clinical = ["Age", "Gender", "Tobacco Consumption", "Alcohol Consumption"]
    clinical += ["Performance Status", "Treatment", "M-stage"]
    folder.mkdir()
    rows = []
    for name, (relapse, days, hpv, masks) in patients.items():
        rows.append([name, "1", *([""] * len(clinical)), relapse, days, hpv])
        place = folder / name
        place.mkdir()
        for modality in ("CT", "PT"):
            (place / f"{name}__{modality}.nii.gz").write_bytes(b"never read here")
        if masks is not None:
            write_image(place / f"{name}.nii.gz", Image(paint(*masks), GRID))
    header = ["PatientID", "CenterID", *clinical, "Relapse", "RFS", "HPV Status"]
    write_table(folder / "table.csv", header, rows)


def write_answers(folder: Path, answers: dict = ANSWERS) -> None:
    folder.mkdir()
    header = ["PatientID", "risk_score", "hpv_probability", "hpv_status", "gtvp_ml", "gtvn_ml", "flags"]
    rows = [[name, risk, p, status, "0", "0", ""] for name, (risk, p, status, _) in answers.items()]
    write_table(folder / "predictions.csv", header, rows)
    for name, (*_, masks) in answers.items():
        if masks is not None:
            write_image(folder / f"{name}.nii.gz", Image(paint(*masks), GRID))


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    write_cohort(tmp_path / "cohort")
    write_answers(tmp_path / "out")
    return tmp_path / "out", tmp_path / "cohort"


def test_every_metric_by_hand(folders):
    evaluation = evaluate(*folders)
    found = evaluation.scores
    # GTVp: 2 * 5 / 20 = 0.5; both empty 1; exact 1. A-004 has no reference and does not count.
    assert found.gtvp_dice_mean == pytest.approx((0.5 + 1 + 1) / 3)
    # A-001 shares 5 of 10 and 10, A-003 4 of 4 and 4
    assert found.gtvp_dice_aggregated == pytest.approx(2 * (5 + 4) / (20 + 8))
    # surfaces 0..9 against 5..14: every distance from 0 to 5; the 95th percentile is the ninth of ten, 4
    assert found.gtvp_hd95_median_mm == pytest.approx((4 + 0) / 2)
    # GTVn: 4 of 4 shared, then 0 of 10 and 4
    assert found.gtvn_dice_aggregated == pytest.approx(2 * 4 / (8 + 14))
    # one hit; one miss and one invention
    assert found.gtvn_f1_aggregated == pytest.approx(2 / (2 + 1 + 1))
    # pairs 001-002 right, 001-003 right, 002-003 tied; 004 is censored before all
    assert found.c_index == pytest.approx(2.5 / 3)
    # positives 001 right, 003 wrong; negative 002 right
    assert found.hpv_balanced_accuracy == pytest.approx((0.5 + 1) / 2)
    # pairs 0.9 > 0.2, 0.1 < 0.2
    assert found.hpv_auc == pytest.approx(0.5)
    # at one half, 002 is right, 001 too, 003 wrong
    assert found.hpv_balanced_accuracy_at_half == pytest.approx((0.5 + 1) / 2)
    counts = evaluation.counts
    assert (counts.patients, counts.with_mask, counts.with_rfs, counts.events) == (4, 3, 4, 2)
    assert (counts.hpv_positive, counts.hpv_negative) == (2, 1)
    missing = (counts.missing_predictions, counts.missing_masks, counts.missing_risks, counts.missing_hpv)
    assert missing == (0, 0, 0, 0)
    assert found.oracle_hpv_auc is None


def test_missing_answers_are_counted_and_cost_points(tmp_path):
    answers = dict(ANSWERS)
    answers["A-001"] = ("", "0.9", "", None)
    del answers["A-002"]
    write_cohort(tmp_path / "cohort")
    write_answers(tmp_path / "out", answers)
    evaluation = evaluate(tmp_path / "out", tmp_path / "cohort")
    found = evaluation.scores
    assert found.gtvp_dice_mean == pytest.approx((0 + 1 + 1) / 3)
    assert found.gtvn_dice_aggregated == 0.0
    assert found.gtvn_f1_aggregated == 0.0
    assert found.c_index == pytest.approx(0.5)  # each of the three pairs has a patient without a risk
    assert found.hpv_balanced_accuracy == 0.0  # 001 and 002 missing, 003 wrong
    assert found.hpv_auc == pytest.approx(0.5)  # 002 is missing in both pairs
    counts = evaluation.counts
    missing = (counts.missing_predictions, counts.missing_masks, counts.missing_risks, counts.missing_hpv)
    assert missing == (1, 2, 2, 2)


def test_hidden_truth_adds_the_oracle_on_the_same_patients(folders):
    out, cohort = folders
    header = ["PatientID", "relapse_days", "log_hazard", "hpv_log_likelihood_ratio", "primary_site"]
    write_table(cohort / "truth.csv", header, [[name, *values, "tonsil"] for name, values in TRUTH.items()])
    oracle = evaluate(out, cohort).scores
    # risks by time: 001 0.5, 002 0.1, 004 0.9, 003 0.1; 1-2 right, 1-4 wrong, 1-3 right, 2-4 wrong, 2-3 tied, 4-3 right
    assert oracle.c_index_uncensored == pytest.approx(3.5 / 6)
    assert oracle.oracle_c_index_uncensored == 1.0
    # 004 has no released status: positives 1.5 and -1.0, negative -0.5
    assert oracle.oracle_hpv_auc == pytest.approx(0.5)
    assert oracle.oracle_hpv_balanced_accuracy == pytest.approx((0.5 + 1) / 2)
    written = json.loads(evaluate(out, cohort).to_json())
    assert written["c_index_uncensored"] == pytest.approx(3.5 / 6)
    assert written["oracle_c_index_uncensored"] == 1.0


def test_hidden_truth_must_cover_the_cohort(folders):
    out, cohort = folders
    header = ["PatientID", "relapse_days", "log_hazard", "hpv_log_likelihood_ratio"]
    write_table(cohort / "truth.csv", header, [["A-001", *TRUTH["A-001"]]])
    with pytest.raises(InvalidInputError, match=r"truth.csv: no row for A-002, A-003, A-004"):
        evaluate(out, cohort)


def test_undefined_metrics_are_null_and_say_why(tmp_path):
    write_cohort(tmp_path / "cohort", {"A-004": PATIENTS["A-004"]})
    write_answers(tmp_path / "out", {"A-004": ANSWERS["A-004"]})
    found = evaluate(tmp_path / "out", tmp_path / "cohort")
    written = json.loads(found.to_json())
    scores = {name: written[name] for name in found.scores.by_name}
    assert len(scores) == 9
    assert set(scores.values()) == {None}
    assert written["intervals"] == {name: [None, None] for name in scores}
    assert written["centers"]["1"]["hpv_auc"] is None
    assert written["counts"]["patients"] == 1
    printed = show(found)
    for reason in ("no reference mask", "no GTVn in any mask", "no comparable pair", "only one HPV class"):
        assert f"undefined: {reason}" in printed


def test_why_a_slope_is_undefined():
    """Where the probabilities part the outcomes, both classes are known."""
    assert "part the outcomes" in _why_undefined("hpv_calibration_slope")
    assert "part the outcomes" in _why_undefined("relapse_2_years_calibration_slope")
    assert _why_undefined("hpv_auc") == "only one HPV class is known"


def test_another_set_of_answers_is_compared_patient_by_patient(folders, tmp_path):
    out, cohort = folders
    better = ANSWERS | {"A-001": ("0.5", "0.9", "1", (range(10), range(20, 24)))}
    write_answers(tmp_path / "better", better)
    found = evaluate(tmp_path / "better", cohort, against=out).against
    assert found["gtvp_dice_mean"].value == pytest.approx(0.5 / 3)
    low, high = found["gtvp_dice_mean"].interval
    assert low == 0.0  # 001 is in no resample
    assert high > 0.3
    assert found["hpv_auc"] == (0.0, (0.0, 0.0))
    assert "+0.167" in show(evaluate(tmp_path / "better", cohort, against=out))


CALIBRATED = {"A-001": ("0.8", "0.6"), "A-002": ("0.3", "0.5"), "A-003": ("0.4", "0.9"), "A-004": ("0.5", "0.2")}


def add_calibrated(out: Path, answers: dict = CALIBRATED, days: tuple[int, ...] = (0, 100, 200)) -> None:
    """Add calibrated probabilities to a table of answers, and reports with a curve to 0.6."""
    header, *rows = (out / "predictions.csv").read_text().splitlines()
    lines = [f"{header},hpv_calibrated,no_recurrence_2y,no_recurrence_5y"]
    lines += [f"{row},{','.join(answers[row.split(',')[0]])}," for row in rows]
    (out / "predictions.csv").write_text("\n".join(lines) + "\n")
    for name in answers:
        curve = {"days": days, "probability": [1, 0.8, 0.6]}
        (out / f"{name}.json").write_text(json.dumps({"no_recurrence": {"curve": curve}}))


def test_calibrated_probabilities_are_scored(folders):
    out, cohort = folders
    plain = evaluate(out, cohort).scores.by_name
    add_calibrated(out)
    evaluation = evaluate(out, cohort, resamples=40)
    found = evaluation.scores
    assert {name: found.by_name[name] for name in plain} == plain
    # positives 0.8 and 0.4, negative 0.3; two of three are positive
    assert found.hpv_brier == pytest.approx((0.2**2 + 0.6**2 + 0.3**2) / 3)
    assert found.hpv_brier_skill == pytest.approx(1 - found.hpv_brier / (2 / 9))
    assert np.isnan(found.relapse_2_years_brier)  # nobody is followed so long
    assert np.isnan(found.relapse_5_years_brier)
    # day 0: no error; by day 100 A-001 of three (A-004 was lost on day 50), by day 200 A-002, too
    by_day = [0, (0.8**2 + 2 * 0.2**2) / 3, (2 * 0.6**2 + 0.4**2) / 3]
    assert found.integrated_brier == pytest.approx((by_day[0] / 2 + by_day[1] + by_day[2] / 2) / 2)
    assert np.isnan(evaluation.intervals["d_calibration_p"].low)
    printed = show(evaluation)
    assert "hpv_calibration_slope" in printed
    assert "too few followed so long" in printed
    assert "NaN" not in evaluation.to_json()


def test_sets_are_scored_by_class(folders):
    """Of two positives one is said to be negative; the negative is undecided."""
    out, cohort = folders
    header, *rows = (out / "predictions.csv").read_text().splitlines()
    sets = {"A-001": "positive", "A-002": "undecided", "A-003": "negative", "A-004": "positive"}
    lines = [f"{header},hpv_set", *(f"{row},{sets[row.split(',')[0]]}" for row in rows)]
    (out / "predictions.csv").write_text("\n".join(lines) + "\n")
    found = evaluate(out, cohort, resamples=10).scores
    assert (found.hpv_set_covers_positive, found.hpv_set_covers_negative) == (0.5, 1.0)
    assert found.hpv_set_undecided == pytest.approx(1 / 3)
    assert found.hpv_set_decided_wrong == 0.5
    (out / "predictions.csv").write_text("\n".join(lines).replace("undecided", "perhaps") + "\n")
    with pytest.raises(InvalidInputError, match=r"hpv_set of A-002 is 'perhaps', not one of positive, negative, undec"):
        evaluate(out, cohort)


def test_decision_curves_compare_with_acting_on_all_and_on_nobody(folders):
    """Positives 0.8 and 0.4, negative 0.3: from 0.5 on one of three is acted on, rightly."""
    out, cohort = folders
    add_calibrated(out)
    evaluation = evaluate(out, cohort, resamples=50)
    points = {point.threshold: point for point in evaluation.decisions["hpv"]}
    assert points[0.5].net_benefit == pytest.approx(1 / 3)
    assert points[0.5].acting_on_all == pytest.approx(2 / 3 - 1 / 3)
    assert points[0.5].gain == pytest.approx(0)
    assert points[0.8].acting_on_all == pytest.approx(2 / 3 - 4 / 3)
    assert points[0.8].gain == pytest.approx(1 / 3)
    assert np.isnan(evaluate(out, cohort, resamples=1).decisions["hpv"][0].gain_interval.low)
    assert points[0.8].gain_interval.low <= points[0.8].gain <= points[0.8].gain_interval.high
    assert np.isnan(evaluation.decisions["relapse_2_years"][0].net_benefit)  # nobody is followed so long
    written = json.loads(evaluation.to_json())["decision_curves"]
    assert written["hpv"][0]["threshold"] == 0.5
    assert "net benefit of acting from a probability on" in show(evaluation)


def test_groups_are_scored_and_say_where_they_are_few(folders):
    out, cohort = folders
    table = cohort / "table.csv"
    header, *rows = table.read_text().splitlines()
    filled = [
        row.replace(",,,", f",{age},{sex},", 1) for row, age, sex in zip(rows, (50, 60, 70, 59), "1011", strict=True)
    ]
    table.write_text("\n".join([header, *filled]) + "\n")
    groups = evaluate(out, cohort, resamples=10).groups
    assert {name: group.counts.patients for name, group in groups.items()} == {
        "women": 1,
        "men": 3,
        "below 60 years": 2,
        "60 years and above": 2,
        "HPV-positive": 2,
        "HPV-negative": 1,
        "HPV not known": 1,
        "below 10 ml": 4,
        "3 or more blank fields": 4,
    }
    assert groups["men"].scores.gtvp_dice_mean == pytest.approx((0.5 + 1) / 2)
    assert all(group.few_relapses and group.few_of_one_status for group in groups.values())
    written = json.loads(evaluate(out, cohort, resamples=10).to_json())["groups"]
    assert written["men"]["counts"]["patients"] == 3
    assert "too few to say much" in show(evaluate(out, cohort, resamples=10))


TRUE_STAGES = {"A-001": ("T2", "N2b"), "A-002": ("T2", "N0"), "A-003": ("T4a", "N0"), "A-004": ("T0", "NX")}
STAGES = {"A-001": ("T2", "N2"), "A-002": ("T3", "N1"), "A-003": ("T4", "N0"), "A-004": ("T1", "N0")}


def add_columns(table: Path, header: str, cells: dict[str, tuple[str, ...]]) -> None:
    first, *rows = table.read_text().splitlines()
    lines = [f"{first},{header}", *(f"{row},{','.join(cells[row.split(',')[0]])}" for row in rows)]
    table.write_text("\n".join(lines) + "\n")


@pytest.fixture
def staged(folders):
    out, cohort = folders
    add_columns(cohort / "table.csv", "T-stage,N-stage", TRUE_STAGES)
    add_columns(out / "predictions.csv", "t_stage,n_stage", STAGES)
    return out, cohort


def test_women_and_men_are_told_by_the_schemas_own_codes():
    fields = [CategoricalField(name="Gender", levels={"1": ("male",), "2": ("female",)})]
    schema = default_schema().model_copy(update={"fields": tuple(fields)})
    people = [Patient(name, "", schema.read({"Gender": name}), Outcome()) for name in ("female", "male", "none")]
    described = describe_patients(people, schema)
    np.testing.assert_array_equal(described["male"], [0, 1, np.nan])
    assert np.isnan(described["age"]).all()  # this schema has none
    letters = [CategoricalField(name="Gender", levels={"F": ("female",), "M": ("male",)})]
    schema = default_schema().model_copy(update={"fields": tuple(letters)})
    people = [Patient(name, "", schema.read({"Gender": name}), Outcome()) for name in ("F", "M")]
    np.testing.assert_array_equal(describe_patients(people, schema)["male"], [0, 1])


def test_stages_and_the_score_of_2026_by_hand(staged):
    out, cohort = staged
    found = evaluate(out, cohort, resamples=200, edition=read_edition("hecktor-2026"))
    scores = found.scores
    # T2: one of two right; T4: right; the T0 is left out
    assert scores.t_balanced_accuracy == pytest.approx((0.5 + 1) / 2)
    # N0: one of two; N2: right; the NX is not known
    assert scores.n_balanced_accuracy == pytest.approx((0.5 + 1) / 2)
    # GTVn: exact; none of it; both empty
    assert scores.gtvn_dice_mean == pytest.approx(2 / 3)
    dice, accuracy, concordance = ((0.5 + 1 + 1) / 3 + 2 / 3) / 2, 0.75, 2.5 / 3
    assert scores.edition_score == pytest.approx(0.25 * dice + 0.35 * accuracy + 0.4 * concordance)
    assert found.intervals["edition_score"].low < scores.edition_score < found.intervals["edition_score"].high
    assert found.confusion["t-stage"]["T2"] == {"T1": 0, "T2": 1, "T3": 1, "T4": 0, "none": 0}
    assert found.confusion["n-stage"]["N0"] == {"N0": 1, "N1": 1, "N2": 0, "N3": 0, "none": 0}
    assert sum(sum(row.values()) for row in found.confusion["t-stage"].values()) == 3
    written, printed = json.loads(found.to_json()), show(found)
    assert written["edition"] == "hecktor-2026"
    assert written["edition_score"] == pytest.approx(scores.edition_score)
    assert written["confusion"]["t-stage"]["T4"]["T4"] == 1
    assert "Confusion, t-stage" in printed
    assert "edition_score" in printed
    assert "edition_score" not in written["centers"]["1"]
    assert evaluate(out, cohort, out, 5, edition=read_edition("hecktor-2026")).against["edition_score"].value == 0


def test_the_published_figures_of_an_entry_give_its_published_score():
    """Dice 0.652, balanced accuracies 0.461 and 0.564, C-index 0.558: 0.565."""
    shares = read_edition("hecktor-2026").score
    figures = {"gtvp_dice_mean": 0.652, "gtvn_dice_mean": 0.652, "c_index": 0.558}
    figures |= {"t_balanced_accuracy": 0.461, "n_balanced_accuracy": 0.564}
    assert sum(shares[name] * value for name, value in figures.items()) == pytest.approx(0.5654, abs=5e-4)


def test_a_stage_that_is_missing_is_wrong_and_counted(staged):
    out, cohort = staged
    table = out / "predictions.csv"
    table.write_text(table.read_text().replace(",T4,N0", ",,"))
    found = evaluate(out, cohort, resamples=5)
    assert (found.scores.t_balanced_accuracy, found.scores.n_balanced_accuracy) == (0.25, 0.5)
    assert found.confusion["t-stage"]["T4"]["none"] == 1
    assert found.scores.edition_score is None  # that of 2025 has none
    assert "edition" not in json.loads(found.to_json())


def test_without_a_part_the_editions_score_is_undefined(folders):
    """2026 asks for stages, which no table has; in 2025 there is nothing of it at all."""
    out, cohort = folders
    plain = evaluate(out, cohort, resamples=5)
    found = evaluate(out, cohort, resamples=5, edition=read_edition("hecktor-2026"))
    assert np.isnan([found.scores.t_balanced_accuracy, found.scores.edition_score]).all()
    printed = show(found)
    assert "undefined: no such stage is known" in printed
    assert "undefined: a part of it is" in printed
    assert "NaN" not in found.to_json()
    added = {"gtvn_dice_mean", "t_balanced_accuracy", "n_balanced_accuracy", "edition_score"}
    assert set(found.scores.by_name) == set(plain.scores.by_name) | added
    assert plain.confusion == {}
    assert {"confusion", "edition"}.isdisjoint(json.loads(plain.to_json()))


def test_true_stages_alone_change_nothing_in_2025(folders):
    out, cohort = folders
    before = evaluate(out, cohort, resamples=20).to_json()
    add_columns(cohort / "table.csv", "T-stage,N-stage", TRUE_STAGES)
    add_columns(out / "predictions.csv", "t_stage,n_stage", dict.fromkeys(STAGES, ("", "")))
    assert evaluate(out, cohort, resamples=20).to_json() == before


@pytest.mark.parametrize("stage", ["T0", "T5", "4", "N2"])
def test_an_answer_that_is_no_stage_is_named(staged, stage):
    out, cohort = staged
    table = out / "predictions.csv"
    table.write_text(table.read_text().replace(",T4,", f",{stage},"))
    with pytest.raises(InvalidInputError, match=rf"t_stage of A-003 is '{stage.lower()}', not one of t1, t2, t3, t4"):
        evaluate(out, cohort)


def test_the_command_takes_an_edition(staged, tmp_path, monkeypatch, capfd):
    for edition in ("hecktor-2026", "hecktor-2099"):
        options = ("--edition", edition, "--json", str(tmp_path / "scores.json"))
        monkeypatch.setattr("sys.argv", ["mmpl", "evaluate", *map(str, staged), *options])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert bool(stopped.value.code) == (edition == "hecktor-2099")
    assert json.loads((tmp_path / "scores.json").read_text())["edition_score"] > 0
    assert capfd.readouterr().err.startswith("error: no edition 'hecktor-2099'")


def test_metrics_are_written_though_the_printed_ones_end_early(staged, tmp_path, monkeypatch):
    def close(_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("mmpl.evaluate.print_table", close)
    monkeypatch.setattr("sys.argv", ["mmpl", "evaluate", *map(str, staged), "--json", str(tmp_path / "scores.json")])
    with pytest.raises((SystemExit, BrokenPipeError)):
        main()
    assert json.loads((tmp_path / "scores.json").read_text())["counts"]


@pytest.mark.parametrize("value", ["1.2", "-0.1", "likely"])
def test_what_is_no_probability_is_named(folders, value):
    out, cohort = folders
    add_calibrated(out, CALIBRATED | {"A-002": (value, "0.5")})
    with pytest.raises(InvalidInputError, match=r"predictions\.csv: hpv_calibrated of A-002 is"):
        evaluate(out, cohort)


def test_curves_of_other_weights_are_not_mixed(folders):
    out, cohort = folders
    add_calibrated(out)
    report = out / "A-001.json"
    report.write_text(report.read_text().replace("200", "300"))
    with pytest.raises(InvalidInputError, match="its reports' curves have different days"):
        evaluate(out, cohort)


def test_results_are_given_by_center(tmp_path):
    write_cohort(tmp_path / "cohort")
    table = tmp_path / "cohort/table.csv"
    table.write_text(table.read_text().replace("A-003,1", "A-003,2"))
    write_answers(tmp_path / "out")
    centers = evaluate(tmp_path / "out", tmp_path / "cohort").centers
    assert {name: center.counts.patients for name, center in centers.items()} == {"1": 3, "2": 1}
    assert centers["1"].scores.gtvp_dice_mean == pytest.approx((0.5 + 1) / 2)
    assert np.isnan(centers["2"].scores.c_index)


def test_a_cohort_of_labels_alone_is_scored(folders):
    whole = evaluate(*folders)
    for image in folders[1].glob("*/*__*.nii.gz"):
        image.unlink()
    assert evaluate(*folders).scores == whole.scores


def test_masks_of_no_patient_are_named(folders, caplog):
    out, cohort = folders
    (out / "A-002_disagreement.nii.gz").write_bytes(b"no mask")
    (out / "._A-002.nii.gz").write_bytes(b"no mask")
    evaluate(out, cohort)
    assert "masks of no patient" not in caplog.text
    (out / "A-002.nii.gz").rename(out / "a-002.nii.gz")
    found = evaluate(out, cohort)
    assert f"{out}: masks of no patient: a-002.nii.gz: not scored" in caplog.text
    assert found.counts.missing_masks == 1


def test_masks_none_of_which_is_of_a_patient_are_refused(folders):
    out, cohort = folders
    for mask in out.glob("*.nii.gz"):
        mask.rename(out / mask.name.lower())
    with pytest.raises(InvalidInputError) as caught:
        evaluate(out, cohort)
    table = cohort / "table.csv"
    assert str(caught.value) == f"{out}: none of its masks (a-001.nii.gz, ...) is of a patient in {table}"
    for reference in cohort.glob("*/*.nii.gz"):
        reference.unlink()
    assert evaluate(out, cohort).counts.with_mask == 0


def test_table_shows_values_and_counts(folders):
    printed = show(evaluate(*folders))
    assert "gtvp_dice_mean" in printed
    assert "0.833" in printed
    assert "with_mask" in printed


def test_a_mask_on_another_grid_is_an_error_that_names_the_file(folders):
    out, cohort = folders
    moved = Grid(GRID.size_xyz, GRID.spacing_xyz, (-10.0, 5.0, 8.0))
    write_image(out / "A-002.nii.gz", Image(paint(*ANSWERS["A-002"][3]), moved))
    with pytest.raises(InvalidInputError, match=r"A-002\.nii\.gz: the mask does not lie where the image lies"):
        evaluate(out, cohort)


def test_rounding_in_a_header_is_no_other_grid(folders):
    out, cohort = folders
    rounded = Grid(GRID.size_xyz, GRID.spacing_xyz, (-10.0002, 5.0, 7.5))
    write_image(out / "A-002.nii.gz", Image(paint(*ANSWERS["A-002"][3]), rounded))
    assert evaluate(out, cohort).scores.gtvn_f1_aggregated == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("PatientID,risk_score,hpv_status\n", "no column hpv_probability"),
        ("PatientID,risk_score,hpv_probability,hpv_status\nA-001,high,0.5,1\n", "risk_score of A-001 is 'high'"),
        ("PatientID,risk_score,hpv_probability,hpv_status\nA-001,1,0.5,maybe\n", "hpv_status of A-001 is 'maybe'"),
        ("PatientID,risk_score,hpv_probability,hpv_status\nA-001,1,1,1\nA-001,1,1,1\n", "A-001 is there twice"),
    ],
)
def test_bad_predictions_are_named(folders, text, message):
    out, cohort = folders
    (out / "predictions.csv").write_text(text)
    with pytest.raises(InvalidInputError, match=rf"predictions\.csv: .*{message}"):
        evaluate(out, cohort)


def test_no_predictions_at_all(folders):
    out, cohort = folders
    (out / "predictions.csv").unlink()
    with pytest.raises(InvalidInputError, match=r"predictions\.csv"):
        evaluate(out, cohort)


def show(evaluation: Evaluation) -> str:
    text = StringIO()
    print_table(evaluation, Console(file=text, width=120))
    return text.getvalue()


def test_nothing_is_cut_on_a_narrow_terminal(folders):
    text = StringIO()
    print_table(evaluate(folders[0], folders[1], resamples=4), Console(file=text, width=80))
    assert "…" not in text.getvalue()
    assert "..." not in text.getvalue()
