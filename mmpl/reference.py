"""The training patients, whom a patient is compared with: percentiles of what the models read, and distance of images.

The training patients' values are out of fold, a score's the mean of two models. Neither changes an answer.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mmpl.evidence import Floats

PERCENTS = (1, *range(5, 100, 5), 99)
"""The percentiles that are kept; the highest and the lowest value would be those of one patient."""
INTENSITY_QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)


def describe_patch(images: NDArray[np.floating]) -> Floats:
    """Give the intensities of a patient's patch, (19,): nine quantiles of CT, nine of PET, and their correlation.

    Args:
        images: CT and PET as the networks see them, (2, z, y, x).
    """
    ct, pet = (channel.astype(np.float32).ravel() for channel in images)
    together = float(np.corrcoef(ct, pet)[0, 1]) if ct.std() > 0 and pet.std() > 0 else 0.0
    return np.array([*np.quantile(ct, INTENSITY_QUANTILES), *np.quantile(pet, INTENSITY_QUANTILES), together])


@dataclass(frozen=True)
class PatchDistance:
    """The Mahalanobis distance of a patch's intensities from those of the training patients.

    Attributes:
        mean: (d,) mean of `describe_patch`.
        precision: (d, d) inverse of its covariance.
        limit: Distance that one training patient in a hundred exceeds, measured by the others.
    """

    mean: tuple[float, ...]
    precision: tuple[tuple[float, ...], ...]
    limit: float

    def __post_init__(self) -> None:
        if np.shape(self.precision) != (len(self.mean),) * 2 or len(self.mean) != 2 * len(INTENSITY_QUANTILES) + 1:
            raise ValueError(
                f"a patch distance of {len(self.mean)} means and a precision of {np.shape(self.precision)}"
            )
        if not 0 < self.limit < np.inf:
            raise ValueError(f"a patch distance with a limit of {self.limit}")

    def relative(self, images: NDArray[np.floating]) -> float:
        """Give the distance of a patch (2, z, y, x) as a multiple of the limit: above 1 is unlike training."""
        away = describe_patch(images) - self.mean
        return float(np.sqrt(max(0.0, away @ np.array(self.precision) @ away)) / self.limit)


@dataclass(frozen=True)
class Reference:
    """The training patients, as far as a patient is compared with them.

    Attributes:
        percentiles: Values at `PERCENTS` of the columns that forests and Cox models read, and of numeric clinical
            fields, by name.
        patch: How far a patch lies from theirs; None where there were too few.
        version: Version of this record; another number where an older one would be read without error and mislead.
    """

    percentiles: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    patch: PatchDistance | None = None
    version: int = 1

    def __post_init__(self) -> None:
        if self.version != 1:
            raise ValueError(f"a reference of version {self.version}, and this program reads 1")
        for name, values in self.percentiles.items():
            if len(values) != len(PERCENTS) or (np.diff(values) < 0).any():
                raise ValueError(f"the percentiles of {name} are not {len(PERCENTS)} rising values")

    def percentile(self, name: str, value: float) -> float | None:
        """Give the share of the training patients, 1 to 99, whose value is lower; of those with the same value, half.

        Returns:
            None for a column that is not kept.
        """
        if name not in self.percentiles:
            return None
        known, percents = np.array(self.percentiles[name]), np.array(PERCENTS)
        below, up_to = -np.interp(-value, -known[::-1], -percents[::-1]), np.interp(value, known, percents)
        return float(below + up_to) / 2
