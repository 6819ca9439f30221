"""The planned dose: what of it can be used, and what is measured of it in a lesion."""

from dataclasses import replace

import numpy as np
import pytest

from mmpl.case import Case, Grid, Image, InvalidInputError
from mmpl.dose import (
    DOSE_LEFT_OUT,
    IN_CENTIGRAY,
    PARTLY_COVERED,
    SAME_PLACE,
    MeasuredDose,
    dose_names,
    give_dose,
    is_dose,
    leave_dose_out,
    likeness,
    measure_dose,
)
from mmpl.evidence import ABSENT, DOSE_KNOWN
from mmpl.findings import flag_in_words, in_words, unit_of
from mmpl.geometry import index_to_mm
from mmpl.names import Label
from mmpl.phantom.latent import draw_patients
from mmpl.phantom.render import render
from mmpl.profile import load_profile
from mmpl.radiomics import feature_names
from mmpl.schema import default_schema

PROFILE = load_profile("micro")
assert PROFILE.dose is not None
NAMES = dose_names(PROFILE.dose)
MASK_GRID = Grid((40, 36, 30), (1.0, 1.0, 2.0), (-20.0, -30.0, 10.0))
DOSE_GRID = Grid((20, 20, 20), (4.0, 4.0, 4.0), (-38.0, -48.0, -8.0))


def sloping(grid: Grid = DOSE_GRID, gy_a_mm: float = 0.5) -> Image:
    """A dose that rises along x, and so is what it is, however it is interpolated."""
    index = np.stack(np.meshgrid(*map(np.arange, grid.size_xyz), indexing="ij"), axis=-1)
    return Image((60 + gy_a_mm * index_to_mm(grid, index)[..., 0]).T.astype(np.float32), grid)


@pytest.fixture
def mask() -> Image:
    """A primary of 10 x 10 x 5 voxels, and a node."""
    voxels = np.zeros(MASK_GRID.shape_zyx, np.uint8)
    voxels[10:15, 10:20, 10:20] = Label.GTVP
    voxels[20:24, 25:30, 25:30] = Label.GTVN
    return Image(voxels, MASK_GRID)


def measured(dose: Image | None, mask: Image) -> tuple[dict[str, float], MeasuredDose]:
    assert PROFILE.dose is not None
    found = measure_dose(dose, mask, PROFILE.dose, PROFILE.radiomics)
    assert found.columns.names == NAMES
    return dict(zip(NAMES, found.columns.values[0].tolist(), strict=True)), found


def test_a_slope_is_measured_at_the_lesions_voxels(mask: Image) -> None:
    values, found = measured(sloping(), mask)
    along = 60 + 0.5 * (-20.0 + np.arange(10, 20))  # x of the primary's voxels, as many of each
    assert found.flags == ()
    assert values[DOSE_KNOWN] == 1
    assert values["dose_gtvp_mean_gy"] == pytest.approx(along.mean(), abs=1e-4)
    assert values["dose_gtvp_min_gy"] == pytest.approx(along.min(), abs=1e-4)
    for percent in (98, 95, 50, 2):
        gray = values[f"dose_gtvp_d{percent}_gy"]
        assert np.mean(along >= gray - 1e-4) >= percent / 100 - 0.06
        assert gray == pytest.approx(np.percentile(np.repeat(along, 50), 100 - percent), abs=1e-4)
    assert values["dose_gtvp_d98_gy"] < values["dose_gtvp_d50_gy"] < values["dose_gtvp_d2_gy"]
    assert values["dose_gtvp_v60_share"] == 0
    assert values["dose_gtvn_v60_share"] == 1
    assert values["dose_gtvn_v66_share"] == 0
    assert all(np.isfinite(value) for value in values.values())
    assert values["dose_gtvp_original_firstorder_Skewness"] == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize("turned", [(-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0), (0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, 1.0)])
def test_the_doses_grid_does_not_matter(mask: Image, turned: tuple[float, ...]) -> None:
    grid = Grid((30, 30, 25), (4.0, 4.0, 4.0), (0.0, 0.0, 0.0), turned)
    middle = index_to_mm(grid, np.array([14.5, 14.5, 12]))
    x, y, z = (np.array([0.0, -12.0, 40.0]) - middle).tolist()
    values, found = measured(sloping(replace(grid, origin_xyz=(x, y, z))), mask)
    straight, _ = measured(sloping(), mask)
    assert found.flags == ()
    for name in NAMES:
        assert values[name] == pytest.approx(straight[name], abs=0.02, rel=0.02), name


def test_without_dose_or_lesion_nothing_is_known(mask: Image) -> None:
    values, found = measured(None, mask)
    assert values.pop(DOSE_KNOWN) == 0
    assert np.isnan(list(values.values())).all()
    assert found.flags == ()
    alone = Image(np.where(mask.voxels == Label.GTVN, mask.voxels, 0), MASK_GRID)
    values, _ = measured(sloping(), alone)
    assert values[DOSE_KNOWN] == 1
    assert np.isnan([value for name, value in values.items() if "gtvp" in name]).all()
    assert np.isfinite([value for name, value in values.items() if "gtvn" in name]).all()
    values, _ = measured(sloping(), Image(np.zeros_like(mask.voxels), MASK_GRID))
    assert values[DOSE_KNOWN] == 0


@pytest.mark.parametrize(("planes", "known"), [(14, True), (11, False)])
def test_a_lesion_that_reaches_out_of_the_dose_is_flagged_and_below_a_share_not_known(planes: int, known: bool) -> None:
    """The node has 28 planes of 1 mm from z = 0; the dose ends at 4 planes - 2 mm."""
    grid = Grid((20, 20, 60), (1.0, 1.0, 1.0), (-10.0, -10.0, 0.0))
    voxels = np.zeros(grid.shape_zyx, np.uint8)
    voxels[:56, 5:15, 5:15] = Label.GTVN
    dose = sloping(Grid((20, 20, planes), (4.0, 4.0, 4.0), (-38.0, -38.0, 0.0)))
    values, found = measured(dose, Image(voxels, grid))
    share = (4 * planes - 2 + 1) / 56
    (flag,) = found.flags
    assert flag.startswith(f"{PARTLY_COVERED} {int(100 * min(share, 1))}% of GTVn")
    assert ("too little" in flag) == (not known)
    assert values[DOSE_KNOWN] == known
    assert np.isfinite(values["dose_gtvn_mean_gy"]) == known
    assert f"{int(100 * share)}% of GTVn" in (flag_in_words(flag) or "")


def test_the_lesion_inside_says_nothing_of_the_one_outside(mask: Image) -> None:
    dose = sloping(replace(DOSE_GRID, size_xyz=(11, 20, 20)))  # ends at x = 4 mm; the node begins at 5
    values, found = measured(dose, mask)
    assert values[DOSE_KNOWN] == 1
    assert np.isfinite(values["dose_gtvp_d98_gy"])
    assert np.isnan(values["dose_gtvn_d98_gy"])
    assert found.flags == (f"{PARTLY_COVERED} 0% of GTVn, too little for it to be known",)


def test_columns_are_told_from_others() -> None:
    assert len(NAMES) == len(set(NAMES)) == 1 + 2 * 12
    assert all(map(is_dose, NAMES))
    others = {*feature_names(PROFILE.radiomics), *ABSENT, *default_schema().names}
    assert not any(map(is_dose, others))
    assert not set(NAMES) & others


def test_every_column_has_words_and_those_in_gray_their_unit() -> None:
    schema = default_schema()
    words = [in_words(name) for name in NAMES]
    assert len(set(words)) == len(NAMES)
    assert not set(words) & set(NAMES)
    assert in_words("dose_gtvp_d98_gy") == "primary tumor, planned dose: what 98% of the volume get or more (D98)"
    assert in_words("dose_gtvn_v66_share") == "nodes, planned dose: share that gets 66 Gy or more"
    assert (
        in_words("dose_gtvp_original_firstorder_Skewness") == "primary tumor on the planned dose, intensity: Skewness"
    )
    assert unit_of("dose_gtvp_min_gy", schema) == "Gy"
    assert unit_of("dose_gtvp_v60_share", schema) == "of its volume"
    assert unit_of(DOSE_KNOWN, schema) == ""


# what can be used


def around(case: Case, gray: float = 70.0) -> Image:
    """A dose that falls from the middle of a case's CT."""
    x, y, z = index_to_mm(case.ct.grid, np.array(case.ct.grid.size_xyz) / 2)
    grid = Grid((20, 20, 20), (8.0, 8.0, 8.0), (x - 76, y - 76, z - 76))
    steps = np.linspace(-1, 1, 20)
    away = np.sqrt(steps[:, None, None] ** 2 + steps[:, None] ** 2 + steps**2)
    return Image((gray * np.exp(-away)).astype(np.float32), grid)


def test_gray_stay_and_centigray_are_brought_to_gray_and_flagged(head: Case) -> None:
    case = give_dose(head, around(head))
    assert case.dose is not None
    assert case.flags == ()
    assert 60 < case.dose.voxels.max() <= 70
    stored = around(head, 7000)
    brought = give_dose(head, Image(np.rint(stored.voxels).astype(np.uint16), stored.grid))
    assert brought.dose is not None
    assert brought.flags == (IN_CENTIGRAY,)
    np.testing.assert_allclose(brought.dose.voxels, case.dose.voxels, atol=0.006)
    assert flag_in_words(IN_CENTIGRAY) == "The planned dose was taken to be in cGy, by its values."


@pytest.mark.parametrize("highest", [0.0, 1.1, 110.0, 210.0, 70_000.0])
def test_what_is_no_plan_in_gray_or_centigray_is_refused(head: Case, highest: float) -> None:
    """A share of the prescription, a percentage, one fraction in cGy, mGy."""
    dose = around(head)
    dose = Image(dose.voxels / dose.voxels.max() * np.float32(highest), dose.grid)
    with pytest.raises(InvalidInputError, match=r"the dose is neither in Gy nor in cGy \(its maximum is "):
        give_dose(head, dose)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (-0.5, r"the dose is negative somewhere \(-0.5\)"),
        (np.nan, "the dose holds NaN"),
        (np.inf, "the dose holds NaN"),
    ],
)
def test_a_voxel_that_is_no_dose_is_refused(head: Case, value: float, said: str) -> None:
    dose = around(head)
    dose.voxels[3, 4, 5] = value
    with pytest.raises(InvalidInputError, match=said):
        give_dose(head, dose)


def test_a_dose_that_lies_elsewhere_is_refused(head: Case) -> None:
    dose = around(head)
    x, y, z = dose.grid.origin_xyz
    away = Image(dose.voxels, replace(dose.grid, origin_xyz=(x + 1000, y, z)))
    with pytest.raises(InvalidInputError, match="the dose does not lie where the CT lies"):
        give_dose(head, away)


def shifted(image: Image, mm: float) -> Image:
    x, y, z = image.grid.origin_xyz
    return Image(image.voxels, replace(image.grid, origin_xyz=(x, y + mm, z)))


@pytest.mark.slow
def test_the_planning_ct_tells_another_place() -> None:
    """A head with other noise on another grid, moved by 5 mm, is in place; moved by 12 mm or another's it is not."""
    patients = [patient for patient in draw_patients(20, 3, version=2) if not patient.long_scan][:2]
    case, other = (render(patient) for patient in patients)
    noise = np.random.default_rng(0).normal(0, 30, case.ct.voxels.shape)
    again = Image((case.ct.voxels + noise).astype(np.float32)[:, ::2, ::2], replace(
        case.ct.grid,
        size_xyz=(*((n + 1) // 2 for n in case.ct.grid.size_xyz[:2]), case.ct.grid.size_xyz[2]),
        spacing_xyz=(*(2 * step for step in case.ct.grid.spacing_xyz[:2]), case.ct.grid.spacing_xyz[2]),
    ))  # fmt: skip
    x, y, z = case.ct.grid.origin_xyz
    others = Image(other.ct.voxels, replace(other.ct.grid, origin_xyz=(x, y, z)))
    assert likeness(case.ct, again) > 0.9
    assert likeness(case.ct, shifted(again, 5)) > SAME_PLACE + 0.05
    assert likeness(case.ct, shifted(again, 12)) < SAME_PLACE - 0.05
    assert likeness(case.ct, others) < SAME_PLACE - 0.05
    assert give_dose(case, around(case), again).dose
    with pytest.raises(InvalidInputError, match="the planning CT does not lie where the CT lies"):
        give_dose(case, around(case), shifted(again, 12))


def test_a_planning_ct_without_a_body_or_far_away_is_none(head: Case) -> None:
    air = Image(np.full_like(head.ct.voxels, -1000), head.ct.grid)
    for planning_ct in (air, shifted(head.ct, 2000)):
        with pytest.raises(InvalidInputError, match="the planning CT does not lie where the CT lies"):
            give_dose(head, around(head), planning_ct)
    assert give_dose(head, around(head), head.ct).dose


def test_what_is_left_out_is_said_in_words(head: Case) -> None:
    case = leave_dose_out(head, "the dose is negative somewhere")
    assert case.dose is None
    assert case.flags == (f"{DOSE_LEFT_OUT}: the dose is negative somewhere",)
    assert flag_in_words(case.flags[0]) == "The planned dose was left out: the dose is negative somewhere."
