"""Adaptive span: keys and constructor arguments of the authors' code.

Source: JoeRoussy/adaptive-attention-in-cv, commit 79ccd863d4d2. Their networks with fixed windows hold span
masks that take no part in the result; ours have none, so such a network of ours is smaller than theirs by one
parameter per head and attention layer. Their functions for ResNet38 and ResNet50 leave out arguments and fail;
those shapes come from the class that they call, through its argument `num_blocks`.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from models.adaptive_span.network import AdaptiveSpanResNet, AugmentedResNet, ConvResNet, LocalAttentionResNet
from models.adaptive_span.variants import SIZES
from models.registry.authors.family import AuthorsFamily, AuthorsOptionError, Entry, check_arguments, register_family
from models.registry.authors.resnet_keys import rename

AUTHORS_MAX_SPAN = 5  # fixed in their code for any size of images

DEFAULTS: Mapping[str, Any] = {
    "num_classes": 1000,
    "dataset": "CIFAR10",
    "smallest_version": False,
    "small_version": False,
    "all_attention": False,
    "adaptive_span": False,
    "groups": 1,
    "attention_kernel": 3,
    "R": 3.0,
    "z_init": 0.1,
    "attention_conv": False,
    "dk": 40,
    "dv": 4,
    "num_blocks": None,
}
"""Arguments of theirs that shape the network, with the defaults of their command line."""

PARTS: Mapping[str, str] = {
    "stem.conv": "init.0",
    "stem.bn": "init.1",
    "reduce.conv": "conv1.0",
    "reduce.bn": "conv1.1",
    "spatial": "conv2.0",
    "bn": "conv2.1",
    "expand.conv": "conv3.0",
    "expand.bn": "conv3.1",
    "shortcut.conv": "shortcut.0",
    "shortcut.bn": "shortcut.1",
    "head.fc": "dense",
}

AUGMENTED_PARTS: Mapping[str, str] = {
    **PARTS,
    "spatial.conv": "conv2.0.conv_out",
    "spatial.qkv": "conv2.0.qkv_conv",
    "spatial.project": "conv2.0.attn_out",
    "spatial.rel_h": "conv2.0.key_rel_h",
    "spatial.rel_w": "conv2.0.key_rel_w",
}


def build(options: Mapping[str, Any]) -> nn.Module:
    """Build our network for the arguments of theirs.

    Raises:
        AuthorsOptionError: An argument is unknown, or there is no such network here.
    """
    check_arguments("adaptive_span", options, known=DEFAULTS)
    given = {**DEFAULTS, **options}
    size = "small" if given["smallest_version"] else "medium" if given["small_version"] else "large"
    shape: dict[str, Any] = {
        **SIZES[size],
        "stem": "7x7" if given["dataset"] == "TinyImageNet" else "3x3",
        "num_classes": given["num_classes"],
    }
    if given["num_blocks"] is not None:
        shape["depths"] = _depths(given["num_blocks"], len(shape["widths"]))
    if given["attention_conv"]:
        return _augmented(given, shape)
    if not given["all_attention"]:
        return ConvResNet(**shape)
    if not given["adaptive_span"]:
        return LocalAttentionResNet(num_heads=given["groups"], kernel_size=given["attention_kernel"], **shape)
    return AdaptiveSpanResNet(
        num_heads=given["groups"],
        max_span=AUTHORS_MAX_SPAN,
        ramp=given["R"],
        span_init=given["z_init"],
        **shape,
    )


def _depths(num_blocks: Any, stages: int) -> tuple[int, ...]:
    """Return the blocks of each stage; their class reads as many numbers as it has stages and ignores the others."""
    depths = tuple(num_blocks)[:stages] if isinstance(num_blocks, list | tuple) else ()
    if len(depths) < stages or not all(isinstance(depth, int) and depth > 0 for depth in depths):
        raise AuthorsOptionError(f"adaptive_span: num_blocks: got {num_blocks!r}; it is {stages} ints of at least 1")
    return depths


def _augmented(given: Mapping[str, Any], shape: Mapping[str, Any]) -> nn.Module:
    """Build the network with augmented convolutions, which override any other attention and have no positions."""
    heads, dk, dv = given["groups"], given["dk"], given["dv"]
    kernel_size = given["attention_kernel"] if given["all_attention"] else 3
    narrowest = min(shape["widths"])
    if heads < 1 or dk < 1 or dk % heads or dv % heads or not 0 < dv < narrowest or kernel_size % 2 == 0:
        raise AuthorsOptionError(
            f"adaptive_span: attention_conv with groups {heads}, dk {dk}, dv {dv}, kernel {kernel_size}: "
            f"groups divides dk and dv, dv is below {narrowest}, and the kernel is odd"
        )
    return AugmentedResNet(dk=dk, dv=dv, num_heads=heads, kernel_size=kernel_size, pixels_before_channels=True, **shape)


def entries(network: nn.Module) -> dict[str, Entry]:
    """Return their keys; the stacked projections of ours are three of theirs."""
    table: dict[str, Entry] = {}
    if isinstance(network, AugmentedResNet):
        return {rename(key, stage="layers.{stage}", parts=AUGMENTED_PARTS): Entry(key) for key in network.state_dict()}
    for key, tensor in network.state_dict().items():
        theirs = rename(key, stage="layers.{stage}", parts=PARTS)
        path, _, leaf = theirs.rpartition(".")
        if path.endswith(".qkv"):
            rows = len(tensor) // 3
            for index, name in enumerate(("query_conv", "key_conv", "value_conv")):
                stacked = (index * rows, (index + 1) * rows)
                table[f"{path.removesuffix('qkv')}{name}.weight"] = Entry(key, rows=stacked)
        elif leaf == "rel_h":
            table[theirs] = Entry(key, shape=(len(tensor), 1, 1, tensor.shape[1], 1))
        elif leaf == "rel_w":
            table[theirs] = Entry(key, shape=(len(tensor), 1, 1, 1, tensor.shape[1]))
        elif leaf == "span":
            table[f"{path}.adaptive_mask.current_val"] = Entry(key, shape=(len(tensor), 1))
        else:
            table[theirs] = Entry(key)
    return table


def takes_no_part(key: str, network: nn.Module) -> bool:
    """Return whether a key is the constant template of a mask, or the spans of attention with fixed windows."""
    if key.endswith(".adaptive_mask.mask_template"):
        return isinstance(network, AdaptiveSpanResNet | LocalAttentionResNet)
    return key.endswith(".adaptive_mask.current_val") and isinstance(network, LocalAttentionResNet)


register_family(
    AuthorsFamily(
        name="adaptive_span",
        networks=(AdaptiveSpanResNet, AugmentedResNet, LocalAttentionResNet, ConvResNet),
        build=build,
        entries=entries,
        takes_no_part=takes_no_part,
    )
)
