"""Sweeps of detection: what configuration and records take from the task, and settings that are refused."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config import SweepConfig
from orchestrator.config.tasks.registry import task_facts
from orchestrator.data.description import describe_dataset
from orchestrator.errors import ConfigError
from orchestrator.tracking.mlflow_datasets import dataset_input
from tests.support.tasks.few_scenes import write_scenes

TASKS = ("detection", "instances")


@pytest.mark.parametrize(("task", "annotation", "names"), [
    ("segmentation", "class_map", ["background", *map(str, range(10))]),
    ("detection", "boxes", [*map(str, range(10))]),
])  # fmt: skip
def test_a_dataset_is_recorded_with_the_classes_that_the_task_reads(
    task: str, annotation: str, names: list[str], tmp_path: Path
) -> None:
    assert task_facts(task).annotation == annotation
    described, _ = describe_dataset(str(write_scenes(tmp_path)), annotation)
    assert (described["class_names"], described["num_classes"]) == (names, len(names))
    assert len(described["splits"]["train"]["per_class"]) == len(names)
    assert str(names[:2])[1:-1].replace("'", '"') in dataset_input(described).dataset.profile


def sweep(**settings: Any) -> SweepConfig:
    base = {
        "name": "s",
        "task": "detection",
        "dataset": {"name": "digits-scenes"},
        "model": {"name": "conv_resnet26_small", "options": {"fpn_channels": 16}},
    }
    return SweepConfig(**{**base, **settings})


def test_a_sweep_has_the_objective_and_the_loss_of_the_task() -> None:
    config = sweep(search={"head": {"choices": ["faster_rcnn", "cascade_rcnn"]}})
    assert (config.objective.metric, config.objective.mode) == ("val/ap", "max")
    assert config.training.loss == "detector"
    masks = sweep(task="instances", objective=[{"metric": "val/mask_ap"}, {"metric": "latency_ms"}])
    assert [each.mode for each in masks.objectives] == ["max", "min"]
    assert sweep(task="instances").objective.metric == "val/mask_ap"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": {"name": "conv_resnet26_small", "options": {"head_chanels": 8}}}, "Did you mean 'head_channels'?"),
        ({"model": {"name": "conv_resnet26_small", "options": {"head": "mask_rcnn"}}}, "model.options.head"),
        ({"search": {"fpn_chanels": {"choices": [8, 16]}}}, "Did you mean 'fpn_channels'?"),
        ({"training": {"gradient_checkpointing": True}}, "detection does not have it yet"),
        ({"training": {"on_out_of_memory": "accumulate"}}, "training.on_out_of_memory: got 'accumulate'; detection"),
        (
            {"model": {"name": "lesa_resnet26_cifar"}},
            "lesa_resnet26_cifar is built for images of one size. Use dataset.r",
        ),
        ({"training": {"compile": True}}, "training.compile: got True; detection does not have it yet"),
        ({"training": {"crop_px": 48}}, "training.crop_px: got 48; detection does not use it"),
        ({"training": {"loss": "cross_entropy"}}, "training.loss: got 'cross_entropy'; detection has no such loss"),
        ({"objective": {"metric": "val/mask_ap"}}, "objective.metric: unknown 'val/mask_ap'. Did you mean 'val/ap'?"),
        ({"dataset": {"name": "digits"}}, "got digits; its images have one label each, and detection needs boxes"),
        ({"dataset": {"name": "digits-scenes", "tta": "hflip"}}, "dataset.tta: got 'hflip'; detection does not"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        sweep(**settings)
    assert message in str(caught.value)


def test_the_space_of_a_family_serves_once_what_the_task_does_not_use_is_set() -> None:
    family: dict[str, Any] = {"model": {"name": "sb_resnet29_cifar"}, "space": "spatial_bias"}
    with pytest.raises(ConfigError) as caught:
        sweep(**family)
    named = re.findall(r"or set what a named space varies: training\.(\w+): (\S+)", str(caught.value))
    assert {name for name, _ in named} == {"cutmix_alpha", "label_smoothing"}
    config = sweep(**family, training={name: json.loads(value) for name, value in named})
    assert "bias_channels" in config.space


def test_a_sweep_without_the_package_of_its_metrics_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    hidden = "faster_coco_eval"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == hidden else found(name, *rest))
    for task in TASKS:
        with pytest.raises(ConfigError, match="its metrics need faster-coco-eval, which is not installed") as caught:
            sweep(task=task)
        assert "Use pip install 'spatialsweep[detection]'" in str(caught.value)
    SweepConfig(name="s", dataset={"name": "digits"}, model={"name": "conv_resnet26_small"})
