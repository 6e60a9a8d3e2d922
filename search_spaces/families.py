"""The natural search space of each family: what its paper and code vary, in the ranges that make sense.

Source: the switches and defaults of the papers' code; ranges around them are ours. Each space holds the options of the
family's networks and the settings of training, and no `model`: it serves every depth of the family.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from search_spaces.domains import ChoiceDomain, Domain, FloatDomain, IntDomain, Scalar
from search_spaces.space import SearchSpace

TRAINING: Mapping[str, Domain] = MappingProxyType(
    {
        "optimizer": ChoiceDomain(choices=("sgd", "adamw", "lamb")),
        "lr": FloatDomain(low=1e-4, high=0.3, log=True),
        "weight_decay": FloatDomain(low=1e-5, high=0.1, log=True),
        "global_batch_size": IntDomain(low=16, high=1024, log=True),
        "lr_schedule": ChoiceDomain(choices=("cosine", "constant")),
        "label_smoothing": FloatDomain(low=0.0, high=0.2),
    }
)
"""Settings of training that every family varies, wide enough for all the papers' own values."""


def _choice(*choices: Scalar, **when: Scalar | tuple[Scalar, ...]) -> ChoiceDomain:
    """One of a few values, searched when all the named choices have (one of) the given value(s)."""
    return ChoiceDomain(choices=choices, when=when)


_SWITCH = _choice(False, True)
_HEADS = _choice(1, 2, 4, 8)
_GROUPS = _choice(1, 2, 4, 8, 16)
_REDUCTION = _choice(4, 8, 16, 32)
_POSITIONS = _choice("classification", "detection", "none")
_BIAS: Mapping[str, Domain] = {
    "bias_channels": IntDomain(low=1, high=8),
    "key_size": _choice(1, 3, 5),
    "pooled_size": IntDomain(low=4, high=14, step=2),
}

_OPTIONS: Mapping[str, Mapping[str, Domain]] = {
    "adaptive_span": {
        "num_heads": _HEADS,
        "max_span": IntDomain(low=2, high=8),
        "ramp": FloatDomain(low=1.0, high=4.0),
        "span_init": FloatDomain(low=0.0, high=1.0),
        "span_penalty": FloatDomain(low=1e-4, high=1e-1, log=True),
    },
    "local_attention": {"num_heads": _HEADS, "kernel_size": _choice(3, 5, 7, 9, 11)},
    "augmented": {
        "num_heads": _choice(1, 2, 4),
        "dk": _choice(20, 40, 80),
        "dv": _choice(4, 8, 16),
        "relative": _SWITCH,
    },
    "conv": {},
    "spatial_bias": _BIAS,
    "spatial_bias_nonlocal": {
        **_BIAS,
        "nonlocal_every": IntDomain(low=1, high=3),
        "nonlocal_reduction": _choice(2, 4, 8),
        "nonlocal_pool_keys": _SWITCH,
        "nonlocal_scaled": _SWITCH,
    },
    "nonlocal": {
        "every": IntDomain(low=1, high=3),
        "reduction": _choice(2, 4, 8),
        "pool_keys": _SWITCH,
        "scaled": _SWITCH,
    },
    "fcvit": {
        "kernel_size_1": _choice(3, 5, 7, 9, 11, 13),
        "mixing_steps": _choice(1, 2),
        "kernel_size_2": _choice(3, 5, 7, 9, 11, 13, mixing_steps=2),
        "global_context": _SWITCH,
        "similarity": _choice(False, True, global_context=True),
        "competition": _choice(False, True, global_context=True),
        "gc_reduction": _choice(4, 8, 16, global_context=True),
        "num_heads": _choice(1, 2, 4, 8, 16, similarity=True),
        "fc_factor": _choice(1, 2, 4, 8, 16),
        "spatial_attention": _SWITCH,
        "channel_attention": _SWITCH,
        "mlp_depthwise": _SWITCH,
        "mlp_kernel_size": _choice(3, 5, mlp_depthwise=True),
        "layer_scale_init": FloatDomain(low=1e-6, high=1.0, log=True),
    },
    "lsas": {
        "order": IntDomain(low=0, high=5),
        "scale_init": _choice(0.25, 0.5, 1.0),
        "shift_init": _choice(-0.5, 0.0, 0.5),
        "attention": _choice("se", "cbam", "eca", "srm", "spa"),
        "reduction": _REDUCTION,
    },
    "senet": {"reduction": _REDUCTION},
    "lesa": {
        "groups": _GROUPS,
        "position_embedding": _POSITIONS,
        "unary": _choice("none", "1x1", "grouped", "full"),
        "fusion": _choice("none", "scalar", "full", unary=("1x1", "grouped", "full")),
        "fusion_shrink": _choice(1, 2, 4, fusion=("scalar", "full")),
    },
    "sa": {"groups": _GROUPS, "position_embedding": _POSITIONS},
}

FAMILY_SPACES: Mapping[str, SearchSpace] = MappingProxyType(
    {family: SearchSpace({**options, **TRAINING}) for family, options in _OPTIONS.items()}
)
"""Name of a family to its space."""
