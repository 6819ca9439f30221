"""The factor that brings a PET to SUV by body weight, from what its headers say; pure functions.

The way is that of the QIBA profile for FDG-PET (RSNA, 2016), with what it leaves open said here. A factor comes with
all that went into it; where there is none, the reason stands in its place, and it names no value that identifies.
"""

import math
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta
from enum import StrEnum

from mmpl.case import InvalidInputError, SuvFactor

LEAST_KG, MOST_KG = 2.0, 300.0
MOST_BMI, ODD_BMI = 50.0, 38.0
"""Body mass indices, kg/m²: above the one a weight is taken for one in pounds, as that of an ordinary patient is, then;
above the other it may be one, of a slim patient, and is flagged."""
LEAST_BQ, MOST_BQ = 1e6, 2e10
"""Doses outside are no doses of a scan in Bq: 350 is one in MBq, 0.35 in GBq."""
LEAST_M, MOST_M = 0.4, 2.5
"""Heights outside are none."""
LEAST_CM = 100.0
"""Heights from here to the tallest are in centimeters; those below may be in inches, and are none."""
LEAST_HALF_LIFE_S = 60.0
LEAST_UPTAKE_S, MOST_HALF_LIVES = 300.0, 3.0
"""From the injection to the scan, five minutes and, of fluorine-18, five and a half hours. Less or more says that one
of the times was moved."""
LONGEST_SCAN_S = 6 * 3600.0
"""From the begin of a series to its first image; more says that one of the times was moved."""

_SAME_S = 1.0
_SAME_INJECTION_S = 60.0
_BLANKED = time()  # midnight to the second, at which nobody is injected or scanned


class Clock(StrEnum):
    """What the decay is counted to."""

    STATED = "decay correction time"
    SERIES = "series time"
    PRIVATE = "scan time of a private header"
    ACQUISITION = "earliest acquisition time, as the series was rewritten"
    ADMINISTRATION = "injection, to which the scanner corrected"
    NONE = "nothing: the numbers were in SUV already"


@dataclass(frozen=True)
class PetHeader:
    """What the headers of a PET series say of its values; None, or blank, where they do not.

    Attributes:
        units: Units of the rescaled values, in DICOM's terms: BQML, CNTS, GML, CM2ML.
        suv_type: Kind of SUV where the values are in it: BW, LBM, LBMJAMES128, LBMJANMA, BSA, IBW.
        corrected: What the image was corrected for: ATTN, DECY.
        header_weight_kg: Weight of the header, by which the scanner came to its SUV, where another one is stated.
        decay_correction: Moment that the decay was corrected to: START, ADMIN, NONE.
        dose_bq: Activity at the injection.
        injected: Moment of the injection, with its date.
        injected_at: Time of day of the injection.
        series: Moment that the series began, which rewriting may have moved.
        acquisition: The earliest moment of acquisition of its images.
        corrected_to: Moment that the decay was corrected to, which enhanced images say.
        private_scan: Moment of the scan in GE's private header.
        philips_suv: Philips' private factor to SUV.
        philips_bqml: Philips' private factor to Bq/ml.
    """

    units: str
    suv_type: str = ""
    corrected: tuple[str, ...] = ()
    decay_correction: str = ""
    dose_bq: float | None = None
    half_life_s: float | None = None
    weight_kg: float | None = None
    header_weight_kg: float | None = None
    height_m: float | None = None
    sex: str = ""
    injected: datetime | None = None
    injected_at: time | None = None
    series: datetime | None = None
    acquisition: datetime | None = None
    corrected_to: datetime | None = None
    private_scan: datetime | None = None
    philips_suv: float | None = None
    philips_bqml: float | None = None


class _NoFactor(Exception):
    """Why there is no factor."""


def suv_factor(pet: PetHeader) -> SuvFactor:
    """Find the factor of a PET's rescaled values, or say why there is none.

    Raises:
        InvalidInputError: The PET was not corrected for decay, or for attenuation: it measures nothing.
    """
    if ("DECY" not in pet.corrected and pet.corrected) or pet.decay_correction == "NONE":
        raise InvalidInputError("the PET was not corrected for decay")
    if "ATTN" not in pet.corrected and pet.corrected:
        raise InvalidInputError("the PET was not corrected for attenuation")
    said = SuvFactor(None, "", pet.units, pet.suv_type)
    pet = replace(
        pet,
        height_m=_meters(pet.height_m),
        corrected_to=_unless_blanked(pet.corrected_to),
        series=_unless_blanked(pet.series),
        acquisition=_unless_blanked(pet.acquisition),
        private_scan=_unless_blanked(pet.private_scan),
    )
    injected = _unless_blanked(pet.injected)
    if pet.corrected_to and injected and abs((pet.corrected_to - injected).total_seconds()) <= _SAME_S:
        pet = replace(pet, decay_correction="ADMIN")  # as enhanced images say it
    try:
        if pet.units == "GML" or pet.units == "CM2ML":
            return _by_stated_weight(pet, _from_other_suv(_as_scanned(pet), said))
        if pet.units == "CNTS" and pet.philips_suv:
            scale = _positive("Philips' private factor", pet.philips_suv)
            return _by_stated_weight(pet, replace(said, factor=scale, counted_to=Clock.NONE))
        if pet.units == "CNTS" and pet.philips_bqml:
            scale = _positive("Philips' private factor", pet.philips_bqml)
            found = _from_bqml(pet, said)
            return replace(found, factor=scale * (found.factor or math.nan))
        if pet.units == "CNTS":
            raise _NoFactor("its values are counts, without Philips' private factor")
        if pet.units == "BQML":
            return _from_bqml(pet, said)
        raise _NoFactor("its units are neither Bq/ml nor SUV")
    except _NoFactor as why:
        return replace(said, why_none=str(why))


def _as_scanned(pet: PetHeader) -> PetHeader:
    """Give the header with the weight that the scanner knew, where that can be one."""
    known = replace(pet, weight_kg=pet.header_weight_kg)
    return known if _why_no_weight(known) is None else pet


def _by_stated_weight(pet: PetHeader, found: SuvFactor) -> SuvFactor:
    """Bring SUV that the scanner computed by the header's weight to the one that is stated, where both can be one."""
    scanned = _as_scanned(pet).weight_kg
    if not found.factor or not scanned or not pet.weight_kg or _why_no_weight(pet) is not None:
        return found
    return replace(found, factor=found.factor * pet.weight_kg / scanned, weight_kg=pet.weight_kg)


def _from_bqml(pet: PetHeader, said: SuvFactor) -> SuvFactor:
    dose, weight = _dose(pet.dose_bq), _weight(pet)
    said = replace(said, dose_bq=dose, weight_kg=weight, height_m=pet.height_m, decay_correction=pet.decay_correction)
    if pet.decay_correction == "ADMIN":
        return replace(said, factor=weight * 1000 / dose, decayed_bq=dose, counted_to=Clock.ADMINISTRATION)
    if pet.decay_correction != "START":
        raise _NoFactor("the moment that its decay was corrected to is not said")
    half_life = pet.half_life_s
    if half_life is None or not half_life >= LEAST_HALF_LIFE_S:
        raise _NoFactor("the tracer's half-life is missing or absurd")
    scan, clock = _scan(pet)
    uptake, other = _uptake_s(pet, scan, half_life)
    decayed = dose * 2 ** (-uptake / half_life)
    return replace(
        said,
        factor=weight * 1000 / decayed,
        decayed_bq=decayed,
        half_life_s=half_life,
        uptake_s=uptake,
        other_uptake_s=other,
        counted_to=clock,
    )


def _scan(pet: PetHeader) -> tuple[datetime, Clock]:
    """Find the moment that START means: the series', unless the series was rewritten since (the QIBA rule)."""
    if pet.corrected_to:
        return pet.corrected_to, Clock.STATED
    series, acquisition = pet.series, pet.acquisition
    if series and acquisition:
        waited = (acquisition - series).total_seconds()
        if -_SAME_S <= waited <= LONGEST_SCAN_S:
            return series, Clock.SERIES
    if pet.private_scan and (
        not acquisition or abs((acquisition - pet.private_scan).total_seconds()) <= LONGEST_SCAN_S
    ):
        return pet.private_scan, Clock.PRIVATE
    if acquisition:
        return acquisition, Clock.ACQUISITION
    if series:
        return series, Clock.SERIES
    raise _NoFactor("its headers have no time of the scan")


def _unless_blanked(moment: datetime | None) -> datetime | None:
    return moment if moment and moment.time() != _BLANKED else None


def _uptake_s(pet: PetHeader, scan: datetime, half_life_s: float) -> tuple[float, float | None]:
    """Find the seconds from the injection to the scan: by the dates where those agree, else by the time of day.

    Returns:
        The seconds, and those by a time of day that contradicts the dates.
    """
    if pet.injected is None and pet.injected_at is None:
        raise _NoFactor("the time of the injection is missing")

    def is_plausible(seconds: float) -> bool:
        return LEAST_UPTAKE_S <= seconds <= MOST_HALF_LIVES * half_life_s

    moment = _unless_blanked(pet.injected)
    clock = moment.time() if moment else None
    if pet.injected_at is not None and pet.injected_at != _BLANKED:
        clock = pet.injected_at
    if clock is None:
        raise _NoFactor("the time of the injection is midnight to the second, as where it was blanked")
    injected = datetime.combine(scan.date(), clock)
    if injected > scan:
        injected -= timedelta(days=1)  # over midnight
    seconds = (scan - injected).total_seconds()
    if moment and is_plausible(by_dates := (scan - moment).total_seconds()):
        return by_dates, seconds if is_plausible(seconds) and _differ(moment.time(), clock) else None
    if not is_plausible(seconds):
        raise _NoFactor(
            f"the injection lies {seconds / 3600:.1f} h before the scan, {seconds / half_life_s:.1f} half-lives: "
            "one of the times was moved"
        )
    return seconds, None


def _differ(one: time, other: time) -> bool:
    """Tell whether two times of day are more than a minute apart, over midnight, too."""
    day_s = timedelta(days=1).total_seconds()
    apart_s = (datetime.combine(date.min, one) - datetime.combine(date.min, other)).total_seconds() % day_s
    return min(apart_s, day_s - apart_s) > _SAME_INJECTION_S


def _from_other_suv(pet: PetHeader, said: SuvFactor) -> SuvFactor:
    """Bring SUV by another measure of the body to that by weight: the body's measure cancels out."""
    kind = pet.suv_type or ("BSA" if pet.units == "CM2ML" else "BW")
    said = replace(said, suv_type=kind, counted_to=Clock.NONE)
    if kind == "BW":
        return replace(said, factor=1.0)
    if kind not in ("LBM", "LBMJAMES128", "LBMJANMA", "BSA"):
        raise _NoFactor("its SUV are by a measure of the body that is not known")
    weight, height = _weight(pet), pet.height_m
    if height is None:
        raise _NoFactor("its SUV are not by body weight, and the patient's height is missing or absurd")
    said = replace(said, weight_kg=weight, height_m=height)
    if kind == "BSA":
        square_cm = 71.84 * weight**0.425 * (height * 100) ** 0.725  # DuBois, 1916
        return replace(said, factor=weight * 1000 / square_cm)
    if pet.sex not in ("M", "F"):
        raise _NoFactor("its SUV are by lean body mass, and the patient's sex is missing")
    return replace(said, factor=weight / _lean_kg(kind, pet.sex, weight, height))


def _lean_kg(kind: str, sex: str, weight: float, height: float) -> float:
    """Give lean body mass: James, 1976, with DICOM's two factors for men, or Janmahasatian, 2005."""
    if kind == "LBMJANMA":
        index = weight / height**2
        lean = 9270 * weight / (6680 + 216 * index if sex == "M" else 8780 + 244 * index)
    else:
        share = (weight / (height * 100)) ** 2
        of_men = 128 if kind == "LBMJAMES128" else 120
        lean = 1.10 * weight - of_men * share if sex == "M" else 1.07 * weight - 148 * share
    if not 0 < lean <= weight:
        raise _NoFactor("its SUV are by lean body mass, which is absurd for that weight and height")
    return lean


def _weight(pet: PetHeader) -> float:
    if why := _why_no_weight(pet):
        raise _NoFactor(why)
    assert pet.weight_kg is not None
    return pet.weight_kg


def _why_no_weight(pet: PetHeader) -> str | None:
    """Say why a weight cannot be one; None where it can."""
    weight, height = pet.weight_kg, pet.height_m
    if not weight:
        return "the patient's weight is missing or 0"
    if not LEAST_KG <= weight <= MOST_KG:
        hint = ", as in grams" if LEAST_KG * 1000 <= weight <= MOST_KG * 1000 else ""
        return f"the patient's weight is absurd, {weight:.4g} kg{hint}"
    if height and weight / height**2 > MOST_BMI:
        return f"the patient's weight is absurd for the height, {weight:.4g} kg, as in pounds"
    return None


def suv_flags(suv: SuvFactor) -> tuple[str, ...]:
    """Say so where the weight that a factor rests on may be one in pounds, or where the injection has two times."""
    flags = []
    if suv.factor and suv.weight_kg and suv.height_m and (index := suv.weight_kg / suv.height_m**2) > ODD_BMI:
        flags.append(f"SUV rests on a weight of {suv.weight_kg:.4g} kg, {index:.0f} kg/m²: is it in pounds?")
    if suv.factor and suv.uptake_s and suv.other_uptake_s:
        flags.append(
            f"SUV rests on an injection {suv.uptake_s / 60:.0f} min before the scan; by its time of day alone it was "
            f"{suv.other_uptake_s / 60:.0f} min"
        )
    return tuple(flags)


def _meters(height: float | None) -> float | None:
    """Give a height in meters, whether it is stated in them or in centimeters; None where it is absurd."""
    meters = (height or 0.0) / (100 if height and height >= LEAST_CM else 1)
    return meters if LEAST_M <= meters <= MOST_M else None


def _dose(dose: float | None) -> float:
    if not dose:
        raise _NoFactor("the injected dose is missing or 0")
    if not LEAST_BQ <= dose <= MOST_BQ:
        hint = ", as in MBq" if LEAST_BQ <= dose * 1e6 <= MOST_BQ else ""
        raise _NoFactor(f"the injected dose is absurd, {dose:.4g} Bq{hint}")
    return dose


def _positive(name: str, value: float) -> float:
    if not 0 < value < math.inf:
        raise _NoFactor(f"{name} is not above 0")
    return value
