"""The benchmark for GPUs in its tiny form on a CPU, and its answer where there is no GPU."""

import json
import runpy
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu.py"
CASES = ["4x4", "large, deep", "14 x 14", "local_resnet26"]


@pytest.fixture(scope="module")
def script() -> Iterator[Callable[[Sequence[str]], int]]:
    """Load the script, which adds its folders to the path, into this process: torch takes seconds to import."""
    path = list(sys.path)
    yield runpy.run_path(str(SCRIPT), run_name="benchmark")["main"]
    sys.path[:] = path


def test_every_part_runs_on_a_cpu(script, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert script(["--device", "cpu", "--quick", "--json", str(tmp_path / "gpu.json"), "--cases", *CASES]) == 0
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert [row["part"] for row in report["rows"]] == ["correctness"] * 5 + ["attention"] * 2 + ["networks"]
    assert set(report["summary"]["largest_errors"]) == {"float32", "float16", "bfloat16"}
    assert report["summary"]["same_bits_twice"] and report["summary"]["failed"] == []
    (network,) = (row for row in report["rows"] if row["part"] == "networks")
    assert {"ours_ms", "plain_ms", "control_ms", "plain_over_ours", "ours_over_control"} <= set(network)
    assert json.loads(capsys.readouterr().out) == report["summary"]


def test_a_case_that_fails_or_has_no_time_is_in_the_report(script, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = ["--device", "cpu", "--quick", "--cases", "large, deep"]
    assert script([*chosen, "--budget-s", "0"]) == 0
    assert json.loads(capsys.readouterr().out)["summary"]["no_time_left_for"] == ["attention: large, deep"]
    monkeypatch.setitem(script.__globals__, "time_attention", lambda *_, **__: 1 / 0)
    assert script(chosen) == 1
    assert "ZeroDivisionError" in json.loads(capsys.readouterr().out)["summary"]["failed"][0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_it_ends_with_an_error(script, capsys: pytest.CaptureFixture[str]) -> None:
    assert script([]) == 2
    assert "--device cpu --quick" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        script(["--device", "cpu"])
