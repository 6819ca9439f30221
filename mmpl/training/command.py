"""How every training program is run from a shell: its arguments and options, each declared once, and how it ends."""

import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import TyperException

from mmpl.errors import explain, report_error, wanted_in_full
from mmpl.names import Stage
from mmpl.surroundings import settle

CohortName = Annotated[str, typer.Argument(help="A folder in HECKTOR's layout, or phantom:PATIENTS:SEED.")]
RunFolder = Annotated[Path, typer.Argument(help="The training run's folder.")]
ProfileName = Annotated[str, typer.Option(help="Settings: a name in resources/profiles, or a YAML file of your own.")]
RunProfile = Annotated[
    str | None,
    typer.Option(help="As a name in resources/profiles, or your own YAML file; by default the run's, or demo."),
]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a setting of the profile: training.hpv.steps=4; may be repeated."),
]
Folds = Annotated[int | None, typer.Option(min=2, help="Patient-level folds; by default the run's, or five.")]
CenterOut = Annotated[bool | None, typer.Option(help="Hold out whole centers, too; by default as the run, or yes.")]
Without = Annotated[
    list[Stage] | None,
    typer.Option(
        help="Leave this stage out, as one without labels in the cohort is: hpv, survival, staging; may be repeated."
    ),
]
Only = Annotated[list[str] | None, typer.Option(help="Train this model's network alone: patient-0; may be repeated.")]
Workers = Annotated[int, typer.Option(min=0, help="Processes of this machine; 0 for as many as are of use.")]
Scheduler = Annotated[str | None, typer.Option(help="Address of a Dask scheduler, in place of processes.")]
Devices = Annotated[int, typer.Option(min=1, help="GPUs that train each network together.")]
Start = Annotated[
    Path | None, typer.Option(help="Weights to go on from in stage 1; they were trained on other patients.")
]
StartStep = Annotated[int, typer.Option(min=0, help="Step of stage 1's schedule at which --start is taken to stand.")]
Radiomics = Annotated[Path | None, typer.Option(help="Table of radiomics: PatientID, and a column for each feature.")]
Where = Annotated[
    list[str] | None, typer.Option(help="Take the rows alone that have this cell: Site=oropharynx; may be repeated.")
]
Force = Annotated[bool, typer.Option("--force", help="Write over an ensemble of other training.")]


def need(*modules: str) -> None:
    """Look for packages that a program will import after hours of work, before it begins.

    Raises:
        ModuleNotFoundError: One is not installed.
    """
    for module in modules:
        if find_spec(module) is None:
            raise ModuleNotFoundError(f"no module named {module}", name=module)


def run_program(program: Callable[..., None]) -> None:
    """Run a program with the shell's arguments; whatever stops it is a message on stderr and exit code 1."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(program)
    settle()
    try:
        code = app(standalone_mode=False)
    except TyperException as error:
        report_error(f"{' '.join(error.format_message().split())} (--help lists what there is)")
        code = 1
    except Exception as error:
        if wanted_in_full():
            raise
        report_error(explain(error))
        code = 1
    sys.exit(code)
