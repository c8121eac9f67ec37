"""Hostile requests to ``tokengym explore``: refused, nothing runs, and the page still answers."""

import json
import os
import re
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from tests.campaign.hostile import hostile_text
from tests.campaign.outcome import LIMIT_S, Command, LostError, Outcome, try_cases
from tokengym.lab.replay.explore_server import MAX_BODY_BYTES

MARKER = "ran"
EVIL = f"open(__file__[:-7] + {MARKER!r}, 'w').close()\nA = make = None\n"
"""Contents of ``evil.py``; whoever runs it leaves a file beside it."""
PARTS = (
    *("upload", "upload_progress", "config", "config/", "file=/etc/passwd", "file/etc/passwd"),
    *("proxy=http://evil.example/", "run/predict", "api/sample", "call/sample", "call/v2/sample"),
    *("component_server", "stream/x", "stream/a/b/c/playlist.m3u8", "dev/reload", "login", "token"),
    *("logout", "user", "login_check", "monitoring", "monitoring/summary", "info", "openapi.json"),
    *("deep_link", "runs", "run-history/connect", "cancel", "reset", "process_recording"),
    *("vibe-code", "vibe-edit", "custom_component/a/client/b/c.js", "manifest.json", "pwa_icon"),
    *("mcp", "mcp/sse", "startup-events", "svelte/x", "robots.txt", "queue/join/", "queue/status"),
    *("assets/../gradio_api/upload", "assets/%2e%2e/%2e%2e/etc/passwd", "static//etc/passwd"),
    *("assets/..%2fgradio_api/upload", "./upload", "%75pload", "upload;x", "docs", "%00"),
)
"""Parts of other servers of such pages, and paths that only look like the page's."""


class Client:
    """Asks a served page as a browser does, or as an attacker.

    Args:
        address: As it was printed, with the token.
    """

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self.host, self.token = parts.netloc, parts.query.partition("=")[2]
        self.cookie, self.root = "", ""
        _, headers, _ = self.ask("GET", f"/?{parts.query}")
        self.cookie, _, settings = headers["set-cookie"].partition("; ")
        self.root = settings.partition("Path=")[2].rstrip("/")

    def ask(
        self, method: str, path: str, body: bytes | Iterator[bytes] = b"", **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of an answer; headers of one's own replace the usual."""
        sent = {"host": self.host, "cookie": self.cookie} | headers
        if isinstance(body, bytes):
            sent["content-length"] = str(len(body))
        else:
            sent["transfer-encoding"] = "chunked"
        connection = HTTPConnection(self.host, timeout=LIMIT_S)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in sent.items():
                connection.putheader(name, value.encode())
            connection.endheaders(body, encode_chunked="transfer-encoding" in sent)
            answer = connection.getresponse()
            told = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, told, answer.read()
        finally:
            connection.close()

    def call(self, part: str, sent: Any) -> dict[str, Any]:
        """Ask for a part of the page; a call that is refused has its ``status`` and ``detail``."""
        status, _, said = self.ask("POST", f"{self.root}/{part}", json.dumps(sent).encode())
        return ({} if status == 200 else {"status": status}) | json.loads(said)

    def sample(self, **changes: Any) -> dict[str, Any]:
        """Press "Sample a response", with some of the boxes filled otherwise."""
        boxes: dict[str, Any] = {"env": "tokengym/MovieReview-v0", "agent": ""}
        boxes |= {"rules": ["sparse"], "prompt": "the film", "seed": 0, "temperature": 1}
        return self.call("sample", boxes | changes)


def stranger(client: Client, folder: Path, random: np.random.Generator) -> None:
    """Ask without the token, for another host, or from a page of elsewhere."""
    port = client.host.partition(":")[2]
    name, secret = client.cookie.split("=")
    headers: dict[str, str] = [
        {"cookie": ""},
        {"cookie": f"{name}={secret[:-1]}"},
        {"cookie": f"{name}={secret}x"},
        {"cookie": f"{name}=\u00e9\u6f22"},
        {"cookie": f"x{name}={secret}"},
        {"host": "evil.example"},
        {"host": f"evil.example:{port}"},
        {"host": "127.0.0.1"},
        {"host": f"127.0.0.1.evil.example:{port}"},
        {"origin": "http://127.0.0.1:1"},
        {"origin": "http://localhost:1"},
        {"origin": f"http://localhost:{port}"},
        {"origin": f"https://{client.host}"},
        {"origin": "null"},
        {"origin": "https://evil.example"},
    ][random.integers(15)]
    paths = ["/", "/theme.css", "/config", f"/?token={secret[:-1]}"]
    paths += [f"{client.root}/{part}" for part in ("", "begin", "sample", "fork", "upload")]
    path = str(random.choice(paths))
    method = str(random.choice(["GET", "POST", "OPTIONS", "PUT"]))
    status, told, _ = client.ask(method, path, b"{}", **headers)
    if status not in (401, 403) or "access-control-allow-origin" in told:
        raise LostError(f"{method} {path} with {headers} gives {status} {told}")


def other_parts(client: Client, folder: Path, random: np.random.Generator) -> None:
    """Ask for what no button needs, with the token."""
    base = str(random.choice(["", client.root, f"{client.root}/sample", client.root + "/"]))
    path = f"{base}/{random.choice(PARTS)}"
    method = str(random.choice(["GET", "POST", "PUT", "HEAD", "DELETE"]))
    form = b'--x\r\nContent-Disposition: form-data; name="files"; filename="evil.py"\r\n\r\n'
    body = form + EVIL.encode() + b"\r\n--x--\r\n" if method == "POST" else b""
    kind = "multipart/form-data; boundary=x"
    status, _, _ = client.ask(method, path, body, **{"content-type": kind})
    if status not in (400, 401, 404):
        raise LostError(f"{method} {path} gives {status}")


def names(client: Client, folder: Path, random: np.random.Generator) -> None:
    """Name code, folders, models and modules in the boxes of the page."""
    evil, own = f"{folder}/evil.py", f"{folder}/evil.py:A"
    rules = [own, f"{own}:x=1", f"abc:beta={own}", f"abc-d:model={folder}", f"abc-d2:model={evil}"]
    rules += [f"rto:policy={folder}", f"rto:policy=gpt2,reference={folder}", f"r3:model={folder}"]
    rules += [f"gradient:rescale={folder}", f"red:delivery={evil}", "mc:segments=evil.py:A", own]
    box = str(random.choice(["rules", "agent", "env", "prompt", "seed"]))
    value: Any = {
        "rules": [str(random.choice(rules))],
        "agent": str(random.choice([str(folder), f"{folder}/agent", "..", "gpt2", own])),
        "env": str(random.choice([f"{evil}:make", "evil:Env-v0", "tokengym.evil:Env-v0", own])),
        "prompt": {"path": evil, "meta": {"_type": "gradio.FileData"}},
        "seed": {"path": "http://127.0.0.1:1/x", "meta": {"_type": "gradio.FileData"}},
    }[box]
    output = client.sample(**{box: value})
    if not output.get("detail"):
        raise LostError(f"{box} {value} is taken: {str(output)[:200]}")


def values(client: Client, folder: Path, random: np.random.Generator) -> None:
    """Put values that fit no box, or too much, into the boxes; what is wrong is said in a line."""
    many = "the film " * int(10 ** random.uniform(0, 5))
    kinds: list[dict[str, Any]] = [
        {"prompt": hostile_text(random, lone=True)},
        {"prompt": many},
        {"prompt": "x" * int(10 ** random.uniform(0, 7))},
        {"prompt": None},
        {"seed": [None, -1, 2**63, 10**30, 0.5, 1.5, True][random.integers(7)]},
        {"temperature": [None, -1, 0, 1e-300, 1e300][random.integers(5)]},
        {"rules": [[], None, ["sparse"] * 2, ["abc:beta=0.5"] * 100][random.integers(4)]},
        {"rules": [hostile_text(random)]},
        {
            "rules": [
                ["mc:k=1000000000"],
                ["scar:permutations=1000000000"],
                {"sparse": 1},
                "sparse",
            ][random.integers(4)]
        },
    ]
    changes = kinds[random.integers(len(kinds))]
    output = client.sample(**changes)
    said = output.get("detail", "")
    if "html" not in output and (not said or "\n" in said or len(said) > 600):
        raise LostError(f"{str(changes)[:100]} gives {str(output)[:300]}")


def bodies(client: Client, folder: Path, random: np.random.Generator) -> None:
    """Send what is no call, or too long, as a call."""
    long = b'{"data": ["' + b"x" * (MAX_BODY_BYTES + int(random.integers(MAX_BODY_BYTES)))
    body = [b"", b"[" * 300_000, b"\xff\x00", b"null", b'{"data": 1}', b"1" * 9999, long][
        random.integers(7)
    ]
    sent = body if random.random() < 0.5 else iter([body[:100], body[100:]])
    status, _, said = client.ask("POST", f"{client.root}/sample", sent)
    if status not in (400, 413) or b"\n" in said:
        raise LostError(f"{body[:40]!r} gives {status} {said[:200]!r}")


Kind = Callable[[Client, Path, np.random.Generator], None]
KINDS: tuple[Kind, ...] = (stranger, other_parts, names, values, bodies)


def one_request(
    client: Client, folder: Path, random: np.random.Generator, kinds: Sequence[Kind] = KINDS
) -> None:
    """Send one hostile request, and look that nothing ran and the page is still there."""
    try:
        kinds[int(random.integers(len(kinds)))](client, folder, random)
    except HTTPException as error:
        raise LostError(f"the server answers with {error!r}") from error
    if (folder / MARKER).exists():
        (folder / MARKER).unlink()
        raise LostError("a file that a request named was run")
    status, _, _ = client.ask("GET", f"{client.root}/")
    if status != 200:
        raise LostError(f"the page is gone: {status}")


@contextmanager
def attacked() -> Iterator[Path]:
    """Yield a folder with code and an agent that requests name."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "agent").mkdir()
        (folder / "evil.py").write_text(EVIL)
        (folder / "run.json").write_text(json.dumps({"env": f"{folder}/evil.py:make"}))
        yield folder


def requests(count: int, seed: int) -> Outcome:
    """Try ``count`` hostile requests to one server, which ends well when it is stopped."""
    arguments = ["explore", "--env", "MovieReview", "--port", "0"]
    with attacked() as folder:
        command = Command(arguments)
        while not (printed := re.search(r"http://\S+", command.printed())):
            if command.wait(0.1):
                raise RuntimeError(f"explore does not start: {command.finish()}")
        client = Client(printed[0])
        outcome = try_cases("requests", partial(one_request, client, folder), count, seed)
        left = client.sample()
        os.kill(command.pid, signal.SIGINT)
        status, said = command.finish()
        if status or "html" not in left:
            outcome.lost.append(f"in the end: {str(left)[:200]}, exit code {status}: {said[-300:]}")
    return outcome
