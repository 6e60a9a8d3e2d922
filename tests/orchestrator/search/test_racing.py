"""Searches with several seeds and tournaments, with a real study and journal, without training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from orchestrator.config.plans import SearchPlan
from orchestrator.config.trial import TrialConfig
from orchestrator.records.events import ConfigurationMeasured, TrialStarted
from orchestrator.records.journal import Journal, read_events
from orchestrator.records.ledger import Ledger, TrialStatus
from orchestrator.records.objectives import Objectives
from orchestrator.search.optuna_state import optuna_state
from orchestrator.search.proposals.trial_filter import Rejection, TrialFilter
from orchestrator.search.racing import race_state, record_mean
from orchestrator.search.samplers.learnable import LearnableStudy, TrialWindow
from orchestrator.search.schedulers.trial_schedulers import create_allocation
from orchestrator.search.searcher import FINISHED, StudySearcher
from orchestrator.search.study import open_study
from orchestrator.search.study_replay import replay_study
from orchestrator.seeds.configurations import seed_of
from tests.support.sweeps.plans import search_plan

SETTINGS: dict[str, Any] = {
    "name": "race",
    "dataset": {"name": "digits"},
    "model": {"name": "conv_resnet26_small"},
    "training": {"epochs": 1, "warmup_epochs": 0},
    "search": {"lr": {"type": "float", "low": 1e-3, "high": 1e-2}, "optimizer": {"choices": ["sgd", "adamw"]}},
    "sampler": {"name": "random"},
    "trial_scheduler": {"name": "none"},
    "try_first": [],
    "trials": 6,
    "seeds": 3,
    "seed": 5,
}
Score = Callable[[int, int], float]


def score(configuration: int, replicate: int) -> float:
    """Two good configurations that differ by less than their seeds, and four poor ones."""
    return (0.9 if configuration in (2, 4) else 0.1) + 0.01 * ((replicate + configuration) % 3)


class Session:
    """One session of a search; `train` takes the place of lanes."""

    def __init__(self, plan: SearchPlan, storage: optuna.storages.BaseStorage, journal: Journal) -> None:
        self.plan = plan
        self.ledger = Ledger(journal)
        resumed = bool(self.ledger.sessions)
        if resumed:
            self.ledger.sweep_resumed({}, {}, {})
        else:
            self.ledger.sweep_started("race", {}, {}, {})
        self.objectives = Objectives.of(plan.objectives, plan.constraints)
        self.study = open_study(plan, "race", storage, resumed=resumed)
        replay_study(self.study, self.ledger, plan.space, self.objectives)
        allocation = create_allocation(plan, self.ledger)
        self.searcher = StudySearcher(self.study, plan, self.ledger, allocation=allocation)
        self.allocation = allocation

    def suggest(self, tune_id: str) -> int | str | None:
        """Return the number of the next trial, or what the searcher says instead."""
        found = self.searcher.suggest(tune_id)
        return found["trial"]["number"] if isinstance(found, dict) else found

    def train(self, tune_id: str, status: TrialStatus = TrialStatus.FINISHED) -> None:
        """Report an epoch of a trial and end it as `SweepCallback` does."""
        asked = self.searcher.asked.pop(tune_id)
        record = self.ledger.trial(asked.number)
        metrics = {"val/top1": score(record.configuration, record.replicate)}
        self.ledger.trial_reported(asked.number, 1, metrics)
        self.ledger.trial_ended(asked.number, status)
        if self.allocation is not None:
            assert self.allocation.report(asked.number, 1, metrics, 1.0) or not record.is_repeat
            self.allocation.end(asked.number)
        record_mean(self.ledger, self.objectives, asked.number)
        state, values = optuna_state(record, self.objectives)
        self.study.tell(asked, values=values, state=state)
        self.searcher.release(tune_id)

    def pause(self, tune_id: str) -> None:
        """Report an epoch of a trial and pause it."""
        number = self.searcher.asked.pop(tune_id).number
        assert self.allocation is not None
        metrics = {"val/top1": score(number, 0)}
        self.ledger.trial_reported(number, 1, metrics)
        self.allocation.report(number, 1, metrics, 1.0)
        self.ledger.trial_paused(number, 1)
        self.allocation.pause(number, 1)
        self.searcher.release(tune_id)

    def run(self, most: int = 100) -> list[tuple[int, int]]:
        """Train one trial after another; return configuration and index of the seed of each."""
        trained = []
        for step in range(most):
            tune_id = f"{self.ledger.sessions}-{step}"
            number = self.suggest(tune_id)
            if number == FINISHED:
                break
            assert isinstance(number, int)
            self.train(tune_id)
            record = self.ledger.trial(number)
            trained.append((record.configuration, record.replicate))
        return trained


def journal_of(folder: Path) -> Journal:
    return Journal(folder / "journal.jsonl")


def test_configurations_that_may_be_best_get_all_seeds(tmp_path: Path) -> None:
    """Six configurations, the pilot of the best four, and the third seed of the two that are left."""
    with journal_of(tmp_path) as journal:
        session = Session(search_plan(SETTINGS), optuna.storages.InMemoryStorage(), journal)
        trained = session.run()
        assert trained[:6] == [(number, 0) for number in range(6)]
        assert trained[6:] == [(2, 1), (4, 1), (5, 1), (1, 1), (4, 2), (2, 2)]
        assert race_state(session.plan, session.ledger.trials()).is_over
        repeats = [record for record in session.ledger.trials() if record.is_repeat]
    for record in repeats:
        first = session.ledger.trial(record.configuration)
        assert record.params == first.params
        assert record.config == {**first.config, "number": record.number, "seed": seed_of(5, record.replicate)}
    assert all(session.ledger.trial(number).config["seed"] == 5 for number in range(6))


def test_the_journal_records_repeats_and_means(tmp_path: Path) -> None:
    with journal_of(tmp_path) as journal:
        session = Session(search_plan(SETTINGS), optuna.storages.InMemoryStorage(), journal)
        session.run()
    events = [event for event, _ in read_events(tmp_path / "journal.jsonl")]
    started = {event.trial: event for event in events if isinstance(event, TrialStarted)}
    assert all(event.repeats is None for number, event in started.items() if number < 6)
    assert all(event.repeats in started for number, event in started.items() if number >= 6)
    means = {event.trial: event for event in events if isinstance(event, ConfigurationMeasured)}
    best = means[4]
    values = [score(4, replicate) for replicate in range(3)]
    assert best.mean == pytest.approx(sum(values) / 3)
    assert best.ci_high - best.mean == pytest.approx(4.30265 * 0.01 / 3**0.5, rel=1e-4)
    first_lines = (tmp_path / "journal.jsonl").read_text().splitlines()
    assert all("repeats" not in line for line in first_lines if '"trial":0' in line)


@pytest.mark.parametrize("stops", [1, 3, 6, 7, 8, 9, 11])
def test_an_interrupted_race_trains_what_one_session_trains(tmp_path: Path, stops: int) -> None:
    with journal_of(tmp_path / "whole") as journal:
        whole = Session(search_plan(SETTINGS), optuna.storages.InMemoryStorage(), journal).run()
    storage = optuna.storages.InMemoryStorage()
    with journal_of(tmp_path / "parts") as journal:
        first = Session(search_plan(SETTINGS), storage, journal).run(stops)
        rest = Session(search_plan(SETTINGS), storage, journal).run()
    assert first + rest == whole


def test_a_repeat_that_was_interrupted_resumes(tmp_path: Path) -> None:
    """Its driver dies while it trains, or before the journal has what the study has: none is lost or doubled."""
    storage = optuna.storages.InMemoryStorage()
    with journal_of(tmp_path) as journal:
        session = Session(search_plan(SETTINGS), storage, journal)
        session.run(6)
        assert session.suggest("running") == 6
        session.searcher._race._begin(race_state(session.plan, session.ledger.trials()).due[0])
        resumed = Session(search_plan(SETTINGS), storage, journal)
        assert resumed.ledger.trial(6).status is TrialStatus.INTERRUPTED
        assert [resumed.suggest("a"), resumed.suggest("b")] == [6, 7]
        assert resumed.ledger.trial(6).attempts == 2
        pairs = [(record.configuration, record.replicate) for record in resumed.ledger.trials()]
        assert len(set(pairs)) == len(pairs) == 8


def test_the_study_is_rebuilt_with_its_repeats(tmp_path: Path) -> None:
    with journal_of(tmp_path) as journal:
        whole = Session(search_plan(SETTINGS), optuna.storages.InMemoryStorage(), journal)
        whole.run()
        rebuilt = Session(search_plan(SETTINGS), optuna.storages.InMemoryStorage(), journal)
    attributes = [
        [(t.state, t.params, t.user_attrs.get("repeats"), t.user_attrs.get("replicate")) for t in session.study.trials]
        for session in (whole, rebuilt)
    ]
    assert attributes[0] == attributes[1]
    assert rebuilt.suggest("none") == FINISHED


def test_lanes_wait_for_the_round(tmp_path: Path) -> None:
    """Six lanes: none begins a repeat before all first seeds have ended, nor the third seed before all second ones."""
    with journal_of(tmp_path) as journal:
        session = Session(search_plan(SETTINGS), optuna.storages.InMemoryStorage(), journal)
        assert [session.suggest(f"{lane}") for lane in range(7)] == [0, 1, 2, 3, 4, 5, None]
        for lane in range(5):
            session.train(f"{lane}")
        assert session.suggest("6") is None
        session.train("5")
        assert [session.suggest(f"p{lane}") for lane in range(5)] == [6, 7, 8, 9, None]


def test_samplers_see_a_configuration_once(tmp_path: Path) -> None:
    with journal_of(tmp_path) as journal:
        session = Session(search_plan(SETTINGS), optuna.storages.InMemoryStorage(), journal)
        session.run()
    study = session.study
    shown = LearnableStudy(study, TrialWindow(None, study.directions))._get_trials(deepcopy=False)
    assert [trial.number for trial in shown] == list(range(6))
    assert len(study.trials) == 12


def test_more_configurations_after_a_race(tmp_path: Path) -> None:
    """Propose them first, and then race again, with the seeds that there are."""
    storage = optuna.storages.InMemoryStorage()
    with journal_of(tmp_path) as journal:
        Session(search_plan(SETTINGS), storage, journal).run()
        trained = Session(search_plan({**SETTINGS, "trials": 8}), storage, journal).run()
    assert trained == [(12, 0), (13, 0)]


@pytest.mark.parametrize("scheduler", ["asha", "asha_stopping"])
def test_trial_schedulers_do_not_count_repeats(tmp_path: Path, scheduler: str) -> None:
    """`trials` configurations are proposed, free lanes wait for their ends, and then the race begins."""
    training = {"epochs": 3, "warmup_epochs": 0}
    settings = {**SETTINGS, "training": training, "trial_scheduler": {"name": scheduler, "grace_epochs": 1}}
    with journal_of(tmp_path) as journal:
        session = Session(search_plan(settings), optuna.storages.InMemoryStorage(), journal)
        assert [session.suggest(f"{lane}") for lane in range(7)] == [0, 1, 2, 3, 4, 5, None]
        for lane in range(6):
            session.train(f"{lane}")
        assert session.run() == [(2, 1), (4, 1), (5, 1), (1, 1), (4, 2), (2, 2)]


def test_a_trial_paused_by_the_user_leaves_the_race_its_lanes(tmp_path: Path) -> None:
    """Begin all that are due: to the allocation rule the trial runs all the time, and it knows no further seeds."""
    settings = {**SETTINGS, "training": {"epochs": 3, "warmup_epochs": 0}, "trial_scheduler": {"name": "asha"}}
    with journal_of(tmp_path) as journal:
        session = Session(search_plan(settings), optuna.storages.InMemoryStorage(), journal)
        assert session.allocation is not None
        assert [session.suggest(f"{lane}") for lane in range(6)] == [0, 1, 2, 3, 4, 5]
        session.searcher.hold(0)
        session.ledger.trial_steered("", 0, "pause")
        for lane in range(1, 6):
            assert session.suggest("wait") is None  # first seeds still run
            session.train(f"{lane}")
        session.pause("0")
        assert [session.suggest(f"p{lane}") for lane in range(5)] == [6, 7, 8, 9, None]


def test_a_tournament_gives_its_arms_the_same(tmp_path: Path) -> None:
    settings = {**SETTINGS, "tournament": "optimizer", "seeds": 2}
    with journal_of(tmp_path) as journal:
        session = Session(search_plan(settings), optuna.storages.InMemoryStorage(), journal)
        trained = session.run()
        arms = [record.params["optimizer"] for record in session.ledger.trials()]
    assert arms[:6] == ["sgd", "adamw"] * 3
    assert trained[6:] == [(2, 1), (5, 1)]  # the best of the even numbers and of the odd ones


SMALL_ARMS: dict[str, Any] = {
    "optimizer": {"choices": ["sgd", "adamw"]},
    "lr": {"choices": [0.001, 0.01]},
    "drop_path_rate": {"choices": [0.0, 0.1, 0.2], "when": {"optimizer": "adamw"}},
}
CONTINUUM: dict[str, Any] = {
    "optimizer": {"choices": ["sgd", "adamw"]},
    "weight_decay": {"type": "float", "low": 0.0, "high": 0.3, "step": 0.1},
    "lr": {"type": "float", "low": 1e-3, "high": 1e-2, "when": {"optimizer": "adamw"}},
}


def configurations_of(session: Session) -> dict[str, list[dict[str, Any]]]:
    """Configurations of each arm with their first seed, of which none is trained twice."""
    firsts = [dict(record.params) for record in session.ledger.trials() if not record.is_repeat]
    assert len({tuple(sorted(params.items())) for params in firsts}) == len(firsts)
    return {arm: [each for each in firsts if each["optimizer"] == arm] for arm in ("sgd", "adamw")}


@pytest.mark.parametrize(
    ("search", "sampler", "trials", "counts"),
    [
        (SMALL_ARMS, "auto", 12, (2, 6)),  # a grid: there are 8 configurations
        (SMALL_ARMS, "grid", 12, (2, 6)),
        (SMALL_ARMS, "random", 12, (2, 6)),
        (SMALL_ARMS, "tpe", 20, (2, 6)),
        (SMALL_ARMS, "grid", 6, (2, 3)),
        (SMALL_ARMS, "grid", 4, (2, 2)),
        (CONTINUUM, "auto", 12, (4, 6)),
        (CONTINUUM, "random", 8, (4, 4)),
    ],
)
def test_an_arm_with_few_configurations_gets_each_once(
    tmp_path: Path, search: dict[str, Any], sampler: str, trials: int, counts: tuple[int, int]
) -> None:
    settings = {**SETTINGS, "search": search, "tournament": "optimizer", "trials": trials, "seeds": 2}
    plan = search_plan({**settings, "sampler": {"name": sampler}})
    storage = optuna.storages.InMemoryStorage()
    with journal_of(tmp_path) as journal:
        first = Session(plan, storage, journal).run(3)
        session = Session(plan, storage, journal)
        trained = [*first, *session.run()]
        arms = configurations_of(session)
    assert (len(arms["sgd"]), len(arms["adamw"])) == counts
    assert [replicate for _, replicate in trained] == [0] * sum(counts) + [1, 1]  # then the best of each arm


def test_lanes_end_where_no_arm_has_a_configuration_left(tmp_path: Path) -> None:
    settings = {**SETTINGS, "search": SMALL_ARMS, "sampler": {"name": "random"}, "tournament": "optimizer", "seeds": 1}
    with journal_of(tmp_path) as journal:
        session = Session(search_plan({**settings, "trials": 12}), optuna.storages.InMemoryStorage(), journal)
        assert [session.suggest(f"{lane}") for lane in range(9)] == [*range(8), None]
        for lane in range(8):
            session.train(f"{lane}")
        assert session.suggest("8") == FINISHED


@pytest.mark.parametrize(("trials", "counts"), [(8, (1, 4)), (4, (1, 2))])
def test_rejected_configurations_of_an_arm_are_not_replaced_by_known_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trials: int, counts: tuple[int, int]
) -> None:
    rates = {"choices": [0.001, 0.002, 0.003, 0.004]}
    search = {"optimizer": {"choices": ["sgd", "adamw"]}, "lr": rates}
    settings = {**SETTINGS, "search": search, "sampler": {"name": "grid"}, "tournament": "optimizer", "trials": trials}

    def rejection(_: TrialFilter, trial: TrialConfig) -> Rejection | None:
        poor = trial.training.optimizer == "sgd" and trial.training.lr != 0.003
        return Rejection("max_params", "too large") if poor else None

    monkeypatch.setattr(TrialFilter, "rejection", rejection)
    with journal_of(tmp_path) as journal:
        session = Session(search_plan({**settings, "seeds": 1}), optuna.storages.InMemoryStorage(), journal)
        session.run()
        arms = configurations_of(session)
        tried = [tuple(sorted(trial.params.items())) for trial in session.study.trials]
    assert (len(arms["sgd"]), len(arms["adamw"])) == counts
    assert len(set(tried)) == len(tried)  # none is proposed again after its rejection


@pytest.mark.parametrize("tournament", [None, "optimizer"])
def test_only_without_arms_a_search_begins_in_the_middle(tmp_path: Path, tournament: str | None) -> None:
    settings = {**SETTINGS, "sampler": {"name": "gp_tpe"}, "tournament": tournament, "seeds": 2}
    with journal_of(tmp_path) as journal:
        session = Session(search_plan(settings), optuna.storages.InMemoryStorage(), journal)
        session.run()
        first = session.ledger.trial(0).params
    assert first["optimizer"] == "sgd"
    assert (first["lr"] == pytest.approx(5.5e-3, rel=1e-6)) is (tournament is None)
