"""The stream under a GPU's captured steps: the model's own forward, or kernels that equal it."""

import logging
from collections.abc import Callable
from functools import partial

from tokengym.agents.errors import ModelError
from tokengym.agents.fast.static import StaticStream
from tokengym.agents.policy.language_model import LanguageModel
from tokengym.agents.policy.streams import Stream, check_decoding, decoded
from tokengym.base.registry import imported
from tokengym.rewards.models.loading import longest_input

logger = logging.getLogger(__name__)

HAS_FUSED_SHAPE = "tokengym.agents.fast.kernels.blocks:has_fused_shape"
FUSED_STREAM = "tokengym.agents.fast.kernels.blocks:FusedStream"
TEXT_COLUMNS = 640
"""Columns of the texts that kernels are tried on: attention's take 16 to 64 a turn, and those of
few rows 512 a program."""


def static_stream(
    language_model: LanguageModel, capacity: int, *, rows: int, kernels: bool
) -> StaticStream:
    """Return a static stream: by kernels where they decode what the model's forward gives.

    Args:
        language_model: The model.
        capacity: Most tokens of a text.
        rows: Most texts.
        kernels: Whether to try kernels.
    """
    if kernels and imported(HAS_FUSED_SHAPE)(language_model):
        fused: type[StaticStream] = imported(FUSED_STREAM)
        try:
            streams = partial(StaticStream, rows=2), partial(fused, rows=2)
            check_decoding(language_model, streams[1])
            check_steps(language_model, *streams, capacity)
        except ModelError as error:
            logger.warning("steps are not fused, which is slower: %s", error)
        else:
            return fused(language_model, capacity, rows=rows)
    return StaticStream(language_model, capacity, rows=rows)


def check_steps(
    language_model: LanguageModel,
    plain: Callable[..., Stream],
    fused: Callable[..., Stream],
    capacity: int,
) -> None:
    """Raise unless a model's fused steps read what its whole forward reads, as plain steps do.

    The texts are long enough that attention takes several turns and, where the cache is as large,
    several programs a row; they begin at different columns.

    Args:
        language_model: The model.
        plain: Returns a stream of the model for texts of so many tokens.
        fused: The same by kernels.
        capacity: Most tokens of a text.
    """
    longest = min(TEXT_COLUMNS, capacity, longest_input(language_model.model) or capacity) - 2
    lengths, capacity = (longest, max(1, longest - 37)), max(capacity, longest + 2)
    gaps = []
    for make in (plain, fused):
        states, expected, _ = decoded(language_model, make, lengths, capacity)
        gaps.append(float((states - expected).norm() / expected.norm()))
    rounding = 1e-3 if language_model.is_float32 else 0.02
    if not gaps[1] <= max(1.5 * gaps[0], rounding):
        raise ModelError(
            f"texts of {longest} tokens are decoded by kernels to hidden states that are off by "
            f"{gaps[1]:.3g} of their size, by the model's own forward by {gaps[0]:.3g}"
        )
