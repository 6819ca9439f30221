"""The challenge's algorithm: the loaded ensemble, and one case after the other from and to the platform's folders."""

import logging
import math
import os
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mmpl.calibration import check_prevalence
from mmpl.case import Case
from mmpl.errors import one_line
from mmpl.io.challenge import (
    Form,
    clear_challenge_result,
    image_files,
    read_challenge_case,
    read_edition,
    write_challenge_result,
)
from mmpl.io.images import write_image
from mmpl.memory import keep_freed_memory
from mmpl.names import DAYS_PER_YEAR, STAGE_TASKS, Task, stage_name, status_name
from mmpl.pipeline import PatientResult, Pipeline
from mmpl.processor import default_device, use_allowed_cores
from mmpl.weights import Ensemble, load_ensemble

if TYPE_CHECKING:
    from mmpl.provenance import Provenance

TASKS_VARIABLE, BUDGET_VARIABLE = "MMPL_TASKS", "MMPL_TIME_BUDGET_S"
PREVALENCE_VARIABLE = "MMPL_HPV_PREVALENCE"

SAID_AFTER_YEARS = 2
"""Years of which the log says how probable no recurrence is."""

log = logging.getLogger(__name__)


def chosen_tasks(able: Collection[Task]) -> frozenset[Task]:
    """Read which of the edition's tasks to answer from `MMPL_TASKS`, a list with commas or spaces.

    By default it is those of them that the weights can answer, and the log names the others.

    Args:
        able: Tasks that the weights can answer.

    Raises:
        ValueError: The edition does not ask for a task, or the weights cannot answer it.
    """
    names, edition = os.environ.get(TASKS_VARIABLE, "").replace(",", " ").split(), read_edition()
    if unknown := [name for name in names if name not in edition.tasks]:
        asked = f"{edition.name} asks for {', '.join(edition.tasks)}"
        raise ValueError(f"{TASKS_VARIABLE} names {', '.join(unknown)}; {asked}")
    if unable := [name for name in names if Task(name) not in able]:
        raise ValueError(f"{TASKS_VARIABLE} names {', '.join(unable)}, for which these weights were not trained")
    if not names and (note := what_is_lacking(able)):
        log.info("note: %s", note)
    tasks = frozenset(map(Task, names)) or frozenset(edition.tasks) & frozenset(able)
    if not tasks:
        raise ValueError(f"these weights were trained for nothing that {edition.name} asks for")
    return tasks


def what_is_lacking(able: Collection[Task]) -> str:
    """Say which of the edition's tasks the weights cannot answer; blank where they can answer all."""
    edition = read_edition()
    lacking = ", ".join(task for task in edition.tasks if task not in able)
    return f"{edition.name} asks for {lacking}, too, for which these weights were not trained" if lacking else ""


@dataclass(frozen=True)
class TimeLimit:
    """How long a case may take.

    Attributes:
        seconds: None for as long as it needs.
        on_gpu: Whether that holds while a GPU computes, and not just where the CPU does, or takes over.
    """

    seconds: float | None
    on_gpu: bool


def chosen_limit(tasks: Collection[Task]) -> TimeLimit:
    """Read how many seconds a case may take from `MMPL_TIME_BUDGET_S`, where 0 is no limit; by default the edition's.

    Raises:
        ValueError: It is not a number of seconds.
    """
    text = os.environ.get(BUDGET_VARIABLE, "").strip()
    if not text:
        return TimeLimit(read_edition().budget_s(tasks), on_gpu=False)
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ValueError(f"{BUDGET_VARIABLE} is {text!r}, not a number of seconds, or 0 for no limit")
    return TimeLimit(seconds or None, on_gpu=True)


def why_no_days(ensemble: Ensemble, tasks: Collection[Task]) -> str:
    """Say why there are no days where the edition asks for a time; blank where there are some, or none is asked for."""
    fitted, answer = ensemble.calibration.survival, read_edition().answers.get(Task.SURVIVAL)
    if not (answer and answer.form is Form.DAYS and Task.SURVIVAL in tasks) or (fitted and fitted.follows_risk):
        return ""
    return "its calibration does not follow the risk" if fitted else "these weights were not calibrated"


def chosen_hpv_prevalence() -> float | None:
    """Read the share of HPV-positive patients from `MMPL_HPV_PREVALENCE`; None for that of training.

    Raises:
        ValueError: It is not a number between 0 and 1.
    """
    text = os.environ.get(PREVALENCE_VARIABLE, "").strip()
    try:
        return check_prevalence(float(text)) if text else None
    except ValueError:
        raise ValueError(f"{PREVALENCE_VARIABLE} is {text!r}, not a share between 0 and 1") from None


@dataclass(frozen=True)
class Algorithm:
    """An ensemble on a device, ready for cases.

    Attributes:
        limit: How long a case may take.
    """

    pipeline: Pipeline
    limit: TimeLimit

    @classmethod
    def load(cls, keep_networks: bool = False, disagreement: bool = False, lesions: bool = False) -> "Algorithm":
        """Verify and open the weights, and take the GPU where there is one.

        Args:
            keep_networks: Read all networks now and keep them, rather than for each case.
            disagreement: Whether to measure how the models' masks differ, voxel by voxel.
            lesions: Whether to measure the lesions one by one, for picture, report and page.

        Raises:
            WeightsError: The weights are missing or damaged.
            ValueError: A variable of the environment cannot be used.
        """
        keep_freed_memory()
        use_allowed_cores()
        ensemble = load_ensemble(keep_networks=keep_networks)
        tasks = chosen_tasks(ensemble.tasks)
        if why := why_no_days(ensemble, tasks):
            path = read_edition().answers[Task.SURVIVAL].path
            log.info("note: %s is the negative risk score, no number of days, as %s", path, why)
        device = default_device()
        gpu = device.type == "cuda"
        where = torch.cuda.get_device_name() if gpu else "the CPU, as no GPU can be used"
        limit, count, profile = chosen_limit(tasks), len(ensemble.members), ensemble.profile.name
        said = f", time budget {limit.seconds:g} s a case" if limit.seconds and (limit.on_gpu or not gpu) else ""
        log.info("%d models, profile %s, from %s, on %s%s", count, profile, ensemble.folder, where, said)
        prevalence = chosen_hpv_prevalence()
        pipeline = Pipeline(
            ensemble,
            device,
            tasks,
            progress=log.info,
            hpv_prevalence=prevalence,
            disagreement=disagreement,
            lesions=lesions,
        )
        return cls(pipeline, limit)

    def answer(
        self,
        source: Path,
        target: Path,
        picture: Path | None = None,
        report: Path | None = None,
        began: float | None = None,
        known_hpv: bool | None = None,
        disagreement: Path | None = None,
        mask: Path | None = None,
        page: Path | None = None,
    ) -> None:
        """Answer the case in one folder into another; answers of an earlier case are removed first.

        Args:
            source: Folder in the challenge's layout.
            target: Folder that takes the challenge's own files alone.
            picture: File to draw the case into; None for no picture. It comes after the answers, and costs none.
            report: File for each model's answers, flags and notes; None for no report. Likewise.
            began: Moment at which the case's time began, as `time.monotonic` has it; by default now.
            known_hpv: HPV status that the risk may rest on; None where it is not known.
            disagreement: File for the models' disagreement, where it is measured; None for no such image. Likewise.
            mask: File with a mask that takes the place of the ensemble's: an image, DICOM SEG or RTSTRUCT; None for the
                ensemble's. It does not lie in the target.
            page: File for the page that a person reads; None for no page. Likewise.

        Raises:
            InvalidInputError: The case cannot be answered; nothing is left in the target.
        """
        began = time.monotonic() if began is None else began
        target.mkdir(parents=True, exist_ok=True)
        clear_challenge_result(target, picture, report, disagreement, page)
        ensemble = self.pipeline.ensemble
        case = read_challenge_case(source, ensemble.profile.clinical, known_hpv, ensemble.reads_dose)
        if mask:
            from mmpl.dicom.masks import give_mask

            case = give_mask(case, mask)
        result = self.run(case, began)
        log_remarks(result)
        written = write_challenge_result(result, target, self.pipeline.tasks)
        for task, path in written.items():
            log.info("%s: %s", self.describe(task, result), path)
        extras: tuple[tuple[str, Path | None, Callable[[Path], None]], ...] = (
            ("picture", picture, lambda path: self._draw(path, case, result)),
            ("report", report, lambda path: self._report(path, source, result)),
            ("page", page, lambda path: self._page(path, source, case, result)),
            ("disagreement", disagreement, lambda path: self._write_disagreement(path, result)),
        )
        for name, extra, write in extras:
            if not extra:
                continue
            try:
                write(extra)
                log.info("%s: %s", name, extra)
            except Exception as error:  # it is worth no answer
                log.warning("note: no %s (%s)", name, one_line(error))

    def run(self, case: Case, began: float) -> PatientResult:
        """Answer a case that is read, in what is left of the time since a moment of `time.monotonic`."""
        seconds = self.limit.seconds
        left_s = None if seconds is None else began + seconds - time.monotonic()
        return self.pipeline(case, left_s, self.limit.on_gpu)

    def _draw(self, path: Path, case: Case, result: PatientResult) -> None:
        from mmpl.picture import draw

        draw(case, result, path, self.pipeline.ensemble.hpv_threshold)

    def _report(self, path: Path, source: Path, result: PatientResult) -> None:
        from mmpl.report import write_report

        write_report(path, result, self.pipeline.ensemble, provenance=self._trace(source, result))

    def _page(self, path: Path, source: Path, case: Case, result: PatientResult) -> None:
        from mmpl.page import write_page

        write_page(path, case, result, self.pipeline.ensemble, self._trace(source, result))

    def _trace(self, source: Path, result: PatientResult) -> "Provenance":
        from mmpl.provenance import trace

        return trace(self.pipeline.ensemble, self.pipeline.device, result.seconds, image_files(source))

    def _write_disagreement(self, path: Path, result: PatientResult) -> None:
        if result.segmentation.disagreement is None:
            raise ValueError("one model alone answered")
        write_image(path, result.segmentation.disagreement)

    def describe(self, task: Task, result: PatientResult) -> str:
        """Say the answer of a task in a line of the log."""
        if task is Task.SEGMENTATION:
            return f"GTVp {result.gtvp_ml:.1f} ml, GTVn {result.gtvn_ml:.1f} ml"
        if task is Task.SURVIVAL:
            assert result.survival is not None
            risk = f"recurrence risk {result.survival.risk_score:+.2f} (higher is worse, 0 is average)"
            curve, day = result.survival.curve, SAID_AFTER_YEARS * DAYS_PER_YEAR
            if curve is None or day > curve.days[-1]:
                return risk
            probability, low, high = curve.at(day)
            return f"{risk}, no recurrence in {SAID_AFTER_YEARS} years {probability:.2f} ({low:.2f} to {high:.2f})"
        if task in STAGE_TASKS:
            stage = result.stage_of(task)
            assert stage is not None
            return f"{stage_name(task, stage.stage)}, score {stage.score:.2f}"
        assert result.hpv is not None
        status, threshold = status_name(result.hpv.positive), self.pipeline.ensemble.hpv_threshold
        given = "" if result.hpv.known is None else f"given as {status_name(result.hpv.known)}, predicted "
        said = f"HPV {given}{status}, probability {result.hpv.probability:.3f} (threshold {threshold:.3f})"
        if result.hpv.calibrated is None:
            return said
        said += f", calibrated {result.hpv.calibrated:.2f} at a prevalence of {result.hpv.prevalence:.2f}"
        return f"{said}, 90% set: {result.hpv.conformal_set}" if result.hpv.conformal_set else said


def log_remarks(result: PatientResult) -> None:
    """Log what was assumed of the patient, and what the reader of the answers should know."""
    for note in result.notes:
        log.info("clinical record: %s", note)
    for flag in result.flags:
        log.info("note: %s", flag)
