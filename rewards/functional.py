"""The mathematics of rewards: pure functions of arrays, texts and floats.

Credit functions turn the score of one response into its token rewards. Lengths differ between
responses, so they take one response at a time: (n,) where n counts its tokens, the EOS included.
They compute in float64; whoever stores the result casts it.
"""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

RELEVANCE_SCALE = 3.5
"""R3's F divides by this: the relevance that counts as full (Kim et al. 2024, official code)."""

ROLE_TAGS = (
    *("Human:", "Assistant:", "User:", "System:", "HUMAN:", "ASSISTANT:", "USER:", "SYSTEM:"),
    *("### Human", "### User", "### Assistant", "### Instruction", "### Input", "### Response"),
    *("<|user|>", "<|assistant|>", "<|system|>", "[INST]", "[/INST]"),
)
"""What opens a turn of a dialogue; a response is over where the first of them stands."""

_BLANK_LINES = r"\n(?:[ \t]*\n){2,}"
_WORDS_AND_PUNCTUATION = re.compile(r"\w+|[^\w\s]+")


def sparse(score: float, length: int) -> FloatArray:
    """Return the score on the last token and 0 before it.

    r_t = R if t = n - 1 else 0

    Args:
        score: R, reward units.
        length: n, number of response tokens.

    Returns:
        (n,) reward units.

    Raises:
        ValueError: if ``length`` is below 1.

    Example:
        >>> sparse(3.0, 3)
        array([0., 0., 3.])
    """
    rewards = np.zeros(_check_length(length))
    rewards[-1] = score
    return rewards


def uniform(score: float, length: int) -> FloatArray:
    """Return the score in equal parts.

    r_t = R / n

    Args:
        score: R, reward units.
        length: n, number of response tokens.

    Returns:
        (n,) reward units.

    Raises:
        ValueError: if ``length`` is below 1.

    Source: the uniform baseline of Chan et al. 2024, arXiv:2402.00782.
    """
    return np.full(_check_length(length), score / length)


def normalize_weights(weights: ArrayLike) -> FloatArray:
    """Return non-negative weights scaled to sum to 1; uniform if all are 0.

    alpha_t = w_t / sum_s w_s

    Args:
        weights: (n,) >= 0, any scale.

    Returns:
        (n,), sums to 1.

    Raises:
        ValueError: if a weight is negative or not finite, or there is none.
    """
    weights = _vector("weights", weights)
    if not np.isfinite(weights).all() or weights.min() < 0:
        raise ValueError(
            f"weights must be finite and >= 0, got {weights.min()} to {weights.max()}; "
            "signed attributions need a credit that takes shares, such as r3-dense"
        )
    total = weights.sum()
    return weights / total if total > 0 else np.full(len(weights), 1.0 / len(weights))


def blend(score: float, weights: ArrayLike, *, beta: float) -> FloatArray:
    """Return the score spread by weights, blended with the sparse reward.

    r_t = beta * alpha_t * R + (1 - beta) * R * 1[t = n - 1],   alpha = weights / sum(weights)

    With attention weights this is ABC. beta = 0 is `sparse`; beta = 1 with equal weights `uniform`.

    Args:
        score: R, reward units.
        weights: (n,) >= 0, any scale.
        beta: Share of the score that is spread, in [0, 1].

    Returns:
        (n,) reward units.

    Raises:
        ValueError: if ``beta`` lies outside [0, 1] or the weights are not weights.

    Source: Chan et al. 2024, "Dense Reward for Free in RLHF", arXiv:2402.00782, eq. 5.

    Example:
        >>> blend(10.0, [1.0, 3.0], beta=0.8)
        array([2., 8.])
    """
    if not 0.0 <= beta <= 1.0:
        raise ValueError(f"beta must lie in [0, 1], got {beta}; the paper uses 0.8")
    rewards = beta * score * normalize_weights(weights)
    rewards[-1] += (1.0 - beta) * score
    return rewards


def recency_weights(length: int, *, tau: float) -> FloatArray:
    """Return weights that decay backwards from the last token.

    alpha_t = exp(-(n - 1 - t) / tau) / sum_s exp(-(n - 1 - s) / tau)

    Args:
        length: n, number of response tokens.
        tau: Tokens over which a weight falls by e; > 0.

    Returns:
        (n,), sums to 1.

    Raises:
        ValueError: if ``length`` is below 1 or ``tau`` is not positive.
    """
    if not tau > 0 or not math.isfinite(tau):
        raise ValueError(f"tau must be a finite number of tokens > 0, got {tau}")
    distance = np.arange(_check_length(length))[::-1]
    return normalize_weights(np.exp(-distance / tau))


def dirichlet_weights(length: int, entropy: Sequence[int]) -> FloatArray:
    """Return Dirichlet(1) weights that depend on ``entropy`` alone.

    alpha ~ Dirichlet(1, ..., 1): uniform over all ways to split the score

    Args:
        length: n, number of response tokens.
        entropy: Non-negative integers that seed the draw; the same give the same weights.

    Returns:
        (n,), sums to 1.

    Raises:
        ValueError: if ``length`` is below 1.
    """
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(list(entropy))))
    return generator.dirichlet(np.ones(_check_length(length)))


def close_sum(score: float, rewards: ArrayLike) -> bool:
    """Return whether token rewards sum to the score, up to float32 rounding.

    |sum_t r_t - R| <= 1e-5 * |R| + 1e-6 * sum_t |r_t| + n * (smallest normal float32)

    The second term covers signed rewards that cancel: each is rounded on its own. The third
    covers those that float32 cannot tell from 0.

    Args:
        score: R, reward units.
        rewards: (n,) reward units.
    """
    rewards = np.asarray(rewards, dtype=np.float64)
    bound = 1e-5 * abs(score) + 1e-6 * float(np.abs(rewards).sum())
    bound += rewards.size * float(np.finfo(np.float32).tiny)
    return bool(abs(float(rewards.sum()) - score) <= bound)


def cut_at_turn(text: str, role_tags: Sequence[str] = ROLE_TAGS) -> str:
    """Return the text before the first role tag or run of two or more blank lines.

    Args:
        text: A response.
        role_tags: What opens a turn, matched literally.

    Example:
        >>> cut_at_turn("It is Paris. Human: And of Spain?")
        'It is Paris.'
    """
    stops = "|".join([_BLANK_LINES, *map(re.escape, role_tags)])
    return re.split(stops, text.strip("\n "), maxsplit=1)[0].strip("\n ")


def strip_query(prompt: str, role_tags: Sequence[str] = ROLE_TAGS) -> str:
    """Return what the user asked: without system prompt, role tags and earlier answers.

    Text before the first user tag is a system prompt; a prompt without tags is all query.

    Args:
        prompt: The prompt as the policy sees it.
        role_tags: What opens a turn, matched literally; one that names a human, a user, an
            instruction, an input, a question or a query opens a turn of the user.

    Example:
        >>> strip_query("Be brief. Human: Who wrote Emma? Assistant:")
        'Who wrote Emma?'
    """
    if not role_tags:
        return " ".join(prompt.split())
    pieces = re.split(f"({'|'.join(map(re.escape, role_tags))})", prompt)
    turns = list(zip(pieces[1::2], pieces[2::2], strict=True))
    asked = [text for tag, text in turns if _opens_user_turn(tag)]
    if not asked:
        # No user tag: the tags that are there close the query ("... Assistant:").
        asked = [pieces[0]]
    return " ".join(" ".join(asked).strip(": \n").split())


def length_incentive(text: str) -> float:
    r"""Return R3's length incentive.

    LI(y) = N / 100,   N = number of matches of `\w+|[^\w\s]+`

    Args:
        text: The response, already cut by `cut_at_turn`.

    Source: Kim et al. 2024, arXiv:2402.03469, section 4.1, and its official code.

    Example:
        >>> length_incentive("Yes, it is.")
        0.05
    """
    return len(_WORDS_AND_PUNCTUATION.findall(text)) / 100


def repetition_penalty(text: str) -> float:
    r"""Return R3's repetition penalty: 1 without repeated trigrams, towards 0 with many.

    RP(y) = unique trigrams / trigrams over the matches of `\w+|[^\w\s]+`; 1 below 3 matches

    Args:
        text: The response, already cut by `cut_at_turn`.

    Source: Kim et al. 2024, arXiv:2402.03469, section 4.1.

    Example:
        >>> repetition_penalty("no no no no")
        0.5
    """
    words = _WORDS_AND_PUNCTUATION.findall(text)
    trigrams = list(zip(words, words[1:], words[2:], strict=False))
    return len(set(trigrams)) / len(trigrams) if trigrams else 1.0


def constrained_factor(max_len: float) -> float:
    """Return what R3's F multiplies the relevance to the reference by.

    F(r_y) = (r_y / 3.5) * (max_len / 100): linear, and full relevance earns what the length
    incentive gives the longest answer.

    Args:
        max_len: Longest response, tokens; > 0.

    Raises:
        ValueError: if ``max_len`` is not positive.

    Source: Kim et al. 2024, arXiv:2402.03469, section 4.2.
    """
    if not max_len > 0:
        raise ValueError(f"max_len must be a number of tokens > 0, got {max_len}")
    return max_len / 100 / RELEVANCE_SCALE


def r3_factor(incentive: float, penalty: float, *, max_len: float, constrained: bool) -> float:
    """Return what R3 multiplies a relevance by.

    R3 = r_x * LI * RP for an open-ended query;  F(r_y) * RP for a constrained one

    Both are linear in the relevance, so that a decomposition of it carries over.

    Args:
        incentive: LI of the response.
        penalty: RP of the response.
        max_len: Longest response, tokens.
        constrained: Whether the query has one right answer.

    Source: Kim et al. 2024, arXiv:2402.03469, eq. 4.
    """
    return (constrained_factor(max_len) if constrained else incentive) * penalty


def mean_pool(hidden: ArrayLike) -> FloatArray:
    """Return M, the mean over tokens; 0 without tokens.

    M = (1 / n) * sum_t h_t

    Args:
        hidden: (n, width) hidden states of one text, padding left out.

    Returns:
        (width,).

    Raises:
        ValueError: if ``hidden`` is not a matrix.
    """
    hidden = np.asarray(hidden, dtype=np.float64)
    if hidden.ndim != 2:
        raise ValueError(f"hidden must have shape (tokens, width), got {hidden.shape}")
    return hidden.mean(axis=0) if len(hidden) else np.zeros(hidden.shape[1])


def relevance_shares(query: ArrayLike, hidden: ArrayLike) -> FloatArray:
    """Return each token's exact part of the relevance of a response to a query.

    share_t = (q . h_t) / n,   sum_t share_t = q . M(y)

    Args:
        query: (width,) q = M(x), the pooled query (or reference).
        hidden: (n, width) hidden states of the response's tokens, padding left out.

    Returns:
        (n,) signed, sums to the raw dot product.

    Raises:
        ValueError: if the widths differ.
    """
    query = np.asarray(query, dtype=np.float64)
    hidden = np.asarray(hidden, dtype=np.float64)
    if hidden.ndim != 2 or query.shape != hidden.shape[1:]:
        raise ValueError(
            f"hidden must have shape (tokens, width) of query's width, got {hidden.shape} "
            f"and {query.shape}"
        )
    return hidden @ query / max(len(hidden), 1)


class Moments(NamedTuple):
    """Running mean and variance of a stream of batches."""

    seen: int = 0
    """Number of values."""
    mean: float = 0.0
    """Weighted mean, units of the values."""
    variance: float = 0.0
    """Weighted population variance, squared units."""


def update_moments(moments: Moments, batch: ArrayLike, *, window: int | None) -> Moments:
    """Return the moments after one more batch.

    a = b / min(seen + b, max(window, b)),  b = batch size;  a = b / (seen + b) without window
    mean' = mean + a * (batch_mean - mean)
    variance' = (1 - a) * variance + a * batch_variance + a * (1 - a) * (batch_mean - mean)^2

    Without a window these are exactly the moments of everything seen. With one, the weight of
    the past decays exponentially once it is full; a batch of ``window`` values or more replaces it.

    Args:
        moments: Of what was seen before.
        batch: (b,) new values, at least one.
        window: Number of values remembered, or None for all.

    Raises:
        ValueError: if the batch is empty or the window below 1.

    Source: the parallel update of Chan, Golub & LeVeque 1979.
    """
    values = _vector("batch", batch)
    if window is not None and window < 1:
        raise ValueError(f"window must be at least 1, got {window}; pass None to remember all")
    size = len(values)
    seen = moments.seen + size
    weight = size / (seen if window is None else min(seen, max(window, size)))
    difference = float(values.mean()) - moments.mean
    return Moments(
        seen=seen,
        mean=moments.mean + weight * difference,
        variance=(1 - weight) * moments.variance
        + weight * float(values.var())
        + weight * (1 - weight) * difference**2,
    )


def _opens_user_turn(tag: str) -> bool:
    names = ("human", "user", "instruction", "input", "[inst]", "question", "query")
    return any(name in tag.lower() for name in names)


def _check_length(length: int) -> int:
    if length < 1:
        raise ValueError(f"length must be at least 1 token, got {length}")
    return length


def _vector(name: str, values: ArrayLike) -> FloatArray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) == 0:
        raise ValueError(f"{name} must have shape (n,) with n >= 1, got {array.shape}")
    return array
