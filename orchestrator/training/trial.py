"""Trains one trial: pure torch, the same for one process and for many.

The loop is given its data, its peers and a `report` callable; it knows neither Ray nor MLflow. `report` returns to go
on and raises `StopTrial` to end the trial here, on all ranks at the same epoch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from torch import Tensor
from torch.nn.functional import cross_entropy

import models
from orchestrator.config.schema import ObjectiveConfig, TrainingConfig, TrialConfig
from orchestrator.data import Indices, epoch_batches, worker_share
from orchestrator.errors import TrialFailedError
from orchestrator.training.augment import random_crop
from orchestrator.training.checkpoints import TrialCheckpoints, build_model, read_checkpoint, save_checkpoint
from orchestrator.training.device_images import DeviceImages, DeviceSplit
from orchestrator.training.workers import Workers

Report = Callable[[int, Mapping[str, float]], None]


class StopTrial(BaseException):
    """The sweep has seen enough of this trial. Not an error, hence no `Exception`: no handler may swallow it."""


class Trial:
    """One configuration in training.

    Args:
        config: The configuration.
        objective: Decides which epoch is the best.
        data: Splits on this rank's device.
        workers: This rank among its peers.
        checkpoints: Where rank 0 writes; when `last.pt` is there, training continues from it.
    """

    def __init__(
        self,
        config: TrialConfig,
        objective: ObjectiveConfig,
        data: DeviceImages,
        workers: Workers,
        checkpoints: TrialCheckpoints,
    ) -> None:
        self.config = config
        self.objective = objective
        self.data = data
        self.workers = workers
        self.checkpoints = checkpoints
        self.description = {
            "name": config.model.name,
            "options": dict(config.model.options),
            "num_classes": len(data.class_names),
            "in_chans": data.in_chans,
            "image_size": data.image_size,
        }
        torch.manual_seed(config.seed)
        self.model = build_model(self.description).to(workers.device)
        self.network = workers.wrap(self.model)
        training = config.training
        self.optimizer = create_optimizer_v2(
            self.model,
            opt=training.optimizer,
            lr=training.lr,
            weight_decay=training.weight_decay,
            momentum=training.momentum,
        )
        self.steps_per_epoch = len(self._batches(epoch=1))
        self.lr_schedule = _lr_schedule(self.optimizer, training, self.steps_per_epoch)
        self.epoch = 0
        self.metrics: dict[str, float] = {}
        self.best: dict[str, float] = {}
        self._resume()

    def run(self, report: Report) -> None:
        """Trains to the last epoch, reporting after each; the last report carries the test accuracy.

        A trial that continues from a checkpoint first repeats the report of its last epoch, which may not have been
        heard.

        Args:
            report: Called with the epoch, from 1, and its metrics.

        Raises:
            TrialFailedError: The loss is not finite.
            StopTrial: Passed through from `report`.
        """
        if self.epoch:
            report(self.epoch, self._conclude(self.metrics))
        while self.epoch < self.config.training.epochs:
            self.epoch += 1
            started = time.perf_counter()
            torch.manual_seed(_mix(self.config.seed, self.epoch, self.workers.rank))
            metrics = self._train_epoch()
            self.workers.share_buffers(self.model)
            metrics |= self._evaluate(self.data.validation, "val") | models.diagnostics(self.model)
            self._save(metrics)
            metrics = self._conclude(metrics)
            report(self.epoch, {**metrics, "epoch_time_s": time.perf_counter() - started})

    def _train_epoch(self) -> dict[str, float]:
        self.network.train()
        started = time.perf_counter()
        loss_sum = torch.zeros((), device=self.workers.device)
        for step, batch in enumerate(self._batches(self.epoch)):
            loss_sum += self._step(batch, (self.epoch - 1) * self.steps_per_epoch + step)
        total = float(self.workers.sum(loss_sum))
        if not torch.isfinite(loss_sum):
            raise TrialFailedError(f"diverged: the training loss of epoch {self.epoch} is not finite")
        seconds = time.perf_counter() - started
        images = len(self.data.train)
        return {
            "train/loss": total / images,
            "lr": self.optimizer.param_groups[0]["lr"],
            "images_per_s": images / seconds,
        }

    def _step(self, batch: Indices, update: int) -> Tensor:
        """One optimiser step; returns the loss summed over this rank's images."""
        mine = torch.from_numpy(worker_share(batch, self.workers.rank, self.workers.world_size))
        images, labels = self.data.train.batch(mine.to(self.workers.device))
        smoothing = self.config.training.label_smoothing
        images = random_crop(images, self.config.training.crop_padding)
        loss = cross_entropy(self.network(images), labels, label_smoothing=smoothing, reduction="sum")
        # DDP averages gradients over ranks; the factor makes that the mean over images, whatever the shares.
        objective = loss * (self.workers.world_size / len(batch)) + models.penalty(self.model)
        self.lr_schedule.step_update(update)
        self.optimizer.zero_grad()
        objective.backward()
        self.optimizer.step()
        models.project_(self.model)
        return loss.detach()

    def _batches(self, epoch: int) -> list[Indices]:
        global_batch_size = self.config.training.global_batch_size
        return epoch_batches(len(self.data.train), global_batch_size, seed=self.config.seed, epoch=epoch)

    @torch.no_grad()
    def _evaluate(self, split: DeviceSplit, prefix: str) -> dict[str, float]:
        """Accuracy and loss from counts summed over all ranks, divided once."""
        self.model.eval()
        sums = torch.zeros(2, device=self.workers.device, dtype=torch.float64)
        for images, labels in split.share(self.workers):
            logits = self.model(images)
            correct = (logits.argmax(dim=1) == labels).sum()
            sums += torch.stack([cross_entropy(logits, labels, reduction="sum").double(), correct.double()])
        loss, correct = self.workers.sum(sums).tolist()
        return {f"{prefix}/loss": loss / len(split), f"{prefix}/top1": correct / len(split)}

    def _conclude(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """What to report: after the last epoch, the test accuracy as well."""
        is_last = self.epoch == self.config.training.epochs
        return {**metrics, **(self._test_best() if is_last else {})}

    def _test_best(self) -> dict[str, float]:
        """The only look at the test images: the best epoch's weights, after the last epoch."""
        current = {key: value.clone() for key, value in self.model.state_dict().items()}
        self.workers.sum(torch.zeros(1, device=self.workers.device))  # best.pt is complete once all ranks are here
        best = read_checkpoint(self.checkpoints.best, self.workers.device)
        self.model.load_state_dict(best["state_dict"])
        result = self._evaluate(self.data.test, "test")
        self.model.load_state_dict(current)
        return {"test/top1": result["test/top1"], "best_epoch": float(best["epoch"])}

    def _is_best(self, metrics: Mapping[str, float]) -> bool:
        value, best = metrics[self.objective.metric], self.best.get(self.objective.metric)
        return best is None or (value > best if self.objective.mode == "max" else value < best)

    def _save(self, metrics: Mapping[str, float]) -> None:
        is_best = self._is_best(metrics)
        self.best = dict(metrics) if is_best else self.best
        if not self.workers.is_first:
            return
        weights = self.model.state_dict()
        common = {"model": self.description, "state_dict": weights, "epoch": self.epoch}
        if is_best:
            save_checkpoint(self.checkpoints.best, {**common, "metrics": dict(metrics), "data": self._data_facts()})
        save_checkpoint(
            self.checkpoints.last,
            {**common, "optimizer": self.optimizer.state_dict(), "metrics": dict(metrics), "best": self.best},
        )

    def _resume(self) -> None:
        """Continues after the last reported epoch; order and random states follow from seed and epoch."""
        if not self.checkpoints.last.exists():
            return
        content = read_checkpoint(self.checkpoints.last, self.workers.device)
        self.model.load_state_dict(content["state_dict"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.epoch, self.metrics, self.best = content["epoch"], content["metrics"], content["best"]

    def _data_facts(self) -> dict[str, Any]:
        split = self.data.train
        return {
            "pixel_mean": (split.mean / 255).flatten().tolist(),
            "pixel_std": (split.std / 255).flatten().tolist(),
            "class_names": list(self.data.class_names),
        }


def _lr_schedule(optimizer: torch.optim.Optimizer, training: TrainingConfig, steps_per_epoch: int) -> Any:
    """Timm's schedule, advanced at every step."""
    constant = training.lr_schedule == "constant"
    schedule, _ = create_scheduler_v2(
        optimizer,
        sched="step" if constant else "cosine",
        decay_epochs=training.epochs + 1,
        num_epochs=training.epochs,
        warmup_epochs=min(training.warmup_epochs, training.epochs - 1),
        warmup_lr=training.lr / 100,
        min_lr=0.0,
        cooldown_epochs=0,
        step_on_epochs=False,
        updates_per_epoch=steps_per_epoch,
    )
    return schedule


def _mix(*numbers: int) -> int:
    """One seed from several numbers, the same on every machine."""
    mixed = 0
    for number in numbers:
        mixed = (mixed * 1_000_003 + number + 1) % 2**63
    return mixed
