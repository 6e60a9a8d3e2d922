"""API reference: its pages are current and complete."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    """Load the script as a module."""
    spec = importlib.util.spec_from_file_location("api_reference", ROOT / "tools" / "api_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_are_current(generator: ModuleType) -> None:
    pages = generator.pages()
    assert sorted(pages) == sorted(path.stem for path in generator.PAGES.glob("*.md"))
    stale = [name for name, text in pages.items() if (generator.PAGES / f"{name}.md").read_text() != text]
    assert stale == [], "run `make docs`"


def test_every_public_name_has_an_entry(generator: ModuleType) -> None:
    import models
    import orchestrator
    import search_spaces

    for package in (models, orchestrator, search_spaces):
        text = (generator.PAGES / f"{package.__name__}.md").read_text()
        assert [name for name in package.__all__ if f"## `{name}`\n" not in text] == []
