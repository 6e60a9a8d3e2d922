"""Buttons of a notebook that steer a running sweep."""

from __future__ import annotations

import builtins
import threading
from pathlib import Path
from typing import Any

import pytest

from orchestrator.progress.steering_panel import SteeringPanel, panel_while_running
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.journal import Journal
from orchestrator.records.ledger import Ledger, TrialStatus
from orchestrator.steering.request_folder import RequestFolder
from orchestrator.steering.requests import Answer, SteeringError, SteerTrial, parse_request


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    folder = SweepFolder(tmp_path / "s")
    folder.path.mkdir()
    with Journal(folder.journal) as journal:
        ledger = Ledger(journal)
        ledger.sweep_started("s", {}, {}, {})
        for number in range(3):
            ledger.trial_started(number, f"t{number}", {}, {})
        ledger.trial_ended(1, TrialStatus.FINISHED)
    return folder


def test_a_click_reaches_the_driver_and_shows_its_answer(folder: SweepFolder) -> None:
    pytest.importorskip("ipywidgets")
    panel = SteeringPanel(folder)
    assert panel._trials.options == (0, 2)
    panel._trials.value = 2
    panel.buttons["Pause"].click()
    assert panel.answer.startswith("sweep 's' is not running")

    seen: list[Any] = []
    stopped = threading.Event()

    def driver() -> None:
        requests = RequestFolder(folder)
        while not stopped.wait(0.01):
            for number, content in requests.pending():
                assert isinstance(content, bytes)
                seen.append(parse_request(content))
                requests.answer(number, Answer(done=len(seen) < 3, text=f"answer {len(seen)}"))

    thread = threading.Thread(target=driver)
    thread.start()
    with folder.driven():
        for button in ("Pause", "Stop", "End sweep"):
            panel.buttons[button].click()
            assert panel.answer == f"answer {len(seen)}"
    stopped.set()
    thread.join()
    assert seen[:2] == [SteerTrial(kind="pause", trial=2), SteerTrial(kind="stop", trial=2)]


def test_without_ipywidgets_one_line_names_the_remedy(folder: SweepFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(name: str, *rest: Any, **options: Any) -> Any:
        if name == "ipywidgets":
            raise ImportError(name)
        return original(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SteeringError, match="need ipywidgets: pip install"):
        SteeringPanel(folder)


def test_a_kernel_that_answers_no_widgets_meanwhile_names_another_notebook(folder: SweepFolder) -> None:
    found = panel_while_running(folder)
    assert isinstance(found, str)
    assert "in another notebook" in found
    assert str(folder.path) in found
