"""The Python interface: weights loaded once, then one patient after the other, from paths, SimpleITK images or arrays.

import mmpl

model = mmpl.load("weights")
result = model.answer("ct.nii.gz", "pet.nii.gz", {"Age": 61, "Gender": "M"})
result.segmentation.mask.voxels   # (z, y, x): 0 background, 1 GTVp, 2 GTVn, on the CT's own grid
result.hpv.probability            # mean of the models' probabilities
result.survival.risk_score        # higher is worse, 0 an average patient of the training cohort
result.lesions[0].uptake.suv_peak  # each lesion's measures (`mmpl.lesions`)
for patient_id, result in model.answer_cohort("cohorts/mine"):
    ...                           # a result, or the error that kept a patient from being answered
"""

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import ArrayLike, NDArray

from mmpl.case import GivenMask, Grid, Image, InvalidInputError
from mmpl.dicom.dose import read_any_dose
from mmpl.dicom.masks import give_mask
from mmpl.dicom.study import DICOM_HEADER, PatientImages, read_pair
from mmpl.dose import DOSE_UNREAD, give_dose
from mmpl.geometry import lay_on, to_sitk
from mmpl.io.challenge import read_edition
from mmpl.io.cohort import read_cohort
from mmpl.io.images import NO_PLACE, as_volume, flags_of, from_sitk, read_image, says_no_place
from mmpl.io.masks import as_labels
from mmpl.io.record import read_record, stated_weight_kg
from mmpl.names import Task
from mmpl.page import write_page
from mmpl.pipeline import PatientResult, Pipeline
from mmpl.processor import PRECISION, default_device
from mmpl.provenance import trace
from mmpl.weights import load_ensemble

AnyImage = str | PathLike[str] | sitk.Image | tuple[NDArray, ArrayLike]
"""A path; a SimpleITK image; or voxels (x, y, z) with their 4 x 4 affine to RAS, mm, as nibabel gives both."""

log = logging.getLogger(__name__)

_SHEAR = 1e-3  # of cosines between index axes, what headers lose in float32


@dataclass(frozen=True)
class Model:
    """An ensemble on a device, ready for patients; made by `load`."""

    pipeline: Pipeline

    def answer(
        self,
        ct: AnyImage,
        pet: AnyImage,
        record: Mapping[str, object] | None = None,
        known_hpv: bool | None = None,
        patient_id: str = "patient",
        mask: AnyImage | None = None,
        page: str | PathLike[str] | None = None,
        dose: AnyImage | None = None,
    ) -> PatientResult:
        """Answer one patient.

        Args:
            ct: CT, HU.
            pet: PET, SUV by body weight, on any grid that overlaps the CT's; from DICOM in any unit. Where both are
                paths, each may be a folder of DICOM files or a zip archive of one.
            record: Clinical fields by name, as in the challenge's `ehr.json`; what is missing is assumed, and said in
                the result's `notes`. A `Weight` goes before the PET's header, and `HPV Status` is read where the
                edition (`MMPL_EDITION`) has it as an input.
            known_hpv: HPV status that replaces the predicted one in the survival model: True (or 1) for positive.
            patient_id: Name of the patient in the result.
            mask: A person's label map, which replaces the ensemble's; a path may be DICOM SEG or RTSTRUCT, too.
            page: HTML file to write, which shows the result to a person; None for none.
            dose: Planned dose of the radiotherapy, Gy, in the CT's space; a path may be a DICOM RT dose, too.

        Raises:
            InvalidInputError: An image, the mask or the dose cannot be used, or CT and PET do not overlap; or the known
                status is neither.
            OSError: The page cannot be written.
        """
        known_hpv = _checked_status(known_hpv)
        content = {} if record is None else dict(record)
        schema = self.pipeline.ensemble.profile.clinical
        fields, known_hpv = read_record(content, schema, read_edition().known_hpv, known_hpv)
        if isinstance(ct, str | PathLike) and isinstance(pet, str | PathLike):
            images = read_pair(Path(ct), Path(pet), weight_kg=stated_weight_kg(content, schema))
        else:
            images = PatientImages(read_any_image("CT", ct), read_any_image("PET", pet))
            named = (Path(image) for image in (ct, pet) if isinstance(image, str | PathLike))
            flags = flags_of(*named)
            if any(isinstance(image, sitk.Image) and says_no_place(image) for image in (ct, pet)):
                flags = (NO_PLACE,)
            images = replace(images, flags=flags)
        clinical = schema.complete(fields, images.found, DICOM_HEADER)
        case = images.to_case(patient_id, clinical, known_hpv=known_hpv)
        if isinstance(dose, str | PathLike):
            case = give_dose(case, read_any_dose(Path(dose), case.ct_series))
        elif dose is not None:
            case = give_dose(case, read_any_image("dose", dose))
        if case.dose and not self.pipeline.ensemble.reads_dose:
            log.warning(DOSE_UNREAD)
        if isinstance(mask, str | PathLike):
            case = give_mask(case, Path(mask))
        elif mask is not None:
            image = read_any_image("mask", mask)
            labels = lay_on(Image(as_labels(image.voxels), image.grid), case.ct.grid)
            case = replace(case, given_mask=GivenMask(labels, "in memory"))
        result = self.pipeline(case)
        if page is not None:
            paths = {
                name: Path(image)
                for name, image in (("ct", ct), ("pet", pet), ("dose", dose))
                if isinstance(image, str | PathLike)
            }
            files = {name: path for name, path in paths.items() if path.is_file()}
            provenance = trace(self.pipeline.ensemble, self.pipeline.device, result.seconds, files)
            write_page(Path(page), case, result, self.pipeline.ensemble, provenance)
        return result

    def answer_cohort(self, folder: str | PathLike[str]) -> Iterator[tuple[str, PatientResult | InvalidInputError]]:
        """Answer the patients of a cohort's folder, one after the other, in the order of its table.

        `mmpl predict` writes the same answers to a folder.

        Args:
            folder: A folder in HECKTOR's layout; released outcomes are not looked at.

        Yields:
            Patient ID, and the result or, for a patient whose images cannot be used, what is wrong with them.

        Raises:
            InvalidInputError: The folder's table cannot be used.
        """
        schema, known_hpv = self.pipeline.ensemble.profile.clinical, read_edition().known_hpv
        cohort = read_cohort(Path(folder), schema, outcomes=False, known_hpv=known_hpv)
        for remark in cohort.remarks:
            log.warning("%s: %s", cohort.table, remark)
        for patient in cohort.patients:
            try:
                yield patient.patient_id, self.pipeline(cohort.read_case(patient.patient_id))
            except InvalidInputError as error:
                yield patient.patient_id, error


def load(
    weights: str | PathLike[str] | None = None,
    device: str | None = None,
    models: Sequence[str] = (),
    tasks: Collection[str] = tuple(Task),
    all_radiomics: bool = False,
    hpv_prevalence: float | None = None,
    disagreement: bool = False,
) -> Model:
    """Verify a folder of weights, and read all of it.

    Args:
        weights: The folder; by default what `MMPL_WEIGHTS` names, else the shipped ones of a checkout.
        device: A CPU or a GPU of CUDA, as PyTorch names it; by default a GPU where there is one.
        models: Models of the ensemble that answer, by name; by default all.
        tasks: Tasks to answer, among "segmentation", "hpv", "survival", "t-stage" and "n-stage", as far as the weights
            can.
        all_radiomics: Whether results hold every radiomics feature, not just those that the models read.
        hpv_prevalence: Share of HPV-positive patients where the patients come from, for the calibrated probability; by
            default that of training.
        disagreement: Whether results hold the models' disagreement, voxel by voxel (`result.segmentation`).

    Raises:
        WeightsError: The weights are missing or damaged, or have no such model.
        ValueError: There is no such task or prevalence, or the device is another.
    """
    ensemble = load_ensemble(None if weights is None else Path(weights)).only(models)
    for member in ensemble.members:
        member.keep()
    chosen = torch.device(device) if device else default_device()
    if chosen.type not in PRECISION:
        raise ValueError(f"device {chosen}: {' and '.join(PRECISION)} can be used")
    wanted = frozenset(map(Task, tasks))
    pipeline = Pipeline(
        ensemble,
        chosen,
        wanted,
        all_radiomics,
        hpv_prevalence=hpv_prevalence,
        disagreement=disagreement,
        lesions=True,
    )
    return Model(pipeline)


def _checked_status(known_hpv: bool | None) -> bool | None:
    """Take a status as True or False, whatever type holds it; no text, of which "0" would be true."""
    with suppress(TypeError, ValueError):  # pandas' NA, and arrays, are neither equal to it nor not
        if known_hpv is None or known_hpv in (True, False):
            return None if known_hpv is None else bool(known_hpv)
    raise InvalidInputError(f"known_hpv is {known_hpv!r}: True, False or None is needed")


def read_any_image(name: str, image: AnyImage) -> Image:
    """Read an image in any of the forms that the interface takes.

    Args:
        name: Name of the image in messages: CT or PET.
        image: The image.

    Raises:
        InvalidInputError: It is none of those forms, or cannot be used; the message names it.
    """
    if isinstance(image, sitk.Image):
        try:
            return from_sitk(as_volume(image))
        except InvalidInputError as error:
            raise InvalidInputError(f"{name}: {error}") from error
    if isinstance(image, tuple) and len(image) == 2:
        if np.ma.is_masked(image[0]):
            raise InvalidInputError(f"{name}: a masked array; fill what is masked (voxels.filled(-1024) in a CT)")
        return _from_affine(name, np.asarray(image[0]), np.asarray(image[1], dtype=float))
    if isinstance(image, str | PathLike):
        return read_image(Path(image))
    raise InvalidInputError(
        f"{name}: a path, a SimpleITK image or (voxels, affine) is needed, not {type(image).__name__}"
    )


def _from_affine(name: str, voxels: NDArray, affine: NDArray[np.float64]) -> Image:
    if voxels.ndim != 3 or affine.shape != (4, 4):
        raise InvalidInputError(f"{name}: voxels of shape {voxels.shape} and an affine of shape {affine.shape}")
    if (affine[3] != (0, 0, 0, 1)).any():
        raise InvalidInputError(f"{name}: the last row of the affine is {affine[3].tolist()}, not 0, 0, 0, 1")
    to_lps = np.diag([-1.0, -1.0, 1.0]) @ affine[:3]
    spacing = np.linalg.norm(to_lps[:, :3], axis=0)
    if not (np.isfinite(to_lps).all() and (spacing > 0).all()):
        raise InvalidInputError(f"{name}: the affine has an axis of no length")
    direction = to_lps[:, :3] / spacing
    if np.abs(direction.T @ direction - np.eye(3)).max() > _SHEAR:
        raise InvalidInputError(f"{name}: the affine is sheared; resample the image to a right-angled grid")
    x, y, z = voxels.shape
    spacing_xyz, origin_xyz = (tuple(map(float, part)) for part in (spacing, to_lps[:, 3]))
    return Image(
        np.ascontiguousarray(voxels.transpose(2, 1, 0)),
        Grid((x, y, z), spacing_xyz, origin_xyz, tuple(direction.ravel().tolist())),  # type: ignore[arg-type]
    )


def mask_image(result: PatientResult) -> sitk.Image:
    """Give the mask as a SimpleITK image on the CT's own grid: 0 background, 1 GTVp, 2 GTVn."""
    return to_sitk(result.segmentation.mask)
