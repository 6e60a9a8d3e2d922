"""Facts of image classification."""

from __future__ import annotations

from orchestrator.config.tasks.facts import TaskFacts, TaskMetric

CLASSIFICATION = TaskFacts(
    name="classification",
    metrics=(
        TaskMetric(name="top1", mode="max", label="top-1", words="accuracy", is_share=True),
        TaskMetric(name="top5", mode="max", label="top-5", is_share=True),
        TaskMetric(name="loss", mode="min", label="loss", in_test=False),
    ),
    losses=("cross_entropy", "binary_cross_entropy"),
    tta=("none", "hflip"),
    has_labels=True,
)
"""One class per image; the task of a sweep that names none."""
