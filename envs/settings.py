"""Settings of the environments, validated when built."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import index
from typing import Literal, get_args

from tokengym.envs.errors import SettingsError
from tokengym.envs.tokenization import lone_surrogate

Horizon = Literal["terminated", "truncated"]
Overlong = Literal["error", "left", "drop"]
PromptSampling = Literal["uniform", "epoch", "sequential"]


@dataclass(frozen=True, kw_only=True)
class ResponseSettings:
    """Length, legal tokens and end of a response, and the order of prompts.

    Raises:
        SettingsError: if a value is out of range or two contradict each other.
    """

    max_new_tokens: int = 48
    """Horizon, tokens. 48 is where ABC helped most on the bundled task."""
    min_new_tokens: int = 0
    """Tokens before EOS is legal, and before a stop string counts."""
    forbidden_token_ids: Sequence[int] = ()
    """Ids that are never legal."""
    horizon: Horizon = "terminated"
    """"terminated" if the horizon is part of the problem, "truncated" if it is only a budget."""
    prompt_sampling: PromptSampling = "uniform"
    """"uniform" (with replacement), "epoch" (a permutation per epoch) or "sequential" (in order; in
    a batch of n, row i takes prompts i, i + n, ...)."""

    def __post_init__(self) -> None:
        self._check_count("max_new_tokens", smallest=1)
        self._check_count("min_new_tokens", smallest=0)
        if self.min_new_tokens > self.max_new_tokens:
            raise SettingsError(
                f"min_new_tokens must be at most max_new_tokens={self.max_new_tokens}, got "
                f"{self.min_new_tokens}; lower it or raise max_new_tokens"
            )
        self._check_choice("horizon", get_args(Horizon))
        self._check_choice("prompt_sampling", get_args(PromptSampling))
        self._check_list("forbidden_token_ids", "token ids")
        try:
            ids = tuple(sorted(set(map(index, self.forbidden_token_ids))))
        except TypeError:
            raise TypeError(
                f"forbidden_token_ids must be integers, got {self.forbidden_token_ids!r}; "
                "tokenizer.convert_tokens_to_ids gives the ids of tokens"
            ) from None
        object.__setattr__(self, "forbidden_token_ids", ids)

    def _check_list(self, name: str, things: str) -> None:
        """Refuse a value that is no sequence of several values."""
        value = getattr(self, name)
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise SettingsError(
                f"{name} must be a list of {things}, got {type(value).__name__} {value!r}; "
                "put them in a list, [] for none"
            )

    def _check_count(self, name: str, *, smallest: int) -> None:
        """Refuse a value that is not an integer of at least ``smallest``."""
        value = getattr(self, name)
        try:
            count = index(value)
        except TypeError:
            raise TypeError(f"{name} must be an integer, got {value!r}; round it") from None
        if count < smallest:
            raise SettingsError(f"{name} must be at least {smallest}, got {count}; raise it")
        object.__setattr__(self, name, count)

    def _check_choice(self, name: str, choices: Sequence[str]) -> None:
        """Refuse a value that is not one of the choices."""
        if getattr(self, name) not in choices:
            raise SettingsError(
                f"{name} must be one of {', '.join(map(repr, choices))}, got "
                f"{getattr(self, name)!r}"
            )


@dataclass(frozen=True, kw_only=True)
class GenerationSettings(ResponseSettings):
    """Settings of an environment: those of a response, its stop strings and its prompt.

    Raises:
        SettingsError: if a value is out of range or two contradict each other.
    """

    max_prompt_tokens: int | None = None
    """Width of the prompt's part, tokens; None takes the longest prompt of the set."""
    stop_strings: Sequence[str] = ()
    """Texts that end the response when a legal token completes one."""
    overlong: Overlong = "error"
    """"error" refuses prompts above ``max_prompt_tokens``, "left" keeps their last tokens, "drop"
    leaves them out of the set."""
    chat_template: bool = False
    """Whether each text is a user's message in the tokenizer's chat template; conversations (lists
    of messages) always are."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_prompt_tokens is not None:
            self._check_count("max_prompt_tokens", smallest=1)
        self._check_choice("overlong", get_args(Overlong))
        if not isinstance(self.chat_template, bool):
            raise SettingsError(
                f"chat_template must be True or False, got {self.chat_template!r}; a template of "
                "your own goes to tokenizer.chat_template"
            )
        self._check_list("stop_strings", "strings")
        object.__setattr__(self, "stop_strings", tuple(self.stop_strings))
        if not all(isinstance(text, str) and text for text in self.stop_strings):
            raise SettingsError(
                f"stop_strings must be non-empty strings, got {self.stop_strings!r}; "
                "leave the empty one out"
            )
        for text in self.stop_strings:
            if (place := lone_surrogate(text)) is not None:
                raise SettingsError(
                    f"stop_strings must be Unicode texts, got {text!r} with a lone surrogate at "
                    f"character {place}, which no text contains; write the character itself"
                )
