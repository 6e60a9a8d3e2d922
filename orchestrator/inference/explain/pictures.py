"""Style of all pictures: one colour map per meaning, labelled colour bars, nothing interactive."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.errors import ExplainError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

__all__ = [
    "AMOUNT",
    "LINES",
    "SHARE",
    "SIGNED",
    "colour_bar",
    "grid",
    "heat",
    "mark",
    "outline",
    "overlay",
    "plot_figure",
    "save",
    "show_image",
    "style",
]

SHARE = "magma"
"""Colour map of values between 0 and 1: masks, gates, attention, maps of Grad-CAM."""

SIGNED = "RdBu_r"
"""Colour map of values with a sign; white is zero."""

AMOUNT = "viridis"
"""Colour map of values from zero with a unit."""

LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555", "#000000")
"""Colours of lines and bars, which colour-blind readers distinguish (Okabe and Ito)."""

_DPI = 150
_SETTINGS: Any = {
    "font.size": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 6.5,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 3,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.5,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "figure.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def grid(rows: int, cols: int, title: str, *, cell_in: float = 1.15) -> tuple[Figure, Any]:
    """Create a figure of square cells for images and maps, and its axes (rows, cols)."""
    return _figure(rows, cols, title, (max(2.6, cell_in * cols + 0.9), cell_in * rows + 0.6), ticks=False)


def plot_figure(
    rows: int, cols: int, title: str, *, width_in: float = 3.2, height_in: float = 2.4
) -> tuple[Figure, Any]:
    """Create a figure of plots, and its axes (rows, cols)."""
    return _figure(rows, cols, title, (width_in * cols, height_in * rows + 0.3), ticks=True)


def _figure(rows: int, cols: int, title: str, size_in: tuple[float, float], *, ticks: bool) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size_in, layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(rows, cols, squeeze=False)
    if not ticks:
        for ax in axes.flat:
            ax.set(xticks=[], yticks=[])
            for spine in ax.spines.values():
                spine.set_visible(False)
    return figure, axes


@contextmanager
def style() -> Iterator[None]:
    """Apply the style of all pictures within the context.

    Raises:
        ExplainError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
    except ImportError:
        raise ExplainError("explain: needs matplotlib. Install it: pip install 'spatialsweep[explain]'") from None
    with mpl.rc_context(_SETTINGS):
        yield


def heat(ax: Axes, values: Tensor | np.ndarray, colours: str, *, low: float, high: float) -> Any:
    """Draw a map (H, W), cell by cell."""
    return ax.imshow(np.asarray(values), cmap=colours, vmin=low, vmax=high, interpolation="nearest")


def colour_bar(figure: Figure, drawn: Any, axes: Any, label: str) -> None:
    """Draw a colour bar next to the axes."""
    figure.colorbar(drawn, ax=axes, shrink=0.9, aspect=25, pad=0.02, label=label)


def show_image(ax: Axes, pixels: Tensor) -> None:
    """Draw an image (C, H, W) of pixels in [0, 1]."""
    shown = np.asarray(pixels).transpose(1, 2, 0)
    if shown.shape[2] == 3:
        ax.imshow(shown, interpolation="nearest")
    else:
        ax.imshow(shown.mean(2), cmap="gray", vmin=0, vmax=1, interpolation="nearest")


def overlay(ax: Axes, pixels: Tensor, values: Tensor | np.ndarray, colours: str, limits: tuple[float, float]) -> Any:
    """Draw a map (h, w) over an image (C, H, W), cell by cell.

    Args:
        ax: Axes to draw on.
        pixels: Image in [0, 1].
        values: Map of any size, stretched over the image.
        colours: Colour map.
        limits: Values at both ends of the colour map.
    """
    show_image(ax, pixels)
    height, width = pixels.shape[1:]
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    low, high = limits
    return ax.imshow(
        np.asarray(values), cmap=colours, vmin=low, vmax=high, interpolation="nearest", extent=extent, alpha=0.7
    )


def mark(ax: Axes, cell: tuple[int, int], *, size: tuple[float, float]) -> None:
    """Draw a red square around a cell of a grid that is drawn with pixels as units.

    Args:
        ax: Axes to draw on.
        cell: Row and column of the cell.
        size: Height and width of a cell in pixels.
    """
    from matplotlib.patches import Rectangle

    (row, col), (height, width) = cell, size
    corner = (col * width - 0.5, row * height - 0.5)
    ax.add_patch(Rectangle(corner, width, height, fill=False, edgecolor="red", linewidth=1.2))


def outline(ax: Axes, region: Tensor) -> None:
    """Draw the border of a region (H, W) along the edges of its pixels."""
    fine = np.kron(np.pad(np.asarray(region, dtype=float), 1), np.ones((8, 8)))
    height, width = region.shape
    ax.contour(fine, levels=[0.5], colors=[LINES[5]], linewidths=0.9, extent=(-1.5, width + 0.5, -1.5, height + 0.5))
    ax.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))


def save(figure: Figure, folder: Path, name: str) -> Path:
    """Write a figure to `<name>.png` in a folder."""
    path = folder / f"{name}.png"
    figure.savefig(path, dpi=_DPI)
    return path
