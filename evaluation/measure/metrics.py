"""Metrics of text by other libraries: ROUGE and self-BLEU, for ``tokengym evaluate``.

They are those of ``rouge-score`` and ``sacrebleu`` (``pip install tokengym[text]``), so that the
numbers equal those of other papers: too slow or too special for every point of a curve, whose
metrics are in `measures`.
"""

from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from tokengym.base.words import words
from tokengym.envs import Episode

ROUGE = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}


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

    Source: Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries".
    """
    pairs = [(e.reference, e.written_text) for e in episodes if e.reference]
    if not pairs:
        return {}
    from rouge_score.rouge_scorer import RougeScorer

    scorer: Any = RougeScorer(list(ROUGE.values()), tokenizer=Words())
    scores = [scorer.score(reference, response) for reference, response in pairs]
    return {
        name: float(np.mean([score[key].fmeasure for score in scores]))
        for name, key in ROUGE.items()
    }


def self_bleu(texts: Sequence[str]) -> float:
    """Return the mean BLEU (0 to 100) of each text against all others: 100 if all are alike.

    It rises with the number of texts, so compare equal numbers. The n-grams of a text are
    counted once.

    Source: Zhu et al. 2018, arXiv:1802.01886; BLEU-4 with effective order by sacrebleu.
    """
    if len(texts) < 2:
        raise ValueError(f"self-BLEU compares at least two texts, got {len(texts)}")
    from sacrebleu.metrics import BLEU

    bleu = BLEU(effective_order=True)
    into_words = bleu.tokenizer
    rows = [into_words(text.rstrip()).split() for text in texts]
    counts = [_ngrams(row, bleu.max_ngram_order) for row in rows]
    # Of each n-gram the largest count, the text that has it, and the largest of the other texts:
    # from these follow the largest among the others of any text, which BLEU clips by.
    largest: dict[tuple[str, ...], tuple[int, int, int]] = {}
    for index, own in enumerate(counts):
        for ngram, count in own.items():
            first, holder, second = largest.get(ngram, (0, -1, 0))
            if count > first:
                largest[ngram] = count, index, first
            elif count > second:
                largest[ngram] = first, holder, count
    by_length = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    scores = np.zeros(len(rows))
    for place, index in enumerate(by_length):
        length = len(rows[index])
        beside = by_length[max(place - 1, 0) : place] + by_length[place + 1 : place + 2]
        lengths = [len(rows[other]) for other in beside]
        correct, total = ([0] * bleu.max_ngram_order for _ in range(2))
        for ngram, count in counts[index].items():
            first, holder, second = largest[ngram]
            total[len(ngram) - 1] += count
            correct[len(ngram) - 1] += min(count, second if holder == index else first)
        scores[index] = BLEU.compute_bleu(
            correct=correct,
            total=total,
            sys_len=length,
            ref_len=min(lengths, key=lambda other: (abs(other - length), other)),
            smooth_method=bleu.smooth_method,
            smooth_value=bleu.smooth_value,
            effective_order=True,
        ).score
    return float(np.mean(scores))


def _ngrams(row: Sequence[str], most: int) -> Counter[tuple[str, ...]]:
    """Return how often a text has each sequence of 1 to ``most`` words."""
    sizes = range(1, most + 1)
    return Counter(tuple(row[i : i + n]) for n in sizes for i in range(len(row) - n + 1))


def library_metrics(episodes: Sequence[Episode]) -> dict[str, float]:
    """Return ROUGE and self-BLEU as far as their libraries are installed."""
    figures: dict[str, float] = {}
    if find_spec("rouge_score"):
        figures.update(rouge(episodes))
    if find_spec("sacrebleu") and len(episodes) > 1:
        figures["self_bleu"] = self_bleu([episode.written_text for episode in episodes])
    return figures
