"""Mean intersection over union and accuracies: by hand, and against a loop over all pixels."""

from __future__ import annotations

import math

import pytest
import torch

from orchestrator.errors import DataError
from orchestrator.training.evaluators.segmentation import SegmentationEvaluator


def measured(predictions: list[torch.Tensor], maps: list[torch.Tensor], classes: int) -> SegmentationEvaluator:
    evaluator = SegmentationEvaluator(classes)
    evaluator.update(predictions, [{"class_map": each, "image_id": place} for place, each in enumerate(maps)])
    return evaluator


def test_an_example_by_hand() -> None:
    """Class 2 is only predicted and counts as 0; class 3 is absent and does not count; a pixel is ignored."""
    prediction = torch.tensor([[0, 0, 1], [1, 2, 1]])
    truth = torch.tensor([[0, 0, 1], [0, 1, 255]], dtype=torch.uint8)
    evaluator = measured([prediction], [truth], 4)
    # Class 0: 2 of 3 pixels, union 3. Class 1: 1 of 2 pixels, union 3.
    assert evaluator.class_ious().tolist() == pytest.approx([2 / 3, 1 / 3, 0, math.nan], nan_ok=True)
    assert evaluator.compute() == pytest.approx(
        {"miou": (2 / 3 + 1 / 3 + 0) / 3, "mean_accuracy": (2 / 3 + 1 / 2) / 2, "pixel_accuracy": 3 / 5}
    )


def test_equals_a_loop_over_pixels() -> None:
    generator = torch.Generator().manual_seed(0)
    classes = 6
    maps = [torch.randint(0, classes - 1, (9, 7 + place), generator=generator) for place in range(5)]
    for each in maps:
        each[torch.rand(each.shape, generator=generator) < 0.2] = 255
    predictions = [torch.randint(0, classes - 1, each.shape, generator=generator) for each in maps]
    counts = {"both": [0] * classes, "either": [0] * classes, "truth": [0] * classes}
    for prediction, truth in zip(predictions, maps, strict=True):
        for found, true in zip(prediction.flatten().tolist(), truth.flatten().tolist(), strict=True):
            if true != 255:
                for kind in range(classes):
                    counts["both"][kind] += found == true == kind
                    counts["either"][kind] += kind in (found, true)
                    counts["truth"][kind] += true == kind
    present = [kind for kind in range(classes) if counts["either"][kind]]
    assert len(present) == classes - 1
    expected = {
        "miou": sum(counts["both"][kind] / counts["either"][kind] for kind in present) / len(present),
        "mean_accuracy": sum(counts["both"][kind] / counts["truth"][kind] for kind in present) / len(present),
        "pixel_accuracy": sum(counts["both"]) / sum(counts["truth"]),
    }
    assert measured(predictions, maps, classes).compute() == pytest.approx(expected, abs=1e-12)


def test_an_image_counts_once() -> None:
    truth = torch.tensor([[0, 1]])
    evaluator = measured([torch.tensor([[0, 0]])], [truth], 2)
    evaluator.update([torch.tensor([[0, 0]])], [{"class_map": truth, "image_id": 0}])
    assert evaluator.confusion.tolist() == [[1, 0], [1, 0]]
    with pytest.raises(DataError, match="image_id: 0 comes twice"):
        evaluator.update([truth], [{"class_map": truth.flip(1), "image_id": 0}])


def test_nothing_to_count() -> None:
    evaluator = measured([torch.zeros(2, 2)], [torch.full((2, 2), 255)], 3)
    assert all(math.isnan(value) for value in evaluator.compute().values())


@pytest.mark.parametrize(
    ("prediction", "truth", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(3, 2), r"the prediction is \(2, 3\), the class map \(3, 2\)"),
        (torch.zeros(1, 1), torch.full((1, 1), 5), "image 0: class_map has the class 5; classes are from 0 to 2"),
        (torch.full((1, 1), 3), torch.zeros(1, 1), "image 0: prediction has the class 3; classes are from 0 to 2"),
        (torch.full((1, 1), -1), torch.zeros(1, 1), "image 0: prediction has the class -1"),
    ],
)
def test_faults_are_named(prediction: torch.Tensor, truth: torch.Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        measured([prediction], [truth], 3)


@pytest.mark.parametrize("classes", [0, 256])
def test_a_wrong_number_of_classes_is_named(classes: int) -> None:
    with pytest.raises(DataError, match=f"num_classes: got {classes}; it is from 1 to 255"):
        SegmentationEvaluator(classes)
