"""The settings of a generation environment, refused when built if they cannot work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import index
from typing import Literal, get_args

from tokengym.envs.errors import SettingsError

Horizon = Literal["terminated", "truncated"]
Overlong = Literal["error", "left", "drop"]
PromptSampling = Literal["uniform", "epoch", "sequential"]


@dataclass(frozen=True, kw_only=True)
class GenerationSettings:
    """What decides the length, the legal tokens and the end of an episode.

    Raises:
        SettingsError: if a value is out of range or two contradict each other.
    """

    max_prompt_tokens: int | None = None
    """Tokens; None takes the longest prompt of the set."""
    max_new_tokens: int = 48
    """Tokens: the horizon. 48 is where ABC was seen to help most on the bundled task."""
    min_new_tokens: int = 0
    """Tokens that come before EOS (or a stop string) may end the response."""
    forbidden_token_ids: Sequence[int] = ()
    """Ids that the action mask never allows."""
    stop_strings: Sequence[str] = ()
    """The response ends with the token that completes one of these."""
    horizon: Horizon = "terminated"
    """How the horizon is reported: part of the problem, or only a budget."""
    overlong: Overlong = "error"
    """Prompts above ``max_prompt_tokens``: refused, cut from the left, or dropped."""
    chat_template: bool = False
    """Whether a prompt's text is a user's message in the tokenizer's chat template."""
    prompt_sampling: PromptSampling = "uniform"
    """With replacement, as a permutation per epoch, or in order."""

    def __post_init__(self) -> None:
        for name in ("max_prompt_tokens", "max_new_tokens", "min_new_tokens"):
            self._check_count(name, smallest=0 if name == "min_new_tokens" else 1)
        if self.min_new_tokens > self.max_new_tokens:
            raise SettingsError(
                f"min_new_tokens must be at most max_new_tokens={self.max_new_tokens}, got "
                f"{self.min_new_tokens}; lower it or raise max_new_tokens"
            )
        for name, choices in (
            ("horizon", get_args(Horizon)),
            ("overlong", get_args(Overlong)),
            ("prompt_sampling", get_args(PromptSampling)),
        ):
            if getattr(self, name) not in choices:
                raise SettingsError(
                    f"{name} must be one of {', '.join(map(repr, choices))}, got "
                    f"{getattr(self, name)!r}"
                )
        if not isinstance(self.chat_template, bool):
            raise SettingsError(
                f"chat_template must be True or False, got {self.chat_template!r}; a template of "
                "your own goes to tokenizer.chat_template"
            )
        object.__setattr__(
            self, "forbidden_token_ids", tuple(sorted(set(map(index, self.forbidden_token_ids))))
        )
        if isinstance(self.stop_strings, str):
            raise SettingsError(
                f"stop_strings must be a sequence of strings, got one str {self.stop_strings!r}; "
                "put it in a list"
            )
        object.__setattr__(self, "stop_strings", tuple(self.stop_strings))
        if not all(isinstance(text, str) and text for text in self.stop_strings):
            raise SettingsError(
                f"stop_strings must be non-empty strings, got {self.stop_strings!r}; "
                "leave the empty one out"
            )

    def _check_count(self, name: str, *, smallest: int) -> None:
        """Refuse what is not an integer of at least ``smallest`` (None passes for the prompt)."""
        value = getattr(self, name)
        if value is None and name == "max_prompt_tokens":
            return
        try:
            count = index(value)
        except TypeError:
            raise TypeError(f"{name} must be an integer, got {value!r}; round it") from None
        if count < smallest:
            raise SettingsError(f"{name} must be at least {smallest}, got {count}; raise it")
        object.__setattr__(self, name, count)
