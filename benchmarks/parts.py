"""The comparisons, one function a row of the table: each says what was compared, the goal, and what came out."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.measure import (
    Apart,
    Comparison,
    Point,
    alternate,
    peak_mib,
    product_tflops,
    same_labels,
    seconds_of,
    take_turns,
)
from benchmarks.scans import draw_lesions, draw_scan
from mmpl.case import Case, Image
from mmpl.evidence import FeatureTable
from mmpl.names import LESIONS, Modality, Stage
from mmpl.network import build_network, count_gflop
from mmpl.preprocess import prepare
from mmpl.profile import RadiomicsSettings, load_profile
from mmpl.radiomics import extract
from mmpl.weights import SHIPPED_FOLDER, load_ensemble
from oracles import PAPER, carry_out_literally, measure_plainly, with_instance_norm

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "test" / "input"


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        points: What some amounts of work took, where the row is of how cost grows.
        x_label: What there is more and more of, and its unit.
    """

    part: str
    against: str = ""
    goal: str = ""
    result: str = ""
    points: tuple[Point, ...] = ()
    x_label: str = ""


def prepare_plainly(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Resample all, localize, crop: CT in HU, PET in SUV."""
    literal = carry_out_literally(case)
    size = PAPER.roi_size_xyz
    return literal.patch(literal.ct, size, -1024.0), literal.patch(literal.pet, size, 0.0)


def prepare_ours(case: Case) -> np.ndarray:
    """Do what the program does: CT and PET as the networks see them."""
    return prepare(case, PAPER).images


def preprocessing(repeats: int) -> Row:
    """600 mm, each way in a process of its own."""
    make = partial(draw_scan, 600.0)
    with Apart(make, prepare_plainly, keep=False) as plain, Apart(make, prepare_ours, keep=True) as ours:
        (ct, pet), images = plain(), ours()
        time_ = alternate(plain.run, ours.run, repeats)
    low, high = PAPER.ct_range_hu
    ct_apart = np.abs((images[0] + 1) / 2 * (high - low) + low - ct.clip(low, high))
    body = pet[pet > PAPER.pet_floor_suv]
    pet_apart = np.abs(images[1] * body.std() + body.mean() - pet).max() / pet.max()
    plain_mib, our_mib = peak_mib(make, prepare_plainly, keep=False), peak_mib(make, prepare_ours)
    voxels = [image.voxels for image in (make().ct, make().pet)]
    copy_s = min(seconds_of(lambda: [array.copy() for array in voxels]) for _ in range(repeats))
    return Row(
        part="resample, localize, crop: 512 x 512 x 300 CT, 200 x 200 x 300 PET, 600 mm",
        against="SimpleITK's B-spline of both whole images to 1 mm, then crop",
        goal=">= 30 times faster, peak memory <= 1/4, same patch",
        result=f"{time_.describe()}; {plain_mib:.0f} MiB against {our_mib:.0f} MiB at the peak "
        f"(1/{plain_mib / our_mib:.1f}); CT within {np.quantile(ct_apart, 0.999):.2g} HU on 99.9% of voxels and "
        f"{ct_apart.max():.2g} HU everywhere, PET within {pet_apart:.1e} of its maximum; reading both images once "
        f"and writing them ({sum(array.nbytes for array in voxels) / 1e6:.0f} MB) takes {copy_s:.2g} s",
    )


def long_scan(repeats: int) -> Row:
    """From 600 mm to 2 m."""
    results = []
    for length_mm in (600.0, 1300.0, 2000.0):
        make = partial(draw_scan, length_mm)
        with Apart(make, prepare_ours, keep=True) as ours:
            ours.run()
            seconds = statistics.median(seconds_of(ours.run) for _ in range(repeats))
        results.append(f"{length_mm / 1000:.1f} m: {seconds:.2f} s, {peak_mib(make, prepare_ours):.0f} MiB")
    goal = "under 3 GiB at 1.3 m; time grows with the patch"
    return Row(part="the same, up to 2 m", goal=goal, result="; ".join(results))


def radiomics(repeats: int) -> Row:
    """All filters, both images, both classes."""
    lesions, settings = draw_lesions(20, 2, 10, PAPER.roi_size_xyz), load_profile("paper").radiomics
    ours, plainly = partial(extract, *lesions, settings), partial(extract_plainly, lesions, settings)
    agreement = compare_features(ours(), plainly())
    time_ = alternate(plainly, ours, repeats)
    return Row(
        part="radiomics, all filters, PET and CT: primary of 20 ml, two nodes of 5 ml",
        against="pyradiomics as its README uses it, on the 200 x 200 x 310 patch",
        goal=">= 10 times faster, every feature within 1e-4",
        result=f"{time_.describe()}; {agreement}",
    )


def radiomics_read(repeats: int) -> Row:
    """What the shipped models read, beside pyradiomics in two ways, and beside all there is."""
    ensemble = load_ensemble()
    settings = ensemble.profile.radiomics
    read = frozenset[str]().union(*(member.radiomics_names for member in ensemble.members))
    lesions = draw_lesions(20, 2, 10, PAPER.roi_size_xyz)
    ours, all_ours = partial(extract, *lesions, settings, read), partial(extract, *lesions, settings)
    theirs, all_theirs = partial(extract_plainly, lesions, settings, read), partial(extract_plainly, lesions, settings)
    everything, some = all_ours(), ours()
    all_theirs()
    agreement = compare_features(some, theirs())
    same = np.array_equal(everything.read(some.names), some.values, equal_nan=True)
    same_bits = "the same" if same else "NOT the same"
    *others_s, ours_s = take_turns((all_theirs, theirs, all_ours, ours), repeats)
    of_all, of_same, of_all_ours = (Comparison(seconds, ours_s).describe() for seconds in others_s)
    return Row(
        part="radiomics that the shipped models read, of the same lesions",
        against="pyradiomics asked for all features; pyradiomics asked for the same ones by name, on the same kinds of "
        "images; ours of all features",
        goal=">= 30 times faster than all of pyradiomics, >= 8 times than the same of it, every feature within 1e-4; "
        "ours the same to the last bit",
        result=f"{of_all} of all of pyradiomics; {of_same} of the same ones of it; {agreement}; {of_all_ours} of ours "
        f"of all {len(everything.names):,}, {same_bits} to the last bit",
    )


def extract_plainly(
    lesions: tuple[Image, Image, Image], settings: RadiomicsSettings, read: Collection[str] | None = None
) -> dict[str, float]:
    """Let pyradiomics measure CT and PET of both lesion classes, all features or those of some names."""
    ct, pet, mask = lesions
    found: dict[str, float] = {}
    for label in LESIONS:
        for modality, image in ((Modality.CT, ct), (Modality.PET, pet)):
            prefix, how = f"{modality}_{label.name.lower()}_", settings.images[modality]
            names = None if read is None else [name.removeprefix(prefix) for name in read if name.startswith(prefix)]
            measured = measure_plainly(image, mask, label, settings, how, names)
            found |= {prefix + name: value for name, value in measured.items()}
    return found


def compare_features(measured: FeatureTable, theirs: Mapping[str, float]) -> str:
    """Say how many of our features are pyradiomics', and which are not."""
    ours = dict(zip(measured.names, measured.values[0], strict=True))
    names = [name for name in ours if not name.endswith("_absent")]  # ours alone
    apart = {name: abs(ours[name] - theirs[name]) / max(abs(theirs[name]), 1e-12) for name in names}
    far = {name: value for name, value in apart.items() if not value <= 1e-4}
    differing = "".join(f"; {name} is {ours[name]:.5g}, not {theirs[name]:.5g}" + spread(name, theirs) for name in far)
    return f"{len(names) - len(far)} of {len(names)} features within 1e-4{differing}"


def spread(name: str, features: Mapping[str, float]) -> str:
    """Say what a median lies among: next to zero, a share of itself is little."""
    quartiles = features.get(name.removesuffix("Median") + "InterquartileRange")
    return f" (of values whose quartiles are {quartiles:.3g} apart)" if quartiles else ""


def window(repeats: int) -> Row:
    """Each way in a process of its own, as ours is also about what a process does with its memory."""
    with Apart(plain_network, pass_window, keep=False) as plain, Apart(our_network, pass_window, keep=True) as ours:
        for way in (plain, ours):
            way.run()  # memory is taken, and kept, the first time
        expected, logits = plain(), ours()
        time_ = alternate(plain.run, ours.run, repeats)
    apart, same = np.abs(logits - expected).max() / np.ptp(expected), same_labels(logits, expected)
    rate = count_gflop(load_profile("paper"), Stage.SEGMENTATION) / statistics.median(time_.fast_s)
    attainable = 1000 * product_tflops(torch.float32, torch.device("cpu"), size=2048)
    plain_mib, our_mib = peak_mib(plain_network, pass_window, keep=False), peak_mib(our_network, pass_window)
    return Row(
        part="one 128^3 window of the published network, untrained, on the CPU",
        against="a plain eager float32 forward with `nn.InstanceNorm3d`",
        goal=">= 2 times faster, logits within 1% of their range, labels the same on 99.9% of voxels",
        result=f"{time_.describe()}, {rate:.0f} GFLOP/s, {rate / attainable:.0%} of a product of "
        f"large matrices ({attainable:.0f}); {plain_mib:.0f} MiB against {our_mib:.0f} MiB at the peak; "
        f"logits within {apart:.1e} of their range, labels (at the median) the same on {same:.4%}",
    )


def our_network() -> nn.Module:
    """Make the published network, the same at every call."""
    torch.manual_seed(0)
    return build_network(load_profile("paper"), Stage.SEGMENTATION).eval()


def plain_network() -> nn.Module:
    """Make it as the paper words it."""
    torch.manual_seed(0)
    return with_instance_norm(build_network(load_profile("paper"), Stage.SEGMENTATION)).eval()


def pass_window(network: nn.Module) -> np.ndarray:
    """Pass a window of noise through a network; logits (2, z, y, x)."""
    x, y, z = load_profile("paper").inference.window_xyz
    image = torch.randn(1, 2, z, y, x, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits: np.ndarray = network(image)[0].numpy()
    return logits


def whole_case(repeats: int) -> Row:
    """The shipped ensemble on the sample case, from the shell to the answers, and to all that a person reads."""
    turns = [[run_program(SAMPLE, SHIPPED_FOLDER, read) for read in (False, True)] for _ in range(repeats)]
    alone, read = (sorted(runs)[repeats // 2] for runs in zip(*turns, strict=True))
    return Row(
        part="whole case, `demo` profile: ten models on the sample case, from the shell",
        goal="the answers alone under 6 s, of which start-up at most 1.3 s",
        result=f"the challenge's answers alone (`inference.py`) {alone[0]:.1f} s, of which {alone[1]:.1f} s until the "
        f"images are read and the first network starts; with picture, report and page (`mmpl answer`) {read[0]:.1f} "
        f"s, of which {read[1]:.1f} s",
    )


def run_program(case: Path, weights: Path, read: bool = False) -> tuple[float, float]:
    """Answer a case from the shell; seconds in all, and until the first network starts.

    Args:
        case: Folder in the challenge's layout.
        weights: Folder of the ensemble.
        read: Whether a person is to read it: `mmpl answer`, in place of the container's program.
    """
    with tempfile.TemporaryDirectory() as output:
        environment = {
            "MMPL_INPUT": str(case),
            "MMPL_OUTPUT": output,
            "MMPL_WEIGHTS": str(weights),
            "MMPL_TIME_BUDGET_S": "0",
            "PYTHONUNBUFFERED": "1",
        }
        started, begun = time.perf_counter(), 0.0
        program = ["-m", "mmpl", "answer", str(case), output] if read else ["inference.py"]
        command, surroundings = [sys.executable, *program], os.environ | environment
        with subprocess.Popen(command, cwd=ROOT, env=surroundings, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                begun = begun or (time.perf_counter() - started if line.startswith("segmenting") else 0.0)
        assert process.returncode == 0
        return time.perf_counter() - started, begun


def step_memory(repeats: int) -> Row:
    """Tensors of a training step of the published networks, on fake CUDA tensors; nothing is timed."""
    del repeats
    command = [sys.executable, "-m", "benchmarks.dry_run", "--profile", "paper"]
    lines = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    rows = [json.loads(line) for line in lines]
    return Row(
        part="memory of a training step, `paper` profile, fake CUDA tensors: weights, gradients, optimizer, average, "
        "activations, without cuDNN's workspace",
        goal="stage 1, batch 2, at most 10 GiB; stages 2 and 3, batch 4, at most 12 GiB",
        result="; ".join(
            f"{row['stage']}, batch {row['batch']}, {row['micro_batch']} at a time, {row['precision']}: "
            f"{row['peak_gib']:.1f} GiB"
            for row in rows
        ),
    )


PARTS: dict[str, Callable[[int], Row]] = {
    "preprocessing": preprocessing,
    "long scan": long_scan,
    "radiomics": radiomics,
    "radiomics read": radiomics_read,
    "window": window,
    "whole case": whole_case,
    "step memory": step_memory,
}
