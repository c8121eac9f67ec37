"""What belongs to the suite, with the laboratory installed or without it."""

from collections.abc import Iterable

from tokengym.base.plugins import LABORATORY


def of_suite(names: Iterable[str], group: str) -> list[str]:
    """Return the names that are not the laboratory's, sorted.

    Args:
        names: Those of a registry.
        group: Of entry points: "agents", "commands", ...
    """
    return sorted({*names} - {*LABORATORY[group]})
