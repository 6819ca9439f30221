"""The factor to SUV by body weight, against values worked by hand, for each vendor's way; and why there is none."""

from dataclasses import replace
from datetime import datetime, time, timedelta

import pytest

from mmpl.case import InvalidInputError
from mmpl.dicom.suv import Clock, PetHeader, suv_factor, suv_flags

NOON = datetime(2025, 1, 2, 12, 0)
HALF_LIFE_S = 6000.0
"""A round one, so that values can be worked by hand: an hour and 40 minutes."""
CORRECTED = ("NORM", "ATTN", "DECY")

# 70 kg and 400 MBq, given one half-life before the scan: 70,000 g / 200 MBq
SIEMENS = PetHeader(
    units="BQML",
    corrected=CORRECTED,
    decay_correction="START",
    dose_bq=400e6,
    half_life_s=HALF_LIFE_S,
    weight_kg=70.0,
    height_m=1.75,
    sex="F",
    injected=NOON - timedelta(seconds=HALF_LIFE_S),
    injected_at=time(10, 20),
    series=NOON,
    acquisition=NOON + timedelta(minutes=1),
)
FACTOR = 70_000 / 200e6


def why_none(pet: PetHeader) -> str:
    found = suv_factor(pet)
    assert found.factor is None
    return found.why_none


def test_siemens_way_corrected_to_the_series_time():
    found = suv_factor(SIEMENS)
    assert found.factor == pytest.approx(FACTOR)
    assert (found.dose_bq, found.decayed_bq, found.uptake_s) == (400e6, pytest.approx(200e6), HALF_LIFE_S)
    assert (found.weight_kg, found.half_life_s, found.decay_correction) == (70.0, HALF_LIFE_S, "START")
    assert (found.counted_to, found.units, found.why_none) == (Clock.SERIES, "BQML", "")


def test_fluorine_after_an_hour():
    # 2^(-3600 / 6586.2) = 0.68463: 75 kg and 370 MBq are 75,000 / 253.31 MBq = 2.9608e-4
    pet = replace(
        SIEMENS, half_life_s=6586.2, weight_kg=75.0, dose_bq=370e6, injected=NOON - timedelta(hours=1), injected_at=None
    )
    assert suv_factor(pet).factor == pytest.approx(2.9608e-4, rel=2e-4)


def test_corrected_to_the_injection():
    found = suv_factor(replace(SIEMENS, decay_correction="ADMIN", injected=None, injected_at=None, half_life_s=None))
    assert found.factor == pytest.approx(70_000 / 400e6)
    assert (found.decayed_bq, found.counted_to) == (400e6, Clock.ADMINISTRATION)


def test_a_series_that_was_rewritten_counts_to_the_earliest_acquisition():
    rewritten = replace(SIEMENS, series=NOON + timedelta(days=3), acquisition=NOON)
    found = suv_factor(rewritten)
    assert found.factor == pytest.approx(FACTOR)
    assert found.counted_to == Clock.ACQUISITION


def test_ge_keeps_the_scan_time_of_a_rewritten_series_in_a_private_header():
    rewritten = replace(
        SIEMENS, series=NOON + timedelta(hours=3), acquisition=NOON + timedelta(minutes=9), private_scan=NOON
    )
    found = suv_factor(rewritten)
    assert found.factor == pytest.approx(FACTOR)
    assert found.counted_to == Clock.PRIVATE


def test_the_series_time_may_be_later_by_a_part_of_a_second():
    assert suv_factor(replace(SIEMENS, acquisition=NOON - timedelta(microseconds=15))).counted_to == Clock.SERIES


def test_a_series_time_moved_to_years_before_is_recognized():
    found = suv_factor(replace(SIEMENS, series=NOON.replace(year=2000), acquisition=NOON))
    assert found.factor == pytest.approx(FACTOR)
    assert found.counted_to == Clock.ACQUISITION


def test_enhanced_images_say_the_moment():
    found = suv_factor(replace(SIEMENS, corrected_to=NOON, series=None, acquisition=NOON + timedelta(hours=1)))
    assert (found.factor, found.counted_to) == (pytest.approx(FACTOR), Clock.STATED)


@pytest.mark.parametrize("with_date", [True, False])
def test_an_injection_before_midnight(with_date):
    scan = datetime(2025, 1, 2, 0, 30)
    pet = replace(SIEMENS, series=scan, acquisition=scan, injected_at=time(22, 50))
    pet = replace(pet, injected=datetime(2025, 1, 1, 22, 50) if with_date else None)
    found = suv_factor(pet)
    assert (found.factor, found.uptake_s) == (pytest.approx(FACTOR), HALF_LIFE_S)


@pytest.mark.parametrize("injected_at", [time(10, 20), None])
def test_a_date_of_injection_that_was_moved_leaves_its_time_of_day(injected_at):
    moved = replace(SIEMENS, injected=datetime(2019, 7, 7, 10, 20), injected_at=injected_at)
    assert suv_factor(moved).factor == pytest.approx(FACTOR)


@pytest.mark.parametrize(
    ("injected", "said"),
    [
        (time(12, 5), "23.9 h before the scan"),
        (time(0, 1), "12.0 h before the scan, 7.2 half-lives"),
        (time(6, 30), "5.5 h before the scan, 3.3 half-lives"),
        (time(12, 0), "0.0 h before the scan"),
        (time(11, 57), "0.1 h before the scan"),
    ],
)
def test_a_time_of_injection_that_was_moved_is_recognized(injected, said):
    assert said in why_none(replace(SIEMENS, injected=datetime.combine(NOON, injected), injected_at=injected))


def test_philips_counts_with_the_factor_to_suv():
    found = suv_factor(replace(SIEMENS, units="CNTS", philips_suv=0.000551, dose_bq=None, weight_kg=None))
    assert (found.factor, found.counted_to) == (0.000551, Clock.NONE)


def test_philips_counts_with_the_factor_to_bqml():
    assert suv_factor(replace(SIEMENS, units="CNTS", philips_bqml=2.5)).factor == pytest.approx(2.5 * FACTOR)
    assert suv_factor(replace(SIEMENS, units="CNTS", philips_suv=0.0, philips_bqml=2.5)).factor > 0


def test_counts_without_a_factor():
    assert why_none(replace(SIEMENS, units="CNTS")) == "its values are counts, without Philips' private factor"


@pytest.mark.parametrize("kind", ["", "BW"])
def test_suv_by_body_weight_is_left_as_it_is(kind):
    found = suv_factor(replace(SIEMENS, units="GML", suv_type=kind, weight_kg=None, dose_bq=None))
    assert (found.factor, found.counted_to, found.suv_type) == (1.0, Clock.NONE, "BW")


@pytest.mark.parametrize(
    ("kind", "sex", "lean_kg"),
    [
        # (70 / 175)^2 = 0.16; body mass index 22.857
        ("LBM", "F", 1.07 * 70 - 148 * 0.16),  # 51.22
        ("LBM", "M", 1.10 * 70 - 120 * 0.16),  # 57.8
        ("LBMJAMES128", "M", 1.10 * 70 - 128 * 0.16),  # 56.52
        ("LBMJANMA", "M", 648_900 / 11_617.14),  # 55.857
        ("LBMJANMA", "F", 648_900 / 14_357.14),  # 45.197
    ],
)
def test_suv_by_lean_body_mass_is_converted(kind, sex, lean_kg):
    found = suv_factor(replace(SIEMENS, units="GML", suv_type=kind, sex=sex))
    assert found.factor == pytest.approx(70 / lean_kg, rel=1e-6)
    assert found.height_m == 1.75


def test_suv_by_surface_is_converted():
    # DuBois: 71.84 * 70^0.425 * 175^0.725 = 71.84 * 6.0837 * 42.2866 = 18,481.5 cm²
    for pet in (replace(SIEMENS, units="CM2ML"), replace(SIEMENS, units="GML", suv_type="BSA")):
        assert suv_factor(pet).factor == pytest.approx(70_000 / 18_481.5, rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"suv_type": "LBM", "height_m": None}, "height is missing or absurd"),
        ({"suv_type": "LBM", "height_m": 17.5}, "height is missing or absurd"),
        ({"suv_type": "LBM", "height_m": 68.9}, "height is missing or absurd"),
        ({"suv_type": "LBM", "sex": "O"}, "sex is missing"),
        ({"suv_type": "LBM", "weight_kg": None}, "weight is missing or 0"),
        ({"suv_type": "IBW"}, "a measure of the body that is not known"),
    ],
)
def test_other_suv_that_cannot_be_converted(changes, said):
    assert said in why_none(replace(SIEMENS, units="GML", **changes))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"weight_kg": None}, "the patient's weight is missing or 0"),
        ({"weight_kg": 0.0}, "the patient's weight is missing or 0"),
        ({"weight_kg": 70_000.0}, "weight is absurd, 7e+04 kg, as in grams"),
        ({"weight_kg": 154.0, "height_m": 1.75}, "weight is absurd for the height, 154 kg, as in pounds"),
        ({"weight_kg": 154.0, "height_m": 175.0}, "weight is absurd for the height, 154 kg, as in pounds"),
        ({"weight_kg": 700.0}, "weight is absurd, 700 kg"),
        ({"weight_kg": -70.0}, "weight is absurd, -70 kg"),
        ({"dose_bq": None}, "the injected dose is missing or 0"),
        ({"dose_bq": 0.0}, "the injected dose is missing or 0"),
        ({"dose_bq": 400.0}, "the injected dose is absurd, 400 Bq, as in MBq"),
        ({"dose_bq": 4e11}, "the injected dose is absurd, 4e+11 Bq"),
        ({"half_life_s": None}, "half-life is missing or absurd"),
        ({"half_life_s": 1.83}, "half-life is missing or absurd"),
        ({"injected": None, "injected_at": None}, "the time of the injection is missing"),
        ({"series": None, "acquisition": None}, "no time of the scan"),
        ({"decay_correction": ""}, "the moment that its decay was corrected to is not said"),
        ({"units": "PROPCPS"}, "its units are neither Bq/ml nor SUV"),
        ({"units": ""}, "its units are neither Bq/ml nor SUV"),
    ],
)
def test_what_is_missing_or_absurd_is_named(changes, said):
    assert said in why_none(replace(SIEMENS, **changes))


MIDNIGHT = datetime(2025, 1, 2)


@pytest.mark.parametrize("injected", [MIDNIGHT, None])
def test_an_injection_whose_time_was_blanked_is_no_time(injected):
    at = MIDNIGHT.replace(hour=1, minute=30)
    blanked = replace(SIEMENS, series=at, acquisition=at, injected=injected, injected_at=time())
    assert "midnight to the second" in why_none(blanked)


def test_a_scan_whose_times_were_blanked_has_none():
    blanked = replace(SIEMENS, series=MIDNIGHT, acquisition=MIDNIGHT, injected=MIDNIGHT, injected_at=time())
    assert "no time of the scan" in why_none(blanked)
    at = MIDNIGHT.replace(hour=1, minute=30)
    found = suv_factor(replace(SIEMENS, series=MIDNIGHT, acquisition=at, injected=None, injected_at=time(0, 10)))
    assert (found.counted_to, found.uptake_s) == (Clock.ACQUISITION, 80 * 60)


@pytest.mark.parametrize("name", ["corrected_to", "private_scan"])
def test_a_stated_moment_that_was_blanked_is_no_moment(name):
    at = NOON + timedelta(days=3)
    blanked = replace(SIEMENS, series=at, acquisition=NOON, **{name: datetime.combine(NOON, time())})
    assert suv_factor(blanked) == suv_factor(replace(blanked, **{name: None}))


def test_of_two_times_of_the_injection_the_one_that_was_not_blanked_counts():
    at = MIDNIGHT.replace(hour=1, minute=30)
    pet = replace(SIEMENS, series=at, acquisition=at)
    for injected, injected_at in ((MIDNIGHT, time(0, 10)), (MIDNIGHT.replace(minute=10), time())):
        found = suv_factor(replace(pet, injected=injected, injected_at=injected_at))
        assert found.uptake_s == 80 * 60


def test_a_stated_weight_counts_whatever_the_values_are_in():
    """The scanner divided by what it knew: SUV are those of its weight, or of a lean mass of it."""
    stated = {"weight_kg": 35.0, "header_weight_kg": 70.0}
    for changes in (
        {"units": "BQML"},
        {"units": "GML"},
        {"units": "GML", "suv_type": "LBM"},
        {"units": "CM2ML"},
        {"units": "CNTS", "philips_suv": 0.002},
        {"units": "CNTS", "philips_bqml": 1.5},
    ):
        pet = replace(SIEMENS, **changes)
        assert suv_factor(replace(pet, **stated)).factor == pytest.approx(suv_factor(pet).factor / 2)
    assert suv_factor(replace(SIEMENS, units="GML", **stated)).weight_kg == 35.0


@pytest.mark.parametrize(
    ("stated", "in_header"), [(70.0, 1.0), (70.0, 70_000.0), (70.0, -1.0), (70.0, None), (0.0, 70.0)]
)
def test_a_weight_that_can_be_none_moves_no_suv(stated, in_header):
    """A placeholder, grams, nothing; by body weight the values are SUV whatever it was."""
    pet = replace(SIEMENS, units="GML", weight_kg=stated, header_weight_kg=in_header)
    assert suv_factor(pet).factor == 1.0


def test_of_a_header_in_pounds_the_stated_weight_counts():
    pet = replace(SIEMENS, units="GML", suv_type="LBM", weight_kg=70.0, header_weight_kg=154.0)
    assert suv_factor(pet).factor == suv_factor(replace(pet, header_weight_kg=None)).factor


def test_two_times_of_the_injection_that_contradict_each_other_are_flagged():
    """As where one was corrected by hand, or summer time moved it."""
    by_date = replace(SIEMENS, injected=NOON - timedelta(hours=2), injected_at=time(11, 0))
    found = suv_factor(by_date)
    assert (found.uptake_s, found.other_uptake_s) == (7200, 3600)
    (flag,) = suv_flags(found)
    assert flag.startswith("SUV rests on an injection 120 min before the scan; by its time of day alone it was 60 min")
    for same in (time(10, 0), time(10, 0, 30), time(), None, time(12, 30)):
        assert suv_factor(replace(by_date, injected_at=same)).other_uptake_s is None
    slow = replace(SIEMENS, half_life_s=282_240.0, injected=NOON - timedelta(hours=50))  # zirconium-89
    for same in (None, time(10, 0)):
        found = suv_factor(replace(slow, injected_at=same))
        assert (found.uptake_s, found.other_uptake_s) == (50 * 3600, None)


def test_enhanced_images_corrected_to_the_injection():
    enhanced = replace(SIEMENS, corrected_to=SIEMENS.injected)
    assert suv_factor(enhanced).factor == suv_factor(replace(SIEMENS, decay_correction="ADMIN")).factor
    midnight = datetime(2000, 1, 1)
    assert "blanked" in why_none(replace(SIEMENS, corrected_to=midnight, injected=midnight, injected_at=None))


@pytest.mark.parametrize("height", [1.75, 175.0])
def test_a_weight_that_may_be_one_in_pounds_is_flagged(height):
    heavy = suv_factor(replace(SIEMENS, weight_kg=121.3, height_m=height))  # of 55 kg
    assert heavy.factor
    assert suv_flags(heavy) == ("SUV rests on a weight of 121.3 kg, 40 kg/m²: is it in pounds?",)
    assert suv_flags(suv_factor(SIEMENS)) == ()
    assert suv_flags(suv_factor(replace(SIEMENS, height_m=None, weight_kg=121.3))) == ()


@pytest.mark.parametrize("units", ["BQML", "CNTS", "GML"])
def test_a_pet_without_its_corrections_is_refused(units):
    for changes, said in (
        ({"corrected": ("ATTN",)}, "not corrected for decay"),
        ({"decay_correction": "NONE"}, "not corrected for decay"),
        ({"corrected": ("DECY",)}, "not corrected for attenuation"),
    ):
        with pytest.raises(InvalidInputError, match=said):
            suv_factor(replace(SIEMENS, units=units, **changes))


def test_a_header_that_does_not_list_corrections_is_taken_at_its_word():
    assert suv_factor(replace(SIEMENS, corrected=())).factor == pytest.approx(FACTOR)
