"""Requests to a running sweep from Python: from a script, a notebook, or the command line."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from orchestrator.files.runs_dir import resolve_runs_dir
from orchestrator.records.folder.sweep_folder import SweepFolder, existing_folder
from orchestrator.steering.request_folder import RequestFolder
from orchestrator.steering.requests import REQUESTS, Request, SteeringError
from search_spaces import Scalar

TIMEOUT_S = 60.0
_REMEDY = {
    "set": "`spatialsweep resume {name} --set KEY=VALUE` continues it with other settings",
    "enqueue": "`spatialsweep resume {name}` continues it",
}


def stop_trial(sweep: str | Path, trial: int, *, runs_dir: str | Path | None = None) -> str:
    """End a trial of a running sweep for good at its next report; its results stay.

    Args:
        sweep: Name or folder of the sweep.
        trial: Number of the trial.
        runs_dir: Folder of all results; None takes the default.

    Returns:
        What was done, for the user; the same for the other functions here.

    Raises:
        SteeringError: The sweep is not running, or refuses the request.
        SweepNameError: There is no such sweep.
    """
    return send_request(sweep, {"kind": "stop", "trial": trial}, runs_dir=runs_dir)


def pause_trial(sweep: str | Path, trial: int, *, runs_dir: str | Path | None = None) -> str:
    """Pause a trial of a running sweep at its next report, until it is resumed; see `stop_trial`."""
    return send_request(sweep, {"kind": "pause", "trial": trial}, runs_dir=runs_dir)


def resume_trial(sweep: str | Path, trial: int, *, runs_dir: str | Path | None = None) -> str:
    """Resume a paused trial of a running sweep; see `stop_trial`."""
    return send_request(sweep, {"kind": "resume", "trial": trial}, runs_dir=runs_dir)


def enqueue_configuration(
    sweep: str | Path, settings: Mapping[str, Scalar], *, runs_dir: str | Path | None = None
) -> str:
    """Enqueue a configuration, which a running sweep trains before the sampler proposes another; see `stop_trial`.

    Args:
        sweep: Name or folder of the sweep.
        settings: Values by searched name, or by setting; the sampler draws the others.
        runs_dir: Folder of all results; None takes the default.
    """
    return send_request(sweep, {"kind": "enqueue", "settings": dict(settings)}, runs_dir=runs_dir)


def change_settings(sweep: str | Path, assignments: Sequence[str], *, runs_dir: str | Path | None = None) -> str:
    """Change the number of trials, limits of the budget or searched domains of a running sweep; see `stop_trial`.

    Args:
        sweep: Name or folder of the sweep.
        assignments: Assignments such as `trials=40` or `search.lr.high=0.1`.
        runs_dir: Folder of all results; None takes the default.
    """
    return send_request(sweep, {"kind": "set", "assignments": list(assignments)}, runs_dir=runs_dir)


def end_sweep(sweep: str | Path, *, runs_dir: str | Path | None = None) -> str:
    """End the session of a running sweep after the epochs now running, as Ctrl-C does; see `stop_trial`."""
    return send_request(sweep, {"kind": "end"}, runs_dir=runs_dir)


def send_request(
    sweep: str | Path,
    content: Mapping[str, object],
    *,
    runs_dir: str | Path | None = None,
    timeout_s: float = TIMEOUT_S,
) -> str:
    """Send a request to the driver of a running sweep and return its answer; blocks until it comes.

    Args:
        sweep: Name or folder of the sweep.
        content: Request as plain data.
        runs_dir: Folder of all results; None takes the default.
        timeout_s: Longest wait in seconds; the request is withdrawn then.

    Raises:
        SteeringError: The sweep is not running, refuses the request, or does not answer.
        SweepNameError: There is no such sweep.
    """
    request = _checked(content)
    folder = sweep_folder(sweep, runs_dir)
    require_running(folder, request.kind)
    requests = RequestFolder(folder)
    number = requests.send(request)
    try:
        answer = requests.wait(number, timeout_s)
    except KeyboardInterrupt:
        requests.withdraw(number)
        raise
    if answer is None:
        if requests.withdraw(number):
            require_running(folder, request.kind)  # it may have ended meanwhile
            raise SteeringError(
                f"the driver of sweep '{folder.name}' has not answered for {timeout_s:g} s. The request is withdrawn"
            )
        answer = requests.wait(number, timeout_s)  # taken at the last moment
    if answer is None:
        raise SteeringError(
            f"the driver of sweep '{folder.name}' took the request and has not answered. "
            f"`spatialsweep status {folder.name}` shows its state"
        )
    if not answer.done:
        raise SteeringError(answer.text)
    return answer.text


def sweep_folder(sweep: str | Path, runs_dir: str | Path | None) -> SweepFolder:
    """Return the folder of a sweep by its name or its path.

    Raises:
        SweepNameError: There is no such sweep.
    """
    if isinstance(sweep, Path) or "/" in sweep:
        path = Path(sweep).expanduser().resolve()
        return existing_folder(path.parent, path.name)
    return existing_folder(resolve_runs_dir(runs_dir), sweep)


def require_running(folder: SweepFolder, kind: str) -> None:
    """Check that a driver runs a sweep.

    Raises:
        SteeringError: None does.
    """
    if not folder.is_driven:
        remedy = _REMEDY.get(kind, "`spatialsweep resume {name}` continues it").format(name=shlex.quote(folder.name))
        raise SteeringError(f"sweep '{folder.name}' is not running. {remedy}")


def _checked(content: Mapping[str, object]) -> Request:
    try:
        return REQUESTS.validate_python(dict(content))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        raise SteeringError(f"{where or 'request'}: got {first['input']!r}; {first['msg']}") from None
