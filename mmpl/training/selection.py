"""Selection of the columns of a table of evidence that say something of their own; shared by forest and Cox model."""

import numpy as np
from numpy.typing import NDArray

from mmpl.clinical import says_missing
from mmpl.evidence import FeatureTable


def known_levels(clinical: FeatureTable) -> FeatureTable:
    """Leave out the columns that say a field is missing and, of each one-hot (`Field=level`), the commonest level.

    What a blank field adds to a score is then what the commonest level adds, or the median of a continuous field: that
    nobody wrote it down is no risk factor. By chance alone it became one in eight of ten Cox models.
    """
    known = [name for name in clinical.names if not says_missing(name)]
    levels: dict[str, list[str]] = {}
    for name in known:
        if "=" in name:
            levels.setdefault(name.partition("=")[0], []).append(name)
    references = {max(names, key=lambda name: clinical.read([name]).sum()) for names in levels.values()}
    kept = tuple(name for name in known if name not in references)
    return FeatureTable(kept, clinical.read(kept))


def uncorrelated(columns: NDArray[np.float64], correlation: float, most: int | None = None) -> NDArray[np.intp]:
    """Index the columns of (n, q) that vary and do not repeat an earlier one, in their order.

    Args:
        columns: Columns (n, q), without missing values.
        correlation: Absolute correlation above which a column repeats another.
        most: Number of columns to stop at; None for no limit.
    """
    spread = columns.std(0)
    free = spread > 1e-9 * np.abs(columns).max(0, initial=0)
    standard = (columns - columns.mean(0)) / np.where(free, spread, 1)
    kept: list[int] = []
    for index in range(columns.shape[1]):
        if len(kept) == most:
            break
        if free[index]:
            kept.append(index)
            free &= np.abs(standard.T @ standard[:, index]) <= correlation * len(columns)
    return np.array(kept, dtype=np.intp)
