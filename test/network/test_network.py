"""The backbone: published size, what each stream sees, and what a transfer carries."""

from functools import cache
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from mmpl.names import NETWORK_STAGES, Stage
from mmpl.network import StageNetwork, build_network, count_gflop, count_parameters, memory_gib, transfer_backbone
from mmpl.network.blocks import AttentionGate, Convolution, FusionGate, ResidualBlock, halve
from mmpl.profile import PROFILES, Profile, load_profile

NAMES = sorted(path.stem for path in PROFILES.glob("*.yaml"))
DEMO_LIMIT = 0.8e6
"""Parameters a network of the demonstration may have."""


@pytest.fixture(scope="module")
def micro() -> Profile:
    return load_profile("micro")


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make(profile: Profile, stage: Stage, seed: int = 0) -> StageNetwork:
    torch.manual_seed(seed)
    return build_network(profile, stage).eval().requires_grad_(False)


@cache
def on_no_device(name: str, stage: Stage) -> StageNetwork:
    with torch.device("meta"):
        return build_network(load_profile(name), stage).eval()


class TestSize:
    def test_the_published_segmentation_network(self) -> None:
        assert count_parameters(on_no_device("paper", Stage.SEGMENTATION)) == pytest.approx(18.4e6, rel=0.01)

    def test_one_published_pair_costs_480_gflop(self) -> None:
        assert count_gflop(load_profile("paper"), Stage.SEGMENTATION) == pytest.approx(480, rel=0.02)

    def test_the_finest_decoder_block_is_a_quarter_of_it(self) -> None:
        from torch.utils.flop_counter import FlopCounterMode

        network = on_no_device("paper", Stage.SEGMENTATION)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.empty(1, 2, 128, 128, 128, device="meta"))
        flops = {name: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}
        share = flops["StageNetwork.backbone.decoder.3.block"] / flops["Global"]
        assert share == pytest.approx(0.25, abs=0.03)

    @pytest.mark.parametrize("stage", NETWORK_STAGES)
    def test_a_demonstration_network_is_small(self, stage: Stage) -> None:
        assert count_parameters(on_no_device("demo", stage)) <= DEMO_LIMIT

    def test_the_published_outcome_heads_see_240_numbers(self) -> None:
        linear = [m for m in on_no_device("paper", Stage.HPV).head.modules() if isinstance(m, nn.Linear)]
        assert [(m.in_features, m.out_features) for m in linear] == [(240, 128), (128, 1)]
        linear = [m for m in on_no_device("paper", Stage.SURVIVAL).head.modules() if isinstance(m, nn.Linear)]
        assert [(m.in_features, m.out_features) for m in linear] == [(240, 128), (128, 10)]


class TestShapes:
    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("stage", NETWORK_STAGES)
    def test_every_profile_and_stage(self, name: str, stage: Stage) -> None:
        profile = load_profile(name)
        device = "meta" if name == "paper" else "cpu"
        network = on_no_device(name, stage) if name == "paper" else make(profile, stage)
        side = 2 * profile.network.stride
        with torch.inference_mode():
            logits = network(torch.zeros(2, 2, side, 2 * side, side, device=device))
        expected = {Stage.SEGMENTATION: (2, 2, side, 2 * side, side), Stage.HPV: (2, 1)}
        assert logits.shape == expected.get(stage, (2, profile.survival.intervals))
        assert device == "meta" or torch.isfinite(logits).all()

    def test_decoder_features_run_from_coarse_to_fine(self) -> None:
        profile = load_profile("paper")
        with torch.inference_mode():
            features = on_no_device("paper", Stage.HPV).backbone(torch.empty(1, 2, 32, 32, 64, device="meta"))
        assert [tuple(f.shape[1:]) for f in features] == [
            (128, 4, 4, 8), (64, 8, 8, 16), (32, 16, 16, 32), (16, 32, 32, 64)
        ]  # fmt: skip
        assert [f.shape[1] for f in features] == list(profile.network.fusion_channels[-2::-1])


class TestBlocks:
    def test_a_fusion_gate_starts_at_one_half(self) -> None:
        early, late = noise(2, 4, 3, 3, 3, seed=1), noise(2, 4, 3, 3, 3, seed=2)
        gate = FusionGate(4)
        torch.testing.assert_close(gate(early, late), (early + late) / 2, rtol=0, atol=1e-6)

    def test_every_gate_of_a_network_starts_at_one_half(self, micro: Profile) -> None:
        gates = [m for m in make(micro, Stage.SEGMENTATION).modules() if isinstance(m, FusionGate)]
        assert len(gates) == micro.network.levels
        assert all(not parameter.any() for gate in gates for parameter in gate.parameters())

    def test_a_fusion_gate_is_the_softmax_of_two_convolutions(self) -> None:
        early, late = noise(1, 3, 2, 2, 2, seed=1), noise(1, 3, 2, 2, 2, seed=2)
        for_early, for_late, gate = nn.Conv3d(6, 3, 1), nn.Conv3d(6, 3, 1), FusionGate(3)
        with torch.no_grad():
            gate.weigh.weight.copy_(for_early.weight - for_late.weight)
            gate.weigh.bias.copy_(for_early.bias - for_late.bias)
            both = torch.cat([early, late], dim=1)
            weights = torch.softmax(torch.stack([for_early(both), for_late(both)]), dim=0)
            torch.testing.assert_close(gate(early, late), weights[0] * early + weights[1] * late)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
    @pytest.mark.parametrize("weight", [300.0, -300.0])
    def test_a_fusion_gate_never_overflows(self, dtype: torch.dtype, weight: float) -> None:
        gate = FusionGate(2).to(dtype)
        nn.init.constant_(gate.weigh.weight, weight)
        early, late = torch.full((1, 2, 2, 2, 2), 200.0, dtype=dtype), torch.full((1, 2, 2, 2, 2), -7.0, dtype=dtype)
        early.requires_grad_()
        mixed = gate(early, late)  # the logit is 115,800, beyond float16
        torch.testing.assert_close(mixed, early if weight > 0 else late)
        mixed.sum().backward()
        assert early.grad is not None
        assert torch.isfinite(early.grad).all()
        assert torch.isfinite(gate.weigh.weight.grad).all()

    def test_a_residual_block_adds_each_step_to_its_input(self, micro: Profile) -> None:
        block = ResidualBlock(2, 4, 3, micro.network).eval().requires_grad_(False)
        x = noise(1, 2, 4, 4, 4)
        first = block.first(x) + block.shortcut(x)
        second = first + block.rest[0](first)
        torch.testing.assert_close(block(x), second + block.rest[1](second))
        kernels = [m.kernel_size[0] for m in block.modules() if isinstance(m, nn.Conv3d)]
        assert sorted(kernels) == [1, 3, 3, 3]

    def test_an_attention_gate_scales_all_channels_of_a_voxel_alike(self, micro: Profile) -> None:
        gate = AttentionGate(8, 4, micro.network).eval().requires_grad_(False)
        skip = noise(1, 4, 4, 4, 4)
        ratio = gate(noise(1, 8, 2, 2, 2, seed=1), skip) / skip
        assert ratio.min() > 0
        assert ratio.max() < 1
        torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio))
        torch.testing.assert_close(ratio[..., ::2], ratio[..., 1::2])  # found at half the resolution


def watch_streams(network: StageNetwork, images: Tensor) -> dict[str, list[Tensor]]:
    """Run the backbone and keep what each encoder block makes, finest level first."""
    seen: dict[str, list[Tensor]] = {"ct": [], "pet": [], "early": []}
    hooks = [
        getattr(level, name).register_forward_hook(lambda _m, _i, output, kept=kept: kept.append(output.clone()))
        for level in network.backbone.encoder
        for name, kept in seen.items()
    ]
    network.backbone(images)
    for hook in hooks:
        hook.remove()
    return seen


class TestStreams:
    @pytest.mark.parametrize(("changed", "other"), [("ct", "pet"), ("pet", "ct")])
    def test_each_sees_only_its_own_image(self, micro: Profile, changed: str, other: str) -> None:
        network = make(micro, Stage.SEGMENTATION)
        images = noise(1, 2, 8, 8, 8)
        moved = images.clone()
        moved[:, 0 if changed == "ct" else 1] += noise(1, 8, 8, 8, seed=1)
        before, after = watch_streams(network, images), watch_streams(network, moved)
        assert len(before[other]) == micro.network.levels
        for a, b in zip(before[other], after[other], strict=True):
            assert torch.equal(a, b)
        for name in (changed, "early"):
            for a, b in zip(before[name], after[name], strict=True):
                assert not torch.allclose(a, b)

    @pytest.mark.parametrize("name", ["micro", "demo"])
    @pytest.mark.parametrize("stage", NETWORK_STAGES)
    def test_a_sample_does_not_depend_on_its_batch(self, name: str, stage: Stage) -> None:
        network = make(load_profile(name), stage).train()  # as in training, but for the dropout
        for module in network.modules():
            if isinstance(module, nn.Dropout):
                module.eval()
        images = noise(3, 2, 16, 16, 16)
        torch.testing.assert_close(network(images)[1:2], network(images[1:2]), rtol=1e-4, atol=1e-5)

    def test_nothing_carries_over_from_one_batch_to_the_next(self) -> None:
        assert not [name for name in NAMES for _ in on_no_device(name, Stage.SEGMENTATION).buffers()]

    def test_outcome_heads_pool_every_scale(self, micro: Profile) -> None:
        network = make(micro, Stage.SURVIVAL)
        features = network.backbone(noise(2, 2, 8, 8, 8))
        pooled: list[Tensor] = []
        network.head.mlp.register_forward_pre_hook(lambda _m, inputs: pooled.append(inputs[0]))
        network.head(features)
        expected = torch.cat([f.flatten(2).mean(dim=2) for f in features], dim=1)
        torch.testing.assert_close(pooled[0], expected)
        assert expected.shape[1] == sum(micro.network.fusion_channels[:-1])

    @pytest.mark.parametrize("stage", NETWORK_STAGES)
    def test_every_parameter_gets_a_gradient(self, micro: Profile, stage: Stage) -> None:
        network = make(micro, stage).requires_grad_(True)
        network(noise(2, 2, 16, 16, 16)).square().sum().backward()
        without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
        assert without == []


class TestTransfer:
    """Stage 2 starts from stage 1's whole backbone, stage 3 from stage 2's."""

    @pytest.mark.parametrize("name", ["micro", "demo"])
    @pytest.mark.parametrize(("earlier", "later"), list(pairwise(NETWORK_STAGES)))
    def test_copies_encoder_and_decoder(self, name: str, earlier: Stage, later: Stage) -> None:
        profile = load_profile(name)
        source, target = make(profile, earlier, seed=1), make(profile, later, seed=2)
        for number, parameter in enumerate(source.parameters()):
            parameter += 0.01 * noise(*parameter.shape, seed=number)
        head = {key: value.clone() for key, value in target.head.state_dict().items()}
        loaded = transfer_backbone(source.state_dict(), target)

        ours, theirs = target.backbone.state_dict(), source.backbone.state_dict()
        assert loaded == len(ours) == len(list(source.backbone.parameters()))
        assert {key.split(".")[0] for key in ours} == {"encoder", "decoder"}
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
        assert all(torch.equal(head[key], value) for key, value in target.head.state_dict().items())
        images = noise(1, 2, 16, 16, 16)
        for a, b in zip(source.backbone(images), target.backbone(images), strict=True):
            assert torch.equal(a, b)

    @pytest.mark.parametrize("part", ["encoder.0.pet", "encoder.2.gate", "decoder.0.attention", "decoder.1.block"])
    def test_a_missing_tensor_is_an_error(self, micro: Profile, part: str) -> None:
        state = make(micro, Stage.SEGMENTATION).state_dict()
        name = next(key for key in state if key.startswith(f"backbone.{part}"))
        del state[name]
        with pytest.raises(RuntimeError, match=f"Missing key.*{name.removeprefix('backbone.')}"):
            transfer_backbone(state, make(micro, Stage.HPV))

    def test_a_whole_decoder_missing_is_an_error(self, micro: Profile) -> None:
        state = make(micro, Stage.SEGMENTATION).state_dict()
        encoder = {key: value for key, value in state.items() if "decoder" not in key}
        with pytest.raises(RuntimeError, match="decoder"):
            transfer_backbone(encoder, make(micro, Stage.HPV))

    def test_a_tensor_left_over_is_an_error(self, micro: Profile) -> None:
        state = make(micro, Stage.SEGMENTATION).state_dict() | {"backbone.decoder.9.block": torch.zeros(1)}
        with pytest.raises(RuntimeError, match=r"Unexpected key.*decoder\.9\.block"):
            transfer_backbone(state, make(micro, Stage.HPV))

    def test_a_tensor_of_another_shape_is_an_error(self, micro: Profile) -> None:
        state = make(micro, Stage.SEGMENTATION).state_dict()
        name = "backbone.encoder.1.late.0.weight"
        state[name] = state[name][:, 1:]
        with pytest.raises(RuntimeError, match=r"size mismatch for encoder\.1\.late\.0\.weight"):
            transfer_backbone(state, make(micro, Stage.HPV))

    def test_another_profile_is_an_error(self, micro: Profile) -> None:
        state = make(load_profile("demo"), Stage.SEGMENTATION).state_dict()
        with pytest.raises(RuntimeError, match="Error"):
            transfer_backbone(state, make(micro, Stage.HPV))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_is_the_same_by_onednn_and_one_small_image_takes_it(batch: int, stride: int) -> None:
    torch.manual_seed(0)
    convolution = Convolution(2, 4, 3, padding=1, stride=stride)
    images = torch.randn(batch, 2, 7, 9, 11)
    learning = convolution(images)
    assert learning.requires_grad
    with torch.inference_mode(), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        answered = convolution(images)
    assert (answered - learning).abs().max() < 1e-6
    operations = {event.key for event in profile.key_averages()}
    assert "aten::mkldnn_convolution" in operations
    assert "aten::slow_conv3d_forward" not in operations


def test_pooling_takes_the_highest_of_eight_voxels_with_and_without_learning() -> None:
    images = torch.randn(2, 3, 4, 6, 8)
    images[0, 0, 1, 1, 1] = torch.nan
    highest = images.reshape(2, 3, 2, 2, 3, 2, 4, 2).amax(dim=(3, 5, 7))
    learning = halve(images.requires_grad_())
    assert learning.requires_grad
    with torch.inference_mode():
        answered = halve(images)
    for found in (answered, learning.detach()):
        torch.testing.assert_close(found, highest, rtol=0, atol=0, equal_nan=True)


def test_a_network_asks_for_as_much_memory_as_it_was_seen_to_take() -> None:
    """Two windows of the published network: 3.4 GiB by twice 1.7; the demonstration's three: some 0.2."""
    assert memory_gib(load_profile("paper")) == pytest.approx(3.6, abs=0.3)
    assert 0.1 < memory_gib(load_profile("demo")) < 0.3
