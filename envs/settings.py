"""Settings of the environments, validated when built."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from datetime import date
from operator import index
from typing import Any, Literal, get_args

from tokengym.base.errors import SettingsError
from tokengym.base.settings import check_choice, check_count, check_number
from tokengym.envs.turns.partner import Partner

OnPartnerError = Literal["raise", "skip"]
Horizon = Literal["terminated", "truncated"]
Overlong = Literal["error", "left", "drop"]
PromptSampling = Literal["uniform", "epoch", "sequential"]
TOKEN_BYTES = 64
"""Least memory that a token of a response takes in an environment: ids, mask, copies, rewards."""
PLACE = "{prompt}"
"""Place of a prompt in a prompt format."""


@dataclass(frozen=True, kw_only=True)
class TextSettings:
    """Settings of turning texts into token ids: of prompts, and of data that models learn from.

    Raises:
        SettingsError: if a value is unknown.
    """

    overlong: Overlong = "error"
    """Texts that are too long: "error" refuses them, "left" cuts the beginning of their prompts,
    "drop" leaves them out."""
    chat_template: bool = False
    """Whether a prompt given as text is a user's message in the tokenizer's chat template;
    conversations (lists of messages) always are in it."""

    def __post_init__(self) -> None:
        check_choice(self, "overlong", get_args(Overlong))


@dataclass(frozen=True, kw_only=True)
class ResponseSettings:
    """Length, legal tokens and end of a response, and the order of prompts.

    Raises:
        SettingsError: if a value is out of range or two contradict each other.
    """

    max_new_tokens: int = 48
    """Longest response, tokens: the horizon."""
    min_new_tokens: int = 0
    """Tokens before EOS is legal, and before a stop string counts."""
    forbidden_token_ids: Sequence[int] = ()
    """Ids that are never legal."""
    horizon: Horizon = field(default="terminated", metadata={"flag": ""})
    """"terminated" if the horizon is part of the problem, "truncated" if it is only a budget."""
    prompt_sampling: PromptSampling = field(default="uniform", metadata={"flag": ""})
    """"uniform" (with replacement), "sequential" (in order; in a batch of n, row i takes prompts
    i, i + n, ..., so that each comes once in an epoch of the batch) or "epoch" (the same, in a
    permutation per epoch that the rows share)."""

    def __post_init__(self) -> None:
        check_count(self, "max_new_tokens")
        check_count(self, "min_new_tokens", least=0)
        if self.min_new_tokens > self.max_new_tokens:
            raise SettingsError(
                f"min_new_tokens must be at most max_new_tokens={self.max_new_tokens}, got "
                f"{self.min_new_tokens}; lower it or raise max_new_tokens"
            )
        check_choice(self, "horizon", get_args(Horizon))
        check_choice(self, "prompt_sampling", get_args(PromptSampling))
        _store_tuple(self, "forbidden_token_ids", "token ids", index)
        ids = tuple(sorted(set(self.forbidden_token_ids)))
        object.__setattr__(self, "forbidden_token_ids", ids)


@dataclass(frozen=True, kw_only=True)
class TurnSettings:
    """The other side of a conversation, and how long both may speak; checked with the rest."""

    partner: Partner | Callable[..., Any] | str | None = field(default=None, hash=False)
    """Other side of the conversation, which answers each turn: a `Partner`, a function of
    conversation, metadata and generator, or a name ("file.py:Name"); None has no other side."""
    max_turns: int = 1
    """Turns of the policy in an episode; the partner answers the last one too, which scores it."""
    max_turn_tokens: int | None = None
    """Longest turn, tokens; None leaves it to ``max_new_tokens``, which bounds all turns and
    replies together."""
    max_reply_tokens: int = field(default=64, metadata={"flag": ""})
    """Longest reply, tokens, those of the chat template included; a longer one is an error."""
    partner_timeout: float | None = field(default=None, metadata={"flag": ""})
    """Seconds that the partner may take for one answer, and n times as many for n answers in one
    call; None waits for ever."""
    on_partner_error: OnPartnerError = field(default="raise", metadata={"flag": ""})
    """Response to a partner that raises, takes too long, or answers without a text or with too
    long a one: "raise" stops, "skip" ends the episode with ``finish_reason`` "error"."""


@dataclass(frozen=True, kw_only=True)
class GenerationSettings(TextSettings, ResponseSettings, TurnSettings):
    """Settings of an environment: those of a response, its stop strings, its prompt and its turns.

    In a conversation, ``min_new_tokens``, stop strings and ``allowed_token_ids`` are those of each
    turn, and ``max_new_tokens`` bounds all turns and replies together.

    Raises:
        SettingsError: if a value is out of range, two contradict each other, or one has no effect
            without a partner.
    """

    prompt_format: str | None = None
    """Frame of every prompt that is a text, with ``{prompt}`` where it stands ("Continue this film
    review: {prompt}"); scorers see the prompt without it. None has no frame."""
    template_date: str | None = field(default=None, metadata={"flag": ""})
    """Date that a chat template is given which asks for today's, as "2026-01-31"; stored with the
    tokenizer. None takes the tokenizer's own, else 2026-01-01, so that a run is the same on any
    day."""
    max_prompt_tokens: int | None = None
    """Width of the prompt's part, tokens; None takes the longest prompt of the set."""
    stop_strings: Sequence[str] = ()
    """Texts that end the response when a legal token completes one."""
    allowed_token_ids: Sequence[tuple[int, ...]] = field(default=(), metadata={"flag": ""})
    """Ids that alone are legal at each position of a response, for texts of a fixed form; () allows
    all, also after the last entry. EOS is legal by ``min_new_tokens`` whatever they say."""

    def __post_init__(self) -> None:
        ResponseSettings.__post_init__(self)
        TextSettings.__post_init__(self)
        check_count(self, "max_turns", "max_reply_tokens")
        check_count(self, "max_turn_tokens", "max_prompt_tokens", optional=True)
        check_number(self, "partner_timeout", above=0.0, finite=True, optional=True)
        check_choice(self, "on_partner_error", get_args(OnPartnerError))
        for one in fields(TurnSettings) if self.partner is None else ():
            if (value := getattr(self, one.name)) != one.default:
                raise SettingsError(
                    f"{one.name}={value!r} has no effect without a partner; pass partner="
                )
        if self.template_date is not None:
            try:
                date.fromisoformat(self.template_date)
            except (TypeError, ValueError):
                raise SettingsError(
                    f"template_date must be a date, got {self.template_date!r}; write '2026-01-31'"
                ) from None
        remedy = "a template of your own goes to tokenizer.chat_template"
        check_choice(self, "chat_template", (True, False), hint=remedy)
        if self.max_turn_tokens is not None and self.min_new_tokens > self.max_turn_tokens:
            raise SettingsError(
                f"min_new_tokens must be at most max_turn_tokens={self.max_turn_tokens}, got "
                f"{self.min_new_tokens}; no turn could end by EOS, lower it"
            )
        if self.prompt_format is not None and str(self.prompt_format).count(PLACE) != 1:
            raise SettingsError(
                f"prompt_format must have {PLACE} once, got {self.prompt_format!r}; write "
                f"'Continue this film review: {PLACE}'"
            )
        _store_tuple(self, "stop_strings", "strings", lambda text: text)
        at_each = "lists of token ids, one list per position"
        _store_tuple(self, "allowed_token_ids", at_each, lambda ids: tuple(map(index, ids)))
        if not all(isinstance(text, str) and text for text in self.stop_strings):
            raise SettingsError(
                f"stop_strings must be non-empty strings, got {self.stop_strings!r}; "
                "leave the empty one out"
            )


def _store_tuple(settings: Any, name: str, kind: str, convert: Callable[[Any], Any]) -> None:
    """Make a tuple of a setting's values, refusing what is no list of values of a kind."""
    value = getattr(settings, name)
    try:
        if isinstance(value, str):
            raise TypeError
        values = tuple(map(convert, value))
    except TypeError:
        raise SettingsError(
            f"{name} must be a list of {kind}, got {value!r}; put them in a list, [] for none"
        ) from None
    object.__setattr__(settings, name, values)
