"""Table of all recipes, for a terminal and for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from orchestrator.config.recipe import Recipe
from orchestrator.plain_output import add_row

__all__ = ["as_json", "print_recipes"]


def as_json(recipes: Sequence[Recipe]) -> str:
    """Return a JSON list with one object per recipe, settings included."""
    return json.dumps(
        [{**vars(recipe), "expected": recipe.expected, "expected_top5": recipe.expected_top5} for recipe in recipes],
        indent=2,
    )


def print_recipes(recipes: Sequence[Recipe], console: Console) -> None:
    """Print the table on a terminal."""
    table = Table(title=f"{len(recipes)} recipes", caption="spatialsweep train NAME --set dataset.uri=URI")
    for column in ("name", "what", "epochs", "published, %", "source"):
        table.add_column(column, justify="right" if column == "epochs" else "left", overflow="fold")
    for recipe in recipes:
        add_row(table, recipe.name, recipe.title, _epochs(recipe), _published(recipe), recipe.source)
    console.print(table)


def _epochs(recipe: Recipe) -> str:
    training = recipe.settings["training"]
    steps = training.get("epoch_steps")
    return str(training["epochs"]) + (f" of {steps:,} steps" if steps else "")


def _published(recipe: Recipe) -> str:
    """Return the published numbers by metric, then those on other images."""
    others = [f"{images}: {_numbers(recipe, numbers)}" for images, numbers in recipe.published_on.items()]
    return "; ".join(filter(None, (_numbers(recipe, recipe.published), *others)))


def _numbers(recipe: Recipe, numbers: Mapping[str, float | None]) -> str:
    labels = {metric.name: metric.label for metric in recipe.task.metrics}
    found = [f"{labels.get(name, name)} {value:.2f}" for name, value in numbers.items() if value is not None]
    return ", ".join(found)
