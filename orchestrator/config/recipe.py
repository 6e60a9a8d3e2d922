"""Published training set-ups, runnable by name: each is a sweep of one trial, in a file in the folder of its family.

A recipe file is a sweep file with one more section, `recipe`: the source of the set-up and its published numbers.
`expected` is a top-1 accuracy, beside `expected_top5`, or metrics by name, such as `{miou: 43.3}`; `expected_on` holds
those on other images than the test images, such as `{test-dev: {ap: 44.2}}`. All are in per cent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from orchestrator.config.fixed_settings import CHECKPOINT
from orchestrator.config.load import load_sweep, overridden, read_settings
from orchestrator.config.recipes import list_recipes, recipe_path
from orchestrator.config.sweep import SweepConfig
from orchestrator.config.tasks.facts import TaskFacts
from orchestrator.config.tasks.registry import recorded_task
from orchestrator.data.scenes.manifest import read_any_manifest
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
        published: Published metrics on the test images by name, in per cent; None where none was found.
        notes: Differences from the source, and settings that the source leaves open.
        settings: Unchecked settings of the sweep, in the form that `load_sweep` takes.
        published_on: Published metrics on other images, by the name of these images.
        starts_from: Weights that the training starts from, in words; empty for random weights.
    """

    name: str
    title: str
    source: str
    dataset: str
    published: Mapping[str, float | None]
    notes: str
    settings: Mapping[str, Any]
    published_on: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    starts_from: str = ""

    @property
    def task(self) -> TaskFacts:
        """Facts of the task that it trains."""
        return recorded_task(self.settings)

    @property
    def expected(self) -> float | None:
        """Published top-1 accuracy on the test images, in per cent; None where there is none."""
        return self.published.get("top1")

    @property
    def expected_top5(self) -> float | None:
        """The same for top-5 accuracy."""
        return self.published.get("top5")


def recipe_sweep(
    name: str, overrides: Sequence[str] = (), *, values: Mapping[str, Any] = MappingProxyType({})
) -> SweepConfig:
    """Return the configuration of a recipe, checked.

    Args:
        name: Name of the recipe.
        overrides: Assignments as in `load_sweep`; `dataset.uri=...` names the prepared dataset, and
            `model.checkpoint=...` the weights that some recipes start from.
        values: Values by dotted setting, as in `load_sweep`.

    Raises:
        RecipeError: No recipe has this name, the dataset is another one, or the weights that it starts from are not
            named.
        ConfigError: An override is wrong, or the dataset is missing.
    """
    recipe = load_recipe(name)
    settings = {**recipe.settings, "recipe": name}
    given = overridden(settings, overrides, values)[0]
    if not _names(given, "dataset", "uri"):
        raise RecipeError(
            f"recipe {name} trains on {recipe.dataset}. Prepare it with `spatialsweep data prepare {recipe.dataset} "
            "--from ARCHIVE --to URI`, and add --set dataset.uri=URI"
        )
    searched = isinstance(given.get("search"), Mapping) and CHECKPOINT in given["search"]
    if recipe.starts_from and not searched and not _names(given, "model", CHECKPOINT):
        raise RecipeError(
            f"recipe {name} starts from {recipe.starts_from} (docs/checkpoints.md). Add --set model.checkpoint=FILE, "
            "or --set model.checkpoint=random for random weights, which the published numbers are not of"
        )
    config = load_sweep(settings, overrides, values=values, label=f"recipe {name}")
    found = read_any_manifest(open_folder(config.dataset.uri or "")).name
    if found != recipe.dataset:
        raise RecipeError(f"recipe {name} trains on {recipe.dataset}; {config.dataset.uri} holds {found}")
    return config


def _names(settings: Mapping[str, Any], section: str, name: str) -> bool:
    """Check whether a setting of a section has a value."""
    content = settings.get(section)
    return isinstance(content, Mapping) and content.get(name) is not None


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
        published=_published(about),
        notes=about.get("notes", ""),
        settings=settings,
        published_on=about.get("expected_on", {}),
        starts_from=about.get("starts_from", ""),
    )


def _published(about: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the published metrics by name; a number alone is a top-1 accuracy."""
    expected = about.get("expected")
    if isinstance(expected, Mapping):
        return dict(expected)
    return {"top1": expected, "top5": about.get("expected_top5")}
