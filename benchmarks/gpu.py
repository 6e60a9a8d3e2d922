"""Everything that needs a GPU, in under four minutes: exactness, times and memory of attention and of all families.

    python benchmarks/gpu.py --json build/gpu.json [--parts correctness attention networks compiled] [--cases PART...]

    correctness   local attention against unfolded windows in double precision, for float32, float16 and bfloat16:
                  largest error of output and gradients; two runs by their bits
    attention     forward and backward pass beside unfolded windows and FlexAttention; LESA's attention
    networks      training steps in bfloat16: ours, the authors' formulas, convolutions; eager, and all but the
                  formulas captured in a CUDA graph
    compiled      the same under `torch.compile`

Cases run in this order; none begins that would end after `--budget-s`, if it took as long as the longest of its part so
far, and those left out are listed. A case that fails is in the report with its error. Needs torch, timm, `models` and
`tests/support` only. `--device cpu --quick` runs tiny forms, to test the script; with TRITON_INTERPRET=1 and
`--parts correctness` it checks the kernels in Triton's interpreter, in some minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent / "networks"))

import torch
from gpu_attention import INTERPRETED, SIZES, correctness_cases, exactness, time_attention
from gpu_networks import LESA_MAPS, NETWORKS, quick_form, time_binary_term, time_network

PARTS = ("correctness", "attention", "networks", "compiled")
BUDGET_S = 230.0
FIRST_COMPILED_S = 30.0  # of the first compiled case; after it the longest one counts
LIMITS = {"float32": 1e-5, "float16": 5e-3, "bfloat16": 4e-2}  # of the largest value of a tensor

Case = tuple[str, str, Callable[[], dict[str, Any]]]  # part, name, measurement


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse(argv)
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("--device: cuda, but torch finds no GPU here. Use a machine with one, or try --device cpu --quick.")
        return 2
    rows, left = run(arguments, device)
    report = {"setting": setting(device), "summary": summary(rows, left), "rows": rows}
    text = json.dumps(report, indent=2)
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(text + "\n", encoding="utf-8")
    print(json.dumps(report["summary"], indent=2) if arguments.json else text)
    found = report["summary"]
    return 1 if found["failed"] or found["inexact"] or not found["same_bits_twice"] else 0


def run(arguments: argparse.Namespace, device: torch.device) -> tuple[list[dict[str, Any]], list[str]]:
    """Run the cases within the budget; return a row for each, and the names of those left out."""
    started = time.monotonic()
    rows: list[dict[str, Any]] = []
    left: list[str] = []
    longest = {**dict.fromkeys(PARTS, 1.0), "compiled": FIRST_COMPILED_S}
    for part, name, measure in chosen(arguments, device):
        begun = time.monotonic()
        if begun - started + longest[part] > arguments.budget_s:
            left.append(f"{part}: {name}")
            continue
        try:
            row = {"part": part, "case": name, **measure()}
        except Exception as error:
            row = {"part": part, "case": name, "error": f"{type(error).__name__}: {error}"[:500]}
        row["took_s"] = round(time.monotonic() - begun, 1)
        longest[part] = max(longest[part], row["took_s"])
        print(json.dumps(row), file=sys.stderr, flush=True)
        rows.append(row)
        if device.type == "cuda":
            torch.cuda.empty_cache()
        if part == "compiled":
            torch._dynamo.reset()
    return rows, left


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, or cpu together with --quick")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--cases", nargs="*", default=[], help="parts of the names of the cases; all when left out")
    parser.add_argument("--rounds", type=int, default=5, help="rounds in which the programs of a case take turns")
    parser.add_argument("--budget-s", type=float, default=BUDGET_S, help="seconds after which no case begins")
    parser.add_argument("--quick", action="store_true", help="tiny maps and batches, one round, nothing compiled")
    parser.add_argument("--json", type=Path, help="file of the report")
    arguments = parser.parse_args(argv)
    if arguments.device == "cpu" and not arguments.quick:
        parser.error("--device cpu: the cases are sized for a GPU. Add --quick.")
    return arguments


def chosen(arguments: argparse.Namespace, device: torch.device) -> Iterator[Case]:
    """Yield the cases of the chosen parts whose name holds one of the given texts."""
    found = 0
    for case in cases(arguments, device):
        if case[0] in arguments.parts and (not arguments.cases or any(text in case[1] for text in arguments.cases)):
            found += 1
            yield case
    if not found:
        raise SystemExit(f"--cases: no case of {arguments.parts} holds any of {arguments.cases}")


def cases(arguments: argparse.Namespace, device: torch.device) -> Iterator[Case]:
    """Yield all cases, those first that matter most."""
    quick = arguments.quick
    rounds = 1 if quick else arguments.rounds
    interpreted = device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"
    for one in INTERPRETED if interpreted else correctness_cases(quick=quick):
        yield "correctness", one.name, lambda one=one: exactness(one, device)
    for size, one in SIZES.items():
        small = next(iter(correctness_cases(quick=True))) if quick else one
        yield "attention", size, lambda small=small: time_attention(small, device, rounds=rounds)
    for name, shape in LESA_MAPS.items():
        tiny = (1, 16, 4, 4) if quick else shape
        yield "attention", name, lambda tiny=tiny: time_binary_term(tiny, device, rounds=rounds)
    for part, ways in (("networks", ("eager", "captured")), ("compiled", ("compiled",))):
        for network in NETWORKS:
            small_network = quick_form(network) if quick else network
            for way in ways:
                if device.type == "cpu" and way != "eager":
                    continue
                yield part, f"{network.name} {way}", _step(small_network, way, device, rounds)


def _step(network: Any, way: str, device: torch.device, rounds: int) -> Callable[[], dict[str, Any]]:
    return lambda: time_network(network, way, device, rounds=rounds)


def summary(rows: list[dict[str, Any]], left: list[str]) -> dict[str, Any]:
    """Return the largest error of each type, the ratios of all cases, and what failed or had no time."""
    errors: dict[str, float] = {}
    for row in rows:
        if "largest_error" in row:
            (dtype,) = (dtype for dtype in LIMITS if dtype in row["case"].split())
            errors[dtype] = max(errors.get(dtype, 0.0), row["largest_error"])
    ratios = {
        f"{row['case']}: {key}": round(value["median"], 3)
        for row in rows
        for key, value in row.items()
        if "over" in key and isinstance(value, dict)
    }
    failed = [
        f"{row['case']}: {row[key]}" for row in rows for key in row if key.endswith("error") and key != "largest_error"
    ]
    inexact = [
        f"{dtype}: {error:.1e} > {LIMITS[dtype]:.0e}" for dtype, error in errors.items() if error > LIMITS[dtype]
    ]
    return {
        "kernels": sorted({row["kernel"] for row in rows if "kernel" in row}),
        "largest_errors": errors,
        "inexact": inexact,
        "same_bits_twice": all(row.get("same_bits_twice", True) for row in rows),
        "ratios": ratios,
        "failed": failed,
        "no_time_left_for": left,
        "took_s": round(sum(row["took_s"] for row in rows), 1),
    }


def setting(device: torch.device) -> dict[str, Any]:
    """Return the machine and the versions that the numbers depend on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    try:
        import triton

        kernels = triton.__version__
    except ImportError:
        kernels = None
    return {"device": name, "torch": torch.__version__, "triton": kernels, "python": platform.python_version()}


if __name__ == "__main__":
    sys.exit(main())
