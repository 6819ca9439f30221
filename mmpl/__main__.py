"""The command line, `mmpl COMMAND`, or `python -m mmpl COMMAND` in a checkout."""

import importlib
import os
import sys
from dataclasses import replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from mmpl.errors import explain, report_error, wanted_in_full
from mmpl.names import DICOM_FORMATS, DISAGREEMENT_MHA, PAGE, PICTURE, REPORT, Format, ImageFormat
from mmpl.surroundings import settle
from mmpl.version import __version__

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)

TRAINING_STEPS = (
    "check",
    "plan",
    "prepare",
    "segmentation",
    "radiomics",
    "hpv",
    "survival",
    "staging",
    "export",
    "ensemble",
    "tabular",
)

Weights = Annotated[
    Path | None, typer.Option(help="Folder of the weights; by default what MMPL_WEIGHTS names, else a checkout's own.")
]
HpvPrevalence = Annotated[
    float | None,
    typer.Option(help="Share of HPV-positive patients where they come from, for the calibrated probability."),
]
EditionName = Annotated[
    str | None,
    typer.Option("--edition", help="Edition of the challenge; by default what MMPL_EDITION names, else hecktor-2025."),
]
Where = Annotated[
    list[str] | None,
    typer.Option(help="Of a table alone, take the rows that have this cell: Site=oropharynx; may be repeated."),
]

Disagreement = Annotated[
    bool, typer.Option("--disagreement", help="Write how the models differ: the SD over them, voxel by voxel.")
]

Forms = Annotated[
    list[Format] | None,
    typer.Option("--format", help="Form of the answers; may be repeated. DICOM forms need the CT's DICOM files."),
]

GivenMask = Annotated[
    Path | None,
    typer.Option(help="A person's mask (image, DICOM SEG or RTSTRUCT), which replaces the ensemble's."),
]

Page = Annotated[bool, typer.Option("--page/--no-page", help="Write a page of the patient, HTML, to be read.")]


def use_weights(weights: Path | None) -> None:
    """Let the folder of weights that a user names go before the environment's."""
    if weights:
        os.environ["MMPL_WEIGHTS"] = str(weights)


def use_edition(edition: str | None) -> None:
    """Let the edition of the challenge that a user names go before the environment's.

    Raises:
        ValueError: There is no such edition.
    """
    from mmpl.io.challenge import EDITION_VARIABLE, read_edition

    if edition:
        os.environ[EDITION_VARIABLE] = read_edition(edition).name


def show_version(asked: bool) -> None:
    """Print the version and end, where it was asked for."""
    if asked:
        print(__version__)
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Masks, HPV status and recurrence risk from PET/CT and clinical record. Research only, not for clinical use."""


class Centers(StrEnum):
    """The synthetic centers that patients come from."""

    TRAINING = "training"
    UNSEEN = "unseen"


class HpvStatus(StrEnum):
    """The two HPV statuses, as a user writes them."""

    POSITIVE = "positive"
    NEGATIVE = "negative"


@app.command()
def phantom(
    patients: Annotated[int, typer.Option(min=1, help="How many patients.")],
    seed: Annotated[int, typer.Option(min=0, help="The same seed makes the same cohort.")],
    out: Annotated[Path, typer.Option(help="The cohort's folder.")],
    centers: Annotated[Centers, typer.Option(help="Seven training centers, or three unseen ones.")] = Centers.TRAINING,
    hpv_positive: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share of HPV-positive patients, instead of the centers' own.")
    ] = None,
    version: Annotated[
        int,
        typer.Option(min=1, max=2, help="2: real clinical effects, stages, traps; 1: invented effects."),
    ] = 2,
    dose: Annotated[bool, typer.Option("--dose", help="Write planned dose, too, for some of the patients.")] = False,
    dose_share: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share of patients with dose, instead of one in eight.")
    ] = None,
    image_format: Annotated[
        ImageFormat, typer.Option("--format", help="Images as NIfTI, or each patient's as a DICOM study.")
    ] = ImageFormat.NIFTI,
) -> None:
    """Make a synthetic cohort in HECKTOR's layout."""
    from mmpl.phantom.cohort import write_cohort
    from mmpl.phantom.dose import SHARE

    if dose_share is None:
        dose_share = SHARE if dose else 0.0
    write_cohort(patients, seed, out, centers.value, hpv_positive, version, dose_share, image_format=image_format)


@app.command()
def answer(
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="images/ct/*.mha, images/pet/*.mha, ehr.json.")],
    target: Annotated[Path, typer.Argument(metavar="OUTPUT", help="Takes mask, risk and HPV status.")],
    weights: Weights = None,
    known_hpv: Annotated[
        HpvStatus | None, typer.Option(help="A known HPV status, on which the risk then rests; predicted by default.")
    ] = None,
    hpv_prevalence: HpvPrevalence = None,
    disagreement: Disagreement = False,
    mask: GivenMask = None,
    page: Page = True,
) -> None:
    """Answer the one case in INPUT, in the challenge's layout, with picture, page and report beside the answers."""
    from mmpl.algorithm import PREVALENCE_VARIABLE, Algorithm
    from mmpl.files import refuse_inside, refuse_to_replace
    from mmpl.io.challenge import clear_challenge_result
    from mmpl.logs import set_up_logging

    refuse_inside(target, source)
    if mask:
        refuse_to_replace(mask, target)
    use_weights(weights)
    set_up_logging()
    if hpv_prevalence is not None:
        os.environ[PREVALENCE_VARIABLE] = str(hpv_prevalence)
    os.environ.setdefault("MMPL_TIME_BUDGET_S", "0")  # the platform's limit of time does not hold here
    picture, report, read, differing = (target / name for name in (PICTURE, REPORT, PAGE, DISAGREEMENT_MHA))
    clear_challenge_result(target)
    status = None if known_hpv is None else known_hpv is HpvStatus.POSITIVE
    Algorithm.load(disagreement=disagreement, lesions=True).answer(
        source,
        target,
        picture,
        report,
        known_hpv=status,
        disagreement=differing if disagreement else None,
        mask=mask,
        page=read if page else None,
    )


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def case(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Takes mask.nii.gz, report.json, report.html and picture.png.")],
    dicom: Annotated[
        Path | None, typer.Option(help="DICOM folder, or zip archive of one, in which CT and PET are to be found.")
    ] = None,
    ct: Annotated[Path | None, typer.Option(help="CT: an image file, a DICOM folder or a zip archive of one.")] = None,
    pet: Annotated[Path | None, typer.Option(help="PET, likewise; in SUV where it is not DICOM.")] = None,
    ct_series: Annotated[int | None, typer.Option(help="Number of the CT series, where there are several.")] = None,
    pet_series: Annotated[int | None, typer.Option(help="Number of the PET series, likewise.")] = None,
    record: Annotated[Path | None, typer.Option(help="Clinical record, a JSON object.")] = None,
    dose: Annotated[
        Path | None, typer.Option(help="Planned dose, an image or a DICOM RT dose; else the one in --dicom, if any.")
    ] = None,
    planning_ct: Annotated[
        Path | None, typer.Option(help="CT that the dose was planned on: it must lie where the CT lies.")
    ] = None,
    weights: Weights = None,
    known_hpv: Annotated[
        HpvStatus | None, typer.Option(help="A known HPV status, on which the risk then rests.")
    ] = None,
    hpv_prevalence: HpvPrevalence = None,
    disagreement: Disagreement = False,
    mask: GivenMask = None,
    form: Forms = None,
    page: Page = True,
) -> None:
    """Answer one patient: mmpl case --ct CT --pet PET, or --dicom FOLDER, --age 61 --sex m --out OUT.

    Any field of the clinical record is an option by its name: --age, --sex, --tobacco, --alcohol, --performance-status,
    --treatment, --m-stage; and --weight, in kg, where the PET's header lacks it. What is lacking is the DICOM header's.
    """
    from mmpl.algorithm import PREVALENCE_VARIABLE, Algorithm
    from mmpl.logs import set_up_logging
    from mmpl.patient import Sources, answer_patient, make_room, read_fields

    use_weights(weights)
    set_up_logging()
    if hpv_prevalence is not None:
        os.environ[PREVALENCE_VARIABLE] = str(hpv_prevalence)
    os.environ.setdefault("MMPL_TIME_BUDGET_S", "0")
    status = None if known_hpv is None else known_hpv is HpvStatus.POSITIVE
    sources = Sources(dicom, ct, pet, ct_series, pet_series, record, {}, status, dose, planning_ct)
    make_room(sources, out, mask)  # whatever is wrong with weights or fields, no earlier answer stays
    algorithm = Algorithm.load(disagreement=disagreement, lesions=True)
    fields = read_fields(context.args, algorithm.pipeline.ensemble.profile.clinical)
    answer_patient(replace(sources, fields=fields), out, algorithm, mask, form or (), page)


@app.command()
def listen(
    out: Annotated[Path, typer.Option(help="Takes a folder of answers a study, and the images that were received.")],
    peer: Annotated[
        list[str], typer.Option(help="Node that may send, AET or AET@ADDRESS; may be repeated. No other may.")
    ],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is every one.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 11112,
    aet: Annotated[str, typer.Option(help="AE title of this node.")] = "MMPL",
    records: Annotated[
        Path | None, typer.Option(help="Folder of clinical records, <StudyInstanceUID>.json, JSON objects.")
    ] = None,
    send_to: Annotated[str | None, typer.Option(help="Node that answers are sent to, AET@HOST:PORT.")] = None,
    idle: Annotated[
        float, typer.Option(min=0, help="Seconds without a new object after which a study is complete.")
    ] = 60.0,
    most_gib: Annotated[float, typer.Option(min=0, help="GiB of one study.")] = 4.0,
    most_waiting: Annotated[int, typer.Option(min=1, help="Studies that wait for their answer.")] = 20,
    keep_free_gib: Annotated[float, typer.Option(min=0, help="GiB of disk that stay free.")] = 5.0,
    most_minutes: Annotated[float, typer.Option(min=0, help="Minutes that an answer may take.")] = 60.0,
    weights: Weights = None,
) -> None:
    """Answer studies that other DICOM nodes send (C-STORE), one after the other, until it is ended."""
    import pynetdicom  # noqa: F401 where it is not there, that is said first

    from mmpl.algorithm import Algorithm
    from mmpl.inbox import Inbox, Limits
    from mmpl.listen import Destination, Node, Peer, answer_apart, run, title_of
    from mmpl.logs import set_up_logging

    peers, title = list(map(Peer.read, peer)), title_of(aet)
    destination = Destination.read(send_to) if send_to else None
    if records and not records.is_dir():
        raise ValueError(f"{records}: no such folder")
    use_weights(weights)
    set_up_logging()
    os.environ.setdefault("MMPL_TIME_BUDGET_S", "0")  # as `mmpl case`, which answers, has it
    Algorithm.load()  # weights that are missing or damaged are told now, not of every study
    inbox = Inbox(out, Limits(idle, int(most_gib * 2**30), most_waiting, int(keep_free_gib * 2**30)))
    answer = partial(answer_apart, most_s=60 * most_minutes)
    run(Node(title, inbox, peers, records, destination, answer), host, port)


@app.command()
def check(cohort: Path, weights: Weights = None) -> None:
    """Say what would keep patients of COHORT from being answered: its table, and every image."""
    from rich.progress import track

    from mmpl.case import InvalidInputError, describe_problems
    from mmpl.io.challenge import read_edition
    from mmpl.io.cohort import inspect_cohort
    from mmpl.weights import load_ensemble

    use_weights(weights)
    schema, known_hpv = load_ensemble().profile.clinical, read_edition().known_hpv
    inspected, problems = inspect_cohort(cohort, schema, outcomes=False, known_hpv=known_hpv)
    for remark in inspected.remarks:
        print(f"note: {remark}", file=sys.stderr)
    names = track(inspected.patients_with_images(), "reading images", transient=True, disable=not sys.stdout.isatty())
    problems += [problem for problem in map(inspected.image_problem, names) if problem]
    if problems:
        raise InvalidInputError(describe_problems(inspected.table, problems))
    print(f"{cohort}: fit to be answered, {len(inspected.patients)} patients")


@app.command()
def predict(
    cohort: Path,
    out: Path,
    pictures: bool = True,
    model: Annotated[
        list[str] | None, typer.Option(help="Use this model of the ensemble alone; may be repeated.")
    ] = None,
    weights: Weights = None,
    all_radiomics: Annotated[bool, typer.Option("--all-radiomics", help="Write every radiomics feature, too.")] = False,
    hpv_prevalence: HpvPrevalence = None,
    disagreement: Disagreement = False,
    masks: Annotated[
        Path | None,
        typer.Option(help="Folder of persons' masks, PatientID.nii.gz, .mha or .dcm, which replace the ensemble's."),
    ] = None,
    form: Forms = None,
    page: Page = False,
    edition: EditionName = None,
    workers: Annotated[
        int, typer.Option(min=0, help="Patients at once on this machine; 0 for what cores, GPU and memory allow.")
    ] = 0,
    scheduler: Annotated[
        str | None, typer.Option(help="Dask scheduler whose workers answer, tcp://HOST:8786, in place of this machine.")
    ] = None,
) -> None:
    """Answer the patients of COHORT: two tables, masks, pictures and reports in OUT; finished ones are skipped."""
    from mmpl.predict import predict as predict_cohort

    use_weights(weights)
    use_edition(edition)
    failures = predict_cohort(
        cohort,
        out,
        pictures,
        model or (),
        all_radiomics,
        hpv_prevalence,
        disagreement,
        masks,
        page,
        form or (),
        workers,
        scheduler,
    )
    for name, reason in failures.items():
        report_error(f"{name}: {reason}")
    if failures:
        raise typer.Exit(1)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
def train(context: typer.Context) -> None:
    """Run a training step: mmpl train STEP ...; mmpl train STEP --help says more. It needs the extra `train`.

    Steps: prepare, segmentation, radiomics, hpv, survival, staging, export, and ensemble, which runs these; check and
    plan, which say beforehand what a cohort lacks and takes; tabular, for tables without images.
    """
    step, *arguments = context.args or ["--help"]
    if step == "--help":
        print(context.get_help())
        return
    if step not in TRAINING_STEPS:
        raise ValueError(f"no training step {step!r}; there are {', '.join(TRAINING_STEPS)}")
    from mmpl.training.command import run_program

    sys.argv = [f"{sys.argv[0]} train {step}", *arguments]
    run_program(importlib.import_module(f"mmpl.training.{step}").main)


@app.command("predict-table")
def predict_table(
    table: Annotated[Path, typer.Argument(help="Records, a CSV file or a workbook; outcomes are not looked at.")],
    out: Annotated[Path, typer.Argument(help="Takes predictions.csv.")],
    weights: Weights = None,
    radiomics: Annotated[
        Path | None, typer.Option(help="Table of radiomics: PatientID, and a column for each feature.")
    ] = None,
    where: Where = None,
    hpv_prevalence: HpvPrevalence = None,
    edition: EditionName = None,
) -> None:
    """Answer every patient of TABLE, without images, by weights that train.tabular fitted."""
    from mmpl.io.challenge import read_edition
    from mmpl.io.patients import read_where
    from mmpl.predict_table import predict_table as answer
    from mmpl.weights import load_ensemble

    use_weights(weights)
    use_edition(edition)
    read = answer(load_ensemble(), table, out, radiomics, read_where(where), hpv_prevalence)
    for remark in read.remarks:
        print(f"note: {table}: {remark}")
    print(f"{len(read.patients)} patients answered in {out}, {read_edition().name}")


@app.command()
def export(
    answers: Annotated[Path, typer.Argument(help="Folder of answers, of predict or of answer.")],
    dicom: Annotated[
        Path | None, typer.Option(help="Folder of the CT's DICOM files; of many patients, one with a folder each.")
    ] = None,
    form: Forms = None,
    ct_series: Annotated[int | None, typer.Option(help="Number of the CT series, where there are several.")] = None,
    out: Annotated[Path | None, typer.Option(help="Takes the files; by default ANSWERS.")] = None,
) -> None:
    """Write answers as DICOM segmentation, structure set and report, which it does by default, or as images."""
    from mmpl.export import export as export_answers

    for path in export_answers(answers, form or DICOM_FORMATS, dicom, ct_series, out):
        print(path)


@app.command()
def evaluate(
    out: Path,
    cohort: Path,
    json: Annotated[Path | None, typer.Option(help="Write the metrics here, too.")] = None,
    against: Annotated[
        Path | None, typer.Option(help="Other predictions for COHORT, to compare with patient by patient.")
    ] = None,
    where: Where = None,
    edition: Annotated[
        str | None, typer.Option(help="Edition of the challenge, whose own score is added: hecktor-2026.")
    ] = None,
) -> None:
    """Score the predictions in OUT against COHORT, a folder or a table, with 95% bootstrap intervals."""
    from mmpl.evaluate import evaluate as evaluate_predictions
    from mmpl.evaluate import print_table
    from mmpl.files import refuse_inside, write_whole
    from mmpl.io.challenge import read_edition
    from mmpl.io.patients import read_where
    from mmpl.report import read_report

    if json:
        refuse_inside(json, cohort)
        for answers in filter(None, (out, against)):
            if json.exists() and (json.suffix != ".json" or read_report(json)):
                refuse_inside(json, answers)
    chosen = read_edition(edition)
    evaluation = evaluate_predictions(out, cohort, against, where=read_where(where), edition=chosen)
    if json:  # first, as printing may end early: | head
        with write_whole(json) as partial:
            partial.write_text(evaluation.to_json())
    print_table(evaluation)


@app.command()
def report(
    answers: Annotated[Path, typer.Argument(help="A folder that `mmpl predict` wrote.")],
    cohort: Annotated[Path | None, typer.Argument(help="The cohort, whose outcomes are then compared.")] = None,
) -> None:
    """Write ANSWERS/index.html: a table of the patients, and how good the answers are where outcomes are known."""
    from mmpl.cohort_page import write_cohort_page

    print(f"page: {write_cohort_page(answers, cohort)}")


@app.command()
def info(
    profile: Annotated[
        str | None, typer.Option(help="A name, or a file of your own; by default the loaded weights' own.")
    ] = None,
    weights: Weights = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, with versions, device and threads.")] = False,
) -> None:
    """Say how large the networks are, and where the loaded weights come from."""
    from rich.console import Console
    from rich.table import Table

    from mmpl.names import NETWORK_STAGES, Stage
    from mmpl.network import build_network, count_gflop, count_parameters
    from mmpl.profile import PROFILES, differences, load_profile
    from mmpl.weights import load_ensemble

    use_weights(weights)
    ensemble = load_ensemble() if profile is None else None
    chosen = ensemble.profile if ensemble else load_profile(profile or "")
    if json:
        from mmpl.provenance import describe_installation

        print(describe_installation(chosen, ensemble))
        return
    table = Table(title=f"profile {chosen.name}", title_justify="left")
    for heading in ("network", "parameters", "input voxels (x, y, z)", "GFLOP a forward pass"):
        table.add_column(heading, justify="left" if heading == "network" else "right")
    for stage in NETWORK_STAGES:
        size = chosen.inference.window_xyz if stage is Stage.SEGMENTATION else chosen.inference.lesion_crop_xyz
        parameters = count_parameters(build_network(chosen, stage))
        table.add_row(stage, f"{parameters:,}", " x ".join(map(str, size)), f"{count_gflop(chosen, stage):.1f}")
    console = Console()
    if not (ensemble and ensemble.of_tables):
        console.print(table)
    if (PROFILES / f"{chosen.name}.yaml").is_file():
        named = load_profile(chosen.name)
        for difference in differences(chosen.to_dict(), named.to_dict()):
            console.print(f"unlike resources/profiles/{named.name}.yaml, {difference}", markup=False)
    if ensemble:
        stages = ", ".join(ensemble.stages)
        console.print(f"weights: {len(ensemble.members)} models from {ensemble.folder}, code {ensemble.code_version}")
        console.print(
            f"trained for {stages} on {ensemble.training.get('cohort')}, {ensemble.training.get('patients')} patients"
        )


def main() -> None:
    """Run a command; whatever stops it is a message on stderr and exit code 1."""
    settle()
    try:
        app()
    except Exception as error:
        if wanted_in_full():
            raise
        report_error(explain(error))
        sys.exit(1)


if __name__ == "__main__":
    main()
