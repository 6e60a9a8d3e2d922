"""Trains one trial: pure torch, the same for one process and for many.

The loop is given its data, its peers and a `report` callable; it knows neither Ray nor MLflow. `report` returns to go
on and raises `StopTrial` to end the trial here, on all ranks at the same epoch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

import models
from orchestrator.config.sections.objective import ObjectiveConfig
from orchestrator.config.sweep import TrialConfig
from orchestrator.data import Indices, epoch_batches
from orchestrator.errors import CheckpointError, TrialDivergedError, first_line
from orchestrator.training.checkpoints.checkpoint_content import load_weights, read_best, read_state
from orchestrator.training.checkpoints.checkpoint_file import save_checkpoint
from orchestrator.training.checkpoints.checkpoints import TrialCheckpoints, build_model
from orchestrator.training.epoch_losses import EpochLosses, first_diverged
from orchestrator.training.evaluation import evaluate
from orchestrator.training.evaluation_settings import EvaluationSettings
from orchestrator.training.images.device_images import DeviceImages
from orchestrator.training.images.training_batches import training_batches
from orchestrator.training.network_costs import counted_costs, latency_ms
from orchestrator.training.out_of_memory import naming_the_batch
from orchestrator.training.randomness import seed_everything
from orchestrator.training.reset_torch import clean_slate
from orchestrator.training.step_clock import StepClock
from orchestrator.training.train_state import TrainState
from orchestrator.training.workers import Workers

Report = Callable[[int, Mapping[str, float]], None]

# Steps after which all ranks look whether the loss is still finite; a look waits for the device.
_LOOK_EVERY_STEPS = 100


class StopTrial(BaseException):
    """The sweep has seen enough of this trial. Not an error, hence no `Exception`: no handler may swallow it."""


class Trial:
    """One configuration in training.

    A trial computes the same in a used process as in a new one. One that finds a checkpoint continues from it, and its
    weights are then bit for bit those of a trial that was never stopped: order of the images, learning rate and random
    states follow from seed, epoch, step and rank, and the checkpoint holds the rest.

    Args:
        config: The configuration.
        objective: Decides which epoch is the best.
        data: Splits on this rank's device.
        workers: This rank among its peers.
        checkpoints: Where rank 0 writes; when there is a state, training continues from it.
        costs: Which of `params`, `macs` and `latency_ms` to report.
    """

    def __init__(
        self,
        config: TrialConfig,
        objective: ObjectiveConfig,
        data: DeviceImages,
        workers: Workers,
        checkpoints: TrialCheckpoints,
        *,
        costs: frozenset[str] = frozenset(),
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
        self.measures_latency = "latency_ms" in costs
        self.costs = counted_costs(self.description, costs)
        clean_slate()
        seed_everything(config.seed, device=workers.device)
        self.steps_per_epoch = len(self._batches(epoch=1))
        self.images = training_batches(
            data.train, config.training, workers, num_classes=len(data.class_names), seed=config.seed
        )
        self.learner = TrainState(build_model(self.description), config.training, workers, self.steps_per_epoch)
        self.epoch = 0  # complete ones
        self.step = 0  # done of the epoch after them
        self.losses = EpochLosses(self.steps_per_epoch, workers)
        self.metrics: dict[str, float] = {}
        self.best: dict[str, float] = {}
        self._resume()

    @property
    def model(self) -> nn.Module:
        """The network in training."""
        return self.learner.model

    def run(self, report: Report) -> None:
        """Trains to the last epoch, reporting after each; the last report carries the test accuracy.

        A trial that continues from a checkpoint first repeats the report of its last epoch, which may not have been
        heard.

        Args:
            report: Called with the epoch, from 1, and its metrics.

        Raises:
            TrialDivergedError: The loss is not finite.
            TrialFailedError: Memory ran out.
            StopTrial: Passed through from `report`.
        """
        with naming_the_batch(self.config.training, self.workers.world_size):
            self._run(report)

    def _run(self, report: Report) -> None:
        if self.epoch:
            report(self.epoch, self._conclude(self.metrics))
        while self.epoch < self.config.training.epochs:
            started = time.perf_counter()
            metrics = self._train_epoch(self.epoch + 1)
            self.learner.share_buffers()
            validation = evaluate(self.learner, self.data.validation, self.workers)
            metrics |= {f"val/{name}": value for name, value in validation.items()}
            self._complete_epoch(metrics | models.diagnostics(self.model) | self._measured_costs())
            spent = {"epoch_time_s": time.perf_counter() - started, "workers": float(self.workers.world_size)}
            report(self.epoch, {**self._conclude(self.metrics), **spent})

    def _measured_costs(self) -> dict[str, float]:
        """Costs of the network, with what a pass through it takes on this rank now."""
        if not self.measures_latency:
            return self.costs
        size, device = self.data.image_size, self.workers.device
        return {**self.costs, "latency_ms": latency_ms(self.learner, self.data.in_chans, size, device)}

    def _train_epoch(self, epoch: int) -> dict[str, float]:
        self.learner.begin_epoch()
        started, first = time.perf_counter(), self.step
        clock = StepClock(self.workers.device)
        batches = self._batches(epoch)
        images = self.images.epoch(epoch, batches, first=first)
        for step in range(first, len(batches)):
            self.losses.note(step, self._train_batch(epoch, step, images, clock, len(batches[step])))
            self.step = step + 1
            if self.step < len(batches):
                self._pause(epoch)
        sums = self._finite_losses(epoch)
        seconds = time.perf_counter() - started
        return {
            "train/loss": float(sums.sum()) / len(self.data.train),
            "lr": self.learner.lr,
            "images_per_s": sum(map(len, batches[first:])) / seconds,
            **self._time_split(clock, steps=len(batches) - first),
        }

    def _train_batch(
        self, epoch: int, step: int, images: Iterator[tuple[Tensor, Tensor]], clock: StepClock, global_images: int
    ) -> Tensor:
        """One optimiser step; returns the loss summed over this rank's images."""
        seed_everything(self.config.seed, epoch, step, self.workers.rank, device=self.workers.device)
        with clock.measure("data"):
            pixels, targets = next(images)
        update = (epoch - 1) * self.steps_per_epoch + step
        with clock.measure("step"):
            return self.learner.step(pixels, targets, update=update, global_images=global_images)

    def _time_split(self, clock: StepClock, steps: int) -> dict[str, float]:
        """Seconds of an epoch spent on each part, on the first rank."""
        split = {f"time/{part}_s": seconds for part, seconds in clock.seconds().items()}
        exchange = self.learner.exchange_s_per_step
        return split if exchange is None else {**split, "time/exchange_s": exchange * steps}

    def _pause(self, epoch: int) -> None:
        """Between two steps: a look at the losses, and a checkpoint, where one is due."""
        every = self.config.training.checkpoint_every_steps
        updates = (epoch - 1) * self.steps_per_epoch + self.step
        if every is not None and updates % every == 0:
            losses = self._finite_losses(epoch)
            self.learner.share_buffers()
            self._save_state(losses)
        elif self.step % _LOOK_EVERY_STEPS == 0:
            self._finite_losses(epoch)

    def _finite_losses(self, epoch: int) -> Tensor:
        """The losses of the epoch so far, once it is sure that all are numbers."""
        sums = self.losses.over_ranks()
        step = first_diverged(sums)
        if step is not None:
            raise TrialDivergedError(f"diverged: the training loss of epoch {epoch} is not finite at step {step + 1}")
        return sums

    def _batches(self, epoch: int) -> list[Indices]:
        global_batch_size = self.config.training.global_batch_size
        return epoch_batches(len(self.data.train), global_batch_size, seed=self.config.seed, epoch=epoch)

    def _conclude(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """What to report: after the last epoch, the test accuracy as well."""
        is_last = self.epoch == self.config.training.epochs
        return {**metrics, **(self._test_best() if is_last else {})}

    def _test_best(self) -> dict[str, float]:
        """The only look at the test images: the best epoch's weights, after the last epoch."""
        model = self.learner.evaluated
        current = {key: value.clone() for key, value in model.state_dict().items()}
        self.workers.sum(torch.zeros(1, device=self.workers.device))  # best.pt is complete once all ranks are here
        best = read_best(self.checkpoints.best, self.workers.device)
        load_weights(model, best["state_dict"], self.checkpoints.best)
        result = evaluate(self.learner, self.data.test, self.workers)
        model.load_state_dict(current)
        return {"test/top1": result["top1"], "test/top5": result["top5"], "best_epoch": float(best.get("epoch", 0))}

    def _is_best(self, metrics: Mapping[str, float]) -> bool:
        value, best = metrics[self.objective.metric], self.best.get(self.objective.metric)
        return best is None or (value > best if self.objective.mode == "max" else value < best)

    def _complete_epoch(self, metrics: dict[str, float]) -> None:
        """Counts an epoch as done and writes its checkpoints."""
        self.epoch, self.step, self.metrics = self.epoch + 1, 0, metrics
        self.losses = EpochLosses(self.steps_per_epoch, self.workers)
        if self._is_best(metrics):
            self.best = dict(metrics)
            if self.workers.is_first:
                weights = {"state_dict": self.learner.evaluated.state_dict(), "epoch": self.epoch, "metrics": metrics}
                seen = EvaluationSettings.of(self.config.training, self.data.test).model_dump()
                facts = {"model": self.description, "data": self._data_facts(), "evaluation": seen}
                save_checkpoint(self.checkpoints.best, {**facts, **weights})
        self._save_state(losses=None)

    def _save_state(self, losses: Tensor | None) -> None:
        if not self.workers.is_first:
            return
        position = {"epoch": self.epoch, "step": self.step, "losses": losses}
        told = {"model": self.description, "metrics": self.metrics, "best": self.best}
        self.checkpoints.save_state({**position, **told, **self.learner.state_dict()})

    def _resume(self) -> None:
        """Continues after the last step that a sound checkpoint has seen.

        Raises:
            CheckpointError: It holds the state of another training.
        """
        chosen = self.checkpoints.agree_on_state(self.workers)
        if chosen is None:
            return
        content = read_state(chosen, self.workers.device)
        load_weights(self.model, content["state_dict"], chosen)
        losses = content["losses"]
        if content["step"] > self.steps_per_epoch or (losses is not None and len(losses) != self.steps_per_epoch):
            raise CheckpointError(f"{chosen}: its epochs are not of {self.steps_per_epoch} steps, as this trial's are")
        try:
            self.learner.load_state_dict(content)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            reason = first_line(error)
            raise CheckpointError(f"{chosen}: its optimiser is not that of this trial ({reason})") from None
        self.epoch, self.step = content["epoch"], content["step"]
        self.metrics, self.best = content["metrics"], content["best"]
        if losses is not None:
            self.losses.restore(losses)

    def _data_facts(self) -> dict[str, Any]:
        split = self.data.train
        return {
            "pixel_mean": _share_of_255(split.mean),
            "pixel_std": _share_of_255(split.std),
            "class_names": list(self.data.class_names),
        }


def _share_of_255(scaled: Tensor) -> list[float]:
    """Numbers for pixels in 0..255 as shares of it which, times 255, are these numbers to the last bit."""
    share = scaled / 255
    for near in (share.nextafter(share.new_tensor(-1.0)), share.nextafter(share.new_tensor(2.0))):
        share = torch.where((share * 255 != scaled) & (near * 255 == scaled), near, share)
    return share.flatten().tolist()
