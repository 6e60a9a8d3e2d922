"""Result of a table: published beside measured numbers, with intervals, and the scale they were measured at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.reproduce.catalogue import Measure, PaperTable, TableRow
from orchestrator.reproduce.measurements import Measurement
from orchestrator.reproduce.rows import ResolvedRow
from orchestrator.reproduce.scale import RunScale
from orchestrator.reproduce.sweeps import Cell
from orchestrator.seeds.estimates import CONFIDENCE, Estimate, estimate, paired_difference

__all__ = ["RowResult", "TableResult", "table_result"]


@dataclass(frozen=True)
class RowResult:
    """Result of one row.

    Args:
        name: Name of the row.
        label: Row for readers.
        control: Name of the row it is compared with; its own name for a control, empty for none.
        network: Name of the network.
        options: Options of the network.
        params: Number of its parameters.
        macs: Multiply-accumulates of one image.
        epochs: Epochs of its training.
        published: Published value; None where none was found.
        published_difference: Published difference to the control row; None where none was found.
        values: Measured value by seed.
        measured: Mean of the values; None without any.
        difference: Mean paired difference to the control row; None for a control row, or without one.
        layers: Mean learned span of each layer in pixels, of networks that have some.
        without_value: Seeds without a value, each with its status and reason.
    """

    name: str
    label: str
    control: str
    network: str
    options: Mapping[str, Any]
    params: int
    macs: int
    epochs: int
    published: float | None
    published_difference: float | None
    values: Mapping[int, float]
    measured: Estimate | None
    difference: Estimate | None
    layers: Sequence[float]
    without_value: Mapping[int, str]

    @property
    def verdict(self) -> str:
        """Comparison of the measured difference with the published one in words; empty for the control row."""
        if self.difference is None:
            return ""
        if not self.difference.is_resolved:
            return "not resolved"
        if not self.published_difference:
            return "resolved, none published"
        same = (self.difference.mean > 0) == (self.published_difference > 0)
        return "same direction" if same else "opposite direction"

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            **asdict(self),
            "options": dict(self.options),
            "values": {str(seed): value for seed, value in self.values.items()},
            "without_value": {str(seed): why for seed, why in self.without_value.items()},
            "measured": self.measured.as_dict() if self.measured else None,
            "difference": self.difference.as_dict() if self.difference else None,
            "layers": list(self.layers),
            "verdict": self.verdict,
        }


@dataclass(frozen=True)
class TableResult:
    """Result of a table.

    Args:
        table: The table with its published numbers.
        name: Name of the results.
        scale: Scale the rows were run at.
        rows: Rows that were run, in the order of the table.
        left_out: Labels of rows of the table that were not run.
        sweeps: Names of the sweeps that the numbers come from.
        facts: Versions of packages and revision of the code that trained.
    """

    table: PaperTable
    name: str
    scale: RunScale
    rows: Sequence[RowResult]
    left_out: Sequence[str]
    sweeps: Sequence[str]
    facts: Mapping[str, str]

    @property
    def measure(self) -> Measure:
        """Quantity that the table compares."""
        return self.table.measure

    @property
    def title(self) -> str:
        """Title of the table, and the scale where it is not that of the paper."""
        return self.table.title if self.scale.name == "paper" else f"{self.table.title}: scale {self.scale.name}"

    @property
    def is_complete(self) -> bool:
        """True if every row has a value for every seed."""
        return all(row.values and not row.without_value for row in self.rows)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        table = self.table
        return {
            "paper": table.paper,
            "table": table.name,
            "title": self.title,
            "source": table.source,
            "published_in": table.published_in or None,
            "measure": {"name": table.measure.words, "unit": table.measure.unit, "mode": table.measure.mode},
            "confidence": CONFIDENCE,
            "control": table.control or None,
            "scale": {**asdict(self.scale), "words": self.scale.in_words},
            "rows": [row.as_dict() for row in self.rows],
            "left_out": list(self.left_out),
            "sweeps": list(self.sweeps),
            "versions": dict(self.facts),
        }


def table_result(
    table: PaperTable,
    name: str,
    rows: Sequence[ResolvedRow],
    found: Mapping[Cell, Measurement],
    *,
    scale: RunScale,
    costs: Mapping[str, tuple[int, int]],
    facts: Mapping[str, str],
) -> TableResult:
    """Compute the result of a table.

    Args:
        table: The table.
        name: Name of the results.
        rows: Rows to show.
        found: Measurements by row and seed.
        scale: Scale the rows were run at.
        costs: Parameters and multiply-accumulates by name of the row.
        facts: Versions of packages and revision of the code that trained.
    """
    values = {row.name: _values(row.name, found) for row in rows}
    shown = {row.name for row in rows}
    return TableResult(
        table=table,
        name=name,
        scale=scale,
        rows=[_row_result(table, row, found, values, costs[row.name]) for row in rows],
        left_out=[row.label for row in table.rows if row.name not in shown],
        sweeps=list(dict.fromkeys(found[cell].sweep for cell in found if cell[0] in shown)),
        facts=facts,
    )


def _row_result(
    table: PaperTable,
    row: ResolvedRow,
    found: Mapping[Cell, Measurement],
    values: Mapping[str, Mapping[int, float]],
    cost: tuple[int, int],
) -> RowResult:
    own, control = values[row.name], values.get(row.row.control, {})
    is_control = row.row.control in ("", row.name)
    model = row.config.model
    assert model is not None
    return RowResult(
        name=row.name,
        label=row.row.label,
        control=row.row.control,
        network=model.name,
        options=dict(model.options),
        params=cost[0],
        macs=cost[1],
        epochs=row.config.training.epochs,
        published=row.row.published.value,
        published_difference=None if is_control else _published_difference(table, row.row),
        values=own,
        measured=estimate(list(own.values())),
        difference=None if is_control else paired_difference(own, control),
        layers=_layers(row.name, found),
        without_value={
            seed: f"{one.status}{': ' if one.reason else ''}{one.reason}"
            for (name, seed), one in sorted(found.items())
            if name == row.name and one.value is None
        },
    )


def _values(row: str, found: Mapping[Cell, Measurement]) -> dict[int, float]:
    return {seed: one.value for (name, seed), one in sorted(found.items()) if name == row and one.value is not None}


def _layers(row: str, found: Mapping[Cell, Measurement]) -> tuple[float, ...]:
    spans = [one.layers for (name, _), one in found.items() if name == row and one.layers]
    return tuple(sum(layer) / len(layer) for layer in zip(*spans, strict=True))


def _published_difference(table: PaperTable, row: TableRow) -> float | None:
    if row.published.gain is not None:
        return row.published.gain
    control = next((other.published.value for other in table.rows if other.name == row.control), None)
    value = row.published.value
    return None if value is None or control is None else round(value - control, 6)
