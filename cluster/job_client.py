"""Client for the jobs of a cluster by the names of their sweeps, with errors that name the remedy."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from orchestrator.errors import ClusterError, SweepNameError, did_you_mean, first_line
from orchestrator.runtime.auth_settings import MODE, settings_of_client

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

SWEEP_KEY = "spatialsweep.sweep"
TRACKING_KEY = "spatialsweep.tracking_uri"
RUNS_DIR_KEY = "spatialsweep.runs_dir"

_DEFAULT_ADDRESS = "http://127.0.0.1:8265"
_ANSWER_S = 10.0
_OVER = ("SUCCEEDED", "FAILED", "STOPPED")


@dataclass(frozen=True)
class SweepJob:
    """A job that runs, or ran, a sweep.

    Args:
        sweep: Name of the sweep.
        job: Submission id of the job.
        state: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED.
        message: Ray's explanation of the state.
        started_ms: Start as Unix time in milliseconds.
        ended_ms: End as Unix time in milliseconds; None while it runs.
        exit_code: Exit code of the entrypoint; None while it runs, or where it was killed.
        tracking_uri: MLflow server of the sweep; None without one.
    """

    sweep: str
    job: str
    state: str
    message: str
    started_ms: int
    ended_ms: int | None
    exit_code: int | None
    tracking_uri: str | None

    @property
    def is_over(self) -> bool:
        """True once the job has ended."""
        return self.state in _OVER

    def as_dict(self) -> dict[str, Any]:
        """Return the job as plain data."""
        return dict(vars(self))


class JobClient:
    """Client that submits sweeps to a cluster and queries their jobs; its calls block until the dashboard answers.

    The token of the cluster is taken from `RAY_AUTH_TOKEN`, `RAY_AUTH_TOKEN_PATH` or `~/.ray/auth_token`.

    Args:
        address: Address of the dashboard, such as `http://head:8265`; None takes `RAY_API_SERVER_ADDRESS` or
            this machine.

    Raises:
        ClusterError: Nothing answers there, or it refuses the token.
    """

    def __init__(self, address: str | None = None) -> None:
        self.address = dashboard_url(address)
        _require_answer(self.address)
        _authenticate()
        os.environ["RAY_API_SERVER_ADDRESS"] = self.address  # Ray prefers it over an argument
        with self._user_errors():
            from ray.job_submission import JobSubmissionClient

            for name in ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
                logging.getLogger(name).setLevel(logging.WARNING)
            self.ray: JobSubmissionClient = JobSubmissionClient(self.address)

    def submit(
        self, sweep: str, *, entrypoint: str, runtime_env: Mapping[str, Any], metadata: Mapping[str, str]
    ) -> str:
        """Submit a sweep; return the id of its job: the sweep's name, with a number from the second time on.

        Raises:
            SweepNameError: A job runs this sweep now.
            ClusterError: The cluster refuses the job, or went away.
        """
        jobs = [job for job in self.jobs() if job.sweep == sweep]
        for job in jobs:
            if not job.is_over:
                raise SweepNameError(
                    f"sweep '{sweep}' is being run by job '{job.job}' on {self.address}. Watch it with "
                    f"`spatialsweep logs {sweep} --address {self.address} --follow`, end it with `spatialsweep stop "
                    f"{sweep} --address {self.address}`, or start another with `--name`"
                )
        taken = {job.job for job in jobs}
        free = next(name for name in _numbered(sweep) if name not in taken)
        with self._user_errors():
            return str(
                self.ray.submit_job(
                    entrypoint=entrypoint,
                    runtime_env=dict(runtime_env),
                    metadata={SWEEP_KEY: sweep, **metadata},
                    submission_id=free,
                )
            )

    def jobs(self) -> list[SweepJob]:
        """Return all sweeps submitted to this cluster, newest first.

        Raises:
            ClusterError: The cluster went away.
        """
        with self._user_errors():
            found = [_as_sweep_job(details) for details in self.ray.list_jobs() if details.submission_id]
        return sorted((job for job in found if job is not None), key=lambda job: -job.started_ms)

    def newest(self, sweep: str) -> SweepJob:
        """Return the newest job of a sweep.

        Raises:
            SweepNameError: The cluster has no job of this sweep.
        """
        jobs = self.jobs()
        found = next((job for job in jobs if sweep in (job.sweep, job.job)), None)
        if found is None:
            known = sorted({job.sweep for job in jobs})
            hint = did_you_mean(sweep, known) if known else "None was submitted with `spatialsweep submit`."
            raise SweepNameError(f"no job of a sweep '{sweep}' on {self.address}. {hint}")
        return found

    def look(self, job: str) -> SweepJob:
        """Return the current state of a job.

        Raises:
            ClusterError: The cluster went away, or has lost the job.
        """
        with self._user_errors():
            found = _as_sweep_job(self.ray.get_job_info(job))
        if found is None:
            raise ClusterError(f"job '{job}' on {self.address} runs no sweep of `spatialsweep submit`")
        return found

    def details(self, job: str) -> JobDetails:
        """Return what Ray knows about a job: its command, its metadata, its runtime environment.

        Raises:
            ClusterError: The cluster went away, or has lost the job.
        """
        with self._user_errors():
            return self.ray.get_job_info(job)

    def run(self, command: str, runtime_env: Mapping[str, Any]) -> str:
        """Submit a command that is no sweep, and return the id of its job.

        Args:
            command: Command of the job.
            runtime_env: Ray's runtime environment of the job.

        Raises:
            ClusterError: The cluster refuses the job, or went away.
        """
        with self._user_errors():
            return str(self.ray.submit_job(entrypoint=command, runtime_env=dict(runtime_env)))

    def state(self, job: str) -> tuple[bool, str, int | None]:
        """Return whether a job is over, its state, and its exit code.

        Raises:
            ClusterError: The cluster went away, or has lost the job.
        """
        details = self.details(job)
        state = str(getattr(details.status, "value", details.status))
        return state in _OVER, state, details.driver_exit_code

    def logs(self, job: str) -> str:
        """Return the whole log of a job.

        Raises:
            ClusterError: The cluster went away.
        """
        with self._user_errors():
            return str(self.ray.get_job_logs(job))

    def stop(self, job: str) -> bool:
        """Stop a job, which has two minutes to write its results; returns at once.

        Returns:
            Whether it was running.

        Raises:
            ClusterError: The cluster went away.
        """
        with self._user_errors():
            return bool(self.ray.stop_job(job))

    @contextlib.contextmanager
    def _user_errors(self) -> Iterator[None]:
        """Convert exceptions of Ray's client to errors for users."""
        import requests
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError:
            raise ClusterError(
                f"{self.address} refuses the token. Set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to a file, to what the "
                "cluster's head was started with"
            ) from None
        except (ConnectionError, requests.RequestException) as error:
            raise ClusterError(f"no Ray dashboard answers at {self.address}: {first_line(error)}") from None
        except RuntimeError as error:
            raise ClusterError(f"{self.address}: {first_line(error)}") from None


def dashboard_url(address: str | None) -> str:
    """Return the complete URL of a dashboard.

    Raises:
        ClusterError: The address is not one of a dashboard.
    """
    given = address or os.environ.get("RAY_API_SERVER_ADDRESS") or _DEFAULT_ADDRESS
    url = given if "://" in given else f"http://{given}"
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:  # a bracket that is no part of an IPv6 address
        sound = False
    if not sound:
        raise ClusterError(f"'{given}' is no address of a Ray dashboard. Use one such as {_DEFAULT_ADDRESS}")
    return url.rstrip("/")


def _require_answer(url: str) -> None:
    """Raise an error within seconds where Ray's client would wait for minutes."""
    parts = urlsplit(url)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname or "", port), timeout=_ANSWER_S).close()
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"no Ray dashboard answers at {url}: {error}. Is the head running, and its port (by default 8265) "
            "reachable from here? A tunnel makes it so: ssh -L 8265:localhost:8265 head"
        ) from None


def _authenticate() -> None:
    """Have Ray send the user's token if there is one, and otherwise none, whatever its default is.

    The mode `disabled` is for this client: a private instance that this process starts later has a token.
    """
    settings = settings_of_client(os.environ)
    if not settings:
        return
    from orchestrator.runtime.ray_private.core import reload_authentication

    os.environ.update(settings)
    reload_authentication()
    if settings[MODE] != "token":
        del os.environ[MODE]


def _as_sweep_job(details: JobDetails) -> SweepJob | None:
    metadata = details.metadata or {}
    if SWEEP_KEY not in metadata:
        return None
    return SweepJob(
        sweep=metadata[SWEEP_KEY],
        job=str(details.submission_id),
        state=str(getattr(details.status, "value", details.status)),
        message=details.message or "",
        started_ms=details.start_time or 0,
        ended_ms=details.end_time or None,
        exit_code=details.driver_exit_code,
        tracking_uri=metadata.get(TRACKING_KEY),
    )


def _numbered(name: str) -> Iterator[str]:
    yield name
    number = 2
    while True:
        yield f"{name}-{number}"
        number += 1
