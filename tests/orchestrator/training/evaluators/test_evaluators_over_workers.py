"""Evaluators over two real processes: the same metrics as in one, to the last bit."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from orchestrator.errors import DataError
from orchestrator.training.evaluators import exchange
from orchestrator.training.evaluators.average_precision import DetectionEvaluator
from orchestrator.training.evaluators.segmentation import SegmentationEvaluator
from orchestrator.training.workers import Workers
from tests.support.tasks.random_detections import Pair, random_pairs
from tests.support.training_pieces import join_group, run_ranks

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

IMAGES = 15
SHARES: dict[str, list[list[int]]] = {
    "an odd number of images": [list(range(0, IMAGES, 2)), list(range(1, IMAGES, 2))],
    "the last batch filled with the first image": [list(range(0, IMAGES, 2)), [*range(1, IMAGES, 2), 0]],
    "in another order": [list(range(8, IMAGES)), list(range(7, -1, -1))],
    "a rank without images": [[], list(range(IMAGES))],
    "a second rank without images": [list(range(IMAGES)), []],
}
KINDS = ("boxes and masks", "class maps")


def class_map_pairs() -> list[tuple[Any, dict[str, Any]]]:
    generator = torch.Generator().manual_seed(7)
    maps = [torch.randint(0, 5, (20, 30), generator=generator) for _ in range(IMAGES)]
    for each in maps:
        each[:3] = 255
    found = [torch.randint(0, 5, (20, 30), generator=generator) for _ in range(IMAGES)]
    return [(found[place], {"image_id": place, "class_map": maps[place]}) for place in range(IMAGES)]


def evaluators() -> dict[str, tuple[Callable[[], DetectionEvaluator | SegmentationEvaluator], Sequence[Any]]]:
    pairs: list[Pair] = random_pairs(5, images=IMAGES, classes=4)
    return {
        "boxes and masks": (lambda: DetectionEvaluator(masks=True), pairs),
        "class maps": (lambda: SegmentationEvaluator(5), class_map_pairs()),
    }


def measure(kind: str, share: list[int], workers: Workers) -> dict[str, float]:
    create, pairs = evaluators()[kind]
    evaluator = create()
    for place in share:
        evaluator.update([pairs[place][0]], [pairs[place][1]])
    evaluator.all_reduce(workers)
    return evaluator.compute()


def conflict(workers: Workers) -> str:
    """Return the error of two ranks that have different images of one number."""
    evaluator = SegmentationEvaluator(2)
    evaluator.update([torch.zeros(2, 2)], [{"image_id": 3, "class_map": torch.full((2, 2), workers.rank)}])
    try:
        evaluator.all_reduce(workers)
    except DataError as error:
        return str(error)
    return ""


def run_rank(rank: int, world_size: int, folder: str) -> None:
    workers = join_group(rank, world_size, Path(folder))
    exchange._ROUND = 10_000  # so that the contents arrive in many parts
    found = {
        f"{kind}, {name}": measure(kind, shares[rank], workers) for kind in KINDS for name, shares in SHARES.items()
    }
    results = {"metrics": found, "conflict": conflict(workers)}
    (Path(folder) / f"rank-{rank}.json").write_text(json.dumps(results))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("pair")
    run_ranks(run_rank, 2, str(folder))
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_measure_as_one(ranks: list[dict[str, Any]], kind: str) -> None:
    alone = measure(kind, list(range(IMAGES)), Workers())
    assert 0 < next(iter(alone.values())) < 1
    for rank in ranks:
        for name in SHARES:
            assert rank["metrics"][f"{kind}, {name}"] == pytest.approx(alone, rel=0, abs=0, nan_ok=True), name


def test_two_images_of_one_number_fail_on_all_ranks(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert "image_id: 3 comes twice, with different annotations" in rank["conflict"]


def test_a_combined_evaluator_takes_no_further_image() -> None:
    for create, pairs in evaluators().values():
        evaluator = create()
        evaluator.all_reduce(Workers())
        with pytest.raises(RuntimeError, match="create another evaluator"):
            evaluator.update([pairs[0][0]], [pairs[0][1]])
