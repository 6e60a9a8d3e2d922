"""Command that steers a running sweep: `spatialsweep tell`."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from orchestrator.cli.options import AsJson, RunsDir, StoredSweepName
from orchestrator.cli.output import tell as say
from orchestrator.cli.output import tell_json
from orchestrator.errors import ConfigError, Problem, did_you_mean

app = typer.Typer()

ACTIONS = ("stop", "pause", "resume", "enqueue", "set", "end")
_OF_A_TRIAL = ("stop", "pause", "resume")

TellJob = Callable[[str, str, Sequence[str]], None]
"""Function that runs `tell` beside a submitted sweep: its name, the dashboard's address, and action with values."""

_tell_job: list[TellJob] = []


def register_tell_job(tell_job: TellJob) -> None:
    """Register the function that serves `tell --address`; `cluster.cli` calls this when it is imported."""
    _tell_job[:] = [tell_job]


@app.command()
def tell(
    name: StoredSweepName,
    action: Annotated[str, typer.Argument(help="stop, pause, resume, enqueue, set, or end.")],
    values: Annotated[
        list[str] | None,
        typer.Argument(help="Number of a trial; NAME=VALUE of a configuration; KEY=VALUE of settings."),
    ] = None,
    *,
    runs_dir: RunsDir = None,
    address: Annotated[
        str | None, typer.Option(help="URL of a cluster's dashboard, for a sweep submitted to it.")
    ] = None,
    timeout: Annotated[float, typer.Option(help="Longest wait for the answer, in seconds.", min=0.0)] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Steer a running sweep: end, pause or resume a trial, enqueue a configuration, change settings, end the sweep."""
    contents = requests_of(action, values or ())
    if address:
        if not _tell_job:
            raise typer.BadParameter("needs the commands about clusters; call `spatialsweep`", param_hint="--address")
        _tell_job[0](name, address, [action, *(values or ()), "--timeout", f"{timeout:g}", *["--json"] * as_json])
        return
    from orchestrator.steering.client import send_request

    answers = [send_request(name, content, runs_dir=runs_dir, timeout_s=timeout) for content in contents]
    if as_json:
        tell_json([{**content, "answer": answer} for content, answer in zip(contents, answers, strict=True)])
        return
    for answer in answers:
        say(f"{name}: {answer}")


def requests_of(action: str, values: Sequence[str]) -> list[dict[str, Any]]:
    """Return the requests of a command as plain data.

    Args:
        action: Action of the command.
        values: Its values.

    Raises:
        ConfigError: The action is unknown, or the values are not of it.
    """
    if action not in ACTIONS:
        raise _refused("action", f"unknown '{action}'. {did_you_mean(action, ACTIONS)}")
    if action == "end":
        if values:
            raise _refused("end", f"got {shlex.join(values)}; takes no value. Use `stop` for a trial")
        return [{"kind": "end"}]
    if not values:
        wanted = "numbers of trials" if action in _OF_A_TRIAL else "assignments such as lr=0.01"
        raise _refused(action, f"needs {wanted}")
    if action in _OF_A_TRIAL:
        wrong = [value for value in values if not value.isdecimal()]
        if wrong:
            raise _refused(action, f"got '{wrong[0]}'; a trial is named by its number, such as 3")
        return [{"kind": action, "trial": int(value)} for value in values]
    if action == "set":
        return [{"kind": "set", "assignments": list(values)}]
    return [{"kind": "enqueue", "settings": dict(map(_assignment, values))}]


def _assignment(text: str) -> tuple[str, Any]:
    from orchestrator.config.settings_text import parse_yaml

    name, separator, value = text.partition("=")
    if not separator or not name.strip():
        raise _refused("enqueue", f"got '{text}'; a value is written NAME=VALUE, such as lr=0.01")
    try:
        return name.strip(), parse_yaml(value)
    except ValueError as error:
        raise _refused("enqueue", f"{text}: {error}") from None


def _refused(where: str, message: str) -> ConfigError:
    return ConfigError([Problem(where, message)], "tell")
