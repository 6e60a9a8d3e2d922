"""Base class and types shared by all sections of the configuration."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, Strict

Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""Seed within the range that NumPy, Optuna and PyTorch all accept."""

Texts = Annotated[tuple[str, ...], Strict(strict=False)]
"""Several texts; YAML writes a list."""


class Section(BaseModel):
    """A part of the configuration: frozen, keyword-only, unknown keys forbidden, types not converted."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
