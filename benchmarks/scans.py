"""Scans of any size: a body with a warm head, a primary and nodes in the neck; quick to draw, nothing to learn from."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmpl.case import Case, ClinicalRecord, Grid, Image
from mmpl.geometry import Interpolation, resample
from mmpl.io.images import write_image
from mmpl.names import Column, Label
from mmpl.phantom.cohort import MemoryCohort
from mmpl.schema import default_schema

NECK_MM = 230.0
"""From the top of the scan to the middle of the lesions."""
_SYNTHETIC_SEED = 5
NOISE_HU, NOISE_SUV = 15.0, 0.1
"""Standard deviation of the noise: of CT, and of PET as a share of the uptake."""


def draw_scan(
    length_mm: float, ct_pixels: int = 512, pet_pixels: int = 200, slice_mm: float = 2.0, noise: int | None = None
) -> Case:
    """Draw a scan that starts at the top of the head.

    Args:
        length_mm: Length of the scan.
        ct_pixels, pet_pixels: Pixels along each side of a slice.
        slice_mm: Distance of the slices.
        noise: Seed of noise, with which files compress as real ones do; None for none.
    """
    slices = round(length_mm / slice_mm)
    ct_grid = _centered((ct_pixels, ct_pixels, slices), (500 / ct_pixels, 500 / ct_pixels, slice_mm))
    pet_grid = _centered((pet_pixels, pet_pixels, slices), (660 / pet_pixels, 660 / pet_pixels, slice_mm))
    ct = np.full(ct_grid.shape_zyx, -1000, np.int16)
    ct[_body(ct_grid, length_mm)] = 40
    pet = _body(pet_grid, length_mm).astype(np.float32)
    pet[_ball(pet_grid, (0, 0, length_mm - 110), 80)] = 6
    for _, center, radius_mm in _lesions(length_mm):
        pet[_ball(pet_grid, center, radius_mm)] = 12
    if noise is not None:
        rng = np.random.default_rng(noise)
        ct += (NOISE_HU * rng.standard_normal(ct.shape, np.float32)).astype(np.int16)
        pet *= 1 + NOISE_SUV * rng.standard_normal(pet.shape, np.float32)
    return Case("drawn", Image(ct, ct_grid), Image(pet, pet_grid), ClinicalRecord())


def draw_synthetic(noise: int, slices: int = 150) -> Case:
    """Take a patient of the synthetic cohort, whose lesions the shipped models find, at the size of a real scan.

    Args:
        noise: Number of the patient, and seed of the noise.
        slices: Slices of 512 x 512 (CT) and 200 x 200 (PET).
    """
    patients = MemoryCohort.draw(noise + 1, _SYNTHETIC_SEED, version=2)
    case, rng = patients.read_case(patients.patients[noise].patient_id), np.random.default_rng(noise)
    ct_grid, pet_grid = (_finer(image.grid, (n, n, slices)) for image, n in ((case.ct, 512), (case.pet, 200)))
    ct = resample(case.ct, ct_grid, Interpolation.LINEAR, -1000.0)
    pet = resample(case.pet, pet_grid, Interpolation.LINEAR, 0.0)
    ct += NOISE_HU * rng.standard_normal(ct.shape, np.float32) * (ct > -900)
    pet *= 1 + NOISE_SUV * rng.standard_normal(pet.shape, np.float32)
    reference = case.reference
    if reference:
        labels = resample(reference, ct_grid, Interpolation.NEAREST, 0.0).astype(np.uint8)
        reference = Image(labels, ct_grid)
    return replace(case, ct=Image(ct.round().astype(np.int16), ct_grid), pet=Image(pet, pet_grid), reference=reference)


def _finer(grid: Grid, size_xyz: tuple[int, int, int]) -> Grid:
    spacing = np.array(grid.spacing_xyz) * grid.size_xyz / size_xyz
    return replace(grid, size_xyz=size_xyz, spacing_xyz=tuple(spacing.tolist()))


def draw_reference(scan: Case) -> Image:
    """Draw the label map of a drawn scan's lesions, on its CT's grid."""
    grid = scan.ct.grid
    labels = np.zeros(grid.shape_zyx, np.uint8)
    for label, center, radius_mm in _lesions(grid.size_xyz[2] * grid.spacing_xyz[2]):
        labels[_ball(grid, center, radius_mm)] = label
    return Image(labels, grid)


def write_scans(folder: Path, count: int, draw: Callable[..., Case]) -> list[str]:
    """Write a cohort as released, with reference masks, each scan with noise of its own; the patients' names.

    Args:
        folder: Cohort's folder.
        count: Number of patients.
        draw: Function that draws a scan, given the seed of its noise as `noise`.
    """
    folder.mkdir()
    names = [f"P-{number:04d}" for number in range(count)]
    for seed, name in enumerate(names):
        scan = draw(noise=seed)
        for ending, image in (("__CT", scan.ct), ("__PT", scan.pet), ("", scan.reference or draw_reference(scan))):
            write_image(folder / f"{name}{ending}.nii.gz", image)
    write_table(folder, names)
    return names


def write_table(folder: Path, names: Sequence[str]) -> None:
    """Write a cohort's table that says nothing of its patients but their names."""
    with (folder / "cohort.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, [*Column, *default_schema().names])
        table.writeheader()
        table.writerows({Column.PATIENT_ID: name} for name in names)


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


def _lesions(length_mm: float) -> tuple[tuple[Label, tuple[float, float, float], float], ...]:
    """Give class, center and radius, mm, of each lesion of a scan."""
    neck = length_mm - NECK_MM
    return (Label.GTVP, (10.0, 0.0, neck), 17.0), (Label.GTVN, (45.0, 0.0, neck - 30), 10.5)


def _ball(grid: Grid, center_xyz: tuple[float, float, float], radius_mm: float) -> NDArray[np.bool_]:
    x, y, z = (axis - center for axis, center in zip(_axes(grid), center_xyz, strict=True))
    inside: NDArray[np.bool_] = x**2 + y**2 + z**2 < radius_mm**2
    return inside


def _radius_mm(volume_ml: float) -> float:
    return float(np.cbrt(volume_ml * 1000 * 3 / 4 / np.pi))
