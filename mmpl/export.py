"""Answers already made, in the forms that other programs read: DICOM objects beside the CT's, or image files."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmpl.case import Grid, Image, InvalidInputError, SeriesIdentity, describe_problems
from mmpl.dicom.ct_series import CtSeries, find_ct_series
from mmpl.dicom.headers import ZIP_SUFFIX, holds_dicom, read_headers
from mmpl.dicom.objects import made_here, write_object
from mmpl.dicom.segmentation_object import make_segmentation
from mmpl.dicom.series import find_series
from mmpl.dicom.structure_set import make_structure_set
from mmpl.dicom.structured_report import Outlook, make_report
from mmpl.dicom.study import find_study, is_dicom_place, read_pet
from mmpl.files import OverwriteError, refuse_inside
from mmpl.io.challenge import known_editions, read_edition
from mmpl.io.images import read_image, write_image
from mmpl.io.masks import as_labels
from mmpl.names import ALONE, DICOM_FORMATS, MASK, REPORT, SUFFIX, Format, Task
from mmpl.report import BY_PERSON, ReportedAnswer, read_report
from mmpl.units import is_suv

if TYPE_CHECKING:
    from pydicom import Dataset


@dataclass(frozen=True)
class Answer:
    """An answer in a folder.

    Attributes:
        name: The patient's name there, or ALONE.
        mask_path: File of its label map.
        reported: What the report says.
    """

    name: str
    mask_path: Path
    reported: ReportedAnswer

    @property
    def outlook(self) -> Outlook:
        """What the report says of the patient."""
        said = self.reported
        return Outlook(
            said.hpv_probability, said.hpv_calibrated, said.hpv_positive, said.risk_score, said.risk_percentile
        )


def export(
    answers: Path,
    formats: Collection[Format],
    study: Path | None = None,
    ct_series: int | None = None,
    out: Path | None = None,
) -> list[Path]:
    """Write the answers in a folder in other forms.

    Args:
        answers: Folder of answers, of `mmpl predict` or of `mmpl answer`.
        formats: The forms.
        study: Folder or zip archive with the CT's DICOM files, which DICOM forms need; of several answers, a folder
            with one for each patient, by the patient's name.
        ct_series: Number of the CT's series, where the mask lies on several.
        out: Folder that takes the files; by default that of the answers.

    Returns:
        The files.

    Raises:
        InvalidInputError: There is no answer, or no CT that its mask lies on; of several answers, others are written.
        OverwriteError: `out` lies in the study, or holds another mask under an answer's name.
        ValueError: A DICOM form is asked for without a study.
    """
    check_study(formats, study)
    target = out or answers
    if study:
        refuse_inside(target, study)
    found = find_answers(answers)
    for answer in found:
        _refuse_others(answer, formats, target)
    target.mkdir(parents=True, exist_ok=True)
    written, problems = list[Path](), list[str]()
    for answer in found:
        try:
            place = study_of(answer.name, study, len(found) == 1) if study and DICOM_FORMATS & {*formats} else None
            written += export_answer(answer, formats, target, place, ct_series)
        except InvalidInputError as error:
            problems.append(str(error))
    if problems:
        raise InvalidInputError(problems[0] if len(found) == 1 else describe_problems(answers, problems))
    return written


def _refuse_others(answer: Answer, formats: Collection[Format], folder: Path) -> None:
    """Refuse to write over files that no answer of ours left.

    Raises:
        OverwriteError: There is one.
    """
    for form in _with_segmentation(formats):
        path = folder / f"{answer.name}{SUFFIX[form]}"
        if path.exists() and not (made_here(path) if form in DICOM_FORMATS else _is_mask_of(answer, path)):
            raise OverwriteError(f"{path}: is another mask, perhaps a person's; name another folder")


def _with_segmentation(formats: Collection[Format]) -> list[Format]:
    """Put forms in order; a structured report comes with the segmentation that it refers to."""
    return [form for form in Format if form in formats or (form is Format.SEG and Format.SR in formats)]


def _is_mask_of(answer: Answer, path: Path) -> bool:
    """Tell whether a file holds an answer's mask."""
    if path.resolve() == answer.mask_path.resolve():
        return True
    try:
        there, ours = read_image(path), read_image(answer.mask_path)
    except InvalidInputError:
        return False
    return there.voxels.shape == ours.voxels.shape and bool((there.voxels == ours.voxels).all())


def export_answer(
    answer: Answer, formats: Collection[Format], folder: Path, place: Path | None = None, ct_series: int | None = None
) -> list[Path]:
    """Write one answer in other forms.

    Args:
        answer: The answer.
        formats: The forms.
        folder: Folder that takes the files.
        place: The patient's study, which DICOM forms need; its PET gives a report the uptake, as far as its headers and
            the weight that was answered with bring it to SUV.
        ct_series: Number of the CT's series, where the mask lies on several.

    Returns:
        The files.

    Raises:
        InvalidInputError: There is no CT that the mask lies on, or it cannot be referred to.
        OverwriteError: Another mask or report has the name of one of the files.
    """
    _refuse_others(answer, formats, folder)
    image = read_image(answer.mask_path)
    mask, series, pet = Image(as_labels(image.voxels), image.grid), None, None
    if place and DICOM_FORMATS & {*formats}:
        series = find_ct_series(place, mask, ct_series, None if ct_series else answer.reported.ct_series)
        pet = _pet_of(place, ct_series, answer.reported) if Format.SR in formats else None
    return write_forms(answer, mask, formats, folder, series, pet)


def refer(
    formats: Collection[Format],
    place: Path | None,
    grid: Grid,
    number: int | None = None,
    identity: SeriesIdentity | None = None,
) -> CtSeries | None:
    """Find the CT that DICOM forms of an answer will refer to, before there is one; None where none is asked for.

    Each form is made once, of an empty mask: what keeps it from being made is known then.

    Args:
        formats: The forms.
        place: The patient's study.
        grid: Grid of the CT that is to be answered.
        number, identity: The CT's series, as in `find_ct_series`.

    Raises:
        InvalidInputError: There is no such CT, or it cannot be referred to.
        ModuleNotFoundError: The extra `dicom` is not installed.
    """
    wanted = DICOM_FORMATS & {*formats}
    if not wanted or place is None:
        return None
    empty = Image(np.zeros(grid.shape_zyx, np.uint8), grid)
    series = find_ct_series(place, empty, number, identity)
    _make_objects(wanted, empty, series, Outlook())
    return series


def check_study(formats: Collection[Format], study: Path | None) -> None:
    """Refuse DICOM forms where there is nothing to refer to.

    Raises:
        ValueError: There is no study, or no DICOM file in it.
    """
    asked = ", ".join(sorted(DICOM_FORMATS.intersection(formats)))
    if asked and study is None:
        raise ValueError(f"{asked}: needs the CT's DICOM files; name their folder (--dicom)")
    if asked and study and not holds_dicom(study):
        raise ValueError(f"{study}: no DICOM file, which {asked} would refer to")


def find_answers(folder: Path) -> list[Answer]:
    """Find the answers in a folder: the one of `mmpl answer`, or those of `mmpl predict`.

    Raises:
        InvalidInputError: There is none.
    """
    alone = read_report(folder / REPORT)
    if alone:
        masks = (
            *(edition.output_path(Task.SEGMENTATION, folder) for edition in map(read_edition, known_editions())),
            folder / MASK,
        )
        found = [Answer(ALONE, path, alone) for path in masks if path.is_file()][:1]
    if not (alone and found):  # or of a patient who is called as the report of an answer alone is
        reports = [(path, read_report(path)) for path in sorted(folder.glob("[!.]*.json"))]
        found = [
            Answer(path.stem, path.with_name(f"{path.stem}.nii.gz"), report)
            for path, report in reports
            if report and report.patient_id == path.stem
        ]
    if not found:
        raise InvalidInputError(f"{folder}: no answers, which are masks with a report each")
    return found


def write_forms(
    answer: Answer,
    mask: Image,
    formats: Collection[Format],
    folder: Path,
    series: CtSeries | None,
    pet: Image | None = None,
) -> list[Path]:
    """Write an answer in some forms: all are made before the first is written, and each is whole or not there.

    Args:
        answer: The answer.
        mask: Its label map.
        formats: The forms; a report comes with its segmentation.
        folder: Folder that takes the files.
        series: The CT, for DICOM forms.
        pet: PET, SUV by body weight, for a report's uptake.

    Returns:
        The files.
    """
    by_person = answer.reported.mask_by == BY_PERSON
    wanted = _with_segmentation(formats)
    paths = {form: folder / f"{answer.name}{SUFFIX[form]}" for form in wanted}
    writers = {
        form: partial(write_image, path, mask)
        for form, path in paths.items()
        if form not in DICOM_FORMATS and path.resolve() != answer.mask_path.resolve()
    }
    if series:
        objects = _make_objects(wanted, mask, series, answer.outlook, pet, by_person)
        writers |= {form: partial(write_object, paths[form], content) for form, content in objects.items()}
    for write in writers.values():
        write()
    return list(paths.values())


def _make_objects(
    formats: Collection[Format],
    mask: Image,
    series: CtSeries,
    outlook: Outlook,
    pet: Image | None = None,
    by_person: bool = False,
) -> dict[Format, "Dataset"]:
    """Make the DICOM objects of some forms.

    Raises:
        InvalidInputError: The CT's headers lack what an object takes from them.
    """
    objects = dict[Format, "Dataset"]()
    try:
        if Format.SEG in formats or Format.SR in formats:
            objects[Format.SEG] = make_segmentation(mask, series, by_person)
        if Format.SR in formats:
            objects[Format.SR] = make_report(mask, series, objects[Format.SEG], outlook, pet)
        if Format.RTSTRUCT in formats:
            objects[Format.RTSTRUCT] = make_structure_set(mask, series, by_person)
    except (InvalidInputError, ModuleNotFoundError):
        raise
    except Exception as error:  # highdicom and pydicom raise whatever they like, and say values of the header
        raise InvalidInputError(f"{series.about} cannot be referred to ({type(error).__name__})") from None
    return objects


def study_of(name: str, study: Path, alone: bool) -> Path:
    """Find a patient's study: the folder or zip archive of that name, or all there is for one answer alone.

    Raises:
        InvalidInputError: There is none.
    """
    for own in (study / name, study / f"{name}{ZIP_SUFFIX}"):
        if name != ALONE and own.exists():
            return own
    if alone and is_dicom_place(study):
        return study
    raise InvalidInputError(f"{study / name}: no such folder")


def _pet_of(place: Path, ct_series: int | None, reported: ReportedAnswer) -> Image | None:
    """Read a study's PET in SUV: the one that was answered, where the report says which.

    None where it was answered as not in SUV, there is not one alone, or its headers do not say how to bring it there.
    """
    if reported.pet_not_suv:
        return None
    try:
        if reported.pet_series:
            series, _ = find_series(read_headers(place))
            pet = next((each for each in series if each.identity == reported.pet_series), None)
        else:
            pet = find_study(place, ct_series).pet
        if pet is None:
            return None
        image, suv = read_pet(pet, reported.weight_kg)
    except InvalidInputError:
        return None
    return image if suv.factor is not None and is_suv(image.voxels) else None
