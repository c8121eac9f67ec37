"""Token credit for services of Tinker's interface: a datum with an advantage per token.

    inputs = loss_inputs(row, advantages, log_probs)
    tinker.Datum(model_input=tinker.ModelInput.from_ints(inputs.tokens),
                 loss_fn_inputs=inputs.loss_fn_inputs)

``forward_backward(data, "importance_sampling")`` then sums -ratio x advantage over the tokens.
Other servers of the interface take the same datum. SkyRL's JAX engine divides the sum of each datum
by its number of tokens, which ``mean_per_row=True`` undoes. Run with tinker 0.38.0, and trained
with on the engine of skyrl 0.3.0: examples/tinker_on_skyrl.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tokengym.bridges.rows import Row


@dataclass(frozen=True, kw_only=True)
class LossInputs:
    """Contents of one datum; all of its arrays are (prompt time + response time - 1,)."""

    tokens: list[int]
    """Input: every token but the last."""
    loss_fn_inputs: dict[str, NDArray[np.generic]]
    """``target_tokens``, int64: the token that follows each; ``logprobs`` (nats, as sampled) and
    ``advantages`` (reward units), float32, of that token; 0 at what the policy did not write."""


def loss_inputs(
    row: Row, advantages: ArrayLike, log_probs: Sequence[float], *, mean_per_row: bool = False
) -> LossInputs:
    """Return the contents of a row's datum.

    Args:
        row: The row.
        advantages: (time,) of its response tokens; see `credit_rows`. Any number at tokens that
            the policy did not write.
        log_probs: (time,) nats, as the service's sampler returned them; any number there too.
        mean_per_row: The server divides a datum's loss by its number of tokens, prompt included.
            The advantages are multiplied by it, so that the tokens of long rows do not weigh less.

    Raises:
        ValueError: if there is not one number for each response token, or no prompt, whose last
            token predicts the first one.
    """
    size, given = len(row.response_ids), np.asarray(advantages, dtype=np.float32)
    if given.shape != (size,) or len(log_probs) != size:
        raise ValueError(
            f"the response has {size} tokens, got {given.shape} advantages and {len(log_probs)} "
            "log_probs; pass one for each token"
        )
    if not len(row.prompt_ids):
        raise ValueError("the row has no prompt tokens to predict the first token from; add BOS")
    ids = [*map(int, row.prompt_ids), *map(int, row.response_ids)]
    before = len(row.prompt_ids) - 1  # targets that are prompt tokens, which carry no loss
    own = np.ones(size) if row.written is None else np.asarray(row.written)
    sampled = np.where(own > 0, np.asarray(log_probs, dtype=np.float32), 0.0)
    earned = np.where(own > 0, given, np.float32(0.0))
    weight = before + size if mean_per_row else 1
    return LossInputs(
        tokens=ids[:-1],
        loss_fn_inputs={
            "target_tokens": np.array(ids[1:], dtype=np.int64),
            "logprobs": np.pad(sampled, (before, 0)).astype(np.float32),
            "advantages": np.pad(earned * np.float32(weight), (before, 0)),
        },
    )
