"""Annotated images that need no download: converted once, next to the datasets of sweeps."""

from __future__ import annotations

from pathlib import Path

from orchestrator.data.datasets import ANNOTATED, convert_once
from orchestrator.data.scenes.dataset import open_scenes
from orchestrator.errors import DataError, did_you_mean

__all__ = ["list_scenes", "prepare_scenes"]


def list_scenes() -> list[str]:
    """Return the names that `prepare_scenes` accepts."""
    return sorted(ANNOTATED)


def prepare_scenes(name: str, folder: Path) -> Path:
    """Convert annotated images with a name once; later calls check and return their folder.

    Args:
        name: Name of the dataset.
        folder: Folder in which datasets with a name are kept.

    Raises:
        DataError: The name is unknown, or the converted dataset is damaged.
    """
    if name not in list_scenes():
        raise DataError(f"unknown annotated images '{name}'. {did_you_mean(name, list_scenes())}")
    path = convert_once(name, folder)
    try:
        open_scenes(path)
    except DataError as error:
        raise DataError(f"{error} (remove this folder, and the next call prepares it again)") from None
    return path
