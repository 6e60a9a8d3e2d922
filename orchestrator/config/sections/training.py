"""Settings of the training of one trial."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Strict

from orchestrator.config.sections.augmentation import AugmentationConfig

Milestones = Annotated[tuple[PositiveInt, ...], Strict(strict=False)]
"""Epochs in ascending order; YAML writes a list."""


class TrainingConfig(AugmentationConfig):
    """Settings of the training of one trial, beside those of its images. Every field may be searched.

    Args:
        epochs: Largest number of passes over the training images.
        global_batch_size: Images per optimiser step, summed over the workers.
        optimizer: Name of an optimiser of timm, such as `sgd`, `adamw` or `lamb`.
        lr: Peak learning rate.
        lr_base_size: Batch size for which `lr` is meant; the rate is scaled in proportion. None does not scale it.
        weight_decay: Weight decay, decoupled or not as the optimiser defines it.
        momentum: Momentum of optimisers that have one.
        lr_schedule: Shape of the learning rate after the warm-up.
        warmup_epochs: Number of epochs of linear warm-up.
        warmup_lr: Learning rate at the start of the warm-up; None is a hundredth of `lr`.
        min_lr: Learning rate at the end of `cosine`.
        cooldown_epochs: Number of last epochs at `min_lr`.
        decay_milestones: Epochs after which `multistep` lowers the rate; empty for a half and three quarters of all.
        decay_rate: Factor by which `multistep` lowers the rate.
        loss: Training loss; `binary_cross_entropy` is averaged over the classes.
        label_smoothing: Share of the target spread over all classes.
        bce_target_threshold: Soft targets above it become 1, others 0; None leaves them soft.
        accumulation_steps: Number of parts of a worker's share of a batch, computed one after the other to save memory.
        clip_grad_norm: Largest norm of all gradients together; None does not clip.
        precision: Type of the arithmetic; weights stay float32, and `float16` scales the loss.
        channels_last: Memory format with the channels last, which is often faster for convolutions.
        compile: Compilation of the network with `torch.compile`, at a cost of minutes before the first step.
        sync_batch_norm: Batch norm statistics over the images of all workers instead of each worker's own.
        ema_decay: Decay of a moving average of the weights, which is evaluated and kept instead of them.
        ema_warmup: Smaller decay of the moving average at first, for short trainings.
        checkpoint_every_steps: Optimiser steps between checkpoints within an epoch; None writes one after each epoch.
        dist_bn: Running statistics that are evaluated and kept after an epoch: `broadcast` takes the first worker's,
            `reduce` the mean over the workers, and with `none` each worker keeps its own.
    """

    epochs: PositiveInt = 10
    global_batch_size: PositiveInt = 64
    optimizer: str = "sgd"
    lr: PositiveFloat = 0.05
    lr_base_size: PositiveInt | None = None
    weight_decay: NonNegativeFloat = 5e-4
    momentum: float = Field(0.9, ge=0, lt=1)
    lr_schedule: Literal["cosine", "multistep", "constant"] = "cosine"
    warmup_epochs: NonNegativeInt = 1
    warmup_lr: PositiveFloat | None = None
    min_lr: NonNegativeFloat = 0.0
    cooldown_epochs: NonNegativeInt = 0
    decay_milestones: Milestones = ()
    decay_rate: float = Field(0.1, gt=0, lt=1)
    loss: Literal["cross_entropy", "binary_cross_entropy"] = "cross_entropy"
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    bce_target_threshold: float | None = Field(None, ge=0, lt=1)
    accumulation_steps: PositiveInt = 1
    clip_grad_norm: PositiveFloat | None = None
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    channels_last: bool = False
    compile: bool = False
    sync_batch_norm: bool = False
    ema_decay: float | None = Field(None, gt=0, lt=1)
    ema_warmup: bool = False
    checkpoint_every_steps: PositiveInt | None = None
    dist_bn: Literal["broadcast", "reduce", "none"] = "broadcast"
