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
        thickness: Thickness of the wall, mm.
        height: Extent along z, mm.
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
    """A body, what it is made of, how far its surface strays, mm, and whether it moves with the head (`Pose`)."""

    shape: Shape
    hu: float
    suv: float
    wobble_mm: float = 0.0
    posed: bool = True


@dataclass(frozen=True)
class Pose:
    """A head that is turned to the left, or whose chin is up; the neck follows, the shoulders stay.

    In the scene every head is straight: `scene` and `scanner` take places that the scanner sees there, and back.
    """

    turn_deg: float = 0.0
    tilt_deg: float = 0.0

    LOWEST_Z = -110.0
    _HIGHEST_Z, _SPINE_Y, _PIVOT_Z = 10.0, 25.0, -40.0

    @property
    def straight(self) -> bool:
        """Whether nothing moves."""
        return self.turn_deg == 0.0 and self.tilt_deg == 0.0

    def scene(self, z: NDArray, y: NDArray, x: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        """Take places of the scanner to the scene."""
        follow = np.clip((z - self.LOWEST_Z) / (self._HIGHEST_Z - self.LOWEST_Z), 0.0, 1.0)
        follow = follow * follow * (3.0 - 2.0 * follow)
        y = y - self._SPINE_Y
        if self.turn_deg:
            turn = self.turn_deg * _RADIANS * follow
            y, x = np.cos(turn) * y - np.sin(turn) * x, np.sin(turn) * y + np.cos(turn) * x
        if self.tilt_deg:
            tilt, z = self.tilt_deg * _RADIANS * follow, z - self._PIVOT_Z
            z, y = np.cos(tilt) * z + np.sin(tilt) * y + self._PIVOT_Z, np.cos(tilt) * y - np.sin(tilt) * z
        return z, y + self._SPINE_Y, x

    def scanner(self, z: NDArray, y: NDArray, x: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        """Take places of the scene to the scanner."""
        found = (z, y, x)
        for _ in range(60):  # a fixed point: `scene` moves places little, so that correcting by its error converges
            off = [wanted - there for wanted, there in zip((z, y, x), self.scene(*found), strict=True)]
            found = (found[0] + 0.7 * off[0], found[1] + 0.7 * off[1], found[2] + 0.7 * off[2])
            if max(float(np.abs(part).max()) for part in off) < 0.01:
                break
        return found

    def seen(self, point_xyz: tuple[float, float, float]) -> tuple[float, float, float]:
        """Take one point of the scene to where the scanner sees it."""
        if self.straight:
            return point_xyz
        z, y, x = (float(value) for value in self.scanner(*map(np.asarray, point_xyz[::-1])))
        return x, y, z


STRAIGHT = Pose()
_RADIANS = np.float32(np.pi / 180.0)


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

    def __init__(self, axes: Axes, background: float, wobble: Field, pose: Pose = STRAIGHT) -> None:
        """Start from a uniform background."""
        self.axes = axes
        self.pose = pose
        self._scene = None if pose.straight else pose.scene(*open_axes(axes, (slice(None), slice(None), slice(None))))
        self.values = np.full([axis.size for axis in axes], background, dtype=np.float32)
        self._edge_mm = float(np.mean([abs(axis[1] - axis[0]) for axis in axes]))
        self._wobble = wobble(axes)

    def paint(self, part: Part, value: float) -> None:
        """Lay a part over what is there, as far as it covers each voxel."""
        margin = self._edge_mm + 2.5 * part.wobble_mm
        moves = part.posed and part.shape.bounds[0][1] > self.pose.LOWEST_Z
        box = box_around(self.axes, _moved(part.shape.bounds, self.pose) if moves else part.shape.bounds, margin)
        if box is None:
            return
        coverage = part.shape.depth(*(self.places(box) if moves else open_axes(self.axes, box)))
        if part.wobble_mm:
            coverage = coverage + np.float32(part.wobble_mm) * self._wobble[box]
        coverage *= np.float32(1.0 / self._edge_mm)
        coverage += np.float32(0.5)
        np.clip(coverage, 0.0, 1.0, out=coverage)
        target = self.values[box]
        target += coverage * (np.float32(value) - target)

    def places(self, box: Box) -> tuple[NDArray, NDArray, NDArray]:
        """Give where a box's voxels lie in the scene, in arrays that broadcast against each other."""
        if self._scene is None:
            return open_axes(self.axes, box)
        z, y, x = (axis[tuple(part if size > 1 else slice(None) for part, size in zip(box, axis.shape, strict=True))]
                   for axis in self._scene)  # fmt: skip
        return z, y, x


def _moved(bounds: tuple[tuple[float, float], ...], pose: Pose) -> tuple[tuple[float, float], ...]:
    """Give the bounds of a body in the scanner."""
    if pose.straight:
        return bounds
    steps = [np.linspace(low, high, 5) for low, high in bounds]
    places = pose.scanner(*np.meshgrid(*steps, indexing="ij"))
    return tuple((float(axis.min()) - 2.0, float(axis.max()) + 2.0) for axis in places)


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
