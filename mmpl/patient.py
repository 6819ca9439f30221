"""One patient by name: images of any kind, and what is known of the patient, to a folder of answers."""

import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from mmpl.algorithm import Algorithm, log_remarks
from mmpl.case import Case, Image, InvalidInputError
from mmpl.dicom.dose import read_any_dose
from mmpl.dicom.headers import require_pydicom
from mmpl.dicom.masks import give_mask
from mmpl.dicom.series import read_series
from mmpl.dicom.study import DICOM_HEADER, PatientImages, find_one, find_study, is_dicom_place, read_pair, read_study
from mmpl.dose import DOSE_UNREAD, give_dose
from mmpl.errors import one_line
from mmpl.export import check_study, find_answers, refer, write_forms
from mmpl.files import OverwriteError, refuse_inside, refuse_to_replace
from mmpl.io.challenge import former_answer, read_edition
from mmpl.io.images import read_image, write_image
from mmpl.io.record import is_weight, read_record, read_record_file, stated_weight_kg
from mmpl.names import DISAGREEMENT, MASK, PAGE, PICTURE, REPORT, Format, Modality, Task
from mmpl.page import write_page
from mmpl.picture import draw
from mmpl.provenance import trace
from mmpl.report import write_report
from mmpl.schema import ClinicalSchema

NO_RECORD = "no clinical record"

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
        known_hpv: HPV status that the risk may rest on; it goes before that of the record, where the edition has one.
        dose: Planned dose, an image or a DICOM RT dose; None for the one in `dicom`, if there is any.
        planning_ct: CT that it was planned on, where it is known to be none of the CTs above.
    """

    dicom: Path | None = None
    ct: Path | None = None
    pet: Path | None = None
    ct_series: int | None = None
    pet_series: int | None = None
    record: Path | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    known_hpv: bool | None = None
    dose: Path | None = None
    planning_ct: Path | None = None

    def __post_init__(self) -> None:
        if bool(self.dicom) == bool(self.ct or self.pet) or bool(self.ct) != bool(self.pet):
            raise ValueError("either --dicom is needed, or both --ct and --pet")
        if self.planning_ct and not self.dose:
            raise ValueError("--planning-ct says where a dose lies, and --dose is not there")

    @property
    def images(self) -> list[Path]:
        """The paths of images."""
        return [path for path in (self.dicom, self.ct, self.pet, self.dose, self.planning_ct) if path]


def read_patient(sources: Sources, schema: ClinicalSchema, patient_id: str) -> Case:
    """Read a patient's case; where nothing is stated of the patient, it is flagged with what the answers then rest on.

    Args:
        sources: What it is read from.
        schema: Schema of the clinical record: that of the weights.
        patient_id: Name of the patient in the answers.

    Raises:
        InvalidInputError: An image or the record cannot be used; the message names it.
        ModuleNotFoundError: An image is DICOM, and the extra `dicom` is not installed.
    """
    content, notes = read_record_file(sources.record) if sources.record else ({}, [])
    known = dict(sources.fields) | {name: value for name, value in content.items() if name not in sources.fields}
    record, known_hpv = read_record(known, schema, read_edition().known_hpv, sources.known_hpv, notes)
    images = _read_images(sources, stated_weight_kg(known, schema))
    clinical = schema.complete(record, images.found, DICOM_HEADER)
    about = [path for path in (sources.dicom, sources.ct, sources.pet) if path]
    try:
        case = images.to_case(patient_id, clinical, known_hpv=known_hpv)
        if sources.dose:
            about = [path for path in (sources.dose, sources.planning_ct) if path]
            dose = read_any_dose(sources.dose, case.ct_series)
            planning_ct = _read_ct(sources.planning_ct) if sources.planning_ct else None
            case = give_dose(case, dose, planning_ct)
    except InvalidInputError as error:
        named = any(str(path) in str(error) for path in about)
        raise InvalidInputError(str(error) if named else f"{', '.join(map(str, about))}: {error}") from error
    if any(value is not None for value in record.values.values()):
        return case
    rest = ", ".join(["the images", *(name for name in ("age", "sex") if name in images.found)])
    return replace(case, flags=(*case.flags, f"{NO_RECORD}: the answers rest on {rest} alone"))


def make_room(sources: Sources, out: Path, mask: Path | None = None) -> None:
    """Remove the answers of an earlier run from the folder that takes a patient's.

    Raises:
        OverwriteError: The folder lies in one that is read, or a file that is read is one of its answers.
    """
    for path in filter(is_dicom_place, sources.images):
        refuse_inside(out, path)
    former = former_answer(out) if out.is_dir() else []
    if mask:
        refuse_to_replace(mask, out)
    replaced = {path.resolve() for path in former}
    for path in filter(None, (*sources.images, sources.record)):
        if path.resolve() in replaced:
            raise OverwriteError(
                f"{path}: {out} takes the answers, and this is one of its files; copy it elsewhere first"
            )
    for path in former:
        path.unlink(missing_ok=True)


def answer_patient(
    sources: Sources,
    out: Path,
    algorithm: Algorithm,
    mask: Path | None = None,
    formats: Collection[Format] = (),
    page: bool = True,
) -> None:
    """Answer a patient: the report, the mask on the CT's grid, then the picture and the page, then the other forms.

    Answers of an earlier run are removed first. That the CT can be referred to is seen before anything is answered;
    what keeps a form from being written after that, as a full disk, costs that form alone.

    Args:
        sources: What the case is read from.
        out: Folder that takes the answers, and names the patient.
        algorithm: The ensemble, which measures lesions where there is to be a page.
        mask: A person's mask, which takes the place of the ensemble's.
        formats: Other forms of the answers; DICOM forms need a DICOM CT.
        page: Whether to write the page that a person reads.

    Raises:
        InvalidInputError: The case cannot be answered, or not in a form; nothing is left in the folder.
        OSError: A file cannot be written; the message names it, and what was written before is whole.
        OverwriteError: The folder lies in one that is read, or the mask is one of its files.
    """
    began = time.monotonic()
    make_room(sources, out, mask)
    study = next((path for path in (sources.dicom, sources.ct) if path and is_dicom_place(path)), None)
    check_study(formats, study)
    out.mkdir(parents=True, exist_ok=True)
    ensemble = algorithm.pipeline.ensemble
    case = read_patient(sources, ensemble.profile.clinical, out.resolve().name)
    if mask:
        case = give_mask(case, mask)
    series = refer(formats, study, case.ct.grid, sources.ct_series, case.ct_series)
    if case.dose and not ensemble.reads_dose:
        log.warning(DOSE_UNREAD)
    result = algorithm.run(case, began)
    log_remarks(result)
    named = {"ct": sources.ct, "pet": sources.pet, "dose": sources.dose, "planning_ct": sources.planning_ct}
    files = {name: path for name, path in named.items() if path and path.is_file()}
    provenance = trace(ensemble, algorithm.pipeline.device, result.seconds, files)
    try:
        write_report(out / REPORT, result, ensemble, provenance=provenance)
        write_image(out / MASK, result.segmentation.mask)
    except BaseException:
        (out / REPORT).unlink(missing_ok=True)
        raise
    answered = {Task.SEGMENTATION: MASK}
    reported = (
        (Task.HPV, result.hpv),
        (Task.SURVIVAL, result.survival),
        (Task.T_STAGE, result.t_stage),
        (Task.N_STAGE, result.n_stage),
    )
    answered |= {task: REPORT for task, found in reported if found}
    for task, name in answered.items():
        log.info("%s: %s", algorithm.describe(task, result), out / name)
    extras: list[tuple[str, Callable[[Path], None]]] = [
        (PICTURE, lambda path: draw(case, result, path, ensemble.hpv_threshold))
    ]
    if page:
        extras.append((PAGE, lambda path: write_page(path, case, result, ensemble, provenance)))
    if disagreement := result.segmentation.disagreement:
        extras.append((DISAGREEMENT, lambda path: write_image(path, disagreement)))
    for name, write in extras:
        try:
            write(out / name)
            log.info("%s: %s", name.partition(".")[0], out / name)
        except Exception as error:  # it is worth no answer
            log.warning("note: no %s (%s)", name, one_line(error))
    if formats:
        (answer,) = find_answers(out)
        suv = case.pet if case.pet_is_suv else None
        for path in write_forms(answer, result.segmentation.mask, formats, out, series, suv):
            log.info("export: %s", path)


def read_fields(arguments: list[str], schema: ClinicalSchema) -> dict[str, str]:
    """Read clinical fields from the options of a command line, as `--age 61` or `--performance-status=1`.

    Raises:
        ValueError: There is no such field, or it has no value.
    """
    fields: dict[str, str] = {}
    words = iter(arguments)
    for word in words:
        name, given, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not (schema.field_of_key(name) or is_weight(name)):
            raise ValueError(
                f"there is no option {word}, nor such a clinical field; there are {', '.join(schema.names)}"
            )
        if not given and (value := next(words, "--")).startswith("--"):
            raise ValueError(f"{word} has no value")
        if any(schema.field_of_key(known) == schema.field_of_key(name) for known in fields):
            raise ValueError(f"--{name} is given twice")
        fields[name] = value
    return fields


def _read_images(sources: Sources, weight_kg: float | None) -> PatientImages:
    if any(map(is_dicom_place, sources.images)):
        require_pydicom()
    if sources.dicom:
        study = find_study(sources.dicom, sources.ct_series, sources.pet_series)
        return read_study(replace(study, doses=()) if sources.dose else study, weight_kg)
    assert sources.ct
    assert sources.pet
    return read_pair(sources.ct, sources.pet, sources.ct_series, sources.pet_series, weight_kg)


def _read_ct(path: Path) -> Image:
    return read_series(find_one(path, Modality.CT)) if is_dicom_place(path) else read_image(path)
