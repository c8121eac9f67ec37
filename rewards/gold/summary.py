"""The gold score of a summary: the post's key facts that it names, less what it should leave out.

Pure functions on lists of lower-case words; see `gold_rules` for reading and writing the rules.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SummaryRules:
    """Which words are facts, and what a summary pays for."""

    facts: Sequence[str]
    """Words that are key facts wherever a post has them."""
    words_per_fact: float = 4.0
    """Words that a summary may spend on each of the post's facts; more is padding."""
    copied_run: int = 5
    """Words in a row that are copied if the post has them in the same order."""
    padding_price: float = 1.0
    """Penalty of a summary that is all padding."""
    copying_price: float = 0.5
    """Penalty of a summary that is all copied."""
    invention_price: float = 0.5
    """Penalty of as many invented facts as the post has facts."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "facts", tuple(self.facts))
        if not self.facts:
            raise ValueError("facts must name at least one word, got none")
        if self.copied_run < 2 or not self.words_per_fact > 0:
            raise ValueError(
                f"copied_run must be >= 2 and words_per_fact > 0, got {self.copied_run} and "
                f"{self.words_per_fact}"
            )
        prices = (self.padding_price, self.copying_price, self.invention_price)
        if not all(price >= 0 for price in prices):
            raise ValueError(f"prices must be >= 0, got {prices}; 0 leaves a fault free")


def summary_parts(
    post: Sequence[str], summary: Sequence[str], rules: SummaryRules
) -> dict[str, float]:
    """Return the parts that sum to the gold score of a summary, at most 1.

    facts     = |facts of the post that the summary names| / |facts of the post|
    padding   = -padding_price * max(0, 1 - words_per_fact * |facts of the post| / words)
    copying   = -copying_price * share of words inside a run of copied_run words of the post
    invention = -invention_price * min(1, |facts it names that the post has not| / |facts|)

    Punctuation marks are no words. A post without facts has none that could be named: facts is 0.

    Args:
        post: Lower-cased words of the post.
        summary: Lower-cased words of the summary.
        rules: The facts and the prices.

    Example:
        >>> rules = SummaryRules(facts=["dog", "paris", "monday"])
        >>> post = "on monday my dog ran away .".split()
        >>> summary_parts(post, "dog gone in paris".split(), rules)
        {'facts': 0.5, 'padding': 0.0, 'copying': 0.0, 'invention': -0.25}
    """
    post_words, words = ([w for w in text if w[:1].isalnum()] for text in (post, summary))
    known = set(rules.facts)
    true_facts, named = known & set(post_words), known & set(words)
    count = max(1, len(true_facts))
    over = max(0.0, 1.0 - rules.words_per_fact * count / max(1, len(words)))
    wrong = min(1.0, len(named - true_facts) / count)
    copied = copied_share(post_words, words, rules.copied_run)
    return {
        "facts": len(named & true_facts) / count,
        "padding": -rules.padding_price * over or 0.0,
        "copying": -rules.copying_price * copied or 0.0,
        "invention": -rules.invention_price * wrong or 0.0,
    }


def copied_share(source: Sequence[str], words: Sequence[str], run: int) -> float:
    """Return the share of words that lie in a run of ``run`` words that the source has too.

    Example:
        >>> copied_share("a b c d".split(), "x b c y".split(), 2)
        0.5
    """
    runs = {tuple(source[i : i + run]) for i in range(len(source) - run + 1)}
    copied = [False] * len(words)
    for start in range(len(words) - run + 1):
        if tuple(words[start : start + run]) in runs:
            copied[start : start + run] = [True] * run
    return sum(copied) / max(1, len(words))
