"""Table of all recipes, for a terminal and for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from orchestrator.config.recipe import Recipe
from orchestrator.plain_output import add_row

__all__ = ["as_json", "print_recipes"]


def as_json(recipes: Sequence[Recipe]) -> str:
    """Return a JSON list with one object per recipe, settings included."""
    return json.dumps([{**vars(recipe)} for recipe in recipes], indent=2)


def print_recipes(recipes: Sequence[Recipe], console: Console) -> None:
    """Print the table on a terminal."""
    table = Table(title=f"{len(recipes)} recipes", caption="spatialsweep train NAME --set dataset.uri=URI")
    for column in ("name", "what", "epochs", "published top-1 %", "top-5 %", "source"):
        right = column in ("epochs", "published top-1 %", "top-5 %")
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    for recipe in recipes:
        published = [_per_cent(recipe.expected), _per_cent(recipe.expected_top5)]
        add_row(table, recipe.name, recipe.title, str(recipe.settings["training"]["epochs"]), *published, recipe.source)
    console.print(table)


def _per_cent(accuracy: float | None) -> str:
    return "" if accuracy is None else f"{accuracy:.2f}"
