"""Page of results whose tables are written again from the searches of a cache; its text is written by hand."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from comparison import Comparison, picture_of

_TITLE = re.compile(r"\*\*(?P<heading>.+), (?P<lanes>\d+) lanes?: \d+ of \d+ tasks\*\*")
_HEAD_ROWS = 2  # names of the columns, and the line below


def update_page(page: Path, comparison: Comparison) -> None:
    """Write the tables of a page again, each with the methods that it has.

    A table follows a line such as `**taskset, 4 lanes: 5 of 5 tasks**`. A method joins a table by a row with its name;
    the other cells do not matter. Pictures that the page shows are drawn again beside it.

    Args:
        page: Markdown file.
        comparison: Searches.
    """
    lines, text = page.read_text().splitlines(), page.read_text()
    written: list[str] = []
    while lines:
        line = lines.pop(0)
        title = _TITLE.fullmatch(line)
        if title is None:
            written.append(line)
            continue
        heading, lanes = title["heading"], int(title["lanes"])
        shown = f"({picture_of(heading, lanes)})" in text
        methods = _take_table(lines)
        found = comparison.write(heading, lanes, methods, page.parent if shown else None)
        if found is None:
            raise SystemExit(
                f"{page}: {line}: the cache has no searches of these methods. Run them, or remove the table"
            )
        written += [f"**{found[0]}**", "", *found[1]]
    page.write_text("\n".join(written) + "\n")


def _take_table(lines: list[str]) -> Sequence[str]:
    """Remove the lines up to the end of the next table, and return the methods of its rows."""
    while not lines[0].startswith("|"):
        lines.pop(0)
    rows = []
    while lines and lines[0].startswith("|"):
        rows.append(lines.pop(0).split("|")[1].strip())
    return rows[_HEAD_ROWS:]
