"""Maps of the stages: chosen, normed, cut short, from a pruned network, and as a backbone that trains."""

import copy
from typing import Any

import pytest
import timm
import torch

import models
from tests.support.networks.registered import ONE_EACH, for_images, settled_network, smallest_images


@pytest.mark.parametrize("name", ONE_EACH)
def test_chosen_maps(name: str) -> None:
    images = smallest_images(name, batch=2)
    network = settled_network(name, images)
    last = len(network.stages) - 1
    with torch.no_grad():
        features, maps = network.forward_intermediates(images)
        torch.testing.assert_close(features, network.forward_features(images))
        for indices, expected in (
            (2, [last - 1, last]),
            ([-1], [last]),
            ([0, last], [0, last]),
            (None, range(last + 1)),
        ):
            chosen = network.forward_intermediates(images, indices=indices, intermediates_only=True)
            torch.testing.assert_close(chosen, [maps[index] for index in expected])
        early, chosen = network.forward_intermediates(images, indices=[1], stop_early=True)
        torch.testing.assert_close([early], chosen)
        torch.testing.assert_close(chosen, [maps[1]])
        normed = network.forward_intermediates(images, indices=[-1], norm=True, intermediates_only=True)
        torch.testing.assert_close(normed, [features])
    with pytest.raises(ValueError, match=r"output_fmt: got 'NLC'.*Use 'NCHW'"):
        network.forward_intermediates(images, output_fmt="NLC")


def test_the_last_map_is_normed_on_request() -> None:
    images = smallest_images("fcvit_micro_cifar", batch=2)
    network = settled_network("fcvit_micro_cifar", images)
    with torch.no_grad():
        features, (*_, raw) = network.forward_intermediates(images)
    torch.testing.assert_close(network.norm(raw), features)
    assert not torch.allclose(raw, features)


@pytest.mark.parametrize("name", ONE_EACH)
@pytest.mark.parametrize("prune_norm", [False, True])
def test_a_pruned_network_ends_in_the_chosen_map(name: str, prune_norm: bool) -> None:
    images = smallest_images(name, batch=2)
    network = settled_network(name, images)
    with torch.no_grad():
        maps = network.forward_intermediates(images, intermediates_only=True)
    for index, info in enumerate(network.feature_info):
        pruned = copy.deepcopy(network)
        taken = pruned.prune_intermediate_layers([index], prune_norm=prune_norm)
        with torch.no_grad():
            chosen = pruned.forward_intermediates(images, indices=taken, intermediates_only=True)
            torch.testing.assert_close(chosen, [maps[index]])
            whole = index == len(maps) - 1 and not prune_norm
            torch.testing.assert_close(pruned(images), network.forward_features(images) if whole else maps[index])
            pruned.reset_classifier(3, "avg")
            assert pruned(images).shape == (2, 3)
        assert pruned.num_features == pruned.head_hidden_size == info["num_chs"]


def test_a_network_that_keeps_its_head_is_the_same() -> None:
    images = smallest_images("fcvit_micro_cifar", batch=2)
    network = settled_network("fcvit_micro_cifar", images)
    expected = network(images)
    network.prune_intermediate_layers([0, 2], prune_head=False)
    torch.testing.assert_close(network(images), expected)


@pytest.mark.parametrize("name", ONE_EACH)
def test_every_parameter_of_a_backbone_gets_a_gradient(name: str) -> None:
    images = smallest_images(name, batch=2)
    stages = len(timm.create_model(name, device="meta").stages)
    for out_indices in ([0], [-2], list(range(stages))):
        backbone: Any = timm.create_model(name, features_only=True, out_indices=out_indices, **for_images(name, images))
        maps = backbone.train()(images)
        taken = [index % stages for index in out_indices]
        assert [info["index"] for info in backbone.feature_info.get_dicts(["index"])] == taken
        assert backbone.feature_info.channels() == [feature.shape[1] for feature in maps]
        (sum(feature.square().mean() for feature in maps) + models.penalty(backbone)).backward()
        assert [key for key, parameter in backbone.named_parameters() if parameter.grad is None] == []
