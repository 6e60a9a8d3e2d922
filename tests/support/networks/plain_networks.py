"""Naive forms of whole networks, as in their formulas, over the weights of ours: the reference for speed.

Every step is the obvious PyTorch call on maps in the default layout; nothing is merged, folded or reordered. Attention
within windows is the unfold oracle; LESA's and FCViT's oracles compute theirs.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.adaptive_span import attention as adaptive_span
from models.adaptive_span.attention import AdaptiveAttention, LocalAttention
from models.common.bottleneck import ConvNorm
from models.common.channel_attention import ChannelGate
from models.common.non_local import NonLocal, NonLocalBottleneck
from models.fcvit.network import FCViT
from models.lesa.attention import LocallyEnhancedAttention
from models.lesa.network import LesaBottleneck
from models.spatial_bias.block import BiasedBottleneck, SpatialBiasConv
from tests.support.networks.attention_oracle import unfold_attention
from tests.support.networks.fcvit_oracle import plain_fcvit
from tests.support.networks.lesa_oracle import plain_binary

TOLERANCE = 1e-6  # of the largest value, in double precision


class PlainNetwork(nn.Module):
    """Network of ours computed by its formulas, with its weights: (B, in_chans, H, W) -> (B, num_classes)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        with unfolded_windows():
            return plain_fcvit(self.network, x) if isinstance(self.network, FCViT) else plain_resnet(self.network, x)


@contextmanager
def unfolded_windows() -> Iterator[None]:
    """Compute local and adaptive attention by the oracle, with windows cut to the spans as on CPUs."""
    with (
        mock.patch.object(adaptive_span, "local_attention", unfold_attention),
        mock.patch.object(adaptive_span, "gpu_serves", lambda *_, **__: False),
    ):
        yield


def plain_resnet(network: Any, x: Tensor) -> Tensor:
    x = network.stem.pool(normed_conv(network.stem, x))
    for stage in network.stages:
        for block in stage:
            x = plain_block(block, x)
    logits: Tensor = network.head.fc(x.mean((2, 3)))
    return logits


def normed_conv(layer: ConvNorm, x: Tensor) -> Tensor:
    y: Tensor = layer.act(layer.bn(layer.conv(x)))
    return y


def plain_block(block: Any, x: Tensor) -> Tensor:
    """Apply a bottleneck, without stochastic depth: 1x1, operator, 1x1, gate or pool, shortcut, non-local block."""
    shortcut = x if isinstance(block.shortcut, nn.Identity) else normed_conv(block.shortcut, x)
    if isinstance(block, BiasedBottleneck) and isinstance(block.spatial, SpatialBiasConv):
        y = plain_biased_branch(block, x)
    else:
        y = plain_operator(block.spatial, normed_conv(block.reduce, x))
        if not isinstance(block, LesaBottleneck):  # whose operators end in a norm
            y = block.bn(y)
        y = normed_conv(block.expand, F.relu(y, inplace=True))
    y = plain_gate(block.gate, y) if isinstance(getattr(block, "gate", None), ChannelGate) else y
    y = block.pool(y) if hasattr(block, "pool") else y
    y = F.relu(y + shortcut, inplace=True)
    return plain_non_local(block.non_local, y) if is_non_local(block) else y


def is_non_local(block: nn.Module) -> bool:
    return isinstance(block, NonLocalBottleneck) and isinstance(block.non_local, NonLocal)


def plain_operator(operator: Any, x: Tensor) -> Tensor:
    if isinstance(operator, LocallyEnhancedAttention):
        return plain_lesa(operator, x)
    if isinstance(operator, ConvNorm):
        return normed_conv(operator, x)
    assert isinstance(operator, AdaptiveAttention | LocalAttention | nn.Conv2d), operator
    y: Tensor = operator(x)
    return y


def plain_gate(gate: Any, x: Tensor) -> Tensor:
    """Apply squeeze-and-excitation with sub-attention behind its logits; other attentions as they are."""
    if gate.attention != "se":
        y: Tensor = gate(x)
        return y
    batch, channels = x.shape[:2]
    pooled = F.adaptive_avg_pool2d(x, 1).flatten(1)
    hidden = F.relu(F.linear(pooled, gate.host.fc1.weight.flatten(1), gate.host.fc1.bias), inplace=True)
    value = F.linear(hidden, gate.host.fc2.weight.flatten(1), gate.host.fc2.bias).view(batch, channels, 1, 1)
    product = torch.sigmoid(value)
    for step in range(getattr(gate.sub, "order", 0)):
        value = value * gate.sub.scale[step].view(1, -1, 1, 1) + gate.sub.shift[step].view(1, -1, 1, 1)
        product = product * torch.sigmoid(value)
    return x * product


def plain_lesa(layer: Any, x: Tensor) -> Tensor:
    """Add the gated binary term to the unary term."""
    binary = plain_binary(layer.binary, x)
    if layer.unary is None:
        return binary
    unary: Tensor = layer.unary.bn(layer.unary.convs(x))
    fusion = layer.fusion
    if fusion is None:
        return unary + binary
    hidden = fusion.layers(F.relu(torch.cat([unary, binary], dim=1)))
    return unary + torch.sigmoid(fusion.bn(fusion.conv(hidden))) * binary


def plain_biased_branch(block: Any, x: Tensor) -> Tensor:
    """Apply the branch of a block with a spatial bias, which a projection of its own adds where it joins late."""
    layer = block.spatial
    inner = normed_conv(block.reduce, x)
    read = {"block_input": x, "conv1_output": inner}
    if layer.join_point == "conv2_input":
        y = layer.conv(plain_joined(inner, plain_bias(layer.bias, read[layer.read_point])))
    else:
        read["conv2_output"] = y = layer.conv(inner)
    if layer.join_point == "conv2_output":
        y = plain_joined(y, plain_bias(layer.bias, read[layer.read_point]))
    width, y = y.shape[1], F.relu(block.bn(y))
    weight = block.expand.conv.weight
    z = F.conv2d(y, weight[:, :width])
    if layer.join_point == "conv3_input":
        bias = plain_bias(layer.bias, read[layer.read_point])
        z = z + F.interpolate(F.conv2d(bias, weight[:, width:]), size=z.shape[2:], mode="bilinear", align_corners=False)
    result: Tensor = block.expand.bn(z)
    return result


def plain_joined(y: Tensor, bias: Tensor) -> Tensor:
    return torch.cat([y, F.interpolate(bias, size=y.shape[2:], mode="bilinear", align_corners=False)], dim=1)


def plain_bias(layer: Any, x: Tensor) -> Tensor:
    """Compute a spatial bias: reduction, grid, mixing of its cells."""
    grid = F.adaptive_avg_pool2d(normed_conv(layer.reduce, x), layer.pooled_size)
    batch, channels, side, _ = grid.shape
    weight, shift = layer.mix.weight, layer.mix.bias
    if isinstance(layer.mix, nn.Linear):
        matrix = weight.view(-1, side, side, channels, side, side)
        mixed: Tensor = torch.einsum("nijcpq,bcpq->bnij", matrix, grid) + shift.view(1, -1, side, side)
        return mixed
    cells, key = grid.view(batch, channels, side * side), weight.shape[2]
    steps = [
        sum(cells[:, start + u] @ weight[:, :, u].T for u in range(key)) + shift for start in range(channels - key + 1)
    ]
    return torch.stack(steps, dim=1).view(batch, -1, side, side)


def plain_non_local(block: Any, x: Tensor) -> Tensor:
    """Attend with softmax of the products of two embeddings, and project the weighted sum of a third back."""
    assert isinstance(block.pool, nn.Identity)
    weights, biases = block.embed.weight.chunk(3), block.embed.bias.chunk(3)
    theta, phi, g = (F.conv2d(x, weight, bias).flatten(2) for weight, bias in zip(weights, biases, strict=True))
    attention = torch.softmax(torch.matmul(theta.transpose(1, 2), phi) * block.scale, dim=-1)
    read = torch.matmul(attention, g.transpose(1, 2)).transpose(1, 2).reshape(x.shape[0], -1, *x.shape[2:])
    y: Tensor = block.bn(block.expand(read))
    return x + y


@torch.no_grad()
def stir(network: nn.Module) -> None:
    """Change every parameter that starts constant, so that no branch is closed and no norm an identity."""
    for parameter in network.parameters():
        if parameter.numel() > 1 and parameter.min() == parameter.max():
            parameter.add_(torch.rand_like(parameter), alpha=0.5)


def assert_equals_plain(network: nn.Module, images: Tensor) -> float:
    """Compare a network in double precision with its plain form: logits and all gradients, in both modes.

    Returns:
        The largest difference, relative to the largest value of what differs.
    """
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # the statistics of one batch: with others, maps would grow with every block
    plain = PlainNetwork(copy.deepcopy(network))
    worst = 0.0
    for training in (True, False):
        found, expected = (outcome(form.train(training), images) for form in (network, plain))
        rounding = 1e-6 * max(float(value.abs().max()) for value in expected.values())
        for key, value in found.items():
            # a gradient that is zero in exact numbers is rounding in both: a norm hides shifts from those behind
            largest = max(float(expected[key].abs().max()), rounding)
            difference = float((value - expected[key]).abs().max()) / largest
            assert difference < TOLERANCE, f"{key}: the network and its plain form differ by {difference:.1e}"
            worst = max(worst, difference)
    return worst


def outcome(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Return the logits, and the gradients by the name of their tensor."""
    images = images.clone().requires_grad_()
    logits = model(images)
    named = {key.removeprefix("network."): parameter for key, parameter in model.named_parameters()}
    probe = torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype, device=logits.device).reshape(logits.shape)
    gradients = torch.autograd.grad(logits, [images, *named.values()], probe, materialize_grads=True)
    with torch.no_grad():
        unwatched = model(images)  # other paths may be open without gradients
    return {"logits": logits.detach(), "unwatched": unwatched, **dict(zip(["images", *named], gradients, strict=True))}
