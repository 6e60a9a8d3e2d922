"""timm's contract of a network: creation, description, heads, parameter groups, graphs."""

import math
from typing import Any

import pytest
import timm
import torch
from timm.models import FeatureGraphNet, group_parameters
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn

import models
from tests.support.networks.registered import LARGE_IMAGES, NAMES, ONE_EACH, settled_network, smallest_images


@pytest.mark.parametrize("name", [*ONE_EACH, *LARGE_IMAGES])
def test_shapes_are_those_of_the_description(name: str) -> None:
    """Compare size and width of every map on shapes alone, with and without pooling and classifier."""
    network: Any = timm.create_model(name, device="meta", dtype=torch.bfloat16).eval()
    cfg = network.default_cfg
    images = torch.empty(2, *cfg["input_size"], device="meta", dtype=torch.bfloat16)
    assert network.in_chans == cfg["input_size"][0]
    last, maps = network.forward_intermediates(images)
    assert last.shape == (2, network.num_features, *cfg["pool_size"])
    for feature, info in zip(maps, network.feature_info, strict=True):
        sides = [math.ceil(side / info["reduction"]) for side in cfg["input_size"][1:]]
        assert feature.shape == (2, info["num_chs"], *sides)
        assert isinstance(network.get_submodule(info["module"]), nn.Sequential)
    assert network.forward_head(last).shape == (2, cfg["num_classes"])
    assert network.forward_head(last, pre_logits=True).shape == (2, network.head_hidden_size)
    network.reset_classifier(0, "")
    assert network.forward_head(last).shape == last.shape
    assert {tensor.device.type for tensor in network.state_dict().values()} == {"meta"}
    assert {parameter.dtype for parameter in network.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("name", NAMES)
def test_images_are_prepared_as_described(name: str) -> None:
    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    small = name.endswith("cifar") or models.model_family(name) == "adaptive_span"
    bilinear = not small and name.startswith(("lesa_", "sa_", "lsas_", "senet_"))  # torchvision's transforms
    assert config["interpolation"] == ("bilinear" if bilinear else "bicubic")
    assert config["input_size"] == ((3, 32, 32) if small else (3, 224, 224))
    assert (config["crop_pct"] == 1.0) == small
    mean, std = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
    if models.model_family(name) == "lsas":
        mean, std = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
    assert config["mean"] == (mean if small else timm.data.IMAGENET_DEFAULT_MEAN)
    assert config["std"] == (std if small else timm.data.IMAGENET_DEFAULT_STD)


@pytest.mark.parametrize("name", ONE_EACH)
def test_an_unknown_keyword_is_a_type_error(name: str) -> None:
    with pytest.raises(TypeError, match="no option of this name") as caught:
        timm.create_model(name, not_an_option=1)
    assert isinstance(caught.value, models.ModelOptionError)


@pytest.mark.parametrize("name", ONE_EACH)
def test_every_pooling_ahead_of_the_classifier(name: str) -> None:
    images = smallest_images(name, batch=2)
    network = settled_network(name, images)
    with torch.no_grad():
        features = network.forward_features(images)
        average, maximum = features.mean((2, 3)), features.amax((2, 3))
        pooled = {
            "max": maximum,
            "avgmax": (average + maximum) / 2,
            "catavgmax": torch.cat([average, maximum], dim=1),
            "avg": average,
            "": features,
        }
        for global_pool, expected in pooled.items():
            network.reset_classifier(0, global_pool)
            torch.testing.assert_close(network.forward_head(features), expected)
            if global_pool:
                network.reset_classifier(4)
                assert network.get_classifier().in_features == network.head_hidden_size == expected.shape[1]
                torch.testing.assert_close(network.forward_head(features, pre_logits=True), expected)
                assert settled_network(name, images, global_pool=global_pool)(images).shape == (2, 5)


@pytest.mark.parametrize("name", ["conv_resnet26_small", "fcvit_micro_cifar"])
def test_a_new_classifier_keeps_device_and_type(name: str) -> None:
    network = models.create_model(name, num_classes=5).to("meta", torch.float64).eval()
    network.reset_classifier(0)
    assert isinstance(network.get_classifier(), nn.Identity)
    network.reset_classifier(3)
    weight = network.get_classifier().weight
    assert (weight.device.type, weight.dtype) == ("meta", torch.float64)
    assert not any(module.training for module in network.modules())


def test_dropout_stands_ahead_of_the_classifier() -> None:
    images = smallest_images("fcvit_micro_cifar", batch=2)
    network, plain = (settled_network("fcvit_micro_cifar", images, drop_rate=rate) for rate in (0.5, 0.0))
    torch.testing.assert_close(network(images), plain(images))
    features = network.forward_features(images)
    network.head.train()
    kept = network.forward_head(features, pre_logits=True) / features.mean((2, 3))
    assert sorted(kept.detach().round().unique().tolist()) == [0.0, 2.0]


def layer_of(key: str) -> tuple[int, ...]:
    """Return the depth at which a parameter is used."""
    if key.startswith("stages"):
        return (1, *map(int, key.split(".")[1:3]))
    return {"stem": (0,), "norm": (2,), "head": (3,)}[key.partition(".")[0]]


@pytest.mark.parametrize("name", ONE_EACH)
def test_groups_follow_the_depth_and_rates_decay_towards_the_stem(name: str) -> None:
    network = timm.create_model(name, device="meta")
    parameters = dict(network.named_parameters())
    for coarse in (True, False):
        by_parameter = group_parameters(network, network.group_matcher(coarse=coarse), reverse=True)
        ordered = sorted(parameters, key=layer_of)
        assert [by_parameter[key] for key in ordered] == sorted(by_parameter.values())
        blocks = {layer_of(key)[: 2 if coarse else 3] for key in ordered if key.startswith("stages")}
        assert len(set(by_parameter.values())) == len(blocks) + 2

    exempt = network.no_weight_decay()
    groups = param_groups_layer_decay(network, weight_decay=0.1, no_weight_decay_list=exempt, layer_decay=0.5)
    assert sum(len(group["params"]) for group in groups) == len(parameters)
    of = {id(parameter): group for group in groups for parameter in group["params"]}
    scales = [of[id(parameters[key])]["lr_scale"] for key in sorted(parameters, key=layer_of)]
    assert scales == sorted(scales)
    assert scales[-1] == 1.0 and scales[0] < 0.5
    assert all(of[id(parameters[key])]["weight_decay"] == 0.0 for key in exempt)


@pytest.mark.parametrize(
    ("name", "options", "exempt"),
    [
        ("adaptive_resnet26_small", {}, {"span"}),
        ("fcvit_micro_cifar", {}, {"layer_scale_1", "layer_scale_2"}),
        ("lsas_resnet29_cifar", {}, {"scale", "shift"}),
        ("lsas_resnet29_cifar", {"attention": "srm", "order": 0}, {"style_weight"}),
        ("senet_resnet29_cifar", {}, set()),
        ("sb_resnet29_cifar", {}, set()),
    ],
)
def test_parameters_without_weight_decay(name: str, options: dict[str, Any], exempt: set[str]) -> None:
    network = timm.create_model(name, device="meta", **options)
    names = {key for key, _ in network.named_parameters() if key.rpartition(".")[2] in exempt}
    assert network.no_weight_decay() == names
    assert bool(names) == bool(exempt)


@pytest.mark.parametrize("name", ONE_EACH)
def test_checkpointing_leaves_gradients_as_they_are(name: str) -> None:
    images = smallest_images(name, batch=2)

    def gradients(checkpointing: bool) -> dict[str, Tensor]:
        network = settled_network(name, images).double().train()
        network.set_grad_checkpointing(checkpointing)
        maps = network.forward_intermediates(images.double(), intermediates_only=True)
        (sum(feature.square().mean() for feature in maps) + network(images.double()).square().sum()).backward()
        return {key: parameter.grad for key, parameter in network.named_parameters()}

    plain, checkpointed = gradients(False), gradients(True)
    for key in plain:
        torch.testing.assert_close(checkpointed[key], plain[key], rtol=1e-9, atol=1e-12, msg=key)


@pytest.mark.parametrize("name", ONE_EACH)
def test_traced_features_are_the_features(name: str) -> None:
    images = smallest_images(name, batch=2)
    network = settled_network(name, images)
    traced = FeatureGraphNet(network, out_indices=tuple(range(len(network.stages))))
    with torch.no_grad():
        expected = network.forward_intermediates(images, intermediates_only=True)
        for ours, theirs in zip(traced(images), expected, strict=True):
            # a traced network runs convolutions and norms one by one, where ours merges them
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("global_pool", ["", "avg"])
def test_a_headless_network_from_the_start(global_pool: str) -> None:
    network = models.create_model("conv_resnet26_small", num_classes=0, global_pool=global_pool)
    assert isinstance(network.get_classifier(), nn.Identity)
    assert network(torch.zeros(2, 3, 16, 16)).shape == ((2, 512, 2, 2) if global_pool == "" else (2, 512))
