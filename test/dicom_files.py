"""DICOM series that tests write, and spoil."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.uid import (
    EnhancedCTImageStorage,
    EnhancedPETImageStorage,
    ExplicitVRLittleEndian,
    RTDoseStorage,
    generate_uid,
)

from mmpl.case import Grid, Image
from mmpl.dicom.writing import Injection, StudyHeader, ct_datasets, pet_datasets, save_series, to_bqml

STUDY = StudyHeader("Somebody-4711", "F", 61, 70.0, 1.75)
INJECTION = Injection()
SECRETS = ("Somebody", "4711")
"""What stands in every header, and may stand in no message."""


def write_ct(folder: Path, ct: Image, study: StudyHeader = STUDY, number: int = 1) -> list[Dataset]:
    datasets = ct_datasets(ct, study, number)
    save_series(datasets, folder)
    return datasets


def write_pet(folder: Path, suv: Image, study: StudyHeader = STUDY, number: int = 2) -> list[Dataset]:
    datasets = pet_datasets(to_bqml(suv, study.weight_kg or 70.0, INJECTION), study, INJECTION, number)
    save_series(datasets, folder)
    return datasets


def write_dose(path: Path, dose: Image, of_ct: Dataset, absolute: bool = False, **values: object) -> Path:
    """Write a dose, Gy, as an RT dose in the frame of reference of a CT's slice; z in patient space where asked for."""
    scaling = float(dose.voxels.max()) / 2**31
    row, column, normal = np.reshape(dose.grid.direction, (3, 3)).T
    x_mm, y_mm, z_mm = dose.grid.spacing_xyz
    whole = Dataset()
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "StudyInstanceUID", "FrameOfReferenceUID"):
        setattr(whole, keyword, of_ct.get(keyword))
    whole.SOPClassUID, whole.Modality = RTDoseStorage, "RTDOSE"
    whole.SOPInstanceUID = generate_uid(entropy_srcs=["dose", path.name])
    whole.SeriesInstanceUID, whole.SeriesNumber = generate_uid(entropy_srcs=["dose series", path.name]), 7
    whole.ImagePositionPatient, whole.ImageOrientationPatient = list(dose.grid.origin_xyz), [*row, *column]
    whole.PixelSpacing = [y_mm, x_mm]
    whole.NumberOfFrames, whole.Rows, whole.Columns = dose.voxels.shape
    offsets = np.arange(len(dose.voxels)) * z_mm
    whole.GridFrameOffsetVector = (dose.grid.origin_xyz[2] + offsets * normal[2] if absolute else offsets).tolist()
    whole.FrameIncrementPointer = 0x3004000C
    whole.SamplesPerPixel, whole.PhotometricInterpretation = 1, "MONOCHROME2"
    whole.BitsAllocated, whole.BitsStored, whole.HighBit, whole.PixelRepresentation = 32, 32, 31, 0
    whole.DoseUnits, whole.DoseType, whole.DoseSummationType = "GY", "PHYSICAL", "PLAN"
    whole.DoseGridScaling = f"{scaling:.9e}"
    whole.PixelData = np.rint(dose.voxels / float(whole.DoseGridScaling)).astype("<u4").tobytes()
    for keyword, value in values.items():
        if value is None:
            delattr(whole, keyword)
        else:
            setattr(whole, keyword, value)
    whole.ensure_file_meta()
    whole.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    whole.save_as(path, enforce_file_format=True)
    return path


def noise_ct(grid: Grid) -> Image:
    return Image(np.random.default_rng(1).integers(-1000, 2000, grid.shape_zyx).astype(np.int16), grid)


def noise_pet(grid: Grid) -> Image:
    return Image(np.random.default_rng(2).gamma(2.0, 1.0, grid.shape_zyx).astype(np.float32), grid)


def change(folder: Path, **values: object) -> None:
    """Set values in every file of a folder; None removes one."""
    for path in folder.iterdir():
        change_file(path, **values)


def change_file(path: Path, **values: object) -> None:
    dataset = dcmread(path)
    for keyword, value in values.items():
        if value is None:
            if keyword in dataset:
                delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    dataset.save_as(path)


def enhanced(datasets: Sequence[Dataset]) -> Dataset:
    """Put the slices of a series into one multi-frame file, as enhanced CT and PET are."""
    first = datasets[0]
    whole = Dataset()
    for element in first:
        if element.keyword not in (
            "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept",
            "PixelData", "SliceThickness", "InstanceNumber", "Units", "CorrectedImage", "DecayCorrection",
        ):  # fmt: skip
            whole.add(element)
    is_ct = first.Modality == "CT"
    whole.SOPClassUID = EnhancedCTImageStorage if is_ct else EnhancedPETImageStorage
    whole.SOPInstanceUID = generate_uid(entropy_srcs=["enhanced", first.SOPInstanceUID])
    whole.NumberOfFrames = len(datasets)
    measures, plane, shared = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = first.PixelSpacing
    plane.ImageOrientationPatient = first.ImageOrientationPatient
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [plane]
    if not is_ct:
        unit, mapping = Dataset(), Dataset()
        unit.CodeValue, unit.CodingSchemeDesignator, unit.CodeMeaning = "Bq/ml", "UCUM", "Becquerels/milliliter"
        mapping.MeasurementUnitsCodeSequence = [unit]
        shared.RealWorldValueMappingSequence = [mapping]
        whole.DecayCorrected = whole.AttenuationCorrected = "YES"
        whole.DecayCorrectionDateTime = first.SeriesDate + first.SeriesTime
    whole.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for dataset in datasets:
        position, values, frame = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = dataset.ImagePositionPatient
        values.RescaleSlope, values.RescaleIntercept = dataset.RescaleSlope, dataset.RescaleIntercept
        values.RescaleType = "HU" if is_ct else "US"
        frame.PlanePositionSequence, frame.PixelValueTransformationSequence = [position], [values]
        frames.append(frame)
    whole.PerFrameFunctionalGroupsSequence = frames
    whole.PixelData = b"".join(dataset.PixelData for dataset in datasets)
    return whole
