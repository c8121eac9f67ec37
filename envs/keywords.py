"""Types of the keywords of the environments' constructors, read by type checkers alone.

Written by `python -m docs.makers.build_docs` from the settings dataclasses: edit those.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypedDict

from tokengym.envs.settings import Horizon, OnPartnerError, Overlong, PromptSampling
from tokengym.envs.turns.partner import Partner


class GenerationKeywords(TypedDict, total=False):
    """Fields of `GenerationSettings`."""

    partner: Partner | Callable[..., Any] | str | None
    max_turns: int
    max_turn_tokens: int | None
    max_reply_tokens: int
    partner_timeout: float | None
    on_partner_error: OnPartnerError
    max_new_tokens: int
    min_new_tokens: int
    forbidden_token_ids: Sequence[int]
    horizon: Horizon
    prompt_sampling: PromptSampling
    overlong: Overlong
    chat_template: bool
    prompt_format: str | None
    template_date: str | None
    max_prompt_tokens: int | None
    stop_strings: Sequence[str]
    allowed_token_ids: Sequence[tuple[int, ...]]
