"""Primaries and nodes: drawn on the CT grid with the planted volume to the voxel, then carried to the PET grid.

A lesion is a local box of the CT grid: its mask, the HU and the activity of its voxels. Its surface is an ellipsoid
that a random field perturbs, its level chosen so that the mask has the planted volume; bone, the outside of the body
and other lesions are spared.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmpl.names import Label
from mmpl.phantom import planted
from mmpl.phantom.anatomy import Build, Vector, body_outline
from mmpl.phantom.latent import LatentPatient, center_of
from mmpl.phantom.scene import Axes, Box, Canvas, Field, box_around, open_axes
from mmpl.phantom.staging import NODE_LEVELS

SITE_CENTERS: dict[str, Vector] = {
    "tonsil": (19, -4, 8),
    "tongue base": (8, -19, 0),
    "soft palate": (7, -14, 26),
    "hypopharynx": (15, 2, -32),
    "larynx": (9, -17, -42),
}
"""Standard positions on the patient's left, mm in scene coordinates."""

NODE_CENTERS: dict[str, Vector] = {
    "II": (41, 12, -8),
    "III": (39, 9, -36),
    "IV": (35, 9, -62),
    "V": (48, 32, -34),
    "I": (30, -30, -18),
    "retropharyngeal": (18, 11, 26),
}
"""Position of the neck levels, on the patient's left."""

SKIN_MM, BONE_HU, EDGE_MM = 3.0, 260.0, 1.6
TEXTURE_HU = 80.0
"""CT texture of a primary, HU, times its heterogeneity."""


@dataclass(frozen=True)
class Lesion:
    """One lesion on a box of the CT grid.

    Attributes:
        mask: Its voxels (boolean).
        coverage: How much of each voxel it fills, 0 to 1, soft at the edge.
        hu: HU of its voxels.
        suv: Activity of its voxels, SUV, before the scanner's point spread.
    """

    label: Label
    box: Box
    mask: NDArray[np.bool_]
    coverage: NDArray[np.float32]
    hu: NDArray[np.float32]
    suv: NDArray[np.float32]


def draw_lesions(
    rng: np.random.Generator, patient: LatentPatient, build: Build, ct: Canvas, vessel_hu: float
) -> list[Lesion]:
    """Draw the primary, then the nodes, and paint each onto the CT."""
    volume_factor, staging = center_of(patient).volume_factor, patient.staging
    enhancement_hu = 20.0 + 0.12 * vessel_hu + rng.normal(0.0, 3.0)
    taken = np.zeros(ct.values.shape, dtype=bool)
    lesions = []
    side = float(rng.choice((-1.0, 1.0)))
    if staging:
        side = 1.0 if staging.side == "left" else -1.0
    if patient.primary_site is not None:
        assert patient.primary_volume is not None
        site = _jitter(rng, build, ct, SITE_CENTERS[patient.primary_site], side, 3.0)
        volume_ml = patient.planted.volume_ml("primary_volume", patient.primary_volume) * volume_factor
        extent_mm, invasion = (staging.primary_extent_mm, staging.invasion) if staging else (None, False)
        box, mask, depth = _carve(rng, build, ct, taken, site, volume_ml, 0.22, extent_mm, invasion)
        lesions.append(_primary(rng, patient, ct.axes, box, mask, depth, planted_hu=52.0 + enhancement_hu))
        _lay(ct, taken, lesions[-1])
    for index, volume_ml in enumerate(patient.node_volumes_ml):
        if staging:
            node_side = -side if staging.node_contralateral[index] else side
            spots = _planned_level(rng, build, ct, node_side, staging.node_levels[index])
        else:
            spots = _any_level(rng, build, ct, side)
        spot = _roomiest(spots, lesions, ct.axes, volume_ml)
        extent_mm = staging.node_extents_mm[index] if staging else None
        box, mask, depth = _carve(rng, build, ct, taken, spot, volume_ml, 0.12, extent_mm)
        lesions.append(_node(rng, patient, box, mask, depth, planted_hu=50.0 + enhancement_hu))
        _lay(ct, taken, lesions[-1])
    return lesions


def paint_activity(pet: Canvas, ct_axes: Axes, lesions: Sequence[Lesion]) -> None:
    """Carry the lesions' activity to the PET grid, each PET voxel averaging the CT voxels it covers."""
    for lesion in lesions:
        source = [axis[part] for axis, part in zip(ct_axes, lesion.box, strict=True)]
        steps = [axis[1] - axis[0] for axis in pet.axes]
        target = box_around(pet.axes, [(axis[0], axis[-1]) for axis in source], float(max(steps)))
        if target is None:
            continue
        weights = [
            _overlaps(axis, pet_axis[part])
            for axis, pet_axis, part in zip(source, pet.axes, target, strict=True)
        ]  # fmt: skip
        coverage, activity = (_average(values, weights) for values in (lesion.coverage, lesion.coverage * lesion.suv))
        values = pet.values[target]
        values *= 1.0 - coverage
        values += activity


def _jitter(
    rng: np.random.Generator, build: Build, ct: Canvas, standard: Vector, side: float, spread_mm: float
) -> Vector:
    """Draw a place about a standard one, where the scanner sees it."""
    x, y, z = (value + rng.normal(0.0, spread_mm) for value in standard)
    return ct.pose.seen(build.place((side * x, y, z)))


def _any_level(rng: np.random.Generator, build: Build, ct: Canvas, side: float) -> Iterator[Vector]:
    """Try levels as often as they have nodes, mostly on the primary's side."""
    centers, shares = list(NODE_CENTERS.values()), np.array(list(NODE_LEVELS.values()))
    for _ in range(12):
        level = centers[rng.choice(len(centers), p=shares)]
        yield _jitter(rng, build, ct, level, side if rng.random() < 0.75 else -side, 4.0)


def _planned_level(
    rng: np.random.Generator, build: Build, ct: Canvas, side: float, level: str
) -> Iterator[Vector]:  # fmt: skip
    """Try places ever farther from the middle of a level."""
    for attempt in range(12):
        yield _jitter(rng, build, ct, NODE_CENTERS[level], side, 4.0 + attempt)


def _roomiest(spots: Iterable[Vector], lesions: Sequence[Lesion], axes: Axes, volume_ml: float) -> Vector:
    """Pick a place for a node, away from the lesions already there and from the lower end of the scan."""
    radius = _radius_mm(volume_ml)
    best, best_gap = (0.0, 0.0, 0.0), -np.inf
    for spot in spots:
        gaps = [_distance(spot, axes, lesion) - radius for lesion in lesions]
        gap = min([*gaps, spot[2] - float(axes[0][0]) - radius])
        if gap > best_gap:
            best, best_gap = spot, gap
        if gap > 3.0:
            break
    return best


def _distance(spot_xyz: Vector, axes: Axes, lesion: Lesion) -> float:
    """Give the distance from a point to the nearest of a lesion's voxels, thinned, mm."""
    indices = np.argwhere(lesion.mask)[::7]
    places = np.stack([axes[i][lesion.box[i]][indices[:, i]] for i in range(3)], axis=1)
    return float(np.sqrt(((places - np.array(spot_xyz[::-1])) ** 2).sum(axis=1)).min())


def _carve(
    rng: np.random.Generator, build: Build, ct: Canvas, taken: NDArray[np.bool_], spot_xyz: Vector, volume_ml: float,
    roughness: float, extent_mm: float | None = None, invasion: bool = False,
) -> tuple[Box, NDArray[np.bool_], NDArray[np.float32]]:  # fmt: skip
    """Choose the voxels of a lesion: box, mask of the wanted volume, and depth below the surface, mm.

    Args:
        extent_mm: Wanted largest extent; None where none is planned.
        invasion: Whether bone is no border.
    """
    radius = _radius_mm(volume_ml)
    reach = 1.7 * radius + 6.0
    bounds = [(value - reach, value + reach) for value in spot_xyz[::-1]]
    box = box_around(ct.axes, bounds)
    if box is None:
        raise ValueError(f"a lesion at {spot_xyz} mm lies outside the scan")
    z, y, x = open_axes(ct.axes, box)
    stretch = np.exp(rng.normal(0.0, 0.13, 3))
    rough = Field(rng, bounds, max(0.75 * radius, 5.0))((z.ravel(), y.ravel(), x.ravel()))
    spared = (body_outline(build).depth(*ct.places(box)) < SKIN_MM) | taken[box]
    if not invasion:
        spared |= ct.values[box] > BONE_HU
    voxel_ml = float(np.prod([axis[1] - axis[0] for axis in ct.axes])) / 1000.0

    def grow(stretch: NDArray, roughness: float) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        stretch = stretch / stretch.prod() ** (1.0 / 3.0)
        away = sum(((axis - value) / s) ** 2 for axis, value, s in zip((z, y, x), spot_xyz[::-1], stretch, strict=True))
        distance = np.sqrt(away) + np.float32(roughness * radius) * np.clip(rough, -2.0, 2.0)
        distance[spared] = np.inf
        count = int(np.clip(round(volume_ml / voxel_ml), 4, np.isfinite(distance).sum()))
        level = np.partition(distance.ravel(), count - 1)[count - 1]
        depth = np.where(spared, np.float32(-99.0), level - distance).astype(np.float32)
        return depth >= 0.0, depth

    if extent_mm is None:
        mask, depth = grow(stretch, roughness)
    else:
        axis, longer = int(np.argmax(stretch)), 1.0
        for _ in range(8):
            mask, depth = grow(np.where(np.arange(3) == axis, longer, 1.0), roughness)
            lacking = extent_mm / largest_extent_mm(mask, [part[box[i]] for i, part in enumerate(ct.axes)])
            if abs(lacking - 1.0) < 0.03:
                break
            if lacking < 1.0 and longer == 1.0:
                roughness *= 0.7  # as round as it gets, and still too long: the bumps reach too far
            longer = max(1.0, longer * lacking**1.5)
    return box, mask, depth


def _radius_mm(volume_ml: float) -> float:
    return float((volume_ml * 1000.0 * 3.0 / (4.0 * np.pi)) ** (1.0 / 3.0))


def largest_extent_mm(mask: NDArray[np.bool_], axes: Sequence[NDArray]) -> float:
    """Measure how long a lesion is along the direction in which it is longest, of some hundred, voxel edges included.

    Args:
        mask: Its voxels (z, y, x).
        axes: Voxel centers along z, y and x, mm.
    """
    places = np.stack([axis[indices] for axis, indices in zip(axes, np.nonzero(mask), strict=True)], axis=1)
    along = places @ _DIRECTIONS.T
    voxel_mm = float(np.mean([axis[1] - axis[0] for axis in axes]))
    return float(np.ptp(along, axis=0).max()) + voxel_mm


def _spread_directions(count: int) -> NDArray[np.float32]:
    """Spread directions evenly over half a sphere, by the golden angle (z, y, x)."""
    z = (np.arange(count) + 0.5) / count
    angle, flat = np.pi * (3.0 - np.sqrt(5.0)) * np.arange(count), np.sqrt(1.0 - z**2)
    return np.stack([z, flat * np.sin(angle), flat * np.cos(angle)], axis=1).astype(np.float32)


_DIRECTIONS = _spread_directions(100)


def _primary(
    rng: np.random.Generator, patient: LatentPatient, axes: Axes, box: Box, mask: NDArray[np.bool_],
    depth: NDArray[np.float32], planted_hu: float,
) -> Lesion:  # fmt: skip
    """Fill a primary: uptake of the planted mean and variation, CT texture in step with it, darker towards the core."""
    assert patient.primary_suv is not None
    assert patient.primary_heterogeneity is not None
    local = (axes[0][box[0]], axes[1][box[1]], axes[2][box[2]])
    bounds = [(float(axis[0]), float(axis[-1])) for axis in local]
    texture = Field(rng, bounds, 8.0)(local) - 0.9 * depth / max(float(depth[mask].max()), 1.0)
    texture = (texture - texture[mask].mean()) / max(float(texture[mask].std()), 1e-3)
    texture = np.clip(texture, -2.2, 2.2)
    variation = planted.heterogeneity(patient.primary_heterogeneity)
    uptake = np.clip(1.0 + variation * texture, 0.1, None)
    suv = planted.primary_suv(patient.primary_suv) * uptake / uptake[mask].mean()
    hu = planted_hu + TEXTURE_HU * variation * texture
    return Lesion(Label.GTVP, box, mask, _coverage(depth), hu.astype(np.float32), suv.astype(np.float32))


def _node(
    rng: np.random.Generator, patient: LatentPatient, box: Box, mask: NDArray[np.bool_], depth: NDArray[np.float32],
    planted_hu: float,
) -> Lesion:  # fmt: skip
    """Fill a node: uptake in the rim, and a dark core of the planted share of its volume."""
    assert patient.nodal_cyst is not None
    solid_suv = max(5.0, float(rng.lognormal(np.log(8.0), 0.25)))
    core = 1.0 - planted.cyst_fraction(patient.nodal_cyst)
    wall = float(np.quantile(depth[mask], core))
    cystic = np.clip(0.5 + (depth - wall) / 1.5, 0.0, 1.0)
    hu = planted_hu - cystic * (planted_hu - 4.0)
    suv = solid_suv - cystic * (solid_suv - 1.2)
    return Lesion(Label.GTVN, box, mask, _coverage(depth), hu.astype(np.float32), suv.astype(np.float32))


def _coverage(depth: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.clip(0.5 + depth / np.float32(EDGE_MM), 0.0, 1.0)


def _lay(ct: Canvas, taken: NDArray[np.bool_], lesion: Lesion) -> None:
    values = ct.values[lesion.box]
    values += np.where(lesion.mask, 1.0, lesion.coverage) * (lesion.hu - values)  # no air or fat within the mask
    taken[lesion.box] |= lesion.mask


def _overlaps(source: NDArray, target: NDArray) -> NDArray[np.float32]:
    """Weigh source voxels by how much of each target voxel they fill along one axis (target, source)."""
    ds, dt = source[1] - source[0], target[1] - target[0] if target.size > 1 else source[-1] - source[0] + 1.0
    high = np.minimum(target[:, None] + dt / 2, source[None, :] + ds / 2)
    low = np.maximum(target[:, None] - dt / 2, source[None, :] - ds / 2)
    return (np.clip(high - low, 0.0, None) / dt).astype(np.float32)


def _average(values: NDArray[np.float32], weights: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.einsum("az,by,cx,zyx->abc", *weights, values, optimize=True).astype(np.float32)
