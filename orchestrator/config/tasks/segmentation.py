"""Facts of semantic segmentation."""

from __future__ import annotations

from orchestrator.config.tasks.facts import TaskFacts, TaskMetric

SEGMENTATION = TaskFacts(
    name="segmentation",
    metrics=(
        TaskMetric(name="miou", mode="max", label="mIoU", words="mean IoU", is_share=True),
        TaskMetric(name="pixel_accuracy", mode="max", label="pixel accuracy", is_share=True),
        TaskMetric(name="mean_accuracy", mode="max", label="mean accuracy", is_share=True),
    ),
    losses=("pixel_cross_entropy",),
    settings=frozenset({"hflip", "crop_px", "scale_range", "cat_max_ratio", "photometric"}),
    annotation="class_map",
    head="segmentation",
    refused=frozenset({"gradient_checkpointing", "layer_decay", "agc_factor", "parallel"}),
)
"""A class for every pixel; 255 is ignored."""
