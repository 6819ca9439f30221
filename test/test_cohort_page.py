"""The page of a cohort: its table, and its plots against figures worked otherwise."""

import csv
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import PROGRAM, Browser, start_browser
from cohorts import CT_GRID, ROW, mask_on, write_images, write_table
from lifelines import KaplanMeierFitter
from lifelines.statistics import logrank_test
from sklearn.metrics import roc_auc_score

from mmpl.__main__ import main
from mmpl.case import Image
from mmpl.cohort_page import (
    COHORT_PAGE,
    draw_decisions,
    draw_dice,
    draw_kaplan_meier,
    draw_plots,
    draw_roc,
    write_cohort_page,
)
from mmpl.cohort_scores import DecisionPoint, Interval
from mmpl.evaluate import assess, collect
from mmpl.files import OverwriteError
from mmpl.io.images import write_image
from mmpl.names import DAYS_PER_YEAR
from mmpl.predict import AnswerTables

pytestmark = pytest.mark.slow

NASTY = "A<b>&'\"#x"


def write_cohort_and_answers(folder: Path, count: int, seed: int = 0) -> tuple[Path, Path]:
    """Draw a cohort and answers that know something of it; images and masks are the same few voxels for all."""
    noise = np.random.default_rng(seed)
    cohort, answers = folder / "cohort", folder / "answers"
    names = [NASTY, *(f"P-{number:04}" for number in range(1, count))]
    risk = noise.normal(size=count)
    days = noise.exponential(1500 * np.exp(-0.7 * risk))
    followed = noise.uniform(200, 2600, count)
    positive = noise.random(count) < 0.6
    score = np.clip(0.5 + 0.15 * (2 * positive - 1) + 0.2 * noise.normal(size=count), 0.01, 0.99)
    rows = []
    for at, name in enumerate(names):
        outcome = {"Relapse": str(int(days[at] < followed[at])), "RFS": str(int(1 + min(days[at], followed[at])))}
        status = "" if at % 9 == 5 else str(int(positive[at]))
        rows.append({**ROW, "PatientID": name, "CenterID": str(1 + at % 3), "Gender": str(at % 2), **outcome})
        rows[-1] |= {"HPV Status": status, "Age": str(45 + at % 40)}
    write_table(cohort, *rows)
    answers.mkdir()
    write_images(cohort, names[0], mask=mask_on(CT_GRID))
    found = [mask_on(CT_GRID) for _ in range(2)]
    found[1].voxels[1, 2, 2] = 1
    for at, mask in enumerate(found):
        write_image(folder / f"{at}.nii.gz", Image(mask.voxels, CT_GRID))
    for at, name in enumerate(names):
        if at:
            (cohort / name).mkdir()
            for ending in ("__CT.nii.gz", "__PT.nii.gz", ".nii.gz"):
                (cohort / name / f"{name}{ending}").symlink_to(cohort / names[0] / f"{names[0]}{ending}")
        (answers / f"{name}.nii.gz").symlink_to(folder / f"{at % 2}.nii.gz")
        left = {str(year): {"probability": float(np.exp(-year / 5 * np.exp(risk[at])))} for year in (1, 2, 3, 5)}
        report: dict[str, Any] = {
            "patient": name,
            "weights": "0" * 64,
            "source": None,
            "models": ["patient-0", "patient-1"],
            "gtvp_ml": float(at % 50),
            "gtvn_ml": 1.0,
            "flags": ["low ensemble agreement"] if at % 10 == 3 else [],
            "risk": {"score": float(risk[at]), "percentile": 50.0},
            "hpv": {
                "probability": float(score[at]),
                "positive": bool(score[at] > 0.5),
                "calibrated": float(score[at]),
                "prevalence": 0.6,
            },
            "no_recurrence": {"after_years": left},
            "lesions": [{"class": "GTVp"}],
        }
        (answers / f"{name}.json").write_text(json.dumps(report))
    AnswerTables(answers).write()
    return cohort, answers


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    cohort, answers = write_cohort_and_answers(tmp_path_factory.mktemp("cohort"), 120)
    (answers / "P-0001.html").write_text("its page")
    (answers / "P-0002.png").write_bytes(b"its picture")
    write_cohort_page(answers, cohort, count=20)
    return cohort, answers


def test_every_patient_stands_in_it_and_leads_to_what_there_is(folders: tuple[Path, Path]) -> None:
    page = (folders[1] / COHORT_PAGE).read_text()
    assert page.count("<tr data-flagged") == 12
    for link in ("P-0001.html", "P-0002.png", "P-0003.json"):
        assert f'<a href="{link}">' in page
    assert "A&lt;b&gt;&amp;&#39;&#34;#x</a>" in page
    assert 'href="A%3Cb%3E%26%27%22%23x.json"' in page
    assert NASTY not in page
    assert "The models disagree about the contours" in page
    assert "http" not in page.replace("http-equiv", "")


def test_stages_stand_there_where_some_answer_has_them(folders: tuple[Path, Path], tmp_path: Path) -> None:
    without = (folders[1] / COHORT_PAGE).read_text()
    assert not any(f">{heading}<" in without for heading in ("T", "N", "true T", "true N"))
    cohort, answers = write_cohort_and_answers(tmp_path, 6)
    table = cohort / "EHR.csv"
    header, *rows = table.read_text().splitlines()
    table.write_text("\n".join([f"{header},T-stage,N-stage", *(f"{row},T4b,N2a" for row in rows)]) + "\n")
    report = answers / "P-0001.json"
    content = json.loads(report.read_text())
    content |= {"t_stage": {"stage": "T3"}, "n_stage": {"stage": "N1"}}
    report.write_text(json.dumps(content))
    AnswerTables(answers).write()
    page = write_cohort_page(answers, cohort, count=2).read_text()
    assert all(f">{heading}<" in page for heading in ("T", "N", "true T", "true N"))
    assert page.count("<td>T3</td><td>N1</td>") == 1
    assert page.count("<td>T4</td><td>N2</td>") == 6
    assert "t balanced accuracy" in page


def test_a_status_that_was_given_stands_beside_what_is_predicted(folders: tuple[Path, Path], tmp_path: Path) -> None:
    assert ">given HPV<" not in (folders[1] / COHORT_PAGE).read_text()
    _, answers = write_cohort_and_answers(tmp_path, 3)
    for name, positive, known in (("P-0001", True, False), ("P-0002", False, None)):
        report = answers / f"{name}.json"
        content = json.loads(report.read_text())
        content["hpv"] |= {"positive": positive, "known": known}
        report.write_text(json.dumps(content))
    text = "".join(write_cohort_page(answers, count=2).read_text().split())
    head, rows = text.split("<tbody>")
    assert [words in head for words in (">givenHPV<", ">trueHPV<")] == [True, False]
    assert [row.count("<td>negative</td>") for row in rows.split("</tr>")[1:3]] == [1, 1]
    assert [row.count("<td></td>") for row in rows.split("</tr>")[1:3]] == [0, 1]


def test_the_command_says_where_it_is(folders, monkeypatch, capfd) -> None:
    monkeypatch.setattr("sys.argv", ["mmpl", "report", str(folders[1])])
    before = (folders[1] / COHORT_PAGE).read_text()
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code
    assert capfd.readouterr().out == f"page: {folders[1] / COHORT_PAGE}\n"
    assert "<svg" not in (folders[1] / COHORT_PAGE).read_text()
    (folders[1] / COHORT_PAGE).write_text(before)


def test_without_a_cohort_there_is_the_table_alone(folders: tuple[Path, Path], tmp_path: Path) -> None:
    for path in folders[1].glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    page = write_cohort_page(tmp_path).read_text()
    assert page.count("<tr") == 121
    assert "<svg" not in page
    assert "true HPV" not in page


def test_kaplan_meier_is_lifelines(folders: tuple[Path, Path]) -> None:
    results = collect(folders[1], folders[0])
    plot = draw_kaplan_meier(results)
    assert plot is not None
    high = results.risk > np.median(results.risk)
    end = float(np.quantile(results.days, 0.9))
    p = logrank_test(results.days[high], results.days[~high], results.relapse[high], results.relapse[~high]).p_value
    assert (f"p = {p:.3f}" if p >= 0.001 else "p below 0.001") in plot.note
    for series, chosen in zip(plot.series, (~high, high), strict=True):
        wanted = KaplanMeierFitter().fit(results.days[chosen], results.relapse[chosen])
        for (x, y), (after, _) in zip(series.line, series.line[1:], strict=False):
            if after > x:  # a step's level until the next
                assert y == pytest.approx(float(wanted.predict((x + after) / 2 * end)))
        assert series.line[-1][0] == 1.0
        assert len(series.ticks) == ((results.relapse == 0) & (results.days <= end) & chosen).sum()
        at_two_years = (results.days[chosen] >= 2 * DAYS_PER_YEAR).sum()
        assert plot.counts[series.label][2] == at_two_years
    assert draw_kaplan_meier(results.take(np.arange(3))) is None
    assert draw_kaplan_meier(replace(results, relapse=np.zeros(len(results)))) is None


def test_there_is_no_curve_where_nobody_is_followed(folders: tuple[Path, Path], tmp_path: Path) -> None:
    results = collect(folders[1], folders[0])
    nearly = np.where(np.arange(len(results)) < 5, 100.0, 0.0)
    for days in (np.zeros(len(results)), nearly):
        assert draw_kaplan_meier(replace(results, days=days, relapse=np.ones(len(results)))) is None
    cohort, answers = write_cohort_and_answers(tmp_path, 12)
    with (cohort / "EHR.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    write_table(cohort, *({**row, "Relapse": "1", "RFS": "0"} for row in rows))
    page = write_cohort_page(answers, cohort, count=2).read_text()
    assert "HPV score: ROC" in page
    assert "No recurrence, by risk" not in page


def test_there_is_no_test_where_one_group_is_followed_to_no_relapse(folders: tuple[Path, Path]) -> None:
    results = collect(folders[1], folders[0])
    high = results.risk > np.median(results.risk)
    plot = draw_kaplan_meier(replace(results, days=np.where(high, 0.0, 900.0), relapse=np.where(high, 0.0, 1.0)))
    assert plot is not None
    assert (
        plot.note
        == "Parted at the patients' median risk; no log-rank test, as no relapse came while both were followed."
    )


def test_roc_has_its_area(folders: tuple[Path, Path]) -> None:
    results = collect(folders[1], folders[0])
    results = replace(results, hpv_probability=np.round(results.hpv_probability, 1))  # with ties
    plot = draw_roc(results, 5)
    assert plot is not None
    x, y = np.array(plot.series[1].line).T
    known = ~np.isnan(results.hpv_positive)
    assert np.trapezoid(y, x) == pytest.approx(
        roc_auc_score(results.hpv_positive[known], results.hpv_probability[known])
    )
    one = replace(results, hpv_positive=np.ones(len(results)))
    assert draw_roc(one, 5) is None


def test_who_was_not_answered_is_told_and_not_drawn(folders: tuple[Path, Path], tmp_path: Path) -> None:
    cohort, answers = write_cohort_and_answers(tmp_path, 60)
    for path in sorted(answers.glob("P-*.json"))[::2]:
        path.unlink()
    AnswerTables(answers).write()
    results = collect(answers, cohort)
    left = int(results.answered.sum())
    plot = draw_roc(results, 5)
    assert plot is not None
    x, y = np.array(plot.series[1].line).T
    assert f"AUC {np.trapezoid(y, x):.2f} (" in plot.note
    page = write_cohort_page(answers, cohort, count=2).read_text()
    assert f"{60 - left} of 60 patients have no answer" in page


def test_a_page_of_anothers_is_not_written_over(folders: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copy(folders[1] / "P-0001.json", tmp_path)
    (tmp_path / "P-0001.png").touch()
    page = write_cohort_page(tmp_path)
    assert write_cohort_page(tmp_path) == page
    page.write_text("<title>my own</title>")
    with pytest.raises(OverwriteError, match=r"index\.html: is no page of answers"):
        write_cohort_page(tmp_path)
    assert page.read_text() == "<title>my own</title>"


def test_a_patient_called_as_the_page_keeps_its_own(folders: tuple[Path, Path], tmp_path: Path) -> None:
    report = json.loads((folders[1] / "P-0001.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps(report | {"patient": "index"}))
    (tmp_path / "index.html").write_text("its page")
    page = write_cohort_page(tmp_path)
    assert page.name == "index-2.html"
    assert '<a href="index.html">index</a>' in page.read_text()
    assert (tmp_path / "index.html").read_text() == "its page"
    (tmp_path / "Index-2.json").write_text(json.dumps(report | {"patient": "Index-2"}))
    assert write_cohort_page(tmp_path).name == "index-3.html"


def test_models_and_weights_are_those_of_all_patients(folders: tuple[Path, Path], tmp_path: Path) -> None:
    report = json.loads((folders[1] / "P-0001.json").read_text())
    for name, models in (("A", 10), ("B", 3)):
        more = {"patient": name, "models": [f"patient-{at}" for at in range(models)], "weights": name * 64}
        (tmp_path / f"{name}.json").write_text(json.dumps(report | more))
    page = write_cohort_page(tmp_path).read_text()
    assert f"<code>{'A' * 16}</code>, <code>{'B' * 16}</code>, 3 to 10 models a patient." in page


def test_calibration_decisions_and_dice(folders: tuple[Path, Path]) -> None:
    results = collect(folders[1], folders[0])
    plots = {plot.title: plot for plot in draw_plots(results, assess(results, 5), 5)}
    assert len(plots) == 9
    fifths = plots["Calibration: HPV-positive"].series[1]
    known = ~np.isnan(results.hpv_positive)
    order = np.argsort(results.hpv_probability[known])
    lowest = order[: -(-len(order) // 5)]
    assert fifths.dots[0] == pytest.approx(
        (results.hpv_probability[known][lowest].mean(), results.hpv_positive[known][lowest].mean())
    )
    assert all(
        low <= share + 1e-9 and share - 1e-9 <= high
        for (_, share), (_, low, high) in zip(fifths.dots, fifths.intervals, strict=True)
    )
    dice = draw_dice(results)
    assert dice is not None
    assert [y for _, y in dice.series[0].dots] == results.gtvp_dice.tolist()
    decisions = plots["Decision curve: recurrence by 2 years"]
    assert len(decisions.series) == 3
    assert "largest" not in decisions.note.lower()  # the best of many points flatters


def test_harm_is_drawn_as_far_as_it_goes() -> None:
    """Acting on the probability is drawn wherever it lies; acting on all ends where it leaves the plot."""
    values = ((0.5, 0.1, -0.1), (0.8, -0.5, -1.5), (0.9, -1.0, -4.0))
    points = [DecisionPoint(*three, 0.0, Interval(0.0, 0.0)) for three in values]
    plot = draw_decisions("hpv", points)
    assert plot is not None
    _, on_all, ours = plot.series
    heights = [height for _, height in ours.dots]
    assert [threshold for threshold, _ in on_all.line] == [0.5, pytest.approx(0.7, abs=0.02)]  # through -1.0 there
    assert on_all.line[-1][1] == 0
    assert 0 < heights[2] < 0.1 < heights[1] < heights[0] < 1
    worse = [point._replace(acting_on_all=-5.0) for point in points]
    assert len(draw_decisions("hpv", worse).series) == 2
    ticks = {text: height for height, text in plot.y_ticks}
    assert heights[2] == pytest.approx(ticks["-1.0"])


def test_a_copy_of_a_report_is_no_patient(folders: tuple[Path, Path], tmp_path: Path) -> None:
    report = (folders[1] / "P-0001.json").read_text()
    for name in ("P-0001", "P-0001 backup"):
        (tmp_path / f"{name}.json").write_text(report)
        (tmp_path / f"{name}.html").touch()
    assert "<h1>1 patient</h1>" in write_cohort_page(tmp_path).read_text()


def test_a_wrong_folder_is_one_line(folders, tmp_path, monkeypatch, capfd) -> None:
    for arguments, message in (
        ((tmp_path,), f"{tmp_path}: no answers, which `mmpl predict` writes"),
        ((folders[1], folders[1]), f"{folders[1]}: lies in {folders[1]}, which is read; name a folder outside it"),
    ):
        monkeypatch.setattr("sys.argv", ["mmpl", "report", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert stopped.value.code == 1
        assert capfd.readouterr().err == f"error: {message}\n"
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not PROGRAM:
        pytest.skip("no Chromium is installed")
    with start_browser() as started:
        yield started


SHOWN = "[...document.querySelectorAll('#patients tbody tr')].filter(r => !r.hidden).map(r => r.cells[{}].textContent)"


def test_it_sorts_and_filters(browser: Browser, folders: tuple[Path, Path]) -> None:
    browser.open(folders[1] / COHORT_PAGE)
    assert browser.complaints == []
    assert browser.requested == [(folders[1] / COHORT_PAGE).as_uri()]
    click = "document.querySelectorAll('#patients th button')[{}].click()"
    browser.evaluate(click.format(1))
    numbers = [float(text.replace("\N{MINUS SIGN}", "-")) for text in browser.evaluate(SHOWN.format(1))]
    assert numbers == sorted(numbers)
    browser.evaluate(click.format(1))
    again = [float(text.replace("\N{MINUS SIGN}", "-")) for text in browser.evaluate(SHOWN.format(1))]
    assert again == sorted(numbers, reverse=True)
    browser.evaluate(click.format(0))
    assert browser.evaluate(SHOWN.format(0)) == sorted(browser.evaluate(SHOWN.format(0)))
    browser.evaluate(
        "(e => { e.value = 'p-001'; e.dispatchEvent(new Event('input')); })(document.getElementById('search'))"
    )
    assert browser.evaluate(SHOWN.format(0)) == [f"P-001{digit}" for digit in range(10)]
    browser.evaluate("document.getElementById('flagged').click()")
    assert browser.evaluate(SHOWN.format(0)) == ["P-0013"]
    assert browser.evaluate("document.getElementById('shown').textContent") == "1 of 120 patients"


@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_the_screen(browser: Browser, folders: tuple[Path, Path], width: int) -> None:
    browser.open(folders[1] / COHORT_PAGE, width=width)
    assert browser.evaluate("document.documentElement.scrollWidth") == width


def test_a_thousand_patients_open_quickly(browser: Browser, tmp_path: Path) -> None:
    _, answers = write_cohort_and_answers(tmp_path, 1000)
    page = write_cohort_page(answers)
    began = time.monotonic()
    browser.open(page)
    browser.evaluate("document.querySelectorAll('#patients th button')[1].click()")
    assert time.monotonic() - began < 3
    assert len(browser.evaluate(SHOWN.format(0))) == 1000
