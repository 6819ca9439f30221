"""What one process takes for each kind of work, GiB of the machine's memory, not a GPU's.

The figures are peaks of whole processes, measured: 0.4 GiB before there is anything to do; 1.7 GiB to prepare a CT of
512 x 512 x 400 voxels with its PET at 1 mm, to restore a mask to it or to measure radiomics there; for one step of a
network the activations that its backward pass keeps, times 1.4 to 1.6, beside what a process takes anyway (published
widths, float32: 3.1 GiB at batch 2 and 64^3, 5.7 at batch 4, 9.0 at batch 2 and 96^3).
"""

from mmpl.memory import GIB
from mmpl.names import Stage
from mmpl.profile import OutcomeTraining, Profile, SegmentationTraining

PROCESS_GIB = 1.0
"""A process whose work is tables: half of it the programs themselves."""
IMAGES_GIB = 2.0
"""A process that reads a patient's own CT and PET."""
GPU_PROCESS_GIB = 4.0
"""A process that trains on a GPU: the CUDA libraries, and batches on their way."""
WORKSPACE = 1.5
"""A step's memory beyond the weights, over the activations that its backward pass keeps."""
WEIGHT_COPIES = 4
"""Weights, gradients and two moments are held at once; the moving average takes the gradients' place between steps."""


def training_gib(profile: Profile, stage: Stage, on_gpu: bool | None = None) -> float:
    """Estimate what a process takes that trains a network of a stage and then predicts, which takes less.

    Args:
        profile: The profile.
        stage: The stage.
        on_gpu: Whether it trains on a GPU; None for what is here.
    """
    import torch

    if torch.cuda.is_available() if on_gpu is None else on_gpu:
        return GPU_PROCESS_GIB
    settings: SegmentationTraining | OutcomeTraining = getattr(profile.training, stage)
    kept, weights = measure_step(profile, stage, settings.micro_batch)
    return PROCESS_GIB + (WEIGHT_COPIES * weights + WORKSPACE * kept) / GIB


def predicting_gib(profile: Profile, images_gib: float = PROCESS_GIB) -> float:
    """Estimate what a process takes that has read images, or a prepared patch alone, and applies a network to them."""
    from mmpl.network import memory_gib

    return images_gib + memory_gib(profile)


def measure_step(profile: Profile, stage: Stage, batch: int) -> tuple[int, int]:
    """Count the activations that a backward pass keeps, and the weights, bytes in single precision; nothing is run.

    Args:
        profile: The profile, which has the network and the crop.
        stage: The stage whose network it is.
        batch: Number of crops that go through the network at once.
    """
    import torch

    from mmpl.network import build_network

    settings: SegmentationTraining | OutcomeTraining = getattr(profile.training, stage)
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[id(storage)] = storage
        return tensor

    with torch.device("meta"):
        network, images = build_network(profile, stage), torch.empty(batch, 2, *settings.crop_xyz[::-1])
    weights = {
        id(storage): storage.nbytes() for storage in (weight.untyped_storage() for weight in network.parameters())
    }
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(images)
    return sum(storage.nbytes() for key, storage in kept.items() if key not in weights), sum(weights.values())
