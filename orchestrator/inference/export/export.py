"""Export of a trained network: spans are frozen, and the file is checked on real images and timed before it is kept."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.config.tasks.registry import list_tasks, task_facts
from orchestrator.errors import ExportError, ExportTargetError
from orchestrator.inference.export.detectors import Agreement, agreement, detector_program, outputs_of, write_detector
from orchestrator.inference.export.formats import Format, format_named
from orchestrator.inference.export.speed import medians_ms
from orchestrator.inference.images import logits_in_batches

if TYPE_CHECKING:
    from torch import Tensor, nn

    from orchestrator.inference.images import NetworkImages
    from orchestrator.inference.trained_network import TrainedNetwork

__all__ = ["DETECTION_TOLERANCE", "TOLERANCE", "Exported", "export_network", "require_target"]

TOLERANCE = 1e-5
"""Largest accepted difference of a logit, relative to the largest logit where that is above 1."""

DETECTION_TOLERANCE = 1e-3
"""Largest accepted difference of a score, or of an edge of a box over the longer side of the image."""

_EXAMPLE = 8  # images per forward pass: exported attention copies each key once per window


@dataclass(frozen=True)
class Exported:
    """Result of an export.

    Args:
        path: Path of the file.
        bytes: Size of the file.
        difference: Largest difference of a logit on the images of the check, in the unit of `TOLERANCE`; of a detector
            that of a score or an edge, in the unit of `DETECTION_TOLERANCE`.
        images: Number of images of the check.
        batch: Number of images of an input; None for any number.
        windows: Sides in pixels of the windows of each layer with learned spans, with the number of heads of each;
            empty for networks without such layers.
        uncut_bytes: Size of the same network exported without frozen spans; None for networks without spans.
        times_ms: Median time of a batch through the network itself, the uncut file and the file, on one thread.
        timed_batch: Number of images of that batch.
        note: Note for the user; empty for none.
        input_px: Height and width of the only images that a detector takes; None for other networks.
        detections: Number of detections that were compared; None for other networks.
    """

    path: Path
    bytes: int
    difference: float
    images: int
    batch: int | None
    windows: tuple[tuple[tuple[int, int], ...], ...]
    uncut_bytes: int | None
    times_ms: Mapping[str, float]
    timed_batch: int
    note: str = ""
    input_px: tuple[int, int] | None = None
    detections: int | None = None


def export_network(
    trained: TrainedNetwork, images: NetworkImages, *, format_name: str, path: Path, timed_batch: int = 8
) -> Exported:
    """Write a network to a file, unless the outputs of the file differ from the network's; blocks.

    Args:
        trained: Network to export.
        images: Images of the check, at least 2.
        format_name: Name in `FORMATS`.
        path: Path of the file; a former file is replaced.
        timed_batch: Number of images of the batch that is timed.

    Raises:
        ExportError: There is no such format, a package is missing, the network cannot be exported, its outputs are not
            one tensor and not detections, or differ, see `TOLERANCE`, `DETECTION_TOLERANCE` and `detectors.py`.
    """
    form = format_named(format_name)
    require_target(path, form)
    if trained.task in list_tasks() and task_facts(trained.task).annotation in ("boxes", "masks"):
        return _export_detector(trained, images, form, path)
    if not trained.returns_tensor:
        raise ExportError(
            f"{trained.label}: a network of the task {trained.task} does not return one tensor; a file is checked by "
            "its only output"
        )
    if len(images.inputs) < 2:
        raise ExportError("--images: at least 2 are needed, to check that the file takes batches of any size")
    frozen, windows, note = _frozen(trained.network, images.inputs)
    facts = _facts(trained)
    with _partial(path, "partial") as partial, _partial(path, "uncut") as uncut, _quiet_exporters():
        example = images.inputs[:_EXAMPLE]
        any_batch = _write(form, frozen, example, partial, facts)
        program = form.load(partial)
        difference = _difference(program, trained.network, images.inputs, any_batch=any_batch)
        if not difference <= TOLERANCE:
            raise ExportError(
                f"{trained.label}: the exported network differs by {difference:.2g} of the largest logit, more than "
                f"{TOLERANCE:g}; nothing was written"
            )
        programs = {"network": lambda batch: logits_in_batches(trained.network, batch, _EXAMPLE)}
        if windows:
            _write(form, _without_gradients(trained.network), example, uncut, facts)
            programs["uncut"] = form.load(uncut)
        programs["file"] = program
        batch = _repeated(images.inputs, timed_batch) if any_batch else example
        times = medians_ms({name: _bound(run, batch) for name, run in programs.items()})
        uncut_bytes = uncut.stat().st_size if windows else None
        partial.replace(path)
    return Exported(
        path=path,
        bytes=path.stat().st_size,
        difference=difference,
        images=len(images.inputs),
        batch=None if any_batch else len(example),
        windows=windows,
        uncut_bytes=uncut_bytes,
        times_ms=times,
        timed_batch=len(batch),
        note=note,
    )


def _export_detector(trained: TrainedNetwork, images: NetworkImages, form: Format, path: Path) -> Exported:
    """Write a detector for images of one size, unless the file detects something else on the images of the check."""
    from models import freeze_spans
    from models.adaptive_span.attention import AdaptiveAttention

    layers = [name for name, module in trained.network.named_modules() if isinstance(module, AdaptiveAttention)]
    frozen = freeze_spans(trained.network, whole=layers)
    names = outputs_of(trained.network, images.inputs[:1])
    own = detector_program(trained.network, names)
    example = next((image for image in images.inputs.split(1) if len(own(image)[0])), None)
    if example is None:
        raise ExportError(
            f"{trained.label}: detects nothing on the {len(images.inputs)} images, so that a file cannot be compared; "
            "give other images, or a network that is trained longer"
        )
    input_px = (example.shape[2], example.shape[3])
    facts = {**_facts(trained), "input_px": list(input_px), "outputs": list(names)}
    with _partial(path, "partial") as partial, _quiet_exporters():
        write_detector(form, frozen, example, partial, names=names, facts=facts)
        program = form.load_detector(partial)
        found = agreement(own, program, images.inputs, tolerance=DETECTION_TOLERANCE)
        if not found.holds:
            raise ExportError(
                f"{trained.label}: {found.alone} of {found.detections} detections differ in the exported detector, by "
                f"more than {DETECTION_TOLERANCE:g} or in their masks; nothing was written"
            )
        times = medians_ms({"network": _bound(own, example), "file": _bound(program, example)})
        partial.replace(path)
    return Exported(
        path=path,
        bytes=path.stat().st_size,
        difference=found.difference,
        images=len(images.inputs),
        batch=1,
        windows=_windows(frozen),
        uncut_bytes=None,
        times_ms=times,
        timed_batch=1,
        input_px=input_px,
        detections=found.detections,
        note=_alone(found),
    )


def _alone(found: Agreement) -> str:
    """Return the note about detections that one of the programs alone has; empty for none."""
    if not found.alone:
        return ""
    return f"{found.alone} detections are in one of both alone: a score, an overlap or a rank is at its limit"


def _frozen(network: nn.Module, images: Tensor) -> tuple[nn.Module, tuple[tuple[tuple[int, int], ...], ...], str]:
    """Freeze spans, per head in the layers where that changes no output; return network, windows and note."""
    from models import freeze_spans
    from models.adaptive_span.attention import AdaptiveAttention

    expected = logits_in_batches(network, images, _EXAMPLE)
    layers = [name for name, module in network.named_modules() if isinstance(module, AdaptiveAttention)]

    def is_equal(whole: list[str]) -> bool:  # the format may use the other half of the tolerance
        found = logits_in_batches(freeze_spans(network, whole=whole), images, _EXAMPLE)
        return _distance(found, expected) <= TOLERANCE / 2

    whole = [] if is_equal([]) else layers
    for name in list(whole):
        fewer = [other for other in whole if other != name]
        whole = fewer if is_equal(fewer) else whole
    frozen = freeze_spans(network, whole=whole)
    places = ", ".join(str(layers.index(name)) for name in whole)
    reason = "with a window per head the outputs would differ, since the span of a head is almost 0"
    return frozen, _windows(frozen), f"one window for all heads in layer {places}: {reason}" if whole else ""


def _windows(network: nn.Module) -> tuple[tuple[tuple[int, int], ...], ...]:
    from models.adaptive_span.frozen_span import FrozenSpanAttention

    layers = [module for module in network.modules() if isinstance(module, FrozenSpanAttention)]
    return tuple(
        tuple((2 * radius + 1, len(heads)) for heads, radius in zip(layer.groups, layer.radii, strict=True))
        for layer in layers
    )


def _without_gradients(network: nn.Module) -> nn.Module:
    """Copy a network without gradients, as `freeze_spans` returns it."""
    import copy

    return copy.deepcopy(network).requires_grad_(False)


def _write(form: Format, network: nn.Module, images: Tensor, path: Path, facts: Mapping[str, Any]) -> bool:
    """Write a file for batches of any size where the exporter can, else for this one; return which."""
    faults = []
    for any_batch in (True, False):
        try:
            form.write(network, images, path, any_batch=any_batch, facts=facts)
        except Exception as error:  # an exporter may raise anything
            faults.append(f"{type(error).__name__}: {(str(error).splitlines() or ['no reason given'])[0]}")
        else:
            return any_batch
    raise ExportError(f"--format {form.name}: this network cannot be exported ({faults[-1]})")


def _difference(program: Any, network: nn.Module, images: Tensor, *, any_batch: bool) -> float:
    """Return the largest distance over the images: over batches of several sizes, or full ones for a fixed size."""
    import torch

    batches = [batch for batch in images.split(_EXAMPLE) if any_batch or len(batch) == min(_EXAMPLE, len(images))]
    found = torch.cat([program(batch) for batch in batches])
    expected = logits_in_batches(network, images[: len(found)], _EXAMPLE)
    distance = _distance(found, expected)
    return max(distance, _distance(program(images[:1]), expected[:1])) if any_batch else distance


def _distance(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference of a logit in the unit of `TOLERANCE`; infinite where one is not finite."""
    if found.shape != expected.shape or not found.isfinite().all():
        return float("inf")
    return float((found - expected).abs().max() / max(1.0, float(expected.abs().max())))


def _bound(program: Any, batch: Tensor) -> Any:
    return lambda: program(batch)


def _repeated(images: Tensor, count: int) -> Tensor:
    return images.repeat(-(-count // len(images)), 1, 1, 1)[:count].contiguous()


def _facts(trained: TrainedNetwork) -> dict[str, Any]:
    """Return the metadata that the file stores: origin, classes and preprocessing."""
    network = trained.network
    origin = {
        "network": trained.name,
        "options": dict(trained.options),
        "source": trained.label,
        "epoch": trained.epoch,
    }
    inputs = {name: list(getattr(network, name)) for name in ("class_names", "pixel_mean", "pixel_std")}
    return {**origin, **inputs, "image_size": network.trained_image_size}


def require_target(path: Path, form: Format) -> None:
    """Check that the file can be written, before any work is done, and create its folder.

    Args:
        path: Path of the file.
        form: Format.

    Raises:
        ExportTargetError: The path is a folder, has another suffix, or cannot be written.
    """
    if path.is_dir():
        raise ExportTargetError(
            f"--output {path}: is a folder; name a file, such as {path / ('network' + form.suffix)}"
        )
    if path.suffix != form.suffix:
        raise ExportTargetError(f"--output {path}: a file of --format {form.name} ends in {form.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportTargetError(f"--output {path}: its folder cannot be made ({error.strerror})") from None
    if not os.access(path.parent, os.W_OK):
        raise ExportTargetError(f"--output {path}: {path.parent} cannot be written to")


@contextmanager
def _partial(path: Path, kind: str) -> Iterator[Path]:
    """Provide the path of a temporary file in the target's folder, which is deleted unless it was renamed."""
    partial = path.with_name(f".{path.stem}.{os.getpid()}.{kind}{path.suffix}")
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _quiet_exporters() -> Iterator[None]:
    """Silence the exporters, whose notices concern authors of networks."""
    import torch

    trace_log = getattr(torch._C, "_jit_set_onnx_log_enabled", None)  # prints the graph of a failed export
    if trace_log is not None:
        trace_log(False)
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
