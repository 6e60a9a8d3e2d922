"""The command line within the process of a test."""

from __future__ import annotations

import contextlib
import io
import sys

import pytest

from orchestrator.cli import main as command_line
from orchestrator.masked_output import masked_output


def run_command(*arguments: str) -> tuple[int, str]:
    """Run a command as `spatialsweep` does; return its exit code, and all that it printed.

    Args:
        arguments: Command and options.
    """
    output = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        patch.setattr(sys, "argv", ["spatialsweep", *arguments])
        patch.chdir("/")
        try:
            with masked_output():
                command_line._run_command()
        except SystemExit as end:
            return int(end.code or 0), output.getvalue()
    return 0, output.getvalue()
