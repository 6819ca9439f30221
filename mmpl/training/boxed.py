"""Arrays that are zero outside a box, of which only the box is kept: lesions fill a hundredth of a patch."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mmpl.files import write_whole

Size = tuple[int, int, int]


@dataclass(frozen=True)
class Boxed:
    """Bytes of a patch (channels, z, y, x) that are zero outside a box.

    Attributes:
        inside: The box, uint8 (channels, z, y, x); empty where the patch is all zero.
        first: First voxel of the box, (z, y, x) of the patch.
        shape: Shape of the patch, (z, y, x).
    """

    inside: NDArray[np.uint8]
    first: Size
    shape: Size

    @classmethod
    def of(cls, patch: NDArray[np.uint8]) -> "Boxed":
        """Keep the smallest box that holds all that is not zero in any channel."""
        found = ndimage.find_objects(patch.any(axis=0).astype(np.uint8))
        box = found[0] if found else (slice(0, 0),) * 3
        z, y, x = (side.start for side in box)
        return cls(patch[(slice(None), *box)].copy(), (z, y, x), patch.shape[1:])

    def crop(self, low: NDArray[np.integer], high: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Cut the voxels from `low` up to and without `high`, each (z, y, x) in the patch: (channels, z, y, x)."""
        first, cut = np.array(self.first), np.zeros((len(self.inside), *(high - low)), np.uint8)
        start = np.maximum(low, first)
        end = np.maximum(np.minimum(high, first + self.inside.shape[1:]), start)
        cut[_slices(start - low, end - low)] = self.inside[_slices(start - first, end - first)]
        return cut

    def whole(self) -> NDArray[np.uint8]:
        """Fill in the zeros: (channels, z, y, x) of the patch."""
        return self.crop(np.zeros(3, int), np.array(self.shape))

    def save(self, path: Path) -> None:
        """Write a compressed file, whole or not at all."""
        with write_whole(path) as partial, partial.open("wb") as file:
            np.savez_compressed(file, inside=self.inside, first=self.first, shape=self.shape)

    @classmethod
    def load(cls, path: Path) -> "Boxed":
        """Read what `save` wrote."""
        with np.load(path) as file:
            return cls(file["inside"], tuple(file["first"].tolist()), tuple(file["shape"].tolist()))


def _slices(start: NDArray[np.integer], end: NDArray[np.integer]) -> tuple[slice, ...]:
    return slice(None), *(slice(a, b) for a, b in zip(start, end, strict=True))
