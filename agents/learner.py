"""Learners by name: the declaration that ``--agent NAME`` finds, and how one run of it is made.

A learner is declared by one `Learner` in ``settings.py`` of its folder, where it is found; its
``settings`` are its command-line options, its entry in a run's saved configuration and its
constructor's keywords. Elsewhere, `register_learner` is called before the learner is named.
Nothing here imports torch: naming a learner is cheap, training it loads what it needs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from tokengym.base.errors import SettingsError
from tokengym.base.registry import Registry, imported
from tokengym.base.user_code import running_user_code
from tokengym.base.words import split_file_word

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv

    from tokengym.agents.rollouts import playing

Agent = TypeVar("Agent", bound="SavedAgent")

BY_ROUNDS = "tokengym.agents.algorithm:EpisodicAlgorithm"
TRAIN_BY_ROUNDS = "tokengym.agents.training:train"
TEACH = "tokengym.agents.training:teach"


class SavedAgent(Protocol):
    """A learner that can be resumed from the folder it was saved in."""

    num_timesteps: int
    """Response tokens sampled so far."""

    def save(self, path: Path) -> None:
        """Write the learner's whole state."""


class TrainingRun(Protocol):
    """One run, as a learner sees it; `tokengym.evaluation.runs.run` makes it."""

    settings: Any
    """The learner's own settings, an instance of its `Learner.settings`."""
    training: Any
    """Settings of the run: ``steps``, ``batch_size``, ``max_new_tokens``, ``device``, ..."""
    seed: int
    """Seed of everything random."""
    folder: Path | None
    """Folder for files that the learner keeps while it trains; None keeps none."""
    eval_every: int
    """Updates between two measurements."""

    @property
    def updates(self) -> int:
        """Updates made so far, those before a resumption included."""

    @property
    def configuration(self) -> Mapping[str, Any]:
        """What decides the numbers of the run, by name; the length of its training is left out."""

    def make_envs(self, num_envs: int, *, normalize: bool = False) -> VectorEnv[Any, Any, Any]:
        """Return the task's training environments under the run's reward.

        Args:
            num_envs: Number of rows.
            normalize: Centre the scores as the run's settings say; otherwise they are raw.
        """

    def policy_kwargs(self) -> dict[str, Any]:
        """Return the run's ``model``, ``lora`` and ``dtype``, as `CausalLMPolicy` takes them."""

    def resume(self, load: Callable[[Path], Agent]) -> Agent | None:
        """Return the learner of the run's checkpoint; None if training begins anew.

        A learner that calls this is saved after measurements, where the caller of the run wants
        checkpoints.

        Args:
            load: Returns the learner that was saved in a folder.
        """

    def measure(self, step: int, tokens: int | Callable[[], int], agent: playing.Agent) -> None:
        """Evaluate the agent on held-out prompts and add a point to the learning curve.

        Args:
            step: Position on the curve, in the learner's own unit.
            tokens: Response tokens processed so far: sampled, and passed over with gradient; a
                function is called after the evaluation.
            agent: The agent.
        """

    def state(self) -> Mapping[str, Any]:
        """Return the measurements so far as plain data, for a learner that keeps them itself."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over the measurements that `state` returned in an earlier run."""

    def log(self, step: int, row: Mapping[str, Any]) -> None:
        """Keep one row of the learner's log, by the names of Stable-Baselines3."""


@dataclass(frozen=True, kw_only=True)
class Learner:
    """Declaration of a learner.

    Example: see ``agents/ppo/settings.py``.
    """

    name: str
    """Name that ``--agent`` takes."""
    summary: str
    """One line for ``--help``."""
    settings: type
    """Frozen dataclass of its settings."""
    algorithm: str | type = ""
    """Subclass of `EpisodicAlgorithm` that learns by rounds, or its place as ``module:Class``."""
    train: str | Callable[[TrainingRun], Any] = ""
    """In place of ``algorithm``, a function that trains one agent, or its place as
    ``module:function``: ``function(run: TrainingRun) -> agent``. None in place of an agent means
    that there is nothing to save."""
    check: str = ""
    """``module:function`` that refuses settings which cannot work, before any run begins:
    ``function(settings, batch_size)``; empty where the dataclass refuses them all."""
    uses_credit: bool = False
    """Learns from the token rewards of the batches it plays, so that rewards can be compared, and
    the run's ``steps``, ``batch_size`` and ``normalize`` matter; else from whole scores alone."""
    steps_setting: str = "steps"
    """Setting with the last step of the learning curve, the run's or the learner's own."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Settings that the name stands for; another value is refused."""
    idle: tuple[str, ...] = ()
    """Settings that have no effect, which are then no options of the command line."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Defaults that differ from those of ``settings``."""
    prompts_setting: str = ""
    """Setting with the number of prompts that a round of it answers, where it collects data."""
    takes_budget: bool = True
    """Whether its training can end at a number of tokens."""

    @cached_property
    def _default_settings(self) -> Any:
        return self.settings(**self.defaults, **self.fixed)

    def default_settings(self) -> Any:
        """Return the settings of a run that changes none."""
        return self._default_settings

    def load(self) -> Callable[[TrainingRun], Any]:
        """Import and return the function that trains."""
        if self.algorithm:
            return partial(imported(TRAIN_BY_ROUNDS), algorithm=self.algorithm_class())
        return self.train if callable(self.train) else imported(self.train)

    def algorithm_class(self) -> Any:
        """Import and return the class that learns by rounds."""
        return imported(self.algorithm) if isinstance(self.algorithm, str) else self.algorithm

    def check_settings(self, settings: Any, batch_size: int) -> None:
        """Refuse settings that cannot work.

        Raises:
            ValueError: naming the setting and the remedy.
        """
        if self.check:
            imported(self.check)(settings, batch_size)


def register_learner(learner: Learner) -> Learner:
    """Make a learner known by its name."""
    return LEARNERS.register(learner.name, learner)


def find_learner(name: str) -> Learner:
    """Return the learner of that name, or of "path/to/file.py:MyAgent".

    A file or an installed package names a `Learner`, a subclass of `EpisodicAlgorithm`, or an agent
    with ``predict``, which learns if it has ``learn(episodes)`` and is otherwise only played.

    Raises:
        ValueError: if there is none, with the near matches, or the object is neither.
    """
    return LEARNERS.find(name)


def _load(name: str | None) -> None:
    """Import the declarations of all learners of tokengym, whichever is asked for."""
    for path in sorted(Path(__file__).parent.glob("*/settings.py")):
        import_module(f"tokengym.agents.{path.parent.name}.settings")


def _as_learner(name: str, made: Any) -> Learner:
    """Return the declaration of an object of the user's under the name that found it."""
    if isinstance(made, Learner):
        return replace(made, name=name)
    summary = (made.__doc__ or "").partition("\n")[0]
    if isinstance(made, type) and issubclass(made, imported(BY_ROUNDS)):
        return Learner(
            name=name,
            summary=summary,
            settings=made.settings_class,  # type: ignore[attr-defined]
            algorithm=made,
            uses_credit=True,
        )
    _check_plays(name, made)
    learns = _learns(made)
    return Learner(
        name=name,
        summary=summary,
        settings=NoSettings,
        train=partial(_teach if learns else _play, name=name, made=made),
        uses_credit=learns,
    )


LEARNERS: Registry[Learner] = Registry(
    "agent", group="agents", from_files=True, adopt=_as_learner, import_names=_load
)
"""All learners by name."""


def _check_plays(name: str, made: Any) -> None:
    """Refuse an object of the user's that cannot be played."""
    if not callable(getattr(made, "predict", None)):
        raise SettingsError(
            f"agent {name} must be a subclass of EpisodicAlgorithm, a Learner, or have a method "
            f"predict(observation, state, episode_start, deterministic), got {made!r} without one"
        )


def _learns(made: Any) -> bool:
    """Return whether an agent has ``learn(episodes)``; other libraries' ``learn`` takes steps."""
    learn = getattr(made, "learn", None)
    return callable(learn) and "episodes" in inspect.signature(learn).parameters


def own_player(name: str, made: Any, envs: Any, *, seed: int | None = None) -> Any:
    """Return the agent that "path/to/file.py:MyAgent" stands for, which needs only ``predict``.

    Args:
        name: What the user wrote.
        made: The object of that name: an agent, or a class, which is called with the environments
            if its constructor needs an argument, and with ``seed=`` if it takes one.
        envs: The environments that it is to play.
        seed: The seed.

    Raises:
        SettingsError: if it has no ``predict``, or its constructor needs more.
    """
    _check_plays(name, made)
    if not isinstance(made, type):
        return made
    parameters = inspect.signature(made).parameters
    seeds = {"seed": seed} if seed is not None and "seed" in parameters else {}
    required = [
        parameter.name
        for parameter in parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and parameter.name not in seeds
    ]
    if len(required) > 1:
        raise SettingsError(
            f"agent {name} is called with the environments alone, but its constructor needs "
            f"{', '.join(required)}; give the others a default"
        )
    file_word = split_file_word(name)
    with running_user_code(f"agent {name} cannot be made", file_word and file_word[0]):
        return made(envs, **seeds) if required else made(**seeds)


@dataclass(frozen=True, kw_only=True)
class NoSettings:
    """Settings of an agent that has none."""


def _play(run: TrainingRun, *, name: str, made: Any) -> None:
    """Measure an agent that does not learn, at both ends of its curve."""
    envs = run.make_envs(1, normalize=False)
    agent = own_player(name, made, envs, seed=run.seed)
    run.measure(0, 0, agent)
    run.measure(run.training.last_step, run.training.tokens or 0, agent)
    envs.close()


def _teach(run: TrainingRun, *, name: str, made: Any) -> Any:
    """Train an agent that has ``learn(episodes)``."""
    return imported(TEACH)(run, name, made)
