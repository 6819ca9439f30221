"""The whole system on one screen: segment, then diagnose, then prognose (the paper's Figure 1)."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mmpl.case import Case
from mmpl.hpv import Evidence, HpvResult
from mmpl.hpv import ensemble as ensemble_hpv
from mmpl.labels import Label, Stage, Task
from mmpl.preprocess import PreparedCase, prepare
from mmpl.processor import Processor
from mmpl.radiomics import extract
from mmpl.segmentation import Budget, Segmentation, crop_around, lesion_center, predict_logits, segment
from mmpl.survival import SurvivalEvidence, SurvivalResult, combine, expected_days, member_curves, survival_curve
from mmpl.weights import Ensemble, Member

SEGMENTATION_SHARE = 0.6
"""Of a time budget, to be over by then; the rest is for radiomics, and the networks of the later stages."""
CLINICAL_ASSUMED = "clinical fields assumed"


@dataclass(frozen=True)
class PatientResult:
    """The answers for one patient.

    Attributes:
        segmentation: GTVp and GTVn on the CT's own grid.
        hpv: HPV status and the models' probabilities; None where it was not asked for.
        survival: Recurrence risk, higher is worse, and the models' survival curves; None where it was not asked for.
        flags: What the reader of the answers should know.
        notes: One sentence for each clinical value that was assumed.
    """

    patient_id: str
    segmentation: Segmentation
    hpv: HpvResult | None
    survival: SurvivalResult | None
    flags: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def complete(self) -> tuple[HpvResult, SurvivalResult]:
        """HPV status and survival, for those who need both.

        Raises:
            ValueError: One of them was not asked for.
        """
        if self.hpv is None or self.survival is None:
            raise ValueError("HPV status and survival were not both asked for")
        return self.hpv, self.survival

    @property
    def gtvp_ml(self) -> float:
        """Volume of the primary, ml."""
        return self.segmentation.volume_ml(Label.GTVP)

    @property
    def gtvn_ml(self) -> float:
        """Volume of all nodes together, ml."""
        return self.segmentation.volume_ml(Label.GTVN)


@dataclass(frozen=True)
class Findings:
    """What the later stages see of the lesions.

    Attributes:
        crop: CT and PET around them, (2, z, y, x), for the networks.
        radiomics: One value a feature of `mmpl.radiomics.feature_names`.
    """

    crop: np.ndarray
    radiomics: np.ndarray


@dataclass(frozen=True)
class Pipeline:
    """From a case to its answers, with one ensemble on one device.

    Attributes:
        tasks: What to answer; the mask is always made, as the others rest on it.
        progress: Called with a short sentence before each stage.
    """

    ensemble: Ensemble
    device: torch.device
    tasks: frozenset[Task] = frozenset(Task)
    progress: Callable[[str], None] = lambda _: None

    def __call__(self, case: Case, known_hpv: bool | None = None, budget_s: float | None = None) -> PatientResult:
        """Answer one case.

        Args:
            case: CT, PET and clinical record.
            known_hpv: Replaces the predicted HPV status in the survival model.
            budget_s: Seconds that are left for it; where they are few, less is done, and flagged (`mmpl.segmentation`).

        Raises:
            InvalidInputError: CT and PET do not overlap.
        """
        budget = None
        if budget_s is not None:
            budget = Budget(time.monotonic() + budget_s * SEGMENTATION_SHARE, len(self.ensemble.members))
        processor = Processor(self.device)
        prepared = prepare(case, self.ensemble.profile.preprocess)
        segmentation = self.segment(prepared, processor, budget)
        members = self.ensemble.members[: segmentation.models]
        hpv, survival = None, None
        if self.tasks - {Task.SEGMENTATION}:
            findings = self.examine(case, prepared, segmentation)
            hpv = self.diagnose(case, findings, members, processor)
            if Task.SURVIVAL in self.tasks:
                survival = self.prognose(case, findings, hpv, members, processor, known_hpv)
        notes = tuple(dict.fromkeys((*case.clinical.assumed, *self._encoding_notes(case))))
        flags = (*prepared.flags, *processor.notes, *segmentation.flags, *((CLINICAL_ASSUMED,) if notes else ()))
        return PatientResult(case.patient_id, segmentation, hpv, survival, flags, notes)

    def segment(self, prepared: PreparedCase, processor: Processor, budget: Budget | None = None) -> Segmentation:
        """Stage 1: the mask of the models' mean probability."""
        ensemble, settings = self.ensemble, self.ensemble.profile.inference
        self.progress("segmenting")
        networks = (member.network(Stage.SEGMENTATION) for member in ensemble.members)
        return segment(prepared, networks, ensemble.thresholds, settings, processor, budget)

    def examine(self, case: Case, prepared: PreparedCase, segmentation: Segmentation) -> Findings:
        """Cut the crop around the lesions, and measure radiomics on the mask."""
        self.progress("measuring radiomics")
        center = lesion_center(segmentation.mask, prepared.roi)
        crop = crop_around(prepared.images, center, self.ensemble.profile.inference.lesion_crop_xyz)
        return Findings(crop, extract(case.ct, case.pet if case.pet_is_suv else None, segmentation.mask))

    def diagnose(self, case: Case, findings: Findings, members: Sequence[Member], processor: Processor) -> HpvResult:
        """Stage 2: each model's logit, then its forest on logit, radiomics and clinical record; the mean of all."""
        self.progress("predicting HPV status")
        probabilities = []
        for member in members:
            logits = predict_logits(findings.crop, member.network(Stage.HPV), processor)
            evidence = Evidence(
                deep_score=np.array([member.tables.hpv_scale.standardize(float(logits[0]))]),
                radiomics=findings.radiomics[None],
                clinical=member.tables.encoder.encode([case.clinical]),
            )
            probabilities.append(float(member.forest.probability(evidence)[0]))
        return ensemble_hpv(probabilities, self.ensemble.hpv_threshold)

    def prognose(
        self,
        case: Case,
        findings: Findings,
        hpv: HpvResult,
        members: Sequence[Member],
        processor: Processor,
        known_hpv: bool | None = None,
    ) -> SurvivalResult:
        """Stage 3: each model's survival curve, then its Cox model on the expected time and all that came before."""
        self.progress("predicting recurrence")
        curves, hazards = [], []
        for member, probability in zip(members, hpv.member_probabilities, strict=True):
            tables = member.tables
            curve = survival_curve(predict_logits(findings.crop, member.network(Stage.SURVIVAL), processor))
            days = tables.days_scale.standardize(float(expected_days(curve, tables.intervals)))
            evidence = SurvivalEvidence(
                expected_days_score=np.array([days]),
                hpv_probability=np.array([probability if known_hpv is None else float(known_hpv)]),
                radiomics=findings.radiomics[None],
                clinical=tables.encoder.encode([case.clinical]),
            )
            curves.append(curve)
            hazards.append(float(tables.cox.log_partial_hazard(evidence)[0]))
        fitted = [member.tables for member in members]
        curve_days, on_common_days = member_curves(curves, [tables.intervals for tables in fitted])
        return combine(hazards, [tables.risk_scale for tables in fitted], curve_days, on_common_days)

    def _encoding_notes(self, case: Case) -> list[str]:
        return [note for member in self.ensemble.members for note in member.tables.encoder.notes(case.clinical)]
