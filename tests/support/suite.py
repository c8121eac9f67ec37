"""What belongs to the suite, with the laboratory installed or without it."""

from collections.abc import Iterable

from tokengym.base.plugins import plugins


def of_laboratory(group: str) -> list[str]:
    """Return the names that the laboratory declares in a group of entry points, sorted."""
    points = plugins(group)
    return sorted(point.name for point in points if point.value.startswith("tokengym.lab."))


def of_suite(names: Iterable[str], group: str) -> list[str]:
    """Return the names that are not the laboratory's, sorted.

    Args:
        names: Those of a registry.
        group: Of entry points: "agents", "commands", ...
    """
    return sorted({*names} - {*of_laboratory(group)})
