"""Export of detectors to ONNX: one image of one size, checked detection by detection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.errors import ExportError
from orchestrator.inference.export.formats import Detections, DetectorProgram, Format

__all__ = ["ALONE", "OVERLAP", "Agreement", "agreement", "detector_program", "outputs_of", "write_detector"]

OVERLAP = 0.98
"""Smallest overlap of the masks of a detection in both programs, their intersection over their union."""

ALONE = 0.01
"""Largest accepted number of detections without a counterpart, as a share of all.

A score, an overlap or a rank at its limit is above it in one program and below it in the other by a rounding error.
"""

_THRESHOLD = 0.5  # of a mask


@dataclass(frozen=True)
class Agreement:
    """Comparison of the detections of two programs.

    Args:
        detections: Number of detections of the first program.
        alone: Number of detections of both programs without a counterpart in the other.
        difference: Largest difference of the others: of a score, or of an edge of a box over the longer side of the
            image.
        overlap: Smallest overlap of the masks of the others; 1 without masks.
    """

    detections: int
    alone: int
    difference: float
    overlap: float

    @property
    def holds(self) -> bool:
        """True where few detections are without a counterpart."""
        return self.alone <= ALONE * self.detections


class DetectorOutputs(nn.Module):
    """Detector with tensors as its outputs, for one image.

    Shape: image (1, C, H, W) -> boxes (N, 4), labels (N,), scores (N,) and, with masks, masks (N, 1, H, W).

    Args:
        network: Detector in evaluation mode.
        names: Names of the outputs.
    """

    def __init__(self, network: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.network, self.names = network, tuple(names)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Detect the objects of the image."""
        (found,) = self.network([image[0]])
        return tuple(found[name] for name in self.names)


def outputs_of(network: nn.Module, image: Tensor) -> tuple[str, ...]:
    """Return the names of a detector's outputs.

    Args:
        network: Detector in evaluation mode.
        image: Image (1, C, H, W).
    """
    with torch.no_grad():
        (found,) = network([image[0]])
    return tuple(name for name in ("boxes", "labels", "scores", "masks") if name in found)


def detector_program(network: nn.Module, names: Sequence[str]) -> DetectorProgram:
    """Return a detector as a program of one image without gradients."""
    outputs = DetectorOutputs(network, names)

    def run(image: Tensor) -> Detections:
        with torch.no_grad():
            found: tuple[Tensor, ...] = outputs(image)
        return found

    return run


def write_detector(
    form: Format, network: nn.Module, image: Tensor, path: Path, *, names: Sequence[str], facts: dict[str, Any]
) -> None:
    """Write a detector to a file.

    Raises:
        ExportError: The format does not take detectors, or this one cannot be exported.
    """
    try:
        form.write_detector(DetectorOutputs(network, names).eval(), image, path, names=names, facts=facts)
    except ExportError:
        raise
    except Exception as error:  # an exporter may raise anything
        reason = f"{type(error).__name__}: {(str(error).splitlines() or ['no reason given'])[0]}"
        raise ExportError(f"--format {form.name}: this detector cannot be exported ({reason})") from None


def agreement(one: DetectorProgram, other: DetectorProgram, images: Tensor, *, tolerance: float) -> Agreement:
    """Compare the detections of two programs, each with the nearest of its class in the other that is left.

    Args:
        one: Program.
        other: Another one.
        images: Images (N, C, H, W).
        tolerance: Largest difference of two detections that are counterparts; their masks overlap by `OVERLAP`.
    """
    detections, alone, difference, overlap = 0, 0, 0.0, 1.0
    for image in images.split(1):
        expected, found = one(image), other(image)
        distances, pairs = _distances(expected, found, max(image.shape[2:])), 0
        for place, row in enumerate(distances):
            nearest = int(row.argmin()) if len(row) else 0
            if not len(row) or not float(row[nearest]) <= tolerance:
                continue
            shared = _overlap(expected[3][place], found[3][nearest]) if len(expected) > 3 else 1.0
            if shared < OVERLAP:
                continue
            pairs, difference, overlap = pairs + 1, max(difference, float(row[nearest])), min(overlap, shared)
            distances[:, nearest] = float("inf")  # each has one counterpart
        detections += len(expected[1])
        alone += len(expected[1]) + len(found[1]) - 2 * pairs
    return Agreement(detections, alone, difference, overlap)


def _distances(one: Detections, other: Detections, side_px: int) -> Tensor:
    """Return the difference of each detection from each other one, (N, M); infinite for different classes."""
    edges = (one[0][:, None] - other[0][None]).abs().amax(2) / side_px
    scores = (one[2][:, None] - other[2][None]).abs()
    differences = torch.maximum(edges, scores)
    return differences.masked_fill(one[1][:, None] != other[1][None], float("inf"))


def _overlap(one: Tensor, other: Tensor) -> float:
    first, second = one >= _THRESHOLD, other >= _THRESHOLD
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else 1.0
