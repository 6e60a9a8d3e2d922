"""Published training set-ups, runnable by name: each is a sweep of one trial, in a file beside this one.

A recipe file is a sweep file with one more section, `recipe`: where the set-up comes from and what it reached.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.config.load import read_settings
from orchestrator.errors import RecipeError, did_you_mean

__all__ = ["Recipe", "list_recipes", "load_recipe"]

_FOLDER = Path(__file__).parent
_SECTION = "recipe"


@dataclass(frozen=True)
class Recipe:
    """A published set-up.

    Args:
        name: Of its file.
        title: What is trained on what.
        source: Paper and code.
        expected: Published accuracy on the test images in per cent; None where none was found.
        notes: Where ours differs from theirs, or what the source leaves open.
        settings: Of the sweep, as `load_sweep` takes them, unchecked.
    """

    name: str
    title: str
    source: str
    expected: float | None
    notes: str
    settings: Mapping[str, Any]


def list_recipes() -> list[str]:
    """Names of all recipes, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def load_recipe(name: str) -> Recipe:
    """Reads a recipe.

    Raises:
        RecipeError: There is none of this name.
    """
    if name not in list_recipes():
        raise RecipeError(f"no recipe is called '{name}'. {did_you_mean(name, list_recipes())}")
    settings = read_settings(_FOLDER / f"{name}.yaml")
    about = settings.pop(_SECTION)
    return Recipe(
        name=name,
        title=about["title"],
        source=about["source"],
        expected=about.get("expected"),
        notes=about.get("notes", ""),
        settings=settings,
    )
