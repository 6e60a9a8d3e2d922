"""Groups of parameters by weight decay and layer, averages of the optimiser, and clipped gradients."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import nn

import models  # noqa: F401 - registers the networks
from models.backbones import backbone_settings
from models.detection import create_detector
from models.segmentation.options import build_segmentor
from orchestrator.config.sections.training import TrainingConfig
from orchestrator.training.optimizer.clipping import clip_gradients_
from orchestrator.training.optimizer.lr_schedule import LrSchedule
from orchestrator.training.optimizer.optimizer import create_optimizer


def optimizer_of(network: nn.Module, **settings: Any) -> torch.optim.Optimizer:
    return create_optimizer(network, TrainingConfig(**{"weight_decay": 0.1, **settings}))


def without_decay(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups if not group["weight_decay"] for p in group["params"]]


@pytest.mark.parametrize("layer_decay", [None, 0.5])
@pytest.mark.parametrize(
    ("name", "tensors", "parameters"),
    [
        ("lsas_resnet164_cifar", 405, None),
        ("lesa_resnet50", 187, None),
        ("adaptive_resnet26_medium", None, 9_780),
        ("fcvit_b12", None, None),
    ],
)
def test_all_parameters_are_decayed_on_request(
    name: str, tensors: int | None, parameters: int | None, layer_decay: float | None
) -> None:
    network = timm.create_model(name, num_classes=100, device="meta")
    exempt = without_decay(optimizer_of(network, layer_decay=layer_decay))
    assert tensors in (None, len(exempt))
    assert parameters in (None, sum(p.numel() for p in exempt))
    assert exempt
    every = optimizer_of(network, decay_norms_and_biases=True, layer_decay=layer_decay)
    assert without_decay(every) == []
    assert {group["weight_decay"] for group in every.param_groups} == {0.1}
    decayed = [id(p) for group in every.param_groups for p in group["params"]]
    assert sorted(decayed) == sorted(id(p) for p in network.parameters())


@pytest.mark.parametrize(
    ("backbone", "ending", "tensors"),
    [
        ("lsas_resnet101", ("sub.scale", "sub.shift"), 52),
        ("swin_tiny_patch4_window7_224", ("relative_position_bias_table",), 12),  # which its maps are cut out of
        ("vit_tiny_patch16_224", ("pos_embed", "cls_token"), 2),
    ],
)
def test_networks_around_a_backbone_exempt_what_it_exempts(
    backbone: str, ending: tuple[str, ...], tensors: int
) -> None:
    with torch.device("meta"):
        segmentor = build_segmentor(backbone, {}, num_classes=3, in_chans=3, image_size=224)
        detector = create_detector("faster_rcnn", backbone_settings(backbone), 3)
    for network in (segmentor, detector):
        exempt = {id(p) for p in without_decay(optimizer_of(network))}
        names = [name for name, p in network.named_parameters() if name.endswith(ending)]
        assert len(names) == tensors
        assert all(id(p) in exempt for name, p in network.named_parameters() if name in names or p.ndim == 1)
        assert sum(p.ndim > 1 for p in without_decay(optimizer_of(network))) == tensors


def test_spans_are_decayed_with_the_rest() -> None:
    torch.manual_seed(0)
    network = timm.create_model("adaptive_resnet26_small", num_classes=10)
    spans = [p for name, p in network.named_parameters() if name in network.no_weight_decay()]
    assert spans
    optimizer = optimizer_of(network, decay_norms_and_biases=True, optimizer="momentum", lr=0.5)
    before = [span.detach().clone() for span in spans]
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for span, start in zip(spans, before, strict=True):
        torch.testing.assert_close(span.detach(), start * (1 - 0.5 * 0.1))


@pytest.mark.parametrize("everything", [False, True])
def test_layers_train_at_rates_that_fall_towards_the_stem(everything: bool) -> None:
    network = timm.create_model("conv_resnet26_small", num_classes=10)
    training = TrainingConfig(lr=0.8, layer_decay=0.5, warmup_epochs=0, decay_norms_and_biases=everything)
    optimizer = create_optimizer(network, training)
    schedule = LrSchedule(optimizer, training, steps_per_epoch=10)
    schedule.step_update(50)  # half of the cosine
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    found = {name: rates[id(p)] for name, p in network.named_parameters()}
    layers = {"head": 0.4, "stages.2.0": 0.2, "stages.1.0": 0.1, "stages.0.0": 0.05, "stem": 0.025}
    assert {len(stage) for stage in network.stages} == {1}
    for name, rate in found.items():
        [expected] = [expected for prefix, expected in layers.items() if name.startswith(prefix)]
        assert rate == pytest.approx(expected), name
    assert schedule.lr == pytest.approx(0.4)


@pytest.mark.parametrize("everything", [False, True])
def test_betas_are_passed_on(everything: bool) -> None:
    network = nn.Linear(2, 2)
    given = optimizer_of(network, optimizer="adamw", betas=[0.8, 0.95], decay_norms_and_biases=everything)
    usual = optimizer_of(network, optimizer="adamw", decay_norms_and_biases=everything)
    assert {group["betas"] for group in given.param_groups} == {(0.8, 0.95)}
    assert {group["betas"] for group in usual.param_groups} == {(0.9, 0.999)}


class Classified(nn.Module):
    """Convolution, bias and classifier, as of a network of timm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)
        self.head = nn.Linear(3, 4)

    def get_classifier(self) -> nn.Module:
        return self.head


def test_adaptive_clipping_bounds_the_gradient_of_each_unit() -> None:
    """Brock et al. 2021: a unit's gradient has at most a share of the norm of its weights, which counts as 1e-3."""
    torch.manual_seed(0)
    network = Classified().double()
    with torch.no_grad():
        network.conv.weight[1] = 0
        network.conv.bias.fill_(0.5)
    for parameter in network.parameters():
        parameter.grad = torch.randn_like(parameter)
    network.conv.weight.grad[2] *= 1e-4
    before = {name: p.grad.clone() for name, p in network.named_parameters()}
    clip_gradients_(network, TrainingConfig(agc_factor=0.02))
    for unit in range(3):
        gradient, weight = before["conv.weight"][unit], network.conv.weight[unit].detach()
        most = 0.02 * max(float(weight.norm()), 1e-3)
        expected = gradient * min(1.0, most / float(gradient.norm()))
        torch.testing.assert_close(network.conv.weight.grad[unit], expected)
    assert torch.equal(network.conv.weight.grad[2], before["conv.weight"][2])
    bias = before["conv.bias"]
    torch.testing.assert_close(network.conv.bias.grad, bias * 0.02 * (0.75**0.5) / bias.norm())
    assert torch.equal(network.head.weight.grad, before["head.weight"])
    assert torch.equal(network.head.bias.grad, before["head.bias"])
