"""Metrics of text by other libraries: ROUGE and self-BLEU, for ``tokengym evaluate``.

They are those of ``rouge-score`` and ``sacrebleu`` (``pip install tokengym[text]``), so that the
numbers equal those of other papers: too slow or too special for every point of a curve, whose
metrics are in `measures`.
"""

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

    It rises with the number of texts, so compare equal numbers.

    Source: Zhu et al. 2018, arXiv:1802.01886; BLEU-4 with effective order by sacrebleu.
    """
    if len(texts) < 2:
        raise ValueError(f"self-BLEU compares at least two texts, got {len(texts)}")
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
