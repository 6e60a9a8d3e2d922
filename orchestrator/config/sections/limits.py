"""Bounds on the size of the networks of a sweep."""

from __future__ import annotations

from pydantic import PositiveFloat

from orchestrator.config.sections.section import Section


class LimitsConfig(Section):
    """Bounds on the size of a network; larger configurations are rejected before they cost a trial.

    Args:
        max_params: Largest number of parameters.
        max_macs: Largest number of multiply-accumulates per image, as counted by `spatialsweep models`.
    """

    max_params: PositiveFloat | None = None
    max_macs: PositiveFloat | None = None
