"""Segmentation networks by flat options: what is built, counted and refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from models import ModelOptionError
from models.segmentation import SemanticFPNHead, UPerHead, build_segmentor, segmentor_cost, segmentor_problems

NAME = "conv_resnet26_small"
SHAPE = {"num_classes": 3, "in_chans": 3, "image_size": 16}
NARROW = {"fpn_channels": 8, "head_channels": 8}


def test_options_reach_backbone_and_head() -> None:
    network = build_segmentor(NAME, {**NARROW, "head_dropout": 0.0, "frozen_stages": 1}, **SHAPE)
    assert isinstance(network.head, SemanticFPNHead)
    assert network.head.classify.weight.shape == (3, 8, 1, 1)
    assert network.head.dropout.p == 0
    assert network.auxiliary is None
    frozen = [name for name, each in network.named_parameters() if not each.requires_grad]
    assert frozen
    assert all(name.startswith("backbone.") for name in frozen)
    other = build_segmentor(NAME, {"head": "upernet", "head_channels": 8}, **SHAPE)
    assert isinstance(other.head, UPerHead)
    assert other.auxiliary is not None


def test_every_stage_is_trained_unless_an_option_freezes_it() -> None:
    with torch.device("meta"):
        network = build_segmentor("lesa_resnet26_cifar", NARROW, **SHAPE)
    assert all(each.requires_grad for each in network.parameters())
    assert all(each.training for each in network.train().modules() if isinstance(each, torch.nn.BatchNorm2d))


def test_the_cost_leaves_out_the_second_head() -> None:
    options = {"head": "upernet", "head_channels": 8}
    with torch.device("meta"):
        network = build_segmentor(NAME, options, **SHAPE)
    network.auxiliary = None
    cost = segmentor_cost(NAME, options, **SHAPE)
    assert cost.params == sum(each.numel() for each in network.parameters())
    wider = segmentor_cost(NAME, {**options, "head_channels": 16}, **SHAPE)
    assert wider.params > cost.params
    assert wider.macs > cost.macs > 0


@pytest.mark.parametrize("name", ["test_vit3", "lesa_resnet26_cifar"])
def test_a_network_built_for_one_size_gets_that_of_the_images(name: str) -> None:
    network = build_segmentor(name, NARROW, num_classes=3, in_chans=3, image_size=64).eval()
    assert network.only_px == 64
    with torch.no_grad():
        assert network(torch.rand(1, 3, 64, 64)).shape == (1, 3, 64, 64)
    assert build_segmentor(NAME, NARROW, **SHAPE).only_px is None


@pytest.mark.parametrize(
    ("name", "options", "option"),
    [
        (NAME, {"head": "fpn"}, "head"),
        (NAME, {"head_channels": 0}, "head_channels"),
        (NAME, {"head_dropout": 1.0}, "head_dropout"),
        (NAME, {"head": "upernet", "fpn_channels": 8}, "fpn_channels"),
        (NAME, {"fpn_chanels": 8}, "fpn_chanels"),
        (NAME, {"frozen_stages": 4}, "frozen_stages"),  # it returns three maps
        ("conv_resnet27_small", {}, "name"),
    ],
)
def test_options_that_do_not_fit_are_named(name: str, options: dict[str, Any], option: str) -> None:
    assert [fault.option for fault in segmentor_problems(name, options, **SHAPE)] == [option]
    with pytest.raises(ModelOptionError):
        build_segmentor(name, options, **SHAPE)
