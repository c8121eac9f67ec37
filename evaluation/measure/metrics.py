r"""Metrics of generated text and of the policy that wrote it: pure functions of episodes.

Words are the matches of ``\w+|[^\w\s]+``, so that policies with different tokenizers compare.
"""

import math
import re
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tokengym.envs import Episode

_WORD = re.compile(r"\w+|[^\w\s]+")


def words(text: str) -> list[str]:
    """Return the words and runs of punctuation of a text.

    Example:
        >>> words("It shines, truly!")
        ['It', 'shines', ',', 'truly', '!']
    """
    return _WORD.findall(text)


def ngrams(items: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """Return the n-grams of a sequence in order; empty when it is shorter than n."""
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}; distinct-n is usual for 1 and 2")
    return [tuple(items[i : i + n]) for i in range(len(items) - n + 1)]


def distinct(texts: Sequence[str], n: int) -> float:
    """Return the share of n-grams that are different over all texts together; 1 if there are none.

    distinct_n = |set of n-grams| / |n-grams|. It falls with the number of texts, so compare equal
    numbers of them.

    Source: Li et al. 2016, arXiv:1510.03055.

    Example:
        >>> distinct(["a b", "a b"], n=1)
        0.5
    """
    grams = [gram for text in texts for gram in ngrams(words(text), n)]
    return len(set(grams)) / len(grams) if grams else 1.0


def repetition(text: str, n: int = 3) -> float:
    """Return the share of a text's n-grams that repeat an earlier one; 0 if it has none.

    repetition = 1 - |set of n-grams| / |n-grams|, one less R3's repetition penalty RP.

    Example:
        >>> repetition("so good so good", n=2)
        0.33333333333333337
    """
    grams = ngrams(words(text), n)
    return 1.0 - len(set(grams)) / len(grams) if grams else 0.0


def copy_rate(prompt: str, response: str, n: int = 3) -> float:
    """Return the share of the response's n-grams that stand in the prompt; 0 if it has none.

    Example:
        >>> copy_rate("why is it good ?", "it is it good", n=2)
        0.6666666666666666
    """
    grams = ngrams(words(response), n)
    known = set(ngrams(words(prompt), n))
    return sum(gram in known for gram in grams) / len(grams) if grams else 0.0


def compression_ratio(texts: Sequence[str]) -> float:
    """Return how well texts compress together: the higher, the more they say the same.

    ratio = |bytes| / |zlib(bytes)| of the texts joined by line ends

    Unlike self-BLEU it takes one pass, sees repetition within and between texts, and does not
    saturate; it rises with the number of texts and their length, so compare equal amounts.

    Source: Shaib et al. 2024, arXiv:2403.00553.

    Example:
        >>> compression_ratio(["good good good good", "good good good good"]) > 2.0
        True
    """
    data = "\n".join(texts).encode("utf-8", errors="replace")
    return len(data) / len(zlib.compress(data, 9)) if data else 1.0


def text_metrics(episodes: Sequence[Episode]) -> dict[str, float]:
    """Return what the responses look like, as means over episodes.

    Args:
        episodes: At least one.

    Returns:
        ``length`` (response tokens), ``distinct_1``, ``distinct_2``, ``repetition`` (trigrams),
        ``copy_rate`` (trigrams of the response found in the prompt), ``compression``,
        ``eos_rate``.
    """
    _check(episodes)
    responses = [episode.response for episode in episodes]
    return {
        "length": float(np.mean([len(episode.response_ids) for episode in episodes])),
        "distinct_1": distinct(responses, 1),
        "distinct_2": distinct(responses, 2),
        "repetition": float(np.mean([repetition(response) for response in responses])),
        "copy_rate": float(np.mean([copy_rate(e.prompt, e.response) for e in episodes])),
        "compression": compression_ratio(responses),
        "eos_rate": float(np.mean([episode.finish_reason == "eos" for episode in episodes])),
    }


def policy_metrics(
    log_probs: Sequence[NDArray[np.float32]], ref_log_probs: Sequence[NDArray[np.float32]]
) -> dict[str, float]:
    """Return what the log-probs of sampled tokens say about the policy and its distance.

    kl = mean over episodes of sum_t (log pi - log pi_ref)      (k1: unbiased, nats per response)
    entropy = mean over tokens of -log pi                       (unbiased, nats per token)
    reference_perplexity = exp(mean over tokens of -log pi_ref)

    Args:
        log_probs: Per episode (n,), nats, under the policy that sampled.
        ref_log_probs: Per episode (n,), nats, under the reference.

    Raises:
        ValueError: if there are none, or an episode's two arrays differ in length.
    """
    _check(log_probs)
    lengths = [len(row) for row in log_probs], [len(row) for row in ref_log_probs]
    if lengths[0] != lengths[1]:
        raise ValueError(
            f"log_probs and ref_log_probs must be of the same tokens, got {lengths[0][:4]} and "
            f"{lengths[1][:4]} tokens in the first episodes"
        )
    own = np.concatenate(log_probs).astype(np.float64)
    reference = np.concatenate(ref_log_probs).astype(np.float64)
    return {
        "kl": float((own - reference).sum() / len(log_probs)),
        "entropy": float(-own.mean()),
        "reference_perplexity": math.exp(min(-float(reference.mean()), 700.0)),
    }


def _check(episodes: Sequence[object]) -> None:
    if len(episodes) == 0:
        raise ValueError("metrics need at least one episode, got none; collect some first")
