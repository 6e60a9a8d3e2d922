"""LESA: keys and constructor arguments of Chenglin-Yang/LESA_classification (commit 1d6b9f688a44).

Their constructor takes a configuration (strides, wrn, stage_*, lesa) and the keywords of a torchvision ResNet50.
"""

import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from models.common.image_size import IMG_SIZE
from models.common.options import ModelOptionError
from models.lesa.network import LesaResNet
from models.lesa.variants import LAYOUTS
from models.registry.authors.family import AuthorsFamily, AuthorsOptionError, Entry, check_arguments, register_family
from models.registry.authors.resnet_keys import TORCHVISION_PARTS, rename

DEPTHS, PLANES = (3, 4, 6, 3), (64, 128, 256, 512)
STEM_REDUCTION = 4
CONFIGURATION = ("strides", "wrn", "stage_spatial_res", "stage_with_first_conv", "stage_with_lesa", "lesa")
KEYWORDS: Mapping[str, Any] = {
    "num_classes": 1000,
    "zero_init_residual": False,
    "groups": 1,
    "width_per_group": 64,
    "replace_stride_with_dilation": None,
    "norm_layer": None,
    "pretrained": False,
    "progress": True,
}
LAYER_REQUIRED = ("pe_type", "groups", "df_channel_shrink", "df_kernel_size", "df_group")
LAYER_OPTIONAL = ("type", "with_cp_UB_terms_only")
AXES = ("rel_height", "rel_width")
POSITIONS = {"classification": "classification", "detection_qr": "detection"}

PARTS: Mapping[str, str] = {
    **TORCHVISION_PARTS,
    "spatial.conv": "conv2",
    "spatial.bn": "bn2",
    "spatial.binary.qkv.conv": "conv2.qkv_transform",
    "spatial.binary.qkv.bn": "conv2.bn_qkv",
    "spatial.binary.bn_logits": "conv2.bn_similarity",
    "spatial.binary.bn_output": "conv2.bn_output",
    "spatial.binary.flattened.table": "conv2.relative",
    "spatial.binary.axial": "conv2",
    "spatial.unary.convs": "conv2.x_transform",
    "spatial.unary.bn": "conv2.bn_x",
    "spatial.fusion.layers": "conv2.reasoning",
    "spatial.fusion.conv": "conv2.projection.0",
    "spatial.fusion.bn": "conv2.projection.1",
}


def build(options: Mapping[str, Any]) -> nn.Module:
    """Build our network for the arguments of theirs.

    Raises:
        AuthorsOptionError: An argument is unknown or missing, or their code makes no network of them either.
    """
    check_arguments("lesa", options, known=KEYWORDS, required=CONFIGURATION)
    given = {**KEYWORDS, **options}
    if given["norm_layer"] not in (None, "BatchNorm2d", nn.BatchNorm2d):
        raise AuthorsOptionError(f"lesa: norm_layer is {given['norm_layer']!r}; the networks here are batch-normed")
    per_group = given["width_per_group"] * (2 if given["wrn"] else 1)
    strides, dilations = _strides_and_dilations(given)
    sizes = [_height_and_width(size) for size in given["stage_spatial_res"]]
    try:
        return LesaResNet(
            depths=DEPTHS,
            widths=[int(planes * (per_group / 64)) * given["groups"] for planes in PLANES],
            out_widths=[4 * planes for planes in PLANES],
            strides=strides,
            large_image=True,
            stem_width=64,
            img_size=(STEM_REDUCTION * sizes[0][0], STEM_REDUCTION * sizes[0][1]),
            stage_sizes=sizes,
            stages=given["stage_with_lesa"],
            keep_first_conv=given["stage_with_first_conv"],
            conv_groups=given["groups"],
            dilations=dilations,
            num_classes=given["num_classes"],
            **_layer(given["lesa"]),
        )
    except (ModelOptionError, ValueError) as error:
        raise AuthorsOptionError(f"lesa: {error}") from error


def _height_and_width(size: Any) -> tuple[int, int]:
    """Return the size of a map; theirs are square, given by one number."""
    return (size, size) if isinstance(size, int) else tuple(size)


def _strides_and_dilations(given: Mapping[str, Any]) -> tuple[list[int], list[tuple[int, int]]]:
    """Return the strides, and the dilations of first and further blocks of each stage.

    Some strides are turned into dilations.
    """
    replaced = [False, *(given["replace_stride_with_dilation"] or (False, False, False))]
    strides, dilations, dilation = [], [], 1
    flags = zip(given["strides"], replaced, given["stage_with_lesa"], given["stage_with_first_conv"], strict=True)
    for stage, (stride, dilates, with_lesa, first_conv) in enumerate(flags):
        before = dilation
        dilation *= stride if dilates else 1
        strides.append(1 if dilates else stride)
        dilations.append((before, dilation))
        if with_lesa and not first_conv and strides[-1] > 1:
            rule = "a block that strides keeps its convolution, or their maps and position tables differ"
            raise AuthorsOptionError(f"lesa: stage_with_first_conv is false in stage {stage + 1}; {rule}")
    return strides, dilations


def _layer(lesa: Mapping[str, Any]) -> dict[str, Any]:
    """Return our keywords for the arguments of their layer."""
    check_arguments("lesa, its layer", lesa, known=LAYER_OPTIONAL, required=LAYER_REQUIRED)
    if lesa.get("type", "LESA") != "LESA" or lesa["pe_type"] not in POSITIONS:
        raise AuthorsOptionError(f"lesa: type LESA and pe_type one of {sorted(POSITIONS)} make a layer, not {lesa}")
    shrinks, sides, groups = (list(lesa[key]) for key in ("df_channel_shrink", "df_kernel_size", "df_group"))
    if sides[-1] != 1 or any(side % 2 == 0 for side in sides):
        raise AuthorsOptionError(f"lesa: df_kernel_size is {sides}; sides are odd and the last, unpadded one is 1")
    if min(len(sides), len(groups)) < len(shrinks):
        raise AuthorsOptionError("lesa: df_kernel_size and df_group have an entry for each of df_channel_shrink")
    return {
        "groups": lesa["groups"],
        "position_embedding": POSITIONS[lesa["pe_type"]],
        "fusion_shrink": shrinks,
        "fusion_kernel_sizes": sides[: len(shrinks)],
        "fusion_groups": [*groups[: len(shrinks)], groups[-1]],
    }


def entries(network: nn.Module) -> dict[str, Entry]:
    """Return their keys; they project by a 1-D convolution, and their gate starts with a layer that holds nothing."""
    table: dict[str, Entry] = {}
    for key, tensor in network.state_dict().items():
        theirs = rename(key, stage="layer{next_stage}", parts=PARTS)
        path, reasoning, rest = theirs.partition(".reasoning.")
        if reasoning:
            index, _, leaf = rest.partition(".")
            theirs = f"{path}{reasoning}{int(index) + 1}.{leaf}"
        is_projection = theirs.endswith(".qkv_transform.weight")
        table[theirs] = Entry(key, shape=tuple(tensor.shape[:3]) if is_projection else None)
    return table


def takes_no_part(key: str, network: nn.Module) -> bool:
    """Return whether a key is the index into the tables of positions, which follows from the size of the map."""
    del network
    return key.endswith(".conv2.flatten_index")


def options_of(name: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Return the position embedding and the size of the images, which follow from the position tables.

    Args:
        name: Name of a network of ours.
        shapes: Shapes of a checkpoint of theirs by key.
    """
    found: dict[str, Any] = {}
    reduction = 16 if LAYOUTS[name.partition("_")[2]]["large_image"] else 4  # both stages with the layer
    for key, shape in shapes.items():
        if key.endswith(".conv2.relative") and len(shape) == 2:
            side = math.isqrt((shape[1] + 1) // 2)
            found = {"position_embedding": "classification", IMG_SIZE: (reduction * side, reduction * side)}
        elif key.endswith(".conv2.rel_height") and shape:
            sides = [(shapes.get(key.replace("rel_height", axis), shape)[0] + 1) // 2 for axis in AXES]
            found = {"position_embedding": "detection", IMG_SIZE: (reduction * sides[0], reduction * sides[1])}
    return found


register_family(
    AuthorsFamily(
        name="lesa",
        networks=(LesaResNet,),
        build=build,
        entries=entries,
        takes_no_part=takes_no_part,
        options_of=options_of,
        sized=(".flattened.table", ".axial.rel_height", ".axial.rel_width"),
    )
)
