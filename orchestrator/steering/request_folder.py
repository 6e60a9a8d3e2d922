"""Folder `requests` of a sweep, through which other processes send requests to its driver.

A request is a file `<id>.json`, its answer `<id>.answer.json` beside it. Both are written under another name and then
renamed, so that no reader sees half of one. The folder works on any storage that both processes reach, and needs
neither a port nor a password: who may write into the folder of a sweep may steer it. Links, other kinds of files, large
files and files of other users than the owner of the folder are not read.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from orchestrator.files.atomic_files import atomic_file
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.steering.requests import ANSWERS, Answer, Request, SteeringError

_REQUEST = re.compile(r"([0-9a-f]{32})\.json")
_ANSWER = re.compile(r"[0-9a-f]{32}\.answer\.json")
_LARGEST_BYTES = 64 * 1024
_MOST_AT_ONCE = 100
_POLL_S = 0.1
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_ANSWERS_KEPT_S = 600.0


class RequestFolder:
    """Requests to the driver of one sweep, and their answers.

    Args:
        sweep: Folder of the sweep.
    """

    def __init__(self, sweep: SweepFolder) -> None:
        self.path = sweep.path / "requests"

    # Called by other processes

    def send(self, request: Request) -> str:
        """Write a request and return its identifier.

        Raises:
            SteeringError: The folder cannot be written.
        """
        number = uuid.uuid4().hex
        try:
            self._require_folder()
            with atomic_file(self.path / f"{number}.json") as partial:
                partial.write_text(request.model_dump_json(), encoding="utf-8")
        except OSError as error:
            raise SteeringError(f"{self.path} cannot be written ({error.strerror})") from None
        return number

    def wait(self, number: str, timeout_s: float) -> Answer | None:
        """Wait for the answer to a request and remove it; None where none has come in time.

        Args:
            number: Identifier of the request.
            timeout_s: Longest wait in seconds.

        Raises:
            SteeringError: The answer cannot be read.
        """
        deadline = time.monotonic() + timeout_s
        path = self.path / f"{number}.answer.json"
        while True:
            if path.is_symlink() or path.exists():
                content = self._content(path)
                path.unlink(missing_ok=True)
                try:
                    return ANSWERS.validate_json(content)
                except ValidationError:
                    raise SteeringError(f"{path} is no answer of a driver") from None
            if time.monotonic() > deadline:
                return None
            time.sleep(_POLL_S)

    def withdraw(self, number: str) -> bool:
        """Remove a request that was not answered; False where the driver has taken it meanwhile."""
        try:
            (self.path / f"{number}.json").unlink()
        except FileNotFoundError:
            return False
        return True

    # Called by the driver, which holds the lock of the sweep

    def pending(self) -> Iterator[tuple[str, bytes | SteeringError]]:
        """Yield identifier and content of each request, the oldest first, or the fault of its file.

        The file is removed before it is yielded: a request is carried out once at most.
        """
        for number, path in self._waiting()[:_MOST_AT_ONCE]:
            found: bytes | SteeringError
            try:
                found = self._content(path)
            except SteeringError as fault:
                found = fault
            try:
                path.unlink()
            except FileNotFoundError:
                continue  # withdrawn
            except OSError:
                continue  # a folder of that name, or a folder that has become read-only: nothing is carried out twice
            yield number, found

    def answer(self, number: str, answer: Answer) -> None:
        """Write the answer to a request; an answer that cannot be written is dropped, since nobody may wait for it."""
        with contextlib.suppress(OSError), atomic_file(self.path / f"{number}.answer.json") as partial:
            partial.write_text(answer.model_dump_json(), encoding="utf-8")

    def clear(self) -> None:
        """Remove requests of an earlier session, which its end has made void, and answers that nobody has fetched.

        The driver calls this as soon as it holds the lock, since the next request may be for its own session.
        """
        for _, path in self._waiting():
            with contextlib.suppress(OSError):
                path.unlink()
        now = time.time()
        for entry in self._entries():
            with contextlib.suppress(OSError):
                if _ANSWER.fullmatch(entry.name) and now - entry.stat(follow_symlinks=False).st_mtime > _ANSWERS_KEPT_S:
                    Path(entry.path).unlink()

    def _waiting(self) -> list[tuple[str, Path]]:
        """Return the requests in the order in which they were written."""
        found = []
        for entry in self._entries():
            if named := _REQUEST.fullmatch(entry.name):
                with contextlib.suppress(OSError):
                    found.append((entry.stat(follow_symlinks=False).st_mtime_ns, named[1], Path(entry.path)))
        return [(number, path) for _, number, path in sorted(found)]

    def _entries(self) -> list[os.DirEntry[str]]:
        if self.path.is_symlink():
            return []
        try:
            with os.scandir(self.path) as entries:
                return list(entries)
        except OSError:  # absent, or not a folder
            return []

    def _require_folder(self) -> None:
        """Create the folder, for the owner of the sweep only.

        Raises:
            SteeringError: Something else has its name.
        """
        with contextlib.suppress(FileExistsError):
            self.path.mkdir(mode=0o700)
        if self.path.is_symlink() or not self.path.is_dir():
            raise SteeringError(f"{self.path} is not a folder; remove it")

    def _content(self, path: Path) -> bytes:
        """Return the content of a file that another process has written.

        Raises:
            SteeringError: It is a link, not an ordinary file, too large, or of another user than the sweep's folder.
        """
        try:
            descriptor = os.open(path, _FLAGS)
        except OSError as error:
            raise SteeringError(f"{path.name} cannot be read ({error.strerror}); links are not followed") from None
        try:
            facts = os.fstat(descriptor)
            if not stat.S_ISREG(facts.st_mode):
                raise SteeringError(f"{path.name} is no ordinary file")
            if facts.st_uid not in (self.path.stat().st_uid, os.getuid(), 0):
                raise SteeringError(f"{path.name} belongs to another user than {self.path}")
            content = os.read(descriptor, _LARGEST_BYTES + 1)
        finally:
            os.close(descriptor)
        if len(content) > _LARGEST_BYTES:
            raise SteeringError(f"{path.name} is larger than {_LARGEST_BYTES} bytes")
        return content
