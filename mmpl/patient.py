"""One patient by name: images of any kind, and what is known of the patient, to a folder of answers."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from mmpl.algorithm import Algorithm, log_remarks
from mmpl.case import Case, InvalidInputError
from mmpl.dicom.headers import require_pydicom
from mmpl.dicom.study import DICOM_HEADER, PatientImages, find_study, is_dicom_place, read_pair, read_study
from mmpl.errors import one_line
from mmpl.files import PARTIAL, refuse_inside
from mmpl.io.challenge import read_record_file
from mmpl.io.images import write_image
from mmpl.names import Task
from mmpl.picture import draw
from mmpl.report import write_report
from mmpl.schema import ClinicalSchema

MASK, REPORT, PICTURE, DISAGREEMENT = "mask.nii.gz", "report.json", "picture.png", "disagreement.nii.gz"
WEIGHT = "weight"
"""What is no clinical field, and brings a PET to SUV where its header does not."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sources:
    """What a patient's case is read from: a DICOM study, or a CT and a PET, and what is known beside them.

    Attributes:
        dicom: Folder or zip archive in which CT and PET are to be found.
        ct, pet: Image files, DICOM folders or zip archives of one, where there is no `dicom`.
        ct_series, pet_series: Numbers of the series, where a folder holds several.
        record: Clinical record as a JSON object.
        fields: Clinical fields by any spelling of their names, which go before the record's.
        known_hpv: HPV status that the risk may rest on.
    """

    dicom: Path | None = None
    ct: Path | None = None
    pet: Path | None = None
    ct_series: int | None = None
    pet_series: int | None = None
    record: Path | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    known_hpv: bool | None = None

    def __post_init__(self) -> None:
        if bool(self.dicom) == bool(self.ct or self.pet) or bool(self.ct) != bool(self.pet):
            raise ValueError("either --dicom is needed, or both --ct and --pet")

    @property
    def images(self) -> list[Path]:
        """The paths of images."""
        return [path for path in (self.dicom, self.ct, self.pet) if path]


def read_patient(sources: Sources, schema: ClinicalSchema, patient_id: str) -> Case:
    """Read a patient's case.

    Args:
        sources: What it is read from.
        schema: Schema of the clinical record: that of the weights.
        patient_id: Name of the patient in the answers.

    Raises:
        InvalidInputError: An image or the record cannot be used; the message names it.
        ModuleNotFoundError: An image is DICOM, and the extra `dicom` is not installed.
    """
    content, notes = read_record_file(sources.record) if sources.record else ({}, [])
    known = {**sources.fields, **content}
    record = schema.read(known)
    images = _read_images(sources, _weight_kg(known))
    clinical = schema.complete(replace(record, assumed=(*notes, *record.assumed)), images.found, DICOM_HEADER)
    try:
        return images.to_case(patient_id, clinical, known_hpv=sources.known_hpv)
    except InvalidInputError as error:
        raise InvalidInputError(f"{', '.join(map(str, sources.images))}: {error}") from error


def answer_patient(sources: Sources, out: Path, algorithm: Algorithm) -> None:
    """Answer a patient: the mask on the CT's grid, then the report, then the picture and what else was asked for.

    Answers of an earlier run are removed first.

    Raises:
        InvalidInputError: The case cannot be answered; nothing is left in the folder.
        OverwriteError: The folder lies in one that is read.
    """
    for path in filter(is_dicom_place, sources.images):
        refuse_inside(out, path)
    out.mkdir(parents=True, exist_ok=True)
    for path in (*(out / name for name in (MASK, REPORT, PICTURE, DISAGREEMENT)), *out.glob(f"{PARTIAL}*")):
        path.unlink(missing_ok=True)
    ensemble = algorithm.pipeline.ensemble
    case = read_patient(sources, ensemble.profile.clinical, out.resolve().name)
    result = algorithm.pipeline(case)
    log_remarks(result)
    try:
        write_image(out / MASK, result.segmentation.mask)
        write_report(out / REPORT, result, ensemble)
    except BaseException:
        (out / MASK).unlink(missing_ok=True)
        raise
    asked = [
        Task.SEGMENTATION,
        *(task for task, found in ((Task.HPV, result.hpv), (Task.SURVIVAL, result.survival)) if found),
    ]
    for task in asked:
        log.info("%s: %s", algorithm.describe(task, result), out / (MASK if task is Task.SEGMENTATION else REPORT))
    if result.segmentation.disagreement:
        write_image(out / DISAGREEMENT, result.segmentation.disagreement)
        log.info("disagreement: %s", out / DISAGREEMENT)
    try:
        draw(case, result, out / PICTURE, ensemble.hpv_threshold)
        log.info("picture: %s", out / PICTURE)
    except Exception as error:  # it is worth no answer
        log.warning("note: no picture (%s)", one_line(error))


def read_fields(arguments: list[str], schema: ClinicalSchema) -> dict[str, str]:
    """Read clinical fields from the options of a command line, as `--age 61` or `--performance-status=1`.

    Raises:
        ValueError: There is no such field, or it has no value.
    """
    fields: dict[str, str] = {}
    words = iter(arguments)
    for word in words:
        name, given, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not (schema.field_of_key(name) or name.casefold() == WEIGHT):
            raise ValueError(
                f"there is no option {word}, nor such a clinical field; there are {', '.join(schema.names)}"
            )
        if not given and (value := next(words, "--")).startswith("--"):
            raise ValueError(f"{word} has no value")
        fields[name] = value
    return fields


def _read_images(sources: Sources, weight_kg: float | None) -> PatientImages:
    if any(map(is_dicom_place, sources.images)):
        require_pydicom()
    if sources.dicom:
        return read_study(find_study(sources.dicom, sources.ct_series, sources.pet_series), weight_kg)
    assert sources.ct
    assert sources.pet
    return read_pair(sources.ct, sources.pet, sources.ct_series, sources.pet_series, weight_kg)


def _weight_kg(known: Mapping[str, object]) -> float | None:
    """Give the weight that a record states, where it is a number."""
    for name, value in known.items():
        if str(name).strip().casefold() == WEIGHT:
            try:
                return float(str(value))
            except ValueError:
                return None
    return None
