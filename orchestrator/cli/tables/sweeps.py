"""Output of `spatialsweep status`, `list`, `repair`, `compare` and `delete`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from orchestrator.config.tasks.registry import recorded_task
from orchestrator.disk_space import as_size
from orchestrator.plain_output import add_column, add_row, cell, say
from orchestrator.records.budget import as_duration
from orchestrator.records.ledger import count_rejected
from orchestrator.records.repair import Repair
from orchestrator.results.deletion import Deletion
from orchestrator.results.notebook_table import clause_of_test

_HOUR_S = 3_600.0
_MOST_DROPPED = 10
_MOST_RUNNING = 8
_STATES = {"dead": "dead (its driver died)"}


def print_status(facts: Mapping[str, Any], way_on: str, console: Console) -> None:
    """Print the state of one sweep, and how it can be resumed where that is left."""
    say(console, f"{facts['name']}: {_state(facts)}", style="bold")
    for heading, text in _status_lines(facts):
        say(console, f"  {heading:<11}{text}")
    if facts["state"] in ("dead", "interrupted", "failed"):
        say(console, way_on)


def print_list(rows: Sequence[Mapping[str, Any]], runs_dir: str, console: Console) -> None:
    """Print the sweeps of a folder."""
    if not rows:
        say(console, f"{runs_dir} holds no sweep yet")
        return
    table = Table(title=cell(runs_dir), title_justify="left")
    for heading in ("sweep", "state", "trials", "best", "objective", "CPU-hours", "GPU-hours", "last event"):
        right = heading in ("trials", "best", "CPU-hours", "GPU-hours")
        add_column(table, heading, justify="right" if right else "left", overflow="fold")
    for facts in rows:
        if facts["state"] == "damaged":
            add_row(table, facts["name"], "damaged", *[""] * 6)
            continue
        add_row(
            table,
            facts["name"],
            facts["state"],
            _trials_done(facts),
            _number(facts["best"] and facts["best"]["value"]),
            facts["objective"]["metric"],
            _number(facts["cost"]["cpu_s"] / _HOUR_S),
            _number(facts["cost"]["gpu_s"] / _HOUR_S),
            f"{as_duration(facts['last_event_age_s'])} ago",
        )
    console.print(table)


def print_comparison(found: Mapping[str, Any], console: Console) -> None:
    """Print sweeps side by side, one column each."""
    sweeps = found["sweeps"]
    table = Table(title_justify="left")
    table.add_column("")
    for facts in sweeps:
        add_column(table, facts["name"], overflow="fold")
    for heading, cells in _outcome_rows(sweeps):
        add_row(table, heading, *cells)
    _add_section(table, "settings that differ", found["differing_settings"])
    _add_section(table, "parameters of the best", found["best_params"])
    console.print(table)
    say(console, f"The spaces searched are {'the same' if found['same_space'] else 'different'}.")


def print_deletion(deletion: Deletion, console: Console, *, done: bool) -> None:
    """Print what was deleted, or would be."""
    size = deletion.as_dict()
    say(console, f"{deletion.name}: {'deleted' if done else 'would be deleted'}")
    say(console, f"  folder  {deletion.folder}: {deletion.files} file(s), {as_size(deletion.size_bytes)}")
    if not deletion.storage_uri:
        say(console, "  study and MLflow runs are left alone")
        return
    trials = "none" if deletion.study_trials is None else f"{deletion.study_trials} trials"
    say(console, f"  study   {size['storage_uri']}: {trials}")
    runs = len(deletion.mlflow_runs)
    marked = f"{runs} runs {'marked' if done else 'to be marked'} as deleted (`mlflow gc` removes them)"
    say(console, f"  MLflow  {size['tracking_uri']}: {marked if runs else 'no runs'}")


def print_repair(done: Repair, console: Console) -> None:
    """Print what a repair kept and dropped."""
    if not done.was_needed:
        say(console, f"{done.name}: nothing to repair, {done.kept} events are sound")
        return
    say(console, f"{done.name}: {done.kept} events {'would be' if done.original is None else 'are'} kept")
    for place, fault in done.dropped[:_MOST_DROPPED]:
        say(console, f"  line {place} {'would be' if done.original is None else 'is'} dropped: {fault}")
    if len(done.dropped) > _MOST_DROPPED:
        say(console, f"  and {len(done.dropped) - _MOST_DROPPED} more lines")
    for notice in done.notices:
        say(console, f"  {notice}")
    if done.original is not None:
        say(console, f"The damaged file is kept as {done.original}")


def _status_lines(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    best, objective = facts["best"], facts["objective"]["metric"]
    found = "none yet"
    if best is not None:
        test = clause_of_test(best["test"], recorded_task(facts))
        beyond = "" if best["feasible"] else ", beyond a constraint as all are"
        found = f"{objective} {best['value']:.4f} (trial {best['trial']}, {best['status']}){test}{beyond}"
    counts = ", ".join(f"{count} {status}" for status, count in facts["trials"].items()) or "none yet"
    lines = [
        ("trials", f"{_trials_done(facts)} ended: {counts}; {facts['epochs']} epochs"),
        *(("training", line) for line in _training_lines(facts["running"])),
        *([("rejected", count_rejected(facts["rejected"]))] if facts["rejected"] else []),
        ("best", found),
        *_seed_lines(facts),
        *([("with", _params(best["params"]))] if best is not None and best["params"] else []),
        ("spent", _spent(facts)),
        ("last event", f"{as_duration(facts['last_event_age_s'])} ago"),
        ("folder", facts["folder"]),
    ]
    return lines if not facts["budget"] else [*lines[:-2], ("budget", _budget(facts)), *lines[-2:]]


def _seed_lines(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the mean of the best configuration over its seeds; nothing for a sweep with one seed."""
    over = (facts["best"] or {}).get("over_seeds")
    if over is None or over["ci_low"] is None:
        return []
    mean = f"mean {over['mean']:.4f} ({over['ci_low']:.4f} to {over['ci_high']:.4f}) of {len(over['values'])}"
    missing = "" if over["complete"] else f"; not yet all {facts['seeds']}"
    return [("seeds", f"{mean} with 95%{missing}; {facts['repeats']} trials with further seeds")]


def _training_lines(running: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each of the first epochs that train now."""
    lines = [
        f"trial {row['trial']} epoch {row['epoch']} of {row['epochs']}, step {row['step']}/{row['steps']}, "
        f"{row['images_per_s']:.0f} images/s, loss {_number(row['loss'])}, {as_duration(row['left_s'])} left"
        for row in running[:_MOST_RUNNING]
    ]
    return [*lines, f"and {len(running) - _MOST_RUNNING} more"] if len(running) > _MOST_RUNNING else lines


def _outcome_rows(sweeps: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    return [
        ("state", [_state(facts) for facts in sweeps]),
        ("objective", [f"{facts['objective']['metric']} ({facts['objective']['mode']})" for facts in sweeps]),
        ("best", [_number(facts["best"] and facts["best"]["value"]) for facts in sweeps]),
        *_test_rows(sweeps),
        ("trials ended", [_trials_done(facts) for facts in sweeps]),
        ("epochs", [str(facts["epochs"]) for facts in sweeps]),
        ("wall clock", [as_duration(facts["wall_s"]) for facts in sweeps]),
        ("CPU-hours", [_number(facts["cost"]["cpu_s"] / _HOUR_S) for facts in sweeps]),
        ("GPU-hours", [_number(facts["cost"]["gpu_s"] / _HOUR_S) for facts in sweeps]),
        ("price", [_number(facts["cost"].get("price")) for facts in sweeps]),
        ("space", [facts["space"] for facts in sweeps]),
    ]


def _test_rows(sweeps: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Return a row for the primary metric of each task, on the test images."""
    names = dict.fromkeys(recorded_task(facts).primary.name for facts in sweeps)
    return [
        (f"test/{name}", [_number(facts["best"] and facts["best"]["test"].get(name)) for facts in sweeps])
        for name in names
    ]


def _add_section(table: Table, title: str, rows: Mapping[str, Sequence[Any]]) -> None:
    if rows:
        table.add_section()
        add_row(table, title, style="bold")
    for name, values in rows.items():
        add_row(table, f"  {name}", *(_number(value) for value in values))


def _state(facts: Mapping[str, Any]) -> str:
    state = _STATES.get(facts["state"], facts["state"])
    return f"{state}, {facts['ended_by']}" if facts["ended_by"] else state


def _trials_done(facts: Mapping[str, Any]) -> str:
    ended = sum(count for status, count in facts["trials"].items() if status not in ("running", "interrupted"))
    return f"{ended}/{facts['trials_wanted']}"


def _spent(facts: Mapping[str, Any]) -> str:
    cost = facts["cost"]
    hours = [f"{cost['cpu_s'] / _HOUR_S:.3g} CPU-hours", f"{cost['gpu_s'] / _HOUR_S:.3g} GPU-hours"]
    price = [f"price {cost['price']:.2f}"] if "price" in cost else []
    return ", ".join([f"{as_duration(facts['wall_s'])} by the clock", *hours, *price])


def _budget(facts: Mapping[str, Any]) -> str:
    limits = dict(facts["budget"])
    if "wall_clock" in limits:
        limits["wall_clock"] = as_duration(limits["wall_clock"])
    return _params(limits)


def _params(values: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={_number(value)}" for name, value in values.items())


def _number(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
