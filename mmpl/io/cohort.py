"""A cohort's folder, as HECKTOR releases it: one table and, for each patient, a CT, a PET and perhaps a mask.

The images lie either in a folder a patient or all in the cohort's folder:

    <folder>/<name>.csv, or .xlsx with a data dictionary on another sheet
    <folder>/<ID>/<ID>__CT.nii.gz, <ID>__PT.nii.gz, <ID>.nii.gz
    <folder>/<ID>__CT.nii.gz, ...

Some patients have a planned dose, too, <ID>__RTDOSE.nii.gz, and the CT that it was planned on, <ID>__CTPlanning.nii.gz.

Where a patient's images are DICOM they lie, in any order and depth, in the patient's folder or in <ID>.zip. Such a
folder needs no table to be answered: what the headers say of the patients is all that is known of them then.

Where the challenge's three tasks came in folders `Task 1`, `Task 2` and `Task 3` with a table each, those are read as
one cohort.
"""

import gzip
import hashlib
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

from mmpl.case import Case, InvalidInputError, Outcome, Patient, describe_problems
from mmpl.dicom.headers import ZIP_SUFFIX, holds_dicom, require_pydicom, stored_files
from mmpl.dicom.study import DICOM_HEADER, PatientImages, find_study, read_study
from mmpl.io.dose import add_found_dose
from mmpl.io.images import read_image
from mmpl.io.masks import read_mask
from mmpl.io.patients import can_name_a_file, inspect_patients, plain_center, read_patients, says_nothing, spelling
from mmpl.io.record import read_weight_kg
from mmpl.io.suv_factors import SUV_FACTORS_NAME, SUV_TAGS_NAME, read_suv_factors, to_suv
from mmpl.io.tables import merge_tables, read_table
from mmpl.schema import ClinicalSchema, default_schema

TABLE_SUFFIXES = (".csv", ".xlsx")
NOT_A_COHORT_TABLE = ("truth.csv", "predictions.csv", SUV_FACTORS_NAME, SUV_TAGS_NAME)
"""Tables that may lie in the same folder: the synthetic cohort's latent variables, this program's own answers, and SUV
factors."""
_DOSE_ENDINGS = {"dose": "__RTDOSE.nii.gz", "planning_ct": "__CTPlanning.nii.gz"}
_TASK = re.compile(r"task[ _-]?\d", re.IGNORECASE)


@dataclass(frozen=True)
class Cohort:
    """A checked cohort: the table is read, the images are found but not yet read.

    Attributes:
        table: The cohort's table, or the first of those it was merged from.
        patients: The patients, in the table's order.
        suv_factors: Factors that the PET of some patients is multiplied by to be in SUV, by patient ID.
        remarks: What its reader should know that keeps nobody from being answered, a sentence each.
        schema: Schema of the clinical records.
    """

    folder: Path
    table: Path
    patients: tuple[Patient, ...]
    suv_factors: Mapping[str, float] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    schema: ClinicalSchema = field(default_factory=default_schema)

    @cached_property
    def _by_id(self) -> dict[str, Patient]:
        return {patient.patient_id: patient for patient in self.patients}

    @cached_property
    def _places(self) -> tuple[Path, ...]:
        return _places(self.folder)

    def patient(self, patient_id: str) -> Patient:
        """Look one patient up.

        Raises:
            InvalidInputError: The table has no such patient.
        """
        if patient_id not in self._by_id:
            raise InvalidInputError(f"{self.folder}: the table has no patient {patient_id}")
        return self._by_id[patient_id]

    def mask_path(self, patient_id: str) -> Path | None:
        """Find a patient's reference mask; None where there is none.

        Raises:
            InvalidInputError: There is one in the patient's folder and another in the cohort's.
        """
        path = _find(self._places, patient_id, f"{patient_id}.nii.gz")
        return path if path.is_file() else None

    def has_mask(self, patient_id: str) -> bool:
        """Tell whether a patient has a reference mask."""
        return self.mask_path(patient_id) is not None

    def read_case(self, patient_id: str) -> Case:
        """Read the images of one patient.

        Raises:
            InvalidInputError: An image cannot be used, or the mask does not lie on the CT's grid.
        """
        patient, mask_path = self.patient(patient_id), self.mask_path(patient_id)
        images, doses = self._read_images(patient_id), self._dose_files(patient_id)
        if "dose" in doses:  # which goes before one among DICOM files
            images = replace(images, dose=None, dose_flags=())
        reference = None if mask_path is None else read_mask(mask_path, images.ct.grid)
        clinical = self.schema.complete(patient.clinical, images.found, DICOM_HEADER)
        try:
            factor = self.suv_factors.get(patient_id)
            if factor is not None and images.suv:
                raise InvalidInputError("the PET is DICOM, which says its factor to SUV, and has another in a table")
            if factor is not None:
                images = replace(images, pet=to_suv(images.pet, factor))
            case = images.to_case(patient_id, clinical, reference, patient.known_hpv)
        except InvalidInputError as error:
            raise InvalidInputError(f"{self.folder}, patient {patient_id}: {error}") from error
        return add_found_dose(case, doses["dose"], doses.get("planning_ct")) if "dose" in doses else case

    def _read_images(self, patient_id: str) -> PatientImages:
        if study := _dicom_place(self._places, patient_id):
            return read_study(find_study(study), self._weight_kg(patient_id))
        ct = read_image(_find(self._places, patient_id, f"{patient_id}__CT.nii.gz"))
        return PatientImages(ct, read_image(_find(self._places, patient_id, f"{patient_id}__PT.nii.gz")))

    def _weight_kg(self, patient_id: str) -> float | None:
        """Give the weight that the table states; None where it does not."""
        stated = self.patient(patient_id).weight
        try:
            return None if self.schema.is_missing(stated) else read_weight_kg(stated)
        except InvalidInputError as error:
            raise InvalidInputError(f"{self.table}, patient {patient_id}: {error}") from error

    def image_files(self, patient_id: str) -> dict[str, Path]:
        """Name the images that a patient is answered from, by what they are; none where they are DICOM."""
        images = {"ct": f"{patient_id}__CT.nii.gz", "pet": f"{patient_id}__PT.nii.gz"}
        named = {name: _find(self._places, patient_id, file) for name, file in images.items()}
        return {name: path for name, path in named.items() if path.is_file()} | self._dose_files(patient_id)

    def _dose_files(self, patient_id: str) -> dict[str, Path]:
        """Name the files of a patient's planned dose, by what they are, as far as there are any."""
        named = {name: _find(self._places, patient_id, f"{patient_id}{end}") for name, end in _DOSE_ENDINGS.items()}
        return {name: path for name, path in named.items() if path.is_file()}

    def fingerprint(self, patient_id: str, given_mask: Path | None = None, reference: bool = True) -> str:
        """Tell a patient apart from what it was: size and date of its images and masks, SUV factor, row of the table.

        A planned dose is one of the images. A weight is part of it where it is read, as of DICOM, and stated.

        Args:
            patient_id: The patient.
            given_mask: File with which a person corrects the ensemble's mask, and which lies elsewhere.
            reference: Whether the reference mask is part of it: no answer rests on that.
        """
        files = []
        endings = ("__CT.nii.gz", "__PT.nii.gz", *[".nii.gz"] * reference)
        paths = [_find(self._places, patient_id, f"{patient_id}{ending}") for ending in endings]
        for path in (*paths, *self._dose_files(patient_id).values(), *filter(None, [given_mask])):
            stat = path.stat() if path.is_file() else None
            files.append((stat.st_size, stat.st_mtime_ns) if stat else None)
        if study := _dicom_place(self._places, patient_id):
            stats = [path.stat() for path in (stored_files(study) if study.is_dir() else [study])]  # type: ignore[union-attr]
            files += [(stat.st_size, stat.st_mtime_ns) for stat in stats]
        patient = self.patient(patient_id)
        weight = [patient.weight] if study and not self.schema.is_missing(patient.weight) else []
        clinical = sorted(patient.clinical.values.items())
        outcome = asdict(patient.outcome)
        outcome = {name: value for name, value in outcome.items() if value is not None or not name.endswith("_stage")}
        row = (plain_center(patient.center_id), clinical, outcome, patient.known_hpv, *weight)
        return hashlib.sha256(repr((files, self.suv_factors.get(patient_id), row)).encode()).hexdigest()[:16]

    def image_problem(self, patient_id: str) -> str | None:
        """Read the images of one patient as they will be used, and say what keeps them from it."""
        try:
            self.read_case(patient_id)
        except InvalidInputError as error:
            return f"patient {patient_id}: {error}"
        return None

    def patients_with_images(self) -> list[str]:
        """List the patients both of whose images are there, once."""
        names = dict.fromkeys(patient.patient_id for patient in self.patients)
        return [name for name in names if can_name_a_file(name) and not _check_images(self._places, name)]


def read_cohort(
    folder: Path,
    schema: ClinicalSchema | None = None,
    training: bool = False,
    outcomes: bool = True,
    known_hpv: str | None = None,
    images: bool = True,
) -> Cohort:
    """Read and check a cohort's table, and that every patient in it has images.

    Args:
        folder: Cohort's folder, in the released layout.
        schema: Schema of the clinical record: that of the weights or of the training run; by default that of
            `resources/clinical.yaml`.
        training: Whether every released column must be there, but those of optional fields; otherwise a patient is
            answered with what there is. The cohort's remarks say what is not.
        outcomes: Whether HPV status, relapse and follow-up are looked at; for answers they are not.
        known_hpv: Column whose HPV status answers may rest on, beside `Known HPV Status`; that of the edition.
        images: Whether every patient needs a CT and a PET; what compares answers with outcomes and masks needs none.

    Raises:
        InvalidInputError: There is no table, or more than there should be, or it has problems; the message lists them.
    """
    cohort, problems = inspect_cohort(folder, schema, training, outcomes, known_hpv, images)
    if problems:
        raise InvalidInputError(describe_problems(cohort.table, problems))
    return cohort


def read_table_alone(table: Path, where: Mapping[str, str] | None = None) -> Cohort:
    """Read a table that stands for itself as a cohort without images; `mmpl.io.patients.read_patients` says how."""
    read = read_patients(table, where=where)
    return Cohort(table.parent, table, read.patients, remarks=read.remarks)


def inspect_cohort(
    folder: Path,
    schema: ClinicalSchema | None = None,
    training: bool = False,
    outcomes: bool = True,
    known_hpv: str | None = None,
    images: bool = True,
) -> tuple[Cohort, list[str]]:
    """Read a cohort's table as far as it can be read, and list what is wrong with it and with the files it names.

    Args:
        folder: Cohort's folder, in the released layout.
        schema: Schema of the clinical record, as in `read_cohort`.
        training: Whether every released column must be there, as in `read_cohort`.
        outcomes: Whether outcomes are looked at, as in `read_cohort`.
        known_hpv: Column of a known HPV status, as in `read_cohort`.
        images: Whether every patient needs a CT and a PET, as in `read_cohort`.

    Raises:
        InvalidInputError: There is not exactly one table, or it cannot be read at all.
    """
    schema = schema or default_schema()
    if not outcomes and not training and (studies := find_studies(folder)):
        patients = tuple(Patient(name, "", schema.read({}), Outcome()) for name in studies)
        return Cohort(folder, folder, patients, schema=schema), []
    tables = [read_table(path, spelling(schema, outcomes, known_hpv=known_hpv)) for path in find_tables(folder)]
    table, problems = merge_tables(tables, folder, partial(says_nothing, schema))
    read, problems = inspect_patients(table, problems, schema, training, outcomes, known_hpv)
    names, places = list(dict.fromkeys(patient.patient_id for patient in read.patients)), _places(folder)
    for name in filter(can_name_a_file, names):
        problems += _check_images(places, name, images)
    factors, wrong, remarks = read_suv_factors(places, names)
    found = Cohort(folder, read.path, read.patients, factors, (*read.remarks, *remarks), schema)
    return found, problems + wrong


def find_studies(folder: Path) -> list[str]:
    """List the patients of a folder without any table whose folders, or zip archives, hold DICOM.

    Raises:
        ModuleNotFoundError: There are some, and the extra `dicom` is not installed.
    """
    if not folder.is_dir() or _tables_in(folder) or _task_folders(folder):
        return []
    names = dict.fromkeys(
        path.name if path.is_dir() else path.name.removesuffix(ZIP_SUFFIX)
        for path in sorted(folder.iterdir())
        if not path.name.startswith(".") and holds_dicom(path)
    )
    if names:
        require_pydicom()
    return list(names)


def find_tables(folder: Path) -> list[Path]:
    """Find the one table of a cohort's folder, CSV or XLSX, or those of the challenge's tasks.

    Raises:
        InvalidInputError: The folder, or the table, does not exist, or there are several.
    """
    if not folder.is_dir():
        raise InvalidInputError(f"{folder}: no such folder")
    found = _tables_in(folder)
    tasks = {task: _tables_in(task) for task in _task_folders(folder)}
    if found and any(tasks.values()):
        others = [str(table.relative_to(folder)) for tables in tasks.values() for table in tables]
        raise InvalidInputError(f"{folder}: {found[0].name} and {', '.join(others)}; which is the cohort's?")
    if not found and any(tasks.values()):
        if odd := [f"{task.name} has {len(tables)}" for task, tables in tasks.items() if len(tables) != 1]:
            raise InvalidInputError(f"{folder}: a table is needed in each task's folder; {', '.join(odd)}")
        return [table for (table,) in tasks.values()]
    if len(found) > 1 and all(_TASK.search(path.stem) for path in found):
        return found
    if not found:
        raise InvalidInputError(f"{folder}: no table; the cohort's *.csv or *.xlsx must lie in it")
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise InvalidInputError(f"{folder}: {len(found)} tables ({names}); leave the cohort's alone in the folder")
    return found


def _tables_in(folder: Path) -> list[Path]:
    """List a folder's tables, but for hidden files, locks of spreadsheets, and tables that say something else."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in TABLE_SUFFIXES
        and path.name not in NOT_A_COHORT_TABLE
        and not path.name.startswith((".", "~$"))
    )


def _places(folder: Path) -> tuple[Path, ...]:
    """List where a cohort's images may lie: its folder, and those of the challenge's tasks in it."""
    return folder, *_task_folders(folder)


def _task_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and _TASK.fullmatch(path.name))


def _find(places: Sequence[Path], patient_id: str, name: str) -> Path:
    """Give the path of a patient's file: in the patient's folder or beside it, in one of the places.

    Raises:
        InvalidInputError: It lies both in the patient's folder and beside it, or two tasks have different ones.
    """
    found = []
    for place in places:
        flat, nested = place / name, place / patient_id / name
        if flat.is_file() and nested.is_file():
            raise InvalidInputError(f"{flat} and {nested}: one of the two is too many")
        found += [path for path in (flat, nested) if path.is_file()]
    of_images = "__" in name.removeprefix(patient_id)  # whose bytes are too many to be read again and again
    if len(found) > 1 and len({path.stat().st_size if of_images else _inflated(path) for path in found}) > 1:
        raise InvalidInputError(f"{' and '.join(map(str, found))}: not the same file")
    return found[0] if found else places[0] / patient_id / name


def _inflated(path: Path) -> bytes:
    """Give a compressed file's content, or the file as it is where it cannot be inflated."""
    try:
        with gzip.open(path) as file:
            return file.read()
    except (OSError, EOFError, zlib.error):
        return path.read_bytes()


def _dicom_place(places: Sequence[Path], patient_id: str) -> Path | None:
    """Find the folder or the zip archive with a patient's DICOM files; None of who has images in the released layout.

    Raises:
        InvalidInputError: There are several.
        ModuleNotFoundError: There is one, and the extra `dicom` is not installed.
    """
    if any(_find(places, patient_id, f"{patient_id}{end}").is_file() for end in ("__CT.nii.gz", "__PT.nii.gz")):
        return None
    named = [place / f"{patient_id}{end}" for place in places for end in ("", ZIP_SUFFIX)]
    found = [path for path in named if holds_dicom(path)]
    if len(found) > 1:
        raise InvalidInputError(f"{' and '.join(map(str, found))}: one of the two is too many")
    if found:
        require_pydicom()
    return found[0] if found else None


def _check_images(places: Sequence[Path], patient_id: str, images: bool = True) -> list[str]:
    """List the images that a patient lacks, where they are needed, and the images and masks that are there twice."""
    wrong = []
    try:
        dicom = _dicom_place(places, patient_id)
    except InvalidInputError as error:
        return [f"patient {patient_id}: {error}"]
    for name, needed in (
        (f"{patient_id}__CT.nii.gz", "CT image" if images and not dicom else None),
        (f"{patient_id}__PT.nii.gz", "PT image" if images and not dicom else None),
        (f"{patient_id}.nii.gz", None),
        *((f"{patient_id}{ending}", None) for ending in _DOSE_ENDINGS.values()),
    ):
        try:
            found = _find(places, patient_id, name).is_file()
        except InvalidInputError as error:
            wrong.append(f"patient {patient_id}: {error}")
            continue
        if needed and not found:
            nested, flat = places[0] / patient_id / name, places[0] / name
            wrong.append(f"patient {patient_id}: no {needed}, neither {nested} nor {flat}")
    return wrong
