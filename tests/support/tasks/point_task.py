"""Two small tasks on the digits that need what classification does not: trees as targets, losses from the network.

`points` finds the bright pixels of an image: a target is a dictionary of tensors, whose length is that of the image's
pixels; the network gets a list of images, returns its losses in training and a list of dictionaries in evaluation; the
evaluator keeps a row for each image and gathers them over the ranks. `bright` marks each pixel as bright or dark, with
pixels that do not count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, smooth_l1_loss

import models
from orchestrator.config import TrainingConfig
from orchestrator.config.sections.dataset import DatasetConfig
from orchestrator.config.tasks.facts import TaskFacts, TaskMetric
from orchestrator.data import ImageDataset, Indices, PixelImages, split_validation
from orchestrator.training.images.device_images import DeviceImages, Normalisation
from orchestrator.training.images.draws import SampleDraws
from orchestrator.training.images.split import Batch
from orchestrator.training.tasks.samples import SampledTask, SampleSplit
from orchestrator.training.workers import Workers

BRIGHT, UNSURE = 128, 64
IGNORED = 255


class DigitSamples:
    """Digits with the places of their bright pixels."""

    def __init__(self, split: PixelImages, task: str) -> None:
        self._split, self._task = split, task

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        image = torch.from_numpy(np.array(self._split.images[index]))
        if self._task == "bright":
            classes = (image[0] >= BRIGHT).long()
            return image, torch.where((image[0] >= UNSURE) & (image[0] < BRIGHT), IGNORED, classes)
        points = (image[0] >= BRIGHT).nonzero().flip(1).float()
        return image, {"points": points, "image_id": torch.tensor(index)}


class DigitTask(SampledTask):
    """Common part of both tasks."""

    def model_cost(self, description: Mapping[str, Any]) -> models.ModelCost:
        network = self.build_network(description)
        weights = [each for each in network.parameters() if each.ndim == 4]
        side = description["image_size"]
        return models.ModelCost(sum(map(Tensor.numel, network.parameters())), side**2 * sum(map(Tensor.numel, weights)))

    def place_dataset(self, source: ImageDataset, device: torch.device, dataset: DatasetConfig) -> DeviceImages:
        labels = source.splits["train"].labels
        kept, held_out = split_validation(labels, dataset.validation_fraction, dataset.split_seed)
        normalisation = Normalisation.of(dataset, source)
        train = self.place_split(source, "train", device, dataset, normalisation)
        whole = self.place_split(source, "test", device, dataset, normalisation)
        return DeviceImages(self._part(train, kept), self._part(train, held_out), whole, ("dark", "bright"))

    def place_split(
        self,
        source: ImageDataset,
        split: str,
        device: torch.device,
        dataset: DatasetConfig,
        normalisation: Normalisation,
    ) -> SampleSplit:
        images = source.splits[split]
        assert isinstance(images, PixelImages)
        mean, std = normalisation.on(device)
        samples = DigitSamples(images, self.facts.name)
        return SampleSplit(self, samples, np.arange(len(images)), mean, std, images.images.shape[2], dataset.tta)

    @staticmethod
    def _part(split: SampleSplit, positions: Indices) -> SampleSplit:
        return SampleSplit(split.task, split.samples, positions, split.mean, split.std, split.image_size, split.tta)


class PointNetwork(nn.Module):
    """Centre and number of the bright pixels of each image of a list."""

    def __init__(self, in_chans: int, width: int = 16) -> None:
        super().__init__()
        self.features = nn.Conv2d(in_chans, width, 3, padding=1)
        self.head = nn.Linear(width * 4 * 4, 3)

    def forward(self, images: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]] | None = None) -> Any:
        maps = [nn.functional.adaptive_avg_pool2d(self.features(image[None]).relu(), 4) for image in images]
        found = self.head(torch.cat(maps).flatten(1))
        centres, counts = found[:, :2] + 3.5, found[:, 2] + 16
        if not self.training:
            return [{"centre": centre, "count": count} for centre, count in zip(centres, counts, strict=True)]
        assert targets is not None
        wanted = torch.stack([each["points"].mean(0) for each in targets])
        numbers = torch.tensor([float(len(each["points"])) for each in targets], device=counts.device)
        return {"centre": smooth_l1_loss(centres, wanted), "count": smooth_l1_loss(counts, numbers) / 16}


class PointTask(DigitTask):
    facts: ClassVar[TaskFacts] = TaskFacts(
        name="points",
        metrics=(
            TaskMetric(name="centre_px", mode="min", label="distance of the centre"),
            TaskMetric(name="within_half", mode="max", label="within half a pixel", is_share=True),
            TaskMetric(name="count_error", mode="min", label="error of the number", in_test=False),
        ),
        losses=("of_network",),
        settings=frozenset({"hflip"}),
    )

    def build_network(self, description: Mapping[str, Any]) -> nn.Module:
        return PointNetwork(description["in_chans"], **description["options"])

    def augment(
        self, image: Tensor, target: dict[str, Tensor], training: TrainingConfig, draws: SampleDraws
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if draws.uniform("hflip")[0, 0] >= training.hflip:
            return image, target
        points = target["points"].clone()
        points[:, 0] = image.shape[2] - 1 - points[:, 0]
        return image.flip(2), {**target, "points": points}

    def example_batch(
        self, description: Mapping[str, Any], training: TrainingConfig, *, images: int, side: int, device: torch.device
    ) -> Batch:
        pixels = [torch.zeros(description["in_chans"], side, side, device=device) for _ in range(images)]
        return pixels, [{"points": torch.zeros(1 + place, 2, device=device)} for place in range(images)]

    def forward(self, network: Any, images: Any, targets: Any) -> Any:
        return network(images, targets)

    def loss_sum(self, outputs: Mapping[str, Tensor], targets: Sequence[Any], training: TrainingConfig) -> Tensor:
        return torch.stack(list(outputs.values())).sum() * len(targets)

    def create_evaluator(self, num_classes: int, device: torch.device) -> PointEvaluator:
        return PointEvaluator(device)


class PointEvaluator:
    """Keeps a row of each image: its number, the distance of the centre, the error of the count."""

    def __init__(self, device: torch.device) -> None:
        self._rows = [torch.zeros(0, 3, dtype=torch.float64, device=device)]
        self.gathered = self._rows[0]

    def update(self, predictions: Sequence[Mapping[str, Tensor]], targets: Sequence[Mapping[str, Tensor]]) -> None:
        for found, wanted in zip(predictions, targets, strict=True):
            distance = (found["centre"].double() - wanted["points"].double().mean(0)).norm()
            error = (found["count"].double() - len(wanted["points"])).abs()
            self._rows.append(torch.stack([wanted["image_id"].double(), distance, error])[None])

    def all_reduce(self, workers: Workers) -> None:
        rows = workers.gather_rows(torch.cat(self._rows))
        self.gathered = rows[rows[:, 0].argsort()]

    def compute(self) -> dict[str, float]:
        distance, error = self.gathered[:, 1], self.gathered[:, 2]
        return {
            "centre_px": float(distance.mean()),
            "within_half": float((distance <= 0.5).double().mean()),
            "count_error": float(error.mean()),
        }


class BrightTask(DigitTask):
    facts: ClassVar[TaskFacts] = TaskFacts(
        name="bright",
        metrics=(TaskMetric(name="pixel_accuracy", mode="max", label="pixel accuracy", is_share=True),),
        losses=("pixel_cross_entropy",),
        settings=frozenset(),
    )

    def build_network(self, description: Mapping[str, Any]) -> nn.Module:
        return nn.Conv2d(description["in_chans"], 2, 3, padding=1)

    def output_shape(self, description: Mapping[str, Any]) -> tuple[int, ...]:
        return (2, description["image_size"], description["image_size"])

    def collate(self, images: Sequence[Tensor], targets: Sequence[Any]) -> Batch:
        return torch.stack(list(images)), {"class_map": torch.stack(list(targets))}

    def example_batch(
        self, description: Mapping[str, Any], training: TrainingConfig, *, images: int, side: int, device: torch.device
    ) -> Batch:
        pixels = torch.zeros(images, description["in_chans"], side, side, device=device)
        return pixels, {"class_map": torch.zeros(images, side, side, dtype=torch.int64, device=device)}

    def loss_sum(self, outputs: Tensor, targets: Mapping[str, Tensor], training: TrainingConfig) -> Tensor:
        return cross_entropy(outputs.float(), targets["class_map"], ignore_index=IGNORED, reduction="sum")

    def loss_count(self, targets: Mapping[str, Tensor]) -> Tensor:
        return (targets["class_map"] != IGNORED).sum()

    def create_evaluator(self, num_classes: int, device: torch.device) -> PixelEvaluator:
        return PixelEvaluator(device)


class PixelEvaluator:
    """Share of the pixels, of those that count, whose class is right."""

    def __init__(self, device: torch.device) -> None:
        self._counts = torch.zeros(2, dtype=torch.float64, device=device)

    def update(self, predictions: Tensor, targets: Mapping[str, Tensor]) -> None:
        counted = targets["class_map"] != IGNORED
        right = (predictions.argmax(1) == targets["class_map"]) & counted
        self._counts += torch.stack([right.sum(), counted.sum()])

    def all_reduce(self, workers: Workers) -> None:
        self._counts = workers.sum(self._counts)

    def compute(self) -> dict[str, float]:
        return {"pixel_accuracy": float(self._counts[0] / self._counts[1])}
