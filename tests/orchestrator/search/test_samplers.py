"""Contract of every sampler, with a simulated objective: its draws, and that an interruption changes nothing."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any, get_args

import optuna
import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState
from pydantic import TypeAdapter

from orchestrator import load_sweep
from orchestrator.config.sections.study import SamplerConfig, SamplerName
from orchestrator.config.validation.sampler_rules import SAMPLER_OPTIONS
from orchestrator.errors import ConfigError
from orchestrator.search.samplers import learnable
from orchestrator.search.samplers.grid import GridSampler
from orchestrator.search.samplers.learnable import LearnableStudy, TrialWindow
from orchestrator.search.samplers.samplers import DIVERGED, OUTCOME, create_sampler
from search_spaces import Domain, SearchSpace
from search_spaces.grid import grid_points, grid_size

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
]

NAMES = get_args(SamplerName)
NO_CONDITIONS = ("cmaes", "gp", "gp_tpe", "qmc")
_DOMAINS: TypeAdapter[dict[str, Domain]] = TypeAdapter(dict[str, Domain])


def space(**domains: Any) -> SearchSpace:
    return SearchSpace(_DOMAINS.validate_python(domains))


NUMBERS = space(x={"type": "float", "low": 0.0, "high": 1.0}, n={"type": "int", "low": 1, "high": 64, "log": True})
CONDITIONAL = space(
    kind={"choices": ["plain", "bent"]},
    x={"type": "float", "low": 0.0, "high": 1.0, "step": 0.25},
    bend={"type": "int", "low": 1, "high": 3, "when": {"kind": "bent"}},
    fixed={"value": 7},
)


def space_of(name: str) -> SearchSpace:
    return NUMBERS if name in NO_CONDITIONS else CONDITIONAL


def value_of(params: Mapping[str, Any]) -> float:
    return -((params["x"] - 0.3) ** 2) - 0.01 * params.get("bend", 0) - 0.001 * params.get("n", 0)


def open_study(name: str, storage: InMemoryStorage, seed: int = 3, **options: Any) -> optuna.Study:
    """Open a study as a new process does, with no state outside the database."""
    sampler = create_sampler(SamplerConfig(name=name, startup_trials=3, options=options), space_of(name), seed)
    return optuna.create_study(
        study_name=name, storage=storage, sampler=sampler, direction="maximize", load_if_exists=True
    )


def run(study: optuna.Study, trials: int) -> list[dict[str, Any]]:
    """Ask and tell a number of trials; every fourth is stopped early and every fifth fails."""
    drawn = []
    for _ in range(trials):
        trial = study.ask()
        params = space_of(study.study_name).sample(trial)
        trial.report(value_of(params), step=1)
        if trial.number % 5 == 4:
            trial.set_user_attr(OUTCOME, DIVERGED)
            study.tell(trial, state=TrialState.FAIL)
        elif trial.number % 4 == 3:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, value_of(params))
        drawn.append(params)
    return drawn


@pytest.mark.parametrize("name", NAMES)
class TestEverySampler:
    """Contract test; a new sampler joins by its name."""

    def test_draws_values_of_the_space(self, name: str) -> None:
        for params in run(open_study(name, InMemoryStorage()), 8):
            assert space_of(name).strays(params) == []

    def test_proposes_the_same_after_an_interruption(self, name: str) -> None:
        options = {"population_size": 3} if name.startswith("nsga") else {}
        uninterrupted = run(open_study(name, InMemoryStorage(), **options), 10)
        database = InMemoryStorage()
        stopped = run(open_study(name, database, **options), 6)
        assert stopped + run(open_study(name, database, **options), 4) == uninterrupted

    def test_a_waiting_trial_is_returned_unchanged(self, name: str) -> None:
        uninterrupted = run(open_study(name, InMemoryStorage()), 8)
        database = InMemoryStorage()
        stopped = open_study(name, database)
        run(stopped, 5)
        interrupted = stopped.ask()
        space_of(name).sample(interrupted)
        database.set_trial_state_values(interrupted._trial_id, TrialState.WAITING)
        assert run(open_study(name, database), 3) == uninterrupted[5:]

    def test_another_seed_proposes_something_else(self, name: str) -> None:
        options = {"scramble": True} if name == "qmc" else {}
        one, two = (run(open_study(name, InMemoryStorage(), seed, **options), 3) for seed in (1, 2))
        assert one != two

    def test_accounts_for_trials_that_are_still_running(self, name: str) -> None:
        study = open_study(name, InMemoryStorage())
        run(study, 5)
        distinct = {written(space_of(name).sample(study.ask())) for _ in range(3)}
        if name not in ("random", "nsga2", "nsga3"):  # these ignore running trials
            assert len(distinct) == 3

    def test_every_option_is_one_of_optunas(self, name: str) -> None:
        classes = {
            "tpe": optuna.samplers.TPESampler,
            "qmc": optuna.samplers.QMCSampler,
            "gp": optuna.samplers.GPSampler,
            "cmaes": optuna.samplers.CmaEsSampler,
            "nsga2": optuna.samplers.NSGAIISampler,
            "nsga3": optuna.samplers.NSGAIIISampler,
        }
        known = inspect.signature(classes[name]).parameters if name in classes else {}
        assert SAMPLER_OPTIONS[name].keys() <= set(known)


def test_a_grid_holds_every_configuration_once_and_then_ends() -> None:
    assert grid_size(CONDITIONAL) == 5 + 5 * 3
    assert grid_size(NUMBERS) is None
    study = optuna.create_study(sampler=create_sampler(SamplerConfig(name="grid"), CONDITIONAL, 0))
    sampler = study.sampler
    study.enqueue_trial({"kind": "bent", "x": 0.5, "bend": 2})
    drawn = []
    while not sampler.is_exhausted(study):  # type: ignore[attr-defined]
        trial = study.ask()
        drawn.append(CONDITIONAL.sample(trial))
        study.tell(trial, state=TrialState.FAIL)
    points = [{**point, "fixed": 7} for point in grid_points(CONDITIONAL)]
    assert sorted(map(written, drawn)) == sorted(map(written, points))


def written(params: Mapping[str, Any]) -> str:
    return str(sorted(params.items()))


def test_a_grid_fills_in_what_was_given_in_part() -> None:
    study = optuna.create_study(sampler=GridSampler(CONDITIONAL, 0))
    study.enqueue_trial({"kind": "bent", "bend": 2})
    params = CONDITIONAL.sample(study.ask())
    assert (params["kind"], params["bend"]) == ("bent", 2)


def test_tpe_leaves_a_region_that_diverges() -> None:
    """Compare diverged trials, which the sampler sees as poor, with failed ones, which Optuna ignores."""
    line = space(x={"type": "float", "low": 0.0, "high": 1.0})

    def diverged(outcome: str) -> int:
        found = 0
        for seed in range(4):
            sampler = create_sampler(SamplerConfig(startup_trials=5), line, seed)
            study = optuna.create_study(direction="maximize", sampler=sampler)
            for _ in range(30):
                trial = study.ask()
                x = line.sample(trial)["x"]
                if x > 0.5:
                    trial.set_user_attr(OUTCOME, outcome)
                    study.tell(trial, state=TrialState.FAIL)
                    found += 1
                else:
                    study.tell(trial, x if math.isfinite(x) else 0.0)
        return found

    assert diverged(DIVERGED) < 0.7 * diverged("forgotten")


SWEEP = {
    "name": "tiny",
    "dataset": {"name": "digits"},
    "search": {
        "model": ["conv_resnet26_small", "sb_resnet29_cifar"],
        "lr": {"type": "float", "low": 1e-3, "high": 1e-2},
        "bias_channels": {"type": "int", "low": 1, "high": 6, "when": {"model": "sb_resnet29_cifar"}},
    },
}


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        ({"name": "tep"}, "Did you mean 'tpe'?"),
        ({"options": {"n_candidates": 3}}, "sampler.options.n_candidates.*Did you mean 'n_ei_candidates'?"),
        ({"options": {"n_ei_candidates": 0, "groop": True}}, "(?s)greater than 0.*Did you mean 'group'?"),
        ({"options": {"n_startup_trials": 3}}, "is written sampler.startup_trials"),
        ({"name": "random", "options": {"n_ei_candidates": 3}}, "'random' has none"),
        ({"name": "grid"}, "search.lr: is a continuum"),
        ({"name": "gp"}, "cannot follow conditions, and search.bias_channels has one"),
        ({"name": "gp_tpe"}, "got 'gp_tpe', which cannot follow conditions"),
        ({"name": "cmaes"}, "(?s)search.bias_channels has one.*search.model is a choice"),
        ({"name": "cmaes", "options": {"with_margin": True, "lr_adapt": True}}, "exclude each other"),
        ({"options": {"multivariate": False, "group": True}}, "groups need multivariate"),
    ],
)
def test_a_sampler_that_does_not_fit_is_refused(sampler: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_sweep({**SWEEP, "sampler": sampler})


@pytest.mark.parametrize("name", [name for name in NAMES if name != "cmaes"])
def test_a_sampler_learns_from_several_objectives_under_constraints(name: str) -> None:
    options = {"population_size": 3} if name.startswith("nsga") else {}
    searched = space_of(name)
    sampler = create_sampler(SamplerConfig(name=name, startup_trials=3, options=options), searched, 0)
    study = optuna.create_study(sampler=sampler, directions=["maximize", "minimize"])
    for _ in range(9):
        trial = study.ask()
        params = searched.sample(trial)
        assert searched.strays(params) == []
        trial.set_constraint("x <= 0.8", params["x"] - 0.8)
        if trial.number % 4 == 3:
            trial.set_user_attr(OUTCOME, DIVERGED)
            study.tell(trial, state=TrialState.FAIL)
        elif trial.number % 4 == 2:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, [value_of(params), params["x"]])
    assert study.best_trials


class TestGaussianProcess:
    """A GP with many lanes, and with trials that end early."""

    def test_sixteen_proposals_at_once_differ_and_spread(self) -> None:
        study = open_study("gp", InMemoryStorage())
        for _ in range(8):
            trial = study.ask()
            study.tell(trial, value_of(NUMBERS.sample(trial)))
        proposed = [NUMBERS.sample(study.ask()) for _ in range(16)]
        assert len({written(params) for params in proposed}) == 16
        spread = [params["x"] for params in proposed]
        assert max(spread) - min(spread) > 0.2

    @pytest.mark.parametrize("direction", ["maximize", "minimize"])
    def test_trials_that_ended_early_are_shown_as_complete_with_their_best_report(self, direction: str) -> None:
        study = optuna.create_study(direction=direction)
        sign = 1.0 if direction == "maximize" else -1.0
        complete, stopped, diverged, running = (study.ask() for _ in range(4))
        study.tell(complete, sign * 0.5)
        for step, value in enumerate([0.2, 0.3, 0.25]):
            stopped.report(sign * value, step)
        study.tell(stopped, state=TrialState.PRUNED)
        diverged.set_user_attr(OUTCOME, DIVERGED)
        study.tell(diverged, state=TrialState.FAIL)
        running.report(sign * 0.9, 1)
        view = LearnableStudy(study, TrialWindow(None, study.directions), completes=True)
        shown = view.get_trials(states=[TrialState.COMPLETE])
        assert [trial.value for trial in shown] == [sign * 0.5, sign * 0.3, sign * 0.3]
        assert [trial.number for trial in view.get_trials(states=[TrialState.RUNNING])] == [3]
        assert study.trials[1].state is TrialState.PRUNED

    def test_scores_are_compared_at_an_epoch_that_enough_trials_have_reached(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(learnable, "_COMPARED", 2)
        study = optuna.create_study(direction="maximize")
        for curve in ([0.1, 0.2, 0.6], [0.3, 0.5], [0.9]):
            trial = study.ask()
            for epoch, score in enumerate(curve, start=1):
                trial.report(score, epoch)
            study.tell(trial, *((0.6, None) if len(curve) == 3 else (None, TrialState.PRUNED)))
        view = LearnableStudy(study, TrialWindow(None, study.directions), completes=True)
        assert {trial.number: trial.value for trial in view.get_trials()} == {0: 0.2, 1: 0.5}

    @pytest.mark.parametrize(("direction", "best"), [("maximize", {5, 6}), ("minimize", {0, 1})])
    def test_the_best_and_the_newest_of_many_trials_are_shown(
        self, direction: str, best: set[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(learnable, "_SHOWN", 4)
        study = optuna.create_study(direction=direction)
        for score in (0, 1, 2, 3, 4, 6, 5, 2.5, 3.5):
            study.tell(study.ask(), score)
        view = LearnableStudy(study, TrialWindow(None, study.directions), completes=True)
        assert {trial.number for trial in view.get_trials()} == best | {7, 8}

    def test_it_begins_after_any_number_of_startup_trials(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(learnable, "_COMPARED", 2)
        monkeypatch.setattr(learnable, "_SHOWN", 4)
        sampler = create_sampler(SamplerConfig(name="gp", startup_trials=7), NUMBERS, 0)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        for number in range(9):
            trial = study.ask()
            for epoch in range(number + 1):
                trial.report(number / 10, epoch)
            study.tell(trial, state=TrialState.PRUNED)
        view = sampler._snapshot(study, study._storage.get_trial(study.ask()._trial_id))
        assert len(view.get_trials(states=[TrialState.COMPLETE])) == 7

    def test_it_learns_from_stopped_trials(self) -> None:
        """Stop every trial early: a GP that saw complete ones only would draw at random, half of them below 0.5."""
        line = space(x={"type": "float", "low": 0.0, "high": 1.0})
        study = optuna.create_study(
            direction="maximize", sampler=create_sampler(SamplerConfig(name="gp", startup_trials=4), line, 0)
        )
        late = []
        for number in range(14):
            trial = study.ask()
            x = line.sample(trial)["x"]
            trial.report(x, 1)
            study.tell(trial, state=TrialState.PRUNED)
            late += [x] if number >= 6 else []
        assert sum(x > 0.8 for x in late) >= 6


def test_a_share_of_the_trials_is_random_and_follows_from_seed_and_number() -> None:
    line = space(x={"type": "float", "low": 0.0, "high": 1.0})

    def random_numbers(share: float, seed: int = 0) -> list[int]:
        sampler = create_sampler(SamplerConfig(random_share=share), line, seed)
        kinds = [type(sampler._create_for(number)) for number in range(300)]
        return [number for number, kind in enumerate(kinds) if kind is optuna.samplers.RandomSampler]

    third = random_numbers(1 / 3)
    assert len(third) == pytest.approx(100, abs=20)
    assert third == random_numbers(1 / 3) != random_numbers(1 / 3, seed=1)
    assert random_numbers(0.0) == []
    assert len(random_numbers(1.0)) == 300
