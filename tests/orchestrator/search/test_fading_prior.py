"""Proposals near the papers' values: distribution, decay, and that they follow from seed and number."""

from __future__ import annotations

import math
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import TypeAdapter

from orchestrator import load_sweep
from orchestrator.config.plans import resolve_plans
from orchestrator.config.sections.study import SamplerConfig
from orchestrator.errors import ConfigError
from orchestrator.search.proposals.enqueued_trials import paper_configurations
from orchestrator.search.samplers.fading_prior import FadingPrior
from orchestrator.search.samplers.samplers import REJECTED, create_sampler
from search_spaces import Domain, SearchSpace

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

_DOMAINS: TypeAdapter[dict[str, Domain]] = TypeAdapter(dict[str, Domain])
SPACE = SearchSpace(
    _DOMAINS.validate_python(
        {
            "model": {"choices": ["plain", "spanned"]},
            "lr": {"type": "float", "low": 1e-4, "high": 1.0, "log": True},
            "span": {"type": "int", "low": 1, "high": 9, "when": {"model": "spanned"}},
            "free": {"type": "float", "low": 0.0, "high": 1.0},
        }
    )
)
KNOWN = {"model": "spanned", "lr": 0.1, "span": 5}


def study_with(prior: bool, seed: int = 0, name: str = "tpe") -> optuna.Study:
    config = SamplerConfig(name=name, startup_trials=4, startup="random")
    return optuna.create_study(
        direction="maximize", sampler=create_sampler(config, SPACE, seed, known=[KNOWN] if prior else ())
    )


def run(study: optuna.Study, trials: int) -> list[dict[str, Any]]:
    drawn = []
    for _ in range(trials):
        trial = study.ask()
        drawn.append(SPACE.sample(trial))
        study.tell(trial, -abs(math.log10(drawn[-1]["lr"]) + 3))
    return drawn


@pytest.mark.parametrize(("results", "share"), [(0, 0.5), (8, 0.25), (24, 0.125), (72, 0.05)])
def test_the_share_of_the_prior_fades_with_the_results(results: int, share: float) -> None:
    prior = FadingPrior([KNOWN], half_life=8, seed=0)
    assert prior.share(results) == pytest.approx(share)
    around = [prior.center_of(number, results) is not None for number in range(2000)]
    assert sum(around) / 2000 == pytest.approx(share, abs=0.03)


def test_without_known_values_nothing_is_drawn_from_the_prior() -> None:
    assert FadingPrior([{}], half_life=8, seed=0).share(0) == 0
    assert run(study_with(prior=False), 6) == run(study_with(prior=False), 6)


@pytest.mark.parametrize(
    ("distribution", "value", "inside"),
    [
        (FloatDistribution(1e-4, 1.0, log=True), 0.01, (10**-2.8, 10**-1.2)),
        (FloatDistribution(0.0, 10.0), 4.0, (2.0, 6.0)),
        (IntDistribution(1, 1000, log=True), 30, (30 / 10**0.62, 30 * 10**0.62)),
    ],
)
def test_two_thirds_lie_within_a_fifth_of_the_domain(
    distribution: FloatDistribution | IntDistribution, value: float, inside: tuple[float, float]
) -> None:
    prior = FadingPrior([{"x": value}], half_life=8, seed=3)
    drawn = [prior.draw(number, "x", distribution, value) for number in range(600)]
    assert all(distribution.low <= x <= distribution.high for x in drawn)
    assert sum(inside[0] <= x <= inside[1] for x in drawn) / 600 == pytest.approx(0.70, abs=0.06)


def test_values_lie_on_the_grid_of_the_domain_and_choices_are_kept_more_often_than_not() -> None:
    prior = FadingPrior([{"x": 1}], half_life=8, seed=0)
    stepped = {prior.draw(number, "x", FloatDistribution(0.0, 1.0, step=0.25), 0.5) for number in range(200)}
    assert stepped == {0.0, 0.25, 0.5, 0.75, 1.0}
    odd = {prior.draw(number, "x", IntDistribution(1, 9, step=2), 9) for number in range(200)}
    assert odd <= {1, 3, 5, 7, 9} and 9 in odd
    choices = CategoricalDistribution(["a", "b", "c", "d"])
    drawn = [prior.draw(number, "x", choices, "b") for number in range(800)]
    assert drawn.count("b") / 800 == pytest.approx(0.5 + 0.5 / 4, abs=0.05)
    assert prior.draw(0, "x", choices, "unknown") in choices.choices


def test_proposals_follow_from_seed_number_and_results_only() -> None:
    whole = run(study_with(prior=True), 12)
    study = study_with(prior=True)
    first = run(study, 5)
    study.sampler = study_with(prior=True).sampler  # as a new process has it
    assert first + run(study, 7) == whole
    assert run(study_with(prior=True, seed=1), 12) != whole


def test_early_trials_are_near_the_known_values_and_late_ones_where_results_are_best() -> None:
    drawn = run(study_with(prior=True), 60)
    near = [abs(math.log10(params["lr"]) + 1) < 0.8 for params in drawn]
    assert sum(near[:12]) >= 4
    late = [abs(math.log10(params["lr"]) + 3) < 0.5 for params in drawn[40:]]
    assert sum(late) >= 12
    assert all(SPACE.strays(params) == [] for params in drawn)
    assert len({params["free"] for params in drawn}) == 60


def test_rejected_trials_are_no_results() -> None:
    study = study_with(prior=True)
    for _ in range(40):
        trial = study.ask()
        SPACE.sample(trial)
        trial.set_user_attr(REJECTED, "too large")
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    near = []
    for _ in range(40):
        trial = study.ask()
        near.append(study.sampler._center_of(study, study.trials[trial.number]) is not None)  # type: ignore[attr-defined]
    assert sum(near) >= 10


SWEEP = {
    "name": "tiny",
    "dataset": {"name": "digits"},
    "search": {
        "model": ["conv_resnet26_small", "sb_resnet29_cifar"],
        "lr": {"type": "float", "low": 1e-3, "high": 1.0, "log": True},
        "optimizer": {"choices": ["sgd", "adamw"]},
    },
}


def test_the_papers_values_are_those_that_are_tried_first() -> None:
    config = load_sweep({**SWEEP, "sampler": {"prior": "papers"}})
    known = paper_configurations(resolve_plans(config).search)
    assert known and all(values.keys() <= {"model", "lr", "optimizer"} for values in known)
    assert {values["optimizer"] for values in known} == {"sgd"}


def test_a_sampler_without_room_for_a_prior_refuses_it() -> None:
    with pytest.raises(ConfigError, match=r"sampler\.prior: got 'papers', which 'nsga2' cannot take"):
        load_sweep({**SWEEP, "sampler": {"name": "nsga2", "prior": "papers"}})
