"""The product's own statistics on real patients: `python -m train.experiments.real_patients TABLES RUNS REPORT`.

TABLES has `radcure.csv`, `hn1.csv` and `hn1_radiomics.csv` in the released table's columns, with more after them
(docs/real-patients.md says where they come from and how they are laid out). Nothing of this is tuned on them, and what
is fitted stays in RUNS, where a second call finds it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from mmpl.cohort_scores import Interval, Results, differences, intervals, score
from mmpl.evaluate import collect
from mmpl.files import write_whole
from mmpl.names import Stage
from mmpl.predict_table import predict_table
from mmpl.profile import load_profile
from mmpl.training.command import run_program
from mmpl.training.export import export
from mmpl.training.outcome_network import by_scheme, mean_over_schemes
from mmpl.training.parallel import Engine
from mmpl.training.records import SurvivalRecord
from mmpl.training.results import make_results, out_of_fold_results
from mmpl.training.survival import RisksOfKnownStatus, with_rfs
from mmpl.training.tabular import TabularRun, begin, extend_schema, fit
from mmpl.training.workspace import DEFAULT_PROFILE
from mmpl.version import __version__
from mmpl.weights import MANIFEST, digest, load_ensemble
from train.experiments.calibration import calibration_tables
from train.experiments.results import with_interval

OROPHARYNX = {"Site": "oropharynx"}
STAGES, SMOKED = ("T-stage", "N-stage"), ("Pack Years",)
POWER = 0.8


@dataclass(frozen=True)
class Seen:
    """What a fit sees of the patients.

    Attributes:
        name: Name of the run's folder.
        table: File name of the records.
        radiomics: File name of the features; None for none.
        record: Whether the fields of the record are seen.
        categories, numbers: Columns beside those.
        where: Cell that the rows have, by column.
        without: Stages that are left out.
    """

    name: str
    table: str
    radiomics: str | None = None
    record: bool = True
    categories: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    where: Mapping[str, str] | None = None
    without: tuple[Stage, ...] = ()


RADCURE_RECORD = Seen("radcure-record", "radcure.csv", where=OROPHARYNX)
RADCURE = Seen("radcure", "radcure.csv", categories=STAGES, numbers=SMOKED, where=OROPHARYNX)
RADCURE_NO_HPV = replace(RADCURE, name="radcure-no-hpv", without=(Stage.HPV,))
RADCURE_TRAINING = replace(RADCURE, name="radcure-training", where={**OROPHARYNX, "Challenge split": "training"})
RADCURE_STAGED = replace(RADCURE, name="radcure-staged", numbers=())  # without what HN1 has no column for
HN1_RECORD = Seen("hn1-record", "hn1.csv", categories=STAGES, where=OROPHARYNX)
HN1_RADIOMICS = Seen("hn1-radiomics", "hn1.csv", "hn1_radiomics.csv", record=False, where=OROPHARYNX)
HN1 = Seen("hn1", "hn1.csv", "hn1_radiomics.csv", categories=STAGES, where=OROPHARYNX)
HN1_NO_HPV = replace(HN1, name="hn1-no-hpv", without=(Stage.HPV,))
HN1_TRAINING = replace(HN1, name="hn1-training", where={**OROPHARYNX, "Split": "train"})


def run_of(seen: Seen, tables: Path, runs: Path, engine: Engine) -> TabularRun:
    """Fit what is not fitted yet, and export it."""
    profile, table = load_profile(DEFAULT_PROFILE), tables / seen.table
    schema = profile.clinical if seen.record else profile.clinical.model_copy(update={"fields": ()})
    schema = extend_schema(schema, table, seen.categories, seen.numbers, seen.where)
    radiomics = tables / seen.radiomics if seen.radiomics else None
    settings = profile.model_copy(update={"clinical": schema})
    read = [digest(path) for path in (table, radiomics) if path]
    fitted_to = sha256(repr((seen, settings.to_dict(), read, __version__)).encode()).hexdigest()[:8]
    run = begin(runs / f"{seen.name}-{fitted_to}", table, settings, radiomics, seen.where, without=seen.without)
    if not (run.folder / "weights" / MANIFEST).is_file():
        fit(run, engine)
        export(run, run.folder / "weights")
    return run


def risks(run: TabularRun, known_status: bool = False) -> Results:
    """Give the out-of-fold risks of the patients whose HPV status and recurrence-free survival are known.

    Args:
        run: A finished run.
        known_status: Whether the models take the known status; otherwise what their forests predict, as of a new
            patient.
    """
    risk = run.read(SurvivalRecord).risk
    if known_status:
        members = run.splits.members
        risk = by_scheme(members, [RisksOfKnownStatus(run)(member) for member in members])
    patients = [p for p in with_rfs(run.patients) if p.outcome.hpv_positive is not None]
    values = mean_over_schemes(risk, patients)
    return make_results(patients, risk=dict(zip([p.patient_id for p in patients], values.tolist(), strict=True)))


def smallest_auc_told(positive: int, negative: int) -> float:
    """Give the AUC that so many patients tell from 0.5 with a power of 80%, two-sided at 5%.

    The standard error is that of the rank sum without an effect.
    """
    from scipy.stats import norm

    error = np.sqrt((positive + negative + 1) / (12 * positive * negative))
    return float(0.5 + (norm.ppf(0.975) + norm.ppf(POWER)) * error)


def measured(results: Results, *names: str) -> list[str]:
    """Write metrics with their intervals."""
    scores, bounds = score(results).by_name, intervals(results)
    undefined = Interval(np.nan, np.nan)
    return [with_interval(scores.get(name, np.nan), bounds.get(name, undefined)) for name in names]


def difference(ours: Results, theirs: Results, name: str) -> str:
    """Write a metric of the one less that of the other, of the same patients, with its interval."""
    less = differences(ours, theirs)[name]
    return with_interval(less.value, less.interval, "+")


def row(*cells: object) -> str:
    """Write a line of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def table_of(heading: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Write a table of Markdown, and a blank line."""
    return [row(*heading), "|" + "---|" * len(heading), *(row(*cells) for cells in rows), ""]


def answered(run: TabularRun, tables: Path, of: Seen, where: Mapping[str, str]) -> Results:
    """Answer other patients by a run's exported weights, without their outcomes, and line the answers up with those."""
    folder, radiomics = run.folder / f"answers-{of.name}", tables / of.radiomics if of.radiomics else None
    predict_table(load_ensemble(run.folder / "weights"), tables / of.table, folder, radiomics, where)
    return collect(folder, tables / of.table, where)


def of_evidence(tables: Path, runs: Path, engine: Engine) -> list[str]:
    """Compare what the record, the stages and radiomics tell of HPV status and recurrence."""
    titles = (
        (RADCURE_RECORD, "RADCURE: the released fields"),
        (RADCURE, "RADCURE: those, T and N stage, pack-years"),
        (HN1_RECORD, "HN1: the released fields, T and N stage"),
        (HN1_RADIOMICS, "HN1: radiomics alone"),
        (HN1, "HN1: both"),
    )
    results = {seen.name: out_of_fold_results(run_of(seen, tables, runs, engine)) for seen, _ in titles}
    names = ("hpv_auc", "hpv_balanced_accuracy", "hpv_calibration_slope", "c_index")
    lines = table_of(
        ("seen", "HPV AUC", "HPV balanced accuracy", "HPV calibration slope", "C-index"),
        [(title, *measured(results[seen.name], *names)) for seen, title in titles],
    )
    pairs = (
        ("RADCURE: with stages and pack-years less without", RADCURE, RADCURE_RECORD),
        ("HN1: both less the record alone", HN1, HN1_RECORD),
        ("HN1: both less radiomics alone", HN1, HN1_RADIOMICS),
    )
    less = [
        (name, *(difference(results[a.name], results[b.name], metric) for metric in ("hpv_auc", "c_index")))
        for name, a, b in pairs
    ]
    status = results[HN1.name].hpv_positive
    told = smallest_auc_told(int((status == 1).sum()), int((status == 0).sum()))
    known = int(np.isfinite(status).sum())
    return [
        *lines,
        *table_of(("in pairs", "HPV AUC", "C-index"), less),
        f"{known} patients of HN1 tell a single AUC of {told:.2f} or more from 0.5 with a power of 80%.",
        "",
    ]


def of_survival(tables: Path, runs: Path, engine: Engine) -> list[str]:
    """Compare what a known, a predicted and no HPV status are worth to the Cox models."""
    lines = list[str]()
    for title, with_hpv, without in (("RADCURE", RADCURE, RADCURE_NO_HPV), ("HN1", HN1, HN1_NO_HPV)):
        run = run_of(with_hpv, tables, runs, engine)
        none = risks(run_of(without, tables, runs, engine))
        known, predicted = risks(run, known_status=True), risks(run)
        named = {"the known status": known, "the predicted status": predicted, "no status": none}
        events = f"{len(none)} patients, {int(none.relapse.sum())} relapses"
        lines += table_of((f"{title}, {events}", "C-index"), [(n, *measured(r, "c_index")) for n, r in named.items()])
        pairs = {"known less none": (known, none), "known less predicted": (known, predicted)}
        pairs["predicted less none"] = (predicted, none)
        lines += table_of(("in pairs", "C-index"), [(n, difference(*pair, "c_index")) for n, pair in pairs.items()])
    return lines


def of_splits(tables: Path, runs: Path, engine: Engine) -> list[str]:
    """Answer the patients that the tables' own splits hold out, and those of the other center."""
    rows = []
    names = (
        "hpv_auc",
        "hpv_balanced_accuracy",
        "c_index",
        "hpv_calibration_slope",
        "relapse_2_years_calibration_slope",
    )
    for title, seen, of, where in (
        ("RADCURE, its test patients", RADCURE_TRAINING, RADCURE, {**OROPHARYNX, "Challenge split": "test"}),
        ("HN1, its test patients", HN1_TRAINING, HN1, {**OROPHARYNX, "Split": "test"}),
        ("HN1 by models of RADCURE", RADCURE_STAGED, HN1_RECORD, OROPHARYNX),
    ):
        results = answered(run_of(seen, tables, runs, engine), tables, of, where)
        events = int(np.nansum(results.relapse))
        rows.append((title, len(results), events, *measured(results, *names)))
    heading = ("answered", "patients", "relapses", "HPV AUC", "HPV balanced accuracy", "C-index")
    return table_of((*heading, "HPV calibration slope", "2-year calibration slope"), rows)


def main(
    tables: Annotated[Path, typer.Argument(help="Has radcure.csv, hn1.csv and hn1_radiomics.csv.")],
    runs: Annotated[Path, typer.Argument(help="Takes what is fitted.")],
    report: Annotated[Path, typer.Argument(help="Takes the tables, as Markdown.")],
) -> None:
    """Fit the product's forests and Cox models to real patients, and write what they are worth."""
    engine = Engine(1)
    sections = {
        "What is seen, out of fold": of_evidence(tables, runs, engine),
        "Recurrence, and what an HPV status is worth to it": of_survival(tables, runs, engine),
        "Patients that no fit saw": of_splits(tables, runs, engine),
        "RADCURE, out of fold": calibration_tables(run_of(RADCURE, tables, runs, engine)),
        "HN1, out of fold": calibration_tables(run_of(HN1, tables, runs, engine)),
    }
    lines = [line for title, section in sections.items() for line in (f"## {title}", "", *section)]
    with write_whole(report) as partial:
        partial.write_text("\n".join(lines).rstrip() + "\n")


if __name__ == "__main__":
    run_program(main)
