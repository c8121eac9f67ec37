"""Pure functions behind credit rules and relevance."""

from tokengym.rewards.maths.signed_parts import (
    add_rest_to_last,
    split_evenly,
)

__all__ = [
    "add_rest_to_last",
    "split_evenly",
]


def __dir__() -> list[str]:
    """Return the public names alone: modules of the package are no part of it."""
    return __all__
