"""Stage 1 at inference: sliding window, ensemble probability, and the way back to the CT's own grid."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mmpl.case import GivenMask, Grid, Image
from mmpl.geometry import (
    Index,
    Interpolation,
    box_slices,
    covering_box,
    crop_grid,
    index_to_mm,
    mm_to_index,
    place_box,
    resample,
)
from mmpl.metrics import dice
from mmpl.names import LESIONS, Label
from mmpl.preprocess import PreparedCase
from mmpl.processor import Processor
from mmpl.profile import InferenceSettings

NO_LESION = "no lesion found"
LOW_AGREEMENT = "low ensemble agreement"
GIVEN = "the mask is a person's, not the ensemble's"
NO_OVERLAP = "time budget: windows without overlap"
_LOW_AGREEMENT_BELOW = 0.5


@dataclass(frozen=True)
class Thresholds:
    """The probability at or above which a voxel belongs to each class."""

    gtvp: float
    gtvn: float

    def of(self, label: Label) -> float:
        """The threshold of a lesion class."""
        return self.gtvp if label is Label.GTVP else self.gtvn


UNTUNED = Thresholds(gtvp=0.5, gtvn=0.5)
"""One half for both, so that no method gains from thresholds chosen on the patients that are scored."""


@dataclass(frozen=True)
class MemberMasks:
    """What each model would have answered alone, where the ensemble finds anything.

    Attributes:
        voxels: (models, z, y, x) labels, uint8, on the box of the patch that holds the ensemble's lesions.
        grid: Grid of that box.
    """

    voxels: NDArray[np.uint8]
    grid: Grid

    @classmethod
    def cut(cls, masks: list[NDArray[np.uint8]], found: NDArray[np.bool_], roi: Grid) -> "MemberMasks | None":
        """Cut the models' masks of a patch to the box of what the ensemble finds; None where that is nothing."""
        if not found.any():
            return None
        spans = [np.flatnonzero(found.any(axis=other)) for other in ((0, 1), (0, 2), (1, 2))]  # x, y, z
        x, y, z = (int(span[0]) for span in spans)
        size_x, size_y, size_z = (int(np.ptp(span)) + 1 for span in spans)
        start, size = (x, y, z), (size_x, size_y, size_z)
        box = box_slices(start, size)
        return cls(np.stack([mask[box] for mask in masks]), crop_grid(roi, start, size))

    def shares(self, places_mm: NDArray[np.float64], label: Label) -> NDArray[np.float64]:
        """Tell which share of some places (n, 3; x, y, z), mm, each model gives a class, (models,)."""
        index = np.rint(mm_to_index(self.grid, places_mm)).astype(int)
        x, y, z = index[((index >= 0) & (index < self.grid.size_xyz)).all(axis=1)].T
        return (self.voxels[:, z, y, x] == label).sum(axis=1) / len(index)


@dataclass(frozen=True)
class Segmentation:
    """Stage 1's answer.

    Attributes:
        mask: Label map, uint8, on the CT's own grid.
        agreement: Mean Dice, all lesions together, of each model's mask with the ensemble's; 1 where all are empty. It
            says nothing where not `agreed`.
        models: Number of models that answered, the first of the list; fewer than all only where time ran out.
        disagreement: SD, over the models, of a voxel's probability of GTVp or of GTVn, whichever is larger, float32 on
            the CT's own grid; None where it was not asked for, or one model alone answered.
        replaced: The ensemble's own mask, where a person's took its place; None where the mask is the ensemble's.
        member_masks: Masks of the models; None where the ensemble finds nothing, or a person's mask took its place.
        roi: Grid of the patch.
    """

    mask: Image
    agreement: float
    models: int
    flags: tuple[str, ...]
    disagreement: Image | None = None
    replaced: "ReplacedMask | None" = None
    member_masks: MemberMasks | None = None
    roi: Grid | None = None

    def volume_ml(self, label: Label) -> float:
        """Volume of a class, ml."""
        return _volume_ml(self.mask, label)

    def with_mask(self, given: GivenMask) -> "Segmentation":
        """Let a person's mask take the ensemble's place; how the models agree on theirs says nothing of it."""
        flags = [GIVEN, *(flag for flag in self.flags if flag not in (NO_LESION, LOW_AGREEMENT))]
        if not given.image.voxels.any():
            flags.append(NO_LESION)
        replaced = ReplacedMask(self.mask, given)
        return replace(self, mask=given.image, flags=tuple(flags), replaced=replaced, member_masks=None)

    @property
    def agreed(self) -> bool:
        """Whether several models could agree on the contours: those of lesions that they, not a person, found."""
        return self.models > 1 and self.replaced is None and bool(self.mask.voxels.any())


@dataclass(frozen=True)
class ReplacedMask:
    """The ensemble's own mask, and the one that a person gave instead, on one grid."""

    ensemble: Image
    given: GivenMask

    def volume_ml(self, label: Label) -> float:
        """Volume of a class in the ensemble's mask, ml."""
        return _volume_ml(self.ensemble, label)

    def dice(self, label: Label) -> float:
        """Overlap of the two in a class, 0 to 1; 1 where it is in neither."""
        return dice(self.ensemble.voxels == label, self.given.image.voxels == label)


def _volume_ml(mask: Image, label: Label) -> float:
    return int(np.count_nonzero(mask.voxels == label)) * mask.grid.voxel_ml


def segment(
    prepared: PreparedCase,
    networks: Iterable[nn.Module],
    thresholds: Thresholds,
    settings: InferenceSettings,
    processor: Processor,
    budget: "Budget | None" = None,
    disagreement: bool = False,
) -> Segmentation:
    """Average the probabilities of the models, held as many at a time as run at once, and go to the CT's grid.

    Their disagreement a voxel is measured, too, where it is asked for.

    With a time budget, what is given up is declared: first the windows' overlap, then models from the end of the list.
    """
    total: NDArray[np.float32] = np.zeros_like(prepared.images)
    masks: list[NDArray[np.uint8]] = []
    spread = _Spread() if disagreement else None
    windows = SlidingWindow(settings, processor)
    if budget is None:
        groups = _in_groups(networks, processor.at_once)
    else:
        groups = _while_time(networks, processor, windows, total, budget)
    for group in groups:
        for probability in processor.each(partial(windows.predict, prepared.images), group):
            total += probability
            masks.append(compose(probability, thresholds))
            if spread:
                spread.add(probability)
    mean: NDArray[np.float32] = total / np.float32(len(masks))
    found = compose(mean, thresholds) > 0
    agreement = float(np.mean([dice(found, each > 0) for each in masks]))
    mask = restore(mean, prepared.roi, prepared.ct_grid, thresholds, settings.minimum_component_voxels)
    flags: tuple[str, ...] = () if mask.voxels.any() else (NO_LESION,)
    if agreement < _LOW_AGREEMENT_BELOW:
        flags = (*flags, LOW_AGREEMENT)
    if windows.overlap < settings.overlap:
        flags = (*flags, NO_OVERLAP)
    if budget and len(masks) < budget.models:
        flags = (*flags, f"time budget: {len(masks)} of {budget.models} models")
    differing = None
    if spread and len(masks) > 1:
        differing = restore_map(spread.sd().max(axis=0), prepared.roi, prepared.ct_grid)
    members = MemberMasks.cut(masks, found, prepared.roi)
    return Segmentation(mask, agreement, len(masks), flags, differing, member_masks=members, roi=prepared.roi)


def _in_groups(networks: Iterable[nn.Module], size: int) -> Iterator[list[nn.Module]]:
    """Give so many networks at a time."""
    left = iter(networks)
    while group := list(islice(left, size)):
        yield group


class _Spread:
    """The SD, voxel by voxel, of maps that come one after the other (Welford, 1962)."""

    def __init__(self) -> None:
        self._count = 0
        self._mean: NDArray[np.floating] | float = 0.0
        self._squares: NDArray[np.floating] | float = 0.0

    def add(self, values: NDArray[np.float32]) -> None:
        self._count += 1
        away = values - self._mean
        self._mean = self._mean + away / self._count
        self._squares = self._squares + away * (values - self._mean)

    def sd(self) -> NDArray[np.float32]:
        return np.sqrt(self._squares / self._count, dtype=np.float32)


class SlidingWindow:
    """A sliding window over patches, which gives way where memory or half precision ends.

    Out of GPU memory, fewer windows run at once, then the CPU takes over; what overflows is done again in single
    precision.

    Attributes:
        overlap: Overlap of neighboring windows, as a share of their size; may be lowered between patches.
    """

    def __init__(self, settings: InferenceSettings, processor: Processor) -> None:
        self.overlap = settings.overlap
        self._settings = settings
        self._processor = processor
        self._batch = settings.window_batch

    def predict(self, images: NDArray[np.float32], network: nn.Module) -> NDArray[np.float32]:
        """Run one network over a patch; probabilities (2, z, y, x), averaged over overlaps."""
        processor = self._processor
        while True:
            probability = processor.attempt(partial(self._run, images, network))
            if probability is None and self._batch > 1 and processor.able:
                self._batch //= 2
                processor.note(f"out of GPU memory: {self._batch} windows at a time")
            elif probability is None:
                processor.leave_gpu()
            elif processor.dtype is torch.float32 or np.isfinite(probability).all():
                return probability
            else:
                processor.leave_half_precision()

    def count(self, patch_zyx: tuple[int, ...], overlap: float | None = None) -> int:
        """Count the windows that cover a patch, with their overlap as it is or with another."""
        overlap = self.overlap if overlap is None else overlap
        return len(window_boxes(patch_zyx, self._settings.window_xyz[::-1], overlap))

    def _run(self, images: NDArray[np.float32], network: nn.Module) -> NDArray[np.float32]:
        device, dtype = self._processor.device, self._processor.dtype
        network = self._processor.place(network, dtype)
        boxes = window_boxes(images.shape[1:], self._settings.window_xyz[::-1], self.overlap)
        with torch.inference_mode():
            patch = torch.from_numpy(images).to(device)
            total = patch.new_zeros((len(LESIONS), *patch.shape[1:]))
            times = patch.new_zeros(patch.shape[1:])
            for first in range(0, len(boxes), self._batch):
                some = boxes[first : first + self._batch]
                windows = torch.stack([patch[:, *box] for box in some])
                for box, found in zip(some, window_probability(windows, network, dtype), strict=True):
                    total[:, *box] += found
                    times[box] += 1
            return (total / times).cpu().numpy()


def window_boxes(
    patch_zyx: tuple[int, ...], window_zyx: tuple[int, ...], overlap: float
) -> list[tuple[slice, slice, slice]]:
    """Lay out the windows that cover a patch, which is no smaller than they are.

    They lie a step apart, from the first corner on; the last of a row is moved back to end with the patch.

    Args:
        patch_zyx: Size of the patch, voxels.
        window_zyx: Size of a window, voxels.
        overlap: Overlap of neighboring windows, as a share of their size.
    """
    rows = []
    for size, window in zip(patch_zyx, window_zyx, strict=True):
        step = max(1, int(window * (1 - overlap)))
        starts = [min(start, size - window) for start in range(0, size - window + step, step)]
        rows.append([slice(start, start + window) for start in starts])
    return [(z, y, x) for z in rows[0] for y in rows[1] for x in rows[2]]


def window_probability(windows: Tensor, network: nn.Module, dtype: torch.dtype) -> Tensor:
    """Probabilities (n, 2, z, y, x) of windows (n, 2, z, y, x), in single precision whatever the network's dtype."""
    return torch.sigmoid(network(windows.to(dtype)).float())


@dataclass
class Budget:
    """The time for stage 1, and the time its passes took; a pass is one network over the whole patch.

    Attributes:
        deadline: Time at which stage 1 must be over, as `time.monotonic` has it.
        models: Number of models to spend the time on.
        on_gpu: Whether it is kept while a GPU computes, and not just where the CPU does, or takes over.
        passes: Seconds of the passes that were made, by how many windows they had: with overlap and without; of several
            networks at once, each one's share.
    """

    deadline: float
    models: int
    on_gpu: bool = True
    passes: dict[int, list[float]] = field(default_factory=dict)

    def record(self, windows: int, seconds: float) -> None:
        """Take down what a pass of so many windows took."""
        self.passes.setdefault(windows, []).append(seconds)

    def estimate(self, windows: int) -> float:
        """Say how many seconds a pass takes: the mean of those with as many windows, or else by the window.

        Raises:
            ValueError: No pass was made yet.
        """
        if not self.passes:
            raise ValueError("how long a pass takes is not known before the first")
        alike = self.passes.get(windows)
        if alike:
            return sum(alike) / len(alike)
        made = sum(count * len(seconds) for count, seconds in self.passes.items())
        return windows * sum(map(sum, self.passes.values())) / made

    def allows(self, passes: int, windows: int) -> bool:
        """Say whether so many more passes, of so many windows each, fit into what is left."""
        return passes * self.estimate(windows) <= self.deadline - time.monotonic()


def _while_time(
    networks: Iterable[nn.Module], processor: Processor, windows: SlidingWindow, patch: NDArray, budget: Budget
) -> Iterator[list[nn.Module]]:
    """Give networks while there is time for more, first one alone; where not for all, windows lose their overlap.

    Several at once take no longer than one after the other. They are timed from one group to the next, so that reading
    them counts.
    """
    left, size, done = iter(networks), 1, 0
    began, device = time.monotonic(), processor.device
    while group := list(islice(left, size)):
        yield group
        done += len(group)
        now = time.monotonic()
        if processor.device != device:  # what passes took on a GPU says nothing of the CPU's
            budget.passes.clear()
            device = processor.device
        count, fewest = (windows.count(patch.shape[1:], overlap) for overlap in (None, 0.0))
        budget.record(count, (now - began) / len(group))
        began, rest = now, budget.models - done
        if device.type != "cpu" and not budget.on_gpu:
            continue
        if rest == 0 or not budget.allows(1, fewest):
            return
        if fewest < count and not budget.allows(rest, count):
            windows.overlap = 0.0
        most = min(processor.at_once, rest)
        size = most if budget.allows(most, windows.count(patch.shape[1:])) else 1


def predict_probability(
    images: NDArray[np.float32], network: nn.Module, settings: InferenceSettings, processor: Processor
) -> NDArray[np.float32]:
    """Run one network over the patch in overlapping windows; probabilities (2, z, y, x), averaged over overlaps."""
    return SlidingWindow(settings, processor).predict(images, network)


def compose(probability: NDArray[np.float32], thresholds: Thresholds) -> NDArray[np.uint8]:
    """Make a label map (z, y, x) of probabilities (2, z, y, x); where both classes exceed, the tumor comes first."""
    mask = np.zeros(probability.shape[1:], np.uint8)
    for channel, label in reversed(list(enumerate(LESIONS))):
        mask[probability[channel] >= thresholds.of(label)] = label
    return mask


def restore(
    probability: NDArray[np.float32], roi: Grid, ct_grid: Grid, thresholds: Thresholds, minimum_component_voxels: int
) -> Image:
    """Bring probabilities (2, z, y, x) back to the CT's grid, then compose and clean the labels there.

    Probability travels, not labels: labels resampled twice by nearest neighbor lose 1% Dice on the truth itself at
    1 mm and 7 to 16% at 3 mm. It is the inverse of `mmpl.preprocess.prepare_labels`.
    """
    start, size = covering_box(ct_grid, roi)
    mask = np.zeros(ct_grid.shape_zyx, np.uint8)
    if min(size) > 0:
        box = crop_grid(ct_grid, start, size)
        fine = np.stack([resample(Image(channel, roi), box, Interpolation.LINEAR, 0.0) for channel in probability])
        mask[box_slices(start, size)] = clean(compose(fine, thresholds), minimum_component_voxels)
    return Image(mask, ct_grid)


def restore_map(values: NDArray[np.float32], roi: Grid, ct_grid: Grid) -> Image:
    """Bring a map (z, y, x) of the patch to the CT's grid; 0 outside the patch."""
    start, size = covering_box(ct_grid, roi)
    whole = np.zeros(ct_grid.shape_zyx, np.float32)
    if min(size) > 0:
        box = crop_grid(ct_grid, start, size)
        whole[box_slices(start, size)] = resample(Image(values, roi), box, Interpolation.LINEAR, 0.0)
    return Image(whole, ct_grid)


def clean(mask: NDArray[np.uint8], minimum_component_voxels: int) -> NDArray[np.uint8]:
    """Fill each class's holes, drop components under a number of voxels, and fill the holes that those leave."""
    return _fill(_drop_small(_fill(mask), minimum_component_voxels))


def _fill(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Give each class the background that it encloses, the tumor first."""
    from scipy import ndimage

    result = mask.copy()
    for label in LESIONS:
        for box in ndimage.find_objects((mask == label).astype(np.uint8)):
            filled = ndimage.binary_fill_holes(mask[box] == label)
            result[box][filled & (result[box] == Label.BACKGROUND)] = label
    return result


def _drop_small(mask: NDArray[np.uint8], minimum_component_voxels: int) -> NDArray[np.uint8]:
    """Turn what has fewer voxels, its corners counted as joined, into background."""
    import cc3d

    result = mask.copy()
    for label in LESIONS:
        kept = cc3d.dust(mask == label, threshold=minimum_component_voxels, connectivity=26)
        result[(mask == label) & ~kept.astype(bool)] = Label.BACKGROUND
    return result


def lesion_center(mask: Image, roi: Grid) -> NDArray[np.float64]:
    """Find the middle of the lesions' bounding box, continuous voxels (x, y, z) of the patch; its center if none."""
    voxels = np.argwhere(mask.voxels > 0)[:, ::-1]
    if len(voxels) == 0:
        return (np.array(roi.size_xyz) - 1) / 2
    corners = np.array(np.meshgrid(*zip(voxels.min(axis=0), voxels.max(axis=0), strict=True), indexing="ij"))
    index = mm_to_index(roi, index_to_mm(mask.grid, corners.reshape(3, -1).T))
    return (index.min(axis=0) + index.max(axis=0)) / 2


def crop_around(images: NDArray, center_xyz: NDArray[np.floating], size_xyz: Index) -> NDArray:
    """Cut a crop (channels, z, y, x) of a patch around a center, moved to stay inside it."""
    z, y, x = images.shape[1:]
    return images[(slice(None), *box_slices(place_box(center_xyz, (x, y, z), size_xyz), size_xyz))]


def predict_logits(crop: NDArray[np.float32], network: nn.Module, processor: Processor) -> NDArray[np.float64]:
    """Run a stage 2 or 3 network on one crop (2, z, y, x): its logits.

    Out of GPU memory, the CPU takes over at once: the networks' norms and their last pooling go over the whole crop, so
    pieces of it would have other logits.
    """

    def logits() -> NDArray[np.float64]:
        images = torch.from_numpy(np.ascontiguousarray(crop))[None]
        with torch.inference_mode():
            here = processor.place(network, torch.float32)
            return here(images.to(processor.device))[0].double().cpu().numpy()

    while (found := processor.attempt(logits)) is None:
        processor.leave_gpu()
    return found
