"""Views of a running sweep: a journal replayed event by event into a terminal, a log and a notebook."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from rich.console import Console

from orchestrator import load_result, load_sweep
from orchestrator.config.plans import resolve_plans
from orchestrator.progress import notebook_view
from orchestrator.progress.live_view import live_view
from orchestrator.progress.progress_view import Progress, plain_line
from orchestrator.progress.snapshot import Snapshot, Snapshots
from orchestrator.records.budget import Budget
from orchestrator.records.journal import Journal
from orchestrator.records.ledger import Ledger, TrialStatus
from orchestrator.records.objectives import Objectives
from orchestrator.runtime.lane_plan import LanePlan
from tests.support.sweeps.fake_sweeps import PLAN, write_sweep

FINISHED, PRUNED, FAILED, RUNNING = TrialStatus.FINISHED, TrialStatus.PRUNED, TrialStatus.FAILED, TrialStatus.RUNNING
TRIALS = [(FINISHED, [0.5, 0.8]), (PRUNED, [0.6]), (FAILED, []), (RUNNING, [0.7, 0.9])]
PLANNED = LanePlan(lanes=1, workers=2, gpus_per_worker=0.0)


def snapshots(ledger: Ledger, **settings: Any) -> Snapshots:
    plans = resolve_plans(load_sweep({**PLAN, "name": "s", "trials": 8, **settings}))
    return Snapshots(
        ledger,
        PLANNED,
        name=plans.name,
        trials=plans.search.trials,
        objectives=Objectives.of(plans.search.objectives, plans.search.constraints),
        budget=Budget(plans.budget, plans.search.objective),
        cpus_per_worker=plans.training.resources.cpus_per_worker,
    )


def snapshot(tmp_path: Path, events: int | None = None, **settings: Any) -> Snapshot:
    """Return the state of a sweep after a number of events of its journal."""
    path = tmp_path / "s" / "journal.jsonl"
    if not path.exists():
        write_sweep(tmp_path, "s", TRIALS, ended=None)
    lines = path.read_text().splitlines(keepends=True)[:events]
    part = tmp_path / "part" / f"{len(lines)}.jsonl"
    part.parent.mkdir(exist_ok=True)
    part.write_text("".join(lines))
    with Journal(part) as journal:
        return snapshots(Ledger(journal), **settings).now()


def shown(found: Snapshot, *notes: str, height: int = 40) -> str:
    console = Console(record=True, width=120, force_terminal=True, file=io.StringIO())
    console.print(live_view(found, notes, height))
    return console.export_text()


def test_a_journal_replayed_shows_every_state_of_its_sweep(tmp_path: Path) -> None:
    assert "0/8 trials" in shown(snapshot(tmp_path, 2))
    begun = shown(snapshot(tmp_path, 3))
    assert "1 running, 2 CPUs in use" in begun
    assert re.search(r"running +epoch +val/top1 +for +network *\n +0 +0/10 +- +\d+s  conv_resnet26_small", begun)
    assert "time left: not known yet" in begun

    last = shown(snapshot(tmp_path), "Warning: Lane 0 ended and is started again: OSError")
    assert "3/8 trials" in last
    assert "1 finished, 1 stopped early, 1 failed, 1 running, 2 CPUs in use" in last
    assert re.search(r"3 +2/10 +0\.9000 +\d+s  conv_resnet26_small", last)
    assert re.findall(r"^ +(\d) +0\.\d{4} +\d  conv_resnet26_small", last, re.MULTILINE) == ["3", "0", "1"]
    assert "lr=0.002  (stopped early)" in last
    assert "Failed: failed" in last
    assert "Warning: Lane 0 ended and is started again: OSError" in last


def test_an_interrupted_trial_is_not_done(tmp_path: Path) -> None:
    write_sweep(tmp_path, "s", [(FINISHED, [0.5]), (TrialStatus.INTERRUPTED, [0.6])], ended=None)
    found = snapshot(tmp_path)
    assert (found.ended, found.counts[TrialStatus.INTERRUPTED]) == (1, 1)


def test_a_paused_trial_is_done_and_ranked_once_when_it_resumes(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path, "s", [(TrialStatus.PAUSED, [0.5]), (FINISHED, [0.6])], ended=None)
    with Journal(folder / "journal.jsonl") as journal:
        ledger = Ledger(journal)
        views = snapshots(ledger)
        found = views.now()
        assert (found.ended, found.counts[TrialStatus.PAUSED]) == (2, 1)
        assert "2/8 trials done, 0 running, 1 paused" in plain_line(found)
        assert [(row.trial, row.status) for row in found.top] == [(1, FINISHED), (0, TrialStatus.PAUSED)]
        ledger.trial_resumed(0, "tune9")
        ledger.trial_reported(0, 2, {"val/top1": 0.9}, held_s=10.0)
        found = views.now()
        assert (found.ended, found.counts[TrialStatus.PAUSED]) == (1, 0)
        assert [(row.trial, row.value) for row in found.top] == [(0, 0.9), (1, 0.6)]
        ledger.trial_paused(0, 2)
        found = views.now()
        assert [(row.trial, row.epochs) for row in found.top] == [(0, 2), (1, 1)]


def test_a_low_terminal_shows_as_much_as_fits(tmp_path: Path) -> None:
    assert len(shown(snapshot(tmp_path), height=12).splitlines()) <= 12


@pytest.mark.parametrize(
    ("budget", "left_by"),
    [({}, ""), ({"wall_clock": 5}, "wall_clock"), ({"cpu_hours": 0.0001}, "cpu_hours"), ({"wall_clock": "9h"}, "")],
)
def test_the_time_left_is_that_of_the_trials_or_of_the_budget(
    tmp_path: Path, budget: dict[str, Any], left_by: str
) -> None:
    found = snapshot(tmp_path, budget=budget)
    assert found.left_by == left_by
    assert found.left_s is not None
    # Trials held their lanes for 20 and 10 s; one failed before it had a lane, which says nothing; four have not begun.
    assert left_by or found.left_s == pytest.approx(4 * 15, abs=2)
    assert not left_by or found.left_s <= 5
    line = plain_line(found)
    assert line.startswith(
        "3/8 trials done, 1 running, 1 stopped early, 1 failed | best val/top1 0.9000 (trial 3, conv_"
    )
    assert line.endswith(f" left, by budget.{left_by}" if left_by else " left")
    assert [usage.name for usage in found.usage] == [
        {"wall_clock": "wall clock", "cpu_hours": "CPU-hours"}[name] for name in budget
    ]


def test_without_a_terminal_there_are_lines_and_each_warning_once(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path, "s", TRIALS, ended=None)
    console = Console(record=True, width=160, file=io.StringIO())
    with (
        Journal(folder / "journal.jsonl") as journal,
        Progress(snapshots(Ledger(journal)), console) as progress,
    ):
        for _ in range(3):
            logging.getLogger("orchestrator.lanes.pool.lane_pool").warning(
                "Lane %d ended and is started again: %s", 0, "OSError"
            )
            progress.update()
    lines = console.export_text().splitlines()
    assert lines[0] == "Warning: Lane 0 ended and is started again: OSError"
    assert re.match(r"\d\d:\d\d  3/8 trials done, 1 running, .* \| best val/top1 0\.9000", lines[1])
    assert len(lines) == 2
    assert logging.getLogger("orchestrator").handlers == []


def test_a_live_view_leaves_its_warnings_behind_and_a_silent_sweep_takes_none(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path, "s", TRIALS, ended=None)
    terminal = Console(width=120, height=30, force_terminal=True, file=io.StringIO())
    silent = Console(quiet=True)
    with Journal(folder / "journal.jsonl") as journal:
        for console in (terminal, silent):
            with Progress(snapshots(Ledger(journal)), console) as progress:
                assert bool(logging.getLogger("orchestrator").handlers) is (console is terminal)
                logging.getLogger("orchestrator.lanes").warning("a lane is lost")
                progress.update()
    assert isinstance(terminal.file, io.StringIO)
    assert terminal.file.getvalue().splitlines()[-1].endswith("Warning: a lane is lost")


@pytest.fixture
def shell() -> Iterator[InteractiveShell]:
    """Return IPython as it is within a notebook."""
    found = InteractiveShell.instance()
    found.kernel = object()
    yield found
    InteractiveShell.clear_instance()


def test_a_notebook_shows_a_table_and_redraws_it_in_its_place(tmp_path: Path, shell: InteractiveShell) -> None:
    folder = write_sweep(tmp_path, "s", TRIALS, ended=None)
    assert notebook_view.in_notebook()
    with capture_output() as caught, Journal(folder / "journal.jsonl") as journal:
        silent = Console(quiet=True)
        display = notebook_view.NotebookDisplay()
        with Progress(snapshots(Ledger(journal)), silent, display) as progress:
            progress.update()
            progress.say("Stopping <soon>")
            progress.update()
    first, second = caught.outputs
    pages = [output.data["text/html"] for output in (first, second)]
    assert "<b>s</b> 3/8 trials" in pages[0]
    assert "<td>0.9000</td>" in pages[0]
    assert "Stopping &lt;soon&gt;" in pages[1]
    assert "Stopping" not in pages[0]


def test_outside_a_notebook_there_is_no_table() -> None:
    assert not notebook_view.in_notebook()


def test_a_result_shows_itself_in_a_notebook(tmp_path: Path) -> None:
    write_sweep(tmp_path, "s", TRIALS)
    page = load_result("s", tmp_path)._repr_html_()
    assert "<b>s</b>: finished, 4 trials, best val/top1 0.8000" in page
    assert page.count("<tr>") == 1 + 3
    write_sweep(tmp_path, "none", [])
    assert "no trial has finished an epoch" in load_result("none", tmp_path)._repr_html_()


def test_a_snapshot_does_not_read_ended_trials_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_sweep(tmp_path, "s", TRIALS, ended=None)
    with Journal(folder / "journal.jsonl") as journal:
        source = snapshots(Ledger(journal))
        before = source.now()
        ranked: list[int] = []
        rank = source._objectives.rank
        monkeypatch.setattr(
            type(source._objectives), "rank", lambda _, record: ranked.append(record.number) or rank(record)
        )
        assert source.now().top == before.top
    assert ranked == [3]
    assert [row.trial for row in before.top] == [3, 0, 1]
