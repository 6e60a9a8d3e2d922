"""Training steps of whole networks on a GPU: ours, by the authors' formulas, and convolutions, eager to captured."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from side_by_side import Ratio, peak_bytes, rounds_within, take_turns
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import models
from models.fcvit.network import FCViT
from models.lesa.binary_term import BinaryTerm
from tests.support.networks.fcvit_oracle import plain_fcvit
from tests.support.networks.lesa_oracle import plain_binary
from tests.support.networks.plain_networks import plain_resnet, stir, unfolded_windows

__all__ = ["LESA_MAPS", "NETWORKS", "NetworkCase", "quick_form", "time_binary_term", "time_network"]

CLASSES = 100
CASE_S = 10.0  # of the timing of a case
WAYS = ("eager", "captured", "compiled")


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkCase:
    """Network at a size.

    Args:
        model: Registered name.
        side: Side of the images in pixels.
        batch: Images of a step.
        control: Registered name of the convolutional network of the same shape.
        plain: False where the authors' formulas do not fit into memory.
    """

    model: str
    side: int
    batch: int
    control: str | None = None
    plain: bool = True

    @property
    def name(self) -> str:
        """Name in the report."""
        return f"{self.model} {self.side}px b{self.batch}"

    def variants(self) -> tuple[str, ...]:
        """Return what is compared."""
        return "ours", *(("plain",) if self.plain else ()), *(("control",) if self.control else ())


NETWORKS = (
    NetworkCase(model="adaptive_resnet26_medium", side=32, batch=128, control="conv_resnet26_medium"),
    NetworkCase(model="local_resnet26_medium", side=32, batch=128, control="conv_resnet26_medium"),
    NetworkCase(model="adaptive_resnet50", side=224, batch=8, control="conv_resnet50"),
    NetworkCase(model="adaptive_resnet50", side=224, batch=64, control="conv_resnet50", plain=False),
    NetworkCase(model="local_resnet50", side=224, batch=8, control="conv_resnet50"),
    *(NetworkCase(model=model, side=32, batch=128) for model in ("fcvit_micro_cifar", "lesa_resnet26_cifar")),
    *(NetworkCase(model=model, side=32, batch=128) for model in ("lsas_resnet29_cifar", "sb_resnet29_cifar")),
    *(NetworkCase(model=model, side=224, batch=64) for model in ("fcvit_tiny", "lesa_resnet50")),
    *(NetworkCase(model=model, side=224, batch=64) for model in ("lsas_resnet50", "sb_resnet50")),
)
LESA_MAPS = {"lesa, 14 x 14": (32, 512, 14, 14), "lesa, 28 x 28": (8, 256, 28, 28)}


def quick_form(case: NetworkCase) -> NetworkCase:
    """Return a case that a CPU computes in a second."""
    return dataclasses.replace(case, batch=2, side=min(case.side, 64))


def time_network(case: NetworkCase, way: str, device: torch.device, *, rounds: int) -> dict[str, Any]:
    """Time a training step of each variant in one of `WAYS`, and measure its peak.

    A variant that fails is in the row with its error; the others are timed all the same.
    """
    row: dict[str, Any] = {}
    programs: dict[str, Callable[[], None]] = {}
    for variant in case.variants():
        if way == "captured" and variant == "plain":
            continue  # reads its spans in each pass, which no graph can
        try:
            programs[variant] = training_step(case, variant, way, device)
            programs[variant]()
            if way != "captured":  # whose memory belongs to the graph
                row[f"{variant}_peak_mb"] = round(peak_bytes(programs[variant], device) / 1e6, 1)
        except Exception as error:
            programs.pop(variant, None)
            row[f"{variant}_error"] = f"{type(error).__name__}: {error}"[:300]
            if device.type == "cuda":
                torch.cuda.empty_cache()
    return row | timed(programs, device, rounds)


def timed(programs: Mapping[str, Callable[[], None]], device: torch.device, rounds: int) -> dict[str, Any]:
    """Time programs in turns, and divide by the times of ours."""
    rounds = rounds_within(CASE_S, programs, rounds, device)
    timings = take_turns(programs, rounds=rounds, device=device) if programs else {}
    row: dict[str, Any] = {f"{name}_ms": round(timing.median_ms, 3) for name, timing in timings.items()}
    if "ours" not in timings:
        return row
    if "plain" in timings:
        row["plain_over_ours"] = dataclasses.asdict(Ratio.of(timings["plain"], timings["ours"]))
    if "control" in timings:
        row["ours_over_control"] = dataclasses.asdict(Ratio.of(timings["ours"], timings["control"]))
    return row


def build(case: NetworkCase, variant: str) -> nn.Module:
    """Build the network of a variant; ours and the plain one start from equal weights."""
    torch.manual_seed(0)
    if variant == "control":
        assert case.control is not None
        return models.create_model(case.control, num_classes=CLASSES)
    network = models.create_model(case.model, num_classes=CLASSES, image_size=case.side)
    stir(network)
    return network


def training_step(case: NetworkCase, variant: str, way: str, device: torch.device) -> Callable[[], None]:
    """Make one step of a variant: forward, loss, backward, SGD, projection."""
    layout = torch.contiguous_format if variant == "plain" or device.type == "cpu" else torch.channels_last
    network = build(case, variant).to(device, memory_format=layout).train()
    images = torch.randn(case.batch, 3, case.side, case.side, device=device).contiguous(memory_format=layout)
    labels = torch.arange(case.batch, device=device) % CLASSES
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9)
    hooks = models.TrainingHooks(network)

    def formula(images: Tensor) -> Tensor:
        return plain_fcvit(network, images) if isinstance(network, FCViT) else plain_resnet(network, images)

    forward: Callable[[Tensor], Tensor] = formula if variant == "plain" else network
    if way == "compiled":
        forward = torch.compile(forward)

    def step() -> None:
        with windows_of(variant), torch.autocast(device.type, torch.bfloat16, cache_enabled=way != "captured"):
            loss = nn.functional.cross_entropy(forward(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        hooks.project_()

    return captured(step) if way == "captured" else step


@contextlib.contextmanager
def windows_of(variant: str) -> Iterator[None]:
    """Compute windows by the formula for the plain variant."""
    with unfolded_windows() if variant == "plain" else contextlib.nullcontext():
        yield


def captured(step: Callable[[], None]) -> Callable[[], None]:
    """Record a step as a CUDA graph, which replays without the time that Python takes."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def time_binary_term(size: tuple[int, int, int, int], device: torch.device, *, rounds: int) -> dict[str, Any]:
    """Time forward and backward pass of LESA's attention over whole maps, ours and by the formulas."""
    batch, dim, height, width = size
    row: dict[str, Any] = {}
    programs: dict[str, Callable[[], None]] = {}
    for name, attend in (("ours", lambda layer, x: layer(x)), ("plain", plain_binary)):
        torch.manual_seed(0)
        layer = BinaryTerm(dim, map_size=(height, width), groups=8, position_embedding="classification").to(device)
        x = torch.randn(batch, dim, height, width, device=device).requires_grad_()

        def run(layer: nn.Module = layer, x: Tensor = x, attend: Callable[..., Tensor] = attend) -> None:
            with torch.autocast(device.type, torch.bfloat16):
                y = attend(layer, x)
            y.float().square().sum().backward()

        try:
            run()
            row[f"{name}_peak_mb"] = round(peak_bytes(run, device) / 1e6, 1)
            programs[name] = run
        except Exception as error:
            row[f"{name}_error"] = f"{type(error).__name__}: {error}"[:300]
    return row | timed(programs, device, rounds)
