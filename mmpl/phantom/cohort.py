"""Cohorts: on disk in the layout of the released training data, or in memory; and the challenge's sample case.

Only what writes files imports an image library, so that training on a cohort in memory needs none.
"""

import csv
import io
import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property, partial
from pathlib import Path
from uuid import NAMESPACE_OID, uuid5

from mmpl.case import Case, Image, InvalidInputError, Outcome, Patient
from mmpl.dicom.headers import require_pydicom
from mmpl.files import PARTIAL, write_whole
from mmpl.names import N_STAGE, T_STAGE, Column, ImageFormat
from mmpl.parallel import call_each
from mmpl.phantom.centers import CenterGroup
from mmpl.phantom.dose import dose_map
from mmpl.phantom.latent import CLINICAL_COLUMNS, LatentPatient, center_of, draw_patients
from mmpl.phantom.oracle import hpv_log_likelihood_ratio, oracle_figures
from mmpl.phantom.render import clinical_record, render
from mmpl.phantom.staging import stage_number
from mmpl.schema import ClinicalSchema

TABLE_NAMES: dict[CenterGroup, str] = {
    "training": "HECKTOR_2025_Training_EHR.csv",
    "unseen": "HECKTOR_2025_Unseen_EHR.csv",
}
TRUTH_NAME, ORACLE_NAME = "truth.csv", "oracle.json"
VERSION_COLUMN = "Synthetic Cohort"
"""Column of the table that no real one has; it names the version."""

CT, PET, LABELS, DOSE = "__CT", "__PT", "", "__RTDOSE"
"""Endings of a patient's files, before the suffix."""

SAMPLE_SEED, SAMPLE_CENTER, SAMPLE_PIXELS = 2025, "HGJ", 200

CT_FOLDER, PET_FOLDER = "CT", "PT"
"""Folders of a patient's series in a cohort of DICOM."""
DICOM_WEIGHT_KG = 75.0
"""What a PET's header says; the cohort has no weights, and SUV come back whatever it is."""


@dataclass(frozen=True)
class MemoryCohort:
    """A cohort that lies on no disk: what reading the same cohort's folder would give, each case drawn when read.

    Attributes:
        schema: Schema of the clinical record; by default that of `resources/clinical.yaml`.
    """

    latent: tuple[LatentPatient, ...]
    schema: ClinicalSchema | None = None

    @classmethod
    def draw(
        cls,
        count: int,
        seed: int,
        centers: CenterGroup = "training",
        hpv_positive: float | None = None,
        schema: ClinicalSchema | None = None,
        version: int = 1,
        dose_share: float = 0.0,
    ) -> "MemoryCohort":
        """Draw the patients."""
        return cls(draw_patients(count, seed, centers, hpv_positive, version, dose_share), schema)

    @cached_property
    def patients(self) -> tuple[Patient, ...]:
        """The rows of the cohort's table."""
        return tuple(table_patient(patient, self.schema) for patient in self.latent)

    @cached_property
    def _by_id(self) -> dict[str, LatentPatient]:
        return {patient.patient_id: patient for patient in self.latent}

    def has_mask(self, patient_id: str) -> bool:
        """Tell whether a patient has a reference mask."""
        return self._by_id[patient_id].mask_known

    def fingerprint(self, patient_id: str) -> str:
        """Give the same for the same patient; it is drawn, and never changes."""
        return patient_id

    def read_case(self, patient_id: str) -> Case:
        """Draw the images of one patient, the dose, and the reference mask where it is known."""
        patient = self._by_id[patient_id]
        case, dose = _draw(patient)
        return replace(case, reference=case.reference if patient.mask_known else None, dose=dose)


def write_cohort(
    count: int,
    seed: int,
    out: Path,
    centers: CenterGroup = "training",
    hpv_positive: float | None = None,
    version: int = 1,
    dose_share: float = 0.0,
    workers: int = 2,
    image_format: ImageFormat = ImageFormat.NIFTI,
) -> None:
    """Write images, table, `truth.csv` and `oracle.json`; patients that are already there are not drawn again.

    The table comes last, so a folder that has it is complete. Every file names the cohort's version, an image in its
    header's description.

    Args:
        version: Which effects are planted (`planted.VERSIONS`).
        dose_share: Share of patients with a dose map.

    Raises:
        InvalidInputError: The folder holds patients of another seed, other settings or another format, or other files.
        ModuleNotFoundError: The images are to be DICOM, and the extra `dicom` is not installed.
    """
    if image_format is ImageFormat.DICOM:
        require_pydicom()
    from rich.progress import track

    out.mkdir(parents=True, exist_ok=True)
    patients = draw_patients(count, seed, centers, hpv_positive, version, dose_share)
    _write_truth(out / TRUTH_NAME, patients)
    other = next(each for each in ImageFormat if each is not image_format)
    if any(_is_written(out, patient, other) for patient in patients):
        raise InvalidInputError(f"{out}: holds patients as {other}; name another folder")
    waiting = [patient for patient in patients if not _is_written(out, patient, image_format)]
    write = write_patient if image_format is ImageFormat.NIFTI else write_dicom_patient
    done = call_each(partial(write, out), waiting, workers, ordered=False)
    for _ in track(done, description="drawing patients", total=len(waiting)):
        pass
    figures = {key: value if value is None else round(value, 6) for key, value in oracle_figures(patients).items()}
    _write_text(out / ORACLE_NAME, json.dumps({"version": version, **figures}, indent=2) + "\n")
    _write_text(out / TABLE_NAMES[centers], _csv(table_row(patient) for patient in patients))


def write_patient(out: Path, patient: LatentPatient) -> None:
    """Draw one patient and write its folder."""
    from mmpl.io.images import write_image

    case, dose = _draw(patient)
    images = {CT: case.ct, PET: case.pet, LABELS: case.reference, DOSE: dose}
    for ending, path in _paths(out, patient).items():
        path.parent.mkdir(exist_ok=True)
        image = images[ending]
        assert image is not None
        write_image(path, image, note=_version_text(patient.version))


def write_dicom_patient(out: Path, patient: LatentPatient) -> None:
    """Draw one patient and write its folder: CT and PET as DICOM, labels and dose as NIfTI; whole or not at all."""
    from mmpl.dicom.writing import Injection, StudyHeader, ct_datasets, pet_datasets, save_series, to_bqml
    from mmpl.io.images import write_image

    (case, dose), name = _draw(patient), patient.patient_id
    partial_folder = out / f"{PARTIAL}{name}"
    shutil.rmtree(partial_folder, ignore_errors=True)
    age, gender = (patient.clinical[CLINICAL_COLUMNS[field]] for field in ("age", "gender"))
    sex = "" if gender is None else "FM"[int(gender)]
    study = StudyHeader(name, sex, age if isinstance(age, int) else None, DICOM_WEIGHT_KG)
    injection = Injection()
    save_series(ct_datasets(case.ct, study), partial_folder / CT_FOLDER)
    save_series(
        pet_datasets(to_bqml(case.pet, DICOM_WEIGHT_KG, injection), study, injection), partial_folder / PET_FOLDER
    )
    for ending, image in ((LABELS, case.reference if patient.mask_known else None), (DOSE, dose)):
        if image is not None:
            write_image(partial_folder / f"{name}{ending}.nii.gz", image, note=_version_text(patient.version))
    partial_folder.rename(out / name)


def _draw(patient: LatentPatient) -> tuple[Case, Image | None]:
    """Draw a patient's images and dose; with dose the reference mask is there whether it is known or not."""
    case = render(patient, with_reference=True if patient.dose else None)
    return case, dose_map(patient.dose, case, patient.image_seed) if patient.dose else None


def table_patient(patient: LatentPatient, schema: ClinicalSchema | None = None) -> Patient:
    """Give the patient's row of the released table as a record."""
    outcome = Outcome(
        hpv_positive=patient.hpv_positive if patient.hpv_known else None,
        relapse=patient.relapse if patient.rfs_known else None,
        rfs_days=patient.rfs_days if patient.rfs_known else None,
        t_stage=stage_number(patient.staging.t_read) if patient.staging else None,
        n_stage=stage_number(patient.staging.n_read) if patient.staging else None,
    )
    return Patient(patient.patient_id, str(center_of(patient).code), clinical_record(patient, schema), outcome)


def table_row(patient: LatentPatient) -> dict[str, object]:
    """Give the patient's row of the released table; None where it is blank."""
    return {
        Column.PATIENT_ID.value: patient.patient_id,
        Column.CENTER_ID.value: center_of(patient).code,
        **patient.clinical,
        **({T_STAGE: patient.staging.t_read, N_STAGE: patient.staging.n_read} if patient.staging else {}),
        Column.RELAPSE.value: int(patient.relapse) if patient.rfs_known else None,
        Column.RFS_DAYS.value: int(patient.rfs_days) if patient.rfs_known else None,
        Column.HPV_STATUS.value: int(patient.hpv_positive) if patient.hpv_known else None,
        VERSION_COLUMN: _version_text(patient.version),
    }


def truth_row(patient: LatentPatient) -> dict[str, object]:
    """Give every latent variable, and the oracle's HPV score, by name."""
    values = {field.name: getattr(patient, field.name) for field in fields(patient)}
    staging, traps, dose = (values.pop(name) for name in ("staging", "traps", "dose"))
    if staging:
        values |= asdict(staging)
    if patient.planted.traps:
        values |= asdict(traps)
    values["underdosage_gy"] = dose.underdosage_gy if dose else None
    row = {name: _cell(value) for name, value in values.items() if name != "patient_id"}
    score = round(hpv_log_likelihood_ratio(patient), 6)
    return {Column.PATIENT_ID.value: patient.patient_id, **row, "hpv_log_likelihood_ratio": score}


def _cell(value: object) -> object:
    """Write a latent variable as a table has it."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, frozenset):
        return " ".join(sorted(value))
    if isinstance(value, tuple):
        return " ".join(f"{part:.4f}" if isinstance(part, float) else str(_cell(part)) for part in value)
    return value


def write_sample_case(out: Path) -> Case:
    """Write one head-and-neck case, a primary and two nodes, in the challenge's layout; return it with its labels."""
    from mmpl.io.images import write_image

    patient = next(patient for patient in draw_patients(2000, SAMPLE_SEED) if _is_exemplary(patient))
    patient = replace(patient, missing=frozenset())
    case = render(patient, with_reference=True)
    assert case.reference is not None
    case = replace(case, ct=_crop(case.ct, SAMPLE_PIXELS), reference=_crop(case.reference, SAMPLE_PIXELS))
    for modality, image in (("ct", case.ct), ("pet", case.pet)):
        path = out / "images" / modality / f"{uuid5(NAMESPACE_OID, f'mmpl sample {modality}')}.mha"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, image)
    _write_text(out / "ehr.json", json.dumps(patient.clinical, indent=2) + "\n")
    return case


def _is_exemplary(patient: LatentPatient) -> bool:
    volumes = patient.node_volumes_ml
    typical = patient.primary_site == "tongue base" and abs(patient.primary_volume or 9.0) < 1.0
    short = patient.center == SAMPLE_CENTER and not patient.long_scan
    return short and typical and len(volumes) == 2 and min(volumes) > 2.0


def _crop(image: Image, pixels: int) -> Image:
    """Keep the central pixels in the plane of an image with identity direction."""
    grid = image.grid
    skip = [(size - pixels) // 2 for size in grid.size_xyz[:2]]
    steps = zip(grid.origin_xyz, grid.spacing_xyz, (*skip, 0), strict=True)
    x, y, z = (round(origin + step * count, 3) for origin, step, count in steps)
    voxels = image.voxels[:, skip[1] : skip[1] + pixels, skip[0] : skip[0] + pixels]
    return Image(voxels, replace(grid, size_xyz=(pixels, pixels, grid.size_xyz[2]), origin_xyz=(x, y, z)))


def _paths(out: Path, patient: LatentPatient) -> dict[str, Path]:
    """Name the files of a patient by their endings: CT, PET and, where they are there, labels and dose."""
    endings = [CT, PET, *[LABELS] * patient.mask_known, *[DOSE] * (patient.dose is not None)]
    return {ending: out / patient.patient_id / f"{patient.patient_id}{ending}.nii.gz" for ending in endings}


def _is_written(out: Path, patient: LatentPatient, image_format: ImageFormat) -> bool:
    if image_format is ImageFormat.DICOM:
        return (out / patient.patient_id / CT_FOLDER).is_dir()
    return all(path.is_file() for path in _paths(out, patient).values())


def _version_text(version: int) -> str:
    return f"mmpl synthetic cohort, version {version}"


def _write_truth(path: Path, patients: tuple[LatentPatient, ...]) -> None:
    """Write the latent variables, unless those there, or other files, belong to other patients."""
    text = _csv(truth_row(patient) for patient in patients)
    if not path.is_file() and any(not there.name.startswith(".") for there in path.parent.iterdir()):
        raise InvalidInputError(f"{path.parent}: holds other files than a synthetic cohort's; name an empty folder")
    if path.is_file():
        there, wanted = path.read_text().splitlines(), text.splitlines()
        common = min(len(there), len(wanted))
        if there[:common] != wanted[:common]:
            raise InvalidInputError(f"{path}: this folder holds patients of another seed, version or other settings")
    _write_text(path, text)


def _csv(rows: Iterable[Mapping[str, object]]) -> str:
    listed = list(rows)
    header = list(listed[0]) if listed else [column.value for column in Column] + list(CLINICAL_COLUMNS.values())
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, header, lineterminator="\n")
    writer.writeheader()
    writer.writerows(listed)
    return buffer.getvalue()


def _write_text(path: Path, text: str) -> None:
    with write_whole(path) as partial:
        partial.write_text(text)
