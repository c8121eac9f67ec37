"""Scorers, one file per scorer; each registers there under the name that users write."""

from tokengym.base.registry import Spec, name_of
from tokengym.rewards.scorers.base import SCORERS, Scorer, as_scorer


def scorer_names() -> list[str]:
    """Return the names of scorers, those of installed packages included."""
    return SCORERS.names()


def find_scorer(text: str | Spec) -> Scorer | None:
    """Return the scorer of a name with options or of a file; None for a folder or hub name."""
    word = name_of(text) if isinstance(text, str) else text
    if SCORERS.knows(word):
        return as_scorer(SCORERS.make(text))
    return None
