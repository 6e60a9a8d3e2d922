"""Gradient checkpointing: the same numbers with less memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from timm.models import checkpoint_seq
from torch import Tensor, nn

from models.common.staged import StagedNetwork
from orchestrator.config import ModelConfig, TrainingConfig, TrialConfig
from orchestrator.data.datasets import dataset_facts
from orchestrator.errors import TrialFailedError
from orchestrator.training.memory import memory_estimate
from orchestrator.training.memory.memory_estimate import estimate_memory
from orchestrator.training.tasks.classification import Classification
from orchestrator.training.train_state import TrainState
from orchestrator.training.workers import Workers
from tests.support.training_pieces import differences, without_norm

pytestmark = pytest.mark.usefixtures("one_thread")

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "batch norm, stochastic depth": lambda: timm.create_model(
        "conv_resnet26_small", num_classes=10, in_chans=1, drop_path_rate=0.3
    ),
    "spans": lambda: timm.create_model("adaptive_resnet26_small", num_classes=10, in_chans=1),
    "norms of attention": lambda: timm.create_model("lesa_resnet26_cifar", num_classes=10, in_chans=1, img_size=8),
    "of timm": lambda: timm.create_model("resnet10t", num_classes=10, in_chans=1, drop_rate=0.2),
}


def trained(build: Callable[[], nn.Module], **settings: Any) -> TrainState:
    """Train for two steps."""
    torch.manual_seed(0)
    training = TrainingConfig(optimizer="adamw", lr=1e-3, ema_decay=0.5, **settings)
    state = TrainState(build(), training, Workers(), steps_per_epoch=10, task=Classification())
    generator = torch.Generator().manual_seed(1)
    state.begin_epoch()
    for update in range(2):
        torch.manual_seed(update)
        images = torch.randn(6, 1, 8, 8, generator=generator)
        state.step(images, torch.arange(6), update=update, global_images=6)
    return state


@pytest.mark.parametrize(("kind", "parts"), [*((kind, 1) for kind in NETWORKS), (next(iter(NETWORKS)), 2)])
def test_training_is_bit_equal(kind: str, parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights, running statistics, their counts, the average of the weights and the state of the optimiser."""
    calls = []
    usual = torch.utils.checkpoint.checkpoint

    def counted(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        return usual(*arguments, **options)

    plain = trained(NETWORKS[kind], accumulation_steps=parts)
    monkeypatch.setattr(torch.utils.checkpoint, "checkpoint", counted)
    again = trained(NETWORKS[kind], accumulation_steps=parts, gradient_checkpointing=True)
    assert calls
    assert differences(again.state_dict(), plain.state_dict()) == []


def test_terms_that_are_computed_again_count_each_batch_once() -> None:
    def build(recompute_terms: bool) -> nn.Module:
        return timm.create_model(
            "lesa_resnet26_cifar", num_classes=10, in_chans=1, img_size=8, recompute_terms=recompute_terms
        )

    again, plain = trained(lambda: build(True)), trained(lambda: build(False))
    assert differences(again.state_dict(), plain.state_dict()) == []


class OfAFile(nn.Module):
    """Network whose switch has a name of its own."""

    again = False

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Linear(4, 10)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.again = enable

    def forward(self, x: Tensor) -> Tensor:
        y = torch.utils.checkpoint.checkpoint(self.body, x, use_reentrant=False) if self.again else self.body(x)
        logits: Tensor = self.head(y.mean((2, 3)))
        return logits


def test_a_switch_of_another_name_counts_each_batch_once() -> None:
    again, plain = trained(OfAFile, gradient_checkpointing=True), trained(OfAFile)
    assert differences(again.state_dict(), plain.state_dict()) == []


def test_a_network_without_blocks_is_refused() -> None:
    with pytest.raises(
        TrialFailedError, match=r"gradient_checkpointing: got True; Sequential does not support it\. Le"
    ):
        trained(lambda: without_norm({}), gradient_checkpointing=True)


class Chain(StagedNetwork):
    """Three blocks of 64 -> 256 -> 64 numbers, and a classifier."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), in_chans=1, num_classes=10, drop_rate=0.0)
        self.blocks = nn.Sequential(*(self._block() for _ in range(3)))
        self.classifier = nn.Linear(64, 10)

    @staticmethod
    def _block() -> nn.Module:
        return nn.Sequential(nn.Linear(64, 256), nn.Sigmoid(), nn.Linear(256, 64), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        logits: Tensor = self.classifier(checkpoint_seq(self.blocks, x) if self.grad_checkpointing else self.blocks(x))
        return logits


@pytest.mark.parametrize(
    ("checkpointing", "floats"),
    [
        (False, 64 + 3 * (256 + 64)),  # the input, and the outputs of all sigmoids
        (True, 4 * 64 + 256 + 64),  # the inputs of all blocks and of the classifier, and the inside of one block
    ],
)
def test_the_memory_estimate_counts_one_block(
    checkpointing: bool, floats: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_estimate, "build_network", lambda _: Chain())
    training = TrainingConfig(global_batch_size=32, gradient_checkpointing=checkpointing)
    trial = TrialConfig(number=0, model=ModelConfig(name="chain"), training=training, seed=0)
    assert estimate_memory(trial, dataset_facts("digits", None, 8), workers=1).activations == 32 * 4 * floats


def test_the_memory_estimate_of_a_family_falls() -> None:
    facts = dataset_facts("digits", None, 8)
    usual = torch.utils.checkpoint.checkpoint

    def activations(**settings: Any) -> int:
        model = ModelConfig(name="conv_resnet26_large")
        trial = TrialConfig(number=0, model=model, training=TrainingConfig(**settings), seed=0)
        return estimate_memory(trial, facts, workers=1).activations

    assert activations(gradient_checkpointing=True) < 0.6 * activations()
    assert torch.utils.checkpoint.checkpoint is usual
