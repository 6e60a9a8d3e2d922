"""Sub-attention and channel attentions against naive forms, and every form of the networks."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from timm.layers.cbam import CbamModule
from timm.layers.eca import EcaModule
from timm.layers.squeeze_excite import SEModule
from torch import Tensor, nn
from torch.nn import functional

import models
from models.common.channel_attention import CHANNEL_ATTENTIONS, SpatialPyramidLogits, StyleRecalibrationLogits
from models.lsas.network import GatedBasicBlock, GatedBottleneck
from models.lsas.sub_attention import AttentionGate, SubAttention

CHANNELS = 32


def gate_of(attention: str, *, order: int = 0) -> AttentionGate:
    torch.manual_seed(0)
    gate = AttentionGate(CHANNELS, attention=attention, reduction=8, order=order, scale_init=0.5, shift_init=-0.5)
    for parameter in gate.parameters():
        nn.init.normal_(parameter, std=0.5)
    return gate.double()


def assert_equal_forward_and_backward(
    ours: Callable[[Tensor], Tensor], reference: Callable[[Tensor], Tensor], parameters: list[tuple[Tensor, Tensor]]
) -> None:
    """Both give the same map, the same gradient of the input and of each pair of parameters."""
    for side in ((8, 8), (5, 7), (1, 1)):
        x = torch.randn(3, CHANNELS, *side, dtype=torch.float64)
        results = []
        for compute, which in ((ours, 0), (reference, 1)):
            leaf = x.clone().requires_grad_()
            y = compute(leaf)
            wanted = [pair[which] for pair in parameters]
            results.append([y, *torch.autograd.grad((y * y.detach().cos()).sum(), [leaf, *wanted])])
        for found, expected in zip(*results, strict=True):
            torch.testing.assert_close(found.reshape(expected.shape), expected)


@pytest.mark.parametrize("order", range(6))
def test_sub_attention_is_the_product_of_the_sigmoids_of_the_chain(order: int) -> None:
    sub = SubAttention(CHANNELS, order=order, scale_init=0.3, shift_init=0.2).double()
    assert sum(parameter.numel() for parameter in sub.parameters()) == 2 * order * CHANNELS
    for parameter in sub.parameters():
        nn.init.normal_(parameter)
    logits = torch.randn(4, CHANNELS, dtype=torch.float64)
    expected, value = torch.sigmoid(logits), logits
    for step in range(order):
        value = sub.scale[step] * value + sub.shift[step]  # type: ignore[index]
        expected = expected * torch.sigmoid(value)
    torch.testing.assert_close(sub(logits), expected)


@pytest.mark.parametrize(("attention", "layer"), [("se", SEModule), ("cbam", CbamModule), ("eca", EcaModule)])
def test_order_zero_is_timms_layer(attention: str, layer: type[nn.Module]) -> None:
    gate = gate_of(attention)
    theirs = layer(CHANNELS) if attention == "eca" else layer(CHANNELS, rd_channels=CHANNELS // 8)
    theirs = theirs.double()
    pairs = list(zip(gate.parameters(), theirs.parameters(), strict=True))
    with torch.no_grad():
        for mine, other in pairs:
            other.copy_(mine)
    assert_equal_forward_and_backward(gate, theirs, pairs)


def test_spatial_pyramid_reads_three_grids() -> None:
    host = SpatialPyramidLogits(CHANNELS, 4).double()

    def naive(x: Tensor) -> Tensor:
        grids = [functional.adaptive_avg_pool2d(x, cells).flatten(1) for cells in (1, 2, 4)]
        return host.fc2(host.fc1(torch.cat(grids, 1)).clamp(min=0))

    weights = [(weight, weight) for weight in host.parameters()]
    assert_equal_forward_and_backward(host, naive, weights)


@pytest.mark.parametrize("order", [0, 2])
def test_the_later_pyramid_gates_every_cell_of_its_finest_grid(order: int) -> None:
    gate = gate_of("spa_grid", order=order)
    host, sub = gate.host, gate.sub

    def naive(x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        grids = [functional.adaptive_avg_pool2d(x, side) for side in (1, 2, 4)]
        summed = torch.zeros_like(grids[2])
        for i, j in itertools.product(range(4), range(4)):
            values = (grids[0][:, :, 0, 0], grids[1][:, :, i // 2, j // 2], grids[2][:, :, i, j])
            summed[:, :, i, j] = sum(weight * value for weight, value in zip(host.grid_weight, values, strict=True))
        hidden = torch.einsum("dc,bcij->bdij", host.fc1.weight[:, :, 0, 0], summed)
        centred = hidden - hidden.mean((0, 2, 3), keepdim=True)
        normed = centred / (centred.square().mean((0, 2, 3), keepdim=True) + 1e-5).sqrt()
        normed = normed * host.bn.weight[:, None, None] + host.bn.bias[:, None, None]
        value = torch.einsum("cd,bdij->bcij", host.fc2.weight[:, :, 0, 0], normed.clamp(min=0))
        product = torch.sigmoid(value)
        for step in range(order):
            value = sub.scale[step][:, None, None] * value + sub.shift[step][:, None, None]
            product = product * torch.sigmoid(value)
        rows = torch.arange(height) * 4 // height
        columns = torch.arange(width) * 4 // width
        return x * product[:, :, rows][:, :, :, columns]

    assert_equal_forward_and_backward(gate, naive, [(weight, weight) for weight in gate.parameters()])


@pytest.mark.parametrize(("name", "stages"), [("senet_resnet_cifar", "TTT"), ("senet_resnet18", "TTTT")])
def test_a_senet_takes_every_attention(name: str, stages: str) -> None:
    known = models.model_options(name)["attention"]
    assert (known.default, known.choices) == ("se", CHANNEL_ATTENTIONS)
    for attention in CHANNEL_ATTENTIONS:
        with torch.device("meta"):
            network = models.create_model(name, num_classes=2, attention=attention)
        gates = [module for module in network.modules() if isinstance(module, AttentionGate)]
        assert len(gates) == sum(len(stage) for stage in network.stages) and len(network.stages) == len(stages)
        assert {(gate.attention, gate.sub.order) for gate in gates} == {(attention, 0)}


def test_a_depth_as_an_option_gives_the_named_network_and_others() -> None:
    for family, named in (("lsas", 29), ("senet", 110), ("sb", 65), ("nonlocal", 56)):
        with torch.device("meta"):
            ours = timm.create_model(f"{family}_resnet_cifar", depth=named)
            theirs = timm.create_model(f"{family}_resnet{named}_cifar")
            other = timm.create_model(f"{family}_resnet_cifar", depth=83)
        assert {key: value.shape for key, value in ours.state_dict().items()} == {
            key: value.shape for key, value in theirs.state_dict().items()
        }
        assert [len(stage) for stage in other.stages] == [9, 9, 9]
        (problem,) = models.check_options(f"{family}_resnet_cifar", {"depth": 40})
        assert str(problem) == (
            "depth: got 40; the depth of a network of bottleneck blocks is 2 more than a multiple of 9. Use 38."
        )
    assert models.check_options("lsas_resnet_cifar", {"depth": 44, "block": "basic"}) == []
    (problem,) = models.check_options("senet_resnet_cifar", {"depth": 29, "block": "basic"})
    assert problem.remedy in ("Use 26.", "Use 32.")


def test_style_recalibration_weighs_mean_and_deviation() -> None:
    host = StyleRecalibrationLogits(CHANNELS).double()
    nn.init.normal_(host.style_weight)

    def naive(x: Tensor) -> Tensor:
        flat = x.flatten(2)
        mean = flat.mean(2)
        deviation = ((flat - mean[..., None]) ** 2).mean(2).add(1e-5).sqrt()
        style = mean * host.style_weight[0] + deviation * host.style_weight[1]
        centred = style - style.mean(0)
        return centred / (centred.square().mean(0) + 1e-5).sqrt() * host.bn.weight + host.bn.bias

    assert_equal_forward_and_backward(host, naive, [(weight, weight) for weight in host.parameters()])


def test_style_recalibration_trains_on_a_single_image() -> None:
    host = StyleRecalibrationLogits(CHANNELS).train()
    before = host.bn.running_mean.clone()
    host(torch.randn(1, CHANNELS, 4, 4)).sum().backward()
    assert torch.isfinite(host.style_weight.grad).all()
    assert torch.equal(host.bn.running_mean, before)


@pytest.mark.parametrize("kind", [GatedBasicBlock, GatedBottleneck])
@pytest.mark.parametrize("attention", CHANNEL_ATTENTIONS)
def test_block_equals_its_formula_forward_and_backward(
    kind: type[GatedBasicBlock | GatedBottleneck], attention: str
) -> None:
    name = "lsas_resnet56_cifar"
    options = {"block": "basic" if kind is GatedBasicBlock else "bottleneck", "attention": attention}
    network = models.create_model(name, num_classes=2, stages=(True, False, False), order=2, **options)
    block: Any = network.stages[0][1].double().train()
    assert isinstance(block, kind)

    def branch(x: Tensor) -> Tensor:
        if kind is GatedBasicBlock:
            return block.conv2(block.conv1(x))
        return block.expand(functional.relu(block.bn(block.spatial(block.reduce(x)))))

    x = torch.randn(2, block.out_chs, 6, 6, dtype=torch.float64)
    results = []
    for compute in (block, lambda x: functional.relu(block.gate(branch(x)) + x)):
        leaf = x.clone().requires_grad_()
        y = compute(leaf)
        results.append([y, *torch.autograd.grad(y.square().sum(), [leaf, *block.parameters()])])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("attention", "block", "order", "side"),
    [
        *itertools.product(CHANNEL_ATTENTIONS, ["bottleneck", "basic"], [5], [8]),
        ("cbam", "basic", 0, 9),
        ("spa", "bottleneck", 1, 12),
    ],
)
def test_every_form_learns_from_small_images(attention: str, block: str, order: int, side: int) -> None:
    options = {"attention": attention, "block": block, "order": order, "reduction": 64, "stages": [True] * 3}
    network = models.create_model("lsas_resnet56_cifar", num_classes=2, in_chans=1, image_size=side, **options)
    network(torch.randn(2, 1, side, side)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())
    with torch.no_grad():
        assert torch.isfinite(network.eval()(torch.randn(1, 1, side, side))).all()


def test_first_values_of_scale_and_shift() -> None:
    with torch.device("cpu"):
        network = models.create_model("lsas_resnet29_cifar", num_classes=2, order=3, scale_init=0.25, shift_init=1)
    subs = [module for module in network.modules() if isinstance(module, SubAttention)]
    assert len(subs) == 3
    assert all((sub.scale == 0.25).all() and (sub.shift == 1).all() and len(sub.scale) == 3 for sub in subs)
    declared = network.no_weight_decay()
    assert declared == {f"stages.2.{index}.gate.sub.{name}" for index in range(3) for name in ("scale", "shift")}


def test_gates_are_in_the_stages_of_the_released_networks() -> None:
    for name, gated in [
        ("lsas_resnet29_cifar", [0, 0, 3]),
        ("senet_resnet29_cifar", [3, 3, 3]),
        ("lsas_resnet18", [0, 0, 2, 2]),
        ("senet_resnet50", [3, 4, 6, 3]),
    ]:
        with torch.device("meta"):
            network = timm.create_model(name)
        assert [sum(isinstance(block.gate, AttentionGate) for block in stage) for stage in network.stages] == gated
        is_control = name.startswith("senet")
        assert all(m.order == (0 if is_control else 1) for m in network.modules() if isinstance(m, SubAttention))


def test_a_block_can_start_as_its_shortcut() -> None:
    for options in ({"block": "basic"}, {"block": "bottleneck", "attention": "cbam"}):
        network = models.create_model("lsas_resnet56_cifar", num_classes=2, zero_init_last=True, **options).eval()
        x = torch.rand(1, network.feature_info[0]["num_chs"], 8, 8)
        torch.testing.assert_close(network.stages[0][1](x), x)


def test_a_depth_that_basic_blocks_cannot_make() -> None:
    (problem,) = models.check_options("lsas_resnet29_cifar", {"block": "basic"})
    assert "depth 29 is not 2 + 6 times a whole number" in str(problem)
    assert "56 or 110 or 164" in problem.remedy
    assert models.check_options("senet_resnet110_cifar", {"block": "basic"}) == []
    with torch.device("meta"):
        network = timm.create_model("senet_resnet110_cifar", block="basic")
    assert [len(stage) for stage in network.stages] == [18, 18, 18]


def test_impossible_parts_name_the_remedy() -> None:
    with pytest.raises(models.ModelOptionError, match="Use 'se'"):
        AttentionGate(8, attention="sa", reduction=1, order=1, scale_init=0.5, shift_init=0.0)
    with pytest.raises(models.ModelOptionError, match="order"):
        SubAttention(8, order=6)


def test_exports_for_any_batch() -> None:
    for options in ({"order": 2}, {"attention": "srm"}, {"attention": "spa", "order": 0}):
        network = models.create_model("lsas_resnet29_cifar", num_classes=2, stages=(False, False, True), **options)
        batch = torch.export.Dim("batch", min=1, max=64)
        images = torch.randn(3, 3, 16, 16)
        exported = torch.export.export(network.eval(), (images,), dynamic_shapes=({0: batch},)).module()
        with torch.no_grad():
            torch.testing.assert_close(exported(images[:1]), network(images[:1]), rtol=1e-4, atol=1e-4)
