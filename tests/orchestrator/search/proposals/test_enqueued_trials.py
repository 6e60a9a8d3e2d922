"""Trials that a sweep tries first: the papers' values, configurations by hand, the best of earlier sweeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from orchestrator import ConfigError
from orchestrator.config.plans import SearchPlan
from orchestrator.records.journal import Journal
from orchestrator.records.ledger import Ledger
from orchestrator.records.objectives import Objectives
from orchestrator.search.proposals.enqueued_trials import enqueue_trials
from orchestrator.search.searcher import StudySearcher
from orchestrator.search.storage import StudyStorage, open_storage
from orchestrator.search.study import close_study, open_study
from orchestrator.search.study_replay import replay_study
from tests.support.sweeps.plans import search_plan

LSAS, SENET, PLAIN = "lsas_resnet29_cifar", "senet_resnet29_cifar", "conv_resnet26_small"
RATE = {"type": "float", "low": 1e-3, "high": 0.3, "log": True}


@pytest.fixture
def storage(tmp_path: Path) -> StudyStorage:
    return open_storage(f"sqlite:///{tmp_path / 'optuna.db'}")


def sweep(**settings: Any) -> SearchPlan:
    base = {"name": "t", "dataset": {"name": "digits"}, "resources": {"workers": 1}, "sampler": {"name": "random"}}
    return search_plan({**base, **settings})


def first(plan: SearchPlan, storage: StudyStorage, name: str = "t") -> list[tuple[str, dict[str, Any]]]:
    """Return source and values of the trials that the study returns first."""
    study = open_study(plan, name, storage)
    queued = enqueue_trials(study, plan, storage)
    returned = []
    for found in queued:
        trial = study.ask()
        values = plan.space.sample(trial)
        assert found.params.items() <= values.items()
        assert plan.space.strays(values) == []
        returned.append((trial.user_attrs["source"], values))
    assert all(trial.state is TrialState.RUNNING for trial in study.trials)
    return returned


def test_the_papers_values_are_tried_first(storage: StudyStorage) -> None:
    found = first(sweep(space="lsas", model={"name": LSAS}), storage)
    assert [source for source, _ in found] == [
        "Zhong et al. 2023 (arXiv 2305.05200), on CIFAR",
        "Zhong et al. 2023 (arXiv 2305.05200), on CIFAR without sub-attention",
        "Zhong et al. 2023 (arXiv 2305.05200), on STL10",
    ]
    paper = found[0][1]
    assert (paper["order"], paper["stages"], paper["momentum/lr"], paper["global_batch_size"]) == (1, "FFT", 0.1, 128)
    assert found[1][1] == {**paper, "order": 0}
    assert found[2][1] == {**paper, "global_batch_size": 16}


def test_in_the_zoo_the_best_known_values_of_each_family_come_first(storage: StudyStorage) -> None:
    plan = sweep(space="spatial_zoo", trials=14)
    found = first(plan, storage)
    assert len(found) == 14  # no more than there are trials
    assert [values["model"] for _, values in found[:11]] == list(plan.space["model"].corners())
    spans = found[0][1]
    assert (spans["adaptive_span/max_span"], spans["sgd/lr"], spans["optimizer"]) == (5, 0.05, "sgd")


def test_values_outside_the_space_are_left_out_with_a_reason(storage: StudyStorage) -> None:
    plan = sweep(
        model={"name": LSAS}, search={"order": {"type": "int", "low": 2, "high": 3}, "lr": RATE, "reduction": [8, 16]}
    )
    study = open_study(plan, "t", storage)
    queued = enqueue_trials(study, plan, storage)
    assert [found.params for found in queued] == [{"lr": 0.1, "reduction": 16}]  # three of the paper became one
    assert str(queued[0]) == (
        "lsas_resnet29_cifar with the values of Zhong et al. 2023 (arXiv 2305.05200), on CIFAR, "
        "except order (theirs 1; the search has 2 to 3)"
    )


def test_a_learning_rate_for_another_optimiser_is_left_out(storage: StudyStorage) -> None:
    plan = sweep(model={"name": LSAS}, training={"optimizer": "adamw"}, search={"reduction": [8, 16], "lr": RATE})
    (found,) = enqueue_trials(open_study(plan, "t", storage), plan, storage)
    assert found.params == {"reduction": 16}
    assert found.left_out == {
        "optimizer": "theirs momentum; training.optimizer fixes adamw",
        "lr": "theirs 0.1; it is meant for momentum, not for adamw",
    }
    plain = sweep(model={"name": PLAIN}, training={"optimizer": "adamw"}, search={"lr": RATE})
    assert first(plain, storage, "plain") == []


def test_a_value_that_would_be_rejected_is_left_out(storage: StudyStorage) -> None:
    """Leave out the paper's grid of 10 cells for images of 8 px."""
    plan = sweep(space="spatial_bias", model={"name": "sb_resnet50"})
    (found,) = enqueue_trials(open_study(plan, "t", storage), plan, storage)
    assert "pooled_size" not in found.params
    assert found.left_out == {
        "pooled_size": "would be rejected: got 10 for sb_resnet50; its largest map is 2 x 2, "
        "where pooled_size above 2 changes nothing"
    }
    assert found.params["stages"] == "TTTF"


def test_a_resumed_sweep_tries_the_rest_of_them(storage: StudyStorage, tmp_path: Path) -> None:
    plan = sweep(space="lsas", model={"name": LSAS})
    with Journal(tmp_path / "journal.jsonl") as journal:
        ledger, study = Ledger(journal), open_study(plan, "t", storage)
        queued = enqueue_trials(study, plan, storage)
        begun = StudySearcher(study, plan, ledger)
        begun.suggest("tune-0")
        study.ask()  # the driver dies before it records the trial
        close_study(study)
        resumed = open_study(plan, "t", storage, resumed=True)
        replay_study(resumed, ledger, plan.space, Objectives.of(plan.objectives, plan.constraints))
        resumed_searcher = StudySearcher(resumed, plan, ledger)
        for index in range(4):
            resumed_searcher.suggest(f"tune-1{index}")
        tried = ledger.trials()
    assert [trial.number for trial in tried] == [0, 1, 2, 3]
    for found, trial in zip(queued, tried, strict=False):
        assert found.params.items() <= trial.params.items()
    assert [trial.user_attrs.get("source") for trial in resumed.trials] == [*(found.source for found in queued), None]


def test_configurations_by_hand_take_the_place_of_the_papers(storage: StudyStorage) -> None:
    by_hand = [{"order": 2, "optimizer": "adamw", "lr": 1e-3}, {"adamw/lr": 2e-3, "optimizer": "adamw"}]
    found = first(sweep(space="lsas", model={"name": LSAS}, try_first=by_hand), storage)
    assert [(values["order"], values["adamw/lr"]) for _, values in found[:1]] == [(2, 1e-3)]
    assert found[1][1]["adamw/lr"] == 2e-3
    assert first(sweep(space="lsas", model={"name": LSAS}, try_first=[]), storage, "none") == []


@pytest.mark.parametrize(
    ("try_first", "message"),
    [
        ([{"order": 9}], "try_first.0.order: got 9; is outside its domain ("),
        ([{"order": 1}, {"ordre": 1}], "try_first.1.ordre: got 1; is not searched here. Did you mean 'order'?"),
        ("paper", "try_first: got 'paper'; must be papers, or a list of configurations such as [{lr: 0.1, order: 2}]"),
        ([{"order": [1]}], "try_first: got [{'order': [1]}]; must be papers, or a list of configurations"),
    ],
)
def test_faults_of_configurations_by_hand_are_reported(try_first: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        sweep(space="lsas", model={"name": LSAS}, try_first=try_first)
    assert str(caught.value).startswith(message)


def test_the_best_of_earlier_sweeps_is_tried_after_the_papers(storage: StudyStorage) -> None:
    earlier = sweep(
        name="early",
        model={"name": LSAS, "options": {"attention": "eca"}},
        training={"optimizer": "adamw", "global_batch_size": 48},
        search={"lr": {**RATE, "high": 0.01}, "order": [0, 1, 2], "reduction": [4, 32]},
        try_first=[],
    )
    study = open_study(earlier, "early", storage)
    enqueue_trials(study, earlier, storage)
    for value in (0.5, 0.9, 0.7, 0.8, 0.95):
        trial = study.ask()
        earlier.space.sample(trial)
        study.tell(
            trial, value if value < 0.95 else None, state=TrialState.COMPLETE if value < 0.95 else TrialState.FAIL
        )
    close_study(study)
    later = sweep(space="spatial_zoo", search={"model": [LSAS, SENET]}, try_first=[], warm_start=["early"], trials=9)
    found = first(later, storage, "later")
    assert [source for source, _ in found] == [f"trial {number} of early" for number in (1, 3, 2)]
    for (_, values), number in zip(found, (1, 3, 2), strict=True):
        best = study.trials[number].params
        assert (values["model"], values["lsas/attention"], values["optimizer"]) == (LSAS, "eca", "adamw")
        assert (values["adamw/lr"], values["lsas/order"]) == (best["lr"], best["order"])
        assert values["global_batch_size"] == 48


def test_an_unknown_earlier_sweep_is_refused(storage: StudyStorage) -> None:
    open_study(sweep(model={"name": PLAIN}, search={"lr": RATE}), "early", storage)
    plan = sweep(model={"name": PLAIN}, search={"lr": RATE}, warm_start=["erly"])
    with pytest.raises(
        ConfigError, match=r"warm_start: no earlier sweep 'erly' in this database. Did you mean 'early'"
    ):
        enqueue_trials(open_study(plan, "t", storage), plan, storage)
