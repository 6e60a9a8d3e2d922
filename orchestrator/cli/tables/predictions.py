"""Output of `spatialsweep predict`."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from orchestrator.inference.predict import ClassifiedImage, DetectedImage, PredictedImage, SegmentedImage
from orchestrator.plain_output import add_column, add_row, say

__all__ = ["PredictionTable"]

_OF_OBJECTS = ("class", "score", "box (x1, y1, x2, y2)")


class PredictionTable:
    """Table with the rows of one image below those of another.

    Args:
        title: Line above the table.
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._results: list[tuple[str, list[tuple[str, ...]]]] = []
        self._headings: tuple[str, ...] = ()

    def add(self, result: PredictedImage) -> None:
        """Add the rows of an image."""
        self._headings = _headings(result)
        self._results.append((str(result.path), list(_rows(result))))

    def print(self, console: Console) -> None:
        """Print the table."""
        say(console, self._title)
        table = Table()
        for heading in ("image", *self._headings):
            add_column(table, heading, justify="left" if heading in ("image", "class") else "right", overflow="fold")
        for name, rows in self._results:
            for number, row in enumerate(rows):
                add_row(table, "" if number else name, *row)
        console.print(table)


def _headings(result: PredictedImage) -> tuple[str, ...]:
    if isinstance(result, ClassifiedImage):
        return ("class", "probability")
    return ("class", "share of pixels") if isinstance(result, SegmentedImage) else _OF_OBJECTS


def _rows(result: PredictedImage) -> Iterator[tuple[str, ...]]:
    """Yield the rows of an image, at least one."""
    if isinstance(result, ClassifiedImage):
        yield from ((each.name, f"{each.probability:.2%}") for each in result.classes)
    elif isinstance(result, SegmentedImage):
        yield from ((each.name, f"{each.share:.2%}") for each in result.classes)
    elif isinstance(result, DetectedImage):
        if not result.objects:
            yield ("no object", "", "")
        for each in result.objects:
            yield (each.name, f"{each.score:.3f}", ", ".join(f"{edge:.1f}" for edge in each.box))
