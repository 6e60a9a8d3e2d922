"""Progress within epochs: terminal of 80 columns, notebook, log lines, file for other processes, rare events."""

from __future__ import annotations

import io
import json
import math
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator.progress import progress_view
from orchestrator.progress.live_view import live_view
from orchestrator.progress.notebook_view import snapshot_html
from orchestrator.progress.progress_records import ProgressRecords
from orchestrator.progress.progress_view import Progress, running_line
from orchestrator.progress.snapshot import Snapshots
from orchestrator.records.folder.live_progress import LIVE_FILE, EpochProgress, read_live, write_live
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.journal import Journal, read_events
from orchestrator.records.ledger import Ledger, TrialStatus
from orchestrator.results.comparison import facts_of
from orchestrator.results.stored_sweep import read_sweep
from tests.orchestrator.progress.test_live_view import snapshots
from tests.support.sweeps.fake_sweeps import write_sweep

RUNNING = TrialStatus.RUNNING
TRIALS = [(TrialStatus.FINISHED, [0.5] * 10), (RUNNING, [0.7, 0.9]), (RUNNING, [])]
ROOT = Path(__file__).resolve().parents[3]


def progress(trial: int, epoch: int, **values: Any) -> EpochProgress:
    """Return the progress of an epoch of 100 s that is done to a quarter."""
    usual: dict[str, Any] = {"step": 187, "steps": 750, "images_per_s": 812.4, "loss": 2.3125, "left_s": 75.0}
    return EpochProgress(**{"trial": trial, "epoch": epoch, "epoch_s": 100.0, **usual, **values})


# Trial 1 has ended two of its ten epochs; the progress of trial 2 is of an epoch that it has not reported.
NEWEST = {1: progress(1, 3), 2: progress(2, 1, loss=math.nan, images_per_s=12345.6)}


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    folder = write_sweep(tmp_path, "s", TRIALS, ended=None)
    with Journal(folder / "journal.jsonl") as journal:
        yield Ledger(journal)


def source(ledger: Ledger, newest: dict[int, EpochProgress]) -> Snapshots:
    found = snapshots(ledger)
    found._progress = lambda: newest
    return found


def lines_at_80(ledger: Ledger, newest: dict[int, EpochProgress]) -> list[str]:
    console = Console(record=True, width=80, force_terminal=True, file=io.StringIO())
    console.print(live_view(source(ledger, newest).now(), (), 40))
    return console.export_text().splitlines()


def test_a_terminal_of_80_columns_shows_step_rate_loss_and_time_left(ledger: Ledger) -> None:
    lines = lines_at_80(ledger, NEWEST)
    assert max(map(len, lines)) <= 80
    heading = next(number for number, line in enumerate(lines) if line.startswith("running"))
    assert lines[heading].split() == ["running", "epoch", "val/top1", "step", "img/s", "loss", "left", "network"]
    # 75 s of this epoch and 7 epochs of 100 s; of the other trial 75 s and 9 epochs.
    assert lines[heading + 1].split() == [
        "1",
        "2/10",
        "0.9000",
        "187/750",
        "812",
        "2.31",
        "12:55",
        "conv_resnet26_small",
    ]
    assert lines[heading + 2].split() == ["2", "0/10", "-", "187/750", "12346", "-", "16:15", "conv_resnet26_small"]


def test_short_epochs_leave_the_view_as_it_was(ledger: Ledger) -> None:
    of_a_reported_epoch = {1: progress(1, 2)}
    for newest in ({}, of_a_reported_epoch):
        lines = lines_at_80(ledger, newest)
        heading = next(line for line in lines if line.startswith("running"))
        assert heading.split() == ["running", "epoch", "val/top1", "for", "network"]
        assert running_line(source(ledger, newest).now()) == ""


def test_the_time_left_is_known_within_the_first_epoch(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path, "first", [(RUNNING, [])], ended=None)
    with Journal(folder / "journal.jsonl") as journal:
        ledger = Ledger(journal)
        assert source(ledger, {}).now().left_s is None
        left_s = source(ledger, {0: progress(0, 1)}).now().left_s
    # `snapshots` plans 8 trials: 975 s for this one, and as much, with the seconds since its start, for each of 7.
    assert left_s == pytest.approx(975 + 7 * 975, rel=0.05)


def test_a_validation_counts_in_the_time_left() -> None:
    assert progress(0, 3).trial_left_s(10, epoch_s=130.0) == 75 + 30 + 7 * 130
    assert progress(0, 10).trial_left_s(10) == 75


def test_a_notebook_shows_the_same(ledger: Ledger) -> None:
    page = snapshot_html(source(ledger, NEWEST).now(), ())
    assert "<th>step</th><th>img/s</th><th>loss</th><th>left</th><th>network</th>" in page
    assert "<td>187/750</td><td>812</td><td>2.31</td><td>12:55</td>" in page
    assert "<th>step</th>" not in snapshot_html(source(ledger, {}).now(), ())


def test_a_log_has_a_line_a_minute_about_four_trials_at_most(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(progress_view.time, "monotonic", lambda: now)
    console = Console(record=True, width=300, file=io.StringIO())
    with Progress(source(ledger, NEWEST), console) as shown:
        for _ in range(400):  # 200 s
            now += 0.5
            shown.update()
    lines = [line for line in console.export_text().splitlines() if "Training: " in line]
    assert [line[:5] for line in lines] == ["01:00", "02:01", "03:01"]
    assert lines[0].endswith(
        "Training: trial 1 epoch 3 of 10, step 187/750, 812 images/s, loss 2.31, 12:55 left; "
        "trial 2 epoch 1 of 10, step 187/750, 12346 images/s, loss -, 16:15 left"
    )


# File for other processes


def test_another_process_reads_the_progress(tmp_path: Path) -> None:
    folder = SweepFolder(write_sweep(tmp_path, "s", TRIALS, ended=None))
    write_live(folder.scratch, NEWEST.values())
    over = threading.Event()

    def write_as_a_driver() -> None:
        while not over.wait(1.0):
            write_live(folder.scratch, NEWEST.values())

    driver = threading.Thread(target=write_as_a_driver)
    command = [sys.executable, "-m", "orchestrator", "status", "s", "--runs-dir", str(tmp_path)]
    with folder.driven():
        driver.start()
        try:
            text = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
            facts = facts_of(read_sweep(folder))
        finally:
            over.set()
            driver.join()
    assert re.search(
        r"training +trial 1 epoch 3 of 10, step 187/750, 812 images/s, loss 2\.312, 12m55s left\n"
        r" +training +trial 2 epoch 1 of 10, step 187/750, 12346 images/s, loss -, 16m15s left\n",
        text,
    )
    assert facts["running"][0] == {
        "trial": 1,
        "epoch": 3,
        "epochs": 10,
        "step": 187,
        "steps": 750,
        "images_per_s": 812.4,
        "loss": 2.3125,
        "left_s": 775.0,
    }
    assert json.loads(json.dumps(facts["running"], allow_nan=False))[1]["loss"] is None
    assert facts_of(read_sweep(folder))["running"] == []  # its driver is gone


def test_a_file_reads_back_as_it_was_written(tmp_path: Path) -> None:
    write_live(tmp_path, NEWEST.values())
    found = read_live(tmp_path)
    assert found[1] == NEWEST[1]
    assert math.isnan(found[2].loss)
    assert read_live(tmp_path / "none") == {}


def changed(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return write


def link(path: Path) -> None:
    path.rename(path.with_name("other.json"))
    path.symlink_to("other.json")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


HOSTILE: dict[str, Callable[[Path], Any]] = {
    "not JSON": lambda path: path.write_bytes(b"\xff{"),
    "deeply nested": lambda path: path.write_text("[" * 100_000),
    "too large": lambda path: path.write_bytes(b" " * (5 * 2**20)),
    "a link": link,
    "a pipe": pipe,
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "old": changed(lambda content: content.update(time=time.time() - 100)),
    "of the future": changed(lambda content: content.update(time=time.time() + 1e6)),
    "a text for a number": changed(lambda content: content["trials"][0].update(step="1")),
    "a huge number": changed(lambda content: content["trials"][0].update(left_s=1e300)),
    "a negative number": changed(lambda content: content["trials"][0].update(epoch=-1)),
    "an unknown key": changed(lambda content: content["trials"][0].update(network="\x1b[2J")),
    "steps beyond the epoch": changed(lambda content: content["trials"].__delitem__(slice(1, 2))),
}


@pytest.mark.parametrize("fault", HOSTILE)
def test_a_file_that_is_damaged_or_hostile_shows_nothing(tmp_path: Path, fault: str) -> None:
    write_live(tmp_path, [progress(1, 3, step=751 if fault.startswith("steps") else 1), NEWEST[2]])
    HOSTILE[fault](tmp_path / LIVE_FILE)
    assert read_live(tmp_path) == {}


# Records of the driver


def test_the_driver_writes_a_file_every_5_s_and_an_event_a_trial_every_30_s(tmp_path: Path) -> None:
    folder = SweepFolder(write_sweep(tmp_path, "s", TRIALS, ended=None))
    now, newest = 0.0, {1: progress(1, 3), 2: progress(2, 1, epoch_s=20.0)}  # the epochs of trial 2 are short
    written: set[int] = set()
    with Journal(folder.journal) as journal:
        records = ProgressRecords(Ledger(journal), folder.scratch, lambda: newest, clock=lambda: now)
        for _ in range(240):  # 120 s
            records.poll()
            written.add((folder.scratch / LIVE_FILE).stat().st_ino)
            now += 0.5
        found = list(read_live(folder.scratch))
    events = [event for event, _ in read_events(folder.journal) if event.event == "trial_progressed"]
    assert found == [1, 2]
    assert len(written) <= 24
    assert [(event.trial, event.epoch, event.step) for event in events] == [(1, 3, 2 * 750 + 187)] * 3
    assert events[0].metrics == {"images_per_s": 812.4, "train_loss": 2.3125}


def test_a_thousand_trials_write_an_event_a_second_at_most(tmp_path: Path) -> None:
    folder = SweepFolder(write_sweep(tmp_path, "s", [(RUNNING, [])] * 100, ended=None))
    now, newest = 0.0, {number: progress(number, 1) for number in range(100)}
    with Journal(folder.journal) as journal:
        records = ProgressRecords(Ledger(journal), folder.scratch, lambda: newest, clock=lambda: now)
        for _ in range(50):  # 250 s
            records.poll()
            now += 5.0
    events = [event for event, _ in read_events(folder.journal) if event.event == "trial_progressed"]
    assert len(events) == 2 * 100
