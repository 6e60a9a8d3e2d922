"""Table of measured throughput, for a terminal and for programs."""

from __future__ import annotations

import dataclasses
import json

from rich.console import Console
from rich.table import Table

from orchestrator.inference.throughput import Throughput, ThroughputReport
from orchestrator.plain_output import add_row

__all__ = ["as_json", "print_throughput"]


def as_json(report: ThroughputReport) -> str:
    """Return the settings and rows as a JSON object."""
    return json.dumps(dataclasses.asdict(report), indent=2)


def print_throughput(report: ThroughputReport, console: Console) -> None:
    """Print the table on a terminal, a line per network and batch size."""
    where = (
        f"{report.device_name}, {report.threads} threads, {report.clock} clock"
        if report.device == "cpu"
        else report.device_name
    )
    title = f"{report.image_size} px, {report.precision}, {where}, torch {report.torch}"
    table = Table(
        title=title, caption="quartiles in parentheses; memory of weights, images and all that is alive at once"
    )
    table.add_column("network", overflow="fold")
    for column in ("mode", "batch", "images/s", "x first", "peak MB", "params"):
        table.add_column(column, justify="left" if column == "mode" else "right", no_wrap=True)
    for row in report.rows:
        add_row(table, row.network, "training" if row.training else "forward", str(row.batch), *_cells(row))
    console.print(table)


def _cells(row: Throughput) -> list[str]:
    params = f"{row.params:,}"
    if row.images_per_s is None or row.low is None or row.high is None or row.peak_bytes is None:
        return ["out of memory", "", "", params]
    speed = f"{row.images_per_s:.1f} ({row.low:.1f}-{row.high:.1f})"
    ratio = "" if row.times_first is None else f"{row.times_first:.2f}"
    return [speed, ratio, f"{row.peak_bytes / 1e6:.1f}", params]
