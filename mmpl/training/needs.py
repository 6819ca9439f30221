"""What each stage needs of a cohort's labels and folds, told before anything is trained."""

from collections.abc import Collection, Sequence

from mmpl.case import Patient
from mmpl.names import STAGE_TASKS, Stage, Task, stage_name
from mmpl.training.cox import MINIMUM_EVENTS
from mmpl.training.splits import Splits


def labeled_stages(patients: Sequence[Patient], without: Collection[Stage] = ()) -> tuple[Stage, ...]:
    """Give the stages that a cohort has labels for: stage 2 needs HPV status, 3 follow-up, 4 two T and two N stages.

    T and N stage come along in tables of which nobody means to learn them, so that one alone is no problem.

    Args:
        patients: The cohort's patients.
        without: Stages that are not wanted, whatever the labels.
    """
    labeled = {
        Stage.SEGMENTATION: True,
        Stage.HPV: any(p.outcome.hpv_positive is not None for p in patients),
        Stage.SURVIVAL: any(p.outcome.has_rfs for p in patients),
        Stage.STAGING: all(len(set(_known(patients, task))) > 1 for task in STAGE_TASKS),
    }
    return tuple(stage for stage in Stage if labeled[stage] and stage not in without)


def unmet_needs(
    patients: Sequence[Patient], with_mask: Collection[str], splits: Splits, stages: Collection[Stage]
) -> list[str]:
    """List what the models of some stages would lack in the patients that they train on.

    Args:
        patients: The cohort's patients.
        with_mask: IDs of those that have a reference mask.
        splits: The folds.
        stages: Stages that are to be trained.
    """
    unmet = []
    for member in splits.members:
        training = splits.training(member, patients)
        if not any(p.patient_id in with_mask for p in training):
            unmet.append(f"{member.name}: none of the {len(training)} patients it trains on has a reference mask")
        status = [p.outcome.hpv_positive for p in training if p.outcome.hpv_positive is not None]
        if Stage.HPV in stages and len(set(status)) < 2:
            unmet.append(f"{member.name}: the {len(status)} patients of known HPV status it trains on are of one kind")
        relapses = sum(bool(p.outcome.relapse) for p in training if p.outcome.has_rfs)
        if Stage.SURVIVAL in stages and relapses < MINIMUM_EVENTS:
            unmet.append(
                f"{member.name}: {relapses} relapses among the patients it trains on, and {MINIMUM_EVENTS} are needed"
            )
        for task in STAGE_TASKS:
            if Stage.STAGING in stages and not _known(training, task):
                unmet.append(f"{member.name}: none of the {len(training)} patients it trains on has a known {task}")
    return unmet


def one_stage_alone(patients: Sequence[Patient], splits: Splits) -> list[str]:
    """List the models that learn of a single T or N stage, and so say it of everybody; arguments as `unmet_needs`."""
    said = []
    for member in splits.members:
        for task in STAGE_TASKS:
            known = _known(splits.training(member, patients), task)
            if len(set(known)) == 1:
                stage = stage_name(task, known[0])
                said.append(
                    f"{member.name}: all {len(known)} patients of known {task} it trains on are {stage}, which "
                    "it will say of everybody"
                )
    return said


def _known(patients: Sequence[Patient], task: Task) -> list[int]:
    return [stage for p in patients if (stage := p.outcome.stage_of(task)) is not None]
