"""What one patient brings: two images with their geometry, a clinical record and, in training, labels and outcome."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from mmpl.names import Label, Task, of_stage

Vector = tuple[float, float, float]

IDENTITY_DIRECTION = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


class InvalidInputError(ValueError):
    """An input that cannot be answered; the message names what is wrong with which file."""


def describe_problems(source: object, problems: Sequence[str]) -> str:
    """Write the problems of an input as the message of one error, a line each where there are several."""
    if len(problems) == 1:
        return f"{source}: {problems[0]}"
    return "\n  ".join([f"{source}: {len(problems)} problems", *problems])


@dataclass(frozen=True)
class Grid:
    """A grid of voxels in patient space (LPS, mm), in SimpleITK's terms.

    Attributes:
        size_xyz: Number of voxels along each index axis.
        spacing_xyz: Distance between voxel centers, mm.
        origin_xyz: Position of the center of voxel (0, 0, 0), mm.
        direction: Row-major 3 x 3 matrix; column j is the direction of index axis j.
    """

    size_xyz: tuple[int, int, int]
    spacing_xyz: Vector
    origin_xyz: Vector
    direction: tuple[float, ...] = IDENTITY_DIRECTION

    @property
    def shape_zyx(self) -> tuple[int, int, int]:
        """Shape of an array on this grid."""
        x, y, z = self.size_xyz
        return z, y, x

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel, ml."""
        return float(np.prod(self.spacing_xyz)) / 1000.0


@dataclass(frozen=True)
class Image:
    """Voxels (z, y, x), real numbers, and the grid they lie on."""

    voxels: NDArray
    grid: Grid

    def __post_init__(self) -> None:
        if self.voxels.ndim != 3:
            raise InvalidInputError(f"the image has {self.voxels.ndim} dimensions, not 3")
        if self.voxels.shape != self.grid.shape_zyx:
            raise InvalidInputError(f"voxels {self.voxels.shape} do not fit the grid {self.grid.shape_zyx} (z, y, x)")
        if self.voxels.size == 0:
            raise InvalidInputError("the image is empty")
        if self.voxels.dtype.kind not in "biuf":
            raise InvalidInputError(f"the image's voxels are {self.voxels.dtype}, not real numbers")


@dataclass(frozen=True)
class GivenMask:
    """A mask that a person drew or corrected.

    Attributes:
        image: Label map on the CT's grid.
        source: Where it is from: the name of its file.
    """

    image: Image
    source: str


@dataclass(frozen=True)
class ClinicalRecord:
    """Clinical fields by their released names: a number, a level's code, or None where unknown.

    Attributes:
        values: Every field of the schema, in its order; numbers for continuous fields, codes for categorical ones.
        assumed: One sentence for each value that was missing or odd, for the log.
        odd: Names of the fields that were given, but in no way that the schema knows.
        given: What was given for a field, or where it was found, by the field's name and short enough to be shown; two
            records that read alike are equal, however they were given.
    """

    values: Mapping[str, float | str | None] = field(default_factory=dict)
    assumed: tuple[str, ...] = ()
    odd: tuple[str, ...] = ()
    given: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        for name in ("values", "given"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    def __reduce__(self) -> tuple:
        return ClinicalRecord, (dict(self.values), self.assumed, self.odd, dict(self.given))


@dataclass(frozen=True)
class Outcome:
    """What is to be predicted of a patient; None where it is not known.

    Attributes:
        hpv_positive: HPV status.
        relapse: True if a recurrence was seen, False if follow-up was censored.
        rfs_days: Recurrence-free survival or follow-up, days from treatment.
        t_stage: T stage by the AJCC's seventh edition, 0 to 4.
        n_stage: N stage, 0 to 3.
    """

    hpv_positive: bool | None = None
    relapse: bool | None = None
    rfs_days: float | None = None
    t_stage: int | None = None
    n_stage: int | None = None

    @property
    def has_rfs(self) -> bool:
        """Whether time and event are both known."""
        return self.relapse is not None and self.rfs_days is not None

    def stage_of(self, task: Task) -> int | None:
        """Give T stage, 1 to 4, or N stage, 0 to 3; None where it is not known, and of T0, where nothing is staged."""
        return of_stage(task, self.t_stage or None, self.n_stage)


@dataclass(frozen=True)
class SeriesIdentity:
    """The DICOM series that an image was read from; a mask that belongs to the image refers to it.

    Attributes:
        frame_of_reference_uid: Frame of reference; blank where the header has none.
    """

    series_uid: str
    frame_of_reference_uid: str

    def check(self, series_uids: Collection[str], frame_of_reference_uids: Collection[str]) -> None:
        """Compare with the series and frames of reference that an object refers to; of none, it says nothing.

        Raises:
            InvalidInputError: This one is not among them.
        """
        frame = self.frame_of_reference_uid
        if frame and frame_of_reference_uids and frame not in frame_of_reference_uids:
            raise InvalidInputError("it belongs to another CT (its frame of reference is another)")
        if series_uids and self.series_uid not in series_uids:
            raise InvalidInputError("it belongs to another CT (it refers to another series)")


@dataclass(frozen=True)
class SuvFactor:
    """The factor that brought a PET's values to SUV by body weight, and what went into it; None where it did not.

    Attributes:
        factor: SUV for each unit of the values; None where it cannot be known.
        why_none: The reason, then.
        units: Unit of the values, in DICOM's terms.
        suv_type: Kind of SUV that they were in already, in DICOM's terms; blank where they were in none.
        decay_correction: Moment to which the scanner corrected the decay: START or ADMIN.
        counted_to: Where that moment was read from.
        uptake_s: Seconds from the injection to it.
        other_uptake_s: Those by the injection's time of day, where that contradicts its date and time; None elsewhere.
        dose_bq: Activity at the injection.
        decayed_bq: Activity left of it at that moment.
        height_m: Height, which tells whether the weight can be one in kg.
    """

    factor: float | None
    why_none: str = ""
    units: str = ""
    suv_type: str = ""
    decay_correction: str = ""
    counted_to: str = ""
    uptake_s: float | None = None
    other_uptake_s: float | None = None
    half_life_s: float | None = None
    dose_bq: float | None = None
    decayed_bq: float | None = None
    weight_kg: float | None = None
    height_m: float | None = None


@dataclass(frozen=True)
class Case:
    """One patient as the system sees it; checks itself once, on entry.

    Attributes:
        ct: CT, HU.
        pet: PET, SUV, on its own grid.
        clinical: The clinical record, already read through the schema.
        reference: Label map on the CT's grid, in training only.
        pet_is_suv: False where the PET's numbers cannot be SUV (`mmpl.units`).
        flags: Findings on entry that the reader of the answers should know.
        known_hpv: HPV status, where it is known and takes the place of the predicted one in the survival model.
        given_mask: Mask that takes the place of the ensemble's in the answer, and for HPV and survival.
        suv: How the PET came to be in SUV, where headers say so.
        ct_series, pet_series: Series that CT and PET were read from; None where it is not DICOM.
        dose: Planned dose of the radiotherapy, Gy, on its own grid in the CT's space (`mmpl.dose`); None where there is
            none to be used.
    """

    patient_id: str
    ct: Image
    pet: Image
    clinical: ClinicalRecord
    reference: Image | None = None
    pet_is_suv: bool = True
    flags: tuple[str, ...] = ()
    known_hpv: bool | None = None
    given_mask: GivenMask | None = None
    suv: SuvFactor | None = None
    ct_series: SeriesIdentity | None = None
    pet_series: SeriesIdentity | None = None
    dose: Image | None = None

    def __post_init__(self) -> None:
        for name, image in (("CT", self.ct), ("PET", self.pet), ("dose", self.dose)):
            if image:
                check_image(name, image)
        if self.reference:
            self._check_mask("reference", self.reference)
        if self.given_mask:
            self._check_mask("given", self.given_mask.image)

    def _check_mask(self, which: str, mask: Image) -> None:
        if mask.grid != self.ct.grid:
            raise InvalidInputError(f"the {which} mask is not on the CT's grid")
        unknown = set(np.unique(mask.voxels).tolist()) - set(Label)
        if unknown:
            raise InvalidInputError(f"the {which} mask has labels {sorted(unknown)}; only 0, 1 and 2 are known")


def check_image(name: str, image: Image) -> None:
    """Raise InvalidInputError, naming the image, where voxels or geometry cannot be used."""
    spacing = np.asarray(image.grid.spacing_xyz)
    if not (np.isfinite(spacing).all() and (spacing > 0).all()):
        raise InvalidInputError(f"the {name}'s spacing {image.grid.spacing_xyz} is not positive")
    direction = np.asarray(image.grid.direction).reshape(3, 3)
    if not np.allclose(direction.T @ direction, np.eye(3), atol=1e-3):
        raise InvalidInputError(
            f"the {name}'s direction cosines are not orthonormal; resample it to a right-angled grid"
        )
    if not np.isfinite(image.grid.origin_xyz).all():
        raise InvalidInputError(f"the {name}'s origin {image.grid.origin_xyz} is not finite")
    if min(image.grid.size_xyz) < 2:
        raise InvalidInputError(f"the {name} is {image.grid.size_xyz} voxels (x, y, z): a volume is needed")
    if not np.issubdtype(image.voxels.dtype, np.number) or np.iscomplexobj(image.voxels):
        raise InvalidInputError(f"the {name} holds {image.voxels.dtype}, not numbers")
    if np.issubdtype(image.voxels.dtype, np.floating) and not np.isfinite(image.voxels).all():
        raise InvalidInputError(f"the {name} holds NaN or infinite voxels")


@dataclass(frozen=True)
class Patient:
    """One row of a cohort's table.

    Attributes:
        center_id: ID of the center where the patient was seen; splits use it, no model ever does.
        known_hpv: HPV status that an answer may rest on, where a table to be answered gives one.
        weight: Weight, kg, as the table has it; it is read where a DICOM PET is brought to SUV.
    """

    patient_id: str
    center_id: str
    clinical: ClinicalRecord
    outcome: Outcome
    known_hpv: bool | None = None
    weight: str = ""
