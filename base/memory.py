"""The memory at hand, as a bound for numbers that a stored file or a user names."""

import psutil

from tokengym.base.errors import SettingsError


def check_memory(name: str, value: int, *, bytes_each: int) -> None:
    """Refuse a number of things that the memory at hand cannot hold.

    It is refused before anything is allocated: a system that lends memory which it does not have
    would otherwise end the process later.

    Args:
        name: Setting that says how many there are, for the message.
        value: Its value.
        bytes_each: Least memory that one more takes, bytes.

    Raises:
        SettingsError: naming the largest value that fits.
    """
    available = psutil.virtual_memory().available
    if value * bytes_each > available:
        raise SettingsError(
            f"{name} must be at most {available // bytes_each:,} with {available / 2**30:.1f} GiB "
            f"of memory at hand, got {value:,}; lower it, or play fewer rows at once"
        )
