"""Loading of checkpoints of the authors' scripts into our networks: strict, and without running code of a file."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.registry.authors.family import FAMILIES, AuthorsFamily, AuthorsOptionError, Entry
from models.registry.catalogue import create_model, model_family

__all__ = ["AuthorsCheckpointError", "family_of", "from_authors", "load_authors_checkpoint"]

CONTAINERS = ("state_dict_ema", "state_dict", "model_ema", "model")  # in order of preference, as timm's
PREFIXES = ("module.", "_orig_mod.")  # left by DistributedDataParallel and torch.compile


class AuthorsCheckpointError(ValueError):
    """Checkpoint that does not fit the network.

    Args:
        problem: Problem, when it is not about single entries.
        missing: Entries the network needs and the checkpoint lacks, under the authors' names.
        unexpected: Entries that the network has no place for.
        wrong_shape: Entry, shape needed, shape found.
    """

    def __init__(
        self,
        problem: str = "the checkpoint does not fit the network",
        *,
        missing: tuple[str, ...] = (),
        unexpected: tuple[str, ...] = (),
        wrong_shape: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = (),
    ) -> None:
        self.missing, self.unexpected, self.wrong_shape = missing, unexpected, wrong_shape
        lines = [problem]
        lines += [f"  missing: {key}" for key in missing]
        lines += [f"  unexpected: {key}" for key in unexpected]
        lines += [f"  wrong shape: {key}: needs {need}, got {got}" for key, need, got in wrong_shape]
        super().__init__("\n".join(lines))


def from_authors(family: str, options: Mapping[str, Any]) -> nn.Module:
    """Build our network from the arguments of the authors' constructor.

    Args:
        family: One of `FAMILIES`, such as `spatial_bias`.
        options: Their arguments under their names; those left out have their default.

    Raises:
        AuthorsOptionError: The family or an argument is unknown, or their code makes no network of them
            either.
    """
    if family not in FAMILIES:
        raise AuthorsOptionError(f"unknown family {family!r}; known are {sorted(FAMILIES)}")
    return FAMILIES[family].build(options)


def family_of(network: nn.Module) -> AuthorsFamily:
    """Return the family that a network of ours belongs to.

    Raises:
        AuthorsCheckpointError: It belongs to none.
    """
    for family in FAMILIES.values():
        if isinstance(network, family.networks):
            return family
    raise AuthorsCheckpointError(f"{type(network).__name__} is of none of the families {sorted(FAMILIES)}")


def load_authors_checkpoint(
    name_or_model: str | nn.Module, path_or_state_dict: str | Path | Mapping[str, Any]
) -> nn.Module:
    """Load a checkpoint of the authors' scripts into a network of ours.

    A file is read with `weights_only=True`. Its weights may stand alone or under `state_dict_ema`,
    `state_dict` or `model` (taken in this order), their keys may start with `module.`. Entries that take no
    part in the result, such as the span masks of attention with fixed windows, are dropped.

    Args:
        name_or_model: Network, or the name of one, which is then built with its default options and with the
            classes and image channels of the checkpoint.
        path_or_state_dict: File, or its content.

    Returns:
        The network, in the mode and on the device it was in.

    Raises:
        AuthorsCheckpointError: Entries are missing, unexpected or of another shape; all are listed, and the
            network is left as it was.
        ModelOptionError: There is no network of that name.
    """
    state = _weights(path_or_state_dict)
    network = _build_for(name_or_model, state) if isinstance(name_or_model, str) else name_or_model
    family = family_of(network)
    table = family.entries(network)
    _check(table, state, network, family)
    ours = network.state_dict()
    with torch.no_grad():
        for key, entry in table.items():
            target = entry.slice(ours[entry.ours])
            target.copy_(state[key].reshape(target.shape))
    return network


def _weights(source: str | Path | Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint under the authors' bare keys."""
    if isinstance(source, str | Path):
        with torch.serialization.safe_globals([argparse.Namespace]):
            source = torch.load(source, map_location="cpu", weights_only=True)
    if not isinstance(source, Mapping):
        raise AuthorsCheckpointError(f"a checkpoint is a mapping, not a {type(source).__name__}")
    container = next((name for name in CONTAINERS if isinstance(source.get(name), Mapping)), None)
    state = source if container is None else source[container]
    others = sorted(key for key, value in state.items() if not isinstance(value, Tensor))
    if others or not state:
        raise AuthorsCheckpointError(f"no state dict found; entries that are not tensors: {others[:8]}")
    return {_bare(key): value for key, value in state.items()}


def _bare(key: str) -> str:
    while key.startswith(PREFIXES):
        key = key.removeprefix(PREFIXES[0]).removeprefix(PREFIXES[1])
    return key


def _build_for(name: str, state: Mapping[str, Tensor]) -> nn.Module:
    """Build the named network with the classes and image channels that the checkpoint was trained with."""
    family = FAMILIES.get(model_family(name))
    if family is None:
        raise AuthorsCheckpointError(
            f"{name}: there is no code of its authors; families with such code: {sorted(FAMILIES)}"
        )
    with torch.device("meta"):
        probe = create_model(name, num_classes=1, in_chans=1)
    theirs = {entry.ours: key for key, entry in family.entries(probe).items()}
    fc, stem = state.get(theirs["head.fc.weight"]), state.get(theirs["stem.conv.weight"])
    return create_model(
        name,
        num_classes=len(fc) if fc is not None else 1000,
        in_chans=stem.shape[1] if stem is not None and stem.ndim == 4 else 3,
        **family.options_of(name, {key: tuple(value.shape) for key, value in state.items()}),
    )


def _check(table: Mapping[str, Entry], state: Mapping[str, Tensor], network: nn.Module, family: AuthorsFamily) -> None:
    ours = network.state_dict()
    missing = tuple(key for key in table if key not in state)
    unexpected = tuple(key for key in state if key not in table and not family.takes_no_part(key, network))
    needed = {key: entry.authors_shape(ours[entry.ours]) for key, entry in table.items()}
    wrong_shape = tuple(
        (key, shape, tuple(state[key].shape))
        for key, shape in needed.items()
        if key in state and shape != tuple(state[key].shape)
    )
    if missing or unexpected or wrong_shape:
        raise AuthorsCheckpointError(missing=missing, unexpected=unexpected, wrong_shape=wrong_shape)
