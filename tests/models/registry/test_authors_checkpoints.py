"""Checkpoints and constructor arguments of the authors' scripts."""

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import models
from models.registry.authors.loading import family_of


def authors_state(network: nn.Module) -> dict[str, Tensor]:
    """Return the state of a network as its authors would have saved it."""
    ours = network.state_dict()
    return {
        key: entry.to_authors(ours[entry.ours]).clone() for key, entry in family_of(network).entries(network).items()
    }


def assert_equal_networks(a: nn.Module, b: nn.Module) -> None:
    ours = b.state_dict()
    assert all(torch.equal(value, ours[key]) for key, value in a.state_dict().items())


@pytest.mark.parametrize(
    "name", ["adaptive_resnet26_medium", "augmented_resnet26_small", "local_resnet26_small", "sb_resnet29_cifar"]
)
def test_every_form_of_file(name: str, tmp_path: Path) -> None:
    network = models.create_model(name, num_classes=6, in_chans=2)
    state = authors_state(network)
    behind_ddp = {f"module.{key}": value for key, value in state.items()}
    other = {key: torch.zeros_like(value) for key, value in state.items()}
    forms: list[dict[str, Any]] = [
        state,
        behind_ddp,
        {"state_dict": behind_ddp, "epoch": 3, "args": argparse.Namespace(lr=0.1), "best_acc": 0.5},
        {"state_dict": other, "state_dict_ema": state, "optimizer": {"state": {}}},
    ]
    for form in forms:
        path = tmp_path / "checkpoint.pth"
        torch.save(form, path)
        for source in (form, path, str(path)):
            loaded = models.load_authors_checkpoint(name, source)
            assert_equal_networks(loaded, network)


def test_loads_into_a_given_network_and_keeps_its_type() -> None:
    network = models.create_model("sb_resnet29_cifar", num_classes=4)
    target = models.create_model("sb_resnet29_cifar", num_classes=4).double().eval()
    assert models.load_authors_checkpoint(target, authors_state(network)) is target
    assert not target.training
    assert_equal_networks(target.float(), network)


def test_mismatches_are_all_listed_and_nothing_is_changed() -> None:
    network = models.create_model("adaptive_resnet26_small", num_classes=4)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    state = {key: value + 1 for key, value in authors_state(network).items()}
    del state["layers.1.0.conv2.0.key_conv.weight"]
    state["layers.9.extra"] = torch.zeros(1)
    state["dense.weight"] = torch.zeros(5, 512)
    state["layers.0.0.conv2.0.adaptive_mask.current_val"] = torch.zeros(4)
    with pytest.raises(models.AuthorsCheckpointError) as caught:
        models.load_authors_checkpoint(network, state)
    assert caught.value.missing == ("layers.1.0.conv2.0.key_conv.weight",)
    assert caught.value.unexpected == ("layers.9.extra",)
    assert caught.value.wrong_shape == (
        ("layers.0.0.conv2.0.adaptive_mask.current_val", (4, 1), (4,)),
        ("dense.weight", (4, 512), (5, 512)),
    )
    message = str(caught.value)
    assert "missing: layers.1.0.conv2.0.key_conv.weight" in message
    assert "wrong shape: dense.weight: needs (4, 512), got (5, 512)" in message
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in before.items())


def test_spans_are_dropped_only_where_they_have_no_effect() -> None:
    local = models.create_model("local_resnet26_small", num_classes=4)
    mask = {
        "layers.0.0.conv2.0.adaptive_mask.current_val": torch.zeros(4, 1),
        "layers.0.0.conv2.0.adaptive_mask.mask_template": torch.zeros(5),
    }
    models.load_authors_checkpoint(local, {**authors_state(local), **mask})
    conv = models.create_model("conv_resnet26_small", num_classes=4)
    with pytest.raises(models.AuthorsCheckpointError) as caught:
        models.load_authors_checkpoint(conv, {**authors_state(conv), **mask})
    assert set(caught.value.unexpected) == set(mask)


@pytest.mark.parametrize("content", [{"epoch": 3}, {}, [1, 2]])
def test_a_file_without_weights(content: object) -> None:
    with pytest.raises(models.AuthorsCheckpointError):
        models.load_authors_checkpoint("sb_resnet29_cifar", content)  # type: ignore[arg-type]


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "evil.pth"
    torch.save({"state_dict": {}, "hook": Path.cwd}, path)
    with pytest.raises(models.AuthorsCheckpointError, match=r"evil.pth: holds an object of getattr, which"):
        models.load_authors_checkpoint("sb_resnet29_cifar", path)


def test_a_network_of_no_family() -> None:
    with pytest.raises(models.AuthorsCheckpointError, match="none of the families"):
        models.load_authors_checkpoint(nn.Linear(2, 2), {"weight": torch.zeros(2, 2)})


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"smallest_version": True}, "conv_resnet26_small"),
        (
            {"small_version": True, "all_attention": True, "attention_kernel": 7, "groups": 8},
            "local_resnet26_medium",
        ),
        (
            {"all_attention": True, "adaptive_span": True, "groups": 4, "R": 3, "z_init": 0.5},
            "adaptive_resnet26_large",
        ),
        ({"smallest_version": True, "dataset": "TinyImageNet"}, "conv_resnet26_small"),
        ({"attention_conv": True, "small_version": True, "groups": 4}, "augmented_resnet26_medium"),
        ({"attention_conv": True, "smallest_version": True, "groups": 2, "dk": 8, "dv": 2}, "augmented_resnet26_small"),
        ({"num_blocks": [2, 3, 5, 2]}, "conv_resnet38"),
        ({"num_blocks": [3, 4, 6, 3], "attention_conv": True, "groups": 4}, "augmented_resnet50"),
    ],
)
def test_adaptive_span_constructors(options: dict[str, Any], name: str) -> None:
    built = models.from_authors("adaptive_span", {"num_classes": 10, **options})
    ours = {
        "kernel_size": options.get("attention_kernel"),
        "num_heads": options.get("groups"),
        "ramp": options.get("R"),
        "span_init": options.get("z_init"),
        "stem": "7x7" if "dataset" in options else None,
        "dk": options.get("dk"),
        "dv": options.get("dv"),
    }
    given = {key: value for key, value in ours.items() if value is not None}
    named = models.create_model(name, num_classes=10, **given)
    models.load_authors_checkpoint(built, authors_state(named))
    images = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(built.eval()(images), named.eval()(images))


def test_augmented_layers_are_named_and_laid_out_as_in_the_authors_code() -> None:
    options = {"attention_conv": True, "all_attention": True, "attention_kernel": 5, "groups": 2, "dv": 8}
    network = models.from_authors("adaptive_span", {"smallest_version": True, **options})
    state = authors_state(network)
    assert state["layers.2.0.conv2.0.conv_out.weight"].shape == (120, 128, 5, 5)
    assert state["layers.2.0.conv2.0.qkv_conv.weight"].shape == (88, 128, 5, 5)
    assert state["layers.2.0.conv2.0.attn_out.bias"].shape == (8,)
    assert network.stages[0][0].spatial.pixels_before_channels


@pytest.mark.parametrize(
    ("options", "name", "stages"),
    [
        ({"dataset": "cifar10", "depth": 29, "gc_group": [False, True, False, True]}, "sb_resnet29_cifar", 3),
        ({"dataset": "imagenet", "depth": 50, "gc_group": [True, False, False, True]}, "sb_resnet50", 4),
    ],
)
def test_spatial_bias_constructors(options: dict[str, Any], name: str, stages: int) -> None:
    built = models.from_authors("spatial_bias", {"num_classes": 10, "bottleneck": True, **options})
    named = models.create_model(name, num_classes=10, stages=options["gc_group"][:stages], pooled_size=10)
    models.load_authors_checkpoint(built, authors_state(named))
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(built.eval()(images), named.eval()(images))


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("vision", {}),
        ("adaptive_span", {"heads": 4}),
        ("adaptive_span", {"attention_conv": True, "groups": 3}),
        ("adaptive_span", {"attention_conv": True, "dv": 32}),
        ("adaptive_span", {"num_blocks": [2, 3, 5]}),
        ("adaptive_span", {"num_blocks": 38}),
        ("spatial_bias", {"dataset": "cifar10", "depth": 29}),
        ("spatial_bias", {"dataset": "cifar10", "depth": 29, "num_classes": 10}),
        ("spatial_bias", {"dataset": "imagenet", "depth": 18, "num_classes": 10}),
    ],
)
def test_constructors_that_make_no_network(family: str, options: dict[str, Any]) -> None:
    with pytest.raises(models.AuthorsOptionError):
        models.from_authors(family, options)
