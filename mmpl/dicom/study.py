"""CT and PET of one patient, found among the series of a folder, with what the headers say of patient and PET.

Messages name series by their number and files by their path; nothing else of a header gets into them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mmpl.case import Case, ClinicalRecord, Image, InvalidInputError, SeriesIdentity, SuvFactor
from mmpl.dicom.dose import dose_objects, of_whole_plan, read_dose
from mmpl.dicom.headers import Header, as_moment, as_offset, as_stamp, as_time, is_zip, looks_like_dicom, read_headers
from mmpl.dicom.series import REAL_WORLD, Series, find_series, naming, read_series, units_of
from mmpl.dicom.suv import PetHeader, suv_factor, suv_flags
from mmpl.dose import DOSE_LEFT_OUT, usable_dose
from mmpl.errors import some_of
from mmpl.geometry import check_overlap
from mmpl.io.dose import say_why_not
from mmpl.io.images import flags_of, read_image
from mmpl.names import Modality
from mmpl.units import check_units

FEWEST_SLICES = 8
"""A series with fewer is no scan of a region, but one that followed a contrast agent, say."""
DICOM_HEADER = "the DICOM header"
"""Where a clinical value came from, in the notes on the record."""
_CODED = {"GML": "g/ml", "CM2ML": "cm2/ml"}
_SUV = {
    "bw": ("GML", "BW"),
    "lbm": ("GML", "LBM"),
    "lbm(james128)": ("GML", "LBMJAMES128"),
    "lbm(janma)": ("GML", "LBMJANMA"),
    "ibw": ("GML", "IBW"),
    "bsa": ("CM2ML", "BSA"),
}
UNITS = {"bq/ml": ("BQML", ""), "{counts}": ("CNTS", "")} | {
    code: (units, kind)
    for name, (units, kind) in _SUV.items()
    for code in (f"{{suv{name}}}{_CODED[units]}", f"{_CODED[units]}{{suv{name}}}")
}
"""Units and kind of SUV as the PET module has them, by an enhanced image's code in lower case (PS3.16 CID 84 and 85),
with UCUM's remark before and after the unit."""
CLOCKS = tuple(timedelta(minutes=minutes) for minutes in (*range(-12 * 60, 14 * 60 + 1, 30), 345, 525, 765, 825))
"""Offsets from UTC that clocks somewhere on earth have: half hours, and 5:45, 8:45, 12:45 and 13:45."""


@dataclass(frozen=True)
class PatientImages:
    """The two images of a patient, whatever files they came from.

    Attributes:
        ct: CT, HU.
        pet: PET, SUV by body weight where `suv` has a factor or is None; else as it was stored.
        suv: The PET's factor and what went into it, by its headers; None where it came without.
        found: What headers say of the patient, by clinical field: age (years), sex (M, F), weight (kg).
        ct_series, pet_series: Series of CT and PET, where it is DICOM.
        dose: Planned dose, Gy, where a study has one that can be used.
        dose_flags: What is odd of it, or why one is left out.
        flags: What is odd of the two images' files.
    """

    ct: Image
    pet: Image
    suv: SuvFactor | None = None
    found: Mapping[str, float | str] = field(default_factory=dict)
    ct_series: SeriesIdentity | None = None
    pet_series: SeriesIdentity | None = None
    dose: Image | None = None
    dose_flags: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()

    @property
    def pet_is_suv(self) -> bool:
        """Whether the PET is in SUV, as far as headers say."""
        return self.suv is None or self.suv.factor is not None

    def to_case(
        self, patient_id: str, clinical: ClinicalRecord, reference: Image | None = None, known_hpv: bool | None = None
    ) -> Case:
        """Make the patient's case, in HU and, where it can be, in SUV.

        Raises:
            InvalidInputError: An image cannot be used, or CT and PET do not overlap.
        """
        case = Case(
            patient_id,
            self.ct,
            self.pet,
            clinical,
            reference,
            self.pet_is_suv,
            (*self.flags, *(suv_flags(self.suv) if self.suv else ()), *self.dose_flags),
            known_hpv=known_hpv,
            suv=self.suv,
            ct_series=self.ct_series,
            pet_series=self.pet_series,
            dose=self.dose,
        )
        check_overlap(case.ct.grid, case.pet.grid)
        return check_units(case)


@dataclass(frozen=True)
class Study:
    """The CT and the PET of one patient that belong together.

    Attributes:
        doses: The RT doses beside them, whatever they are doses of.
    """

    ct: Series
    pet: Series
    doses: tuple[Header, ...] = ()


def read_pair(
    ct: Path, pet: Path, ct_number: int | None = None, pet_number: int | None = None, weight_kg: float | None = None
) -> PatientImages:
    """Read a CT and a PET, each an image file, a DICOM file, a folder of those or a zip archive of one.

    Args:
        ct: CT, HU.
        pet: PET, in SUV by body weight, or DICOM in any unit.
        ct_number, pet_number: Numbers of the series, where a folder holds several.
        weight_kg: The patient's weight, where it is known better than by the headers.

    Raises:
        InvalidInputError: One of them cannot be used; the message names it.
    """
    ct_series = find_one(ct, Modality.CT, ct_number) if is_dicom_place(ct) else None
    pet_series = find_one(pet, Modality.PET, pet_number) if is_dicom_place(pet) else None
    if ct_series and pet_series:
        check_one_patient(f"{ct}, {pet}", (ct_series, pet_series))
        frames = {each.identity.frame_of_reference_uid for each in (ct_series, pet_series)} - {""}
        if len(frames) > 1:
            raise InvalidInputError(f"{ct}, {pet}: CT and PET do not have one frame of reference")
    found: dict[str, float | str] = {}
    for series in filter(None, (ct_series, pet_series)):
        found |= patient_facts(series.first)
    ct_image = read_series(ct_series) if ct_series else read_image(ct)
    pet_image, factor = read_pet(pet_series, weight_kg) if pet_series else (read_image(pet), None)
    ct_identity, pet_identity = (series.identity if series else None for series in (ct_series, pet_series))
    files = [path for path, series in ((ct, ct_series), (pet, pet_series)) if not series]
    return PatientImages(ct_image, pet_image, factor, found, ct_identity, pet_identity, flags=flags_of(*files))


def read_study(study: Study, weight_kg: float | None = None) -> PatientImages:
    """Read the images of a study.

    Args:
        study: The study.
        weight_kg: The patient's weight, where it is known better than by the headers.

    Raises:
        InvalidInputError: A series cannot be used; the message names it.
    """
    pet, factor = read_pet(study.pet, weight_kg)
    found = patient_facts(study.ct.first) | patient_facts(study.pet.first)
    images = PatientImages(read_series(study.ct), pet, factor, found, study.ct.identity, study.pet.identity)
    return _with_dose(images, study) if study.doses else images


def _with_dose(images: PatientImages, study: Study) -> PatientImages:
    """Add a study's planned dose to its images, or the flag that says why it is left out."""
    file: Any = study.doses[0].file.parent
    try:
        header = of_whole_plan(study.doses)
        file = header.file
        if _identity(header) != _identity(study.ct.first):
            raise InvalidInputError("the RT dose is of another patient")
        dose, flags = usable_dose(read_dose(header, study.ct.identity), images.ct)
        return replace(images, dose=dose, dose_flags=flags)
    except InvalidInputError as error:
        return replace(images, dose_flags=(f"{DOSE_LEFT_OUT}: {say_why_not(error, file)}",))


def read_pet(series: Series, weight_kg: float | None = None) -> tuple[Image, SuvFactor]:
    """Read a PET, in SUV by body weight where its headers allow it.

    Raises:
        InvalidInputError: The series cannot be used.
    """
    with naming(series):
        factor = suv_factor(pet_header(series, weight_kg))
    image = read_series(series)
    if factor.factor is None:
        return image, factor
    return Image(image.voxels * np.float32(factor.factor), image.grid), factor


def is_dicom_place(path: Path) -> bool:
    """Tell whether a path is read as DICOM: a folder, a zip archive, or a file, which may hold a whole series."""
    return path.is_dir() or is_zip(path) or (path.is_file() and looks_like_dicom(path))


def find_study(place: Path, ct_number: int | None = None, pet_number: int | None = None) -> Study:
    """Find the CT and the PET of one patient that belong together, in a folder and those below it, or a zip archive.

    The PET is one that was corrected for attenuation. The CT shares its frame of reference and, where there are such,
    its study and its day.

    Args:
        place: The folder or archive.
        ct_number, pet_number: Numbers of the series, where there are several.

    Raises:
        InvalidInputError: There is no such pair, or several, or the folder holds several patients.
    """
    headers = read_headers(place)
    series = _series_in(place, headers)
    check_one_patient(place, series)
    pet = _the_one(place, _pets(series), Modality.PET, pet_number)
    ct = _the_one(place, _cts_of(place, pet, series), Modality.CT, ct_number)
    return Study(ct, pet, dose_objects(headers))


def find_one(place: Path, modality: Modality, number: int | None = None) -> Series:
    """Find the one series of a modality in a folder and those below it, or a zip archive.

    Raises:
        InvalidInputError: There is none, or there are several, or the folder holds several patients.
    """
    series = _series_in(place, read_headers(place))
    check_one_patient(place, series)
    candidates = _pets(series) if modality is Modality.PET else [each for each in series if each.modality is modality]
    return _the_one(place, candidates, modality, number)


def pet_header(series: Series, weight_kg: float | None = None) -> PetHeader:
    """Collect what a PET's headers say of its values, of classic and of enhanced images."""
    first, clock = series.first, _clock(series.first)
    tracer = first.item("RadiopharmaceuticalInformationSequence")
    shared = first.item("SharedFunctionalGroupsSequence")
    converted = shared.item("UnassignedSharedConvertedAttributesSequence")

    def said(keyword: str) -> str:
        return (first.text(keyword) or converted.text(keyword)).upper()

    units, suv_type = units_of(first), said("SUVType")
    if not units:
        groups = (shared, first.item("PerFrameFunctionalGroupsSequence"))
        codes = (group.item(REAL_WORLD, "MeasurementUnitsCodeSequence") for group in groups)
        said_codes = (code.text("CodeValue") or code.text("LongCodeValue") for code in codes)
        units, suv_type = UNITS.get(next(filter(None, said_codes), "").casefold(), ("", ""))
    corrected = tuple(word.upper() for word in first.words("CorrectedImage") or converted.words("CorrectedImage"))
    decay_correction = said("DecayCorrection")
    if first.text("DecayCorrected"):
        corrections = {"DECY": "DecayCorrected", "ATTN": "AttenuationCorrected"}
        corrected = tuple(word for word, keyword in corrections.items() if first.text(keyword).upper() == "YES")
        decay_correction = "START" if "DECY" in corrected else "NONE"
    return PetHeader(
        units=units if units in {known for known, _ in UNITS.values()} else "",
        suv_type=suv_type,
        corrected=corrected or (("none",) if decay_correction == "NONE" else ()),
        decay_correction=decay_correction,
        dose_bq=tracer.number("RadionuclideTotalDose"),
        half_life_s=tracer.number("RadionuclideHalfLife"),
        weight_kg=first.number("PatientWeight") if weight_kg is None else weight_kg,
        header_weight_kg=None if weight_kg is None else first.number("PatientWeight"),
        height_m=first.number("PatientSize"),
        sex=first.text("PatientSex").upper(),
        injected=as_stamp(tracer.text("RadiopharmaceuticalStartDateTime"), clock),
        injected_at=as_time(tracer.text("RadiopharmaceuticalStartTime")),
        series=first.moment("SeriesDate", "SeriesTime"),
        acquisition=min(filter(None, (_acquired(header, clock) for header in series.headers)), default=None),
        corrected_to=as_stamp(first.text("DecayCorrectionDateTime"), clock),
        private_scan=as_stamp(first.private("GEMS_PETD_01", 0x0009, 0x0D), clock),
        philips_suv=_number(first.private("Philips PET Private Group", 0x7053, 0x00)),
        philips_bqml=_number(first.private("Philips PET Private Group", 0x7053, 0x09)),
    )


def patient_facts(header: Header) -> dict[str, float | str]:
    """Collect age (years), sex (M, F) and weight (kg), as far as a header says them."""
    facts: dict[str, float | str] = {}
    age = header.text("PatientAge").upper()
    born, seen = as_moment(header.text("PatientBirthDate"), "0000"), header.moment("StudyDate", "StudyTime")
    if age[:-1].isdecimal() and age[-1:] == "Y":
        facts["age"] = float(age[:-1])
    elif born and seen and born < seen:
        facts["age"] = float(seen.year - born.year - ((seen.month, seen.day) < (born.month, born.day)))
    if (sex := header.text("PatientSex").upper()) in ("M", "F"):
        facts["sex"] = sex
    if weight := header.number("PatientWeight"):
        facts["weight"] = weight
    return facts


def _series_in(place: Path, headers: Sequence[Header]) -> list[Series]:
    series, left_out = find_series(headers)
    if not series:
        others = ", ".join(f"{count} x {reason}" for reason, count in left_out.items())
        raise InvalidInputError(f"{place}: no CT or PET series ({others})")
    return series


def check_one_patient(place: object, series: Sequence[Series]) -> None:
    """Refuse series of several patients.

    Raises:
        InvalidInputError: They are.
    """
    patients = {_identity(header) for each in series for header in each.headers}
    if len(patients) > 1:
        raise InvalidInputError(f"{place}: images of {len(patients)} patients; a folder for each is needed")


def _identity(header: Header) -> tuple[str, ...]:
    number = header.text("PatientID")
    return (number,) if number else (header.text("PatientName"), header.text("PatientBirthDate"))


def _pets(series: Sequence[Series]) -> list[Series]:
    """List the PET series, those that were corrected for attenuation where there are such."""
    found = [each for each in series if each.modality is Modality.PET]
    return _narrowed(_narrowed(found, _is_long), _is_corrected)


def _cts_of(place: Path, pet: Series, series: Sequence[Series]) -> list[Series]:
    """List the CT series of a PET."""
    cts = [each for each in series if each.modality is Modality.CT]
    found = [each for each in cts if _share_frame(each, pet)]
    if cts and not found:
        raise InvalidInputError(
            f"{place}: no CT of the PET's frame of reference, and {len(cts)} of another (CT series "
            f"{_numbers(cts)}, PET series {pet.number})"
        )
    found = _narrowed(found, _is_long)
    for keyword in ("StudyInstanceUID", "AcquisitionDate"):
        found = _narrowed(found, partial(_agree, pet, keyword))
    return found


def _narrowed(series: list[Series], fits: Callable[[Series], bool]) -> list[Series]:
    """Keep those that fit, where any does."""
    return [each for each in series if fits(each)] or series


def _agree(pet: Series, keyword: str, ct: Series) -> bool:
    return pet.first.text(keyword) == ct.first.text(keyword)


def _is_corrected(pet: Series) -> bool:
    return "ATTN" in pet_header(pet).corrected


def _is_long(series: Series) -> bool:
    return series.count >= FEWEST_SLICES


def _share_frame(ct: Series, pet: Series) -> bool:
    frames = [each.first.text("FrameOfReferenceUID") for each in (ct, pet)]
    if all(frames):
        return frames[0] == frames[1]
    return ct.first.text("StudyInstanceUID") == pet.first.text("StudyInstanceUID")


def _the_one(place: Path, candidates: Sequence[Series], modality: Modality, number: int | None) -> Series:
    name = modality.upper()
    named = candidates if number is None else [each for each in candidates if each.number == str(number)]
    if len(named) == 1:
        return named[0]
    if not candidates:
        raise InvalidInputError(f"{place}: no {name} series")
    listed = some_of([f"{each.number} ({each.count} slices)" for each in candidates], 20)
    if not named:
        raise InvalidInputError(f"{place}: no {name} series {number}; there are {listed}")
    if len({each.number for each in named}) == 1:
        raise InvalidInputError(
            f"{place}: {len(named)} {name} series of one number, {listed}; move them into folders of their own"
        )
    option = f"`mmpl case` by --{modality}-series"
    raise InvalidInputError(f"{place}: {len(named)} {name} series, {listed}; leave one there, or name it to {option}")


def _numbers(series: Sequence[Series]) -> str:
    return some_of([each.number for each in series])


def _clock(header: Header) -> timedelta | None:
    """Find the offset from UTC of the clock that a file's dates and times without an offset are of.

    The file says it, or a moment of the scan has it; or the injection is given twice, with an offset and on that clock.
    Then it is the one of CLOCKS that brings the two nearest to each other: what is left between them was typed in.
    """
    for keyword in ("TimezoneOffsetFromUTC", "AcquisitionDateTime", "DecayCorrectionDateTime"):
        if (offset := as_offset(header.text(keyword))) is not None:
            return offset
    tracer = header.item("RadiopharmaceuticalInformationSequence")
    text, at = tracer.text("RadiopharmaceuticalStartDateTime"), as_time(tracer.text("RadiopharmaceuticalStartTime"))
    offset, moment = as_offset(text), as_stamp(text, None)
    if offset is None or moment is None or at is None:
        return None
    by_offset, day = datetime.combine(moment, at) - moment + offset, timedelta(days=1)
    return min(CLOCKS, key=lambda clock: min((by_offset - clock) % day, (clock - by_offset) % day))


def _acquired(header: Header, clock: timedelta | None) -> datetime | None:
    """Give the moment at which the acquisition of a file's first image began."""
    moments = [
        as_stamp(frame.item("FrameContentSequence").text("FrameAcquisitionDateTime"), clock)
        for frame in header.items("PerFrameFunctionalGroupsSequence")
    ]
    of_file = as_stamp(header.text("AcquisitionDateTime"), clock)
    return min(filter(None, moments), default=of_file or header.moment("AcquisitionDate", "AcquisitionTime"))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
