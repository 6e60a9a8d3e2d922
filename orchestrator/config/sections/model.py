"""The network of a sweep and its fixed options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Strict, StrictBool, StrictInt

from orchestrator.config.sections.section import Section
from search_spaces import Scalar

Flags = Annotated[tuple[StrictBool, ...], Strict(strict=False)]
"""One flag per stage of a network; YAML writes a list."""
Numbers = Annotated[tuple[StrictInt, ...], Strict(strict=False)]
"""One whole number per stage or layer of a network; YAML writes a list."""


class ModelConfig(Section):
    """A network and its fixed options.

    Args:
        name: Name of a registered network, such as `adaptive_resnet26_small`.
        options: Keyword arguments of `timm.create_model`.
    """

    name: str
    options: Mapping[str, Scalar | Flags | Numbers] = {}
