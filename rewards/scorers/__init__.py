"""Scorers, one file per scorer; each registers there under the name that users write."""

from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from tokengym.envs.tasks.plugins import plugin_names
from tokengym.rewards.naming import (
    build,
    check_options,
    find_object,
    parse_options,
    split_name,
)
from tokengym.rewards.scorers.base import SCORERS, Scorer, as_scorer


def scorer_names() -> list[str]:
    """Return the names of scorers, those of installed packages included."""
    for module in iter_modules(__path__):
        _load(module.name.replace("_", "-"))
    return sorted({*SCORERS, *plugin_names("scorers")})


def find_scorer(text: str) -> Scorer | None:
    """Return the scorer of a name with options, of an installed package, or of a file.

    Args:
        text: "length-penalty:rate=0.01", "reward-model:path=models/judge", "file.py:name".

    Returns:
        The scorer; None where the text is no such name (it may be a folder's, or a hub's).

    Raises:
        RewardError: if an option is unknown, or the file has no such object.
    """
    name, options = split_name(text)
    _load(name)
    factory: Any = SCORERS.get(name)
    made = find_object("scorers", name) if factory is None else None
    if factory is None and made is None:
        return None
    keywords = parse_options(text, options, what="scorer")
    if factory is None:
        return as_scorer(build(made, name, keywords, what="scorer"))
    check_options(name, factory, keywords, what="scorer")
    return as_scorer(factory(**keywords))


def _load(name: str) -> None:
    """Import the file in which a scorer of that name would register, if there is one."""
    module = "penalties" if name.endswith("-penalty") else name.replace("-", "_")
    if name not in SCORERS and any(found.name == module for found in iter_modules(__path__)):
        import_module(f"{__name__}.{module}")
