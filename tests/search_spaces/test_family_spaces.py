"""Named spaces: complete, valid for their networks, and all samples build and run."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import optuna
import pytest
import torch

import models
from orchestrator.config import SweepConfig, resolve_trial
from orchestrator.config.recipe import load_recipe
from orchestrator.config.recipes import list_recipes
from orchestrator.errors import ConfigError
from search_spaces import (
    KINDS,
    SearchSpace,
    SpaceError,
    kind_of,
    list_spaces,
    named_space,
    networks_of,
    paper_settings,
    setting_of,
)
from tests.support.networks.small_networks import SMALL_NETWORKS

pytestmark = pytest.mark.usefixtures("one_thread")

ZOO = "spatial_zoo"
HEADED = ("segmentation", "detection")
"""Spaces of networks with the heads of a task."""
SAMPLES = 200
SIDE = 8  # of the images, in pixels
RAN: set[tuple[Any, ...]] = set()
"""Networks that one of the tests has built and run."""
SMALL_KINDS = [name for name, kind in KINDS.items() if name == kind.family]


def sweep(space: str, **settings: Any) -> SweepConfig:
    return SweepConfig(name="whole", dataset={"name": "digits"}, space=space, resources={"workers": 1}, **settings)


def corners(space: SearchSpace) -> Iterator[Mapping[str, Any]]:
    """Iterate over the corners of a space.

    In every branch all first corners come first, then each other corner of one name at a time: of all names in the
    first branch, of the conditional names in the others.
    """
    for number, branch in enumerate(space.branches()):
        active = [name for name in space.active(branch) if name not in branch]
        base = {**branch, **{name: space[name].corners()[0] for name in active}}
        yield base
        varied = [name for name in active if number == 0 or space[name].when]
        yield from ({**base, name: value} for name in varied for value in space[name].corners()[1:])


def drawn(space: SearchSpace, count: int) -> Iterator[Mapping[str, Any]]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(count):
        values = space.sample(study.ask())
        assert space.strays(values) == []
        yield values


def run_all(config: SweepConfig, configurations: Iterator[Mapping[str, Any]]) -> Counter[str]:
    """Build and run each network that differs from all before it; return how many of each name were drawn."""
    counts: Counter[str] = Counter()
    image = torch.zeros(1, 1, SIDE, SIDE)
    for number, values in enumerate(configurations):
        trial = resolve_trial(config, number, values).model
        counts[trial.name] += 1
        # rates and first values of parameters change no shape
        shape = {key: value for key, value in trial.options.items() if not key.endswith(("_rate", "_init", "_penalty"))}
        key = (trial.name, *sorted(shape.items()))
        if key in RAN:
            continue
        RAN.add(key)
        network = models.create_model(trial.name, num_classes=10, in_chans=1, image_size=SIDE, **trial.options)
        with torch.no_grad():
            assert network.eval()(image).shape == (1, 10), trial
    return counts


def test_every_network_is_of_one_kind_whose_options_it_has() -> None:
    listed = [network for kind in KINDS.values() for network in kind.networks]
    assert sorted(listed) == models.list_models()
    for kind in KINDS.values():
        options = [set(models.model_options(network)) for network in kind.networks]
        assert all(set(kind.options) <= known for known in options)
        assert kind.family in list_spaces()
    assert {kind_of(network.model) for network in SMALL_NETWORKS.values()} == set(SMALL_KINDS)


@pytest.mark.parametrize("space", [space for space in list_spaces() if space not in HEADED])
def test_a_sweep_over_a_named_space_is_valid_for_each_of_its_networks(space: str) -> None:
    for network in networks_of(space)[:: 1 if space != ZOO else 7]:
        config = sweep(space, model={"name": network})
        assert config.space.fingerprint == named_space(space, [network]).fingerprint
        assert "model" not in config.space
    everything = sweep(space, search={"model": networks_of(space)})
    assert everything.space["model"].corners() == tuple(networks_of(space))


def test_the_space_of_segmentation_varies_backbone_and_head() -> None:
    settings = {"name": "whole", "task": "segmentation", "dataset": {"name": "digits-scenes"}, "space": "segmentation"}
    config = SweepConfig(**settings, model={"name": "sb_resnet29_cifar"})
    names = {setting_of(name) for name in config.space}
    assert {"lr", "bias_channels", "head", "fpn_channels", "head_channels", "head_dropout"} <= names
    assert "label_smoothing" not in names
    assert config.space["fpn_channels"].when == {"head": "semantic_fpn"}
    with pytest.raises(ConfigError, match="neither a training setting nor an option of sb_resnet29_cifar"):
        sweep("segmentation", model={"name": "sb_resnet29_cifar"})


@pytest.mark.parametrize("task", ["detection", "instances"])
def test_the_space_of_detection_varies_backbone_and_head(task: str) -> None:
    settings = {"name": "whole", "task": task, "dataset": {"name": "digits-scenes"}, "space": "detection"}
    config = SweepConfig(**settings, search={"model": {"choices": ["sb_resnet29_cifar", "adaptive_resnet26_small"]}})
    names = {setting_of(name) for name in config.space}
    widths = {"fpn_channels", "head_channels", "anchor_scale", "frozen_stages"}
    assert {"lr", "bias_channels", "max_span", *widths} <= names
    assert "label_smoothing" not in names


@pytest.fixture
def no_random_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill weights with zeros instead of random numbers, which take a quarter of the time; only shapes are tested."""
    for name in ("normal_", "uniform_"):
        monkeypatch.setattr(torch.Tensor, name, lambda tensor, *_, **__: tensor.zero_())


@pytest.mark.slow
@pytest.mark.usefixtures("no_random_weights")
@pytest.mark.parametrize("kind", SMALL_KINDS)
def test_samples_of_a_family_space_build_and_run(kind: str) -> None:
    config = sweep(kind, model={"name": KINDS[kind].networks[0]})
    both = itertools.chain(corners(config.space), drawn(config.space, SAMPLES))
    assert run_all(config, both).total() > SAMPLES


@pytest.mark.slow
@pytest.mark.usefixtures("no_random_weights")
def test_samples_of_the_zoo_build_and_run() -> None:
    config = sweep(ZOO)
    smallest = [KINDS[kind].networks[0] for kind in SMALL_KINDS]
    assert config.space["model"].corners() == tuple(smallest)
    assert set(run_all(config, corners(config.space))) == set(smallest)
    assert set(run_all(config, drawn(config.space, SAMPLES))) == set(smallest)


def test_in_the_zoo_each_setting_is_searched_once_under_the_same_conditions() -> None:
    space = named_space(ZOO, models.list_models())
    for branch in space.branches():
        settings = [setting_of(name) for name in space.active(branch)]
        assert len(settings) == len(set(settings)), branch
        own = KINDS[kind_of(str(branch["model"])) or ""].options
        assert {"lr", "weight_decay", "drop_path_rate", "global_batch_size", "lr_schedule"} <= set(settings)
        assert set(settings) & set(models.model_options(str(branch["model"]))) <= set(own)


def test_numbers_of_layers_are_lists_in_a_sweep_and_texts_in_its_search() -> None:
    fixed = {"fusion": "full", "fusion_groups": [1, 2], "keep_first_conv": [True] * 4}
    model = {"name": "lesa_resnet26_cifar", "options": fixed}
    config = sweep("lesa", model=model, search={"fusion_shrink": [2, "4"]})
    assert "fusion_groups" not in config.space
    assert SweepConfig.model_validate_json(config.model_dump_json()) == config
    for shrink in (2, "4"):
        options = resolve_trial(config, 0, {"fusion_shrink": shrink}).model.options
        assert options["fusion_groups"] == (1, 2)
        assert models.check_options("lesa_resnet26_cifar", options) == []
    with pytest.raises(ConfigError, match=r"mlp_ratios: got \(4, 4\) for .*, or 3 of them, .*Use '4-4-4'"):
        sweep("fcvit", model={"name": "fcvit_micro_cifar", "options": {"mlp_ratios": [4, 4]}})


def test_unknown_names_of_spaces_and_networks_are_errors() -> None:
    with pytest.raises(SpaceError, match="no space is called 'zoo'; there are adaptive_span, "):
        named_space("zoo")
    with pytest.raises(SpaceError, match=r"conv serves conv_resnet26_small, .*; got sb_resnet50"):
        named_space("conv", ["sb_resnet50"])


@pytest.mark.parametrize("network", models.list_models())
def test_the_papers_own_values_lie_in_the_space_of_their_network(network: str) -> None:
    kind = KINDS[kind_of(network) or ""]
    space = named_space(kind.family, [network])
    assert paper_settings(network)
    for paper in paper_settings(network):
        left_out = space.project(paper.settings).left_out
        # the windows of FCViT's paper are larger than the maps of small images
        assert set(left_out) <= ({"kernel_size_1", "kernel_size_2"} if network == "fcvit_micro_cifar" else set())


@pytest.mark.parametrize("name", [name for name in list_recipes() if "task" not in load_recipe(name).settings])
def test_the_papers_own_values_are_those_of_the_recipes(name: str) -> None:
    """Find every recipe among the published values, as far as they go; a backbone has its layer in no stage."""
    settings = load_recipe(name).settings
    network = settings["model"]["name"]
    recipe = {**settings["model"].get("options", {}), **settings["training"]}
    if set(recipe.get("stages", "")) == {"F"}:
        del recipe["stages"]
    agreeing = [
        paper
        for paper in paper_settings(network)
        if all(
            recipe[key] == value for key, value in paper.settings.items() if key in recipe and key != "drop_path_rate"
        )
    ]
    assert agreeing, network
