"""Progress of a sweep and its outcome: a live view in a terminal or notebook, lines elsewhere."""

from __future__ import annotations

import logging
import time
from collections import deque
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table

from orchestrator.plain_output import add_column, add_row, cell, say
from orchestrator.progress.live_view import clock, left_text, live_view, progress_cells
from orchestrator.progress.notebook_view import NotebookDisplay, snapshot_html
from orchestrator.progress.snapshot import Snapshot, Snapshots
from orchestrator.records.budget import as_duration
from orchestrator.records.costs import SweepTotals
from orchestrator.records.ledger import TrialStatus
from orchestrator.results.notebook_table import cell_of_test, clause_of_test, mean_text
from orchestrator.results.sweep_result import SweepResult, TrialResult

_PLAIN_INTERVAL_S = 15.0
_RUNNING_INTERVAL_S = 60.0
_RUNNING_SHOWN = 4
RUNNING_LINE = "Training: "
"""Begin of the line about the epochs that train."""
_PARAMS_SHOWN = 6
_LINES_SHOWN = 3
_LINES_KEPT = 20
_OURS = "orchestrator"


class Warnings(logging.Handler):
    """Log handler that collects the warnings of our own modules, each once.

    Attributes:
        shown: Newest warnings, the newest last.
        unprinted: Warnings that no line was printed for yet.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.shown: deque[str] = deque(maxlen=_LINES_SHOWN)
        self.unprinted: deque[str] = deque(maxlen=_LINES_KEPT)
        self._seen: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Collect a warning unless it is a repetition.

        Args:
            record: Log record of the warning.
        """
        text = record.getMessage().splitlines()[0]
        if text not in self._seen:
            self._seen.add(text)
            self.shown.append(text)
            self.unprinted.append(text)


class Progress:
    """Display of a sweep's progress; a context manager, used by the driver's main thread.

    A terminal and a notebook have a view that is redrawn in its place; elsewhere (a log, `ray job logs`) a line is
    printed whenever a trial ends and every 15 s in between, and every minute one about the epochs that train.

    Args:
        snapshots: Source of the snapshots to show.
        console: Console to print to.
        display: Output of a notebook, used in the place of the console.
    """

    def __init__(self, snapshots: Snapshots, console: Console, display: NotebookDisplay | None = None) -> None:
        self._snapshots = snapshots
        self._console = console
        self._display = display
        self._warnings = Warnings()
        self._lines: deque[str] = deque(maxlen=_LINES_SHOWN)
        self._started = time.monotonic()
        self._printed_at = self._running_at = self._started
        self._printed_ended = 0
        live = console.is_terminal and display is None
        self._live = Live(console=console, auto_refresh=False, transient=True) if live else None

    def __enter__(self) -> Progress:
        if self._display is not None or not self._console.quiet:  # else they would not be shown
            logging.getLogger(_OURS).addHandler(self._warnings)
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()
        logging.getLogger(_OURS).removeHandler(self._warnings)
        self._print_warnings()  # the live view that showed them is gone

    def update(self) -> None:
        """Draw or print the present state; to be called about twice a second."""
        snapshot = self._snapshots.now()
        if self._display is not None:
            self._display.show_trials(snapshot.unfinished)
            self._display.show(snapshot_html(snapshot, [*self._lines, *self._warning_lines()]))
        elif self._live:
            self._live.update(live_view(snapshot, self._warning_lines(), self._console.height), refresh=True)
        else:
            self._print(snapshot)

    def change_trials(self, trials: int) -> None:
        """Show another number of trials from now on."""
        self._snapshots.change_trials(trials)

    def say(self, text: str) -> None:
        """Print a line above the live view, or in a notebook below it."""
        self._lines.append(text)
        say(self._console, text)

    def _warning_lines(self) -> list[str]:
        return [f"Warning: {text}" for text in self._warnings.shown]

    def _print_warnings(self) -> None:
        while self._warnings.unprinted:
            self.say(f"Warning: {self._warnings.unprinted.popleft()}")

    def _print(self, snapshot: Snapshot) -> None:
        self._print_warnings()
        now = time.monotonic()
        if snapshot.ended > self._printed_ended or now - self._printed_at > _PLAIN_INTERVAL_S:
            self._printed_ended, self._printed_at = snapshot.ended, now
            self.say(f"{clock(now - self._started)}  {plain_line(snapshot)}")
        if now - self._running_at > _RUNNING_INTERVAL_S and (line := running_line(snapshot)):
            self._running_at = now
            self.say(f"{clock(now - self._started)}  {line}")


def plain_line(snapshot: Snapshot) -> str:
    """Return a snapshot as one line for a log."""
    counts = snapshot.counts
    parts = [
        f"{snapshot.ended}/{snapshot.wanted} trials done",
        f"{counts.get(TrialStatus.RUNNING, 0)} running",
        *([f"{counts[TrialStatus.PAUSED]} paused"] if counts.get(TrialStatus.PAUSED) else []),
        f"{counts.get(TrialStatus.PRUNED, 0)} stopped early",
        *([f"{counts[TrialStatus.DIVERGED]} diverged"] if counts.get(TrialStatus.DIVERGED) else []),
        f"{counts.get(TrialStatus.FAILED, 0)} failed",
        *([f"{snapshot.rejected} rejected"] if snapshot.rejected else []),
    ]
    return f"{', '.join(parts)} | {_best(snapshot)} | {left_text(snapshot)}"


def running_line(snapshot: Snapshot) -> str:
    """Return the progress of the epochs that train as one line for a log; empty where none is known."""
    rows = [row for row in snapshot.running if row.within is not None]
    shown = []
    for row in rows[:_RUNNING_SHOWN]:
        step, images_per_s, loss, left = progress_cells(row)
        epoch = f"epoch {row.epoch + 1} of {row.epochs}"
        shown.append(f"trial {row.trial} {epoch}, step {step}, {images_per_s} images/s, loss {loss}, {left} left")
    more = [f"and {len(rows) - len(shown)} more"] if len(rows) > len(shown) else []
    return f"{RUNNING_LINE}{'; '.join([*shown, *more])}" if shown else ""


def _best(snapshot: Snapshot) -> str:
    metric, totals = snapshot.metric, snapshot.totals
    if totals.best is None:
        return f"best {metric}: none yet"
    return f"best {metric} {totals.best:.4f} (trial {totals.best_trial}, {snapshot.best_model})"


def print_outcome(result: SweepResult, console: Console, dashboard: str) -> None:
    """Print the leaderboard, the files, and the command that opens the dashboard.

    Args:
        result: Result of the sweep.
        console: Console to print to.
        dashboard: Command that opens the dashboard.
    """
    best = result.best
    if best is None:
        say(console, f"{result.name}: {result.status}; no trial has finished an epoch")
    else:
        console.print(_leaderboard(result))
    if best is not None and len(best.values) > 1:
        console.print(_pareto_table(result))
    if best is not None:
        test = clause_of_test(best.test, result.task)
        beyond = "" if best.feasible else ", beyond a constraint as all are"
        mean = "" if best.configuration is None else f", mean {mean_text(best.configuration)}"
        say(console, f"Best: trial {best.number}, {result.metric} {best.value:.4f}{mean}{test}{beyond}")
    for record in result.records:
        if record.status in (TrialStatus.DIVERGED, TrialStatus.FAILED):
            say(console, f"{record.status.capitalize()}: trial {record.number}: {record.reason.splitlines()[0]}")
        elif record.status is TrialStatus.PRUNED and record.reason:
            say(console, f"Pruned: trial {record.number}: {record.reason.splitlines()[0]}")
    if result.ended_by:
        say(console, f"Ended by its budget: {result.ended_by}")
    say(console, f"Cost: {cost_text(result.so_far)}")
    say(console, f"Results:   {result.folder / 'trials.parquet'}")
    say(console, f"Dashboard: {dashboard}")
    if result.notice:
        say(console, f"Note: {result.notice}")


def cost_text(totals: SweepTotals) -> str:
    """Return the cost of a sweep in one line."""
    cost = totals.cost
    devices = [f"{cost.cpu_s / 3600:.3g} CPU-hours", *([f"{cost.gpu_s / 3600:.3g} GPU-hours"] if cost.gpu_s else [])]
    price = [] if cost.price is None else [f"price {cost.price:.2f}"]
    return ", ".join([f"{as_duration(totals.wall_s)} by the clock", *devices, *price])


def _leaderboard(result: SweepResult, rows: int = 10) -> Table:
    table = Table(title=cell(f"{result.name}: {result.status}"), title_justify="left")
    over_seeds = ("mean over seeds",) if result.has_repeats else ()
    tested = f"test/{result.task.primary.name}"
    for heading in ("rank", "trial", result.metric, *over_seeds, tested, "epochs", "status", "parameters"):
        right = heading not in ("status", "parameters")
        add_column(table, heading, justify="right" if right else "left", overflow="fold")
    for rank, trial in enumerate(result.leaderboard(rows), start=1):
        add_row(
            table,
            rank,
            trial.number,
            f"{trial.value:.4f}",
            *((mean_text(trial.configuration),) if over_seeds else ()),
            cell_of_test(trial, result.task),
            trial.epochs,
            trial.status,
            _params(trial),
        )
    return table


def _pareto_table(result: SweepResult, rows: int = 20) -> Table:
    """Return a table of the trials that no other beats in every objective."""
    front = result.pareto_front
    table = Table(title=f"Pareto front: {len(front)} trial(s)", title_justify="left")
    metrics = list(front[0].values) if front else []
    for heading in ("trial", *metrics, "parameters"):
        add_column(table, heading, justify="left" if heading == "parameters" else "right", overflow="fold")
    for trial in front[:rows]:
        add_row(table, trial.number, *(f"{trial.values[metric]:.6g}" for metric in metrics), _params(trial))
    return table


def _params(trial: TrialResult) -> str:
    shown = list(trial.params.items())[:_PARAMS_SHOWN]
    text = " ".join(f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}" for name, value in shown)
    more = len(trial.params) - len(shown)
    return f"{text} +{more}" if more else text
