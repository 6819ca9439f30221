"""A patient's PET/CT as the center's scanner sees it; deterministic by the patient's own seed."""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, gaussian_filter1d
from threadpoolctl import threadpool_limits

from mmpl.case import IDENTITY_DIRECTION, Case, ClinicalRecord, Grid, Image, Vector
from mmpl.names import Label
from mmpl.phantom.anatomy import AIR, Build, draw_anatomy, draw_build
from mmpl.phantom.centers import Center
from mmpl.phantom.latent import LatentPatient, center_of
from mmpl.phantom.lesions import Lesion, draw_lesions, paint_activity
from mmpl.phantom.scene import Axes, Canvas, Field, Pose
from mmpl.phantom.traps import Traps, cut_field, draw_trap_parts, overcorrect
from mmpl.schema import ClinicalSchema, default_schema

TOP_MM = 172.0
"""Height of the scene at which scans end, at the lowest."""

LONG_SCAN_MM, LONG_SLICE_MM, LONG_PIXEL_MM = (900.0, 1000.0), 4.5, 1.95
"""Shortest and longest scan that reaches the pelvis, and its CT's voxels, whatever the center."""

DENTAL_METAL = 0.35
"""Fraction of patients with metal in their teeth, besides those of the trap `dental`."""

FOLLOW_MM = 90.0
"""How far the field of view moves back with a head whose chin is up, times the sine of the tilt."""

FWHM_TO_SIGMA = 1.0 / 2.3548


@threadpool_limits.wrap(limits=1)  # the last bit of a matrix product depends on the number of threads
def render(patient: LatentPatient, with_reference: bool | None = None) -> Case:
    """Draw CT (int16, HU), PET (float32, SUV, its own grid) and label map (uint8, the CT's grid) of one patient.

    Args:
        with_reference: Whether the case carries its label map; by default, where the patient's mask is known.
    """
    center, traps = center_of(patient), patient.traps
    body_rng, lesion_rng, ct_rng, pet_rng, lung_rng, dental_rng = np.random.default_rng(patient.image_seed).spawn(6)
    build, pose = draw_build(body_rng), Pose(traps.turn_deg, traps.tilt_deg)
    vessel_hu = center.vessel_hu if traps.vessel_hu is None else traps.vessel_hu
    ct_axes, pet_axes = _draw_axes(body_rng, center, patient.long_scan, traps)
    bounds = [(float(axis[0]) - 10.0, float(axis[-1]) + 10.0) for axis in ct_axes]
    wobble, mottle = Field(body_rng, bounds, 18.0), Field(body_rng, bounds, 7.0)
    parts = draw_anatomy(body_rng, build, vessel_hu, patient.long_scan)
    parts += draw_trap_parts(lung_rng, build, traps)

    ct = Canvas(ct_axes, AIR, wobble, pose)
    for part in parts:
        ct.paint(part, part.hu)
    lesions = draw_lesions(lesion_rng, patient, build, ct, vessel_hu)
    _finish_ct(ct_rng, ct, mottle, build, center)
    crowns = _add_streaks(dental_rng, ct, build, strength=2.5) if traps.dental else []

    # the patient moved between the two scans: a PET voxel shows what lies a little beside it
    shift = pet_rng.normal(0.0, 1.2, 3).astype(np.float32)
    shifted = (pet_axes[0] + shift[0], pet_axes[1] + shift[1], pet_axes[2] + shift[2])
    pet = Canvas(shifted, 0.0, wobble, pose)
    for part in parts:
        pet.paint(part, part.suv)
    paint_activity(pet, ct_axes, lesions)
    for crown in crowns:
        overcorrect(pet, crown)
    if traps.field_cut_mm:
        cut_field(ct, pet)
    activity = _scan_pet(pet_rng, pet, mottle, center, traps)

    x, y, z = np.round(body_rng.uniform((-8, -180, -900), (8, -120, 200)), 1).tolist()
    isocenter_xyz = (x, y, z)
    keep = patient.mask_known if with_reference is None else with_reference
    return Case(
        patient.patient_id,
        _image(np.rint(np.clip(ct.values, -1024, 3071)).astype(np.int16), ct_axes, isocenter_xyz, center.flipped),
        _image(activity, pet_axes, isocenter_xyz, center.flipped),
        clinical_record(patient),
        _image(_label_map(ct.values.shape, lesions), ct_axes, isocenter_xyz, center.flipped) if keep else None,
    )


def clinical_record(patient: LatentPatient, schema: ClinicalSchema | None = None) -> ClinicalRecord:
    """Read the patient's clinical fields as from the released table, where a missing one is blank."""
    return (schema or default_schema()).read(
        {column: "" if value is None else value for column, value in patient.clinical.items()}
    )


def _draw_axes(rng: np.random.Generator, center: Center, long_scan: bool, traps: Traps) -> tuple[Axes, Axes]:
    """Choose the voxel centers of CT and PET; the PET reaches a little beyond the CT sideways, not always in length."""
    length = rng.uniform(*(LONG_SCAN_MM if long_scan else center.length_mm))
    pixel, slice_mm = (LONG_PIXEL_MM, LONG_SLICE_MM) if long_scan else (center.ct_pixel_mm, center.ct_slice_mm)
    top = TOP_MM + rng.uniform(0.0, 12.0)
    moved_xy = np.array((traps.field_cut_mm, FOLLOW_MM * np.sin(np.deg2rad(traps.tilt_deg))))
    middle_xy = rng.normal((0.0, 12.0), 4.0) + moved_xy
    ct = _axes(middle_xy, top, (center.ct_matrix, round(length / slice_mm)), (pixel, slice_mm))
    field_mm = center.ct_matrix * pixel * 1.12
    matrix = (int(np.ceil(field_mm / center.pet_pixel_mm)), round(length / center.pet_slice_mm))
    pet_middle = middle_xy + rng.uniform(-2.0, 2.0, 2)
    pet = _axes(pet_middle, top + rng.uniform(-5.0, 5.0), matrix, (center.pet_pixel_mm, center.pet_slice_mm))
    return ct, pet


def _axes(middle_xy: NDArray, top: float, count: tuple[int, int], spacing: tuple[float, float]) -> Axes:
    in_plane = (np.arange(count[0]) - (count[0] - 1) / 2) * spacing[0]
    z = top - (count[1] - 1 - np.arange(count[1])) * spacing[1]
    return (
        z.astype(np.float32),
        (in_plane + middle_xy[1]).astype(np.float32),
        (in_plane + middle_xy[0]).astype(np.float32),
    )


def _finish_ct(rng: np.random.Generator, ct: Canvas, mottle: Field, build: Build, center: Center) -> None:
    """Add tissue mottle, dental metal with its streaks, and noise that is correlated in the plane."""
    values = ct.values
    values += 7.0 * mottle(ct.axes) * (values > -300.0)
    if rng.random() < DENTAL_METAL:
        _add_streaks(rng, ct, build, strength=1.0)
    noise = rng.standard_normal(values.shape, dtype=np.float32)
    noise[:, 1:] += noise[:, :-1].copy()
    noise[:, :, 1:] += noise[:, :, :-1].copy()
    values += noise * np.float32(center.ct_noise_hu / 2.0)


def _add_streaks(rng: np.random.Generator, ct: Canvas, build: Build, strength: float) -> list[Vector]:
    """Put one to four crowns on the teeth, with bright and dark rays in their slices; give where they are."""
    crowns = []
    for _ in range(rng.integers(1, 5)):
        angle = rng.uniform(-1.1, 1.1)
        crown = build.place((38.0 * np.sin(angle), -28.0 - 45.0 * np.cos(angle), rng.choice((15.0, 22.0))))
        crowns.append(ct.pose.seen(crown))
        x0, y0, z0 = crowns[-1]
        inside = np.flatnonzero(np.abs(ct.axes[0] - z0) < 4.0)
        y, x = ct.axes[1][:, None] - y0, ct.axes[2][None, :] - x0
        radius = np.hypot(x, y)
        rays = np.cos(rng.integers(5, 10) * np.arctan2(y, x) + rng.uniform(0.0, 6.3)) ** 3
        plane = strength * rng.uniform(150.0, 450.0) * rays * np.exp(-radius / 35.0)
        for index in inside:
            ct.values[index] += plane * rng.uniform(0.6, 1.0)
            ct.values[index][radius < 4.0] = 3000.0
    return crowns


def _scan_pet(
    rng: np.random.Generator, pet: Canvas, mottle: Field, center: Center, traps: Traps
) -> NDArray[np.float32]:  # fmt: skip
    """Blur by the point spread, add noise that grows with the root of the activity, and calibrate."""
    psf_mm = traps.pet_fwhm_mm or center.psf_mm
    spacing = [float(axis[1] - axis[0]) for axis in pet.axes]
    sigma = [psf_mm * FWHM_TO_SIGMA / step for step in spacing]
    activity = gaussian_filter(pet.values * (1.0 + 0.1 * mottle(pet.axes)), sigma, mode="nearest", truncate=3.0)
    noise = rng.standard_normal(activity.shape, dtype=np.float32)
    for axis, step in enumerate(spacing):
        width = traps.noise_fwhm_mm * FWHM_TO_SIGMA / step
        noise = gaussian_filter1d(noise, width, axis=axis, truncate=3.0)
    noise *= center.pet_noise * traps.noise_factor / float(noise.std())
    activity = activity + noise * np.sqrt(np.maximum(activity, 0.05))
    return (np.maximum(activity, 0.0) * center.suv_factor).astype(np.float32)


def _label_map(shape: tuple[int, ...], lesions: list[Lesion]) -> NDArray[np.uint8]:
    labels = np.full(shape, Label.BACKGROUND, dtype=np.uint8)
    for lesion in lesions:
        labels[lesion.box][lesion.mask] = lesion.label
    return labels


def _image(voxels: NDArray, axes: Axes, isocenter_xyz: Vector, flipped: bool) -> Image:
    """Attach the geometry; a flipped file runs from left to right and from back to front."""
    z, y, x = axes
    spacing = (_step(x), _step(y), _step(z))
    corner, direction = (float(x[0]), float(y[0]), float(z[0])), IDENTITY_DIRECTION
    if flipped:
        voxels = np.ascontiguousarray(voxels[:, ::-1, ::-1])
        corner, direction = (float(x[-1]), float(y[-1]), float(z[0])), (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)
    x0, y0, z0 = (round(start + offset, 3) for start, offset in zip(corner, isocenter_xyz, strict=True))
    return Image(voxels, Grid((x.size, y.size, z.size), spacing, (x0, y0, z0), direction))


def _step(axis: NDArray) -> float:
    return round(float((axis[-1] - axis[0]) / (axis.size - 1)), 4)
