"""Output of `spatialsweep replay`."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from orchestrator.plain_output import add_column, add_row, say
from orchestrator.records.budget import as_duration
from orchestrator.results.replay import Outcome, Replay


def print_replay(replay: Replay, console: Console) -> None:
    """Print what the sweep and its replays found, a row each, and how far the recorded curves carry."""
    what = f"{replay.sampler} + {replay.trial_scheduler}, {_count(replay.lanes, 'lane')}"
    say(console, f"{replay.sweep} replayed: {what}", style="bold")
    table = Table(title_justify="left")
    for heading in (
        "",
        f"best {replay.metric}",
        "trial",
        "epochs",
        "lanes' time",
        "wall time",
        "epochs to recorded best",
    ):
        add_column(table, heading, justify="right" if heading else "left", overflow="fold")
    add_row(table, "recorded", *_cells(replay.recorded), "")
    for each in replay.replays:
        needed = "not found" if each.epochs_to_recorded_best is None else str(each.epochs_to_recorded_best)
        add_row(table, f"seed {each.seed}", *_cells(each.found), needed)
    console.print(table)
    for line in _limits(replay):
        say(console, line)


def _cells(found: Outcome) -> list[str]:
    best = "-" if found.best is None else f"{found.best:.4f}"
    trial = "-" if found.trial is None else str(found.trial)
    wall = "-" if found.wall_s is None else as_duration(found.wall_s)
    return [best, trial, str(found.epochs), as_duration(found.lane_s), wall]


def _limits(replay: Replay) -> list[str]:
    """Return what the replay cannot show, a line each."""
    lines = [
        f"Only the {_count(replay.configurations, 'recorded configuration')} can be proposed, each once; "
        f"{replay.partial} of them {'was' if replay.partial == 1 else 'were'} not trained to the end."
    ]
    if replay.left_out:
        lines.append(f"{_count(replay.left_out, 'trial')} left out: no report, outside the space, or proposed twice.")
    if replay.repeats:
        lines.append(
            f"The {_count(replay.repeats, 'trial')} with other seeds {'is' if replay.repeats == 1 else 'are'} not "
            "counted; how long the sweep took without them is not recorded."
        )
    if replay.cut_share:
        lines.append(
            f"{replay.cut_share:.0%} of the trials would have been trained beyond their recorded epochs. They end "
            "there, so the strategy may have found more, and used more epochs."
        )
    return lines


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
