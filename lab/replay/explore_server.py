"""The server of ``tokengym explore``: who may ask it, and for what.

Gradio serves uploads, files and proxies to anyone who reaches its port. A `Guard` stands in front
of it and passes on what the page itself asks for, from a browser that has the printed token.
"""

import json
import re
import secrets
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import parse_qs

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Application = Callable[[Any, Receive, Send], Awaitable[None]]

HOST = "127.0.0.1"
PORTS = range(7860, 7960)
MAX_BODY_BYTES = 512 * 1024
"""Largest body of a request."""
ROUTES = {
    "GET": re.compile(
        r"/|/theme\.css|/(assets|static)(/[\w-][\w.-]*)+"
        r"|/gradio_api/(queue/data|app_id|heartbeat/\w+)",
        re.ASCII,
    ),
    "POST": re.compile("/gradio_api/queue/join"),
}
"""Requests of the page; everything else that Gradio offers is refused."""
HEADERS = {
    # Gradio's templates are compiled in the browser, which takes 'unsafe-eval'.
    "content-security-policy": (
        "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'; font-src 'self' data:; "
        "frame-ancestors 'none'; base-uri 'self'; form-action 'none'"
    ),
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
}
"""Added to every answer: nothing is loaded from elsewhere, and nothing elsewhere loads it."""


class Guard:
    """An application that passes on what the page asks for to another, and refuses the rest.

    Args:
        app: The application behind it.
        root: Path that it is mounted at, ``/name``. Browsers do not keep the cookies of two ports
            apart: with a name that nobody guesses, no other port is sent this one's.
        port: Port on this machine that it is served on.
        token: Secret of the printed address, which becomes a cookie.
    """

    def __init__(self, app: Application, *, root: str, port: int, token: str) -> None:
        self.app, self.root, self.token = app, root, token
        self.cookie = f"tokengym-explore-{port}"
        suffix = "" if port == 80 else f":{port}"
        self.hosts = [f"{name}{suffix}" for name in (HOST, "localhost")]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        if refused := self._refusal(scope):
            return await _answer(send, *refused)
        if scope["path"] == "/":
            return await self._let_in(send)
        if scope["method"] == "POST":
            body = await _read(receive)
            if body is None:
                return await _answer(
                    send,
                    413,
                    f"the request is longer than {MAX_BODY_BYTES} bytes; shorten the prompt",
                )
            if not _is_call(body):
                return await _answer(send, 400, "the request is no call of a part of the page")
            receive = _once(body, receive)
        if scope["path"] == f"{self.root}/":  # by a query Gradio takes a page of a shared folder
            scope = {**scope, "query_string": b""}
        await self.app(scope, receive, _with_headers(send))

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Return status and line of a request that is refused, None for one that is not."""
        headers = _headers(scope)
        host = headers.get("host", [])
        if host not in [[allowed] for allowed in self.hosts]:
            return 403, f"this server is {self.hosts[0]}; open the address that was printed"
        if headers.get("origin", [f"http://{host[0]}"]) != [f"http://{host[0]}"]:
            return 403, "a page of another origin asks; open the address that was printed"
        if scope["path"] == "/":
            given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        else:
            cookies = "; ".join(headers.get("cookie", [])).split("; ")
            given = dict(cookie.partition("=")[::2] for cookie in cookies).get(self.cookie, "")
        if not secrets.compare_digest(given.encode(), self.token.encode()):
            return 401, "the token is missing or wrong; open the address that was printed"
        route = ROUTES.get(scope["method"])
        path = scope["path"].removeprefix(self.root)
        if route is None or not route.fullmatch(path):
            return 404, "the page has no such part"
        return None

    async def _let_in(self, send: Send) -> None:
        """Turn the token of the address into a cookie, and load the page without it.

        A redirect would come without the cookie where a link of another site was followed.
        """
        cookie = f"{self.cookie}={self.token}; HttpOnly; SameSite=Strict; Path={self.root}/"
        page = f'<!doctype html><meta http-equiv="refresh" content="0; url={self.root}/">'
        await _answer(send, 200, page, {"content-type": "text/html", "set-cookie": cookie})


class Server:
    """An application that is served on this machine, behind a `Guard`, until it is closed.

    Args:
        app: The application.
        root: Path that it is mounted at; see `Guard`.
        listening: The socket that it is served on, from `listen`.

    Raises:
        OSError: if it does not start.
    """

    def __init__(self, app: Application, root: str, listening: socket.socket) -> None:
        import uvicorn

        token, port = secrets.token_urlsafe(32), listening.getsockname()[1]
        self.address = f"http://{HOST}:{port}/?token={token}"
        """Address to open; the token in it lets in whoever has it."""
        config = uvicorn.Config(
            Guard(app, root=root, port=port, token=token),
            log_level="warning",
            proxy_headers=False,
            timeout_graceful_shutdown=1,  # an open page holds a connection for ever
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listening]}, daemon=True
        )
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise OSError(f"the page cannot be served on port {port}; see what is said above")
            time.sleep(0.01)

    def close(self) -> None:
        """End it."""
        self._server.should_exit = True
        self._thread.join(timeout=5)


def listen(port: int | None) -> socket.socket:
    """Return a socket on this machine.

    Args:
        port: Its port; 0 takes any that is free, None the first free one of `PORTS`.

    Raises:
        OSError: if it is taken.
    """
    for number in PORTS if port is None else [port]:
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, number))
        except (OSError, OverflowError) as error:
            listening.close()
            why = error
        else:
            return listening
    taken = f"{PORTS[0]} to {PORTS[-1]}" if port is None else str(port)
    raise OSError(f"port {taken} cannot be used ({why}); name a free one with --port")


def _headers(scope: Scope) -> dict[str, list[str]]:
    """Return the headers of a request, all values of each."""
    headers: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return headers


async def _read(receive: Receive) -> bytes | None:
    """Return the body of a request; None for one that is too long, read to its end all the same.

    A sender that is cut off does not see the answer.
    """
    body, length, more = b"", 0, True
    while more:
        message = await receive()
        part = message.get("body", b"")
        length += len(part)
        body = body + part if length <= MAX_BODY_BYTES else b""
        more = message.get("more_body", False)
    return body if length <= MAX_BODY_BYTES else None


def _once(body: bytes, receive: Receive) -> Receive:
    """Return what receives a body that was read, and then what comes after it."""
    bodies = [body]

    async def received() -> dict[str, Any]:
        if bodies:
            return {"type": "http.request", "body": bodies.pop(), "more_body": False}
        return await receive()

    return received


def _is_call(body: bytes) -> bool:
    """Return whether a body calls a function with numbers, texts and lists of them.

    Gradio takes an object for a file, and loads what it names.
    """
    try:
        call = json.loads(body)
    except (ValueError, RecursionError):
        return False
    data = call.get("data") if isinstance(call, dict) else None
    if not isinstance(data, list):
        return False
    parts = [part for value in data for part in (value if isinstance(value, list) else [value])]
    return not any(isinstance(part, dict | list) for part in parts)


def _with_headers(send: Send) -> Send:
    """Return what sends an answer with `HEADERS`."""

    async def sent(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            extra = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            message = {**message, "headers": [*message.get("headers", []), *extra]}
        await send(message)

    return sent


async def _answer(
    send: Send, status: int, text: str, headers: Mapping[str, str] | None = None
) -> None:
    """Answer with a text; a refusal is JSON, whose ``detail`` the page shows."""
    body = text if status == 200 else json.dumps({"detail": text})
    told = {"content-type": "application/json", "cache-control": "no-store"} | dict(headers or {})
    pairs = [(name.encode(), value.encode()) for name, value in told.items()]
    send = _with_headers(send)
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body.encode()})
