"""Command lines of pages, shortened for tests."""

from collections.abc import Sequence


def last_of_each(arguments: Sequence[str]) -> list[str]:
    """Return a command line whose later options take the place of earlier ones of their name.

    Example:
        >>> last_of_each(["train", "--updates", "60", "--out", "x", "--updates", "2"])
        ['train', '--out', 'x', '--updates', '2']
    """
    parts: dict[str, list[str]] = {"": []}
    name = ""
    for argument in arguments:
        if argument.startswith("--"):
            name = argument
            parts.pop(name, None)
            parts[name] = []
        parts[name].append(argument)
    return [argument for part in parts.values() for argument in part]
