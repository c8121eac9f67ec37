"""What a response of the Oracle is worth: a pure function of its words.

Single words say little: what one earns depends on the words around it, which is what a credit rule
has to find out.
"""

from collections.abc import Sequence
from typing import Literal, get_args

Rule = Literal["negation", "selection", "order"]

RULES: tuple[Rule, ...] = get_args(Rule)
WORDS = ("good", "bad", "not", "but", "film", "the")
_OPINIONS = {"good": 1.0, "bad": -0.5}


def oracle_score(words: Sequence[str], rules: Sequence[Rule] = RULES) -> float:
    """Return the sum of the opinions that count: +1 for each "good", -1/2 for each "bad".

    - "negation": "not" turns round the opinion that follows it at once; two in a row do nothing.
    - "selection": only what follows the last "but" counts.
    - "order": an opinion counts only after "film" was named.

    Args:
        words: The response; words that no rule knows count nothing.
        rules: Those that hold. Without any, every word earns its own score wherever it stands.

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
    """Return what each word has to do with the score: by how much the score falls without it.

    d_t = score(all words) - score(all words but the t-th)

    The words that matter are those with d_t other than 0. They need not sum to the score: "not"
    and "bad" each matter because of the other.

    Args:
        words: The response.
        rules: As of `oracle_score`.

    Example:
        >>> removal_effects("film good but not bad".split())
        [0.5, 0.0, -1.0, 1.0, 0.5]
    """
    score = oracle_score(words, rules)
    rest = ([*words[:t], *words[t + 1 :]] for t in range(len(words)))
    return [score - oracle_score(others, rules) for others in rest]


def oracle_text_score(prompt: str, response: str, *, rules: Sequence[Rule] = RULES) -> float:
    """Return the score of a response's text, in the form that scorers of texts have.

    Args:
        prompt: Does not matter.
        response: Words between spaces.
        rules: As of `oracle_score`.
    """
    return oracle_score(response.split(), rules)
