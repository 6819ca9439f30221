"""What becomes of the HPV decision at centers nobody has seen: `python -m train.transfer PREDICTIONS COHORT RUN`.

Several ways to decide, all fixed without a label of the new centers, are compared on predictions for their patients, by
balanced accuracy and paired with a plain threshold of one half:

- `patient-level`, `center-out`, `both`: the threshold of best balanced accuracy on the training patients' out-of-fold
  probabilities, under one scheme or on the mean of the two (what the weights ship), for the mean of all models.
- `center-out models`: the center-out models alone, with the center-out threshold.
- `half`: one half, where a forest balanced by SMOTE puts even odds.
- `shrunk`: half way between `both` and one half.
- `prior-shift`: the prevalence of the new patients by expectation maximization on their probabilities (Saerens,
  Latinne and Decaestecker, 2002), and the more probable status under it. It needs many patients at once.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from mmpl.hpv import choose_threshold
from mmpl.io.cohort import read_cohort
from mmpl.metrics import balanced_accuracy, roc_auc
from mmpl.scoring import RESAMPLES, interval, resamples
from train.command import run_program
from train.splits import Scheme
from train.workspace import Workspace

Floats = NDArray[np.float64]


def estimate_prevalence(probability: Floats, balanced: float = 0.5, rounds: int = 500) -> float:
    """Estimate the share of positives among patients from probabilities of a model trained at another share.

    Args:
        probability: (n,) of being positive.
        balanced: The share at which the model was trained.
        rounds: Of expectation maximization.
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
    table = workspace.read_json("hpv_probability")
    known = [p for p in workspace.patients if p.outcome.hpv_positive is not None]
    truth = [bool(p.outcome.hpv_positive) for p in known]
    by_scheme = {scheme: np.array([table[scheme][p.patient_id] for p in known]) for scheme in Scheme}
    both = choose_threshold(np.mean(list(by_scheme.values()), axis=0), truth)
    return {
        "patient-level": choose_threshold(by_scheme[Scheme.PATIENT], truth),
        "center-out": choose_threshold(by_scheme[Scheme.CENTER], truth),
        "both": both,
        "shrunk": (both + 0.5) / 2,
        "half": 0.5,
    }


def decide(by_model: Mapping[str, Floats], thresholds: Mapping[str, float]) -> dict[str, NDArray[np.bool_]]:
    """Decide on every patient in every way; probabilities of each model go in."""
    mean = np.mean(list(by_model.values()), axis=0)
    decisions = {name: mean >= threshold for name, threshold in thresholds.items()}
    center_out = [values for name, values in by_model.items() if name.startswith(Scheme.CENTER)]
    decisions["center-out models"] = np.mean(center_out, axis=0) >= thresholds["center-out"]
    decisions["prior-shift"] = at_prevalence(mean, estimate_prevalence(mean)) >= 0.5
    return decisions


def main(predictions: Path, cohort: Path, run: Path) -> None:
    """Compare the decisions on COHORT, by the reports in PREDICTIONS, with thresholds from the training in RUN."""
    known = [p for p in read_cohort(cohort).patients if p.outcome.hpv_positive is not None]
    truth = np.array([bool(p.outcome.hpv_positive) for p in known])
    reports = [json.loads((predictions / f"{p.patient_id}.json").read_text()) for p in known]
    models = reports[0]["models"]
    by_model = dict(zip(models, np.array([r["hpv"]["by_model"] for r in reports]).T, strict=True))
    chosen = thresholds(Workspace.open(run))
    decisions = decide(by_model, chosen)
    mean = np.mean(list(by_model.values()), axis=0)

    table = Table(title=f"{len(known)} patients, {truth.sum()} HPV-positive", title_justify="left")
    for heading in ("decision", "threshold", "sensitivity", "specificity", "balanced accuracy", "less one half"):
        table.add_column(heading, justify="left" if heading == "decision" else "right")
    for name, positive in decisions.items():
        drawn = [
            balanced_accuracy(positive[i], truth[i]) - balanced_accuracy(decisions["half"][i], truth[i])
            for i in resamples(len(known), RESAMPLES)
        ]
        low, high = interval(drawn)
        accuracy = balanced_accuracy(positive, truth)
        difference = accuracy - balanced_accuracy(decisions["half"], truth)
        table.add_row(
            name,
            f"{chosen[name]:.3f}" if name in chosen else "",
            f"{positive[truth].mean():.3f}",
            f"{1 - positive[~truth].mean():.3f}",
            f"{accuracy:.3f}",
            f"{difference:+.3f} [{low:+.3f}, {high:+.3f}]",
        )
    console = Console()
    console.print(table)
    console.print(
        f"AUC {roc_auc(mean, truth):.3f}; estimated prevalence {estimate_prevalence(mean):.2f}, true {truth.mean():.2f}"
    )


if __name__ == "__main__":
    run_program(main)
