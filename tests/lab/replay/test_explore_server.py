"""The server of ``tokengym explore``: token, own address, the page's routes, bodies."""

import asyncio
import json
import re
import secrets
import socket
from typing import Any

import pytest

from tokengym.lab.replay import explore_server
from tokengym.lab.replay.explore_server import MAX_BODY_BYTES, Guard, listen

OWN = {"host": "127.0.0.1:7860", "cookie": "a=b; tokengym-explore-7860=secret"}
JOIN = "/root/gradio_api/queue/join"
CALL = {"data": ["", ["sparse"], "the film", 0, 1.5, None, True], "fn_index": 4}


class Asked:
    """A guard in front of an application that says OK, and what reached that."""

    def __init__(self, *, port: int = 7860) -> None:
        self.guard = Guard(self.app, root="/root", port=port, token="secret")
        self.reached: list[tuple[str, bytes, bytes]] = []

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        body = (await receive()).get("body", b"")
        self.reached.append((scope["path"], scope.get("query_string", b""), body))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")]})
        await send({"type": "http.response.body", "body": b"OK"})

    def __call__(
        self,
        path: str = "/root/",
        *,
        method: str = "GET",
        query: bytes = b"",
        body: tuple[bytes, ...] = (b"",),
        headers: Any = OWN,
        kind: str = "http",
    ) -> tuple[int, dict[str, str], str]:
        """Return status, headers and text of the answer; a list of headers may repeat names."""
        pairs = headers.items() if isinstance(headers, dict) else headers
        scope = {"type": kind, "method": method, "path": path, "query_string": query}
        scope |= {"headers": [(name.encode(), value.encode()) for name, value in pairs]}
        parts = [
            {"type": "http.request", "body": part, "more_body": place < len(body)}
            for place, part in enumerate(body, 1)
        ]
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return parts.pop(0) if parts else {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        asyncio.run(self.guard(scope, receive, send))
        if sent[0]["type"] == "websocket.close":
            return sent[0]["code"], {}, ""
        told = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return sent[0]["status"], told, sent[1]["body"].decode()


@pytest.fixture
def ask() -> Asked:
    return Asked()


@pytest.mark.parametrize(
    "path", ["/", "/root/", "/root/config", "/root/static/img/a.svg", "/root/theme.css", JOIN]
)
@pytest.mark.parametrize("cookie", ["", "secret", "tokengym-explore-7860=secre", "é=é", None])
def test_every_part_needs_the_token(ask: Asked, path: str, cookie: str | None):
    headers = {"host": OWN["host"]} | ({} if cookie is None else {"cookie": cookie})
    for method in ("GET", "POST"):
        status, _, said = ask(path, method=method, headers=headers)
        assert status == 401
        assert "open the address that was printed" in said
    assert not ask.reached


@pytest.mark.parametrize(
    "query", [b"", b"token=", b"token=secre", b"token=%FF\xff", b"tokens=secret"]
)
def test_a_wrong_token_in_the_address_lets_nobody_in(ask: Asked, query: bytes):
    status, told, _ = ask("/", query=query)
    assert (status, "set-cookie" in told) == (401, False)


def test_the_token_becomes_a_cookie_that_no_script_and_no_other_port_gets(ask: Asked):
    status, told, page = ask("/", query=b"token=secret", headers={"host": OWN["host"]})
    assert status == 200
    cookie = "tokengym-explore-7860=secret; HttpOnly; SameSite=Strict; Path=/root/"
    assert told["set-cookie"] == cookie
    assert told["cache-control"] == "no-store"
    assert 'http-equiv="refresh" content="0; url=/root/"' in page
    assert "secret" not in page
    assert not ask.reached
    status, told, said = ask()
    assert (status, said) == (200, "OK")
    assert told["x"] == "y"
    assert "default-src 'self'" in told["content-security-policy"]


def test_tokens_are_compared_in_constant_time(ask: Asked, monkeypatch: pytest.MonkeyPatch):
    seen = []

    def compare(one: bytes, other: bytes) -> bool:
        seen.append((one, other))
        return True

    monkeypatch.setattr(secrets, "compare_digest", compare)
    assert ask(headers=OWN | {"cookie": "tokengym-explore-7860=x"})[0] == 200
    assert seen == [(b"x", b"secret")]


@pytest.mark.parametrize(
    "hosts",
    [
        *([], ["evil.example"], ["evil.example:7860"], ["127.0.0.1"], ["127.0.0.1:7861"]),
        *(["127.0.0.1:7860.evil.example"], ["127.0.0.1:7860", "evil.example"], ["[::1]:7860"]),
    ],
)
def test_only_the_own_address_is_served(ask: Asked, hosts: list[str]):
    headers = [("host", host) for host in hosts] + [("cookie", OWN["cookie"])]
    assert ask(headers=headers)[0] == 403
    assert ask("/", query=b"token=secret", headers=headers)[0] == 403
    assert not ask.reached


def test_the_own_names_are_served():
    assert Asked()(headers=OWN | {"host": "localhost:7860"})[0] == 200
    cookie = {"cookie": "tokengym-explore-80=secret"}
    assert Asked(port=80)(headers={"host": "127.0.0.1"} | cookie)[0] == 200


@pytest.mark.parametrize(
    "origin",
    [
        *("http://127.0.0.1:9999", "http://localhost:7860", "https://127.0.0.1:7860"),
        *("null", "http://evil.example", "http://127.0.0.1:7860.evil.example", ""),
    ],
)
def test_a_page_of_another_origin_is_refused_without_permission(ask: Asked, origin: str):
    for method, path in (("GET", "/root/"), ("POST", JOIN), ("OPTIONS", JOIN), ("GET", "/")):
        status, told, _ = ask(path, method=method, headers=OWN | {"origin": origin})
        assert status == 403
        assert not [name for name in told if name.startswith("access-control")]
    assert not ask.reached
    assert ask(headers=OWN | {"origin": "http://127.0.0.1:7860"})[0] == 200


def test_no_route_of_gradio_is_open_that_no_component_needs(ask: Asked):
    """All routes of the installed version, with a path in place of each parameter."""
    import gradio
    from gradio.routes import App

    with gradio.Blocks() as blocks:
        gradio.Textbox()
    routes: list[Any] = []
    for route in App.create_app(blocks).routes:
        router = getattr(route, "original_router", None)  # FastAPI includes it when it is asked
        routes += [route] if router is None else router.routes
    listed = {
        (method, re.sub(r"\{[^}]*\}", "x.js" if "path:" in route.path else "abc", route.path))
        for route in routes
        for method in getattr(route, "methods", ())
    }
    assert len(listed) > 80
    assert ("POST", "/gradio_api/upload") in listed
    body = json.dumps(CALL).encode()
    served = {
        (method, path)
        for method, path in listed
        if ask(f"/root{path}", method=method, body=(body,))[0] == 200
    }
    assert served == {
        ("GET", "/"),
        ("GET", "/theme.css"),
        ("GET", "/assets/x.js"),
        ("GET", "/static/x.js"),
        ("GET", "/gradio_api/app_id"),
        ("GET", "/gradio_api/heartbeat/abc"),
        ("GET", "/gradio_api/queue/data"),
        ("POST", "/gradio_api/queue/join"),
    }


@pytest.mark.parametrize(
    "path",
    [
        *("assets/../gradio_api/upload", "assets/.hidden", "assets//etc/passwd", "assets/a\\b"),
        *("static/..", "gradio_api/queue/join/", "gradio_api/heartbeat/a/b", "theme.css\n", "?x"),
    ],
)
def test_a_path_that_only_looks_like_the_page_s_is_refused(ask: Asked, path: str):
    assert ask(f"/root/{path}")[0] == 404
    assert not ask.reached


def test_a_stored_page_is_not_loaded_by_a_link(ask: Asked):
    ask(query=b"deep_link=abc&page=x")
    ask("/root/gradio_api/queue/data", query=b"session_hash=abc")
    assert [query for _, query, _ in ask.reached] == [b"", b"session_hash=abc"]


def test_a_websocket_is_closed(ask: Asked):
    assert ask(kind="websocket")[0] == 1008
    assert not ask.reached


def test_a_body_is_read_up_to_a_limit_and_its_sender_is_heard_out(ask: Asked):
    call = json.dumps(CALL | {"x": ""}).encode()
    filled = call.replace(b'"x": "', b'"x": "' + b"y" * (MAX_BODY_BYTES - len(call)))
    assert ask(JOIN, method="POST", body=(filled[:1000], filled[1000:]))[0] == 200
    assert ask.reached == [(JOIN, b"", filled)]
    status, _, said = ask(JOIN, method="POST", body=(filled, b" ", *[b"x" * 1000] * 99))
    assert status == 413
    assert "longer than 524288 bytes; shorten the prompt" in json.loads(said)["detail"]
    assert len(ask.reached) == 1


@pytest.mark.parametrize(
    "data",
    [
        [{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}],
        [[{"path": "http://evil.example"}]],
        [[["nested"]]],
        {"0": "x"},
        "text",
        None,
    ],
)
def test_a_call_holds_numbers_texts_and_lists_of_them(ask: Asked, data: Any):
    """Gradio takes an object for a file that it loads, from an address too."""
    for body in (json.dumps({"data": data}), json.dumps(data), "[" * 100_000, "{", "9" * 9999):
        status, _, said = ask(JOIN, method="POST", body=(body.encode(),))
        assert (status, "\n" in said) == (400, False)
    assert not ask.reached
    assert ask(JOIN, method="POST", body=(json.dumps(CALL).encode(),))[0] == 200


def test_a_port_is_named_or_the_first_that_is_free(monkeypatch: pytest.MonkeyPatch):
    with listen(0) as taken:
        taken.listen()
        host, number = taken.getsockname()
        assert host == "127.0.0.1"
        with pytest.raises(OSError, match=rf"port {number} cannot be used .* --port"):
            listen(number)
        with listen(0) as free:
            other = free.getsockname()[1]
        monkeypatch.setattr(explore_server, "PORTS", [number, other])
        with listen(None) as found:
            assert found.getsockname()[1] == other
            assert found.family == socket.AF_INET
    with pytest.raises(OSError, match="port 99999 cannot be used"):
        listen(99999)
