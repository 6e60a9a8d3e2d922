"""The search space of every family: complete, valid for its networks, and able to tell what it could not draw."""

from __future__ import annotations

import optuna
import pytest
import torch
from small_networks import SMALL_NETWORKS, SmallNetwork

import models
from orchestrator.config import SweepConfig
from search_spaces import FAMILY_SPACES, ChoiceDomain, ConstantDomain, FloatDomain, IntDomain, SearchSpace
from search_spaces.families import TRAINING

pytestmark = pytest.mark.usefixtures("one_thread")

CASES = pytest.mark.parametrize(("family", "network"), SMALL_NETWORKS.items(), ids=list(SMALL_NETWORKS))


def test_every_family_of_networks_has_a_space() -> None:
    assert set(FAMILY_SPACES) == set(SMALL_NETWORKS)
    covered = {models.model_family(network.model) for network in SMALL_NETWORKS.values()}
    assert covered == {models.model_family(name) for name in models.list_models()}


@CASES
def test_a_sweep_over_a_whole_space_is_valid(family: str, network: SmallNetwork) -> None:
    config = SweepConfig(
        name="whole",
        dataset={"name": "digits"},
        model={"name": network.model, "options": network.fixed},
        search=dict(FAMILY_SPACES[family]),
        resources={"workers": 1},
    )
    assert config.space.fingerprint == FAMILY_SPACES[family].fingerprint


@CASES
def test_what_a_space_draws_builds_and_runs(family: str, network: SmallNetwork) -> None:
    space = FAMILY_SPACES[family]
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(4):
        values = space.sample(study.ask())
        assert space.strays(values) == []
        options = {name: value for name, value in values.items() if name not in TRAINING}
        model = models.create_model(network.model, num_classes=10, image_size=16, **options, **network.fixed)
        with torch.no_grad():
            assert model.eval()(torch.zeros(1, 3, 16, 16)).shape == (1, 10)


def test_a_space_tells_what_it_could_not_draw() -> None:
    space = SearchSpace(
        {
            "lr": FloatDomain(low=1e-4, high=1e-1, log=True),
            "share": FloatDomain(low=0.0, high=0.3, step=0.1),
            "depth": IntDomain(low=2, high=7, step=2),
            "gate": ChoiceDomain(choices=(False, True)),
            "kind": ChoiceDomain(choices=(1, 2), when={"gate": True}),
            "norm": ConstantDomain(value="batch"),
        }
    )
    good = {"lr": 0.1, "share": 0.30000000000000004, "depth": 6, "gate": True, "kind": 1, "norm": "batch"}
    assert space.strays(good) == []
    assert space.strays({**good, "lr": 1e-4, "share": 0}) == []
    assert space.strays({**good, "lr": 0.2}) == ["lr: got 0.2; is outside its domain"]
    for name, value in [("share", 0.15), ("depth", 7), ("depth", 8), ("depth", 4.0), ("lr", True), ("lr", "0.1")]:
        assert space.strays({**good, name: value}) == [f"{name}: got {value!r}; is outside its domain"]
    assert space.strays({**good, "kind": True, "norm": "layer"}) == [
        "kind: got True; is outside its domain",
        "norm: got 'layer'; is outside its domain",
    ]
    assert space.strays({**good, "gate": False}) == ["kind: got 1; is not searched here"]
    assert space.strays({"gate": False, "norm": "batch", "lr": 0.1, "share": 0.1, "shade": 1}) == [
        "depth: is missing",
        "shade: got 1; is not searched here",
    ]
