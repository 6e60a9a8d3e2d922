"""Sweeps over networks of timm and of the user's own files: found, checked by their signature, sent as text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import models
from orchestrator import load_sweep
from orchestrator.config.network_files import network_files_from, no_files
from orchestrator.config.plans import resolve_plans
from orchestrator.data.datasets import dataset_facts
from orchestrator.errors import ConfigError
from orchestrator.search.proposals.trial_filter import TrialFilter
from tests.support.networks.own_file import NAME, TEXT, write_own_file
from tests.support.sweeps.settings import faults, write

SWEEP = f"""
name: s
dataset: {{name: digits}}
search:
  model: ["{NAME}", test_vit, conv_resnet26_small]
  own/width: {{type: int, low: 4, high: 16, when: {{model: "{NAME}"}}}}
  vit/depth: {{type: int, low: 1, high: 2, when: {{model: test_vit}}}}
  vit/patch_size: {{value: 4, when: {{model: test_vit}}}}
  vit/fc_norm: {{choices: [true, false], when: {{model: test_vit}}}}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of the sweep file and the network; the current folder is another one."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    models.forget_network_file("own_net.py")  # of an earlier test
    write_own_file(tmp_path / "sweeps")
    return tmp_path / "sweeps"


def own(**options: Any) -> dict[str, Any]:
    return {"name": "s", "dataset": {"name": "digits"}, "model": {"name": NAME, "options": options}}


def test_networks_of_all_three_kinds_are_searched_together_from_any_folder(folder: Path) -> None:
    config = load_sweep(write(folder, SWEEP))
    assert config.network_files.texts == {"own_net.py": TEXT}
    assert resolve_plans(config).training.network_files == {"own_net.py": TEXT}
    assert config.network_files.sources[0].path == folder / "own_net.py"
    assert load_sweep(write(folder, SWEEP), [f"search.model={NAME}"]).space.keys() >= {"own/width"}


def test_a_configuration_is_checked_before_it_costs_a_trial(folder: Path) -> None:
    config = load_sweep(write(folder, SWEEP), ["limits.max_params=2000"])
    plan = resolve_plans(config).search
    checked = TrialFilter(plan, dataset_facts("digits", None, 8))

    def rejection(**params: Any) -> str:
        from orchestrator.config import resolve_trial

        found = checked.rejection(resolve_trial(plan, 0, params))
        return "" if found is None else found.text

    assert rejection(model=NAME, **{"own/width": 16}) == ""
    assert "has 3,010; limits.max_params is 2,000" in rejection(model=NAME, **{"own/width": 40})
    assert "cannot be built" in rejection(model="test_vit", **{"vit/depth": 1, "vit/patch_size": 16})


def test_a_file_below_the_current_folder_is_found_as_a_module(folder: Path) -> None:
    write_own_file(Path("nets"))
    config = load_sweep({**own(width=4), "model": {"name": "nets.own_net:make"}})
    assert config.network_files.sources[0].path == Path("nets/own_net.py").resolve()


def test_an_edited_file_is_read_again(folder: Path) -> None:
    path = write(folder, SWEEP)
    before = load_sweep(path).network_files.hashes
    write_own_file(folder, TEXT.replace("width: int", "breadth: int").replace("in_chans, width)", "in_chans, breadth)"))
    assert "Did you mean 'breadth'?" in faults(path)[0] or "own/width" in faults(path)[0]
    write_own_file(folder, TEXT + "\n# a comment\n")
    assert load_sweep(path).network_files.hashes != before


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (None, "search.model: no file own_net.py in "),
        ("def make(:\n", "search.model: own_net.py cannot be imported: SyntaxError: invalid syntax (line 1)"),
        ("import nothing_like_it\n", "search.model: own_net.py cannot be imported: ModuleNotFoundError"),
        (
            "from layers import Own\n",
            "search.model: own_net.py imports 'layers', which lies beside it; workers get the",
        ),
        ("from . import layers\n", "search.model: own_net.py imports '.', which lies beside it"),
        (
            TEXT.replace("def make(", "def build("),
            "search.model: got 'own_net.py:make'; own_net.py has no factory 'make'",
        ),
        ("URL = 'https://me:secret@host'\n" + TEXT, "search.model: own_net.py holds a password or a token"),
    ],
)
def test_a_file_that_cannot_be_used_is_reported_with_the_other_problems(
    folder: Path, text: str | None, fault: str
) -> None:
    (folder / "layers.py").touch()
    (folder / "own_net.py").unlink()
    if text is not None:
        write_own_file(folder, text)
    found = faults(write(folder, SWEEP.replace("name: s\n", "name: a b\n")))
    assert any(f"sweep.yaml: {fault}" in line for line in found), found
    assert any("name: got 'a b'" in line for line in found)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"model": {"name": NAME, "options": {"widht": 8}}}, "model.options.widht: got 8 for own_net.py:make; "),
        (
            {"model": {"name": NAME}, "search": {"width": [4, "x"]}},
            "search.width: got 'x' for own_net.py:make; width is",
        ),
        (
            {"model": {"name": NAME}, "search": {"widht": [4, 8]}},
            "search.widht: neither a training setting nor an option",
        ),
        ({"model": {"name": "test_vit"}}, "model.name: got 'test_vit'; the network cannot be built for these data: "),
        (
            {"model": {"name": "test_vit", "options": {"patch_size": 4}}, "search": {"dept": [1, 2]}},
            "search.dept: neither",
        ),
        (
            {"model": {"name": "resnet18.a1_in1k"}},
            "model.name: unknown 'resnet18.a1_in1k'. Use 'resnet18'; its weights",
        ),
        (
            {"model": {"name": "resnet10t"}, "space": "lsas"},
            "space: lsas has nothing for resnet10t, which is no network",
        ),
    ],
)
def test_options_are_checked_by_the_signature(folder: Path, changes: dict[str, Any], fault: str) -> None:
    write_own_file(Path.cwd())
    assert faults({**own(), **changes})[0].startswith(fault)


def test_a_space_applies_to_its_own_networks_beside_others(folder: Path) -> None:
    write_own_file(Path.cwd())
    search = {
        "model": [NAME, "lsas_resnet29_cifar", "resnet10t"],
        "width": {"choices": [4, 8], "when": {"model": NAME}},
    }
    for space in ("lsas", "spatial_zoo"):
        config = load_sweep({"name": "s", "dataset": {"name": "digits"}, "space": space, "search": search})
        options = {name.rpartition("/")[2]: domain for name, domain in config.search.items()}
        assert options["reduction"].when["model"] == ("lsas_resnet29_cifar",)
        assert options["drop_path_rate"].when["model"] == ("lsas_resnet29_cifar",)
        assert "model" not in options["lr"].when
        assert options["width"].when == {"model": NAME}


def test_fixed_options_may_be_sequences() -> None:
    raw = {**own(), "model": {"name": "test_resnet", "options": {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]}}}
    config = load_sweep(raw)
    assert config.model is not None and config.model.options["layers"] == (1, 1, 1, 1)
    assert load_sweep(config.model_dump(mode="json")) == config


def test_code_is_withheld_where_only_the_settings_are_read(folder: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    write_own_file(folder, f"open({str(ran)!r}, 'w').close()\n{TEXT}")
    with network_files_from(no_files):
        config = load_sweep(write(folder, SWEEP))
    assert config.network_files.withheld == ("own_net.py",)
    assert not ran.exists()
    load_sweep(write(folder, SWEEP))
    assert ran.exists()


def test_a_missing_file_of_settings_from_python_is_looked_for_in_the_current_folder(folder: Path) -> None:
    with pytest.raises(ConfigError, match=f"no file lost.py in {Path.cwd()}"):
        load_sweep({**own(), "model": {"name": "lost.py:make"}})
