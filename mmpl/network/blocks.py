"""The backbone's parts: convolution blocks, the PET/CT fusion gate and the decoder's attention gate."""

from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmpl.profile import CHANNELS_A_GROUP, NetworkSettings


class Norm(nn.GroupNorm):
    """A group norm whose result has the dtype of its input, also under autocast.

    Autocast on CUDA makes a group norm float32: the features around it stay 16 bits, the two cannot be mixed, and what
    training keeps for the backward pass more than doubles. Sums inside are float32 in any case.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (batch, channels, z, y, x), each sample by itself."""
        # meta tensors, on which operations and memory are counted, know no autocast
        with nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False):
            return functional.group_norm(x, self.num_groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


def make_norm(channels: int, settings: NetworkSettings) -> Norm:
    """Make the norm of a profile: of each sample by itself, as batch statistics mean little at the sizes that fit."""
    # an instance norm is a group norm of single channels, which PyTorch computes faster on a CPU (1.5 to 4 times)
    return Norm(channels if settings.norm == "instance" else max(1, channels // CHANNELS_A_GROUP), channels)


class Convolution(nn.Conv3d):
    """A convolution that oneDNN computes at inference on a CPU, also of one small image.

    PyTorch leaves a batch of one with few channels to a plain loop, which takes more than twice as long. A kernel of
    one voxel stays with it, where it is faster.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Convolve (batch, channels, z, y, x)."""
        onednn = input.device.type == "cpu" and input.dtype is torch.float32 and torch.backends.mkldnn.is_available()
        learning = torch.is_grad_enabled() or torch.is_autocast_enabled("cpu")
        if max(self.kernel_size) == 1 or learning or not onednn:
            return super().forward(input)
        assert not isinstance(self.padding, str)
        return torch.mkldnn_convolution(
            input, self.weight, self.bias, self.padding, self.stride, self.dilation, self.groups
        )


def halve(x: Tensor) -> Tensor:
    """Take the highest of each 2x2x2 voxels of (batch, channels, z, y, x), whose sizes are even.

    PyTorch's pooling also finds where they lie, which training needs; on a CPU that takes several times as long.
    """
    if x.device.type != "cpu" or torch.is_grad_enabled():
        return functional.max_pool3d(x, 2)
    x = torch.maximum(x[:, :, ::2], x[:, :, 1::2])
    x = torch.maximum(x[:, :, :, ::2], x[:, :, :, 1::2])
    return torch.maximum(x[..., ::2], x[..., 1::2])


def conv_norm_act(inputs: int, outputs: int, kernel: int, settings: NetworkSettings) -> nn.Sequential:
    """Make a convolution of odd kernel that keeps the size, its norm and a leaky ReLU."""
    return nn.Sequential(
        Convolution(inputs, outputs, kernel, padding=kernel // 2, bias=False),
        make_norm(outputs, settings),
        nn.LeakyReLU(0.01, inplace=True),
    )


class ResidualBlock(nn.Module):
    """A 3x3x3 convolution beside a 1x1x1 one, summed; then each further 3x3x3 convolution adds to its own input."""

    def __init__(self, inputs: int, outputs: int, convolutions: int, settings: NetworkSettings) -> None:
        super().__init__()
        self.first = conv_norm_act(inputs, outputs, 3, settings)
        self.shortcut = conv_norm_act(inputs, outputs, 1, settings)
        self.rest = nn.ModuleList(conv_norm_act(outputs, outputs, 3, settings) for _ in range(convolutions - 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, inputs, z, y, x) to (batch, outputs, z, y, x)."""
        x = self.first(x) + self.shortcut(x)
        for step in self.rest:
            x = x + step(x)
        return x


class FusionGate(nn.Module):
    """Choose, voxel by voxel and channel by channel, between the early and the late PET/CT features.

    A softmax over two 1x1x1 convolutions of [early, late] is one sigmoid of their difference, which cannot overflow;
    it starts at zero weight, so both count half.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weigh = nn.Conv3d(2 * channels, channels, 1)
        for parameter in self.weigh.parameters():
            nn.init.zeros_(parameter)

    def forward(self, early: Tensor, late: Tensor) -> Tensor:
        """Mix two tensors of one shape."""
        weight = torch.sigmoid(self.weigh(torch.cat([early, late], dim=1)))
        return torch.lerp(late, early, weight)


class AttentionGate(nn.Module):
    """Additive attention: the deeper feature says where the skip matters."""

    def __init__(self, deeper: int, skip: int, settings: NetworkSettings) -> None:
        super().__init__()
        self.from_deeper = nn.Sequential(nn.Conv3d(deeper, skip, 1, bias=False), make_norm(skip, settings))
        self.from_skip = nn.Sequential(nn.Conv3d(skip, skip, 1, bias=False), make_norm(skip, settings))
        self.score = nn.Sequential(nn.Conv3d(skip, 1, 1, bias=False), make_norm(1, settings))

    def forward(self, deeper: Tensor, skip: Tensor) -> Tensor:
        """Weigh a skip (batch, skip, 2z, 2y, 2x) by a deeper feature (batch, deeper, z, y, x)."""
        # "area" is the mean of each two voxels; unlike avg_pool3d it works in half precision on every device
        smaller = functional.interpolate(self.from_skip(skip), scale_factor=0.5, mode="area")
        joint = functional.relu(self.from_deeper(deeper) + smaller)
        return skip * functional.interpolate(torch.sigmoid(self.score(joint)), scale_factor=2)
