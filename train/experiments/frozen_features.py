"""What heads on frozen features of stage 1 say: `python -m train.experiments.frozen_features RUN`.

Stages 2 and 3 train a whole network each and pool its decoder's features over the whole crop. Here the networks of
stage 1 stay as they are, the decoder's features of each scale are averaged over the crop or over the out-of-fold mask
in it, and a logistic regression (HPV) and a Cox model (recurrence), both with a ridge penalty, are fitted to them on
each model's training patients and score the patients of its fold. Each score is compared with that of the trained
networks, and its mean with the score of the forest or the Cox model with that one alone; the scores of all models are
standardized within the fold. The paired differences have 95% bootstrap intervals over patients.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional

from mmpl.case import Patient
from mmpl.evidence import Floats
from mmpl.metrics import c_index, roc_auc
from mmpl.names import Stage
from mmpl.processor import use_cores
from mmpl.segmentation import crop_around
from mmpl.training.command import RunFolder, Workers, need, run_program
from mmpl.training.hpv import with_status
from mmpl.training.memory import predicting_gib
from mmpl.training.outcome_network import mean_over_schemes, standardize
from mmpl.training.parallel import Engine
from mmpl.training.records import HpvRecord, OutOfFold, SurvivalRecord
from mmpl.training.segmentation import out_of_fold_probability
from mmpl.training.splits import Member
from mmpl.training.survival import times_and_events, with_rfs
from mmpl.training.workspace import Workspace
from mmpl.weights import read_network
from train.experiments.results import paired_difference, with_interval

POOLED = ("crop", "mask")
RIDGE = np.logspace(-4, 0, 5)
"""Inverse penalties of the logistic regression, of which cross-validation takes one."""
COX_RIDGE = (0.01, 0.1, 1.0)
"""Penalties of the Cox model, likewise."""
PARTS = 5


def pool_over(features: Sequence[Tensor], mask: Tensor) -> Floats:
    """Average features over a mask, brought to each scale; over everything where it is empty there.

    Args:
        features: (1, channels, z, y, x) of each scale.
        mask: (1, 1, z, y, x) at full resolution, 0 to 1.

    Returns:
        (channels of all scales,).
    """
    means = []
    for feature in features:
        z, y, x = feature.shape[2:]
        weight = functional.adaptive_avg_pool3d(mask, (z, y, x))
        if not weight.any():
            weight = torch.ones_like(weight)
        means.append(((feature * weight).sum(dim=(0, 2, 3, 4)) / weight.sum()).double().numpy())
    return np.concatenate(means)


@dataclass(frozen=True)
class _Extract:
    """The features of every patient by one model's network of stage 1."""

    workspace: Workspace

    def __call__(self, member: Member) -> dict[str, dict[str, Floats]]:
        use_cores(1)
        workspace, size = self.workspace, self.workspace.profile.inference.lesion_crop_xyz
        path = workspace.network_file(member, Stage.SEGMENTATION)
        backbone = read_network(path, workspace.profile, Stage.SEGMENTATION).backbone
        limits = np.array([workspace.segmentation.thresholds.gtvp, workspace.segmentation.thresholds.gtvn])
        found: dict[str, dict[str, Floats]] = {name: {} for name in POOLED}
        for patient in workspace.patients:
            name = patient.patient_id
            center = np.array(workspace.segmentation.lesion_centers_xyz[name])
            crop = crop_around(workspace.store.images(name), center, size).astype(np.float32)
            probability = out_of_fold_probability(workspace, name)
            lesion = np.any(probability >= limits[:, None, None, None], axis=0)[None]
            mask = torch.from_numpy(np.ascontiguousarray(crop_around(lesion, center, size), np.float32))[None]
            with torch.inference_mode():
                features = backbone(torch.from_numpy(np.ascontiguousarray(crop))[None])
                found["crop"][name] = pool_over(features, torch.ones_like(mask))
                found["mask"][name] = pool_over(features, mask)
        return found


def fit_logistic(features: Floats, positive: NDArray[np.bool_], seed: int) -> Callable[[Floats], Floats]:
    """Fit a balanced logistic regression with a ridge penalty; a function from features to logits."""
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.model_selection import StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    parts = StratifiedKFold(PARTS, shuffle=True, random_state=seed)
    model = LogisticRegressionCV(
        Cs=RIDGE, cv=parts, scoring="roc_auc", class_weight="balanced", max_iter=2000, l1_ratios=(0.0,)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of its own attributes' shapes
        pipeline = make_pipeline(StandardScaler(), model).fit(features, positive)
    return lambda seen: np.asarray(pipeline.decision_function(seen), float)


def fit_ridge_cox(features: Floats, days: Floats, relapse: NDArray[np.bool_], seed: int) -> Callable[[Floats], Floats]:
    """Fit a Cox model with a ridge penalty; a function from features to log hazards."""
    import pandas
    from lifelines import CoxPHFitter
    from lifelines.utils import k_fold_cross_validation

    mean, sd = features.mean(axis=0), features.std(axis=0) + 1e-9

    def table(seen: Floats) -> pandas.DataFrame:
        return pandas.DataFrame((seen - mean) / sd).add_prefix("f")

    rows = table(features).assign(days=np.maximum(days, 0.5), relapse=relapse)
    fitters = [CoxPHFitter(penalizer=penalty) for penalty in COX_RIDGE]
    scores = k_fold_cross_validation(
        fitters, rows, "days", "relapse", k=PARTS, scoring_method="concordance_index", seed=seed
    )
    best = CoxPHFitter(penalizer=COX_RIDGE[int(np.argmax(np.mean(scores, axis=1)))]).fit(rows, "days", "relapse")
    return lambda seen: np.log(best.predict_partial_hazard(table(seen)).to_numpy(float))


def score_folds(
    workspace: Workspace, features: Mapping[Member, Mapping[str, Floats]], patients: Sequence[Patient], stage: Stage
) -> OutOfFold:
    """Fit each model's head outside its fold and score the patients inside: a higher score is likelier positive, or a
    higher risk."""
    scores: OutOfFold = {}
    for member, table in features.items():
        training, inside = (part(member, patients) for part in (workspace.splits.training, workspace.splits.held_out))
        seen, new = (np.array([table[p.patient_id] for p in part]) for part in (training, inside))
        seed = workspace.seed(member, stage) % 2**32
        if stage is Stage.HPV:
            head = fit_logistic(seen, np.array([bool(p.outcome.hpv_positive) for p in training]), seed)
        else:
            head = fit_ridge_cox(seen, *times_and_events(training), seed)
        named = zip([p.patient_id for p in inside], head(new).tolist(), strict=True)
        scores.setdefault(member.scheme, {}).update(named)
    return standardize(workspace.splits, scores)


@dataclass(frozen=True)
class _Scored:
    """What a stage's networks and forests or Cox models say of patients out of fold, higher for what is predicted.

    Attributes:
        metric: Function of scores and of each part of the truth.
    """

    stage: Stage
    patients: list[Patient]
    metric: Callable[..., float]
    truth: tuple[NDArray, ...]
    networks: OutOfFold
    integrated: OutOfFold


def main(run: RunFolder, workers: Workers = 0) -> None:
    """Compare heads on frozen features with a finished run's networks, forests and Cox models, out of fold."""
    need("sklearn", "lifelines")
    workspace, engine = Workspace.open(run), Engine(workers)
    members, hpv, survival = workspace.splits.members, workspace.read(HpvRecord), workspace.read(SurvivalRecord)
    needed = predicting_gib(workspace.profile)
    extracted = engine.map("features", _Extract(workspace), members, networks=True, item_gib=needed)
    splits, console = workspace.splits, Console(width=140)
    known, followed = with_status(workspace.patients), with_rfs(workspace.patients)
    status = np.array([bool(p.outcome.hpv_positive) for p in known])
    flipped = {
        scheme: {name: -days for name, days in table.items()} for scheme, table in survival.expected_days.items()
    }
    for each in (
        _Scored(Stage.HPV, known, roc_auc, (status,), hpv.logits, hpv.probability),
        _Scored(Stage.SURVIVAL, followed, c_index, times_and_events(followed), flipped, survival.risk),
    ):
        table = Table(title=f"{each.stage}: {len(each.patients)} patients", title_justify="left")
        for heading in ("score", "value", "less networks", "less integration"):
            table.add_column(heading)
        deep = mean_over_schemes(standardize(splits, each.networks), each.patients)
        whole = mean_over_schemes(standardize(splits, each.integrated), each.patients)
        rows = {"networks": deep, "integration": whole, "networks and integration": deep + whole}
        for pooled in POOLED:
            features = {member: found[pooled] for member, found in zip(members, extracted, strict=True)}
            ours = mean_over_schemes(score_folds(workspace, features, each.patients, each.stage), each.patients)
            rows |= {f"frozen, {pooled}": ours, f"frozen, {pooled}, and integration": ours + whole}
        for name, ours in rows.items():
            differences = [paired_difference(each.metric, ours, other, *each.truth) for other in (deep, whole)]
            less = [with_interval(*difference, sign="+") for difference in differences]
            table.add_row(name, f"{each.metric(ours, *each.truth):.3f}", *less)
        console.print(table)


if __name__ == "__main__":
    run_program(main)
