"""Constructor arguments and checkpoints of the authors of LSAS."""

from typing import Any

import pytest
import torch

import models
from models.lsas.network import LsasResNet
from models.registry.authors.loading import family_of

AUTHORS = [
    ({"factory": "senet", "depth": 29, "block_name": "BOTTLENECK", "info": "s9"}, "senet_resnet29_cifar", {}),
    (
        {"factory": "lsas_senet", "depth": 29, "block_name": "bottleneck", "info": "s0"},
        "lsas_resnet29_cifar",
        {"order": 0},
    ),
    ({"factory": "lsas_senet", "depth": 29, "block_name": "Bottleneck"}, "lsas_resnet29_cifar", {"order": 1}),
    (
        {"factory": "lsas_senet", "depth": 47, "block_name": "Bottleneck", "info": "s3"},
        "lsas_resnet47_cifar",
        {"order": 3},
    ),
    (
        {"code": "cifar", "factory": "lsas_senet", "depth": 29, "block_name": "Bottleneck", "info": "s4-s5"},
        "lsas_resnet29_cifar",
        {"order": 5},
    ),
    ({"factory": "senet_resnet18", "info": "any"}, "senet_resnet18", {}),
    ({"code": "imagenet", "factory": "lsas_senet_resnet34", "zero_init_residual": True}, "lsas_resnet34", {}),
]


@pytest.mark.parametrize(("options", "name", "ours"), AUTHORS)
def test_constructors_of_the_authors(options: dict[str, Any], name: str, ours: dict[str, Any]) -> None:
    built = models.from_authors("lsas", {"num_classes": 4, **options})
    named = models.create_model(name, num_classes=4, **ours)
    state = named.state_dict()
    theirs = {
        key: entry.to_authors(state[entry.ours]).clone() for key, entry in family_of(named).entries(named).items()
    }
    models.load_authors_checkpoint(built, theirs)
    assert all(torch.equal(value, state[key]) for key, value in built.state_dict().items())


def test_start_of_the_authors_networks() -> None:
    network = models.from_authors("lsas", {"factory": "senet_resnet18", "num_classes": 2, "zero_init_residual": True})
    assert all((block.last_norm.weight == 0).all() for stage in network.stages for block in stage)
    assert (
        models.from_authors("lsas", {"factory": "senet", "depth": 29, "block_name": "Bottleneck"}).num_classes == 1000
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"factory": "senet_resnet20"},
        {"factory": "senet_resnet18", "code": "cifar"},
        {"factory": "senet", "depth": 29},
        {"factory": "lsas_senet", "depth": 29, "block_name": "BasicBlock"},
        {"factory": "lsas_senet", "depth": 30, "block_name": "Bottleneck"},
        {"factory": "lsas_senet", "block_name": "Bottleneck"},
        {"factory": "lsas_senet", "depth": 29, "block_name": "Bottleneck", "info": "s0s2"},
        {"factory": "lsas_senet", "depth": 29, "block_name": "Bottleneck", "info": None},
        {"factory": "lsas_senet_resnet50", "info": "normal"},
        {"factory": "lsas_senet_resnet50", "depth": 50},
    ],
)
def test_arguments_of_which_their_code_makes_no_network(options: dict[str, Any]) -> None:
    with pytest.raises(models.AuthorsOptionError, match="lsas: "):
        models.from_authors("lsas", options)


def test_checkpoints_belong_to_squeeze_and_excitation() -> None:
    network = models.create_model("lsas_resnet29_cifar", num_classes=2, attention="eca")
    assert isinstance(network, LsasResNet)
    with pytest.raises(models.AuthorsOptionError, match="'se' only"):
        models.load_authors_checkpoint(network, {"fc.weight": torch.zeros(2, 256)})
