"""The registered environments: a task of `envs` under a reward of `rewards`.

Gymnasium imports the entry points by name when an environment is made, and they import torch and
transformers no sooner than that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import gymnasium
from gymnasium.vector import VectorEnv

from tokengym.envs import TokenGenerationEnv, TokenGenerationVectorEnv
from tokengym.envs.bundle import Split, check_split
from tokengym.envs.oracle.env import LONGEST_LEARNT, OracleEnv, OracleVectorEnv
from tokengym.envs.oracle.score import oracle_text_score
from tokengym.envs.tasks.task import TaskOptions, task_arguments

if TYPE_CHECKING:
    from tokengym.rewards import Reward
    from tokengym.rewards.registry import RewardSpec
    from tokengym.rewards.wrappers import AnyScorer

Normalization = Literal["running", "batch"]

TASK_OPTIONS = frozenset(field.name for field in fields(TaskOptions))

IDS: dict[str, str] = {
    "tokengym/MovieReview-v0": "movie_review",
    "tokengym/QuestionAnswer-v0": "question_answer",
    "tokengym/Dialogue-v0": "dialogue",
    "tokengym/Detox-v0": "detox",
    "tokengym/Summarize-v0": "summarize",
    "tokengym/TokenGeneration-v0": "token_generation",
    "tokengym/Oracle-v0": "oracle",
}
"""Registered id -> task."""


def make_env(
    task: str,
    *,
    reward: RewardSpec,
    scorer: AnyScorer | None = None,
    normalize: Normalization | None = None,
    **options: Any,
) -> gymnasium.Env[Any, Any]:
    """Return the environment of a task under a reward: what ``gym.make`` calls.

    Args:
        task: Which prompts and models serve where none are passed.
        reward: None, a name, a reward, a credit, a scorer or a function of prompt and response;
            see `tokengym.rewards.make_reward`, as for the next two.
        scorer: What a response is worth; None takes the bundle's reward model or encoder.
        normalize: "running" centres and scales the score by all seen so far.
        options: Fields of `TaskOptions` (where prompts and models come from) and arguments of
            `TokenGenerationEnv` (lengths, legal tokens, ends, rendering).

    Raises:
        TypeError: for an option that neither has.
        TokenGymError: for whatever cannot work, before the first episode.
    """
    env = TokenGenerationEnv(**_env_arguments(task, options))
    return _paid(env, _made(env, reward, scorer, normalize))


def make_vector_env(
    task: str,
    *,
    reward: RewardSpec,
    num_envs: int = 1,
    scorer: AnyScorer | None = None,
    normalize: Normalization | None = None,
    **options: Any,
) -> VectorEnv[Any, Any, Any]:
    """Return a batch of a task's environments under a reward: what ``gym.make_vec`` calls.

    Arguments and errors are those of `make_env`, with the arguments of `TokenGenerationVectorEnv`
    (``num_envs``, ``autoreset_mode``, ``copy``, ...). ``normalize="batch"`` centres the score by
    about the last ``num_envs`` ones.
    """
    envs = TokenGenerationVectorEnv(num_envs=num_envs, **_env_arguments(task, options))
    return _paid_batch(envs, _made(envs, reward, scorer, normalize, batch_size=num_envs))


def oracle(
    *,
    reward: RewardSpec = "sparse",
    scorer: AnyScorer | None = None,
    normalize: Normalization | None = None,
    split: Split = "train",
    **options: Any,
) -> gymnasium.Env[Any, Any]:
    """Return the Oracle under a reward: what ``gym.make`` calls.

    Args:
        reward: As of `make_env`.
        scorer: What a response is worth; None takes the score whose exact values the environment
            knows. A reward that asks a reward model which tokens count ("abc", "red",
            "attribution", ...) redistributes that same score by the account of the bundled one;
            ``scorer=env.unwrapped.bundle.reward_model`` makes the learnt score the score.
        normalize: As of `make_env`.
        split: For programs that ask every task for one: the Oracle has the same prompt in all.
        options: Arguments of `OracleEnv`.

    Raises:
        TypeError: for an option that it has not.
        TokenGymError: for whatever cannot work, before the first episode.
    """
    check_split(split)
    env = OracleEnv(**options)
    scorer = _oracle_scorer(env, reward, scorer)
    return _paid(env, _made(env, reward, scorer, normalize))


def oracle_vector(
    *,
    reward: RewardSpec = "sparse",
    num_envs: int = 1,
    scorer: AnyScorer | None = None,
    normalize: Normalization | None = None,
    split: Split = "train",
    **options: Any,
) -> VectorEnv[Any, Any, Any]:
    """Return a batch of Oracles under a reward: what ``gym.make_vec`` calls.

    Arguments and errors are those of `oracle`, with the arguments of `OracleVectorEnv`.
    """
    check_split(split)
    envs = OracleVectorEnv(num_envs=num_envs, **options)
    scorer = _oracle_scorer(envs, reward, scorer)
    return _paid_batch(envs, _made(envs, reward, scorer, normalize, batch_size=num_envs))


# Gymnasium imports these by name.
movie_review = partial(make_env, "movie_review", reward="sparse")
movie_review_vector = partial(make_vector_env, "movie_review", reward="sparse")
question_answer = partial(make_env, "question_answer", reward="r3")
question_answer_vector = partial(make_vector_env, "question_answer", reward="r3")
dialogue = partial(make_env, "dialogue", reward="sparse", chat_template=True)
dialogue_vector = partial(make_vector_env, "dialogue", reward="sparse", chat_template=True)
detox = partial(make_env, "detox", reward="sparse")
detox_vector = partial(make_vector_env, "detox", reward="sparse")
summarize = partial(make_env, "summarize", reward="sparse")
summarize_vector = partial(make_vector_env, "summarize", reward="sparse")
token_generation = partial(make_env, "token_generation", reward=None)
token_generation_vector = partial(make_vector_env, "token_generation", reward=None)


def register_envs() -> None:
    """Make the ids known to Gymnasium; those that are known stay as they are."""
    for name, task in IDS.items():
        if name not in gymnasium.registry:
            gymnasium.register(
                name,
                entry_point=f"tokengym.registration:{task}",
                vector_entry_point=f"tokengym.registration:{task}_vector",
            )


def _env_arguments(task: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return an environment's arguments; those that are not the task's pass through as they are.

    Nothing is swallowed: the environment's constructor refuses a name that it does not have.
    """
    of_task = {name: value for name, value in options.items() if name in TASK_OPTIONS}
    of_env = {name: value for name, value in options.items() if name not in TASK_OPTIONS}
    return {**of_env, **task_arguments(task, TaskOptions(**of_task))}


def _oracle_scorer(
    env: OracleEnv | OracleVectorEnv, reward: RewardSpec, scorer: AnyScorer | None
) -> AnyScorer | None:
    """Return the caller's scorer, or the Oracle's own where the reward does not bring one."""
    if scorer is not None or reward is None:
        return scorer
    from tokengym.rewards import FunctionScorer, RewardError, load_scorer
    from tokengym.rewards.registry import scorer_kind
    from tokengym.rewards.scorers.explained import Explained

    kind = scorer_kind(reward)
    if kind is None or kind == "encoder":
        return None
    exact = FunctionScorer(partial(oracle_text_score, rules=env.rules), name="oracle")
    if kind == "any":
        return exact
    if env.bundle is None or not env.bundle.has("reward_model"):
        raise RewardError(
            f"reward {reward!r} asks a reward model which tokens count, and the bundled one knows "
            f"all rules together and up to {LONGEST_LEARNT} tokens; got rules={env.rules} and "
            f"max_new_tokens={env.max_new_tokens}, so change those or pass scorer= one of your own"
        )
    return Explained(exact, load_scorer(env.bundle.reward_model, "reward_model"))


def _made(
    env: TokenGenerationEnv | TokenGenerationVectorEnv,
    reward: RewardSpec,
    scorer: AnyScorer | None,
    normalize: Normalization | None,
    *,
    batch_size: int = 1,
) -> Reward | None:
    """Return the reward for an environment, None where nothing pays it."""
    if reward is None and scorer is None and normalize is None:
        return None
    from tokengym.rewards import make_reward

    return make_reward(
        reward,
        bundle=env.bundle,
        scorer=scorer,
        normalize=normalize,
        batch_size=batch_size,
        max_len=env.max_new_tokens,
    )


def _paid(env: TokenGenerationEnv, reward: Reward | None) -> gymnasium.Env[Any, Any]:
    """Return the environment under its reward; the spec does not name the wrapper."""
    if reward is None:
        return env
    from tokengym.rewards import RewardWrapper

    return RewardWrapper(env, reward, in_spec=False)


def _paid_batch(envs: TokenGenerationVectorEnv, reward: Reward | None) -> VectorEnv[Any, Any, Any]:
    """Return the batch under its reward."""
    if reward is None:
        return envs
    from tokengym.rewards import VectorRewardWrapper

    return VectorRewardWrapper(envs, reward)
