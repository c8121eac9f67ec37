"""The registered environments: a task of `envs` under a reward of `rewards`.

Gymnasium imports the entry points by name when an environment is made, and they import torch and
transformers no sooner than that.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium.vector import VectorEnv

from tokengym.base.bundle import Split, check_split
from tokengym.base.errors import SettingsError
from tokengym.base.registry import did_you_mean, split_file_word
from tokengym.base.settings import accepts_settings, names_of
from tokengym.envs import TokenGenerationEnv, TokenGenerationVectorEnv
from tokengym.envs.tasks.task import TASKS, Task, TaskOptions, task_arguments
from tokengym.rewards.errors import RewardError
from tokengym.rewards.registry import (
    RewardChoice,
    RewardOptions,
    RewardSpec,
    load_scorer,
    make_reward,
)
from tokengym.rewards.reward import Reward
from tokengym.rewards.scorers import find_scorer
from tokengym.rewards.scorers.base import FunctionScorer, Scorer, as_scorer
from tokengym.rewards.scorers.wrappers import Normalization, WithAttribution, parse_normalization
from tokengym.rewards.wrappers import RewardWrapper, VectorRewardWrapper

AnyEnv = TokenGenerationEnv | TokenGenerationVectorEnv


@dataclass(frozen=True, kw_only=True)
class EnvReward(RewardOptions):
    """Options of ``gym.make`` and ``gym.make_vec`` that say what pays an environment's episodes."""

    reward: RewardSpec = None
    """None, a name, a reward, a credit, a scorer or a function of the response, the prompt and
    columns of the data; see `tokengym.rewards.make_reward`. Where the task has an exact score, a
    reward that needs a reward model's attribution redistributes that score by the attribution of
    the bundled model."""
    normalize: str | None = None
    """"running" centres and scales the score by all scores so far, "batch" (of ``gym.make_vec``)
    centres it by about the last ``num_envs``; options follow, see
    `tokengym.rewards.make_reward`."""


@accepts_settings(EnvReward, TaskOptions)
def make_env(task: str, *, split: Split = "train", **options: Any) -> gymnasium.Env[Any, Any]:
    """Return a task's environment with a reward; the entry point of ``gym.make``.

    Args:
        task: Name of a task.
        split: "train", "test" or "all" of the task's prompts or the data set.
        options: Fields of `EnvReward` (the task's own reward if none is named), of `TaskOptions`
            (where prompts and models come from) and arguments of the environment class (lengths,
            legal tokens, ends, rendering).

    Raises:
        TypeError: for an unknown option, with the near matches.
        TokenGymError: for an option that cannot work, before the first episode.
    """
    env, reward = _made(task, split, options)
    # The spec does not name the wrapper.
    return env if reward is None else RewardWrapper(env, reward, in_spec=False)


@accepts_settings(EnvReward, TaskOptions)
def make_vector_env(
    task: str, *, num_envs: int = 1, split: Split = "train", **options: Any
) -> VectorEnv[Any, Any, Any]:
    """Return a batch of a task's environments with a reward; the entry point of ``gym.make_vec``.

    Arguments and errors are those of `make_env`, with the arguments of `TokenGenerationVectorEnv`
    (``num_envs``, ``autoreset_mode``, ``copy``, ...).
    """
    envs, reward = _made(task, split, options, num_envs=num_envs)
    return envs if reward is None else VectorRewardWrapper(envs, reward)


def _made(
    name: str, split: Split, options: Mapping[str, Any], **batch: Any
) -> tuple[Any, Reward | None]:
    """Return a task's environment, or a batch of ``num_envs``, and the reward that pays it."""
    task = TASKS.find(name)
    check_split(split)
    # Options are of the reward, of prompts and models, or of the environment's class.
    rest = {"reward": task.reward, **task.options, **options}
    of_reward = names_of(EnvReward)
    of_task = [] if task.bundle is None else names_of(TaskOptions)
    of_env = [*signature(task.env_class).parameters, *signature(task.vector_class).parameters]
    accepted = {"split", *of_reward, *of_task, *of_env} - {"num_envs"}  # which is in `batch`
    for option, value in rest.items():
        if option not in accepted:
            raise _unknown_option(task, option, value, accepted)
    given = {key: rest.pop(key) for key in of_reward if key in rest}
    EnvReward(**given)  # or says what is wrong before anything is loaded
    given |= _parsed(given)
    if task.bundle is not None:
        task_options = TaskOptions(**{key: rest.pop(key) for key in of_task if key in rest})
        arguments = task_arguments(task, task_options, split, named_columns=_named_columns(given))
        if task.chat_where_possible and arguments["tokenizer"].chat_template:
            rest.setdefault("chat_template", True)
        bundle = arguments["bundle"]
        rest = {**(bundle.settings("options") if bundle else {}), **rest, **arguments}
    elif "split" in signature(task.env_class).parameters:
        rest["split"] = split
    env = (task.vector_class if batch else task.env_class)(**batch, **rest)
    if all(value is None for value in given.values()):  # nothing pays it
        return env, None
    return env, _reward_for(task, env, **given, **batch)


def _unknown_option(task: Task, option: str, value: Any, accepted: Collection[str]) -> TypeError:
    """Return the error of an argument that a task does not have."""
    fault = f"{task.id} got an unexpected keyword argument {option!r}"
    if option == "max_episode_steps":
        return TypeError(
            f"{fault}, which would cut episodes before their score is paid; pass "
            f"max_new_tokens={value!r} instead"
        )
    if option == "num_envs":
        return TypeError(
            f"{fault}; a batch is made by gym.make_vec({task.id!r}, num_envs={value!r})"
        )
    from tokengym.base.spellings import answer

    hint = answer(option, accepted, value, is_option=False) or did_you_mean(option, accepted, n=1)
    hint = hint or f"it has {', '.join(sorted(accepted))}"
    return TypeError(f"{fault}; {hint.rstrip()}")


def _parsed(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a reward, and a scorer of the user's own file, that are words as objects."""
    parsed: dict[str, Any] = {}
    if given.get("reward") is not None:
        parsed["reward"] = RewardChoice.of(given["reward"])
    if isinstance(word := given.get("scorer"), str) and split_file_word(word):
        parsed["scorer"] = find_scorer(word)
    return parsed


def _named_columns(given: Mapping[str, Any]) -> tuple[tuple[str, bool], ...]:
    """Return the columns of the data that rule and scorer name, and whether they need each."""
    choice: RewardChoice | None = given.get("reward")
    columns = {} if choice is None else choice.columns
    scorer = None if choice is not None and choice.kind is None else given.get("scorer")
    if scorer is not None and not isinstance(scorer, str | Path):
        columns |= as_scorer(scorer).data_columns
    return tuple(columns.items())


def _reward_for(
    task: Task,
    env: AnyEnv,
    *,
    reward: RewardSpec,
    normalize: str | None = None,
    num_envs: int = 1,
    **options: Any,
) -> Reward | None:
    """Return the reward for an environment; ``options`` are fields of `RewardOptions`."""
    choice = None if reward is None else RewardChoice.of(reward)
    kind = None if choice is None else choice.kind
    is_exact = task.exact_score is not None or task.scorer is not None
    # The task's exact score pays a rule that does not bring a scorer of its own.
    if is_exact and options.get("scorer") is None and choice and kind not in (None, "encoder"):
        scorer = _exact_scorer(task, env, choice, options.get("reward_model"))
        options |= {"scorer": scorer, "reward_model": None, "encoder": None}
    return make_reward(
        choice,
        bundle=env.bundle,
        normalize=None if normalize is None else _normalization(task, env, normalize),
        batch_size=num_envs,
        max_len=env.max_new_tokens,
        **options,
    )


def _exact_scorer(task: Task, env: AnyEnv, choice: RewardChoice, path: Any) -> Scorer:
    """Return the task's exact score; for a rule that asks which tokens count, with a model's word.

    ``path`` names the reward model that is asked; None takes the bundle's.
    """
    if task.exact_score is not None:
        scorer: Any = FunctionScorer(task.exact_score(env), name=task.name.lower())
    else:
        scorer = find_scorer(str(task.scorer))
    if choice.kind != "reward_model":
        return scorer
    if path is None and env.bundle is not None and env.bundle.has("reward_model"):
        path = env.bundle.reward_model
    if path is None:
        raise RewardError(
            f"reward {choice.label!r} asks a reward model which tokens count, and the bundled one "
            f"knows {task.models_know}; got max_new_tokens={env.max_new_tokens} and other "
            "settings, so change those or pass scorer= one of your own"
        )
    return WithAttribution(scorer, load_scorer(path, "reward_model"))


def _normalization(task: Task, env: AnyEnv, text: str) -> Normalization:
    """Return a normalisation, by the task's groups unless its option ``by`` says otherwise."""
    name, given = parse_normalization(text)
    by = given.get("by", task.normalize_by)
    for position, prompt in enumerate(env.prompts if by == "query_type" else ()):
        if prompt.query_type is None:
            raise SettingsError(
                f"normalize={text!r} groups scores by {by}, which prompt {position} lacks "
                f"({prompt.text[:40]!r}); name its column with {by}_column, pass "
                f"predict_query_types=True or normalize='{name}:by=none'"
            )
    return name, {**given, "by": by}
