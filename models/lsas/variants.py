"""Registered networks of the sub-attention paper: LSAS networks, and SENets of the same shapes as controls.

An `lsas_` network has gates with sub-attention in its last stage (small images) or its last two (large ones),
as released; a `senet_` network has a plain channel attention in every stage, squeeze-and-excitation unless `attention`
names another. To separate the effect of sub-attention from that of the stages, set `order=0` in the former.
`lsas_resnet_cifar` and `senet_resnet_cifar` take their depth as an option.

Source: Zhong et al. 2023 (arXiv 2305.05200), with the shapes of the authors' code.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from models.common.options import ModelOption
from models.common.resnet import BOTTLENECK_DEPTHS, depth_option, depth_rule, small_image_depths
from models.lsas.network import LsasResNet
from models.lsas.options import (
    BLOCK,
    CIFAR_DEPTHS,
    LSAS_OPTIONS,
    SENET_OPTIONS,
    depth_fits,
    gated_stages,
)
from models.registry.architectures import Variant, default_cfg, register_variants

__all__ = ["LARGE_BLOCKS", "VARIANTS"]

LARGE_BLOCKS: Mapping[int, tuple[str, tuple[int, ...]]] = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    **{depth: ("bottleneck", BOTTLENECK_DEPTHS[depth]) for depth in (50, 101, 152)},
}
"""Kind and number of the blocks of a large-image network, by depth."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gates:
    """Gates of a kind of network: their name, paper and options, and the stages that have them.

    Args:
        prefix: First part of the names of the networks.
        paper_ids: Identifier of the paper.
        options: Options of the gates.
        fixed: Keywords of the gates that a caller cannot change.
        large_stages: Flag of each stage of a large-image network.
        cifar_stages: Flag of each stage of a small-image network.
        large_words: Gates of a large-image network in words.
        cifar_words: Gates of a small-image network in words.
    """

    prefix: str
    paper_ids: str
    options: Sequence[ModelOption]
    fixed: Mapping[str, Any]
    large_stages: tuple[bool, ...]
    cifar_stages: tuple[bool, ...]
    large_words: str
    cifar_words: str


LSAS = Gates(
    prefix="lsas",
    paper_ids="arXiv:2305.05200",
    options=LSAS_OPTIONS,
    fixed={},
    large_stages=(False, False, True, True),
    cifar_stages=(False, False, True),
    large_words="sub-attention in the last two stages",
    cifar_words="sub-attention in the last stage",
)
SENET = Gates(
    prefix="senet",
    paper_ids="arXiv:1709.01507",
    options=SENET_OPTIONS,
    fixed={"order": 0},
    large_stages=(True, True, True, True),
    cifar_stages=(True, True, True),
    large_words="squeeze-and-excitation in every stage",
    cifar_words="squeeze-and-excitation in every stage",
)

AUTHORS_MEAN, AUTHORS_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
"""Normalisation of all small images in the authors' script."""


def _large(gates: Gates, depth: int) -> Variant:
    block, depths = LARGE_BLOCKS[depth]
    return Variant(
        name=f"{gates.prefix}_resnet{depth}",
        summary=f"ResNet{depth}, {gates.large_words}.",
        network=LsasResNet,
        fixed={"depths": depths, "block": block, "large_image": True, **gates.fixed},
        defaults={"stages": gates.large_stages},
        options=(*gates.options, gated_stages(gates.large_stages)),
        cfg=default_cfg(
            small_image=False,
            reduction=32,
            crop_pct=0.875,
            interpolation="bilinear",
            paper_ids=gates.paper_ids,
            origin_url="https://github.com/Qrange-group/LSAS",
            description=f"ResNet{depth}, large images",
        ),
    )


def _cifar(gates: Gates, depth: int, *, is_open: bool = False) -> Variant:
    """Return the small-image network of a depth, or the one that takes its depth as an option, with a default."""
    name = f"{gates.prefix}_resnet_cifar" if is_open else f"{gates.prefix}_resnet{depth}_cifar"
    words = "ResNet of any depth" if is_open else f"ResNet{depth}"
    return Variant(
        name=name,
        summary=f"Small-image {words}, {gates.cifar_words}.",
        network=LsasResNet,
        fixed=functools.partial(_cifar_shape, depth, gates),
        defaults={"stages": gates.cifar_stages},
        options=(
            *gates.options,
            gated_stages(gates.cifar_stages),
            BLOCK,
            *((depth_option(depth),) if is_open else ()),
        ),
        consumed=("depth",) if is_open else (),
        joint_rule=depth_rule if is_open else depth_fits(depth),
        cfg=default_cfg(
            small_image=True,
            reduction=4,
            mean=AUTHORS_MEAN,
            std=AUTHORS_STD,
            paper_ids=gates.paper_ids,
            origin_url="https://github.com/Qrange-group/LSAS",
            description=f"{words}, small images",
        ),
    )


def _cifar_shape(depth: int, gates: Gates, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the fixed keywords for the caller's block and depth, of which the joint rule reports impossible ones."""
    return {"depths": small_image_depths(given, default=depth), "large_image": False, **gates.fixed}


VARIANTS = [
    *(_large(gates, depth) for gates in (LSAS, SENET) for depth in LARGE_BLOCKS),
    *(_cifar(gates, depth) for gates in (LSAS, SENET) for depth in CIFAR_DEPTHS),
    *(_cifar(gates, 164, is_open=True) for gates in (LSAS, SENET)),
]

register_variants("lsas", VARIANTS, module=__name__)
