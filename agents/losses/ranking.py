"""Several scored responses to a prompt: a pair of them, or the best of n.

Pure functions, without torch.
"""

from collections.abc import Sequence
from math import comb
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Choice(NamedTuple):
    """Positions of two responses among those of a prompt."""

    chosen: int
    rejected: int


def best_against_worst(
    scores: ArrayLike,
    texts: Sequence[str],
    *,
    length_penalty: float = 0.0,
    min_gap: float = 0.0,
) -> Choice | None:
    """Return the best and the worst response to a prompt, or None where there is nothing to learn.

    value = score - length_penalty * characters;  chosen = argmax, rejected = argmin, the first of
    equals.  None if value[chosen] - value[rejected] <= min_gap (a tie) or their texts are equal.

    Args:
        scores: (responses,) reward units.
        texts: (responses,) the responses themselves.
        length_penalty: Per character, reward units.
        min_gap: Least difference of the two values, reward units.

    Raises:
        ValueError: if there are not as many texts as scores, or a score is not finite, or a setting
            is negative.

    Source: Dong et al. 2024, "RLHF Workflow", arXiv:2405.07863, section 3 (length_penalty .001).

    Example:
        >>> best_against_worst([1.0, 3.0, 2.0], ["a", "b", "c"])
        Choice(chosen=1, rejected=0)
        >>> best_against_worst([1.0, 1.0], ["a", "b"]) is None
        True
    """
    values = penalised(scores, texts, length_penalty)
    if not min_gap >= 0.0:
        raise ValueError(f"min_gap must be >= 0, got {min_gap}; 0 drops ties only")
    chosen, rejected = int(values.argmax()), int(values.argmin())
    if not values[chosen] - values[rejected] > min_gap or texts[chosen] == texts[rejected]:
        return None
    return Choice(chosen, rejected)


def best_of(scores: ArrayLike, texts: Sequence[str], *, length_penalty: float = 0.0) -> int:
    """Return the position of the best response, the first of equals.

    Args:
        scores: (responses,) reward units.
        texts: (responses,) the responses themselves.
        length_penalty: Per character, reward units.

    Raises:
        ValueError: as `best_against_worst`.
    """
    return int(penalised(scores, texts, length_penalty).argmax())


def penalised(
    scores: ArrayLike, texts: Sequence[str], length_penalty: float
) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """Return score - length_penalty * characters, (responses,)."""
    values = np.asarray(scores, dtype=np.float64)
    if values.shape != (len(texts),) or not len(texts):
        raise ValueError(
            f"scores must be one number per response, got shape {values.shape} for {len(texts)} "
            "texts; score the responses of one prompt at a time"
        )
    if not np.isfinite(values).all():
        raise ValueError(f"scores must be finite, got {values.tolist()}; correct the scorer")
    if not length_penalty >= 0.0:
        raise ValueError(f"length_penalty must be >= 0, got {length_penalty}; 0 leaves length free")
    return values - length_penalty * np.array([len(text) for text in texts])


def best_of_n_kl_bound(n: int) -> float:
    """Return the bound on how far the best of n samples is from the policy they come from.

    KL(pi_bon || pi) <= log n - (n - 1) / n,  nats per response

    Equality where no two responses have the same score and none has any mass of its own; with few
    different responses the KL is less.

    Args:
        n: Samples.

    Raises:
        ValueError: if there is no sample.

    Source: Stiennon et al. 2020, arXiv:2009.01325, appendix G.3; that it is a bound: Beirami et al.
        2024, arXiv:2401.01879, theorem 1.

    Example:
        >>> best_of_n_kl_bound(1)
        0.0
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}; 8 or 16 are usual")
    return float(np.log(n) - (n - 1) / n)


def mean_of_best(ranked_by: ArrayLike, values: ArrayLike, n: int) -> NDArray[np.float64]:
    """Return the expected value of the best of n, drawn without replacement from N responses.

    E = sum_i C(i - 1, n - 1) / C(N, n) v_i,  v_i the value of the i-th worst by ``ranked_by``

    Args:
        ranked_by: (prompts, N) scores that choose.
        values: (prompts, N) what the chosen one is worth.
        n: Samples, at most N.

    Returns:
        (prompts,); without bias for the best of n fresh responses.

    Raises:
        ValueError: if there are fewer than n responses.
    """
    by = np.asarray(ranked_by, dtype=np.float64)
    order = np.argsort(by, axis=-1, kind="stable")
    ranked = np.take_along_axis(np.asarray(values, dtype=np.float64), order, axis=-1)
    count = ranked.shape[-1]
    if not 1 <= n <= count:
        raise ValueError(f"n must lie in [1, {count}], the number of responses, got {n}")
    weights = np.array([comb(i, n - 1) / comb(count, n) for i in range(count)])
    means: NDArray[np.float64] = ranked @ weights
    return means
