"""A headless Chromium, driven over its DevTools pipe: screenshots, paint times, tests of pages.

Needs the browser alone: no driver, no socket, no package.
"""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
SECONDS = 60.0
"""Longest wait for one answer."""


def browser_path() -> str | None:
    """Return the path of an installed Chromium, None if there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Page:
    """One page of a headless browser of its own.

    Args:
        width: Width of the window, CSS pixels.
        height: Height of the window, CSS pixels.
        dark: Whether the user prefers dark colours.
        scale: Device pixels per CSS pixel.

    Raises:
        ValueError: if no Chromium is installed.
    """

    def __init__(
        self, *, width: int = 1280, height: int = 900, dark: bool = False, scale: float = 1.0
    ) -> None:
        path = browser_path()
        if path is None:
            raise ValueError(f"no browser is installed; install one of {', '.join(NAMES)}")
        self.messages: list[str] = []
        """What the page said on its console, and its uncaught errors."""
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self._size = {"width": width, "height": height, "deviceScaleFactor": scale}
        self._dark = dark
        self._next, self._buffer = 0, b""
        self._session: str | None = None
        self._process = self._start(path)

    def __enter__(self) -> "Page":
        target = self._call("Target.createTarget", {"url": "about:blank"})["targetId"]
        attached = self._call("Target.attachToTarget", {"targetId": target, "flatten": True})
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")
        mobile = self._size["width"] < 600
        self._call("Emulation.setDeviceMetricsOverride", {**self._size, "mobile": mobile})
        scheme = "dark" if self._dark else "light"
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._call("Emulation.setEmulatedMedia", {"features": features})
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        for end in (self._to, self._from):
            os.close(end)
        self._profile.cleanup()

    def open(self, page: Path | str) -> None:
        """Load a local file, or an address, and wait until it is there."""
        url = page if isinstance(page, str) else page.resolve().as_uri()
        self._call("Page.navigate", {"url": url})
        protocol = url.partition(":")[0] + ":"
        self.wait_for(f"document.readyState === 'complete' && location.protocol === '{protocol}'")

    def wait_for(self, condition: str) -> None:
        """Wait until an expression holds in the page.

        Raises:
            TimeoutError: if it does not in `SECONDS`.
        """
        deadline = time.monotonic() + SECONDS
        while not self.run(condition):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{condition} did not come true in {SECONDS:g} s")
            time.sleep(0.02)

    def run(self, expression: str) -> Any:
        """Return what an expression gives in the page, awaited if it is a promise.

        Raises:
            RuntimeError: with the page's error, if it throws.
        """
        found = self._call(
            "Runtime.evaluate",
            {"expression": expression, "awaitPromise": True, "returnByValue": True},
        )
        if "exceptionDetails" in found:
            thrown = found["exceptionDetails"]
            raise RuntimeError(thrown.get("exception", {}).get("description") or thrown["text"])
        return found["result"].get("value")

    def move_to(self, x: float, y: float) -> None:
        """Put the pointer at a place of the window, CSS pixels."""
        self._call("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": x, "y": y})

    def screenshot(self, file: Path, *, whole: bool = False) -> None:
        """Write a PNG of the window, or of the whole page."""
        shot = self._call(
            "Page.captureScreenshot", {"captureBeyondViewport": whole, **self._clip(whole)}
        )
        file.write_bytes(base64.b64decode(shot["data"]))

    def _clip(self, whole: bool) -> dict[str, Any]:
        if not whole:
            return {}
        size = self._call("Page.getLayoutMetrics")["cssContentSize"]
        return {"clip": {"x": 0, "y": 0, "scale": 1, **{k: size[k] for k in ("width", "height")}}}

    def _start(self, path: str) -> "subprocess.Popen[bytes]":
        """Start the browser; it reads commands from descriptor 3 and answers on 4."""
        commands, self._to = os.pipe()
        self._from, answers = os.pipe()
        # Out of the way of 3 and 4, which may be in use here and are written over in the child.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (commands, answers)]

        def place() -> None:
            os.dup2(ends[0], 3)
            os.dup2(ends[1], 4)

        process = subprocess.Popen(
            [
                *(path, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
                *("--remote-debugging-pipe", f"--user-data-dir={self._profile.name}"),
            ],
            preexec_fn=place,
            pass_fds=(3, 4),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (commands, answers, *ends):
            os.close(end)
        return process

    def _call(self, method: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Send a command and return its answer; what the page says meanwhile is kept."""
        self._next += 1
        message: dict[str, Any] = {"id": self._next, "method": method, "params": dict(params or {})}
        if self._session is not None:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._to, data) :]
        while True:
            answer = self._read()
            if answer.get("id") == self._next:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                result: dict[str, Any] = answer["result"]
                return result
            self._keep(answer)

    def _read(self) -> dict[str, Any]:
        """Return the browser's next message."""
        deadline = time.monotonic() + SECONDS
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._from], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError(f"the browser gave no answer in {SECONDS:g} s")
            part = os.read(self._from, 1 << 20)
            if not part:
                raise RuntimeError("the browser has ended")
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found

    def _keep(self, event: Mapping[str, Any]) -> None:
        method, params = event.get("method"), event.get("params", {})
        if method == "Runtime.consoleAPICalled":
            self.messages.append(" ".join(str(a.get("value")) for a in params["args"]))
        elif method == "Runtime.exceptionThrown":
            self.messages.append(params["exceptionDetails"]["text"])
        elif method == "Log.entryAdded":
            self.messages.append(params["entry"]["text"])
