"""Learning rate of every step of every recipe, against the formulas of the authors' code written out here."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from orchestrator.config.recipe import load_recipe
from orchestrator.config.recipes import list_recipes, recipe_path
from orchestrator.config.sections.training import TrainingConfig
from orchestrator.training.optimizer.lr_schedule import LrSchedule
from orchestrator.training.optimizer.optimizer import peak_lr

STEPS = 4
"""Steps of an epoch."""

IMAGENET_STEPS = 10_009
"""Batches of 128 of the 1,281,167 images of ImageNet."""


def rates(training: TrainingConfig, updates: range | list[int], steps: int = STEPS) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak_lr(training))
    schedule = LrSchedule(optimizer, training, steps)
    seen = []
    for update in updates:
        schedule.step_update(update)
        seen.append(schedule.lr)
    return seen


def training_of(name: str) -> TrainingConfig:
    return TrainingConfig(**load_recipe(name).settings["training"])


def cosine(share: float) -> float:
    return (1 + math.cos(math.pi * share)) / 2


def parker(peak: float) -> Callable[[int, int], float]:
    """Epochs from 1: a tenth of the peak more each, a cosine over 100 epochs counted from the tenth."""
    return lambda epoch, _: peak * ((epoch + 2) / 10 if epoch + 1 < 10 else cosine((epoch + 1 - 9) / 100))


def yang(epoch: int, step: int) -> float:
    """Five epochs up from 1e-6, then a cosine over the ninety that follow, both per step."""
    done = epoch + step / STEPS
    return 1e-6 + (0.05 - 1e-6) * done / 5 if done < 5 else 0.05 * cosine((done - 5) / 90)


def zhong(*milestones: int) -> Callable[[int, int], float]:
    return lambda epoch, _: 0.1 * 0.1 ** sum(epoch >= milestone for milestone in milestones)


def of_timm(peak: float, warmup_lr: float, warmup: int) -> Callable[[int, int], float]:
    """Cosine per epoch over 300 epochs, whose beginning the warm-up replaces, and ten epochs at the end of it."""

    def rate(epoch: int, _: int) -> float:
        if epoch < warmup:
            return warmup_lr + (peak - warmup_lr) * epoch / warmup
        return 1e-6 + (peak - 1e-6) * cosine(epoch / 300) if epoch < 300 else 1e-6

    return rate


EXPECTED: dict[tuple[str, str], tuple[int, Callable[[int, int], float]]] = {
    ("lesa", "imagenet"): (95, yang),
    ("lsas", "cifar10"): (164, zhong(81, 122)),
    ("lsas", "cifar100"): (164, zhong(81, 122)),
    ("lsas", "stl10"): (164, zhong(81, 122)),
    ("lsas", "imagenet"): (100, zhong(30, 60, 90)),
    ("fcvit", "imagenet"): (310, of_timm(1e-3, 1e-6, 5)),
    ("spatial_bias", "imagenet"): (310, of_timm(3.5e-3, 1e-4, 3)),
}
"""Epochs and rate by (epoch, step), both from 0, for family and dataset."""

BY_NAME = {
    "adaptive_span_cifar100": (100, parker(0.05)),
    "local_attention_cifar100": (100, parker(0.05)),
    "conv_cifar100": (100, parker(0.2)),
}


def expected_of(name: str) -> tuple[int, Callable[[int, int], float]] | None:
    return BY_NAME.get(name) or EXPECTED.get((recipe_path(name).parent.name, load_recipe(name).dataset))


@pytest.mark.parametrize("name", [name for name in list_recipes() if expected_of(name)])
def test_a_recipe_has_the_learning_rates_of_the_authors(name: str) -> None:
    training = training_of(name)
    epochs, rate = expected_of(name) or (0, parker(0))
    assert training.epochs == epochs
    expected = [rate(epoch, step) for epoch in range(epochs) for step in range(STEPS)]
    assert rates(training, range(epochs * STEPS)) == pytest.approx(expected, rel=1e-9)


def test_the_recipes_of_every_paper_are_compared() -> None:
    compared = {recipe_path(name).parent.name for name in list_recipes() if expected_of(name)}
    assert compared == {"adaptive_span", "lesa", "lsas", "fcvit", "spatial_bias"}


def test_the_rates_of_adaptive_span_at_some_epochs() -> None:
    epochs = [1, 9, 10, 60, 80, 90, 100]
    seen = rates(training_of("adaptive_span_cifar100"), [(epoch - 1) * STEPS for epoch in epochs])
    assert seen == pytest.approx([0.0100, 0.0500, 0.05, 0.0242, 0.0097, 0.0043, 0.0010], abs=5e-5)
    assert seen[-1] / 0.05 == pytest.approx(0.02, abs=2e-4)


def test_the_warmup_of_lesa_is_that_of_its_code_up_to_one_step() -> None:
    """Their first step has 1 / (5 x 10,009) of the peak, and the last one of the warm-up all of it."""
    updates = [0, 1, 25_000, 5 * IMAGENET_STEPS - 1, 5 * IMAGENET_STEPS, 50 * IMAGENET_STEPS, 95 * IMAGENET_STEPS - 1]
    warm, total = 5 * IMAGENET_STEPS, 90 * IMAGENET_STEPS
    theirs = [0.05 * ((n + 1) / warm if n < warm else cosine((n - warm) / total)) for n in updates]
    ours = rates(training_of("lesa_resnet50_imagenet"), updates, steps=IMAGENET_STEPS)
    assert ours == pytest.approx(theirs, abs=1.01e-6)


POLY = {0: 2e-4, 20_000: 2e-4 * 0.5**0.9, 36_000: 2e-4 * 0.1**0.9, 39_999: 2e-4 * (1 / 40_000) ** 0.9}
"""Of 40,000 iterations, without a warm-up."""

COCO = 118_287
"""Training images of COCO 2017."""


def milestones(peak: float, batch: int, first: int, second: int) -> tuple[int, dict[int, float]]:
    """Return steps and rates of a warm-up of 500 iterations from a thousandth and two decays by ten."""
    steps = COCO // batch
    warm = {0: peak / 1000, 250: peak * 1.001 / 2, 499: peak * (0.001 + 0.999 * 499 / 500), 500: peak}
    later = {
        first * steps - 2: peak,
        first * steps: peak / 10,
        second * steps - 2: peak / 10,
        second * steps: peak / 100,
    }
    return steps, {**warm, **later}


BY_ITERATION = {
    "fcvit_b12_fpn_ade20k": (4_000, POLY),
    "fcvit_b24_fpn_ade20k": (4_000, POLY),
    "fcvit_b12_mask_rcnn_coco": milestones(2e-4, 32, 8, 11),
    "fcvit_b24_mask_rcnn_coco": milestones(2e-4, 32, 8, 11),
    "lesa_resnet50_mask_rcnn_coco": milestones(0.01, 8, 16, 19),
    "lesa_wrn50_htc_coco": milestones(0.005, 4, 16, 19),
}
"""Steps of an epoch, and rates by iteration."""


def test_recipes_of_other_tasks_are_compared_by_iteration() -> None:
    assert set(BY_ITERATION) == {name for name in list_recipes() if "task" in load_recipe(name).settings}


@pytest.mark.parametrize("name", BY_ITERATION)
def test_the_rates_of_an_iteration(name: str) -> None:
    training = training_of(name)
    steps, expected = BY_ITERATION[name]
    assert training.epoch_steps in (None, steps)
    assert rates(training, list(expected), steps) == pytest.approx(list(expected.values()), rel=1e-9)


@pytest.mark.parametrize("name", list_recipes())
def test_a_recipe_decays_what_the_authors_decay(name: str) -> None:
    of_mmcv = "task" in load_recipe(name).settings  # whose optimisers leave nothing out
    everything = of_mmcv or recipe_path(name).parent.name in {"adaptive_span", "lesa", "lsas"}
    assert training_of(name).decay_norms_and_biases == everything
