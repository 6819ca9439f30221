"""Each row of docs/odd-patients.md: an odd patient has a defined answer, and flags that say what is odd.

The patients are answered by the whole pipeline with two small untrained models, which find the lesion of the standard
head unless their thresholds are out of reach.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mmpl.case import Case, ClinicalRecord, Grid, Image
from mmpl.geometry import index_to_mm
from mmpl.integration import CLINICAL_ASSUMED
from mmpl.names import Label
from mmpl.pipeline import PatientResult, Pipeline
from mmpl.preprocess import FIELD_OF_VIEW_CUT, HEAD_NOT_FOUND, NO_PET_SIGNAL, prepare
from mmpl.profile import load_profile
from mmpl.radiomics import extract
from mmpl.segmentation import NO_LESION, Thresholds, clean, compose, restore
from mmpl.units import NOT_HU, NOT_SUV, SHIFTED, UNWRAPPED, check_units
from mmpl.weights import load_ensemble

DOCUMENT = Path(__file__).parents[2] / "docs/odd-patients.md"


def shape_of(image: Image, size: tuple[int, int, int], spacing: tuple[float, float, float]) -> Grid:
    """Another grid around the same middle."""
    middle = index_to_mm(image.grid, (np.array(image.grid.size_xyz) - 1) / 2)
    origin = middle - (np.array(size) - 1) * spacing / 2
    return Grid(size, spacing, tuple(origin.tolist()))


def redraw(image: Image, grid: Grid) -> Image:
    """The same picture on another grid, by nearest neighbor, its border repeated outside."""
    places = index_to_mm(grid, np.stack(np.meshgrid(*map(np.arange, grid.size_xyz), indexing="ij"), axis=-1))
    index = np.rint((places - image.grid.origin_xyz) / image.grid.spacing_xyz).astype(int)
    x, y, z = (np.clip(index[..., i], 0, n - 1) for i, n in enumerate(image.grid.size_xyz))
    return Image(np.ascontiguousarray(image.voxels[z, y, x].T), grid)


def with_length(case: Case, length_mm: float, slice_mm: float = 5.0) -> Case:
    """The head at the top of a scan of another length: below it lies what the last slice showed."""
    images = []
    for image in (case.ct, case.pet):
        x, y, z = image.grid.size_xyz
        step = image.grid.spacing_xyz[2]
        top = image.grid.origin_xyz[2] + (z - 1) * step
        count = max(2, round(length_mm / slice_mm))
        grid = replace(
            image.grid,
            size_xyz=(x, y, count),
            spacing_xyz=(*image.grid.spacing_xyz[:2], slice_mm),
            origin_xyz=(*image.grid.origin_xyz[:2], top - (count - 1) * slice_mm),
        )
        images.append(redraw(image, grid))
    return replace(case, ct=images[0], pet=images[1], reference=None)


def change_ct(change: Callable[[NDArray], NDArray]) -> Callable[[Case], Case]:
    return lambda case: replace(case, ct=replace(case.ct, voxels=change(case.ct.voxels)), reference=None)


def change_pet(change: Callable[[NDArray], NDArray]) -> Callable[[Case], Case]:
    return lambda case: replace(case, pet=replace(case.pet, voxels=change(case.pet.voxels)))


def fill_corners(ct: NDArray) -> NDArray:
    filled = ct.copy()
    filled[:, :4], filled[:, -4:] = -3024, -3024
    return filled


def add_metal(ct: NDArray) -> NDArray:
    metal = ct.copy()
    metal[20:23, 20:23, 20:23] = 30000
    return metal


def upside_down(case: Case) -> Case:
    """The file runs from the head down; its header says so."""

    def turned(image: Image) -> Image:
        grid, last = image.grid, (image.grid.size_xyz[2] - 1) * image.grid.spacing_xyz[2]
        direction = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
        origin = (*grid.origin_xyz[:2], grid.origin_xyz[2] + last)
        return Image(np.ascontiguousarray(image.voxels[::-1]), replace(grid, origin_xyz=origin, direction=direction))

    return replace(case, ct=turned(case.ct), pet=turned(case.pet), reference=None)


@dataclass(frozen=True)
class Odd:
    """One patient: how it differs from the standard head, and the flags that must and must not stand."""

    name: str
    change: Callable[[Case], Case]
    flags: tuple[str, ...] = ()


PATIENTS = [
    Odd("PET all zero", change_pet(np.zeros_like), (HEAD_NOT_FOUND, NO_PET_SIGNAL)),
    Odd("PET constant", change_pet(lambda pet: np.full_like(pet, 2.0)), (HEAD_NOT_FOUND, NO_PET_SIGNAL)),
    Odd("PET in Bq/ml", change_pet(lambda pet: pet * 3000), (NOT_SUV,)),
    Odd("CT filled with -3024", change_ct(fill_corners)),
    Odd("CT wrapped", change_ct(lambda ct: ct.view(np.uint16)), (UNWRAPPED,)),
    Odd("CT wrapped, then floats", change_ct(lambda ct: ct.view(np.uint16).astype(np.float32)), (UNWRAPPED,)),
    Odd("CT without its intercept", change_ct(lambda ct: (ct + 1024).astype(np.uint16)), (SHIFTED,)),
    Odd("CT in no scale", change_ct(lambda ct: ct.astype(np.int32) * 3), (NOT_HU,)),
    Odd("metal", change_ct(add_metal)),
    Odd("head at the other end", upside_down),
    Odd("150 mm", lambda case: with_length(case, 150.0), (FIELD_OF_VIEW_CUT,)),
    Odd("1330 mm", lambda case: with_length(case, 1330.0)),
    Odd("2 m", lambda case: with_length(case, 2000.0)),
    Odd("slices of 0.3 mm", lambda case: with_length(case, 200.0, 0.3)),
    Odd("slices of 5 mm", lambda case: with_length(case, 200.0, 5.0)),
    Odd("an empty record", lambda case: replace(case, clinical=ClinicalRecord({}, ("nothing given",)), reference=None),
        (CLINICAL_ASSUMED,)),
]  # fmt: skip
EXPECTED_ONLY_THEN = {HEAD_NOT_FOUND, NO_PET_SIGNAL, NOT_HU, NOT_SUV, SHIFTED, UNWRAPPED, CLINICAL_ASSUMED}


@cache
def pipeline(weights: Path) -> Pipeline:
    return Pipeline(load_ensemble(weights), torch.device("cpu"))


def check(result: PatientResult, case: Case) -> None:
    """Assert that all three answers are there and can be written."""
    hpv, survival = result.hpv, result.survival
    assert hpv is not None
    assert survival is not None
    assert result.segmentation.mask.grid == case.ct.grid
    assert set(np.unique(result.segmentation.mask.voxels)) <= set(Label)
    assert 0 <= hpv.probability <= 1
    assert np.isfinite(survival.risk_score)
    assert np.isfinite(survival.member_curves).all()


@pytest.mark.parametrize("odd", PATIENTS, ids=lambda odd: odd.name)
def test_an_odd_patient_is_answered_and_flagged(odd: Odd, head: Case, tiny_ensemble: Path) -> None:
    case = check_units(odd.change(replace(head, reference=None)))
    result = pipeline(tiny_ensemble)(case)
    check(result, case)
    flags = {CLINICAL_ASSUMED if flag.startswith(f"{CLINICAL_ASSUMED}: Age") else flag for flag in result.flags}
    assert set(odd.flags) <= flags
    assert not (EXPECTED_ONLY_THEN - set(odd.flags)) & flags
    if NO_PET_SIGNAL in odd.flags:
        return
    tumor = np.argwhere(result.segmentation.mask.voxels > 0)[:, ::-1]
    assert len(tumor), "the lesion is lost"
    middle = index_to_mm(case.ct.grid, tumor.mean(axis=0))
    if "mm" not in odd.name and " m" not in odd.name:
        np.testing.assert_allclose(middle, (25, -20, 30), atol=12)


def test_neither_primary_nor_node(head: Case, blind_ensemble: Path) -> None:
    result = pipeline(blind_ensemble)(head)
    check(result, head)
    assert NO_LESION in result.flags
    assert result.gtvp_ml == result.gtvn_ml == 0


@pytest.mark.parametrize("absent", [Label.GTVP, Label.GTVN])
def test_no_primary_or_no_node(absent: Label, head: Case, tiny_ensemble: Path) -> None:
    whole = pipeline(tiny_ensemble)
    thresholds = whole.ensemble.thresholds
    unreachable = replace(thresholds, **{absent.name.lower(): 1.1})
    one = Pipeline(replace(whole.ensemble, thresholds=unreachable), whole.device)
    result = one(head)
    check(result, head)
    assert NO_LESION not in result.flags
    assert absent not in result.segmentation.mask.voxels
    settings = whole.ensemble.profile.radiomics
    table = extract(head.ct, head.pet, result.segmentation.mask, settings, [f"{absent.name.lower()}_absent"])
    assert table.values.tolist() == [[1]]


def lesion_case(box: tuple[slice, slice, slice]) -> tuple[Case, Image]:
    grid = Grid((40, 40, 40), (1.0, 1.0, 3.0), (0.0, 0.0, 0.0))
    rng, mask = np.random.default_rng(0), np.zeros((40, 40, 40), np.uint8)
    mask[box] = Label.GTVN
    ct = Image(rng.normal(40, 15, mask.shape).astype(np.float32), grid)
    pet = Image(rng.uniform(1, 6, mask.shape).astype(np.float32), grid)
    return Case("P", ct, pet, ClinicalRecord()), Image(mask, grid)


@pytest.mark.parametrize(
    ("name", "box", "has_texture"),
    [
        ("one voxel", np.s_[20:21, 20:21, 20:21], None),
        ("one slice", np.s_[20:21, 15:25, 15:25], True),
        ("a line", np.s_[20:21, 20:21, 5:35], None),
        ("at the border of the image", np.s_[0:3, 0:8, 0:8], True),
    ],
)
def test_tiny_lesions_have_missing_features_but_no_error(name: str, box: tuple, has_texture: bool | None) -> None:
    case, mask = lesion_case(box)
    table = extract(case.ct, case.pet, mask, load_profile("micro").radiomics)
    assert table.read(["gtvn_absent", "gtvp_absent"]).tolist() == [[0, 1]], name
    measured = table.read([feature for feature in table.names if "_gtvn_" in feature])
    assert np.isfinite(measured).any() or has_texture is None, name


@pytest.mark.parametrize(("voxels", "kept"), [(49, False), (50, True)])
def test_lesions_under_fifty_voxels_are_removed(voxels: int, kept: bool) -> None:
    mask = np.zeros((12, 12, 12), np.uint8)
    mask[5].flat[:voxels] = Label.GTVN
    assert clean(mask, 50).any() == kept


def test_a_lesion_at_the_border_of_the_patch_stays_on_it(head: Case, tiny_ensemble: Path) -> None:
    settings = pipeline(tiny_ensemble).ensemble.profile
    prepared = prepare(head, settings.preprocess)
    probability = np.zeros_like(prepared.images)
    probability[0, :6, :, :] = 1.0
    mask = restore(probability, prepared.roi, prepared.ct_grid, Thresholds(0.5, 0.5), 50)
    assert (compose(probability, Thresholds(0.5, 0.5)) == Label.GTVP).any()
    places = index_to_mm(mask.grid, np.argwhere(mask.voxels.T == Label.GTVP))
    assert len(places) > 0
    low = np.array(prepared.roi.origin_xyz) - np.array(prepared.roi.spacing_xyz) / 2
    assert (places >= low - 1e-6).all()


def test_every_flag_of_the_table_exists() -> None:
    """The document names flags as the code writes them."""
    text = DOCUMENT.read_text()
    for flag in (
        HEAD_NOT_FOUND,
        NO_PET_SIGNAL,
        NOT_HU,
        NOT_SUV,
        SHIFTED,
        UNWRAPPED,
        FIELD_OF_VIEW_CUT,
        NO_LESION,
        CLINICAL_ASSUMED,
    ):
        assert f"`{flag}" in text
