"""Registration of networks with timm, and the record of their options.

`register_variants` registers the table of a family: it records name, family and options of each row, and makes the
function that timm calls; a name that timm or another family already has is an error. `build` is the one way from such
a function to a network: it checks every keyword against the record, because timm drops what is None and passes the
rest on unchecked.
"""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from timm.models import PretrainedCfg, build_model_with_cfg, generate_default_cfgs, is_model, register_model
from torch import nn

from models.common.options import (
    ImageShape,
    JointRule,
    ModelOption,
    ModelOptionError,
    OptionProblem,
    UnknownOptionError,
    nearest_name,
    no_joint_rule,
)

__all__ = [
    "ARCHITECTURES",
    "COMMON_OPTIONS",
    "Architecture",
    "Variant",
    "build",
    "default_cfg",
    "register_architecture",
    "register_variants",
]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR100_MEAN, CIFAR100_STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)

COMMON_OPTIONS: Mapping[str, ModelOption] = MappingProxyType(
    {
        option.name: option
        for option in (
            ModelOption(name="num_classes", type=int, default=1000, low=0, description="Outputs; 0 for none."),
            ModelOption(name="in_chans", type=int, default=3, low=1, description="Channels of the images."),
            ModelOption(
                name="drop_rate",
                type=float,
                default=0.0,
                low=0.0,
                high=1.0,
                description="Dropout before the classifier.",
            ),
            ModelOption(
                name="drop_path_rate",
                type=float,
                default=0.0,
                low=0.0,
                high=0.99,
                description="Stochastic depth of the last block.",
            ),
            ModelOption(
                name="global_pool",
                type=str,
                default="avg",
                choices=("avg", "max", "avgmax", "catavgmax", ""),
                description="Pooling before the classifier; empty for none.",
            ),
        )
    }
)
"""Keywords that timm gives every network; `ModelOption.default` is only a fallback there."""

TIMM_BUILD_KEYWORDS = frozenset(
    {
        "cache_dir",
        "feature_cls",
        "features_only",
        "out_indices",
        "output_fmt",
        "pretrained_cfg",
        "pretrained_cfg_overlay",
        "pretrained_model_args",
        "pretrained_strict",
    }
)
"""Keywords of timm's builder, which pass through unchecked."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
    """Record of a registered network.

    Args:
        name: Name in timm's registry.
        family: Paper it belongs to, as in `models.from_authors`.
        options: Explicit keywords beyond timm's common ones.
        joint_rule: Check that involves more than one option, or the images.
    """

    name: str
    family: str
    options: Mapping[str, ModelOption]
    joint_rule: JointRule = no_joint_rule

    def problems(self, given: Mapping[str, object], image: ImageShape | None = None) -> list[OptionProblem]:
        """Return all problems with the options given for this network, without building it."""
        known = {**COMMON_OPTIONS, **self.options}
        problems = []
        values = {name: option.default for name, option in self.options.items()}
        for name, value in given.items():
            if name not in known:
                problems.append(self._unknown(name, value))
                continue
            problem = known[name].problem(value)
            if problem is not None:
                problems.append(problem)
            else:
                values[name] = known[name].normalise(value)
        return problems or list(self.joint_rule(values, image))

    def _unknown(self, name: str, value: object) -> OptionProblem:
        nearest = nearest_name(name, [*self.options, *COMMON_OPTIONS])
        allowed = ", ".join(self.options) or "none of its own"
        remedy = f"Did you mean {nearest!r}?" if nearest else f"Its options: {allowed}."
        return OptionProblem(name, value, f"{self.name} has no option of this name", remedy)


ARCHITECTURES: dict[str, Architecture] = {}
"""All networks of this package by name, filled as the family modules are imported."""

EntryPoint = TypeVar("EntryPoint", bound=Callable[..., nn.Module])
FixedKeywords = Mapping[str, Any] | Callable[[Mapping[str, Any]], Mapping[str, Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
    """Row of a family's table: one network to be registered.

    Args:
        name: Name in timm's registry.
        summary: First docstring line of its entry point.
        network: Class of the network.
        fixed: Keywords that make this variant and that a caller cannot change; a function of the caller's keywords
            where they decide on them.
        defaults: Keywords that a caller may change, where the variant has other defaults than the class.
        options: Explicit keywords beyond timm's common ones.
        consumed: Options that only `fixed` reads: the class does not take them.
        joint_rule: Check that involves more than one option, or the images.
        cfg: Description for timm, as `default_cfg` makes it.
    """

    name: str
    summary: str
    network: type[nn.Module]
    fixed: FixedKeywords
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    options: Sequence[ModelOption] = ()
    consumed: Sequence[str] = ()
    joint_rule: JointRule = no_joint_rule
    cfg: PretrainedCfg


def register_variants(family: str, variants: Sequence[Variant], *, module: str) -> None:
    """Register a family's table: make an entry point for each row, as a function of the family's module.

    timm reads descriptions and adds names where an entry point is defined, so the module gets `default_cfgs` too.

    Args:
        family: Paper the networks belong to, as in `models.from_authors`.
        variants: Rows of the table.
        module: `__name__` of the module that holds the table.

    Raises:
        RuntimeError: timm, or another module of this package, has a network of one of the names.
    """
    namespace = vars(sys.modules[module])
    namespace["default_cfgs"] = generate_default_cfgs({variant.name: variant.cfg for variant in variants})
    for variant in variants:
        register = register_architecture(family=family, options=variant.options, joint_rule=variant.joint_rule)
        namespace[variant.name] = register(_entry_point(variant, module))


def _entry_point(variant: Variant, module: str) -> Callable[..., nn.Module]:
    """Make the function that timm calls to build a variant."""

    def entry_point(pretrained: bool = False, **given: Any) -> nn.Module:
        given = {**variant.defaults, **given}
        fixed = variant.fixed(given) if callable(variant.fixed) else variant.fixed
        return build(
            variant.name, variant.network, pretrained=pretrained, given=given, consumed=variant.consumed, **fixed
        )

    entry_point.__name__ = entry_point.__qualname__ = variant.name
    entry_point.__module__, entry_point.__doc__ = module, variant.summary
    return entry_point


def register_architecture(
    *, family: str, options: Sequence[ModelOption] = (), joint_rule: JointRule = no_joint_rule
) -> Callable[[EntryPoint], EntryPoint]:
    """Make a decorator that registers a function with timm and here, under its own name.

    Args:
        family: Paper the network belongs to, as in `models.from_authors`.
        options: Explicit keywords beyond timm's common ones.
        joint_rule: Check that involves more than one option, or the images.

    Raises:
        RuntimeError: Raised by the decorator: timm, or another module of this package, has a network of that name.
    """

    def register(function: EntryPoint) -> EntryPoint:
        name = function.__name__
        if is_model(name):
            raise RuntimeError(f"timm already has a network named {name!r}: rename the one in {function.__module__}")
        by_name = MappingProxyType({option.name: option for option in options})
        ARCHITECTURES[name] = Architecture(name=name, family=family, options=by_name, joint_rule=joint_rule)
        register_model(function)
        return function

    return register


def build(
    name: str,
    network: type[nn.Module],
    *,
    pretrained: bool,
    given: dict[str, Any],
    consumed: Sequence[str] = (),
    **fixed: Any,
) -> nn.Module:
    """Build a registered network through timm after checking the keywords given for it.

    Args:
        name: Registered name.
        network: Class of the network.
        pretrained: True for weights, which timm reports as missing.
        given: Keywords of the caller, with timm's `device` and `dtype` of the parameters.
        consumed: Keywords of the caller that are checked, and not passed to the class.
        fixed: Keywords that make this variant and that a caller cannot change.

    Raises:
        ModelOptionError: A keyword is unknown, which is a `TypeError` as well, or its value impossible.
    """
    architecture = ARCHITECTURES[name]
    device, dtype = given.pop("device", None), given.pop("dtype", None)
    options = {key: value for key, value in given.items() if key not in TIMM_BUILD_KEYWORDS}
    problems = architecture.problems(options)
    known = {**COMMON_OPTIONS, **architecture.options}
    if problems:
        raise (ModelOptionError if options.keys() <= known.keys() else UnknownOptionError)(problems, model=name)
    normalised = {key: known[key].normalise(value) for key, value in options.items()}
    passed = {key: value for key, value in {**given, **normalised, **fixed}.items() if key not in consumed}
    stages = tuple(range(len(fixed["depths"])))
    with contextlib.nullcontext() if device is None else torch.device(device):
        built: nn.Module = build_model_with_cfg(
            network,
            name,
            pretrained,
            feature_cfg={"out_indices": stages, "feature_cls": "getter"},
            **passed,
        )
    return built if dtype is None else built.to(dtype=dtype)


def default_cfg(
    *,
    small_image: bool,
    reduction: int,
    crop_pct: float | None = None,
    interpolation: str = "bicubic",
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    **extra: Any,
) -> PretrainedCfg:
    """Describe a network of this package to timm: input, classes, normalisation, first and last layer.

    Small images are those of CIFAR-100, 32 px; large ones those of ImageNet, 224 px.

    Args:
        small_image: True for small images.
        reduction: Side of the image over that of the last map.
        crop_pct: Side of the crop over that of the image; 1 for small and 0.95 for large images when left out.
        interpolation: Interpolation of images that are resized in evaluation.
        mean: Mean of each channel, of pixels in [0, 1]; of CIFAR-100 or ImageNet when left out.
        std: Standard deviation of each channel, likewise.
        extra: Further entries, such as `paper_ids`.
    """
    side = 32 if small_image else 224
    usual_crop = 1.0 if small_image else 0.95
    return PretrainedCfg(
        url="",
        num_classes=100 if small_image else 1000,
        input_size=(3, side, side),
        min_input_size=(3, 8, 8) if small_image else (3, 32, 32),
        pool_size=(side // reduction, side // reduction),
        crop_pct=usual_crop if crop_pct is None else crop_pct,
        interpolation=interpolation,
        mean=mean or (CIFAR100_MEAN if small_image else IMAGENET_MEAN),
        std=std or (CIFAR100_STD if small_image else IMAGENET_STD),
        first_conv="stem.conv",
        classifier="head.fc",
        **extra,
    )
