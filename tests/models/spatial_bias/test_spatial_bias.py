"""Spatial bias: sizes of the paper's networks, mixing, places in a block, and the attention beside it."""

from typing import Any

import pytest
import timm
import torch
from torch import Tensor

import models
from models.common.channel_attention import ChannelGate
from models.registry.authors.loading import family_of
from models.spatial_bias.bias import SpatialBias
from models.spatial_bias.block import BiasPlan


def parameters(name: str, **options: Any) -> int:
    with torch.device("meta"):
        network = timm.create_model(name, num_classes=100, **options)
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(("depth", "published"), [(38, (0.43, 0.45, 0.46, 0.48)), (65, (0.71, 0.74, 0.77, 0.80))])
def test_parameters_on_cifar_are_those_of_the_paper(depth: int, published: tuple[float, ...]) -> None:
    """Count with the bias in no stage, the first, the first two, all three; 10 cells a side would give far more."""
    for stages, millions in zip(("FFF", "TFF", "TTF", "TTT"), published, strict=True):
        for name, options in ((f"sb_resnet{depth}_cifar", {}), ("sb_resnet_cifar", {"depth": depth})):
            assert round(parameters(name, stages=stages, **options) / 1e6, 2) == millions
    assert parameters(f"sb_resnet{depth}_cifar", pooled_size=10) > 1.6e6 * published[-1]


@pytest.mark.parametrize(("depth", "counted"), [(29, 613_000), (56, 1_167_964), (164, 3_387_820)])
def test_the_grid_of_the_authors_code_can_be_named(depth: int, counted: int) -> None:
    assert parameters(f"sb_resnet{depth}_cifar", pooled_size=10) == counted
    theirs = {"dataset": "cifar100", "depth": depth, "num_classes": 100, "bottleneck": True, "gc_group": (True,) * 3}
    with torch.device("meta"):
        built = models.from_authors("spatial_bias", theirs)
    assert sum(parameter.numel() for parameter in built.parameters()) == counted


def test_options_that_version_0_1_0_left_out_keep_their_meaning() -> None:
    for name in ("sb_resnet29_cifar", "nonlocal_resnet56_cifar"):
        assert models.options_of_record(name, {"stages": "FFT"}) == {"stages": "FFT", "pooled_size": 10}
        assert models.options_to_record(name, {"stages": "FFT"}) == {"stages": "FFT", "pooled_size": 6}
        assert models.options_of_record(name, {"pooled_size": 4}) == {"pooled_size": 4}
        assert models.model_options(name)["pooled_size"].default == 6
    for name in ("sb_resnet50", "lsas_resnet29_cifar", "resnet18"):
        assert models.options_of_record(name, {"a": 1}) == models.options_to_record(name, {"a": 1}) == {"a": 1}
    assert models.model_options("sb_resnet50")["pooled_size"].default == 10


def test_a_linear_projection_has_a_weight_for_every_pair_of_values() -> None:
    bias = SpatialBias(8, bias_channels=2, key_size=3, pooled_size=2, mixing="linear").double().eval()
    x = torch.randn(1, 8, 4, 4, dtype=torch.double)
    reduced = torch.nn.functional.adaptive_avg_pool2d(bias.reduce(x), 2)[0]
    expected = torch.zeros(2, 2, 2, dtype=torch.double)
    for n, i, j in torch.cartesian_prod(torch.arange(2), torch.arange(2), torch.arange(2)).tolist():
        row = n * 4 + i * 2 + j
        expected[n, i, j] = bias.mix.bias[row]
        for c, p, q in torch.cartesian_prod(torch.arange(4), torch.arange(2), torch.arange(2)).tolist():
            expected[n, i, j] += bias.mix.weight[row, c * 4 + p * 2 + q] * reduced[c, p, q]
    torch.testing.assert_close(bias(x)[0], expected)
    weights = bias.position_weights()
    assert weights.shape == (4, 4)
    between = bias.mix.weight.view(2, 4, 4, 4)[:, 3, :, 1]  # from cell 1 to cell 3
    torch.testing.assert_close(weights[3, 1], between.square().sum().sqrt().detach())


@pytest.mark.parametrize(
    ("read_point", "join_point"),
    [("block_input", "conv2_input"), ("conv1_output", "conv3_input"), ("conv2_output", "conv3_input")],
)
def test_the_bias_reads_and_joins_where_it_is_told(read_point: str, join_point: str) -> None:
    """Compare channels: what the reduction reads, and which convolution takes the bias."""
    options = {"read_point": read_point, "join_point": join_point, "pooled_size": 2, "bias_channels": 5}
    network: Any = models.create_model("sb_resnet_cifar", depth=11, num_classes=2, **options)
    block = network.stages[1][0]
    widths = {"block_input": 64, "conv1_output": 32, "conv2_output": 32}
    assert block.spatial.bias.reduce.conv.in_channels == widths[read_point]
    added = {point: 5 if point == join_point else 0 for point in ("conv2_input", "conv2_output", "conv3_input")}
    assert block.spatial.conv.in_channels == 32 + added["conv2_input"]
    assert block.bn.num_features == 32 + added["conv2_output"]
    assert block.expand.conv.in_channels == 32 + added["conv2_output"] + added["conv3_input"]
    seen: list[Tensor] = []
    block.spatial.bias.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    network(torch.randn(1, 3, 8, 8))
    assert seen[0].shape[-1] == (4 if read_point == "conv2_output" else 8)  # conv2 has the stride of the block


def test_places_that_do_not_fit_name_the_remedy() -> None:
    given = {"read_point": "conv2_output", "join_point": "conv2_input"}
    for name in ("sb_resnet29_cifar", "nonlocal_resnet56_cifar", "sb_resnet50"):
        (problem,) = models.check_options(name, given)
        assert str(problem).startswith("join_point: got 'conv2_input'; a bias that reads the output of conv2")
        assert problem.remedy == "Use 'conv2_output'."
    with pytest.raises(models.ModelOptionError, match="join_point"):
        BiasPlan(stages=(True,), bias_channels=1, key_size=1, pooled_size=1, mixing="conv1d", **given)
    with pytest.raises(models.ModelOptionError, match="Use 'conv1d'"):
        SpatialBias(4, bias_channels=1, key_size=1, pooled_size=1, mixing="fft")
    (problem,) = models.check_options("sb_resnet29_cifar", {"join_point": "conv3_output"})
    assert problem.remedy == "Use 'conv2_output'."


@pytest.mark.parametrize("attention", ["se", "cbam", "eca"])
def test_attention_beside_the_bias_is_in_every_block_and_starts_as_timms(attention: str) -> None:
    torch.manual_seed(0)
    options = {"attention": attention, "attention_reduction": 8, "stages": "TFF", "pooled_size": 2}
    network = models.create_model("sb_resnet_cifar", depth=20, num_classes=2, **options)
    gates = [module for module in network.modules() if isinstance(module, ChannelGate)]
    assert len(gates) == 6
    assert all(gate.attention == attention for gate in gates)
    if attention != "eca":
        assert gates[0].host.fc1.weight.shape[:2] == (8, 64)
        bound = gates[0].host.fc1.weight.shape[1] ** -0.5
        assert gates[0].host.fc1.weight.abs().max() <= bound  # a convolution of torch, not He's rule of the trunk
    network(torch.randn(2, 3, 8, 8)).square().sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())


@pytest.mark.parametrize(
    "addition",
    [{"mixing": "linear"}, {"read_point": "block_input"}, {"join_point": "conv3_input"}, {"attention": "se"}],
)
def test_the_authors_code_has_none_of_the_additions(addition: dict[str, str]) -> None:
    network = models.create_model("sb_resnet29_cifar", num_classes=2, **addition)
    ((name, value),) = addition.items()
    with pytest.raises(models.AuthorsOptionError, match=f"their code has no {name} '{value}'"):
        models.load_authors_checkpoint(network, {"fc.weight": torch.zeros(2, 256)})


def test_a_checkpoint_of_the_authors_code_brings_its_grid() -> None:
    theirs = {"dataset": "cifar100", "depth": 29, "num_classes": 4, "bottleneck": True, "gc_group": (True,) * 3}
    built = models.from_authors("spatial_bias", theirs)
    ours = built.state_dict()
    table = family_of(built).entries(built)
    state = {key: entry.to_authors(ours[entry.ours]).clone() for key, entry in table.items()}
    loaded = models.load_authors_checkpoint("sb_resnet29_cifar", state).state_dict()
    assert loaded["stages.0.0.spatial.bias.mix.weight"].shape == (100, 100, 3)
    assert all(torch.equal(value, loaded[key]) for key, value in ours.items())


def test_exports_for_any_batch() -> None:
    options = {"read_point": "block_input", "join_point": "conv3_input", "mixing": "linear", "attention": "spa_grid"}
    network = models.create_model("sb_resnet_cifar", depth=11, num_classes=2, pooled_size=3, **options).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    images = torch.randn(3, 3, 16, 16)
    exported = torch.export.export(network, (images,), dynamic_shapes=({0: batch},)).module()
    with torch.no_grad():
        torch.testing.assert_close(exported(images[:1]), network(images[:1]), rtol=1e-4, atol=1e-4)
