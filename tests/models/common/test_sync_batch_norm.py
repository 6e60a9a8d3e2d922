"""Replacement of batch norms by name; tests/orchestrator/training/test_training_workers.py covers several ranks."""

import copy

import pytest
import torch
from torch import nn

import models
from models.common.sync_batch_norm import SyncBatchNorm2d

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "name",
    [
        "conv_resnet26_small",
        "lesa_resnet26_cifar",
        "senet_resnet29_cifar",
        "test_efficientnet",
    ],  # norms with activations
)
def test_a_network_keeps_its_names_and_its_results_in_a_single_process(name: str) -> None:
    torch.manual_seed(0)
    usual = models.create_model(name, num_classes=3, in_chans=3)
    network = models.synchronise_batch_norm(copy.deepcopy(usual), CPU)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert all(isinstance(norm, SyncBatchNorm2d) for norm in norms)
    assert list(network.state_dict()) == list(usual.state_dict())
    assert [key for key, _ in network.named_parameters()] == [key for key, _ in usual.named_parameters()]
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(network(images), usual(images))
    for key, value in usual.state_dict().items():
        assert torch.equal(network.state_dict()[key], value), key
    torch.testing.assert_close(network.eval()(images), usual.eval()(images), rtol=1e-4, atol=1e-5)


def test_other_batch_norms_are_refused() -> None:
    with pytest.raises(ValueError, match="a BatchNorm1d cannot be synchronised on a cpu"):
        models.synchronise_batch_norm(nn.Sequential(nn.BatchNorm1d(2)), CPU)
