"""Trial schedulers over simulated trials: stopped trials, and exchanges within a population."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray.tune.schedulers import TrialScheduler

from orchestrator import load_sweep
from orchestrator.errors import ConfigError
from orchestrator.files.atomic_files import atomic_file
from orchestrator.lanes.hub.hub import LaneHub
from orchestrator.lanes.messages import Decision
from orchestrator.lanes.tune_keys import EPOCH
from orchestrator.lanes.weight_transfer import WeightTransfer, take_checkpoints
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.journal import Journal
from orchestrator.records.ledger import Ledger, TrialStatus
from orchestrator.search.schedulers import population
from orchestrator.search.schedulers.early_stopping import brackets
from orchestrator.search.schedulers.population import draw, perturb
from orchestrator.search.schedulers.trial_schedulers import create_trial_scheduler, trials_at_once
from search_spaces.domains import ChoiceDomain, FloatDomain, IntDomain
from tests.support.hub.hub_calls import STOPPED, A, B, finishing, in_loop, reporting, settled, started, waiting
from tests.support.sweeps.plans import search_plan
from tests.support.training_pieces import few_digits, make_trial, run

GO, STOP = TrialScheduler.CONTINUE, TrialScheduler.STOP
SWEEP = {
    "name": "tiny",
    "dataset": {"name": "digits"},
    "model": {"name": "conv_resnet26_small"},
    "training": {"epochs": 9},
    "trials": 8,
    "search": {"lr": {"type": "float", "low": 1e-3, "high": 1e-2, "log": True}},
}


class TuneTrial:
    """Trial of Tune with the attributes that schedulers read."""

    def __init__(self, trial_id: str, config: dict[str, Any]) -> None:
        self.trial_id, self.config = trial_id, config


class Simulation:
    """Scheduler with trials whose reports are invented."""

    def __init__(self, folder: Path, **scheduler: Any) -> None:
        self.plan = search_plan({**SWEEP, "trial_scheduler": scheduler})
        self.folder = SweepFolder(folder)
        self.journal = Journal(folder / "journal.jsonl")
        self.ledger = Ledger(self.journal)
        if not self.ledger.sessions:
            self.ledger.sweep_started("s", {}, {}, {})
        self.scheduler = create_trial_scheduler(self.plan, self.ledger, self.folder)
        self.scheduler.set_search_properties("val/top1", "max")
        self.trials: dict[int, Any] = {}

    def begin(self, number: int, lr: float = 0.005) -> None:
        config = {"number": number, "training": {"epochs": 9, "lr": lr}, "model": {"name": "m", "options": {}}}
        self.trials[number] = TuneTrial(f"t{number}", {"trial": config})
        self.ledger.trial_started(number, f"t{number}", {"lr": lr}, config)
        self.scheduler.on_trial_add(None, self.trials[number])

    def report(self, number: int, epoch: int, value: float) -> str:
        """Report as Tune does: the scheduler decides before the ledger records the epoch."""
        self.save(number, epoch)
        metrics = {"val/top1": value}
        decision = self.scheduler.on_trial_result(None, self.trials[number], {**metrics, EPOCH: epoch})
        self.ledger.trial_reported(number, epoch, metrics)
        return decision

    def end(self, number: int) -> None:
        """End a trial as Tune does."""
        self.scheduler.on_trial_error(None, self.trials[number])
        self.ledger.trial_ended(number, TrialStatus.FAILED)

    def trial_folder(self, number: int) -> Path:
        return self.folder.trials / f"trial-{number:05d}"

    def note(self, number: int) -> WeightTransfer | None:
        return WeightTransfer.read(self.trial_folder(number))

    def save(self, number: int, epoch: int) -> None:
        """Replace the checkpoints of a trial by those of an epoch, as a lane does."""
        self.trial_folder(number).mkdir(parents=True, exist_ok=True)
        for name in ("best.pt", "last.pt"):
            with atomic_file(self.trial_folder(number) / name) as partial:
                partial.write_text(f"trial {number}, epoch {epoch}")

    def checkpoints(self, number: int) -> dict[str, str]:
        return {path.name: path.read_text() for path in self.trial_folder(number).glob("*.pt")}

    def compare(self) -> None:
        """Report the second epoch of eight trials, of which the first two are the worst and the last two the best."""
        for number in range(8):
            self.begin(number, lr=0.001 * (number + 1))
        for number in range(8):
            self.report(number, 2, number / 10)


Simulate = Callable[..., Simulation]


@pytest.fixture
def simulate() -> Iterator[Simulate]:
    made = []

    def make(folder: Path, **scheduler: Any) -> Simulation:
        made.append(Simulation(folder, **scheduler))
        return made[-1]

    yield make
    for simulation in made:
        simulation.journal.close()


def test_a_median_stops_trials_below_the_others(tmp_path: Path, simulate: Simulate) -> None:
    simulation = simulate(tmp_path, name="median", grace_epochs=2, min_trials=2)
    for number, value in enumerate((0.5, 0.6, 0.7)):
        simulation.begin(number)
        assert [simulation.report(number, epoch, value) for epoch in (1, 2)] == [GO, GO]
    for number, value, decision in ((3, 0.1, STOP), (4, 0.65, GO)):
        simulation.begin(number)
        assert [simulation.report(number, epoch, value) for epoch in (1, 2)] == [GO, decision]


def test_a_median_replays_an_earlier_session_and_ends_without_values(tmp_path: Path, simulate: Simulate) -> None:
    first = simulate(tmp_path, name="median", grace_epochs=1, min_trials=2)
    for number in range(3):
        first.begin(number)
        first.report(number, 1, 0.5)
        first.ledger.trial_ended(number, TrialStatus.PRUNED)
    later = simulate(tmp_path, name="median", grace_epochs=1, min_trials=2)
    later.begin(3)
    assert later.report(3, 1, 0.1) == STOP
    later.scheduler.on_trial_complete(None, later.trials[3], {EPOCH: 1, "ended": "interrupted"})


@pytest.mark.parametrize("name", ["asha_stopping", "median"])
def test_trials_that_report_every_few_epochs_are_stopped_at_their_reports(
    tmp_path: Path, simulate: Simulate, name: str
) -> None:
    """Report after epochs 4 and 8: the rungs of epochs 2 and 6, and the grace of two epochs, lie before."""
    simulation = simulate(tmp_path, name=name, grace_epochs=2)
    for number in range(4):
        simulation.begin(number)
        assert [simulation.report(number, epoch, 0.5 + number / 10) for epoch in (4, 8)] == [GO, GO]
    for number, values, decisions in ((4, [0.1], [STOP]), (5, [0.9, 0.95], [GO, GO])):
        simulation.begin(number)
        assert [simulation.report(number, 4 * index, value) for index, value in enumerate(values, 1)] == decisions


def test_hyperband_spreads_trials_over_brackets_by_seed(tmp_path: Path, simulate: Simulate) -> None:
    assert [brackets(9, 1, 3), brackets(10, 2, 3), brackets(2, 2, 3), brackets(81, 1, 3)] == [3, 2, 1, 5]

    def begun(folder: Path) -> Simulation:
        folder.mkdir()
        simulation = simulate(folder, name="hyperband", grace_epochs=1, reduction_factor=3)
        for number in range(60):
            simulation.begin(number)
        return simulation

    one, other = begun(tmp_path / "one"), begun(tmp_path / "other")

    def chosen(simulation: Simulation) -> list[int]:
        scheduler: Any = simulation.scheduler
        return [scheduler._brackets.index(scheduler._trial_info[f"t{number}"]) for number in range(60)]

    assert chosen(one) == chosen(other)
    counts = np.bincount(chosen(one), minlength=3)
    assert counts[0] > counts[2] > 0
    early = [number for number, bracket in enumerate(chosen(one)) if bracket == 0]
    decisions = [one.report(number, 1, 1.0 - number / 100) for number in early]
    assert decisions.count(STOP) > len(early) / 2
    patient = chosen(one).index(2)
    assert [one.report(patient, epoch, 0.0) for epoch in range(1, 9)] == [GO] * 8


def test_a_poor_trial_takes_over_weights_and_changed_settings_of_a_good_one(tmp_path: Path, simulate: Simulate) -> None:
    simulation = simulate(tmp_path, name="pbt", perturb_every=2, quantile=0.25)
    for number in range(5):
        simulation.begin(number, lr=0.002 * (number + 1))
    for number, value in ((0, 0.1), (3, 0.9), (2, 0.8), (1, 0.7)):
        assert [simulation.report(number, epoch, value) for epoch in (1, 2)] == [GO, GO]
        assert simulation.note(number) == WeightTransfer(waits=True)  # its lane is free for others
    simulation.report(4, 1, 0.5)
    assert simulation.note(4) is None
    simulation.end(4)  # no trial waits for it any more

    assert [simulation.note(number) for number in (1, 2, 3)] == [WeightTransfer()] * 3
    note = simulation.note(0)
    assert note is not None
    assert (note.donor, note.epoch, note.waits) == (str(tmp_path / "trials" / "trial-00003"), 2, False)
    assert note.config is not None
    assert note.config["number"] == 0
    assert note.config["training"]["lr"] != 0.008
    record = simulate(tmp_path, name="pbt").ledger.trial(0)
    assert record.config == note.config  # a resumed sweep uses it
    assert record.params == {"lr": 0.002}
    assert trials_at_once(simulation.plan, 2) == 8


def test_a_wait_of_an_earlier_session_is_lifted(tmp_path: Path, simulate: Simulate) -> None:
    simulation = simulate(tmp_path, name="pbt")
    WeightTransfer(waits=True).write(tmp_path / "trials" / "trial-00000")
    simulation.begin(0)
    assert simulation.note(0) == WeightTransfer()


def test_a_trial_takes_over_the_epoch_that_was_compared(tmp_path: Path, simulate: Simulate) -> None:
    simulation = simulate(tmp_path, name="pbt", perturb_every=2, quantile=0.25)
    simulation.compare()
    notes = [note for number in (0, 1) if (note := simulation.note(number)) is not None]
    for number in range(2, 8):
        simulation.save(number, 9)  # the donor has trained to its end meanwhile
    simulation.trial_folder(7).joinpath("last.pt").unlink()  # and retention has deleted it
    for number, note in enumerate(notes):
        note.apply(simulation.trial_folder(number))
        donor = simulation.ledger.trial(int(str(note.donor)[-5:]))
        assert simulation.checkpoints(number) == dict.fromkeys(("best.pt", "last.pt"), f"trial {donor.number}, epoch 2")


def test_no_trial_continues_before_the_checkpoints_of_all_donors_are_taken(
    tmp_path: Path, simulate: Simulate, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulation = simulate(tmp_path, name="pbt", perturb_every=2, quantile=0.25)
    taken, take = [], take_checkpoints

    def observed(donor: Path, folder: Path) -> None:
        assert all(simulation.note(number) == WeightTransfer(waits=True) for number in range(2, 8))
        taken.append(folder.name)
        take(donor, folder)

    monkeypatch.setattr(population, "take_checkpoints", observed)
    simulation.compare()
    assert taken == ["trial-00000", "trial-00001"]
    assert [simulation.note(number) for number in range(2, 8)] == [WeightTransfer()] * 6


def test_a_trial_whose_donor_has_no_checkpoint_is_not_replaced(
    tmp_path: Path, simulate: Simulate, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    simulation = simulate(tmp_path, name="pbt", perturb_every=2, quantile=0.25)
    take = take_checkpoints

    def without_state(donor: Path, folder: Path) -> None:
        (donor / "last.pt").unlink(missing_ok=True)
        take(donor, folder)

    monkeypatch.setattr(population, "take_checkpoints", without_state)
    simulation.compare()
    assert "Trial 0 keeps its weights and settings: the checkpoints of trial " in caplog.text
    assert "last.pt" in caplog.text
    assert "trial_changed" not in (tmp_path / "journal.jsonl").read_text()
    assert simulation.ledger.trial(0).config["training"]["lr"] == 0.001
    assert simulation.note(0) == WeightTransfer()
    WeightTransfer().apply(simulation.trial_folder(0))
    assert simulation.checkpoints(0) == dict.fromkeys(("best.pt", "last.pt"), "trial 0, epoch 2")


@pytest.mark.parametrize("last_act", ["take best.pt", "take all", "note", "journal", "release"])
def test_a_driver_killed_during_a_comparison_leaves_no_half_of_a_transfer(
    tmp_path: Path, simulate: Simulate, monkeypatch: pytest.MonkeyPatch, last_act: str
) -> None:
    first = simulate(tmp_path, name="pbt", perturb_every=2, quantile=0.125)
    acts: dict[str, tuple[Any, str]] = {
        "take best.pt": (os, "link"),
        "take all": (population, "take_checkpoints"),
        "note": (WeightTransfer, "write"),
        "journal": (Ledger, "trial_changed"),
        "release": (WeightTransfer, "write"),
    }

    class Killed(BaseException):
        pass

    def kills(act: Callable[..., None], *args: Any) -> None:
        act(*args)
        if last_act not in ("note", "release") or (args[0].donor and args[0].waits is (last_act == "note")):
            raise Killed

    owner, name = acts[last_act]
    act = getattr(owner, name)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(owner, name, lambda *args: kills(act, *args))
        first.compare()

    later = simulate(tmp_path, name="pbt", perturb_every=2, quantile=0.125)
    record, is_replaced = later.ledger.trial(0), last_act in ("journal", "release")
    later.scheduler.on_trial_add(None, TuneTrial("again", {"trial": record.config}))  # type: ignore[arg-type]
    note = later.note(0)
    assert note is not None
    assert (note.config == record.config, note.waits) == (is_replaced, False)
    later.save(7, 3)
    note.apply(later.trial_folder(0))
    source = "trial 7, epoch 2" if is_replaced else "trial 0, epoch 2"
    assert later.checkpoints(0) == dict.fromkeys(("best.pt", "last.pt"), source)
    assert (record.config["training"]["lr"] != 0.001) is is_replaced


def test_a_note_of_a_version_that_took_no_checkpoints_is_lifted(
    tmp_path: Path, simulate: Simulate, caplog: pytest.LogCaptureFixture
) -> None:
    simulation = simulate(tmp_path, name="pbt")
    simulation.trial_folder(0).mkdir(parents=True)
    note = {"donor": "/there/trial-00003", "config": {"number": 0}, "waits": False}
    (simulation.trial_folder(0) / "handover.json").write_text(json.dumps(note))
    simulation.begin(0)
    assert simulation.note(0) == WeightTransfer()
    assert "Trial 0 keeps its weights" in caplog.text


def test_settings_stay_in_their_domains() -> None:
    chance = np.random.RandomState(0)
    domains = (
        FloatDomain(low=1e-3, high=1e-1, log=True),
        FloatDomain(low=0.0, high=1.0, step=0.25),
        IntDomain(low=1, high=9, step=2),
        ChoiceDomain(choices=(0.0, 1e-4, 1e-3)),
    )
    for domain in domains:
        value = draw(domain, chance)
        for _ in range(50):
            assert domain.contains(value)
            value = draw(domain, chance) if chance.random_sample() < 0.2 else perturb(domain, value, chance)
    assert perturb(domains[0], 0.01, chance) in (pytest.approx(0.008), pytest.approx(0.012))


@pytest.mark.usefixtures("one_thread")
def test_a_trial_resumes_from_anothers_weights_with_its_own_settings(tmp_path: Path) -> None:
    data = few_digits(tmp_path / "data", train=120)
    donor = make_trial(data, tmp_path / "trial", lr=3e-3, weight_decay=0.1, lr_schedule="constant", warmup_epochs=0)
    run(donor, stop_after=1)
    trial = make_trial(data, tmp_path / "trial", lr=1e-4, weight_decay=0.3, lr_schedule="constant", warmup_epochs=0)
    assert trial.epoch == 1
    assert max(group["weight_decay"] for group in trial.train_state.optimizer.param_groups) == 0.3
    assert run(trial)[-1]["lr"] == pytest.approx(1e-4)


@in_loop
async def test_a_lane_is_yielded_to_a_waiting_trial_and_leased_again() -> None:
    hub = LaneHub()
    await started(hub)
    event = asyncio.ensure_future(hub.next_event(A, 0, 0))
    reports = reporting(hub, 1, A)
    await event
    assert not await hub.yield_lane("a", forced=False)  # no trial waits

    other = asyncio.ensure_future(hub.lease(B))
    left = asyncio.ensure_future(hub.yield_lane("a", forced=False))
    assert await settled(other, left) == [False, False]
    assert await asyncio.gather(*reports) == [Decision.STOP, Decision.STOP]
    await asyncio.gather(*finishing(hub, STOPPED, STOPPED))
    assert await left
    again = asyncio.ensure_future(hub.lease(A))
    assert await settled(other, again) == [False, False]
    assert await asyncio.gather(*waiting(hub)) == [B, B]
    assert await other == 0

    await hub.release("b")
    await asyncio.gather(*finishing(hub, STOPPED, STOPPED, assignment=B))
    assignments = waiting(hub)
    assert await again == 0
    assert await asyncio.gather(*assignments) == [A, A]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trial_scheduler": {"name": "hyperbnad"}}, "Did you mean 'hyperband'?"),
        ({"trial_scheduler": {"name": "asha", "quantile": 0.2}}, "quantile: is a setting of 'pbt', not of 'asha'"),
        ({"trial_scheduler": {"name": "median", "grace_epochs": 10}}, "must not exceed training.epochs, which is 9"),
        ({"trial_scheduler": {"name": "pbt", "perturb_every": 9}}, "must be below the 9 epochs"),
        ({"trial_scheduler": {"name": "pbt", "mutate": ["weight_decay"]}}, "nothing of weight_decay is searched"),
        ({"trial_scheduler": {"name": "pbt"}, "trials": 3}, "needs 4 or more"),
        (
            {"trial_scheduler": {"name": "pbt"}, "search": {**SWEEP["search"], "hflip": [0.0, 0.5]}},  # type: ignore[dict-item]
            "search.hflip: differs between trials",
        ),
    ],
)
def test_a_scheduler_that_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_sweep({**SWEEP, **changes})
