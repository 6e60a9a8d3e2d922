"""Trials on a small part of the digits, in this process or in one of several."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from timm.models import checkpoint_seq
from torch import multiprocessing

from models.lesa.binary_term import BinaryTerm
from orchestrator.config import DatasetConfig, ModelConfig, ObjectiveConfig, TrainingConfig, TrialConfig
from orchestrator.data import ImageDataset, PixelImages, open_dataset, prepare_dataset
from orchestrator.training import trial as trial_module
from orchestrator.training.checkpoints.checkpoints import TrialCheckpoints, build_network
from orchestrator.training.images.device_images import DeviceImages
from orchestrator.training.images.placement import place_dataset
from orchestrator.training.trial import StopTrial, Trial
from orchestrator.training.workers import Workers

PLAIN = "conv_resnet26_small"
CLOCKS = {"images_per_s", "epoch_time_s", "workers", "time/data_s", "time/step_s", "time/exchange_s"}
Reports = list[dict[str, float]]


def few_digits(folder: Path, *, train: int = 400, test: int = 101) -> DeviceImages:
    """Place the first digits of each split; 101 is divisible by no number of workers."""
    whole = open_dataset(prepare_dataset("digits", folder))
    counts = {"train": train, "test": test}
    splits = {
        name: PixelImages(split.images[: counts[name]], split.labels[: counts[name]])
        for name, split in whole.splits.items()
        if isinstance(split, PixelImages)
    }
    part = ImageDataset(splits, whole.class_names, whole.mean, whole.std, whole.content_hash)
    config = DatasetConfig(name="digits", validation_fraction=0.25)
    return place_dataset(part, torch.device("cpu"), config)


def make_trial(
    data: DeviceImages,
    folder: Path,
    *,
    model: str = PLAIN,
    options: Mapping[str, Any] | None = None,
    objective: ObjectiveConfig | None = None,
    workers: Workers | None = None,
    seed: int = 0,
    **training: Any,
) -> Trial:
    settings = {"epochs": 3, "global_batch_size": 32, "optimizer": "adamw", "lr": 3e-3, **training}
    config = TrialConfig(
        number=0, model=ModelConfig(name=model, options=options or {}), training=TrainingConfig(**settings), seed=seed
    )
    return Trial(config, objective or ObjectiveConfig(), data, workers or Workers(), TrialCheckpoints(folder))


def run(
    trial: Trial, *, stop_after: int | None = None, cut_before: int | None = None, curve: list[float] | None = None
) -> Reports:
    """Train and return the reports; stop as by a sweep after an epoch, or fail before a step.

    A `curve` is filled with the loss of each step, summed over this rank's images.
    """
    step = trial.train_state.step

    def watched_step(*arguments: Any, update: int, **options: Any) -> torch.Tensor:
        if update == cut_before:
            raise StopTrial
        loss = step(*arguments, update=update, **options)
        if curve is not None:
            curve.append(float(loss))
        return loss

    trial.train_state.step = watched_step
    reports: Reports = []

    def report(epoch: int, metrics: Mapping[str, float]) -> None:
        reports.append({"epoch": epoch, **metrics})
        if epoch == stop_after:
            raise StopTrial

    with contextlib.suppress(StopTrial):
        trial.run(report)
    return reports


def timeless(reports: Reports) -> Reports:
    """Remove the metrics that a clock determines from reports."""
    return [{key: value for key, value in report.items() if key not in CLOCKS} for report in reports]


def differences(left: Any, right: Any, where: str = "") -> list[str]:
    """Return the places where two nested states are not bit-equal."""
    if isinstance(left, torch.Tensor):
        same = left.dtype == right.dtype and torch.equal(left, right)
        return [] if same else [where]
    if isinstance(left, Mapping):
        if list(left) != list(right):
            return [f"{where}: {list(left)} and {list(right)}"]
        return [fault for key in left for fault in differences(left[key], right[key], f"{where}.{key}")]
    if isinstance(left, (list, tuple)):
        pairs = enumerate(zip(left, right, strict=True))
        return [fault for index, (one, other) in pairs for fault in differences(one, other, f"{where}.{index}")]
    return [] if left == right else [where]


def without_norm(description: Mapping[str, Any]) -> torch.nn.Module:
    """Build a network whose images do not affect each other, so that any division of a batch gives the same sum."""
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))


def convolution_without_norm(description: Mapping[str, Any]) -> torch.nn.Module:
    """Build a network whose images do not affect each other, with more activations than weights."""
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.AvgPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(128, 10),
    )


def with_norm(description: Mapping[str, Any]) -> torch.nn.Module:
    """Build a network whose images affect each other through batch norms."""
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3, padding=1),
        torch.nn.BatchNorm2d(8),
        torch.nn.ReLU(),
        torch.nn.AvgPool2d(2),
        torch.nn.BatchNorm2d(8, affine=False),
        torch.nn.Flatten(),
        torch.nn.Linear(128, 10),
    )


class Recomputed(torch.nn.Sequential):
    """Layers of which each may be computed again in the backward pass."""

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.recomputes = enable

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        recomputes = getattr(self, "recomputes", False) and self.training
        y: torch.Tensor = checkpoint_seq(self, x, every=3) if recomputes else super().forward(x)
        return y


def with_recomputed_norm(description: Mapping[str, Any]) -> torch.nn.Module:
    """Build the network of `with_norm` with gradient checkpointing on request."""
    return Recomputed(*with_norm(description))


def with_logit_norms(description: Mapping[str, Any]) -> torch.nn.Module:
    """Build a network that computes the statistics of a norm by its own code."""
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 3, stride=2, padding=1),
        BinaryTerm(16, map_size=(4, 4), groups=2, position_embedding="classification"),
        torch.nn.Flatten(),
        torch.nn.Linear(256, 10),
    )


class Span(torch.nn.Module):
    """Layer of one parameter that adds to the loss, is projected and reported outside of the forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.z = torch.nn.Parameter(torch.full((32,), 0.5))

    def training_penalty(self) -> torch.Tensor:
        return 0.01 * self.z.sum()

    def project_parameters_(self) -> None:
        self.z.clamp_(0.1, 0.5)

    def training_diagnostics(self) -> Mapping[str, float]:
        return {"span_px": float(self.z.mean())}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.z


def with_a_span(description: Mapping[str, Any]) -> torch.nn.Module:
    """Build a network whose images do not affect each other, with a layer that has training hooks."""
    inner = torch.nn.Sequential(torch.nn.Linear(64, 32), Span(), torch.nn.ReLU())
    return torch.nn.Sequential(torch.nn.Flatten(), inner, torch.nn.Linear(32, 10))


def with_everything(description: Mapping[str, Any]) -> torch.nn.Module:
    """Build a small network with buffers and random numbers."""
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3, padding=1),
        torch.nn.BatchNorm2d(8),
        torch.nn.ReLU(),
        torch.nn.Dropout(0.2),
        torch.nn.AvgPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(128, 10),
    )


def join_group(rank: int, world_size: int, folder: Path) -> Workers:
    """Join a process group whose ranks meet through a file in a folder."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder / 'meeting'}", rank=rank, world_size=world_size)
    return Workers(rank, world_size)


# Global batches of 27 and 28 images, so that the shares of some steps differ in size.
CASES: dict[str, dict[str, Any]] = {
    "real": {"network": build_network},
    "without norm": {"network": without_norm, "optimizer": "sgd", "lr": 0.1},
    "in parts, clipped, averaged, rarely validated": {
        "network": without_norm,
        "validate_every": 2,
        "optimizer": "sgd",
        "lr": 0.2,
        "accumulation_steps": 2,
        "clip_grad_norm": 1.0,
        "ema_decay": 0.9,
        "ema_warmup": True,
    },
    "augmented, over the ends of passes": {
        "network": without_norm,
        "global_batch_size": 40,
        "epoch_steps": 11,  # of passes of 8
        "warmup_steps": 5,
        "optimizer": "sgd",
        "lr": 0.1,
        "crop_padding": 1,
        "hflip": 0.2,
        "cutout_px": 2,
        "erasing": 0.2,
        "mixup_alpha": 0.3,
        "cutmix_alpha": 0.3,
    },
    "plateau, recomputed": {
        "network": with_recomputed_norm,
        "sync_batch_norm": True,
        "gradient_checkpointing": True,
        "optimizer": "sgd",
        "lr": 0.1,
        "lr_schedule": "plateau",
        "plateau_patience": 0,
        "objective": ObjectiveConfig(metric="val/top1", mode="min"),  # worsens, so that the rate falls
    },
    "synchronised norms of logits": {
        "network": with_logit_norms,
        "optimizer": "sgd",
        "lr": 0.05,
        "epochs": 3,
        "sync_batch_norm": True,
    },
    "divided, with a hook, in parts, clipped": {
        "network": with_a_span,
        "optimizer": "sgd",
        "lr": 0.2,
        "parallel": "fsdp",
        "accumulation_steps": 2,
        "clip_grad_norm": 3.0,
    },
    "synchronised norm, in small buckets": {
        "network": with_norm,
        "optimizer": "sgd",
        "lr": 0.1,
        "sync_batch_norm": True,
        "bucket_mb": 0.001,
        "static_graph": True,
    },
}


def train_case(name: str, data: DeviceImages, folder: Path, workers: Workers) -> dict[str, Any]:
    """Train one of `CASES` and return this rank's loss curve, reports and weights."""
    settings = {"global_batch_size": 29, **CASES[name]}
    trial_module.build_network = settings.pop("network")
    try:
        trial = make_trial(data, folder / name, workers=workers, **settings)
        curve: list[float] = []
        reports = run(trial, curve=curve)
    finally:
        trial_module.build_network = build_network
    return {"curve": curve, "reports": reports, "weights": trial.train_state.evaluated_weights()}


def run_ranks(function: Callable[..., None], world_size: int, *arguments: Any) -> None:
    """Runs a function in a process for each rank: forked from one that has imported torch and our packages."""
    multiprocessing.get_context("forkserver").set_forkserver_preload([trial_module.__name__])
    multiprocessing.start_processes(function, (world_size, *arguments), nprocs=world_size, start_method="forkserver")


def run_rank(rank: int, world_size: int, folder: str, cases: Sequence[str]) -> None:
    """Train the cases as one process of a group, and write the results to its folder."""
    place = Path(folder)
    workers = join_group(rank, world_size, place)
    data = few_digits(place / f"data-{rank}")
    torch.save({name: train_case(name, data, place, workers) for name in cases}, place / f"rank-{rank}.pt")
    dist.destroy_process_group()
