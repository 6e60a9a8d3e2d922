"""How one trial is trained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Strict

from orchestrator.config.sections.section import Section

Milestones = Annotated[tuple[PositiveInt, ...], Strict(strict=False)]
"""Epochs in rising order; YAML writes a list."""


class TrainingConfig(Section):
    """How one trial is trained. Every field may be searched.

    Args:
        epochs: Passes over the training images, at most.
        global_batch_size: Images per optimiser step, summed over the workers.
        optimizer: A name timm knows, such as `sgd`, `adamw` or `lamb`.
        lr: Peak learning rate.
        lr_base_size: Batch size that `lr` is meant for, which it is scaled from in proportion; None takes it as it is.
        weight_decay: Decoupled or not as the optimiser defines it.
        momentum: For optimisers that have one.
        lr_schedule: Shape after the warm-up.
        warmup_epochs: Epochs of linear rise.
        warmup_lr: Where the rise begins; None is a hundredth of `lr`.
        min_lr: Where `cosine` ends.
        cooldown_epochs: The last of the epochs, which stay at `min_lr`.
        decay_milestones: Epochs after which `multistep` lowers the rate; none for a half and three quarters of all.
        decay_rate: Factor it is lowered by.
        loss: `binary_cross_entropy` takes every class as a question of its own, averaged over the classes.
        label_smoothing: Share of the target spread over all classes.
        bce_target_threshold: Soft targets above it become 1, others 0; None leaves them soft.
        crop_padding: Black pixels added on every side before a random crop to the old size.
        hflip: Chance that an image is mirrored.
        cutout_px: Side of a square hidden at a random place, in pixels; 0 hides none.
        erasing: Chance that a rectangle is filled with noise.
        mixup_alpha: Of the beta distribution of shares of blended images; 0 blends none.
        cutmix_alpha: Likewise, for rectangles taken from another image.
        mix_switch: Chance of a rectangle instead of a blend where both are on.
        crop_scale_min: Smallest share of the area that a crop covers; image files only, like the next three.
        color_jitter: Strength of random brightness, contrast and saturation; unused beside `auto_augment`.
        auto_augment: timm's name of a policy, such as `rand-m9-mstd0.5-inc1`; empty for none.
        repeats: Looks at an image within an epoch, which sees that many fewer images.
        accumulation_steps: Parts a worker's share of a batch is cut into, computed one after the other to save memory.
        clip_grad_norm: Largest norm of all gradients together; None leaves them as they are.
        precision: Type of the arithmetic; weights stay float32, and `float16` scales the loss.
        channels_last: Keeps images with their channels together in memory, which convolutions often prefer.
        compile: Compiles the network with `torch.compile`, at a cost of minutes before the first step.
        sync_batch_norm: Batch norms see the images of all workers instead of their own.
        ema_decay: An average of the weights, renewed by 1 - ema_decay a step, is evaluated and kept instead of them.
        ema_warmup: Lets the average follow faster at first, for short trainings.
        checkpoint_every_steps: Optimiser steps between checkpoints within an epoch; None writes one after each epoch.
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
    crop_padding: NonNegativeInt = 0
    hflip: float = Field(0.0, ge=0, le=1)
    cutout_px: NonNegativeInt = 0
    erasing: float = Field(0.0, ge=0, le=1)
    mixup_alpha: NonNegativeFloat = 0.0
    cutmix_alpha: NonNegativeFloat = 0.0
    mix_switch: float = Field(0.5, ge=0, le=1)
    crop_scale_min: float = Field(0.08, gt=0, le=1)
    color_jitter: NonNegativeFloat = 0.0
    auto_augment: str = ""
    repeats: PositiveInt = 1
    accumulation_steps: PositiveInt = 1
    clip_grad_norm: PositiveFloat | None = None
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    channels_last: bool = False
    compile: bool = False
    sync_batch_norm: bool = False
    ema_decay: float | None = Field(None, gt=0, lt=1)
    ema_warmup: bool = False
    checkpoint_every_steps: PositiveInt | None = None
