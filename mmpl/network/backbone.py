"""The backbone: a triple-stream encoder with adaptive PET/CT fusion and an attention-gated decoder.

Written from the published description (npj Precision Oncology 8, 63, 2024, and the HECKTOR 2025 paper).
"""

from torch import Tensor, cat, nn
from torch.nn import functional

from mmpl.network.blocks import AttentionGate, FusionGate, ResidualBlock, conv_norm_act, halve
from mmpl.profile import NetworkSettings


class EncoderLevel(nn.Module):
    """One scale: a PET block, a CT block, their joint (late) feature, the fusion block's (early) one, and the gate."""

    def __init__(
        self, stream_in: int, stream: int, fusion_in: int, fusion: int, depth: int, s: NetworkSettings
    ) -> None:
        super().__init__()
        self.ct = ResidualBlock(stream_in, stream, depth, s)
        self.pet = ResidualBlock(stream_in, stream, depth, s)
        self.early = ResidualBlock(fusion_in, fusion, depth, s)
        self.late = conv_norm_act(2 * stream, fusion, 3, s)
        self.gate = FusionGate(fusion)

    def forward(self, ct: Tensor, pet: Tensor, mixed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the CT, the PET and the mixed feature of this scale."""
        ct, pet = self.ct(ct), self.pet(pet)
        return ct, pet, self.gate(self.early(mixed), self.late(cat([pet, ct], dim=1)))


class DecoderStep(nn.Module):
    """Gate the skip by the deeper feature, join the two and refine."""

    def __init__(self, deeper: int, skip: int, depth: int, settings: NetworkSettings) -> None:
        super().__init__()
        self.attention = AttentionGate(deeper, skip, settings)
        self.block = ResidualBlock(deeper + skip, skip, depth, settings)

    def forward(self, deeper: Tensor, skip: Tensor) -> Tensor:
        """Return a feature of the skip's shape."""
        skip = self.attention(deeper, skip)
        return self.block(cat([functional.interpolate(deeper, scale_factor=2), skip], dim=1))


class Backbone(nn.Module):
    """The network from CT and PET to the decoder's features at every scale but the coarsest, coarse first."""

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        stream, fusion, depth = settings.stream_channels, settings.fusion_channels, settings.convolutions
        self.encoder = nn.ModuleList(
            EncoderLevel(stream[i - 1] if i else 1, stream[i], fusion[i - 1] if i else 2, fusion[i], depth[i], settings)
            for i in range(settings.levels)
        )
        self.decoder = nn.ModuleList(
            DecoderStep(fusion[i + 1], fusion[i], depth[i], settings) for i in reversed(range(settings.levels - 1))
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map images (batch, 2 = CT and PET, z, y, x) to decoder features, the last at full resolution."""
        (ct, pet), mixed = images.split(1, dim=1), images
        skips = []
        for level, encode in enumerate(self.encoder):
            if level:
                ct, pet, mixed = (halve(x) for x in (ct, pet, mixed))
            ct, pet, mixed = encode(ct, pet, mixed)
            skips.append(mixed)
        feature = skips.pop()
        features = []
        for decode in self.decoder:
            feature = decode(feature, skips.pop())
            features.append(feature)
        return features
