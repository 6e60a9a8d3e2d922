"""Penalty, projection and diagnostics reach the training loop from any network."""

import pytest
import torch
from torch import nn

import models


def test_a_plain_module_has_no_hooks() -> None:
    network = nn.Sequential(nn.Linear(2, 2).double(), nn.ReLU())
    before = [parameter.clone() for parameter in network.parameters()]
    models.project_(network)
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    assert models.diagnostics(network) == {}
    zero = models.penalty(network)
    assert zero.shape == () and zero.dtype == torch.float64 and float(zero) == 0.0
    assert float(models.penalty(nn.ReLU())) == 0.0


@pytest.mark.parametrize("weight", [0.0, 1e-3, 0.5])
def test_the_penalty_is_the_weighted_sum_of_spans(weight: float) -> None:
    network = models.create_model(
        "adaptive_resnet26_medium", num_classes=2, span_init=0.25, span_penalty=weight, num_heads=8
    )
    penalty = models.penalty(network)
    assert float(penalty.detach()) == pytest.approx(weight * 4 * 8 * 0.25)
    penalty.backward()
    spans = [parameter for key, parameter in network.named_parameters() if key.endswith("span")]
    assert len(spans) == 4
    assert all(torch.allclose(span.grad, torch.full_like(span, weight)) for span in spans)


def test_projection_brings_spans_back() -> None:
    network = models.create_model("adaptive_resnet26_small", num_classes=2)
    spans = {key: p for key, p in network.named_parameters() if key.endswith("span")}
    assert set(spans) == network.no_weight_decay()
    with torch.no_grad():
        for span in spans.values():
            span.copy_(torch.tensor([-0.5, 0.5, 1.5, 1.0]))
    models.project_(network)
    assert all(torch.equal(span, torch.tensor([0.0, 0.5, 1.0, 1.0])) for span in spans.values())
    assert all(span.requires_grad for span in spans.values())


def test_diagnostics_are_in_pixels() -> None:
    network = models.create_model("adaptive_resnet26_small", num_classes=2, max_span=4, span_init=0.25)
    with torch.no_grad():
        network.stages[2][0].spatial.span.copy_(torch.tensor([1.0, 0.5, 0.5, 0.0]))
    found = models.diagnostics(nn.ModuleList([network]))
    layers = {key: value for key, value in found.items() if "head" not in key}
    assert layers == pytest.approx(
        {"span/mean_px": 4 / 3, "span/layer0_px": 1.0, "span/layer1_px": 1.0, "span/layer2_px": 2.0}
    )
    heads = [found[f"span/layer2_head{head}_px"] for head in range(4)]
    assert heads == pytest.approx([4.0, 2.0, 2.0, 0.0])
    assert len(found) == 4 + 3 * 4


def test_the_penalty_shortens_spans_that_do_not_pay() -> None:
    torch.manual_seed(0)
    network = models.create_model("adaptive_resnet26_small", num_classes=2, in_chans=1, span_init=0.8, span_penalty=1.0)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05)
    images = torch.randn(4, 1, 8, 8)
    before = models.diagnostics(network)["span/mean_px"]
    for _ in range(5):
        optimiser.zero_grad()
        (nn.functional.cross_entropy(network(images), torch.tensor([0, 1, 0, 1])) + models.penalty(network)).backward()
        optimiser.step()
        models.project_(network)
    assert models.diagnostics(network)["span/mean_px"] < before - 0.5
