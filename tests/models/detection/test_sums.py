"""Losses as sums and counts, and the choice of samples by the seed of an image."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.common.options import ModelOptionError
from models.detection import DETECTORS, create_detector
from models.detection.sampling import ImageSampler, StepDraws
from models.detection.sums import sum_and_count
from tests.models.detection.scenes import SMALL, TINY, scenes

EVAL_NORM = dataclasses.replace(TINY, norm="eval")


def four_scenes() -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Return four images of 64 px with one to four objects, and a seed each."""
    generator = torch.Generator().manual_seed(1)
    images, targets = [], []
    for index in range(4):
        corners = torch.rand(index + 1, 2, generator=generator) * 40
        boxes = torch.cat([corners, corners + 8 + torch.rand(index + 1, 2, generator=generator) * 14], dim=1).double()
        masks = torch.zeros(index + 1, 64, 64, dtype=torch.uint8)
        class_map = torch.full((64, 64), 255 if index == 1 else 0, dtype=torch.uint8)
        for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
            mask[top:bottom, left:right] = 1
            class_map[top:bottom, left:right] = 2
        images.append(torch.rand(3, 64, 64, generator=generator, dtype=torch.double))
        labels = torch.randint(1, 4, (index + 1,), generator=generator)
        draw = torch.tensor(7 + index)
        targets.append({"boxes": boxes, "labels": labels, "masks": masks, "class_map": class_map, "draw": draw})
    return images, targets


def detector(name: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    return create_detector(name, EVAL_NORM, 3, **{**SMALL, "samples": 8, "loss_sums": True, **changes}).double()


def double_anchor_labels(rpn: Any) -> None:
    """Make the loss of objects double: torchvision's labels of anchors are single, and so is their loss."""
    usual = rpn.assign_targets_to_anchors

    def assign(*arguments: Any) -> tuple[list[Tensor], list[Tensor]]:
        labels, boxes = usual(*arguments)
        return [label.double() for label in labels], boxes

    rpn.assign_targets_to_anchors = assign


def total(pairs: dict[str, Tensor]) -> Tensor:
    return torch.stack([pair[0] / pair[1] for pair in pairs.values()]).sum()


@pytest.mark.parametrize("name", DETECTORS)
def test_one_batch_equals_two_ranks_whose_sums_and_counts_are_added(name: str) -> None:
    images, targets = four_scenes()
    results = []
    for shares in ([slice(0, 4)], [slice(0, 2), slice(2, 4)]):
        network = detector(name)
        if name != "retinanet":
            double_anchor_labels(network.rpn)
        parts = [network(images[share], targets[share]) for share in shares]
        pairs = {key: torch.stack([part[key] for part in parts]).sum(0) for key in parts[0]}
        total(pairs).backward()
        results.append((pairs, {key: each.grad for key, each in network.named_parameters()}))
    (whole, gradients), (added, of_ranks) = results
    assert whole.keys() == added.keys()
    for key, pair in whole.items():
        assert pair[1] > 1
        torch.testing.assert_close(pair, added[key], rtol=1e-10, atol=1e-10)
    for key, gradient in gradients.items():
        torch.testing.assert_close(gradient, of_ranks[key], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", DETECTORS)
def test_a_sum_over_its_count_is_the_mean_that_torchvision_returns(name: str) -> None:
    images, targets = scenes(torch.double)
    found = []
    for loss_sums in (True, False):
        network = detector(name, loss_sums=loss_sums)
        torch.manual_seed(3)
        found.append(network(images, targets))
    pairs, means = found
    assert pairs.keys() == means.keys()
    for key, mean in means.items():
        torch.testing.assert_close(pairs[key][0] / pairs[key][1], mean, rtol=1e-12, atol=0)


def test_losses_count_anchors_boxes_masks_and_cells() -> None:
    network = detector("htc", samples=6)
    images, targets = four_scenes()
    counts = {key: float(pair[1].detach()) for key, pair in network(images, targets).items()}
    assert counts["loss_objectness"] == counts["loss_rpn_box_reg"] == 4 * 256
    for stage in range(3):
        assert counts[f"loss_classifier_{stage}"] == counts[f"loss_box_reg_{stage}"] == 4 * 6
        assert counts[f"loss_mask_{stage}"] == 4  # a quarter of six boxes is one with an object
    ignored = int((targets[1]["class_map"][::8, ::8] == 255).sum())
    assert counts["loss_semantic"] == 4 * 64 - ignored
    of_images = detector("retinanet")(images, targets)
    assert [float(pair[1].detach()) for pair in of_images.values()] == [4, 4]


def test_the_mean_of_nothing_has_the_sum_zero_and_finite_gradients() -> None:
    layer = nn.Linear(2, 3)
    logits = layer(torch.zeros(0, 2))
    pair = sum_and_count(nn.functional.cross_entropy(logits, torch.zeros(0, dtype=torch.long)), torch.tensor(0))
    pair.sum().backward()
    assert pair.tolist() == [0, 0] and layer.weight.grad is not None and not bool(layer.weight.grad.any())
    assert sum_and_count(torch.tensor(torch.nan), torch.tensor(2)).isnan()[0]
    assert sum_and_count(torch.tensor(0.5, dtype=torch.bfloat16), torch.tensor(1001)).tolist() == [500.5, 1001]


def choose(seeds: list[int] | None, labels: list[Tensor], *, calls: int = 1) -> list[Tensor]:
    draws = StepDraws()
    sampler = ImageSampler(8, 0.25, draws)
    draws.begin(None if seeds is None else [{"draw": torch.tensor(seed)} for seed in seeds])
    for _ in range(calls):
        positive, negative = sampler(labels)
    assert int(sampler.positives) == sum(int(mask.sum()) for mask in positive)
    assert int(sampler.chosen) == sum(int(mask.sum()) for mask in (*positive, *negative))
    return [torch.stack(pair) for pair in zip(positive, negative, strict=True)]


def test_samples_follow_from_the_seed_of_the_image_and_the_call_alone() -> None:
    one, other = torch.tensor([1, 2, 1, -1] + [0] * 50), torch.tensor([3] + [0] * 20)
    before = torch.get_rng_state()
    first, second = choose([5, 2**63 - 1], [one, other])
    assert first.sum(1).tolist() == [2, 6] and second.sum(1).tolist() == [1, 7]
    assert bool((one[first[0].bool()] >= 1).all()) and bool((one[first[1].bool()] == 0).all())
    assert torch.equal(choose([-3, 5], [other, one])[1], first)  # elsewhere in another batch
    assert not torch.equal(choose([6], [one])[0], first)
    assert not torch.equal(choose([5], [one], calls=2)[0], first)
    assert not torch.equal(choose([5 + 2**32], [one])[0], first)
    assert torch.equal(torch.get_rng_state(), before)


def test_without_seeds_torchs_generator_decides() -> None:
    labels = [torch.tensor([1, 2, 1] + [0] * 50)]
    torch.manual_seed(0)
    positive, negative = ImageSampler.__mro__[1](8, 0.25)(labels)
    torch.manual_seed(0)
    assert torch.equal(choose(None, labels)[0], torch.stack([positive[0], negative[0]]))
    with pytest.raises(ModelOptionError, match="1 of 2 targets"):
        StepDraws().begin([{"draw": torch.tensor(1)}, {}])
