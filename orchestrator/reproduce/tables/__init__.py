"""Tables of the papers as data: one file for each paper."""

from __future__ import annotations

from pathlib import Path

__all__ = ["list_papers", "paper_path"]

_FOLDER = Path(__file__).parent


def list_papers() -> list[str]:
    """Return the names of all papers, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def paper_path(name: str) -> Path:
    """Return the file with the tables of a paper.

    Args:
        name: A name of `list_papers`.
    """
    return _FOLDER / f"{name}.yaml"
