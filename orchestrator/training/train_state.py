"""State that an optimiser step changes: weights and their average, optimiser, learning rate, scale of the loss."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

import models
from orchestrator.config.sections.training import WHOLE_OR_DIVIDED, TrainingConfig
from orchestrator.errors import TrialFailedError
from orchestrator.training.compilation import Compilation
from orchestrator.training.evaluation_settings import autocast
from orchestrator.training.memory.out_of_memory import Accumulation
from orchestrator.training.optimizer.clipping import clip_gradients_, clips
from orchestrator.training.optimizer.lr_schedule import LrSchedule
from orchestrator.training.optimizer.optimizer import create_optimizer
from orchestrator.training.optimizer.recomputation import checkpoint_blocks, recomputes, unchanged_buffers
from orchestrator.training.sharding import (
    gathered,
    gradients_kept,
    shard,
    sharded_optimizer,
    sharded_weights,
    whole,
)
from orchestrator.training.tasks.task import Task
from orchestrator.training.tasks.trees import in_float32, in_memory_format, split_tree
from orchestrator.training.workers import Workers, exchange_s_per_step, flat_buffers, restore_buffers_


class TrainState:
    """Network in training on one rank, with its optimiser; the weights are equal on all ranks after every step.

    Args:
        network: Network to train, equal on all ranks.
        training: Training settings.
        workers: This rank and its process group.
        steps_per_epoch: Number of optimiser steps of an epoch.
        task: Task of the network.

    Attributes:
        network: Network whose weights the optimiser changes.
        average: Exponential moving average of the weights; None without `training.ema_decay`.
        optimizer: Optimiser.
        lr_schedule: Learning rate schedule, advanced at every step.

    Raises:
        TrialFailedError: The network does not support `training.gradient_checkpointing`, or its optimiser not its
            parameters where they are divided.
    """

    def __init__(
        self, network: nn.Module, training: TrainingConfig, workers: Workers, steps_per_epoch: int, task: Task
    ) -> None:
        self._task = task
        self._training = training
        self._workers = workers
        if training.gradient_checkpointing:
            checkpoint_blocks(network)
        self._recomputes = training.gradient_checkpointing or recomputes(network)
        self._format = torch.channels_last if training.channels_last else torch.contiguous_format
        network = network.to(workers.device)
        if training.channels_last:
            network = network.to(memory_format=torch.channels_last)
        if training.sync_batch_norm and workers.world_size > 1:
            network = models.synchronise_batch_norm(network, workers.device)
        self.network = network
        self._hooks = models.TrainingHooks(network)
        self.average = _average(network, training)
        self._accumulation = Accumulation(network, training, workers)
        self._compilation = Compilation(training, workers)
        # Where a step may be computed again, gradients are exchanged after it: a rank out of memory holds up no other.
        self._kept_whole: list[nn.Parameter] | None = None  # of a network that is divided among the ranks
        if training.parallel == "fsdp" and workers.world_size > 1:
            self._kept_whole, self._wrapped = shard(network, workers), network
            if self._kept_whole and training.optimizer in WHOLE_OR_DIVIDED:
                raise TrialFailedError(
                    f"training.parallel: got fsdp with optimizer: {training.optimizer}, which takes divided parameters "
                    f"alone; {type(network).__name__} has others. Use another optimizer, or ddp"
                )
        elif self._accumulation.retries:
            self._wrapped = network
        else:
            with self._compilation.settings():
                self._wrapped = workers.wrap(network, bucket_mb=training.bucket_mb, static_graph=training.static_graph)
        self._compiled: Any = self._compilation.compiled(self._wrapped)
        self.optimizer = create_optimizer(network, training)
        self.lr_schedule = LrSchedule(self.optimizer, training, steps_per_epoch)
        self._scaler = torch.amp.GradScaler(workers.device.type, enabled=training.precision == "float16")

    @property
    def lr(self) -> float:
        """Learning rate of the last step, before the factors of layer decay."""
        return self.lr_schedule.lr

    @property
    def accumulation_steps(self) -> int | None:
        """Parts of a worker's share in the last step; None where that is the number in the settings."""
        return self._accumulation.parts if self._accumulation.retries else None

    @property
    def evaluated(self) -> nn.Module:
        """Network that is evaluated and kept: the average of the weights where there is one."""
        return self.network if self.average is None else self.average.module

    @property
    def is_sharded(self) -> bool:
        """True for a network that is divided among the ranks, of which every rank must take the state."""
        return self._kept_whole is not None

    @property
    def buffers_are_shared(self) -> bool:
        """True where all ranks evaluate the same network, after `share_buffers`."""
        return self._workers.world_size == 1 or self._training.dist_bn != "none"

    @property
    def reading_device(self) -> torch.device:
        """Device to read whole tensors onto: of a sharded network that of a worker may not hold all of them."""
        return torch.device("cpu") if self.is_sharded else self._workers.device

    def gathered(self) -> AbstractContextManager[None]:
        """Return a block in which the network is whole on every rank, to be evaluated; every rank must enter."""
        return gathered(self.network)

    def evaluated_weights(self) -> dict[str, Tensor]:
        """Return the whole weights of the evaluated network; of a sharded network every rank must call."""
        weights: dict[str, Tensor] = whole(self.evaluated.state_dict())
        return weights

    @property
    def exchange_s_per_step(self) -> float | None:
        """Seconds per step in which gradients are exchanged and nothing is computed.

        None in a single process, and where the exchange is a part of the compiled backward pass, which DDP cannot time.
        """
        return None if self._compilation.captures_exchange else exchange_s_per_step(self._wrapped)

    def predict(self, images: Any) -> Any:
        """Return the outputs of the evaluated network, such as logits (B, num_classes), in float32."""
        with self._autocast():
            outputs = self.evaluated(in_memory_format(images, self._format))
        return in_float32(outputs)

    def begin_epoch(self) -> None:
        """Switch the network to training mode."""
        self._wrapped.train()

    def step(self, images: Any, targets: Any, *, update: int, global_images: int) -> Tensor:
        """Take one optimiser step and return the loss summed over this rank's images.

        Where the task counts other units than images, the result is such that its sum over the ranks is the mean over
        all units times the number of images.

        Args:
            images: This rank's share of the images, such as a tensor (B, C, H, W).
            targets: Targets of these images.
            update: Number of the step in the whole training, from 0.
            global_images: Number of images of the step over all ranks.
        """
        self.lr_schedule.step_update(update)
        images = in_memory_format(images, self._format)
        counted = self._task.loss_count(targets)
        units = global_images if counted is None else self._workers.sum(counted.double()).clamp(min=1)

        def gradients(parts: int) -> Tensor:
            self.optimizer.zero_grad()
            return self._accumulate(images, targets, units, parts)

        loss = self._accumulation.compute(gradients, global_images)
        if self._accumulation.retries:
            self._workers.average_gradients(self.network.parameters())
        elif self._kept_whole:
            self._workers.average_gradients(self._kept_whole)
        if clips(self._training):
            self._scaler.unscale_(self.optimizer)
            clip_gradients_(self.network, self._training)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self._hooks.project_()
        if self.average is not None:
            self.average.update(self.network, step=update + 1)
        return loss if counted is None else loss * (global_images / units)

    def share_buffers(self) -> None:
        """Share running statistics among ranks, as `training.dist_bn` says, before an evaluation or a checkpoint."""
        self._workers.share_buffers(self.network, self._training.dist_bn)
        if self.average is not None:
            self._workers.share_buffers(self.average.module, self._training.dist_bn)

    def rank_buffers(self) -> Tensor | None:
        """Return the buffers of every rank, (ranks, n), or None in a single process; every rank must call.

        Within an epoch the ranks have running statistics of their own. To share them there would change what is kept
        after the epoch.
        """
        if self._workers.world_size == 1:
            return None
        return self._workers.gather(torch.cat([flat_buffers(network) for network in self._networks()]))

    def restore_rank_buffers(self, rows: Tensor) -> None:
        """Restore this rank's buffers from those of every rank, whose number may have changed.

        Args:
            rows: Result of `rank_buffers`.

        Raises:
            ValueError: They are of another network.
        """
        own = rows[self._workers.rank % len(rows)]
        networks = self._networks()
        for network, part in zip(networks, own.tensor_split(len(networks)), strict=True):
            restore_buffers_(network, part)

    def _networks(self) -> list[nn.Module]:
        return [self.network] if self.average is None else [self.network, self.average.module]

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` takes, in whole tensors; of a sharded network every rank must call.

        The learning rate follows from the number of the step; only `plateau` has a state.
        """
        schedule, parts = self.lr_schedule.state_dict(), self.accumulation_steps
        return {
            "state_dict": whole(self.network.state_dict()),
            "average": None if self.average is None else self.average.module.state_dict(),
            "optimizer": whole(self.optimizer.state_dict()),
            "scaler": self._scaler.state_dict(),
            **({} if schedule is None else {"lr_schedule": schedule}),
            **({} if parts is None else {"accumulation_steps": parts}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from the state of an equal network; the weight decay stays as configured here."""
        self.network.load_state_dict(sharded_weights(state["state_dict"], self.network))
        if self.average is not None:
            self.average.module.load_state_dict(state["average"])
        decay = [group["weight_decay"] for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(sharded_optimizer(state["optimizer"], self.optimizer))
        for group, own in zip(self.optimizer.param_groups, decay, strict=True):
            group["weight_decay"] = own
        self._scaler.load_state_dict(state["scaler"])
        if self._accumulation.retries:
            self._accumulation.parts = state.get("accumulation_steps", self._accumulation.parts)
        if self.lr_schedule.state_dict() is not None:
            self.lr_schedule.load_state_dict(state["lr_schedule"])

    def _accumulate(self, images: Any, targets: Any, units: int | Tensor, parts: int) -> Tensor:
        """Add up the gradients of this rank's share, a part at a time, and return the loss summed over the share."""
        total = torch.zeros((), device=self._workers.device)
        for part, (inputs, wanted) in enumerate(
            zip(split_tree(images, parts), split_tree(targets, parts), strict=True)
        ):
            is_last = part == parts - 1
            with nullcontext() if is_last else self._without_exchange(), self._compilation.backward():
                with self._autocast():
                    outputs = self._task.forward(self._compiled, inputs, wanted)
                counted = self._task.losses_with_counts(outputs)
                if counted is None:
                    loss = self._task.loss_sum(outputs, wanted, self._training)
                else:
                    loss = self._mean_over_ranks(*counted, images=len(inputs))
                # DDP averages gradients over ranks; the factor makes that the mean over images, or over the units that
                # the task counts, for shares of any size.
                objective = loss * (self._workers.world_size / units)
                if is_last:
                    objective = objective + self._hooks.penalty()
                with self._recomputation():
                    self._scaler.scale(objective).backward()
            total += loss.detach()
        return total

    def _mean_over_ranks(self, sums: Tensor, counts: Tensor, *, images: int) -> Tensor:
        """Return losses as a sum over images, of which each has the mean of every loss over the units of all ranks.

        A collective operation: every rank must call, also one without images.

        Args:
            sums: Losses summed over this rank's units, (L,).
            counts: Number of this rank's units of each loss, (L,).
            images: Number of this rank's images.
        """
        own = torch.cat([counts.detach(), counts.new_tensor([images])])
        total = self._workers.sum(own.double()).to(sums.dtype)
        return (sums / total[:-1].clamp(min=1)).sum() * total[-1]

    def _autocast(self) -> AbstractContextManager[Any]:
        return autocast(self._workers.device.type, self._training.precision)

    def _recomputation(self) -> AbstractContextManager[None]:
        """Let a backward pass compute layers again without an effect on running statistics."""
        return unchanged_buffers(self.network) if self._recomputes else nullcontext()

    def _without_exchange(self) -> AbstractContextManager[Any]:
        """Keep gradients on this rank, to be exchanged with those of the last part."""
        if isinstance(self._wrapped, DistributedDataParallel):
            context: AbstractContextManager[Any] = self._wrapped.no_sync()
            return context
        if isinstance(self._wrapped, FSDPModule):
            return gradients_kept(self._wrapped)
        return nullcontext()


def _average(network: nn.Module, training: TrainingConfig) -> ModelEmaV3 | None:
    if training.ema_decay is None:
        return None
    return ModelEmaV3(network, decay=training.ema_decay, use_warmup=training.ema_warmup)
