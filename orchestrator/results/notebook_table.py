"""Result of a sweep as an HTML table, for notebooks."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.config.tasks.facts import TaskFacts
    from orchestrator.results.configuration_result import ConfigurationResult
    from orchestrator.results.sweep_result import SweepResult, TrialResult

_RESULT_ROWS = 10


def result_html(result: SweepResult) -> str:
    """Return the best trials of a sweep as HTML."""
    best, tested = result.best, f"test/{result.task.primary.name}"
    rows = [
        (
            rank,
            trial.number,
            f"{trial.value:.4f}",
            cell_of_test(trial, result.task),
            trial.epochs,
            str(trial.status),
            *((mean_text(trial.configuration),) if result.has_repeats else ()),
            " ".join(filter(None, (str(trial.params.get("model", "")), params_text(trial.params, 6)))),
        )
        for rank, trial in enumerate(result.leaderboard(_RESULT_ROWS), start=1)
    ]
    found = "no trial has finished an epoch" if best is None else f"best {result.metric} {best.value:.4f}"
    head = f"<b>{html.escape(result.name)}</b>: {result.status}, {len(result.records)} trials, {html.escape(found)}"
    over_seeds = ("mean over seeds",) if result.has_repeats else ()
    headings = ("rank", "trial", result.metric, tested, "epochs", "status", *over_seeds, "parameters")
    return f"<div>{head}{html_table(headings, rows)}<code>{html.escape(str(result.folder))}</code></div>"


def cell_of_test(trial: TrialResult, task: TaskFacts) -> str:
    """Format the primary metric of a trial on the test images for a table, such as `0.9123`.

    Args:
        trial: Result of the trial.
        task: Task of its sweep.
    """
    value = trial.test.get(task.primary.name)
    return "-" if value is None else f"{value:.4f}"


def clause_of_test(test: Mapping[str, float], task: TaskFacts) -> str:
    """Format the primary metric on the test images as the end of a line, such as `, test top-1 91.23%`.

    Args:
        test: Metrics on the test images by name; empty for an empty text.
        task: Task of the sweep.
    """
    value = test.get(task.primary.name)
    return "" if value is None else f", test {task.primary.label} {task.primary.text(value)}"


def mean_text(found: ConfigurationResult | None) -> str:
    """Format the mean of a configuration with its interval, such as `0.912 (0.905 to 0.919), 3 seeds`.

    Args:
        found: Result of the configuration; None where it has one seed only.
    """
    if found is None or found.mean is None or found.ci_low is None:
        return "-"
    return f"{found.mean:.4f} ({found.ci_low:.4f} to {found.ci_high:.4f}), {len(found.values)} seeds"


def params_text(params: Mapping[str, Any], most: int) -> str:
    """Format the first searched values on one line."""
    shown = [(name, value) for name, value in params.items() if name != "model"]
    text = " ".join(
        f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}" for name, value in shown[:most]
    )
    return f"{text} +{len(shown) - most}" if len(shown) > most else text


def html_table(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return an HTML table, or an empty text if there is no row."""
    cells = "".join(f"<tr>{''.join(f'<td>{html.escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
    if not cells:
        return ""
    head = "".join(f"<th>{html.escape(heading)}</th>" for heading in headings)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{cells}</tbody></table>"
