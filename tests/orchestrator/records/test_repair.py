"""`spatialsweep repair`: intact lines of a damaged journal are kept, all others are reported."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient
from typer.testing import CliRunner

from orchestrator import load_result, load_sweep
from orchestrator.cli import main as cli
from orchestrator.errors import JournalError, SweepNameError
from orchestrator.records.events import SweepStarted
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.history import read_history
from orchestrator.records.journal import Journal, read_events
from orchestrator.records.ledger import Ledger, TrialStatus
from orchestrator.records.lines import seal
from orchestrator.records.repair import Repair, repair
from orchestrator.records.settings.stored_config import complete_settings
from orchestrator.server_addresses import embedded_uri
from orchestrator.tracking.mlflow_writer import MlflowWriter
from tests.support.journal_events import UID
from tests.support.sweeps.fake_sweeps import PLAN, write_sweep
from tests.support.sweeps.tracked_sweep import replay

OLD = Path(__file__).parent / "old_journal" / "journal.jsonl"
TRIALS = [(TrialStatus.FINISHED, [0.5, 0.8]), (TrialStatus.PRUNED, [0.6])]
# Its lines: 1 sweep_started, 2 lanes_planned, 3 trial 0 started, 4 5 reported, 6 ended, 7 trial 1 started, 8 reported,
# 9 ended, 10 sweep_ended.


@pytest.fixture
def sweep(tmp_path: Path) -> SweepFolder:
    return SweepFolder(write_sweep(tmp_path, "s", TRIALS))


def damage(folder: SweepFolder, change: Callable[[list[bytes]], object]) -> bytes:
    found = folder.journal.read_bytes().splitlines(keepends=True)
    change(found)
    folder.journal.write_bytes(b"".join(found))
    return folder.journal.read_bytes()


def spoil(*places: int) -> Callable[[list[bytes]], None]:
    def change(found: list[bytes]) -> None:
        for place in places:
            found[place - 1] = found[place - 1].replace(b'"time": 1', b'"time": 2', 1)

    return change


def mended(folder: SweepFolder) -> Repair:
    """Repair a journal, and check that it can be read and needs no further repair."""
    done = repair(folder)
    assert not repair(folder).was_needed
    assert len(list(read_events(folder.journal))) == done.kept
    return done


def test_an_intact_journal_is_not_changed(sweep: SweepFolder) -> None:
    before = sweep.journal.read_bytes()
    assert repair(sweep) == Repair("s", 10)
    sweep.journal.write_bytes(before + b'{"event": "cut')
    assert not repair(sweep).was_needed  # a driver takes off what a crash has cut
    assert sweep.journal.read_bytes().startswith(before)
    assert not list(sweep.path.glob("journal.damaged-*"))


def test_intact_lines_are_kept_and_the_damaged_file_beside_them(sweep: SweepFolder) -> None:
    sweep.journal.with_name("tracked.json").write_text("{}")
    broken = damage(sweep, spoil(5))
    would = repair(sweep, dry_run=True)
    assert (sweep.journal.read_bytes(), would.original) == (broken, None)
    done = mended(sweep)
    assert (done.kept, done.dropped, done.notices) == (would.kept, would.dropped, would.notices)
    assert (done.kept, [place for place, _ in done.dropped], done.notices) == (9, [5], [])
    assert "checksum" in done.dropped[0][1]
    assert done.original is not None
    assert done.original.read_bytes() == broken
    assert done.original.name.startswith("journal.damaged-")
    assert not sweep.journal.with_name("tracked.json").exists()
    result = load_result(sweep.path)
    assert [(record.status, record.epochs) for record in result.records] == [
        (TrialStatus.FINISHED, 1),
        (TrialStatus.PRUNED, 1),
    ]


def test_events_that_depend_on_a_dropped_line_are_dropped(sweep: SweepFolder) -> None:
    damage(sweep, spoil(3))
    done = mended(sweep)
    assert [place for place, _ in done.dropped] == [3, 4, 5, 6]
    assert done.dropped[1][1] == "trial 0 was never started, according to the intact lines before it"
    assert [record.number for record in load_result(sweep.path).records] == [1]


def test_lines_out_of_order_are_put_back_and_repeated_ones_dropped(sweep: SweepFolder) -> None:
    before = sweep.journal.read_bytes()

    def change(found: list[bytes]) -> None:
        found[2], found[5] = found[5], found[2]
        found.insert(7, found[6])

    damage(sweep, change)
    done = mended(sweep)
    assert done.dropped == [(8, "it repeats an earlier line")]
    assert done.notices == ["lines stood out of order and were put back"]
    assert sweep.journal.read_bytes() == before


def test_lines_that_are_gone_are_counted(sweep: SweepFolder) -> None:
    damage(sweep, lambda found: found.__delitem__(slice(3, 5)))
    done = mended(sweep)
    assert (done.dropped, done.notices) == ([], ["2 line(s) are missing altogether"])


def test_a_lost_start_is_rebuilt_from_the_session_and_the_run_in_mlflow(sweep: SweepFolder) -> None:
    (before, _), *_ = read_events(sweep.journal)
    assert isinstance(before, SweepStarted)
    replay(sweep.journal, embedded_uri(sweep.path.parent))
    session = sweep.session(1) / "config.yaml"
    session.parent.mkdir(parents=True)
    session.write_text(yaml.safe_dump(complete_settings(load_sweep({**PLAN, "name": "s"}))))
    damage(sweep, spoil(1))
    done = mended(sweep)
    assert done.notices == [
        "the start of the sweep was lost and is rebuilt from sessions/001/config.yaml; the settings that decided "
        "its results are unknown: only `resume --allow-changed` continues it"
    ]
    history = read_history(sweep.journal)
    assert (history.uid, history.identity, history.config["trials"]) == (before.uid, {}, 4)
    assert len(load_result(sweep.path).records) == 2


def test_a_lost_start_is_rebuilt_from_a_later_session(sweep: SweepFolder) -> None:
    with Journal(sweep.journal) as journal:
        config = complete_settings(load_sweep({**PLAN, "name": "s"}))
        Ledger(journal).sweep_resumed(config, {"git.revision": "abc"}, {"seed": 0})
    damage(sweep, spoil(1))
    done = mended(sweep)
    assert done.notices == [
        "the start of the sweep was lost and is rebuilt from a later session; its runs in MLflow are started again"
    ]
    history = read_history(sweep.journal)
    assert (history.identity, history.sessions, len(history.uid)) == ({"seed": 0}, 2, 32)


def test_a_lost_start_without_any_source_is_refused(sweep: SweepFolder) -> None:
    broken = damage(sweep, spoil(1))
    sweep.session(1).mkdir(parents=True)
    (sweep.session(1) / "config.yaml").write_text("trials: many")
    with pytest.raises(JournalError, match="cannot be repaired: the start of the sweep is lost") as caught:
        repair(sweep)
    assert "\n" not in str(caught.value)
    assert sweep.journal.read_bytes() == broken


def test_a_journal_cut_within_its_first_line_is_refused_in_one_line(sweep: SweepFolder) -> None:
    sweep.journal.write_bytes(sweep.journal.read_bytes()[:100])
    with pytest.raises(JournalError, match=r"line 1, byte 0: it holds no whole event\. `spatialsweep repair"):
        load_result(sweep.path)
    with pytest.raises(JournalError, match="cannot be repaired: the start of the sweep is lost"):
        repair(sweep)
    session = sweep.session(1) / "config.yaml"
    session.parent.mkdir(parents=True)
    session.write_text(yaml.safe_dump(complete_settings(load_sweep({**PLAN, "name": "s"}))))
    assert mended(sweep).dropped == [(1, "it was cut short")]
    assert load_result(sweep.path).records == []


def test_a_journal_of_a_newer_version_is_not_touched(sweep: SweepFolder) -> None:
    line = seal(next(event for event, _ in read_events(sweep.journal)), 11).replace(b"sweep_started", b"sweep_painted")
    newer = seal_again(line)
    with sweep.journal.open("ab") as file:
        file.write(newer)
    with pytest.raises(JournalError, match="the event 'sweep_painted' is unknown; a newer version has written it"):
        repair(sweep)


def seal_again(line: bytes) -> bytes:
    import zlib

    covered = line.rpartition(b', "crc"')[0]
    return covered + f', "crc": "{zlib.crc32(covered):08x}"}}\n'.encode()


def test_an_older_journal_is_repaired_from_its_consistent_lines(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path / "old")
    folder.path.mkdir()
    shutil.copy(OLD, folder.journal)
    lines = OLD.read_bytes().splitlines(keepends=True)
    damage(folder, lambda found: found.__setitem__(5, b"\0" * 40 + b"\n"))
    done = mended(folder)
    assert [place for place, _ in done.dropped] == [6]
    assert folder.journal.read_bytes() == b"".join(lines[:5] + lines[6:])
    assert read_history(folder.journal).uid == UID


def test_a_damaged_bookmark_restarts_the_export_to_mlflow(sweep: SweepFolder) -> None:
    uri, tracked = embedded_uri(sweep.path.parent), sweep.journal.with_name("tracked.json")
    replay(sweep.journal, uri)
    marked = json.loads(tracked.read_bytes())

    def begins_at(bookmark: bytes) -> int:
        tracked.write_bytes(bookmark)
        writer = MlflowWriter(sweep.journal, tracking_uri=uri, experiment="tests", artifacts=sweep.path / "artifacts")
        return writer._done_bytes

    assert begins_at(json.dumps(marked).encode()) == sweep.journal.stat().st_size
    for damaged in (b"\xff", b"[" * 5_000, b"[]", b'{"target": 1}'):
        assert begins_at(damaged) == 0
    for offset in (marked["bytes"] - 7, 10**9, -1, "12", 1.0, True, None):
        assert begins_at(json.dumps({**marked, "bytes": offset}).encode()) == 0
    tracked.write_text(json.dumps({**marked, "memory": {**marked["memory"], "front": ["a"]}}))
    assert replay(sweep.journal, uri).events_sent == 10
    assert len(MlflowClient(uri).search_runs(["1"])) == 3


def test_a_sweep_that_is_being_run_is_not_repaired(sweep: SweepFolder) -> None:
    broken = damage(sweep, spoil(5))
    with (sweep.path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(SweepNameError, match="is being run"):
            repair(sweep)
    assert sweep.journal.read_bytes() == broken


def test_the_command_says_what_it_dropped_at_most_ten_lines_of_it(tmp_path: Path) -> None:
    folder = SweepFolder(write_sweep(tmp_path, "s", [(TrialStatus.FINISHED, [0.1 * step for step in range(1, 15)])]))
    damage(folder, spoil(*range(4, 17)))
    arguments = ["repair", "s", "--runs-dir", str(tmp_path)]
    would = CliRunner().invoke(cli.app, [*arguments, "--dry-run"]).stdout.splitlines()
    assert would[0] == "s: 6 events would be kept"
    assert would[1].startswith("  line 4 would be dropped: its checksum does not match")
    assert (len(would), would[-1]) == (12, "  and 3 more lines")
    done = json.loads(CliRunner().invoke(cli.app, [*arguments, "--json"]).stdout)
    assert (done["kept"], len(done["dropped"]), done["dropped"][0]["line"]) == (6, 13, 4)
    assert Path(done["original"]).exists()
    assert CliRunner().invoke(cli.app, arguments).stdout == "s: nothing to repair, 6 events are sound\n"
