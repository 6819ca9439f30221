"""What an ensemble keeps of its training patients, by their out-of-fold values, for others to be compared with."""

import logging

import numpy as np
from numpy.typing import NDArray

from mmpl.evidence import ABSENT, DEEP_SCORE, EXPECTED_DAYS_SCORE, HPV_PROBABILITY, FeatureTable, Floats
from mmpl.files import read_json
from mmpl.hpv import HpvModel
from mmpl.names import Stage
from mmpl.reference import PERCENTS, PatchDistance, Reference, describe_patch
from mmpl.schema import ContinuousField
from mmpl.training.outcome_network import mean_over_schemes, standardize
from mmpl.training.records import HpvRecord, SurvivalRecord
from mmpl.training.workspace import Workspace
from mmpl.weights import FOREST_FILE, TABLES_FILE, SurvivalTables, have_networks

PARTS = 10
"""Parts that the training patients are dealt into, each measured by the others."""
BEYOND = 0.01
"""Share of the training patients who lie further out than the limit."""
SMALLEST_SD = 0.01
"""Floor of the SD of a number of `describe_patch`, of a CT's intensities 10 HU: what all training patients share to the
last bit, as the value of the air around them, must not make everybody else unlike them."""
LEAST_PATIENTS = 100
"""Fewer say nothing of where the limit is."""

log = logging.getLogger(__name__)


def make_reference(workspace: Workspace) -> Reference:
    """Measure a finished run's patients; of images, those whose patches are still there."""
    percentiles = {}
    for name, values in _columns(workspace).items():
        known = values[np.isfinite(values)]
        if len(known) and name not in ABSENT:
            percentiles[name] = tuple(np.percentile(known, PERCENTS).tolist())
    if not have_networks(workspace.settings.stages):
        return Reference(percentiles)
    prepared = [p.patient_id for p in workspace.patients if workspace.store.has(p.patient_id)]
    patches = [describe_patch(workspace.store.images(name)) for name in prepared]
    if len(patches) < LEAST_PATIENTS:
        log.warning("unlike training: not told by %d patients, %d are needed", len(patches), LEAST_PATIENTS)
        return Reference(percentiles)
    return Reference(percentiles, fit_distance(np.array(patches), workspace.profile.training.seed))


def fit_distance(patches: Floats, seed: int) -> PatchDistance:
    """Fit the distance of `describe_patch`'s values (n, d) of the training patients; its covariance is shrunk."""
    from sklearn.model_selection import KFold

    away = np.empty(len(patches))
    for others, part in KFold(PARTS, shuffle=True, random_state=seed).split(patches):
        mean, precision = _mean_and_precision(patches[others])
        apart = patches[part] - mean
        away[part] = np.sqrt(np.einsum("ni,ij,nj->n", apart, precision, apart))
    mean, precision = _mean_and_precision(patches)
    rows = tuple(map(tuple, precision.tolist()))
    return PatchDistance(tuple(mean.tolist()), rows, float(np.quantile(away, 1 - BEYOND)))


def _mean_and_precision(values: Floats) -> tuple[Floats, Floats]:
    from sklearn.covariance import LedoitWolf

    mean, scale = values.mean(axis=0), np.maximum(values.std(axis=0), SMALLEST_SD)
    covariance = LedoitWolf().fit((values - mean) / scale).covariance_
    np.fill_diagonal(covariance, np.maximum(covariance.diagonal(), 1))  # lower where the floor is
    return mean, np.linalg.inv(covariance) / np.outer(scale, scale)


def _columns(workspace: Workspace) -> dict[str, NDArray[np.float64]]:
    """Give each column that a forest or a Cox model reads, out of fold, and each numeric clinical field: (n,)."""
    patients, stages, splits = workspace.patients, workspace.settings.stages, workspace.splits
    columns, read = dict[str, NDArray[np.float64]](), set[str]()
    if Stage.HPV in stages:
        hpv = workspace.read(HpvRecord)
        if hpv.logits:
            columns[DEEP_SCORE] = mean_over_schemes(standardize(splits, hpv.logits), patients)
        columns[HPV_PROBABILITY] = mean_over_schemes(hpv.probability, patients)
        for member in splits.members:
            read.update(HpvModel.load(workspace.member_file(member, FOREST_FILE)).names)
    if Stage.SURVIVAL in stages:
        if days := workspace.read(SurvivalRecord).expected_days:
            columns[EXPECTED_DAYS_SCORE] = mean_over_schemes(standardize(splits, days), patients)
        for member in splits.members:
            tables = read_json(workspace.member_file(member, TABLES_FILE[Stage.SURVIVAL]), SurvivalTables)
            read.update(covariate.name for covariate in tables.cox.covariates)
    if read:
        measured = FeatureTable.join(workspace.radiomics(patients), *filter(None, [workspace.dose(patients)]))
        names = sorted(read & set(measured.names))
        columns |= dict(zip(names, measured.read(names).T, strict=True))
    if columns:
        for each in workspace.profile.clinical.fields:
            if isinstance(each, ContinuousField):
                known = [p.clinical.values.get(each.name) for p in patients]
                columns[each.name] = np.array([np.nan if value is None else float(value) for value in known])
    return columns
