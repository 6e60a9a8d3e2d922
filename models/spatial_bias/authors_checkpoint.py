"""Spatial bias: keys and constructor arguments of GoJunHyeong/SpatialBias (commit 9952348)."""

import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from models.common.resnet import BOTTLENECK_DEPTHS, trunk
from models.registry.authors.family import AuthorsFamily, AuthorsOptionError, Entry, check_arguments, register_family
from models.registry.authors.resnet_keys import TORCHVISION_PARTS, rename
from models.spatial_bias.network import SpatialBiasResNet

POOLED_SIZE = 10  # for every image in their code
ADDITIONS = {"mixing": "conv1d", "read_point": "conv1_output", "join_point": "conv2_output", "attention": "none"}
DEFAULTS: Mapping[str, Any] = {"bottleneck": False, "gc_group": (False, False, False, False)}
REQUIRED = ("dataset", "depth", "num_classes")

PARTS: Mapping[str, str] = {
    **TORCHVISION_PARTS,
    "spatial": "conv2",
    "spatial.conv": "conv2",
    "spatial.bias.reduce.conv": "SB.feature_reduction.0",
    "spatial.bias.reduce.bn": "SB.feature_reduction.1",
    "spatial.bias.mix": "SB.sb_conv",
    "bn": "bn2",
}


def build(options: Mapping[str, Any]) -> nn.Module:
    """Build our network for the arguments of theirs.

    Raises:
        AuthorsOptionError: An argument is unknown or missing, or their code makes no network of them either.
    """
    check_arguments("spatial_bias", options, known=DEFAULTS, required=REQUIRED)
    given = {**DEFAULTS, **options}
    depth = int(given["depth"])
    flags = [bool(flag) for flag in given["gc_group"]]
    if given["dataset"] == "imagenet":
        if depth not in BOTTLENECK_DEPTHS:
            raise AuthorsOptionError(f"spatial_bias: depth {depth}; bottleneck depths are {sorted(BOTTLENECK_DEPTHS)}")
        return SpatialBiasResNet(
            depths=BOTTLENECK_DEPTHS[depth],
            **trunk(large_image=True),
            pooled_size=POOLED_SIZE,
            stages=flags[:4],
            num_classes=given["num_classes"],
        )
    if not str(given["dataset"]).startswith("cifar") or not given["bottleneck"] or depth < 11:
        rule = "CIFAR networks are bottlenecks of depth 11 and more (their basic block cannot be built)"
        raise AuthorsOptionError(f"spatial_bias: {dict(options)}; {rule}")
    return SpatialBiasResNet(
        depths=((depth - 2) // 9,) * 3,
        **trunk(large_image=False),
        pooled_size=POOLED_SIZE,
        stages=flags[:3],
        num_classes=given["num_classes"],
    )


def entries(network: nn.Module) -> dict[str, Entry]:
    """Return their keys; every one of them is one of ours.

    Raises:
        AuthorsOptionError: The network has non-local blocks or another addition that their code does not.
    """
    assert isinstance(network, SpatialBiasResNet)
    if network.has_nonlocal:
        raise AuthorsOptionError("spatial_bias: their code has no non-local blocks, this network does")
    if others := [f"{key} {value!r}" for key, value in network.additions.items() if value != ADDITIONS[key]]:
        raise AuthorsOptionError(f"spatial_bias: their code has no {' or '.join(others)}")
    keys = network.state_dict()
    return {rename(key, stage="layer{next_stage}", parts=PARTS): Entry(key) for key in keys}


def options_of(name: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Return the pooled size of a checkpoint, whose mixing has one channel per cell of the grid."""
    del name
    cells = next((shape[0] for key, shape in shapes.items() if key.endswith("SB.sb_conv.weight")), 0)
    side = math.isqrt(cells)
    return {"pooled_size": side} if side and side**2 == cells else {}


register_family(
    AuthorsFamily(
        name="spatial_bias",
        networks=(SpatialBiasResNet,),
        build=build,
        entries=entries,
        options_of=options_of,
    )
)
