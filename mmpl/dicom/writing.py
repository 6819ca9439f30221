"""CT and PET images as DICOM series, a file a slice, as scanners write them (PS3.3 A.3 and A.21).

Only what a reader of volumes needs is written: the modules' obligatory attributes, place, values and, of a PET, what
brings it to SUV. UIDs follow from the names, so that the same patient written twice is the same study.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mmpl.case import Image
from mmpl.dicom.objects import write_object
from mmpl.geometry import index_to_mm

if TYPE_CHECKING:
    from pydicom import Dataset

FLUORINE_HALF_LIFE_S = 6586.2
_CT_OFFSET = 1024  # scanners store HU + 1024
_MOST_STORED = np.iinfo(np.int16).max
_BED_S = 120.0  # how long a bed position is counted


@dataclass(frozen=True)
class StudyHeader:
    """What the headers of a study say of patient and visit.

    Attributes:
        sex: "M", "F" or blank.
        age: Years; None where it is not said. Likewise the others.
        start: Begin of the scan, on the scanner's clock.
        position: How the patient lies in the scanner, as DICOM has it: HFS is head first, supine.
    """

    patient_id: str
    sex: str = ""
    age: int | None = None
    weight_kg: float | None = None
    height_m: float | None = None
    start: datetime = datetime(2025, 1, 2, 12, 0)
    position: str = "HFS"


@dataclass(frozen=True)
class Injection:
    """A tracer as it was given.

    Attributes:
        dose_bq: Activity at the injection.
        before_s: Seconds from the injection to the scan.
    """

    dose_bq: float = 350e6
    before_s: float = 3600.0
    half_life_s: float = FLUORINE_HALF_LIFE_S

    @property
    def decayed_bq(self) -> float:
        """Activity at the begin of the scan."""
        return self.dose_bq * 2 ** (-self.before_s / self.half_life_s)


def ct_datasets(ct: Image, study: StudyHeader, number: int = 1) -> list["Dataset"]:
    """Write a CT as datasets, a slice each, in the order of its voxels.

    Args:
        ct: CT, HU; rounded to whole ones.
        study: The study it belongs to.
        number: Series number.

    Raises:
        ValueError: HU outside what 16 bits hold.
    """
    from pydicom.uid import CTImageStorage

    stored = np.rint(ct.voxels).astype(np.int64) + _CT_OFFSET
    if np.abs(stored).max() > _MOST_STORED:
        raise ValueError("the CT has values that 16 bits do not hold")
    datasets = []
    for index, plane in enumerate(stored):
        dataset = _slice(ct, index, plane, study, "CT", number)
        dataset.SOPClassUID = CTImageStorage
        dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = -_CT_OFFSET, 1, "HU"
        dataset.KVP = 120
        dataset.AcquisitionNumber, dataset.ImagesInAcquisition = 1, len(stored)
        datasets.append(dataset)
    return datasets


def pet_datasets(pet: Image, study: StudyHeader, injection: Injection, number: int = 2) -> list["Dataset"]:
    """Write a PET in Bq/ml, corrected for decay to the begin of the scan, as datasets, a slice each.

    Args:
        pet: PET, Bq/ml; each slice is stored in 16 bits with a scale of its own.
        study: The study it belongs to.
        injection: Tracer and dose.
        number: Series number.
    """
    from pydicom import Dataset
    from pydicom.uid import PositronEmissionTomographyImageStorage

    injected, decays = study.start - timedelta(seconds=injection.before_s), math.log(2) / injection.half_life_s * _BED_S
    datasets = []
    for index, plane in enumerate(pet.voxels):
        slope = _decimal(float(np.abs(plane).max()) / _MOST_STORED or 1.0)
        dataset = _slice(pet, index, np.rint(plane / float(slope)), study, "PT", number)
        dataset.SOPClassUID = PositronEmissionTomographyImageStorage
        dataset.RescaleIntercept, dataset.RescaleSlope = 0, slope
        dataset.Units, dataset.SeriesType, dataset.DecayCorrection = "BQML", ["WHOLE BODY", "IMAGE"], "START"
        dataset.CorrectedImage = ["NORM", "DTIM", "ATTN", "SCAT", "DECY", "RAN"]
        dataset.AttenuationCorrectionMethod = "measured"
        dataset.CountsSource, dataset.CollimatorType, dataset.PatientGantryRelationshipCodeSequence = "EMISSION", "", []
        dataset.PatientOrientationCodeSequence = []
        dataset.NumberOfSlices, dataset.ImageIndex = len(pet.voxels), index + 1
        dataset.ActualFrameDuration = round(_BED_S * 1000)
        dataset.FrameReferenceTime = _decimal(1000 * _BED_S * math.log(decays / -math.expm1(-decays)) / decays)
        tracer = Dataset()
        tracer.RadiopharmaceuticalStartTime, tracer.RadiopharmaceuticalStartDateTime = (
            _time(injected),
            _moment(injected),
        )
        tracer.RadionuclideTotalDose, tracer.RadionuclideHalfLife = map(
            _decimal, (injection.dose_bq, injection.half_life_s)
        )
        tracer.RadionuclideCodeSequence, tracer.Radiopharmaceutical = [], "Fluorodeoxyglucose"
        dataset.RadiopharmaceuticalInformationSequence = [tracer]
        datasets.append(dataset)
    return datasets


def save_series(datasets: Sequence["Dataset"], folder: Path) -> None:
    """Write datasets into a folder, as 0001.dcm and so on in their order, each whole or not at all."""
    from pydicom.uid import ExplicitVRLittleEndian

    folder.mkdir(parents=True, exist_ok=True)
    for index, dataset in enumerate(datasets, start=1):
        if not hasattr(dataset, "file_meta"):
            dataset.ensure_file_meta()
            dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        write_object(folder / f"{index:04d}.dcm", dataset)


def to_bqml(pet: Image, weight_kg: float, injection: Injection) -> Image:
    """Bring a PET from SUV by body weight to Bq/ml."""
    return Image(pet.voxels * (injection.decayed_bq / (weight_kg * 1000)), pet.grid)


def _slice(image: Image, index: int, stored: NDArray, study: StudyHeader, modality: str, number: int) -> "Dataset":
    """Write what CT and PET have in common."""
    from pydicom import Dataset
    from pydicom.uid import generate_uid

    def uid(*names: object) -> str:
        return generate_uid(entropy_srcs=["mmpl", study.patient_id, study.start.isoformat(), *map(str, names)])

    row, column, _ = np.reshape(image.grid.direction, (3, 3)).T
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"] if modality == "CT" else ["ORIGINAL", "PRIMARY"]
    dataset.SOPInstanceUID = uid(modality, number, index)
    dataset.StudyDate = dataset.SeriesDate = dataset.AcquisitionDate = dataset.ContentDate = _date(study.start)
    dataset.StudyTime = dataset.SeriesTime = dataset.AcquisitionTime = dataset.ContentTime = _time(study.start)
    dataset.AccessionNumber, dataset.ReferringPhysicianName, dataset.StudyID = "", "", ""
    dataset.Modality, dataset.Manufacturer = modality, "mmpl"
    dataset.PatientName = dataset.PatientID = study.patient_id
    dataset.PatientBirthDate, dataset.PatientSex = "", study.sex
    if study.age is not None:
        dataset.PatientAge = f"{study.age:03d}Y"
    if study.weight_kg is not None:
        dataset.PatientWeight = _decimal(study.weight_kg)
    if study.height_m is not None:
        dataset.PatientSize = _decimal(study.height_m)
    dataset.PatientPosition, dataset.PositionReferenceIndicator = study.position, ""
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = uid("study"), uid(modality, number)
    dataset.FrameOfReferenceUID = uid("frame")
    dataset.SeriesNumber, dataset.InstanceNumber = number, index + 1
    dataset.ImagePositionPatient = list(map(_decimal, index_to_mm(image.grid, np.array([0, 0, index])).tolist()))
    dataset.ImageOrientationPatient = list(map(_decimal, (*row.tolist(), *column.tolist())))
    x_mm, y_mm, z_mm = image.grid.spacing_xyz
    dataset.PixelSpacing, dataset.SliceThickness = [_decimal(y_mm), _decimal(x_mm)], _decimal(z_mm)
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = stored.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
    dataset.PixelData = stored.astype("<i2").tobytes()
    return dataset


def _decimal(value: float) -> str:
    """Write a number in the 16 characters that DICOM has for it."""
    from pydicom.valuerep import format_number_as_ds

    return format_number_as_ds(float(value))


def _date(when: datetime) -> str:
    return when.strftime("%Y%m%d")


def _time(when: datetime) -> str:
    return when.strftime("%H%M%S.%f")


def _moment(when: datetime) -> str:
    return when.strftime("%Y%m%d%H%M%S.%f")
