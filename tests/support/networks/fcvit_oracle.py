"""Naive FCViT, as in its formulas: every step a tensor of its own, nothing merged."""

from typing import Any

import torch
from torch import Tensor, nn

from models.fcvit.block import FCViTBlock, PatchEmbed


def plain_context(context: Any, x: Tensor) -> Tensor:
    """Add the global context of a `GlobalContext` to a map."""
    batch, dim, height, width = x.shape
    mean = x.reshape(batch, dim, -1).mean(-1)
    narrow = context.squeeze(mean)
    if context.competition:
        first, second = narrow.chunk(2, dim=1)
        narrow = torch.maximum(first, second)
    else:
        narrow = nn.functional.gelu(narrow)
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
    y = block.norm1(x)
    for step in block.token_mixer.steps:
        y = y if isinstance(step.context, nn.Identity) else plain_context(step.context, y)
        y = nn.functional.gelu(step.pointwise(plain_conv(step.depthwise, y)))
    gate = block.token_mixer.spatial_attention
    y = y if isinstance(gate, nn.Identity) else y * gate.gate[1:](plain_conv(gate.gate[0], y))
    x = x + block.layer_scale_1.reshape(-1, 1, 1) * y
    mixer = block.channel_mixer
    y = mixer.reduce(nn.functional.gelu(plain_conv(mixer.depthwise, mixer.expand(block.norm2(x)))))
    attention = mixer.channel_attention
    if not isinstance(attention, nn.Identity):
        pooled = nn.functional.gelu(y).mean((2, 3), keepdim=True)
        along = attention.conv1(pooled.squeeze(-1).transpose(1, 2))
        y = y + attention.conv2(nn.functional.gelu(along)).transpose(1, 2).unsqueeze(-1)
    return x + block.layer_scale_2.reshape(-1, 1, 1) * y


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
