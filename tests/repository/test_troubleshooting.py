"""Check that docs/troubleshooting.md quotes messages that the programs still print."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
OWN, FOREIGN = PAGE.split("## Messages of Ray")
HEADING = re.compile(r"^### `(.+)`$", re.MULTILINE)
VALUE = "\0"  # stands in a source's text for what is filled in


def shown_texts(node: ast.AST) -> Iterator[str]:
    """Yield every text below a node, with `VALUE` in the place of a formatted value."""
    match node:
        case ast.Expr(value=ast.Constant()):
            return  # a docstring
        case ast.Constant(value=str(text)):
            yield re.sub(r"%(?:\.\d+)?[sdgr]", VALUE, text)
        case ast.JoinedStr(values=parts):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else VALUE for part in parts)
    for child in ast.iter_child_nodes(node):
        yield from shown_texts(child)


@cache
def own_texts() -> str:
    """Return the texts of all our sources, one a line."""
    sources = [path for root in ("cluster", "models", "orchestrator") for path in sorted((ROOT / root).rglob("*.py"))]
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in sources)
    return "\n".join(text.replace("\n", " ") for tree in trees for text in shown_texts(tree))


def pattern(quoted: str) -> re.Pattern[str]:
    """Return what finds a quoted message: `...` is a value, or the rest of the line."""
    pieces = [piece.strip() for piece in re.split(r"\.{3,}", quoted) if piece.strip(" .:;")]
    assert max(map(len, pieces)) >= 10, f"too little of {quoted!r} is fixed"
    return re.compile("[^\n]*".join(map(re.escape, pieces)))


def library_file(text: str) -> str:
    package, _, rest = text.partition("/")
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.origin is not None
    return (Path(spec.origin).parent / rest).read_text(encoding="utf-8")


def test_the_page_has_entries() -> None:
    assert len(HEADING.findall(OWN)) > 50
    assert len(re.findall(r"^### ", PAGE, re.MULTILINE)) == len(HEADING.findall(PAGE))


@pytest.mark.parametrize("quoted", HEADING.findall(OWN))
def test_our_own_messages_are_in_the_sources(quoted: str) -> None:
    assert pattern(quoted).search(own_texts()), f"no source prints {quoted!r}"


@pytest.mark.parametrize(("quoted", "file"), re.findall(r"^### `(.+)`\n\n`(.+?)`", FOREIGN, re.MULTILINE))
def test_messages_of_libraries_are_in_their_files(quoted: str, file: str) -> None:
    pieces = [piece for piece in re.split(r"\.{3}", quoted) if piece.strip()]
    assert all(piece.strip() in library_file(file) for piece in pieces)


def test_every_message_of_a_library_names_its_file() -> None:
    assert len(re.findall(r"^### `.+`\n\n`[\w/]+\.py`", FOREIGN, re.MULTILINE)) == len(HEADING.findall(FOREIGN))
