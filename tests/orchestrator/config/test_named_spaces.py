"""`space: NAME` in a sweep: its expansion, changes to it, and names with labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator import ConfigError, load_sweep
from orchestrator.config import SweepConfig, resolve_trial
from search_spaces import ChoiceDomain, ConstantDomain, FloatDomain, IntDomain, SearchSpace, named_space

BASE = {"name": "t", "dataset": {"name": "digits"}, "resources": {"workers": 1}}
LSAS, BIASED, PLAIN = "lsas_resnet29_cifar", "sb_resnet29_cifar", "conv_resnet26_small"


def sweep(*overrides: str, **settings: Any) -> SweepConfig:
    return load_sweep({**BASE, **settings}, overrides)


def faults(*overrides: str, **settings: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        sweep(*overrides, **settings)
    return str(caught.value).splitlines()


def test_a_file_names_a_space_and_changes_some_of_it(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(
        """
        name: t
        dataset: {name: digits}
        space: lsas
        model: {name: lsas_resnet29_cifar}
        search:
          order: {low: 1}                      # part of a domain
          stages: [FFT, TTT]                   # another domain
          global_batch_size: 32                # no longer searched
          lr: {type: float, low: 1e-3, high: 1e-1, log: true}   # one domain in place of one for each optimiser
          hflip: {type: float, low: 0.0, high: 0.5}             # one more
        """
    )
    config, natural = load_sweep(path), named_space("lsas", [LSAS])
    assert config.space["order"] == IntDomain(low=1, high=5)
    assert config.space["stages"] == ChoiceDomain(choices=("FFT", "TTT"))
    assert config.space["global_batch_size"] == ConstantDomain(value=32)
    assert config.space["adamw/weight_decay"] == natural["adamw/weight_decay"]
    assert set(natural) - set(config.space) == {"momentum/lr", "adamw/lr"}
    assert set(config.space) - set(natural) == {"lr", "hflip"}
    assert SweepConfig(**config.model_dump()) == config  # what is stored is whole


def test_a_change_keeps_the_condition_unless_it_has_one() -> None:
    config = sweep("search.adamw/lr.low=1e-3", space="conv", model={"name": PLAIN}, search={"sgd/lr": 0.1})
    assert config.space["adamw/lr"] == FloatDomain(low=1e-3, high=1e-2, log=True, when={"optimizer": ("adamw",)})
    assert config.space["sgd/lr"] == ConstantDomain(value=0.1, when={"optimizer": ("sgd",)})
    changed = sweep(
        space="spatial_zoo",
        search={"model": [LSAS, "senet_resnet29_cifar"], "lsas/order": {"low": 2, "when": {"model": LSAS}}},
    )
    assert changed.space["lsas/order"] == IntDomain(low=2, high=5, when={"model": LSAS})


def test_a_narrowed_choice_removes_its_dependents() -> None:
    config = sweep(space="conv", model={"name": PLAIN}, search={"optimizer": ["adamw"]})
    assert not any(name.startswith("sgd/") for name in config.space)
    zoo = sweep(space="spatial_zoo", search={"optimizer": ["momentum", "adamw"], "fcvit/global_context": False})
    assert zoo.space["sgd/lr"].when == {"optimizer": ("momentum",)}
    assert not {"lamb/lr", "fcvit/similarity", "fcvit/num_heads"} & set(zoo.space)
    assert {"fcvit/mixing_steps", "lesa/fusion"} <= set(zoo.space)


def test_the_zoo_has_the_domains_of_its_networks() -> None:
    fixed = sweep(space="spatial_zoo", model={"name": LSAS})
    assert {"order", "stages", "lamb/lr"} <= set(fixed.space)
    two = sweep(space="spatial_zoo", search={"model": [LSAS, "lsas_resnet50", PLAIN]})
    assert {"lsas/stages", "lsas_large/stages"} <= set(two.space)
    assert "lesa/groups" not in two.space
    values = {"model": "lsas_resnet50", "lsas_large/stages": "FFTT", "sgd/lr": 0.1, "optimizer": "sgd"}
    trial = resolve_trial(two, 0, values)
    assert trial.model.name == "lsas_resnet50"
    assert trial.model.options == {"stages": "FFTT"}
    assert (trial.training.lr, trial.training.optimizer) == (0.1, "sgd")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"space": "lsass", "model": {"name": LSAS}}, "space: unknown 'lsass'. Did you mean 'lsas'?"),
        ({"space": 3, "model": {"name": LSAS}}, "space: unknown 3. Known: adaptive_span, "),
        ({"spce": "lsas", "model": {"name": LSAS}}, "spce: unknown setting. Did you mean 'space'?"),
        ({"space": "lsas"}, "model: is missing; name a network under model.name"),
        (
            {"space": "lsas", "model": {"name": BIASED}},
            "space: lsas has nothing for sb_resnet29_cifar. Use space: spatial_bias, or space: spatial_zoo",
        ),
        ({"space": "lsas", "model": {"name": "lsas_resnet29_cifr"}}, "model.name: unknown 'lsas_resnet29_cifr'. Did "),
        (
            {"space": "lsas", "model": {"name": LSAS}, "search": {"ordre": [1]}},
            "search.ordre: neither a training setting nor an option of lsas_resnet29_cifar. Did you mean 'order'?",
        ),
        (
            {"space": "lsas", "model": {"name": LSAS}, "search": {"stages": ["FT"]}},
            "search.stages: got 'FT' for lsas_resnet29_cifar; stages is a sequence of 3 bools, one per stage, or as ",
        ),
        (
            {"space": "lsas", "model": {"name": LSAS}, "search": {"order": {"lo": 1}}},
            "search.order.lo: unknown setting. Did you mean 'low'?",
        ),
    ],
)
def test_problems_of_a_named_space_are_reported(settings: dict[str, Any], message: str) -> None:
    assert faults(**settings)[0].startswith(message)


def test_names_that_set_the_same_setting_together_are_reported() -> None:
    rate = {"type": "float", "low": 0.1, "high": 0.2}
    assert faults(model={"name": PLAIN}, search={"slow/lr": rate, "fast/lr": rate}) == [
        "search.fast/lr: sets lr, as search.slow/lr does. Give them conditions (when) that exclude each other"
    ]
    (message,) = faults(model={"name": PLAIN}, search={"a b/lr": rate})
    assert message.startswith("search.a b/lr: a searched name is what it sets, or a label, a slash and what it sets")
    assert faults(search={"any/model": [PLAIN]})[0].startswith("search.any/model: a searched name is")
    assert faults(model={"name": PLAIN}, search={"slow/optimizer": ["sdg"]}) == [
        "search.slow/optimizer: unknown 'sdg'. Did you mean 'sgd'?"
    ]
    assert faults(model={"name": PLAIN}, search={"long/epochs": [1]})[0].startswith("trial_scheduler.grace_epochs: ")
    assert sweep(model={"name": PLAIN}, search={"long/epochs": [20, 30]}).max_epochs == 30


def test_dropout_is_searched_like_any_option() -> None:
    config = sweep(model={"name": LSAS}, search={"drop_path_rate": {"type": "float", "low": 0.0, "high": 0.3}})
    assert resolve_trial(config, 0, {"drop_path_rate": 0.1}).model.options == {"drop_path_rate": 0.1}
    assert faults(model={"name": LSAS}, search={"drop_path_rate": [1.5]})[0].startswith(
        "search.drop_path_rate: got 1.5 for lsas_resnet29_cifar; drop_path_rate is a finite number from 0 to 0.99."
    )


def test_a_foreign_configuration_is_projected_onto_the_space() -> None:
    space = SearchSpace(
        {
            "optimizer": ChoiceDomain(choices=("sgd", "adamw")),
            "sgd/lr": FloatDomain(low=0.01, high=0.1, when={"optimizer": "sgd"}),
            "adamw/lr": FloatDomain(low=1e-4, high=1e-2, when={"optimizer": "adamw"}),
            "order": IntDomain(low=1, high=3),
            "stages": ConstantDomain(value="FFT"),
        }
    )
    found = space.project({"optimizer": "adamw", "lr": 1e-3, "order": 5, "stages": "FFT", "ramp": 2.0})
    assert found.values == {"optimizer": "adamw", "adamw/lr": 1e-3, "stages": "FFT"}
    assert found.left_out == {"order": "is outside its domain (whole numbers, 1 to 3)", "ramp": "is not searched here"}
    # without the choice it hangs on, a value cannot be placed
    assert space.project({"lr": 1e-3}).left_out == {"lr": "is not searched here"}
    assert space.project({"sgd/lr": 0.05, "optimizer": "sgd"}).values["sgd/lr"] == 0.05
    assert space.project({"stages": "TTT"}).left_out == {"stages": "is outside its domain (FFT)"}
