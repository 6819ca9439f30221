"""Answer every patient of a cohort: a mask and a picture each, one table of patients, and one of their lesions."""

import csv
import logging
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path

import torch
from rich.progress import Progress

from mmpl.case import InvalidInputError
from mmpl.dicom.masks import MASK_SUFFIXES, give_mask
from mmpl.evaluate import NO_RECURRENCE, PREDICTIONS_FILE, STAGE_COLUMNS
from mmpl.export import check_study, export_answer, exported, find_answers, refer, study_of
from mmpl.files import refuse_inside, refuse_to_replace, write_whole
from mmpl.io.challenge import read_edition
from mmpl.io.cohort import read_cohort
from mmpl.io.images import write_image
from mmpl.memory import keep_freed_memory
from mmpl.names import DICOM_FORMATS, Column, Format
from mmpl.page import write_page
from mmpl.picture import draw
from mmpl.pipeline import Pipeline
from mmpl.processor import use_allowed_cores
from mmpl.provenance import trace
from mmpl.report import UPTAKE_COLUMNS, YEARS, ReportedAnswer, read_report, write_radiomics, write_report
from mmpl.weights import Ensemble, load_ensemble

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

log = logging.getLogger(__name__)


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
) -> dict[str, str]:
    """Answer the patients of a cohort's folder that have no answer in `out` yet.

    Of each patient the mask `<PatientID>.nii.gz` comes first, then the report `<PatientID>.json`, with which the
    patient is finished, then the picture `<PatientID>.png` and the page `<PatientID>.html`.
    `predictions.csv` and
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

    Returns:
        What went wrong, by patient; such a patient has no row, or not all the forms.

    Raises:
        OverwriteError: `out` lies in the cohort's folder, or `masks` in `out`.
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
    ensemble = load_ensemble().only(models)
    edition = read_edition()
    patients = read_cohort(cohort, ensemble.profile.clinical, outcomes=False, known_hpv=edition.known_hpv)
    for remark in patients.remarks:
        log.warning("%s: %s", patients.table, remark)
    names = [patient.patient_id for patient in patients.patients]
    alone = len(names) == 1
    given_masks = _find_masks(masks, names) if masks else {}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pipeline = Pipeline(
        ensemble,
        device,
        all_radiomics=all_radiomics,
        hpv_prevalence=hpv_prevalence,
        disagreement=disagreement,
        lesions=True,
    )
    table = _Table(out)
    table.refuse_other_answers(ensemble, hpv_prevalence, edition.name)
    for member in ensemble.members:
        member.keep()
    out.mkdir(parents=True, exist_ok=True)
    failures: dict[str, str] = {}
    with Progress() as progress:
        for patient in progress.track(patients.patients, description="predicting"):
            name = patient.patient_id
            mask, report = out / f"{name}.nii.gz", out / f"{name}.json"
            features, differing = out / f"{name}_radiomics.csv", out / f"{name}_disagreement.nii.gz"
            wanted = [mask, *[features] * all_radiomics, *[differing] * disagreement]
            given = given_masks.get(name)
            source = patients.fingerprint(name, given)
            if all(path.is_file() for path in wanted) and (known := read_report(report)):
                if known.source != source:
                    failures[name] = f"{report}: answered from other images or another record; name another folder"
                continue
            shown = out / f"{name}.png", out / f"{name}.html"
            for extra in (features, differing, *shown, *(set(exported(out, name)) - {mask})):
                extra.unlink(missing_ok=True)  # of an earlier answer
            try:
                case = patients.read_case(name)
                if given:
                    case = give_mask(case, given)
                if DICOM_FORMATS & {*formats}:
                    refer(formats, study_of(name, cohort, alone), case.ct.grid)
                result = pipeline(case)
            except InvalidInputError as error:
                failures[name] = str(error)
                continue
            except Exception as error:  # one patient must not stop the cohort; it is reported, and has no row
                log.debug("unforeseen", exc_info=True)
                failures[name] = f"{type(error).__name__}: {error}"
                continue
            write_image(mask, result.segmentation.mask)
            if all_radiomics and result.radiomics:
                write_radiomics(features, result.radiomics)
            if result.segmentation.disagreement:
                write_image(differing, result.segmentation.disagreement)
            provenance = trace(ensemble, device, result.seconds, patients.image_files(name))
            write_report(report, result, ensemble, source, provenance)
            table.write_now_and_then()
            show: dict[str, Callable[[], None]] = {}
            if pictures:
                training = ensemble.calibration.training_curve
                show["picture"] = partial(draw, case, result, out / f"{name}.png", ensemble.hpv_threshold, training)
            if pages:
                show["page"] = partial(write_page, out / f"{name}.html", case, result, ensemble, provenance)
            for kind, make in show.items():
                try:
                    make()
                except Exception as error:  # neither is worth an answer
                    log.warning("%s: no %s (%s: %s)", name, kind, type(error).__name__, error)
    table.write()
    for answer in find_answers(out) if formats and len(failures) < len(patients.patients) else ():
        if answer.name in names and answer.name not in failures:
            try:
                place = study_of(answer.name, cohort, alone) if DICOM_FORMATS & {*formats} else None
                export_answer(answer, formats, out, place)
            except InvalidInputError as error:
                failures[answer.name] = str(error)
    return failures


def _find_masks(folder: Path, patients: Sequence[str]) -> dict[str, Path]:
    """Find the masks that a person gave, by patient.

    Raises:
        InvalidInputError: There is no such folder, a mask is of no patient, or a patient has several.
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
    return found


class _Table:
    """The answers of every report in its folder, whoever wrote it, sorted by patient, and the lesions they have."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, tuple[int, ReportedAnswer | None]] = {}
        self._written = 0.0  # seconds of the clock
        self._took_s = 0.0

    def refuse_other_answers(self, ensemble: Ensemble, hpv_prevalence: float | None, edition: str) -> None:
        """Refuse to go on with answers of other weights, or other models of them, of another prevalence or edition.

        Raises:
            ValueError: There are some; the message names one.
        """
        names = tuple(member.name for member in ensemble.members)
        calibration = ensemble.calibration.hpv
        prevalence = calibration.stated_or_own(hpv_prevalence) if calibration else None
        for answer in self._answers():
            theirs = f"{self._folder / answer.patient_id}.json"
            if answer.weights != ensemble.identity or answer.models != names:
                raise ValueError(
                    f"{theirs}: answered by other weights or models than {ensemble.folder}; name another folder"
                )
            if answer.edition not in (None, edition):
                raise ValueError(f"{theirs}: answered for another edition, {answer.edition}; name another folder")
            if answer.hpv_prevalence != prevalence and answer.hpv_probability is not None:
                raise ValueError(
                    f"{theirs}: answered for another HPV prevalence, {answer.hpv_prevalence}; name another folder"
                )

    def write_now_and_then(self) -> None:
        """Write the tables if that has not taken more than its share of the time of late."""
        if time.monotonic() - self._written >= self._took_s / TABLE_SHARE:
            self.write()

    def write(self) -> None:
        """Write the tables, once more where another program finished a patient meanwhile, so that no row is lost."""
        started = time.monotonic()
        answers = self._answers()
        while True:
            for name, rows in (
                (PREDICTIONS_FILE, [COLUMNS, *map(_row, answers)]),
                (LESIONS_FILE, tabulate_lesions(answers)),
            ):
                with write_whole(self._folder / name) as partial, partial.open("w", newline="") as file:
                    csv.writer(file).writerows(rows)
            written, answers = answers, self._answers()
            if answers == written:
                break
        self._written = time.monotonic()
        self._took_s = self._written - started

    def _answers(self) -> list[ReportedAnswer]:
        """Read the reports that are new."""
        for path in self._folder.glob("[!.]*.json"):
            changed = path.stat().st_mtime_ns
            if self._read.get(path, (None,))[0] != changed:
                self._read[path] = changed, read_report(path)
        found = [(path.stem, answer) for path, (_, answer) in sorted(self._read.items())]
        return [answer for stem, answer in found if answer and answer.patient_id == stem]


def tabulate_lesions(answers: Sequence[ReportedAnswer]) -> list[tuple[object, ...]]:
    """Lay out the lesions of some patients, a row each, below a row of headings."""
    lesions = [(answer.patient_id, number, each) for answer in answers for number, each in enumerate(answer.lesions, 1)]
    uptake = any(UPTAKE_COLUMNS & each.keys() for *_, each in lesions)
    columns = [column for column in LESION_COLUMNS if uptake or column not in UPTAKE_COLUMNS]
    rows = [(name, number, *(each.get(column) for column in columns)) for name, number, each in lesions]
    return [(Column.PATIENT_ID.value, "lesion", *columns), *rows]


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
