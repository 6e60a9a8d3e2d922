"""Settings made to break the check: each gives one error in words, within about a second."""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator import ConfigError, SweepConfig, load_sweep
from orchestrator.config.sections.section import Section
from tests.support.sweeps.settings import BASE

SLOW_S = 12.0  # of processor time: a second on a quiet machine
SECTIONS = dict(load_sweep(BASE))  # this imports what the first check needs


def deep(levels: int) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for _ in range(levels):
        content = {"a": content}
    return content


def endless() -> list[Any]:
    content: list[Any] = []
    content.append(content)
    return content


def refusal(source: Any, *overrides: str, values: Mapping[str, Any] | None = None) -> str:
    began = time.process_time()
    with pytest.raises(ConfigError) as caught:
        load_sweep(source, overrides, values=values or {})
    assert time.process_time() - began < SLOW_S
    assert len(caught.value.problems) == 1, str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


CONDITIONS = {f"c{number}": [0, 1] for number in range(18)} | {
    f"l{number}/lr": {"value": 0.1, "when": {f"c{number}": 1}} for number in range(18)
}
CHAIN = {"c0": [0, 1]} | {f"c{n}": {"choices": [0, 1], "when": {f"c{n - 1}": 1}} for n in range(1, 900)}
FINE = {"type": "float", "low": 1e-9, "high": 0.9, "step": 1e-12}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"self": 1}, "self: unknown setting. Known: name, dataset,"),
        ({"seed": 2**32}, "seed: got 4294967296; should be less than 4294967296"),
        ({"dataset": {"name": "digits", "split_seed": 2**40}}, "dataset.split_seed: got 1099511627776; should be less"),
        ({"trials": 10**5000}, "trials: holds a whole number beyond 64 bits. Use a smaller one"),
        ({"training": {"lr": float("nan")}}, "training.lr: got nan; should be a finite number"),
        ({"training": {"lr": True}}, "training.lr: got True; should be a valid number"),
        ({"trials": True}, "trials: got True; should be a valid integer"),
        ({"search": {"lr": [float("inf")]}}, "search.lr.choices.0: got inf; must be a number"),
        ({"try_first": [{"lr": float("nan")}]}, "try_first: got [{'lr': nan}]; must be papers"),
        ({"search": {"lr": {"type": "float", "low": -1e308, "high": 1e308}}}, "too far apart"),
        (
            {"search": {"lr": {"type": "int", "low": 1, "high": 2**60}}},
            "whole numbers are searched up to 9007199254740992",
        ),
        ({"search": {"lr": {"type": "float", "low": 1.0, "high": 2.0, "step": 1e-17}}}, "too small to tell"),
        ({"search": {"epochs": list(range(1, 1_200))}}, "choices has 1,199 values; at most 1,000. Use low and high"),
        ({"search": {"decay_milestones": 3}}, "search.decay_milestones: got 3; must be a list. Write [3]"),
        ({"tracking": {"experiment": "\ud800"}}, r"tracking.experiment: got '\ud800'; a text is a single line without"),
        ({"tracking": {"experiment": "a\0"}}, r"got 'a\x00'; a text is a single line without control characters"),
        ({"\x1b[31m": 1}, r"'\x1b[31m': as a name got '\x1b[31m'; a text is a single line"),
        (
            {"tracking": {"experiment": "x" * 5_000}},
            "tracking.experiment: has 5,000 characters; a text has at most 4,096",
        ),
        ({"tracking": {"experiment": datetime.date(2026, 1, 1)}}, "is a date; a setting is a number, a text"),
        ({"search": {1, 2}}, "search: is a set; a setting is a number, a text"),
        ({"training": {1: 2}}, "training.1: got 1; a name is text. Write it in quotes"),
        ({"name": 2026}, "name: got 2026; should be a valid string. Write it in quotes"),
        ({"training": {"compile": "yes"}}, "training.compile: got 'yes'; should be a valid boolean. Write true"),
        ({"search": deep(5_000)}, "the settings are nested more than 40 deep"),
        ({"search": endless()}, "the settings are nested more than 40 deep"),
        ({f"k{number}": number for number in range(20_000)}, "the settings hold more than 10,000 keys and values"),
        ({"constraints": ["params <= 2e6"] * 300_000}, "the settings hold more than 10,000 keys and values"),
        (
            {"search": {f"c{number}": 1 for number in range(1_500)}},
            "search: has 1,500 names; at most 1,000 are searched",
        ),
        (
            {"search": CONDITIONS},
            "search: the names that conditions (when) use make more than 2,000 combinations",
        ),
        ({"search": CHAIN}, "search: conditions (when) use 899 names; use at most 200"),
        ({"search": {"lr": FINE}, "sampler": {"name": "grid"}}, "sampler.name: got 'grid' for more than 100,000"),
    ],
    ids=range(31),
)
def test_one_problem_is_reported_from_python_too(raw: dict[str, Any], message: str) -> None:
    assert message in refusal({**BASE, **raw})
    if all(isinstance(key, str) for key in raw):
        with pytest.raises(ConfigError) as caught:
            SweepConfig(**{**BASE, **raw})
        assert message in str(caught.value)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("self=x", "self: unknown setting"),
        (f"trials={'9' * 5000}", "is not valid YAML: line 1, column 1: a number of 5,000 digits is too long"),
        (f"trials={'[' * 5000}", "settings are nested at most 40 deep"),
        ("name=\udcff", "is not valid YAML: it holds a character that is no text"),
        ("budget.wall_clock=1:30", "budget.wall_clock: got '1:30'; a duration is a number of seconds, or numbers with"),
        (f"{'a.' * 5000}b=1", "the settings are nested more than 40 deep"),
        ("training.lr=2026-01-01", "training.lr: got '2026-01-01'; should be a valid number"),
    ],
)
def test_one_problem_is_reported_for_an_assignment(assignment: str, message: str) -> None:
    assert message in refusal(BASE, assignment)


def test_a_number_with_a_leading_zero_is_decimal() -> None:
    assert load_sweep(BASE, ["trials=010"]).trials == 10


def test_many_problems_are_cut_with_a_notice(tmp_path: Path) -> None:
    began = time.process_time()
    with pytest.raises(ConfigError) as caught:
        load_sweep({**BASE, **{f"trails{number}": number for number in range(4_000)}})
    assert time.process_time() - began < SLOW_S
    assert len(caught.value.problems) == 101
    assert str(caught.value.problems[-1]) == "has more than 100 faults; mend these first"


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(10 * 2**30)
    assert refusal(tmp_path).endswith("is a folder, not a file. Name a sweep file, such as sweeps/digits.yaml")
    assert "is a pipe or a device, not a file" in refusal(tmp_path / "pipe")
    assert "is a pipe or a device, not a file" in refusal("/dev/zero")
    assert "has 10,737,418,240 bytes; a sweep file has at most 1,048,576" in refusal(tmp_path / "sparse")
    assert "cannot be read: Too many levels of symbolic links" in refusal(tmp_path / "loop")
    assert "cannot be read: File name too long" in refusal("x" * 5_000)
    assert "cannot be read: Not a directory" in refusal(tmp_path / "sparse" / "x.yaml")


@pytest.mark.parametrize("name", ["", "a b", "../up", "a/b", "-x", "é", ".", "x" * 65, "a\n", "[red]", "a'b", "a#b"])
def test_a_sweep_has_a_plain_name(name: str) -> None:
    assert "name" in refusal(BASE, values={"name": name})


@pytest.mark.parametrize("name", ["2026", "null", "true", "a-b_C", "1e3"])
def test_a_name_given_as_an_option_is_text(name: str) -> None:
    assert load_sweep(BASE, values={"name": name}).name == name


@pytest.mark.parametrize("section", [name for name, value in SECTIONS.items() if isinstance(value, Section)])
def test_no_number_is_written_as_a_flag(section: str) -> None:
    """True is a whole number to Python: 1."""
    for name, usual in SECTIONS[section]:
        if isinstance(usual, int | float) and not isinstance(usual, bool):
            with pytest.raises(ConfigError) as caught:
                load_sweep({**BASE, section: {name: True}})
            assert f"{section}.{name}: got True" in str(caught.value)
