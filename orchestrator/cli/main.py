"""Command line of SpatialSweep: `spatialsweep`, and the same as `python -m orchestrator`.

Each noun has a module of commands in this package; `cluster.cli` adds the commands about clusters (decision 0010).
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from orchestrator.cli import data, network, predict, recipe, report, reproduce, run, steering, sweep, tracking
from orchestrator.cli.exit_codes import BAD_INPUT, FAILED, INTERRUPTED
from orchestrator.cli.output import tell
from orchestrator.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    ExplainError,
    ExportTargetError,
    JournalError,
    RecipeError,
    ReproduceError,
    ResumeError,
    SpatialSweepError,
    SweepNameError,
    UnsafePathError,
)
from orchestrator.masked_output import masked_output, masked_traceback
from orchestrator.records.provenance import package_version
from orchestrator.runtime.loopback_proxies import keep_loopback_direct
from orchestrator.uris import remember_secrets, without_secrets

_BAD_INPUT_ERRORS = (ConfigError, JournalError, SweepNameError, ResumeError)
_OTHER_BAD_INPUT = (
    CheckpointError,
    DataError,
    ExplainError,
    ExportTargetError,
    RecipeError,
    ReproduceError,
    UnsafePathError,
)
_OF_THE_MACHINE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENAMETOOLONG)
"""Errors of files that are no fault of the program: access, space, and names that are too long."""

_LONGEST_PATH = 200


class _Commands(TyperGroup):
    """Group of commands whose usage errors show no password of a refused argument."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            given = vars(error).get("message")
            if isinstance(given, str):
                vars(error)["message"] = without_secrets(given)
            raise


app = typer.Typer(
    name="spatialsweep",
    cls=_Commands,
    help="Sweeps over the networks that replace or repair self-attention.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(data.app, name="data")
for _noun in (run, recipe, reproduce, sweep, steering, report, network, predict, tracking):
    app.add_typer(_noun.app)


def _show_version(wanted: bool) -> None:
    if wanted:
        tell(f"spatialsweep {package_version()}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Sweeps over the networks that replace or repair self-attention."""


def main() -> None:
    """Run the command line; errors meant for users become text and an exit code."""
    from cluster.cli import app as cluster_app  # the one import of a higher layer: decision 0010

    # A thread that Tune has left behind on a lost cluster must not join another one.
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    keep_loopback_direct(os.environ)
    app.add_typer(cluster_app)
    remember_secrets(sys.argv)
    with masked_output():
        try:
            _run_command()
        except SystemExit as end:
            _exit_if_ray_is_lost(end.code)
            raise


def _run_command() -> None:
    """Run the command, with passwords masked in the errors it prints."""
    try:
        app()
    except KeyboardInterrupt:
        tell("spatialsweep: interrupted before a sweep began", err=True)
        sys.exit(INTERRUPTED)
    except _BAD_INPUT_ERRORS as error:
        tell(str(error), err=True)
        sys.exit(BAD_INPUT)
    except SpatialSweepError as error:
        lines = [f"spatialsweep: {error}", *getattr(error, "__notes__", ())]
        tell(without_secrets("\n".join(lines)), err=True)
        sys.exit(BAD_INPUT if isinstance(error, _OTHER_BAD_INPUT) else FAILED)
    except OSError as error:
        if error.errno not in _OF_THE_MACHINE or not error.filename:
            typer.echo(masked_traceback(error), err=True, nl=False)
            sys.exit(FAILED)
        tell(without_secrets(f"spatialsweep: {_shown_path(error.filename)}: {error.strerror}"), err=True)
        sys.exit(BAD_INPUT if error.errno == errno.ENAMETOOLONG else FAILED)
    except Exception as error:
        typer.echo(masked_traceback(error), err=True, nl=False)
        sys.exit(FAILED)


def _exit_if_ray_is_lost(code: object) -> None:
    """End this process at once if Ray has ended under it: Ray's threads would hold it for a minute."""
    session = sys.modules.get("orchestrator.runtime.ray_session")  # importing it would import Ray
    if session is not None and session.session_is_lost():
        from orchestrator.runtime.raylet import exit_without_ray

        exit_without_ray(code if isinstance(code, int) else int(code is not None))


def _shown_path(path: object) -> str:
    text = str(path)
    return text if len(text) <= _LONGEST_PATH else f"{text[: _LONGEST_PATH - 3]}..."


if __name__ == "__main__":
    main()
