"""Networks to compare: by name, each with options of its own, and built for images of one size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import timm
from torch import nn

import models
from orchestrator.config.network_files import read_network_files
from orchestrator.config.settings_text import parse_yaml
from orchestrator.errors import ConfigError, Problem

__all__ = ["ComparedNetwork", "compared_networks", "side_for"]


@dataclass(frozen=True)
class ComparedNetwork:
    """Network as the user names it.

    Args:
        label: Text that names it, such as `lesa_resnet50{unary: dcn}`.
        name: Name of a network of this package or of timm, or `FILE.py:FACTORY`.
        options: Its keywords.
        input_size: Channels, height and width of the images that it is described for.
        num_classes: Number of classes that it is described for.
    """

    label: str
    name: str
    options: Mapping[str, Any]
    input_size: tuple[int, int, int]
    num_classes: int

    def build(self, side: int) -> nn.Module:
        """Build the network with random weights.

        Args:
            side: Side of the images in pixels.

        Raises:
            ConfigError: It takes other options, or no images of this size.
        """
        shape: dict[str, Any] = {"num_classes": self.num_classes, "in_chans": self.input_size[0]}
        try:
            return models.create_model(self.name, **shape, image_size=side, **self.options)
        except models.ModelOptionError as error:
            raise ConfigError([Problem(self.label, str(problem)) for problem in error.problems]) from None


def compared_networks(texts: Sequence[str], assignments: Sequence[str] = ()) -> list[ComparedNetwork]:
    """Return the networks that texts name.

    Args:
        texts: Names, each with its options in braces where it has any, in YAML: `sb_resnet50{pooled_size: 6}`.
        assignments: Options of all of them, such as `drop_rate=0.1`, which those in braces override.

    Raises:
        ConfigError: A name is unknown or given twice, or options cannot be read; all problems at once.
    """
    common: dict[str, Any] = {}
    problems = []
    for assignment in assignments:
        key, separator, value = assignment.partition("=")
        if not separator or not key.strip():
            problems.append(Problem(f"--set {assignment}", "no assignment. Use KEY=VALUE, such as groups=4"))
            continue
        try:
            common[key.strip()] = parse_yaml(value)
        except ValueError as error:
            problems.append(Problem(f"--set {assignment}", f"not valid YAML: {error}"))
    networks: list[ComparedNetwork] = []
    for text in texts:
        found = _compared(text, common)
        if isinstance(found, Problem):
            problems.append(found)
        elif any(found.label == other.label for other in networks):
            problems.append(Problem(found.label, "named twice. Name it once, or with other options"))
        else:
            networks.append(found)
    if problems:
        raise ConfigError(problems)
    return networks


def side_for(networks: Sequence[ComparedNetwork], given: int | None) -> int:
    """Return the side of the images for all networks: the given one, else that which all of them are described for.

    Raises:
        ConfigError: They are described for several sizes, and none is given.
    """
    sides = sorted({side for network in networks for side in network.input_size[1:]})
    if given is None and len(sides) > 1:
        several = " and ".join(f"{side} px" for side in sides)
        raise ConfigError([Problem("--image-size", f"the networks are described for {several}. Name one size for all")])
    return sides[0] if given is None else given


def _compared(text: str, common: Mapping[str, Any]) -> ComparedNetwork | Problem:
    name, brace, rest = text.partition("{")
    name = name.strip()
    rule = "options stand in braces behind the name. Use, for example, sb_resnet50{pooled_size: 6}"
    try:
        own = parse_yaml(brace + rest) if brace else {}
    except ValueError as error:
        return Problem(text, f"not valid YAML: {error}; {rule}")
    if not isinstance(own, dict) or not all(isinstance(key, str) for key in own):
        return Problem(text, rule)
    _, faults = read_network_files({"model": {"name": name}})
    if faults:
        return Problem(text, faults[0].message)
    unknown = None if name in models.list_models() else models.name_problem(name)
    if unknown is not None:
        return Problem(text, f"{unknown.rule}. {unknown.remedy}")
    cfg = timm.get_pretrained_cfg(name)
    channels, height, width = (3, 224, 224) if cfg is None else cfg.input_size
    classes = cfg.num_classes if cfg is not None and cfg.num_classes else 1000
    return ComparedNetwork(
        label=" ".join(text.split()),
        name=name,
        options={**common, **own},
        input_size=(channels, height, width),
        num_classes=classes,
    )
