"""The planned dose of some patients, and what an underdosed tumor adds to the hazard of relapse.

Both are drawn from streams of their own: with and without dose, images and everything else are the same, but for the
time to relapse of those whose tumor was underdosed.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter

from mmpl.case import Case, Grid, Image
from mmpl.names import Label
from mmpl.phantom.scene import Box

SHARE = 0.125
"""Share of the patients of a cohort with dose who have one, where no other share is named."""
UNDERDOSED, UNDERDOSAGE_GY = 0.5, (2.0, 8.0)
"""Share of the patients with dose whose tumor has a cold part, and the least and the most that it lacks."""

LOG_HAZARD_PER_GY = 0.15
COLD_SHARE = 0.4
"""Share of the tumor's volume that is cold."""

SPACING_MM, MARGIN_MM = 4.0, 60.0
"""Spacing of the dose's grid, about, and its margin around the lesions."""

FALL_OFF = ((0.0, 6.0, 14.0, 35.0, 60.0, 100.0, 250.0), (70.0, 70.0, 57.0, 52.0, 25.0, 8.0, 1.0))
"""Distance from the tumor, mm, and dose there, Gy: boost, elective volume, and what lies beyond."""

BODY_HU = -400.0
"""What is darker is air, which takes a tenth less."""


@dataclass(frozen=True)
class Dose:
    """The plan of one patient.

    Attributes:
        underdosage_gy: What a part of the tumor lacks of the prescribed dose; 0 for none.
    """

    underdosage_gy: float

    @property
    def log_hazard(self) -> float:
        """What the underdosage adds to the log hazard of relapse."""
        return LOG_HAZARD_PER_GY * self.underdosage_gy


def draw_dose(rng: np.random.Generator, share: float) -> Dose | None:
    """Draw whether a patient has dose, and how much a part of the tumor lacks."""
    given, cold, lack_gy = rng.random() < share, rng.random() < UNDERDOSED, float(rng.uniform(*UNDERDOSAGE_GY))
    return Dose(lack_gy if cold else 0.0) if given else None


def dose_map(dose: Dose, case: Case, seed: int) -> Image:
    """Plan the dose (float32, Gy) around the lesions of a case with a reference mask, on a coarse grid of its own.

    The underdosage is in two fifths of the primary (of the nodes without one), at one pole.
    """
    assert case.reference is not None
    rng = np.random.default_rng((seed, 3))
    steps, box = _coarse_box(case.reference)
    labels, hu = case.reference.voxels[box], case.ct.voxels[box]
    grid = _grid(case.ct.grid, box, steps, labels.shape)
    spacing_zyx = np.array(grid.spacing_xyz[::-1])

    away = distance_transform_edt(labels == Label.BACKGROUND, sampling=spacing_zyx)
    gray = np.interp(away, *FALL_OFF)
    cold = labels == (Label.GTVP if (labels == Label.GTVP).any() else Label.GTVN)
    pole = rng.standard_normal(3)
    along = (np.argwhere(cold) * spacing_zyx) @ (pole / np.linalg.norm(pole))
    cold[cold] = along >= np.quantile(along, 1.0 - COLD_SHARE)
    gray = gaussian_filter(gray - dose.underdosage_gy * cold, 2.0 / spacing_zyx)
    gray *= np.where(hu > BODY_HU, 1.0, 0.9) * (1.0 + 0.01 * rng.standard_normal(gray.shape))
    return Image(gray.astype(np.float32), grid)


def _coarse_box(reference: Image) -> tuple[list[int], Box]:
    """Give steps along z, y, x of about `SPACING_MM`, and the lesions' box with a margin in those steps."""
    spacing_zyx = reference.grid.spacing_xyz[::-1]
    steps = [max(1, round(SPACING_MM / spacing)) for spacing in spacing_zyx]
    places = np.argwhere(reference.voxels != Label.BACKGROUND)
    margins = [round(MARGIN_MM / spacing) for spacing in spacing_zyx]
    first = [max(0, int(low) - margin) for low, margin in zip(places.min(axis=0), margins, strict=True)]
    last = [int(high) + margin + 1 for high, margin in zip(places.max(axis=0), margins, strict=True)]
    z, y, x = (slice(*edges) for edges in zip(first, last, steps, strict=True))
    return steps, (z, y, x)


def _grid(ct: Grid, box: Box, steps: list[int], shape: tuple[int, ...]) -> Grid:
    """Place the voxels that a box keeps of the CT."""
    start_mm = np.array([part.start for part in box[::-1]]) * ct.spacing_xyz
    x0, y0, z0 = (np.array(ct.origin_xyz) + np.reshape(ct.direction, (3, 3)) @ start_mm).round(3).tolist()
    sx, sy, sz = (step * spacing for step, spacing in zip(steps[::-1], ct.spacing_xyz, strict=True))
    return Grid((shape[2], shape[1], shape[0]), (sx, sy, sz), (x0, y0, z0), ct.direction)
