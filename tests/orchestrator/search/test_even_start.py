"""First trials of a sweep: one in each interval of equal width, whatever the domain."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import TypeAdapter

from orchestrator.config.sections.study import SamplerConfig, SamplerName, TrialSchedulerConfig
from orchestrator.search.samplers.choice import Startup, choose_startup, second_rung
from orchestrator.search.samplers.even_start import EvenStart
from orchestrator.search.samplers.learnable import PAUSED_AT, REJECTED, REPEATS
from orchestrator.search.samplers.samplers import create_sampler
from search_spaces import Domain, SearchSpace

pytestmark = pytest.mark.usefixtures("one_thread")
SPACE = SearchSpace(
    TypeAdapter(dict[str, Domain]).validate_python(
        {"x": {"type": "float", "low": 0.0, "high": 1.0}, "kind": {"choices": ["a", "b", "c", "d"]}}
    )
)
DRAWN = {"x": FloatDistribution(0.0, 1.0), "kind": CategoricalDistribution(["a", "b", "c", "d"])}


def interval(x: float, low: float, high: float) -> int:
    return int(8 * (x - low) / (high - low))


@pytest.mark.parametrize("seed", [0, 7])
def test_a_number_falls_once_into_each_of_as_many_intervals_as_there_are_trials(seed: int) -> None:
    start = EvenStart(8, seed)
    for first in (0, 8):
        drawn = [start.draw(number, "x", FloatDistribution(-1.0, 3.0)) for number in range(first, first + 8)]
        assert sorted(interval(x, -1.0, 3.0) for x in drawn) == list(range(8))
        drawn = [start.draw(number, "lr", FloatDistribution(1e-4, 1.0, log=True)) for number in range(first, first + 8)]
        assert sorted(interval(math.log(x), math.log(1e-4), 0.0) for x in drawn) == list(range(8))


@pytest.mark.parametrize(
    ("distribution", "counts"),
    [
        (CategoricalDistribution(["sgd", "adamw"]), {"sgd": 4, "adamw": 4}),
        (IntDistribution(1, 4), {1: 2, 2: 2, 3: 2, 4: 2}),
        (IntDistribution(2, 8, step=2), {2: 2, 4: 2, 6: 2, 8: 2}),
        (FloatDistribution(0.0, 0.75, step=0.25), {0.0: 2, 0.25: 2, 0.5: 2, 0.75: 2}),
    ],
)
def test_each_value_of_a_grid_or_a_choice_is_drawn_equally_often(
    distribution: BaseDistribution, counts: dict[Any, int]
) -> None:
    start = EvenStart(8, 3)
    assert Counter(start.draw(number, "n", distribution) for number in range(8)) == counts


def test_a_number_on_a_logarithmic_grid_stays_in_its_domain() -> None:
    start, distribution = EvenStart(64, 0), IntDistribution(1, 64, log=True)
    drawn = [start.draw(number, "n", distribution) for number in range(64)]
    assert min(drawn) == 1
    assert 60 <= max(drawn) <= 64
    assert sorted(drawn)[32] in (5, 6)  # sqrt(0.5 * 64.5), the middle of the logarithms from half a step below


def test_names_seeds_and_numbers_have_orders_of_their_own() -> None:
    def drawn(seed: int, name: str) -> list[float]:
        return [EvenStart(8, seed).draw(number, name, FloatDistribution(0.0, 1.0)) for number in range(8)]

    assert drawn(0, "x") == drawn(0, "x")
    assert len({tuple(drawn(seed, name)) for seed in (0, 1) for name in "xy"}) == 4


def test_gp_and_tpe_propose_in_turn_after_an_even_start() -> None:
    sampler = create_sampler(SamplerConfig(name="gp_tpe"), SPACE, 0)
    kinds = [type(sampler._create_for(number)).__name__ for number in range(4)]
    assert kinds == ["GPSampler", "TPESampler"] * 2
    study = optuna.create_study(direction="maximize", sampler=sampler)
    params = []
    for _ in range(10):
        trial = study.ask()
        params.append(SPACE.sample(trial))
        study.tell(trial, params[-1]["x"])
    cube = [{name: EvenStart(8, 0).draw(number, name, DRAWN[name]) for name in DRAWN} for number in range(8)]
    assert params[:8] == [{"x": 0.5, "kind": "a"}, *cube[1:]]
    even = [EvenStart(8, 0).draw(number, "x", FloatDistribution(0.0, 1.0)) for number in (8, 9)]
    assert [each["x"] for each in params[8:]] != even
    assert params[8]["x"] > 0.9  # the maximum of an increasing function, by the Gaussian process


def test_trials_that_run_at_once_before_any_result_are_even_too() -> None:
    study = optuna.create_study(sampler=create_sampler(SamplerConfig(name="gp_tpe"), SPACE, 0))
    drawn = [SPACE.sample(study.ask())["x"] for _ in range(16)]
    intervals = [interval(x, 0.0, 1.0) for x in drawn]
    assert drawn[0] == 0.5
    assert len({*intervals[1:8]}) == 7
    assert sorted(intervals[8:]) == list(range(8))


@pytest.mark.parametrize(
    ("distribution", "middle"),
    [
        (FloatDistribution(-1.0, 3.0), 1.0),
        (FloatDistribution(1e-4, 1.0, log=True), pytest.approx(1e-2)),
        (FloatDistribution(0.0, 1.0, step=0.25), 0.5),
        (IntDistribution(1, 5), 3),
        (IntDistribution(1, 4), 2),
        (IntDistribution(2, 8, step=2), 4),
        (IntDistribution(1, 64, log=True), 8),
        (CategoricalDistribution(["sgd", "adamw"]), "sgd"),
        (CategoricalDistribution([3]), 3),
        (FloatDistribution(0.1, 0.1), 0.1),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_first_trial_is_the_middle_of_the_space(distribution: BaseDistribution, middle: Any, seed: int) -> None:
    start = EvenStart(8, seed, middle=True)
    assert start.draw(0, "n", distribution) == middle
    plain = EvenStart(8, seed)
    assert all(start.draw(n, "n", distribution) == plain.draw(n, "n", distribution) for n in range(1, 17))


@pytest.mark.parametrize(
    ("sampler", "rules", "is_middle"),
    [
        ({"name": "gp_tpe"}, 4, True),
        ({"name": "gp"}, 4, True),
        ({"name": "tpe"}, 4, True),
        ({"name": "gp_tpe"}, 3, False),
        ({"name": "gp"}, 3, False),
        ({"name": "tpe", "startup": "random"}, 4, False),
        ({"name": "random"}, 4, False),
    ],
)
def test_sweeps_begin_in_the_middle_by_the_newest_rules(sampler: dict[str, Any], rules: int, is_middle: bool) -> None:
    config = SamplerConfig.model_validate({**sampler, "rules": rules})
    study = optuna.create_study(sampler=create_sampler(config, SPACE, 0))
    assert (SPACE.sample(study.ask()) == {"x": 0.5, "kind": "a"}) is is_middle


def test_a_tournament_gives_no_arm_the_middle() -> None:
    sampler = create_sampler(SamplerConfig(name="gp_tpe"), SPACE, 0, tournament=True)
    study = optuna.create_study(sampler=sampler)
    study.enqueue_trial({"kind": "a"})
    assert SPACE.sample(study.ask()) == {"x": EvenStart(8, 0).draw(0, "x", DRAWN["x"]), "kind": "a"}


def test_values_that_are_tried_first_are_completed_from_the_middle() -> None:
    study = optuna.create_study(sampler=create_sampler(SamplerConfig(name="gp_tpe"), SPACE, 0))
    study.enqueue_trial({"kind": "c"})
    assert SPACE.sample(study.ask()) == {"x": 0.5, "kind": "c"}


class TestLateStart:
    """Even trials until some were trained for longer than their first epochs."""

    @pytest.fixture(params=["gp", "tpe"])
    def name(self, request: pytest.FixtureRequest) -> SamplerName:
        found: SamplerName = request.param
        return found

    @pytest.fixture
    def study(self, name: SamplerName) -> optuna.Study:
        return self.open(name, trials=60)

    def open(self, name: SamplerName, startup: Startup = "late", trials: int = 60) -> optuna.Study:
        config = SamplerConfig(name=name, startup_trials=4, startup=startup)
        sampler = create_sampler(config, SPACE, 0, second_rung=3, trials=trials)
        return optuna.create_study(direction="maximize", sampler=sampler)

    def propose(self, study: optuna.Study, epochs: int, size: int = 8) -> bool:
        """Train a trial for some epochs, and return whether it was one of the evenly spread ones."""
        trial = study.ask()
        x = SPACE.sample(trial)["x"]
        for epoch in range(1, epochs + 1):
            trial.report(x, epoch)
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        return x == EvenStart(size, 0, middle=True).draw(trial.number, "x", FloatDistribution(0.0, 1.0))

    def test_it_waits_for_trials_that_were_trained_beyond_the_first_epochs(self, study: optuna.Study) -> None:
        assert all(self.propose(study, epochs) for epochs in [1, 2] * 6 + [3, 5, 3, 4])
        assert not any(self.propose(study, 1) for _ in range(3))

    def test_the_sampler_is_the_same_afterwards(self, study: optuna.Study, name: SamplerName) -> None:
        plain = self.open(name, "random")
        for _ in range(5):
            self.propose(study, 3)
        for trial in study.trials[:4]:
            plain.add_trial(trial)
        assert SPACE.sample(plain.ask()) == study.trials[4].params

    def test_a_complete_trial_counts_and_one_with_another_seed_does_not(self, study: optuna.Study) -> None:
        for number in range(8):
            trial = study.ask()
            SPACE.sample(trial)
            if number % 2:
                trial.set_user_attr(REPEATS, 0)
            study.tell(trial, 1.0)
            assert self.propose(study, 1) is (number < 6)

    def test_a_paused_trial_counts_by_the_epoch_of_its_pause(self, study: optuna.Study) -> None:
        for _ in range(4):
            trial = study.ask()
            SPACE.sample(trial)
            trial.set_user_attr(PAUSED_AT, 3)
        assert not self.propose(study, 1)

    def test_half_of_the_trials_are_even_at_most(self, name: SamplerName) -> None:
        study = self.open(name, trials=20)
        assert [self.propose(study, 1) for _ in range(12)] == [True] * 10 + [False] * 2

    def test_rejected_configurations_are_none_of_the_trials(self, name: SamplerName) -> None:
        study = self.open(name, trials=8)
        for _ in range(10):
            trial = study.ask()
            SPACE.sample(trial)
            trial.set_user_attr(REJECTED, "too large")
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        assert [self.propose(study, 1, size=4) for _ in range(4)] == [True] * 4

    def test_a_short_sweep_has_one_hypercube(self, name: SamplerName) -> None:
        study = self.open(name, trials=12)
        for _ in range(6):
            self.propose(study, 1)
        assert len({int(6 * trial.params["x"]) for trial in study.trials[1:]}) == 5

    def test_a_study_that_is_opened_again_proposes_the_same(self, study: optuna.Study, name: SamplerName) -> None:
        for epochs in (1, 3, 3, 3, 3):
            self.propose(study, epochs)
        again = self.open(name)
        for trial in study.trials:
            again.add_trial(trial)
        assert SPACE.sample(again.ask()) == SPACE.sample(study.ask())


@pytest.mark.parametrize(
    ("scheduler", "epochs", "rung"),
    [
        ({"name": "freeze_thaw"}, 50, 6),
        ({"name": "freeze_thaw", "grace_epochs": 1, "reduction_factor": 4}, 50, 4),
        ({"name": "asha"}, 5, 5),
        ({"name": "none"}, 50, 50),
    ],
)
def test_the_second_rung_follows_from_the_trial_scheduler(scheduler: dict[str, Any], epochs: int, rung: int) -> None:
    assert second_rung(TrialSchedulerConfig.model_validate(scheduler), epochs) == rung


@pytest.mark.parametrize(
    ("sampler", "sweep", "startup"),
    [
        ({"name": "tpe"}, {}, "late"),
        ({"name": "gp"}, {}, "late"),
        ({"name": "tpe", "rules": 2}, {}, "random"),
        ({"name": "tpe"}, {"ends_early": False}, "random"),
        ({"name": "tpe"}, {"objectives": 2}, "random"),
        ({"name": "gp_tpe"}, {}, "even"),
        ({"name": "gp_tpe", "rules": 2}, {}, "even"),
        ({"name": "cmaes"}, {}, "random"),
        ({"name": "gp_tpe", "startup": "late"}, {"ends_early": False}, "late"),
        ({"name": "tpe", "startup": "even"}, {}, "even"),
    ],
)
def test_the_startup_follows_from_sampler_and_scheduler(
    sampler: dict[str, Any], sweep: dict[str, Any], startup: str
) -> None:
    assert choose_startup(SamplerConfig.model_validate(sampler), **sweep) == startup
