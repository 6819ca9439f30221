"""MMPL: tumor and node masks, HPV status and recurrence risk from one PET/CT and one clinical record.

`mmpl.load(weights)` gives a `Model`, whose `answer(ct, pet, record)` is the Python interface (`mmpl.api`).
"""

from typing import TYPE_CHECKING, Any

from mmpl.version import __version__

if TYPE_CHECKING:
    from mmpl.api import Model, load

__all__ = ["Model", "__version__", "load"]


def __getattr__(name: str) -> Any:
    """Import the Python interface when it is first asked for; it brings PyTorch."""
    if name in ("Model", "load"):
        from mmpl import api

        return getattr(api, name)
    raise AttributeError(f"module 'mmpl' has no attribute {name!r}")
