"""Log of a running job, streamed until the job ends, and the choices of Ctrl-C meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Callable

import typer

from cluster.job_client import JobClient, SweepJob
from orchestrator.errors import ClusterError
from orchestrator.uris import without_password

_PATIENCE_S = 120.0
_PAUSE_S = 1.0


class Detached(Exception):  # noqa: N818 - no error
    """Raised when the user detaches from a job, which continues to run."""


def follow(client: JobClient, job: SweepJob, write: Callable[[str], None]) -> SweepJob:
    """Stream a job's log from its beginning; block until the job ends.

    A broken connection is resumed where it broke. Ctrl-C asks whether to detach or to stop the sweep; without a
    terminal it detaches.

    Args:
        client: Client of the job's cluster.
        job: Job to follow.
        write: Function called with each piece of the log.

    Returns:
        The ended job.

    Raises:
        Detached: The user detached.
        ClusterError: The cluster did not answer for two minutes.
    """
    log = _Log(client, job.job, write)
    while True:
        try:
            return log.follow_to_end()
        except KeyboardInterrupt:
            _answer_interrupt(client, job)


class _Log:
    """Log of a job, with the number of characters shown so far."""

    def __init__(self, client: JobClient, job: str, write: Callable[[str], None]) -> None:
        self._client = client
        self._job = job
        self._write = write
        self._shown = 0

    def follow_to_end(self) -> SweepJob:
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            before = self._shown
            broken = asyncio.run(self._show_rest())
            if self._shown > before:
                deadline = time.monotonic() + _PATIENCE_S
            try:
                now = self._client.look(self._job)
            except ClusterError:
                if time.monotonic() > deadline:
                    raise
                now = None
            if now is not None and now.is_over and not broken:
                return now
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"the log of '{self._job}' cannot be followed: {broken}. The job continues; follow it again with "
                    f"`spatialsweep logs {self._job} --address {without_password(self._client.address)} --follow`"
                )
            time.sleep(_PAUSE_S)

    async def _show_rest(self) -> str:
        """Stream the rest of the log until the connection ends; return the error that broke it, or an empty text."""
        import aiohttp

        passed = 0  # each connection streams the log from its beginning
        try:
            pieces: AsyncIterator[str] = self._client.ray.tail_job_logs(self._job)
            async for piece in pieces:
                fresh = piece[max(0, self._shown - passed) :]
                passed += len(piece)
                if fresh:
                    self._write(fresh)
                    self._shown = passed
        except (aiohttp.ClientError, OSError, RuntimeError) as error:
            return str(error) or type(error).__name__
        return ""


def _answer_interrupt(client: JobClient, job: SweepJob) -> None:
    """Ask what Ctrl-C means; return to continue following."""
    if not sys.stdin.isatty():
        raise Detached
    try:
        answer = typer.prompt(
            f"\n{job.sweep}: [d]etach and let it run, [s]top it, or [w]atch on", default="d", err=True
        )
    except (KeyboardInterrupt, typer.Abort):
        raise Detached from None
    if answer.strip().lower().startswith("s"):
        with contextlib.suppress(KeyboardInterrupt):
            client.stop(job.job)
    elif not answer.strip().lower().startswith("w"):
        raise Detached
