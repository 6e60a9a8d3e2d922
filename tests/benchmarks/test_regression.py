"""Comparison of ratios with recorded ones, and the file of these."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
REGRESSION = ROOT / "benchmarks" / "regression"
BLOCK = {"commit": "abc", "date": "2026-11-29", "machine": "this", "command": "python x.py"}


def imported(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(REGRESSION))
    return importlib.import_module(name)


@pytest.fixture
def ratios(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return imported("ratios", monkeypatch)


@pytest.fixture
def measurements(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return imported("measurements", monkeypatch)


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return imported("check", monkeypatch)


def entry(median: float, spread: float = 0.0, better: str = "higher") -> dict[str, Any]:
    return {"median": median, "low": median - spread, "high": median + spread, "better": better}


def test_a_ratio_is_median_and_quartiles(ratios: ModuleType) -> None:
    found = ratios.Ratio.of([5.0, 1.0, 3.0, 2.0, 4.0], ratios.Better.HIGHER)
    assert (found.low, found.median, found.high) == (2.0, 3.0, 4.0)
    assert str(ratios.Ratio.of([1.23456], ratios.Better.LOWER)) == "1.235 (1.235 to 1.235)"


@pytest.mark.parametrize(
    ("better", "now", "verdict", "change"),
    [
        ("higher", (1.0, 0.05), "WORSE", 0.5),  # 1.5 recorded: half as fast again
        ("higher", (1.3, 0.15), "worse, within spread", 0.1538),  # up to 1.45, where the recorded one begins
        ("higher", (1.4, 0.0), "same", 0.0714),
        ("higher", (2.0, 0.1), "better", -0.25),
        ("lower", (2.0, 0.1), "WORSE", 0.3333),
        ("lower", (1.7, 0.15), "worse, within spread", 0.1333),
        ("lower", (1.6, 0.0), "same", 0.0667),
        ("lower", (1.0, 0.1), "better", -0.3333),
    ],
)
def test_worse_by_more_than_a_tenth_and_beyond_the_spread_fails(
    ratios: ModuleType, better: str, now: tuple[float, float], verdict: str, change: float
) -> None:
    recorded = {"a": ratios.Ratio(**entry(1.5, 0.05, better))}
    (row,) = ratios.compare(recorded, {"a": ratios.Ratio(**entry(*now, better))})
    assert (row.verdict, round(row.change, 4)) == (verdict, change)
    assert row.fails == (verdict == "WORSE")


def test_new_and_missing_ratios_are_listed(ratios: ModuleType) -> None:
    one, other = ratios.Ratio(**entry(1.0)), ratios.Ratio(**entry(1.0, better="lower"))
    rows = ratios.compare({"gone": one, "kept": one, "turned": one}, {"kept": one, "turned": other, "added": one})
    assert [(row.name, str(row.verdict), row.fails) for row in rows] == [
        ("gone", "MISSING", True),
        ("kept", "same", False),
        ("turned", "MISSING", True),  # with the other direction it is another ratio
        ("added", "new", False),
    ]


def test_blocks_are_read_as_they_were_written(ratios: ModuleType, tmp_path: Path) -> None:
    blocks = {"hub": ratios.Block(**BLOCK, ratios={"a": entry(1.5, 0.25)})}
    ratios.write_recorded(tmp_path / "ratios.json", blocks)
    assert ratios.read_recorded(tmp_path / "ratios.json") == blocks


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no ratios are recorded"),
        ("{", "cannot be read: Expecting property name"),
        ("[]", "got list; measurements by name are expected"),
        (json.dumps({"hub": 3}), "hub: got 3: "),
        (json.dumps({"hub": {**BLOCK, "ratios": {}}}), "hub.ratios: got {}: "),
        (json.dumps({"hub": {**BLOCK, "ratios": {"a": entry(-1.0)}}}), "hub.ratios.a.median: got -1.0: "),
        ('{"hub": {"ratios": {"a": {"median": NaN}}}}', "hub.commit: got "),
        (json.dumps({"hub": {**BLOCK, "ratios": {"a": {**entry(1.0), "low": 2.0}}}}), "low <= median <= high"),
        (json.dumps({"hub": {**BLOCK, "ratios": {"a": entry(1.0, better="up")}}}), "hub.ratios.a.better: got 'up': "),
    ],
)
def test_a_damaged_file_is_one_error(ratios: ModuleType, content: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "ratios.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ratios.RecordError) as caught:
        ratios.read_recorded(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert message in text
    assert text.endswith("Record again with: make bench-check UPDATE=1")
    assert ("Remove it. " in text) == path.exists(), "a damaged file is not recorded over"
    assert "\n" not in text


SCRIPTS = {
    "sound": ('print("a line before"); print(json.dumps({"us_per_call": 7}))', None),
    "failing": ("sys.exit('it broke')", r"ended with 1:\nit broke"),
    "silent": ("pass", "printed no JSON"),
    "listing": ("print('[1]')", "printed no JSON"),
    "other": ('print(json.dumps({"x": 1}))', "its output lacks 'us_per_call'"),
    "negative": ('print(json.dumps({"us_per_call": -7}))', "no positive ratios"),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_benchmark_that_fails_or_prints_something_else_is_one_error(
    measurements: ModuleType, name: str, tmp_path: Path
) -> None:
    code, message = SCRIPTS[name]
    script = tmp_path / "script.py"
    script.write_text(f"import json, sys\n{code}\n")

    def read(output: Any, unit: float) -> Iterator[Any]:
        assert unit > 0
        yield "call", measurements.Better.LOWER, [output["us_per_call"]]

    measurement = measurements.Measurement(script=str(script), read=read, repeats=2)
    if message is None:
        assert measurements.measure(measurement, tmp_path)["call"].median == 7
    else:
        with pytest.raises(measurements.MeasurementError, match=message):
            measurements.measure(measurement, tmp_path)


def test_the_file_of_an_earlier_benchmark_is_not_read_again(measurements: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text('{"us_per_call": 7}')
    script = tmp_path / "script.py"
    script.write_text("")

    def read(output: Any, _: float) -> Iterator[Any]:
        yield "call", measurements.Better.LOWER, [output["us_per_call"]]

    measurement = measurements.Measurement(script=str(script), read=read, writes=True)
    with pytest.raises(measurements.MeasurementError, match="printed no JSON"):
        measurements.measure(measurement, tmp_path)


def run(measurements: ModuleType, check: ModuleType, value: float | str, *arguments: str, path: Path) -> int:
    """Run the check with one benchmark that prints a value, or that of an expression."""
    script = path.with_name("script.py")
    script.write_text(f'import json\nprint(json.dumps({{"value": {value}}}))\n')

    def read(output: Any, _: float) -> Iterator[Any]:
        yield "value", measurements.Better.HIGHER, [output["value"]]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(check, "MEASUREMENTS", {"made": measurements.Measurement(script=str(script), read=read)})
        patch.setattr(sys, "argv", ["check.py", "--recorded", str(path), *arguments])
        return int(check.main())


def test_ratios_are_recorded_and_watched(
    measurements: ModuleType, check: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "ratios.json"
    assert run(measurements, check, 2.0, path=path) == 2
    assert "no ratios are recorded" in capsys.readouterr().err
    assert run(measurements, check, 2.0, "--update", path=path) == 0
    (block,) = json.loads(path.read_text()).values()
    assert set(block) == {*BLOCK, "ratios"}
    assert re.fullmatch(r"[0-9a-f]{7,}\+?", block["commit"])
    assert run(measurements, check, 1.9, path=path) == 0
    assert "1 of 1 ratios within 10%" in capsys.readouterr().out
    assert run(measurements, check, 1.0, path=path) == 1
    shown = capsys.readouterr()
    assert "WORSE" in shown.out
    assert "+100%" in shown.out
    assert shown.err.endswith("failed: made: value\n")
    assert run(measurements, check, 1.0, "--only", "maed", path=path) == 2
    assert "unknown measurement 'maed'. Did you mean 'made'?" in capsys.readouterr().err


def test_a_benchmark_with_a_worse_ratio_is_run_once_more(
    measurements: ModuleType, check: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "ratios.json"
    assert run(measurements, check, 2.0, "--update", path=path) == 0
    runs = tmp_path / "runs"
    value = f"1.0 if open({str(runs)!r}, 'a').write('+') and open({str(runs)!r}).read() == '+' else 2.0"
    assert run(measurements, check, value, path=path) == 0
    assert runs.read_text() == "++"
    assert run(measurements, check, 1.0, path=path) == 1
    assert capsys.readouterr().err.count("once more, since worse: made") == 2


def test_a_check_that_measures_nothing_fails(
    measurements: ModuleType,
    check: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "ratios.json"
    path.write_text("{}")
    needy = measurements.Measurement(script="none.py", read=lambda *_: iter(()), needs=lambda: "needs root")
    monkeypatch.setattr(check, "MEASUREMENTS", {"made": needy})
    monkeypatch.setattr(sys, "argv", ["check.py", "--recorded", str(path), "--only", "made"])
    assert check.main() == 2
    assert capsys.readouterr().err == "left out: made needs root\nnothing is left to measure on this machine\n"


def test_the_spread_that_a_script_prints_is_kept(measurements: ModuleType) -> None:
    row = {"case": "a", "mode": "training", "speedup": {"median": 1.5, "low": 1.25, "high": 2.0}}
    epochs = {"ratio": 1.0, "ratio_min": 0.5, "ratio_max": 1.25, "ratio_lowest": 0.5, "ratio_highest": 1.25}
    for name, output, expected in (
        ("model_speed", {"rows": [row]}, (1.5, 1.25, 2.0)),
        ("ddp", epochs, (1.0, 0.5, 1.25)),
        ("input_pipeline", epochs, (1.0, 0.5, 1.25)),
    ):
        ((_, better, values),) = measurements.MEASUREMENTS[name].read(output, 1.0)
        found = measurements.Ratio.of(values, better)
        assert (found.median, found.low, found.high) == expected


def test_the_commands_of_the_measurements_exist(measurements: ModuleType) -> None:
    for measurement in measurements.MEASUREMENTS.values():
        source = (ROOT / measurement.script).read_text()
        options = [part for part in measurement.arguments if part.startswith("--")]
        assert [option for option in options if f'"{option}"' not in source] == []
        assert not measurement.writes or '"--json"' in source
