"""The server of ``tokengym explore``: who may ask it, and for what.

It serves one page and the requests of that page's buttons, to a browser that has the printed token.
"""

import json
import logging
import re
import secrets
import socket
from collections.abc import Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import Any
from urllib.parse import parse_qs

from tokengym.envs import printable
from tokengym.lab.replay.explore_requests import PARTS, ExplorePage

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
PORTS = range(7860, 7960)
MAX_BODY_BYTES = 512 * 1024
"""Largest body of a request."""
MAX_MESSAGE_CHARACTERS = 500
"""Longest line that says what is wrong, characters."""
HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "frame-ancestors 'none'",  # the page's own forbids the rest
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
}
"""Added to every answer: no page of elsewhere frames or loads it."""


class Server(ThreadingTCPServer):
    """Serves a page on this machine; ``serve_forever`` answers until ``shutdown``.

    Args:
        page: The page.
        port: Port; 0 takes any that is free, None the first free one of `PORTS`.
    """

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, page: ExplorePage, *, port: int | None = None) -> None:
        self.page = page
        for number in PORTS if port is None else [port]:
            try:
                super().__init__((HOST, number), _Request)
            except (OSError, OverflowError) as error:
                why = error
            else:
                break
        else:
            taken = f"{PORTS[0]} to {PORTS[-1]}" if port is None else str(port)
            raise OSError(f"port {taken} cannot be used ({why}); name a free one with --port")
        self.token, bound = secrets.token_urlsafe(32), self.server_address[1]
        # Browsers do not keep the cookies of two ports apart: below a path that nobody guesses, no
        # other port is sent this one's.
        self.root, self.cookie = f"/{secrets.token_hex(16)}", f"tokengym-explore-{bound}"
        suffix = "" if bound == 80 else f":{bound}"
        self.hosts = [f"{name}{suffix}" for name in (HOST, "localhost")]
        self.address = f"http://{HOST}:{bound}/?token={self.token}"
        """Address to open; the token in it lets in whoever has it."""

    def refusal(
        self, method: str, path: str, query: str, headers: Mapping[str, list[str]]
    ) -> tuple[int, str] | None:
        """Return status and line of a request that is refused, None for one that is not.

        Args:
            method: Method of the request.
            path: Its path.
            query: What follows the path's question mark.
            headers: Values of the headers ``host``, ``origin`` and ``cookie``.
        """
        host = headers["host"]
        if host not in [[allowed] for allowed in self.hosts]:
            return 403, f"this server is {self.hosts[0]}; open the address that was printed"
        if headers["origin"] not in ([], [f"http://{host[0]}"]):
            return 403, "a page of another origin asks; open the address that was printed"
        if path == "/":
            given = parse_qs(query).get("token", [""])[0]
        else:
            cookies = "; ".join(headers["cookie"]).split("; ")
            given = dict(cookie.partition("=")[::2] for cookie in cookies).get(self.cookie, "")
        if not secrets.compare_digest(given.encode(errors="replace"), self.token.encode()):
            return 401, "the token is missing or wrong; open the address that was printed"
        parts = {("GET", "/"), ("GET", f"{self.root}/")}
        if (method, path) not in parts | {("POST", f"{self.root}/{part}") for part in PARTS}:
            return 404, "the page has no such part"
        return None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a browser that leaves before it is answered."""
        logger.debug("a connection broke off", exc_info=True)

    def shutdown_request(self, request: Any) -> None:
        """End a connection, after all that is still sent: a sender cut off sees no answer."""
        with suppress(OSError):
            request.shutdown(socket.SHUT_WR)
            request.settimeout(5)
            while request.recv(MAX_BODY_BYTES):
                pass
        self.close_request(request)


class _Request(BaseHTTPRequestHandler):
    """One request to a `Server`."""

    server: Server
    timeout = 30  # of a read: a sender that waits does not hold its thread for ever
    server_version, sys_version = "tokengym", ""

    def _answer(self) -> None:
        path, _, query = self.path.partition("?")
        asked = {name: self.headers.get_all(name, []) for name in ("host", "origin", "cookie")}
        if refused := self.server.refusal(self.command, path, query, asked):
            self._send(*refused)
        elif path == "/":
            # The token of the address becomes a cookie, and the page is loaded without it. Not by
            # a redirect: that comes without the cookie where a link of another site was followed.
            root = self.server.root
            cookie = f"{self.server.cookie}={self.server.token}"
            self._send(
                200,
                f'<!doctype html><meta http-equiv="refresh" content="0; url={root}/">',
                {"set-cookie": f"{cookie}; HttpOnly; SameSite=Strict; Path={root}/"},
            )
        elif self.command == "GET":
            self._send(200, self.server.page.html())
        elif (body := self._read()) is None:
            self._send(
                413, f"the request is longer than {MAX_BODY_BYTES} bytes; shorten the prompt"
            )
        else:
            self._send(*_called(self.server.page, path.rpartition("/")[2], body))

    do_GET = do_POST = do_HEAD = do_PUT = do_DELETE = do_OPTIONS = _answer

    def _read(self) -> bytes | None:
        """Return the body, None for one that is too long; a page's has a length."""
        length = self.headers.get("content-length", "0")
        if not re.fullmatch("[0-9]{1,18}", length):
            return b""
        return self.rfile.read(int(length)) if int(length) <= MAX_BODY_BYTES else None

    def _send(self, status: int, said: Any, headers: Mapping[str, str] | None = None) -> None:
        """Send a page as it is, an answer as JSON, and a refusal as JSON's ``detail``."""
        is_page = status == 200 and isinstance(said, str)
        text = said if is_page else json.dumps(said if status == 200 else {"detail": said})
        body = text.encode()
        self.send_response(status)
        kind = "text/html; charset=utf-8" if is_page else "application/json"
        told = {
            "content-type": kind,
            "content-length": str(len(body)),
            **HEADERS,
            **(headers or {}),
        }
        for name, value in told.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Keep requests off the terminal, where the address was printed."""


def _called(page: ExplorePage, part: str, body: bytes) -> tuple[int, Any]:
    """Return status and answer of a part of the page; what is wrong is one line."""
    try:
        sent = json.loads(body)
    except (ValueError, RecursionError):
        sent = None
    if not isinstance(sent, dict):
        return 400, "the request is no call of a part of the page"
    try:
        return 200, page.answer(part, sent)
    except Exception as error:
        status, said = 400, str(error) or type(error).__name__
        if not isinstance(error, ValueError | TypeError | OSError):
            logger.exception("a request failed")
            status = 500
            said = f"{type(error).__name__}: {error}; the traceback is on the terminal"
    return status, " ".join(printable(said).split())[:MAX_MESSAGE_CHARACTERS]
