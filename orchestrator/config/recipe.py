"""Published training set-ups, runnable by name: each is a sweep of one trial, in a file of its family's folder.

A recipe file is a sweep file with one more section, `recipe`: where the set-up comes from and what it reached.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from orchestrator.config.load import load_sweep, overridden, read_settings
from orchestrator.config.recipes import list_recipes, recipe_path
from orchestrator.config.sweep import SweepConfig
from orchestrator.data.manifest import read_manifest
from orchestrator.data.storage import open_folder
from orchestrator.errors import RecipeError, did_you_mean

__all__ = ["Recipe", "load_recipe", "recipe_sweep"]


_SECTION = "recipe"


@dataclass(frozen=True)
class Recipe:
    """A published set-up.

    Args:
        name: Of its file.
        title: What is trained on what.
        source: Paper and code.
        dataset: What it is trained on, as `spatialsweep data prepare` calls it.
        expected: Published accuracy on the test images in per cent; None where none was found.
        notes: Where ours differs from theirs, or what the source leaves open.
        settings: Of the sweep, as `load_sweep` takes them, unchecked.
    """

    name: str
    title: str
    source: str
    dataset: str
    expected: float | None
    notes: str
    settings: Mapping[str, Any]


def recipe_sweep(
    name: str, overrides: Sequence[str] = (), *, values: Mapping[str, Any] = MappingProxyType({})
) -> SweepConfig:
    """The sweep of a recipe, checked.

    Args:
        name: Of the recipe.
        overrides: As `load_sweep` takes them; `dataset.uri=...` among them says where the images are.
        values: As `load_sweep` takes them.

    Raises:
        RecipeError: There is no recipe of this name, or the images are another dataset's.
        ConfigError: An override is wrong, or the dataset is not there.
    """
    recipe = load_recipe(name)
    settings = {**recipe.settings, "recipe": name}
    if not _names_images(overridden(settings, overrides, values)[0]):
        raise RecipeError(
            f"recipe {name} trains on {recipe.dataset}. Prepare it with `spatialsweep data prepare {recipe.dataset} "
            "--from ARCHIVE --to URI`, and add --set dataset.uri=URI"
        )
    config = load_sweep(settings, overrides, values=values, label=f"recipe {name}")
    found = read_manifest(open_folder(config.dataset.uri or "")).name
    if found != recipe.dataset:
        raise RecipeError(f"recipe {name} trains on {recipe.dataset}; {config.dataset.uri} holds {found}")
    return config


def _names_images(settings: Mapping[str, Any]) -> bool:
    dataset = settings.get("dataset")
    return isinstance(dataset, Mapping) and dataset.get("uri") is not None


def load_recipe(name: str) -> Recipe:
    """Reads a recipe.

    Raises:
        RecipeError: There is none of this name.
    """
    if name not in list_recipes():
        raise RecipeError(f"no recipe is called '{name}'. {did_you_mean(name, list_recipes())}")
    settings = read_settings(recipe_path(name))
    about = settings.pop(_SECTION)
    return Recipe(
        name=name,
        title=about["title"],
        source=about["source"],
        dataset=about["dataset"],
        expected=about.get("expected"),
        notes=about.get("notes", ""),
        settings=settings,
    )
