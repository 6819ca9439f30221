"""A backbone under the head of one stage, and what is said of it: parameters, operations, what was transferred."""

import math
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from numpy.typing import ArrayLike
from torch import Tensor, cat, nn

from mmpl.names import LESIONS, Stage
from mmpl.network.backbone import Backbone
from mmpl.profile import NetworkSettings, Profile, Size

RARE_LESION_LOGIT = -2.0
"""Value at which mask logits start: most voxels are background, and the first hundred steps need not learn that."""


class SegmentationHead(nn.Module):
    """One convolution from the finest decoder feature to a logit for GTVp and one for GTVn."""

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.project = nn.Conv3d(settings.fusion_channels[0], len(LESIONS), 1)
        nn.init.constant_(cast(Tensor, self.project.bias), RARE_LESION_LOGIT)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Return logits (batch, 2, z, y, x)."""
        return self.project(features[-1])


class OutcomeHead(nn.Module):
    """A shallow MLP on the globally averaged decoder features of every scale."""

    def __init__(self, settings: NetworkSettings, outputs: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Dropout(settings.head_dropout),
            nn.Linear(sum(settings.fusion_channels[:-1]), settings.head_features),
            nn.ReLU(inplace=True),
            nn.Dropout(settings.head_dropout),
            nn.Linear(settings.head_features, outputs),
        )

    def forward(self, features: list[Tensor]) -> Tensor:
        """Return logits (batch, outputs)."""
        return self.mlp(cat([feature.mean(dim=(2, 3, 4)) for feature in features], dim=1))

    def start_at(self, logits: Sequence[float]) -> None:
        """Set the last bias, so that an untrained head gives about these logits, rather than 0, for every patient."""
        with torch.no_grad():
            self._last.bias.copy_(torch.as_tensor(logits))

    def shift(self, logits: ArrayLike) -> None:
        """Add these to the logits of every patient."""
        with torch.no_grad():
            self._last.bias.add_(torch.as_tensor(logits).to(self._last.bias))

    @property
    def _last(self) -> nn.Linear:
        return cast(nn.Linear, self.mlp[-1])


class StageNetwork(nn.Module):
    """The backbone and one stage's head."""

    def __init__(self, settings: NetworkSettings, head: nn.Module) -> None:
        super().__init__()
        self.backbone = Backbone(settings)
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """Map images (batch, 2 = CT and PET, z, y, x) to the head's logits."""
        return self.head(self.backbone(images))


def build_network(profile: Profile, stage: Stage) -> StageNetwork:
    """Make the untrained network of a stage: 2 mask logits, 1 HPV logit or K hazard logits."""
    settings = profile.network
    if stage is Stage.SEGMENTATION:
        return StageNetwork(settings, SegmentationHead(settings))
    return StageNetwork(settings, OutcomeHead(settings, 1 if stage is Stage.HPV else profile.survival.intervals))


def transfer_backbone(state: Mapping[str, Tensor], network: StageNetwork) -> int:
    """Load the whole backbone, encoder and decoder, of an earlier stage's state dict.

    Returns:
        How many tensors were loaded: every one of the backbone.

    Raises:
        RuntimeError: A tensor of the backbone is missing, left over or of another shape.
    """
    prefix = "backbone."
    backbone = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    network.backbone.load_state_dict(backbone, strict=True)
    return len(backbone)


def count_parameters(network: nn.Module) -> int:
    """Count trainable parameters."""
    return sum(p.numel() for p in network.parameters())


def memory_gib(profile: Profile) -> float:
    """Estimate the memory that a network of a profile takes on a CPU while it computes its windows, GiB.

    The published one takes 1.6 to 1.7 GiB for a window of 128^3, and for smaller ones as much less as they have fewer
    voxels: some 60 bytes a voxel and channel of the finest level.
    """
    windows = profile.inference.window_batch * math.prod(profile.inference.window_xyz)
    return 60 * windows * profile.network.fusion_channels[0] / 2**30


def count_gflop(profile: Profile, stage: Stage, size_xyz: Size | None = None) -> float:
    """Count the operations (two a multiply-add, in 1e9) of one forward pass over one window, without running it.

    Args:
        profile: The profile, which has the network.
        stage: The stage whose network it is.
        size_xyz: Size of the window, voxels; by default that of inference.
    """
    from torch.utils.flop_counter import FlopCounterMode

    inference = profile.inference
    size = size_xyz or (inference.window_xyz if stage is Stage.SEGMENTATION else inference.lesion_crop_xyz)
    with torch.device("meta"):
        network, images = build_network(profile, stage).eval(), torch.empty(1, 2, *size[::-1])
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(images)
    return counter.get_total_flops() / 1e9
