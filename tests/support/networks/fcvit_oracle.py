"""Naive FCViT, as in its formulas: every step a tensor of its own, nothing merged."""

from typing import Any

import torch
from torch import Tensor, nn

from models.fcvit.block import FCViTBlock, PatchEmbed
from models.fcvit.mixers import PoolMixer, SelfAttentionMixer


def plain_context(context: Any, x: Tensor) -> Tensor:
    """Add the global context of a `GlobalContext` to a map."""
    batch, dim, height, width = x.shape
    mean = x.reshape(batch, dim, -1).mean(-1)
    narrow = context.squeeze(mean)
    if context.competition:
        narrow = torch.stack(narrow.chunk(context.candidates, dim=1)).amax(0)
    else:
        narrow = context.act(narrow)
    vector = context.expand(narrow)
    if context.scale is None:
        return x + vector[:, :, None, None]
    heads = context.num_heads
    per_head = x.reshape(batch, heads, dim // heads, height * width)
    similarity = torch.einsum("bhdn,bhd->bhn", per_head, mean.reshape(batch, heads, -1)) / (dim // heads) ** 0.5
    flat = similarity.reshape(batch, -1)
    similarity = (similarity - flat.mean(1)[:, None, None]) / (flat.std(1)[:, None, None] + 1e-5)
    similarity = similarity * context.scale[:, None] + context.shift[:, None]
    weighted = similarity[:, :, None] * vector.reshape(batch, heads, -1)[..., None]
    return x + weighted.reshape(x.shape)


def plain_conv(layer: nn.Module, x: Tensor) -> Tensor:
    """Apply a depth-wise convolution by PyTorch alone, or an identity."""
    return nn.Conv2d.forward(layer, x) if isinstance(layer, nn.Conv2d) else layer(x)


def plain_block(block: Any, x: Tensor) -> Tensor:
    """Apply a block, without stochastic depth."""
    y = plain_token_mixer(block.token_mixer, block.norm1(x))
    x = x + (y if block.layer_scale_1 is None else block.layer_scale_1.reshape(-1, 1, 1) * y)
    mixer = block.channel_mixer
    y = mixer.reduce(mixer.act(plain_conv(mixer.depthwise, mixer.expand(block.norm2(x)))))
    attention = mixer.channel_attention
    if not isinstance(attention, nn.Identity):
        pooled = attention.act(y).mean((2, 3), keepdim=True)
        along = attention.conv1(pooled.squeeze(-1).transpose(1, 2))
        y = y + attention.conv2(attention.act(along)).transpose(1, 2).unsqueeze(-1)
    return x + (y if block.layer_scale_2 is None else block.layer_scale_2.reshape(-1, 1, 1) * y)


def plain_token_mixer(mixer: Any, x: Tensor) -> Tensor:
    """Mix the positions of a map by steps, by the mean of neighbours, by attention or not at all."""
    batch, dim, height, width = x.shape
    if isinstance(mixer, nn.Identity):
        return x
    if isinstance(mixer, PoolMixer):
        windows = [
            x[:, :, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2].mean((2, 3))
            for row in range(height)
            for column in range(width)
        ]
        return torch.stack(windows, dim=2).reshape(x.shape) - x
    if isinstance(mixer, SelfAttentionMixer):
        heads = mixer.num_heads
        q, k, v = mixer.qkv(x).reshape(batch, 3, heads, dim // heads, height * width).unbind(1)
        weights = (torch.einsum("bhdi,bhdj->bhij", q, k) / (dim // heads) ** 0.5).softmax(-1)
        read: Tensor = mixer.proj(torch.einsum("bhij,bhdj->bhdi", weights, v).reshape(x.shape))
        return read
    y = x
    for step in mixer.steps:
        y = y if isinstance(step.context, nn.Identity) else plain_context(step.context, y)
        y = step.act(step.pointwise(plain_conv(step.depthwise, y)))
    gate = mixer.spatial_attention
    return y if isinstance(gate, nn.Identity) else y * gate.gate[1:](plain_conv(gate.gate[0], y))


def plain_fcvit(network: Any, x: Tensor) -> Tensor:
    """Compute the logits of a whole network."""
    x = network.stem.bn(network.stem.conv(x))
    for stage in network.stages:
        for module in stage:
            if isinstance(module, PatchEmbed):
                x = module.bn(module.conv(x))
            else:
                assert isinstance(module, FCViTBlock)
                x = plain_block(module, x)
    logits: Tensor = network.head.fc(network.norm(x).mean((2, 3)))
    return logits
