"""The places of the package's data: profiles, radiomics settings, the clinical schema, the challenge's editions."""

from pathlib import Path
from typing import Any

import yaml

_INSTALLED, _CHECKOUT = Path(__file__).parent / "resources", Path(__file__).resolve().parent.parent / "resources"
INSTALLED = _INSTALLED.is_dir()
"""Whether this is an installed package, and no checkout."""
RESOURCES = _INSTALLED if INSTALLED else _CHECKOUT
"""The folder inside an installed package, or the checkout's own."""


def read_data(name: str) -> Any:
    """Read a YAML file of the resources, for example `clinical.yaml`.

    Raises:
        ValueError: It is not there, or not YAML; the message names it.
    """
    path = RESOURCES / name
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from error
