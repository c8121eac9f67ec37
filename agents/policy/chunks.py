"""Figures over the vocabulary, a chunk of tokens at a time."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

MOST_LOGITS = 2**27
"""Most logits of a chunk, 512 MiB in float32."""


def in_chunks(
    figures: Callable[..., tuple[Tensor, ...]], *inputs: Tensor, vocab_size: int
) -> tuple[Tensor, ...]:
    """Return the figures of all tokens, with the logits of one chunk in memory at a time.

    Where there are several chunks, each one's logits are computed again in the backward pass. A
    single chunk is computed as if there were none.

    Args:
        figures: A function of tensors (n, ...) to tensors (n,), token by token.
        inputs: Its arguments for all tokens, (tokens, ...) each.
        vocab_size: Logits of one token.
    """
    size = max(1, MOST_LOGITS // vocab_size)
    if len(inputs[0]) <= size:
        return figures(*inputs)
    run: Callable[..., Any] = figures
    if torch.is_grad_enabled():
        run = partial(checkpoint, figures, use_reentrant=False, preserve_rng_state=False)
    chunks = zip(*(tensor.split(size) for tensor in inputs), strict=True)
    return tuple(map(torch.cat, zip(*(run(*chunk) for chunk in chunks), strict=True)))
