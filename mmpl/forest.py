"""A random forest as its leaves: the probability that it gives, and how much each column moves it (Shapley values).

A leaf is reached where every column that its way splits on lies between two bounds, so a forest is five tables of
numbers, which predict without scikit-learn, read in no time and cannot hold code.

What a tree says when only some columns are known follows both ways of every split on another one, each by its share of
the training patients ("path-dependent", as in shap's TreeExplainer, which the tests compare with). Seen from one leaf
whose path splits on d columns, each of which is known with probability t, the Shapley value is the integral over t from
0 to 1 of a polynomial of degree d - 1, which Gauss-Legendre quadrature gives without error.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from mmpl.evidence import Floats

if TYPE_CHECKING:
    from sklearn.ensemble import RandomForestClassifier

_NO_CHILD = -1
_NO_COLUMN = -1


@dataclass(frozen=True)
class Forest:
    """Every way from a forest's roots to its leaves; each column that a way splits on has one slot.

    Attributes:
        columns: (leaves, slots) column, whole numbers; -1 in a slot that is not used.
        low, high: (leaves, slots) the leaf is reached by values above `low` and not above `high`.
        shares: (leaves, slots) share of the training patients that the splits on the column send this way.
        values: (leaves,) probability in the leaf, divided by the number of trees.
    """

    columns: NDArray[np.intp]
    low: Floats
    high: Floats
    shares: Floats
    values: Floats

    def __post_init__(self) -> None:
        shapes = {each.shape for each in (self.columns, self.low, self.high, self.shares)}
        if shapes != {(len(self.values), self.columns.shape[-1])} or self.columns.dtype.kind != "i":
            raise ValueError("a forest's tables have different sizes, or columns that are no whole numbers")

    @classmethod
    def of(cls, forest: "RandomForestClassifier", position: int) -> Self:
        """Walk down all trees at once.

        Args:
            forest: The fitted forest.
            position: Position, among the forest's classes, of the one whose probability is meant.
        """
        trees = [estimator.tree_ for estimator in forest.estimators_]
        roots = np.cumsum([0, *(tree.node_count for tree in trees)])[:-1]
        is_leaf = np.concatenate([tree.children_left for tree in trees]) == _NO_CHILD
        left = np.concatenate([tree.children_left + root for tree, root in zip(trees, roots, strict=True)])
        right = np.concatenate([tree.children_right + root for tree, root in zip(trees, roots, strict=True)])
        column = np.concatenate([tree.feature for tree in trees])
        threshold = np.concatenate([tree.threshold for tree in trees])
        cover = np.concatenate([tree.weighted_n_node_samples for tree in trees])
        counts = np.concatenate([tree.value[:, 0] for tree in trees])
        probability = counts[:, position] / counts.sum(axis=1)

        slots = max(1, *(tree.max_depth for tree in trees))
        nodes = roots
        ways = cls(
            np.full((len(nodes), slots), _NO_COLUMN),
            np.full((len(nodes), slots), -np.inf),
            np.full((len(nodes), slots), np.inf),
            np.ones((len(nodes), slots)),
            np.zeros(len(nodes)),
        )
        finished = []
        while len(nodes):
            ended = is_leaf[nodes]
            finished.append(ways._take(ended, probability[nodes[ended]] / len(trees)))
            nodes, ways = nodes[~ended], ways._take(~ended, 0.0)
            ways = ways._split(column[nodes], threshold[nodes], cover[left[nodes]] / cover[nodes])
            nodes = np.concatenate([left[nodes], right[nodes]])
        return cls(*(np.concatenate(parts) for parts in zip(*map(_parts, finished), strict=True)))

    def _take(self, chosen: NDArray[np.bool_], values: Floats | float) -> Self:
        columns, low, high, shares, _ = _parts(self)
        given = np.broadcast_to(values, int(chosen.sum()))
        return type(self)(columns[chosen], low[chosen], high[chosen], shares[chosen], given)

    def _split(self, column: NDArray[np.intp], threshold: Floats, left_share: Floats) -> Self:
        """Go left in the first half of the rows, right in the second."""
        rows = np.arange(len(column))
        known = self.columns == column[:, None]
        first_free = (self.columns == _NO_COLUMN).argmax(axis=1)
        slot = np.where(known.any(axis=1), known.argmax(axis=1), first_free)
        columns, low, high = self.columns.copy(), self.low.copy(), self.high.copy()
        columns[rows, slot] = column
        high[rows, slot] = np.minimum(high[rows, slot], threshold)
        low[rows, slot] = np.maximum(low[rows, slot], threshold)
        left, right = self.shares.copy(), self.shares.copy()
        left[rows, slot] *= left_share
        right[rows, slot] *= 1 - left_share
        return type(self)(
            np.vstack([columns, columns]),
            np.vstack([self.low, low]),
            np.vstack([high, self.high]),
            np.vstack([left, right]),
            np.zeros(2 * len(rows)),
        )

    def probability(self, rows: Floats) -> Floats:
        """Give the probability of each patient: (n,).

        Args:
            rows: (n, columns) the patients, as the forest was fitted to them.
        """
        return np.array([self.values[self._reached(row).all(axis=1)].sum() for row in rows])

    @property
    def expected(self) -> float:
        """The probability when nothing is known: the mean over the training patients as the forest saw them."""
        return float(self.shares.prod(axis=1) @ self.values)

    def shapley(self, row: Floats) -> Floats:
        """Give what each column of one patient adds to the probability: (columns,); with `expected` the probability.

        Args:
            row: (columns,) the patient, as the forest sees it.
        """
        used, reached = self.columns != _NO_COLUMN, self._reached(row).astype(float)
        nodes, weights = np.polynomial.legendre.leggauss(self.columns.shape[1] // 2 + 1)
        known, weights = (nodes + 1) / 2, weights / 2
        either = self.shares[..., None] * (1 - known) + reached[..., None] * known  # (leaves, slots, quadrature nodes)
        others = either.prod(axis=1, keepdims=True) / either
        moved = self.values[:, None] * (reached - self.shares) * (others @ weights)
        return np.bincount(self.columns[used], moved[used], minlength=len(row)).astype(float)

    def _reached(self, row: Floats) -> NDArray[np.bool_]:
        """Tell which slots of each leaf let a patient pass, (leaves, slots); one that is not used lets all pass."""
        seen = np.nan_to_num(row.astype(np.float32))[self.columns]  # a tree compares in single precision
        return (self.columns == _NO_COLUMN) | ((seen > self.low) & (seen <= self.high))


def _parts(ways: Forest) -> tuple[NDArray, ...]:
    return ways.columns, ways.low, ways.high, ways.shares, ways.values
