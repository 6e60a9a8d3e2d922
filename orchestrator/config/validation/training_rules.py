"""Rules that join settings of the training with each other, with the search space, and with the workers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from orchestrator.config.searched_values import Setting
from orchestrator.config.sections.training import AUTO, TrainingConfig
from orchestrator.config.tasks.classification import CLASSIFICATION
from orchestrator.config.tasks.facts import TaskFacts
from orchestrator.config.validation.parallel_rules import parallel_problems
from orchestrator.errors import Problem

if TYPE_CHECKING:
    from orchestrator.data import DatasetFacts

_SMALL_ONLY = ("crop_padding", "crop_px")
_FILES_ONLY = ("crop_scale_min", "color_jitter", "auto_augment")
_COLOURS_ONLY = ("hue", "lighting")
# Part of the names of the policies that timm combines with `color_jitter`.
_LEAVES_COLOURS = "3a"
# As timm names them.
_NESTEROV = {"sgd", "sgdw", "sgdc", "csgdw", "csgdc", "nesterov", "nesterovw", "nlars", "nlarc"}


def training_problems(
    training: TrainingConfig, search: Mapping[str, Any], workers: int, *, task: TaskFacts = CLASSIFICATION
) -> Iterator[Problem]:
    """Yield combinations of settings that are wrong although each setting is valid.

    Args:
        training: Section `training`, the fixed values.
        search: Searched domains by name.
        workers: Number of DDP ranks of a trial.
        task: Task of the sweep.
    """

    def setting(name: str) -> Setting:
        return Setting.of(name, training, search)

    parts = max((value for value in setting("accumulation_steps").values if isinstance(value, int)), default=1)
    full = setting("drop_last").values == (True,)
    least = task.smallest_batch(workers, parts, drop_last=full)
    sizes = setting("global_batch_size")
    yield from _batch_size(sizes, parts, workers, images=task.least_images, least=least, full=full)
    yield from _found_batch_size(sizes, setting("max_global_batch_size"), workers, least=least)
    yield from _out_of_memory(setting("on_out_of_memory"), setting("sync_batch_norm"), workers)
    yield from _lr_schedule(setting("decay_milestones"), setting("epochs"), setting("cooldown_epochs"))
    threshold, losses = setting("bce_target_threshold"), setting("loss").values
    given = [value for value in threshold.values if value is not None]
    if given and "binary_cross_entropy" not in losses:
        yield Problem(
            threshold.where,
            f"got {given[0]}; only binary cross-entropy has a threshold. Add training.loss: binary_cross_entropy, "
            "or leave the threshold out",
        )
    momentum = setting("momentum")
    nesterov = [name for name in setting("optimizer").values if name in _NESTEROV]
    if nesterov and 0 in momentum.values:
        yield Problem(
            momentum.where,
            f"got 0; {nesterov[0]} looks ahead along its momentum and needs some. Use 0.9, or training.optimizer: "
            "momentum, which may have none",
        )
    yield from parallel_problems(setting)
    warmup = setting("ema_warmup")
    if True in warmup.values and setting("ema_decay").values == (None,):
        yield Problem(
            warmup.where, "got True; there is no average of the weights to warm up. Add training.ema_decay: 0.9999"
        )


def augmentation_problems(
    training: TrainingConfig, search: Mapping[str, Any], facts: DatasetFacts
) -> Iterator[Problem]:
    """Yield augmentations that do not apply to these images.

    Args:
        training: Section `training`, the fixed values.
        search: Searched domains by name.
        facts: Facts about the images: files, which are cropped, or small images, which are padded first; of annotated
            images the task says which settings it takes.
    """
    if facts.annotation:
        yield from _scales(Setting.of("scale_range", training, search), facts.image_size)
        return
    kind, other = ("image files", _SMALL_ONLY) if facts.files else ("small images", _FILES_ONLY)
    for setting, given in _changed(other, training, search):
        yield Problem(setting.where, f"got {given!r}; {kind} are augmented without it. Leave it out")
    if facts.in_chans != 3:
        for setting, given in _changed(_COLOURS_ONLY, training, search):
            rule = f"these images have {facts.in_chans} channels, and colours need red, green and blue. Leave it out"
            yield Problem(setting.where, f"got {given!r}; {rule}")
    if not facts.files:
        crops, paddings = (Setting.of(name, training, search) for name in ("crop_px", "crop_padding"))
        yield from _window(crops, paddings, facts.image_size)
    if facts.files:
        setting = Setting.of("auto_augment", training, search)
        for value in setting.values:
            if value and not _is_policy(value):
                yield Problem(setting.where, f"got {value!r}; timm has no such policy. Use rand-m9-mstd0.5-inc1")


_accepts_unused: ContextVar[bool] = ContextVar("accepts_unused", default=False)


@contextmanager
def unused_accepted() -> Iterator[None]:
    """Accept settings that no trial uses within the context: a sweep keeps those that it began with."""
    token = _accepts_unused.set(True)
    try:
        yield
    finally:
        _accepts_unused.reset(token)


def unused_problems(training: TrainingConfig, search: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield augmentations of image files that no trial uses, because of another one.

    Args:
        training: Section `training`, the fixed values.
        search: Searched domains by name.
    """
    policies = Setting.of("auto_augment", training, search)
    if _accepts_unused.get() or not all(
        isinstance(name, str) and name and _LEAVES_COLOURS not in name for name in policies.values
    ):
        return
    for setting, given in _changed(("color_jitter",), training, search):
        yield Problem(
            setting.where,
            f"got {given!r}; timm leaves it out beside a policy, and auto_augment is {policies.values[0]!r}. Leave one "
            "of them out",
        )


def _changed(
    names: Sequence[str], training: TrainingConfig, search: Mapping[str, Any]
) -> Iterator[tuple[Setting, Any]]:
    """Yield the settings that differ from their default, each with the first such value."""
    for name in names:
        setting = Setting.of(name, training, search)
        given = [value for value in setting.values if value != TrainingConfig.model_fields[name].default]
        if given:
            yield setting, given[0]


def _window(crops: Setting, paddings: Setting, image_size: int) -> Iterator[Problem]:
    """Check that a crop of small images fits into the padded image."""
    padding = min((value for value in paddings.values if isinstance(value, int)), default=0)
    most = image_size + 2 * padding
    largest = max((value for value in crops.values if isinstance(value, int)), default=0)
    if largest > most:
        padded = f" and {padding} px of padding on each side" if padding else ""
        yield Problem(crops.where, f"got {largest}; images of {image_size} px{padded} are smaller. Use {most} or less")


def _scales(ranges: Setting, image_size: int) -> Iterator[Problem]:
    """Check that the smallest factor leaves a pixel of an image."""
    for value in ranges.values:
        if isinstance(value, tuple) and int(image_size * value[0]) < 1:
            rule = f"images of {image_size} px would have no pixel left"
            least = math.ceil(1000 / image_size) / 1000
            yield Problem(ranges.where, f"got {list(value)}; {rule}. Use {least:g} or more")


def _is_policy(name: str) -> bool:
    """Check whether timm has such a policy; it raises many kinds of errors for others."""
    from timm.data import create_transform

    try:
        create_transform(32, is_training=True, auto_augment=name)
    except (AssertionError, AttributeError, KeyError, ValueError, TypeError, IndexError):
        return False
    return True


def _lr_schedule(milestones: Setting, epochs: Setting, cooldown: Setting) -> Iterator[Problem]:
    """Check that milestones and cool-down fit the number of epochs."""
    shortest = min((value for value in epochs.values if isinstance(value, int)), default=1)
    for points in milestones.values:
        if not isinstance(points, tuple):
            continue  # a searched number, which is reported by another rule
        if list(points) != sorted(set(points)):
            yield Problem(milestones.where, f"got {list(points)}; each epoch comes once, in rising order")
    longest = max((value for value in cooldown.values if isinstance(value, int)), default=0)
    if longest >= shortest and longest > 0:
        yield Problem(
            cooldown.where,
            f"got {longest}; they are the last of {shortest} epochs, of which at least one comes before. "
            f"Use {shortest - 1} or fewer",
        )


def _batch_size(sizes: Setting, parts: int, workers: int, *, images: int, least: int, full: bool) -> Iterator[Problem]:
    """Check that every worker has enough images in each part of its share."""
    needed = f"at least {images} image{'s' if images > 1 else ''} a step"
    short = "" if full else ", also where a batch is one image short"
    each = f"each of the {workers} workers" + (f", in each of {parts} parts of its share," if parts > 1 else "")
    for size in sizes.values:
        if isinstance(size, int) and 0 < size < least:
            yield Problem(
                sizes.where,
                f"got {size}; {each} needs {needed}{short}. "
                f"Use {least} or more" + (", or fewer accumulation_steps" if parts > 1 else ""),
            )


def _found_batch_size(sizes: Setting, bounds: Setting, workers: int, *, least: int) -> Iterator[Problem]:
    """Check that `auto` stands alone, and that its upper bound has room for a batch."""
    if AUTO not in sizes.values:
        usual = TrainingConfig.model_fields["max_global_batch_size"].default
        if bounds.values != (usual,):
            yield Problem(
                bounds.where,
                f"got {bounds.values[0]}; it bounds a batch size that is found. Add training.global_batch_size: auto, "
                "or leave it out",
            )
        return
    if len(sizes.values) > 1 or sizes.where.startswith("search."):
        yield Problem(
            sizes.where,
            "got auto; a batch size that is found is not searched. Write training.global_batch_size: auto, or search "
            "numbers",
        )
    smallest = workers
    while smallest < least:
        smallest *= 2
    for bound in bounds.values:
        if isinstance(bound, int) and 0 < bound < smallest:
            yield Problem(
                bounds.where,
                f"got {bound}; the smallest batch that is tried with {workers} workers has {smallest} images. "
                f"Use {smallest} or more",
            )


def _out_of_memory(answers: Setting, synchronised: Setting, workers: int) -> Iterator[Problem]:
    """Check that a step that runs out of memory on one rank can be computed again on all."""
    given = [value for value in answers.values if value != "fail"]
    if given and workers > 1 and True in synchronised.values:
        yield Problem(
            answers.where,
            f"got {given[0]!r}; with training.sync_batch_norm a worker out of memory would leave the others waiting. "
            "Leave one of them out",
        )
