"""Check that files and functions named in documentation exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("cluster", "examples", "models", "orchestrator", "search_spaces", "tests", "tools")
LIBRARIES = ("mlflow/", "ray/")
ANY_FILE = "FILE.py"  # stands for a file of the user's own
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *(page for folder in FOLDERS for page in sorted((ROOT / folder).rglob("*.md"))),
]
FILE = re.compile(r"`(?P<path>[\w./-]+\.py)(?::\s?(?P<name>[A-Za-z_][\w.]*))?`")


@cache
def sources() -> tuple[Path, ...]:
    return tuple(path for folder in (*FOLDERS, "benchmarks") for path in sorted((ROOT / folder).rglob("*.py")))


def found_file(path: str, page: Path) -> Path | None:
    """Return the file that a page means: beside the page, from the root, in `orchestrator`, or with such an end."""
    near = (base / path for base in (page.parent, ROOT, ROOT / "orchestrator"))
    ending = (source for source in sources() if source.as_posix().endswith(f"/{path}"))
    return next((file for file in (*near, *ending) if file.is_file()), None)


@cache
def defined_names(path: Path) -> frozenset[str]:
    """Return what a file defines, with the methods and attributes of its classes as `Class.name`."""
    return frozenset(_names(ast.parse(path.read_text(encoding="utf-8")).body))


def _names(body: list[ast.stmt], prefix: str = "") -> list[str]:
    names = []
    for node in body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                names.append(prefix + name)
            case ast.ClassDef(name=name, body=inner):
                names += [prefix + name, *_names(inner, f"{prefix}{name}.")]
            case ast.Assign(targets=targets):
                names += [prefix + target.id for target in targets if isinstance(target, ast.Name)]
            case ast.AnnAssign(target=ast.Name(id=name)):
                names.append(prefix + name)
    return names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_files_and_functions_exist(page: Path) -> None:
    missing = []
    for named in FILE.finditer(page.read_text(encoding="utf-8")):
        if named["path"].startswith(LIBRARIES) or named["path"] == ANY_FILE:
            continue  # test_troubleshooting.py looks these up
        file = found_file(named["path"], page)
        if file is None or (named["name"] is not None and named["name"] not in defined_names(file)):
            missing.append(named[0])
    assert missing == []


def test_the_architecture_names_code() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert sum(named["name"] is not None for named in FILE.finditer(text)) > 50
