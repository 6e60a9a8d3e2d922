"""Small sweep settings shared by tests, and the problems that loading them reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator import ConfigError, load_sweep

BASE = {"name": "t", "dataset": {"name": "digits"}, "model": {"name": "conv_resnet26_small"}}
ADAPTIVE, BIASED, PLAIN = "adaptive_resnet26_small", "sb_resnet29_cifar", "conv_resnet26_small"


def faults(raw: dict[str, Any] | Path, *overrides: str) -> list[str]:
    """Return the problems reported for a configuration that is not valid.

    Args:
        raw: Settings added to `BASE`, or path of a sweep file.
        *overrides: Settings as `--set` takes them.
    """
    source = raw if isinstance(raw, Path) else {**BASE, **raw}
    with pytest.raises(ConfigError) as caught:
        load_sweep(source, overrides)
    return str(caught.value).splitlines()


def write(folder: Path, text: str) -> Path:
    """Write `sweep.yaml` into a folder and return its path."""
    path = folder / "sweep.yaml"
    path.write_text(text)
    return path
