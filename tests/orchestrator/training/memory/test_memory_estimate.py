"""Estimate of a worker's memory: its shortcuts give what torch computes."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch import nn

from orchestrator.config import ModelConfig, TrainingConfig, TrialConfig
from orchestrator.data.datasets import DatasetFacts
from orchestrator.training.memory import memory_estimate
from search_spaces import KINDS

FACTS = DatasetFacts(image_size=32, in_chans=3, num_classes=10, train_images=300)


@pytest.mark.parametrize(
    ("name", "momentum"),
    [*((name, 0.9) for name in ("sgd", "momentum", "nesterov", "adam", "adamw", "lamb", "lion")), ("momentum", 0.0)],
)
def test_the_state_of_known_optimisers_is_that_after_a_step(name: str, momentum: float) -> None:
    with torch.device("meta"):
        network = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    network[0].requires_grad_(False)
    training = TrainingConfig(optimizer=name, momentum=momentum)
    expected = memory_estimate._bytes_after_step(network, training, 0)
    assert memory_estimate._optimizer_bytes(network, training, 0) == expected


@pytest.mark.parametrize("name", sorted({kind.networks[0] for kind in KINDS.values()}))
def test_the_estimate_is_that_with_every_operation_of_torch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    training: dict[str, Any] = {
        "optimizer": "adamw",
        "mixup_alpha": 0.2,
        "gradient_checkpointing": name.startswith("sb"),
    }
    trial = TrialConfig(number=0, model=ModelConfig(name=name), training=TrainingConfig(**training), seed=0)
    found = memory_estimate.estimate_memory(trial, FACTS, 1)
    monkeypatch.setattr(memory_estimate, "MetaOperations", contextlib.nullcontext)
    monkeypatch.setattr(memory_estimate, "on_shapes", lambda: torch.device("meta"))
    assert memory_estimate.estimate_memory(trial, FACTS, 1) == found
    assert found.activations > 0
