"""Interfaces that training requires of its run, and of an agent of the user's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from tokengym.base.errors import SettingsError
from tokengym.base.own_code import running_user_code
from tokengym.base.registry import split_file_word

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv

    from tokengym.agents.rollouts import playing

Agent = TypeVar("Agent")


@dataclass(frozen=True, kw_only=True)
class Update:
    """State of a training after one update, or before the first."""

    step: int
    """Position on the learning curve, in the learner's own unit: updates, epochs, iterations."""
    tokens: int | Callable[[], int]
    """Response tokens processed so far: sampled, and passed over with gradient. A function is
    called after the evaluation."""
    agent: playing.Agent
    """The agent as it is now."""
    figures: Mapping[str, Any] = field(default_factory=dict)
    """The learner's log of the update, by the names of `Learner.logged`."""
    settled: Mapping[str, Any] = field(default_factory=dict)
    """Settings that were left open, by name, as the learner decided them; run.json keeps them."""
    log: Sequence[tuple[int, Mapping[str, Any]]] = ()
    """The log since the last one of a learner that makes several steps in one update: each step's
    number, with the like figures."""
    save: Callable[[Path], object] | None = None
    """How the agent is saved into a folder, where its own ``save`` would not write one."""

    @property
    def saves(self) -> Callable[[Path], object] | None:
        """How the agent is saved; None if it cannot be, as one that is only played."""
        own = getattr(self.agent, "save", None)
        return self.save or (own if callable(own) else None)


class TrainingRun(Protocol):
    """One run, as a learner sees it; see `tokengym.evaluation.runs.training.Training`."""

    settings: Any
    """The learner's own settings, an instance of its `Learner.settings`."""
    training: Any
    """Settings of the run: ``steps``, ``batch_size``, ``max_new_tokens``, ``device``, ..."""
    seed: int
    """Seed of everything random."""
    folder: Path | None
    """Folder for files that the learner keeps while it trains; None keeps none."""

    @property
    def updates(self) -> int:
        """Updates made so far, those before a resumption included."""

    @property
    def configuration(self) -> Mapping[str, Any]:
        """Settings that determine the run's numbers, by name, without the training's length."""

    def make_envs(self, num_envs: int, *, normalize: bool = False) -> VectorEnv[Any, Any, Any]:
        """Return the task's training environments, a batch of rows, under the run's reward.

        With ``normalize`` the scores are centred as the run's settings say; otherwise they are raw.
        """

    def policy_kwargs(self) -> dict[str, Any]:
        """Return the run's model, adapters and arithmetic, as `CausalLMPolicy` takes them."""

    def resume(self, load: Callable[[Path], Agent]) -> Agent | None:
        """Return the learner that ``load`` reads from the run's checkpoint; None if there is none.

        A learner that calls this is saved after measurements, where the caller of the run wants
        checkpoints.
        """

    def state(self) -> Mapping[str, Any]:
        """Return the measurements so far as plain data, for a learner that keeps them itself."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over the measurements that `state` returned in an earlier run."""

    def follow(self, update: Update) -> bool:
        """Log, measure and keep the agent of an update; return whether the run ends here.

        For a training that calls back and so cannot yield: its callback calls this.
        """

    def untimed(self) -> AbstractContextManager[None]:
        """Take what the block does off the run's time: it measures and trains nothing."""


def check_plays(name: str, made: Any) -> None:
    """Refuse an object of the user's that cannot be played, or a class that cannot be called."""
    if not callable(getattr(made, "predict", None)):
        raise SettingsError(
            f"agent {name} must be a subclass of EpisodicAlgorithm, a Learner, or have a method "
            f"predict(observation, state, episode_start, deterministic), got {made!r} without one"
        )
    if len(required := _required(made)) > 1:
        raise SettingsError(
            f"agent {name} is called with the environments alone, but its constructor needs "
            f"{', '.join(required)}; give the others a default"
        )


STEPS = ("total_timesteps", "timesteps", "num_timesteps", "total_steps", "num_steps", "steps")
"""First arguments of other libraries' ``learn``, which is not called with episodes."""


def learns_from_episodes(name: str, made: Any) -> bool:
    """Return whether an agent of the user's has ``learn``, which takes episodes by position."""
    learn = getattr(made, "learn", None)
    if not callable(learn):
        return False
    parameters = list(inspect.signature(learn).parameters.values())
    if isinstance(made, type) and inspect.isfunction(inspect.getattr_static(made, "learn")):
        parameters = parameters[1:]  # self
    names = [parameter.name for parameter in parameters]
    try:
        inspect.Signature(parameters).bind("the episodes")
        takes_episodes = names[0] not in STEPS
    except TypeError:
        takes_episodes = False
    if not takes_episodes:
        raise SettingsError(
            f"agent {name} cannot be trained by learn({', '.join(names)}): learn is called with "
            "the episodes of a batch, and nothing else; write learn(self, episodes), or name a "
            "class of Stable-Baselines3, which is given steps"
        )
    return True


def _required(made: Any) -> list[str]:
    """Return the arguments, beside ``seed``, that the constructor of an agent's class needs."""
    parameters = inspect.signature(made).parameters.values() if isinstance(made, type) else ()
    return [
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and parameter.name != "seed"
    ]


def make_own_agent(name: str, made: Any, envs: Any, *, seed: int = 0) -> Any:
    """Return the agent that "path/to/file.py:MyAgent" stands for, which needs only ``predict``.

    A class is called with the environments if its constructor needs an argument, and with ``seed=``
    if it takes one.
    """
    check_plays(name, made)
    if not isinstance(made, type):
        return made
    seeds = {"seed": seed} if "seed" in inspect.signature(made).parameters else {}
    file_word = split_file_word(name)
    with running_user_code(f"agent {name} cannot be made", file_word and file_word[0]):
        return made(envs, **seeds) if _required(made) else made(**seeds)
