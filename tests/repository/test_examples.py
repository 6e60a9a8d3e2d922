"""Check that the scripts and the notebook of `examples` run."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from orchestrator import SweepConfig, dry_run, load_result, load_sweep
from orchestrator.records.ledger import TrialStatus
from tests.support.sweeps.fake_sweeps import write_sweep
from tests.support.training_pieces import few_digits, make_trial, run

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
NOTEBOOK = json.loads((EXAMPLES / "digits.ipynb").read_text(encoding="utf-8"))
CODE_CELLS = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]

# Each cell as a notebook's kernel runs it: the value of its last line is shown, and an exception ends the notebook.
RUN_CELLS = """
import json, runpy, sys
from IPython.core.interactiveshell import InteractiveShell

shell = InteractiveShell.instance()
shell.kernel = object()  # what a notebook has
for cell in json.load(sys.stdin):
    shell.run_cell(cell).raise_error()
print("the script:")
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_python(arguments: list[str], folder: Path, **options: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "MPLBACKEND": "agg", "IPYTHONDIR": str(folder / "ipython")},
        capture_output=True,
        text=True,
        timeout=500,
        **options,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_example_is_in_the_table() -> None:
    table = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert [
        path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb") and path.name not in table
    ] == []


def test_the_notebook_is_valid_and_without_outputs() -> None:
    assert NOTEBOOK["nbformat"] == 4
    assert len({cell["id"] for cell in NOTEBOOK["cells"]}) == len(NOTEBOOK["cells"])
    for cell in NOTEBOOK["cells"]:
        expected = {"cell_type", "id", "metadata", "source"}
        assert set(cell) == expected | ({"execution_count", "outputs"} if cell["cell_type"] == "code" else set())
        assert not cell.get("outputs") and cell.get("execution_count") is None


def test_the_search_space_is_checked_without_starting_a_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / "search_space.py"), run_name="__main__")
    shown = capsys.readouterr().out
    assert "search.bias_channel: " in shown
    assert "Did you mean 'bias_channels'?" in shown
    assert "Go and Ryu 2023" in shown
    assert "at most 20 epochs" in shown
    assert list(tmp_path.iterdir()) == []


def test_the_sweep_to_predict_from_is_valid() -> None:
    assert isinstance(runpy.run_path(str(EXAMPLES / "sweep_and_predict.py"))["SWEEP"], SweepConfig)


def test_the_own_network_is_searched_beside_those_of_timm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = dry_run(load_sweep(EXAMPLES / "own_network.yaml", [f"runs_dir={tmp_path}"]), shown=8)
    names = {proposal.model for proposal in found.proposals}
    assert "own_network.py:make_network" in names and len(names) > 1
    (own, *_) = [proposal for proposal in found.proposals if "own/width" in proposal.values]
    width, kernel = own.values["own/width"], own.values["own/kernel_size"]
    block = 2 * width + 2 * (width**2 + width) + kernel**2 * width + width  # norm, gate and projection, depthwise
    assert own.params == 9 * width + width + 4 * block + 10 * width + 10
    data = few_digits(tmp_path, train=200, test=50)
    trial = make_trial(data, tmp_path, model="own_network.py:make_network", options={"width": width}, epochs=2)
    losses = [report["train/loss"] for report in run(trial)]
    assert losses[1] < losses[0]


def test_sweeps_are_compared_as_tables(tmp_path: Path) -> None:
    script = runpy.run_path(str(EXAMPLES / "resume_and_compare.py"))
    finished = TrialStatus.FINISHED
    folders = [
        write_sweep(tmp_path, "one", [(finished, (0.5, 0.6)), (finished, (0.5, 0.8))]),
        write_sweep(tmp_path, "two", [(finished, (0.7,))]),
    ]
    results = [load_result(folder) for folder in folders]
    table = script["compare"](results)
    assert table[["sweep", "trial", "value"]].to_numpy().tolist() == [["one", 1, 0.8], ["two", 0, 0.7]]
    curves = script["curves"](results[0], "val/top1")
    assert curves.to_dict() == {0: {1: 0.5, 2: 0.6}, 1: {1: 0.5, 2: 0.8}}


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_notebook_and_the_scripts_run(tmp_path: Path) -> None:
    short = json.dumps(CODE_CELLS).replace("trials=4", 'trials=2, resources={\\"workers\\": 1, \\"lanes\\": 1}')
    short = short.replace('\\"epochs\\": 4', '\\"epochs\\": 2')
    assert short.count("trials=2") == short.count('\\"epochs\\": 2') == 1
    # Both in one interpreter, since importing torch, Ray and MLflow takes as long as a trial.
    script = [str(EXAMPLES / "resume_and_compare.py"), "notebook", "--trials", "3"]
    shown, _, compared = run_python(["-c", RUN_CELLS, *script], tmp_path, input=short).partition("the script:")
    assert "params.lr" in shown and "('0', '1'" in shown
    assert "sb_resnet29_cifar" in compared or "conv_resnet26_small" in compared
    result = load_result("notebook", tmp_path / "runs")
    assert len(result.records) == 3

    predict = runpy.run_path(str(EXAMPLES / "sweep_and_predict.py"))
    assert set(predict["classify"](result.load_model(), torch.rand(4, 1, 8, 8))) <= set("0123456789")
