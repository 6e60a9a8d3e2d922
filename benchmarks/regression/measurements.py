"""Benchmarks whose ratios are watched: the command of each, and the ratios in the JSON that it prints.

Scripts that compare two programs give their ratio. Costs without a counterpart are divided by the unit: processor
seconds of a fixed loop of Python on this machine, measured before and after each repetition.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ratios import Better, Ratio

__all__ = ["MEASUREMENTS", "Measurement", "MeasurementError", "measure", "unit_s"]

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 900.0

Samples = Iterator[tuple[str, Better, list[float]]]
"""Name, direction and values of each ratio in one output."""


class MeasurementError(Exception):
    """Benchmark that failed, or printed something else than expected."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Benchmark whose ratios are watched.

    Args:
        script: Script, from the root of the checkout.
        arguments: Arguments of the script.
        read: Function that yields the samples of an output; its second argument is the unit in seconds.
        repeats: Runs of the script; more than one where it gives no spread of its own.
        writes: Whether the script takes `--json PATH` for its result, instead of printing JSON alone.
        environment: Variables of its process.
        needs: Function that returns what is missing on this machine; empty where nothing is.
    """

    script: str
    arguments: tuple[str, ...] = ()
    read: Callable[[Mapping[str, Any], float], Samples]
    repeats: int = 1
    writes: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    needs: Callable[[], str] = str

    @property
    def command(self) -> str:
        """Command line, from the root of the checkout."""
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        return " ".join([*variables, shlex.join(["python", self.script, *self.arguments])])


def unit_s() -> float:
    """Return the processor seconds of a fixed loop: arithmetic, dictionaries, text and JSON; the least of three."""
    took = []
    for _ in range(3):
        began = time.process_time()
        table = {f"name-{number}": number * number % 97 for number in range(15_000)}
        for _ in range(4):
            text = json.dumps(table)
            table = {name: value + 1 for name, value in json.loads(text).items()}
        took.append(time.process_time() - began)
    return min(took)


def measure(measurement: Measurement, folder: Path) -> dict[str, Ratio]:
    """Run a benchmark and return its ratios.

    Args:
        measurement: Benchmark to run.
        folder: Folder for its files.

    Raises:
        MeasurementError: It fails, or its output lacks what is expected.
    """
    values: dict[str, list[float]] = defaultdict(list)
    directions: dict[str, Better] = {}
    for _ in range(measurement.repeats):
        before = unit_s()
        output = _output(measurement, folder)
        unit = statistics.mean((before, unit_s()))
        try:
            for name, better, found in measurement.read(output, unit):
                values[name] += [float(each) for each in found]
                directions[name] = better
        except (KeyError, TypeError, ValueError) as error:
            raise MeasurementError(f"{measurement.command}: its output lacks {error}") from None
    if not values or not all(value > 0 for found in values.values() for value in found):
        raise MeasurementError(f"{measurement.command}: its output has no positive ratios: {dict(values)}")
    return {name: Ratio.of(found, directions[name]) for name, found in values.items()}


def _output(measurement: Measurement, folder: Path) -> Mapping[str, Any]:
    result = folder / "result.json"
    command = [sys.executable, str(ROOT / measurement.script), *measurement.arguments]
    command += ["--json", str(result)] if measurement.writes else []
    result.unlink(missing_ok=True)
    environment = {**os.environ, **measurement.environment, "PYTHONPATH": str(ROOT)}
    try:
        done = subprocess.run(
            command, check=False, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT_S
        )
    except subprocess.TimeoutExpired:
        raise MeasurementError(f"{measurement.command}: took more than {LIMIT_S:.0f} s") from None
    if done.returncode:
        last = "\n".join(done.stderr.splitlines()[-5:])
        raise MeasurementError(f"{measurement.command}: ended with {done.returncode}:\n{last}")
    text = done.stdout
    if measurement.writes:
        text = result.read_text(encoding="utf-8") if result.exists() else ""
    lines = text.splitlines()
    began = next((number for number, line in enumerate(lines) if line.startswith("{")), len(lines))
    try:
        found: Any = json.loads("\n".join(lines[began:]))
    except ValueError as error:
        raise MeasurementError(f"{measurement.command}: printed no JSON: {error}") from None
    if not isinstance(found, dict):
        raise MeasurementError(f"{measurement.command}: printed JSON of another kind: {type(found).__name__}")
    return found


def _with_spread(low: float, median: float, high: float) -> list[float]:
    """Return values with this median and these quartiles, for a script that prints its own spread."""
    return [low, low, median, high, high]


def _speedups(output: Mapping[str, Any], _: float) -> Samples:
    for row in output["rows"]:
        spread = row["speedup"]
        found = _with_spread(spread["low"], spread["median"], spread["high"])
        yield f"{row['case']}, {row['mode']}", Better.HIGHER, found


def _input_pipeline(output: Mapping[str, Any], _: float) -> Samples:
    found = _with_spread(output["ratio_lowest"], output["ratio"], output["ratio_highest"])
    yield "images per second, ours / torchvision", Better.HIGHER, found


def _ddp(output: Mapping[str, Any], _: float) -> Samples:
    found = _with_spread(output["ratio_min"], output["ratio"], output["ratio_max"])
    yield "images per second, training loop / plain", Better.HIGHER, found


def _trials(output: Mapping[str, Any], unit: float) -> Samples:
    yield "marginal seconds of a trial on a lane, in units", Better.LOWER, [s / unit for s in output["gaps_s"]]


def _coco(output: Mapping[str, Any], _: float) -> Samples:
    theirs = output["pycocotools_s"]
    yield "scored, pycocotools / ours", Better.HIGHER, [theirs / output["scored_s"]]
    yield "images added, scoring by pycocotools / ours", Better.HIGHER, [theirs / output["added_s"]]


def _hub(output: Mapping[str, Any], unit: float) -> Samples:
    for lanes, found in output["lanes"].items():
        yield f"call with {lanes} lanes, in thousandths of a unit", Better.LOWER, [found["us_per_call"] / unit / 1e3]


def _records(output: Mapping[str, Any], _: float) -> Samples:
    for where, what in (("study", "database statements"), ("mlflow, following", "MLflow requests")):
        for kind in ("trial", "report"):
            yield f"{what} for a {kind}", Better.LOWER, [output[where][what][kind]]


def _commands(output: Mapping[str, Any], unit: float) -> Samples:
    for name, found in output["seconds"].items():
        yield f"{name}, in units", Better.LOWER, [found["here"] / unit]


def _own_network_and_database() -> str:
    programs = shutil.which("initdb") or next(Path("/usr/lib/postgresql").glob("*/bin/initdb"), None)
    return "" if os.geteuid() == 0 and programs else "needs root and PostgreSQL"


_QUIET = {"OMP_NUM_THREADS": "1"}
_CASES = (
    *("adaptive_resnet26_medium 32px", "fcvit_micro_cifar 32px", "lesa_resnet26_cifar 32px"),
    *("lsas_resnet29_cifar order=5", "sb_resnet29_cifar 32px"),
)
MEASUREMENTS: Mapping[str, Measurement] = {
    "model_speed": Measurement(
        script="benchmarks/networks/model_speed.py",
        arguments=(
            "--threads",
            "1",
            "--clock",
            "cpu",
            "--rounds",
            "5",
            "--batch",
            "8",
            "--modes",
            "training",
            "--no-memory",
            "--cases",
            *_CASES,
        ),
        read=_speedups,
        writes=True,
        environment=_QUIET,
    ),
    "input_pipeline": Measurement(
        script="benchmarks/input/input_pipeline.py",
        arguments=("--rounds", "5", "--images", "8000"),
        read=_input_pipeline,
    ),
    "ddp": Measurement(
        script="benchmarks/ddp.py",
        arguments=("--image-size", "8", "--images", "1024", "--batch", "64", "--epochs", "9"),
        read=_ddp,
    ),
    "trial_overhead": Measurement(
        script="benchmarks/trial_overhead.py",
        arguments=("--lanes-only", "--trials", "8", "--epochs", "1", "--workers", "1"),
        read=_trials,
    ),
    "coco_metrics": Measurement(
        script="benchmarks/evaluation/coco_metrics.py",
        arguments=("--images", "500"),
        read=_coco,
        repeats=3,
        writes=True,
        environment=_QUIET,
    ),
    "hub": Measurement(
        script="benchmarks/scale/hub.py", arguments=("--lanes", "100", "--seconds", "2"), read=_hub, repeats=3
    ),
    "records": Measurement(
        script="benchmarks/scale/records.py",
        arguments=("--trials", "4"),
        read=_records,
        environment=_QUIET,
        needs=_own_network_and_database,
    ),
    "commands": Measurement(
        script="benchmarks/commands.py",
        arguments=("--rounds", "1", "--only", "help", "models", "report, 12 trials", "dry run, digits"),
        read=_commands,
        repeats=3,
    ),
}
