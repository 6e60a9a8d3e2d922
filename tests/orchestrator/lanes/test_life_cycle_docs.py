"""`docs/lanes.md` names functions, and messages, that exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "docs" / "lanes.md").read_text(encoding="utf-8")
REFERENCES = sorted(set(re.findall(r"`([a-z_/]+\.py): ([\w.]+)`", TEXT)))


def defined_names(body: list[ast.stmt], prefix: str = "") -> Iterator[str]:
    """Yield the qualified names of the functions, classes and constants of a module."""
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield prefix + node.name
            yield from defined_names(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + node.name
        elif isinstance(node, ast.Assign):
            yield from (prefix + target.id for target in node.targets if isinstance(target, ast.Name))


def test_there_are_references() -> None:
    assert len(REFERENCES) > 30


@pytest.mark.parametrize(("file", "name"), REFERENCES)
def test_each_function_exists(file: str, name: str) -> None:
    tree = ast.parse((ROOT / "orchestrator" / file).read_text(encoding="utf-8"))
    assert name in set(defined_names(tree.body))


def test_each_transition_of_a_diagram_has_a_row() -> None:
    for section in re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:3]:
        drawn = set(re.findall(r"\((\d+)\)$", section, flags=re.MULTILINE))
        assert drawn == set(re.findall(r"^\| (\d+) \|", section, flags=re.MULTILINE))
