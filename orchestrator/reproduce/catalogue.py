"""Tables that can be reproduced: their rows, the published numbers, and the settings of each row at each scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from orchestrator.config.load import read_settings
from orchestrator.errors import ReproduceError, did_you_mean
from orchestrator.reproduce.tables import list_papers, paper_path

__all__ = ["MEASURES", "SCALES", "Measure", "PaperTable", "Published", "TableRow", "list_tables", "load_table"]

SCALES = ("paper", "small")
"""Scale of the paper, and one that a machine without accelerators manages in minutes."""


@dataclass(frozen=True)
class Measure:
    """Quantity that a table compares.

    Args:
        name: Name in the files of tables.
        words: Name for readers.
        unit: Unit; empty for numbers without one.
        metric: Metric of the reports it is computed from.
        mode: `max` where a larger value is better, `min` where a smaller one is, `none` where neither is.
        decimals: Digits after the decimal point.
    """

    name: str
    words: str
    unit: str
    metric: str
    mode: str
    decimals: int = 2

    def of(self, value: float) -> float:
        """Return the quantity for a value of the metric: accuracies are shares, tables give per cent."""
        if self.name == "error":
            return 100.0 * (1.0 - value)
        return 100.0 * value if self.unit == "%" else value


MEASURES: Mapping[str, Measure] = MappingProxyType(
    {
        measure.name: measure
        for measure in (
            Measure("top1", "top-1 accuracy on test images", "%", "test/top1", "max"),
            Measure("error", "top-1 error on test images", "%", "test/top1", "min"),
            Measure("span", "mean of the learned spans", "px", "span/mean_px", "none"),
        )
    }
)
"""Quantities by name."""


@dataclass(frozen=True)
class Published:
    """Number of the paper for one row.

    Args:
        value: Published value, in the unit of the table; None where none was found.
        gain: Published difference to the control row, where only that was found; None otherwise.
    """

    value: float | None = None
    gain: float | None = None


@dataclass(frozen=True)
class TableRow:
    """Row of a table.

    Args:
        name: Name in options and results.
        label: Row for readers.
        published: Number of the paper.
        control: Row that this one is compared with; its own name for a control, empty for none.
        settings: Settings of the row by scale, which are laid over those of the table; absent where the row is left
            out at that scale.
    """

    name: str
    label: str
    published: Published
    control: str
    settings: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class PaperTable:
    """Table of a paper.

    Args:
        paper: Name of the paper's file.
        name: Name of the table.
        title: Title for readers.
        source: Paper and code of the authors.
        published_in: Source of the published numbers; empty where there are none.
        measure: Quantity that the table compares.
        control: Row or rows that the others are compared with, in words; empty where none are compared.
        rows: Rows in order.
        settings: Settings of all rows by scale: `recipe` names the recipe that they change.
        notes: Differences from the paper, in words.
    """

    paper: str
    name: str
    title: str
    source: str
    published_in: str
    measure: Measure
    control: str
    rows: Sequence[TableRow]
    settings: Mapping[str, Mapping[str, Any]]
    notes: str = ""

    @property
    def scales(self) -> list[str]:
        """Scales at which the table can be reproduced."""
        return [scale for scale in SCALES if scale in self.settings]

    def rows_at(self, scale: str) -> list[TableRow]:
        """Return the rows that are run at a scale."""
        return [row for row in self.rows if scale in row.settings]


def list_tables(paper: str) -> list[str]:
    """Return the names of the tables of a paper, in the order of its file.

    Raises:
        ReproduceError: No paper has this name.
    """
    return list(_content(paper)["tables"])


def load_table(paper: str, table: str) -> PaperTable:
    """Read a table.

    Args:
        paper: Name of the paper's file.
        table: Name of the table.

    Raises:
        ReproduceError: There is no such paper or table; the text names the nearest one.
    """
    content = _content(paper)
    tables = content["tables"]
    if table not in tables:
        raise ReproduceError(f"{paper} has no table '{table}'. {did_you_mean(table, list(tables))}".rstrip())
    found = tables[table]
    scales = found["scales"]
    return PaperTable(
        paper=paper,
        name=table,
        title=found["title"],
        source=content["source"],
        published_in=found.get("published_in", ""),
        measure=MEASURES[found["measure"]],
        control=_control_words(found),
        rows=tuple(_row(name, row, found) for name, row in found["rows"].items()),
        settings=scales,
        notes=found.get("notes", ""),
    )


def _content(paper: str) -> dict[str, Any]:
    if paper not in list_papers():
        raise ReproduceError(f"no paper is called '{paper}'. {did_you_mean(paper, list_papers())}".rstrip())
    return read_settings(paper_path(paper))


def _control_words(table: Mapping[str, Any]) -> str:
    """Return what the rows are compared with in words: `controls`, or the label of the row `control`."""
    if "control" in table:
        return str(table["rows"][table["control"]]["label"])
    return str(table.get("controls", ""))


def _row(name: str, content: Mapping[str, Any], table: Mapping[str, Any]) -> TableRow:
    """Return a row; settings without a scale apply at all scales, and `false` leaves the row out at a scale."""
    common = content.get("settings") or {}
    own = {scale: content.get(scale, {}) for scale in table["scales"]}
    return TableRow(
        name=name,
        label=content["label"],
        published=Published(content.get("published"), content.get("published_gain")),
        control=content.get("control", table.get("control", "")),
        settings={scale: merged(common, settings) for scale, settings in own.items() if settings is not False},
    )


def merged(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested settings with changes laid over them; another network begins without the options of the first.

    Args:
        settings: Nested settings.
        changes: Settings that replace them, group by group.
    """
    result = dict(settings)
    for name, change in changes.items():
        before = result.get(name)
        if not isinstance(change, Mapping) or not isinstance(before, Mapping):
            result[name] = change
            continue
        if name == "model" and change.get("name", before.get("name")) != before.get("name"):
            before = {}
        result[name] = merged(before, change)
    return result
