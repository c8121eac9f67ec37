"""Calls of code that may never end."""

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class TookTooLongError(Exception):
    """A call that had not ended when its time was over."""


def call_within(call: Callable[[], T], seconds: float | None, name: str = "call") -> T:
    """Return what a call returns, and raise what it raises.

    One that takes longer than ``seconds``, unless that is None, is left behind in a thread that
    ends with the process: Python cannot stop it, and signals would work in the main thread only.
    """
    if seconds is None:
        return call()
    returned: list[T] = []
    raised: list[BaseException] = []

    def work() -> None:
        try:
            returned.append(call())
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=work, name=f"tokengym-{name}", daemon=True)
    thread.start()
    thread.join(seconds)
    if raised:
        raise raised[0]
    if not returned:
        raise TookTooLongError(f"it had not ended after {seconds:g} s")
    return returned[0]
