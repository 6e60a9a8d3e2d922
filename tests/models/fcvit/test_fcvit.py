"""FCViT: fast paths against the formulas, switches, the form for small images."""

from typing import Any

import pytest
import timm
import torch

import models
from models.common.depthwise import IS_MEASURED, DepthwiseConv
from models.fcvit.context import GlobalContext
from models.fcvit.network import FCViT
from tests.support.networks.fcvit_oracle import plain_context, plain_fcvit

SHAPE = {"depths": (1, 2), "embed_dims": (16, 32), "mlp_ratios": (2, 3), "stem_stride": 2, "stem_kernel_size": 3}


def randomised(module: torch.nn.Module) -> Any:
    """Return the module in double precision and far from its initial values, so that every parameter matters."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3 + (0.7 if parameter.ndim == 1 else 0.0))
    return module.double()


@pytest.mark.parametrize("similarity", [True, False])
@pytest.mark.parametrize("competition", [True, False])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_context_follows_the_formula(similarity: bool, competition: bool, memory_format: torch.memory_format) -> None:
    context = GlobalContext(16, num_heads=4, gc_reduction=4, similarity=similarity, competition=competition)
    randomised(context)
    x = torch.randn(2, 16, 3, 5, dtype=torch.double).contiguous(memory_format=memory_format).requires_grad_()
    fast, plain = context(x), plain_context(context, x)
    assert fast.is_contiguous(memory_format=memory_format)
    torch.testing.assert_close(fast, plain)
    probe, inputs = torch.randn_like(plain), [x, *context.parameters()]
    gradients = zip(torch.autograd.grad(fast, inputs, probe), torch.autograd.grad(plain, inputs, probe), strict=True)
    for ours, theirs in gradients:
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    "switches",
    [
        {},
        {"spatial_attention": True, "channel_attention": True},
        {"global_context": False, "fc_factor": 1, "mlp_depthwise": False},
        {"mixing_steps": 1, "similarity": False, "competition": False, "kernel_size_1": 5},
        {"candidates": 3, "norm_layer": "layernorm2d", "act_layer": "silu", "layer_scale": False},
        {"competition": False, "norm_layer": "batchnorm2d", "act_layer": "relu", "channel_attention": True},
        {"mixer": "pool", "norm_layer": "none", "act_layer": "hard_swish", "mlp_ratios": 2.5},
        {"mixer": "attention", "num_heads": 4, "mlp_ratios": (1, 4)},
        {"mixer": "identity", "layer_scale_init": None},
        {"num_heads": 2, "gc_reduction": 4, "kernel_size_2": 3, "mlp_kernel_size": 5, "img_size": (12, 20)},
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_network_follows_the_formulas(switches: dict[str, Any], training: bool) -> None:
    network = randomised(FCViT(**{**SHAPE, **switches}, num_classes=3)).train(training)
    x = torch.randn(2, 3, 12, 20, dtype=torch.double, requires_grad=True)
    fast, plain = network(x), plain_fcvit(network, x)
    torch.testing.assert_close(fast, plain)
    probe, inputs = torch.randn_like(plain), [x, *network.parameters()]
    gradients = zip(torch.autograd.grad(fast, inputs, probe), torch.autograd.grad(plain, inputs, probe), strict=True)
    for ours, theirs in gradients:
        torch.testing.assert_close(ours, theirs)


def test_dropout_of_the_channel_mixers_is_honoured() -> None:
    network = randomised(FCViT(**SHAPE, num_classes=3, proj_drop_rate=0.5)).train()
    x = torch.randn(2, 3, 12, 12, dtype=torch.double)
    assert not torch.equal(network(x), network(x))
    network.eval()
    torch.testing.assert_close(network(x), plain_fcvit(network, x))


@pytest.mark.parametrize("num_heads", [1, 8])
def test_a_map_of_one_position_and_an_empty_image(num_heads: int) -> None:
    network = models.create_model("fcvit_micro_cifar", num_classes=2, num_heads=num_heads, image_size=8).train()
    network(torch.zeros(2, 3, 8, 8)).sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("kernel_size", "size"), [(5, (6, 9)), (11, (3, 4)), (7, (1, 1))])
def test_gradients_of_large_windows(
    kernel_size: int, size: tuple[int, int], memory_format: torch.memory_format
) -> None:
    """Compare the path of single precision with PyTorch's own in double, on more images than one chunk."""
    conv = DepthwiseConv(24, kernel_size)
    x = torch.randn(11, 24, *size).contiguous(memory_format=memory_format).requires_grad_()
    assert conv.has_own_gradient(x) == IS_MEASURED
    y, probe = conv(x), torch.randn(11, 24, *size)
    ours = [y, *torch.autograd.grad(y, [x, *conv.parameters()], probe)]
    conv.double()
    wide = x.detach().double().requires_grad_()
    assert not conv.has_own_gradient(wide)
    y = conv(wide)
    theirs = [y, *torch.autograd.grad(y, [wide, *conv.parameters()], probe.double())]
    for found, expected in zip(ours, theirs, strict=True):
        atol = 1e-5 * float(expected.detach().abs().max())
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=atol)


def windows(network: Any) -> list[set[int]]:
    return [
        {module.kernel_size[0] for name, module in stage.named_modules() if "steps" in name and "depthwise" in name}
        for stage in network.stages
    ]


def test_windows_of_the_small_form_fit_its_maps() -> None:
    assert windows(models.create_model("fcvit_micro_cifar", num_classes=2)) == [{7}, {7}, {3}]
    small = models.create_model("fcvit_micro_cifar", num_classes=2, image_size=(28, 40), kernel_size_1=11)
    assert windows(small) == [{11, 7}, {7}, {3}]
    fine = timm.create_model("fcvit_micro_cifar", img_size=28, stem_stride=1, kernel_size_1=31)
    assert windows(fine) == [{27, 7}, {13, 7}, {7}]


def test_maps_are_in_the_order_in_which_the_convolutions_are_fast() -> None:
    network = models.create_model("fcvit_micro_cifar", num_classes=2, in_chans=1)
    maps = network.forward_intermediates(torch.randn(2, 1, 32, 32), intermediates_only=True)
    assert all(feature.is_contiguous(memory_format=torch.channels_last) for feature in maps)


def test_scales_are_free_of_weight_decay() -> None:
    network = models.create_model("fcvit_micro_cifar", num_classes=2, layer_scale_init=0.5)
    names = network.no_weight_decay()
    assert len(names) == 2 * 6
    assert all(float(dict(network.named_parameters())[name][0].detach()) == 0.5 for name in names)


@pytest.mark.parametrize(
    ("switches", "millions", "billions"),
    [
        ({}, 14.702, 2.645),
        ({"global_context": False}, 13.808, 2.643),
        ({"similarity": False}, 14.701, 2.643),
        ({"competition": False}, 14.406, 2.645),
        ({"mixing_steps": 1}, 13.548, 2.464),
        ({"kernel_size_1": 3, "kernel_size_2": 3}, 13.956, 2.415),
        ({"kernel_size_1": 5, "kernel_size_2": 7}, 14.143, 2.473),
        ({"kernel_size_1": 7, "kernel_size_2": 7}, 14.223, 2.497),
        ({"kernel_size_1": 9, "kernel_size_2": 9}, 14.436, 2.563),
        ({"kernel_size_1": 13, "kernel_size_2": 13}, 15.021, 2.744),
        ({"gc_reduction": 4}, 15.588, 2.646),
        ({"gc_reduction": 16}, 14.259, 2.645),
        ({"fc_factor": 1}, 16.466, 2.929),
        ({"fc_factor": 4}, 15.288, 2.731),
        ({"fc_factor": 16}, 14.417, 2.609),
        ({"spatial_attention": True}, 15.034, 2.704),
        ({"channel_attention": True}, 14.702, 2.645),
        ({"mlp_depthwise": False}, 14.553, 2.587),
    ],
    ids=str,
)
def test_cost_of_switches_equals_that_of_the_authors_code(
    switches: dict[str, Any], millions: float, billions: float
) -> None:
    cost = models.model_cost("fcvit_b12", switches, num_classes=1000, in_chans=3, image_size=224)
    assert (cost.params / 1e6, cost.macs / 1e9) == pytest.approx((millions, billions), abs=6e-4)


def test_cost_of_further_switches() -> None:
    """Count by hand what ratios, candidates and mixers add to one block of 16 channels and one of 32."""

    def params(**switches: Any) -> int:
        shape = {**SHAPE, "depths": (1, 1), "mlp_ratios": (2, 3), **switches}
        return sum(parameter.numel() for parameter in FCViT(**shape).parameters())

    per_hidden = 1 + 9 + 1  # biases of the first 1x1 and of the 3x3, and its window
    more = 16 * (2 * 16 + per_hidden) + 32 * (2 * 32 + per_hidden)
    assert params(mlp_ratios=(3, 4)) - params() == more
    assert params(mlp_ratios=3) - params() == 16 * (2 * 16 + per_hidden)
    # two steps in each block; each candidate is a linear layer to an eighth of the channels
    assert params(candidates=4) - params() == 2 * 2 * (16 // 8 * 17 + 32 // 8 * 33)
    assert params(mixer="pool") == params(mixer="identity")
    assert params(mixer="attention") - params(mixer="pool") == 4 * (16**2 + 16 + 32**2 + 32)
    assert params() - params(norm_layer="none") == 2 * (2 * 16 + 2 * 32 + 32)
    assert params() - params(layer_scale=False) == 2 * (16 + 32)
    assert params(act_layer="relu") == params(norm_layer="batchnorm2d") == params(norm_layer="layernorm2d") == params()


@pytest.mark.parametrize("switches", [{"mixer": "conv"}, {"norm_layer": "groupnorm"}, {"act_layer": "gelu_"}], ids=str)
def test_unknown_layers(switches: dict[str, str]) -> None:
    ((option, given),) = switches.items()
    with pytest.raises(models.ModelOptionError, match=f"{option}: got '{given}'; {option} is one of '"):
        FCViT(**SHAPE, **switches)
    (problem,) = models.check_options("fcvit_tiny", switches)
    assert problem.option == option


@pytest.mark.parametrize("option", ["num_heads", "gc_reduction"])
def test_heads_and_reduction_divide_the_channels(option: str) -> None:
    (problem,) = models.check_options("fcvit_tiny", {option: 48})
    assert str(problem) == (
        f"{option}: got 48; {option} divides the channels of every stage, 32, 64, 160, 320. Use 32."
    )
    with pytest.raises(models.ModelOptionError, match=option):
        FCViT(**SHAPE, **{option: 7})
    for without in ({"global_context": False}, {"mixer": "pool"}):
        assert models.check_options("fcvit_tiny", {option: 48, **without}) == []
    attends = models.check_options("fcvit_tiny", {option: 48, "mixer": "attention"})
    assert [problem.option for problem in attends] == (["num_heads"] if option == "num_heads" else [])


def test_ratios_of_the_channel_mixers() -> None:
    for given, expected in ((None, (4, 4, 4)), ("8-8-4", (8, 8, 4)), ([1, 2, 3], (1, 2, 3)), (2, (2, 2, 2))):
        with torch.device("meta"):
            options = {} if given is None else {"mlp_ratios": given}
            network = timm.create_model("fcvit_micro_cifar", **options)
        hidden = [stage[-1].channel_mixer.expand.out_channels for stage in network.stages]
        assert hidden == [ratio * dim for ratio, dim in zip(expected, (32, 64, 128), strict=True)]


def test_the_declared_size_is_that_of_the_images() -> None:
    (problem,) = models.check_options("fcvit_micro_cifar", {"img_size": 32}, image_size=(28, 28))
    assert (problem.option, problem.rule) == ("img_size", "the images are 28 x 28 px")


AUTHORS_SHAPE = {
    "layers": [1, 1, 2],
    "embed_dims": [16, 16, 32],
    "mlp_ratios": [2, 2.5, 4],
    "downsamples": [False, True],
}


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (
            {"factory": "fcvit_tiny", "drop_rate": 0.1, "drop_path_rate": 0.2},
            ["network.6.1.token_mixer.gc2.fc1.weight"],
        ),
        (
            {"factory": "fcvit_b12", "params": {"global_context": {"compete": False}}},
            ["network.0.0.token_mixer.gc1.fc.2.bias", "network.5.norm.running_var"],
        ),
        (
            {**AUTHORS_SHAPE, "use_layer_scale": False},
            [
                "network.0.0.token_mixer.spatial_att.spatial_att.3.weight",
                "network.1.0.channel_mixer.channel_att.channelConv2.bias",
                "network.2.proj.weight",
                "network.3.1.token_mixer.dw1.weight",
            ],
        ),
        (
            {**AUTHORS_SHAPE, "factory": "BaseFormer", "params": {"spatial_mixer": {"fc_factor": 1}}},
            ["network.3.1.token_mixer.fc2.weight", "network.3.1.layer_scale_2"],
        ),
    ],
)
def test_authors_constructors(options: dict[str, Any], names: list[str]) -> None:
    from models.registry.authors.loading import family_of

    network = models.from_authors("fcvit", {"num_classes": 4, **options}).eval()
    table = family_of(network).entries(network)
    assert set(names) <= set(table)
    assert {entry.ours for entry in table.values()} == set(network.state_dict())
    with torch.no_grad():
        assert network(torch.randn(1, 3, 32, 32)).shape == (1, 4)


@pytest.mark.parametrize(
    "options",
    [
        {"factory": "fcvit_c1"},
        {"factory": "fcvit_tiny", "layers": [1, 1]},
        {"factory": "fcvit_tiny", "params": {"global_context": {"heads": 3}}},
        {"factory": "fcvit_tiny", "params": {"global_context": {"head": 3}}},
        {"factory": "fcvit_tiny", "fork_feat": True},
        {"factory": "fcvit_tiny", "act_layer": "Tanhshrinkage"},
        {"layers": [1, 1]},
    ],
)
def test_constructors_that_make_no_network(options: dict[str, Any]) -> None:
    with pytest.raises(models.AuthorsOptionError):
        models.from_authors("fcvit", options)
