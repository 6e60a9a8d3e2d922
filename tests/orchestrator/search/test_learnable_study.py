"""View that a sampler receives of a study with many trials."""

from __future__ import annotations

import random

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from orchestrator.search.samplers.learnable import DIVERGED, OUTCOME, LearnableStudy, TrialWindow

LR = optuna.distributions.FloatDistribution(0, 1)


def add(study: optuna.Study, value: float | None) -> None:
    state = TrialState.PRUNED if value is None else TrialState.COMPLETE
    study.add_trial(create_trial(state=state, value=value, params={"lr": 0.5}, distributions={"lr": LR}))


def seen(study: optuna.Study, size: int | None) -> LearnableStudy:
    return LearnableStudy(study, TrialWindow(size, study.directions))


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_it_shows_the_best_the_newest_and_the_running_trials(direction: str) -> None:
    study = optuna.create_study(direction=direction)
    sign = 1 if direction == "maximize" else -1
    running = study.ask()
    for number in range(1, 41):
        add(study, None if number % 2 else sign * (100 - number))
    shown = [trial.number for trial in seen(study, 10).get_trials()]
    assert shown == [running.number, 2, 4, *range(33, 41)]


def test_it_shows_all_trials_without_a_size_or_with_several_objectives() -> None:
    study = optuna.create_study()
    for value in range(5):
        add(study, value)
    assert len(seen(study, None).get_trials()) == 5
    several = optuna.create_study(directions=["maximize", "minimize"])
    for _ in range(5):
        several.add_trial(create_trial(values=[1.0, 2.0], params={"lr": 0.5}, distributions={"lr": LR}))
    assert len(seen(several, 2).get_trials()) == 5


def test_it_does_not_change_while_the_study_does() -> None:
    study = optuna.create_study()
    add(study, 1.0)
    view = seen(study, None)
    assert len(view.get_trials()) == 1
    add(study, 2.0)
    assert len(view.get_trials()) == 1
    assert len(study.get_trials()) == 2


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_an_updated_window_equals_a_new_one(direction: str) -> None:
    """End trials in any order, several between two updates."""
    chance = random.Random(3)
    study = optuna.create_study(direction=direction)
    window = TrialWindow(12, study.directions)
    running: list[optuna.Trial] = []
    for _ in range(150):
        running += [study.ask() for _ in range(chance.randrange(3))]
        for trial in chance.sample(running, chance.randrange(len(running) + 1)):
            running.remove(trial)
            trial.set_user_attr(OUTCOME, chance.choice([DIVERGED, "failed"]))
            state = chance.choice([TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL])
            study.tell(
                trial, chance.choice([0.1, 0.5, chance.random()]) if state is TrialState.COMPLETE else None, state
            )
        if chance.random() < 0.5:
            updated = LearnableStudy(study, window).get_trials()
            assert updated == seen(study, 12).get_trials()
            over = [trial for trial in updated if trial.state.is_finished()]
            assert len(over) == min(12, sum(trial.state.is_finished() for trial in study.get_trials()))
