"""What a user sees while a sweep runs and when it is over: a live line in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from orchestrator.budget import as_duration
from orchestrator.config.schema import SweepConfig
from orchestrator.ledger import Ledger, TrialRecord, TrialStatus
from orchestrator.results import SweepResult, TrialResult
from orchestrator.spending import SoFar

_PLAIN_INTERVAL_S = 15.0
_PARAMS_SHOWN = 6


class Progress:
    """Shows how a sweep stands; a context manager.

    In a terminal one line is redrawn; without one (a log, `ray job logs`) a line is printed whenever a trial ends and
    every 15 s in between.

    Args:
        config: Of the sweep.
        ledger: Read, never written.
        lanes: Trials trained at the same time, for the time left.
        console: Where to print.
    """

    def __init__(self, config: SweepConfig, ledger: Ledger, lanes: int, console: Console) -> None:
        self._config = config
        self._ledger = ledger
        self._lanes = lanes
        self._console = console
        self._started = time.monotonic()
        self._printed_at = self._started
        self._printed_ended = 0
        self._live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def update(self) -> None:
        """Draws or prints the present state; call it about twice a second."""
        trials = self._ledger.trials()
        if self._live:
            self._live.update(Text(self._line(trials)))
            return
        ended = sum(trial.status is not TrialStatus.RUNNING for trial in trials)
        now = time.monotonic()
        if ended > self._printed_ended or now - self._printed_at > _PLAIN_INTERVAL_S:
            self._printed_ended, self._printed_at = ended, now
            self._console.print(self._line(trials), soft_wrap=True, highlight=False, markup=False)

    def say(self, text: str) -> None:
        """Prints a line above the live one."""
        self._console.print(text, soft_wrap=True, highlight=False, markup=False)

    def _line(self, trials: list[TrialRecord]) -> str:
        counts = Counter(trial.status for trial in trials)
        ended = len(trials) - counts[TrialStatus.RUNNING]
        parts = [
            f"{_clock(time.monotonic() - self._started)}  {ended}/{self._config.trials} trials done",
            f"{counts[TrialStatus.RUNNING]} running",
            f"{counts[TrialStatus.PRUNED]} stopped early",
            *([f"{counts[TrialStatus.DIVERGED]} diverged"] if counts[TrialStatus.DIVERGED] else []),
            f"{counts[TrialStatus.FAILED]} failed",
            *([f"{rejected} rejected"] if (rejected := len(self._ledger.rejected())) else []),
        ]
        return f"{', '.join(parts)} | {self._best()} | {self._time_left(trials, ended)}"

    def _best(self) -> str:
        metric, so_far = self._config.objective.metric, self._ledger.so_far()
        if so_far.best is None or so_far.best_trial is None:
            return f"best {metric}: none yet"
        model = self._ledger.trial(so_far.best_trial).config["model"]["name"]
        return f"best {metric} {so_far.best:.4f} (trial {so_far.best_trial}, {model})"

    def _time_left(self, trials: list[TrialRecord], ended: int) -> str:
        durations = [trial.ended_s - trial.started_s for trial in trials if trial.ended_s is not None]
        if len(durations) < 2:
            return "time left: not known yet"
        typical = sum(durations[1:]) / len(durations[1:])  # the first one includes start-up
        left = (self._config.trials - ended) * typical / self._lanes
        return f"about {_clock(left)} left"


def print_outcome(result: SweepResult, console: Console, dashboard: str) -> None:
    """The leaderboard, the files, and the command that opens the dashboard."""
    best = result.best
    if best is None:
        _plain(console, f"{result.name}: {result.status}; no trial has finished an epoch")
    else:
        console.print(_leaderboard(result))
    if best is not None and len(best.values) > 1:
        console.print(_pareto_table(result))
    if best is not None:
        test = f", test top-1 {best.test_top1:.2%}" if best.test_top1 is not None else ""
        beyond = "" if best.feasible else ", beyond a constraint as all are"
        _plain(console, f"Best: trial {best.number}, {result.metric} {best.value:.4f}{test}{beyond}")
    for record in result.records:
        if record.status in (TrialStatus.DIVERGED, TrialStatus.FAILED):
            _plain(console, f"{record.status.capitalize()}: trial {record.number}: {record.reason.splitlines()[0]}")
    if result.ended_by:
        _plain(console, f"Ended by its budget: {result.ended_by}")
    _plain(console, f"Cost: {spent_text(result.so_far)}")
    _plain(console, f"Results:   {result.folder / 'trials.parquet'}")
    _plain(console, f"Dashboard: {dashboard}")
    if result.notice:
        _plain(console, f"Note: {result.notice}")


def spent_text(so_far: SoFar) -> str:
    """What a sweep has spent, in a line."""
    cost = so_far.cost
    devices = [f"{cost.cpu_s / 3600:.3g} CPU-hours", *([f"{cost.gpu_s / 3600:.3g} GPU-hours"] if cost.gpu_s else [])]
    price = [] if cost.price is None else [f"price {cost.price:.2f}"]
    return ", ".join([f"{as_duration(so_far.wall_s)} by the clock", *devices, *price])


def _leaderboard(result: SweepResult, rows: int = 10) -> Table:
    table = Table(title=f"{result.name}: {result.status}", title_justify="left")
    for heading in ("rank", "trial", result.metric, "test/top1", "epochs", "status", "parameters"):
        right = heading not in ("status", "parameters")
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    for rank, trial in enumerate(result.ranking()[:rows], start=1):
        test = f"{trial.test_top1:.4f}" if trial.test_top1 is not None else "-"
        table.add_row(
            str(rank),
            str(trial.number),
            f"{trial.value:.4f}",
            test,
            str(trial.epochs),
            str(trial.status),
            _params(trial),
        )
    return table


def _pareto_table(result: SweepResult, rows: int = 20) -> Table:
    """The trials that no other beats in every objective."""
    front = result.pareto_front
    table = Table(title=f"Pareto front: {len(front)} trial(s)", title_justify="left")
    metrics = list(front[0].values) if front else []
    for heading in ("trial", *metrics, "parameters"):
        table.add_column(heading, justify="left" if heading == "parameters" else "right", overflow="fold")
    for trial in front[:rows]:
        table.add_row(str(trial.number), *(f"{trial.values[metric]:.6g}" for metric in metrics), _params(trial))
    return table


def _params(trial: TrialResult) -> str:
    shown = list(trial.params.items())[:_PARAMS_SHOWN]
    text = " ".join(f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}" for name, value in shown)
    more = len(trial.params) - len(shown)
    return f"{text} +{more}" if more else text


def _plain(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, highlight=False, markup=False)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes:02d}:{rest:02d}"
