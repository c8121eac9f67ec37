r"""Metrics of generated text and of the policy that wrote it: pure functions of episodes.

Words are the matches of ``\w+|[^\w\s]+``, so that policies with different tokenizers compare.
ROUGE and self-BLEU are those of ``rouge-score`` and ``sacrebleu`` (``pip install tokengym[text]``),
so that the numbers equal those of other papers. They are for ``tokengym evaluate``: too slow or too
special for every point of a curve.
"""

import math
import re
import zlib
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokengym.envs import Episode

ROUGE = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}
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

    repetition = 1 - |set of n-grams| / |n-grams|, 1 minus R3's repetition penalty RP.

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


def policy_metrics(
    log_probs: Sequence[NDArray[np.float32]], ref_log_probs: Sequence[NDArray[np.float32]]
) -> dict[str, float]:
    """Return KL, entropy and reference perplexity, from the log-probs of sampled tokens.

    kl = mean over episodes of sum_t (log pi - log pi_ref)      (k1: unbiased, nats per response)
    entropy = mean over tokens of -log pi                       (unbiased, nats per token)
    reference_perplexity = exp(mean over tokens of -log pi_ref)

    Args:
        log_probs: Per episode (n,), nats, under the policy that sampled.
        ref_log_probs: Per episode (n,), nats, under the reference.

    Raises:
        ValueError: if there are none, or an episode's two arrays differ in length.
    """
    require_episodes(log_probs)
    lengths = [len(row) for row in log_probs], [len(row) for row in ref_log_probs]
    if lengths[0] != lengths[1]:
        raise ValueError(
            f"log_probs and ref_log_probs must be of the same tokens, got {lengths[0][:4]} and "
            f"{lengths[1][:4]} tokens in the first episodes"
        )
    sampled = np.concatenate(log_probs).astype(np.float64)
    reference = np.concatenate(ref_log_probs).astype(np.float64)
    return {
        "kl": float((sampled - reference).sum() / len(log_probs)),
        "entropy": float(-sampled.mean()),
        "reference_perplexity": math.exp(min(-float(reference.mean()), 700.0)),
    }


def require_episodes(episodes: Sequence[object]) -> None:
    """Refuse to measure nothing."""
    if len(episodes) == 0:
        raise ValueError("metrics need at least one episode, got none; collect some first")


class Words:
    """Splits texts for ROUGE: lower case, words without punctuation, in any script.

    On English text it gives what rouge-score's own tokenizer gives, which knows a to z only.
    """

    def tokenize(self, text: str) -> list[str]:
        """Return the words of a text."""
        return [word for word in words(text.lower()) if word[0].isalnum()]


def rouge(episodes: Sequence[Episode]) -> dict[str, float]:
    """Return ROUGE-1, -2 and -L (F1, no stemming) against the references, means over episodes.

    Args:
        episodes: Those without a reference are left out.

    Returns:
        Empty if no episode has a reference.

    Raises:
        ValueError: if rouge-score is not installed.

    Source: Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries".
    """
    pairs = [(e.reference, e.written_text) for e in episodes if e.reference]
    if not pairs:
        return {}
    _need("rouge_score", "rouge-score")
    from rouge_score.rouge_scorer import RougeScorer

    scorer: Any = RougeScorer(list(ROUGE.values()), tokenizer=Words())
    scores = [scorer.score(reference, response) for reference, response in pairs]
    return {
        name: float(np.mean([score[key].fmeasure for score in scores]))
        for name, key in ROUGE.items()
    }


def self_bleu(texts: Sequence[str]) -> float:
    """Return the mean BLEU (0 to 100) of each text against all others: 100 if all are alike.

    It rises with the number of texts, so compare equal numbers.

    Args:
        texts: At least two.

    Raises:
        ValueError: if there are fewer, or sacrebleu is not installed.

    Source: Zhu et al. 2018, arXiv:1802.01886; BLEU-4 with effective order by sacrebleu.
    """
    if len(texts) < 2:
        raise ValueError(f"self-BLEU compares at least two texts, got {len(texts)}")
    _need("sacrebleu", "sacrebleu")
    from sacrebleu.metrics import BLEU

    bleu = BLEU(effective_order=True)
    scores = [
        bleu.sentence_score(text, [*texts[:index], *texts[index + 1 :]]).score
        for index, text in enumerate(texts)
    ]
    return float(np.mean(scores))


def library_metrics(episodes: Sequence[Episode]) -> dict[str, float]:
    """Return ROUGE and self-BLEU as far as their libraries are installed."""
    figures: dict[str, float] = {}
    if find_spec("rouge_score"):
        figures.update(rouge(episodes))
    if find_spec("sacrebleu") and len(episodes) > 1:
        figures["self_bleu"] = self_bleu([episode.written_text for episode in episodes])
    return figures


def _need(module: str, package: str) -> None:
    if find_spec(module) is None:
        raise ValueError(f"{package} is not installed; pip install 'tokengym[text]'")
