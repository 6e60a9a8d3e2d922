"""Lookup, check and construction of networks that this package does not register."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import timm
import torch
from torch import nn

from models.common.image_size import IMG_SIZE
from models.common.options import ImageShape, ModelOptionError, OptionProblem, OptionValue, nearest_name
from models.registry.architectures import ARCHITECTURES
from models.registry.outside.files import NetworkFileError, factory_of, network_file, split_reference
from models.registry.outside.probe import Probe, probe
from models.registry.outside.signature import Signature, SignatureOption, signature_of

__all__ = ["FILE", "TIMM", "OutsideNetwork", "list_timm_models", "name_problem", "outside_network"]

TIMM, FILE = "timm", "file"
DATA_KEYWORDS = ("num_classes", "in_chans")
"""Keywords that follow from the dataset, which every network takes."""
_NOT_OPTIONS = frozenset({*DATA_KEYWORDS, "self", "device", "dtype", "pretrained", "pretrained_cfg", "cache_dir"})
_RATES = ("drop_rate", "drop_path_rate", "attn_drop_rate", "proj_drop_rate")
"""Keywords of timm that change neither the parameters of a network nor what it multiplies."""
_KINDS_OF_NAMES = "Networks are those of `spatialsweep models`, all of timm, and FILE.py:FACTORY of your own"


@dataclasses.dataclass(frozen=True, eq=False)
class OutsideNetwork:
    """Network of timm, or of a file.

    Args:
        name: Name in timm, or `FILE.py:FACTORY`.
        kind: `timm` or `file`.
        create: Function that builds it; takes keywords.
        options: Keywords that a sweep may set.
        is_open: True where it takes further keywords that its signature does not name.
        version: Hash of the file; empty for a network of timm.
    """

    name: str
    kind: str
    create: Callable[..., Any] = dataclasses.field(repr=False)
    options: Mapping[str, SignatureOption]
    is_open: bool
    version: str = ""

    def build(
        self, options: Mapping[str, Any], image: ImageShape | None, *, num_classes: int, in_chans: int
    ) -> nn.Module:
        """Build the network with random weights.

        Args:
            options: Keywords beyond the classes and the channels.
            image: Shape of the images, which a network with the keyword `img_size` is built for.
            num_classes: Outputs.
            in_chans: Channels of the images.

        Raises:
            ModelOptionError: It cannot be built; where a keyword is the cause, the text names it.
        """
        try:
            given = self._normalised(self._with_size(options, image))
            network = self.create(num_classes=num_classes, in_chans=in_chans, **given)
        except Exception as error:  # of code that is not ours
            problems = self._signature_problems(options) or [_not_built(self.name, f"{type(error).__name__}: {error}")]
            raise ModelOptionError(problems, model=self.name) from error
        if not isinstance(network, nn.Module):
            fault = f"returns a {type(network).__name__}, not a torch.nn.Module"
            raise ModelOptionError([_not_built(self.name, fault)], model=self.name)
        return network

    def problems(
        self,
        options: Mapping[str, object],
        image: ImageShape | None,
        *,
        num_classes: int | None,
        in_chans: int | None,
    ) -> list[OptionProblem]:
        """Return all problems with the options; where the data are known, the network is built on shapes alone.

        Args:
            options: Keywords beyond the classes and the channels.
            image: Shape of the images, where known.
            num_classes: Outputs, where known.
            in_chans: Channels of the images, where known.
        """
        problems = self._signature_problems(options)
        if problems or image is None or num_classes is None or in_chans is None:
            return problems
        fault = self.probe(options, image, num_classes=num_classes, in_chans=in_chans).fault
        return [_not_built(self.name, fault)] if fault else []

    def probe(self, options: Mapping[str, Any], image: ImageShape, *, num_classes: int, in_chans: int) -> Probe:
        """Build the network on shapes alone, apply it to one image, and return its costs, or why it has none.

        Args:
            options: Checked keywords beyond the classes and the channels.
            image: Shape of the images.
            num_classes: Outputs.
            in_chans: Channels of the images.
        """
        ignored = _RATES if self.kind == TIMM else ()
        given = {key: value for key, value in options.items() if key not in ignored or key not in self.options}
        return _probed(self, tuple(sorted(self._normalised(given).items())), image, num_classes, in_chans)

    def _with_size(self, options: Mapping[str, Any], image: ImageShape | None) -> dict[str, Any]:
        if image is None or IMG_SIZE not in self.options:
            return dict(options)
        side = image.height if image.height == image.width else (image.height, image.width)
        return {IMG_SIZE: side, **options}

    def _normalised(self, options: Mapping[str, Any]) -> dict[str, Any]:
        plain = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
        known = self.options
        return {
            key: known[key].normalise(value) if key in known and key != IMG_SIZE else value
            for key, value in plain.items()
        }

    def _signature_problems(self, options: Mapping[str, object]) -> list[OptionProblem]:
        return list(self._unfit(options))

    def _unfit(self, options: Mapping[str, object]) -> Iterator[OptionProblem]:
        for name, value in options.items():
            if name in DATA_KEYWORDS:
                yield OptionProblem(name, value, f"{name} follows from the dataset", "Leave it out.")
            elif name in self.options:
                if problem := self.options[name].problem(value):
                    yield problem
            elif not self.is_open or name in _NOT_OPTIONS:
                nearest = nearest_name(name, self.options)
                remedy = (
                    f"Did you mean {nearest!r}?" if nearest else f"Its options: {', '.join(self.options) or 'none'}."
                )
                yield OptionProblem(name, value, f"{self.name} has no option of this name", remedy)
        for name, option in self.options.items():
            if option.required and name not in options and name != IMG_SIZE:
                yield OptionProblem(name, None, f"{self.name} has no default for it", f"Set model.options.{name}.")


def outside_network(name: str) -> OutsideNetwork:
    """Return a network that this package does not register.

    Args:
        name: Name in timm, or `FILE.py:FACTORY` of a registered file.

    Raises:
        ModelOptionError: There is no such network.
    """
    if problem := name_problem(name):
        raise ModelOptionError([problem])
    file = network_file(name)
    return _of_timm(name) if file is None else _of_file(name, file.sha256)


def name_problem(name: str) -> OptionProblem | None:
    """Return the problem with a name that this package does not register; None where it is a network.

    Args:
        name: Name in timm, or `FILE.py:FACTORY`.
    """
    if split_reference(name) is not None:
        try:
            factory_of(name)
        except NetworkFileError as error:
            return OptionProblem(
                "name", name, str(error), "Write FILE.py:FACTORY, such as own_network.py:make_network."
            )
        file = network_file(name)
        assert file is not None
        return _factory_problem(name, file.sha256)
    if name in ARCHITECTURES or ("." not in name and timm.is_model(name)):
        return None
    bare, _, tag = name.partition(".")
    if timm.is_model(bare):
        remedy = f"Use {bare!r}; its weights are model.checkpoint: timm:{tag}."
    else:
        nearest = nearest_name(name, [*ARCHITECTURES, *timm.list_models()])
        remedy = f"Did you mean {nearest!r}? {_KINDS_OF_NAMES}." if nearest else f"{_KINDS_OF_NAMES}."
    return OptionProblem("name", name, "no network has this name", remedy)


def list_timm_models(pattern: str = "") -> list[str]:
    """Return the names of timm's own networks, sorted.

    Args:
        pattern: Pattern of names, such as `vit*`; empty for all.
    """
    return [name for name in timm.list_models(pattern) if name not in ARCHITECTURES]


@functools.lru_cache(None)
def _factory_problem(name: str, version: str) -> OptionProblem | None:
    """Return the problem of a factory that cannot be called as the contract says, or None."""
    del version  # of the file: part of the key
    signature = signature_of(factory_of(name))
    lacking = [key for key in DATA_KEYWORDS if key not in signature.options and not signature.is_open]
    called = "it is called as FACTORY(num_classes=..., in_chans=..., **options)"
    if lacking:
        return OptionProblem("name", name, f"the factory takes no {' and no '.join(lacking)}; {called}", "Add them.")
    if signature.positional:
        rule = f"the factory takes {', '.join(signature.positional)} by position only; {called}"
        return OptionProblem("name", name, rule, "Remove the '/' from its signature.")
    return None


@functools.lru_cache(None)
def _of_file(name: str, version: str) -> OutsideNetwork:
    factory = factory_of(name)
    signature = signature_of(factory)
    return OutsideNetwork(name, FILE, factory, _settable(signature), signature.is_open, version)


@functools.lru_cache(None)
def _of_timm(name: str) -> OutsideNetwork:
    signature = _timm_signature(name)
    # the variant gives what has no default
    options = {key: dataclasses.replace(option, required=False) for key, option in _settable(signature).items()}
    return OutsideNetwork(name, TIMM, functools.partial(timm.create_model, name), options, signature.is_open)


def _settable(signature: Signature) -> dict[str, SignatureOption]:
    return {key: option for key, option in signature.options.items() if key not in _NOT_OPTIONS}


def _timm_signature(name: str) -> Signature:
    """Return the signature of the class that a function of timm builds, which only a network shows."""
    for device in ("meta", "cpu"):
        try:
            with torch.random.fork_rng(devices=[]), torch.device(device):
                return signature_of(type(timm.create_model(name)))
        except Exception:  # noqa: S112 - of code that is not ours: some read values, which `meta` does not have
            continue
    return Signature({}, is_open=True)


def _not_built(name: str, fault: str) -> OptionProblem:
    rule = f"the network cannot be built for these data: {' '.join(fault.split())}"
    return OptionProblem("name", name, rule.rstrip("."), "Change its options, or the size of the images.")


@functools.lru_cache(4096)
def _probed(
    network: OutsideNetwork,
    options: tuple[tuple[str, OptionValue], ...],
    image: ImageShape,
    num_classes: int,
    in_chans: int,
) -> Probe:
    def make() -> nn.Module:
        return network.build(dict(options), image, num_classes=num_classes, in_chans=in_chans)

    return probe(make, image, num_classes=num_classes, in_chans=in_chans)
