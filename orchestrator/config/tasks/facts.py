"""Facts of a task, for configuration, records and readers: its metrics, losses and settings; imports no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["LOSS_SETTINGS", "SCENE_SETTINGS", "Mode", "Requirement", "TaskFacts", "TaskMetric", "is_name"]

Mode = Literal["max", "min"]

LOSS_SETTINGS = ("label_smoothing", "bce_target_threshold")
"""Settings of `training` that belong to some of the losses."""

SCENE_SETTINGS = ("scale_range", "cat_max_ratio", "photometric")
"""Settings of `training` for annotated images, which only tasks that name them take."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def is_name(text: str) -> bool:
    """Check whether a text can be the name of a task or of a metric."""
    return _NAME.fullmatch(text) is not None


@dataclass(frozen=True, kw_only=True)
class TaskMetric:
    """A metric that the evaluator of a task computes.

    Args:
        name: Name without the split, such as `top1`; reports hold it as `val/top1` and `test/top1`.
        mode: Direction of improvement, `max` or `min`.
        label: Text for tables and lines, such as `top-1`.
        words: Text within a sentence, such as `accuracy`; empty for the label.
        is_share: A number from 0 to 1 that is written in per cent.
        in_test: Reported of the test images as well.
    """

    name: str
    mode: Mode
    label: str
    words: str = ""
    is_share: bool = False
    in_test: bool = True

    def text(self, value: float) -> str:
        """Format a value, such as `91.23%`."""
        return f"{value:.2%}" if self.is_share else f"{value:.4f}"

    @property
    def in_words(self) -> str:
        """Name within a sentence."""
        return self.words or self.label


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """A package that a task needs and that is no dependency of every installation.

    Args:
        package: Name of the package.
        module: Name under which it is imported.
        extra: Extra of this package that installs it.
    """

    package: str
    module: str
    extra: str


@dataclass(frozen=True, kw_only=True)
class TaskFacts:
    """Metrics, losses and settings of a task.

    Args:
        name: Name of the task, the value of the setting `task`.
        metrics: Metrics of its evaluator; the first one is the primary metric.
        losses: Names that `training.loss` takes; the first one is the default.
        settings: Settings of `training` that change its images, its targets or its loss, and that it takes; None for
            all of them but `SCENE_SETTINGS`.
        tta: Values of `dataset.tta` that it takes.
        resize: Values of `dataset.resize` that it takes.
        has_labels: True where the target of an image is one class, which balanced splits and some explanations need.
        annotation: Kind of annotation that it reads, such as `class_map`; empty for images with one label each.
        head: Name of the heads that it puts on a backbone, whose settings are options of the network; empty where
            networks are used as they are.
        refused: Other settings of `training` that it does not take.
        requires: Package that its metrics need; None where every installation has all.
        least_images: Smallest number of images of a worker in a part of a step: two for batch norms over small maps.
    """

    name: str
    metrics: tuple[TaskMetric, ...]
    losses: tuple[str, ...]
    settings: frozenset[str] | None = None
    tta: tuple[str, ...] = ("none",)
    resize: tuple[str, ...] = ("keep_ratio",)
    has_labels: bool = False
    annotation: str = ""
    head: str = ""
    refused: frozenset[str] = frozenset()
    requires: Requirement | None = None
    least_images: int = 2
    _by_name: Mapping[str, TaskMetric] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        names = [metric.name for metric in self.metrics]
        bad = [name for name in (self.name, *names) if not is_name(name)]
        if bad:
            raise ValueError(f"{bad[0]!r}: a name is of letters, digits and '_', and begins with a letter")
        if not self.losses or not names:
            raise ValueError(f"{self.name}: a task has at least one metric and one loss")
        if len(set(names)) < len(names):
            raise ValueError(f"{self.name}: names a metric twice ({', '.join(names)})")
        if not self.metrics[0].in_test:
            raise ValueError(f"{self.name}: its primary metric {names[0]} is not reported of the test images")
        object.__setattr__(self, "_by_name", dict(zip(names, self.metrics, strict=True)))

    @property
    def primary(self) -> TaskMetric:
        """Metric that results show first."""
        return self.metrics[0]

    @property
    def objective(self) -> str:
        """Metric that is the objective where a sweep names none."""
        return f"val/{self.primary.name}"

    @property
    def tested(self) -> tuple[TaskMetric, ...]:
        """Metrics that are reported of the test images."""
        return tuple(metric for metric in self.metrics if metric.in_test)

    def smallest_batch(self, workers: int, parts: int, *, drop_last: bool) -> int:
        """Return the smallest number of images of a step, which leaves enough where a batch is one image short.

        Args:
            workers: Number of workers.
            parts: Number of parts of a worker's share.
            drop_last: True where no batch is short.
        """
        return self.least_images * workers * parts + (0 if drop_last else 1)

    @property
    def reported(self) -> dict[str, Mode]:
        """Names of the metrics of every epoch, with their direction of improvement."""
        return {**{f"val/{metric.name}": metric.mode for metric in self.metrics}, "train/loss": "min"}

    def metric(self, name: str) -> TaskMetric | None:
        """Return a metric by its name, with or without the split; None for one of another kind."""
        return self._by_name.get(name.removeprefix("val/").removeprefix("test/"))
