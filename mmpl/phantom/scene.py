"""Bodies with soft edges, painted in order onto any grid: HU on the CT's, SUV on the PET's, from one description.

Scene coordinates are patient axes in mm: x to the patient's left, y to the back, z to the head, the origin in the
oropharynx. Arrays are (z, y, x). Coverage of a voxel comes from an approximate distance to the surface, so partial
volume is right on coarse grids without supersampling.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Axes = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]
"""Voxel centers along z, y and x, mm."""

Box = tuple[slice, slice, slice]


class Shape(Protocol):
    """A body that knows its bounds and the depth of a point below its surface."""

    @property
    def bounds(self) -> tuple[tuple[float, float], ...]:
        """Lowest and highest z, y and x, mm."""

    def depth(self, z: NDArray, y: NDArray, x: NDArray) -> NDArray:
        """Give the depth below the surface, about mm, negative outside, on axes that broadcast against each other."""


@dataclass(frozen=True)
class Ellipsoid:
    """Center and half axes along x, y, z, mm."""

    center_xyz: tuple[float, float, float]
    radii_xyz: tuple[float, float, float]

    @property
    def bounds(self) -> tuple[tuple[float, float], ...]:
        """Lowest and highest z, y and x, mm."""
        pairs = zip(self.center_xyz[::-1], self.radii_xyz[::-1], strict=True)
        return tuple((center - radius, center + radius) for center, radius in pairs)

    def depth(self, z: NDArray, y: NDArray, x: NDArray) -> NDArray:
        """Give the depth, exact to first order where the half axes are alike."""
        (cx, cy, cz), (rx, ry, rz) = self.center_xyz, self.radii_xyz
        half = 0.5 * min(self.radii_xyz)
        plane = half - half * (((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2)
        return plane - half * ((z - cz) / rz) ** 2


@dataclass(frozen=True)
class Tube:
    """A stack of ellipses along z: knots (z, center x, center y, radius x, radius y), mm, joined linearly."""

    knots: tuple[tuple[float, float, float, float, float], ...]

    @cached_property
    def _table(self) -> NDArray:
        return np.array(sorted(self.knots), dtype=np.float32).T

    @property
    def bounds(self) -> tuple[tuple[float, float], ...]:
        """Lowest and highest z, y and x, mm."""
        z, cx, cy, rx, ry = self._table
        spans = ((z, 0.0), (cy, ry), (cx, rx))
        return tuple((float((center - radius).min()), float((center + radius).max())) for center, radius in spans)

    def depth(self, z: NDArray, y: NDArray, x: NDArray) -> NDArray:
        """Give the depth below the wall; the ends are open."""
        knots_z, *rows = self._table
        cx, cy, rx, ry = (np.interp(z, knots_z, row).astype(np.float32) for row in rows)
        half = 0.5 * np.minimum(rx, ry)
        return (half - half * ((y - cy) / ry) ** 2) - half * ((x - cx) / rx) ** 2


@dataclass(frozen=True)
class Arch:
    """A horseshoe in the transverse plane, open to the back (`front`) or to the front, such as jaws and cartilages.

    Attributes:
        radii_xy: Half axes of the ellipse that the horseshoe follows, mm.
        reach: How far along y it goes from its front, mm.
        thickness: Of the wall, mm.
        height: Along z, mm.
    """

    center_xyz: tuple[float, float, float]
    radii_xy: tuple[float, float]
    reach: float
    thickness: float
    height: float
    front: bool = True

    @property
    def bounds(self) -> tuple[tuple[float, float], ...]:
        """Lowest and highest z, y and x, mm."""
        (cx, cy, cz), (rx, ry), half = self.center_xyz, self.radii_xy, self.thickness / 2
        near, far = (cy - ry - half, cy - ry + self.reach) if self.front else (cy + ry - self.reach, cy + ry + half)
        return (cz - self.height / 2, cz + self.height / 2), (near, far), (cx - rx - half, cx + rx + half)

    def depth(self, z: NDArray, y: NDArray, x: NDArray) -> NDArray:
        """Give the depth below the nearest of wall, floor and roof."""
        (cx, cy, cz), (rx, ry) = self.center_xyz, self.radii_xy
        ring = ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2
        wall = self.thickness / 2 - np.abs(1.0 - ring) * (min(rx, ry) / 2)
        return np.minimum(wall, self.height / 2 - np.abs(z - cz))


@dataclass(frozen=True)
class Part:
    """A body, what it is made of, and how far its surface strays, mm."""

    shape: Shape
    hu: float
    suv: float
    wobble_mm: float = 0.0


class Field:
    """A smooth random function of place, about zero mean and unit variance: cubic B-splines on a random lattice."""

    _NORM = (151.0 / 315.0) ** 1.5  # root mean square of the spline's weights in three dimensions

    def __init__(self, rng: np.random.Generator, bounds: Sequence[tuple[float, float]], pitch_mm: float) -> None:
        """Draw the lattice over bounds (z, y, x), mm; features are about `pitch_mm` across."""
        self._pitch = pitch_mm
        self._low = [low - 2 * pitch_mm for low, _ in bounds]
        shape = [int(np.ceil((high - low) / pitch_mm)) + 5 for low, high in bounds]
        self._lattice = rng.standard_normal(shape, dtype=np.float32) / np.float32(self._NORM)

    def __call__(self, axes: Axes) -> NDArray[np.float32]:
        """Evaluate on a grid; places beyond the bounds take the value at the nearest bound."""
        values = self._lattice
        for axis in (2, 1, 0):
            values = np.moveaxis(np.tensordot(self._weights(axes[axis], axis), values, (1, axis)), 0, axis)
        return np.ascontiguousarray(values)

    def _weights(self, places: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
        count = self._lattice.shape[axis]
        knots = np.clip((places - self._low[axis]) / self._pitch, 1.0, count - 2.0)
        away = np.abs(knots[:, None] - np.arange(count))
        near, far = 2 / 3 - away**2 + away**3 / 2, np.clip(2.0 - away, 0.0, None) ** 3 / 6
        return np.where(away < 1.0, near, far).astype(np.float32)


class Canvas:
    """One grid being painted: values (z, y, x), the voxel size its edges are softened by, and a field for wobble."""

    def __init__(self, axes: Axes, background: float, wobble: Field) -> None:
        """Start from a uniform background."""
        self.axes = axes
        self.values = np.full([axis.size for axis in axes], background, dtype=np.float32)
        self._edge_mm = float(np.mean([abs(axis[1] - axis[0]) for axis in axes]))
        self._wobble = wobble(axes)

    def paint(self, part: Part, value: float) -> None:
        """Lay a part over what is there, as far as it covers each voxel."""
        margin = self._edge_mm + 2.5 * part.wobble_mm
        box = box_around(self.axes, part.shape.bounds, margin)
        if box is None:
            return
        coverage = part.shape.depth(*open_axes(self.axes, box))
        if part.wobble_mm:
            coverage = coverage + np.float32(part.wobble_mm) * self._wobble[box]
        coverage *= np.float32(1.0 / self._edge_mm)
        coverage += np.float32(0.5)
        np.clip(coverage, 0.0, 1.0, out=coverage)
        target = self.values[box]
        target += coverage * (np.float32(value) - target)


def box_around(axes: Axes, bounds: Sequence[tuple[float, float]], margin_mm: float = 0.0) -> Box | None:
    """Find the voxels whose centers lie within bounds (z, y, x) and a margin; None where there are none."""
    box = []
    for axis, (low, high) in zip(axes, bounds, strict=True):
        start, stop = np.searchsorted(axis, (low - margin_mm, high + margin_mm))
        if start >= stop:
            return None
        box.append(slice(int(start), int(stop)))
    return box[0], box[1], box[2]


def open_axes(axes: Axes, box: Box) -> tuple[NDArray, NDArray, NDArray]:
    """Cut the axes to a box and shape them to broadcast against each other."""
    z, y, x = (axis[part] for axis, part in zip(axes, box, strict=True))
    return z[:, None, None], y[None, :, None], x[None, None, :]
