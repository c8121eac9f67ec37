"""Pure functions behind credit rules and relevance."""

from tokengym.rewards.maths.redistribution import sparse
from tokengym.rewards.maths.shares import (
    add_rest_to_last,
    on_last_tokens,
    split_evenly,
    spread_signed,
)

__all__ = [
    "add_rest_to_last",
    "on_last_tokens",
    "sparse",
    "split_evenly",
    "spread_signed",
]


def __dir__() -> list[str]:
    """Return the public names alone: modules of the package are no part of it."""
    return __all__
