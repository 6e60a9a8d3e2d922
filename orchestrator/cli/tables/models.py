"""Table of all networks: for a terminal, for programs, and for the documentation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from orchestrator.plain_output import add_row

__all__ = ["as_json", "as_markdown", "print_models"]

Facts = Mapping[str, Any]
"""Facts of a network: fields of `models.ModelFacts`."""

COLUMNS = ("name", "family", "params", "macs", "input_size", "source")
NUMBERS = ("params", "macs")

OTHERS = (
    "model.name also takes every network of timm (spatialsweep models --timm 'vit_tiny*') and FILE.py:FACTORY of your "
    "own (docs/networks/own-networks.md)."
)
INTRODUCTION = """\
# Networks

Every registered network with its default options, which `spatialsweep models` lists: parameters, and
multiply-accumulates of the convolutions and matrix products for one image of the size shown. Attention to windows
counts every query against every pixel of its window, learned windows at their first size; norms, nonlinearities,
pooling and resizing are not counted. A sweep takes every network of timm as well (`spatialsweep models --timm 'vit*'`
lists them), and networks of [your own](own-networks.md).
This page is written by `python tools/model_facts.py`.
"""


def as_json(facts: Sequence[Facts]) -> str:
    """Return a JSON list with one object per network."""
    return json.dumps(list(facts), indent=2)


def as_markdown(facts: Sequence[Facts]) -> str:
    """Return the page `docs/networks/models.md`."""
    rules = ["---:" if column in NUMBERS else "---" for column in COLUMNS]
    rows = [COLUMNS, rules, *([f"`{entry['name']}`", *_cells(entry)[1:]] for entry in facts)]
    return INTRODUCTION + "\n" + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def print_models(facts: Sequence[Facts], console: Console) -> None:
    """Print the table on a terminal."""
    table = Table(title=f"{len(facts)} networks")
    for column in COLUMNS:
        table.add_column(column, justify="right" if column in NUMBERS else "left", no_wrap=True)
    for entry in facts:
        add_row(table, *_cells(entry))
    console.print(table)
    console.print(OTHERS, highlight=False)


def _cells(facts: Facts) -> list[str]:
    """Return the cells of one network, in the order of the columns."""
    size = "x".join(map(str, facts["input_size"]))
    return [facts["name"], facts["family"], f"{facts['params']:,}", f"{facts['macs']:,}", size, facts["source"]]
