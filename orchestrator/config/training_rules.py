"""Rules that join settings of the training with one another, with what is searched, and with the workers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.config.schema import TrainingConfig
from orchestrator.errors import Problem

# As timm names them.
_NESTEROV = {"sgd", "sgdw", "sgdc", "csgdw", "csgdc", "nesterov", "nesterovw", "nlars", "nlarc"}


@dataclass(frozen=True)
class _Setting:
    """A setting with all values that trials may give it: the searched corners, or the fixed one."""

    where: str
    values: tuple[Any, ...]


def training_problems(training: TrainingConfig, search: Mapping[str, Any], workers: int) -> Iterator[Problem]:
    """Settings that are sound alone and wrong together.

    Args:
        training: The fixed values.
        search: Domains by name.
        workers: DDP ranks of a trial.
    """

    def setting(name: str) -> _Setting:
        if name in search:
            return _Setting(f"search.{name}", tuple(search[name].corners()))
        return _Setting(f"training.{name}", (getattr(training, name),))

    yield from _batch_size(setting("global_batch_size"), setting("accumulation_steps"), workers)
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
    warmup = setting("ema_warmup")
    if True in warmup.values and setting("ema_decay").values == (None,):
        yield Problem(
            warmup.where, "got True; there is no average of the weights to warm up. Add training.ema_decay: 0.9999"
        )


def _batch_size(sizes: _Setting, parts: _Setting, workers: int) -> Iterator[Problem]:
    """Batch norm needs two images per worker and part, and some batches are one image short of the global size."""
    most = max((value for value in parts.values if isinstance(value, int)), default=1)
    least = 2 * workers * most + 1
    each = f"each of the {workers} workers" + (f", in each of {most} parts of its share," if most > 1 else "")
    for size in sizes.values:
        if isinstance(size, int) and 0 < size < least:
            yield Problem(
                sizes.where,
                f"got {size}; {each} needs at least 2 images a step, also where a batch is one image short. "
                f"Use {least} or more" + (", or fewer accumulation_steps" if most > 1 else ""),
            )
