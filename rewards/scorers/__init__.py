"""Scorers, one file per scorer; each registers there under the name that users write."""

from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from tokengym.rewards.naming import check_options, load_own, parse_options, split_own
from tokengym.rewards.scorers.base import SCORERS, Scorer, as_scorer


def scorer_names() -> list[str]:
    """Return the names of scorers, which are those of their files."""
    own = [module.name.replace("_", "-") for module in iter_modules(__path__)]
    for name in own:
        _load(name)
    return sorted(SCORERS)


def find_scorer(text: str) -> Scorer | None:
    """Return the scorer of a name with options, or of a file of the user's own.

    Args:
        text: "length-penalty:rate=0.01", "reward-model:path=models/judge", "file.py:name".

    Returns:
        The scorer; None where the text is no such name (it may be a folder's, or a hub's).

    Raises:
        RewardError: if an option is unknown, or the file has no such object.
    """
    if own := split_own(text):
        path, name, options = own
        made, keywords = load_own(path, name), parse_options(text, options, what="scorer")
        if isinstance(made, type) or keywords:
            check_options(name, made, keywords, what="scorer")
            made = made(**keywords)
        return as_scorer(made)
    name, _, options = text.partition(":")
    _load(name)
    if name not in SCORERS:
        return None
    factory: Any = SCORERS[name]
    keywords = parse_options(text, options, what="scorer")
    check_options(name, factory, keywords, what="scorer")
    return as_scorer(factory(**keywords))


def _load(name: str) -> None:
    """Import the file in which a scorer of that name would register, if there is one."""
    module = "penalties" if name.endswith("-penalty") else name.replace("-", "_")
    if name not in SCORERS and any(found.name == module for found in iter_modules(__path__)):
        import_module(f"{__name__}.{module}")
