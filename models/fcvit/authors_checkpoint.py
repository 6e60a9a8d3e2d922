"""FCViT: keys and constructor arguments of ma-xu/FCViT (commit 77e5a9d15de7).

Their four factories take the arguments of their network class (`BaseFormer`) except its shape; the class takes
them all. The switches of the blocks travel in a nested dictionary, `params`, of which any part may be given.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from models.common.options import ModelOptionError
from models.fcvit.block import PatchEmbed, norm_of_map
from models.fcvit.network import FCViT
from models.fcvit.variants import LARGE_SHAPES
from models.registry.authors.family import AuthorsFamily, AuthorsOptionError, Entry, check_arguments, register_family

NETWORK_CLASS = "BaseFormer"
FACTORIES = tuple(LARGE_SHAPES)
SHAPE_ARGUMENTS = {
    "layers": "depths",
    "embed_dims": "embed_dims",
    "mlp_ratios": "mlp_ratios",
    "downsamples": "downsamples",
}
DEFAULTS: Mapping[str, Any] = {
    "num_classes": 1000,
    "drop_rate": 0.0,
    "drop_path_rate": 0.0,
    "use_layer_scale": True,
    "layer_scale_init_value": 1e-5,
    "act_layer": "GELU",
    "norm_layer": "GroupNorm",
    "params": None,
    "fork_feat": False,
    "init_cfg": None,
    "pretrained": None,
}

PARAMS: Mapping[str, tuple[str, Any, Any]] = {
    "global_context.weighted_gc": ("similarity", True, True),
    "global_context.gc_reduction": ("gc_reduction", 8, 8),
    "global_context.compete": ("competition", False, True),
    "global_context.head": ("num_heads", 8, 8),
    "spatial_mixer.use_globalcontext": ("global_context", True, True),
    "spatial_mixer.useSecondTokenMix": ("mixing_steps", True, True),
    "spatial_mixer.mix_size_1": ("kernel_size_1", 5, 11),
    "spatial_mixer.mix_size_2": ("kernel_size_2", 7, 11),
    "spatial_mixer.fc_factor": ("fc_factor", 8, 8),
    "spatial_mixer.fc_min_value": ("fc_min_chs", 16, 16),
    "spatial_mixer.useSpatialAtt": ("spatial_attention", True, False),
    "channel_mixer.useChannelAtt": ("channel_attention", True, False),
    "channel_mixer.useDWconv": ("mlp_depthwise", True, True),
    "channel_mixer.DWconv_size": ("mlp_kernel_size", 3, 3),
    "spatial_att.kernel_size": ("spatial_kernel_size", 3, 3),
    "spatial_att.dim_reduction": ("spatial_reduction", 8, 8),
    "channel_att.size_1": ("channel_kernel_size_1", 3, 3),
    "channel_att.size_2": ("channel_kernel_size_2", 5, 5),
}
"""Their entry of `params`: our keyword, its value in their class by default, and in their factories."""

ACT_LAYERS: Mapping[str, Any] = {
    name: getattr(nn, name) for name in ("GELU", "ReLU", "SiLU", "Mish", "ELU", "LeakyReLU", "Hardswish", "Identity")
}
NORM_LAYERS: Mapping[str, Any] = {
    "GroupNorm": norm_of_map,
    "BatchNorm2d": nn.BatchNorm2d,
    "InstanceNorm2d": nn.InstanceNorm2d,
}

PARTS = (
    (".conv.", ".proj."),
    (".bn.", ".norm."),
    (".steps.0.context.", ".gc1."),
    (".steps.1.context.", ".gc2."),
    (".steps.0.depthwise.", ".dw1."),
    (".steps.1.depthwise.", ".dw2."),
    (".steps.0.pointwise.", ".fc1."),
    (".steps.1.pointwise.", ".fc2."),
    (".spatial_attention.gate.", ".spatial_att.spatial_att."),
    (".channel_mixer.expand.", ".channel_mixer.fc1."),
    (".channel_mixer.depthwise.", ".channel_mixer.dwconv."),
    (".channel_mixer.reduce.", ".channel_mixer.fc2."),
    (".channel_attention.conv", ".channel_att.channelConv"),
)
"""Pieces of the path below a block or an embedding, ours and theirs, replaced in this order."""

MAP_NORM = re.compile(r"norm\d+\.(weight|bias)")

CONTEXT_PARTS = {
    True: {".scale": ".rescale_weight", ".shift": ".rescale_bias", ".squeeze.": ".fc1.", ".expand.": ".fc2."},
    False: {".scale": ".rescale_weight", ".shift": ".rescale_bias", ".squeeze.": ".fc.0.", ".expand.": ".fc.2."},
}
"""The same inside a global context, with and without competition."""


def build(options: Mapping[str, Any]) -> nn.Module:
    """Build our network for the arguments of theirs.

    Args:
        options: `factory` is one of theirs or their class, `BaseFormer`, which it is when left out; the rest
            are arguments under their names. Layers are named by their class, such as `GELU`.

    Raises:
        AuthorsOptionError: An argument is unknown or missing, or there is no such network here.
    """
    given = dict(options)
    factory = str(given.pop("factory", NETWORK_CLASS))
    params = _flat_params(given)
    if factory not in (*FACTORIES, NETWORK_CLASS):
        raise AuthorsOptionError(f"fcvit: unknown factory {factory!r}; known are {[*FACTORIES, NETWORK_CLASS]}")
    shape: dict[str, Any] = {} if factory == NETWORK_CLASS else {**LARGE_SHAPES[factory]}
    needed = SHAPE_ARGUMENTS if factory == NETWORK_CLASS else ()
    check_arguments("fcvit", given, known=DEFAULTS, required=needed)
    if needed:
        shape = {ours: tuple(given.pop(name)) for name, ours in SHAPE_ARGUMENTS.items()}
    given = {**DEFAULTS, **given}
    if given["fork_feat"]:
        raise AuthorsOptionError("fcvit: fork_feat is true; there is no classifier. Use features_only=True of timm")
    scale = given["layer_scale_init_value"] if given["use_layer_scale"] else None
    switches = _switches(params, released=factory != NETWORK_CLASS)
    try:
        return FCViT(
            **shape,
            **switches,
            num_classes=given["num_classes"],
            proj_drop_rate=given["drop_rate"],
            drop_path_rate=given["drop_path_rate"],
            layer_scale_init=scale,
            act_layer=_layer("act_layer", given["act_layer"], ACT_LAYERS),
            norm_layer=_layer("norm_layer", given["norm_layer"], NORM_LAYERS),
        )
    except (ModelOptionError, ValueError) as error:
        raise AuthorsOptionError(f"fcvit: {error}") from error


def _layer(argument: str, given: Any, known: Mapping[str, Any]) -> Any:
    """Return a layer by its name or, as they pass it, by its class."""
    name = given if isinstance(given, str) else getattr(given, "__name__", repr(given))
    name = name.rpartition(".")[2]
    if name not in known:
        raise AuthorsOptionError(f"fcvit: {argument} is {given!r}; known are {sorted(known)}")
    return known[name]


def _flat_params(given: dict[str, Any]) -> dict[str, Any]:
    """Remove their switches from the arguments and return them by path.

    They stand in `params`, in a group of it, or alone.
    """
    flat: dict[str, Any] = {}
    for group, part in {**(given.pop("params", None) or {})}.items():
        flat |= {f"{group}.{name}": value for name, value in dict(part).items()}
    for path in PARAMS:
        group, _, name = path.partition(".")
        if isinstance(given.get(group), Mapping):
            flat |= {f"{group}.{entry}": value for entry, value in given.pop(group).items()}
        if name in given:
            flat[path] = given.pop(name)
    return flat


def _switches(params: Mapping[str, Any], *, released: bool) -> dict[str, Any]:
    """Return our keywords for their switches, over the values of a released network or of their class."""
    unknown = sorted(set(params) - set(PARAMS))
    if unknown:
        raise AuthorsOptionError(f"fcvit: unknown params {unknown}; known are {sorted(PARAMS)}")
    ours = {
        keyword: params.get(name, published if released else default)
        for name, (keyword, default, published) in PARAMS.items()
    }
    ours["mixing_steps"] = 2 if ours["mixing_steps"] else 1
    ours["fc_factor"] = max(1, ours["fc_factor"])
    ours["channel_kernel_sizes"] = (ours.pop("channel_kernel_size_1"), ours.pop("channel_kernel_size_2"))
    return ours


def entries(network: nn.Module) -> dict[str, Entry]:
    """Return their keys; embeddings between stages count as entries of their list of stages."""
    assert isinstance(network, FCViT)
    position, table = 0, {}
    prefixes = {"stem": "patch_embed", "norm": "norm", "head.fc": "head"}
    for stage, modules in enumerate(network.stages):
        assert isinstance(modules, nn.Sequential)
        embeds = int(isinstance(modules[0], PatchEmbed))
        if embeds:
            prefixes[f"stages.{stage}.0"] = f"network.{position}"
        position += embeds
        for index in range(embeds, len(modules)):
            prefixes[f"stages.{stage}.{index}"] = f"network.{position}.{index - embeds}"
        position += 1
    for key in network.state_dict():
        prefix = next(prefix for prefix in prefixes if key.startswith(prefix + "."))
        path = _in_block(key.removeprefix(prefix), network)
        table[prefixes[prefix] + path] = Entry(key)
    return table


def _in_block(path: str, network: FCViT) -> str:
    """Return their path for one of ours below a block or an embedding."""
    is_context = ".context." in path
    for ours, theirs in PARTS:
        path = path.replace(ours, theirs)
    if is_context:
        for ours, theirs in CONTEXT_PARTS[network.design.competition].items():
            path = path.replace(ours, theirs)
    return path


def takes_no_part(key: str, network: nn.Module) -> bool:
    """Return whether a key is a norm of the maps that their backbones pass to detectors and segmentors."""
    del network
    return MAP_NORM.fullmatch(key) is not None


register_family(
    AuthorsFamily(
        name="fcvit",
        networks=(FCViT,),
        build=build,
        entries=entries,
        takes_no_part=takes_no_part,
        lost_with_head=("norm.",),
    )
)
