"""Journals with damaged lines: every command reports the place in one line, and other sweeps are not affected."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from orchestrator import load_result
from orchestrator.cli import main as cli
from orchestrator.errors import JournalError
from orchestrator.records import lines
from orchestrator.records.events import Event
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.history import read_history
from orchestrator.records.journal import Journal
from orchestrator.records.ledger import Ledger, TrialStatus
from orchestrator.records.lines import seal
from orchestrator.records.repair import repair
from tests.support.journal_events import an_event, rewrite, write_sealed
from tests.support.sweeps.fake_sweeps import write_sweep

OLD = Path(__file__).parent / "old_journal" / "journal.jsonl"
TRIALS = [(TrialStatus.FINISHED, [0.5, 0.8]), (TrialStatus.PRUNED, [0.6])]
Damage = Callable[[list[bytes]], object]


def flip(line: int, byte: int) -> Damage:
    def change(found: list[bytes]) -> None:
        content = bytearray(found[line])
        content[byte] ^= 1
        found[line] = bytes(content)

    return change


def put(line: int, content: bytes) -> Damage:
    return lambda found: found.__setitem__(line, content)


def last_digit(line: int, digit: bytes) -> Damage:
    """Replace the last character of the checksum."""
    return lambda found: found.__setitem__(line, found[line][:-4] + digit + found[line][-3:])


def swap(found: list[bytes]) -> None:
    found[3], found[4] = found[4], found[3]


def damaged(path: Path, damage: Damage) -> JournalError:
    found = path.read_bytes().splitlines(keepends=True)
    damage(found)
    path.write_bytes(b"".join(found))
    with pytest.raises(JournalError) as caught:
        read_history(path)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("damage", "line", "fault"),
    [
        (flip(4, 60), 5, "its checksum does not match"),
        (flip(0, 20), 1, "its checksum does not match"),
        (last_digit(2, b"!"), 3, "its checksum cannot be read"),
        (put(2, b"not JSON\n"), 3, "it is not JSON"),
        (put(2, b"\n"), 3, "it is not JSON"),
        (put(2, b"[1]\n"), 3, "it is not a JSON object"),
        (put(2, b"{}\n"), 3, "it names no event"),
        (put(2, b'{"event": "lunch"}\n'), 3, "the event 'lunch' is unknown"),
        (put(2, b'{"event": ["a"]}\n'), 3, "is unknown"),
        (put(2, b'{"event": "budget_spent", "time": 1.0}\n'), 3, "budget_spent.reason: missing"),
        (put(2, b'{"event": "budget_spent", "time": true, "reason": ""}\n'), 3, "budget_spent.time: got True"),
        (put(2, b'{"event": "budget_spent", "time": NaN, "reason": ""}\n'), 3, "budget_spent.time: got nan"),
        (put(2, b'{"event": "budget_spent", "time": 1, "reason": "", "x": 1}\n'), 3, "budget_spent.x: unknown key"),
        (put(2, b'{"event": "budget_spent", "time": 1, "reason": ""}\n'), 3, "it has no checksum"),
        (put(2, b'{"event": "budget_spent", "time": ' + b"9" * 5_000 + b"}\n"), 3, "it is not JSON"),
        (put(2, b"[" * 100_000 + b"\n"), 3, "it is not JSON"),
        (put(2, b"\0" * 300 + b"\n"), 3, "NUL bytes, as a loss of power leaves them"),
        (put(2, b'{"event": "caf\xe9"}\n'), 3, "it is not UTF-8 (byte 14 of the line)"),
        (lambda found: found.pop(3), 4, "it was written as line 5: lines before it are missing"),
        (lambda found: found.insert(3, found[2]), 4, "it was written as line 3"),
        (swap, 4, "it was written as line 5"),
        (put(2, seal(an_event("trial_reported", trial=9), 3)), 3, "trial 9 was never started"),
        (put(2, seal(an_event("trial_resumed", trial=9), 3)), 3, "trial 9 was never started"),
        (put(2, seal(an_event("front_found", trials=(9,)), 3)), 3, "trial 9 was never started"),
        (put(2, seal(an_event("sweep_started"), 3)), 3, "the sweep has started before"),
        (put(4, seal(an_event("trial_started", trial=0), 5)), 5, "trial 0 was started before"),
        (put(0, seal(an_event("sweep_resumed"), 1)), 1, "the first event is 'sweep_resumed', not 'sweep_started'"),
    ],
)
def test_damage_is_reported_with_its_place_and_the_remedy(
    tmp_path: Path, damage: Damage, line: int, fault: str
) -> None:
    path = write_sweep(tmp_path, "s", TRIALS) / "journal.jsonl"
    error = damaged(path, damage)
    start = sum(map(len, path.read_bytes().splitlines(keepends=True)[: line - 1]))
    assert (error.line, error.byte, error.newer) == (line, start, False)
    assert fault in error.fault
    assert str(error).startswith(f"{path}, line {line}, byte {start}: ")
    assert f"`spatialsweep repair {path.parent}`" in str(error)


def test_a_line_without_an_end_is_read_up_to_the_limit_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_sweep(tmp_path, "s", TRIALS) / "journal.jsonl"
    for module in ("lines", "journal"):
        monkeypatch.setattr(f"orchestrator.records.{module}.LONGEST_LINE", 100_000)
    assert lines.LONGEST_LINE == 100_000
    assert "longer than 100000 bytes" in damaged(path, put(2, b"x" * 200_000)).fault
    with Journal(tmp_path / "journal.jsonl") as journal, pytest.raises(ValueError, match="takes 200"):
        journal.append(an_event("budget_spent", reason="x" * 200_000))
    assert journal.path.read_bytes() == b""


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b'{"event": "sweep_started", "format": 2, "new": 1}\n', "it has format 2; this version reads up to 1"),
        (seal(an_event("sweep_started"), 1).replace(b'"s"', b'"t"'), "its checksum does not match"),
    ],
)
def test_lines_of_a_newer_version_are_not_reported_as_damaged(tmp_path: Path, content: bytes, fault: str) -> None:
    path = tmp_path / "s" / "journal.jsonl"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(JournalError) as caught:
        read_history(path)
    assert fault in caught.value.fault
    assert caught.value.newer is ("format 2" in fault)
    assert ("Install the version that wrote it" in str(caught.value)) is caught.value.newer


def test_an_unreadable_journal_is_reported(tmp_path: Path) -> None:
    (tmp_path / "s" / "journal.jsonl").mkdir(parents=True)
    with pytest.raises(JournalError, match=r"journal.jsonl: it cannot be read: Is a directory$"):
        load_result(tmp_path / "s")


def test_a_ledger_refuses_an_event_that_contradicts_its_journal(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.jsonl") as journal:
        ledger = Ledger(journal)
        with pytest.raises(ValueError, match="trial 3 was never started"):
            ledger.trial_resumed(3, "tune")
        with pytest.raises(ValueError, match=r"trial\n.*greater than or equal to 0"):
            ledger.trial_rejected(-1, {}, "rule", "reason")
    assert journal.path.read_bytes() == b""


def test_a_driver_does_not_append_to_a_damaged_journal(tmp_path: Path) -> None:
    path = write_sweep(tmp_path, "s", TRIALS) / "journal.jsonl"
    damaged(path, flip(3, 40))
    before = path.read_bytes()
    with Journal(path) as journal, pytest.raises(JournalError, match="line 4"):
        Ledger(journal)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "command",
    [
        ["status", "s"],
        ["report", "s"],
        ["resume", "s"],
        ["sync", "s"],
        ["compare", "whole", "s"],
        ["delete", "s", "--dry-run"],
        ["register", "s", "--as", "model"],
        ["dashboard", "s", "--no-browser"],
        ["dashboard", "s", "--optuna", "--no-browser"],
    ],
)
def test_every_command_reports_damage_in_one_line(
    tmp_path: Path, command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sweep(tmp_path, "whole", TRIALS)
    path = write_sweep(tmp_path, "s", TRIALS) / "journal.jsonl"
    error = damaged(path, flip(4, 60))
    monkeypatch.setattr("sys.argv", ["spatialsweep", *command, "--runs-dir", str(tmp_path)])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2
    assert capsys.readouterr().err == f"{error}\n"


def test_the_remedy_names_the_folder_as_a_shell_takes_it(tmp_path: Path) -> None:
    path = write_sweep(tmp_path / "exp #2", "s", TRIALS) / "journal.jsonl"
    damaged(path, flip(3, 40))
    with pytest.raises(JournalError) as caught:
        load_result(path.parent)
    assert f"`spatialsweep repair '{path.parent}'` keeps" in str(caught.value)


def test_a_damaged_sweep_is_listed_beside_the_others(tmp_path: Path) -> None:
    write_sweep(tmp_path, "a", TRIALS)
    error = damaged(write_sweep(tmp_path, "b", TRIALS) / "journal.jsonl", flip(4, 60))
    write_sweep(tmp_path, "c", TRIALS)
    listed = CliRunner().invoke(cli.app, ["list", "--runs-dir", str(tmp_path), "--json"])
    rows = json.loads(listed.stdout)
    assert [(row["name"], row["state"]) for row in rows] == [("a", "finished"), ("b", "damaged"), ("c", "finished")]
    assert rows[1]["damage"] == str(error)
    shown = CliRunner().invoke(cli.app, ["list", "--runs-dir", str(tmp_path)])
    assert (shown.exit_code, shown.stderr) == (0, f"{error}\n")
    assert "damaged" in shown.stdout


@pytest.mark.parametrize(
    ("before", "after", "fault"),
    [
        (b'"objective":', b'"objectivf":', "sweep_started.config.objective: missing"),
        (b'"trials": 6', b'"trials": -6', "sweep_started.config.trials: got -6"),
        (b'"low": 0.001', b'"low": "0.001 or so"', "sweep_started.config.search"),
        (b'"epochs": 10', b'"epochs": "ten"', "trial_started.config.training.epochs: got 'ten'"),
        (b'"trial": 0', b'"trial": -1', "trial_started.trial: got -1"),
        (b'"status": "pruned"', b'"status": "pruner"', "trial_ended.status: got 'pruner'"),
        (b'"held_s": 6.0', b'"hela_s": 6.0', "trial_reported.hela_s: unknown key"),
    ],
)
def test_older_journals_are_checked_as_far_as_they_are_read(
    tmp_path: Path, before: bytes, after: bytes, fault: str
) -> None:
    path = tmp_path / "old" / "journal.jsonl"
    write_sealed(path, [])
    content = OLD.read_bytes()
    assert before in content
    head, _, rest = content.partition(before) if b"epochs" not in before else content.partition(b'"trial_started"')
    changed = (
        head + after + rest if b"epochs" not in before else head + b'"trial_started"' + rest.replace(before, after)
    )
    path.write_bytes(changed)
    with pytest.raises(JournalError) as caught:
        read_history(path)
    assert fault in str(caught.value)


def test_a_sealed_line_with_unusable_settings_is_reported_and_repaired(tmp_path: Path) -> None:
    path = write_sweep(tmp_path, "s", TRIALS) / "journal.jsonl"

    def change(event: dict[str, Any]) -> None:
        if event["event"] == "trial_started" and event["trial"] == 1:
            event["config"] = {"model": "m"}

    rewrite(path, change)
    with pytest.raises(JournalError, match=r"line 7, byte \d+: trial_started.config.model: got 'm'; input should be"):
        load_result(tmp_path / "s")
    assert [place for place, _ in repair(SweepFolder(tmp_path / "s")).dropped] == [7, 8, 9]
    assert [record.number for record in load_result(tmp_path / "s").records] == [0]


def test_the_name_of_an_event_is_that_of_its_class() -> None:
    from typing import get_args

    kinds = [event.__dataclass_fields__["event"].default for event in get_args(Event)]
    assert len(set(kinds)) == len(kinds) == 22
