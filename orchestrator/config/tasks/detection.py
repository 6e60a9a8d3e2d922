"""Facts of detection: boxes of objects, and instances, boxes with masks."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.config.tasks.facts import Requirement, TaskFacts, TaskMetric

_LABELS = {
    "ap": "AP",
    "ap50": "AP50",
    "ap75": "AP75",
    "ap_small": "AP of small objects",
    "ap_medium": "AP of medium objects",
    "ap_large": "AP of large objects",
    "ar100": "recall",
}


def _metrics(kind: str, prefix: str = "") -> tuple[TaskMetric, ...]:
    """Return COCO's metrics of boxes or of masks."""
    return tuple(
        TaskMetric(name=f"{prefix}{name}", mode="max", label=f"{kind} {label}", is_share=True)
        for name, label in _LABELS.items()
    )


DETECTION = TaskFacts(
    name="detection",
    metrics=_metrics("box"),
    losses=("detector",),
    settings=frozenset({"hflip", "photometric"}),
    resize=("keep_ratio", "square"),
    annotation="boxes",
    head="detection",
    refused=frozenset(
        {
            "agc_factor",
            "compile",
            "compiled_autograd",
            "gradient_checkpointing",
            "layer_decay",
            "on_out_of_memory",
            "parallel",
        }
    ),
    requires=Requirement(package="faster-coco-eval", module="faster_coco_eval", extra="detection"),
    least_images=1,
)
"""Boxes of objects."""

INSTANCES = replace(
    DETECTION,
    name="instances",
    metrics=(*_metrics("mask", "mask_"), *_metrics("box")),
    annotation="masks",
    head="instances",
)
"""Boxes and masks of objects."""
