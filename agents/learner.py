"""Learners by name: the declaration that ``--agent NAME`` finds, and how one run of it is made.

A learner is declared by one `Learner` in ``declaration.py`` of its folder, where it is found; its
``settings`` are its command-line options, its entry in a run's saved configuration and its
constructor's keywords. Elsewhere, `register_learner` is called before the learner is named.
Nothing here imports torch: naming a learner is cheap, training it loads what it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from inspect import cleandoc
from numbers import Real
from pathlib import Path
from typing import Any

from tokengym.agents.contract import TrainingRun, Update, check_plays, learns_from_episodes
from tokengym.base.errors import SettingsError, UntrustedCodeError
from tokengym.base.objects import place_of
from tokengym.base.registry import Registry, imported, split_file_word
from tokengym.base.settings import values_by_name

OF_MODEL = ("lora_rank", "lora_targets", "dtype", "precision", "products")
"""Settings of a run that its language model has, which an agent of another kind has not."""
ROUND_LOG = {
    "rollout/score": "score",
    "train/kl": "kl",
    "train/kl_sampled": "kl_sampled",
    "rollout/ep_len_mean": "length",
    "train/entropy": "entropy",
    "train/policy_gradient_loss": "policy_loss",
    "train/value_loss": "value_loss",
    "train/approx_kl": "approx_kl",
    "train/clip_fraction": "clip_fraction",
    "train/explained_variance": "explained_variance",
    "train/ratio_error": "ratio_error",
    "train/grad_norm": "grad_norm",
    "train/kl_coef": "kl_coef",
    "train/learning_rate": "learning_rate",
    "train/gae_lambda": "gae_lambda",
    "rollout/unscored": "unscored",
    "time/rollout_s": "rollout_s",
    "time/score_s": "score_s",
    "time/assign_s": "assign_s",
    "time/update_s": "update_s",
}
"""Log of a learner by rounds, see `Learner.logged`."""
UNKEPT = {
    *("rollout/captured", "rollout/ep_rew_mean", "rollout/success_rate", "train/clip_range"),
    *("train/entropy_loss", "train/groups_kept", "train/log_prob_gap", "train/loss"),
    *("train/n_updates", "train/steps_skipped"),
}
"""Entries of that log that no run keeps, beside those of time."""


def own_columns(logged: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures that a learner logs beside those of this package, by their columns.

    Example:
        >>> own_columns({"train/kl": 0.1, "train/loss": 2.0, "train/mine": 7.0, "time/fps": 3})
        {'mine': 7.0}
    """
    others = {
        key: float(value)
        for key, value in logged.items()
        if key not in ROUND_LOG and key not in UNKEPT and not key.startswith("time/")
        if isinstance(value, Real)
    }
    names = {key: key.removeprefix("train/") for key in others}
    taken = {"credit", "seed", "step", "tokens", "episodes", *ROUND_LOG.values()}
    return {key if (name := names[key]) in taken else name: others[key] for key in others}


@dataclass(frozen=True, kw_only=True)
class Learner:
    """Declaration of a learner.

    Example: see ``agents/ppo/declaration.py``.
    """

    name: str
    """Name that ``--agent`` takes."""
    summary: str
    """One line for ``--help``."""
    settings: type
    """Frozen dataclass of its settings."""
    algorithm: str | type = ""
    """Subclass of `EpisodicAlgorithm` that learns by rounds, or its place as ``module:Class``."""
    updates: str | Callable[[TrainingRun], Iterator[Update]] = ""
    """In place of ``algorithm``, a generator that trains one agent, or its place as
    ``module:function``: ``function(run: TrainingRun) -> Iterator[Update]``. It yields before the
    first update and after each, or where training calls back gives ``run.follow`` the updates;
    where ``uses_credit`` the run ends it, else it ends by itself and every update is measured."""
    check: str | Callable[[Any, int], object] = ""
    """``module:function``, or itself, that refuses settings which cannot work, before any run
    begins: ``function(settings, batch_size)``; empty where the dataclass refuses them all."""
    uses_credit: bool = False
    """Learns from the token rewards of the batches it plays, so that rewards can be compared, and
    the run's ``steps``, ``batch_size`` and ``normalize`` matter; else from whole scores alone."""
    steps_setting: str = "steps"
    """Setting with the last step of the learning curve, the run's or the learner's own."""
    step_name: str = "update"
    """What a step of the learning curve is, in the singular."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Settings that the name stands for; another value is refused."""
    idle: tuple[str, ...] = ()
    """Settings that have no effect, which are then no options of the command line."""
    unused: tuple[str, ...] = ()
    """Settings of the run that have no effect on it, which are then refused."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Defaults that differ from those of ``settings``."""
    prompts_setting: str = ""
    """Setting with the number of prompts that a round of it answers, where it collects data."""
    is_frozen: bool = False
    """Whether it is only played: both ends of its curve are the same agent."""
    has_policy: bool = True
    """Whether it plays a policy of this package, of which rules can read ``log_probs``, ``entropy``
    and continuations."""
    takes_budget: bool = True
    """Whether its training can end at a number of tokens."""
    has_own_defaults: bool = False
    """Whether its settings have the same defaults on every task: a task's are for language
    models."""
    logged: Mapping[str, str] = field(default_factory=lambda: ROUND_LOG)
    """Entries of its log that a run keeps, as trackers name them, with their columns of
    train.csv."""

    def default_settings(self) -> Any:
        """Return the settings of a run that changes none."""
        return self.settings(**self.defaults, **self.fixed)

    def default_values(self) -> dict[str, Any]:
        """Return the values of these settings by name, without making them."""
        return {**values_by_name(self.settings), **self.defaults, **self.fixed}

    def train(self, run: TrainingRun) -> Iterator[Update]:
        """Train one agent; yield before the first update and after each, or call ``run.follow``."""
        if self.algorithm:
            by_rounds = imported("tokengym.agents.training:updates")
            yield from by_rounds(run, self.algorithm_class())
        else:
            yield from (self.updates if callable(self.updates) else imported(self.updates))(run)

    def algorithm_class(self) -> Any:
        """Import and return the class that learns by rounds."""
        return imported(self.algorithm) if isinstance(self.algorithm, str) else self.algorithm

    def columns(self, settings: Any) -> list[str]:
        """Return the columns of the data that functions among its settings read, by their names."""
        return self.algorithm_class().data_columns(settings) if self.algorithm else []

    def check_settings(self, settings: Any, batch_size: int) -> None:
        """Refuse settings that cannot work.

        Raises:
            ValueError: naming the setting and the remedy.
        """
        if self.check:
            (self.check if callable(self.check) else imported(self.check))(settings, batch_size)


def register_learner(learner: Learner) -> Learner:
    """Make a learner known by its name."""
    return LEARNERS.register(learner.name, learner)


def find_learner(name: str) -> Learner:
    """Return the learner of that name, or of "path/to/file.py:MyAgent" or "sb3:A2C".

    A file, a module or an installed package names a `Learner`, a subclass of `EpisodicAlgorithm`, a
    class of Stable-Baselines3 or sb3-contrib or a subclass of one, or an agent with ``predict``.
    That one learns if it has ``learn``, which is called with the episodes, whatever it calls them;
    without ``learn``, or as an agent of Stable-Baselines3 that is made already, it is only played.

    Raises:
        ValueError: if there is none, with the near matches, or the object is none of these or
            cannot be trained.
    """
    return LEARNERS.find(name)


def _load(name: str | None) -> None:
    """Import the declarations of all learners of tokengym, whichever is asked for."""
    for path in sorted(Path(__file__).parent.glob("*/declaration.py")):
        import_module(f"tokengym.agents.{path.parent.name}.declaration")


def _as_learner(name: str, made: Any) -> Learner:
    """Return the declaration of an object of the user's under the name that found it."""
    if isinstance(made, Learner):
        return replace(made, name=name)
    summary = cleandoc(made.__doc__ or "").partition("\n")[0]
    if isinstance(made, type) and issubclass(
        made, imported("tokengym.agents.algorithm:EpisodicAlgorithm")
    ):
        return Learner(
            name=name,
            summary=summary,
            settings=made.settings_class,  # type: ignore[attr-defined]
            algorithm=made,
            uses_credit=True,
        )
    base = imported("stable_baselines3.common.base_class:BaseAlgorithm")
    if isinstance(made, type) and issubclass(made, base):
        imported("tokengym.agents.sb3.making:check_reads_texts")(name, made)
        return Learner(
            name=name,
            summary=summary,
            settings=imported("tokengym.agents.sb3.making:settings_of")(made),
            updates=partial(_call, "tokengym.agents.sb3.training:updates", name=name, made=made),
            check=partial(_call, "tokengym.agents.sb3.making:check_makes", name=name, made=made),
            uses_credit=True,
            unused=("normalize", *OF_MODEL),
            has_own_defaults=True,
            has_policy=False,
        )
    check_plays(name, made)
    learns = not isinstance(made, base) and learns_from_episodes(name, made)
    kind = "train_own_agent" if learns else "play_own_agent"
    return Learner(
        name=name,
        summary=summary,
        settings=NoSettings,
        updates=partial(_call, f"tokengym.agents.training:{kind}", name=name, made=made),
        uses_credit=learns,
        unused=OF_MODEL,
        is_frozen=not learns,
        has_policy=hasattr(made, "sampler"),
    )


LEARNERS: Registry[Learner] = Registry(
    "agent",
    group="agents",
    from_files=True,
    adopt=_as_learner,
    import_names=_load,
    packages={"sb3": "stable_baselines3", "sb3_contrib": "sb3_contrib"},
)
"""All learners by name."""


def word_of(made: Any) -> str:
    """Return the word by which another process finds a learner, an agent or its class.

    Raises:
        SettingsError: if no other process can find it.

    Example:
        >>> from stable_baselines3 import A2C
        >>> word_of("grpo"), word_of(A2C)
        ('grpo', 'sb3:A2C')
    """
    if isinstance(made, str):
        return made
    if isinstance(made, Learner) and LEARNERS.get(made.name) is made:
        return made.name
    if str(getattr(made, "__module__", "")).startswith("tokengym."):
        name = getattr(made, "__name__", "").lower()
        same = (known for known in LEARNERS.names() if known.replace("-", "") == name)
        if (known := next(same, None)) is not None:
            return known
    if (place := place_of(made, LEARNERS.packages)) is not None:
        return place
    raise SettingsError(
        f"agent {made!r} cannot be found by other processes; define it in a file or module, or "
        "pass jobs=1"
    )


def check_saved_agents(
    words: Iterable[Any],
    source: Path | str,
    *,
    named: str | None = None,
    trust_code: bool = False,
) -> None:
    """Refuse learners of modules, which are imported, that only a saved folder names.

    Args:
        words: The words that were read in ``source``.
        source: Where they were read, for the message.
        named: A word of the caller's own, which may be imported.
        trust_code: Import all.

    Raises:
        UntrustedCodeError: naming the first.
    """
    for word in words if not trust_code else ():
        name = LEARNERS.parse(str(word)).without_options
        if split_file_word(name) or ":" not in name or name == named:
            continue
        if name.partition(":")[0] not in LEARNERS.packages:
            raise UntrustedCodeError(
                f"{source} names the agent {name}, for which a module is imported: only your own "
                "command or call, or trust_code=True, does that; read it first"
            )


@dataclass(frozen=True, kw_only=True)
class NoSettings:
    """Settings of an agent that has none."""


def _call(place: str, *arguments: Any, **named: Any) -> Any:
    """Call the function at a place, which is imported only now."""
    return imported(place)(*arguments, **named)
