"""Measure how hard both versions of the synthetic cohort are: `python -m train.experiments.difficulty 200 5`.

On 20,000 draws without images: how far the oracle comes, the clinical record alone, images alone and every variable
alone. On images: a fixed threshold must not find the primary, and every planted imaging variable must show in some
radiomics feature on the true mask. `train/LOG.md` keeps what was found.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from mmpl.evidence import FeatureTable
from mmpl.metrics import dice
from mmpl.names import Label
from mmpl.phantom.latent import LatentPatient, draw_patients
from mmpl.phantom.oracle import oracle_parts
from mmpl.phantom.planted import VERSIONS, Planted
from mmpl.phantom.render import render
from mmpl.preprocess import prepare
from mmpl.profile import Profile, load_profile
from mmpl.radiomics import measure_lesions
from mmpl.training.command import Workers, run_program
from mmpl.training.parallel import Engine
from train.experiments.baseline import threshold_mask

DRAWS = 20_000


@dataclass(frozen=True)
class Measured:
    """One patient: GTVp Dice of the fixed threshold, NaN without a primary, and radiomics on the true mask."""

    threshold_dice: float
    radiomics: FeatureTable


@dataclass(frozen=True)
class _Measure:
    profile: Profile

    def __call__(self, patient: LatentPatient) -> Measured:
        case = render(patient, with_reference=True)
        assert case.reference is not None
        primary = case.reference.voxels == Label.GTVP
        hot = threshold_mask(case.pet, case.ct.grid, prepare(case, self.profile.preprocess).roi)
        score = dice(primary, hot) if primary.any() else np.nan
        return Measured(score, measure_lesions(case, case.reference, self.profile.radiomics))


@dataclass(frozen=True)
class Difficulty:
    """The latent variables of a cohort's patients, and what was measured of each."""

    latent: tuple[LatentPatient, ...]
    measured: tuple[Measured, ...]

    @property
    def threshold_dice(self) -> float:
        """Mean GTVp Dice of the fixed threshold over the patients with a primary."""
        return float(np.nanmean([m.threshold_dice for m in self.measured]))

    @cached_property
    def _radiomics(self) -> NDArray[np.float64]:
        return np.concatenate([m.radiomics.values for m in self.measured])

    def best_feature(self, variable: str) -> tuple[str, float]:
        """Find the radiomics feature of the highest absolute Spearman correlation with a planted variable."""
        planted = np.array([np.nan if (v := getattr(p, variable)) is None else v for p in self.latent])
        correlations = np.zeros(self._radiomics.shape[1])
        for index, column in enumerate(self._radiomics.T):
            both = np.isfinite(planted) & np.isfinite(column)
            if both.sum() >= len(planted) / 2 and np.ptp(column[both]) > 0:
                correlations[index] = spearmanr(planted[both], column[both]).statistic
        best = int(np.abs(correlations).argmax())
        return self.measured[0].radiomics.names[best], float(correlations[best])


def measure(patients: int, seed: int, workers: int = 0, version: int = 1) -> Difficulty:
    """Draw a cohort of the training centers and measure it."""
    latent = draw_patients(patients, seed, version=version)
    measure_one = _Measure(load_profile("demo"))
    return Difficulty(latent, tuple(Engine(workers).map("measuring", measure_one, latent)))


def main(patients: int, seed: int, workers: Workers = 0) -> None:
    """Measure PATIENTS synthetic patients of SEED, and 20,000 without images, of either version; print the findings."""
    console = Console(width=120)
    for version, planted in VERSIONS.items():
        console.print(_latent_table(draw_patients(DRAWS, seed, version=version), version))
        if patients:
            found = measure(patients, seed, workers, version)
            console.print(_image_table(found, planted))
            console.print(f"GTVp Dice of 41% of the patch's SUVmax: {found.threshold_dice:.3f}")


def _latent_table(latent: tuple[LatentPatient, ...], version: int) -> Table:
    table = Table(title=f"version {version}, {len(latent):,} patients without images", title_justify="left")
    for heading in ("variables", "HPV AUC", "of the oracle's distance", "C-index", "of the oracle's distance"):
        table.add_column(heading, justify="left" if heading == "variables" else "right")
    parts = oracle_parts(latent)
    for name, part in parts.items():
        share = part.share_of(parts["oracle"])
        table.add_row(
            name, f"{part.hpv_auc:.3f}", f"{share.hpv_auc:.0%}", f"{part.c_index:.3f}", f"{share.c_index:.0%}"
        )
    return table


def _image_table(found: Difficulty, planted: Planted) -> Table:
    table = Table(title=f"version {planted.version}, {len(found.latent)} patients with images", title_justify="left")
    for heading in ("planted variable", "feature on the true mask", "Spearman"):
        table.add_column(heading, overflow="fold")
    for score in planted.imaging:
        feature, correlation = found.best_feature(score.name)
        table.add_row(score.name, feature, f"{correlation:.3f}")
    return table


if __name__ == "__main__":
    run_program(main)
