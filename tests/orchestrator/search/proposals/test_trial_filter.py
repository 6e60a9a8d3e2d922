"""Rejection of configurations that are not worth a trial."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from orchestrator import ConfigError
from orchestrator.config import SamplerConfig, resolve_trial
from orchestrator.config.plans import SearchPlan
from orchestrator.data.datasets import DatasetFacts
from orchestrator.errors import SpaceExhaustedError
from orchestrator.records.journal import Journal
from orchestrator.records.ledger import Ledger, count_rejected
from orchestrator.records.objectives import Objectives
from orchestrator.search import searcher
from orchestrator.search.proposals.enqueued_trials import enqueue_trials
from orchestrator.search.proposals.trial_filter import TrialFilter
from orchestrator.search.samplers.samplers import create_sampler
from orchestrator.search.searcher import StudySearcher
from orchestrator.search.storage import StudyStorage, open_storage
from orchestrator.search.study import open_study
from orchestrator.search.study_replay import replay_study
from search_spaces import FloatDomain, SearchSpace
from tests.support.sweeps.plans import search_plan

CIFAR = DatasetFacts(image_size=32, in_chans=3, num_classes=10, train_images=50_000)
ANY = {"type": "int", "low": 1, "high": 16}


def sweep(network: str, options: dict[str, Any] | None = None, **settings: Any) -> SearchPlan:
    model = {"name": network, "options": options or {}}
    base = {"name": "t", "dataset": {"name": "digits"}, "model": model, "resources": {"workers": 1}}
    return search_plan({**base, **settings})


def why(plan: SearchPlan, facts: DatasetFacts | None = None, **params: Any) -> str:
    found = TrialFilter(plan, facts).rejection(resolve_trial(plan, 0, params))
    return f"{found.rule}: {found.text}" if found else ""


def test_options_that_do_not_go_together_are_rejected() -> None:
    # each value goes with one of the other options, so that the file is sound
    plan = sweep("augmented_resnet26_small", search={"dk": [20, 40], "num_heads": [4, 8], "dv": [8]})
    with pytest.raises(ConfigError, match=r"search\.num_heads: got 3"):
        sweep("local_resnet26_small", search={"num_heads": [3, 4], "kernel_size": [3, 5]})
    assert why(plan, dk=40, num_heads=8, dv=8) == ""
    assert why(plan, dk=20, num_heads=8, dv=8) == ("dk: got 20 for augmented_resnet26_small; num_heads (8) divides it")


def test_a_setting_of_one_of_the_searched_schedules_rejects_no_trial_of_another() -> None:
    settings = {"epochs": 9, "decay_milestones": [2, 4], "poly_power": 0.9}
    plan = sweep("conv_resnet26_small", training=settings, search={"lr_schedule": ["multistep", "poly", "cosine"]})
    assert [why(plan, lr_schedule=shape) for shape in ("multistep", "poly", "cosine")] == ["", "", ""]


def test_settings_of_training_that_do_not_go_together_are_rejected() -> None:
    plan = sweep("conv_resnet26_small", search={"optimizer": ["momentum", "adamw"], "momentum": [0.0, 0.9]})
    assert why(plan, optimizer="sgd", momentum=0.9) == ""
    assert why(plan, optimizer="sgd", momentum=0.0).startswith("momentum: got 0; sgd looks ahead along its momentum")


def test_crops_of_another_size_are_rejected_for_networks_built_for_one() -> None:
    plan = sweep("lesa_resnet26_cifar", search={"crop_px": [6, 8]})
    assert why(plan, crop_px=8) == ""
    assert why(plan, crop_px=6).startswith("crop_px: got 6; lesa_resnet26_cifar is built for one size of images, 8 px")
    assert why(sweep("conv_resnet26_small", search={"crop_px": [6, 8]}), crop_px=6) == ""


@pytest.mark.parametrize(
    ("model", "name", "most_on_digits", "most_on_cifar", "fixed"),
    [
        ("sb_resnet29_cifar", "pooled_size", 8, 32, {}),
        ("adaptive_resnet26_small", "max_span", 7, 31, {}),
        ("adaptive_resnet26_small", "max_span", 1, 7, {"stem": "7x7"}),
        ("local_resnet26_small", "kernel_size", 15, 33, {}),
        ("fcvit_micro_cifar", "kernel_size_1", 7, 31, {"stem_stride": 1}),
        ("fcvit_micro_cifar", "kernel_size_2", 3, 15, {"stem_stride": 2}),
    ],
)
def test_sizes_beyond_the_map_are_rejected(
    model: str, name: str, most_on_digits: int, most_on_cifar: int, fixed: dict[str, Any]
) -> None:
    search = {name: {"choices": [most_on_digits if most_on_digits > 2 else 3]}}
    plan = sweep(model, fixed, search=search)
    for facts, most in ((None, most_on_digits), (CIFAR, most_on_cifar)):
        assert why(plan, facts, **{name: most}) == ""
        larger = most + (2 if name.startswith("kernel") else 1)
        message = why(plan, facts, **{name: larger})
        assert message.startswith(f"{name}: got {larger} for {model}; ")
    not_searched = sweep(model, {**fixed, name: most_on_digits + 2})
    assert why(not_searched) == ""  # a size that the user fixed is accepted


def test_networks_beyond_the_limits_are_rejected() -> None:
    limits = {"max_params": 4e5, "max_macs": 10_000_000}
    plan = sweep("sb_resnet29_cifar", search={"pooled_size": ANY}, limits=limits)
    assert why(plan, pooled_size=4) == ""
    assert why(plan, pooled_size=8) == "max_params: sb_resnet29_cifar has 429,850; limits.max_params is 400,000"
    assert why(plan, CIFAR, pooled_size=4).startswith("max_macs: sb_resnet29_cifar has ")
    with pytest.raises(ConfigError, match=r"limits\.max_parms: unknown setting. Did you mean 'max_params'"):
        sweep("sb_resnet29_cifar", limits={"max_parms": 1})


@pytest.fixture
def storage(tmp_path: Path) -> StudyStorage:
    return open_storage(f"sqlite:///{tmp_path / 'optuna.db'}")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Journal(tmp_path / "journal.jsonl") as journal:
        ledger = Ledger(journal)
        ledger.sweep_started("t", {}, {}, {})
        yield ledger


HALF = {"search": {"pooled_size": {"choices": [2, 4, 12, 14]}}, "sampler": {"name": "random"}}


def test_a_rejected_configuration_costs_no_trial_and_is_counted(
    storage: StudyStorage, ledger: Ledger, tmp_path: Path
) -> None:
    plan = sweep("sb_resnet29_cifar", **HALF)
    study = open_study(plan, "t", storage)
    asking = StudySearcher(study, plan, ledger)
    proposals = [asking.suggest(f"tune-{index}") for index in range(12)]
    tried, rejected = ledger.trials(), ledger.rejected()
    assert len(tried) == len(proposals) == 12
    assert {trial.params["pooled_size"] for trial in tried} == {2, 4}
    assert {trial.params["pooled_size"] for trial in rejected} == {12, 14}
    assert sorted(trial.number for trial in [*tried, *rejected]) == list(range(len(study.trials)))
    in_study = [study.trials[trial.number] for trial in rejected]
    assert {trial.state for trial in in_study} == {TrialState.FAIL}
    assert all(trial.user_attrs["rejected"].startswith("pooled_size: got 1") for trial in in_study)
    counts = Counter(trial.rule for trial in rejected)
    assert count_rejected(counts) == f"{len(rejected)} (pooled_size {len(rejected)})"
    # a later driver reads the same from the journal
    with Journal(tmp_path / "journal.jsonl") as journal:
        assert Ledger(journal).rejected() == rejected
    # and rebuilds them in a database that has lost them
    empty = open_study(plan, "t", open_storage(f"sqlite:///{tmp_path / 'another.db'}"))
    replay_study(empty, ledger, plan.space, Objectives.of(plan.objectives, plan.constraints))
    assert [trial.params for trial in empty.trials] == [trial.params for trial in study.trials]
    assert [trial.user_attrs.get("rejected") for trial in empty.trials] == [
        trial.user_attrs.get("rejected") for trial in study.trials
    ]


def test_enqueued_values_are_tried_again_after_a_rejection_for_others(
    storage: StudyStorage, ledger: Ledger, tmp_path: Path
) -> None:
    search = {"pooled_size": {"choices": [2, 12, 13, 14]}, "bias_channels": [1, 2, 3, 4, 5]}
    plan = sweep("sb_resnet29_cifar", search=search, sampler={"name": "random"}, try_first=[{"bias_channels": 5}])
    study = open_study(plan, "t", storage)
    enqueue_trials(study, plan, storage)
    asking = StudySearcher(study, plan, ledger)
    for index in range(2):
        asking.suggest(f"tune-{index}")
    assert ledger.rejected()[0].params["bias_channels"] == 5
    assert ledger.trials()[0].params == {"pooled_size": 2, "bias_channels": 5}
    assert study.trials[ledger.trials()[0].number].user_attrs["source"] == "try_first.0"
    # values that are at fault themselves are not tried again
    at_fault = sweep("sb_resnet29_cifar", search=search, sampler={"name": "random"}, try_first=[{"pooled_size": 14}])
    other = open_study(at_fault, "other", storage)
    other.enqueue_trial({"pooled_size": 14})
    with Journal(tmp_path / "other.jsonl") as journal:
        StudySearcher(other, at_fault, Ledger(journal)).suggest("tune-0")
    assert sum("fixed_params" in trial.system_attrs for trial in other.trials) == 1


def test_a_search_without_valid_proposals_is_an_error(
    storage: StudyStorage, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searcher, "MOST_REJECTED", 5)
    plan = sweep(
        "sb_resnet29_cifar", search={"pooled_size": [2, 12]}, limits={"max_params": 1000}, sampler={"name": "tpe"}
    )
    asking = StudySearcher(open_study(plan, "t", storage), plan, ledger)
    with pytest.raises(
        SpaceExhaustedError, match=r"^5 configurations in a row were rejected: 5 \(.*max_params"
    ) as caught:
        asking.suggest("tune-0")
    assert str(caught.value).endswith("Widen what is searched, or the limits")
    assert len(ledger.rejected()) == 5


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_sampler_avoids_rejected_values() -> None:
    """Search with the best values at the border of the rejected half, which TPE would keep proposing from."""
    space = SearchSpace({"x": FloatDomain(low=0.0, high=1.0), "y": FloatDomain(low=0.0, high=1.0)})
    sampler = create_sampler(SamplerConfig(name="tpe", startup_trials=5), space, 0)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    accepted = rejected = 0
    while accepted < 20:
        trial = study.ask()
        values = space.sample(trial)
        if values["x"] > 0.5:
            trial.set_user_attr("rejected", "x: too much")
            study.tell(trial, state=TrialState.FAIL)
            rejected += 1
            assert rejected < 40
        else:
            study.tell(trial, -((0.5 - values["x"]) ** 2) - (values["y"] - 0.3) ** 2)
            accepted += 1
