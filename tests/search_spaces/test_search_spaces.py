"""Domains, conditions and samples of a search space, the last drawn through a real Optuna study."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna
import pytest
from pydantic import TypeAdapter, ValidationError

from search_spaces import ChoiceDomain, ConstantDomain, Domain, FloatDomain, IntDomain, SearchSpace
from search_spaces.grid import grid_points, grid_size
from search_spaces.space import SpaceError, condition_problems

DOMAIN: TypeAdapter[Any] = TypeAdapter(Domain)
MODELS = ("near", "far", "plain")


def nested_space() -> SearchSpace:
    """Make a space with children before their parents: `depth` depends on `heads`, which depends on `model`."""
    return SearchSpace(
        {
            "depth": IntDomain(low=2, high=6, step=2, when={"heads": (4, 8)}),
            "heads": ChoiceDomain(choices=(1, 4, 8), when={"model": "far"}),
            "lr": FloatDomain(low=1e-4, high=1e-1, log=True),
            "model": ChoiceDomain(choices=MODELS),
            "bias": FloatDomain(low=-1.0, high=1.0, step=0.25, when={"model": ("near", "far")}),
            "norm": ConstantDomain(value="layer", when={"model": "plain"}),
        }
    )


def draw(space: SearchSpace, count: int, seed: int = 0) -> list[dict[str, Any]]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return [space.sample(study.ask()) for _ in range(count)]


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        ({"type": "float", "low": 2.0, "high": 1.0}, "low must not exceed high"),
        ({"type": "float", "low": 0.0, "high": 1.0, "log": True}, "a log scale needs low above 0"),
        ({"type": "int", "low": 0, "high": 8, "log": True}, "a log scale needs low above 0"),
        ({"type": "float", "low": 1.0, "high": 2.0, "log": True, "step": 0.1}, "log and step exclude each other"),
        ({"type": "int", "low": 1, "high": 9, "log": True, "step": 2}, "log and step exclude each other"),
        ({"type": "float", "low": 1.0, "high": 2.0, "step": 0.0}, "must be above 0"),
        ({"type": "int", "low": 1, "high": 2, "step": -1}, "must be above 0"),
        ({"type": "float", "low": 1.0, "high": float("inf")}, "finite"),
        ({"type": "float", "low": float("nan"), "high": 1.0}, "finite"),
        ({"type": "float", "low": True, "high": 2}, "valid number"),
        ({"type": "float", "low": "0.1", "high": 2}, "valid number"),
        ({"type": "int", "low": 1.0, "high": 2}, "valid integer"),
        ({"choices": []}, "choices is empty"),
        ({"choices": ["a", "b", "a"]}, "choices repeats a value"),
        ({"type": "float", "low": 1.0, "high": 2.0, "setp": 0.1}, "Extra inputs"),
        ({"low": 1.0, "high": 2.0}, "a domain is {type: float, low, high}"),
        (None, "a domain is {type: float, low, high}"),
    ],
)
def test_an_impossible_domain_is_refused(content: object, rule: str) -> None:
    with pytest.raises(ValidationError, match=rule.replace("{", r"\{")):
        DOMAIN.validate_python(content)


def test_short_spellings_mean_constants_and_choices() -> None:
    assert DOMAIN.validate_python(0.1) == ConstantDomain(value=0.1)
    assert DOMAIN.validate_python("adamw") == ConstantDomain(value="adamw")
    assert DOMAIN.validate_python(False).value is False
    assert DOMAIN.validate_python(["a", 2]) == ChoiceDomain(choices=("a", 2))
    assert DOMAIN.validate_python({"choices": ["a"], "when": {"b": 1}}) == ChoiceDomain(choices=("a",), when={"b": 1})


def test_corners_are_the_extreme_values_that_can_be_drawn() -> None:
    assert FloatDomain(low=0.5, high=2.0).corners() == (0.5, 2.0)
    assert FloatDomain(low=0.0, high=1.0, step=0.3).corners() == pytest.approx((0.0, 0.9))
    assert FloatDomain(low=0.0, high=0.3, step=0.1).corners() == pytest.approx((0.0, 0.3))
    assert IntDomain(low=1, high=8).corners() == (1, 8)
    assert IntDomain(low=1, high=8, step=3).corners() == (1, 7)
    assert ChoiceDomain(choices=("a", "b")).corners() == ("a", "b")
    assert ConstantDomain(value=3).corners() == (3,)


def test_domains_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        FloatDomain(low=0.0, high=1.0).low = 2.0


def test_parents_come_first_and_the_order_is_kept_otherwise() -> None:
    assert list(nested_space()) == ["lr", "model", "heads", "bias", "norm", "depth"]


def test_samples_stay_in_their_domains_and_leave_out_what_is_inactive() -> None:
    samples = draw(nested_space(), 200)
    assert {sample["model"] for sample in samples} == set(MODELS)
    for sample in samples:
        model = sample["model"]
        assert 1e-4 <= sample["lr"] <= 1e-1
        assert ("bias" in sample) == (model in ("near", "far"))
        assert ("heads" in sample) == (model == "far")
        assert ("depth" in sample) == (sample.get("heads") in (4, 8))
        assert sample.get("norm") == ("layer" if model == "plain" else None)
        assert sample.get("bias", 0.0) % 0.25 == 0.0
        assert sample.get("depth", 2) in (2, 4, 6)
    assert {sample["depth"] for sample in samples if "depth" in sample} == {2, 4, 6}
    assert sum(sample["lr"] < 1e-2 for sample in samples) > 100  # a log scale spends two thirds of its draws there


@pytest.mark.filterwarnings("error")
def test_a_step_that_misses_the_upper_end_draws_only_from_the_grid() -> None:
    space = SearchSpace({"x": FloatDomain(low=1.0, high=2.2, step=0.5), "n": IntDomain(low=1, high=6, step=2)})
    samples = draw(space, 60)
    assert {sample["x"] for sample in samples} == {1.0, 1.5, 2.0}
    assert {sample["n"] for sample in samples} == {1, 3, 5}


def test_one_seed_draws_the_same_twice() -> None:
    assert draw(nested_space(), 10, seed=3) == draw(nested_space(), 10, seed=3)
    assert draw(nested_space(), 10, seed=3) != draw(nested_space(), 10, seed=4)


def test_branches_are_all_combinations_of_deciding_choices() -> None:
    branches = list(nested_space().branches())
    assert branches == [
        {"model": "near"},
        {"model": "far", "heads": 1},
        {"model": "far", "heads": 4},
        {"model": "far", "heads": 8},
        {"model": "plain"},
    ]
    assert nested_space().active({"model": "far", "heads": 4}) == ["lr", "model", "heads", "bias", "depth"]
    assert list(SearchSpace({"lr": FloatDomain(low=0.1, high=1.0)}).branches()) == [{}]


def test_one_value_of_a_choice_leaves_out_what_others_decide_on() -> None:
    space = nested_space()
    assert list(space.with_choice("model", "near")) == ["lr", "model", "bias"]
    far = space.with_choice("model", "far")
    assert (list(far), far["model"].corners()) == (["lr", "model", "heads", "bias", "depth"], ("far",))
    part = SearchSpace({name: domain for name, domain in space.items() if name != "lr"}).with_choice("model", "far")
    assert grid_size(part) == 9 * (1 + 2 * 3) == len(list(grid_points(part)))


def test_conditions_that_cannot_be_resolved_are_refused() -> None:
    lr = FloatDomain(low=0.1, high=1.0, when={"modle": "far"})
    with pytest.raises(SpaceError, match="lr: its condition names 'modle', which is no choice of this space"):
        SearchSpace({"lr": lr, "model": ChoiceDomain(choices=MODELS)})
    number = {"n": IntDomain(low=1, high=2), "m": IntDomain(low=1, high=2, when={"n": 1})}
    with pytest.raises(SpaceError, match="m: its condition names 'n'"):
        SearchSpace(number)
    circle = {
        "a": ChoiceDomain(choices=(1, 2), when={"b": 1}),
        "b": ChoiceDomain(choices=(1, 2), when={"c": 1}),
        "c": ChoiceDomain(choices=(1, 2), when={"a": 1}),
    }
    with pytest.raises(SpaceError, match=r"a: its condition leads back to itself; b: .*; c: "):
        SearchSpace(circle)


@pytest.mark.parametrize("narrowed", [ChoiceDomain(choices=("near",)), ConstantDomain(value="near")])
def test_a_condition_survives_when_its_choice_is_narrowed(narrowed: Domain) -> None:
    domains: Mapping[str, Domain] = {
        "model": narrowed,
        "heads": ChoiceDomain(choices=(1, 4), when={"model": "far"}),
        "typo": ChoiceDomain(choices=(1, 4), when={"model": ("near", "fra")}),
    }
    assert condition_problems(domains, {"model": MODELS}) == [
        ("typo", "its condition needs model = fra; 'model' offers near")
    ]
    assert all("heads" not in sample for sample in draw(SearchSpace(domains), 5))


def test_a_fingerprint_depends_on_what_is_searched_and_not_on_the_order() -> None:
    space = nested_space()
    turned = SearchSpace(dict(reversed(list(space.items()))))
    assert turned.fingerprint == space.fingerprint
    assert SearchSpace({**space, "lr": FloatDomain(low=1e-4, high=1e-1)}).fingerprint != space.fingerprint
    without = SearchSpace({name: domain for name, domain in space.items() if name != "lr"})
    assert without.fingerprint != space.fingerprint
    assert SearchSpace({"x": IntDomain(low=1, high=2)}).fingerprint == "7e0b7c6461cc3774"  # as stored in old studies
