"""Answer every patient of a cohort: a mask and a picture each, one table of patients, and one of their lesions."""

import csv
import logging
import os
import time
import uuid
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache, partial
from hashlib import sha256
from pathlib import Path

import numpy as np
from joblib import cpu_count
from rich.progress import Progress

from mmpl.algorithm import what_is_lacking, why_no_days
from mmpl.case import Image, InvalidInputError
from mmpl.dicom.masks import MASK_SUFFIXES, give_mask
from mmpl.errors import some_of
from mmpl.export import check_study, export_answer, find_answers, refer, study_of
from mmpl.files import OverwriteError, refuse_inside, refuse_to_replace, write_whole
from mmpl.io.challenge import EDITION_VARIABLE, read_edition
from mmpl.io.cohort import Cohort, read_cohort
from mmpl.io.images import read_image, write_image
from mmpl.io.nifti import read_note
from mmpl.memory import free_memory_gib, keep_freed_memory
from mmpl.names import (
    DICOM_FORMATS,
    DIFFERING,
    NO_RECURRENCE,
    PREDICTIONS_FILE,
    STAGE_COLUMNS,
    SUFFIX,
    Column,
    Format,
    exported,
)
from mmpl.network import memory_gib
from mmpl.page import write_page
from mmpl.parallel import connect, gpus_of
from mmpl.picture import draw
from mmpl.pipeline import Pipeline
from mmpl.processor import default_device, use_allowed_cores, use_cores
from mmpl.provenance import trace
from mmpl.report import UPTAKE_COLUMNS, YEARS, ReportedAnswer, read_report, write_radiomics, write_report
from mmpl.weights import find_weights, load_ensemble

COLUMNS = (
    Column.PATIENT_ID.value,
    "risk_score",
    "hpv_probability",
    "hpv_status",
    "gtvp_ml",
    "gtvn_ml",
    "flags",
    "hpv_calibrated",
    "hpv_prevalence",
    *map(NO_RECURRENCE.format, YEARS),
    "risk_percentile",
    "hpv_set",
    "unlike_training",
    *STAGE_COLUMNS.values(),
    "hpv_known",
    "recurrence_free_days",
)
"""Those after the flags are blank where the weights do not know them: see docs/answers.md.

HPV columns are what the models predict, but for the status that was given, `hpv_known`.
"""
_LESION_KEYS = (Column.PATIENT_ID.value, "lesion")
_FEATURES = "_radiomics.csv"
OUR_MASK = "mask by MMPL"
"""What the header of a mask that was written here begins with; a digest of the voxels follows."""
_ENDINGS = (*SUFFIX.values(), ".json", ".png", ".html", _FEATURES, DIFFERING)
"""What follows a patient's name in the names of the files that are written."""

LESIONS_FILE = "lesions.csv"
LESION_COLUMNS = (
    "class",
    "volume_ml",
    "longest_diameter_mm",
    "suv_max",
    "suv_mean",
    "suv_peak",
    "tlg",
    "side",
    "x_mm",
    "y_mm",
    "z_mm",
    "from_primary_mm",
    "found_by",
)
"""After patient and number of the lesion; those of uptake are left out where no patient has a PET in SUV."""

TABLE_SHARE = 0.05
"""The most of the time that writing the tables may take while patients are answered; at the end they are whole."""

PATIENT_GIB = 2.5
"""Memory that one patient more takes at most, beside networks: images of 2 m."""
GPU_PATIENTS = 3
"""Patients at once where one GPU answers them: while one has it, another is read, and a third measured and drawn."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Order:
    """What is asked for every patient of a cohort, as `predict` has it; a worker of a cluster answers by it, too.

    Attributes:
        call: A name of its own for each call, so that a cluster's worker reads what there is by then.
        weights: Folder of the ensemble.
        edition: Edition of the challenge.
    """

    call: str
    cohort: Path
    out: Path
    weights: Path
    edition: str
    pictures: bool
    models: tuple[str, ...]
    all_radiomics: bool
    hpv_prevalence: float | None
    disagreement: bool
    masks: Path | None
    pages: bool
    formats: frozenset[Format]


@dataclass(frozen=True)
class Answering:
    """An order, and what answers it on one machine; several threads may answer patients at once.

    Attributes:
        given_masks: Masks that a person gave, by patient.
    """

    order: Order
    patients: Cohort
    given_masks: Mapping[str, Path]
    pipeline: Pipeline

    @classmethod
    def open(cls, order: Order, workers: int = 1) -> "Answering":
        """Open cohort and weights, for so many patients at once; 0 for as many as there is room for.

        Raises:
            InvalidInputError: The cohort's table cannot be used, or a mask is of no patient.
            ValueError: The weights cannot be used, or the prevalence is not between 0 and 1.
        """
        ensemble, known_hpv = load_ensemble(order.weights).only(order.models), read_edition(order.edition).known_hpv
        patients = read_cohort(order.cohort, ensemble.profile.clinical, outcomes=False, known_hpv=known_hpv)
        given = _find_masks(order.masks, {each.patient_id for each in patients.patients}) if order.masks else {}
        device = default_device()
        left = sum(not (order.out / f"{each.patient_id}.json").is_file() for each in patients.patients)
        pipeline = Pipeline(
            ensemble,
            device,
            all_radiomics=order.all_radiomics,
            hpv_prevalence=order.hpv_prevalence,
            disagreement=order.disagreement,
            lesions=True,
            at_once=workers or _count_workers(device.type, PATIENT_GIB + memory_gib(ensemble.profile), left),
        )
        return cls(order, patients, given, pipeline)

    @property
    def names(self) -> list[str]:
        """The patients."""
        return [patient.patient_id for patient in self.patients.patients]

    @property
    def answerer(self) -> "Answerer":
        """What all answers of the order have in common."""
        ensemble = self.pipeline.ensemble
        calibration = ensemble.calibration.hpv
        prevalence = calibration.stated_or_own(self.order.hpv_prevalence) if calibration else None
        models = tuple(member.name for member in ensemble.members)
        return Answerer(ensemble.folder, ensemble.identity, models, prevalence, self.order.edition)

    def keep(self) -> None:
        """Read all models now, once."""
        for member in self.pipeline.ensemble.members:
            member.keep()

    def study(self, name: str) -> Path | None:
        """Find the DICOM study that forms of a patient's answer refer to; None where no such form is asked for.

        Raises:
            InvalidInputError: There is none.
        """
        wanted = DICOM_FORMATS & self.order.formats
        return study_of(name, self.order.cohort, alone=len(self.patients.patients) == 1) if wanted else None

    def answer(self, name: str) -> str | None:
        """Answer a patient who is not finished; what went wrong, if anything did."""
        out, order, ensemble = self.order.out, self.order, self.pipeline.ensemble
        mask, report = out / f"{name}.nii.gz", out / f"{name}.json"
        features, differing = out / f"{name}{_FEATURES}", out / f"{name}{DIFFERING}"
        wanted = [*[features] * order.all_radiomics, *[differing] * order.disagreement]
        given = self.given_masks.get(name)
        try:
            source = self.patients.fingerprint(name, given, reference=False)
        except InvalidInputError as error:
            return str(error)
        if mask.is_file() and (known := read_report(report)):
            if known.source != source:
                return f"{report}: answered from other images or another record; name another folder"
            why = self.answerer.why_other(known, report)
            if why or all(path.is_file() for path in wanted):
                return why
        if other := self._not_ours(name):
            return f"{other}: is no file of an answer, perhaps a person's, and would be lost; move it away"
        shown = out / f"{name}.png", out / f"{name}.html"
        for extra in (features, differing, *shown, *(set(exported(out, name)) - {mask})):
            extra.unlink(missing_ok=True)  # of an earlier answer
        try:
            case = self.patients.read_case(name)
            if given:
                case = give_mask(case, given)
            refer(order.formats, self.study(name), case.ct.grid, identity=case.ct_series)
            result = self.pipeline(case)
        except InvalidInputError as error:
            return str(error)
        except Exception as error:  # one patient must not stop the cohort; it is reported, and has no row
            log.debug("unforeseen", exc_info=True)
            return f"{type(error).__name__}: {error}"
        write_image(mask, result.segmentation.mask, note=_note_of(result.segmentation.mask))
        if order.all_radiomics and result.radiomics:
            write_radiomics(features, result.radiomics)
        if result.segmentation.disagreement:
            write_image(differing, result.segmentation.disagreement)
        provenance = trace(ensemble, self.pipeline.device, result.seconds, self.patients.image_files(name))
        write_report(report, result, ensemble, source, provenance)
        show: dict[str, Callable[[], None]] = {}
        if order.pictures:
            show["picture"] = partial(draw, case, result, out / f"{name}.png", ensemble.hpv_threshold)
        if order.pages:
            show["page"] = partial(write_page, out / f"{name}.html", case, result, ensemble, provenance)
        for kind, make in show.items():
            try:
                make()
            except Exception as error:  # neither is worth an answer
                log.warning("%s: no %s (%s: %s)", name, kind, type(error).__name__, error)
        return None

    def _not_ours(self, name: str) -> Path | None:
        """Find a file with a patient's name in the folder of answers that belongs to none: an answer's has our mask."""
        mask, report = (self.order.out / f"{name}{end}" for end in (".nii.gz", ".json"))
        if mask.is_file():
            return None if _is_our_mask(mask) else mask
        there = (self.order.out / f"{name}{end}" for end in _ENDINGS)
        return None if read_report(report) else next((path for path in there if path.exists()), None)


def _is_our_mask(path: Path) -> bool:
    """Tell whether a mask was written here, and its voxels are still those."""
    note = read_note(path)
    try:
        return note.startswith(OUR_MASK) and note == _note_of(read_image(path))
    except InvalidInputError:
        return False


def _note_of(mask: Image) -> str:
    """Say what the header of a mask says that was written here; editors may keep it, and change the voxels."""
    return f"{OUR_MASK} {sha256(mask.voxels.astype(np.uint8).tobytes()).hexdigest()[:16]}"


def predict(
    cohort: Path,
    out: Path,
    pictures: bool = True,
    models: Sequence[str] = (),
    all_radiomics: bool = False,
    hpv_prevalence: float | None = None,
    disagreement: bool = False,
    masks: Path | None = None,
    pages: bool = False,
    formats: Collection[Format] = (),
    workers: int = 0,
    scheduler: str | None = None,
) -> dict[str, str]:
    """Answer the patients of a cohort's folder that have no answer in `out` yet.

    Of each patient the mask `<PatientID>.nii.gz` comes first, then the report `<PatientID>.json`, with which the
    patient is finished, then the picture `<PatientID>.png` and the page `<PatientID>.html`. `predictions.csv` and
    `lesions.csv`, a row a lesion, are made of all reports in the folder, so that several of these programs may answer
    parts of a cohort into one. The released outcomes are never looked at, but for HPV status in an edition of the
    challenge that has it as an input: there the risk may rest on it.

    Args:
        cohort: A folder in the released layout.
        out: Folder that takes the answers; not in the cohort's folder, whose masks have the same names.
        pictures: Whether to draw a picture of each patient.
        models: Models of the ensemble that answer, by name; by default all.
        all_radiomics: Whether to write every radiomics feature, too, as `<PatientID>_radiomics.csv`.
        hpv_prevalence: Share of HPV-positive patients where the patients come from; by default that of training.
        disagreement: Whether to write how the models' masks differ, as `<PatientID>_disagreement.nii.gz`.
        masks: Folder of masks that take the place of the ensemble's, `<PatientID>` and a suffix of an image or `.dcm`;
            a patient without one has the ensemble's.
        pages: Whether to write a page of each patient, 3 to 6 MB.
        formats: Other forms of the answers, written at the end, of finished patients too. A patient whose CT cannot be
            referred to, which DICOM forms do, is not answered.
        workers: Patients on this machine at once, which share its cores; 0 for one a core, or `GPU_PATIENTS` that share
            a GPU, as far as the memory that is free allows.
        scheduler: Address of a Dask scheduler whose workers answer in place of this process. They must see cohort,
            weights and `out` at the same paths.

    Returns:
        What went wrong, by patient; such a patient has no row, or not all the forms.

    Raises:
        OSError: An answer cannot be written, or there is no such cluster.
        OverwriteError: `out` lies in the cohort's folder, or `masks` in `out`, or it holds files that are no answer's.
        InvalidInputError: The cohort's table cannot be used, or a mask is of no patient.
        ValueError: `out` holds answers of other weights, of other models of them or for another prevalence or edition,
            or the prevalence is not between 0 and 1; or a DICOM form is asked for without any DICOM file.
    """
    keep_freed_memory()
    use_allowed_cores()
    refuse_inside(out, cohort)
    check_study(formats, cohort)
    if masks:
        refuse_to_replace(masks, out)
    place: Callable[[Path], Path] = Path.resolve if scheduler else Path  # a worker may have been started elsewhere
    order = Order(
        call=uuid.uuid4().hex,
        cohort=place(cohort),
        out=place(out),
        weights=place(find_weights()),
        edition=read_edition().name,
        pictures=pictures,
        models=tuple(models),
        all_radiomics=all_radiomics,
        hpv_prevalence=hpv_prevalence,
        disagreement=disagreement,
        masks=place(masks) if masks else None,
        pages=pages,
        formats=frozenset(formats),
    )
    answering = Answering.open(order, 1 if scheduler else workers)
    for remark in answering.patients.remarks:
        log.warning("%s: %s", answering.patients.table, remark)
    ensemble = answering.pipeline.ensemble
    if note := what_is_lacking(ensemble.tasks):
        log.warning("note: %s", note)
    if why := why_no_days(ensemble, ensemble.tasks):
        log.warning("note: no days without recurrence, as %s", why)
    table = AnswerTables(out, answering.answerer)
    names, failures = answering.names, dict[str, str]()
    finished = [name for name in names if (out / f"{name}.json").is_file()]
    table.begin(names)
    answers = _answer_on_cluster(order, names, scheduler) if scheduler else _answer_here(answering)
    with Progress() as progress, closing(answers):
        for name, problem in progress.track(answers, total=len(names), description="predicting"):
            if problem:
                failures[name] = problem
            else:
                table.write_now_and_then()
    table.write()
    answered = set(names) - failures.keys()
    for answer in find_answers(out) if formats and answered else ():
        if answer.name in answered:
            try:
                export_answer(answer, formats, out, answering.study(answer.name))
            except (InvalidInputError, OverwriteError) as error:
                failures[answer.name] = str(error)
    for asked, kind, ending in ((pictures, "picture", ".png"), (pages, "page", ".html")):
        if asked and (without := sorted(name for name in finished if not (out / f"{name}{ending}").is_file())):
            log.warning("note: no %s of %s, answered before: remove the report to answer anew", kind, some_of(without))
    return failures


def _answer_here(answering: Answering) -> Generator[tuple[str, str | None]]:
    """Answer the patients in threads of this process; each with what went wrong, as they are finished.

    Threads and not processes: they share networks and libraries, so that another patient takes its images alone, and
    the GPU, which one has at a time while the others read, measure and draw.
    """
    answering.keep()
    count = answering.pipeline.at_once
    with ThreadPoolExecutor(count, initializer=use_cores, initargs=(max(1, cpu_count() // count),)) as pool:
        try:
            futures = {pool.submit(answering.answer, name): name for name in answering.names}
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _count_workers(device: str, patient_gib: float, patients: int) -> int:
    """Choose how many patients are answered at once, each of whom takes so much memory."""
    most = min(cpu_count() if device == "cpu" else GPU_PATIENTS, max(1, patients))
    return max(1, int(min(most, free_memory_gib() / patient_gib)))


def _answer_on_cluster(order: Order, names: Sequence[str], scheduler: str) -> Generator[tuple[str, str | None]]:
    """Answer the patients on a Dask cluster; each with what went wrong, as they are finished.

    A worker that is lost costs the patients it had in work: others answer them.
    """
    from distributed import KilledWorker
    from distributed import as_completed as finished

    with connect(scheduler, __name__) as client:
        futures = client.map(_answer_there, names, order=order, pure=False, resources=gpus_of(client))
        name_of = {future.key: name for future, name in zip(futures, names, strict=True)}
        for future in finished(futures, loop=client.loop):
            try:
                yield name_of[future.key], future.result()
            except KilledWorker:
                yield name_of[future.key], "every worker that answered it was lost, as where memory is short"


def _answer_there(name: str, order: Order) -> str | None:
    """Answer a patient on a cluster's worker, which opens an order once."""
    os.environ[EDITION_VARIABLE] = order.edition  # which report and page name
    return _opened(order).answer(name)


@lru_cache(maxsize=2)  # two clients may come in turns
def _opened(order: Order) -> Answering:
    keep_freed_memory()
    use_allowed_cores()
    answering = Answering.open(order)
    answering.keep()
    return answering


def _find_masks(folder: Path, patients: Collection[str]) -> dict[str, Path]:
    """Find the masks that a person gave, by patient.

    Raises:
        InvalidInputError: There is no such folder or no mask in it, one is of no patient, or a patient has several.
    """
    if not folder.is_dir():
        raise InvalidInputError(f"{folder}: no such folder")
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("[!.]*")):
        suffix = next((suffix for suffix in MASK_SUFFIXES if path.name.lower().endswith(suffix)), None)
        if suffix is None:
            continue
        name = path.name[: -len(suffix)]
        if name not in patients:
            raise InvalidInputError(f"{path}: the cohort has no patient {name}")
        if name in found:
            raise InvalidInputError(f"{found[name]} and {path}: one of the two is too many")
        found[name] = path
    if not found:
        raise InvalidInputError(f"{folder}: no masks, which are called as patients are: <PatientID>.nii.gz, say")
    log.info("masks of %d of %d patients from %s", len(found), len(patients), folder)
    return found


@dataclass(frozen=True)
class Answerer:
    """What the answers in one folder have in common, since a table that mixed them would say nothing.

    Attributes:
        weights: Folder of the ensemble.
        identity: What tells it from other weights.
        models: Names of its models that answer.
        hpv_prevalence: Share of HPV-positive patients that the calibrated probabilities are for; None without such.
        edition: Edition of the challenge.
    """

    weights: Path
    identity: str
    models: tuple[str, ...]
    hpv_prevalence: float | None
    edition: str

    def why_other(self, answer: ReportedAnswer, path: Path) -> str | None:
        """Say what an answer has not in common with these, of the report at a path; None where it is one of them."""
        if answer.weights != self.identity or answer.models != self.models:
            return f"{path}: answered by other weights or models than {self.weights}; name another folder"
        if answer.edition not in (None, self.edition):
            return f"{path}: answered for another edition, {answer.edition}; name another folder"
        if answer.hpv_prevalence != self.hpv_prevalence and answer.hpv_probability is not None:
            return f"{path}: answered for another HPV prevalence, {answer.hpv_prevalence}; name another folder"
        return None


class AnswerTables:
    """The tables of a folder: the answers of every report in it, whoever wrote it, by patient, and their lesions.

    Args:
        folder: The folder.
        answerer: What its answers must have in common; None for whatever there is.
    """

    def __init__(self, folder: Path, answerer: Answerer | None = None) -> None:
        self._folder, self._answerer = folder, answerer
        self._read: dict[Path, tuple[int, ReportedAnswer | None]] = {}
        self._written = 0.0  # seconds of the clock
        self._took_s = 0.0

    def begin(self, patients: Iterable[str]) -> None:
        """Make the folder one of answers, by a table without a row where there is none.

        Raises:
            OverwriteError: It has a file of one of the patients, and is no folder of answers yet.
            ValueError: It holds an answer of another answerer.
        """
        tables = self._folder / LESIONS_FILE, self._folder / PREDICTIONS_FILE
        files = [*tables, *(self._folder / f"{name}{end}" for name in patients for end in _ENDINGS)]
        strange = next((path for path in files if path.exists()), None)
        if self._answers() or all(map(_is_ours, tables)):  # by now, should another program have begun meanwhile
            return
        if strange and not (strange == tables[0] and _is_ours(strange)):  # which a killed program leaves alone
            raise OverwriteError(f"{strange}: is no answer's file, and would be lost; name another folder")
        self._folder.mkdir(parents=True, exist_ok=True)
        self._write([])

    def write_now_and_then(self) -> None:
        """Write the tables if that has not taken more than its share of the time of late."""
        if time.monotonic() - self._written >= self._took_s / TABLE_SHARE:
            self.write()

    def write(self) -> None:
        """Write the tables, once more where another program finished a patient meanwhile, so that no row is lost.

        Raises:
            ValueError: The folder holds an answer of another answerer, as of a program that began at the same time.
        """
        started = time.monotonic()
        answers = self._answers()
        while True:
            self._write(answers)
            written, answers = answers, self._answers()
            if answers == written:
                break
        self._written = time.monotonic()
        self._took_s = self._written - started

    def _write(self, answers: Sequence[ReportedAnswer]) -> None:
        for name, rows in (
            (LESIONS_FILE, tabulate_lesions(answers)),
            (PREDICTIONS_FILE, [COLUMNS, *map(_row, answers)]),
        ):
            with write_whole(self._folder / name) as partial, partial.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows(rows)

    def _answers(self) -> list[ReportedAnswer]:
        """Read the reports that are new, and give the answers of all, by patient.

        Raises:
            ValueError: One is of another answerer.
        """
        for path in self._folder.glob("[!.]*.json"):
            changed = path.stat().st_mtime_ns
            if self._read.get(path, (None,))[0] != changed:
                self._read[path] = changed, read_report(path)
        found = [(path, answer) for path, (_, answer) in sorted(self._read.items())]
        answers = {path: answer for path, answer in found if answer and answer.patient_id == path.stem}
        for path, answer in answers.items():
            if self._answerer and (why := self._answerer.why_other(answer, path)):
                raise ValueError(why)
        return list(answers.values())


def _is_ours(table: Path) -> bool:
    """Tell whether a table begins with our columns; predictions without lesions are those of `predict-table`."""
    ours = list(COLUMNS if table.name == PREDICTIONS_FILE else _LESION_KEYS)
    try:
        with table.open(newline="", encoding="utf-8") as file:
            return next(csv.reader(file), [])[: len(ours)] == ours
    except (OSError, ValueError):
        return False


def tabulate_lesions(answers: Sequence[ReportedAnswer]) -> list[tuple[object, ...]]:
    """Lay out the lesions of some patients, a row each, below a row of headings."""
    lesions = [(answer.patient_id, number, each) for answer in answers for number, each in enumerate(answer.lesions, 1)]
    uptake = any(UPTAKE_COLUMNS & each.keys() for *_, each in lesions)
    columns = [column for column in LESION_COLUMNS if uptake or column not in UPTAKE_COLUMNS]
    rows = [(name, number, *(each.get(column) for column in columns)) for name, number, each in lesions]
    return [(*_LESION_KEYS, *columns), *rows]


def _row(answer: ReportedAnswer) -> tuple[str, ...]:
    """Write a patient's answers as a row of COLUMNS."""
    return (
        answer.patient_id,
        decimals(answer.risk_score, 6),
        decimals(answer.hpv_probability, 6),
        flag(answer.hpv_positive),
        decimals(answer.gtvp_ml, 3),
        decimals(answer.gtvn_ml, 3),
        "; ".join(answer.flags),
        decimals(answer.hpv_calibrated, 6),
        decimals(answer.hpv_prevalence, 6),
        *(decimals(probability, 6) for probability in answer.no_recurrence),
        decimals(answer.risk_percentile, 1),
        answer.hpv_set or "",
        decimals(answer.unlike_training, 3),
        answer.t_stage or "",
        answer.n_stage or "",
        flag(answer.hpv_known),
        decimals(answer.recurrence_free_days, 1),
    )


def flag(value: bool | None) -> str:
    """Write yes or no as 1 or 0; blank where there is neither."""
    return "" if value is None else str(int(value))


def decimals(value: float | None, places: int) -> str:
    """Write a number to so many decimals; blank where there is none."""
    return "" if value is None else f"{value:.{places}f}"
