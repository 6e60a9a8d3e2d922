"""Requests that are there before a session reads any: its own are carried out, those of an earlier session are not."""

from __future__ import annotations

from pathlib import Path

from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.steering.request_folder import RequestFolder
from orchestrator.steering.requests import Answer, ChangeSettings
from orchestrator.sweep.run import _driven
from tests.orchestrator.search.test_steered_trials import Session


def test_a_request_sent_while_a_session_starts_is_carried_out_and_an_older_one_is_not(tmp_path: Path) -> None:
    Session(tmp_path).close()
    folder = SweepFolder(tmp_path / "s")
    requests = RequestFolder(folder)
    older = [requests.send(ChangeSettings(assignments=("trials=9",))) for _ in range(120)]
    with _driven(folder, new=False):
        sent = requests.send(ChangeSettings(assignments=("trials=7",)))
        session = Session(tmp_path)
        assert requests.wait(sent, 0.0) is None
        session.steering.poll()
        assert requests.wait(sent, 0.0) == Answer(done=True, text="trials is 7")
        assert session.plan.trials == 7
        assert all(requests.wait(number, 0.0) is None for number in older)
        assert not list(requests.path.iterdir())
        session.close()
