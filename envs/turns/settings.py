"""Settings of conversations, validated when built."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from tokengym.base.errors import SettingsError
from tokengym.base.settings import check_choice, check_count, check_number
from tokengym.envs.turns.partner import Partner

OnPartnerError = Literal["raise", "skip"]


@dataclass(frozen=True, kw_only=True)
class TurnSettings:
    """The other side of a conversation, and how long both may speak.

    Raises:
        SettingsError: if a value is out of range, or has no effect without a partner.
    """

    partner: Partner | str | None = field(default=None, hash=False)
    """Other side of the conversation, which answers each turn: a `Partner`, a function of
    conversation, metadata and generator, or a name ("file.py:Name"); None has no other side."""
    max_turns: int = 1
    """Turns of the policy in an episode; the partner answers the last one too, which scores it."""
    max_turn_tokens: int | None = None
    """Longest turn, tokens; None leaves it to ``max_new_tokens``, which bounds all turns and
    replies together."""
    max_reply_tokens: int = 64
    """Longest reply, tokens, those of the chat template included; a longer one is an error."""
    partner_timeout: float | None = None
    """Seconds that the partner may take for one answer; None waits for ever."""
    on_partner_error: OnPartnerError = "raise"
    """Response to a partner that raises, takes too long, or answers without a text or with too
    long a one: "raise" stops, "skip" ends the episode with ``finish_reason`` "error"."""

    def __post_init__(self) -> None:
        check_count(self, "max_turns", "max_reply_tokens")
        check_count(self, "max_turn_tokens", optional=True)
        check_number(self, "partner_timeout", above=0.0, finite=True, optional=True)
        check_choice(self, "on_partner_error", get_args(OnPartnerError))
        if self.partner is None:
            for name, default in _WITHOUT_PARTNER.items():
                if (value := getattr(self, name)) != default:
                    raise SettingsError(
                        f"{name}={value!r} has no effect without a partner; pass partner="
                    )


_WITHOUT_PARTNER: dict[str, Any] = {
    name: one.default
    for name, one in TurnSettings.__dataclass_fields__.items()
    if name != "partner"
}
