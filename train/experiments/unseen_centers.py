"""Ways to answer at centers nobody has seen: `python -m train.experiments.unseen_centers PREDICTIONS COHORT RUN`.

Several ways to decide, all fixed without a label of the new centers, are compared on predictions for their patients, by
balanced accuracy and paired with a plain threshold of one half:

- `patient-level`, `center-out`, `both`: the threshold that the training patients' out-of-fold probabilities give, under
  one scheme or on the mean of the two (what the weights ship), for the mean of all models.
- `patient-level models`, `center-out models`: the models of one scheme alone, with its threshold.
- `half`: one half, where a forest balanced by SMOTE puts even odds.
- `shrunk`: half way between `both` and one half.
- `prior-shift`: the prevalence of the new patients by expectation maximization on their probabilities (Saerens,
  Latinne and Decaestecker, 2002), and the more probable status under it. It needs many patients at once.

So are ways to rank by risk, by C-index: the mean of all models' standardized log hazards (what the weights ship), of
the log hazards as they are, and of the standardized ones of one scheme's models. Last, the center-out models' HPV
probabilities and risks less the patient-level ones', by AUC and C-index.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from mmpl.case import Patient
from mmpl.evidence import Scale
from mmpl.files import read_json
from mmpl.io.cohort import read_cohort
from mmpl.metrics import balanced_accuracy, c_index, roc_auc
from mmpl.names import Stage
from mmpl.training.command import RunFolder, run_program
from mmpl.training.forest import choose_threshold
from mmpl.training.hpv import with_status
from mmpl.training.records import HpvRecord
from mmpl.training.splits import Scheme
from mmpl.training.survival import times_and_events, with_rfs
from mmpl.training.workspace import Workspace
from mmpl.weights import TABLES_FILE, SurvivalTables
from train.experiments.results import paired_difference, with_interval

Floats = NDArray[np.float64]
_NAMES = {Scheme.PATIENT: "patient-level", Scheme.CENTER: "center-out"}


def estimate_prevalence(probability: Floats, balanced: float = 0.5, rounds: int = 500) -> float:
    """Estimate the share of positives among patients from probabilities of a model trained at another share.

    Args:
        probability: (n,) probabilities of being positive.
        balanced: The share at which the model was trained.
        rounds: Number of rounds of expectation maximization.
    """
    share = balanced
    for _ in range(rounds):
        share = float(at_prevalence(probability, share, balanced).mean())
    return share


def at_prevalence(probability: Floats, share: float, balanced: float = 0.5) -> Floats:
    """Move probabilities of a model trained at one share of positives to another share."""
    positive, negative = probability * share / balanced, (1 - probability) * (1 - share) / (1 - balanced)
    return positive / (positive + negative)


def thresholds(workspace: Workspace) -> dict[str, float]:
    """Choose the thresholds that the training patients' out-of-fold probabilities suggest."""
    table = workspace.read(HpvRecord).probability
    if set(workspace.splits.schemes) != set(Scheme):
        raise ValueError(f"{workspace.folder} has no center-out models to compare with")
    known = with_status(workspace.patients)
    truth = [bool(p.outcome.hpv_positive) for p in known]
    by_scheme = {scheme: np.array([table[scheme][p.patient_id] for p in known]) for scheme in Scheme}
    both = choose_threshold(np.mean(list(by_scheme.values()), axis=0), truth)
    return {
        **{_NAMES[scheme]: choose_threshold(values, truth) for scheme, values in by_scheme.items()},
        "both": both,
        "shrunk": (both + 0.5) / 2,
        "half": 0.5,
    }


def decide(by_model: Mapping[str, Floats], thresholds: Mapping[str, float]) -> dict[str, NDArray[np.bool_]]:
    """Decide on every patient in every way; probabilities of each model go in."""
    mean = np.mean(list(by_model.values()), axis=0)
    decisions = {name: mean >= threshold for name, threshold in thresholds.items()}
    for scheme, name in _NAMES.items():
        decisions[f"{name} models"] = mean_of(scheme, by_model) >= thresholds[name]
    decisions["prior-shift"] = at_prevalence(mean, estimate_prevalence(mean)) >= 0.5
    return decisions


def rank(by_model: Mapping[str, Floats], scales: Mapping[str, Scale]) -> dict[str, Floats]:
    """Rank patients by risk in every way; each model's standardized risks, and the scales that made them, go in."""
    hazards = [values * scales[name].sd + scales[name].mean for name, values in by_model.items()]
    return {
        "standardized": np.mean(list(by_model.values()), axis=0),
        "log hazards": np.mean(hazards, axis=0),
        **{f"{name} models": mean_of(scheme, by_model) for scheme, name in _NAMES.items()},
    }


def mean_of(scheme: Scheme, by_model: Mapping[str, Floats]) -> Floats:
    """Give each patient's mean over the models of one scheme."""
    return np.mean([values for name, values in by_model.items() if name.startswith(scheme)], axis=0)


def main(predictions: Path, cohort: Path, run: RunFolder) -> None:
    """Compare the decisions and rankings on COHORT, by the reports in PREDICTIONS, with the training in RUN."""
    workspace = Workspace.open(run)
    patients = read_cohort(cohort, workspace.profile.clinical).patients
    reports = {p.patient_id: json.loads((predictions / f"{p.patient_id}.json").read_text()) for p in patients}
    console = Console()

    def by_model(answer: str, chosen: Sequence[Patient]) -> dict[str, Floats]:
        models = reports[chosen[0].patient_id]["models"]
        rows = np.array([reports[p.patient_id][answer]["by_model"] for p in chosen])
        return dict(zip(models, rows.T, strict=True))

    known = with_status(patients)
    status = np.array([bool(p.outcome.hpv_positive) for p in known])
    probabilities, chosen = by_model("hpv", known), thresholds(workspace)
    decisions = decide(probabilities, chosen)
    table = _table(f"{len(known)} patients, {status.sum()} HPV-positive", "decision", "balanced accuracy", "half")
    for heading in ("threshold", "sensitivity", "specificity"):
        table.add_column(heading, justify="right")
    for name, positive in decisions.items():
        cells = _compare(balanced_accuracy, positive, decisions["half"], status)
        rates = f"{positive[status].mean():.3f}", f"{1 - positive[~status].mean():.3f}"
        table.add_row(name, *cells, f"{chosen[name]:.3f}" if name in chosen else "", *rates)
    console.print(table)
    mean = np.mean(list(probabilities.values()), axis=0)
    shares = f"estimated prevalence {estimate_prevalence(mean):.2f}, true {status.mean():.2f}"
    console.print(f"AUC {roc_auc(mean, status):.3f}; {shares}")

    followed = with_rfs(patients)
    days, relapse = times_and_events(followed)
    scales = {}
    for member in workspace.splits.members:
        tables = read_json(workspace.member_file(member, TABLES_FILE[Stage.SURVIVAL]), SurvivalTables)
        scales[member.name] = tables.risk_scale
    risks = by_model("risk", followed)
    rankings = rank(risks, scales)
    table = _table(f"{len(followed)} patients, {relapse.sum()} relapses", "mean of", "C-index", "standardized")
    for name, risk in rankings.items():
        table.add_row(name, *_compare(c_index, risk, rankings["standardized"], days, relapse))
    console.print(table)

    table = _table("the two schemes' models", "metric", "center-out", "patient-level")
    for label, metric, values, *truth in (
        ("HPV AUC", roc_auc, probabilities, status),
        ("C-index", c_index, risks, days, relapse),
    ):
        one, other = mean_of(Scheme.CENTER, values), mean_of(Scheme.PATIENT, values)
        table.add_row(label, *_compare(metric, one, other, *truth))
    console.print(table)


def _table(title: str, way: str, metric: str, reference: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(way)
    table.add_column(metric, justify="right")
    table.add_column(f"less {reference}", justify="right")
    return table


def _compare(metric: Callable[..., float], ours: NDArray, reference: NDArray, *truth: NDArray) -> tuple[str, str]:
    """Write a metric, and by how much it differs from the reference's, patient by patient."""
    return f"{metric(ours, *truth):.3f}", with_interval(*paired_difference(metric, ours, reference, *truth), sign="+")


if __name__ == "__main__":
    run_program(main)
