"""The tasks: which tokenizer, prompts and models an environment gets, from a user's arguments.

Each function returns keyword arguments of `TokenGenerationEnv` and `TokenGenerationVectorEnv`;
settings of the generation itself (`max_new_tokens`, ...) go to the environments directly.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from tokengym.envs.bundle import Bundle, Split, bundled
from tokengym.envs.errors import PromptError, SettingsError
from tokengym.envs.loading import Column, first_tokens, load_prompts
from tokengym.envs.prompts import Messages, Prompt, PromptSet
from tokengym.envs.text import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PromptTokens = int | tuple[int, int]

REVIEW_PROMPT_TOKENS = (2, 7)
"""First tokens of a full review that make its prompt: ABC's IMDb setting, arXiv:2402.00782."""


class TaskArguments(TypedDict):
    """What a task decides about an environment."""

    tokenizer: PreTrainedTokenizerBase
    prompts: PromptSet
    bundle: Bundle | None


def movie_review(
    *,
    bundle: Bundle | Path | str | None = None,
    dataset: Any = None,
    prompt_column: Column | None = None,
    reference_column: Column | None = None,
    query_type_column: Column | None = None,
    split: Split = "train",
    prompt_tokens: PromptTokens | None = None,
    tokenizer: PreTrainedTokenizerBase | str | None = None,
    eos_token: str | None = None,
    pad_token: str | None = None,
) -> TaskArguments:
    """Return the arguments of MovieReview: continue a review, positively.

    Args:
        bundle: Models of the task, or their folder; None takes the bundled ones (unless both
            ``dataset`` and ``tokenizer`` are given: then there are none).
        dataset: Reviews for `load_prompts`; None takes the bundle's prompts.
        prompt_column: See `load_prompts`, as for the next three.
        reference_column: Reference answers.
        query_type_column: R3's annotation.
        split: "train", "test" or "all".
        prompt_tokens: First tokens of each text that make the prompt, a number or (low, high);
            None takes 2 to 7 of a data set's reviews, and the bundle's prompts whole.
        tokenizer: In place of the bundle's; the bundle is then left out unless given.
        eos_token: Token that ends a text, where the tokenizer names none; see `load_tokenizer`.
        pad_token: Token for padding, likewise.

    Raises:
        TokenGymError: for a bundle, data set or tokenizer that cannot be used.
    """
    if dataset is not None and prompt_tokens is None:
        prompt_tokens = REVIEW_PROMPT_TOKENS
    return _arguments(
        "movie_review",
        bundle=bundle,
        tokenizer=tokenizer,
        special_tokens=(eos_token, pad_token),
        dataset=dataset,
        columns=(prompt_column, reference_column, query_type_column),
        split=split,
        prompt_tokens=prompt_tokens,
    )


def question_answer(
    *,
    bundle: Bundle | Path | str | None = None,
    dataset: Any = None,
    prompt_column: Column | None = None,
    reference_column: Column | None = None,
    query_type_column: Column | None = None,
    split: Split = "train",
    prompt_tokens: PromptTokens | None = None,
    tokenizer: PreTrainedTokenizerBase | str | None = None,
    eos_token: str | None = None,
    pad_token: str | None = None,
) -> TaskArguments:
    """Return the arguments of QuestionAnswer: answer open-ended and constrained questions.

    Arguments and errors are those of `movie_review`; a data set's questions stay whole.
    """
    return _arguments(
        "question_answer",
        bundle=bundle,
        tokenizer=tokenizer,
        special_tokens=(eos_token, pad_token),
        dataset=dataset,
        columns=(prompt_column, reference_column, query_type_column),
        split=split,
        prompt_tokens=prompt_tokens,
    )


def token_generation(
    *,
    tokenizer: PreTrainedTokenizerBase | str | None = None,
    eos_token: str | None = None,
    pad_token: str | None = None,
    prompts: PromptSet | Sequence[str | Prompt | Messages] | None = None,
    bundle: Bundle | Path | str | None = None,
    dataset: Any = None,
    prompt_column: Column | None = None,
    reference_column: Column | None = None,
    query_type_column: Column | None = None,
    split: Split = "train",
    prompt_tokens: PromptTokens | None = None,
) -> TaskArguments:
    """Return the arguments of TokenGeneration: any tokenizer, any prompts.

    With nothing given, MovieReview's tokenizer and prompts serve. ``prompts`` are taken whole,
    whatever the ``split``; the other arguments are those of `movie_review`.

    Raises:
        PromptError: if a tokenizer comes without prompts.
        SettingsError: if both prompts and a data set are given.
    """
    if prompts is not None and dataset is not None:
        raise SettingsError("pass either prompts or dataset, got both; leave one out")
    if tokenizer is not None and prompts is None and dataset is None and bundle is None:
        raise PromptError("got a tokenizer but no prompts (None); pass prompts=[...] or dataset=")
    if prompts is None:
        return _arguments(
            "movie_review",
            bundle=bundle,
            tokenizer=tokenizer,
            special_tokens=(eos_token, pad_token),
            dataset=dataset,
            columns=(prompt_column, reference_column, query_type_column),
            split=split,
            prompt_tokens=prompt_tokens,
        )
    models = _bundle("movie_review", bundle, needed=tokenizer is None)
    chosen = _tokenizer(tokenizer, (eos_token, pad_token), models)
    given = prompts if isinstance(prompts, PromptSet) else PromptSet(prompts)
    if prompt_tokens is not None:
        given = first_tokens(given, prompt_tokens, chosen)
    return {"tokenizer": chosen, "prompts": given, "bundle": models}


def _arguments(
    task: str,
    *,
    bundle: Bundle | Path | str | None,
    tokenizer: PreTrainedTokenizerBase | str | None,
    special_tokens: tuple[str | None, str | None],
    dataset: Any,
    columns: tuple[Column | None, Column | None, Column | None],
    split: Split,
    prompt_tokens: PromptTokens | None,
) -> TaskArguments:
    """Return a task's arguments, from its bundle or from a data set."""
    models = _bundle(task, bundle, needed=tokenizer is None)
    chosen = _tokenizer(tokenizer, special_tokens, models)
    if dataset is None:
        # With a tokenizer of the caller's own, the bundled prompts still serve as texts.
        prompts = (models or bundled(task)).prompts(split)
        if prompt_tokens is not None:
            prompts = first_tokens(prompts, prompt_tokens, chosen)
    else:
        prompts = load_prompts(
            dataset,
            prompt_column=columns[0],
            reference_column=columns[1],
            query_type_column=columns[2],
            split=split,
            prompt_tokens=prompt_tokens,
            tokenizer=chosen,
        )
    return {"tokenizer": chosen, "prompts": prompts, "bundle": models}


def _bundle(task: str, bundle: Bundle | Path | str | None, *, needed: bool) -> Bundle | None:
    """Return the bundle: the caller's, or the task's own where one is needed."""
    if bundle is None:
        return bundled(task) if needed else None
    return bundle if isinstance(bundle, Bundle) else Bundle(bundle)


def _tokenizer(
    tokenizer: PreTrainedTokenizerBase | str | None,
    special_tokens: tuple[str | None, str | None],
    models: Bundle | None,
) -> PreTrainedTokenizerBase:
    """Return the caller's tokenizer, or the bundle's, with the caller's EOS and pad."""
    if tokenizer is None:
        assert models is not None
        tokenizer = models.tokenizer
    eos_token, pad_token = special_tokens
    return load_tokenizer(tokenizer, eos_token=eos_token, pad_token=pad_token)
