"""Patients held out inside a model's training split, and the networks' scores on them: shown, never chosen by.

A profile asks for them by `training.validation_fraction`; with 0 every patient is trained on. A model's networks hold
out the same patients at every stage, so that none is scored on whom an earlier stage trained the backbone.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from mmpl.metrics import dice
from mmpl.profile import AugmentationSettings
from mmpl.training.patches import LesionCrops, SegmentationCrops
from mmpl.training.splits import Member
from mmpl.training.workspace import Workspace

UNCHANGED = AugmentationSettings.model_validate(dict.fromkeys(AugmentationSettings.model_fields, 0.0))
"""No augmentation at all."""
FIRST_TURN = 0
"""What fixes the crops: every score is of the same ones."""


def hold_out(workspace: Workspace, member: Member) -> frozenset[str]:
    """Choose the patients outside a model's fold that its networks do not train on, evenly over HPV status and relapse.

    The run's seed and the model fix them. Where the profile asks for any, there is one at least.
    """
    training, strata = workspace.profile.training, defaultdict(list)
    outside = workspace.splits.training(member, workspace.patients)
    if training.validation_fraction == 0:
        return frozenset()
    for patient in outside:
        strata[str((patient.outcome.hpv_positive, patient.outcome.relapse))].append(patient.patient_id)
    rng = np.random.default_rng([training.seed, workspace.splits.members.index(member)])
    dealt = [str(name) for key in sorted(strata) for name in rng.permutation(sorted(strata[key]))]
    count = max(1, round(training.validation_fraction * len(dealt)))
    return frozenset(dealt[(2 * turn + 1) * len(dealt) // (2 * count)] for turn in range(count))


@dataclass(frozen=True)
class MaskScore:
    """The mean Dice of both classes, at a probability of one half, on one crop of each patient about its lesions.

    Attributes:
        draw: Function that makes the crops of the training.
        patients: IDs of the patients to score, with reference masks; where there are none the score is NaN.
    """

    draw: SegmentationCrops
    patients: Sequence[str]

    def __call__(self, network: nn.Module, device: torch.device) -> float:
        """Score a network."""
        network.eval()
        settings = self.draw.settings.model_copy(update={"batch": 1, "lesion_fraction": 1.0})
        plain, scores = replace(self.draw, settings=settings, augmentation=UNCHANGED), []
        for name in self.patients:
            batch = replace(plain, patients=[name])(FIRST_TURN, device)
            with torch.inference_mode():
                found = (network(batch.images) >= 0).cpu().numpy()[0]
            truth = (batch.targets[0] > 0.5).cpu().numpy()[0]
            scores += [dice(reference, mask) for reference, mask in zip(truth, found, strict=True)]
        return float(np.mean(scores)) if scores else float("nan")


@dataclass(frozen=True)
class OutcomeScore:
    """A score of how a stage 2 or 3 network ranks patients on the crop about the lesions of each; NaN where undefined.

    Attributes:
        draw: Function that makes the crops of the training.
        patients: IDs of the patients to score, whose outcome is known.
        score: Function from logits by patient to how well the network ranks.
    """

    draw: LesionCrops
    patients: Sequence[str]
    score: Callable[[Mapping[str, Sequence[float]]], float]

    def __call__(self, network: nn.Module, device: torch.device) -> float:
        """Score a network."""
        network.eval()
        settings = self.draw.settings.model_copy(update={"batch": 1, "jitter_mm": 0.0})
        plain, logits = replace(self.draw, settings=settings, augmentation=UNCHANGED), {}
        for name in self.patients:
            batch = replace(plain, groups=[[name]])(FIRST_TURN, device)
            with torch.inference_mode():
                logits[name] = network(batch.images)[0].double().tolist()
        return self.score(logits)
