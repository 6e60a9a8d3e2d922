"""Networks by kind, and the options and training settings that a sweep varies for each kind.

A kind is a family of networks with the same options: where a family has networks for small and for large images, whose
numbers of stages differ, it is two kinds, and a network whose depth is an option is a third. Source: the switches and
defaults of the code of each paper; ranges around them are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from search_spaces import training
from search_spaces.domains import ChoiceDomain, Domain, FloatDomain, IntDomain, Scalar

__all__ = ["KINDS", "Kind", "kind_of"]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Networks that have the same options.

    Args:
        family: Name of the space that serves them.
        networks: Their registered names, the smallest first.
        options: Domains of the options of the networks.
        training: Domains of the settings of training.
    """

    family: str
    networks: tuple[str, ...]
    options: Mapping[str, Domain]
    training: Mapping[str, Domain]


def _choice(*choices: Scalar, **when: Scalar | tuple[Scalar, ...]) -> ChoiceDomain:
    """Make a choice that is searched when all the named parents have (one of) the given value(s)."""
    return ChoiceDomain(choices=choices, when=when)


def _layouts(operator: str) -> tuple[str, ...]:
    sizes = ("resnet26_small", "resnet26_medium", "resnet26_large", "resnet38", "resnet50")
    return tuple(f"{operator}_{size}" for size in sizes)


def _depths(prefix: str, *depths: int, suffix: str = "") -> tuple[str, ...]:
    return tuple(f"{prefix}_resnet{depth}{suffix}" for depth in depths)


_SWITCH = _choice(False, True)
_HEADS = _choice(1, 2, 4, 8)
_DEPTH = IntDomain(low=29, high=164, step=9)

# Stages with the layer: all single ones, and the runs of stages in code and tables of the papers.
_STAGES_3 = _choice("FFT", "FTF", "TFF", "FTT", "TTF", "TTT")
_STAGES_4 = _choice("FFFT", "FFTF", "FTFF", "TFFF", "FFTT", "FTTF", "TTFF", "FTTT", "TTTF", "TTTT")


def _nonlocal(prefix: str, **when: Scalar | tuple[Scalar, ...]) -> dict[str, Domain]:
    return {
        f"{prefix}every": IntDomain(low=1, high=3, when=when),
        f"{prefix}reduction": _choice(2, 4, 8, **when),
        f"{prefix}pool_keys": _choice(False, True, **when),
        f"{prefix}scaled": _choice(False, True, **when),
    }


def _bias(stages: Domain, nonlocal_stages: tuple[str, ...]) -> dict[str, Domain]:
    """Return the options of a spatial bias, with other kinds of context beside it in a part of the configurations."""
    plain = "F" * len(nonlocal_stages[0])
    return {
        "bias_channels": IntDomain(low=1, high=8),
        "key_size": _choice(1, 3, 5),
        "pooled_size": IntDomain(low=4, high=14, step=2),
        "mixing": _choice("conv1d", "linear"),
        "read_point": _choice("block_input", "conv1_output"),  # not every join point goes with conv2_output
        "join_point": _choice("conv2_input", "conv2_output", "conv3_input"),
        "stages": stages,
        "attention": _choice("none", "se", "cbam", "eca"),
        "attention_reduction": _choice(4, 8, 16, 32),
        "nonlocal_stages": _choice(plain, *nonlocal_stages),
        **_nonlocal("nonlocal_", nonlocal_stages=nonlocal_stages),
    }


def _fcvit(
    kernels: ChoiceDomain, mlp_ratios: ChoiceDomain, *, layer_scale_init: tuple[float, float]
) -> dict[str, Domain]:
    least, most = layer_scale_init
    return {
        "mixer": _choice("fcvit", "pool", "attention", "identity"),
        "kernel_size_1": _choice(*kernels.choices, mixer="fcvit"),
        "mixing_steps": _choice(1, 2, mixer="fcvit"),
        "kernel_size_2": _choice(*kernels.choices, mixing_steps=2),
        "global_context": _choice(False, True, mixer="fcvit"),
        "similarity": _choice(False, True, global_context=True),
        "competition": _choice(False, True, global_context=True),
        "candidates": _choice(2, 3, 4, competition=True),
        "gc_reduction": _choice(4, 8, 16, global_context=True),
        "num_heads": _choice(1, 2, 4, 8, 16, similarity=True),
        "fc_factor": _choice(1, 2, 4, 8, 16, mixer="fcvit"),
        "spatial_attention": _choice(False, True, mixer="fcvit"),
        "channel_attention": _SWITCH,
        "mlp_ratios": mlp_ratios,
        "mlp_depthwise": _SWITCH,
        "mlp_kernel_size": _choice(3, 5, mlp_depthwise=True),
        "norm_layer": _choice("groupnorm1", "layernorm2d", "batchnorm2d"),
        "act_layer": _choice("gelu", "relu", "silu"),
        "layer_scale": _SWITCH,
        "layer_scale_init": FloatDomain(low=least, high=most, log=True, when={"layer_scale": True}),
    }


# The last stages alone, and all of them: attention to windows has most effect in late stages.
_LATE_3 = _choice("FFT", "FTT", "TTT")
_LATE_4 = _choice("FFFT", "FFTT", "FTTT", "TTTT")


def _adaptive(stages: Domain) -> dict[str, Domain]:
    return {
        "num_heads": _HEADS,
        "max_span": IntDomain(low=2, high=8),
        "ramp": FloatDomain(low=1.0, high=4.0),
        "span_init": FloatDomain(low=0.0, high=1.0),
        "span_penalty": FloatDomain(low=1e-4, high=1e-1, log=True),
        "shared_span": _SWITCH,
        "mask_before_softmax": _SWITCH,
        "scaled": _SWITCH,
        "stages": stages,
    }


def _local(stages: Domain) -> dict[str, Domain]:
    return {"num_heads": _HEADS, "kernel_size": _choice(3, 5, 7, 9, 11), "scaled": _SWITCH, "stages": stages}


def _lsas(stages: Domain) -> dict[str, Domain]:
    return {
        "order": IntDomain(low=0, high=5),
        "scale_init": _choice(0.25, 0.5, 1.0),
        "shift_init": _choice(-0.5, 0.0, 0.5),
        **_senet(stages),
    }


def _senet(stages: Domain) -> dict[str, Domain]:
    return {
        "attention": _choice("se", "cbam", "eca", "srm", "spa", "spa_grid"),
        "reduction": _choice(4, 8, 16, 32),
        "stages": stages,
    }


def _attention(stages: Domain) -> dict[str, Domain]:
    return {
        "groups": _choice(1, 2, 4, 8, 16),
        "position_embedding": _choice("classification", "detection", "none"),
        "stages": stages,
        "keep_first_conv": _choice("TTTF", "TTTT"),
        "last_stride": _choice(1, 2),
    }


_CONVS = ("1x1", "grouped", "dcn", "full")
_LESA: Mapping[str, Domain] = {
    **_attention(_choice("FFFT", "FFTT", "FTTT")),
    "unary": _choice("none", *_CONVS),
    "binary": _choice(True, False, unary=_CONVS),
    "fusion": _choice("none", "scalar", "full", binary=True),
    "fusion_shrink": _choice(1, 2, 4, "2-2", fusion=("scalar", "full")),
    "fusion_kernel_sizes": _choice(1, 3, fusion=("scalar", "full")),
    "fusion_groups": _choice(1, 2, 4, 8, fusion="full"),
}

KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "adaptive_span": Kind(
            family="adaptive_span",
            networks=_layouts("adaptive")[:1],
            options=_adaptive(_LATE_3),
            training=training.PARKER,
        ),
        "adaptive_span_large": Kind(
            family="adaptive_span",
            networks=_layouts("adaptive")[1:],
            options=_adaptive(_LATE_4),
            training=training.PARKER,
        ),
        "local_attention": Kind(
            family="local_attention",
            networks=_layouts("local")[:1],
            options=_local(_LATE_3),
            training=training.PARKER,
        ),
        "local_attention_large": Kind(
            family="local_attention",
            networks=_layouts("local")[1:],
            options=_local(_LATE_4),
            training=training.PARKER,
        ),
        "stand_alone": Kind(
            family="local_attention",
            networks=_depths("sasa", 26, 38, 50),
            options={**_local(_LATE_4), "stem": _choice("7x7", "attention")},
            training=training.PARKER,
        ),
        "augmented": Kind(
            family="augmented",
            networks=_layouts("augmented"),
            options={
                "num_heads": _choice(1, 2, 4),
                "dk": _choice(20, 40, 80),
                "dv": _choice(4, 8, 16),
                "relative": _SWITCH,
            },
            training=training.PARKER,
        ),
        "conv": Kind(family="conv", networks=_layouts("conv"), options={}, training=training.PARKER),
        "spatial_bias": Kind(
            family="spatial_bias",
            networks=_depths("sb", 29, 38, 56, 65, 110, 164, suffix="_cifar"),
            options=_bias(_STAGES_3, ("FFT", "FTT")),
            training=training.GO_RYU,
        ),
        "spatial_bias_any_depth": Kind(
            family="spatial_bias",
            networks=("sb_resnet_cifar",),
            options={"depth": _DEPTH, **_bias(_STAGES_3, ("FFT", "FTT"))},
            training=training.GO_RYU,
        ),
        "spatial_bias_large": Kind(
            family="spatial_bias",
            networks=_depths("sb", 50, 101, 152),
            options=_bias(_STAGES_4, ("FFTF", "FTTF")),
            training=training.GO_RYU,
        ),
        "nonlocal": Kind(
            family="nonlocal",
            networks=("nonlocal_resnet56_cifar",),
            options={**_nonlocal(""), "stages": _choice("FFT", "FTF", "FTT", "TTT")},
            training=training.WANG,
        ),
        "nonlocal_any_depth": Kind(
            family="nonlocal",
            networks=("nonlocal_resnet_cifar",),
            options={"depth": _DEPTH, **_nonlocal(""), "stages": _choice("FFT", "FTF", "FTT", "TTT")},
            training=training.WANG,
        ),
        "nonlocal_large": Kind(
            family="nonlocal",
            networks=("nonlocal_resnet50",),
            options={**_nonlocal(""), "stages": _choice("FFTF", "FTFF", "FTTF", "FTTT")},
            training=training.WANG,
        ),
        "fcvit": Kind(
            family="fcvit",
            networks=("fcvit_micro_cifar",),
            options={
                "stem_stride": _choice(1, 2),
                **_fcvit(_choice(3, 5, 7, 9), _choice("4-4-4", "8-8-8", "8-4-4"), layer_scale_init=(1e-6, 1.0)),
            },
            training=training.MA,
        ),
        "fcvit_large": Kind(
            family="fcvit",
            networks=("fcvit_tiny", "fcvit_b12", "fcvit_b24", "fcvit_b48"),
            options=_fcvit(
                _choice(3, 5, 7, 9, 11, 13),
                _choice("8-8-4-4", "4-4-4-4", "8-8-8-8", "4-4-8-8"),
                layer_scale_init=(1e-6, 1e-4),
            ),
            training=training.MA,
        ),
        "lsas": Kind(
            family="lsas",
            networks=_depths("lsas", 29, 47, 56, 110, 164, suffix="_cifar"),
            options=_lsas(_STAGES_3),
            training=training.ZHONG,
        ),
        "lsas_any_depth": Kind(
            family="lsas",
            networks=("lsas_resnet_cifar",),
            options={"depth": _DEPTH, **_lsas(_STAGES_3)},
            training=training.ZHONG,
        ),
        "lsas_large": Kind(
            family="lsas",
            networks=_depths("lsas", 18, 34, 50, 101, 152),
            options=_lsas(_STAGES_4),
            training=training.ZHONG,
        ),
        "senet": Kind(
            family="senet",
            networks=_depths("senet", 29, 47, 56, 110, 164, suffix="_cifar"),
            options=_senet(_STAGES_3),
            training=training.ZHONG,
        ),
        "senet_any_depth": Kind(
            family="senet",
            networks=("senet_resnet_cifar",),
            options={"depth": _DEPTH, **_senet(_STAGES_3)},
            training=training.ZHONG,
        ),
        "senet_large": Kind(
            family="senet",
            networks=_depths("senet", 18, 34, 50, 101, 152),
            options=_senet(_STAGES_4),
            training=training.ZHONG,
        ),
        "lesa": Kind(
            family="lesa",
            networks=("lesa_resnet26_cifar", "lesa_resnet50", "lesa_wrn50"),
            options=_LESA,
            training=training.YANG,
        ),
        "sa": Kind(
            family="sa",
            networks=("sa_resnet26_cifar", "sa_resnet50", "sa_wrn50"),
            options=_attention(_choice("FFFT", "FFTT", "FTTT")),
            training=training.YANG,
        ),
    }
)
"""Every kind by name, each network of this package in exactly one of them."""


def kind_of(network: str) -> str | None:
    """Return the name of the kind of a network; None for a network that this package does not have."""
    return next((name for name, kind in KINDS.items() if network in kind.networks), None)
