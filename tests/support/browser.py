"""Headless Chromium for tests, driven over its DevTools pipe."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_TIMEOUT_S = 60.0


def chromium() -> str | None:
    """Return the path of the browser; None without one."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@dataclass
class View:
    """Outcome of loading a page.

    Args:
        errors: Messages on the console, and exceptions of scripts.
        requests: Requested addresses, besides the page itself.
    """

    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


class Browser:
    """Page of a browser.

    Args:
        commands: File descriptor of the commands to the browser.
        answers: File descriptor of the answers of the browser.
    """

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = os.fdopen(commands, "wb"), os.fdopen(answers, "rb")
        self._last, self._buffer, self._session = 0, b"", ""
        self._events: list[dict[str, Any]] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self._call(f"{domain}.enable")

    def open(self, page: Path, width: int, height: int = 900, *, dark: bool = False) -> View:
        """Load a page and wait until its charts are drawn."""
        self._events.clear()
        phone = width < 600
        size = {"width": width, "height": height, "deviceScaleFactor": 2 if phone else 1, "mobile": phone}
        self._call("Emulation.setDeviceMetricsOverride", **size)
        theme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._call("Emulation.setEmulatedMedia", features=theme)
        self._call("Page.navigate", url=page.as_uri())
        self._wait("Page.loadEventFired")
        self.evaluate(
            "new Promise(done => { const look = () => document.documentElement.dataset.charts || "
            "!document.querySelector('.chart') ? done() : setTimeout(look, 20); look(); })"
        )
        view = View()
        for event in self._events:
            self._note(event, page.as_uri(), view)
        return view

    def evaluate(self, script: str) -> Any:
        """Return the value of an expression on the page; wait for promises."""
        answer = self._call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """Write a picture of the page."""
        found = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))

    def close(self) -> None:
        """End the browser."""
        self._call("Browser.close")
        self._commands.close()
        self._answers.close()

    @staticmethod
    def _note(event: dict[str, Any], page: str, view: View) -> None:
        given = event.get("params", {})
        match event["method"]:
            case "Network.requestWillBeSent" if (url := given["request"]["url"]) != page and url[:5] != "data:":
                view.requests.append(url)
            case "Runtime.exceptionThrown":
                view.errors.append(json.dumps(given["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if given["type"] in ("error", "warning", "assert"):
                view.errors.append(json.dumps(given["args"]))
            case "Log.entryAdded" if given["entry"]["level"] in ("error", "warning"):
                view.errors.append(given["entry"]["text"])

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._last += 1
        order = {"id": self._last, "method": method, "params": params}
        if self._session and not method.startswith(("Target.", "Browser.")):
            order["sessionId"] = self._session
        self._commands.write(json.dumps(order).encode() + b"\0")
        self._commands.flush()
        while (answer := self._read()).get("id") != self._last:
            self._events.append(answer)
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def _wait(self, method: str) -> None:
        while not any(event["method"] == method for event in self._events):
            self._events.append(self._read())

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            more = os.read(self._answers.fileno(), 1 << 20)
            assert more, "the browser has ended"
            self._buffer += more
        message, _, self._buffer = self._buffer.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Start a browser with its own profile; end it at the end of the context."""
    program = chromium()
    assert program is not None
    profile = tempfile.mkdtemp(prefix="spatialsweep-chromium-")
    theirs_in, commands = os.pipe()
    answers, theirs_out = os.pipe()

    def connect() -> None:
        """Connect the pipes: DevTools reads from descriptor 3 and writes to 4."""
        one, other = os.dup(theirs_in), os.dup(theirs_out)
        os.dup2(one, 3)
        os.dup2(other, 4)

    flags = ["--headless", "--remote-debugging-pipe", "--no-first-run", "--disable-gpu", f"--user-data-dir={profile}"]
    flags += ["--disable-dev-shm-usage", "--disable-background-networking", "--hide-scrollbars"]
    flags += ["--no-sandbox"] if os.getuid() == 0 else []
    process = subprocess.Popen(
        [program, *flags],
        preexec_fn=connect,  # noqa: PLW1509  # two system calls
        close_fds=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        page = Browser(commands, answers)
        yield page
        page.close()
        process.wait(_TIMEOUT_S)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        shutil.rmtree(profile, ignore_errors=True)
