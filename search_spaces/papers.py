"""Configurations of the papers, by kind of network, which a search tries first.

Each is what the paper or its code names, and nothing that it leaves open. Source: the commands and defaults of the
authors' code, as in `orchestrator/config/recipes`, which hold the rest of each set-up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from search_spaces.domains import Scalar
from search_spaces.families import kind_of

__all__ = ["PaperSetting", "paper_settings"]


@dataclass(frozen=True)
class PaperSetting:
    """Published configuration of a network.

    Args:
        source: Paper, and the place in it or its code.
        settings: Values by setting: options of the network and fields of training.
    """

    source: str
    settings: Mapping[str, Scalar]


def paper_settings(network: str) -> tuple[PaperSetting, ...]:
    """Return the published configurations for networks of this kind, the best known first.

    None are known for a network that this package does not have.
    """
    return _PAPERS.get(kind_of(network) or "", ())


_PARKER = "Parker et al. 2020 (arXiv 2004.08708)"
_GO_RYU = "Go and Ryu 2023 (arXiv 2302.12505)"
_MA = "Ma et al. 2022 (arXiv 2212.12552)"
_ZHONG = "Zhong et al. 2023 (arXiv 2305.05200)"
_YANG = "Yang et al. 2021 (arXiv 2107.05637)"
_WANG = "Wang et al. 2018 (arXiv 1711.07971)"

Settings = Mapping[str, Scalar]

_PLAIN: Settings = {"label_smoothing": 0.0, "drop_path_rate": 0.0}
_PARKER_TRAINING: Settings = {
    **_PLAIN,
    "optimizer": "sgd",
    "lr": 0.05,
    "weight_decay": 5e-4,
    "global_batch_size": 50,
    "lr_schedule": "cosine",
}
_SPAN: Settings = {
    "num_heads": 4,
    "max_span": 5,
    "ramp": 2.0,
    "span_init": 0.1,
    "span_penalty": 0.01,
    "shared_span": False,
    "mask_before_softmax": False,
    "scaled": False,
}
_AUGMENTED: Settings = {"num_heads": 4, "dk": 40, "dv": 4, "relative": False}

_BIAS: Settings = {
    "bias_channels": 3,
    "key_size": 3,
    "mixing": "conv1d",
    "read_point": "conv1_output",
    "join_point": "conv2_output",
    "attention": "none",
}
_NONLOCAL: Settings = {"every": 2, "reduction": 2, "pool_keys": False, "scaled": True}

_SENET: Settings = {"attention": "se", "reduction": 16}
_LSAS: Settings = {"order": 1, "scale_init": 0.5, "shift_init": -0.5, **_SENET}
_ZHONG_TRAINING: Settings = {
    **_PLAIN,
    "optimizer": "momentum",
    "lr": 0.1,
    "weight_decay": 1e-4,
    "global_batch_size": 128,
    "lr_schedule": "multistep",
}

_ATTENTION: Settings = {
    "groups": 8,
    "position_embedding": "classification",
    "stages": "FFTT",
    "keep_first_conv": "TTTF",
    "last_stride": 1,
}
_LESA: Settings = {
    **_ATTENTION,
    "unary": "grouped",
    "binary": True,
    "fusion": "full",
    "fusion_shrink": 2,
    "fusion_kernel_sizes": 1,
    "fusion_groups": 1,
}
_YANG_TRAINING: Settings = {
    **_PLAIN,
    "optimizer": "sgd",
    "lr": 0.05,
    "weight_decay": 8e-5,
    "global_batch_size": 128,
    "lr_schedule": "cosine",
    "cutmix_alpha": 0.0,
}

_FCVIT: Settings = {
    "mixer": "fcvit",
    "kernel_size_1": 11,
    "kernel_size_2": 11,
    "mixing_steps": 2,
    "global_context": True,
    "similarity": True,
    "competition": True,
    "candidates": 2,
    "gc_reduction": 8,
    "num_heads": 8,
    "fc_factor": 8,
    "spatial_attention": False,
    "channel_attention": False,
    "mlp_depthwise": True,
    "mlp_kernel_size": 3,
    "norm_layer": "groupnorm1",
    "act_layer": "gelu",
    "layer_scale": True,
    "layer_scale_init": 1e-5,
    "optimizer": "adamw",
    "lr": 1e-3,
    "weight_decay": 0.05,
    "global_batch_size": 1024,
    "lr_schedule": "cosine",
    "label_smoothing": 0.1,
    "drop_path_rate": 0.1,
    "mixup_alpha": 0.8,
    "cutmix_alpha": 1.0,
}


def _fcvit(settings: Settings) -> tuple[PaperSetting, ...]:
    return (
        PaperSetting(f"{_MA}, command of the code", settings),
        PaperSetting(f"{_MA}, the learning rate its code calls better at times", {**settings, "lr": 2e-3}),
    )


def _zhong(settings: Settings, stages: str, *, images: str, batch: int) -> PaperSetting:
    given = {**settings, "stages": stages, **_ZHONG_TRAINING, "global_batch_size": batch}
    return PaperSetting(f"{_ZHONG}, on {images}", given)


_LSAS_SMALL = (
    _zhong(_LSAS, "FFT", images="CIFAR", batch=128),
    _zhong({**_LSAS, "order": 0}, "FFT", images="CIFAR without sub-attention", batch=128),
    _zhong(_LSAS, "FFT", images="STL10", batch=16),
)
_SENET_SMALL = (
    _zhong(_SENET, "TTT", images="CIFAR", batch=128),
    _zhong(_SENET, "TTT", images="STL10", batch=16),
)
_NONLOCAL_SMALL = (PaperSetting(f"{_WANG}, its rule on small images", {**_NONLOCAL, "stages": "FTT"}),)
_BIAS_SMALL = tuple(
    PaperSetting(
        f"{_GO_RYU}, on CIFAR-100, {words}", {**_BIAS, "pooled_size": 6, "stages": stages, "nonlocal_stages": "FFF"}
    )
    for stages, words in (("TTT", "bias in all stages"), ("TTF", "in the first two"), ("TFF", "in the first"))
)


def _parker(stages: str) -> tuple[PaperSetting, ...]:
    """Return the configurations of adaptive attention in all of the stages."""
    by_default = {**_PARKER_TRAINING, "lr": 0.1, "weight_decay": 1e-4, "global_batch_size": 25}
    return (
        PaperSetting(f"{_PARKER}, best medium network", {**_SPAN, "stages": stages, **_PARKER_TRAINING}),
        PaperSetting(
            f"{_PARKER}, defaults of the code",
            {**_SPAN, "num_heads": 1, "ramp": 3.0, "span_penalty": 1e-3, "stages": stages, **by_default},
        ),
    )


def _local(stages: str) -> tuple[PaperSetting, ...]:
    """Return the configurations of local attention in all of the stages."""
    window: Settings = {"scaled": False, "stages": stages}
    return (
        PaperSetting(
            f"{_PARKER}, best medium network", {"num_heads": 4, "kernel_size": 5, **window, **_PARKER_TRAINING}
        ),
        _ramachandran(window),
    )


def _ramachandran(window: Settings) -> PaperSetting:
    return PaperSetting("Ramachandran et al. 2019 (arXiv 1906.05909)", {"num_heads": 8, "kernel_size": 7, **window})


_PAPERS: Mapping[str, tuple[PaperSetting, ...]] = MappingProxyType(
    {
        "adaptive_span": _parker("TTT"),
        "adaptive_span_large": _parker("TTTT"),
        "local_attention": _local("TTT"),
        "local_attention_large": _local("TTTT"),
        "stand_alone": (
            _ramachandran({"scaled": False, "stages": "TTTT", "stem": "7x7"}),
            _ramachandran({"scaled": False, "stages": "TTTT", "stem": "attention"}),
        ),
        "augmented": (PaperSetting(f"{_PARKER}, code", _AUGMENTED),),
        "conv": (
            PaperSetting(f"{_PARKER}, best medium network", {**_PARKER_TRAINING, "lr": 0.2, "weight_decay": 1e-4}),
        ),
        "spatial_bias": _BIAS_SMALL,
        "spatial_bias_any_depth": _BIAS_SMALL,
        "spatial_bias_large": (
            PaperSetting(
                f"{_GO_RYU}, on ImageNet",
                {
                    **_BIAS,
                    "pooled_size": 10,
                    "stages": "TTTF",
                    "nonlocal_stages": "FFFF",
                    "optimizer": "lamb",
                    "lr": 3.5e-3,
                    "weight_decay": 0.02,
                    "global_batch_size": 1024,
                    "lr_schedule": "cosine",
                    "label_smoothing": 0.0,
                    "drop_path_rate": 0.05,
                    "cutmix_alpha": 1.0,
                },
            ),
        ),
        "nonlocal": _NONLOCAL_SMALL,
        "nonlocal_any_depth": _NONLOCAL_SMALL,
        "nonlocal_large": (PaperSetting(f"{_WANG}, on ResNet-50", {**_NONLOCAL, "stages": "FTTF"}),),
        "fcvit": _fcvit(_FCVIT),
        "fcvit_large": _fcvit({**_FCVIT, "mlp_ratios": "8-8-4-4"}),
        "lsas": _LSAS_SMALL,
        "lsas_any_depth": _LSAS_SMALL,
        "lsas_large": (_zhong(_LSAS, "FFTT", images="ImageNet", batch=256),),
        "senet": _SENET_SMALL,
        "senet_any_depth": _SENET_SMALL,
        "senet_large": (_zhong(_SENET, "TTTT", images="ImageNet", batch=256),),
        "lesa": (PaperSetting(f"{_YANG}, on ImageNet", {**_LESA, **_YANG_TRAINING}),),
        "sa": (PaperSetting(f"{_YANG}, its self-attention alone", {**_ATTENTION, **_YANG_TRAINING}),),
    }
)
