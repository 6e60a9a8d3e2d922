"""Options are checked before a network is built, and every message names a remedy."""

import math

import pytest
import timm
import torch

import models
from models.registry.architectures import register_architecture

NAMES = models.list_models()


def wrong_values(option: models.ModelOption) -> list[object]:
    values: list[object] = [object(), math.nan, "nonsense", (), {}]
    if option.low is not None:
        values.append(option.low - 1)
    if option.high is not None:
        values.append(option.high + 1)
    if option.above is not None:
        values.append(option.above)
    if option.odd:
        values.append(4)
    if option.type in (int, float):
        values += [True, math.inf]
    if option.type is tuple:
        values += [[True] * (option.length + 1), [1] * option.length]
    return values


@pytest.mark.parametrize("name", NAMES)
def test_every_wrong_value_is_named_with_its_rule_and_a_remedy(name: str) -> None:
    for option in models.model_options(name).values():
        for value in wrong_values(option):
            with pytest.raises(models.ModelOptionError, match="Use") as caught:
                timm.create_model(name, **{option.name: value})
            (problem,) = caught.value.problems
            assert problem.option == option.name
            assert option.rule in problem.rule
            assert str(caught.value).startswith(f"{name}: {option.name}: got ")
            assert option.problem(option.nearest(value)) is None


@pytest.mark.parametrize("name", NAMES)
def test_defaults_are_allowed_and_described(name: str) -> None:
    options = models.model_options(name)
    assert models.check_options(name, {key: option.default for key, option in options.items()}) == []
    assert all(option.description.endswith(".") for option in options.values())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("adaptive_resnet26_small", {"max_span": 1, "ramp": 0.25, "num_heads": 1, "span_init": 0}),
        ("adaptive_resnet26_small", {"max_span": 32, "ramp": 32, "num_heads": 32, "span_init": 1}),
        ("adaptive_resnet26_small", {"stem": "7x7", "span_penalty": 0}),
        ("local_resnet26_small", {"kernel_size": 33, "num_heads": 2}),
        ("local_resnet26_small", {"kernel_size": 3, "stem": "7x7"}),
        ("conv_resnet26_small", {"stem": "7x7"}),
        ("augmented_resnet26_small", {"dk": 512, "dv": 31, "num_heads": 1, "relative": True}),
        ("augmented_resnet26_small", {"dk": 16, "dv": 16, "num_heads": 16, "stem": "7x7"}),
        (
            "fcvit_micro_cifar",
            {"kernel_size_1": 63, "kernel_size_2": 1, "stem_stride": 1, "num_heads": 32, "gc_reduction": 32},
        ),
        ("fcvit_micro_cifar", {"mixing_steps": 1, "fc_factor": 1, "num_heads": 1, "gc_reduction": 1}),
        ("fcvit_micro_cifar", {"spatial_attention": True, "channel_attention": True, "competition": False}),
        ("lesa_resnet26_cifar", {"groups": 64, "fusion_shrink": 64, "position_embedding": "detection"}),
        ("lesa_resnet26_cifar", {"groups": 1, "unary": "full", "fusion": "scalar", "fusion_shrink": 1}),
        ("lesa_resnet26_cifar", {"unary": "1x1", "fusion": "none", "stages": [True, True, True, True], "groups": 16}),
        ("lesa_resnet26_cifar", {"unary": "dcn", "fusion_shrink": "4-4-4-4", "fusion_groups": 1, "last_stride": 2}),
        ("lesa_resnet26_cifar", {"unary": "dcn", "binary": False, "groups": 64, "keep_first_conv": "FFFF"}),
        ("lesa_resnet26_cifar", {"fusion_kernel_sizes": 7, "fusion_groups": 64}),
        ("fcvit_micro_cifar", {"mixer": "attention", "num_heads": 32, "mlp_ratios": 1, "norm_layer": "layernorm2d"}),
        ("fcvit_micro_cifar", {"mixer": "pool", "mlp_ratios": "16-1-4", "act_layer": "hard_swish"}),
        ("fcvit_micro_cifar", {"mixer": "identity", "norm_layer": "none", "act_layer": "silu", "layer_scale": False}),
        ("fcvit_micro_cifar", {"candidates": 8, "gc_reduction": 32, "act_layer": "relu"}),
        ("sa_resnet26_cifar", {"last_stride": 2, "keep_first_conv": [False] * 4}),
        ("sa_resnet26_cifar", {"position_embedding": "none", "stages": [False, True, False, True]}),
        ("sb_resnet29_cifar", {"bias_channels": 64, "key_size": 16, "pooled_size": 1}),
        (
            "sb_resnet29_cifar",
            {"bias_channels": 1, "key_size": 1, "pooled_size": 12, "stages": [0 == 1, True, True]},
        ),
    ],
)
def test_the_corners_of_the_allowed_values_work(name: str, options: dict[str, object]) -> None:
    network = models.create_model(name, num_classes=2, in_chans=1, image_size=8, **options)
    loss = network(torch.randn(2, 1, 8, 8)).square().sum() + models.penalty(network)
    loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())


def test_unknown_option_names_the_nearest() -> None:
    with pytest.raises(models.ModelOptionError, match="Did you mean 'max_span'"):
        models.create_model("adaptive_resnet26_small", num_classes=2, max_spann=3)
    with pytest.raises(models.ModelOptionError, match="no option of this name"):
        timm.create_model("conv_resnet26_small", depths=(9, 9, 9))


def test_all_problems_are_reported_at_once() -> None:
    given = {"max_spn": 3, "ramp": -1.0, "drop_rate": 2.0}
    problems = models.check_options("adaptive_resnet26_small", given, num_classes=-1, in_chans=0)
    assert {problem.option for problem in problems} == {
        "max_spn",
        "ramp",
        "drop_rate",
        "num_classes",
        "in_chans",
    }


def test_heads_must_divide_the_channels() -> None:
    (problem,) = models.check_options("local_resnet26_large", {"num_heads": 3}, image_size=(32, 32))
    assert str(problem) == ("num_heads: got 3; num_heads divides the 32 channels of the narrowest stage. Use 2.")


def test_unknown_network_names_the_nearest() -> None:
    (problem,) = models.check_options("adaptive_resnet26_smal", {})
    assert "Did you mean 'adaptive_resnet26_small'" in problem.remedy
    for ask in (models.model_options, models.model_family):
        with pytest.raises(models.ModelOptionError, match="no network has this name"):
            ask("resnet1800")


def test_flags_may_be_written_as_letters() -> None:
    for name, letters in (("lesa_resnet26_cifar", "FFFT"), ("sb_resnet29_cifar", "FTF")):
        flags = [letter == "T" for letter in letters]
        from_letters, from_flags = (timm.create_model(name, stages=stages) for stages in (letters, flags))
        assert str(from_letters) == str(from_flags)
    for wrong in ("FFT", "0011", "ttff"):
        (problem,) = models.check_options("lesa_resnet26_cifar", {"stages": wrong})
        assert problem.rule.endswith("4 bools, one per stage, or as many letters such as 'TTTF'")


def test_searchable_options_include_dropout() -> None:
    for name in NAMES:
        searchable = models.searchable_options(name)
        assert {"drop_rate", "drop_path_rate"} <= searchable.keys()
        assert searchable.keys() - models.model_options(name).keys() == {"drop_rate", "drop_path_rate"}


def test_impossible_image_size() -> None:
    (problem,) = models.check_options("conv_resnet26_small", {}, image_size=0)
    assert problem.option == "image_size"


def test_a_name_that_timm_has_is_an_error() -> None:
    def resnet18(pretrained: bool = False) -> torch.nn.Module:
        raise AssertionError

    with pytest.raises(RuntimeError, match="already has a network named 'resnet18'"):
        register_architecture(family="spatial_bias")(resnet18)


def test_pretrained_weights_are_an_error() -> None:
    with pytest.raises(RuntimeError, match="No pretrained weights exist"):
        timm.create_model("conv_resnet26_small", pretrained=True)
