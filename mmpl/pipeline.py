"""The whole system on one screen: segment, diagnose and prognose (the paper's Figure 1), then stage."""

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from mmpl.calibration import check_prevalence
from mmpl.case import Case, SeriesIdentity, SuvFactor
from mmpl.dose import MeasuredDose, measure_dose
from mmpl.evidence import ABSENT, Evidence, FeatureTable, Floats, hpv_evidence, survival_evidence
from mmpl.geometry import holds, index_to_mm
from mmpl.hpv import HpvResult
from mmpl.integration import hpv_seen_by_cox, integrate_hpv, integrate_survival, stated_flags
from mmpl.lesions import Lesion, find_lesions
from mmpl.names import STAGE_TASKS, Label, Stage, Task, of_stage
from mmpl.network import memory_gib
from mmpl.preprocess import PreparedCase, prepare
from mmpl.processor import Processor
from mmpl.radiomics import measure_lesions, pet_flags
from mmpl.segmentation import NO_LESION, Budget, Segmentation, crop_around, lesion_center, predict_logits, segment
from mmpl.staging import NO_PRIMARY, StageResult, answer_stage, measure_geometry, staging_evidence
from mmpl.survival import SurvivalResult, TimeIntervals, expected_days, member_curves, survival_curve
from mmpl.weights import Ensemble, EnsembleMember, WeightsError

SEGMENTATION_SHARE = 0.6
"""Share of a time budget after which stage 1 is over; the rest is for radiomics and the later stages' networks."""
UNLIKE_TRAINING = "images unlike those of the training patients"
OUTSIDE_PATCH = "the lesions lie outside the region that the networks look at"
NO_DEEP_EVIDENCE = "the networks of HPV and survival left out: the training mean stands in"
NO_DOSE = "no planned dose, which the models read: a typical patient's stands in"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PatientResult:
    """The answers for one patient.

    Attributes:
        segmentation: GTVp and GTVn on the CT's own grid: the ensemble's, or those that a person gave.
        hpv: HPV status and the models' probabilities; None where neither it nor survival, which reads it, was asked
            for, or the weights have no stage 2.
        survival: Recurrence risk, higher is worse, and the models' survival curves; None where it was not asked for, or
            the weights have no stage 3.
        radiomics: One row, of what the models read or of everything; None where neither was asked for.
        flags: Findings that the reader of the answers should know.
        notes: One sentence for each clinical value that was assumed.
        unlike_training: Distance of the images from those of the training patients; above 1 is more than all but one in
            a hundred of them have. None where the weights do not know them.
        lesions: The lesions one by one; None where they were not asked for.
        seconds: Seconds that each stage took, in the order in which they were done.
        suv: How the PET came to be in SUV, where headers say so.
        t_stage, n_stage: T and N stage; None where they were not asked for, or the weights do not stage.
        dose: One row of the planned dose; None where no model reads any.
        ct_series, pet_series: DICOM series that CT and PET were read from; None where they were not.
    """

    patient_id: str
    segmentation: Segmentation
    hpv: HpvResult | None
    survival: SurvivalResult | None
    radiomics: FeatureTable | None
    flags: tuple[str, ...]
    notes: tuple[str, ...]
    unlike_training: float | None = None
    lesions: tuple[Lesion, ...] | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    suv: SuvFactor | None = None
    t_stage: StageResult | None = None
    n_stage: StageResult | None = None
    dose: FeatureTable | None = None
    ct_series: SeriesIdentity | None = None
    pet_series: SeriesIdentity | None = None

    @property
    def gtvp_ml(self) -> float:
        """Volume of the primary, ml."""
        return self.segmentation.volume_ml(Label.GTVP)

    @property
    def gtvn_ml(self) -> float:
        """Volume of all nodes together, ml."""
        return self.segmentation.volume_ml(Label.GTVN)

    def stage_of(self, task: Task) -> StageResult | None:
        """Give T or N stage."""
        return of_stage(task, self.t_stage, self.n_stage)


@dataclass(frozen=True)
class LesionInputs:
    """The lesions as the later stages see them.

    Attributes:
        crop: CT and PET around them, (2, z, y, x), for the networks.
        radiomics: One row of features: those that the models read, or all.
        dose: The planned dose; None where no model reads any.
        flags: Findings about them that the reader of the answers should know.
    """

    crop: np.ndarray
    radiomics: FeatureTable
    dose: MeasuredDose | None = None
    flags: tuple[str, ...] = ()

    @property
    def in_crop(self) -> bool:
        """Whether the crop holds their center: what networks say of a person's outside the patch counts for nothing."""
        return OUTSIDE_PATCH not in self.flags


@dataclass(frozen=True)
class Pipeline:
    """The way from a case to its answers, with one ensemble on one device.

    Attributes:
        tasks: Tasks to answer, as far as the weights can; the mask is always made, as the others rest on it.
        all_radiomics: Whether to measure every feature that the settings make, not just those that the models read.
        progress: Function called with a short sentence before each stage.
        hpv_prevalence: Share of HPV-positive patients where the patients come from, for the calibrated probability; by
            default that of training.
        disagreement: Whether to measure how the models' masks differ, voxel by voxel.
        lesions: Whether to measure the lesions one by one.
        at_once: Number of cases that are answered at once, and share the memory.
    """

    ensemble: Ensemble
    device: torch.device
    tasks: frozenset[Task] = frozenset(Task)
    all_radiomics: bool = False
    progress: Callable[[str], None] = lambda _: None
    hpv_prevalence: float | None = None
    disagreement: bool = False
    lesions: bool = False
    at_once: int = 1

    def __post_init__(self) -> None:
        if self.ensemble.of_tables:
            raise WeightsError(f"{self.ensemble.folder}: fitted to tables, without networks: they answer tables alone")
        if self.hpv_prevalence is not None:
            check_prevalence(self.hpv_prevalence)
            if not self.ensemble.calibration.hpv:
                log.warning("note: the HPV prevalence is not used, as these weights were not calibrated")
        if self.disagreement and len(self.ensemble.members) < 2:
            raise ValueError("one model alone disagrees with nobody: leave the disagreement out")
        if uncalibrated := self._uncalibrated():
            log.info("note: these weights were not calibrated for %s: scores alone", " and ".join(uncalibrated))

    def __call__(self, case: Case, budget_s: float | None = None, on_gpu: bool = True) -> PatientResult:
        """Answer one case.

        Args:
            case: CT, PET and clinical record, an HPV status where the risk may rest on it, and a mask where HPV and
                risk may.
            budget_s: Seconds that are left for it; where they are few, less is done, and flagged (`mmpl.segmentation`).
            on_gpu: Whether the budget is kept while a GPU computes, and not just where the CPU does, or takes over.

        Raises:
            InvalidInputError: CT and PET do not overlap.
        """
        budget = None
        if budget_s is not None:
            deadline = time.monotonic() + budget_s * SEGMENTATION_SHARE
            budget = Budget(deadline, len(self.ensemble.members), on_gpu)
        profile = self.ensemble.profile
        processor, watch = Processor(self.device, memory_gib(profile) * self.at_once), _Stopwatch()
        prepared = prepare(case, profile.preprocess)
        watch.lap("preparing")
        segmentation = self.segment(prepared, processor, budget)
        watch.lap(Stage.SEGMENTATION)
        if case.given_mask:
            segmentation = segmentation.with_mask(case.given_mask)
        members = self.ensemble.members[: segmentation.models]
        tasks = (self.tasks & self.ensemble.tasks) - {Task.SEGMENTATION}
        outcomes, stages = tasks - frozenset(STAGE_TASKS), tasks & frozenset(STAGE_TASKS)
        lesions, hpv, survival, measured = None, None, None, None
        staged = dict[Task, StageResult]()
        if tasks or self.all_radiomics:
            lesions = self.examine(case, prepared, segmentation, members)
            watch.lap("radiomics")
        if lesions and outcomes and Stage.HPV in self.ensemble.stages:
            hpv = self.diagnose(case, lesions, members, processor)
            watch.lap(Stage.HPV)
        if lesions and Task.SURVIVAL in tasks:
            survival = self.prognose(case, lesions, hpv, members, processor)
            watch.lap(Stage.SURVIVAL)
        if self.lesions or stages:
            measured = find_lesions(case, segmentation.mask, segmentation.member_masks)
            watch.lap("lesions")
        if lesions and measured is not None and stages:
            staged = self.stage(stages, segmentation, measured, lesions.radiomics, members)
            watch.lap(Stage.STAGING)
        notes = self._clinical_notes(case, members) if outcomes else ()
        flags = [*prepared.flags, *processor.notes, *segmentation.flags]
        patch = self.ensemble.reference.patch
        unlike_training = patch.relative(prepared.images) if patch else None
        if unlike_training is not None and unlike_training > 1:
            flags.append(UNLIKE_TRAINING)
        if lesions:
            flags += lesions.flags
        if outcomes and (NO_LESION in segmentation.flags or OUTSIDE_PATCH in flags):
            flags.append(NO_DEEP_EVIDENCE)
        if outcomes:
            flags += stated_flags(members, case, hpv, survival)
        t_stage, n_stage = (staged.get(task) for task in STAGE_TASKS)
        if t_stage and t_stage.by_rule:
            flags.append(NO_PRIMARY)
        dose = lesions.dose if lesions else None
        if dose:
            flags += dose.flags if case.dose else [NO_DOSE]
        return PatientResult(
            patient_id=case.patient_id,
            segmentation=segmentation,
            hpv=hpv,
            survival=survival,
            radiomics=lesions.radiomics if lesions else None,
            flags=tuple(flags),
            notes=notes,
            unlike_training=unlike_training,
            lesions=measured if self.lesions else None,
            seconds=watch.seconds,
            suv=case.suv,
            t_stage=t_stage,
            n_stage=n_stage,
            dose=dose.columns if dose else None,
            ct_series=case.ct_series,
            pet_series=case.pet_series,
        )

    def segment(self, prepared: PreparedCase, processor: Processor, budget: Budget | None = None) -> Segmentation:
        """Stage 1: the mask of the models' mean probability."""
        ensemble, settings = self.ensemble, self.ensemble.profile.inference
        self.progress("segmenting")
        networks = (member.network(Stage.SEGMENTATION) for member in ensemble.members)
        assert ensemble.thresholds is not None
        return segment(prepared, networks, ensemble.thresholds, settings, processor, budget, self.disagreement)

    def examine(
        self, case: Case, prepared: PreparedCase, segmentation: Segmentation, members: Sequence[EnsembleMember]
    ) -> LesionInputs:
        """Cut the crop around the lesions, and measure radiomics on the mask and, where a model reads it, the dose."""
        self.progress("measuring radiomics")
        profile = self.ensemble.profile
        center = lesion_center(segmentation.mask, prepared.roi)
        crop = crop_around(prepared.images, center, profile.inference.lesion_crop_xyz)
        read = None if self.all_radiomics else frozenset(ABSENT).union(*(member.radiomics_names for member in members))
        measured = measure_lesions(case, segmentation.mask, profile.radiomics, read)
        dose = None
        if Task.SURVIVAL in self.tasks and any(member.dose_names for member in members):
            dose = measure_dose(case.dose, segmentation.mask, profile.dose, profile.radiomics)
        flags = pet_flags(case, segmentation.mask)
        if not holds(prepared.roi, index_to_mm(prepared.roi, center)):
            flags = (OUTSIDE_PATCH, *flags)
        return LesionInputs(crop, measured, dose, flags)

    def diagnose(
        self, case: Case, lesions: LesionInputs, members: Sequence[EnsembleMember], processor: Processor
    ) -> HpvResult:
        """Stage 2: each model's logit, then its forest on logit, radiomics and clinical record; the mean of all."""
        self.progress("predicting HPV status")
        seen = list[Evidence]()
        for member, logits in zip(members, self._logits(Stage.HPV, lesions, members, processor), strict=True):
            score = member.hpv.scale.standardize(float(logits[0])) if lesions.in_crop else 0.0
            seen.append(hpv_evidence([score], lesions.radiomics, member.encoder.encode([case.clinical])))
        return integrate_hpv(self.ensemble, members, seen, case, self.hpv_prevalence)

    def prognose(
        self,
        case: Case,
        lesions: LesionInputs,
        hpv: HpvResult | None,
        members: Sequence[EnsembleMember],
        processor: Processor,
    ) -> SurvivalResult:
        """Stage 3: each model's survival curve, then its Cox model on the expected time and all that came before."""
        self.progress("predicting recurrence")
        curves, intervals, seen = list[Floats](), list[TimeIntervals](), list[Evidence]()
        statuses, dose = hpv_seen_by_cox(hpv, case), lesions.dose.columns if lesions.dose else None
        logits = self._logits(Stage.SURVIVAL, lesions, members, processor)
        for position, member in enumerate(members):
            time, scale = member.survival.of_network
            curve = survival_curve(logits[position])
            score = scale.standardize(float(expected_days(curve, time))) if lesions.in_crop else 0.0
            status = [statuses[position]] if statuses else None
            clinical = member.encoder.encode([case.clinical])
            seen.append(survival_evidence([score], status, lesions.radiomics, clinical, dose))
            curves.append(curve)
            intervals.append(time)
        return integrate_survival(self.ensemble, members, seen, case, *member_curves(curves, intervals))

    def stage(
        self,
        tasks: Collection[Task],
        segmentation: Segmentation,
        lesions: Sequence[Lesion],
        radiomics: FeatureTable,
        members: Sequence[EnsembleMember],
    ) -> dict[Task, StageResult]:
        """Stage 4: each model's T or N score of the lesions' geometry and radiomics; the mean of all, and its stage."""
        self.progress("staging")
        smallest_ml = self.ensemble.profile.inference.smallest_lesion_ml(segmentation.mask.grid.voxel_ml)
        seen = staging_evidence(measure_geometry(lesions, smallest_ml), radiomics)
        scales, tables = self.ensemble.stage_scales, [member.staging for member in members]
        return {task: answer_stage(task, scales[task], [each.of(task) for each in tables], seen) for task in tasks}

    @staticmethod
    def _logits(
        stage: Stage, lesions: LesionInputs, members: Sequence[EnsembleMember], processor: Processor
    ) -> list[Floats]:
        def logits(member: EnsembleMember) -> Floats:
            return predict_logits(lesions.crop, member.network(stage), processor)

        return processor.each(logits, members)

    def _uncalibrated(self) -> list[Task]:
        """Name the tasks that are answered by scores whose meaning the weights do not say."""
        known = {Task.HPV: self.ensemble.calibration.hpv, Task.SURVIVAL: self.ensemble.calibration.survival}
        return [task for task, fitted in known.items() if task in self.tasks & self.ensemble.tasks and not fitted]

    def _clinical_notes(self, case: Case, members: Sequence[EnsembleMember]) -> tuple[str, ...]:
        encoded = [note for member in members for note in member.encoder.notes(case.clinical)]
        return tuple(dict.fromkeys((*case.clinical.assumed, *encoded)))


class _Stopwatch:
    """Seconds between one lap and the next, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._began = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.seconds[name] = now - self._began
        self._began = now
