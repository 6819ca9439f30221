"""The command line: `python -m mmpl phantom | predict | evaluate | info`."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True, help=__doc__)


class Centers(StrEnum):
    """Which synthetic centers patients come from."""

    TRAINING = "training"
    UNSEEN = "unseen"


@app.command()
def phantom(
    patients: Annotated[int, typer.Option(min=1, help="How many patients.")],
    seed: Annotated[int, typer.Option(min=0, help="The same seed makes the same cohort.")],
    out: Annotated[Path, typer.Option(help="The cohort's folder.")],
    centers: Annotated[Centers, typer.Option(help="Seven training centers, or three unseen ones.")] = Centers.TRAINING,
    hpv_positive: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share of HPV-positive patients, instead of the centers' own.")
    ] = None,
) -> None:
    """Make a synthetic cohort in HECKTOR's layout."""
    from mmpl.phantom.cohort import write_cohort

    write_cohort(patients, seed, out, centers.value, hpv_positive)


@app.command()
def predict(
    cohort: Path,
    out: Path,
    pictures: bool = True,
    model: Annotated[
        list[str] | None, typer.Option(help="Use this model of the ensemble alone; may be repeated.")
    ] = None,
) -> None:
    """Answer the patients of COHORT: predictions.csv, masks, pictures and reports in OUT; finished ones are skipped."""
    from mmpl.predict import predict as predict_cohort

    failures = predict_cohort(cohort, out, pictures, model or ())
    for name, reason in failures.items():
        print(f"error: {name}: {reason}", file=sys.stderr)
    if failures:
        raise typer.Exit(1)


@app.command()
def evaluate(
    out: Path,
    cohort: Path,
    json: Annotated[Path | None, typer.Option(help="Write the metrics here, too.")] = None,
    against: Annotated[
        Path | None, typer.Option(help="Other predictions for COHORT, to compare with patient by patient.")
    ] = None,
) -> None:
    """Score the predictions in OUT against COHORT by the official metrics, with 95% bootstrap intervals."""
    from mmpl.evaluate import evaluate as evaluate_predictions
    from mmpl.evaluate import print_table
    from mmpl.files import refuse_inside, write_whole

    if json:
        refuse_inside(json, cohort)
    evaluation = evaluate_predictions(out, cohort, against)
    print_table(evaluation)
    if json:
        with write_whole(json) as partial:
            partial.write_text(evaluation.to_json())


@app.command()
def info(
    profile: Annotated[
        str | None, typer.Option(help="A name, or a file of your own; by default the loaded weights' own.")
    ] = None,
) -> None:
    """Say how large the networks are, and where the loaded weights come from."""
    from rich.console import Console
    from rich.table import Table

    from mmpl.labels import Stage
    from mmpl.network import build_network, count_gflop, count_parameters
    from mmpl.profile import PROFILES, differences, load_profile
    from mmpl.weights import load_ensemble

    ensemble = load_ensemble() if profile is None else None
    chosen = ensemble.profile if ensemble else load_profile(profile or "")
    table = Table(title=f"profile {chosen.name}", title_justify="left")
    for heading in ("network", "parameters", "input voxels (x, y, z)", "GFLOP a forward pass"):
        table.add_column(heading, justify="left" if heading == "network" else "right")
    for stage in Stage:
        size = chosen.inference.window_xyz if stage is Stage.SEGMENTATION else chosen.inference.lesion_crop_xyz
        parameters = count_parameters(build_network(chosen, stage))
        table.add_row(stage, f"{parameters:,}", " x ".join(map(str, size)), f"{count_gflop(chosen, stage):.1f}")
    console = Console()
    console.print(table)
    if (PROFILES / f"{chosen.name}.yaml").is_file():
        named = load_profile(chosen.name)
        for difference in differences(chosen.to_dict(), named.to_dict()):
            console.print(f"unlike resources/profiles/{named.name}.yaml, {difference}", markup=False)
    if ensemble:
        console.print(f"weights: {len(ensemble.members)} models from {ensemble.folder}, code {ensemble.code_version}")
        console.print(f"trained on: {ensemble.training.get('cohort')}, {ensemble.training.get('patients')} patients")


def main() -> None:
    """Run a command; a foreseen error is one line on stderr and exit code 1."""
    try:
        app()
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
