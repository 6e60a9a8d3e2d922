"""Training of the configurations that `search_quality.py` searches; their curves are kept in benchmarks/search/data.

    python benchmarks/search/search_table.py [--seconds 600]

Each configuration of `digits_table.all_cells` that the table does not hold yet is trained for 27 epochs by
SpatialSweep's own engine in this one process, on 256 of the digits, and evaluated on 512 others after each epoch: 6 to
10 s of one core each. The table is written after each, so that the work can be done in stretches.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from digits_table import SEARCH, TRAINING, Cell, DigitsTable, Epoch, all_cells

from orchestrator import SweepConfig
from orchestrator.config import DatasetConfig, resolve_trial
from orchestrator.data import ImageDataset, PixelImages, open_dataset, prepare_dataset
from orchestrator.errors import TrialDivergedError
from orchestrator.training.checkpoints.checkpoints import TrialCheckpoints
from orchestrator.training.images.device_images import DeviceImages
from orchestrator.training.images.placement import place_dataset
from orchestrator.training.trial import Trial
from orchestrator.training.workers import Workers

_IMAGES = {"train": 768, "test": 16}  # two thirds of the first are held out; the test images are not used
_HELD_OUT = 2 / 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="start no configuration after this many seconds"
    )
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    started = time.monotonic()
    table = DigitsTable.read()
    config = SweepConfig(name="table", dataset={"name": "digits"}, search=SEARCH, training=TRAINING)
    with tempfile.TemporaryDirectory() as folder:
        data = few_digits(Path(folder))
        for cell in (cell for cell in all_cells() if cell not in table):
            if time.monotonic() - started > arguments.seconds:
                return
            table[cell] = train(cell, config, data)
            table.write()
            print(f"{len(table)}/{len(all_cells())} {cell}: {table[cell][-1]}", flush=True)


def few_digits(folder: Path) -> DeviceImages:
    """Place 256 digits for training and 512 for validation."""
    whole = open_dataset(prepare_dataset("digits", folder))
    splits = {
        name: PixelImages(split.images[: _IMAGES[name]], split.labels[: _IMAGES[name]])
        for name, split in whole.splits.items()
        if isinstance(split, PixelImages)
    }
    part = ImageDataset(splits, whole.class_names, whole.mean, whole.std, whole.content_hash)
    config = DatasetConfig(name="digits", validation_fraction=_HELD_OUT)
    return place_dataset(part, torch.device("cpu"), config)


def train(cell: Cell, config: SweepConfig, data: DeviceImages) -> list[Epoch]:
    """Train one configuration and return its epochs up to a divergence; at least one, without numbers if need be."""
    curve: list[Epoch] = []

    def report(_epoch: int, metrics: Mapping[str, float]) -> None:
        curve.append(Epoch(metrics["train/loss"], metrics["val/loss"], metrics["val/top1"]))

    with tempfile.TemporaryDirectory() as folder:
        trial = resolve_trial(config, 0, cell.params)
        try:
            Trial(trial, config.objective, data, Workers(), TrialCheckpoints(Path(folder))).run(report)
        except TrialDivergedError as error:
            print(error)
    return curve or [Epoch(float("nan"), float("nan"), 0.0)]


if __name__ == "__main__":
    main()
