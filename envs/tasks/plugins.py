"""Names that installed packages add: their entry points of the groups ``tokengym.tasks`` and so on.

A package is imported when one of its names is used.
"""

from importlib.metadata import entry_points
from typing import Any, Literal

from tokengym.envs.errors import SettingsError

Group = Literal["tasks", "rewards", "scorers", "agents"]


def plugin_names(group: Group) -> list[str]:
    """Return the names that installed packages declare in a group, without importing them."""
    return sorted(entry_points(group=f"tokengym.{group}").names)


def load_plugin(group: Group, name: str) -> Any | None:
    """Return what an installed package declares under a name; None if none does.

    Raises:
        SettingsError: if two packages declare it, or it cannot be imported.
    """
    found = list(entry_points(group=f"tokengym.{group}", name=name))
    if not found:
        return None
    packages = [entry.dist.name if entry.dist else entry.value for entry in found]
    if len(found) > 1:
        raise SettingsError(
            f"{name!r} of tokengym.{group} is declared by {' and by '.join(sorted(packages))}; "
            "uninstall one of them"
        )
    try:
        return found[0].load()
    except Exception as error:
        raise SettingsError(
            f"{name!r} of tokengym.{group} in {packages[0]} cannot be imported: "
            f"{type(error).__name__}: {error}"
        ) from error
