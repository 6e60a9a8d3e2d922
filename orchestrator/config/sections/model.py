"""The network of a sweep and its fixed options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Strict, StrictBool, StrictInt, StrictStr

from orchestrator.config.sections.path_text import LocationText
from orchestrator.config.sections.section import Section
from search_spaces import Scalar
from search_spaces.domains import Finite

Flags = Annotated[tuple[StrictBool | StrictInt | Finite | StrictStr, ...], Strict(strict=False)]
"""One flag or number per stage of a network; YAML writes a list."""


class ModelConfig(Section):
    """A network and its fixed options.

    Args:
        name: Name of a registered network, such as `adaptive_resnet26_small`; of any network of timm; or
            `FILE.py:FACTORY` of a file of the user's own.
        options: Keyword arguments of the network.
        checkpoint: Weights that trainings start from: a file, `runs:/<id>` of MLflow, or `timm:TAG` for pretrained
            weights of timm; None or `random` starts from random weights. It may be searched.
        checkpoint_weights: Weights of a file that holds both: `ema`, their moving average, or `plain`; None takes the
            average where there is one.
    """

    name: str
    options: Mapping[str, Scalar | Flags] = {}
    checkpoint: LocationText | None = None
    checkpoint_weights: Literal["ema", "plain"] | None = None
