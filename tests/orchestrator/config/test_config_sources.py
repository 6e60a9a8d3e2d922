"""Sources of settings: Python, a file, assignments; and files that are not sweeps."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orchestrator import ConfigError, SweepConfig, load_sweep
from orchestrator.config import DatasetConfig, ModelConfig, TrainingConfig
from orchestrator.config.load import has_plain_faults
from search_spaces import ChoiceDomain, FloatDomain
from tests.support.sweeps.settings import BASE, BIASED, PLAIN, faults, write

SWEEPS = Path(__file__).parents[3] / "sweeps"


def test_python_yaml_and_assignments_give_equal_objects(tmp_path: Path) -> None:
    from_python = SweepConfig(
        name="t",
        dataset=DatasetConfig(name="digits"),
        model=ModelConfig(name=PLAIN, options={"stem": "7x7"}),
        training=TrainingConfig(lr=1e-3, epochs=3),
        search={"lr": FloatDomain(low=1e-3, high=1e-1, log=True), "optimizer": ChoiceDomain(choices=("sgd", "lamb"))},
    )
    text = f"""
        name: t
        dataset: {{name: digits}}
        model: {{name: {PLAIN}, options: {{stem: 7x7}}}}
        training: {{lr: 1e-3, epochs: 3}}
        search: {{lr: {{type: float, low: 1e-3, high: 1e-1, log: true}}, optimizer: [sgd, lamb]}}
    """
    from_yaml = load_sweep(write(tmp_path, text))
    assignments = [
        f"model.name={PLAIN}",
        "model.options.stem=7x7",
        "training.lr=1e-3",
        "training.epochs=3",
        "search.lr={type: float, low: 0.5, high: 1e-1, log: true}",
        "search.lr.low=1e-3",
        "search.optimizer=[sgd, lamb]",
    ]
    from_assignments = load_sweep(BASE, assignments)
    assert from_python == from_yaml == from_assignments
    assert from_python.space.fingerprint == from_yaml.space.fingerprint


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.e-3", ".1e-2", "+1e-3", "0.001"])
def test_a_number_with_an_exponent_is_a_number(tmp_path: Path, text: str) -> None:
    assert load_sweep(BASE, [f"training.lr={text}"]).training.lr == 1e-3
    path = write(tmp_path, f"name: t\ndataset: {{name: digits}}\nmodel: {{name: {PLAIN}}}\ntraining: {{lr: {text}}}")
    assert load_sweep(path).training.lr == 1e-3


def test_later_assignments_win_and_the_source_is_left_alone() -> None:
    raw = {**BASE, "training": {"epochs": 5}}
    assert load_sweep(raw, ["training.epochs=7", "training.epochs=9", "trials=3"]).training.epochs == 9
    assert raw["training"] == {"epochs": 5}


def test_assignments_are_checked_together_with_the_rest() -> None:
    message = faults({"trials": 0}, "epochs", "a..b=1", "name.x=1", "search.lr=[", "training.lr=2024-13-45")
    assert message == [
        "--set epochs: an assignment is written key=value, such as --set trials=20",
        "--set a..b=1: an assignment is written key=value, such as --set trials=20",
        "--set name.x=1: 'name' is 't', not a group of settings",
        "--set search.lr=[: '[' is not valid YAML: line 2, column 1: did not find expected node content",
        "training.lr: got '2024-13-45'; should be a valid number",
        "trials: got 0; should be greater than 0",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: t\nname: u\n", "'name' is written twice; keep one"),
        ("training: {lr: 0.1, epochs: 1, lr: 0.2}\n", "'lr' is written twice; keep one"),
        ("- 1\n", "a sweep file is a mapping of settings"),
        ("", "a sweep file is a mapping of settings"),
        ("1: 2\n", "1: got 1; a name is text. Write it in quotes"),
        ("name: [\n", "not valid YAML"),
    ],
)
def test_a_file_that_is_not_a_sweep_is_an_error_with_its_reason(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        load_sweep(path)
    assert str(path) in str(caught.value)


def test_the_error_for_a_missing_file_lists_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = tmp_path / "digit.yaml"
    for name in ("b.yaml", "a.yaml", "c.txt"):
        (tmp_path / name).touch()
    assert faults(missing)[0].endswith(f"{missing}: no such file. {tmp_path} holds a.yaml, b.yaml.")
    assert "Current folder: " in faults(tmp_path / "nowhere" / "x.yaml")[0]
    monkeypatch.chdir(tmp_path)
    assert faults(Path("digit.yaml"))[0].endswith(f"digit.yaml: no such file. {tmp_path} holds a.yaml, b.yaml.")


def test_options_of_one_flag_per_stage_are_written_as_a_list() -> None:
    config = load_sweep(BASE, [f"model.name={BIASED}", "model.options.stages=[true, false, true]"])
    assert config.model is not None
    assert config.model.options == {"stages": (True, False, True)}


@pytest.mark.parametrize("path", sorted(SWEEPS.glob("*.yaml")), ids=lambda path: path.name)
def test_a_valid_file_has_no_plain_faults(path: Path) -> None:
    assert not has_plain_faults(path, (), {})
    assert has_plain_faults(path, ["trials=0"], {})


@pytest.mark.parametrize("path", sorted(SWEEPS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_sweep_of_the_repository_is_valid(path: Path) -> None:
    config = load_sweep(path)
    assert SweepConfig(**config.model_dump(mode="json")) == config
