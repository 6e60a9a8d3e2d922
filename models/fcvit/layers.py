"""Norms and nonlinearities of FCViT by name, in timm's spelling."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

from timm.layers.norm import LayerNorm2d
from torch import nn

from models.common.options import ModelOptionError, OptionProblem
from models.padding import MapNorm

__all__ = ["ACTS", "NORMS", "ActLayer", "NormLayer", "act_by_name", "norm_by_name", "norm_of_map"]

ActLayer: TypeAlias = Callable[[], nn.Module]
NormLayer: TypeAlias = Callable[[int], nn.Module]


def norm_of_map(dim: int) -> nn.Module:
    """Make a norm over all channels and positions of an image, with a weight and a bias per channel."""
    return MapNorm(1, dim)


def no_norm(dim: int) -> nn.Module:
    """Make an identity."""
    del dim
    return nn.Identity()


NORMS: Mapping[str, NormLayer] = MappingProxyType(
    {"groupnorm1": norm_of_map, "layernorm2d": LayerNorm2d, "batchnorm2d": nn.BatchNorm2d, "none": no_norm}
)
"""Norms of all channels and positions of an image, of the channels of a position, of a channel of the batch."""

ACTS: Mapping[str, ActLayer] = MappingProxyType(
    {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU, "hard_swish": nn.Hardswish}
)


def norm_by_name(name: str) -> NormLayer:
    """Return the function that makes a norm.

    Raises:
        ModelOptionError: There is no such norm.
    """
    if name not in NORMS:
        raise ModelOptionError([_unknown("norm_layer", name, NORMS)])
    return NORMS[name]


def act_by_name(name: str) -> ActLayer:
    """Return the function that makes a nonlinearity.

    Raises:
        ModelOptionError: There is no such nonlinearity.
    """
    if name not in ACTS:
        raise ModelOptionError([_unknown("act_layer", name, ACTS)])
    return ACTS[name]


def _unknown(option: str, given: str, known: Mapping[str, object]) -> OptionProblem:
    rule = f"{option} is one of {', '.join(map(repr, known))}"
    return OptionProblem(option, given, rule, f"Use {next(iter(known))!r}.")
