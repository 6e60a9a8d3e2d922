"""Training of one trial: pure torch, the same code for one process and for many.

`Trial` builds the network and resumes from a checkpoint where there is one, `Trial.run` is the loop over the epochs and
`_train_epoch` the loop over the steps. Data, workers and `report` are passed in: neither Ray nor MLflow is imported.
`report` returns to continue training and raises `StopTrial` to end it, on all ranks after the same epoch. It is called
after every epoch that is validated: each one, unless `training.validate_every` is larger, and the last.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

import models
from orchestrator.config.sections.objective import ObjectiveConfig
from orchestrator.config.sections.training import AUTO
from orchestrator.config.trial import TrialConfig
from orchestrator.errors import CheckpointError, TrialDivergedError, TrialFailedError, first_line
from orchestrator.training.checkpoints.best_weights import HeldBest, save_best
from orchestrator.training.checkpoints.checkpoint_content import load_weights, read_best, read_state
from orchestrator.training.checkpoints.checkpoints import TrialCheckpoints, build_network, describe_network
from orchestrator.training.checkpoints.initial_weights import load_initial_weights
from orchestrator.training.epoch_losses import EpochLosses, first_diverged_step
from orchestrator.training.evaluation import evaluate
from orchestrator.training.images.device_images import DeviceImages
from orchestrator.training.images.split import Batch, Split
from orchestrator.training.images.step_order import StepOrder, read_steps
from orchestrator.training.memory.batch_size import with_found_batch_size
from orchestrator.training.memory.out_of_memory import translate_out_of_memory
from orchestrator.training.memory.steps import StepShape
from orchestrator.training.network_costs import NetworkCosts
from orchestrator.training.randomness import seed_everything
from orchestrator.training.reset_torch import reset_torch
from orchestrator.training.sharding import sharded_weights
from orchestrator.training.step_clock import StepClock
from orchestrator.training.tasks.registry import find_task
from orchestrator.training.train_state import TrainState
from orchestrator.training.watch.epoch_watch import EpochObserver, EpochWatch
from orchestrator.training.workers import Workers

Report = Callable[[int, Mapping[str, float]], None]

# Steps between two checks that the loss is finite on all ranks; a check waits for the device.
_STEPS_PER_LOSS_CHECK = 100


class StopTrial(BaseException):
    """Decision of the sweep to stop this trial. No `Exception`, since no error handler may catch it."""


class LeaveTrial(BaseException):
    """End of training within an epoch, on all ranks after the same step, whose state is saved. No `Exception`."""


class Trial:
    """Training of one configuration, on one rank; runs in the worker's process and blocks it.

    A trial computes the same in a used process as in a new one. A resumed trial ends with the weights of a trial that
    was never interrupted, bit for bit: order of the images, learning rate and random states follow from seed, epoch,
    step and rank, and the checkpoint holds the rest. There are four starts:

    1. No checkpoint: training begins at the first step of epoch 1, from random weights or from `model.checkpoint`.
    2. A checkpoint within an epoch: training resumes at the next step.
    3. A checkpoint after an epoch: the newest report is repeated, and training resumes with the next epoch.
    4. A checkpoint after the last epoch: its report is repeated, with the test metrics.

    Args:
        config: Configuration of the trial.
        objective: Metric and direction that choose the best epoch.
        data: Splits on this rank's device.
        workers: This rank and its process group.
        checkpoints: Checkpoint files of the trial, which rank 0 writes.
        costs: Names of the costs to report: any of `params`, `macs` and `latency_ms`.
        observer: Receiver of the progress within an epoch, which may ask to leave it; on all ranks or on none.
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
        observer: EpochObserver | None = None,
    ) -> None:
        self.objective = objective
        self.data = data
        self.workers = workers
        self.checkpoints = checkpoints
        self.task = find_task(config.task)
        num_classes = len(data.class_names)
        self.description = describe_network(
            config.model,
            num_classes=num_classes,
            in_chans=data.in_chans,
            image_size=data.image_size,
            task=config.task,
        )
        self.costs = NetworkCosts(self.description, costs, self.task)
        self._finds_batch_size = config.training.global_batch_size == AUTO
        shape = StepShape.of(self.description, config.training)
        self.config = config = with_found_batch_size(config, shape, data, workers, checkpoints.folder)
        reset_torch()
        seed_everything(config.seed, device=workers.device)
        self._order = StepOrder(len(data.train), config.training, seed=config.seed)
        self.steps_per_epoch = self._order.steps_per_epoch
        self.images = self.task.training_batches(
            data.train, config.training, workers, num_classes=num_classes, seed=config.seed
        )
        network = build_network(self.description)
        if config.initial_weights is not None:
            load_initial_weights(network, checkpoints.folder, config.initial_weights)
        self.train_state = TrainState(network, config.training, workers, self.steps_per_epoch, self.task)
        self.epoch = 0  # complete epochs
        self.step = 0  # complete steps of the epoch after them
        self.losses = EpochLosses(self.steps_per_epoch, workers)
        self.metrics: dict[str, float] = {}  # of the newest epoch that was validated
        self.best: dict[str, float] = {}
        self._held_best: HeldBest | None = None  # where this process has trained the best epoch
        self._watch = EpochWatch(config.number, workers, observer)
        self._resume()

    @property
    def network(self) -> nn.Module:
        """Network in training."""
        return self.train_state.network

    def run(self, report: Report) -> None:
        """Train to the last epoch and report after each validation; the last report contains the test metrics.

        Args:
            report: Callable that takes the epoch, from 1, and its metrics.

        Raises:
            TrialDivergedError: The loss is not finite.
            TrialFailedError: Memory ran out.
            StopTrial: `report` raised it.
            LeaveTrial: The observer of any rank asked to leave.
        """
        with translate_out_of_memory(self.config.training, self.workers.world_size):
            if reported := self._validated_epoch():  # an interruption may have lost the report of this epoch
                report(reported, self._with_test_metrics(self.metrics))
            started, first = time.perf_counter(), self.epoch
            while self.epoch < self.config.training.epochs:
                self._complete_epoch(self._train_epoch(self.epoch + 1))
                if self._validated_epoch() == self.epoch:
                    seconds = (time.perf_counter() - started) / (self.epoch - first)
                    clock = {"epoch_time_s": seconds, "workers": float(self.workers.world_size)}
                    report(self.epoch, {**self._with_test_metrics(self.metrics), **clock})
                    started, first = time.perf_counter(), self.epoch

    def _validated_epoch(self) -> int:
        """Return the newest complete epoch that is validated; 0 where there is none yet."""
        training = self.config.training
        return self.epoch if self.epoch == training.epochs else self.epoch - self.epoch % training.validate_every

    def _train_epoch(self, epoch: int) -> dict[str, float]:
        self.train_state.begin_epoch()
        started, first = time.perf_counter(), self.step
        clock = StepClock(self.workers.device)
        parts = self._order.epoch(epoch)
        images = read_steps(self.images, parts, first=first)
        sizes = [len(batch) for part in parts for batch in part.steps]
        self._watch.begin_epoch(epoch, first, sizes)
        for step in range(first, len(sizes)):
            self.losses.record(step, self._train_step(epoch, step, images, clock, sizes[step]))
            self.step = step + 1
            if self.step < len(sizes):
                self._check_or_save(epoch)
                if self._watch.is_due():
                    self._check_progress(epoch)
        sums = self._finite_losses(epoch)
        seconds = time.perf_counter() - started
        return {
            "train/loss": float(sums.sum()) / sum(sizes),
            "lr": self.train_state.lr,
            "images_per_s": sum(sizes[first:]) / seconds,
            **self._time_split(clock, steps=len(sizes) - first),
            **self._found_settings(),
        }

    def _train_step(
        self, epoch: int, step: int, images: Iterator[Batch], clock: StepClock, global_images: int
    ) -> Tensor:
        """Take one optimiser step and return the loss summed over this rank's images."""
        seed_everything(self.config.seed, epoch, step, self.workers.rank, device=self.workers.device)
        with clock.measure("data"):
            pixels, targets = next(images)
        update = (epoch - 1) * self.steps_per_epoch + step
        with clock.measure("step"):
            return self.train_state.step(pixels, targets, update=update, global_images=global_images)

    def _check_or_save(self, epoch: int) -> None:
        """Between two steps, check the losses and write a checkpoint, where one of them is due."""
        every = self.config.training.checkpoint_every_steps
        updates = (epoch - 1) * self.steps_per_epoch + self.step
        if every is not None and updates % every == 0:
            losses = self._finite_losses(epoch)
            self.train_state.share_buffers()
            self._save_state(losses)
        elif self.step % _STEPS_PER_LOSS_CHECK == 0:
            self._finite_losses(epoch)

    def _check_progress(self, epoch: int) -> None:
        """Show the progress of the epoch, and save the state within it where that is due.

        The running statistics of the ranks are saved as they are, so that it changes nothing when a state is saved.

        Raises:
            LeaveTrial: A rank asked to leave; the state is saved.
        """
        due = self._watch.check(self.step, self.losses)
        if due.leave or due.save:
            self._save_state(self._finite_losses(epoch), self.train_state.rank_buffers())
        if due.leave:
            raise LeaveTrial

    def _finite_losses(self, epoch: int) -> Tensor:
        """Return the loss of every step of the epoch so far, summed over all ranks.

        Raises:
            TrialDivergedError: A loss is not finite.
        """
        sums = self.losses.sum_over_ranks()
        step = first_diverged_step(sums)
        if step is not None:
            raise TrialDivergedError(f"diverged: the training loss of epoch {epoch} is not finite at step {step + 1}")
        return sums

    def _time_split(self, clock: StepClock, steps: int) -> dict[str, float]:
        """Return the seconds of an epoch spent on each part of its steps, on this rank."""
        split = {f"time/{part}_s": seconds for part, seconds in clock.seconds().items()}
        exchange = self.train_state.exchange_s_per_step
        return split if exchange is None else {**split, "time/exchange_s": exchange * steps}

    def _found_settings(self) -> dict[str, float]:
        """Return the settings that follow from the memory of the workers, as metrics of the epoch."""
        size, parts = self.config.training.batch_size, self.train_state.accumulation_steps
        return {
            **({"global_batch_size": float(size)} if self._finds_batch_size else {}),
            **({} if parts is None else {"accumulation_steps": float(parts)}),
        }

    def _validate(self) -> dict[str, float]:
        """Return validation metrics, the network's own diagnostics, and its costs."""
        metrics = {f"val/{name}": value for name, value in self._evaluate(self.data.validation).items()}
        with self.train_state.gathered():
            costs = self.costs.measure(self.train_state, self.workers.device)
        return metrics | models.diagnostics(self.network) | costs

    def _evaluate(self, split: Split) -> dict[str, float]:
        classes = len(self.data.class_names)
        with self.train_state.gathered():
            return evaluate(self.train_state, split, self.workers, self.task, num_classes=classes)

    def _with_test_metrics(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Return the metrics of an epoch; of the last epoch with the test metrics of the best epoch's weights."""
        is_last = self.epoch == self.config.training.epochs
        return {**metrics, **(self._test_best() if is_last else {})}

    def _test_best(self) -> dict[str, float]:
        """Evaluate the best epoch's weights on the test split; nothing else reads that split."""
        network, held = self.train_state.evaluated, self._held_best
        if held is not None and held.epoch == self.epoch:
            result, epoch = self._evaluate(self.data.test), held.epoch
        else:
            current = {key: value.clone() for key, value in network.state_dict().items()}
            weights, epoch = self._best_weights()
            load_weights(network, sharded_weights(weights, network), self.checkpoints.best)
            result = self._evaluate(self.data.test)
            network.load_state_dict(current)
        names = [metric.name for metric in self.task.facts.tested if metric.name in result]
        tested = {f"test/{name}": result[name] for name in names}
        return {**tested, "best_epoch": float(epoch)}

    def _best_weights(self) -> tuple[Mapping[str, Tensor], int]:
        """Return the weights of the best epoch, and the epoch; every rank must call."""
        held = self._held_best
        if held is not None and held.weights is not None:
            return held.weights, held.epoch
        self.workers.sum(torch.zeros(1, device=self.workers.device))  # best.pt is complete once all ranks are here
        best = read_best(self.checkpoints.best, self.train_state.reading_device)
        return best["state_dict"], best.get("epoch", 0)

    def _is_best(self, metrics: Mapping[str, float]) -> bool:
        value, best = metrics[self.objective.metric], self.best.get(self.objective.metric)
        if best is None or not math.isfinite(best):
            return True
        return math.isfinite(value) and (value > best if self.objective.mode == "max" else value < best)

    def _complete_epoch(self, metrics: dict[str, float]) -> None:
        """Count an epoch as complete, validate the network where that is due, and write its checkpoints.

        Args:
            metrics: Metrics of the training of the epoch.
        """
        self.epoch, self.step = self.epoch + 1, 0
        self.losses = EpochLosses(self.steps_per_epoch, self.workers)
        self.train_state.share_buffers()
        if self._validated_epoch() == self.epoch:
            self.metrics = metrics | self._validate()
            if self.objective.metric not in self.metrics:
                rule = "it is not defined on the validation images, such as the AP of a size without an object"
                raise TrialFailedError(f"no {self.objective.metric}: {rule}. Choose another objective")
            value = self.metrics[self.objective.metric]
            self.train_state.lr_schedule.observe(self.epoch, value, self.objective.mode)
            self._keep_best()
        self._save_state(losses=None)

    def _keep_best(self) -> None:
        """Write the weights of the newest epoch where it is the best so far."""
        if not self._is_best(self.metrics):
            return
        self.best = dict(self.metrics)
        weights = self.train_state.evaluated_weights()
        self._held_best = HeldBest.of(self.epoch, weights) if self.train_state.buffers_are_shared else None
        if self.workers.is_first:
            save_best(
                self.checkpoints.best,
                weights,
                description=self.description,
                data=self.data,
                training=self.config.training,
                epoch=self.epoch,
                metrics=self.metrics,
            )

    def _save_state(self, losses: Tensor | None, rank_buffers: Tensor | None = None) -> None:
        self._watch.note_save()
        if not self.workers.is_first and not self.train_state.is_sharded:
            return
        state = self.train_state.state_dict()
        if not self.workers.is_first:
            return
        position = {"epoch": self.epoch, "step": self.step, "losses": losses}
        facts = {"model": self.description, "metrics": self.metrics, "best": self.best}
        buffers = {} if rank_buffers is None else {"rank_buffers": rank_buffers}
        self.checkpoints.save_state({**position, **facts, **state, **buffers})

    def _resume(self) -> None:
        """Resume from the newest sound checkpoint, where there is one; every rank must call.

        Raises:
            CheckpointError: The checkpoint holds the state of another training.
        """
        chosen = self.checkpoints.agree_on_state(self.workers)
        if chosen is None:
            return
        content = read_state(chosen, self.train_state.reading_device)
        load_weights(self.network, sharded_weights(content["state_dict"], self.network), chosen)
        losses = content["losses"]
        if content["step"] > self.steps_per_epoch or (losses is not None and len(losses) != self.steps_per_epoch):
            raise CheckpointError(f"{chosen}: its epochs are not of {self.steps_per_epoch} steps, as this trial's are")
        try:
            self.train_state.load_state_dict(content)
            if "rank_buffers" in content:
                self.train_state.restore_rank_buffers(content["rank_buffers"])
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            reason = first_line(error)
            raise CheckpointError(f"{chosen}: its optimiser is not that of this trial ({reason})") from None
        self.epoch, self.step = content["epoch"], content["step"]
        self.metrics, self.best = content["metrics"], content["best"]
        if losses is not None:
            self.losses.restore(losses)
