"""What several modules need: labels, stages, tasks, files of an answer, columns of tables, bounds of follow-up."""

from enum import IntEnum, StrEnum
from pathlib import Path
from typing import TypeVar

_T = TypeVar("_T")


class Label(IntEnum):
    """Values of an integer label map."""

    BACKGROUND = 0
    GTVP = 1
    GTVN = 2


LESIONS = (Label.GTVP, Label.GTVN)
"""The two foreground classes, in the order of every two-channel array."""
CLASS_NAMES = {Label.GTVP: "GTVp", Label.GTVN: "GTVn"}
"""The classes as they are written for people."""


class Stage(StrEnum):
    """The four learning stages, in order."""

    SEGMENTATION = "segmentation"
    HPV = "hpv"
    SURVIVAL = "survival"
    STAGING = "staging"


NETWORK_STAGES = (Stage.SEGMENTATION, Stage.HPV, Stage.SURVIVAL)
"""The stages that have a network, each of which starts from the backbone of the one before."""


class Task(StrEnum):
    """What a case may be asked for; which of them a challenge asks for is in `resources/editions`."""

    SEGMENTATION = "segmentation"
    SURVIVAL = "survival"
    HPV = "hpv"
    T_STAGE = "t-stage"
    N_STAGE = "n-stage"


STAGE_TASKS = (Task.T_STAGE, Task.N_STAGE)
"""What the learning stage `STAGING` answers, in the order of every pair."""
STAGE_OF = {
    Task.SEGMENTATION: Stage.SEGMENTATION,
    Task.SURVIVAL: Stage.SURVIVAL,
    Task.HPV: Stage.HPV,
    **dict.fromkeys(STAGE_TASKS, Stage.STAGING),
}
"""The learning stage that answers each task."""


def of_stage(task: Task, t_stage: _T, n_stage: _T) -> _T:
    """Choose what belongs to T stage or to N stage.

    Raises:
        ValueError: The task is neither.
    """
    return (t_stage, n_stage)[STAGE_TASKS.index(task)]


def stage_name(task: Task, stage: int) -> str:
    """Write a T or N stage, for example T2."""
    return f"{task.value[0].upper()}{stage}"


def status_name(positive: bool) -> str:
    """Write an HPV status."""
    return "positive" if positive else "negative"


class Modality(StrEnum):
    """The two images of a case: CT in HU, PET in SUV."""

    CT = "ct"
    PET = "pet"


class Format(StrEnum):
    """Forms in which an answer is written; a structured report brings the segmentation that it refers to."""

    MHA = "mha"
    NIFTI = "nifti"
    SEG = "dicom-seg"
    RTSTRUCT = "rtstruct"
    SR = "dicom-sr"


DICOM_FORMATS = frozenset((Format.SEG, Format.RTSTRUCT, Format.SR))
SUFFIX = {
    Format.MHA: ".mha",
    Format.NIFTI: ".nii.gz",
    Format.SEG: "_seg.dcm",
    Format.RTSTRUCT: "_rtstruct.dcm",
    Format.SR: "_sr.dcm",
}
"""What follows an answer's name in the name of a file."""

ALONE = "mask"
"""Name of an answer that has a folder of its own."""
MASK, REPORT, PICTURE, PAGE = f"{ALONE}.nii.gz", "report.json", "picture.png", "report.html"
DISAGREEMENT, DISAGREEMENT_MHA = "disagreement.nii.gz", "disagreement.mha"
"""Files of such an answer; the one as MHA lies beside an answer in the challenge's layout."""

PREDICTIONS_FILE = "predictions.csv"
STAGE_COLUMNS = {Task.T_STAGE: "t_stage", Task.N_STAGE: "n_stage"}
"""Columns of the stages there."""
NO_RECURRENCE = "no_recurrence_{}y"
"""Column there of the calibrated probability of no recurrence after so many years."""
DIFFERING = f"_{DISAGREEMENT}"
"""What follows a patient's name in the name of the file of how the models' masks differ."""


def exported(folder: Path, name: str = ALONE) -> list[Path]:
    """List what may have been exported of an answer, and goes where it is answered anew."""
    return [folder / f"{name}{suffix}" for suffix in SUFFIX.values()]


class ImageFormat(StrEnum):
    """The format of a cohort's images; its masks are NIfTI in any."""

    NIFTI = "nifti"
    DICOM = "dicom"


class Column(StrEnum):
    """Columns of the released table that are not clinical fields (those are in `resources/clinical.yaml`)."""

    PATIENT_ID = "PatientID"
    CENTER_ID = "CenterID"
    RELAPSE = "Relapse"
    RFS_DAYS = "RFS"
    HPV_STATUS = "HPV Status"


T_STAGE, N_STAGE = "T-stage", "N-stage"
"""Columns of the released workbook, and of the 2026 release: labels, unless the schema has fields of these names."""
KNOWN_HPV = "Known HPV Status"
"""Column of a table to be answered, never of the released one: a status that the risk may rest on."""
WEIGHT = "Weight"
"""Column of a table, and key of a record: kg, which bring a DICOM PET to SUV before its header's do. It is no clinical
field."""

SCORE_PARTS = (
    "gtvp_dice_mean",
    "gtvp_dice_aggregated",
    "gtvn_dice_mean",
    "gtvn_dice_aggregated",
    "gtvn_f1_aggregated",
    "c_index",
    "hpv_balanced_accuracy",
    "t_balanced_accuracy",
    "n_balanced_accuracy",
)
"""Metrics (`mmpl.cohort_scores`) of which an edition's own score may be made: from 0 to 1, higher is better."""

DAYS_PER_YEAR = 365.25
AT_RISK_AT_END = 0.1
"""Share of the patients who are still followed where discrete time ends, and where survival is no longer scored.
Beyond, they are too few: up to the longest follow-up, the last interval was three quarters of the axis, and ended at
half of Kaplan-Meier's survival."""
