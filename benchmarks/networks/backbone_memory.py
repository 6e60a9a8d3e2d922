"""Peak memory of backbones with a feature pyramid on one large image: a training step of one network of each family.

    python benchmarks/networks/backbone_memory.py [--size 1024] [--threads 1] [--cases lesa sb] [--recompute no yes]
                                        [--limit-gb 10] [--json PATH]

A step is a forward and a backward pass in single precision on a CPU, each network in a process of its own; its peak is
that of the resident memory of the process above the level before the step. Networks have the settings of their authors
(`models.backbones.backbone_settings`); LESA is measured with its terms computed again in the backward pass and without,
and the other networks with their blocks computed again and without. A step that needs more than `--limit-gb` ends, and
its row says so.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from models.backbones import BackboneSettings, backbone_settings
from models.detection.pyramid import PyramidBackbone

CASES: Mapping[str, Mapping[str, Any]] = {
    "resnet18": {},
    "resnet50": {},
    "fcvit_tiny": {},
    "fcvit_b12": {},
    "lsas_resnet18": {},
    "lsas_resnet50": {},
    "sb_resnet50": {},
    "nonlocal_resnet50": {},
    "lesa_resnet50": {},
    "adaptive_resnet26_small": {},
}


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    rows = []
    for name in CASES:
        if arguments.cases and not any(part in name for part in arguments.cases):
            continue
        for recompute in (choice == "yes" for choice in arguments.recompute):
            settings = {"recompute": recompute, "limit_gb": arguments.limit_gb}
            with multiprocessing.get_context("fork").Pool(1) as pool:  # a process that has allocated nothing yet
                rows.append(pool.apply(measure, (name, arguments.size), settings))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    table = Table(title=f"training step on one image of {arguments.size} px")
    for column in rows[0]:
        table.add_column(column)
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console().print(table)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"size": arguments.size, "torch": torch.__version__, "rows": rows}))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1024, help="side of the image in pixels")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cases", nargs="*", help="parts of the names of the networks")
    parser.add_argument("--recompute", nargs="+", choices=("no", "yes"), default=["no", "yes"])
    parser.add_argument("--limit-gb", type=float, default=10, help="most memory of a step")
    parser.add_argument("--json", type=Path, help="file for the result")
    return parser.parse_args()


def settings_of(name: str, size: int, *, recompute: bool) -> BackboneSettings:
    """Return the settings of the authors, with or without recomputation: of LESA's terms, of blocks elsewhere."""
    settings = backbone_settings(name, img_size=size, **CASES[name])
    if name.startswith("lesa"):
        return dataclasses.replace(settings, options={**settings.options, "recompute_terms": recompute})
    return dataclasses.replace(settings, recompute=recompute)


def measure(name: str, size: int, *, recompute: bool, limit_gb: float) -> dict[str, Any]:
    """Run one step; return its peak memory and its time in processor seconds, or that it needs more than the limit."""
    torch.manual_seed(0)
    settings = settings_of(name, size, recompute=recompute)
    network = PyramidBackbone(settings, fpn_channels=256).train()
    image = torch.rand(1, 3, size, size)
    parameters = round(sum(parameter.numel() for parameter in network.parameters()) / 1e6, 1)
    row: dict[str, Any] = {"network": name, "recompute": recompute, "parameters_m": parameters}
    most = int((resident_mb("VmSize") + limit_gb * 1024) * 2**20)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    before, start = resident_mb("VmRSS"), time.process_time()
    try:
        sum(level.mean() for level in network(image).values()).backward()  # type: ignore[union-attr]
    except (MemoryError, RuntimeError) as error:
        if "memory" not in str(error):
            raise
        return {**row, "peak_mb": f"above {limit_gb * 1024:g}", "cpu_s": ""}
    return {**row, "peak_mb": round(resident_mb("VmHWM") - before), "cpu_s": round(time.process_time() - start, 1)}


def resident_mb(field: str) -> float:
    """Return memory of this process in MiB: `VmRSS` resident now, `VmHWM` the most so far, `VmSize` all addresses."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{field}:"))) / 1024


if __name__ == "__main__":
    main()
