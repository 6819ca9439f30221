"""The rows that need a GPU: each is measured by a function of profile and device, so that tests can run it small."""

import copy
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn

from benchmarks.measure import alternate, product_tflops, same_labels, seconds_of, wait_for
from benchmarks.parts import Row, run_program
from benchmarks.scans import draw_lesions, draw_scan
from mmpl.case import Grid
from mmpl.io.challenge import read_edition
from mmpl.io.images import write_image
from mmpl.names import NETWORK_STAGES, Stage
from mmpl.network import StageNetwork, build_network, count_gflop
from mmpl.preprocess import PreparedCase
from mmpl.processor import Processor
from mmpl.profile import Profile, load_profile
from mmpl.radiomics import extract
from mmpl.segmentation import SlidingWindow
from mmpl.training.loop import Job, train
from mmpl.training.losses import oda_loss
from mmpl.training.patches import Batch, DrawBatch, PatchStore, SegmentationCrops
from mmpl.weights import NETWORK_FILE, SHIPPED_FOLDER, load_ensemble, write_manifest
from oracles import with_instance_norm

WARM_UP = 5
"""Steps, or batches, that do not count."""


def sliding_window(profile: Profile, device: torch.device, repeats: int, models: int = 10) -> str:
    """Segment a patch of noise by untrained networks, brought to the device one after the other."""
    torch.manual_seed(0)
    networks = [build_network(profile, Stage.SEGMENTATION).half().float().eval() for _ in range(models)]
    x, y, z = profile.preprocess.roi_size_xyz
    images = np.random.default_rng(0).standard_normal((2, z, y, x), np.float32)
    windows = SlidingWindow(profile.inference, Processor(device))

    def average(predict: Callable[[StageNetwork], NDArray[np.float32]]) -> NDArray[np.float32]:
        total = np.zeros_like(images)
        for network in networks:
            total += predict(copy.deepcopy(network))
        return total / np.float32(models)

    plainly = partial(average, partial(_slide_plainly, images, profile, device))
    ours = partial(average, partial(windows.predict, images))
    expected, found = plainly(), ours()
    apart, same = np.abs(found - expected).max(), same_labels(found, expected)
    turns = alternate(plainly, ours, repeats)
    tflop = models * windows.count((z, y, x)) * count_gflop(profile, Stage.SEGMENTATION) / 1000
    rate, attainable = tflop / statistics.median(turns.fast_s), product_tflops(torch.float16, device)
    return (
        f"{turns.describe()}; {_peak_gib(plainly, device):.1f} GiB against {_peak_gib(ours, device):.1f} GiB at "
        f"the peak; probabilities within {apart:.1e}, labels (at the median) the same on {same:.3%}; {rate:.1f} "
        f"TFLOP/s, {rate / attainable:.0%} of a product of large matrices in half precision ({attainable:.0f})"
    )


def _slide_plainly(
    images: NDArray[np.float32], profile: Profile, device: torch.device, network: StageNetwork
) -> NDArray[np.float32]:
    from monai.inferers import sliding_window_inference

    plain = with_instance_norm(network).to(device)
    settings = profile.inference
    with torch.inference_mode():
        logits = sliding_window_inference(
            torch.from_numpy(images)[None].to(device),
            settings.window_xyz[::-1],
            sw_batch_size=1,
            predictor=lambda window: torch.sigmoid(plain(window)),
            overlap=settings.overlap,
            padding_mode="replicate",
        )
    probability: NDArray[np.float32] = logits[0].cpu().numpy()
    return probability


def whole_case(profile: Profile, device: torch.device, repeats: int, models: int = 10) -> str:
    """Answer a 600 mm scan by a folder of untrained networks, with the shipped forests and Cox models.

    Untrained networks find no lesion, so radiomics of ordinary ones is measured for itself and added. The program
    chooses its device by itself.
    """
    del device
    with tempfile.TemporaryDirectory() as work:
        weights, case = Path(work) / "weights", Path(work) / "input"
        write_untrained(weights, profile, models)
        write_case(case)
        runs = [run_program(case, weights) for _ in range(repeats)]
    total, begun = sorted(runs)[repeats // 2]
    radiomics = seconds_of(
        partial(extract, *draw_lesions(20, 2, 10, profile.preprocess.roi_size_xyz), profile.radiomics)
    )
    return (
        f"{total + radiomics:.1f} s, of which {begun:.1f} s until the images are read and the first network "
        f"starts, and {radiomics:.1f} s radiomics of a primary of 20 ml and two nodes of 5 ml"
    )


def write_untrained(folder: Path, profile: Profile, models: int) -> None:
    """Write an ensemble that has learnt nothing, with the shipped forests, Cox models and ordinal models."""
    shipped = load_ensemble(SHIPPED_FOLDER)
    members = shipped.members[:models]
    for member in members:
        shutil.copytree(member.folder, folder / member.name)
        for stage in NETWORK_STAGES:
            state = build_network(profile, stage).half().state_dict()
            save_file(state, folder / member.name / NETWORK_FILE[stage])
    names = [member.name for member in members]
    tuned = shipped.thresholds, shipped.hpv_threshold
    write_manifest(
        folder, profile, names, shipped.stages, *tuned, {"cohort": "none"}, stage_scales=shipped.stage_scales
    )


def write_case(folder: Path, length_mm: float = 600.0) -> None:
    """Write a drawn scan as the platform hands a case over."""
    case, edition = draw_scan(length_mm), read_edition()
    for socket, image in ((edition.ct, case.ct), (edition.pet, case.pet)):
        (folder / socket.path).mkdir(parents=True)
        write_image(folder / socket.path / "image.mha", image)
    record = {"Age": 61, "Gender": 1, "Treatment": 1, "M-stage": "M0"}
    (folder / edition.clinical.path).write_text(json.dumps(record))


def training_step(profile: Profile, device: torch.device, repeats: int, steps: int = 20) -> str:
    """Train stage 1 on one batch that lies on the device: the step alone."""
    batch = _draw_noise(profile, device)

    def plainly() -> float:
        return _train_plainly(profile, batch, steps)

    def ours() -> float:
        return time_steps(profile, device, lambda step, where: batch, steps)

    plainly(), ours()
    pairs = [(plainly(), ours()) for _ in range(repeats)]
    ratios = sorted(plain / fast for plain, fast in pairs)
    plain_s, fast_s = (statistics.median(times) for times in zip(*pairs, strict=True))
    plain_gib, our_gib = _peak_gib(plainly, device), _peak_gib(ours, device)
    return (
        f"{statistics.median(ratios):.1f} times ({ratios[0]:.1f} to {ratios[-1]:.1f}): {1000 * plain_s:.0f} ms "
        f"against {1000 * fast_s:.0f} ms; {plain_gib:.1f} GiB against {our_gib:.1f} GiB at the peak"
    )


def loading(profile: Profile, device: torch.device, repeats: int, patients: int = 8, steps: int = 30) -> str:
    """Draw stage 1's batches from memory-mapped patches of noise: alone, and for a network that trains."""
    batch = _draw_noise(profile, device)
    with tempfile.TemporaryDirectory() as work:
        crops = _save_noise(PatchStore(Path(work)), profile, patients)

        def draw_all() -> None:
            for step in range(WARM_UP, WARM_UP + steps):
                crops(step, device)
            wait_for(device)

        for step in range(WARM_UP):
            crops(step, device)
        turns = [
            (
                seconds_of(draw_all) / steps,
                time_steps(profile, device, lambda step, where: batch, steps),
                time_steps(profile, device, crops, steps),
            )
            for _ in range(repeats)
        ]
    draw_s, step_s, both_s = (statistics.median(times) for times in zip(*turns, strict=True))
    return (
        f"{step_s / draw_s:.1f} times: {1 / draw_s:.1f} batches/s alone where the GPU takes {1 / step_s:.1f}; "
        f"{1000 * both_s:.0f} ms a step with it, {1000 * step_s:.0f} ms with a batch that lies ready"
    )


@dataclass
class _Timed:
    """Draw batches for a training, and note when each is asked for, which is once a step."""

    draw: DrawBatch
    asked_s: list[float] = field(default_factory=list)

    def __call__(self, step: int, device: torch.device) -> Batch:
        self.asked_s.append(time.perf_counter())
        return self.draw(step, device)


def time_steps(profile: Profile, device: torch.device, draw: DrawBatch, steps: int) -> float:
    """Train stage 1 as the program does, after a warm-up; seconds a step."""
    settings = profile.training.segmentation.model_copy(update={"steps": WARM_UP + steps})
    torch.manual_seed(0)
    timed = _Timed(draw)
    with tempfile.TemporaryDirectory() as work:
        network = build_network(profile, Stage.SEGMENTATION)
        train(
            Job(network, timed, oda_loss, settings, profile.training, seed=0, folder=Path(work)),
            accelerator=device.type,
        )
    return (timed.asked_s[-1] - timed.asked_s[WARM_UP - 1]) / steps


def _train_plainly(profile: Profile, batch: Batch, steps: int) -> float:
    device = batch.images.device
    torch.manual_seed(0)
    network = with_instance_norm(build_network(profile, Stage.SEGMENTATION)).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=profile.training.segmentation.learning_rate)

    def step_often(count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            oda_loss(network(batch.images), *batch.targets).backward()
            nn.utils.clip_grad_norm_(network.parameters(), profile.training.gradient_clip)
            optimizer.step()
        wait_for(device)

    step_often(WARM_UP)
    return seconds_of(partial(step_often, steps)) / steps


def _draw_noise(profile: Profile, device: torch.device) -> Batch:
    x, y, z = profile.training.segmentation.crop_xyz
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(profile.training.segmentation.batch, 2, z, y, x, generator=generator)
    return Batch(images.to(device), ((images > 2).float().to(device),))


def _save_noise(store: PatchStore, profile: Profile, patients: int) -> SegmentationCrops:
    """Fill a store with patches of the profile's size, a lesion in the middle of each."""
    size, names, rng = profile.preprocess.roi_size_xyz, [f"P-{n}" for n in range(patients)], np.random.default_rng(0)
    grid = Grid(size, (profile.preprocess.spacing_mm,) * 3, (0.0, 0.0, 0.0))
    labels = np.zeros((2, *grid.shape_zyx), np.float32)
    middle = tuple(slice(n * 2 // 5, n * 3 // 5) for n in grid.shape_zyx)
    labels[(slice(None), *middle)] = 1
    for name in names:
        images = rng.standard_normal((2, *grid.shape_zyx), np.float32)
        store.save(PreparedCase(name, images, labels, grid, grid, ()), name)
    training, spacing_mm = profile.training, profile.preprocess.spacing_mm
    return SegmentationCrops(store, names, training.segmentation, training.augmentation, spacing_mm, seed=0)


def _peak_gib(work: Callable[[], object], device: torch.device) -> float:
    """Measure the most GPU memory that tensors take while it works; 0 without a GPU."""
    if device.type != "cuda":
        return 0.0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    work()
    return torch.cuda.max_memory_allocated(device) / 2**30


@dataclass(frozen=True)
class GpuPart:
    """A row that stays empty until it is measured on a GPU; nothing is estimated.

    Attributes:
        row: Without a result.
        measure: Makes it, from the profile, the device and the number of turns.
    """

    row: Row
    measure: Callable[[Profile, torch.device, int], str]

    def __call__(self, repeats: int) -> Row:
        """Measure the `paper` profile."""
        return replace(self.row, result=self.measure(load_profile("paper"), torch.device("cuda"), repeats))


GPU_PARTS = {
    "gpu window": GpuPart(
        Row(
            part="ten-model sliding window at 1 mm, GPU",
            against="the same network through MONAI's sliding window in eager float32, window batch 1",
            goal=">= 6 times faster, peak under 6 GB",
        ),
        sliding_window,
    ),
    "gpu case": GpuPart(
        Row(
            part="whole case, `paper` profile, GPU: 512 x 512 x 300 CT, 200 x 200 x 300 PET, ten untrained models",
            goal="under 60 s",
        ),
        whole_case,
    ),
    "gpu step": GpuPart(
        Row(
            part="one training step, stage 1, 128^3, batch 2, GPU",
            against="eager float32",
            goal=">= 3 times faster, memory <= half",
        ),
        training_step,
    ),
    "gpu loading": GpuPart(
        Row(
            part="data loading, from memory-mapped patches",
            against="the GPU's step",
            goal="1.5 times the step's rate",
        ),
        loading,
    ),
}
