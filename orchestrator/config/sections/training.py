"""Settings of the training of one trial."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PlainSerializer,
    PlainValidator,
    PositiveFloat,
    PositiveInt,
    Strict,
)

from orchestrator.config.sections.augmentation import AugmentationConfig
from orchestrator.config.tasks.classification import CLASSIFICATION
from orchestrator.config.tasks.registry import list_losses
from orchestrator.errors import did_you_mean

Milestones = Annotated[tuple[PositiveInt, ...], Strict(strict=False)]
"""Epochs in ascending order; YAML writes a list."""

Betas = Annotated[tuple[Annotated[float, Field(ge=0, lt=1)], ...], Field(min_length=1), Strict(strict=False)]
"""Decay rates of moving averages; YAML writes a list."""

AUTO = "auto"
"""Value of settings that are found by measuring."""

WHOLE_OR_DIVIDED = ("lamb",)
"""Optimisers whose step reads all gradients together, which are then either all divided among workers or all whole."""


def _batch_size(given: Any) -> int | Literal["auto"]:
    if given != AUTO and (type(given) is not int or given < 1):
        raise ValueError("must be a number of images, 1 or more, or auto. Use 64, or auto")
    result: int | Literal["auto"] = given
    return result


BatchSize = Annotated[int | Literal["auto"], PlainValidator(_batch_size), PlainSerializer(lambda given: given, Any)]
"""Number of images, or `auto`."""


def _loss_of_a_task(given: str) -> str:
    if given not in (known := list_losses()):
        raise ValueError(f"no task has such a loss. {did_you_mean(given, known)}")
    return given


LossName = Annotated[str, AfterValidator(_loss_of_a_task)]
"""Name of a loss of any task; the rules of the sweep check that it is one of its task."""


class TrainingConfig(AugmentationConfig):
    """Settings of the training of one trial, beside those of its images. Every field may be searched.

    Args:
        epochs: Largest number of epochs: passes over the training images, unless `epoch_steps` sets their length.
        epoch_steps: Number of optimiser steps of an epoch, after which validation, report and checkpoint are due;
            batches continue from one pass over the images to the next. None is one pass.
        global_batch_size: Images per optimiser step, summed over the workers; `auto` finds the largest number that fits
            into the memory of the workers' devices, before the first step of each trial.
        max_global_batch_size: Upper bound of the number that `auto` finds.
        optimizer: Name of an optimiser of timm, such as `sgd`, `adamw` or `lamb`.
        lr: Peak learning rate.
        lr_base_size: Batch size for which `lr` is meant; the rate is scaled in proportion. None does not scale it.
        weight_decay: Weight decay, decoupled or not as the optimiser defines it.
        decay_norms_and_biases: Weight decay of all parameters; without it biases, norms, and parameters that a layer
            exempts, such as spans and layer scales, have none.
        momentum: Momentum of optimisers that have one.
        betas: Decay rates of the moving averages of optimisers that have some; None for those of the optimiser.
        layer_decay: Factor of the learning rate from each layer to the one before it, the head having the whole rate;
            layers are those of timm's layer decay. None trains all layers at one rate.
        lr_schedule: Shape of the learning rate after the warm-up.
        lr_per: Interval at which the rate changes: `step`, or `epoch`, at whose first step it is computed.
        warmup_epochs: Number of epochs of linear warm-up.
        warmup_steps: Number of optimiser steps of linear warm-up, in place of `warmup_epochs`; None for epochs.
        warmup_lr: Learning rate at the start of the warm-up; None is a hundredth of `lr`.
        warmup_prefix: Start of the schedule after the warm-up; without it the schedule starts with the first epoch, and
            the warm-up replaces its beginning.
        min_lr: Learning rate at the end of `cosine` and `poly`, and smallest one of `plateau`.
        cooldown_epochs: Number of last epochs at `min_lr`.
        anneal_epochs: Number of epochs in which `cosine` and `poly` fall to `min_lr`; None for all but the cool-down
            and, with `warmup_prefix`, the warm-up.
        poly_power: Exponent of `poly`; 1 is a straight line.
        decay_epochs: Number of epochs between two decays of `step`.
        decay_milestones: Epochs after which `multistep` lowers the rate; empty for a half and three quarters of all.
        decay_rate: Factor by which `multistep`, `step` and `plateau` lower the rate.
        plateau_patience: Number of epochs without a better value of the first objective, after which `plateau` lowers
            the rate.
        loss: Training loss, one of the task's; `binary_cross_entropy` is averaged over the classes.
        label_smoothing: Share of the target spread over all classes.
        bce_target_threshold: Soft targets above it become 1, others 0; None leaves them soft.
        accumulation_steps: Number of parts of a worker's share of a batch, computed one after the other to save memory.
        on_out_of_memory: Answer to a failed allocation within a step: `fail` ends the trial, `accumulate` computes the
            step again in twice as many parts unless the network has batch norms, `accumulate_always` also then.
        clip_grad_norm: Largest norm of all gradients together; None does not clip.
        agc_factor: Largest norm of the gradient of each output unit, over that of its weights (adaptive gradient
            clipping); the classifier is not clipped. None does not clip.
        precision: Type of the arithmetic; weights stay float32, and `float16` scales the loss.
        channels_last: Memory format with the channels last, which is often faster for convolutions.
        compile: Compilation of the network with `torch.compile`, at a cost of minutes before the first step.
        compiled_autograd: Compilation of the whole backward pass in addition to that of the network: with the loss,
            with what is added to gradients, and with their exchange among the workers.
        sync_batch_norm: Batch norm statistics over the images of all workers instead of each worker's own.
        gradient_checkpointing: Second computation of the inside of each block in the backward pass, to save memory.
        ema_decay: Decay of a moving average of the weights, which is evaluated and kept instead of them.
        ema_warmup: Smaller decay of the moving average at first, for short trainings.
        validate_every: Number of epochs between two validations, each of which is followed by a report; the last epoch
            is validated in any case.
        checkpoint_every_steps: Optimiser steps between checkpoints within an epoch; None writes one after each epoch.
        dist_bn: Running statistics that are evaluated and kept after an epoch: `broadcast` takes the first worker's,
            `reduce` the mean over the workers, and with `none` each worker keeps its own.
        parallel: What each of several workers holds: with `ddp` the whole network, gradients and optimiser state, with
            `fsdp` a part of each, gathered block by block, for networks that do not fit otherwise.
        bucket_mb: Size of the groups of gradients that `ddp` exchanges at once, in MiB; None is torch's, 25.
        static_graph: Assurance to `ddp` that every step uses the same parameters, which makes its bookkeeping cheaper.
    """

    epochs: PositiveInt = 10
    epoch_steps: PositiveInt | None = None
    global_batch_size: BatchSize = 64
    max_global_batch_size: PositiveInt = 1024
    optimizer: str = "sgd"
    lr: PositiveFloat = 0.05
    lr_base_size: PositiveInt | None = None
    weight_decay: NonNegativeFloat = 5e-4
    decay_norms_and_biases: bool = False
    momentum: float = Field(0.9, ge=0, lt=1)
    betas: Betas | None = None
    layer_decay: float | None = Field(None, gt=0, le=1)
    lr_schedule: Literal["cosine", "multistep", "constant", "poly", "step", "plateau"] = "cosine"
    lr_per: Literal["step", "epoch"] = "step"
    warmup_epochs: NonNegativeInt = 1
    warmup_steps: NonNegativeInt | None = None
    warmup_lr: PositiveFloat | None = None
    warmup_prefix: bool = False
    min_lr: NonNegativeFloat = 0.0
    cooldown_epochs: NonNegativeInt = 0
    anneal_epochs: PositiveInt | None = None
    poly_power: PositiveFloat = 1.0
    decay_epochs: PositiveInt = 30
    decay_milestones: Milestones = ()
    decay_rate: float = Field(0.1, gt=0, lt=1)
    plateau_patience: NonNegativeInt = 10
    loss: LossName = CLASSIFICATION.losses[0]
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    bce_target_threshold: float | None = Field(None, ge=0, lt=1)
    accumulation_steps: PositiveInt = 1
    on_out_of_memory: Literal["fail", "accumulate", "accumulate_always"] = "fail"
    clip_grad_norm: PositiveFloat | None = None
    agc_factor: PositiveFloat | None = None
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    channels_last: bool = False
    compile: bool = False
    compiled_autograd: bool = False
    sync_batch_norm: bool = False
    gradient_checkpointing: bool = False
    ema_decay: float | None = Field(None, gt=0, lt=1)
    ema_warmup: bool = False
    validate_every: PositiveInt = 1
    checkpoint_every_steps: PositiveInt | None = None
    dist_bn: Literal["broadcast", "reduce", "none"] = "broadcast"
    parallel: Literal["ddp", "fsdp"] = "ddp"
    bucket_mb: PositiveFloat | None = None
    static_graph: bool = False

    @property
    def batch_size(self) -> int:
        """Images per optimiser step; the upper bound as long as the number is not found."""
        size = self.global_batch_size
        return size if isinstance(size, int) else self.max_global_batch_size
