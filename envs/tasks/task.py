"""The tasks: which tokenizer, prompts and models an environment gets, from a user's options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from tokengym.envs.bundle import Bundle, Split, bundled
from tokengym.envs.errors import PromptError, SettingsError
from tokengym.envs.prompts.loading import Column, first_tokens, load_prompts
from tokengym.envs.prompts.prompt import Messages, Prompt, PromptSet
from tokengym.envs.tokenization import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PromptTokens = int | tuple[int, int]

CUT_DATASETS: dict[str, PromptTokens] = {"movie_review": (2, 7)}
"""Task -> the first tokens of a data set's texts that make prompts, where they are not whole:
full reviews are cut as in ABC's IMDb setting, arXiv:2402.00782."""

TRANSCRIPT_TASKS = frozenset({"dialogue"})
"""Tasks whose data sets may hold conversations written out, "Human: ... Assistant: ..."."""

BORROWED_BUNDLES = {"token_generation": "movie_review"}
"""Task without models of its own -> the task whose models serve where none are given."""


class TaskArguments(TypedDict):
    """What a task decides about an environment."""

    tokenizer: PreTrainedTokenizerBase
    prompts: PromptSet
    bundle: Bundle | None


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """What a user may say about a task's prompts and models; None leaves it to the task.

    Raises:
        SettingsError: if both prompts and a data set are given.
    """

    bundle: Bundle | Path | str | None = None
    """Models of the task, or their folder; None takes the bundled ones, or none at all where a
    tokenizer is given."""
    tokenizer: PreTrainedTokenizerBase | str | None = None
    """In place of the bundle's; the bundle is then left out unless given."""
    eos_token: str | None = None
    """Token that ends a text, where the tokenizer names none; see `load_tokenizer`."""
    pad_token: str | None = None
    """Token for padding, likewise."""
    prompts: PromptSet | Sequence[str | Prompt | Messages] | None = None
    """In place of the task's, whatever the ``split``: texts, or conversations as messages."""
    dataset: Any = None
    """Where prompts come from, see `load_prompts`; None takes the bundle's."""
    prompt_column: Column | None = None
    """Of the data set, by name or by position, as for the next two."""
    reference_column: Column | None = None
    """Reference answers."""
    query_type_column: Column | None = None
    """R3's annotation."""
    split: Split = "train"
    """"train", "test" or "all" of the task's prompts or the data set."""
    prompt_tokens: PromptTokens | None = None
    """First tokens of each text that make the prompt, a number or (low, high); None takes whole
    texts, but 2 to 7 tokens of a data set's reviews (`CUT_DATASETS`)."""

    def __post_init__(self) -> None:
        if self.prompts is not None and self.dataset is not None:
            raise SettingsError("pass either prompts or dataset, got both; leave one out")


def task_arguments(task: str, options: TaskOptions) -> TaskArguments:
    """Return arguments of `TokenGenerationEnv` and `TokenGenerationVectorEnv` for a task.

    Settings of the generation itself (``max_new_tokens``, ...) go to the environments directly.

    Args:
        task: Name of a bundled task, or "token_generation" for any tokenizer and any prompts.
        options: What the user says about it.

    Raises:
        TokenGymError: for a bundle, data set or tokenizer that cannot be used.
    """
    home = BORROWED_BUNDLES.get(task, task)
    models = _models(home, options)
    given = options.tokenizer
    if given is None:
        assert models is not None
        given = models.tokenizer
    tokenizer = load_tokenizer(given, eos_token=options.eos_token, pad_token=options.pad_token)
    if options.dataset is not None:
        prompts = _loaded(task, options, tokenizer)
    else:
        prompts = _listed(task, options, models)
        if options.prompt_tokens is not None:
            prompts = first_tokens(prompts, options.prompt_tokens, tokenizer)
    return {"tokenizer": tokenizer, "prompts": prompts, "bundle": models}


def _models(home: str, options: TaskOptions) -> Bundle | None:
    """Return the bundle: the caller's, or the task's own where its tokenizer is needed."""
    if options.bundle is None:
        return bundled(home) if options.tokenizer is None else None
    return options.bundle if isinstance(options.bundle, Bundle) else Bundle(options.bundle)


def _loaded(task: str, options: TaskOptions, tokenizer: PreTrainedTokenizerBase) -> PromptSet:
    """Return the prompts of the caller's data set."""
    return load_prompts(
        options.dataset,
        prompt_column=options.prompt_column,
        reference_column=options.reference_column,
        query_type_column=options.query_type_column,
        split=options.split,
        prompt_tokens=options.prompt_tokens or CUT_DATASETS.get(task),
        tokenizer=tokenizer,
        transcripts=task in TRANSCRIPT_TASKS,
    )


def _listed(task: str, options: TaskOptions, models: Bundle | None) -> PromptSet:
    """Return the caller's prompts, or the bundle's."""
    if options.prompts is not None:
        given = options.prompts
        return given if isinstance(given, PromptSet) else PromptSet(given)
    if models is None and task in BORROWED_BUNDLES:
        raise PromptError("got a tokenizer but no prompts (None); pass prompts=[...] or dataset=")
    # With a tokenizer of the caller's own, a task's bundled prompts still serve as texts.
    return (models or bundled(task)).prompts(options.split)
