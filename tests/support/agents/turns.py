"""A conversation's settings."""

from typing import Any

from tests.support.partners import teacher

TALK: dict[str, Any] = {
    "partner": teacher,
    "max_turns": 4,
    "max_turn_tokens": 3,
    "max_new_tokens": 22,
    "min_new_tokens": 1,
}
