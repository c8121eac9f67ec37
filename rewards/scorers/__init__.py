"""Scorers, one file per scorer; each registers there under the name that users write."""

import inspect

from tokengym.base.registry import Spec, name_of
from tokengym.base.settings import names_of
from tokengym.rewards.scorers.base import SCORERS, FunctionScorer, Scorer, as_scorer
from tokengym.rewards.scorers.calls import CallSettings


def scorer_names() -> list[str]:
    """Return the names of scorers, those of installed packages included."""
    return SCORERS.names()


def find_scorer(text: str | Spec) -> Scorer | None:
    """Return the scorer of a name with options or of a file; None for a folder or hub name.

    Options of a function of a file that are those of its calls, "score.py:f:on_error=skip", say how
    it is called; a function that takes options itself makes the scorer.
    """
    word = name_of(text) if isinstance(text, str) else text
    if not SCORERS.knows(word):
        return None
    spec = SCORERS.parse(text)
    if spec.file and spec.options and {*spec.options} <= {*names_of(CallSettings)}:
        function = SCORERS.load(spec)
        if inspect.isfunction(function) and spec.options.keys().isdisjoint(
            inspect.signature(function).parameters
        ):
            return FunctionScorer(function, **spec.options)
    return as_scorer(SCORERS.make(spec))
