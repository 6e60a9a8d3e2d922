"""Networks whose speed is measured, the plain form of each, and one step of training or inference of them."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

import models

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.support.networks.plain_networks import PlainNetwork, assert_equals_plain, stir

__all__ = ["CASES", "CUDA_CASES", "MODES", "VARIANTS", "Case", "build", "check_equal", "make_step"]

MODES = ("training", "inference")
VARIANTS = ("ours", "plain", "control")
CLASSES = 100
CHECKED_SIDE = 64  # px, at most: networks that are equal there are equal on larger images


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """Network at a size.

    Args:
        name: Name in the table.
        model: Registered name.
        side: Side of the images in pixels.
        batch: Images of a step.
        options: Keywords of the network.
        control: Registered name of a network of the same shape to compare the speed with.
    """

    name: str
    model: str
    side: int
    batch: int
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    control: str | None = None


def _case(model: str, side: int, batch: int, *, control: str | None = None, **options: Any) -> Case:
    name = " ".join([model, *(f"{key}={value}" for key, value in options.items()), f"{side}px", f"b{batch}"])
    return Case(name=name, model=model, side=side, batch=batch, options=options, control=control)


CASES = (
    _case("adaptive_resnet26_medium", 32, 50, control="conv_resnet26_medium"),
    _case("local_resnet26_medium", 32, 50, control="conv_resnet26_medium"),
    _case("fcvit_tiny", 96, 4),
    _case("fcvit_tiny", 224, 2),
    _case("fcvit_micro_cifar", 32, 32),
    _case("lesa_resnet26_cifar", 32, 16),
    _case("lesa_resnet26_cifar", 32, 16, position_embedding="detection"),
    _case("lesa_resnet50", 224, 2),
    _case("sa_resnet26_cifar", 32, 16),
    _case("sa_resnet26_cifar", 32, 16, position_embedding="detection"),
    _case("sa_resnet50", 224, 2),
    _case("lsas_resnet29_cifar", 32, 32, order=1),
    _case("lsas_resnet29_cifar", 32, 32, order=5),
    _case("lsas_resnet50", 224, 2),
    _case("senet_resnet29_cifar", 32, 32),
    _case("senet_resnet50", 224, 2),
    _case("sb_resnet29_cifar", 32, 32),
    _case("sb_resnet50", 224, 2),
    _case("nonlocal_resnet56_cifar", 32, 16),
    _case("nonlocal_resnet50", 224, 2),
)
"""Small enough that the whole table takes minutes on two cores."""

CUDA_CASES = (
    _case("adaptive_resnet26_medium", 32, 50, control="conv_resnet26_medium"),
    _case("local_resnet26_medium", 32, 50, control="conv_resnet26_medium"),
    _case("adaptive_resnet50", 224, 8, control="conv_resnet50"),
    _case("local_resnet50", 224, 8, control="conv_resnet50"),
    *(
        _case(model, 224, 64)
        for model in ("fcvit_tiny", "lesa_resnet50", "sa_resnet50", "lsas_resnet50", "senet_resnet50")
    ),
    *(_case(model, 224, 64) for model in ("sb_resnet50", "nonlocal_resnet50")),
)


def build(case: Case, variant: str = "ours") -> nn.Module:
    """Build the network of a case in one of its forms; ours and the plain one start from equal weights."""
    torch.manual_seed(0)
    if variant == "control":
        assert case.control is not None
        return models.create_model(case.control, num_classes=CLASSES)
    network = models.create_model(case.model, num_classes=CLASSES, image_size=case.side, **case.options)
    stir(network)
    return PlainNetwork(network) if variant == "plain" else network


def make_step(model: nn.Module, case: Case, mode: str, device: torch.device) -> Callable[[], None]:
    """Make one step: forward, loss, backward and SGD, or the forward pass alone; bfloat16 on CUDA."""
    images = torch.randn(case.batch, 3, case.side, case.side, device=device)
    labels = torch.arange(case.batch, device=device) % CLASSES
    model.train(mode == "training")
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)

    def train() -> None:
        with precision(device):
            loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def infer() -> None:
        with torch.inference_mode(), precision(device):
            model(images)

    return train if mode == "training" else infer


@contextlib.contextmanager
def precision(device: torch.device) -> Iterator[None]:
    """Enable half precision where a GPU has it."""
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        yield


def check_equal(case: Case, device: torch.device) -> float:
    """Compare ours with the plain form; see `assert_equals_plain`."""
    case = dataclasses.replace(case, side=min(case.side, CHECKED_SIDE))
    images = torch.randn(2, 3, case.side, case.side, dtype=torch.double, device=device)
    return assert_equals_plain(build(case).double().to(device), images)
