"""Published training set-ups, runnable by name: each is a sweep of one trial, in a file in the folder of its family.

A recipe file is a sweep file with one more section, `recipe`: the source of the set-up and its published accuracy.
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
        name: Name of its file, without `.yaml`.
        title: Network and dataset in words.
        source: Paper and code of the authors.
        dataset: Name of the dataset, for `spatialsweep data prepare`.
        expected: Published top-1 accuracy on the test images, in per cent; None where none was found.
        expected_top5: The same for top-5 accuracy.
        notes: Differences from the source, and settings that the source leaves open.
        settings: Unchecked settings of the sweep, in the form that `load_sweep` takes.
    """

    name: str
    title: str
    source: str
    dataset: str
    expected: float | None
    expected_top5: float | None
    notes: str
    settings: Mapping[str, Any]

    @property
    def published(self) -> dict[str, float | None]:
        """Published metrics on the test images by name, in per cent; None where none was found."""
        return {"top1": self.expected, "top5": self.expected_top5}


def recipe_sweep(
    name: str, overrides: Sequence[str] = (), *, values: Mapping[str, Any] = MappingProxyType({})
) -> SweepConfig:
    """Return the configuration of a recipe, checked.

    Args:
        name: Name of the recipe.
        overrides: Assignments as in `load_sweep`; `dataset.uri=...` names the prepared dataset.
        values: Values by dotted setting, as in `load_sweep`.

    Raises:
        RecipeError: No recipe has this name, or the dataset is another one.
        ConfigError: An override is wrong, or the dataset is missing.
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
    """Read a recipe.

    Raises:
        RecipeError: No recipe has this name.
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
        expected_top5=about.get("expected_top5"),
        notes=about.get("notes", ""),
        settings=settings,
    )
