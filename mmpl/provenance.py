"""Where an answer comes from: versions, device, threads, the weights' and the images' SHA-256, seconds a stage."""

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from mmpl.names import NETWORK_STAGES
from mmpl.network import build_network, count_gflop, count_parameters
from mmpl.processor import default_device, use_allowed_cores
from mmpl.profile import Profile
from mmpl.version import __version__
from mmpl.weights import Ensemble, digest

PACKAGES = (
    "torch",
    "numpy",
    "scipy",
    "SimpleITK",
    "pyradiomics-cuda",
    "connected-components-3d",
)
"""Packages whose code has a part in the numbers, beside our own and Python's."""


@dataclass(frozen=True)
class Provenance:
    """The manifest of one answer.

    Attributes:
        versions: Versions of the program, of Python and of the packages, by name.
        device: The GPU's name, or "CPU".
        threads: Threads that PyTorch computes with on the CPU.
        weights: SHA-256 of the weights' manifest, which names every other file by its own.
        inputs: SHA-256 of each image file, by what it is; none of images that came as no files. Never of a record: its
            few fields are found by trying all, until one has that hash.
        seconds: Seconds of each stage.
        answered: Moment of the answer, ISO 8601 in UTC.
    """

    versions: Mapping[str, str]
    device: str
    threads: int
    weights: str
    inputs: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    answered: str = ""


def trace(
    ensemble: Ensemble, device: torch.device, seconds: Mapping[str, float], files: Mapping[str, Path]
) -> Provenance:
    """Make the manifest of an answer that was just given.

    Args:
        ensemble: The ensemble that gave it.
        device: Device that it was given on.
        seconds: Seconds of each stage (`PatientResult.seconds`).
        files: Image files that were read, by what they are.
    """
    return Provenance(
        versions=find_versions(),
        device=device_name(device),
        threads=torch.get_num_threads(),
        weights=ensemble.identity,
        inputs={name: digest(path) for name, path in files.items()},
        seconds={stage: round(spent, 3) for stage, spent in seconds.items()},
        answered=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def find_versions() -> dict[str, str]:
    """Give the versions of the program, of Python and of `PACKAGES`, as far as they are installed."""
    found = {"mmpl": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # of another build, as a torch that an image brings
            continue
    return found


def describe_installation(profile: Profile, ensemble: Ensemble | None) -> str:
    """Write what answers here, as JSON: versions, device, threads, networks, and the weights where there are some."""
    use_allowed_cores()
    content: dict[str, Any] = {
        "versions": find_versions(),
        "device": device_name(default_device()),
        "threads": torch.get_num_threads(),
        "profile": profile.name,
        "networks": {
            stage: {
                "parameters": count_parameters(build_network(profile, stage)),
                "gflop": count_gflop(profile, stage),
            }
            for stage in NETWORK_STAGES
        },
    }
    if ensemble:
        content["weights"] = {
            "folder": str(ensemble.folder),
            "sha256": ensemble.identity,
            "code_version": ensemble.code_version,
            "models": [member.name for member in ensemble.members],
            "stages": ensemble.stages,
            "calibrated": [stage for stage in ensemble.stages if getattr(ensemble.calibration, stage, None)],
            "training": dict(ensemble.training),
        }
    return json.dumps(content, indent=1)


def device_name(device: torch.device) -> str:
    """Give the GPU's name, or "CPU"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
