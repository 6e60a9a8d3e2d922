"""LESA: attention against the formulas, switches, controls, declared size."""

from typing import Any

import pytest
import timm
import torch
from torch import nn

import models
from models.lesa.attention import LocallyEnhancedAttention
from models.lesa.binary_term import BinaryTerm
from models.registry.authors.loading import family_of
from tests.support.networks.lesa_oracle import plain_binary

SMALL = "lesa_resnet26_cifar"


def binary_term(position_embedding: str, map_size: tuple[int, int]) -> Any:
    term = BinaryTerm(16, map_size=map_size, groups=2, position_embedding=position_embedding)
    with torch.no_grad():
        for norm in (module for module in term.modules() if isinstance(module, nn.BatchNorm2d)):
            for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                tensor.add_(torch.rand_like(tensor))
    return term.double()


@pytest.mark.parametrize("position_embedding", ["classification", "detection", "none"])
@pytest.mark.parametrize("map_size", [(3, 5), (4, 4), (1, 1)])
@pytest.mark.parametrize("training", [True, False])
def test_binary_term_follows_the_formula(position_embedding: str, map_size: tuple[int, int], training: bool) -> None:
    fast = binary_term(position_embedding, map_size).train(training)
    plain = binary_term(position_embedding, map_size).train(training)
    plain.load_state_dict(fast.state_dict())
    x = torch.randn(3, 16, *map_size, dtype=torch.double, requires_grad=True)
    y, expected = fast(x), plain_binary(plain, x)
    torch.testing.assert_close(y, expected)
    probe = torch.randn_like(y)
    ours = torch.autograd.grad(y, [x, *fast.parameters()], probe)
    theirs = torch.autograd.grad(expected, [x, *plain.parameters()], probe)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)
    buffers = dict(plain.named_buffers())
    for name, buffer in fast.named_buffers():
        torch.testing.assert_close(buffer, buffers[name], rtol=1e-6, atol=1e-9)


def test_variances_hold_in_single_precision_where_queries_and_keys_are_biased() -> None:
    term = binary_term("classification", (4, 4))
    with torch.no_grad():
        term.qkv.bn.bias.fill_(5.0)
    x = torch.randn(3, 16, 4, 4)
    exact = term.train()(x.double())
    torch.testing.assert_close(term.float()(x).double(), exact, rtol=1e-4, atol=1e-4)


def layer(**switches: Any) -> Any:
    given = {"unary": "grouped", "fusion": "full", "fusion_shrinks": [2], **switches}
    built = LocallyEnhancedAttention(16, map_size=(4, 4), groups=2, position_embedding="detection", **given)
    return built.eval()


@pytest.mark.parametrize("unary", ["none", "1x1", "grouped", "dcn", "full"])
@pytest.mark.parametrize("fusion", ["none", "scalar", "full"])
def test_only_the_binary_term_is_gated(unary: str, fusion: str) -> None:
    attention = layer(unary=unary, fusion=fusion)
    x = torch.randn(2, 16, 4, 4)
    with torch.no_grad():
        binary, y = attention.binary(x), attention(x)
        if unary == "none":
            assert attention.fusion is None
            torch.testing.assert_close(y, binary)
            return
        local = attention.unary(x)
        gate = torch.ones(()) if fusion == "none" else attention.fusion(local, binary)
        torch.testing.assert_close(y, local + gate * binary)
    if fusion != "none":
        assert gate.shape[1] == (1 if fusion == "scalar" else 16)
        assert (gate > 0).all() and (gate < 1).all()


def test_unary_forms_differ_in_reach_and_cost() -> None:
    def count(form: str) -> int:
        return sum(parameter.numel() for parameter in layer(unary=form).unary.convs.parameters())

    offsets = 18 * 16 * 9 + 18
    forms = {"1x1": 256, "grouped": 9 * 128 + 256, "dcn": 9 * 128 + 256 + offsets, "full": 9 * 256}
    assert {form: count(form) for form in forms} == forms


@pytest.mark.parametrize("form", ["1x1", "grouped", "dcn", "full"])
def test_the_unary_term_alone(form: str) -> None:
    attention = layer(unary=form, binary=False)
    assert attention.binary is None and attention.fusion is None
    x = torch.randn(2, 16, 3, 5)  # without positions, any map
    torch.testing.assert_close(attention(x), attention.unary(x))
    with pytest.raises(models.ModelOptionError, match=r"unary: got 'none'; with binary: false .* Use 'grouped'"):
        layer(unary="none", binary=False)


@pytest.mark.parametrize("switches", [{"unary": "2x2"}, {"fusion": "sum"}])
def test_unknown_forms(switches: dict[str, str]) -> None:
    with pytest.raises(models.ModelOptionError, match="is one of 'none'"):
        layer(**switches)


def parameters(name: str, **options: Any) -> int:
    with torch.device("meta"):
        network = timm.create_model(name, **options)
    return sum(parameter.numel() for parameter in network.parameters())


def test_parameters_of_variants_and_controls() -> None:
    assert parameters("lesa_resnet50", position_embedding="detection") == 23_505_992
    assert parameters("lesa_wrn50", position_embedding="detection") == 60_602_984
    assert (
        parameters("lesa_resnet50", stages=[False] * 4) == parameters("sa_resnet50", stages=[False] * 4) == 25_557_032
    )
    assert parameters("lesa_resnet50", unary="none") == parameters("sa_resnet50") == 18_050_792
    millions = {
        "sum": parameters("lesa_resnet50", fusion="none"),
        "sa_wrn50": parameters("sa_wrn50"),
        "conv wrn50": parameters("lesa_wrn50", stages=[False] * 4),
    }
    published = {"sum": 20.424, "sa_wrn50": 38.273, "conv wrn50": 68.883}
    assert {name: count / 1e6 for name, count in millions.items()} == pytest.approx(published, abs=6e-4)


@pytest.mark.parametrize(
    ("options", "millions", "billions"),
    [
        ({}, 23.778, 6.178),
        ({"stages": "FFFF"}, 25.557, 6.209),
        ({"stages": "FFFF", "last_stride": 2}, 25.557, 4.089),
        ({"groups": 1}, 33.364, 7.679),
        ({"groups": 2}, 28.363, 6.915),
        ({"groups": 4}, 25.306, 6.423),
        ({"groups": 16}, 23.014, 6.055),
        ({"fusion_shrink": 1}, 27.125, 6.833),
        ({"fusion_shrink": 4}, 22.104, 5.850),
        ({"fusion_shrink": [2, 2]}, 23.780, 6.178),
        ({"stages": "FFFT"}, 24.251, 6.126),
        ({"stages": "FFTF"}, 25.083, 6.260),
        ({"stages": "FTTT"}, 23.841, 6.932),
    ],
    ids=str,
)
def test_cost_of_ablations_equals_that_of_the_authors_code(
    options: dict[str, Any], millions: float, billions: float
) -> None:
    cost = models.model_cost("lesa_resnet50", options, num_classes=1000, in_chans=3, image_size=224)
    assert (cost.params / 1e6, cost.macs / 1e9) == pytest.approx((millions, billions), abs=6e-4)


def test_cost_of_a_deformable_term() -> None:
    """Add to the grouped form in each layer 18 offsets from a 3x3 window, and their biases."""
    shape = {"num_classes": 10, "in_chans": 3, "image_size": 32}
    plain, moved = (models.model_cost(SMALL, {"unary": unary}, **shape) for unary in ("grouped", "dcn"))
    chs = (128, 256, 256)  # one block of the third stage and both of the last one, on maps of 8 px
    assert moved.params - plain.params == sum(18 * 9 * dim + 18 for dim in chs)
    assert moved.macs - plain.macs == sum(18 * 9 * dim * 8 * 8 for dim in chs)


@pytest.mark.parametrize("size", [16, (17, 24)])
def test_the_declared_size_reaches_the_attention(size: Any) -> None:
    network = models.create_model(SMALL, num_classes=2, image_size=size)
    height, width = size if isinstance(size, tuple) else (size, size)
    sizes = {module.map_size for module in network.modules() if isinstance(module, BinaryTerm)}
    assert sizes == {(-(-height // 4), -(-width // 4))}
    network(torch.randn(2, 3, height, width)).sum().backward()
    with pytest.raises(ValueError, match="img_size: got a map of"):
        network(torch.randn(2, 3, 40, 40))


def test_a_declared_size_that_is_not_that_of_the_images() -> None:
    (problem,) = models.check_options(SMALL, {"img_size": (32, 32)}, image_size=28)
    assert problem.option == "img_size" and "Leave it out" in problem.remedy
    assert models.check_options(SMALL, {"img_size": 28}, image_size=28) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"groups": 24},
            "groups: got 24; groups divides 64, from the 128 channels of the narrowest stage that has it. Use 16.",
        ),
        ({"groups": 64, "stages": [True, False, False, False]}, "Use 16."),
        ({"fusion_shrink": 48}, "Use 32."),
        ({"fusion_shrink": [3, 4]}, "fusion_shrink: got (3, 4); fusion_shrink divides 256"),
        ({"fusion_shrink": "48-16"}, "Use 32-8."),
        (
            {"fusion_shrink": "2-2", "fusion_kernel_sizes": [3]},
            "fusion_shrink is (2, 2), and with it fusion_kernel_sizes is one number or 2 of them. Use '1-1'.",
        ),
        ({"fusion_groups": "1-1-1"}, "fusion_groups is one number or 2 of them. Use '1-1'."),
        (
            {"fusion_groups": [1, 3]},
            "fusion_groups divides 128 and 128, the channels around convolution 2. Use 2 there.",
        ),
        ({"fusion": "scalar", "fusion_groups": 2}, "divides 128 and 1, the channels around convolution 2. Use 1 there"),
        ({"unary": "none", "binary": False}, "with binary: false the unary term is all that is left. Use 'grouped'."),
    ],
)
def test_groups_and_shrink_share_the_channels(options: dict[str, Any], message: str) -> None:
    (problem,) = models.check_options(SMALL, options)
    assert message in str(problem)
    assert models.check_options(SMALL, {**options, "stages": [False] * 4}) == []


def test_layers_of_the_gate() -> None:
    def convs(**options: Any) -> list[tuple[int, int, int, int]]:
        network = models.create_model(SMALL, num_classes=2, stages="FFFT", **options)
        fusion = network.stages[3][0].spatial.fusion
        layers = [module for module in fusion.modules() if isinstance(module, nn.Conv2d)]
        return [(conv.in_channels, conv.out_channels, conv.kernel_size[0], conv.groups) for conv in layers]

    assert convs() == [(512, 256, 1, 1), (256, 256, 1, 1)]
    assert convs(fusion_shrink="2-4", fusion_kernel_sizes=[3, 1], fusion_groups="2-4-8") == [
        (512, 256, 3, 2),
        (256, 64, 1, 4),
        (64, 256, 1, 8),
    ]
    assert convs(fusion_shrink=[4, 1], fusion_kernel_sizes=3, fusion_groups=2) == [
        (512, 128, 3, 2),
        (128, 128, 3, 2),
        (128, 256, 1, 2),
    ]


def test_last_stride_and_first_convolutions() -> None:
    def maps(**options: Any) -> list[list[tuple[int, int] | None]]:
        network = models.create_model(SMALL, num_classes=2, image_size=(16, 20), stages="TTTT", **options)
        assert network(torch.randn(1, 3, 16, 20).expand(2, -1, -1, -1)).shape == (2, 2)
        return [
            [None if not hasattr(block.spatial, "binary") else block.spatial.binary.map_size for block in stage]
            for stage in network.stages
        ]

    first, second, third = (16, 20), (8, 10), (4, 5)
    assert maps() == [[None, first], [None, second], [None, third], [third, third]]
    halved = maps(last_stride=2)
    assert halved == [[None, first], [None, second], [None, third], [None, (2, 3)]]
    kept = maps(keep_first_conv="FTFT")  # the third stage strides
    assert kept == [[first, first], [None, second], [None, third], [None, third]]
    with torch.device("meta"):
        network = timm.create_model("lesa_resnet50", last_stride=2)
    assert [stage["reduction"] for stage in network.feature_info] == [4, 8, 16, 32]


CONFIGURATION: dict[str, Any] = {
    "num_classes": 3,
    "strides": [1, 2, 2, 1],
    "wrn": False,
    "stage_spatial_res": [8, 4, 2, 2],
    "stage_with_first_conv": [True, True, True, False],
    "stage_with_lesa": [False, False, False, True],
}
LAYER: dict[str, Any] = {
    "type": "LESA",
    "with_cp_UB_terms_only": True,
    "pe_type": "detection_qr",
    "groups": 8,
    "df_channel_shrink": [2],
    "df_kernel_size": [1, 1],
    "df_group": [1, 1],
}


@pytest.mark.parametrize(
    ("options", "layer_options", "names"),
    [
        ({}, {}, ["layer4.0.conv2.rel_height", "layer4.0.conv2.x_transform.1.weight"]),
        (
            {"stage_with_first_conv": [True] * 4, "replace_stride_with_dilation": [False, False, True]},
            {"pe_type": "classification", "groups": 1, "df_channel_shrink": [2, 2], "df_kernel_size": [3, 1]},
            ["layer4.0.conv2.weight", "layer4.1.conv2.relative", "layer4.1.conv2.reasoning.4.weight"],
        ),
        ({"groups": 2, "width_per_group": 32}, {"df_group": [2, 4]}, ["layer4.2.conv2.projection.0.weight"]),
    ],
)
def test_authors_constructors(options: dict[str, Any], layer_options: dict[str, Any], names: list[str]) -> None:
    given = {**CONFIGURATION, "lesa": {**LAYER, **layer_options}, **options}
    network = models.from_authors("lesa", given).eval()
    table = family_of(network).entries(network)
    assert set(names) <= set(table)
    assert {entry.ours for entry in table.values()} == set(network.state_dict())
    with torch.no_grad():
        assert network(torch.randn(1, 3, 32, 32)).shape == (1, 3)


@pytest.mark.parametrize(
    ("options", "layer_options"),
    [
        ({"depth": 50}, {}),
        ({"strides": [1, 2, 2, 2]}, {}),
        ({"norm_layer": "GroupNorm"}, {}),
        ({}, {"pe_type": None}),
        ({}, {"heads": 8}),
        ({}, {"groups": 3}),
        ({}, {"df_kernel_size": [1, 3]}),
        ({}, {"df_channel_shrink": [2, 2, 2]}),
    ],
)
def test_constructors_that_make_no_network(options: dict[str, Any], layer_options: dict[str, Any]) -> None:
    with pytest.raises(models.AuthorsOptionError):
        models.from_authors("lesa", {**CONFIGURATION, "lesa": {**LAYER, **layer_options}, **options})
