"""Where a patient lies in space, and in which order a file stores it, must not matter: properties on small phantoms.

The network is replaced by a threshold on the patch's PET, so that a mask depends on geometry and on nothing else. All
of it runs through `prepare`, `segment` and the way back, as a patient does.
"""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor, nn

from mmpl.case import Case, ClinicalRecord, Grid, Image
from mmpl.geometry import index_to_mm
from mmpl.names import Label
from mmpl.phantom.latent import draw_patients
from mmpl.phantom.render import render
from mmpl.preprocess import prepare
from mmpl.processor import Processor
from mmpl.profile import load_profile
from mmpl.segmentation import Segmentation, Thresholds, restore, segment

PROFILE = load_profile("micro")
CPU = torch.device("cpu")
LESION_XYZ, LESION_MM = np.array([22.0, -15.0, 20.0]), 16.0
BODY_XYZ, BODY_MM = np.array([0.0, 0.0, 0.0]), 70.0
EXAMPLES = 60

mm = st.floats(-400, 400, allow_nan=False)
spacings = st.tuples(*[st.floats(1.5, 6.0)] * 3)
orders = st.sampled_from(list(itertools.permutations(range(3))))
signs = st.tuples(*[st.sampled_from((1, -1))] * 3)


class HotSpots(nn.Module):
    """GTVp where the PET is far above the patch's mean, GTVn nowhere."""

    def forward(self, images: Tensor) -> Tensor:
        hot = 8 * (images[:, 1:] - 2.5)
        return torch.cat([hot, torch.full_like(hot, -9.0)], dim=1)


def ball(grid: Grid, center: NDArray, radius_mm: float) -> NDArray[np.float32]:
    """How much of each voxel lies in a ball, soft at its surface over one voxel."""
    places = index_to_mm(grid, np.stack(np.meshgrid(*map(np.arange, grid.size_xyz), indexing="ij"), axis=-1))
    depth = radius_mm - np.linalg.norm(places - center, axis=-1)
    return np.clip(depth / np.mean(grid.spacing_xyz) + 0.5, 0, 1).T.astype(np.float32)


def grid_around(center: NDArray, half_mm: NDArray, spacing: tuple[float, float, float], direction: NDArray) -> Grid:
    """A grid of some spacing and direction whose middle lies at a place."""
    size = np.maximum(np.ceil(2 * np.abs(half_mm) / spacing), 4).astype(int)
    origin = center - direction @ ((size - 1) * np.array(spacing) / 2)
    return Grid(
        tuple(size.tolist()), tuple(map(float, spacing)), tuple(origin.tolist()), tuple(direction.ravel().tolist())
    )


def draw_case(ct: Grid, pet: Grid, shift: NDArray | None = None) -> Case:
    """A warm ball of a body with a hot ball of a lesion, on any two grids."""
    moved = np.zeros(3) if shift is None else shift
    anatomy = 40 * ball(ct, BODY_XYZ + moved, BODY_MM) - 1000 * (1 - ball(ct, BODY_XYZ + moved, BODY_MM))
    activity = ball(pet, BODY_XYZ + moved, BODY_MM) + 14 * ball(pet, LESION_XYZ + moved, LESION_MM)
    return Case("P", Image(np.rint(anatomy).astype(np.int16), ct), Image(activity, pet), ClinicalRecord())


def answer(case: Case) -> Segmentation:
    prepared = prepare(case, PROFILE.preprocess)
    settings_ = PROFILE.inference.model_copy(update={"minimum_component_voxels": 0})
    return segment(prepared, [HotSpots()], Thresholds(0.5, 0.5), settings_, Processor(CPU))


def dice(one: NDArray, other: NDArray) -> float:
    return 2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other))


def standard_case(shift: NDArray | None = None) -> Case:
    middle = np.zeros(3) if shift is None else shift
    ct = grid_around(middle, np.full(3, 85.0), (3.0, 3.0, 4.0), np.eye(3))
    pet = grid_around(middle + 1.3, np.full(3, 88.0), (4.0, 4.0, 3.5), np.eye(3))
    return draw_case(ct, pet, shift)


STANDARD = standard_case()
STANDARD_MASK = answer(STANDARD).mask.voxels == Label.GTVP


def reorder(image: Image, order: tuple[int, ...], sign: tuple[int, ...]) -> Image:
    """Store the same volume with its index axes permuted and reversed; the geometry says so."""
    direction, grid = np.reshape(image.grid.direction, (3, 3)), image.grid
    size, spacing = np.take(grid.size_xyz, order), np.take(grid.spacing_xyz, order)
    turned = direction[:, list(order)] * sign
    first = np.zeros(3)
    for axis, source in enumerate(order):
        first[source] = 0 if sign[axis] > 0 else grid.size_xyz[source] - 1
    voxels = image.voxels.transpose([2 - order[2 - axis] for axis in range(3)])
    voxels = voxels[tuple(slice(None, None, sign[2 - axis]) for axis in range(3))]
    return Image(
        np.ascontiguousarray(voxels),
        Grid(
            tuple(size.tolist()),
            tuple(spacing.tolist()),
            tuple(index_to_mm(grid, first).tolist()),
            tuple(turned.ravel().tolist()),
        ),
    )


def test_the_standard_case_is_found() -> None:
    assert dice(STANDARD_MASK, ball(STANDARD.ct.grid, LESION_XYZ, LESION_MM) > 0.5) > 0.8


@settings(max_examples=EXAMPLES, deadline=None)
@given(order=orders, sign=signs, pet_order=orders, pet_sign=signs)
def test_the_order_of_a_files_axes_changes_nothing(order: Any, sign: Any, pet_order: Any, pet_sign: Any) -> None:
    ct, pet = reorder(STANDARD.ct, order, sign), reorder(STANDARD.pet, pet_order, pet_sign)
    mask = answer(replace(STANDARD, ct=ct, pet=pet)).mask
    assert mask.grid == ct.grid
    expected = reorder(Image(STANDARD_MASK, STANDARD.ct.grid), order, sign)
    np.testing.assert_array_equal(mask.voxels == Label.GTVP, expected.voxels)


@settings(max_examples=EXAMPLES, deadline=None)
@given(x=mm, y=mm, z=mm)
def test_moving_both_images_moves_the_mask_and_changes_nothing_else(x: float, y: float, z: float) -> None:
    def moved(image: Image) -> Image:
        origin = np.add(image.grid.origin_xyz, (x, y, z))
        return replace(image, grid=replace(image.grid, origin_xyz=tuple(origin.tolist())))

    case = replace(STANDARD, ct=moved(STANDARD.ct), pet=moved(STANDARD.pet))
    found = answer(case)
    assert found.mask.grid == case.ct.grid
    assert dice(found.mask.voxels == Label.GTVP, STANDARD_MASK) > 0.999  # a voxel on the very threshold may turn
    assert found.flags == answer(STANDARD).flags


@settings(max_examples=EXAMPLES, deadline=None)
@given(ct_spacing=spacings, pet_spacing=spacings, x=st.floats(-8, 8), y=st.floats(-8, 8), z=st.floats(-8, 8))
def test_grids_and_origins_of_their_own_find_the_same_lesion(
    ct_spacing: Any, pet_spacing: Any, x: float, y: float, z: float
) -> None:
    ct = grid_around(np.zeros(3), np.full(3, 85.0), ct_spacing, np.eye(3))
    pet = grid_around(np.array([x, y, z]), np.full(3, 95.0), pet_spacing, np.eye(3))
    case = draw_case(ct, pet)
    found = answer(case).mask
    assert found.grid == ct
    assert dice(found.voxels == Label.GTVP, ball(ct, LESION_XYZ, LESION_MM) > 0.5) > 0.75


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    angles=st.tuples(*[st.floats(-25, 25)] * 3),
    pet_angles=st.one_of(st.none(), st.tuples(*[st.floats(-25, 25)] * 3)),
)
def test_oblique_images_find_the_same_lesion(angles: Any, pet_angles: Any) -> None:
    direction = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    other = direction if pet_angles is None else Rotation.from_euler("xyz", pet_angles, degrees=True).as_matrix()
    ct = grid_around(np.zeros(3), np.full(3, 85.0), (3.0, 3.0, 4.0), direction)
    pet = grid_around(np.zeros(3), np.full(3, 90.0), (4.0, 4.0, 3.5), other)
    case = draw_case(ct, pet)
    found = answer(case).mask
    assert found.grid == ct  # its direction to the last bit
    assert dice(found.voxels == Label.GTVP, ball(ct, LESION_XYZ, LESION_MM) > 0.5) > 0.75


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    pet_half=st.tuples(*[st.floats(60, 130)] * 3),
    x=st.floats(-40, 40),
    y=st.floats(-40, 40),
    z=st.floats(-40, 40),
)
def test_a_pet_that_covers_more_or_less_than_the_ct_finds_what_both_show(
    pet_half: Any, x: float, y: float, z: float
) -> None:
    ct = grid_around(np.zeros(3), np.full(3, 85.0), (3.0, 3.0, 4.0), np.eye(3))
    pet = grid_around(np.array([x, y, z]), np.array(pet_half), (4.0, 4.0, 3.5), np.eye(3))
    low, high = np.array([x, y, z]) - pet_half, np.array([x, y, z]) + pet_half
    assume(((low + 6 < LESION_XYZ - LESION_MM) & (high - 6 > LESION_XYZ + LESION_MM)).all())  # the lesion is on it
    assume((np.minimum(high, 85) - np.maximum(low, -85) > 90).all())
    case = draw_case(ct, pet)
    found = answer(case).mask
    assert found.grid == ct
    assert dice(found.voxels == Label.GTVP, ball(ct, LESION_XYZ, LESION_MM) > 0.5) > 0.7
    outside = index_to_mm(ct, np.argwhere(found.voxels.T == Label.GTVP))
    assert ((outside > low - 4) & (outside < high + 4)).all()  # nothing where there is no PET


@pytest.mark.parametrize(("name", "least"), [("paper", 0.97), ("demo", 0.90)])
def test_a_true_mask_comes_back(name: str, least: float) -> None:
    """At lesion volumes above 2 ml: mean Dice of the mask that went in and the one that came out."""
    profile = load_profile(name)
    scores = []
    for patient in draw_patients(6, 77):
        case = render(replace(patient, long_scan=False), with_reference=True)
        assert case.reference is not None
        prepared = prepare(case, profile.preprocess)
        assert prepared.labels is not None
        back = restore(prepared.labels, prepared.roi, prepared.ct_grid, Thresholds(0.5, 0.5), 50).voxels
        for label in (Label.GTVP, Label.GTVN):
            truth = case.reference.voxels == label
            if truth.sum() * case.ct.grid.voxel_ml > 2:
                scores.append(dice(truth, back == label))
    assert len(scores) > 5
    assert np.mean(scores) >= least
