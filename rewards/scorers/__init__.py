"""Scorers, one file per scorer; each registers there under the name that users write."""

from pathlib import Path

from tokengym.base.plugins import missing_laboratory
from tokengym.base.registry import Spec, name_of
from tokengym.rewards.errors import ScorerError
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
        RewardError: if an option is unknown, the file has no such object, or the scorer is the
            laboratory's, which is not installed.
    """
    word = name_of(text) if isinstance(text, str) else text
    if SCORERS.knows(word):
        return as_scorer(SCORERS.make(text))
    name = word if isinstance(word, str) else word.name
    if (missing := missing_laboratory("scorers", name)) and not Path(name).exists():
        raise ScorerError(f"scorer {missing}")
    return None
