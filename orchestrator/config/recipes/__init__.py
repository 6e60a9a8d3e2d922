"""Recipe files, in a folder for each family of networks, and their names."""

from __future__ import annotations

from pathlib import Path

__all__ = ["list_recipes", "recipe_path"]

_FOLDER = Path(__file__).parent


def list_recipes() -> list[str]:
    """Return the names of all recipes, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*/*.yaml"))


def recipe_path(name: str) -> Path:
    """Return the file of a recipe.

    Args:
        name: A name of `list_recipes`.
    """
    (path,) = _FOLDER.glob(f"*/{name}.yaml")
    return path
