"""Journal from before journals had a format: it gives the same result, and a resumed sweep appends to it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config import load_sweep
from orchestrator.config.plans import resolve_plans
from orchestrator.data import locate_dataset
from orchestrator.errors import JournalError, ResumeError
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.history import read_begun, read_history
from orchestrator.records.journal import Journal, read_events
from orchestrator.records.ledger import Ledger, TrialRecord, TrialStatus
from orchestrator.results.comparison import facts_of
from orchestrator.results.stored_sweep import read_sweep
from orchestrator.server_addresses import embedded_uri
from orchestrator.sweep.compatibility import (
    chosen_before,
    content_hash,
    refuse_changes,
    stored_config,
    with_former_scheduler,
)
from tests.support.sweeps.tracked_sweep import replay

OLD = Path(__file__).parent / "old_journal"


@pytest.fixture
def old(tmp_path: Path) -> SweepFolder:
    folder = SweepFolder(tmp_path / "old")
    folder.path.mkdir()
    shutil.copy(OLD / "journal.jsonl", folder.journal)
    return folder


def plain(record: TrialRecord) -> dict[str, Any]:
    reports = [
        {name: value if value == value and abs(value) < 1e300 else repr(value) for name, value in report.items()}
        for report in record.reports
    ]
    names = ("number", "tune_id", "reason", "started_s", "ended_s", "attempts")
    return {
        **{name: getattr(record, name) for name in names},
        "status": str(record.status),
        "reports": reports,
        "nodes": list(record.nodes),
        "cost": record.cost.as_dict(),
        "params": dict(record.params),
    }


def test_an_old_journal_is_read_as_its_own_version_read_it(old: SweepFolder) -> None:
    expected = json.loads((OLD / "expected.json").read_text())
    # Its version wrote neither the task, of which it had one, nor `test` and `feasible`.
    expected["task"] = "classification"
    expected["best"] |= {"test": {"top1": expected["best"]["test_top1"]}, "feasible": True}
    sweep = read_sweep(old)
    assert [plain(record) for record in sweep.result.records] == expected.pop("records")
    found = facts_of(sweep)
    assert {name: found[name] for name in expected} == expected


def test_a_resumed_sweep_appends_to_it_with_checksums(old: SweepFolder) -> None:
    before = old.journal.read_bytes()
    config = stored_config(old)
    assert (config.name, config.trials) == ("old", 6)
    with Journal(old.journal) as journal:
        ledger = Ledger(journal)
        assert (ledger.sessions, ledger.count_ended()) == (2, 4)
        ledger.sweep_resumed({}, {}, {})
        ledger.trial_started(5, "tune5", {}, {})
        ledger.trial_ended(5, TrialStatus.FINISHED)
    written = old.journal.read_bytes()
    assert written.startswith(before)
    assert written.removeprefix(before).count(b'"crc": "') == 3
    assert read_history(old.journal).trials[5].status is TrialStatus.FINISHED
    assert len(list(read_events(old.journal, len(before)))) == 3
    old.journal.write_bytes(written.replace(b'"tune5"', b'"tune6"'))
    with pytest.raises(JournalError, match="its checksum does not match"):
        read_history(old.journal)


def test_a_journal_without_identity_is_resumed_only_with_allow_changed(old: SweepFolder) -> None:
    first, *rest = [json.loads(line) for line in old.journal.read_text().splitlines()]
    del first["identity"]
    begun = rest[: [event["event"] for event in rest].index("sweep_resumed")]
    old.journal.write_text("".join(json.dumps(event) + "\n" for event in [first, *begun]))
    assert len(read_sweep(old).result.records) == 3
    with Journal(old.journal) as journal:
        ledger = Ledger(journal)
        assert (ledger.sessions, ledger.identity) == (1, {})
        with pytest.raises(ResumeError, match="seed: was nothing, is 0"):
            refuse_changes(ledger.identity or {}, {"seed": 0}, name="old")
        ledger.sweep_resumed({}, {}, {"seed": 0})
    assert read_history(old.journal).identity == {"seed": 0}


def test_its_digits_are_those_of_today(old: SweepFolder, tmp_path: Path) -> None:
    """It names the hash that the digits had while they were kept in one file."""
    with Journal(old.journal) as journal:
        before = Ledger(journal).identity
    assert before is not None
    now = {**before, "dataset content": content_hash(locate_dataset("digits", None, tmp_path))}
    assert now["dataset content"] != before["dataset content"]
    refuse_changes(before, now, name="old")
    with pytest.raises(ResumeError, match="dataset content: was 36706e9c749a0738, is 0123"):
        refuse_changes(before, {**now, "dataset content": "0123"}, name="old")


def test_a_configuration_rejected_twice_counts_once(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.jsonl") as journal:
        ledger = Ledger(journal)
        ledger.sweep_started("s", {}, {}, {})
        for rule in (
            "max_macs",
            "max_params",
        ):  # its driver died before it was added to the study, so it is proposed again
            ledger.trial_rejected(0, {"lr": 0.1}, rule, "too much")
        ledger.trial_started(0, "tune0", {"lr": 0.1}, {})
        assert [trial.rule for trial in ledger.rejected()] == ["max_params"]
    assert list(read_history(journal.path).trials) == [0]


def test_an_old_journal_is_exported_to_mlflow(old: SweepFolder) -> None:
    writer = replay(old.journal, embedded_uri(old.path.parent))
    assert writer.events_sent == old.journal.read_bytes().count(b"\n")
    assert writer.run_id(3) is not None


def test_asha_of_an_old_journal_still_stops_trials_for_good(old: SweepFolder) -> None:
    config = stored_config(old, contacted=())
    assert config.trial_scheduler.name == "asha_stopping"
    assert stored_config(old, ["trial_scheduler.name=asha"], contacted=()).trial_scheduler.name == "asha"

    plans = resolve_plans(load_sweep(config.model_dump(mode="json"), ["trial_scheduler.name=asha"]))
    with Journal(old.journal) as journal:
        ledger = Ledger(journal)
        assert any(record.status is TrialStatus.PRUNED for record in ledger.trials())
        assert with_former_scheduler(plans, ledger).search.trial_scheduler.name == "asha_stopping"
    with Journal(old.path / "new.jsonl") as journal:
        assert with_former_scheduler(plans, Ledger(journal)) is plans


def test_a_sweep_that_names_no_strategy_keeps_the_one_it_began_with(old: SweepFolder) -> None:
    content = stored_config(old, contacted=()).model_dump(mode="json")
    used = content["sampler"].pop("name"), content["trial_scheduler"].pop("name")
    config, history = load_sweep(content), read_begun(old.journal)
    assert (config.sampler.name, config.trial_scheduler.name) != used
    again, _ = chosen_before(config, history)
    assert (again.sampler.name, again.trial_scheduler.name) == used
    assert again.model_dump(exclude={"sampler", "trial_scheduler"}) == config.model_dump(
        exclude={"sampler", "trial_scheduler"}
    )
    named = load_sweep({**content, "strategy": "random+pasha"})
    assert chosen_before(named, history) == (named, "")


def test_a_sweep_keeps_the_rules_by_which_auto_chose(old: SweepFolder) -> None:
    content = stored_config(old, contacted=()).model_dump(mode="json")
    assert content["sampler"].pop("rules") == 1
    for recorded, rules in ((None, 1), (2, 2), (3, 3), (4, 4)):
        history = read_begun(old.journal)
        history.config = {**content, "sampler": {"name": "auto", **({} if recorded is None else {"rules": recorded})}}
        again, line = chosen_before(load_sweep({**content, "sampler": {"startup_trials": 5}}), history)
        assert (again.sampler.name, again.sampler.rules, again.sampler.startup_trials) == ("auto", rules, 5)
        assert line == ""
        for given in (1, 2, 3, 4):  # in a file, or with --set
            again, line = chosen_before(load_sweep({**content, "sampler": {"rules": given}}), history)
            assert again.sampler.rules == rules
            kept = f"Kept as the sweep was begun: sampler.rules {rules}, in place of {given}"
            assert line == ("" if given == rules else kept)


def test_a_sweep_that_names_its_sampler_keeps_its_first_trials(old: SweepFolder) -> None:
    content = stored_config(old, contacted=()).model_dump(mode="json")
    for recorded, rules in (({}, 1), ({"rules": 2}, 2), ({"rules": 3}, 3), ({"rules": 4}, 4)):
        history = read_begun(old.journal)
        history.config = {**content, "sampler": {"name": "tpe", **recorded}}
        again, line = chosen_before(load_sweep({**content, "sampler": {"name": "tpe"}}), history)
        assert (again.sampler.name, again.sampler.rules, line) == ("tpe", rules, "")
