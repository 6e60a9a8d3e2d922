"""Protection of a page without authentication against requests from other web pages.

A browser sends requests of any page, also to this machine. Two attacks are refused, as in MLflow's server: DNS
rebinding (a foreign `Host`), and cross-site request forgery (a write request with a foreign `Origin` or
`Sec-Fetch-Site`).
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

_READING = ("GET", "HEAD", "OPTIONS")
_SAME_SITE = ("same-origin", "none")
_LOCAL = ("localhost", "127.0.0.1", "::1")
_HEADERS = [("X-Frame-Options", "SAMEORIGIN"), ("X-Content-Type-Options", "nosniff")]


class GuardedPage:
    """WSGI middleware that refuses foreign host names, and write requests from other pages.

    Args:
        page: WSGI application to protect.
        host: Address that the server listens on.
        port: Port that the server listens on.
    """

    def __init__(self, page: WSGIApplication, host: str, port: int) -> None:
        self._page = page
        self._port = port
        self._names = {*_LOCAL, host.strip("[]").lower()}
        self._everywhere = host in ("", "0.0.0.0", "::")  # noqa: S104 - compared, not bound to
        if self._everywhere:
            self._names |= {socket.gethostname().lower(), socket.getfqdn().lower()}

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request; respond with 403 and one line if it is refused."""
        refusal = self._refusal(environ)
        if not refusal:
            return self._page(environ, _with_headers(start_response))
        text = f"{refusal}\n".encode()
        start_response(
            "403 Forbidden", [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(text)))]
        )
        return [text]

    def _refusal(self, environ: WSGIEnvironment) -> str:
        host = environ.get("HTTP_HOST", "")
        if not self._is_served(host):
            return (
                f"This page is served as localhost:{self._port} or the address given with --host, under no other name"
            )
        if environ["REQUEST_METHOD"] in _READING:
            return ""
        origin, site = environ.get("HTTP_ORIGIN"), environ.get("HTTP_SEC_FETCH_SITE")
        if origin is not None and origin.lower() not in (f"http://{host.lower()}", f"https://{host.lower()}"):
            return "Another page may not change anything here: its Origin is another"
        if site is not None and site not in _SAME_SITE:
            return "Another page may not change anything here: Sec-Fetch-Site says it is one"
        return ""

    def _is_served(self, host: str) -> bool:
        try:
            parts = urlsplit(f"//{host}")
            name, port = parts.hostname or "", parts.port or 80
        except ValueError:
            return False
        if parts.netloc != host or "@" in host or port != self._port:
            return False
        return name in self._names or (self._everywhere and _is_number(name))


def _is_number(name: str) -> bool:
    """Return whether a host is an IP address, which DNS rebinding cannot forge."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _with_headers(start_response: StartResponse) -> StartResponse:
    def start(status: str, headers: list[tuple[str, str]], *error: object) -> Callable[[bytes], object]:
        return start_response(status, [*headers, *_HEADERS], *error)  # type: ignore[arg-type]

    return start
