"""Answers for a whole cohort: what is written, what is not done twice, and what happens to a broken patient."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from cohorts import write_table
from conftest import MEMBERS

from mmpl import predict as module
from mmpl.__main__ import main
from mmpl.case import InvalidInputError
from mmpl.evaluate import collect, evaluate, print_table
from mmpl.evidence import FeatureTable
from mmpl.files import OverwriteError
from mmpl.io.challenge import read_edition
from mmpl.io.images import read_image, write_image
from mmpl.names import Stage
from mmpl.phantom.cohort import write_cohort
from mmpl.predict import predict
from mmpl.profile import load_profile
from mmpl.radiomics import feature_names
from mmpl.report import write_radiomics
from mmpl.weights import WeightsError, load_ensemble, write_manifest

pytestmark = pytest.mark.slow

COLUMNS = ["PatientID", "risk_score", "hpv_probability", "hpv_status", "gtvp_ml", "gtvn_ml", "flags"]
NO_RECURRENCE = [f"no_recurrence_{years}y" for years in (1, 2, 3, 5)]
CALIBRATED = ["hpv_calibrated", "hpv_prevalence", *NO_RECURRENCE, "risk_percentile", "hpv_set", "unlike_training"]
STAGES = ["t_stage", "n_stage"]
OTHERS = ["hpv_known", "recurrence_free_days"]
COLUMNS += CALIBRATED + STAGES + OTHERS
CLASSES = ("GTVp", "GTVn")
TABLES = {"predictions.csv", "lesions.csv"}
OFFICIAL = {"gtvp_dice_mean", "gtvn_dice_aggregated", "gtvn_f1_aggregated", "c_index", "hpv_balanced_accuracy"}
OFFICIAL |= {"hpv_auc", "counts"}
ORACLE = {"c_index_uncensored", "oracle_hpv_auc", "oracle_hpv_balanced_accuracy", "oracle_c_index_uncensored"}


def read_rows(out: Path) -> list[dict[str, str]]:
    with (out / "predictions.csv").open(newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    assert reader.fieldnames == COLUMNS
    return rows


def told(report: Path) -> dict[str, object]:
    """A report without what differs from one run to the next."""
    content = json.loads(report.read_text())
    assert content.pop("provenance")["seconds"]
    return content


def state(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.iterdir()}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("phantom") / "cohort"
    write_cohort(3, seed=3, out=folder, hpv_positive=0.5, workers=1)
    return folder


@pytest.fixture(scope="module")
def names(cohort) -> list[str]:
    found = sorted(path.name for path in cohort.iterdir() if path.is_dir())
    assert len(found) == 3
    return found


@pytest.fixture(scope="module")
def finished(cohort, names, tmp_path_factory, blind_ensemble) -> Path:
    """The answers for a cohort of which one patient's CT is cut short; not to be written to."""
    broken, out = tmp_path_factory.mktemp("broken") / "cohort", tmp_path_factory.mktemp("answers") / "out"
    shutil.copytree(cohort, broken)
    ct = broken / names[1] / f"{names[1]}__CT.nii.gz"
    ct.write_bytes(ct.read_bytes()[:100_000])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMPL_WEIGHTS", str(blind_ensemble))
        failures = predict(broken, out)
    assert list(failures) == [names[1]]
    assert failures[names[1]].startswith(f"{ct}: the file is damaged (")
    return out


@pytest.fixture
def use(monkeypatch, blind_ensemble) -> Path:
    monkeypatch.setenv("MMPL_WEIGHTS", str(blind_ensemble))
    return blind_ensemble


@pytest.fixture
def out(finished, tmp_path) -> Path:
    """The same answers, to be written to."""
    return Path(shutil.copytree(finished, tmp_path / "out"))


def test_the_other_patients_are_finished(finished, names):
    done = [names[0], names[2]]
    assert sorted(row["PatientID"] for row in read_rows(finished)) == done
    assert set(state(finished)) == {
        *TABLES,
        *(f"{name}{end}" for name in done for end in (".nii.gz", ".png", ".json")),
    }


def test_masks_lie_on_the_grid_of_their_ct(finished, cohort, names):
    for name in (names[0], names[2]):
        mask = sitk.ReadImage(str(finished / f"{name}.nii.gz"))
        ct = sitk.ReadImage(str(cohort / name / f"{name}__CT.nii.gz"))
        assert mask.GetPixelID() == sitk.sitkUInt8
        assert (mask.GetSize(), mask.GetSpacing()) == (ct.GetSize(), ct.GetSpacing())
        assert (mask.GetOrigin(), mask.GetDirection()) == (ct.GetOrigin(), ct.GetDirection())


def test_rows_hold_numbers_that_agree(finished):
    for row in read_rows(finished):
        assert np.isfinite(float(row["risk_score"]))
        assert 0 < float(row["hpv_probability"]) < 1
        assert row["hpv_status"] == str(int(float(row["hpv_probability"]) >= 0.5))
        voxels = read_image(finished / f"{row['PatientID']}.nii.gz").voxels
        assert (float(row["gtvp_ml"]) > 0) == bool((voxels == 1).any())
        assert "no lesion found" in row["flags"].split("; ")


def test_a_report_says_what_each_model_said(finished, names):
    report = json.loads((finished / f"{names[0]}.json").read_text())
    (row,) = (row for row in read_rows(finished) if row["PatientID"] == names[0])
    assert len(report["hpv"]["by_model"]) == len(report["risk"]["by_model"]) == len(report["models"])
    assert np.mean(report["hpv"]["by_model"]) == pytest.approx(float(row["hpv_probability"]), abs=1e-5)
    assert np.mean(report["risk"]["by_model"]) == pytest.approx(float(row["risk_score"]), abs=1e-5)
    assert "; ".join(report["flags"]) == row["flags"]


def test_one_model_may_answer_alone(cohort, names, tmp_path, use):
    predict(cohort, tmp_path, pictures=False, models=["patient_0"])
    assert json.loads((tmp_path / f"{names[0]}.json").read_text())["models"] == ["patient_0"]
    with pytest.raises(WeightsError, match="no model patient_9; there are patient_0, center_0"):
        predict(cohort, tmp_path, models=["patient_9"])


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (["patient_0"], []),
        (["center_0"], []),
        (["center_0"], ["patient_0"]),
        ([], ["patient_0"]),
    ],
)
def test_answers_of_other_models_are_not_gone_on_with(cohort, names, tmp_path, use, monkeypatch, capfd, first, then):
    one, out = of_one_patient(cohort, tmp_path / "one", names[0]), tmp_path / "out"
    predict(one, out, pictures=False, models=first)
    before = state(out)
    options = [option for name in then for option in ("--model", name)]
    assert run(monkeypatch, "predict", cohort, out, *options) == 1
    assert capfd.readouterr().err == refusal(out / f"{names[0]}.json", use)
    assert state(out) == before
    assert predict(one, out, pictures=False, models=first) == {}


def test_answers_of_other_weights_are_not_gone_on_with(cohort, names, out, tiny_ensemble, monkeypatch, capfd):
    monkeypatch.setenv("MMPL_WEIGHTS", str(tiny_ensemble))
    before = state(out)
    assert run(monkeypatch, "predict", cohort, out) == 1
    assert capfd.readouterr().err == refusal(out / f"{names[0]}.json", tiny_ensemble)
    assert state(out) == before


def refusal(report: Path, weights: Path) -> str:
    """The one line that is printed."""
    return f"error: {report}: answered by other weights or models than {weights}; name another folder\n"


def test_the_same_weights_elsewhere_go_on(cohort, names, out, blind_ensemble, tmp_path, monkeypatch):
    copy = shutil.copytree(blind_ensemble, tmp_path / "weights")
    monkeypatch.setenv("MMPL_WEIGHTS", str(copy))
    assert predict(cohort, out, pictures=False) == {}
    assert [row["PatientID"] for row in read_rows(out)] == names


def test_calibrated_answers_stand_in_the_table_and_are_scored(
    cohort, names, tmp_path, calibrated_ensemble, monkeypatch, capfd
):
    """Their follow-up is 1,200 days; of one patient not much can be said, but every line is there."""
    monkeypatch.setenv("MMPL_WEIGHTS", str(calibrated_ensemble))
    one, out = of_one_patient(cohort, tmp_path / "one", names[0]), tmp_path / "out"
    assert run(monkeypatch, "predict", one, out, "--hpv-prevalence", "0.2", "--no-pictures") == 0
    (row,) = read_rows(out)
    report = json.loads((out / f"{names[0]}.json").read_text())
    assert float(row["hpv_prevalence"]) == 0.2
    assert float(row["hpv_calibrated"]) == pytest.approx(report["hpv"]["calibrated"], abs=1e-6)
    left = [float(row[name]) for name in NO_RECURRENCE[:3]]
    assert 1 > left[0] > left[1] > left[2] > 0
    assert row["no_recurrence_5y"] == ""
    assert 0 <= float(row["risk_percentile"]) <= 100
    assert 0 < float(row["recurrence_free_days"]) < 1200
    assert float(row["recurrence_free_days"]) == pytest.approx(report["risk"]["recurrence_free_days"], abs=0.1)
    assert row["hpv_set"] == report["hpv"]["conformal_set"] in ("positive", "negative", "undecided")
    assert float(row["unlike_training"]) == pytest.approx(report["unlike_training"], abs=1e-3)
    scores = evaluate(out, one, resamples=5).scores.by_name
    assert {"hpv_brier", "hpv_set_undecided", "relapse_2_years_brier", "integrated_brier"} <= set(scores)

    before = state(out)
    for options in ((), ("--hpv-prevalence", "0.3")):
        assert run(monkeypatch, "predict", one, out, *options) == 1
        wanted = f"{out / names[0]}.json: answered for another HPV prevalence, 0.2; name another folder"
        assert capfd.readouterr().err == f"error: {wanted}\n"
        assert state(out) == before
    assert run(monkeypatch, "predict", one, out, "--hpv-prevalence", "1") == 1
    assert capfd.readouterr().err == "error: an HPV prevalence of 1 is not between 0 and 1\n"


def test_all_radiomics_are_written_where_asked_and_change_no_answer(
    cohort, names, finished, tmp_path, use, monkeypatch
):
    one, out = of_one_patient(cohort, tmp_path / "one", names[0]), tmp_path / "out"
    assert run(monkeypatch, "predict", one, out, "--all-radiomics", "--no-pictures") == 0
    answers = {f"{names[0]}.nii.gz", f"{names[0]}.json"}
    assert set(state(out)) == {*answers, *TABLES, f"{names[0]}_radiomics.csv"}
    assert (out / f"{names[0]}.nii.gz").read_bytes() == (finished / f"{names[0]}.nii.gz").read_bytes()
    assert told(out / f"{names[0]}.json") == told(finished / f"{names[0]}.json")
    with (out / f"{names[0]}_radiomics.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["feature", "value"]
    assert tuple(feature for feature, _ in rows) == feature_names(load_profile("micro").radiomics)
    values = dict(rows)
    assert (values["gtvp_absent"], values["gtvn_absent"]) == ("1.0", "1.0")
    assert {value for name, value in values.items() if not name.endswith("_absent")} == {""}  # no lesion was found


def test_the_disagreement_is_written_where_asked_and_for_patients_that_lack_it(
    cohort, names, finished, tmp_path, use, monkeypatch
):
    one, out = of_one_patient(cohort, tmp_path / "one", names[0]), tmp_path / "out"
    assert run(monkeypatch, "predict", one, out, "--no-pictures") == 0
    assert run(monkeypatch, "predict", one, out, "--disagreement", "--no-pictures") == 0
    answers = {f"{names[0]}.nii.gz", f"{names[0]}.json"}
    assert set(state(out)) == {*answers, *TABLES, f"{names[0]}_disagreement.nii.gz"}
    assert (out / f"{names[0]}.nii.gz").read_bytes() == (finished / f"{names[0]}.nii.gz").read_bytes()
    assert told(out / f"{names[0]}.json") == told(finished / f"{names[0]}.json")
    (out / f"{names[0]}.json").unlink()
    assert run(monkeypatch, "predict", one, out, "--no-pictures") == 0
    assert f"{names[0]}_disagreement.nii.gz" not in state(out)  # of an answer that is gone
    assert run(monkeypatch, "predict", one, out, "--disagreement", "--no-pictures") == 0
    image = read_image(out / f"{names[0]}_disagreement.nii.gz")
    assert image.grid == read_image(out / f"{names[0]}.nii.gz").grid
    assert 0 <= image.voxels.min() < image.voxels.max() <= 0.5
    assert run(monkeypatch, "predict", one, tmp_path / "other", "--model", "patient_0", "--disagreement") == 1
    assert not (tmp_path / "other").exists()


def test_what_finished_patients_lack_is_told(cohort, names, tmp_path, use, caplog):
    """A page or a picture takes the images, which nobody reads again for it."""
    one, out = of_one_patient(cohort, tmp_path / "one", names[0]), tmp_path / "out"
    assert predict(one, out, pictures=False) == {}
    assert caplog.messages == []
    before = state(out)
    assert predict(one, out, pages=True) == {}
    told_of = ", answered before: remove the report to answer anew"
    assert caplog.messages == [f"note: no {kind} of {names[0]}{told_of}" for kind in ("picture", "page")]
    assert state(out).keys() == before.keys()


def test_known_and_predicted_statuses_are_scored_together(cohort, names, tmp_path, calibrated_ensemble, monkeypatch):
    """The risks of either kind have a calibration of their own; in the edition of 2026 the days rank the patients."""
    weights = Path(shutil.copytree(calibrated_ensemble, tmp_path / "weights"))
    whole = load_ensemble(weights)
    own = whole.calibration.survival
    known = replace(own, cumulative_hazard=tuple(2 * hazard for hazard in own.cumulative_hazard))
    settings = whole.stages, whole.thresholds, whole.hpv_threshold, whole.training
    calibration = replace(whole.calibration, survival_known=known)
    write_manifest(weights, whole.profile, MEMBERS, *settings, calibration, whole.reference)
    monkeypatch.setenv("MMPL_WEIGHTS", str(weights))
    monkeypatch.setenv("MMPL_EDITION", "hecktor-2026")
    (table,) = [path for path in cohort.glob("*.csv") if path.name != "truth.csv"]
    folder = Path(shutil.copytree(cohort, tmp_path / "mixed"))
    rows = list(csv.DictReader(table.read_text().splitlines()))
    for row in rows:
        row["HPV Status"] = "1" if row["PatientID"] == names[0] else ""
    with (folder / table.name).open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    assert predict(folder, tmp_path / "out", pictures=False) == {}
    answers = {row["PatientID"]: row for row in read_rows(tmp_path / "out")}
    results = collect(tmp_path / "out", folder, edition=read_edition())
    assert results.risk.tolist() == [-float(answers[row["PatientID"]]["recurrence_free_days"]) for row in rows]
    assert results.curve is not None
    evaluate(tmp_path / "out", folder, resamples=5)


def test_a_table_of_radiomics_gives_back_every_value(tmp_path):
    values = np.array([[1.0, 1 / 3, np.nan, -2.5e-17]])
    write_radiomics(tmp_path / "table.csv", FeatureTable(("a", "b", "c", "d"), values))
    with (tmp_path / "table.csv").open(newline="") as file:
        rows = {row["feature"]: row["value"] for row in csv.DictReader(file)}
    np.testing.assert_array_equal([float(rows[name] or "nan") for name in "abcd"], values[0])


@pytest.mark.parametrize(
    ("stages", "blank"),
    [
        ((Stage.SEGMENTATION,), {"risk_score", "hpv_probability", "hpv_status"}),
        ((Stage.SEGMENTATION, Stage.SURVIVAL), {"hpv_probability", "hpv_status"}),
        ((Stage.SEGMENTATION, Stage.HPV), {"risk_score"}),
    ],
)
def test_what_weights_cannot_answer_is_blank_and_evaluate_reads_it(
    cohort, names, tmp_path, partial_ensemble, monkeypatch, stages, blank
):
    monkeypatch.setenv("MMPL_WEIGHTS", str(partial_ensemble(*stages)))
    one, out = of_one_patient(cohort, tmp_path / "one", names[0]), tmp_path / "out"
    for _ in range(2):  # the second time it is finished
        assert predict(one, out) == {}
        (row,) = read_rows(out)
        assert {name for name, cell in row.items() if not cell and name != "flags"} == blank | {
            *CALIBRATED,
            *STAGES,
            *OTHERS,
        }
        assert (out / f"{names[0]}.png").is_file()
    evaluation = evaluate(out, one, resamples=10)
    counts = evaluation.counts
    assert counts.missing_risks == (counts.with_rfs if "risk_score" in blank else 0)
    assert counts.missing_hpv == (1 if "hpv_status" in blank else 0)
    assert counts.missing_masks == counts.missing_predictions == 0
    print_table(evaluation)


@pytest.fixture
def three_statuses(cohort, names, tmp_path) -> Path:
    """The cohort with an HPV status that is positive, one that is negative and one that is not known, in words."""
    folder = tmp_path / "statuses"
    folder.mkdir()
    (table,) = cohort.glob("HECKTOR*.csv")
    with table.open(newline="") as file:
        rows = {row["PatientID"]: row for row in csv.DictReader(file)}
    for name in names:
        (folder / name).symlink_to(cohort / name)
    statuses = dict(zip(names, ("1", "neg", "unknown"), strict=True))
    return write_table(folder, *(rows[name] | {"HPV Status": status} for name, status in statuses.items()))


def test_in_an_edition_that_has_it_as_an_input_the_released_status_is_known(
    three_statuses, names, tmp_path, use, monkeypatch, capfd, caplog
):
    """Table, report and page say what was given and what was predicted; in 2025 it is an outcome, not looked at."""
    predicted = {}
    for edition in ("hecktor-2025", "hecktor-2026"):
        out = tmp_path / edition
        monkeypatch.setenv("MMPL_EDITION", "hecktor-2025")
        assert run(monkeypatch, "predict", three_statuses, out, "--no-pictures", "--page", "--edition", edition) == 0
        for row, given in zip(read_rows(out), (True, False, None), strict=True):
            known, name = given if edition == "hecktor-2026" else None, row["PatientID"]
            report, page = (out / f"{name}.json").read_text(), (out / f"{name}.html").read_text()
            content, hpv = json.loads(report), json.loads(report)["hpv"]
            word = {True: "positive", False: "negative", None: None}[known]
            assert (content["edition"], hpv["known"]) == (edition, known)
            assert f"<dt>edition</dt><dd>{edition}</dd>" in page
            assert row["hpv_known"] == ("" if known is None else str(int(known)))
            for said in (row["flags"], "; ".join(content["flags"])):
                assert (f"the risk rests on a known HPV status ({word})" in said) == bool(word)
            for said in (f"{word}, as it was given".capitalize(), "not told, predict", f"that was given ({word})"):
                assert (said in page) == bool(word)
            assert row["hpv_status"] == str(int(hpv["positive"]))
            assert predicted.setdefault(name, hpv["probability"]) == hpv["probability"]  # whatever is known
            note = "HPV status is 'unknown': predicted"
            assert (note in content["clinical_notes"]) == (edition == "hecktor-2026" and given is None)
            assert (note.replace("'", "&#39;") in page) == (note in content["clinical_notes"])
    capfd.readouterr()
    noted = [record.getMessage() for record in caplog.records]
    assert "note: hecktor-2026 asks for t-stage, n-stage, too, for which these weights were not trained" in noted
    assert "note: no days without recurrence, as these weights were not calibrated" in noted
    before = state(out)
    assert run(monkeypatch, "predict", three_statuses, out, "--edition", "hecktor-2025") == 1
    wanted = f"{out / names[0]}.json: answered for another edition, hecktor-2026; name another folder"
    assert capfd.readouterr().err == f"error: {wanted}\n"
    assert run(monkeypatch, "predict", three_statuses, out, "--edition", "2026") == 1
    assert "error: no edition '2026' (MMPL_EDITION); there are hecktor-2025, hecktor-2026" in capfd.readouterr().err
    assert state(out) == before


def test_finished_patients_are_not_done_again(cohort, names, out, use, monkeypatch):
    (out / f"{names[2]}.nii.gz").unlink()  # a row without its mask is not finished
    before, seen = state(out), []
    answer = module.Pipeline.__call__

    def watch(self, case):
        seen.append(case.patient_id)
        return answer(self, case)

    monkeypatch.setattr(module.Pipeline, "__call__", watch)
    assert predict(cohort, out, pictures=False) == {}
    assert sorted(seen) == names[1:]
    assert sorted(row["PatientID"] for row in read_rows(out)) == names
    after = state(out)
    assert {name for name in after if after[name] == before.get(name)} == {
        f"{names[0]}.nii.gz",
        f"{names[0]}.png",
        f"{names[0]}.json",
    }
    assert not {f"{names[1]}.png", f"{names[2]}.png"} & set(after)  # one would be of the answer before

    seen.clear()
    assert predict(cohort, out, pictures=False) == {}
    assert seen == []
    changed = {name for name, now in state(out).items() if now != after.get(name)}
    assert changed <= TABLES


def test_a_crash_before_the_table_loses_nothing_that_was_finished(cohort, names, out, use, monkeypatch):
    before = read_rows(out)

    def crash(self):
        raise OSError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(module.AnswerTables, "write", crash)
        with pytest.raises(OSError, match="power cut"):
            predict(cohort, out, pictures=False, workers=2)  # the one that is left has begun by then
    assert read_rows(out) == before
    monkeypatch.setattr(module.Pipeline, "__call__", None)  # nobody is left to answer
    assert predict(cohort, out, pictures=False) == {}
    assert [row["PatientID"] for row in read_rows(out)] == names


def test_two_programs_may_answer_into_one_folder(cohort, names, tmp_path, use):
    """Each finishes a patient while the other writes the table; no row is lost."""
    out = tmp_path / "out"
    for name in names:
        predict(of_one_patient(cohort, tmp_path / name, name), out, pictures=False)
    assert [row["PatientID"] for row in read_rows(out)] == names


def test_a_row_that_another_program_adds_while_the_table_is_written_stays(finished, names, tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    shutil.copy(finished / f"{names[0]}.json", out)
    write_rows = module.csv.writer

    def meanwhile(file):
        shutil.copy(finished / f"{names[2]}.json", out)
        return write_rows(file)

    monkeypatch.setattr(module.csv, "writer", meanwhile)
    module.AnswerTables(out).write()
    assert [row["PatientID"] for row in read_rows(out)] == [names[0], names[2]]


def of_one_patient(cohort: Path, folder: Path, name: str) -> Path:
    """A part of the cohort: its table cut to one row."""
    folder.mkdir()
    (folder / name).symlink_to(cohort / name)
    (table,) = cohort.glob("HECKTOR*.csv")
    header, *rows = table.read_text().splitlines()
    (folder / table.name).write_text("\n".join([header, *(row for row in rows if row.startswith(name)), ""]))
    return folder


@pytest.mark.parametrize("where", ["", "answers", "../linked", "../linked/answers"])
def test_answers_never_lie_in_the_cohort(cohort, names, tmp_path, use, where):
    mine = Path(shutil.copytree(cohort, tmp_path / "cohort"))
    (tmp_path / "linked").symlink_to(mine)
    before = {path: path.read_bytes() for path in mine.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"lies in .*, which is read; name a folder outside it$"):
        predict(mine, mine / where)
    assert {path: path.read_bytes() for path in mine.rglob("*") if path.is_file()} == before


def test_a_folder_of_masks_is_not_written_over(cohort, names, finished, tmp_path, use):
    labels = tmp_path / "labels"
    labels.mkdir()
    shutil.copy(cohort / names[1] / f"{names[1]}.nii.gz", labels)
    before = state(labels)
    with pytest.raises(OverwriteError, match=rf"{names[1]}\.nii\.gz: is no answer's file, and would be lost"):
        predict(cohort, labels)
    assert state(labels) == before
    (labels / f"{names[1]}.nii.gz").unlink()
    shutil.copy(finished / "predictions.csv", labels)  # as of a table that was answered without images
    with pytest.raises(OverwriteError, match=r"predictions\.csv: is no answer's file"):
        predict(cohort, labels)


@pytest.mark.parametrize("end", [".nii.gz", ".png", "_seg.dcm", ".mha", ".json"])
def test_a_persons_file_among_answers_is_neither_written_over_nor_removed(cohort, names, out, use, end):
    path = out / f"{names[1]}{end}"
    if end == ".nii.gz":
        shutil.copy(cohort / names[0] / f"{names[0]}.nii.gz", path)
    else:
        path.write_text("a person's")
    content = path.read_bytes()
    failures = predict(cohort, out)
    assert failures == {
        names[1]: f"{path}: is no file of an answer, perhaps a person's, and would be lost; move it away"
    }
    assert path.read_bytes() == content


def test_a_mask_that_a_person_corrected_in_its_place_stays(cohort, names, out, use):
    """By a program that keeps the header, too."""
    mask = out / f"{names[0]}.nii.gz"
    image = sitk.ReadImage(str(mask))
    image[0, 0, 0] = 2
    sitk.WriteImage(image, str(mask))
    content = mask.read_bytes()
    assert names[0] in predict(cohort, out, disagreement=True)
    assert mask.read_bytes() == content


def test_a_damaged_mask_without_a_report_costs_its_patient_alone(cohort, names, out, use):
    (out / f"{names[0]}.json").unlink()
    mask = out / f"{names[0]}.nii.gz"
    mask.write_bytes(mask.read_bytes()[:-20])
    (out / f"{names[2]}.json").unlink()
    assert list(predict(cohort, out)) == [names[0]]
    assert (out / f"{names[2]}.json").is_file()


def test_a_reference_mask_that_comes_later_changes_no_answer(cohort, names, out, use, tmp_path):
    later = Path(shutil.copytree(cohort, tmp_path / "later"))
    (later / names[0] / f"{names[0]}.nii.gz").unlink()
    assert names[0] not in predict(later, out)


def test_what_a_program_leaves_that_is_killed_as_it_begins_is_gone_on_with(finished, names, tmp_path):
    out = tmp_path / "out"
    module.AnswerTables(out).begin(names)
    assert sorted(state(out)) == ["lesions.csv", "predictions.csv"]
    (out / "predictions.csv").unlink()
    module.AnswerTables(out).begin(names)
    (out / "predictions.csv").unlink()
    (out / "lesions.csv").write_text("a person's\n")
    with pytest.raises(OverwriteError, match=r"lesions\.csv: is no answer's file"):
        module.AnswerTables(out).begin(names)


def test_two_programs_that_answer_otherwise_do_not_mix(cohort, names, tmp_path, use, monkeypatch):
    """Both began in an empty folder; the other finishes a patient while the first answers."""
    out, other, read_case = tmp_path / "out", tmp_path / "other", module.Cohort.read_case
    predict(of_one_patient(cohort, tmp_path / "one", names[2]), other, pictures=False, models=["patient_0"])

    def meanwhile(self, name):
        if not (out / f"{names[2]}.json").exists():
            shutil.copy(other / f"{names[2]}.nii.gz", out)
            shutil.copy(other / f"{names[2]}.json", tmp_path)
            (tmp_path / f"{names[2]}.json").rename(out / f"{names[2]}.json")  # whole or not there
        return read_case(self, name)

    monkeypatch.setattr(module.Cohort, "read_case", meanwhile)
    with pytest.raises(ValueError, match=rf"{names[2]}\.json: answered by other weights or models"):
        predict(cohort, out, pictures=False, workers=1)
    assert read_rows(out) == []


def test_a_mask_in_both_layouts_is_refused(cohort, names, tmp_path, use):
    mine = Path(shutil.copytree(cohort, tmp_path / "cohort"))
    nested, flat = mine / names[0] / f"{names[0]}.nii.gz", mine / f"{names[0]}.nii.gz"
    assert nested.is_file()
    shutil.copy(nested, flat)
    with pytest.raises(InvalidInputError) as refused:
        predict(mine, tmp_path / "out")
    assert f"patient {names[0]}: {flat} and {nested}: one of the two is too many" in str(refused.value)


def test_lesions_stand_in_a_table_of_their_own(head, tiny_ensemble, tmp_path, monkeypatch):
    monkeypatch.setenv("MMPL_WEIGHTS", str(tiny_ensemble))
    name, out = "head", tmp_path / "out"
    folder = write_table(tmp_path / "cohort", {"PatientID": name})
    write_image(folder / f"{name}__CT.nii.gz", head.ct)
    write_image(folder / f"{name}__PT.nii.gz", head.pet)
    assert predict(folder, out, pictures=False) == {}
    (row,), report = read_rows(out), json.loads((out / f"{name}.json").read_text())
    with (out / "lesions.csv").open(newline="") as file:
        lesions = list(csv.DictReader(file))
    assert len(lesions) == len(report["lesions"]) > 0
    for number, (listed, lesion) in enumerate(zip(lesions, report["lesions"], strict=True), 1):
        assert (listed.pop("PatientID"), listed.pop("lesion")) == (name, str(number))
        assert listed == {name: "" if value is None else str(value) for name, value in lesion.items()}
    by_class = [sum(each["volume_ml"] for each in report["lesions"] if each["class"] == name) for name in CLASSES]
    assert by_class == pytest.approx([float(row["gtvp_ml"]), float(row["gtvn_ml"])], abs=0.01)
    assert set(report["provenance"]["inputs"]) == {"ct", "pet"}


def test_pages_are_written_where_asked(cohort, names, tmp_path, use, monkeypatch):
    one, out = of_one_patient(cohort, tmp_path / "one", names[0]), tmp_path / "out"
    assert run(monkeypatch, "predict", one, out, "--no-pictures", "--page") == 0
    assert set(state(out)) == {*TABLES, *(f"{names[0]}{end}" for end in (".nii.gz", ".json", ".html"))}
    page = (out / f"{names[0]}.html").read_text()
    assert f"Patient {names[0]}" in page
    for digest in json.loads((out / f"{names[0]}.json").read_text())["provenance"]["inputs"].values():
        assert digest in page


def test_without_suv_the_table_of_lesions_has_no_columns_of_it() -> None:
    answer = module.ReportedAnswer(*("A", "w", None, (), *[None] * 5, None, (), None, 1.0, 0.0, (), None))
    lesion = {"class": "GTVp", "volume_ml": 1.0, "side": None}
    (header, row) = module.tabulate_lesions([replace(answer, lesions=(lesion,))])
    assert not {"suv_max", "suv_mean", "suv_peak", "tlg"} & set(header)
    assert dict(zip(header, row, strict=True))["volume_ml"] == 1.0
    header, first, second = module.tabulate_lesions(
        [replace(answer, lesions=(lesion,)), replace(answer, patient_id="B", lesions=({**lesion, "tlg": 7.0},))]
    )
    assert [dict(zip(header, each, strict=True))["tlg"] for each in (first, second)] == [None, 7.0]


def test_a_picture_that_cannot_be_drawn_costs_the_picture(cohort, names, out, use, monkeypatch, caplog):
    def stumble(*_):
        raise RuntimeError("no such font")

    monkeypatch.setattr(module, "draw", stumble)
    assert predict(cohort, out) == {}
    assert caplog.messages == [f"{names[1]}: no picture (RuntimeError: no such font)"]
    assert [row["PatientID"] for row in read_rows(out)] == names


def test_an_unforeseen_failure_costs_one_patient(cohort, names, out, use, monkeypatch):
    answer = module.Pipeline.__call__

    def stumble(self, case):
        if case.patient_id == names[1]:
            raise ZeroDivisionError("of nothing")
        return answer(self, case)

    (out / f"{names[2]}.nii.gz").unlink()
    monkeypatch.setattr(module.Pipeline, "__call__", stumble)
    assert predict(cohort, out, pictures=False) == {names[1]: "ZeroDivisionError: of nothing"}
    assert (out / f"{names[2]}.nii.gz").is_file()


def test_a_table_of_nobody_is_an_error(tmp_path, use):
    with pytest.raises(InvalidInputError, match="no such folder"):
        predict(tmp_path / "absent", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def run(monkeypatch, *arguments: object) -> int:
    """Run the command line in this process; its exit code."""
    monkeypatch.setattr("sys.argv", ["mmpl", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


def test_the_command_reports_a_broken_patient_and_fails(cohort, names, out, use, monkeypatch, capfd, tmp_path):
    broken = tmp_path / "cohort"
    shutil.copytree(cohort, broken)
    pet = broken / names[1] / f"{names[1]}__PT.nii.gz"
    pet.write_bytes(b"garbage" * 100)
    assert run(monkeypatch, "predict", broken, out, "--no-pictures") == 1
    error = capfd.readouterr().err
    assert error.startswith(f"error: {names[1]}: {pet}: not a readable image (")
    assert error.count("\n") == 1
    assert len(read_rows(out)) == 2


def test_evaluate_prints_a_table_and_writes_json(cohort, finished, monkeypatch, capfd, tmp_path):
    path = tmp_path / "metrics.json"
    assert run(monkeypatch, "evaluate", finished, cohort, "--json", path) == 0
    printed = capfd.readouterr()
    assert printed.err == ""
    found = json.loads(path.read_text())
    report = next(finished.glob("*.json"))
    for among in (cohort / "truth.csv", finished / "predictions.csv", report):
        assert run(monkeypatch, "evaluate", finished, cohort, "--json", among) == 1
        assert "which is read" in capfd.readouterr().err
    assert set(found) >= OFFICIAL | ORACLE
    assert found["counts"]["patients"] == 3
    assert found["counts"]["missing_predictions"] == 1
    for name in (OFFICIAL | ORACLE) - {"counts"}:
        assert name in printed.out
        assert found[name] is None or 0 <= found[name] <= 1
    assert found["gtvn_dice_aggregated"] == 0  # nothing was found


def test_evaluate_without_a_place_for_its_json(cohort, finished, monkeypatch, capfd, tmp_path):
    path = tmp_path / "absent" / "metrics.json"
    assert run(monkeypatch, "evaluate", finished, cohort, "--json", path) == 1
    error = capfd.readouterr().err.strip()
    assert error.startswith("error: ")
    assert error == f"error: {path}: cannot be written (No such file or directory)"
    assert "\n" not in error


def test_answers_from_other_images_or_another_record_are_not_taken_for_these(cohort, names, out, use, tmp_path):
    """A corrected table, or another cohort that has the same names; whose answers were there stay."""
    other = Path(shutil.copytree(cohort, tmp_path / "other"))
    (table,) = [path for path in other.glob("*.csv") if path.name not in ("truth.csv",)]
    rows = list(csv.DictReader(table.read_text().splitlines()))
    for row in rows:
        if row["PatientID"] == names[0]:
            row["Age"] = "99"
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    before = (out / f"{names[0]}.json").read_bytes()
    for more in ({}, {"all_radiomics": True}, {"disagreement": True}):  # for which the patient would be answered anew
        failures = predict(other, out, pictures=False, **more)
        assert failures[names[0]] == (
            f"{out / names[0]}.json: answered from other images or another record; name another folder"
        )
        assert (out / f"{names[0]}.json").read_bytes() == before
        assert len(failures) == 1
