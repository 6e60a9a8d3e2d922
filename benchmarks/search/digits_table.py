"""Tabulated search space: configurations of a small space on the digits, each trained once, with all epochs.

The table has one row per configuration and epoch. A searcher draws any learning rate; the table has a logarithmic grid,
and a value is looked up at the nearest point for its choices.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

EPOCHS = 27
TABLE = Path(__file__).parent / "data" / "digits_table.parquet"
SPANNED = "adaptive_resnet26_small"

SEARCH: Mapping[str, Any] = {
    "model": {"choices": ["conv_resnet26_small", "senet_resnet29_cifar", SPANNED]},
    "max_span": {"choices": [1, 3], "when": {"model": SPANNED}},
    "optimizer": {"choices": ["sgd", "adamw"]},
    "global_batch_size": {"choices": [32, 128]},
    "lr": {"type": "float", "low": 10**-3.4, "high": 10**-0.2, "log": True},
}
"""Section `search` of a sweep over this space."""

TRAINING: Mapping[str, Any] = {"epochs": EPOCHS, "weight_decay": 0.05, "lr_schedule": "cosine", "crop_padding": 1}
"""Section `training` of that sweep."""

SCHEMA = pa.schema(
    {
        "model": pa.string(),
        "max_span": pa.int8(),
        "optimizer": pa.string(),
        "global_batch_size": pa.int16(),
        "log10_lr": pa.float32(),
        "epoch": pa.int8(),
        "train_loss": pa.float32(),
        "val_loss": pa.float32(),
        "val_top1": pa.float32(),
    }
)


@dataclass(frozen=True, order=True)
class Choices:
    """Configuration without its learning rate; `max_span` is 0 for networks without spans."""

    model: str
    max_span: int
    optimizer: str
    global_batch_size: int


@dataclass(frozen=True, order=True)
class Cell:
    """Configuration of the table.

    Args:
        choices: Configuration without the learning rate.
        lr_tenths: Ten times the logarithm of the learning rate to base 10, a whole number.
    """

    choices: Choices
    lr_tenths: int

    @property
    def params(self) -> dict[str, Any]:
        """Parameters of the configuration, as a searcher draws them."""
        values = {name: value for name, value in vars(self.choices).items() if value}
        return {**values, "lr": 10 ** (self.lr_tenths / 10)}


@dataclass(frozen=True)
class Epoch:
    """Metrics of a configuration after an epoch."""

    train_loss: float
    val_loss: float
    val_top1: float


class DigitsTable(dict[Cell, list[Epoch]]):
    """Curves by configuration; one that diverged has fewer epochs than the others."""

    @classmethod
    def read(cls, path: Path = TABLE) -> DigitsTable:
        """Read the table from disk; an empty one where there is none."""
        table = cls()
        for row in pq.read_table(path, schema=SCHEMA).to_pylist() if path.exists() else []:
            table.setdefault(_cell(row), []).append(Epoch(row["train_loss"], row["val_loss"], row["val_top1"]))
        return table

    def write(self, path: Path = TABLE) -> None:
        """Write the table to disk."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        rows = [_row(cell, number, epoch) for cell in sorted(self) for number, epoch in enumerate(self[cell], 1)]
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), partial, compression="zstd")
        partial.replace(path)

    def look_up(self, params: Mapping[str, Any]) -> list[Epoch]:
        """Return the epochs of parameters drawn from the space."""
        choices = Choices(params["model"], params.get("max_span", 0), params["optimizer"], params["global_batch_size"])
        tenths = 10 * math.log10(params["lr"])
        held = (cell for cell in self if cell.choices == choices)
        return self[min(held, key=lambda cell: abs(cell.lr_tenths - tenths))]


def all_cells() -> list[Cell]:
    """Return every configuration of the grid, its coarse half first."""
    lr_tenths = [*range(-32, -2, 4), *range(-34, 0, 4)]
    choices = [
        Choices(model, span, optimizer, batch)
        for model in SEARCH["model"]["choices"]
        for span in (SEARCH["max_span"]["choices"] if model == SPANNED else [0])
        for optimizer, batch in itertools.product(
            SEARCH["optimizer"]["choices"], SEARCH["global_batch_size"]["choices"]
        )
    ]
    return [Cell(choice, tenths) for tenths in lr_tenths for choice in choices]


def _row(cell: Cell, number: int, epoch: Epoch) -> dict[str, Any]:
    choices = {**vars(cell.choices), "max_span": cell.choices.max_span or None}
    return {**choices, "log10_lr": cell.lr_tenths / 10, "epoch": number, **vars(epoch)}


def _cell(row: Mapping[str, Any]) -> Cell:
    choices = Choices(row["model"], row["max_span"] or 0, row["optimizer"], row["global_batch_size"])
    return Cell(choices, round(10 * row["log10_lr"]))
