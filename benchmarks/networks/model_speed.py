"""Speed of our networks against a plain transcription of their formulas: training step, inference, peak memory.

    make bench-models
    python benchmarks/networks/model_speed.py [--cases lesa fcvit_tiny] [--threads 2] [--rounds 9] [--device cpu]
                                     [--clock wall] [--batch 8] [--modes training] [--no-memory]
                                     [--quick] [--json PATH]

The plain forms are in tests/support/networks/plain_networks.py and hold the same weights. Before it is timed, each
network is compared with its plain form in double precision, logits and all gradients. Both alternate in
every round; a speed-up is the median over the rounds of the ratio within one, with its quartiles. Peak memory
is that of a step above the level before it, each form in a process of its own. On CUDA everything runs in
bfloat16 at 224 px, once eagerly and once through `torch.compile`. With `--clock cpu --threads 1` times are
processor seconds of the process, which hold on a machine that is busy with other work.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from side_by_side import Ratio, peak_bytes, take_turns
from speed_cases import CASES, CUDA_CASES, MODES, VARIANTS, Case, build, check_equal, make_step

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    known = [with_batch(case, arguments.batch) for case in (CUDA_CASES if device.type == "cuda" else CASES)]
    if arguments.peak_of:
        print(measure_peak(arguments, known, device))
        return
    chosen = [case for case in known if not arguments.cases or any(part in case.name for part in arguments.cases)]
    if not chosen:
        raise SystemExit(f"--cases: no case holds any of {arguments.cases}; known are {[case.name for case in known]}")
    rows = []
    for case in chosen:
        error = check_equal(case, device)
        for compiled in (False, True) if device.type == "cuda" else (False,):
            for mode in arguments.modes:
                row = {"case": case.name, "mode": mode, "compiled": compiled, "largest_difference": error}
                row |= measure(case, mode, compiled=compiled, arguments=arguments)
                print(json.dumps(row), file=sys.stderr)
                rows.append(row)
    show(rows)
    if arguments.json is not None:
        report = {"setting": setting(arguments, device), "rows": rows}
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def with_batch(case: Case, most: int | None) -> Case:
    """Return a case with at most so many images in a step, which its name shows."""
    if most is None or case.batch <= most:
        return case
    return dataclasses.replace(case, batch=most, name=case.name.replace(f" b{case.batch}", f" b{most}"))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="*", default=[], help="parts of the names of the cases; all when left out")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--batch", type=int, help="images of a step, at most")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--no-memory", action="store_true", help="no peak memory")
    parser.add_argument("--quick", action="store_true", help="three rounds, and no peak memory")
    parser.add_argument("--json", type=Path, help="file for the rows")
    parser.add_argument("--peak-of", nargs=4, metavar=("CASE", "VARIANT", "MODE", "COMPILED"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.no_memory = min(arguments.rounds, 3), True
    return arguments


def measure(case: Case, mode: str, *, compiled: bool, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure times and peaks of one case in one mode."""
    device = torch.device(arguments.device)
    variants = [variant for variant in VARIANTS if variant != "control" or case.control]
    programs = {variant: program(case, variant, mode, compiled=compiled, device=device) for variant in variants}
    timings = take_turns(programs, rounds=arguments.rounds, device=device, clock=CLOCKS[arguments.clock])
    row: dict[str, Any] = {f"{variant}_ms": round(timing.median_ms, 3) for variant, timing in timings.items()}
    row["speedup"] = rounded(Ratio.of(timings["plain"], timings["ours"]))
    if case.control:
        row["times_control"] = rounded(Ratio.of(timings["ours"], timings["control"]))
    if not arguments.no_memory:
        del programs
        for variant in variants:
            peak = peak_elsewhere(case, variant, mode, compiled=compiled, arguments=arguments)
            row[f"{variant}_peak_mb"] = round(peak / 1e6, 1)
    return row


def program(case: Case, variant: str, mode: str, *, compiled: bool, device: torch.device) -> Callable[[], None]:
    """Make a step of a variant."""
    model = build(case, variant).to(device)
    return make_step(torch.compile(model) if compiled else model, case, mode, device)


def peak_elsewhere(case: Case, variant: str, mode: str, *, compiled: bool, arguments: argparse.Namespace) -> int:
    """Measure peak memory by running this script in a fresh process."""
    command = [sys.executable, __file__, "--threads", str(arguments.threads), "--device", arguments.device]
    command += [] if arguments.batch is None else ["--batch", str(arguments.batch)]
    command += ["--peak-of", case.name, variant, mode, str(compiled)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure_peak(arguments: argparse.Namespace, known: Sequence[Case], device: torch.device) -> int:
    """Measure peak memory in this process, the fresh one."""
    name, variant, mode, compiled = arguments.peak_of
    (case,) = (case for case in known if case.name == name)
    return peak_bytes(program(case, variant, mode, compiled=compiled == "True", device=device), device)


def rounded(ratio: Ratio) -> dict[str, float]:
    return {key: round(value, 3) for key, value in dataclasses.asdict(ratio).items()}


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print the table, one line per case."""
    table = Table("case", "mode", "ours ms", "plain ms", "speed-up", "times control", "peak MB", "plain peak MB")
    for row in rows:
        ratio, control = row["speedup"], row.get("times_control")
        table.add_row(
            row["case"],
            row["mode"] + (", compiled" if row["compiled"] else ""),
            f"{row['ours_ms']:.1f}",
            f"{row['plain_ms']:.1f}",
            f"{ratio['median']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f})",
            f"{control['median']:.2f}" if control else "",
            str(row.get("ours_peak_mb", "")),
            str(row.get("plain_peak_mb", "")),
        )
    Console(width=140).print(table)


def setting(arguments: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Return the settings and the machine that the numbers depend on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    chosen = {key: getattr(arguments, key) for key in ("threads", "rounds", "device", "clock", "quick")}
    return {**chosen, "device_name": name, "torch": torch.__version__, "python": platform.python_version()}


if __name__ == "__main__":
    main()
