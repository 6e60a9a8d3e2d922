"""What there is to know about a network before training it: parameters and multiply-accumulates.

Multiply-accumulates are those of convolutions and matrix products, counted on shapes alone, without images.
Attention to windows counts as its formula says, every query against every pixel of its window, whatever the
kernel does to have it; learned windows count at their first size. So does the similarity of FCViT, one product
per channel and position. All else counts as its layers compute it.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import timm
import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from models.adaptive_span import AdaptiveAttention, LocalAttention
from models.catalogue import check_options, create_model, model_family, model_options
from models.fcvit_context import GlobalContext
from models.options import ModelOptionError, OptionValue
from models.registration import COMMON_OPTIONS

__all__ = ["COSTLESS", "ModelCost", "ModelFacts", "model_cost", "model_facts", "model_params"]

FLOPS_PER_MAC = 2
COSTLESS = frozenset(
    {
        "drop_rate",
        "drop_path_rate",
        "proj_drop_rate",
        "layer_scale_init",
        "scale_init",
        "shift_init",
        "span_penalty",
        "zero_init_last",
    }
)
"""Options that change neither the parameters of a network nor what it multiplies."""
_REMEMBERED = 4096  # networks
_ELEMENTWISE = frozenset({nn.BatchNorm2d, nn.GroupNorm, nn.ReLU, nn.GELU, nn.Sigmoid, nn.Dropout, DropPath})


@dataclasses.dataclass(frozen=True)
class ModelFacts:
    """One registered network with its default options.

    Args:
        name: Its registered name.
        family: As `models.model_family` gives it.
        params: Numbers it learns.
        macs: Multiply-accumulates of one image.
        input_size: Channels, height and width of the images it is described for.
        source: Identifier of the paper.
    """

    name: str
    family: str
    params: int
    macs: int
    input_size: tuple[int, int, int]
    source: str


@dataclasses.dataclass(frozen=True)
class ModelCost:
    """How large a network is, whatever it has learned.

    Args:
        params: Numbers it learns.
        macs: Multiply-accumulates of one image.
    """

    params: int
    macs: int


def model_facts(name: str) -> ModelFacts:
    """Looks up and counts a registered network.

    Raises:
        ModelOptionError: There is no such network.
    """
    family = model_family(name)
    cfg = timm.get_pretrained_cfg(name)
    assert cfg is not None
    channels, height, width = cfg.input_size
    cost = _cost(functools.partial(timm.create_model, name), (channels, height, width))
    return ModelFacts(
        name=name,
        family=family,
        params=cost.params,
        macs=cost.macs,
        input_size=(channels, height, width),
        source=str(cfg.paper_ids),
    )


def model_cost(name: str, options: Mapping[str, Any], *, num_classes: int, in_chans: int, image_size: int) -> ModelCost:
    """Counts a network with its options, almost without memory, as `model_facts` counts.

    Takes milliseconds the first time; networks that differ only in what costs nothing are counted once.

    Args:
        name: Its registered name.
        options: Its keywords.
        num_classes: Outputs.
        in_chans: Channels of the images.
        image_size: Side of the images in pixels.

    Raises:
        ModelOptionError: The name or an option is unknown, or a value impossible.
    """
    shape = {"num_classes": num_classes, "in_chans": in_chans, "image_size": image_size}
    return _counted(name, _deciding(name, options, **shape), **shape)


def model_params(name: str, options: Mapping[str, Any], *, num_classes: int, in_chans: int, image_size: int) -> int:
    """Parameters of a network with its options; see `model_cost`, of which it is the cheaper half."""
    shape = {"num_classes": num_classes, "in_chans": in_chans, "image_size": image_size}
    return _counted_params(name, _deciding(name, options, **shape), **shape)


def _deciding(name: str, options: Mapping[str, Any], **shape: int) -> tuple[tuple[str, OptionValue], ...]:
    """The options that decide what a network costs, in one spelling, after all of them were checked."""
    if problems := check_options(name, options, **shape):
        raise ModelOptionError(problems, model=name)
    known = {**COMMON_OPTIONS, **model_options(name)}
    return tuple(sorted((key, known[key].normalise(value)) for key, value in options.items() if key not in COSTLESS))


@functools.lru_cache(_REMEMBERED)
def _counted(name: str, options: tuple[tuple[str, OptionValue], ...], **shape: int) -> ModelCost:
    make = functools.partial(create_model, name, **dict(options), **shape)
    return _cost(make, (shape["in_chans"], shape["image_size"], shape["image_size"]))


@functools.lru_cache(_REMEMBERED)
def _counted_params(name: str, options: tuple[tuple[str, OptionValue], ...], **shape: int) -> int:
    with torch.device("meta"):
        network = create_model(name, **dict(options), **shape)
    return sum(parameter.numel() for parameter in network.parameters())


def _cost(make: Callable[[], nn.Module], input_size: tuple[int, int, int]) -> ModelCost:
    with torch.device("meta"):
        network = make()
    if any(isinstance(module, AdaptiveAttention) for module in network.modules()):
        network = make()  # the values of the spans decide on the windows
    params = sum(parameter.numel() for parameter in network.parameters())
    return ModelCost(params=params, macs=_count_macs(network.eval(), input_size))


def _count_macs(network: nn.Module, input_size: tuple[int, int, int]) -> int:
    """Multiply-accumulates of one image of this many channels, rows and columns; the network is left a shell."""
    windows = _stand_in(network)
    _skip_elementwise(network)
    counter = _ProductCounter()
    # attention in one piece counts as the two matrix products that it is
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        network.to("meta")(torch.empty(1, *input_size, device="meta"))
    return counter.flops // FLOPS_PER_MAC + sum(window.macs for window in windows)


def _stand_in(network: nn.Module) -> list["_Window"]:
    """Replaces what is counted as its formula says; returns what counts attention to windows."""
    windows = []
    for name, module in list(network.named_modules()):
        if isinstance(module, AdaptiveAttention | LocalAttention):
            windows.append(_Window(module))
            network.set_submodule(name, windows[-1])
        elif isinstance(module, GlobalContext):
            module.similarity = functools.partial(_similarity, module.num_heads)  # type: ignore[method-assign]
            module.add = _keep  # type: ignore[method-assign]
    return windows


class _ProductCounter(TorchDispatchMode):
    """Adds up convolutions and matrix products by torch's own formulas, and looks at nothing else.

    torch's `FlopCounterMode` counts the same by module, at several times the cost.

    Attributes:
        flops: Of what was computed inside.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Computes an operation and counts it."""
        del types
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        return out


def _skip_elementwise(network: nn.Module) -> None:
    """Spares the layers that keep the shape of a map and multiply no matrices: on shapes alone they only cost time."""
    for module in network.modules():
        if type(module) in _ELEMENTWISE:
            module.forward = _as_it_is  # type: ignore[method-assign]


def _as_it_is(x: Tensor) -> Tensor:
    return x


def _similarity(num_heads: int, x: Tensor, mean: Tensor) -> Tensor:
    """The products of `GlobalContext.similarity`, head by head."""
    products = mean.unflatten(1, (num_heads, 1, -1)) @ x.flatten(2).unflatten(1, (num_heads, -1))
    return products[:, :, 0]  # type: ignore[no-any-return]


def _keep(x: Tensor, weights: Tensor, context: Tensor) -> Tensor:
    """For `GlobalContext.add`, which is element-wise but in how it is computed."""
    del weights, context
    return x


class _Window(nn.Module):
    """Stands in for attention to windows: the projections are computed, the rest is added up.

    Args:
        attention: The layer it stands in for.
    """

    def __init__(self, attention: AdaptiveAttention | LocalAttention) -> None:
        super().__init__()
        self.qkv = attention.qkv
        if isinstance(attention, AdaptiveAttention):
            self.side = 2 * attention.window_radius() + 1
        else:
            self.side = attention.rel_h.shape[1]
        self.macs = 0

    def forward(self, x: Tensor) -> Tensor:
        """A map of the right shape."""
        values: Tensor
        _, _, values = self.qkv(x).chunk(3, dim=1)
        logits_and_sums = 2
        self.macs += logits_and_sums * self.side**2 * values.numel()
        return values
