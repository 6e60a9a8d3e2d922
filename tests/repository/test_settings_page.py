"""The table of docs/settings.md has every setting of a sweep, with its default."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from pydantic_core import PydanticUndefined

from orchestrator.config.sweep import SweepConfig
from orchestrator.config.validation.check import section_class

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"
IN_PROSE = {
    "required",
    "automatic",
    "all",
    "a file in `runs_dir`",
    "a database in `runs_dir`",
    "`runs` here",
    "none (0.75)",  # of the task that has it
    "`{metric: val/top1}`",
    "224",  # of image files
}
OPEN = (None, (), {}, "", PydanticUndefined)
"""Defaults that the page calls none."""


def defaults() -> dict[str, Any]:
    """Return the default of every setting by its dotted name."""
    found: dict[str, Any] = {}
    for name, field in SweepConfig.model_fields.items():
        shown = field.alias or name
        section = section_class(field.annotation)
        inner = {} if section is None else section.model_fields
        found |= {f"{shown}.{key}": each.get_default(call_default_factory=True) for key, each in inner.items()}
        if section is None:
            found[shown] = field.get_default(call_default_factory=True)
    return found


def described() -> dict[str, str]:
    """Return the default that the table states, by the name of the setting; empty where its cell has no more."""
    stated: dict[str, str] = {}
    for line in PAGE.read_text().split("## How values are written")[0].splitlines():
        if not line.startswith("| `"):
            continue
        names_cell, defaults_cell = line.strip("| ").split(" | ")[:2]
        section, names = "", []
        for name in re.findall(r"`([^`]+)`", names_cell):
            names.append(f"{section}{name}" if name.startswith(".") else name)
            section = names[-1].rpartition(".")[0]
        cells = [defaults_cell] if len(names) == 1 else defaults_cell.split(", ")
        stated |= dict(zip(names, cells if len(cells) == len(names) else cells * len(names), strict=True))
    return stated


def test_every_default_of_the_page_is_that_of_the_code() -> None:
    known, stated = defaults(), described()
    compared = 0
    for name, cell in stated.items():
        text = re.sub(r" \(.*\)$", "", cell).strip()
        if name not in known or cell in IN_PROSE or text in IN_PROSE:
            continue
        compared += 1
        if text == "none" and known[name] != "none":
            assert known[name] in OPEN, f"{name}: the page says none, the code {known[name]!r}"
            continue
        said = yaml.safe_load(text.strip("`"))
        said = float(said) if isinstance(said, str) and re.fullmatch(r"[\d.]+e-?\d+", said) else said
        assert said == known[name] or (said in ([], {}) and known[name] in OPEN), f"{name}: {cell} on the page"
    assert compared > 90


def test_every_setting_is_on_the_page() -> None:
    text = PAGE.read_text()
    missing = [name for name in defaults() if f"`{name}`" not in text and name.rpartition(".")[2] not in text]
    assert missing == []
