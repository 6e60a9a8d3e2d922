"""Check of the wording: plain technical English in docstrings, comments and pages.

`python tests/repository/test_words.py PATH...` checks single files or folders and prints one line per finding.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("*.md", "docs/**/*.md", "benchmarks/**/*.md", "cluster/**/*.md", "models/**/*.md", "orchestrator/**/*.md")
PACKAGES = ("benchmarks", "cluster", "models", "orchestrator", "search_spaces", "tests", "tools")

_WORDS = (
    *("whoever", "whosoever", "whomever", "whatsoever", "whence", "hither", "thither", "henceforth", "hitherto"),
    *("beneath", "amongst", "whilst", "lest", "perchance", "oftentimes", "nought", "naught", "ere"),
    *("thereof", "hereof", "whereof", "therein", "wherein", "thereupon", "whereupon", "anew", "afresh"),
    *("hearkens?", "heeds?", "hopeless", "forsakes?", "forsaken", "forsook", "bespoken?", "befalls?", "betake"),
    *("time and again", "of its own accord", "to and fro", "as it were", "by and by"),
    *("(?:go|goes|went|gone|going) on with", "(?:go|goes|went) on from", "goes on", "heard (?:by|from|of)"),
    *("(?:is|are|was|were|be|been|being) (?:told|heard)", "tells? on", "gives up the ghost"),
)
BANNED = re.compile(rf"\b(?:{'|'.join(_WORDS)})\b".replace(" ", r"\s+"), re.IGNORECASE)
"""Words and phrases that the docs of PyTorch or Optuna would not use."""

NO_VERB = frozenset(
    (
        *("What", "Whether", "How", "Where", "Which", "Who", "Those", "Of", "On", "In", "For"),
        *("The", "A", "An", "All", "Every", "Nothing", "Without", "So"),
    )
)
"""First words that cannot begin the docstring of a function: it begins with an imperative verb."""

NO_NOUN = frozenset(["What", "Whether", "How", "Says", "Where"])
"""First words that cannot begin the docstring of a module or class: it begins with a noun phrase or a verb."""

_SECTION = re.compile(r"^\s*(?:Args|Attributes):\s*$")
_END_OF_SECTION = re.compile(r"^\s*[A-Z][A-Za-z ]*:\s*$")
_VAGUE_ENTRY = re.compile(r"^\s+\*{0,2}\w+: (?:Of|As|Heard)\b")
_PROPERTIES = re.compile(r"\b(?:cached_)?property$|\.setter$")
_CODE = re.compile(r"```.*?```|~~~.*?~~~|`[^`\n]*`", re.DOTALL)


@dataclass(frozen=True)
class Finding:
    """Text that breaks a rule.

    Args:
        line: Line in the file, from 1.
        rule: Rule that the text breaks.
        text: Text, or the beginning of it.
    """

    line: int
    rule: str
    text: str


def findings(path: Path) -> list[Finding]:
    """Return everything in a file that breaks a rule, in the order of its lines.

    Args:
        path: Python source or page of Markdown.
    """
    source = path.read_text(encoding="utf-8")
    found = _of_page(source) if path.suffix == ".md" else _of_source(source)
    return sorted(set(found), key=lambda each: each.line)


def _of_page(source: str) -> Iterator[Finding]:
    without_code = _CODE.sub(lambda block: re.sub(r"[^\n]", " ", block[0]), source)
    yield from _banned(without_code, 1)


def _of_source(source: str) -> Iterator[Finding]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield from _banned(token.string, token.start[0])
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _of_docstring(node)
        if isinstance(node, ast.Module | ast.ClassDef):
            yield from _of_attributes(node)


def _of_docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[Finding]:
    text = ast.get_docstring(node, clean=False)
    if not text:
        return
    line = node.body[0].lineno
    yield from _banned(text, line)
    yield from _vague_entries(text, line)
    first = re.split(r"[^A-Za-z']", text.lstrip(), maxsplit=1)[0]
    if isinstance(node, ast.Module | ast.ClassDef):
        if first in NO_NOUN:
            yield Finding(line, f"docstring of a module or class begins with {first}", _shown(text))
    elif _is_property(node):
        if first in NO_NOUN:
            yield Finding(line, f"docstring of a property begins with {first}", _shown(text))
    elif first in NO_VERB:
        yield Finding(line, f"docstring of a function begins with {first}", _shown(text))


def _of_attributes(node: ast.Module | ast.ClassDef) -> Iterator[Finding]:
    """Check the strings that document constants and attributes."""
    for statement in node.body[1:]:
        match statement:
            case ast.Expr(value=ast.Constant(value=str() as text)):
                yield from _banned(text, statement.lineno)


def _is_property(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(_PROPERTIES.search(ast.unparse(decorator)) for decorator in node.decorator_list)


def _vague_entries(text: str, line: int) -> Iterator[Finding]:
    is_inside = False
    for number, row in enumerate(text.splitlines(), start=line):
        if _SECTION.match(row):
            is_inside = True
        elif _END_OF_SECTION.match(row):
            is_inside = False
        elif is_inside and _VAGUE_ENTRY.match(row):
            yield Finding(number, "an argument is described without a noun", row.strip())


def _banned(text: str, line: int) -> Iterator[Finding]:
    for hit in BANNED.finditer(text):
        number = line + text.count("\n", 0, hit.start())
        row = text[text.rfind("\n", 0, hit.start()) + 1 :].split("\n", 1)[0]
        yield Finding(number, f"'{' '.join(hit[0].lower().split())}'", row.strip())


def _shown(text: str) -> str:
    return text.strip().splitlines()[0]


def report(paths: list[Path]) -> list[str]:
    """Return the findings of all files as `file:line: rule: text`, each at most 160 characters long."""
    lines = []
    for path in paths:
        name = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
        lines += [f"{name}:{each.line}: {each.rule}: {each.text}"[:160] for each in findings(path)]
    return lines


def checked_files() -> list[Path]:
    """Return every source and page of the repository, but for the history in docs/log.md."""
    sources = {path for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    pages = {path for pattern in PAGES for path in ROOT.glob(pattern)}
    return sorted((sources | pages) - {ROOT / "docs" / "log.md"})


def test_wording_is_plain_technical_english() -> None:
    lines = report(checked_files())
    assert not lines, f"{len(lines)} findings:\n" + "\n".join(lines)


def test_each_rule_finds_what_it_forbids(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        '"""How it works."""\n'
        "# made anew\n"
        "class One:\n"
        '    """Whether it is one."""\n'
        "    def two(self, number: int) -> None:\n"
        '        """The second.\n\n        Args:\n            number: Of the trial.\n        """\n'
        "    @property\n"
        "    def three(self) -> int:\n"
        '        """The third."""\n'
        "        return 3\n"
        "    @property\n"
        "    def four(self) -> bool:\n"
        '        """Whether it is four."""\n'
        "        return True\n"
    )
    assert [(each.line, each.rule) for each in findings(path)] == [
        (1, "docstring of a module or class begins with How"),
        (2, "'anew'"),
        (4, "docstring of a module or class begins with Whether"),
        (6, "docstring of a function begins with The"),
        (9, "an argument is described without a noun"),
        (17, "docstring of a property begins with Whether"),
    ]
    page = tmp_path / "page.md"
    page.write_text("`anew` is code.\n\nThe driver goes\non with it.\nMade anew.\n")
    assert [(each.line, each.rule) for each in findings(page)] == [(3, "'goes on with'"), (5, "'anew'")]


if __name__ == "__main__":
    named = [Path(argument).resolve() for argument in sys.argv[1:]]
    files = [
        file
        for path in named
        for file in (sorted({*path.rglob("*.py"), *path.rglob("*.md")}) if path.is_dir() else [path])
    ]
    found = report(files or checked_files())
    print("\n".join(found) if found else "no findings")
    sys.exit(bool(found))
