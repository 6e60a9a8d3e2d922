"""Training settings that the families vary: ranges around those of the papers.

Source: the recipes of the papers and their code; where a paper names one value, the range around it is ours. Learning
rate and weight decay mean another thing to each optimiser, so each optimiser has its own domains of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from search_spaces.domains import ChoiceDomain, Domain, FloatDomain, IntDomain

__all__ = ["DENSE", "OBJECTS", "SHARED", "around"]

Range = tuple[float, float]


def around(
    optimizers: Mapping[tuple[str, ...], tuple[Range, Range]], *, batch: tuple[int, int], drop_path: float = 0.2
) -> dict[str, Domain]:
    """Return the settings of training that a family varies.

    Args:
        optimizers: Names to the ranges of their learning rate and their weight decay; the first name is the label.
        batch: Range of the global batch size.
        drop_path: Largest rate of stochastic depth.
    """
    domains: dict[str, Domain] = {
        "optimizer": ChoiceDomain(choices=tuple(name for names in optimizers for name in names))
    }
    for names, ((slowest, fastest), (least, most)) in optimizers.items():
        only = {"optimizer": names}
        domains[f"{names[0]}/lr"] = FloatDomain(low=slowest, high=fastest, log=True, when=only)
        domains[f"{names[0]}/weight_decay"] = FloatDomain(low=least, high=most, log=True, when=only)
    return {
        **domains,
        "global_batch_size": IntDomain(low=batch[0], high=batch[1], log=True),
        "lr_schedule": ChoiceDomain(choices=("cosine", "multistep")),
        "label_smoothing": FloatDomain(low=0.0, high=0.2),
        "drop_path_rate": FloatDomain(low=0.0, high=drop_path),
    }


_ADAMW: tuple[Range, Range] = ((3e-4, 1e-2), (0.01, 0.1))
_BLENDS: Mapping[str, Domain] = {"cutmix_alpha": ChoiceDomain(choices=(0.0, 1.0))}

PARKER = around({("sgd",): ((0.01, 0.3), (1e-5, 1e-3)), ("adamw",): _ADAMW}, batch=(16, 256))
"""The span paper and its controls, on small images."""

GO_RYU = {
    **around(
        {("lamb",): ((1e-3, 8e-3), (0.01, 0.05)), ("sgd",): ((0.01, 0.3), (1e-5, 1e-3)), ("adamw",): _ADAMW},
        batch=(16, 1024),
    ),
    **_BLENDS,
}
"""Spatial bias: LAMB at large batches on ImageNet; its settings on small images were not published."""

ZHONG = around({("momentum",): ((0.05, 0.2), (1e-5, 5e-4)), ("adamw",): _ADAMW}, batch=(16, 256))
"""LSAS and SENet, with plain instead of Nesterov momentum."""

YANG = {
    **around({("sgd",): ((0.02, 0.1), (4e-5, 2e-4)), ("adamw",): _ADAMW}, batch=(32, 256)),
    **_BLENDS,
    "mix_prob": ChoiceDomain(choices=(0.5, 1.0), when={"cutmix_alpha": (1.0,)}),
}
"""LESA and self-attention of the same layout; their code has a probability of CutMix."""

MA = {
    **around({("adamw",): ((5e-4, 4e-3), (0.02, 0.1))}, batch=(16, 1024), drop_path=0.3),
    **_BLENDS,
    "mixup_alpha": ChoiceDomain(choices=(0.0, 0.8)),
}
"""FCViT."""

WANG = around({("sgd",): ((0.01, 0.3), (1e-5, 1e-3)), ("adamw",): _ADAMW}, batch=(16, 256))
"""Non-local networks."""

SHARED: Mapping[str, Domain] = MappingProxyType(
    around(
        {("sgd", "momentum"): ((0.01, 0.3), (1e-5, 1e-3)), ("adamw",): _ADAMW, ("lamb",): ((1e-3, 1e-2), (0.01, 0.1))},
        batch=(16, 256),
        drop_path=0.3,
    )
)
"""Settings shared by networks of several families that are searched together."""

_HEADED = around({("adamw",): ((1e-4, 1e-2), (1e-4, 0.1)), ("sgd",): ((5e-3, 0.1), (1e-5, 1e-3))}, batch=(8, 64))
DENSE: Mapping[str, Domain] = MappingProxyType(
    {
        **{name: domain for name, domain in _HEADED.items() if name != "label_smoothing"},
        "lr_schedule": ChoiceDomain(choices=("poly", "cosine")),
        "head": ChoiceDomain(choices=("semantic_fpn", "upernet")),
        "fpn_channels": ChoiceDomain(choices=(32, 64, 128, 256), when={"head": "semantic_fpn"}),
        "head_channels": ChoiceDomain(choices=(32, 64, 128, 256)),
        "head_dropout": FloatDomain(low=0.0, high=0.3),
    }
)
"""Segmentation: widths of the head are those of Semantic FPN and narrower ones, for small images."""

_DETECTORS = around({("adamw",): ((5e-5, 5e-3), (1e-4, 0.1)), ("sgd",): ((2e-3, 0.05), (1e-5, 1e-3))}, batch=(8, 32))
OBJECTS: Mapping[str, Domain] = MappingProxyType(
    {
        **{name: domain for name, domain in _DETECTORS.items() if name != "label_smoothing"},
        "fpn_channels": ChoiceDomain(choices=(64, 128, 256)),
        "head_channels": ChoiceDomain(choices=(256, 512, 1024)),
        "anchor_scale": FloatDomain(low=2.0, high=12.0, log=True),
        "frozen_stages": IntDomain(low=0, high=2),
    }
)
"""Detection, of boxes and of instances: widths are those of torchvision and narrower ones, as are the anchors."""
