"""The paper's Tables 1 to 3 from a finished run, and more: `python -m train.experiments.tables RUN OUT`.

Every number is out of fold: mean and SD over the folds, as in the paper, beside all patients pooled with a 95%
bootstrap interval. OUT takes `RESULTS.md` and the figures. `train.experiments.ablation RUN` trains the comparisons;
without it their rows are left out.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import typer
from numpy.typing import NDArray

from mmpl.case import Patient
from mmpl.cohort_scores import RESAMPLES, Results, interval, resamples, score, score_mask
from mmpl.files import write_whole
from mmpl.names import Label
from mmpl.training.command import RunFolder, Scheduler, Workers, run_program
from mmpl.training.hpv import with_status
from mmpl.training.memory import IMAGES_GIB
from mmpl.training.outcome_network import by_scheme, standardize
from mmpl.training.parallel import Engine
from mmpl.training.records import HpvRecord, OutOfFold, ScratchRecord, StartRecord, SurvivalRecord, Values
from mmpl.training.results import decide, make_results, out_of_fold_results
from mmpl.training.splits import Scheme
from mmpl.training.survival import RisksOfKnownStatus, with_rfs
from mmpl.training.workspace import Workspace, is_phantom
from train.experiments import figures
from train.experiments.ablation import DICE_ONLY
from train.experiments.baseline import threshold_mask
from train.experiments.calibration import calibration_tables
from train.experiments.results import Baseline, NoHpv, score_masks, with_interval

Measured = Mapping[str, float]
Measure = Callable[[Results], Measured]


@dataclass(frozen=True)
class Method:
    """One method, which is one row of a table.

    Attributes:
        name: Name of the method.
        results: Results of all the table's patients, in one order.
        paper: Result that the paper reports for it, on real patients; empty where it has no such row.
    """

    name: str
    results: Results
    paper: str = ""


@dataclass(frozen=True)
class Comparison:
    """Two methods of a table, the first less the second, patient by patient."""

    ours: str
    theirs: str


def measure_masks(results: Results) -> Measured:
    """Table 1's columns."""
    scores = score(results)
    return {
        "Dice(GTVp)": scores.gtvp_dice_mean,
        "aggregated Dice(GTVp)": scores.gtvp_dice_aggregated,
        "Dice(GTVn)": scores.gtvn_dice_aggregated,
        "F1(GTVn)": scores.gtvn_f1_aggregated,
    }


def measure_hpv(results: Results) -> Measured:
    """Table 2's columns, and balanced accuracy."""
    scores, positive = score(results), results.hpv_positive == 1
    negative = results.hpv_positive == 0
    return {
        "AUC": scores.hpv_auc,
        "sensitivity": float((results.hpv_decision[positive] == 1).mean()) if positive.any() else math.nan,
        "specificity": float((results.hpv_decision[negative] == 0).mean()) if negative.any() else math.nan,
        "balanced accuracy": scores.hpv_balanced_accuracy,
    }


def measure_survival(results: Results) -> Measured:
    """Table 3's column."""
    return {"C-index": score(results).c_index}


def write_table(
    methods: Sequence[Method], comparisons: Sequence[Comparison], folds: NDArray[np.intp], measure: Measure
) -> list[str]:
    """Write one table, and the paired differences under it, as lines of Markdown.

    Args:
        methods: The methods, all on the same patients.
        comparisons: Pairs of methods to compare, by name; those of a method that is not there are left out.
        folds: Fold of each patient.
        measure: Function that gives the columns.
    """
    columns = list(measure(methods[0].results))
    lines = ["| method | " + " | ".join(f"{name}, folds | {name}, pooled" for name in columns) + " | paper |"]
    lines.append("|---|" + "---|" * (2 * len(columns) + 1))
    for method in methods:
        by_fold = [measure(method.results.take(folds == fold)) for fold in np.unique(folds)]
        pooled = measure(method.results)
        drawn = [measure(method.results.take(chosen)) for chosen in resamples(len(folds), RESAMPLES)]
        cells = []
        for name in columns:
            cells.append(mean_and_sd([each[name] for each in by_fold]))
            cells.append(with_interval(pooled[name], interval([each[name] for each in drawn])))
        lines.append(f"| {method.name} | {' | '.join(cells)} | {method.paper} |")
    by_name = {method.name: method.results for method in methods}
    there = [each for each in comparisons if each.ours in by_name and each.theirs in by_name]
    if there:
        lines += ["", "| paired difference, pooled | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    for each in there:
        ours, theirs = by_name[each.ours], by_name[each.theirs]
        value = _subtract(measure(ours), measure(theirs))
        drawn = [
            _subtract(measure(ours.take(chosen)), measure(theirs.take(chosen)))
            for chosen in resamples(len(folds), RESAMPLES)
        ]
        cells = [with_interval(value[name], interval([less[name] for less in drawn]), "+") for name in columns]
        lines.append(f"| {each.ours} less {each.theirs} | {' | '.join(cells)} |")
    return lines


def mean_and_sd(values: Sequence[float]) -> str:
    """Write mean and SD over the folds; folds where a metric is undefined are said to be left out."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return "undefined in every fold"
    spread = f" ± {np.std(known, ddof=1):.3f}" if len(known) > 1 else ""
    missing = len(values) - len(known)
    return f"{np.mean(known):.3f}{spread}" + (f" (undefined in {missing} of {len(values)} folds)" if missing else "")


def _subtract(ours: Measured, theirs: Measured) -> Measured:
    return {name: ours[name] - theirs[name] for name in ours}


@dataclass(frozen=True)
class _ScoreThreshold:
    workspace: Workspace

    def __call__(self, patient_id: str) -> tuple[float, ...]:
        case = self.workspace.source.read_case(patient_id)
        assert case.reference is not None
        hot = threshold_mask(case.pet, case.ct.grid, self.workspace.store.describe(patient_id).roi)
        found = np.where(hot, np.uint8(Label.GTVP), np.uint8(Label.BACKGROUND))
        return score_mask(case.reference.voxels, found, case.ct.grid.spacing_xyz)


def segmentation_table(
    workspace: Workspace, scheme: Scheme, engine: Engine, ours: Mapping[str, Sequence[float]], threshold: bool
) -> list[str]:
    """Table 1: how well primaries and nodes are found; `ours` are the run's own masks, scored."""
    patients = [p for p in workspace.patients if workspace.store.describe(p.patient_id).has_labels]
    methods = [Method("ODA", make_results(patients, ours), "0.816 / - / 0.821 / 0.839")]
    variant, dice_only = replace(workspace, variant=DICE_ONLY), "Dice-only"
    start = workspace.read(StartRecord)
    if start.cohorts:  # with networks that another ensemble had trained with ODA
        steps = workspace.profile.training.segmentation.steps
        dice_only += f" in the last {steps - start.step} of {steps} steps"
    if all(variant.probability_file(scheme, p.patient_id).is_file() for p in patients):
        results = make_results(patients, score_masks(variant, scheme, engine))
        methods.insert(0, Method(dice_only, results, "0.764 / - / 0.662 / 0.716"))
    if threshold:
        ids = [p.patient_id for p in patients]
        scores = engine.map("scoring the fixed threshold", _ScoreThreshold(workspace), ids, item_gib=IMAGES_GIB)
        methods.insert(0, Method("41% of SUVmax", make_results(patients, dict(zip(ids, scores, strict=True)))))
    comparisons = [Comparison("ODA", dice_only), Comparison("ODA", "41% of SUVmax")]
    return write_table(methods, comparisons, _folds(workspace, scheme, patients), measure_masks)


def hpv_methods(workspace: Workspace, scheme: Scheme, baselines: Mapping[str, Values]) -> list[Method]:
    """Give Table 2's rows: scores of HPV status, each with decisions whose thresholds come from the other folds."""
    patients, record = with_status(workspace.patients), workspace.read(HpvRecord)
    scores = {"Deep-only": standardize(workspace.splits, record.logits)[scheme]}
    if scheme is Scheme.PATIENT and workspace.has(ScratchRecord):
        scratch: OutOfFold = {scheme: workspace.read(ScratchRecord).logits}
        scores["Deep-only, from scratch"] = standardize(workspace.splits, scratch)[scheme]
    scores |= baselines
    scores["Deep+Rad+Clin"] = record.probability[scheme]
    paper = {"Deep-only": "0.954 / 0.986 / 0.534 / 0.760", "Deep+Rad+Clin": "0.960 / 0.980 / 0.767 / 0.873"}
    methods = [
        Method(
            name,
            make_results(patients, probability=values, decision=decide(workspace, scheme, values)),
            paper.get(name, "") if scheme is Scheme.PATIENT else "",
        )
        for name, values in scores.items()
    ]
    if is_phantom(workspace.cohort):
        ratio = oracle_hpv(workspace)
        decision = {name: float(value > 0) for name, value in ratio.items()}
        methods.append(Method("Oracle", make_results(patients, probability=ratio, decision=decision)))
    return methods


def survival_methods(workspace: Workspace, scheme: Scheme, baselines: Mapping[str, Values]) -> list[Method]:
    """Give Table 3's rows: risk scores, higher is worse."""
    patients, record = with_rfs(workspace.patients), workspace.read(SurvivalRecord)
    risks = {"Deep-only": _negative(standardize(workspace.splits, record.expected_days)[scheme])}
    if scheme is Scheme.PATIENT and workspace.has(ScratchRecord):
        scratch: OutOfFold = {scheme: workspace.read(ScratchRecord).expected_days}
        risks["Deep-only, from scratch"] = _negative(standardize(workspace.splits, scratch)[scheme])
    risks |= baselines
    risks["CoxPH integration"] = record.risk[scheme]
    if is_phantom(workspace.cohort):
        risks["Oracle"] = oracle_risk(workspace)
    paper = {"Deep-only": "0.697", "CoxPH integration": "0.711"} if scheme is Scheme.PATIENT else {}
    return [Method(name, make_results(patients, risk=values), paper.get(name, "")) for name, values in risks.items()]


def _negative(values: Values) -> Values:
    return {name: -value for name, value in values.items()}


def oracle_hpv(workspace: Workspace) -> Values:
    """Look up the best possible HPV score of each synthetic patient."""
    from mmpl.phantom.oracle import hpv_log_likelihood_ratio

    return {p.patient_id: hpv_log_likelihood_ratio(p) for p in workspace.latent}


def oracle_risk(workspace: Workspace) -> Values:
    """Look up the latent log hazard of each synthetic patient."""
    return {p.patient_id: p.log_hazard for p in workspace.latent}


def _folds(workspace: Workspace, scheme: Scheme, patients: Sequence[Patient]) -> NDArray[np.intp]:
    return np.array([workspace.splits.fold_of[scheme][p.patient_id] for p in patients])


KNOWN_HPV, NO_HPV = "CoxPH integration, known HPV status", "CoxPH integration, no HPV status"
HPV_COMPARISONS = (
    Comparison("Deep+Rad+Clin", "Deep-only"),
    Comparison("Deep+Rad+Clin", "Clinical-only"),
    Comparison("Deep+Rad+Clin", "Radiomics-only"),
    Comparison("Deep-only", "Deep-only, from scratch"),
)
SURVIVAL_COMPARISONS = (
    Comparison("CoxPH integration", "Deep-only"),
    Comparison("CoxPH integration", "Clinical-only"),
    Comparison("CoxPH integration", "Radiomics-only"),
    Comparison(KNOWN_HPV, "CoxPH integration"),
    Comparison("CoxPH integration", NO_HPV),
    Comparison("Deep-only", "Deep-only, from scratch"),
)
SCHEME_TITLE = {Scheme.PATIENT: "patient-level folds", Scheme.CENTER: "center-out folds"}


def main(run: RunFolder, out: Path, threshold: bool = False, workers: Workers = 0, scheduler: Scheduler = None) -> None:
    """Write RESULTS.md and figures of the run in RUN to OUT; --threshold scores the fixed threshold, too."""
    workspace, engine = Workspace.open(run), Engine(workers, scheduler)
    out.mkdir(parents=True, exist_ok=True)
    cohort = Path(workspace.cohort).name
    lines = [f"# Out-of-fold results: {cohort}, profile {workspace.profile.name}", "", INTRODUCTION]
    drawn: tuple[dict[str, Results], tuple[NDArray, NDArray]] | None = None
    known, followed = with_status(workspace.patients), with_rfs(workspace.patients)
    for scheme in workspace.splits.schemes:
        members = [member for member in workspace.splits.members if member.scheme is scheme]
        lines += [f"## {len(members)} {SCHEME_TITLE[scheme]}", "", "### Segmentation (the paper's Table 1)", ""]
        masks = score_masks(workspace, scheme, engine)
        lines += [*segmentation_table(workspace, scheme, engine, masks, threshold), ""]
        if not (workspace.has(HpvRecord) or workspace.has(SurvivalRecord)):
            continue
        parts = {"Clinical-only": Baseline(workspace, False, True), "Radiomics-only": Baseline(workspace, True, False)}
        hpv: dict[str, dict[str, float]] = {name: {} for name in parts}
        risk: dict[str, dict[str, float]] = {name: {} for name in parts}
        for name, baseline in parts.items():
            for probabilities, risks in engine.map(f"{name}, {scheme}", baseline, members):
                hpv[name] |= probabilities
                risk[name] |= risks
        methods = list[Method]()
        if workspace.has(HpvRecord):
            methods, folds = hpv_methods(workspace, scheme, hpv), _folds(workspace, scheme, known)
            lines += ["### HPV status (Table 2)", ""]
            lines += [*write_table(methods, HPV_COMPARISONS, folds, measure_hpv), ""]
        if workspace.has(SurvivalRecord):
            if workspace.has(HpvRecord):
                for name, scorer in ((NO_HPV, NoHpv(workspace)), (KNOWN_HPV, RisksOfKnownStatus(workspace))):
                    tables = engine.map(f"{name}, {scheme}", scorer, members)
                    risk[name] = by_scheme(members, tables)[scheme]
            outcomes, folds = survival_methods(workspace, scheme, risk), _folds(workspace, scheme, followed)
            lines += ["### Recurrence-free survival (Table 3)", ""]
            lines += [*write_table(outcomes, SURVIVAL_COMPARISONS, folds, measure_survival), ""]
        if scheme is Scheme.PATIENT and workspace.has(HpvRecord) and workspace.has(SurvivalRecord):
            drawn = {m.name: m.results for m in methods}, figures.volumes_and_dice(workspace, masks)
    if calibration := calibration_tables(workspace):
        lines += ["## Calibration of the whole ensemble", "", CALIBRATION, *calibration]
    if drawn:
        rocs, dice = drawn
        figures.draw(out / "figures.png", rocs, out_of_fold_results(workspace), dice)
        lines += ["## Figures", "", FIGURES, FIGURES_LINE, ""]
    with write_whole(out / "RESULTS.md") as partial:
        partial.write_text("\n".join(lines))
    typer.echo(f"wrote {out / 'RESULTS.md'}")


INTRODUCTION = """\
Each patient is scored by a model that never saw that patient. "Folds" is the mean and SD over the folds, as in the
paper; "pooled" is over all patients at once, with a 95% bootstrap interval. Masks are scored on the CT's own grid at an
untuned threshold of one half. Scores of networks and of Cox models are standardized within each fold, without a label,
before they are pooled. HPV decisions use a threshold chosen on the other folds' patients; the paper chooses it on the
fold that it reports. Cox models learn of HPV from known statuses, where there are any, and answer by predicted ones
(CoxPH integration), by known ones where there are any, or without any. Radiomics, and the crops of stages 2 and 3, rest
on one mask a patient, the mean of both schemes' out-of-fold masks; so in the center-out tables half of that mask comes
from a model that knows the center, though never from one that knows the patient. The paper's figures are of real
patients and stand beside for the sign of a difference, not for its size.
"""

CALIBRATION = """\
The mean of a patient's out-of-fold scores, one a scheme, calibrated on nine tenths of the patients and scored on the
last. An answer is the mean of ten models, not of two, so this is an approximation of it.
"""

FIGURES = """\
ROC and Dice are of the patient-level folds; the others are of the mean of a patient's out-of-fold scores, one a scheme,
calibrated as above. Dashed beside Kaplan-Meier's curves: the mean of the probabilities that were said.
"""
FIGURES_LINE = "![ROC, survival by risk, calibration, decision curves, Dice by volume](figures.png)"


if __name__ == "__main__":
    run_program(main)
