"""Things that users name, found by that name: tasks, rewards, scorers, learners and their parts."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from importlib import import_module
from typing import Any


def did_you_mean(name: str, known: Iterable[str], *, n: int = 2, cutoff: float = 0.6) -> str:
    """Return a sentence with the near matches of a name, and a space after it; "" without any.

    Example:
        >>> did_you_mean("abd", ["abc", "red"]), did_you_mean("sparse", ["red"])
        ("did you mean 'abc'? ", '')
    """
    near = difflib.get_close_matches(name, list(known), n=n, cutoff=cutoff)
    return f"did you mean {' or '.join(map(repr, near))}? " if near else ""


def imported(place: str) -> Any:
    """Import and return what ``module:name`` names.

    What only some runs need is reached this way: a GPU's decoding, the training of rewards,
    learners that sample and rank. Naming it loads nothing.
    """
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)
