"""The first line of an error's text, which messages quote."""

from __future__ import annotations

import pytest

from orchestrator.errors import first_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one fault"), "one fault"),
        (ValueError("\n  the fault  \nand a traceback"), "the fault"),
        (ValueError("  \n"), "ValueError"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
    ],
)
def test_first_line_of_an_error(error: BaseException, line: str) -> None:
    assert first_line(error) == line
