"""What a sampler is shown of a study with many trials."""

from __future__ import annotations

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from orchestrator.search.learnable import LearnableStudy

LR = optuna.distributions.FloatDistribution(0, 1)


def add(study: optuna.Study, value: float | None) -> None:
    state = TrialState.PRUNED if value is None else TrialState.COMPLETE
    study.add_trial(create_trial(state=state, value=value, params={"lr": 0.5}, distributions={"lr": LR}))


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_it_remembers_the_best_trials_and_the_newest_and_those_that_run(direction: str) -> None:
    study = optuna.create_study(direction=direction)
    sign = 1 if direction == "maximize" else -1
    running = study.ask()
    for number in range(1, 41):
        add(study, None if number % 2 else sign * (100 - number))
    shown = [trial.number for trial in LearnableStudy(study, memory=10).get_trials()]
    assert shown == [running.number, 2, 4, *range(33, 41)]


def test_it_shows_all_trials_without_a_memory_or_with_several_objectives() -> None:
    study = optuna.create_study()
    for value in range(5):
        add(study, value)
    assert len(LearnableStudy(study, memory=None).get_trials()) == 5
    several = optuna.create_study(directions=["maximize", "minimize"])
    for _ in range(5):
        several.add_trial(create_trial(values=[1.0, 2.0], params={"lr": 0.5}, distributions={"lr": LR}))
    assert len(LearnableStudy(several, memory=2).get_trials()) == 5


def test_it_stands_still_while_the_study_goes_on() -> None:
    study = optuna.create_study()
    add(study, 1.0)
    seen = LearnableStudy(study, memory=None)
    assert len(seen.get_trials()) == 1
    add(study, 2.0)
    assert len(seen.get_trials()) == 1
    assert len(study.get_trials()) == 2
