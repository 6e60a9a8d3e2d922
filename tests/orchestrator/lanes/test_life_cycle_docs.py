"""State diagrams of `docs/lanes.md`; tests/repository/test_named_code.py checks the functions that it names."""

from __future__ import annotations

import re
from pathlib import Path

TEXT = (Path(__file__).resolve().parents[3] / "docs" / "lanes.md").read_text(encoding="utf-8")


def test_there_are_references() -> None:
    assert len(set(re.findall(r"`[a-z_/]+\.py: [\w.]+`", TEXT))) > 30


def test_each_transition_of_a_diagram_has_a_row() -> None:
    for section in re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:3]:
        drawn = set(re.findall(r"\((\d+)\)$", section, flags=re.MULTILINE))
        assert drawn == set(re.findall(r"^\| (\d+) \|", section, flags=re.MULTILINE))
