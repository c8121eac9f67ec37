"""The Oracle's score of a response: a pure function of its words.

A word's contribution depends on the words around it, which is what a credit rule has to find.
"""

from collections.abc import Sequence
from typing import Literal, get_args

Rule = Literal["negation", "selection", "order"]

RULES: tuple[Rule, ...] = get_args(Rule)
WORDS = ("good", "bad", "not", "but", "film", "the")
_OPINIONS = {"good": 1.0, "bad": -0.5}


def oracle_score(words: Sequence[str], rules: Sequence[Rule] = RULES) -> float:
    """Return the sum of the opinions that count: +1 for each "good", -1/2 for each "bad".

    - "negation": "not" inverts the opinion right after it; two in a row cancel out.
    - "selection": only the words after the last "but" count.
    - "order": an opinion counts only after "film".

    Args:
        words: The response; other words count nothing.
        rules: Rules that apply. Without any, every word earns its own score in any position.

    Example:
        >>> oracle_score("film not bad good".split())
        1.5
        >>> oracle_score("good film bad but the film good".split())
        1.0
    """
    score, sign, named = 0.0, 1.0, "order" not in rules
    for word in words:
        if word == "not" and "negation" in rules:
            sign = -sign
            continue
        if word in _OPINIONS and named:
            score += sign * _OPINIONS[word]
        elif word == "but" and "selection" in rules:
            score = 0.0
        elif word == "film":
            named = True
        sign = 1.0
    return score


def removal_effects(words: Sequence[str], rules: Sequence[Rule] = RULES) -> list[float]:
    """Return each word's effect on the score: the decrease of the score when it is removed.

    d_t = score(all words) - score(all words but the t-th)

    The effects need not sum to the score: "not" and "bad" each matter because of the other.

    Args:
        words: The response.
        rules: See `oracle_score`.

    Example:
        >>> removal_effects("film good but not bad".split())
        [0.5, 0.0, -1.0, 1.0, 0.5]
    """
    score = oracle_score(words, rules)
    rest = ([*words[:t], *words[t + 1 :]] for t in range(len(words)))
    return [score - oracle_score(others, rules) for others in rest]


def oracle_text_score(prompt: str, response: str, *, rules: Sequence[Rule] = RULES) -> float:
    """Return the score of a response's text, with the signature of a text scorer.

    Args:
        prompt: Ignored.
        response: Words separated by spaces.
        rules: See `oracle_score`.
    """
    return oracle_score(response.split(), rules)
