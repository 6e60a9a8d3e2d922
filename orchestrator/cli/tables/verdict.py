"""Output of `spatialsweep verdict`."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from orchestrator.plain_output import add_column, add_row, cell, say
from orchestrator.records.budget import as_duration
from orchestrator.verdicts.verdict import Verdict


def print_verdict(found: Verdict, console: Console) -> None:
    """Print budgets, comparisons, warnings and the verdict.

    Args:
        found: Verdict to print.
        console: Console to print to.
    """
    console.print(_arms(found))
    console.print(_comparisons(found))
    for warning in found.warnings:
        say(console, f"WARNING: {warning}")
    for note in found.notes:
        say(console, f"Note: {note}")
    say(console, f"Verdict: {found.text}")


def _arms(found: Verdict) -> Table:
    table = Table(title=cell(f"{found.sweep}: {found.metric} by {found.by}"), title_justify="left")
    headings = ("configurations", "seeds", "epochs", "device time", "best trial", "parameters", "MACs", "compared")
    add_column(table, found.by, overflow="fold")
    for heading in headings:
        add_column(table, heading, justify="right", overflow="fold")
    for arm in found.arms:
        add_row(
            table,
            arm.name,
            arm.configurations,
            arm.seeds,
            arm.epochs,
            as_duration(arm.device_s),
            "-" if arm.best is None else arm.best,
            _count(arm.params),
            _count(arm.macs),
            f"{len(arm.sample(found.unit))} {found.unit}",
        )
    return table


def _comparisons(found: Verdict) -> Table:
    table = Table(title="Superiority: probability that a value of the first is better", title_justify="left")
    add_column(table, "pair", overflow="fold")
    for heading in ("superiority", "interval", "Cliff's delta", "Hedges' g", "p (Holm)"):
        add_column(table, heading, justify="right", overflow="fold")
    add_column(table, "better", overflow="fold")
    for each in found.comparisons:
        add_row(
            table,
            f"{each.one} over {each.other}",
            f"{each.superiority:.3f}",
            f"{each.low:.3f} to {each.high:.3f}",
            f"{each.cliffs_delta:+.3f} {each.magnitude}",
            "-" if each.hedges_g is None else f"{each.hedges_g:+.2f}",
            f"{each.p_corrected:.3g}",
            each.better or "not decided",
        )
    return table


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"
