"""The places of the package's data: profiles, radiomics settings, the clinical schema, the challenge's editions."""

from pathlib import Path
from typing import Any

import yaml

_INSTALLED, _CHECKOUT = Path(__file__).parent / "resources", Path(__file__).resolve().parent.parent / "resources"
INSTALLED = _INSTALLED.is_dir()
"""Whether this is an installed package, and no checkout."""
RESOURCES = _INSTALLED if INSTALLED else _CHECKOUT
"""The folder inside an installed package, or the checkout's own."""


class _Loader(yaml.SafeLoader):
    """YAML in which no name stands twice: of two settings of one name, which was meant cannot be told."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Make a dictionary of a mapping."""
        names = [self.construct_object(key, deep=True) for key, _ in node.value]
        for name in names:
            if names.count(name) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{name!r} is there twice", node.start_mark)
        return dict(super().construct_mapping(node, deep))


def load_yaml(text: str) -> Any:
    """Read YAML.

    Raises:
        yaml.YAMLError: It is none, or a name is there twice.
    """
    return yaml.load(text, _Loader)


def read_data(name: str) -> Any:
    """Read a YAML file of the resources, for example `clinical.yaml`.

    Raises:
        ValueError: It is not there, or not YAML; the message names it.
    """
    path = RESOURCES / name
    try:
        return load_yaml(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from error
