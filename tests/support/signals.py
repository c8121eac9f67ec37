"""What a process of a test says of its signals; it imports nothing that takes time."""

import signal
from typing import Any


def tell_blocked(sender: Any) -> None:
    """Tell whether Ctrl-C is blocked."""
    sender.send(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))
