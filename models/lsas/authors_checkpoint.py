"""LSAS: keys and constructor arguments of the authors' code, for small and for large images.

Source: Qrange-group/LSAS, commit d36e8af26f4d. Its small-image networks exist with bottlenecks only: the
basic blocks there do not take the argument that their network passes on.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from models.lsas.network import LsasResNet
from models.lsas.variants import LARGE_BLOCKS
from models.registry.authors.family import AuthorsFamily, AuthorsOptionError, Entry, check_arguments, register_family
from models.registry.authors.resnet_keys import TORCHVISION_PARTS, rename

CIFAR_DEFAULTS: Mapping[str, Any] = {"num_classes": 1000, "block_name": "BasicBlock", "info": "normal"}
IMAGENET_DEFAULTS: Mapping[str, Any] = {"num_classes": 1000, "zero_init_residual": False, "pretrained": False}
IMAGENET_FACTORIES = {f"{lead}senet_resnet{depth}": depth for lead in ("", "lsas_") for depth in LARGE_BLOCKS}
FACTORIES = {"cifar": ("senet", "lsas_senet"), "imagenet": tuple(IMAGENET_FACTORIES)}

TRUNK: Mapping[str, str] = {
    **TORCHVISION_PARTS,
    "spatial": "conv2",
    "bn": "bn2",
    "conv1.conv": "conv1",
    "conv1.bn": "bn1",
    "conv2.conv": "conv2",
    "conv2.bn": "bn2",
}
CIFAR_PARTS = {**TRUNK, "gate.host.fc1": "fc1", "gate.host.fc2": "fc2", "gate.sub.scale": "w", "gate.sub.shift": "b"}
IMAGENET_PARTS = {
    **TRUNK,
    "gate.host.fc1": "se.fc.0",
    "gate.host.fc2": "se.fc.2",
    "gate.sub.scale": "se.w",
    "gate.sub.shift": "se.b",
}


def build(options: Mapping[str, Any]) -> nn.Module:
    """Build our network for the arguments of theirs, `factory` being the function that takes them.

    Raises:
        AuthorsOptionError: An argument is unknown, or their code makes no network of them either.
    """
    factory = options.get("factory")
    code = next((code for code, names in FACTORIES.items() if factory in names), None)
    if code is None or options.get("code", code) != code:
        known = {name: list(names) for name, names in FACTORIES.items()}
        raise AuthorsOptionError(f"lsas: factory {factory!r} of code {options.get('code')!r}; known are {known}")
    given = {key: value for key, value in options.items() if key not in ("code", "factory")}
    return _build_cifar(str(factory), given) if code == "cifar" else _build_imagenet(str(factory), given)


def _build_cifar(factory: str, given: Mapping[str, Any]) -> nn.Module:
    check_arguments(f"lsas: {factory}", given, known=("depth", *CIFAR_DEFAULTS))
    arguments = {**CIFAR_DEFAULTS, **given}
    depth, info = arguments.get("depth"), arguments["info"]
    if str(arguments["block_name"]).lower() != "bottleneck":
        raise AuthorsOptionError(f"lsas: block_name {arguments['block_name']!r}; only Bottleneck can be built")
    if not isinstance(depth, int) or (depth - 2) % 9:
        raise AuthorsOptionError(f"lsas: depth {depth!r}; a depth is 2 more than a multiple of 9")
    is_control = factory == "senet"
    return LsasResNet(
        depths=(max(1, (depth - 2) // 9),) * 3,  # a stage of theirs has a block even where the depth leaves none
        large_image=False,
        stages=(True,) * 3 if is_control else (False, False, True),
        order=0 if is_control else _order(info),
        num_classes=arguments["num_classes"],
    )


def _order(info: object) -> int:
    """Return the order of their flag, which they look up as a part of a longer word."""
    if not isinstance(info, str):
        raise AuthorsOptionError(f"lsas: info {info!r}; it is a string such as normal, s0, s2 or s5")
    higher = [order for order in (2, 3, 4, 5) if f"s{order}" in info]
    if "s0" in info and higher:
        raise AuthorsOptionError(f"lsas: info {info!r}; order 0 and order {max(higher)} exclude each other")
    return 0 if "s0" in info else max(higher, default=1)


def _build_imagenet(factory: str, given: Mapping[str, Any]) -> nn.Module:
    is_control = factory.startswith("senet")
    check_arguments(f"lsas: {factory}", given, known=(*IMAGENET_DEFAULTS, *(("info",) if is_control else ())))
    arguments = {**IMAGENET_DEFAULTS, **given}
    block, depths = LARGE_BLOCKS[IMAGENET_FACTORIES[factory]]
    return LsasResNet(
        depths=depths,
        large_image=True,
        block=block,
        stages=(True,) * 4 if is_control else (False, False, True, True),
        order=0 if is_control else 1,
        zero_init_last=bool(arguments["zero_init_residual"]),
        num_classes=arguments["num_classes"],
    )


def entries(network: nn.Module) -> dict[str, Entry]:
    """Return their keys; a row of our stacked scales and shifts is a parameter of theirs.

    Raises:
        AuthorsOptionError: The gates are not squeeze-and-excitation, which is all that their code has.
    """
    assert isinstance(network, LsasResNet)
    if network.attention != "se":
        raise AuthorsOptionError(f"lsas: their code has attention 'se' only, this network has {network.attention!r}")
    parts = IMAGENET_PARTS if network.large_image else CIFAR_PARTS
    table: dict[str, Entry] = {}
    for key, tensor in network.state_dict().items():
        theirs = rename(key, stage="layer{next_stage}", parts=parts)
        if ".gate.sub." in key:
            for order in range(len(tensor)):
                name = theirs if order == 0 else f"{theirs}{order + 1}"
                table[name] = Entry(key, rows=(order, order + 1), shape=(1, tensor.shape[1], 1, 1))
        elif ".gate.host." in key and tensor.ndim == 4:
            table[theirs] = Entry(key, shape=tuple(tensor.shape[:2]))
        else:
            table[theirs] = Entry(key)
    return table


register_family(AuthorsFamily(name="lsas", networks=(LsasResNet,), build=build, entries=entries))
