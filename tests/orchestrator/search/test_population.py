"""Population on one lane: the real hub, clients, scheduler and training, in threads instead of processes of Ray."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from orchestrator import load_sweep
from orchestrator.config.plans import resolve_plans
from orchestrator.config.trial import resolve_trial
from orchestrator.lanes.hub.hub import LaneHub
from orchestrator.lanes.messages import RankId
from orchestrator.lanes.trial_client import TrialClient
from orchestrator.lanes.tune_keys import EPOCH, EPOCHS_DONE, FAILURES, REPORTED, TRIAL
from orchestrator.lanes.worker import worker
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.journal import Journal
from orchestrator.records.ledger import Ledger, TrialStatus
from orchestrator.search.schedulers.trial_schedulers import create_trial_scheduler
from orchestrator.training.workers import Workers
from tests.support.training_pieces import few_digits

SWEEP = {
    "name": "population",
    "dataset": {"name": "digits"},
    "model": {"name": "conv_resnet26_small"},
    "training": {"epochs": 4, "global_batch_size": 32, "optimizer": "adamw", "warmup_epochs": 0},
    "search": {"lr": {"choices": [1e-9, 1e-3, 3e-3, 4e-3]}},
    "trials": 4,
    "trial_scheduler": {"name": "pbt", "perturb_every": 2, "resample_probability": 0.0},
    "resources": {"workers": 1, "lanes": 1},
}


class HubInLoop:
    """Hub in an event loop of its own, called as Ray would; `ray.get` is the identity here."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self._hub = asyncio.run_coroutine_threadsafe(self._make(), self.loop).result()

    async def _make(self) -> LaneHub:
        return LaneHub()

    def __getattr__(self, name: str) -> Any:
        def remote(*args: Any, **kwargs: Any) -> Any:
            return asyncio.run_coroutine_threadsafe(getattr(self._hub, name)(*args, **kwargs), self.loop).result(60)

        return SimpleNamespace(remote=remote)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubInLoop]:
    monkeypatch.setattr(ray, "get", lambda answer, **_: answer)
    monkeypatch.setattr(worker, "is_node_preempted", lambda: False)
    made = HubInLoop()
    yield made
    made.loop.call_soon_threadsafe(made.loop.stop)


def serve_lane(hub: Any, data: Any, objective: Any) -> None:
    """Serve a lane as `lane_loop` does, in one process."""
    inputs = SimpleNamespace(objective=objective, costs=frozenset(), network_files={})
    lane = SimpleNamespace(lane=0, hub=hub, inputs=inputs)
    rank_id, left, last_report = RankId(0, hub.new_generation.remote(0), 0, 1), None, None
    hub.join.remote(rank_id)
    while (assignment := hub.next_assignment.remote(rank_id, left, last_report)) is not None:
        hub.begin.remote(rank_id, assignment)
        outcome = worker._train(lane, rank_id, Workers(), data, assignment)  # type: ignore[arg-type]
        left, last_report = assignment, outcome.last_report
        if last_report is None:
            hub.finish.remote(rank_id, assignment, outcome)


@pytest.mark.parametrize("validate_every", [1, 2])
@pytest.mark.usefixtures("one_thread")
def test_trials_take_turns_and_the_poorest_resumes_from_another(
    tmp_path: Path, hub: HubInLoop, validate_every: int
) -> None:
    config = load_sweep(SWEEP, [f"training.validate_every={validate_every}"])
    folder = SweepFolder(tmp_path)
    data = few_digits(tmp_path / "data")
    lane = threading.Thread(target=serve_lane, args=(hub, data, config.objective), daemon=True)
    lane.start()
    results: queue.Queue[tuple[Any, dict[str, Any]]] = queue.Queue()

    def follow(trial: Any) -> None:
        client = object.__new__(TrialClient)
        client._trial_info = SimpleNamespace(trial_id=trial.trial_id)
        client.setup(trial.config, hub=hub, trials_folder=str(folder.trials), metric="val/top1")
        result: dict[str, Any] = {}
        while not result.get("done"):
            trial.go.acquire()
            result = client.step()
            results.put((trial, result))

    with Journal(folder.journal) as journal:
        ledger = Ledger(journal)
        scheduler = create_trial_scheduler(resolve_plans(config).search, ledger, folder)
        for number, lr in enumerate((1e-9, 1e-3, 3e-3, 4e-3)):
            content = resolve_trial(config, number, {"lr": lr}).model_dump(mode="json")
            ledger.trial_started(number, f"t{number}", {"lr": lr}, content)
            trial: Any = SimpleNamespace(
                trial_id=f"t{number}", config={TRIAL: content, EPOCHS_DONE: 0, FAILURES: 0}, go=threading.Semaphore(1)
            )
            scheduler.on_trial_add(None, trial)
            threading.Thread(target=follow, args=(trial,), daemon=True).start()
        assignment = []
        while ledger.running():
            trial, result = results.get(timeout=60)
            number = trial.config[TRIAL]["number"]
            assignment.append((number, result[EPOCH]))
            done = result["done"]
            (scheduler.on_trial_complete if done else scheduler.on_trial_result)(None, trial, result)
            ledger.trial_reported(number, result[EPOCH], dict(result[REPORTED]))
            if done:
                ledger.trial_ended(number, TrialStatus.FINISHED)
                hub.release.remote(trial.trial_id)
            trial.go.release()
    hub.close.remote()  # sends the lane home
    lane.join(60)
    assert not lane.is_alive()

    before = 8 // validate_every  # reports up to the comparison, which all trials reach before any continues
    assert {number for number, _ in assignment[:before]} == {0, 1, 2, 3}
    assert all(epoch <= 2 for _, epoch in assignment[:before])
    assert [record.epochs for record in ledger.trials()] == [4] * 4
    poor = ledger.trial(0)
    assert poor.config["training"]["lr"] > 1e-9
    curve = {int(report["epoch"]): report["val/top1"] for report in poor.reports}
    assert list(curve) == list(range(validate_every, 5, validate_every))
    assert curve[2 + validate_every] > curve[2] + 0.2  # random weights that learn nothing, then those of another
