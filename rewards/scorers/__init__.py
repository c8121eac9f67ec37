"""Scorers, one file per scorer; each registers there under the name that users write."""

from tokengym.base.registry import Spec, name_of
from tokengym.rewards.scorers.base import SCORERS, Scorer, as_scorer


def scorer_names() -> list[str]:
    """Return the names of scorers, those of installed packages included."""
    return SCORERS.names()


def find_scorer(text: str | Spec) -> Scorer | None:
    """Return the scorer of a name with options, of an installed package, or of a file.

    Args:
        text: "length-penalty:rate=0.01", "reward-model:path=models/judge", "file.py:name".

    Returns:
        The scorer; None where the text is no such name (it may be a folder's, or a hub's).

    Raises:
        RewardError: if an option is unknown, or the file has no such object.
    """
    word = name_of(text) if isinstance(text, str) else text
    if SCORERS.knows(word):
        return as_scorer(SCORERS.make(text))
    return None
