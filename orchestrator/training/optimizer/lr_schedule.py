"""Learning rate of every step: timm's schedules, and one that depends on the validation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch.optim import Optimizer

from orchestrator.config.sections.training import TrainingConfig
from orchestrator.config.tasks.facts import Mode
from orchestrator.training.optimizer.optimizer import peak_lr

__all__ = ["LrSchedule", "Plateau"]

_LEAST_GAIN = 1e-4  # relative, as in torch's schedule of this kind


class Plateau(Scheduler):
    """Learning rate that is lowered when a metric of the validation has stopped improving.

    The rules are those of `torch.optim.lr_scheduler.ReduceLROnPlateau`, counted in epochs instead of validations. The
    metric must be equal on all ranks.

    Args:
        optimizer: Optimiser.
        decay_rate: Factor of each decay.
        patience: Number of epochs without improvement before a decay.
        min_lr: Smallest learning rate.
        warmup_t: Number of epochs, or of steps, of linear warm-up.
        warmup_lr: Learning rate at the start of the warm-up.
        t_in_epochs: True to count the warm-up in epochs instead of steps.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        decay_rate: float,
        patience: int,
        min_lr: float,
        warmup_t: int,
        warmup_lr: float,
        t_in_epochs: bool,
    ) -> None:
        super().__init__(optimizer, param_group_field="lr", t_in_epochs=t_in_epochs)
        self._decay_rate, self._patience, self._min_lr = decay_rate, patience, min_lr
        self._warmup_t, self._warmup_lr = warmup_t, warmup_lr
        self._best: float | None = None
        self._since = 0  # epoch of the best value or of the last decay, whichever came later
        self._decays = 0

    def observe(self, epoch: int, value: float, mode: Mode) -> None:
        """Take note of a validation, and lower the rate of the following epochs where it is due.

        Args:
            epoch: Epoch after which the network was validated, from 1.
            value: Value of the metric.
            mode: Direction in which the metric improves.
        """
        if self._is_better(value, mode):
            self._best, self._since = value, epoch
        elif epoch - self._since > self._patience:
            self._decays, self._since = self._decays + 1, epoch

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` takes."""
        return {"best": self._best, "since": self._since, "decays": self._decays}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Resume from the state of an earlier schedule; its settings stay as configured here."""
        self._best, self._since, self._decays = state_dict["best"], state_dict["since"], state_dict["decays"]

    def _is_better(self, value: float, mode: Mode) -> bool:
        if self._best is None or not math.isfinite(value):
            return math.isfinite(value)
        if mode == "max":
            return value > self._best * (1 + _LEAST_GAIN)
        return value < self._best * (1 - _LEAST_GAIN)

    def _get_lr(self, t: int) -> list[float]:
        if t < self._warmup_t:
            return [self._warmup_lr + t * (value - self._warmup_lr) / self._warmup_t for value in self.base_values]
        return [max(value * self._decay_rate**self._decays, self._min_lr) for value in self.base_values]


class LrSchedule:
    """Learning rate schedule of a trial.

    Args:
        optimizer: Optimiser, whose groups may have a share of the rate (`lr_scale`).
        training: Training settings.
        steps_per_epoch: Number of optimiser steps of an epoch.
    """

    def __init__(self, optimizer: Optimizer, training: TrainingConfig, steps_per_epoch: int) -> None:
        self._optimizer = optimizer
        self._steps_per_epoch = steps_per_epoch
        self._per_epoch = training.lr_per == "epoch"
        self._unit = 1 if self._per_epoch else steps_per_epoch  # of time, in an epoch
        self._warmup_t = self._warmup(training)
        self._schedule = self._plateau(training) if training.lr_schedule == "plateau" else self._fixed(training)

    @property
    def lr(self) -> float:
        """Learning rate of the last step, that of the layers with the whole rate."""
        group = self._optimizer.param_groups[0]
        return float(group["lr"] / group.get("lr_scale", 1.0))

    def step_update(self, update: int) -> None:
        """Set the learning rate of a step.

        Args:
            update: Number of the step in the whole training, from 0.
        """
        if self._per_epoch:
            self._schedule.step(update // self._steps_per_epoch)
        else:
            self._schedule.step_update(update)

    def observe(self, epoch: int, value: float, mode: Mode) -> None:
        """Pass a validation to a schedule that depends on it; those of the warm-up are ignored.

        Args:
            epoch: Epoch after which the network was validated, from 1.
            value: Value of the first objective, equal on all ranks.
            mode: Direction in which it improves.
        """
        if isinstance(self._schedule, Plateau) and epoch * self._unit > self._warmup_t:
            self._schedule.observe(epoch, value, mode)

    def state_dict(self) -> dict[str, Any] | None:
        """Return the state of a schedule that depends on the validation; None for others, which need none."""
        return self._schedule.state_dict() if isinstance(self._schedule, Plateau) else None

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from what `state_dict` returned, where it was not None."""
        self._schedule.load_state_dict(state)

    def _plateau(self, training: TrainingConfig) -> Plateau:
        return Plateau(
            self._optimizer,
            decay_rate=training.decay_rate,
            patience=training.plateau_patience,
            min_lr=training.min_lr,
            warmup_t=self._warmup_t,
            warmup_lr=_warmup_lr(training),
            t_in_epochs=self._per_epoch,
        )

    def _warmup(self, training: TrainingConfig) -> int:
        """Return the length of the warm-up, in epochs or in steps; at least one of them comes after it."""
        if training.warmup_steps is None:
            return min(training.warmup_epochs, training.epochs - 1) * self._unit
        return min(training.warmup_steps, training.epochs * self._unit - 1)

    def _fixed(self, training: TrainingConfig) -> Any:
        """Create timm's schedule, whose times are all in epochs or all in steps."""
        schedule, _ = create_scheduler_v2(
            self._optimizer,
            sched=training.lr_schedule,
            num_epochs=self._annealed(training),
            decay_epochs=training.decay_epochs * self._unit,
            decay_milestones=self._milestones(training),
            # timm calls the exponent of `poly` by the same name
            decay_rate=training.poly_power if training.lr_schedule == "poly" else training.decay_rate,
            warmup_epochs=self._warmup_t,
            warmup_lr=_warmup_lr(training),
            warmup_prefix=training.warmup_prefix,
            min_lr=training.min_lr,
            cooldown_epochs=training.cooldown_epochs * self._unit,
            step_on_epochs=self._per_epoch,
            updates_per_epoch=1,  # of timm's factor: the times are in steps already
        )
        return schedule

    def _annealed(self, training: TrainingConfig) -> int:
        if training.anneal_epochs is not None:
            return training.anneal_epochs * self._unit
        prefix = self._warmup_t if training.warmup_prefix else 0
        least = self._unit if training.warmup_steps is None else 1
        return max(least, (training.epochs - training.cooldown_epochs) * self._unit - prefix)

    def _milestones(self, training: TrainingConfig) -> list[int]:
        milestones = list(training.decay_milestones) or [training.epochs // 2, training.epochs * 3 // 4]
        # timm lowers the rate one unit of time early: in epochs that is a whole epoch
        return [milestone + 1 if self._per_epoch else milestone * self._unit for milestone in milestones]


def _warmup_lr(training: TrainingConfig) -> float:
    return peak_lr(training) / 100 if training.warmup_lr is None else training.warmup_lr
