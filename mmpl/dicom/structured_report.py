"""Structured reports (TID 1500): volumes and uptake of the lesions, HPV and risk, as coded numbers, by highdicom."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mmpl.case import Image
from mmpl.dicom.ct_series import CtSeries
from mmpl.dicom.headers import quiet
from mmpl.dicom.lesions import ABNORMAL, LESION_OF, Term
from mmpl.dicom.objects import (
    MANUFACTURER,
    MODEL,
    RESEARCH_ONLY,
    SERIAL_NUMBER,
    SERIES_NUMBER,
    VERSION,
    copy_identity,
    set_times,
    without_identity,
)
from mmpl.dicom.segmentation_object import coded
from mmpl.lesions import cut_class, measure_uptake
from mmpl.names import LESIONS, Label

if TYPE_CHECKING:
    from highdicom.sr import (
        Measurement,
        QualitativeEvaluation,
        VolumetricROIMeasurementsAndQualitativeEvaluations,
    )
    from pydicom import Dataset

OUR_SCHEME = "99MMPL"
"""Codes that no standard has; the scheme's name begins with 99, as private ones do."""
_VOLUME, _ML = Term("118565006", "SCT", "Volume"), Term("cm3", "UCUM", "cubic centimeter")
_SUV = Term("126401", "DCM", "SUVbw")
_SUV_UNIT = Term("g/ml{SUVbw}", "UCUM", "Standardized Uptake Value body weight")
_MEAN, _MAXIMUM = Term("373098007", "SCT", "Mean"), Term("56851009", "SCT", "Maximum")
_NO_UNIT, _PERCENT = Term("1", "UCUM", "no units"), Term("%", "UCUM", "Percent")
_IMAGING = Term("363679005", "SCT", "Imaging procedure")
_POSITIVE, _NEGATIVE = Term("10828004", "SCT", "Positive"), Term("260385009", "SCT", "Negative")
_WHOLE_PATIENT = "HPV and recurrence"


@dataclass(frozen=True)
class Outlook:
    """What is said of the patient; None where it was not answered.

    Attributes:
        hpv_score: Mean of the models' probabilities, 0 to 1.
        hpv_probability: Calibrated probability of being HPV-positive.
        hpv_positive: The decision.
        risk_score: Recurrence risk, higher is worse, 0 is average.
        risk_percentile: Share of the training patients with a lower risk, 0 to 100.
    """

    hpv_score: float | None = None
    hpv_probability: float | None = None
    hpv_positive: bool | None = None
    risk_score: float | None = None
    risk_percentile: float | None = None


def make_report(
    mask: Image, series: CtSeries, segmentation: "Dataset", outlook: Outlook, pet: Image | None = None
) -> "Dataset":
    """Make a structured report of a label map and the answers that rest on it.

    Args:
        mask: Label map on the grid of the series.
        series: The CT.
        segmentation: The DICOM segmentation of that label map (`make_segmentation`), to whose segments it refers.
        outlook: HPV status and risk.
        pet: PET, SUV by body weight; without it there is no uptake.

    Raises:
        InvalidInputError: The mask does not lie on the series' grid.
    """
    from highdicom import UID
    from highdicom.coding_schemes import CodingSchemeIdentificationItem
    from highdicom.sr import (
        Comprehensive3DSR,
        DeviceObserverIdentifyingAttributes,
        MeasurementReport,
        MeasurementsAndQualitativeEvaluations,
        ObservationContext,
        ObserverContext,
        TrackingIdentifier,
    )
    from pydicom.sr.codedict import codes
    from pydicom.uid import generate_uid

    series.labels(mask)
    device = DeviceObserverIdentifyingAttributes(
        generate_uid(entropy_srcs=[MODEL]), MODEL, MANUFACTURER, MODEL, SERIAL_NUMBER
    )
    patient = MeasurementsAndQualitativeEvaluations(
        TrackingIdentifier(UID(), _WHOLE_PATIENT),
        measurements=_numbers(outlook),
        qualitative_evaluations=[
            *_status(outlook),
            _evaluation("intended_use", "Intended use", Term("research_only", OUR_SCHEME, RESEARCH_ONLY)),
        ],
    )
    report = MeasurementReport(
        ObservationContext(ObserverContext(codes.DCM.Device, device)),
        coded(_IMAGING),
        [*(_lesion(label, mask, series, segmentation, pet) for label in LESIONS), patient],
    )
    with quiet():
        made = Comprehensive3DSR(
            evidence=[
                without_identity(segmentation, "StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID")
            ],
            content=report,
            series_instance_uid=UID(),
            series_number=SERIES_NUMBER + 2,
            sop_instance_uid=UID(),
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=MODEL,
            device_serial_number=SERIAL_NUMBER,
            software_versions=VERSION,
            series_description=f"Measurements ({RESEARCH_ONLY})",
            coding_schemes=[CodingSchemeIdentificationItem(OUR_SCHEME, "MMPL", responsible_organization="MMPL")],
            is_complete=True,
        )
        copy_identity(series.slices[0], made)
        set_times(made, series.slices[0])
    return made


def _lesion(
    label: Label, mask: Image, series: CtSeries, segmentation: "Dataset", pet: Image | None
) -> "VolumetricROIMeasurementsAndQualitativeEvaluations":
    from highdicom.sr import (
        AlgorithmIdentification,
        FindingSite,
        ReferencedSegment,
        SourceSeriesForSegmentation,
        TrackingIdentifier,
        VolumetricROIMeasurementsAndQualitativeEvaluations,
    )

    lesion = LESION_OF[label]
    segment = segmentation.SegmentSequence[int(label) - 1]
    volume_ml = int(np.count_nonzero(mask.voxels == label)) * mask.grid.voxel_ml
    numbers = [_measurement(_VOLUME, volume_ml, _ML)]
    drawn = cut_class(mask, label)
    if pet and drawn and (uptake := measure_uptake(pet, drawn, volume_ml)):
        numbers.append(_measurement(_SUV, uptake.suv_mean, _SUV_UNIT, _MEAN))
        numbers.append(_measurement(_SUV, uptake.suv_max, _SUV_UNIT, _MAXIMUM))
    by_person = segment.SegmentAlgorithmType == "MANUAL"
    return VolumetricROIMeasurementsAndQualitativeEvaluations(
        TrackingIdentifier(segment.TrackingUID, lesion.name),
        referenced_segment=ReferencedSegment(
            segmentation.SOPClassUID,
            segmentation.SOPInstanceUID,
            int(label),
            source_series=SourceSeriesForSegmentation(series.identity.series_uid),
        ),
        finding_type=coded(lesion.morphology),
        finding_category=coded(ABNORMAL),
        finding_sites=[FindingSite(coded(lesion.site))],
        algorithm_id=None if by_person else AlgorithmIdentification(MODEL, VERSION),
        measurements=numbers,
    )


def _numbers(outlook: Outlook) -> list["Measurement"]:
    """Give what is known of the patient as numbers."""
    numbers = (
        ("hpv_score", "HPV score, 0 to 1", outlook.hpv_score, _NO_UNIT),
        ("hpv_probability", "Probability of being HPV-positive, 0 to 1", outlook.hpv_probability, _NO_UNIT),
        ("risk_score", "Recurrence risk score, SD; higher is worse", outlook.risk_score, _NO_UNIT),
        ("risk_percentile", "Training patients with a lower risk", outlook.risk_percentile, _PERCENT),
    )
    return [
        _measurement(Term(code, OUR_SCHEME, meaning), value, unit)
        for code, meaning, value, unit in numbers
        if value is not None
    ]


def _status(outlook: Outlook) -> list["QualitativeEvaluation"]:
    if outlook.hpv_positive is None:
        return []
    return [_evaluation("hpv_status", "Predicted HPV status", _POSITIVE if outlook.hpv_positive else _NEGATIVE)]


def _measurement(name: Term, value: float, unit: Term, derivation: Term | None = None) -> "Measurement":
    from highdicom.sr import Measurement

    return Measurement(coded(name), round(value, 4), coded(unit), derivation=coded(derivation) if derivation else None)


def _evaluation(code: str, meaning: str, value: Term) -> "QualitativeEvaluation":
    from highdicom.sr import QualitativeEvaluation

    return QualitativeEvaluation(coded(Term(code, OUR_SCHEME, meaning)), coded(value))
