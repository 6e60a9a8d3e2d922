"""Training step of our detectors over timm's ResNet-50 against torchvision's own, in turns.

    python benchmarks/networks/detector_speed.py [--size 192] [--images 2] [--rounds 9] [--threads 1]
                                        [--clock cpu] [--cases mask_rcnn] [--json PATH]

Both hold the same weights, and their first losses are compared before anything is timed. Ours trains as in a sweep:
losses as sums and counts, anchors and boxes drawn by the seed of each image. A step is a forward pass, a backward pass
and an update by SGD on random images with eight objects each. The programs take turns in every round; the
ratio of images per second is the median over the rounds of the ratio within one, with its quartiles. With `--clock cpu`
times are processor seconds of the process, which hold on a machine that is busy with other work.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from side_by_side import Ratio, take_turns
from torch import Tensor, nn
from torchvision.models.detection import fasterrcnn_resnet50_fpn, maskrcnn_resnet50_fpn, retinanet_resnet50_fpn

from models.backbones import BackboneSettings
from models.detection import create_detector

CLASSES, OBJECTS = 80, 8
MAKERS: dict[str, Callable[..., nn.Module]] = {
    "faster_rcnn": fasterrcnn_resnet50_fpn,
    "mask_rcnn": maskrcnn_resnet50_fpn,
    "retinanet": retinanet_resnet50_fpn,
}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
Batch = tuple[list[Tensor], list[dict[str, Tensor]]]


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    rows = []
    for name in MAKERS:
        if arguments.cases and not any(part in name for part in arguments.cases):
            continue
        rows.append(measure(name, arguments))
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    if not rows:
        raise SystemExit(f"--cases: no detector holds any of {arguments.cases}; known are {', '.join(MAKERS)}")
    table = Table("detector", "ours, ms", "torchvision, ms", "images/s over torchvision's")
    for row in rows:
        ratio = row["ratio"]
        shown = f"{ratio['median']:.3f} ({ratio['low']:.3f}-{ratio['high']:.3f})"
        table.add_row(row["detector"], f"{row['ours_ms']:.0f}", f"{row['torchvision_ms']:.0f}", shown)
    Console().print(table)
    if arguments.json is not None:
        chosen = {key: getattr(arguments, key) for key in ("size", "images", "rounds", "threads", "clock")}
        arguments.json.write_text(json.dumps({**chosen, "torch": torch.__version__, "rows": rows}), encoding="utf-8")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=192, help="side of the images in pixels")
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=CLOCKS, default="cpu")
    parser.add_argument("--cases", nargs="*", help="parts of the names of the detectors")
    parser.add_argument("--json", type=Path, help="file for the result")
    return parser.parse_args()


def measure(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Time the steps of one detector and of torchvision's."""
    torch.manual_seed(0)
    sizes = {"min_size": arguments.size, "max_size": arguments.size}
    theirs = MAKERS[name](weights=None, weights_backbone=None, num_classes=CLASSES + 1, **sizes)
    ours: Any = create_detector(name, BackboneSettings(name="resnet50"), CLASSES, loss_sums=True, **sizes)
    ours.load_state_dict(theirs.state_dict())
    batch = random_batch(arguments.images, arguments.size)
    check_equal(ours, theirs, batch)
    programs = {"ours": step_of(ours, batch, with_draws=True), "torchvision": step_of(theirs, batch, with_draws=False)}
    found = take_turns(programs, rounds=arguments.rounds, device=torch.device("cpu"), clock=CLOCKS[arguments.clock])
    ratio = dataclasses.asdict(Ratio.of(found["torchvision"], found["ours"]))
    return {
        "detector": name,
        **{f"{key}_ms": round(timing.median_ms, 1) for key, timing in found.items()},
        "ratio": {key: round(value, 4) for key, value in ratio.items()},
    }


def random_batch(images: int, side: int) -> Batch:
    """Make images of noise with objects of all sizes, and their masks."""
    generator = torch.Generator().manual_seed(1)
    targets = []
    for index in range(images):
        corners = torch.rand(OBJECTS, 2, generator=generator) * side / 2
        lengths = (0.1 + 0.4 * torch.rand(OBJECTS, 2, generator=generator)) * side
        boxes = torch.cat([corners, corners + lengths], dim=1)
        masks = torch.zeros(OBJECTS, side, side, dtype=torch.uint8)
        for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
            mask[top:bottom, left:right] = 1
        labels = torch.randint(1, CLASSES + 1, (OBJECTS,), generator=generator)
        targets.append({"boxes": boxes, "labels": labels, "masks": masks, "draw": torch.tensor(index)})
    return [torch.rand(3, side, side, generator=generator) for _ in range(images)], targets


def total(losses: dict[str, Tensor]) -> Tensor:
    """Return the loss, of means or of sums and counts."""
    return torch.stack([each[0] / each[1] if each.numel() == 2 else each for each in losses.values()]).sum()


def without_draws(targets: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    return [{key: value for key, value in target.items() if key != "draw"} for target in targets]


def check_equal(ours: nn.Module, theirs: nn.Module, batch: Batch) -> None:
    """Compare the losses of the first batch, with the samples that torch's generator draws."""
    images, targets = batch
    found = []
    for network in (ours, theirs):
        torch.manual_seed(2)
        with torch.no_grad():
            found.append(float(total(network.train()(images, without_draws(targets)))))
    if abs(found[0] - found[1]) > 1e-4 * abs(found[1]):
        raise SystemExit(f"the losses differ: {found[0]} and {found[1]}")


def step_of(network: nn.Module, batch: Batch, *, with_draws: bool) -> Callable[[], None]:
    """Make a training step."""
    images, targets = batch[0], batch[1] if with_draws else without_draws(batch[1])
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        total(network(images, targets)).backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    main()
