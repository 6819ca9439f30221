"""Numbers that are not HU or SUV: what is checked, what is flagged, and what then becomes of the features."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cohorts import CT_GRID, PET_GRID, ROW, write_images, write_table

from mmpl.case import Case, ClinicalRecord, Grid, Image, InvalidInputError
from mmpl.io.cohort import read_cohort
from mmpl.io.images import write_image
from mmpl.profile import load_profile
from mmpl.radiomics import extract, measure_lesions
from mmpl.units import NOT_HU, NOT_SUV, SHIFTED, UNWRAPPED, check_units

GRID = Grid((4, 4, 4), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))


def make_case(ct: np.ndarray, pet: np.ndarray) -> Case:
    return Case("A", Image(ct, GRID), Image(pet, GRID), ClinicalRecord())


def fill(value: float, dtype: type = np.float32) -> np.ndarray:
    return np.full(GRID.shape_zyx, value, dtype)


def body(dtype: type = np.int16) -> np.ndarray:
    """A quarter of air, the rest soft tissue, one voxel of bone."""
    hu = fill(40, dtype)
    hu[0] = -1000
    hu[1, 0] = -990
    hu[3, 3, 3] = 1200
    return hu


TYPES = [np.int16, np.int32, np.float32, np.float64]


@pytest.mark.parametrize("dtype", TYPES)
def test_a_sound_case_is_left_as_it_is(dtype: type) -> None:
    case = make_case(body(dtype), fill(1.5))
    checked = check_units(case)
    assert checked.flags == ()
    assert checked.pet_is_suv
    assert checked.ct.voxels is case.ct.voxels  # no copy of a large scan


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.uint32, np.int64, np.float32, np.float64])
def test_negative_hu_that_lost_their_sign_come_back_in_any_type(dtype: type) -> None:
    checked = check_units(make_case(body().view(np.uint16).astype(dtype), fill(1.5)))
    np.testing.assert_array_equal(checked.ct.voxels, body())
    assert checked.flags == (UNWRAPPED,)


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.int32, np.float32])
@pytest.mark.parametrize("filled", [False, True])
def test_a_ct_without_its_intercept_comes_back(dtype: type, filled: bool) -> None:
    stored = (body(np.int32) + 1024).astype(dtype)
    filled &= dtype is not np.uint16
    if filled:
        stored[0, :2] = -2000  # what a scanner writes outside its field is not shifted
    checked = check_units(make_case(stored, fill(1.5)))
    expected = body().copy()
    if filled:
        expected[0, :2] = -1024
    np.testing.assert_array_equal(checked.ct.voxels, expected)
    assert checked.flags == (SHIFTED,)


@pytest.mark.parametrize(
    "ct",
    [
        (body(np.float32) + 1024) / 2224,
        np.clip((body(np.float32) + 160) / 400 * 255, 0, 255),
        fill(0),
        fill(40, np.int16),
        np.random.default_rng(0).uniform(0, 20, GRID.shape_zyx),  # a PET in its place
    ],
)
def test_a_ct_that_spans_too_little_is_refused(ct: np.ndarray) -> None:
    with pytest.raises(InvalidInputError, match="the CT is not in HU: its values go from"):
        check_units(make_case(ct, fill(1.5)))


@pytest.mark.parametrize("change", [lambda hu: hu * 3, lambda hu: hu + 5000, lambda hu: 9 * hu])
def test_any_other_scale_is_flagged(change: Callable[[np.ndarray], np.ndarray]) -> None:
    assert check_units(make_case(change(body(np.int32)), fill(1.5))).flags == (NOT_HU,)


def test_a_body_cut_out_of_its_air_is_no_other_scale() -> None:
    cut = np.maximum(body(), 0)
    cut[2] = -100
    assert check_units(make_case(cut, fill(1.5))).flags == ()


def patient(noise: float = 12.0) -> np.ndarray:
    """A neck in air, HU: fat round muscle, bone round an airway, and metal, with noise."""
    middle = np.linspace(-1, 1, 40)
    away = np.hypot(*np.meshgrid(middle, middle, indexing="ij"))
    slices = np.select([away < 0.1, away < 0.2, away < 0.55, away < 0.75], [-1000, 700, 50, -100], -1000)
    noisy = slices + np.random.default_rng(1).normal(0, noise, (10, *slices.shape))
    noisy[5, 20, 25] = 3600
    return np.rint(noisy).astype(np.int32)


def flags_of(ct: np.ndarray) -> tuple[str, ...]:
    grid = Grid(ct.shape[::-1], (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    pet = Image(np.full(ct.shape, 1.5, np.float32), grid)
    return check_units(Case("A", Image(ct, grid), pet, ClinicalRecord())).flags


def with_corners(hu: np.ndarray, value: int) -> np.ndarray:
    padded = hu.copy()
    padded[:, :8, :8] = value
    return padded


AIR_CUT = patient() > -300
TO_1000 = (1000 / 4024, 1000 / 2000)  # of HU from -1024 to 3000, and from -1000 to 1000


@pytest.mark.parametrize(
    "ct",
    [
        patient() / 2,
        *(np.clip((patient() + 1024) * scale, 0, 1000) for scale in TO_1000),
        *(np.clip((patient() + 1000) * scale, 0, 500) for scale in (0.07, 0.12, 0.25)),  # soft tissue at 74, 126, 262
        np.where(AIR_CUT, (patient() + 1000) * 0.07, 0),
        np.where(patient() < 0, patient() + 4096, patient()),  # wrapped at 12 bits
        np.where(AIR_CUT, patient(), 3096),
        *(np.clip(patient(), *window) for window in ((-160, 240), (-200, 300), (-100, 400), (0, 1000), (-450, 1050))),
        patient() + 1000,
        np.maximum(patient() + 1000, 0),
        np.maximum(patient(40) + 1000, 0),
        np.where(AIR_CUT, patient() + 1000, 0),
        -patient(),
        np.where(AIR_CUT, -patient(), 0),
        patient().max() - patient(),
        np.where(AIR_CUT, patient() / 2, 0) + 300 * (patient() > 650),
    ],
)
def test_a_ct_whose_tissues_are_not_where_hu_have_them_is_flagged(ct: np.ndarray) -> None:
    assert flags_of(ct) == (NOT_HU,)


def test_a_negated_ct_with_much_bone_is_flagged() -> None:
    bone = patient()
    bone[:, 18:22] += 1000 - bone[:, 18:22]  # which lies where air should, once negated
    assert flags_of(-bone) == (NOT_HU,)


@pytest.mark.parametrize(
    "ct",
    [
        patient(),
        patient(90),
        *(np.maximum(patient(30), lowest) for lowest in (-1000, -1024)),
        *(with_corners(patient(), value) for value in (-3024, -2000, -1024, 0)),
        np.where(AIR_CUT, patient(), -1000),
        np.where(AIR_CUT, patient(), 0),
        patient()[:, 12:28, 18:28],  # muscle and bone, and a little of the airway
        np.where(AIR_CUT, patient(), 50)[:, 14:26, 10:30],  # muscle, fat and bone alone
    ],
)
def test_an_ordinary_ct_is_not_flagged(ct: np.ndarray) -> None:
    assert flags_of(ct) == ()


@pytest.mark.parametrize("noise", [5, 12, 25])
@pytest.mark.parametrize("padded", [False, True])
def test_a_noisy_ct_without_its_intercept_comes_back(noise: float, padded: bool) -> None:
    stored = np.maximum(patient(noise) + 1024, 0)
    assert flags_of(with_corners(stored, 0) if padded else stored) == (SHIFTED,)


@pytest.mark.parametrize("dtype", TYPES)
def test_the_fill_of_the_corners_becomes_air(dtype: type) -> None:
    ct = body(dtype)
    ct[0, 0] = -3024
    checked = check_units(make_case(ct, fill(1.5)))
    assert checked.ct.voxels.dtype == dtype
    assert checked.ct.voxels.min() == -1024
    np.testing.assert_array_equal(checked.ct.voxels[1:], ct[1:])
    assert checked.flags == ()  # every scanner does it


@pytest.mark.parametrize(
    ("value", "flags"),
    [(0.0, ()), (1.5, ()), (15.0, ()), (99.0, ()), (4000.0, (NOT_SUV,)), (-500.0, (NOT_SUV,)), (1.0, (NOT_SUV,)),
     (0.4, (NOT_SUV,))],
)  # fmt: skip
def test_a_pet_that_cannot_be_in_suv_is_flagged(value: float, flags: tuple[str, ...]) -> None:
    checked = check_units(make_case(body(), fill(value)))
    assert checked.flags == flags
    assert checked.pet_is_suv == (not flags)


def test_a_pet_scaled_to_8_bits_is_flagged() -> None:
    scaled = np.arange(64).reshape(GRID.shape_zyx) ** 2 * 255 // 63**2
    for pet, flags in (
        (scaled.astype(np.uint8), (NOT_SUV,)),
        (scaled.astype(np.float32), (NOT_SUV,)),
        (scaled / 255, (NOT_SUV,)),
        (scaled * 0.1, ()),
        (np.minimum(scaled, 100), ()),
        (scaled * (254.9 / 255), ()),
    ):
        assert check_units(make_case(body(), pet)).flags == flags


def test_without_suv_the_pet_features_are_missing_and_the_others_are_not() -> None:
    grid = Grid((40, 40, 40), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0))
    mask = np.zeros(grid.shape_zyx, np.uint8)
    mask[15:25, 15:25, 15:25] = 1
    hu = np.random.default_rng(0).normal(40, 20, grid.shape_zyx).astype(np.float32)
    hu[:5] = -1000
    ct = Image(hu, grid)
    settings = load_profile("micro").radiomics
    table = extract(ct, None, Image(mask, grid), settings)
    assert table.read(["gtvp_absent"]) == 0
    assert np.isnan(table.read([name for name in table.names if name.startswith("pet_")])).all()
    assert np.isfinite(table.read(["ct_gtvp_original_firstorder_Mean"]))
    pet = Image(np.full(grid.shape_zyx, 4000.0, np.float32), grid)
    measured = measure_lesions(check_units(Case("A", ct, pet, ClinicalRecord())), Image(mask, grid), settings)
    np.testing.assert_array_equal(measured.values, table.values)


def test_a_table_of_factors_brings_the_pet_to_suv(tmp_path: Path) -> None:
    folder = write_table(tmp_path / "cohort", ROW)
    write_images(folder, "CHUM-001")
    activity = Image(np.full(PET_GRID.shape_zyx, 5000.0, np.float32), PET_GRID)
    write_image(folder / "CHUM-001" / "CHUM-001__PT.nii.gz", activity)
    case = read_cohort(folder).read_case("CHUM-001")
    assert case.flags == (NOT_SUV,)
    assert case.ct.grid.size_xyz == CT_GRID.size_xyz
    (folder / "suv_factors.csv").write_text("PatientID,Factor\nCHUM-001,0.0004\n")
    case = read_cohort(folder).read_case("CHUM-001")
    assert case.flags == ()
    np.testing.assert_allclose(case.pet.voxels, 2.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ID,Factor\nA,1\n", r"suv_factors\.csv: one column PatientID is needed"),
        ("PatientID,Factor\nA,-1\n", "line 2: A, -1 is not a patient and a factor above 0"),
        ("PatientID,Factor\nA,x\n", "line 2: A, x is not a patient"),
    ],
)
def test_a_faulty_table_of_factors_is_a_problem_of_the_cohort(tmp_path: Path, text: str, message: str) -> None:
    folder = write_table(tmp_path / "cohort", ROW)
    write_images(folder, "CHUM-001")
    (folder / "suv_factors.csv").write_text(text)
    with pytest.raises(InvalidInputError, match=message):
        read_cohort(folder)
