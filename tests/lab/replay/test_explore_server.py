"""The server of ``tokengym explore``: token, own address, the page's parts, bodies."""

import json
import secrets
import socket
from http.client import HTTPConnection, HTTPMessage
from threading import Thread
from typing import Any

import pytest

from tokengym.lab.replay import explore_server
from tokengym.lab.replay.explore_requests import PARTS
from tokengym.lab.replay.explore_server import MAX_BODY_BYTES, Server

CALL = {"agent": "", "rules": ["sparse"], "prompt": "the film", "seed": 0, "temperature": None}


class Page:
    """Stands for the page, and notes what reached it."""

    def __init__(self) -> None:
        self.reached: list[tuple[str, Any]] = []
        self.error: Exception | None = None

    def html(self) -> str:
        self.reached.append(("", None))
        return "<!doctype html>OK"

    def answer(self, part: str, sent: dict[str, Any]) -> dict[str, Any]:
        self.reached.append((part, sent))
        if self.error is not None:
            raise self.error
        return {"html": "<b>"}


class Asked:
    """A server with its token made known, and requests to it."""

    def __init__(self, server: Server, page: Page) -> None:
        self.server, self.page = server, page
        self.host = f"127.0.0.1:{server.server_address[1]}"
        server.token, server.root = "secret", "/root"
        self.own = {"host": self.host, "cookie": f"a=b; {server.cookie}=secret"}

    def __call__(
        self, path: str = "/root/", *, method: str = "GET", body: bytes = b"", headers: Any = None
    ) -> tuple[int, HTTPMessage, str]:
        """Return status, headers and text of the answer; a list of headers may repeat names."""
        pairs = self.own if headers is None else headers
        connection = HTTPConnection(self.host, timeout=30)
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in pairs.items() if isinstance(pairs, dict) else pairs:
            connection.putheader(name, value.encode())
        connection.putheader("content-length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        said = answer.status, answer.headers, answer.read().decode()
        connection.close()
        return said


@pytest.fixture
def ask() -> Any:
    page: Any = Page()
    with Server(page, port=0) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield Asked(server, page)
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("cookie", ["", "secret", "{name}=secre", "é=é", None])
def test_every_part_needs_the_token(ask: Asked, cookie: str | None):
    headers = {"host": ask.host}
    if cookie is not None:
        headers["cookie"] = cookie.format(name=ask.server.cookie)
    for path in ("/", "/root/", "/config", *(f"/root/{part}" for part in PARTS)):
        for method in ("GET", "POST"):
            status, _, said = ask(path, method=method, headers=headers)
            assert status == 401
            assert "address that was printed" in said
    assert not ask.page.reached


@pytest.mark.parametrize("query", ["", "token=", "token=secre", "token=%FF", "tokens=secret"])
def test_a_wrong_token_in_the_address_lets_nobody_in(ask: Asked, query: str):
    status, told, _ = ask(f"/?{query}")
    assert (status, "set-cookie" in told) == (401, False)


def test_the_token_becomes_a_cookie_that_no_script_and_no_other_port_gets(ask: Asked):
    status, told, page = ask("/?token=secret", headers={"host": ask.host})
    assert status == 200
    cookie = f"{ask.server.cookie}=secret; HttpOnly; SameSite=Strict; Path=/root/"
    assert told["set-cookie"] == cookie
    assert told["cache-control"] == "no-store"
    assert 'http-equiv="refresh" content="0; url=/root/"' in page
    assert "secret" not in page
    assert not ask.page.reached
    status, told, said = ask("/root/?deep_link=abc")
    assert (status, said) == (200, "<!doctype html>OK")
    assert told["content-security-policy"] == "frame-ancestors 'none'"
    assert told["cross-origin-resource-policy"] == "same-origin"


def test_the_path_and_the_token_are_new_at_each_start():
    page: Any = Page()
    with Server(page, port=0) as one, Server(page, port=0) as other:
        assert one.token != other.token
        assert one.root != other.root
        assert one.address.endswith(f":{one.server_address[1]}/?token={one.token}")
        assert min(len(one.token), len(one.root)) > 32


def test_tokens_are_compared_in_constant_time(ask: Asked, monkeypatch: pytest.MonkeyPatch):
    seen = []

    def compare(one: bytes, other: bytes) -> bool:
        seen.append((one, other))
        return True

    monkeypatch.setattr(secrets, "compare_digest", compare)
    assert ask(headers=ask.own | {"cookie": f"{ask.server.cookie}=x"})[0] == 200
    assert seen == [(b"x", b"secret")]


@pytest.mark.parametrize(
    "hosts",
    [
        *([], ["evil.example"], ["evil.example:{port}"], ["127.0.0.1"], ["127.0.0.1:1"]),
        *(
            ["127.0.0.1:{port}.evil.example"],
            ["127.0.0.1:{port}", "evil.example"],
            ["[::1]:{port}"],
        ),
    ],
)
def test_only_the_own_address_is_served(ask: Asked, hosts: list[str]):
    port = ask.server.server_address[1]
    headers = [("host", host.format(port=port)) for host in hosts] + [("cookie", ask.own["cookie"])]
    assert ask(headers=headers)[0] == 403
    assert ask("/?token=secret", headers=headers)[0] == 403
    assert not ask.page.reached


def test_the_own_names_are_served(ask: Asked):
    host = f"localhost:{ask.server.server_address[1]}"
    assert ask(headers=ask.own | {"host": host})[0] == 200
    assert ask(headers=ask.own | {"host": host, "origin": f"http://{host}"})[0] == 200


@pytest.mark.parametrize(
    "origin",
    [
        *("http://127.0.0.1:9", "http://localhost:{port}", "https://127.0.0.1:{port}"),
        *("null", "http://evil.example", "http://127.0.0.1:{port}.evil.example", ""),
    ],
)
def test_a_page_of_another_origin_is_refused_without_permission(ask: Asked, origin: str):
    origin = origin.format(port=ask.server.server_address[1])
    for method, path in (("GET", "/root/"), ("POST", "/root/begin"), ("OPTIONS", "/root/begin")):
        status, told, _ = ask(path, method=method, headers=ask.own | {"origin": origin})
        assert status == 403
        assert not [name for name in told if name.startswith("access-control")]
    assert not ask.page.reached
    assert ask(headers=ask.own | {"origin": f"http://{ask.host}"})[0] == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("GET", part) for part in (*PARTS, "static/a.js", "theme.css", "config", "..", "%00")),
        *(("POST", part) for part in ("", "upload", "begin/", "begin/x", "../root/begin", "Begin")),
        *(
            ("POST", part)
            for part in ("%62egin", "html", "answer", "explorer", "_check", "//begin")
        ),
        *((method, "") for method in ("HEAD", "PUT", "DELETE", "OPTIONS")),
    ],
)
def test_what_no_button_asks_for_is_refused(ask: Asked, method: str, path: str):
    assert ask(f"/root/{path}", method=method)[0] == 404
    assert not ask.page.reached


def test_a_body_is_read_up_to_a_limit_and_its_sender_is_heard_out(ask: Asked):
    call = json.dumps(CALL | {"x": ""}).encode()
    filled = call.replace(b'"x": "', b'"x": "' + b"y" * (MAX_BODY_BYTES - len(call)))
    assert ask("/root/sample", method="POST", body=filled)[0] == 200
    assert ask.page.reached == [("sample", json.loads(filled))]
    for body in (filled + b" ", filled * 20):
        status, _, said = ask("/root/sample", method="POST", body=body)
        assert status == 413
        assert "longer than 524288 bytes" in json.loads(said)["detail"]
    assert len(ask.page.reached) == 1


@pytest.mark.parametrize(
    "body", [b"", b"null", b"1", b'["x"]', b'"x"', b"[" * 100_000, b"{", b"9" * 9999, b"\xff\x00"]
)
def test_a_call_is_an_object(ask: Asked, body: bytes):
    status, _, said = ask("/root/draw", method="POST", body=body)
    assert (status, "\n" in said) == (400, False)
    assert not ask.page.reached
    status, told, said = ask("/root/draw", method="POST", body=json.dumps(CALL).encode())
    assert (status, json.loads(said)) == (200, {"html": "<b>"})
    assert told["content-type"] == "application/json"  # no browser shows it as a page


def test_every_fault_is_shown_in_one_line(ask: Asked, caplog: pytest.LogCaptureFixture):
    def shown(error: Exception) -> tuple[int, str]:
        ask.page.error = error
        status, _, said = ask("/root/draw", method="POST", body=b"{}")
        return status, json.loads(said)["detail"]

    assert shown(ValueError("<b>\n two\x1b\ud800")) == (400, "<b> two\u241b\ufffd")
    assert shown(ValueError()) == (400, "ValueError")
    assert not caplog.records
    said = "OverflowError: long long; the traceback is on the terminal"
    assert shown(OverflowError("long\nlong")) == (500, said)
    assert caplog.records[0].exc_info
    assert len(shown(ValueError("x" * 10**6))[1]) == 500


def test_a_port_is_named_or_the_first_that_is_free(monkeypatch: pytest.MonkeyPatch):
    page: Any = Page()
    with Server(page, port=0) as taken:
        host, number = taken.server_address[:2]
        assert host == "127.0.0.1"
        with pytest.raises(OSError, match=rf"port {number}.*--port"):
            Server(page, port=int(number))
        with Server(page, port=0) as free:
            other = free.server_address[1]
        monkeypatch.setattr(explore_server, "PORTS", [number, other])
        with Server(page) as found:
            assert found.server_address[1] == other
            assert found.socket.family == socket.AF_INET
    with pytest.raises(OSError, match="port 99999"):
        Server(page, port=99999)
