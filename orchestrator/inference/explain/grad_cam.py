"""Grad-CAM of any network, and the two biases of attention measured on its maps.

Sources: Selvaraju et al. 2017 (arXiv 1610.02391) for the maps, by captum; Zhong et al. 2023 (arXiv 2305.05200) for the
idea of the two biases; the paper gives no counting rules, those of docs/networks/explain.md are SpatialSweep's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.errors import ExplainError, did_you_mean, first_line
from orchestrator.inference.explain.pictures import (
    LINES,
    SHARE,
    colour_bar,
    grid,
    heat,
    outline,
    plot_figure,
    save,
    show_image,
)
from orchestrator.inference.explain.subject import Numbers, Subject, batch_of, explains

__all__ = ["THRESHOLDS", "bias_rates", "explain_cam", "grad_cam"]

THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
"""Thresholds of an attended pixel, as shares of the largest value of a map."""

_FEWEST_CELLS = 4  # per side: a coarser map does not resolve the image
_SHOWN_PER_ROW = 4
_MAP_DIMENSIONS = 4  # (B, C, h, w)
_STAGE = re.compile(r"(?:model\.)?stages[._]\d+")


@explains("grad_cam", nn.Module)
def explain_cam(subject: Subject) -> Numbers:
    """Draw `grad_cam` and, where regions are known, `bias_rates`; return the numbers of both."""
    every, subject = len(subject.images.labels), subject.with_class()
    if not len(subject.images.labels):
        return {"images": 0, "without_class": every}
    layer = subject.layer or cam_layer(subject)
    labels = subject.images.labels
    maps = grad_cam(subject.network, layer, subject.images.inputs, labels, forward=subject.forward)
    predicted = labels if subject.forward is not None else subject.run().argmax(1)
    _draw_maps(subject, layer, maps, predicted)
    numbers: Numbers = {"layer": layer, "images": len(maps)}
    if subject.forward is None:
        numbers["top1"] = float((predicted == labels).float().mean())
    else:
        numbers["without_class"] = every - len(maps)
    numbers["without_map"] = float((maps.amax((1, 2)) <= 0).float().mean())
    if subject.regions is not None:
        known = subject.regions.flatten(1).any(1)
        numbers["images_with_region"] = int(known.sum())
        numbers["rates"] = bias_rates(maps[known], subject.regions[known])
        _draw_rates(subject, numbers["rates"])
    return numbers


def cam_layer(subject: Subject) -> str:
    """Return the last stage whose map has at least 4 cells per side; where none has, the one with the finest map."""
    names = [name for name, _ in subject.network.named_modules() if name and name.startswith(subject.body)]
    stages = [name for name in names if _STAGE.fullmatch(name.removeprefix(subject.body))]
    if not stages:  # a network of timm, or of a file: its outermost layers and their children
        stages = [name for name in names if name.removeprefix(subject.body).count(".") <= 1]
    sides: dict[str, int] = {}

    def note(name: str) -> Any:
        def hook(_: nn.Module, __: Any, found: Any) -> None:
            if isinstance(found, Tensor) and found.ndim == _MAP_DIMENSIONS:
                sides[name] = min(found.shape[2:])

        return hook

    handles = [subject.network.get_submodule(name).register_forward_hook(note(name)) for name in stages]
    try:
        with torch.no_grad():
            subject.scores(subject.images.inputs[:1])
    finally:
        for handle in handles:
            handle.remove()
    if not sides:
        raise ExplainError("--layer: no layer of this network returns a map (B, C, h, w), which Grad-CAM reads")
    fine = [name for name in sides if sides[name] >= _FEWEST_CELLS]
    chosen: str = fine[-1] if fine else max(sides, key=lambda name: sides[name])
    return chosen


def grad_cam(
    network: nn.Module,
    layer: str,
    inputs: Tensor,
    classes: Tensor,
    *,
    forward: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Compute the maps of Grad-CAM, resized to the images: (N, H, W), zero or above.

    Args:
        network: Network in evaluation mode.
        layer: Name of a layer whose output is a map (B, C, h, w).
        inputs: Normalised images, (N, C, H, W).
        classes: Classes whose logit is explained, (N,).
        forward: Function from images to a number for each class; None for the network itself.

    Raises:
        ExplainError: captum is missing, there is no such layer, or its output is no map.
    """
    try:
        from captum.attr import LayerGradCam
    except ImportError:
        raise ExplainError("explain: needs captum. Install it: pip install 'spatialsweep[explain]'") from None
    modules = dict(network.named_modules())
    if layer not in modules:
        names = list(modules)[1:]
        remedy = did_you_mean(layer, names, f"Some are {', '.join(names[:8])}")
        raise ExplainError(f"--layer {layer}: no such layer. {remedy}")
    attribution = LayerGradCam(forward or network, modules[layer])
    parts = []
    size = batch_of(inputs)
    for start in range(0, len(inputs), size):
        batch = slice(start, start + size)
        try:
            found = attribution.attribute(inputs[batch], target=classes[batch], relu_attributions=True)
        except (AssertionError, IndexError, RuntimeError) as error:
            reason = first_line(error)
            raise ExplainError(f"--layer {layer}: Grad-CAM cannot read it ({reason})") from None
        if not isinstance(found, Tensor) or found.ndim != 4:
            raise ExplainError(f"--layer {layer}: its output is no map of channels, rows and columns")
        parts.append(found.detach())
    maps = torch.cat(parts)
    resized = nn.functional.interpolate(maps, inputs.shape[2:], mode="bilinear", align_corners=False)
    return resized[:, 0]


def bias_rates(maps: Tensor, regions: Tensor, thresholds: Sequence[float] = THRESHOLDS) -> dict[str, list[float]]:
    """Count position and range bias by threshold, over the images whose map is not all zero.

    Args:
        maps: Maps of Grad-CAM, (N, H, W), zero or above.
        regions: Regions of the objects, (N, H, W), true inside.
        thresholds: Shares of the largest value of a map.

    Returns:
        A number per threshold: `position_bias`, the share of images with no attended pixel inside their region;
        `range_bias`, the share with some inside and some outside; `outside`, the mean share of attended pixels outside;
        `coverage`, the mean share of the region that is attended.
    """
    highest = maps.amax((1, 2))
    maps, regions, highest = maps[highest > 0], regions[highest > 0], highest[highest > 0]
    rates: dict[str, list[float]] = {"threshold": list(thresholds)}
    for threshold in thresholds:
        attended = maps >= threshold * highest[:, None, None]
        within = (attended & regions).sum((1, 2))
        size, ideal = attended.sum((1, 2)), regions.sum((1, 2))
        found = {
            "position_bias": within == 0,
            "range_bias": (within > 0) & (within < size),
            "outside": 1 - within / size,
            "coverage": within / ideal,
        }
        for name, values in found.items():
            rates.setdefault(name, []).append(float(values.float().mean()) if len(values) else float("nan"))
    return rates


def _draw_maps(subject: Subject, layer: str, maps: Tensor, predicted: Tensor) -> None:
    count = min(len(maps), 2 * subject.drawn)
    rows = -(-count // _SHOWN_PER_ROW)
    of = "the image's own class" if subject.forward is None else "a predicted class"
    title = f"{subject.title}\nGrad-CAM of {of}, layer {layer}"
    figure, axes = grid(rows, 2 * _SHOWN_PER_ROW, title)
    names: Any = subject.network.class_names
    drawn = None
    for index in range(rows * _SHOWN_PER_ROW):
        plain, covered = axes[index // _SHOWN_PER_ROW, 2 * (index % _SHOWN_PER_ROW) :][:2]
        if index >= count:
            plain.set_visible(False)
            covered.set_visible(False)
            continue
        show_image(plain, subject.images.pixels[index])
        highest = float(maps[index].max())
        drawn = heat(covered, maps[index] / max(highest, 1e-12), SHARE, low=0, high=1)
        if subject.regions is not None and subject.regions[index].any():
            outline(covered, subject.regions[index])
        if highest <= 0:
            place = {"ha": "center", "va": "center", "transform": covered.transAxes}
            covered.text(0.5, 0.5, "no map", color="white", backgroundcolor="black", **place)
        label, prediction = names[int(subject.images.labels[index])], names[int(predicted[index])]
        plain.set_title(f"{label}" if label == prediction else f"{label}, taken for {prediction}")
    colour_bar(figure, drawn, axes, "share of the map's largest value")
    save(figure, subject.folder, "grad_cam")


def _draw_rates(subject: Subject, rates: Mapping[str, Sequence[float]]) -> None:
    figure, axes = plot_figure(1, 1, f"{subject.title}\nbiases of attention", width_in=3.6, height_in=2.6)
    ax = axes[0, 0]
    lines = {
        "position_bias": ("position bias: all beyond the region", LINES[1], "-"),
        "range_bias": ("range bias: some beyond the region", LINES[0], "-"),
        "coverage": ("share of the region attended", LINES[6], "--"),
    }
    for name, (label, colour, style) in lines.items():
        ax.plot(rates["threshold"], rates[name], style, color=colour, marker="o", label=label)
    ax.set(xlabel="threshold τ (share of the map's largest value)", ylabel="share", ylim=(-0.03, 1.03))
    ax.set_xticks(list(rates["threshold"]))
    ax.grid()
    ax.legend(loc="best")
    save(figure, subject.folder, "bias_rates")
