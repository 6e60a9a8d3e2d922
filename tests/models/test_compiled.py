"""Compiled and exported networks: torch.compile with its gradients, ONNX through its runtime."""

import copy
import warnings
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from tests.support.networks.tiny_networks import SIDE, TINY

OPSET = 23  # the newest that torch writes


def with_random_offsets(name: str) -> nn.Module:
    """Build a network far from its initial values, so that every parameter matters."""
    torch.manual_seed(0)
    network = TINY[name]()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def training_step(program: Any, network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Return logits, gradients and the statistics of the norms."""
    images = images.clone().requires_grad_()
    logits = program(images)
    (logits * torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view_as(logits)).sum().backward()
    assert images.grad is not None
    gradients = {f"gradient of {key}": parameter.grad for key, parameter in network.named_parameters()}
    return {
        "logits": logits.detach(),
        "gradient of the images": images.grad,
        **gradients,
        **dict(network.named_buffers()),
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        name
        for name in TINY
        if name not in {"adaptive_before_softmax", "conv", "local", "lesa_detection", "stand_alone"}
    ],
)
def test_a_compiled_network_is_the_same(name: str) -> None:
    torch._dynamo.reset()
    network = with_random_offsets(name).double().train()
    twin = copy.deepcopy(network)
    images = torch.randn(3, 3, SIDE, SIDE, dtype=torch.double)
    eager = training_step(network, network, images)
    compiled = training_step(torch.compile(twin, fullgraph=True), twin, images)
    for key, expected in eager.items():
        torch.testing.assert_close(
            compiled[key], expected, rtol=1e-8, atol=1e-10, msg=lambda text, key=key: f"{key}: {text}"
        )


@pytest.mark.parametrize("name", TINY)
def test_an_onnx_file_gives_the_same_for_any_batch(name: str, tmp_path: Path) -> None:
    network = with_random_offsets(name)
    images = torch.randn(3, 3, SIDE, SIDE)
    network.train()(images)
    network.eval()
    program = torch.onnx.export(
        network,
        (images,),
        dynamo=True,
        opset_version=OPSET,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )
    assert program is not None
    path = tmp_path / "network.onnx"
    program.save(path)
    session = onnxruntime.InferenceSession(path)
    (given,) = session.get_inputs()
    for batch in (images, torch.randn(1, 3, SIDE, SIDE)):
        (logits,) = session.run(None, {given.name: batch.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(logits), network(batch), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", TINY)
def test_a_traced_onnx_file_gives_the_same(name: str, tmp_path: Path) -> None:
    network = with_random_offsets(name)
    images = torch.randn(2, 3, SIDE, SIDE)
    network.train()(images)
    network.eval().requires_grad_(False)
    path = tmp_path / "network.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the older exporter, which detectors need
        torch.onnx.export(network, (images[:1],), path, dynamo=False, opset_version=20, input_names=["images"])
    session = onnxruntime.InferenceSession(path)
    for image in images.split(1):
        (logits,) = session.run(None, {"images": image.numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), network(image), rtol=1e-4, atol=1e-5)
