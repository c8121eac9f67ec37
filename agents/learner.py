"""Learners by name: what ``--agent NAME`` finds, and how one run of it is made.

A learner is declared in the folder of its algorithm by one `Learner`, whose ``settings`` are
its command-line flags, its entry in a run's saved configuration and its constructor's keywords.
Nothing here imports torch: naming a learner is cheap, training it loads what it needs.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv


class TrainingRun(Protocol):
    """What a learner is given to train with; `tokengym.evaluation.runs` makes it."""

    settings: Any
    """The learner's own settings, an instance of its `Learner.settings`."""
    seed: int
    """Seeds everything random."""
    folder: Path | None
    """Folder for what the learner keeps while it trains; None keeps nothing."""

    def make_envs(self, num_envs: int, *, normalize: bool) -> VectorEnv[Any, Any, Any]:
        """Return the task's training environments under the run's reward."""

    def policy_kwargs(self) -> dict[str, Any]:
        """Return the run's ``model``, ``lora`` and ``dtype``, as `CausalLMPolicy` takes them."""

    def measure(self, step: int, tokens: int, agent: Any) -> None:
        """Evaluate the agent on held-out prompts and add a point to the learning curve."""


@dataclass(frozen=True, kw_only=True)
class Learner:
    """Declaration of a learner.

    Example: see ``agents/ppo/settings.py``.
    """

    name: str
    """As ``--agent`` and ``--agents`` take it."""
    summary: str
    """One line for ``--help``."""
    settings: type
    """Frozen dataclass of its settings."""
    train: str
    """``module:function`` that trains one agent: ``function(run: TrainingRun) -> agent``."""
    steps_are: str = "updates"
    """Unit of the learning curve's steps."""

    def load(self) -> Callable[[TrainingRun], Any]:
        """Import and return the function that trains."""
        module, _, function = self.train.partition(":")
        loaded: Callable[[TrainingRun], Any] = getattr(import_module(module), function)
        return loaded


_LEARNERS: dict[str, Learner] = {}

DECLARED_IN = (
    "tokengym.agents.ppo.settings",
    "tokengym.agents.offline.settings",
    "tokengym.agents.online.settings",
)
"""Modules that declare the learners that ship."""


def register_learner(learner: Learner) -> Learner:
    """Make a learner known by its name."""
    _LEARNERS[learner.name] = learner
    return learner


def learner_names() -> list[str]:
    """Return the names of all learners."""
    for module in DECLARED_IN:
        import_module(module)
    return list(_LEARNERS)


def find_learner(name: str) -> Learner:
    """Return the learner of that name.

    Raises:
        ValueError: if there is none, with the near matches.
    """
    known = learner_names()
    if name in _LEARNERS:
        return _LEARNERS[name]
    near = difflib.get_close_matches(name, known, n=2)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    raise ValueError(f"unknown agent {name!r}; {hint}known: {', '.join(known)}")
