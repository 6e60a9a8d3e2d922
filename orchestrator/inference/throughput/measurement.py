"""Measurement of throughput: networks take turns on the same images, batch size by batch size."""

from __future__ import annotations

import contextlib
import functools
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

import models
from orchestrator.errors import ConfigError, Problem, did_you_mean
from orchestrator.inference.throughput.compared import ComparedNetwork
from orchestrator.inference.throughput.memory import peak_bytes, resident_bytes
from orchestrator.inference.timing import times_in_turns_s

__all__ = ["Throughput", "ThroughputReport", "device_named", "measure_throughput"]

_CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
_PRECISIONS = ("float32", "bfloat16", "float16")

_LR = 1e-3  # of the training step, whose values matter to no time


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """Speed of one network at one batch size.

    Args:
        network: Label of the network.
        batch: Images of a batch.
        training: True for training steps, False for forward passes in evaluation mode.
        params: Learned numbers of the network.
        images_per_s: Median over the rounds; None where the batch does not fit into memory.
        low: Lower quartile of `images_per_s`.
        high: Upper quartile.
        times_first: Its speed over that of the first network, the median of the ratios within a round.
        peak_bytes: Memory of weights, images and everything alive at once during a call.
        rounds: Number of timed calls.
    """

    network: str
    batch: int
    training: bool
    params: int
    images_per_s: float | None
    low: float | None = None
    high: float | None = None
    times_first: float | None = None
    peak_bytes: int | None = None
    rounds: int = 0


@dataclass(frozen=True, kw_only=True)
class ThroughputReport:
    """Speeds of several networks, and what they depend on.

    Args:
        device: Device, such as `cuda:0`.
        device_name: Name of the processor.
        threads: Number of threads of torch on a CPU.
        clock: `wall`, or `cpu` for processor seconds of this process.
        precision: Type of the arithmetic, such as `bfloat16`.
        image_size: Side of the images in pixels.
        torch: Version of torch.
        rows: Speeds, by batch size in the order of the networks.
    """

    device: str
    device_name: str
    threads: int
    clock: str
    precision: str
    image_size: int
    torch: str
    rows: Sequence[Throughput]


def measure_throughput(
    networks: Sequence[ComparedNetwork],
    batches: Sequence[int],
    *,
    image_size: int,
    device: torch.device,
    precision: str = "float32",
    clock: str = "wall",
    training: bool = False,
    rounds: int = 11,
    most_s: float = 10.0,
) -> ThroughputReport:
    """Measure the networks at each batch size, on random images; blocks.

    Args:
        networks: At least one network; the others are compared with the first.
        batches: Batch sizes.
        image_size: Side of the images in pixels.
        device: Device to measure on.
        precision: `float32`, or a narrower type for autocast.
        clock: `wall`, or `cpu` for processor seconds of this process, which hold on a machine with other load.
        training: True to measure training steps too: forward, loss with penalty, backward, SGD.
        rounds: Most timed calls of each network at a batch size.
        most_s: Seconds after which a batch size gets no further round.

    Raises:
        ConfigError: A network cannot be built, or there is no such precision or clock.
    """
    for option, given, known in (("--precision", precision, _PRECISIONS), ("--clock", clock, tuple(_CLOCKS))):
        if given not in known:
            raise ConfigError([Problem(option, f"got {given!r}. {did_you_mean(given, known)}")])
    if clock == "cpu" and device.type != "cpu":
        raise ConfigError(
            [Problem("--clock", f"got 'cpu'; it does not time {device}, which works on its own. Use wall")]
        )
    built = {network.label: network.build(image_size).to(device) for network in networks}
    chans = networks[0].input_size[0]
    rows: list[Throughput] = []
    for trains in (False, True) if training else (False,):
        for batch in batches:
            images = torch.randn(batch, chans, image_size, image_size, device=device)
            programs = {label: _program(network, images, trains, precision) for label, network in built.items()}
            timed = functools.partial(times_in_turns_s, rounds=rounds, most_s=most_s, clock=_CLOCKS[clock])
            rows += _measure(programs, built, images, trains, timed)
    return ThroughputReport(
        device=str(device),
        device_name=_device_name(device),
        threads=torch.get_num_threads(),
        clock=clock,
        precision=precision,
        image_size=image_size,
        torch=torch.__version__,
        rows=rows,
    )


def _measure(
    programs: Mapping[str, Callable[[], None]],
    built: Mapping[str, nn.Module],
    images: torch.Tensor,
    trains: bool,
    timed: Callable[[Mapping[str, Callable[[], None]]], dict[str, list[float]]],
) -> Iterator[Throughput]:
    """Yield the row of each network at one batch size."""
    peaks = {label: _peak(program, built[label], images, trains) for label, program in programs.items()}
    fitting = {label: program for label, program in programs.items() if peaks[label] is not None}
    for network in built.values():
        network.train(trains)
    times = timed(fitting) if fitting else {}
    first = times.get(next(iter(programs)))
    for label, network in built.items():
        row: dict[str, Any] = {"network": label, "batch": len(images), "training": trains, "images_per_s": None}
        row["params"] = sum(parameter.numel() for parameter in network.parameters())
        if label in times:
            speeds = [len(images) / taken for taken in times[label]]
            low, _, high = statistics.quantiles(speeds, n=4, method="inclusive") if len(speeds) > 1 else speeds * 3
            row |= {"images_per_s": statistics.median(speeds), "low": low, "high": high, "rounds": len(speeds)}
            row["peak_bytes"] = peaks[label]
            if first is not None:
                ratios = (slow / fast for slow, fast in zip(first, times[label], strict=True))
                row["times_first"] = statistics.median(ratios)
        yield Throughput(**row)


def _peak(program: Callable[[], None], network: nn.Module, images: torch.Tensor, trains: bool) -> int | None:
    """Return the memory of a call, in bytes; None where it does not fit."""
    network.train(trains)
    try:
        program()  # what is allocated once, such as the workspaces of libraries, is no part of a call
        return resident_bytes(network, images) + peak_bytes(program, images.device)
    except torch.OutOfMemoryError:
        network.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        return None


def _program(network: nn.Module, images: torch.Tensor, trains: bool, precision: str) -> Callable[[], None]:
    """Make a function of one forward pass or training step that waits for the device."""
    device = images.device
    labels = torch.zeros(len(images), dtype=torch.long, device=device)
    optimizer = torch.optim.SGD(network.parameters(), lr=_LR)

    def forward() -> torch.Tensor:
        narrow = precision != "float32"
        casts = torch.autocast(device.type, getattr(torch, precision)) if narrow else contextlib.nullcontext()
        with casts:
            logits: torch.Tensor = network(images)
        return logits

    def evaluate() -> None:
        with torch.inference_mode():
            forward()
        _wait(device)

    def train() -> None:
        loss = functional.cross_entropy(forward().float(), labels) + models.penalty(network)
        loss.backward()
        optimizer.step()
        models.project_(network)
        optimizer.zero_grad(set_to_none=True)
        _wait(device)

    return train if trains else evaluate


def device_named(name: str | None) -> torch.device:
    """Return the device of a name; CUDA where there is one, else the CPU, without a name.

    Raises:
        ConfigError: There is no such device.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError):
        raise ConfigError([Problem("--device", f"got {name!r}; torch finds no such device here. Use cpu")]) from None
    return device


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()
