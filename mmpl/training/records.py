"""What each step of a training run leaves for the next, stored whole; patients are named, folds never mixed."""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from mmpl.names import Task
from mmpl.segmentation import Thresholds
from mmpl.staging import StageScale
from mmpl.training.splits import Scheme

Values = dict[str, float]
"""One number a patient."""
OutOfFold = dict[Scheme, Values]
"""One out-of-fold table a fold scheme: each number is of a model that never saw the patient."""


class Record(BaseModel):
    """The record of one step; `FILE` is its path below the run's folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    FILE: ClassVar[str]

    def summary(self) -> dict[str, Any]:
        """Give what the weights' manifest keeps of it."""
        return self.model_dump(mode="json")


class CohortRecord(Record):
    """The cohort as it was when the run began.

    Attributes:
        fingerprints: What tells each patient's images, mask and row apart from others of the same name.
    """

    FILE = "cohort.json"
    fingerprints: dict[str, str]


class StartRecord(Record):
    """The networks that stage 1 began with: untrained ones, or those of other weights.

    Attributes:
        cohorts: Cohorts that those weights, and any they began with, were trained on; none for untrained networks.
        image_hashes: What tells the patients of those cohorts apart by their CTs (`patches.Description`).
        code_version: Version of the code that trained those weights.
        step: Step of stage 1's schedule at which they were taken to stand.
    """

    FILE = "start.json"
    cohorts: tuple[str, ...] = ()
    image_hashes: tuple[str, ...] = ()
    code_version: str | None = None
    step: int = 0


class SegmentationRecord(Record):
    """The record of stage 1: what it found out of fold.

    Attributes:
        thresholds: Thresholds of the classes, chosen on the mean of each patient's out-of-fold probabilities.
        gtvp_dice_mean, gtvn_dice_aggregated: Dice at those, at the patch's spacing; NaN where there is no such lesion.
        lesion_centers_xyz: The middle of each patient's out-of-fold mask, voxels of the patch.
    """

    FILE = "segmentation.json"
    thresholds: Thresholds
    gtvp_dice_mean: float
    gtvn_dice_aggregated: float
    lesion_centers_xyz: dict[str, tuple[float, float, float]]

    def summary(self) -> dict[str, Any]:
        """Give what the weights' manifest keeps of it."""
        return self.model_dump(mode="json", exclude={"lesion_centers_xyz"})


class HpvRecord(Record):
    """The record of stage 2: what it found out of fold.

    Attributes:
        logits: Logits of the networks, as they are; none where the run has no network, as for the next stage's days.
        probability: HPV probabilities of the forests.
        threshold: Threshold of the mean probability; at or above is positive.
        auc, auc_deep_only: Area under the ROC curve of the mean probability, and of the mean standardized logit;
            None without networks, as for the next stage.
        balanced_accuracy: Balanced accuracy at the threshold, which was chosen on the same patients.
        forests: Hyper-parameters of each model's forest, and the balanced accuracy they were chosen for.
    """

    FILE = "hpv.json"
    logits: OutOfFold
    probability: OutOfFold
    threshold: float
    auc: float
    auc_deep_only: float | None
    balanced_accuracy: float
    forests: dict[str, dict[str, float | None]]

    def summary(self) -> dict[str, Any]:
        """Give what the weights' manifest keeps of it."""
        return self.model_dump(mode="json", exclude={"logits", "probability"})


class SurvivalRecord(Record):
    """The record of stage 3: what it found out of fold.

    Attributes:
        expected_days: Expected days of the networks, as they are; higher is better.
        risk: Risks of the Cox models, standardized; higher is worse.
        c_index, c_index_deep_only: C-index of the mean risk, and of minus the mean standardized expected days.
    """

    FILE = "survival.json"
    expected_days: OutOfFold
    risk: OutOfFold
    c_index: float
    c_index_deep_only: float | None

    def summary(self) -> dict[str, Any]:
        """Give what the weights' manifest keeps of it."""
        return self.model_dump(mode="json", exclude={"expected_days", "risk"})


class StagingRecord(Record):
    """The record of stage 4: what it found out of fold, of T and of N.

    Attributes:
        scores: Scores of the ordinal models; higher is a higher stage.
        scales: How the mean score becomes a stage.
        balanced_accuracy: Balanced accuracy of the stages, whose thresholds were chosen on the same patients.
        balanced_accuracy_by_rules: That of the manual's rules on the out-of-fold mask.
    """

    FILE = "staging.json"
    scores: dict[Task, OutOfFold]
    scales: dict[Task, StageScale]
    balanced_accuracy: dict[Task, float]
    balanced_accuracy_by_rules: dict[Task, float]

    def summary(self) -> dict[str, Any]:
        """Give what the weights' manifest keeps of it."""
        return self.model_dump(mode="json", exclude={"scores", "scales"})


class ScratchRecord(Record):
    """The out-of-fold answers of networks of stages 2 and 3 that began untrained, under the patient-level folds.

    Attributes:
        logits: Logits of stage 2's networks.
        expected_days: Expected days of stage 3's networks.
    """

    FILE = "ablations/scratch.json"
    logits: Values
    expected_days: Values
