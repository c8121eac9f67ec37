"""Texts of the Oracle's policy before it learns: its words, nearly alike, a trace of grammar.

A Markov chain, so that the probability of every response is known.
"""

from collections.abc import Mapping

import numpy as np

END = "<eos>"
WEIGHTS: Mapping[str, float] = {
    "good": 1.0,
    "bad": 1.0,
    "not": 1.0,
    "but": 0.7,
    "film": 1.2,
    "the": 1.3,
    END: 0.5,
}
"""Weight of each word where nothing else is said."""
AFTER: Mapping[str, Mapping[str, float]] = {
    "not": {"good": 2.0, "bad": 2.0, "not": 0.3, "but": 0.3, END: 0.2},
    "the": {"film": 3.0, "the": 0.2, "but": 0.4, END: 0.2},
    "but": {"but": 0.2, END: 0.2},
}
"""Word -> what the weights of those after it are multiplied with."""


def next_probabilities(word: str) -> dict[str, float]:
    """Return the probability of each word, and of the end, behind a word.

    Example:
        >>> probs = next_probabilities("not")
        >>> max(probs, key=probs.get), round(probs["the"], 3)
        ('good', 0.183)
    """
    factors = AFTER.get(word, {})
    weights = {other: weight * factors.get(other, 1.0) for other, weight in WEIGHTS.items()}
    total = sum(weights.values())
    return {other: weight / total for other, weight in weights.items()}


def write_texts(count: int, start: str, longest: int, rng: np.random.Generator) -> list[list[str]]:
    """Return texts as words, the start included, and the end where it came in time.

    Args:
        count: How many.
        start: The prompt, one word.
        longest: Most words behind it.
        rng: Where every choice comes from.
    """
    words = list(WEIGHTS)
    cumulative = {word: np.cumsum(list(next_probabilities(word).values())) for word in words}
    texts = []
    for draws in rng.random((count, longest)):
        text = [start]
        for draw in draws:
            index = int(np.searchsorted(cumulative[text[-1]], draw))
            text.append(words[min(index, len(words) - 1)])
            if text[-1] == END:
                break
        texts.append(text)
    return texts
