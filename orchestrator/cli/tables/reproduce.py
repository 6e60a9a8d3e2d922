"""Output of `spatialsweep reproduce`: the list of tables, a plan, and a result."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from orchestrator.cli.output import tell_json
from orchestrator.cli.tables.dry_run import plan_lines
from orchestrator.plain_output import add_row, say
from orchestrator.reproduce.catalogue import PaperTable, list_tables, load_table
from orchestrator.reproduce.dry_run import TablePlan
from orchestrator.reproduce.report import HEADINGS, remarks, table_rows
from orchestrator.reproduce.result import TableResult
from orchestrator.reproduce.tables import list_papers

__all__ = ["listed", "print_plan", "print_result", "print_tables"]


def listed(paper: str | None) -> list[PaperTable]:
    """Return the tables of a paper; None takes all papers.

    Raises:
        ReproduceError: No paper has this name.
    """
    papers = list_papers() if paper is None else [paper]
    return [load_table(name, table) for name in papers for table in list_tables(name)]


def print_tables(tables: Sequence[PaperTable], console: Console, *, as_json: bool) -> None:
    """Print the tables that can be reproduced."""
    if as_json:
        tell_json(
            [
                {
                    "paper": table.paper,
                    "table": table.name,
                    "title": table.title,
                    "source": table.source,
                    "scales": table.scales,
                    "rows": {scale: [row.name for row in table.rows_at(scale)] for scale in table.scales},
                    "published": {row.name: row.published.value for row in table.rows},
                }
                for table in tables
            ]
        )
        return
    shown = Table(title=f"{len(tables)} tables", caption="spatialsweep reproduce PAPER TABLE [--scale small]")
    for heading in ("paper", "table", "title", "scales", "rows"):
        shown.add_column(heading, overflow="fold")
    for table in tables:
        rows = ", ".join(row.name for row in table.rows)
        add_row(shown, table.paper, table.name, table.title, ", ".join(table.scales), rows)
    console.print(shown)


def print_plan(plan: TablePlan, console: Console) -> None:
    """Print what a command would run."""
    table = plan.run.table
    say(console, f"{table.title}. {table.source}. Nothing was started.")
    say(console, plan.scale.in_words)
    shown = Table(title="Rows", title_justify="left")
    for heading in ("row", "label", "network", "parameters", "MACs", "published", "seeds done", "seeds to run"):
        right = heading in ("parameters", "MACs", "published")
        shown.add_column(heading, justify="right" if right else "left", overflow="fold")
    for row in plan.rows:
        published = "not published" if row.published is None else f"{row.published:.{table.measure.decimals}f}"
        done, left = (", ".join(map(str, seeds)) or "none" for seeds in (row.done, row.left))
        add_row(shown, row.name, row.label, row.network, f"{row.params:,}", f"{row.macs:,}", published, done, left)
    console.print(shown)
    for sweep in plan.sweeps:
        say(console, f"\nSweep {sweep.name}{', which is resumed' if sweep.resumed else ''}:")
        for heading, text in plan_lines(sweep.found, with_name=False):
            say(console, f"{heading:<9}{text}")
    say(console, f"\n{plan.cost_in_words}")


def print_result(result: TableResult, console: Console) -> None:
    """Print a table with its remarks."""
    shown = Table(title=f"{result.table.title}: {result.measure.words}", title_justify="left")
    for heading in HEADINGS:
        left = heading in ("row", "network", "")
        shown.add_column(heading, justify="left" if left else "right", overflow="fold")
    for cells in table_rows(result):
        add_row(shown, *cells)
    console.print(shown)
    say(console, result.scale.in_words)
    for remark in remarks(result):
        say(console, f"- {remark}")
