"""Stage 2: the ten HPV networks, then the ten forests on out-of-fold evidence: `python -m train.hpv RUN`."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import typer

from mmpl.case import Patient
from mmpl.clinical import ClinicalEncoder
from mmpl.hpv import Evidence, HpvModel, choose_threshold
from mmpl.labels import Stage
from mmpl.metrics import balanced_accuracy, roc_auc
from mmpl.radiomics import feature_names
from mmpl.weights import Scale
from train.losses import balanced_bce
from train.outcome import Scores, predict_fold, scale_by_scheme, train_outcome_network
from train.parallel import WORKERS, spread
from train.splits import MEMBERS, Member, Scheme
from train.workspace import Workspace


@dataclass(frozen=True)
class _TrainAndPredict:
    workspace: Workspace

    def __call__(self, member: Member) -> tuple[int, Scores]:
        workspace = self.workspace
        known = [p for p in workspace.splits.outside(member, workspace.patients) if p.outcome.hpv_positive is not None]
        prevalence = float(np.mean([p.outcome.hpv_positive for p in known])) if known else 0.0
        if not 0 < prevalence < 1:
            raise ValueError(f"{member.name}: its {len(known)} training patients with HPV status are all of one kind")
        transferred = train_outcome_network(
            workspace,
            member,
            Stage.HPV,
            workspace.profile.training.hpv,
            {p.patient_id: (np.array([p.outcome.hpv_positive], np.float32),) for p in known},
            partial(balanced_bce, prevalence=prevalence),
        )
        return transferred, predict_fold(workspace, member, Stage.HPV)


def make_evidence(
    workspace: Workspace, patients: list[Patient], scores: dict[str, float], scale: Scale, encoder: ClinicalEncoder
) -> Evidence:
    """Join deep score, radiomics and clinical record of patients."""
    return Evidence(
        deep_score=np.array([scale.standardize(scores[p.patient_id]) for p in patients]),
        radiomics=np.stack([workspace.radiomics(p.patient_id) for p in patients]),
        clinical=encoder.encode([p.clinical for p in patients]),
    )


@dataclass(frozen=True)
class _FitForest:
    """Fit one forest outside its fold, keep it, and give the probabilities of the patients inside."""

    workspace: Workspace
    scores: dict[Scheme, dict[str, float]]
    scales: dict[Scheme, Scale]

    def __call__(self, member: Member) -> dict[str, float]:
        workspace, scheme = self.workspace, member.scheme
        outside = workspace.splits.outside(member, workspace.patients)
        inside = workspace.splits.inside(member, workspace.patients)
        known = [p for p in outside if p.outcome.hpv_positive is not None]
        encoder = fit_encoder(workspace, member)
        evidence = partial(
            make_evidence, workspace, scores=self.scores[scheme], scale=self.scales[scheme], encoder=encoder
        )
        model = HpvModel.fit(
            evidence(known),
            np.array([p.outcome.hpv_positive for p in known]),
            radiomics_names=feature_names(),
            clinical_names=encoder.names,
            settings=workspace.profile.forest,
            seed=workspace.seed(member, Stage.HPV),
        )
        model.save(workspace.forest_file(member))
        probability = model.probability(evidence(inside))
        return {p.patient_id: float(value) for p, value in zip(inside, probability, strict=True)}


def fit_encoder(workspace: Workspace, member: Member) -> ClinicalEncoder:
    """Fit the clinical encoder of a model on the patients outside its fold."""
    return ClinicalEncoder.fit([p.clinical for p in workspace.splits.outside(member, workspace.patients)])


def by_scheme(tables: list[dict[str, float]]) -> dict[Scheme, dict[str, float]]:
    """Join the folds of each scheme, which come in the order of the members, into one out-of-fold table."""
    joined: dict[Scheme, dict[str, float]] = {scheme: {} for scheme in Scheme}
    for member, table in zip(MEMBERS, tables, strict=True):
        joined[member.scheme] |= table
    return joined


def main(run: Path, workers: int = WORKERS) -> None:
    """Train stage 2 of every model, fit the forests and choose the HPV threshold, all out of fold."""
    workspace = Workspace.open(run)
    trained = spread("stage 2", _TrainAndPredict(workspace), MEMBERS, workers)
    typer.echo(f"stage 2: {trained[0][0]} tensors of the backbone came from stage 1, none was left out")
    scores = by_scheme([{name: logits[0] for name, logits in table.items()} for _, table in trained])
    scales = scale_by_scheme(scores)
    workspace.write_json("hpv_scores", scores)
    probability = by_scheme(spread("forests", _FitForest(workspace, scores, scales), MEMBERS, workers))
    workspace.write_json("hpv_probability", probability)

    known = [p for p in workspace.patients if p.outcome.hpv_positive is not None]
    truth = np.array([p.outcome.hpv_positive for p in known])
    mean = np.array([np.mean([probability[scheme][p.patient_id] for scheme in Scheme]) for p in known])
    deep = np.array([np.mean([scales[s].standardize(scores[s][p.patient_id]) for s in Scheme]) for p in known])
    threshold = choose_threshold(mean, truth)
    summary = {
        "threshold": float(threshold),
        "auc": float(roc_auc(mean, truth)),
        "auc_deep_only": float(roc_auc(deep, truth)),
        "balanced_accuracy_at_the_chosen_threshold": float(balanced_accuracy(mean >= threshold, truth)),
    }
    workspace.write_json("hpv", summary)
    typer.echo(f"out of fold: {summary}")


if __name__ == "__main__":
    typer.run(main)
