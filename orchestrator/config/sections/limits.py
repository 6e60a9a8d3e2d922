"""How large a network of a sweep may be."""

from __future__ import annotations

from pydantic import PositiveFloat

from orchestrator.config.sections.section import Section


class LimitsConfig(Section):
    """A configuration beyond one of these is rejected before it costs a trial.

    Args:
        max_params: Parameters of the network.
        max_macs: Multiply-accumulates of one image, as `spatialsweep models` counts them.
    """

    max_params: PositiveFloat | None = None
    max_macs: PositiveFloat | None = None
