"""The view of a sweep in a notebook: a table of plain HTML, drawn again in its place."""

from __future__ import annotations

import html
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.progress.live_view import clock, counts_text, left_text, params_text

if TYPE_CHECKING:
    from orchestrator.progress.snapshot import Snapshot
    from orchestrator.results.sweep_result import SweepResult

_BAR = (
    '<div style="max-width:36em;height:6px;border-radius:3px;background:#8884;margin:4px 0">'
    '<div style="width:{share:.0f}%;height:6px;border-radius:3px;background:#2f5bd7"></div></div>'
)
_RESULT_ROWS = 10


def in_notebook() -> bool:
    """Whether this runs in the kernel of a notebook; IPython is not imported to find out."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")


class NotebookDisplay:
    """A place in a notebook's output that is drawn again and again."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, text: str) -> None:
        """Draws HTML in the place of what was there before."""
        from IPython.display import HTML, display

        if self._handle is None:
            self._handle = display(HTML(text), display_id=True)
        else:
            self._handle.update(HTML(text))


def snapshot_html(snapshot: Snapshot, notes: Sequence[str]) -> str:
    """How a running sweep stands, with notes beneath."""
    head = f"{snapshot.ended}/{snapshot.wanted} trials, {clock(snapshot.so_far.wall_s)}, {left_text(snapshot)}"
    lines = [
        f"<b>{html.escape(snapshot.name)}</b> {html.escape(head)}",
        _BAR.format(share=100 * snapshot.ended / snapshot.wanted),
        html.escape(counts_text(snapshot)),
    ]
    if snapshot.usage:
        limits = ", ".join(f"{usage.name} {usage.used} of {usage.limit}" for usage in snapshot.usage)
        lines.append(f"<br>Budget: {html.escape(limits)}")
    running = [
        (row.trial, f"{row.epoch}/{row.epochs}", "-" if row.value is None else f"{row.value:.4f}", row.model)
        for row in snapshot.running
    ]
    lines.append(_table(("running", "epoch", snapshot.metric, "network"), running))
    top = [
        (row.trial, f"{row.value:.4f}", row.epochs, str(row.status), row.model, params_text(row.params, 6))
        for row in snapshot.top
    ]
    lines.append(_table(("best", snapshot.metric, "epochs", "status", "network", "parameters"), top))
    lines += [f"<div>Failed {count} time(s): {html.escape(reason)}</div>" for reason, count in snapshot.failures]
    lines += [f"<div>{html.escape(text)}</div>" for text in notes]
    return f"<div>{''.join(lines)}</div>"


def result_html(result: SweepResult) -> str:
    """What a sweep found: the best trials."""
    best = result.best
    rows = [
        (
            rank,
            trial.number,
            f"{trial.value:.4f}",
            "-" if trial.test_top1 is None else f"{trial.test_top1:.4f}",
            trial.epochs,
            str(trial.status),
            " ".join(filter(None, (str(trial.params.get("model", "")), params_text(trial.params, 6)))),
        )
        for rank, trial in enumerate(result.top(_RESULT_ROWS), start=1)
    ]
    found = "no trial has finished an epoch" if best is None else f"best {result.metric} {best.value:.4f}"
    head = f"<b>{html.escape(result.name)}</b>: {result.status}, {len(result.records)} trials, {html.escape(found)}"
    headings = ("rank", "trial", result.metric, "test/top1", "epochs", "status", "parameters")
    return f"<div>{head}{_table(headings, rows)}<code>{html.escape(str(result.folder))}</code></div>"


def _table(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Nothing where there is no row."""
    cells = "".join(f"<tr>{''.join(f'<td>{html.escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
    if not cells:
        return ""
    head = "".join(f"<th>{html.escape(heading)}</th>" for heading in headings)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{cells}</tbody></table>"
