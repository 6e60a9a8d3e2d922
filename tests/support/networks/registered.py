"""Registered networks for tests: representatives of each class, and images that fit them."""

import itertools
import re
from typing import Any

import timm
import torch
from torch import Tensor, nn

import models

NAMES = models.list_models()


def _without_depth(name: str) -> str:
    return re.sub(r"\d+", "", name.replace("wrn", "resnet"))


def _parameter_count(name: str) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in timm.create_model(name).parameters())


# names that differ in depth or width alone share all of their code: the smallest of each stands for the others
_BY_SHAPE = [list(names) for _, names in itertools.groupby(sorted(NAMES, key=_without_depth), key=_without_depth)]
SMALLEST = sorted(min(names, key=_parameter_count) for names in _BY_SHAPE)

# one for each class of network, all of them for small images; those with a form for large images
ONE_EACH = (
    "adaptive_resnet26_small",
    "augmented_resnet26_small",
    "conv_resnet26_small",
    "fcvit_micro_cifar",
    "lesa_resnet26_cifar",
    "local_resnet26_small",
    "lsas_resnet29_cifar",
    "nonlocal_resnet56_cifar",
    "sb_resnet29_cifar",
)
LARGE_IMAGES = ("fcvit_tiny", "lesa_resnet50", "lsas_resnet18", "nonlocal_resnet50", "sasa_resnet26", "sb_resnet50")


def smallest_images(name: str, *, batch: int, in_chans: int = 3) -> Tensor:
    side = timm.get_pretrained_cfg(name).min_input_size[-1]
    return torch.randn(batch, in_chans, side, side, generator=torch.Generator().manual_seed(1))


def for_images(name: str, images: Tensor) -> dict[str, Any]:
    """Return the option that fits a network to the images, where it has one."""
    return {"img_size": tuple(images.shape[-2:])} if "img_size" in models.model_options(name) else {}


def settled(network: nn.Module, images: Tensor) -> Any:
    """Return the network in evaluation mode, its norms updated once: without, maps grow with every block."""
    with torch.no_grad():
        network.train()(images)
    return network.eval()


def settled_network(name: str, images: Tensor, **options: Any) -> Any:
    """Build a network with the same weights at every call."""
    torch.manual_seed(0)
    network = models.create_model(name, **{"num_classes": 5, "image_size": images.shape[-1], **options})
    return settled(network, images)
