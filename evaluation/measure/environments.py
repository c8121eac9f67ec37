"""Environments by the word that a user types: an id, a task's bare name, or "file.py:make_env"."""

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium

from tokengym.base.bundle import Bundle
from tokengym.base.errors import BundleError, SettingsError
from tokengym.base.own_code import code_hash, running_user_code
from tokengym.base.registry import Registry, Spec, did_you_mean, split_file_word
from tokengym.envs.tasks import LABORATORY, TASKS, Task, register_task
from tokengym.envs.tasks.task import VERSION, task_name_of
from tokengym.rewards.registry import RewardChoice

FILES: Registry[Any] = Registry("env", from_files=True)
"""Takes apart and loads environments of files of the user's own; none is registered."""
DEFAULT_ENV = "MovieReview"
OWN_ENV = "TokenGeneration"
"""Environment of prompts and a scorer of the user's own: whole prompts, responses of any length."""


def env_word(name: str) -> Spec:
    """Return an environment's word taken apart; an id has no options."""
    return FILES.parse(name) if split_file_word(name) else Spec(name, name)


def task_name(env: str | Spec) -> str:
    """Return the task's name in an environment's id or word.

    Example:
        >>> task_name("tokengym/MovieReview-v0")
        'MovieReview'
    """
    word = env_word(env) if isinstance(env, str) else env
    if word.file is not None:
        return f"{word.file.stem}.{word.name}"
    return task_name_of(word.text)


OWN_PARTS = {
    "dataset": "prompts",
    "prompts": "prompts",
    "scorer": "scorer",
    "reward_model": "reward model",
    "encoder": "encoder",
    "reward": "reward",
}
"""Arguments of ``gym.make_vec`` that bring something of the user's own, in words."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The environment of a run, and why it is that one."""

    env: str | Spec
    """Its id, its task's bare name, or the word of a file."""
    why: str
    """What decided it, in words."""


def decide_env(
    name: str | Spec | None = None,
    bundle: Bundle | Path | str | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
) -> Decision:
    """Return the environment that follows from what was given; nothing else chooses one.

    ``name`` is its id, its task or "file.py:make_env"; ``bundle`` a bundle, its name or folder;
    ``env_kwargs`` what is known of the arguments of ``gym.make_vec``.

    Example:
        >>> decide_env(env_kwargs={"dataset": "mine.csv", "reward_model": "models/judge"}).why
        'own prompts and own reward model'
    """
    if name is not None:
        return Decision(env=name, why="named")
    if bundle:
        if made_for := _env_of_bundle(bundle):
            return Decision(env=made_for, why="the task of the bundle")
        return Decision(env=DEFAULT_ENV, why="the bundle names no task")
    if is_own_task(env_kwargs or {}):
        return Decision(env=OWN_ENV, why=" and ".join(_own_parts(env_kwargs or {})))
    if brings_prompts(env_kwargs or {}):
        return Decision(env=DEFAULT_ENV, why="own prompts, and no scorer or reward model to them")
    return Decision(env=DEFAULT_ENV, why="nothing names another")


def _env_of_bundle(bundle: Bundle | Path | str) -> str | None:
    """Return the environment that a bundle names, or the task whose own it is."""
    with suppress(BundleError):  # whoever makes the environment says what is wrong
        given = Bundle.of(bundle)
        if given.env:
            return given.env
        for task in TASKS.values():
            if task.bundle is not None and not task.needs_prompts:
                if given.path.resolve() == task.own_bundle().path.resolve():
                    return task.id
    return None


def _own_parts(env_kwargs: Mapping[str, Any]) -> list[str]:
    """Return what is the user's own, in words."""
    given = [name for name in OWN_PARTS if env_kwargs.get(name) is not None]
    if "reward" in given and RewardChoice.of(env_kwargs["reward"]).kind is not None:
        given.remove("reward")  # a rule, which has no scorer of its own
    return list(dict.fromkeys(f"own {OWN_PARTS[name]}" for name in given))


def resolve_env(
    name: str | Spec | None = None,
    bundle: Bundle | Path | str | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
) -> str:
    """Return the full id of an environment named by its id, its task, or "file.py:make_env".

    Args:
        name: None takes the environment that `decide_env` returns for the rest.
        bundle: A bundle, its name or folder; "" or None for none.
        env_kwargs: What is known of the arguments of ``gym.make_vec``.

    Raises:
        ValueError: if there is none, with the near matches.

    Example:
        >>> resolve_env("MovieReview"), resolve_env(bundle="smollm2-answers")
        ('tokengym/MovieReview-v0', 'tokengym/QuestionAnswer-v0')
    """
    name = decide_env(name, bundle, env_kwargs).env
    word, name = (None, name) if isinstance(name, str) else (name, name.text)
    is_ours = name.startswith("tokengym/")
    if name in gymnasium.registry and (not is_ours or _is_installed(name)):
        if str(gymnasium.spec(name).entry_point).startswith("gymnasium.envs."):
            raise ValueError(
                f"{name} is one of Gymnasium's own environments, and tokengym's learners write "
                "texts; `tokengym envs` lists those for texts, stable_baselines3 learns the others"
            )
        return name
    word = word or env_word(name)
    if word.file is not None:
        return env_of_file(word)
    if "/" in name and not is_ours:
        return name
    ids = env_ids()
    bare = name.removeprefix("tokengym/")
    versions = [i for i in ids if f"tokengym/{bare}" in (i, VERSION.sub("", i))]
    if versions:
        return max(versions, key=_version)
    tasks = {VERSION.sub("", i).removeprefix("tokengym/").lower(): i for i in ids}
    hint = did_you_mean(VERSION.sub("", bare).lower(), tasks, cutoff=0.5, shown=tasks)
    raise ValueError(f"unknown environment {name!r}; {hint}known: {', '.join(ids)}")


def names_env(text: str) -> bool:
    """Return whether a text is an environment's id or a task's bare name.

    Example:
        >>> names_env("MovieReview"), names_env("tokengym/MovieReview-v0"), names_env("ppo")
        (True, True, False)
    """
    names = {*gymnasium.registry, *(VERSION.sub("", one) for one in gymnasium.registry)}
    return not names.isdisjoint((text, f"tokengym/{text}"))


def brings_prompts(env_kwargs: Mapping[str, Any]) -> bool:
    """Return whether prompts are the user's own."""
    return any(env_kwargs.get(name) is not None for name in ("dataset", "prompts"))


def is_own_task(env_kwargs: Mapping[str, Any]) -> bool:
    """Return whether prompts and scorer are both the user's own, which no gold score is true of.

    A scorer, a reward model, an encoder or a reward that is a scorer itself are alike in this.
    """
    return brings_prompts(env_kwargs) and len(_own_parts(env_kwargs)) > 1


def env_ids() -> list[str]:
    """Return the ids of tokengym's environments, without those that are not installed."""
    ids = sorted(name for name in gymnasium.registry if name.startswith("tokengym/"))
    return list(filter(_is_installed, ids))


def _is_installed(env_id: str) -> bool:
    name = task_name_of(env_id)
    return name not in LABORATORY or TASKS.knows(name)


def _version(env_id: str) -> int:
    match = VERSION.search(env_id)
    return int(match.group(1)) if match else -1


def env_of_file(word: Spec) -> str:
    """Return the id by which Gymnasium makes the environments of "file.py:make_env".

    The object is a `Task`, or a function that returns a batch of environments:
    ``make_env(num_envs, **options)``, where ``options`` are those of ``gym.make_vec``.
    """
    assert word.file is not None
    make = FILES.find(word)
    if isinstance(make, Task):
        return register_task(make).id
    if not callable(make):
        raise SettingsError(
            f"env {word} must be a Task or a function make_env(num_envs, **options), got {make!r}"
        )
    name = re.sub(r"[^\w.-]", "_", f"{word.file.stem}.{word.text.partition('.py:')[2]}")
    env_id = f"own/{name}-{code_hash(word.file)[:8]}-v0"
    if env_id not in gymnasium.registry:
        gymnasium.register(
            env_id,
            entry_point=partial(_refuse_single, word.text),
            vector_entry_point=partial(_make_batch, word, partial(make, **word.options)),
        )
    return env_id


def _make_batch(word: Spec, make: Callable[..., Any], **options: Any) -> Any:
    with running_user_code(f"env {word} cannot be made", word.file):
        return make(**options)


def _refuse_single(text: str, **options: Any) -> gymnasium.Env[Any, Any]:
    del options
    raise SettingsError(f"env {text} is made in batches; call gymnasium.make_vec, not make")
