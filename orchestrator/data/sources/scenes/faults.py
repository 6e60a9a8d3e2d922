"""Collection of faulty annotations: each kind with its number and its first examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from orchestrator.data.scenes.manifest import FaultGroup
from orchestrator.data.shown_names import brief
from orchestrator.data.sources.scenes.scene_source import ListedImage

__all__ = ["FaultList", "faults_message"]

_KEPT = 20
_SHOWN = 5


@dataclass
class FaultList:
    """Faulty annotations of a dataset, and corrections that need no decision.

    Args:
        examples: First faults of each kind.
        counts: Number of faults of each kind.
        corrections: Number of corrections of each kind.
    """

    examples: dict[str, list[str]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    corrections: dict[str, int] = field(default_factory=dict)

    def add(self, kind: str, where: str, image_id: object, annotation_id: object, reason: str) -> None:
        """Add a faulty annotation.

        Args:
            kind: Kind of fault.
            where: File of the annotation.
            image_id: Number of its image as given.
            annotation_id: Its own number as given.
            reason: Given value and rule.
        """
        self.counts[kind] = self.counts.get(kind, 0) + 1
        examples = self.examples.setdefault(kind, [])
        if len(examples) < _KEPT:
            examples.append(f"{where}: image {brief(image_id)}, annotation {brief(annotation_id)}: {reason}")

    def correct(self, kind: str) -> None:
        """Count a correction, such as a box that rounding placed outside its image."""
        self.corrections[kind] = self.corrections.get(kind, 0) + 1

    def groups(self) -> tuple[FaultGroup, ...]:
        """Return the faults by kind, the most frequent first."""
        ordered = sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))
        return tuple(FaultGroup(kind, count, tuple(self.examples[kind])) for kind, count in ordered)

    def notices(self, where: str) -> tuple[str, ...]:
        """Return one line per kind of correction."""
        return tuple(f"{where}: {kind}: {count}" for kind, count in sorted(self.corrections.items()))


def faults_message(groups: Sequence[FaultGroup], images: Sequence[ListedImage]) -> str:
    """Return the faults of annotations and images with their numbers and first examples, one per line."""
    lines = []
    for group in groups:
        lines.append(f"\n  {group.kind}: {group.count}")
        lines += [f"\n    {example}" for example in group.examples[:_SHOWN]]
        if group.count > _SHOWN:
            lines.append(f"\n    and {group.count - _SHOWN} more")
    if images:
        lines.append(f"\n  images: {len(images)}")
        lines += [f"\n    {image.file}: {image.fault}" for image in images[:_SHOWN]]
        if len(images) > _SHOWN:
            lines.append(f"\n    and {len(images) - _SHOWN} more")
    return "".join(lines)
