"""Pure functions behind credit rules, relevance and pairwise training.

Each is imported when it is first used: some need torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokengym.rewards.maths.pairwise import (
        ReliabilityBin,
        bradley_terry_loss,
        calibration_error,
        length_correlation,
        pair_accuracy,
        reliability,
        wilson_interval,
    )
    from tokengym.rewards.maths.redistribution import sparse
    from tokengym.rewards.maths.shares import (
        complete,
        min_form,
        on_last_tokens,
        split_by_lengths,
        split_evenly,
        spread_signed,
    )

_NAMES = {
    "pairwise": "ReliabilityBin bradley_terry_loss calibration_error length_correlation "
    "pair_accuracy reliability wilson_interval",
    "redistribution": "sparse",
    "shares": "complete min_form on_last_tokens split_by_lengths split_evenly spread_signed",
}

_HOMES = {name: home for home, names in _NAMES.items() for name in names.split()}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    """Import a function when it is first used."""
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
