"""Scans of any size: a body with a warm head, a primary and nodes in the neck; quick to draw, nothing to learn from."""

import numpy as np
from numpy.typing import NDArray

from mmpl.case import Case, ClinicalRecord, Grid, Image
from mmpl.names import Label

NECK_MM = 230.0
"""From the top of the scan to the middle of the lesions."""


def draw_scan(length_mm: float, ct_pixels: int = 512, pet_pixels: int = 200, slice_mm: float = 2.0) -> Case:
    """Draw a scan that starts at the top of the head."""
    slices = round(length_mm / slice_mm)
    ct_grid = _centered((ct_pixels, ct_pixels, slices), (500 / ct_pixels, 500 / ct_pixels, slice_mm))
    pet_grid = _centered((pet_pixels, pet_pixels, slices), (660 / pet_pixels, 660 / pet_pixels, slice_mm))
    ct = np.full(ct_grid.shape_zyx, -1000, np.int16)
    ct[_body(ct_grid, length_mm)] = 40
    pet = _body(pet_grid, length_mm).astype(np.float32)
    pet[_ball(pet_grid, (0, 0, length_mm - 110), 80)] = 6
    for center, radius_mm in (((10, 0, length_mm - NECK_MM), 17.0), ((45, 0, length_mm - NECK_MM - 30), 10.5)):
        pet[_ball(pet_grid, center, radius_mm)] = 12
    return Case("drawn", Image(ct, ct_grid), Image(pet, pet_grid), ClinicalRecord())


def draw_lesions(
    primary_ml: float, nodes: int, nodes_ml: float, size_mm: tuple[int, int, int]
) -> tuple[Image, Image, Image]:
    """Draw a 1 mm patch with textured lesions: CT (HU), PET (SUV) and the label map; the nodes' volume is of all."""
    grid = _centered(size_mm, (1.0, 1.0, 1.0))
    rng, shape, top = np.random.default_rng(0), grid.shape_zyx, float(size_mm[2])
    labels = np.zeros(shape, np.uint8)
    for number in range(nodes):
        place = (-60.0 + 35 * (number % 4), -35.0, top / 2 - 45 + 35 * (number // 4))
        labels[_ball(grid, place, _radius_mm(nodes_ml / nodes))] = Label.GTVN
    labels[_ball(grid, (20.0, 30.0, top / 2), _radius_mm(primary_ml))] = Label.GTVP
    ct = 40 + 30 * rng.standard_normal(shape, np.float32)
    pet = np.where(labels > 0, np.float32(8), np.float32(1.5)) * (1 + 0.2 * rng.standard_normal(shape, np.float32))
    return Image(ct, grid), Image(pet.astype(np.float32), grid), Image(labels, grid)


def _centered(size_xyz: tuple[int, int, int], spacing_xyz: tuple[float, float, float]) -> Grid:
    """Put the scan's axis at x = y = 0 and its lower end at z = 0."""
    x, y, _ = (-(n - 1) / 2 * step for n, step in zip(size_xyz, spacing_xyz, strict=True))
    return Grid(size_xyz, spacing_xyz, (x, y, spacing_xyz[2] / 2))


def _axes(grid: Grid) -> list[NDArray[np.float32]]:
    sides = zip(grid.origin_xyz, grid.spacing_xyz, grid.size_xyz, strict=True)
    x, y, z = (
        np.float32(origin) + np.float32(step) * np.arange(count, dtype=np.float32) for origin, step, count in sides
    )
    return [x[None, None], y[None, :, None], z[:, None, None]]


def _body(grid: Grid, length_mm: float) -> NDArray[np.bool_]:
    x, y, z = _axes(grid)
    shoulders, chin = length_mm - 300, length_mm - 200
    trunk = ((x / 190) ** 2 + (y / 120) ** 2 < 1) & (z < shoulders)
    neck = (x**2 + y**2 < 60**2) & (z >= shoulders) & (z < chin)
    return trunk | neck | _ball(grid, (0, 0, length_mm - 110), 95)


def _ball(grid: Grid, center_xyz: tuple[float, float, float], radius_mm: float) -> NDArray[np.bool_]:
    x, y, z = (axis - center for axis, center in zip(_axes(grid), center_xyz, strict=True))
    inside: NDArray[np.bool_] = x**2 + y**2 + z**2 < radius_mm**2
    return inside


def _radius_mm(volume_ml: float) -> float:
    return float(np.cbrt(volume_ml * 1000 * 3 / 4 / np.pi))
