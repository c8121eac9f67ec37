"""Credit between two tokenizations of one text, by character offsets."""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tokengym.envs.tokenization import decode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]
"""(start, end) in characters; empty for a token that shows no text, such as EOS."""


def token_spans(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int]) -> list[Span]:
    """Return which characters of the decoded text each token added.

    A token that only begins a character (byte-level vocabularies) gets an empty span; the one
    that completes it gets the character. Special tokens are left out of the text, as in episodes.

    Args:
        tokenizer: What decodes the ids.
        ids: A response's tokens.

    Returns:
        One span per token, in order, without gaps, ending at the text's end.
    """
    return continued_spans(tokenizer, [], ids)[1]


def continued_spans(
    tokenizer: "PreTrainedTokenizerBase", prefix: Sequence[int], ids: Sequence[int]
) -> tuple[str, list[Span]]:
    """Return the text that ids add behind a prefix, and which of its characters each one added.

    Behind a prefix the first word keeps its space; decoded alone it may lose it.

    Args:
        tokenizer: What decodes the ids.
        prefix: The prompt's tokens.
        ids: The response's tokens.

    Returns:
        The added text, and one span of it per token of ``ids`` as `token_spans` gives them.
    """
    prefix, ids = list(prefix), list(ids)
    texts = decode(tokenizer, [prefix + ids[:end] for end in range(len(ids) + 1)])
    whole = texts[-1]
    # Unfinished characters decode to U+FFFD and are replaced later: they do not count yet.
    lengths = [min(len(text.rstrip("\ufffd")), len(whole)) for text in texts]
    lengths[-1] = len(whole) if ids else lengths[-1]
    start = lengths[0]
    ends = [length - start for length in accumulate(lengths, max)]
    return whole[start : start + ends[-1]], list(pairwise(ends))


def spread_by_overlap(
    shares: ArrayLike, sources: Sequence[Span], targets: Sequence[Span]
) -> NDArray[np.float64]:
    """Return the shares of source tokens on the target tokens of the same text; the sum is kept.

    out_t = sum_s share_s * overlap(s, t) / sum_u overlap(s, u)

    A source that overlaps nothing (a special token of the encoder, a space that the other
    tokenizer drops) is split evenly over all targets.

    Args:
        shares: (len(sources),) signed.
        sources: Spans of the tokens that have shares.
        targets: Spans of the tokens that get them, at least one.

    Returns:
        (len(targets),), sums to ``shares.sum()``.

    Raises:
        ValueError: if there are not as many shares as sources, or no target.

    Example:
        >>> spread_by_overlap([3.0, 1.0], [(0, 6), (6, 7)], [(0, 2), (2, 7)])
        array([1., 3.])
    """
    shares = np.asarray(shares, dtype=np.float64)
    if shares.shape != (len(sources),) or not targets:
        raise ValueError(
            f"shares must have shape ({len(sources)},), one per source, and need a target; "
            f"got {shares.shape} and {len(targets)} targets"
        )
    if not len(sources):
        return np.zeros(len(targets))
    source, target = np.asarray(sources), np.asarray(targets)
    first = np.maximum(source[:, None, 0], target[None, :, 0])
    last = np.minimum(source[:, None, 1], target[None, :, 1])
    overlap = np.maximum(last - first, 0).astype(np.float64)  # (sources, targets)
    overlap[overlap.sum(axis=1) == 0] = 1.0
    return shares @ (overlap / overlap.sum(axis=1, keepdims=True))
