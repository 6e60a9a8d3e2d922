"""Scale of a run in numbers and words: images, networks, epochs, seeds; and what a row costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.data.datasets import DatasetFacts, dataset_facts
from orchestrator.data.manifest import read_manifest
from orchestrator.data.storage import open_folder
from orchestrator.reproduce.rows import ResolvedRow

__all__ = ["RunScale", "row_costs", "run_scale", "training_macs"]

_BACKWARD = 3  # a training step computes the forward pass and twice as much backward


@dataclass(frozen=True)
class RunScale:
    """Scale of a run.

    Args:
        name: Name of the scale.
        dataset: Name of the dataset, or last part of its URI.
        image_px: Side of the images in pixels.
        train_images: Number of images that train, validation images left out.
        validation_images: Number of images that choose the best epoch; 0 where test images do.
        test_images: Number of test images; None where the dataset is not prepared.
        epochs: Fewest and most epochs of a trial.
        seeds: Seeds of every row.
        networks: Names of the networks.
    """

    name: str
    dataset: str
    image_px: int
    train_images: int
    validation_images: int
    test_images: int | None
    epochs: tuple[int, int]
    seeds: Sequence[int]
    networks: Sequence[str]

    @property
    def in_words(self) -> str:
        """Scale as one sentence."""
        low, high = self.epochs
        epochs = f"{high} epoch{'s' if high > 1 else ''}" if low == high else f"{low} to {high} epochs"
        seeds = f"{len(self.seeds)} seed{'s' if len(self.seeds) > 1 else ''}"
        chosen = f"{self.validation_images:,} for validation" if self.validation_images else "test images choose epochs"
        tested = "" if self.test_images is None else f", {self.test_images:,} for testing"
        side = f"{self.image_px} x {self.image_px} px"
        images = f"images of {side}, {self.train_images:,} for training, {chosen}{tested}"
        networks = ", ".join(self.networks)
        return f"Scale {self.name}: {self.dataset}, {images}; {epochs}; {seeds}; {networks}."


def run_scale(name: str, rows: Sequence[ResolvedRow], seeds: Sequence[int], prepared: str | None) -> RunScale:
    """Return the scale of a run.

    Args:
        name: Name of the scale.
        rows: Rows with their settings, at least one.
        seeds: Seeds of every row.
        prepared: Place of the prepared dataset; None where it is not prepared yet.

    Raises:
        DataError: The dataset is missing or damaged.
    """
    dataset = rows[0].config.dataset
    facts = _facts(rows[0])
    validation = 0 if dataset.select_on == "test" else round(facts.train_images * dataset.validation_fraction)
    tested = None if prepared is None else read_manifest(open_folder(prepared)).splits["test"].images
    epochs = [row.config.training.epochs for row in rows]
    shown = dataset.name or str(dataset.uri).rstrip("/").rpartition("/")[2]
    return RunScale(
        name=name,
        dataset=shown,
        image_px=facts.image_size,
        train_images=round((facts.train_images - validation) * dataset.train_fraction),
        validation_images=validation,
        test_images=tested,
        epochs=(min(epochs), max(epochs)),
        seeds=tuple(seeds),
        networks=tuple(dict.fromkeys(row.network for row in rows)),
    )


def row_costs(rows: Sequence[ResolvedRow]) -> dict[str, tuple[int, int]]:
    """Return parameters and multiply-accumulates of one image, by name of the row."""
    import models

    costs = {}
    for row in rows:
        facts, model = _facts(row), row.config.model
        assert model is not None
        shape: Mapping[str, int] = {
            "num_classes": facts.num_classes,
            "in_chans": facts.in_chans,
            "image_size": facts.image_size,
        }
        cost = models.model_cost(model.name, model.options, **shape)
        costs[row.name] = (cost.params, cost.macs)
    return costs


def training_macs(row: ResolvedRow, macs: int, trials: int) -> float:
    """Return the multiply-accumulates of the training of a row, evaluation left out.

    Args:
        row: Row with its settings.
        macs: Multiply-accumulates of one image.
        trials: Number of trials.
    """
    training = row.config.training
    steps = training.epoch_steps
    images = run_scale("", [row], (), None).train_images if steps is None else steps * training.batch_size
    return float(_BACKWARD * macs * images * training.epochs * trials)


def _facts(row: ResolvedRow) -> DatasetFacts:
    dataset = row.config.dataset
    return dataset_facts(dataset.name, dataset.uri, dataset.image_size)
