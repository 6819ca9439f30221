"""The planned dose of the radiotherapy: whether it can be used, and named columns of what each lesion class gets.

Nothing is registered here. The dose lies in the CT's space, as its planning CT must where that is at hand; a dose of
another place is not used.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from mmpl.case import Case, Grid, Image, InvalidInputError, check_image
from mmpl.evidence import DOSE_KNOWN, FeatureTable, Floats
from mmpl.geometry import LEAST_OVERLAP_MM, Interpolation, extent_mm, grid_between, resample
from mmpl.lesions import cut_class
from mmpl.names import CLASS_NAMES, LESIONS, Label
from mmpl.profile import DoseSettings, RadiomicsSettings
from mmpl.radiomics import measure, measured_region

MAXIMUM_GY = (5.0, 100.0)
"""Bounds of a plan's highest dose; times a hundred they are those of a plan in cGy. What lies outside both is no plan
of a course in either: a percentage, one fraction, or mGy."""
CENTIGRAY = 100.0
SAME_PLACE = 0.4
"""Least correlation of CT and planning CT over the body, in what both show. Of six synthetic heads with noise of 30 HU
it was 1.00 in place, 0.51 to 0.63 shifted by 5 mm, 0.40 to 0.47 by 7 mm, 0.26 to 0.29 by 10 mm, and 0.25 at most of
two patients."""

DOSE_LEFT_OUT = "planned dose left out"
DOSE_UNREAD = "note: the planned dose has no part in the answers: these models were trained without"
IN_CENTIGRAY = "planned dose was in cGy by its values: brought to Gy"
PARTLY_COVERED = "planned dose covers"

_COLUMN = re.compile(rf"{DOSE_KNOWN}$|dose_(?:gtvp|gtvn)_\w+$")
_PERCENTS = (98, 95, 50, 2)
"""Shares of a lesion's volume: D98 is what 98% of it get, or more."""
_COMPARED_MM, _COMPARED_HU, _BODY_HU = 4.0, (-1000, 1000), -500


@dataclass(frozen=True)
class MeasuredDose:
    """The dose of one patient's lesions.

    Attributes:
        columns: One row, of `dose_names`.
        flags: What the reader of the answers should know of it.
    """

    columns: FeatureTable
    flags: tuple[str, ...] = ()


def give_dose(case: Case, dose: Image, planning_ct: Image | None = None) -> Case:
    """Add a planned dose to a case, as `usable_dose` checks it; raises as that does."""
    gray, flags = usable_dose(dose, case.ct, planning_ct)
    return replace(case, dose=gray, flags=(*case.flags, *flags))


def usable_dose(dose: Image, ct: Image, planning_ct: Image | None = None) -> tuple[Image, tuple[str, ...]]:
    """Bring a planned dose to Gy.

    Args:
        dose: Dose in the CT's space, on any grid: Gy, or cGy where its maximum says so.
        ct: CT, HU.
        planning_ct: CT that the dose was planned on, HU, where it is at hand.

    Returns:
        The dose, Gy, and flags.

    Raises:
        InvalidInputError: The dose has values that are no dose's, or lies elsewhere, or the planning CT does.
    """
    check_image("dose", dose)
    _shared_grid(ct.grid, dose.grid, "dose")
    if planning_ct:
        check_image("planning CT", planning_ct)
        alike = likeness(ct, planning_ct)
        if not alike >= SAME_PLACE:
            raise InvalidInputError(
                f"the planning CT does not lie where the CT lies (their correlation is {alike:.2f}, below {SAME_PLACE})"
            )
    lowest, highest = float(dose.voxels.min()), float(dose.voxels.max())
    if lowest < 0:
        raise InvalidInputError(f"the dose is negative somewhere ({lowest:.4g})")
    least, most = MAXIMUM_GY
    units = [unit for unit in (1.0, CENTIGRAY) if least * unit <= highest <= most * unit]
    if not units:
        raise InvalidInputError(f"the dose is neither in Gy nor in cGy (its maximum is {highest:.4g})")
    flags = (IN_CENTIGRAY,) if units[0] == CENTIGRAY else ()
    return Image((dose.voxels / units[0]).astype(np.float32), dose.grid), flags


def leave_dose_out(case: Case, why: str) -> Case:
    """Flag that a case has a planned dose that is not used."""
    return replace(case, flags=(*case.flags, f"{DOSE_LEFT_OUT}: {why}"))


def likeness(ct: Image, other: Image) -> float:
    """Correlate two CTs of a patient over the body in what both show; 1 is the same image in the same place.

    Raises:
        InvalidInputError: They show too little of the same.
    """
    grid = _shared_grid(ct.grid, other.grid, "planning CT")
    low, high = _COMPARED_HU
    one, two = (resample(image, grid, Interpolation.LINEAR, low).clip(low, high) for image in (ct, other))
    body = (one > _BODY_HU) | (two > _BODY_HU)
    if min(float(each[body].std()) if body.any() else 0.0 for each in (one, two)) == 0:
        return 0.0
    return float(np.corrcoef(one[body], two[body])[0, 1])


def dose_names(settings: DoseSettings) -> tuple[str, ...]:
    """Name every column of the dose: whether it is known, then per class its measures."""
    measures = ["mean_gy", "min_gy", *(f"d{percent}_gy" for percent in _PERCENTS)]
    measures += [f"v{level}_share" for level in settings.levels_gy]
    return (DOSE_KNOWN, *(_name(label, each) for label in LESIONS for each in (*measures, *settings.features)))


def is_dose(column: str) -> bool:
    """Tell a column of `dose_names` from other columns of evidence."""
    return _COLUMN.match(column) is not None


def measure_dose(dose: Image | None, mask: Image, settings: DoseSettings, radiomics: RadiomicsSettings) -> MeasuredDose:
    """Measure the dose of both lesion classes.

    The dose is interpolated linearly at the centers of the mask's voxels and, for its radiomics, on the grid on which
    lesions are measured.

    Args:
        dose: Planned dose, Gy, on any grid; None where there is none.
        mask: Label map, on any grid.
        settings: Settings of the measurement.
        radiomics: Settings of the lesions' grids.

    Returns:
        NaN for a class that is absent, or of which the dose covers less than `least_covered`; what it leaves uncovered
        is flagged, and not measured.
    """
    values, flags, known = dict[str, float](), list[str](), False
    for label in LESIONS if dose else ():
        assert dose is not None
        lesion = cut_class(mask, label)
        if lesion is None:
            continue
        gray = resample(dose, lesion.grid, Interpolation.LINEAR, math.nan)[lesion.voxels]
        covered = gray[np.isfinite(gray)].astype(float)
        share, enough = len(covered) / len(gray), len(covered) >= settings.least_covered * len(gray)
        if share < 1:
            but = "" if enough else ", too little for it to be known"
            flags.append(f"{PARTLY_COVERED} {math.floor(100 * share)}% of {CLASS_NAMES[label]}{but}")
        if enough:
            known = True
            values |= {_name(label, name): value for name, value in _of_voxels(covered, settings)}
            values |= {_name(label, name): value for name, value in _texture(dose, lesion, settings, radiomics).items()}
    names = dose_names(settings)
    values[DOSE_KNOWN] = float(known)
    return MeasuredDose(FeatureTable(names, np.array([[values.get(name, math.nan) for name in names]])), tuple(flags))


def _of_voxels(gray: Floats, settings: DoseSettings) -> Iterator[tuple[str, float]]:
    """Measure the doses of a lesion's voxels, which are of one size."""
    yield "mean_gy", float(gray.mean())
    yield "min_gy", float(gray.min())
    for percent in _PERCENTS:
        yield f"d{percent}_gy", float(np.percentile(gray, 100 - percent))
    for level in settings.levels_gy:
        yield f"v{level}_share", float((gray >= level).mean())


def _texture(dose: Image, lesion: Image, settings: DoseSettings, radiomics: RadiomicsSettings) -> dict[str, float]:
    """Measure the radiomics of a lesion's dose, where the dose covers it."""
    region, how = measured_region(lesion, radiomics), settings.gray_levels
    gray = resample(dose, region.grid, Interpolation.LINEAR, math.nan)
    inside = region.voxels & np.isfinite(gray)
    image = Image(np.nan_to_num(gray, nan=how.fill).clip(*how.range), region.grid)
    return measure(image, inside, settings.features, radiomics, how)


def _name(label: Label, measure: str) -> str:
    return f"dose_{label.name.lower()}_{measure}"


def _shared_grid(ct: Grid, other: Grid, what: str) -> Grid:
    """Make a coarse grid over what the CT and another image both cover.

    Raises:
        InvalidInputError: They share less than `LEAST_OVERLAP_MM` along an axis.
    """
    (lower, upper), (others_lower, others_upper) = extent_mm(ct), extent_mm(other)
    lower, upper = np.maximum(lower, others_lower), np.minimum(upper, others_upper)
    if (upper - lower < LEAST_OVERLAP_MM).any():
        raise InvalidInputError(f"the {what} does not lie where the CT lies")
    return grid_between(lower, upper, _COMPARED_MM)
