"""The registered environments: a task of `envs` under a reward of `rewards`.

Gymnasium imports the entry points by name when an environment is made, and they import torch and
transformers no sooner than that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import gymnasium
from gymnasium.vector import AutoresetMode, VectorEnv

from tokengym.envs import GenerationSettings, TokenGenerationEnv, TokenGenerationVectorEnv, tasks
from tokengym.envs.bundle import Bundle, Split, bundled
from tokengym.envs.loading import Column
from tokengym.envs.prompts import Messages, Prompt, PromptSet
from tokengym.envs.settings import Horizon, Overlong, PromptSampling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tokengym.rewards.catalogue import RewardSpec
    from tokengym.rewards.scorer import SupportsScore

Task = Literal["movie_review", "question_answer", "token_generation"]
Normalization = Literal["running", "batch"]

IDS: dict[str, str] = {
    "tokengym/MovieReview-v0": "movie_review",
    "tokengym/QuestionAnswer-v0": "question_answer",
    "tokengym/TokenGeneration-v0": "token_generation",
}
"""Registered id -> task."""


def make_env(
    task: Task,
    *,
    reward: RewardSpec,
    scorer: SupportsScore | Callable[[str, str], float] | str | Path | None = None,
    normalize: Normalization | None = None,
    bundle: Bundle | Path | str | None = None,
    tokenizer: PreTrainedTokenizerBase | str | None = None,
    eos_token: str | None = None,
    pad_token: str | None = None,
    chat_template: bool = GenerationSettings.chat_template,
    prompts: PromptSet | Sequence[str | Prompt | Messages] | None = None,
    dataset: Any = None,
    prompt_column: Column | None = None,
    reference_column: Column | None = None,
    query_type_column: Column | None = None,
    split: Split = "train",
    prompt_tokens: tasks.PromptTokens | None = None,
    max_prompt_tokens: int | None = None,
    max_new_tokens: int = GenerationSettings.max_new_tokens,
    min_new_tokens: int = GenerationSettings.min_new_tokens,
    forbidden_token_ids: Sequence[int] = (),
    stop_strings: Sequence[str] = (),
    horizon: Horizon = GenerationSettings.horizon,
    overlong: Overlong = GenerationSettings.overlong,
    prompt_sampling: PromptSampling = GenerationSettings.prompt_sampling,
    prompt_shard: tuple[int, int] = (0, 1),
    render_mode: str | None = None,
) -> gymnasium.Env[Any, Any]:
    """Return the environment of a task under a reward: what ``gym.make`` calls.

    Args:
        task: Which prompts and models serve where none are passed.
        reward: None, a name, a reward, a credit, a scorer or a function of prompt and response;
            see `tokengym.rewards.make_reward`, as for the next two.
        scorer: What a response is worth; None takes the bundle's reward model or encoder.
        normalize: "running" centres and scales the score by all seen so far.
        bundle: Models of the task, or their folder; None takes the bundled ones.
        tokenizer: In place of the bundle's.
        eos_token: Token that ends a text, where the tokenizer names none.
        pad_token: Token for padding, where the tokenizer names none.
        chat_template: Whether each text is a user's message in the tokenizer's chat template.
        prompts: In place of the task's: texts, or conversations as lists of messages.
        dataset: Where prompts come from; see `tokengym.envs.tasks`, as for the next five.
        prompt_column: Of the data set.
        reference_column: Of the data set.
        query_type_column: Of the data set.
        split: "train", "test" or "all".
        prompt_tokens: First tokens of each text that make the prompt.
        max_prompt_tokens: See `TokenGenerationEnv`, as for all that follow.
        max_new_tokens: The horizon, tokens.
        min_new_tokens: Tokens before EOS is legal.
        forbidden_token_ids: Ids that are never legal.
        stop_strings: Texts that end the response.
        horizon: "terminated" or "truncated".
        overlong: "error", "left" or "drop".
        prompt_sampling: "uniform", "epoch" or "sequential".
        prompt_shard: (row, rows) of a sequential environment among copies.
        render_mode: "ansi", "human" or "html".

    Raises:
        TokenGymError: for whatever cannot work, before the first episode.
    """
    env = TokenGenerationEnv(
        **_task_arguments(
            task,
            bundle=bundle,
            tokenizer=tokenizer,
            special_tokens=(eos_token, pad_token),
            prompts=prompts,
            dataset=dataset,
            columns=(prompt_column, reference_column, query_type_column),
            split=split,
            prompt_tokens=prompt_tokens,
        ),
        chat_template=chat_template,
        max_prompt_tokens=max_prompt_tokens,
        max_new_tokens=max_new_tokens,
        min_new_tokens=min_new_tokens,
        forbidden_token_ids=forbidden_token_ids,
        stop_strings=stop_strings,
        horizon=horizon,
        overlong=overlong,
        prompt_sampling=prompt_sampling,
        prompt_shard=prompt_shard,
        render_mode=render_mode,
    )
    if reward is None and scorer is None and normalize is None:
        return env
    from tokengym.rewards import RewardWrapper, make_reward

    made = make_reward(
        reward, bundle=env.bundle, scorer=scorer, normalize=normalize, max_len=max_new_tokens
    )
    return env if made is None else RewardWrapper(env, made, in_spec=False)


def make_vector_env(
    task: Task,
    *,
    reward: RewardSpec,
    num_envs: int = 1,
    autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    copy: bool = True,
    scorer: SupportsScore | Callable[[str, str], float] | str | Path | None = None,
    normalize: Normalization | None = None,
    bundle: Bundle | Path | str | None = None,
    tokenizer: PreTrainedTokenizerBase | str | None = None,
    eos_token: str | None = None,
    pad_token: str | None = None,
    chat_template: bool = GenerationSettings.chat_template,
    prompts: PromptSet | Sequence[str | Prompt | Messages] | None = None,
    dataset: Any = None,
    prompt_column: Column | None = None,
    reference_column: Column | None = None,
    query_type_column: Column | None = None,
    split: Split = "train",
    prompt_tokens: tasks.PromptTokens | None = None,
    max_prompt_tokens: int | None = None,
    max_new_tokens: int = GenerationSettings.max_new_tokens,
    min_new_tokens: int = GenerationSettings.min_new_tokens,
    forbidden_token_ids: Sequence[int] = (),
    stop_strings: Sequence[str] = (),
    horizon: Horizon = GenerationSettings.horizon,
    overlong: Overlong = GenerationSettings.overlong,
    prompt_sampling: PromptSampling = GenerationSettings.prompt_sampling,
    render_mode: str | None = None,
) -> VectorEnv[Any, Any, Any]:
    """Return a batch of a task's environments under a reward: what ``gym.make_vec`` calls.

    Arguments and errors are those of `make_env` and, for ``num_envs``, ``autoreset_mode`` and
    ``copy``, of `TokenGenerationVectorEnv`. ``normalize="batch"`` centres the score by about the
    last ``num_envs`` ones.
    """
    envs = TokenGenerationVectorEnv(
        **_task_arguments(
            task,
            bundle=bundle,
            tokenizer=tokenizer,
            special_tokens=(eos_token, pad_token),
            prompts=prompts,
            dataset=dataset,
            columns=(prompt_column, reference_column, query_type_column),
            split=split,
            prompt_tokens=prompt_tokens,
        ),
        num_envs=num_envs,
        autoreset_mode=autoreset_mode,
        copy=copy,
        chat_template=chat_template,
        max_prompt_tokens=max_prompt_tokens,
        max_new_tokens=max_new_tokens,
        min_new_tokens=min_new_tokens,
        forbidden_token_ids=forbidden_token_ids,
        stop_strings=stop_strings,
        horizon=horizon,
        overlong=overlong,
        prompt_sampling=prompt_sampling,
        render_mode=render_mode,
    )
    if reward is None and scorer is None and normalize is None:
        return envs
    from tokengym.rewards import VectorRewardWrapper, make_reward

    made = make_reward(
        reward,
        bundle=envs.bundle,
        scorer=scorer,
        normalize=normalize,
        batch_size=num_envs,
        max_len=max_new_tokens,
    )
    return envs if made is None else VectorRewardWrapper(envs, made)


# Gymnasium imports these by name. A misspelt option is refused by Python: nothing takes **kwargs.
movie_review = partial(make_env, "movie_review", reward="sparse")
movie_review_vector = partial(make_vector_env, "movie_review", reward="sparse")
question_answer = partial(make_env, "question_answer", reward="r3")
question_answer_vector = partial(make_vector_env, "question_answer", reward="r3")
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


def _task_arguments(
    task: Task,
    *,
    bundle: Bundle | Path | str | None,
    tokenizer: PreTrainedTokenizerBase | str | None,
    special_tokens: tuple[str | None, str | None],
    prompts: PromptSet | Sequence[str | Prompt | Messages] | None,
    dataset: Any,
    columns: tuple[Column | None, Column | None, Column | None],
    split: Split,
    prompt_tokens: tasks.PromptTokens | None,
) -> tasks.TaskArguments:
    """Return the task's tokenizer, prompts and bundle."""
    prompt_column, reference_column, query_type_column = columns
    eos_token, pad_token = special_tokens
    if task == "token_generation" or prompts is not None:
        if bundle is None and tokenizer is None and task != "token_generation":
            bundle = bundled(task)
        return tasks.token_generation(
            tokenizer=tokenizer,
            eos_token=eos_token,
            pad_token=pad_token,
            prompts=prompts,
            bundle=bundle,
            dataset=dataset,
            prompt_column=prompt_column,
            reference_column=reference_column,
            query_type_column=query_type_column,
            split=split,
            prompt_tokens=prompt_tokens,
        )
    build = tasks.movie_review if task == "movie_review" else tasks.question_answer
    return build(
        bundle=bundle,
        tokenizer=tokenizer,
        eos_token=eos_token,
        pad_token=pad_token,
        dataset=dataset,
        prompt_column=prompt_column,
        reference_column=reference_column,
        query_type_column=query_type_column,
        split=split,
        prompt_tokens=prompt_tokens,
    )
