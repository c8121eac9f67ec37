"""The polarity of a film review: a ratio, computed from a lexicon of opinion words.

The bundled reviews are written from this lexicon, so the ratio is the truth a reward model of them
is trained on, and its terms say which words it rests on. The gold score multiplies it with the
grammaticality, see `tokengym.rewards.gold.grammar`.

Words are lower-cased words and punctuation marks, as `split_words` makes them.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tokengym.rewards.gold.base import Stored

_WORD = re.compile(r"\w+(?:['-]\w+)*|[^\w\s]")


@dataclass(frozen=True, kw_only=True)
class Lexicon(Stored):
    """Opinion words, what modifies them, and how far a modifier reaches."""

    words: Mapping[str, float]
    """Opinion word -> weight, not 0; positive words praise."""
    intensifiers: Mapping[str, float]
    """Modifier -> factor > 0 on the opinion word it reaches ("very" above 1, "slightly" below)."""
    negations: tuple[str, ...]
    """Modifiers that multiply the opinion word they reach by ``negation_factor``."""
    negation_factor: float = -1.0
    """Factor of one negation; two of them multiply."""
    scope: int = 3
    """Words before an opinion word in which a modifier still reaches it."""
    boundaries: tuple[str, ...] = (".", ",", ";", ":", "!", "?", "and", "but", "or")
    """Words that no modifier reaches across. Opinion words are boundaries too."""
    smoothing: float = 0.5
    """Added to the sum of absolute weights: one opinion counts less than many that agree."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.words or not all(np.isfinite(w) and w != 0 for w in self.words.values()):
            raise ValueError(
                "words must map at least one word to a finite weight other than 0, got "
                f"{dict(list(self.words.items())[:3])}...; leave neutral words out"
            )
        if not all(np.isfinite(f) and f > 0 for f in self.intensifiers.values()):
            raise ValueError(
                f"intensifiers must map to factors > 0, got {dict(self.intensifiers)}; "
                "list words that turn the sign under negations"
            )
        if self.scope < 0 or not self.smoothing > 0:
            raise ValueError(
                f"scope must be >= 0 and smoothing > 0, got {self.scope} and {self.smoothing}"
            )
        roles = (self.words, self.intensifiers, self.negations, self.boundaries)
        times = Counter(word for role in roles for word in set(role))
        if twice := sorted(word for word, count in times.items() if count > 1):
            raise ValueError(f"a word can have one role in a lexicon, got several for {twice[:5]}")

    def signed_weights(self, words: Sequence[str]) -> NDArray[np.float64]:
        """Return each word's signed weight: 0 for every word that is not an opinion.

        w_i = weight_i * product of the factors of the modifiers in the ``scope`` words before i,
        read backwards up to the first boundary or opinion word.

        Returns:
            (len(words),) signed weights.
        """
        weights = np.zeros(len(words))
        for index, word in enumerate(words):
            if word in self.words:
                factor = 1.0
                for modifier in reversed(words[max(0, index - self.scope) : index]):
                    if modifier in self.boundaries or modifier in self.words:
                        break
                    if modifier in self.negations:
                        factor *= self.negation_factor
                    factor *= self.intensifiers.get(modifier, 1.0)
                weights[index] = self.words[word] * factor
        return weights

    def score(self, words: Sequence[str]) -> float:
        """Return the polarity ratio of a review, in (-1, 1); 0 without any opinion.

        score = sum_i w_i / (sum_i |w_i| + smoothing)

        A ratio and not a sum: to raise it, praise must displace blame; more of the same adds
        little.
        """
        return float(self.contributions(words).sum())

    def contributions(self, words: Sequence[str]) -> NDArray[np.float64]:
        """Return what each word contributes to the gold score; the contributions sum to it.

        c_i = w_i / (sum_j |w_j| + smoothing)

        A modified opinion is credited to the opinion word, modifiers themselves get 0.

        Returns:
            (len(words),) signed contributions.
        """
        weights = self.signed_weights(words)
        return weights / (np.abs(weights).sum() + self.smoothing)


def split_words(text: str) -> tuple[list[str], list[tuple[int, int]]]:
    """Return the lower-cased words and punctuation marks of a text, and where each stands.

    Args:
        text: Any text; punctuation may touch words.

    Returns:
        The words, and for each its (start, end) in characters of ``text``.

    Example:
        >>> split_words("Superb, not dull.")
        (['superb', ',', 'not', 'dull', '.'], [(0, 6), (6, 7), (8, 11), (12, 16), (16, 17)])
    """
    matches = list(_WORD.finditer(text))
    return [match.group().lower() for match in matches], [match.span() for match in matches]
