"""Calls of functions that answer from afar, such as a judge behind a service.

Those of an ``async def`` function run side by side, in one event loop of the process. It keeps
running between batches, so that a client keeps its connections, and has a thread of its own: a loop
that is running already, as a notebook's, is not touched.
"""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from inspect import isawaitable, iscoroutine, iscoroutinefunction
from typing import Any, Literal, TypeVar

from tokengym.base.errors import is_fault, reason_of
from tokengym.base.settings import check_choice, check_count, check_number
from tokengym.rewards.errors import ScorerError

T = TypeVar("T")
logger = logging.getLogger(__name__)

CONCURRENCY = 64
"""Most calls in flight where nothing else is said."""


@dataclass(frozen=True, kw_only=True)
class CallSettings:
    """Settings of the calls that a scorer makes.

    Raises:
        ScorerError: if a value is out of range.
    """

    concurrency: int | None = None
    """Most calls of an ``async def`` function in flight at once; None is 64."""
    timeout: float | None = None
    """Seconds after which a call of an ``async def`` function is given up; None waits."""
    retries: int = 0
    """Further calls after one that failed."""
    backoff: float = 1.0
    """Seconds before the first of them; each waits twice as long as the one before."""
    on_error: Literal["raise", "skip"] = "raise"
    """What happens where the last call failed too: "raise" ends the run, "skip" leaves the response
    without a score, which is counted and left out of every figure."""

    def __post_init__(self) -> None:
        check_count(self, "concurrency", optional=True, error=ScorerError)
        check_number(self, "timeout", above=0.0, optional=True, error=ScorerError)
        check_count(self, "retries", least=0, error=ScorerError)
        check_number(self, "backoff", least=0.0, finite=True, error=ScorerError)
        check_choice(self, "on_error", ("raise", "skip"), error=ScorerError)


class Calls:
    """Calls a function once for each of a batch, an ``async def`` one side by side.

    Args:
        function: The function.
        settings: How it is called.
        name: Name in messages.

    Raises:
        ScorerError: if a setting has no effect on the function.
    """

    def __init__(self, function: Callable[..., Any], settings: CallSettings, name: str) -> None:
        self.function, self.settings, self.name = function, settings, name
        self.is_async = is_async(function)
        for setting in () if self.is_async else ("concurrency", "timeout"):
            if (value := getattr(settings, setting)) is not None:
                raise ScorerError(
                    f"{setting}={value} of scorer {name!r} is for functions that run side by side; "
                    "write it with async def, or leave it out"
                )

    def __call__(self, arguments: Sequence[tuple[Sequence[Any], dict[str, Any]]]) -> list[Any]:
        """Return what the function gives for arguments, by place and by name, of each call.

        None where it failed for good under ``on_error="skip"``.
        """
        if not self.is_async:
            return [self._not_awaited(self._answer(*one)) for one in arguments]
        return run_beside(self._answers(arguments))

    def _answer(self, by_place: Sequence[Any], by_name: dict[str, Any]) -> Any:
        for attempt in range(self.settings.retries + 1):
            try:
                return self.function(*by_place, **by_name)
            except BaseException as error:
                if (pause := self._pause(error, attempt)) is None:
                    return None
                time.sleep(pause)
        return None

    def _not_awaited(self, answer: Any) -> Any:
        """Return an answer, and refuse one that is still to come."""
        if not isawaitable(answer):
            return answer
        if iscoroutine(answer):
            answer.close()
        raise ScorerError(
            f"scorer {self.name!r} returned a {type(answer).__name__}, which is to be "
            "awaited, from a plain function; write it with async def"
        )

    async def _answers(self, arguments: Sequence[tuple[Sequence[Any], dict[str, Any]]]) -> Any:
        limit = asyncio.Semaphore(self.settings.concurrency or CONCURRENCY)

        async def answer(by_place: Sequence[Any], by_name: dict[str, Any]) -> Any:
            for attempt in range(self.settings.retries + 1):
                try:
                    async with limit:
                        call = self.function(*by_place, **by_name)
                        return await asyncio.wait_for(call, self.settings.timeout)
                except BaseException as error:
                    if (pause := self._pause(error, attempt)) is None:
                        return None
                await asyncio.sleep(pause)  # which takes no other call's place
            return None

        tasks = [asyncio.ensure_future(answer(*one)) for one in arguments]
        try:
            return await asyncio.gather(*tasks)
        finally:  # the others are not waited for where one ended the run
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _pause(self, error: BaseException, attempt: int) -> float | None:
        """Return the seconds until the next call, None if there is none; raise if that is asked."""
        if not is_fault(error) or isinstance(error, asyncio.CancelledError):
            raise error
        if attempt < self.settings.retries:
            return self.settings.backoff * 2.0**attempt
        seconds = self.settings.timeout
        if seconds is not None and isinstance(error, asyncio.TimeoutError) and not str(error):
            error = TimeoutError(f"no answer within timeout={seconds:g} s")
        if self.settings.on_error == "raise":
            raise error
        # Environment and evaluation have a scorer each of one function: it is said once.
        if (key := (self.name, getattr(self.function, "__code__", self.function))) not in _FAILED:
            _FAILED.append(key)
            reason = reason_of(error)
            logger.warning("scorer %r failed, and its response has no score: %s", self.name, reason)
        return None


_FAILED: list[tuple[str, Any]] = []
"""Names and functions of the scorers whose failure this process has said."""


def is_async(function: Callable[..., Any]) -> bool:
    """Return whether the calls of a function are awaited."""
    while isinstance(function, partial):
        function = function.func
    return iscoroutinefunction(function) or iscoroutinefunction(type(function).__call__)


def run_beside(coroutine: Any) -> Any:
    """Return the result of a coroutine that runs in the process's own loop, see the module."""
    loop, thread = _loop_of(os.getpid())
    if threading.current_thread() is thread:
        coroutine.close()
        raise ScorerError(
            "an async scorer was asked within a call of another one, which would wait for itself; "
            "await the function there"
        )
    future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    try:
        return future.result()
    except BaseException:  # such as an interruption, or the alarm of `TimeLimit`
        future.cancel()
        raise


@cache
def _loop_of(process: int) -> tuple[asyncio.AbstractEventLoop, threading.Thread]:
    """Return a process's event loop and its thread, which a process that was forked has not."""
    del process
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="tokengym-calls", daemon=True)
    thread.start()
    return loop, thread
