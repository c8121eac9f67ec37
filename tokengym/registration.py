"""The registered environments: a task of `envs` under a reward of `rewards`.

Gymnasium imports the entry points by name when an environment is made, and they import torch and
transformers no sooner than that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
from gymnasium.vector import VectorEnv

from tokengym.base.bundle import Split, check_split
from tokengym.base.errors import SettingsError
from tokengym.base.registry import did_you_mean
from tokengym.envs import TokenGenerationEnv, TokenGenerationVectorEnv
from tokengym.envs.tasks import Task, TaskOptions, find_task
from tokengym.envs.tasks.task import task_arguments

if TYPE_CHECKING:
    from tokengym.rewards import Reward
    from tokengym.rewards.registry import RewardSpec
    from tokengym.rewards.wrappers import AnyScorer

AnyEnv = TokenGenerationEnv | TokenGenerationVectorEnv


def make_env(
    task: str,
    *,
    reward: RewardSpec = None,
    scorer: AnyScorer | None = None,
    reward_model: str | Path | None = None,
    encoder: str | Path | None = None,
    normalize: str | None = None,
    scorer_timeout: float | None = None,
    split: Split = "train",
    **options: Any,
) -> gymnasium.Env[Any, Any]:
    """Return a task's environment with a reward; the entry point of ``gym.make``.

    Args:
        task: Name of a task.
        reward: None, a name, a reward, a credit, a scorer or a function of prompt and response;
            see `tokengym.rewards.make_reward`, as for the next four.
        scorer: Scorer of a response; None takes the bundle's reward model or encoder, or the exact
            score if the task has one. A reward that needs a reward model's attribution then
            redistributes that exact score by the attribution of the bundled model.
        reward_model: Folder or hub name of a reward model in place of the bundle's.
        encoder: Folder or hub name of an encoder in place of the bundle's.
        normalize: "running" centres and scales the score by all scores so far; options follow, see
            `tokengym.rewards.make_reward`.
        scorer_timeout: Seconds after which a call of the scorer raises; None waits for ever.
        split: "train", "test" or "all" of the task's prompts or the data set.
        options: Fields of `TaskOptions` (where prompts and models come from) and arguments of the
            environment class (lengths, legal tokens, ends, rendering).

    Raises:
        TypeError: for an unknown option, with the near matches.
        TokenGymError: for an option that cannot work, before the first episode.
    """
    declared = find_task(task)
    env = declared.env_class(**_env_arguments(declared, split, options))
    models = {"reward_model": reward_model, "encoder": encoder}
    made = _reward_for(declared, env, reward, scorer, models, normalize, scorer_timeout)
    if made is None:
        return env
    from tokengym.rewards import RewardWrapper

    return RewardWrapper(env, made, in_spec=False)  # the spec does not name the wrapper


def make_vector_env(
    task: str,
    *,
    reward: RewardSpec = None,
    num_envs: int = 1,
    scorer: AnyScorer | None = None,
    reward_model: str | Path | None = None,
    encoder: str | Path | None = None,
    normalize: str | None = None,
    scorer_timeout: float | None = None,
    split: Split = "train",
    **options: Any,
) -> VectorEnv[Any, Any, Any]:
    """Return a batch of a task's environments with a reward; the entry point of ``gym.make_vec``.

    Arguments and errors are those of `make_env`, with the arguments of `TokenGenerationVectorEnv`
    (``num_envs``, ``autoreset_mode``, ``copy``, ...). ``normalize="batch"`` centres the score
    by about the last ``num_envs`` scores.
    """
    declared = find_task(task)
    envs = declared.vector_class(num_envs=num_envs, **_env_arguments(declared, split, options))
    models = {"reward_model": reward_model, "encoder": encoder}
    made = _reward_for(
        declared, envs, reward, scorer, models, normalize, scorer_timeout, batch_size=num_envs
    )
    if made is None:
        return envs
    from tokengym.rewards import VectorRewardWrapper

    return VectorRewardWrapper(envs, made)


def make_declared_env(task: str, **options: Any) -> gymnasium.Env[Any, Any]:
    """Return the environment of a task that an installed package declares; see `make_env`."""
    return make_env(task, **_with_defaults(task, options))


def make_declared_vector_env(task: str, **options: Any) -> VectorEnv[Any, Any, Any]:
    """Return a batch of them; see `make_vector_env`."""
    return make_vector_env(task, **_with_defaults(task, options))


def _with_defaults(task: str, options: Mapping[str, Any]) -> dict[str, Any]:
    declared = find_task(task)
    return {"reward": declared.reward, **declared.options, **options}


def _env_arguments(task: Task, split: Split, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a task's environment, refusing unknown options."""
    check_split(split)
    known = set() if task.bundle is None else {field.name for field in fields(TaskOptions)}
    accepted = {*known, *signature(task.env_class).parameters, *signature(make_env).parameters}
    accepted |= {*signature(task.vector_class).parameters}
    for name in options:
        if name not in accepted:
            if name == "max_episode_steps":
                raise TypeError(
                    f"{task.id} has no argument {name!r}, which would cut episodes before their "
                    f"score is paid; pass max_new_tokens={options[name]!r} instead"
                )
            hint = did_you_mean(name, accepted, n=1) or f"it has {', '.join(sorted(accepted))}"
            raise TypeError(f"{task.id} has no argument {name!r}; {hint.rstrip()}")
    if task.bundle is None:
        own_splits = "split" in signature(task.env_class).parameters
        return {**options, "split": split} if own_splits else dict(options)
    of_task = TaskOptions(**{k: v for k, v in options.items() if k in known})
    arguments = task_arguments(task, of_task, split)
    of_bundle = arguments["bundle"].settings("options") if arguments["bundle"] else {}
    of_env = {name: value for name, value in options.items() if name not in known}
    if task.chat_where_possible and arguments["tokenizer"].chat_template:
        of_env.setdefault("chat_template", True)
    return {**of_bundle, **of_env, **arguments}


def _reward_for(
    task: Task,
    env: AnyEnv,
    reward: RewardSpec,
    scorer: AnyScorer | None,
    models: Mapping[str, str | Path | None],
    normalize: str | None,
    scorer_timeout: float | None,
    *,
    batch_size: int = 1,
) -> Reward | None:
    """Return the reward for an environment, None where nothing pays it."""
    if all(one is None for one in (reward, scorer, normalize, scorer_timeout, *models.values())):
        return None
    from tokengym.rewards import FunctionScorer, RewardError, WithAttribution, load_scorer
    from tokengym.rewards.registry import RewardChoice, make_reward
    from tokengym.rewards.scorers import find_scorer

    choice = None if reward is None else RewardChoice.of(reward)
    kind = None if choice is None else choice.kind
    is_exact = task.exact_score is not None or task.scorer is not None
    # The task's exact score pays a rule that does not bring a scorer of its own.
    if is_exact and scorer is None and choice is not None and kind not in (None, "encoder"):
        scorer = find_scorer(task.scorer) if task.scorer else None
        if task.exact_score is not None:
            scorer = FunctionScorer(task.exact_score(env), name=task.name.lower())
        if kind == "reward_model":  # which only says what tokens count
            path = models["reward_model"]
            if path is None and env.bundle is not None and env.bundle.has("reward_model"):
                path = env.bundle.reward_model
            if path is None:
                raise RewardError(
                    f"reward {choice.label!r} asks a reward model which tokens count, and the "
                    f"bundled one knows {task.models_know}; got max_new_tokens="
                    f"{env.max_new_tokens} and other settings, so change those or pass scorer= "
                    "one of your own"
                )
            assert scorer is not None
            scorer = WithAttribution(scorer, load_scorer(path, "reward_model"))
        models = {}
    return make_reward(
        choice,
        bundle=env.bundle,
        scorer=scorer,
        **models,
        normalize=None if normalize is None else _normalization(task, env, normalize),
        batch_size=batch_size,
        max_len=env.max_new_tokens,
        scorer_timeout=scorer_timeout,
    )


def _normalization(task: Task, env: AnyEnv, normalize: str) -> str:
    """Return how scores are normalised, by the task's groups unless ``by`` says otherwise.

    Raises:
        SettingsError: if a prompt has no value of what groups are made by.
    """
    from tokengym.rewards.scorers.normalize import parse_normalization

    name, options = parse_normalization(normalize)
    by = options.get("by", task.normalize_by)
    if by != "query_type":
        return normalize
    for position, prompt in enumerate(env.prompts):
        if prompt.query_type is None:
            raise SettingsError(
                f"normalize={normalize!r} groups scores by {by}, which prompt {position} lacks "
                f"({prompt.text[:40]!r}); name its column with {by}_column, pass "
                f"predict_query_types=True or normalize='{name}:by=none'"
            )
    comma = "," if options else ":"
    return normalize if "by" in options else f"{normalize}{comma}by={by}"
