"""Smallest network of every family, and a setting from its search space with which it learns the digits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class SmallNetwork:
    """Network and its settings of training.

    Args:
        model: Registered name.
        options: Searched options of the network.
        training: Searched settings of training.
        epochs: Passes over the training images.
    """

    model: str
    epochs: int
    options: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)


def _searched(lr: float, **changed: Any) -> dict[str, Any]:
    settings = {"optimizer": "adamw", "lr": lr, "weight_decay": 0.05, "global_batch_size": 32}
    return {**settings, "lr_schedule": "cosine", "label_smoothing": 0.1, **changed}


_BIAS = {"bias_channels": 3, "key_size": 3, "pooled_size": 4}

SMALL_NETWORKS: Mapping[str, SmallNetwork] = {
    "adaptive_span": SmallNetwork(
        "adaptive_resnet26_small",
        epochs=8,
        options={"num_heads": 8, "max_span": 3, "ramp": 2.0, "span_init": 0.5, "span_penalty": 1e-3},
        training=_searched(4e-3),
    ),
    "local_attention": SmallNetwork(
        "local_resnet26_small", epochs=7, options={"num_heads": 8, "kernel_size": 5}, training=_searched(4e-3)
    ),
    "augmented": SmallNetwork(
        "augmented_resnet26_small",
        epochs=5,
        options={"num_heads": 4, "dk": 40, "dv": 4, "relative": True},
        training=_searched(4e-3),
    ),
    "conv": SmallNetwork("conv_resnet26_small", epochs=6, training=_searched(4e-3)),
    "spatial_bias": SmallNetwork("sb_resnet29_cifar", epochs=6, options=_BIAS, training=_searched(8e-3)),
    "spatial_bias_nonlocal": SmallNetwork(
        "sb_resnet29_cifar",
        epochs=6,
        options={
            **_BIAS,
            "nonlocal_every": 2,
            "nonlocal_reduction": 2,
            "nonlocal_pool_keys": False,
            "nonlocal_scaled": True,
            "nonlocal_stages": "FFT",
        },
        training=_searched(4e-3),
    ),
    "nonlocal": SmallNetwork(
        "nonlocal_resnet56_cifar",
        epochs=7,
        options={"every": 2, "reduction": 2, "pool_keys": False, "scaled": True},
        training=_searched(1e-2, global_batch_size=16),
    ),
    "fcvit": SmallNetwork(
        "fcvit_micro_cifar",
        epochs=4,
        options={
            "mixer": "fcvit",
            "kernel_size_1": 5,
            "kernel_size_2": 5,
            "mixing_steps": 2,
            "global_context": True,
            "similarity": True,
            "competition": True,
            "gc_reduction": 8,
            "num_heads": 8,
            "fc_factor": 8,
            "spatial_attention": False,
            "channel_attention": False,
            "mlp_depthwise": True,
            "mlp_kernel_size": 3,
            "layer_scale": True,
            "layer_scale_init": 0.5,
            "stem_stride": 1,
        },
        training=_searched(2e-3),
    ),
    "lsas": SmallNetwork(
        "lsas_resnet29_cifar",
        epochs=7,
        options={"order": 1, "scale_init": 0.5, "shift_init": -0.5, "attention": "se", "reduction": 16},
        training=_searched(8e-3),
    ),
    "senet": SmallNetwork("senet_resnet29_cifar", epochs=7, options={"reduction": 16}, training=_searched(8e-3)),
    "lesa": SmallNetwork(
        "lesa_resnet26_cifar",
        epochs=4,
        options={
            "groups": 8,
            "position_embedding": "classification",
            "unary": "grouped",
            "binary": True,
            "fusion": "full",
            "fusion_shrink": 2,
        },
        training=_searched(4e-3),
    ),
    "sa": SmallNetwork(
        "sa_resnet26_cifar",
        epochs=4,
        options={"groups": 8, "position_embedding": "classification"},
        training=_searched(4e-3),
    ),
}
