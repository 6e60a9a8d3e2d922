"""Requests of the user to a running sweep, as MLflow and the readers of the journal see them."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from orchestrator.errors import JournalError
from orchestrator.records.history import read_history
from orchestrator.records.journal import Journal
from orchestrator.records.ledger import Ledger, TrialStatus
from orchestrator.records.lines import LineError
from orchestrator.server_addresses import embedded_uri
from tests.support.sweeps.tracked_sweep import CONFIG, replay

TRIAL = {"number": 0, "model": {"name": "m", "options": {}}, "training": {"epochs": 9, "lr": 0.1}}
CHANGED = {**CONFIG, "trials": 40, "search": {"model": {"choices": ["b", "c"]}}}


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "s-001" / "journal.jsonl"
    path.parent.mkdir()
    with Journal(path) as journal:
        ledger = Ledger(journal)
        ledger.sweep_started("s-001", CONFIG, {}, {"search space": "x"})
        ledger.trial_started(0, "tune0", {"model": "a"}, TRIAL)
        ledger.settings_changed(
            "r1", {"trials": 40, "search.model.choices": ["b", "c"]}, CHANGED, {"search space": "y"}
        )
        ledger.trial_enqueued("r2", {"model": "c"})
        ledger.trial_steered("r3", 0, "pause")
        ledger.trial_steered("r4", 0, "resume")
        ledger.trial_steered("r5", 0, "stop")
        ledger.trial_ended(0, TrialStatus.PRUNED, "stopped by the user")
    return path


def test_changes_and_reasons_are_tags_of_the_runs(journal: Path) -> None:
    uri = embedded_uri(journal.parents[1])
    writer = replay(journal, uri)
    client = MlflowClient(uri)
    sweep = client.get_run(str(writer.sweep_run_id)).data.tags
    assert sweep["spatialsweep.changed.trials"] == "40"
    assert sweep["spatialsweep.changed.search.model.choices"] == "['b', 'c']"
    trial = client.get_run(str(writer.run_id(0)))
    assert trial.info.status == "KILLED"
    assert trial.data.tags["spatialsweep.status"] == "pruned"
    assert trial.data.tags["spatialsweep.reason"] == "stopped by the user"


def test_a_journal_gives_the_steered_state_again(journal: Path) -> None:
    history = read_history(journal)
    assert history.config == CHANGED
    assert history.identity == {"search space": "y"}
    assert history.changed["trials"] == 40
    assert history.superseded == [CONFIG]
    assert history.searched["model"]["choices"] == ["a", "b", "c"]
    assert history.enqueued == {"r2": {"model": "c"}}
    assert history.trials[0].steered == "stop"


def test_a_request_for_a_trial_that_never_began_is_a_contradiction(journal: Path) -> None:
    with Journal(journal) as open_journal, pytest.raises(LineError, match="trial 7 was never started"):
        Ledger(open_journal).trial_steered("r6", 7, "stop")
    assert read_history(journal).trials.keys() == {0}
    journal.write_bytes(journal.read_bytes().replace(b'"action": "stop"', b'"action": "halt"'))
    with pytest.raises(JournalError, match="line 7"):
        read_history(journal)
